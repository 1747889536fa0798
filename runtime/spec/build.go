package spec

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Files are the host paths of the files generated for one container; an empty
// one is not mounted. A mount of the user's on the same target wins.
type Files struct{ Hostname, Hosts, ResolvConf string }

// Input is everything [Build] makes a specification from.
type Input struct {
	ID     string
	Config Config // merged with its image
	Host   Host

	CgroupsPath string // absolute, below the root of every hierarchy

	// Namespaces to join, as paths. "" means what Config's modes say: the
	// host's, or a new one. A mode "container:ID" needs its path.
	NetNS, PidNS, IpcNS, UTSNS string

	Files  Files
	Mounts []Mount // Config.Mounts with volumes and files resolved to bind mounts of host paths

	// ShmPath is a tmpfs on the host to show at /dev/shm, for containers that
	// share their IPC namespace; "": a new one of Config.ShmSize.
	ShmPath string

	// Nodes are the host's device nodes: those at and below the paths that
	// Config.Devices and Config.Resources name, and all of /dev when
	// privileged.
	Nodes []Node

	InitPath string // program mounted at /sbin/docker-init for Config.Init
}

// Modes that several namespaces have.
const (
	modeHost      = "host"
	modePrivate   = "private"
	modeContainer = "container:" // and the id of the other one
)

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// shortID is how much of an id becomes the host name.
const shortID = 12

// Build makes the OCI runtime specification of a container, by Docker's rules.
// The same input gives the same specification.
//
// Root.Path is left empty. Process.User.Username is Config.User as written, or
// "0": names, home directory and additional groups can only be looked up
// inside the root filesystem, by whoever mounts it. Numbers in it are already
// in UID and GID. Config must have passed [Config.Validate].
func Build(in Input) (*specs.Spec, error) {
	c := in.Config
	resources, err := ResourceSpec(c.Resources, in.Host, in.Nodes)
	if err != nil {
		return nil, err
	}
	nodes, rules, err := devices(c, in.Nodes)
	if err != nil {
		return nil, err
	}
	resources.Devices = rules
	mounted, err := mounts(in)
	if err != nil {
		return nil, err
	}
	spaces, err := namespaces(in)
	if err != nil {
		return nil, err
	}
	process, err := process(in)
	if err != nil {
		return nil, err
	}
	filter, err := seccompFor(c, in.Host, process.Capabilities.Bounding)
	if err != nil {
		return nil, err
	}
	s := &specs.Spec{
		Version:     specs.Version,
		Process:     process,
		Root:        &specs.Root{Readonly: c.ReadOnly},
		Mounts:      mounted,
		Annotations: maps.Clone(c.Annotations),
		Linux: &specs.Linux{
			Namespaces:        spaces,
			CgroupsPath:       in.CgroupsPath,
			Resources:         resources,
			Devices:           nodes,
			Sysctl:            sysctls(in),
			Seccomp:           filter,
			MaskedPaths:       maskedPaths(c, in.Host),
			ReadonlyPaths:     readonlyPaths(c),
			RootfsPropagation: rootPropagation(in.Mounts),
		},
	}
	if ownUTS(in) {
		s.Hostname, s.Domainname = hostname(c, in.ID, in.Host), c.Domainname
	}
	return s, nil
}

func process(in Input) (*specs.Process, error) {
	c := in.Config
	args := slices.Concat(c.Entrypoint, c.Command)
	if len(args) == 0 {
		return nil, refuse("command", "there is none, and the image names none: give one")
	}
	if c.Init {
		// gantry-runtime under this name runs what follows as its child.
		args = append([]string{initTarget, "--"}, args...)
	}
	set := boundingSet(c, in.Host)
	return &specs.Process{
		Terminal:        c.TTY,
		User:            userSpec(c.User),
		Args:            args,
		Env:             environment(c, in.ID, in.Host, c.TTY),
		Cwd:             cmp.Or(c.WorkingDir, "/"),
		Capabilities:    processCapabilities(set),
		Rlimits:         posixLimits(c, in.Host),
		NoNewPrivileges: c.NoNewPrivileges,
		ApparmorProfile: apparmorProfile(c, in.Host),
		OOMScoreAdj:     oomScore(c, in.Host),
	}, nil
}

// userSpec keeps the text, and reads what numbers it has.
func userSpec(text string) specs.User {
	u := specs.User{Username: cmp.Or(text, "0")}
	user, group, _ := strings.Cut(text, ":")
	if id, err := strconv.ParseUint(user, 10, 31); err == nil {
		u.UID = uint32(id)
	}
	if id, err := strconv.ParseUint(group, 10, 31); err == nil {
		u.GID = uint32(id)
	}
	return u
}

// environment is what the platform sets, under what the image and the user set.
func environment(c Config, id string, h Host, tty bool) []string {
	base := []string{defaultPath}
	if name := hostname(c, id, h); name != "" {
		base = append(base, "HOSTNAME="+name)
	}
	if tty {
		base = append(base, "TERM=xterm")
	}
	return setEnv(mergeEnv(base, c.Env))
}

// HostName is what the container with this id calls itself.
func (c Config) HostName(id string, h Host) string { return hostname(c, id, h) }

// hostname is the host's where its network or its UTS namespace is shared.
func hostname(c Config, id string, h Host) string {
	switch {
	case c.Hostname != "":
		return c.Hostname
	case c.UTSMode == modeHost || c.Network.Mode == modeHost:
		return h.Hostname
	}
	return id[:min(len(id), shortID)]
}

func ownUTS(in Input) bool { return in.Config.UTSMode != modeHost && in.UTSNS == "" }

func namespaces(in Input) ([]specs.LinuxNamespace, error) {
	c := in.Config
	spaces := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	for _, ns := range []struct {
		kind        specs.LinuxNamespaceType
		field, mode string
		path        string
	}{
		{specs.NetworkNamespace, "network_mode", c.Network.Mode, in.NetNS},
		{specs.UTSNamespace, "uts", c.UTSMode, in.UTSNS},
		{specs.PIDNamespace, "pid", c.PidMode, in.PidNS},
		{specs.IPCNamespace, "ipc", c.IpcMode, in.IpcNS},
	} {
		switch {
		case ns.mode == modeHost:
		case ns.path == "" && strings.HasPrefix(ns.mode, modeContainer):
			// Never a new one instead: that would be neither shared nor refused.
			return nil, refuse(ns.field, "%s has no namespace to share", ns.mode)
		default:
			spaces = append(spaces, specs.LinuxNamespace{Type: ns.kind, Path: ns.path})
		}
	}
	// Docker's default: on version 1 programs expect to see the host's paths.
	if c.CgroupMode == modePrivate || c.CgroupMode == "" && in.Host.CgroupV2 {
		spaces = append(spaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return spaces, nil
}
