package runtime

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"gantry/runtime/keeper"
	"gantry/runtime/rootfs"
	"gantry/runtime/spec"
)

// bundle is what the keeper needs to make the process. It populates fresh
// volumes on the way. release, never nil, is called once the process is made.
func (e *Engine) bundle(ctx context.Context, c Container, netns string) (b keeper.Bundle, release func(), err error) {
	release = func() {}
	id, err := parseImageID(c.Config.ImageID)
	if err != nil {
		return b, release, err
	}
	lower, err := e.Images.Lowers(ctx, id)
	if err != nil {
		return b, release, err
	}
	mounts, release, err := e.mounts(ctx, c, lower)
	if err != nil {
		return b, release, err
	}
	nodes, err := ReadNodes(c.Config)
	if err != nil {
		return b, release, err
	}
	in := spec.Input{
		ID:          c.ID,
		Config:      e.shownConfig(c),
		Host:        e.host,
		CgroupsPath: e.cgroup(c),
		NetNS:       netns,
		Files:       e.filesOf(e.networkOwner(c).ID), // one network, one set of names
		Mounts:      mounts,
		Nodes:       nodes,
		InitPath:    e.InitPath,
	}
	for _, join := range []struct {
		mode, ns string
		path     *string
	}{
		{c.Config.PidMode, "pid", &in.PidNS},
		{c.Config.IpcMode, "ipc", &in.IpcNS},
	} {
		peer, ok := strings.CutPrefix(join.mode, "container:")
		if !ok {
			continue
		}
		p, err := e.livePeer(peer, join.ns)
		if err != nil {
			return b, release, err
		}
		*join.path = fmt.Sprintf("/proc/%d/ns/%s", p.Pid, join.ns)
	}
	if in.ShmPath, err = e.shm(c); err != nil {
		return b, release, err
	}
	s, err := spec.Build(in)
	if err != nil {
		return b, release, err
	}
	dir := e.rec.dir(c.ID)
	b = keeper.Bundle{
		ID:       c.ID,
		Spec:     s,
		GroupAdd: c.Config.GroupAdd,
		Rootfs: rootfs.Overlay{
			Lower: lower,
			Upper: filepath.Join(dir, "upper"),
			Work:  filepath.Join(dir, "work"),
		},
		TTY:       c.Config.TTY,
		OpenStdin: c.Config.OpenStdin,
		StdinOnce: c.Config.StdinOnce,
	}
	if c.LogPath != "" {
		size, files := c.Config.Log.Rotation()
		b.Log = keeper.LogSink{Path: c.LogPath, MaxSize: size, MaxFiles: files}
	}
	return b, release, nil
}

// networkOwner is the container whose network c is in: itself, or the one at
// the end of the chain of those that join one another.
func (e *Engine) networkOwner(c Container) Container {
	for {
		peer, ok := strings.CutPrefix(c.Config.Network.Mode, "container:")
		if !ok {
			return c
		}
		p, err := e.find(peer)
		if err != nil {
			return c
		}
		c = p.snapshot()
	}
}

// shownConfig is a container's configuration as its processes see it: one that
// joins another one's network has that one's host name.
func (e *Engine) shownConfig(c Container) Config {
	cfg := c.Config
	if owner := e.networkOwner(c); owner.ID != c.ID {
		cfg.Hostname, cfg.Domainname = owner.Config.HostName(owner.ID, e.host), owner.Config.Domainname
	}
	return cfg
}

func (e *Engine) cgroup(c Container) string {
	parent := e.CgroupParent
	if p := c.Config.CgroupParent; p != "" {
		parent = filepath.Join("/", p)
	}
	return filepath.Join(parent, c.ID)
}
