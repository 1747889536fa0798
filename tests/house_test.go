package tests

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// pkg is what `go list` says of a package.
type pkg struct {
	ImportPath string
	Doc        string
	Dir        string
	GoFiles    []string
	Imports    []string
	Deps       []string
}

func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-tags", "seccomp", "-json=ImportPath,Doc,Dir,GoFiles,Imports,Deps"}, args...)...)
	cmd.Dir = repo
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// levels are the floors of the house: a package imports only packages of lower
// floors, or of its own floor where that is said below.
var levels = map[string]int{
	"gantry/compose": 0, "gantry/network": 0,
	"gantry/runtime/keeper": 0, "gantry/runtime/spec": 0, "gantry/runtime/logs": 0, "gantry/runtime/rootfs": 0,
	"gantry/registry":  0,
	"gantry/scheduler": 1, "gantry/runtime/image": 1, "gantry/runtime/volume": 1, "gantry/runtime/keeper/server": 1,
	"gantry/runtime": 2, "gantry/runtime/build": 2,
	"gantry/daemon": 3, "gantry/daemon/api": 3,
	"gantry/client": 4, "gantry/client/build": 4, "gantry/client/build/kit": 4,
	"gantry/cli":                 5,
	"gantry/cmd/gantry":          6,
	"gantry/cmd/gantryd":         6,
	"gantry/cmd/gantry-registry": 6,
	"gantry/cmd/gantry-runtime":  6,
}

// sameFloor are the imports within one floor that are meant to be.
var sameFloor = map[string][]string{
	"gantry/daemon":         {"gantry/daemon/api"},
	"gantry/runtime/keeper": {"gantry/runtime/rootfs"},
	// The values of a build, and what does it.
	"gantry/client/build/kit": {"gantry/client/build"},
}

func TestImportsGoDown(t *testing.T) {
	for _, p := range list(t, "./...") {
		if strings.HasPrefix(p.ImportPath, "gantry/tests") {
			continue
		}
		level, ok := levels[p.ImportPath]
		if !ok {
			t.Errorf("%s has no floor: give it one in levels, and a line in ARCHITECTURE.md", p.ImportPath)
			continue
		}
		for _, imp := range p.Imports {
			if !strings.HasPrefix(imp, "gantry/") || slices.Contains(sameFloor[p.ImportPath], imp) {
				continue
			}
			if levels[imp] >= level {
				t.Errorf("%s (floor %d) imports %s (floor %d): imports go down only", p.ImportPath, level, imp, levels[imp])
			}
		}
	}
}

// door is a foreign library and the packages that may import it.
type door struct {
	library string
	through []string
	except  []string // parts of the library that are free to all
}

var doors = []door{
	// The benchmark's floor is libcontainer without the keeper around it.
	{"github.com/opencontainers/runc", []string{"gantry/runtime/keeper/server", "gantry/cmd/gantry-runtime", "gantry/tests/bench/libcontainer"}, nil},
	{"github.com/opencontainers/cgroups", []string{"gantry/runtime/keeper/server", "gantry/tests/bench/libcontainer"}, nil},
	{"github.com/compose-spec/compose-go", []string{"gantry/compose"}, nil},
	// BuildKit's client wants to be given containerd's content stores.
	{"github.com/containerd", []string{"gantry/runtime/image", "gantry/runtime/build", "gantry/client/build/kit"}, []string{"github.com/containerd/errdefs", "github.com/containerd/log", "github.com/containerd/platforms"}},
	{"github.com/moby/buildkit", []string{"gantry/runtime/build", "gantry/client/build/kit"}, nil},
	{"github.com/distribution/distribution", []string{"gantry/registry"}, nil},
	{"github.com/vishvananda", []string{"gantry/network"}, nil},
	{"github.com/google/nftables", []string{"gantry/network"}, nil},
	{"github.com/miekg/dns", []string{"gantry/network"}, nil},
	{"github.com/moby/moby", []string{"gantry/daemon/api", "gantry/client"}, nil},
	{"github.com/robfig/cron", []string{"gantry/compose", "gantry/scheduler"}, nil},
	{"github.com/spf13/cobra", []string{"gantry/cli"}, nil},
}

func TestOneDoorPerLibrary(t *testing.T) {
	for _, p := range list(t, "./...") {
		for _, imp := range p.Imports {
			if imp == "C" && p.ImportPath != "gantry/runtime/keeper/server" {
				t.Errorf("%s uses cgo: only the keeper's server may", p.ImportPath)
			}
			for _, d := range doors {
				if !within(imp, d.library) || slices.Contains(d.through, p.ImportPath) ||
					slices.ContainsFunc(d.except, func(x string) bool { return within(imp, x) }) {
					continue
				}
				t.Errorf("%s imports %s: its door is %v", p.ImportPath, imp, d.through)
			}
		}
	}
}

func within(imp, path string) bool { return imp == path || strings.HasPrefix(imp, path+"/") }

// Programs stay small by what they do not link: pages that nobody needs are in
// memory nevertheless. gantryd's is the builder as well
// (client/build), and so a client; it is never the command line.
func TestProgramsLinkLittle(t *testing.T) {
	never := map[string][]string{
		"./cmd/gantry":         {"gantry/client/build/kit", "github.com/moby/buildkit", "google.golang.org/grpc", "gantry/runtime", "gantry/network", "gantry/daemon", "github.com/opencontainers/runc", "github.com/containerd/containerd/v2", "github.com/vishvananda/netlink", "gantry/registry"},
		"./cmd/gantryd":        {"github.com/opencontainers/runc", "gantry/runtime/keeper/server", "gantry/cli", "gantry/registry"},
		"./cmd/gantry-runtime": {"github.com/moby/buildkit", "gantry/compose", "gantry/daemon", "gantry/scheduler", "gantry/network", "github.com/containerd/containerd/v2", "net/http"},
	}
	for cmd, banned := range never {
		for _, p := range list(t, cmd) {
			for _, dep := range p.Deps {
				for _, b := range banned {
					if dep == b || b != "gantry/runtime" && within(dep, b) {
						t.Errorf("%s links %s", cmd, dep)
					}
				}
			}
		}
	}
}

func TestEveryPackageSaysWhatItKnows(t *testing.T) {
	for _, p := range list(t, "./...") {
		if len(p.GoFiles) > 0 && p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
		name := filepath.Base(p.ImportPath)
		if slices.Contains([]string{"util", "utils", "common", "types", "helpers", "manager", "misc"}, name) {
			t.Errorf("%s: the name says nothing", p.ImportPath)
		}
	}
}

// A file past this many lines does more than one thing.
const longFile = 600

func TestFilesStayReadable(t *testing.T) {
	for _, p := range list(t, "./...") {
		for _, f := range p.GoFiles {
			data, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(data), "\n"); n > longFile {
				t.Errorf("%s/%s has %d lines, more than %d: which part stands on its own?", p.ImportPath, f, n, longFile)
			}
			if strings.Contains(string(data), "\nfunc init() {") {
				t.Errorf("%s/%s has an init function: register nothing behind the reader's back", p.ImportPath, f)
			}
		}
	}
}
