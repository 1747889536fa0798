package tests

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMain compares the whole host before the first test with the host after
// the last. Each machine has looked for what bears its name by then; this finds
// what bears none. It needs a host that nobody else makes containers on.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = f.Value.Set("6") // scenarios wait more than they work
	}
	if os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	alone := !othersHere()
	before := hostSnapshot()
	code := m.Run()
	if left := hostSnapshot().minus(before); code == 0 && alone && !othersHere() && left != "" {
		fmt.Fprintf(os.Stderr, "left behind on the host by no machine in particular:\n%s", left)
		code = 1
	}
	os.Exit(code)
}

func hostSnapshot() snapshot {
	s, err := look()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return s
}

// othersHere tells whether programs run that make containers, networks or
// mounts, too: tests of other packages and daemons of other people.
func othersHere() bool {
	dirs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, d := range dirs {
		data, err := os.ReadFile(d)
		if err != nil || strings.HasPrefix(d, fmt.Sprintf("/proc/%d/", os.Getpid())) {
			continue
		}
		program, _, _ := strings.Cut(string(data), "\x00")
		switch name := filepath.Base(program); {
		case strings.HasPrefix(name, "gantry"), strings.HasSuffix(name, ".test"),
			name == "dockerd", name == "containerd", name == "runc", name == "crun":
			return true
		}
	}
	return false
}
