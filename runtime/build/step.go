package build

import (
	"context"
	"fmt"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"gantry/network"
	"gantry/runtime/keeper"
	"gantry/runtime/rootfs"
	"gantry/runtime/spec"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"
)

// hostname is what a step sees as its host's name: the same everywhere, lest
// what it makes depend on where it was made.
const hostname = "buildkitsandbox"

// network makes the network of a step and gives the path of its namespace, ""
// for the host's. It is wired in the background; wired tells how that went.
func (x *steps) network(ctx context.Context, s *step, m executor.Meta, wired chan<- error) (string, error) {
	if m.Proxy != nil {
		return "", fmt.Errorf("build step: the proxied network mode is not supported: %w", errdefs.ErrNotImplemented)
	}
	sandbox := network.Sandbox{ID: s.id, Hostname: s.id, Running: true}
	switch m.NetMode {
	case pb.NetMode_HOST:
		wired <- nil
		return "", nil
	case pb.NetMode_NONE:
	case pb.NetMode_UNSET:
		sandbox.Endpoints = []network.Endpoint{{}}
	default:
		return "", fmt.Errorf("build step: unknown network mode %s: %w", m.NetMode, errdefs.ErrInvalidArgument)
	}
	path, err := x.o.Fabric.Prepare(ctx, s.id)
	if err != nil {
		return "", err
	}
	s.after(func() error { return x.o.Fabric.Detach(context.WithoutCancel(ctx), s.id) })
	go func() {
		_, err := x.o.Fabric.Attach(ctx, sandbox)
		wired <- err
	}()
	return path, nil
}

// bundle makes everything a step's process needs but its network.
func (x *steps) bundle(ctx context.Context, s *step, root executor.Mount, mounts []executor.Mount, p executor.ProcessInfo, netns string) (b keeper.Bundle, err error) {
	at, err := s.mountRoot(ctx, root, mounts, p.Meta)
	if err != nil {
		return b, fmt.Errorf("root of the build step: %w", err)
	}
	config, err := stepConfig(p.Meta)
	if err != nil {
		return b, err
	}
	config.ReadOnly = config.ReadOnly || root.Readonly
	if config.Mounts, err = s.mountAll(ctx, mounts); err != nil {
		return b, err
	}
	files, err := s.writeFiles(p.Meta)
	if err != nil {
		return b, err
	}
	if err := config.Validate(x.o.Host); err != nil {
		return b, fmt.Errorf("build step: %w", err)
	}
	nodes, err := x.o.Nodes(config)
	if err != nil {
		return b, err
	}
	parent := x.o.CgroupParent
	if p.Meta.CgroupParent != "" {
		parent = path.Join("/", p.Meta.CgroupParent)
	}
	spec, err := spec.Build(spec.Input{
		ID: s.id, Config: config, Host: x.o.Host, CgroupsPath: path.Join(parent, s.id),
		NetNS: netns, Files: files, Mounts: config.Mounts, Nodes: nodes,
	})
	if err != nil {
		return b, fmt.Errorf("build step: %w", err)
	}
	spec.Root.Path = at
	s.config = config
	return keeper.Bundle{
		ID: s.id, Spec: spec, TTY: p.Meta.Tty, OpenStdin: p.Stdin != nil, StdinOnce: p.Stdin != nil,
	}, nil
}

// stepConfig is a step in the terms of a container. It is pure.
func stepConfig(m executor.Meta) (spec.Config, error) {
	c := spec.Config{
		Command: m.Args, Env: m.Env, User: m.User, WorkingDir: m.Cwd, Hostname: hostname,
		TTY: m.Tty, ReadOnly: m.ReadonlyRootFS, Privileged: m.SecurityMode == pb.SecurityMode_INSECURE,
	}
	if m.Hostname != "" {
		c.Hostname = m.Hostname
	}
	if m.NetMode == pb.NetMode_HOST {
		c.Network.Mode = "host"
	}
	for _, u := range m.Ulimit {
		c.Ulimits = append(c.Ulimits, spec.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	if r := m.LinuxResources; r != nil {
		c.Resources = spec.Resources{
			Memory: r.Memory, MemorySwap: r.MemorySwap, CPUShares: r.CpuShares,
			CPUPeriod: r.CpuPeriod, CPUQuota: r.CpuQuota, CpusetCpus: r.CpusetCpus, CpusetMems: r.CpusetMems,
		}
	}
	if len(m.CDIDevices) > 0 {
		return c, fmt.Errorf("build step: device %s: CDI devices are not supported: %w", m.CDIDevices[0].Name, errdefs.ErrNotImplemented)
	}
	return c, nil
}

// mountRoot mounts a step's root filesystem where the keeper sees it too.
func (s *step) mountRoot(ctx context.Context, root executor.Mount, mounts []executor.Mount, m executor.Meta) (string, error) {
	ms, err := s.hold(ctx, root.Src, false)
	if err != nil {
		return "", err
	}
	at := filepath.Join(s.dir, "rootfs")
	if len(ms) == 1 && ms[0].Type == "bind" {
		at = ms[0].Source // BuildKit has mounted it already
	} else if err := s.mount(ms, at); err != nil {
		return "", err
	}
	// What the runtime makes to mount things on does not belong to the image.
	clean := executor.MountStubsCleaner(context.WithoutCancel(ctx), at, mounts, m.RemoveMountStubsRecursive)
	s.after(func() error { clean(); return nil })
	return at, nil
}

// hold gets the mounts of something of BuildKit's until the step is over.
func (s *step) hold(ctx context.Context, src executor.Mountable, readonly bool) ([]mount.Mount, error) {
	ref, err := src.Mount(ctx, readonly)
	if err != nil {
		return nil, err
	}
	ms, release, err := ref.Mount()
	if err != nil {
		return nil, err
	}
	if release != nil {
		s.after(release)
	}
	return ms, nil
}

// mount mounts ms, which is one mount, on at until the step is over.
func (s *step) mount(ms []mount.Mount, at string) error {
	if len(ms) != 1 {
		return fmt.Errorf("%d mounts where one is expected", len(ms))
	}
	m := ms[0]
	if err := os.Mkdir(at, 0o700); err != nil {
		return err
	}
	s.after(func() error { return os.Remove(at) })
	s.after(func() error { return rootfs.Unmount(at) })
	if m.Type == "overlay" {
		return overlay(m).Mount(at)
	}
	return m.Mount(at)
}

// overlay reads the directories out of a mount of BuildKit's.
func overlay(m mount.Mount) rootfs.Overlay {
	var o rootfs.Overlay
	for _, opt := range m.Options {
		key, value, _ := strings.Cut(opt, "=")
		switch key {
		case "lowerdir":
			o.Lower = strings.Split(value, ":") // the store takes no root with a ':'
		case "upperdir":
			o.Upper = value
		case "workdir":
			o.Work = value
		case "ro":
			o.ReadOnly = true
		}
	}
	return o
}

// mountAll gives the mounts of a step besides its root as binds of paths that
// the keeper sees. Of two with one target the later wins.
func (s *step) mountAll(ctx context.Context, mounts []executor.Mount) ([]spec.Mount, error) {
	var all []spec.Mount
	for i, m := range mounts {
		one, err := s.mountOne(ctx, m, filepath.Join(s.dir, fmt.Sprintf("m%d", i)))
		if err != nil {
			return nil, fmt.Errorf("mount %s: %w", m.Dest, err)
		}
		all = slices.DeleteFunc(all, func(x spec.Mount) bool { return x.Target == one.Target })
		all = append(all, one)
	}
	return all, nil
}

func (s *step) mountOne(ctx context.Context, m executor.Mount, at string) (spec.Mount, error) {
	out := spec.Mount{Type: spec.MountBind, Target: path.Join("/", m.Dest), ReadOnly: m.Readonly}
	if m.Src == nil {
		return out, fmt.Errorf("it has no source: %w", errdefs.ErrInvalidArgument)
	}
	ms, err := s.hold(ctx, m.Src, m.Readonly)
	if err != nil {
		return out, err
	}
	if len(ms) == 1 && ms[0].Type == "tmpfs" && whole(m.Selector) {
		out.Type = spec.MountTmpfs
		for _, o := range ms[0].Options {
			if o == "ro" {
				out.ReadOnly = true
				continue
			}
			out.TmpfsOptions = append(out.TmpfsOptions, o)
		}
		// Building is running programs.
		out.TmpfsOptions = append(out.TmpfsOptions, "exec")
		return out, nil
	}
	if len(ms) == 1 && ms[0].Type != "overlay" && ms[0].Type != "tmpfs" {
		out.Source = ms[0].Source
		out.ReadOnly = out.ReadOnly || slices.Contains(ms[0].Options, "ro")
		if slices.Contains(ms[0].Options, "noexec") {
			out.BindOptions = append(out.BindOptions, "nosuid", "nodev", "noexec")
		}
	} else {
		if err := s.mount(ms, at); err != nil {
			return out, err
		}
		out.Source = at
	}
	if whole(m.Selector) {
		return out, nil
	}
	out.Source, err = s.selected(out.Source, m.Selector, at+".sub")
	return out, err
}

func whole(selector string) bool { return path.Join("/", selector) == "/" }

// selected binds what lies at sub below base to the path at. No symbolic link
// of the step's, or of the image's, leads out of base.
func (s *step) selected(base, sub, at string) (string, error) {
	root, err := os.Open(base)
	if err != nil {
		return "", err
	}
	defer root.Close()
	f, err := rootfs.OpenIn(root, sub, unix.O_PATH)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = os.Mkdir(at, 0o700)
	} else {
		err = os.WriteFile(at, nil, 0o600)
	}
	if err != nil {
		return "", err
	}
	s.after(func() error { return os.Remove(at) })
	s.after(func() error { return rootfs.Unmount(at) })
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", fmt.Errorf("bind: %w", err)
	}
	return at, nil
}

// writeFiles writes a step's /etc/hosts and /etc/resolv.conf.
func (s *step) writeFiles(m executor.Meta) (spec.Files, error) {
	f := spec.Files{Hosts: filepath.Join(s.dir, "hosts"), ResolvConf: filepath.Join(s.dir, "resolv.conf")}
	var names []spec.HostName
	for _, h := range m.ExtraHosts {
		names = append(names, spec.HostName{Name: h.Host, Addr: h.IP.String()})
	}
	if own := m.Hostname; own != "" || m.NetMode != pb.NetMode_HOST {
		if own == "" {
			own = hostname
		}
		names = append(names, spec.HostName{Name: own, Addr: net.IPv4(127, 0, 0, 1).String()})
	}
	host, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !os.IsNotExist(err) {
		return f, err
	}
	n := spec.Network{}
	if m.NetMode == pb.NetMode_HOST {
		n.Mode = "host"
	}
	for _, w := range []struct {
		path    string
		content []byte
	}{{f.Hosts, spec.HostsFile(names)}, {f.ResolvConf, spec.ResolvConf(n, host)}} {
		if err := os.WriteFile(w.path, w.content, 0o644); err != nil {
			return f, err
		}
		s.after(func() error { return os.Remove(w.path) })
	}
	return f, nil
}
