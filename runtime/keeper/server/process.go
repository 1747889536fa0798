package server

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"gantry/runtime/keeper"
	"gantry/runtime/rootfs"
)

// configOf converts a specification to libcontainer's form.
func configOf(spec *specs.Spec, id string) (*configs.Config, error) {
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: id, Spec: spec})
	if err != nil {
		return nil, keeper.Classed(errdefs.ErrInvalidArgument, fmt.Errorf("specification: %w", err))
	}
	return config, nil
}

func rootOf(r *specs.Root, path string) *specs.Root {
	root := specs.Root{Path: path}
	if r != nil {
		root.Readonly = r.Readonly
	}
	return &root
}

// sharesPid says whether the container's processes live in a pid namespace
// that does not die with its first process.
func sharesPid(spec *specs.Spec) bool {
	for _, ns := range spec.Linux.Namespaces {
		if ns.Type == specs.PIDNamespace {
			return ns.Path != ""
		}
	}
	return true
}

// initProcess is the first process of a bundle, its user resolved.
func initProcess(b keeper.Bundle) (*libcontainer.Process, error) {
	p, err := processOf(b.Spec.Process)
	if err != nil {
		return nil, err
	}
	p.Init = true
	if b.TTY {
		p.ConsoleWidth, p.ConsoleHeight = b.Width, b.Height
	}
	root, err := os.OpenFile(b.Spec.Root.Path, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("root filesystem: %w", err)
	}
	defer root.Close()
	if err := resolveUser(p, b.Spec.Process, b.GroupAdd, root); err != nil {
		return nil, err
	}
	withPrimaryGroup(p)
	return p, nil
}

// resolveUser looks the names of users and groups up inside the root
// filesystem.
func resolveUser(p *libcontainer.Process, sp *specs.Process, groupAdd []string, root *os.File) error {
	if sp.User.Username == "" && len(groupAdd) == 0 {
		return nil
	}
	name := sp.User.Username
	if name == "" {
		name = fmt.Sprintf("%d:%d", sp.User.UID, sp.User.GID)
	}
	u, err := rootfs.LookupUser(root, name, groupAdd)
	if err != nil {
		return &keeper.StartError{Code: 126, Err: err}
	}
	p.UID, p.GID = int(u.UID), int(u.GID)
	p.AdditionalGroups = p.AdditionalGroups[:0]
	for _, g := range u.Groups {
		p.AdditionalGroups = append(p.AdditionalGroups, int(g))
	}
	for _, g := range sp.User.AdditionalGids {
		p.AdditionalGroups = append(p.AdditionalGroups, int(g))
	}
	for _, e := range p.Env {
		if strings.HasPrefix(e, "HOME=") {
			return nil
		}
	}
	if u.Home != "" {
		p.Env = append(p.Env, "HOME="+u.Home)
	}
	return nil
}

// withPrimaryGroup puts the primary group among the supplementary ones, where a
// login has it: a process that changes its group could otherwise open files
// whose modes shut that group out (CVE-2022-36109).
func withPrimaryGroup(p *libcontainer.Process) {
	if !slices.Contains(p.AdditionalGroups, p.GID) {
		p.AdditionalGroups = slices.Insert(p.AdditionalGroups, 0, p.GID)
	}
}

// processOf converts a process of a specification to libcontainer's form.
func processOf(sp *specs.Process) (*libcontainer.Process, error) {
	if sp == nil || len(sp.Args) == 0 || sp.Args[0] == "" {
		return nil, keeper.Classed(errdefs.ErrInvalidArgument, errors.New("no command to run"))
	}
	p := &libcontainer.Process{
		Args:            sp.Args,
		Env:             append([]string(nil), sp.Env...),
		UID:             int(sp.User.UID),
		GID:             int(sp.User.GID),
		Cwd:             sp.Cwd,
		Label:           sp.SelinuxLabel,
		NoNewPrivileges: &sp.NoNewPrivileges,
		AppArmorProfile: sp.ApparmorProfile,
		Scheduler:       sp.Scheduler,
		IOPriority:      sp.IOPriority,
		// Said or not, forty lines of debugging are written and read for each
		// process, only to be thrown away.
		LogLevel: strconv.Itoa(int(logrus.GetLevel())),
	}
	if p.Cwd == "" {
		p.Cwd = "/"
	}
	for _, g := range sp.User.AdditionalGids {
		p.AdditionalGroups = append(p.AdditionalGroups, int(g))
	}
	if sp.ConsoleSize != nil {
		p.ConsoleWidth, p.ConsoleHeight = clamp16(sp.ConsoleSize.Width), clamp16(sp.ConsoleSize.Height)
	}
	if c := sp.Capabilities; c != nil {
		p.Capabilities = &configs.Capabilities{
			Bounding: c.Bounding, Effective: c.Effective, Inheritable: c.Inheritable,
			Permitted: c.Permitted, Ambient: c.Ambient,
		}
	}
	for _, r := range sp.Rlimits {
		kind, ok := rlimits[strings.TrimPrefix(r.Type, "RLIMIT_")]
		if !ok {
			return nil, keeper.Classed(errdefs.ErrInvalidArgument, fmt.Errorf("unknown resource limit %q", r.Type))
		}
		p.Rlimits = append(p.Rlimits, configs.Rlimit{Type: kind, Soft: r.Soft, Hard: r.Hard})
	}
	affinity, err := configs.ConvertCPUAffinity(sp.ExecCPUAffinity)
	if err != nil {
		return nil, keeper.Classed(errdefs.ErrInvalidArgument, err)
	}
	p.CPUAffinity = affinity
	return p, nil
}

func clamp16(n uint) uint16 { return uint16(min(n, math.MaxUint16)) }

var rlimits = map[string]int{
	"AS": unix.RLIMIT_AS, "CORE": unix.RLIMIT_CORE, "CPU": unix.RLIMIT_CPU, "DATA": unix.RLIMIT_DATA,
	"FSIZE": unix.RLIMIT_FSIZE, "LOCKS": unix.RLIMIT_LOCKS, "MEMLOCK": unix.RLIMIT_MEMLOCK,
	"MSGQUEUE": unix.RLIMIT_MSGQUEUE, "NICE": unix.RLIMIT_NICE, "NOFILE": unix.RLIMIT_NOFILE,
	"NPROC": unix.RLIMIT_NPROC, "RSS": unix.RLIMIT_RSS, "RTPRIO": unix.RLIMIT_RTPRIO,
	"RTTIME": unix.RLIMIT_RTTIME, "SIGPENDING": unix.RLIMIT_SIGPENDING, "STACK": unix.RLIMIT_STACK,
}

// startError tells what libcontainer reports of a process that could not run
// as what it means to a user. The process fails inside the container, and all
// that comes back from there is text: this is the one place that reads it, and
// a test with real processes holds it to the library's words.
func startError(err error, cwd string) error {
	text := err.Error()
	has := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(text, p) {
				return true
			}
		}
		return false
	}
	// What follows the last of these is the cause; before it come the names of
	// steps inside libcontainer.
	short := text
	for _, mark := range []string{"error during container init: ", "error executing setns process: ", "unable to start container process: "} {
		if _, rest, ok := strings.Cut(short, mark); ok {
			short = rest
		}
	}
	if strings.HasPrefix(short, "mkdir ") && strings.HasSuffix(short, ": not a directory") { // all it makes is this one
		short = "working_dir " + cwd + ": there is a file in its place; name a directory"
	}
	cause := &startCause{text: short, err: err}
	switch {
	case has(`: executable file not found in $PATH`) || strings.HasPrefix(short, "exec: ") && has("no such file or directory"):
		return &keeper.StartError{Code: 127, Err: keeper.Classed(errdefs.ErrNotFound, cause)}
	case strings.HasPrefix(short, "exec: ") || strings.HasPrefix(short, "exec "):
		return &keeper.StartError{Code: 126, Err: keeper.Classed(errdefs.ErrInvalidArgument, cause)}
	case has("chdir to cwd", "mkdir", "unable to setup user", "not a directory"):
		return &keeper.StartError{Code: 126, Err: keeper.Classed(errdefs.ErrInvalidArgument, cause)}
	}
	return &keeper.StartError{Code: 128, Err: cause}
}

// startCause shortens what an error says.
type startCause struct {
	text string
	err  error
}

func (e *startCause) Error() string { return e.text }
func (e *startCause) Unwrap() error { return e.err }
