package runtime

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"gantry/network"
	"gantry/runtime/keeper"
	"gantry/runtime/rootfs"
	"gantry/runtime/spec"

	"github.com/containerd/errdefs"
)

// Start starts a container. Starting a live one is ErrNotModified.
func (e *Engine) Start(ctx context.Context, ref string) error {
	ct, err := e.find(ref)
	if err != nil {
		return err
	}
	ct.op.Lock()
	defer ct.op.Unlock()
	return e.startLocked(ctx, ct)
}

// startLocked starts a container on behalf of a call; the caller holds op.
func (e *Engine) startLocked(ctx context.Context, ct *container) error {
	c := ct.snapshot()
	switch c.State {
	case Running:
		return fmt.Errorf("container %s is already running: %w", c.Name, errdefs.ErrNotModified)
	case Paused:
		return fmt.Errorf("container %s is paused; unpause it first: %w", c.Name, errdefs.ErrConflict)
	case Removing, Dead:
		return fmt.Errorf("container %s is being removed: %w", c.Name, errdefs.ErrConflict)
	}
	ct.mu.Lock()
	if ct.restart != nil {
		ct.restart.Stop()
		ct.restart = nil
	}
	ct.mu.Unlock()
	if c.Stopped || c.RestartCount != 0 || c.State == Restarting {
		back := c.State
		if back == Restarting {
			back = Exited
		}
		if _, err := e.update(ct, c.Stopped, func(c *Container) { c.Stopped, c.RestartCount, c.State = false, 0, back }); err != nil {
			return err
		}
	}
	return e.run(ctx, ct)
}

// run gives a container that has no process one; the caller holds op. What it
// began it takes back when it fails.
//
// Network, volumes and process are prepared side by side: the keeper makes the
// process and holds it before its first instruction, until the rest is there.
func (e *Engine) run(ctx context.Context, ct *container) (err error) {
	c := ct.snapshot()
	defer func() {
		if err != nil {
			err = fmt.Errorf("start %s: %w", c.Name, err)
			e.failed(ct, err)
		}
	}()

	netns, err := e.netns(ctx, c)
	if err != nil {
		return err
	}
	own := ownNetwork(c.Config.Network.Mode)
	wired := make(chan wiring, 1)
	if own {
		go func() { wired <- e.wire(ctx, c) }()
	} else {
		wired <- wiring{}
	}
	bundle, err := e.bundle(ctx, c, netns)
	if err == nil {
		_, err = e.Keeper.Create(ctx, bundle)
	}
	w := <-wired // always: nothing may go on behind a caller's back
	if err == nil {
		err = w.err
	}
	if err == nil && own {
		err = e.writeHosts(c, w.joined)
	}
	if err == nil {
		err = e.attachPending(ctx, ct)
	}
	var st keeper.Status
	if err == nil {
		st, err = e.Keeper.Start(ctx, c.ID)
	}
	if err != nil {
		// The caller's context may be what ended the start.
		undo := context.WithoutCancel(ctx)
		return errors.Join(err, e.Keeper.Delete(undo, c.ID), e.unwire(undo, c))
	}

	var health *Health
	if probes(c.Config.Healthcheck) {
		health = &Health{Status: Starting}
	}
	now, err := e.update(ct, false, func(c *Container) {
		c.State, c.Pid, c.StartedAt, c.Error = Running, st.Pid, st.StartedAt, ""
		c.ExitLost, c.OOMKilled = false, false
		c.Health, c.Networks, c.Ports = health, w.joined, w.ports
	})
	if err != nil {
		undo := context.WithoutCancel(ctx)
		return errors.Join(err, e.Keeper.Delete(undo, c.ID), e.unwire(undo, c))
	}
	e.setReady(now, true, health == nil)
	if health != nil {
		e.watchHealth(ct, now)
	}
	e.emit(now, "start", nil)
	return nil
}

// failed records why a start did not come about, with the exit code a shell
// would give.
func (e *Engine) failed(ct *container, cause error) {
	code := 128
	var se *keeper.StartError
	if errors.As(cause, &se) && se.Code != 0 {
		code = se.Code
	}
	c, err := e.update(ct, false, func(c *Container) {
		c.Error, c.ExitCode, c.Pid, c.Networks, c.Ports = cause.Error(), code, 0, nil, nil
		if c.State != Created {
			c.State, c.FinishedAt = Exited, time.Now()
		}
	})
	if err != nil {
		e.Log.Error("record a failed start", "container", c.Name, "error", err)
	}
	ct.mu.Lock()
	pending := ct.pending
	ct.pending = nil
	ct.mu.Unlock()
	for _, a := range pending {
		a.fail(cause)
	}
}

// ownNetwork tells whether a container has a network namespace of its own.
func ownNetwork(mode string) bool {
	return mode != "host" && !strings.HasPrefix(mode, "container:")
}

// netns is the network namespace a container runs in, made if it is its own;
// "" is the host's.
func (e *Engine) netns(ctx context.Context, c Container) (string, error) {
	mode := c.Config.Network.Mode
	if peer, ok := strings.CutPrefix(mode, "container:"); ok {
		p, err := e.livePeer(peer, "network")
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("/proc/%d/ns/net", p.Pid), nil
	}
	if mode == "host" {
		return "", nil
	}
	return e.Fabric.Prepare(ctx, c.ID)
}

// livePeer is the running container whose namespace is to be joined.
func (e *Engine) livePeer(ref, what string) (Container, error) {
	p, err := e.find(ref)
	if err != nil {
		return Container{}, err
	}
	c := p.snapshot()
	if !c.State.Live() {
		return c, fmt.Errorf("join the %s namespace of container %s: it is not running; start it first: %w", what, c.Name, errdefs.ErrConflict)
	}
	return c, nil
}

// wiring is what connecting a container gave.
type wiring struct {
	joined []network.Joined
	ports  []network.Binding
	err    error
}

// wire connects a container and publishes its ports.
func (e *Engine) wire(ctx context.Context, c Container) (w wiring) {
	a, err := e.Fabric.Attach(ctx, e.sandbox(c))
	if err != nil {
		return wiring{err: err}
	}
	w.joined = a.Endpoints
	w.ports, w.err = e.publish(ctx, c)
	return w
}

// unwire takes back what wire did; doing it twice is no error.
func (e *Engine) unwire(ctx context.Context, c Container) error {
	if !ownNetwork(c.Config.Network.Mode) {
		return nil
	}
	return errors.Join(e.unpublish(ctx, c), e.Fabric.Detach(ctx, c.ID))
}

// writeHosts completes /etc/hosts with the addresses.
func (e *Engine) writeHosts(c Container, joined []network.Joined) error {
	content, err := hostsFile(c, joined, e.hostGateway(c))
	if err != nil {
		return err
	}
	return overwrite(e.filesOf(c.ID).Hosts, content)
}

// bundle is what the keeper needs to make the process. It populates fresh
// volumes on the way.
func (e *Engine) bundle(ctx context.Context, c Container, netns string) (keeper.Bundle, error) {
	id, err := parseImageID(c.Config.ImageID)
	if err != nil {
		return keeper.Bundle{}, err
	}
	lower, err := e.Images.Lowers(ctx, id)
	if err != nil {
		return keeper.Bundle{}, err
	}
	mounts, err := e.mounts(ctx, c, lower)
	if err != nil {
		return keeper.Bundle{}, err
	}
	nodes, err := readNodes(c.Config)
	if err != nil {
		return keeper.Bundle{}, err
	}
	in := spec.Input{
		ID:          c.ID,
		Config:      c.Config,
		Host:        e.host,
		CgroupsPath: e.cgroup(c),
		NetNS:       netns,
		Files:       e.filesOf(c.ID),
		Mounts:      mounts,
		Nodes:       nodes,
		InitPath:    e.InitPath,
	}
	for _, join := range []struct {
		mode, what, ns string
		path           *string
	}{
		{c.Config.PidMode, "pid", "pid", &in.PidNS},
		{c.Config.IpcMode, "ipc", "ipc", &in.IpcNS},
	} {
		peer, ok := strings.CutPrefix(join.mode, "container:")
		if !ok {
			continue
		}
		p, err := e.livePeer(peer, join.what)
		if err != nil {
			return keeper.Bundle{}, err
		}
		*join.path = fmt.Sprintf("/proc/%d/ns/%s", p.Pid, join.ns)
	}
	if peer, ok := strings.CutPrefix(c.Config.Network.Mode, "container:"); ok {
		// One network, one set of names.
		shared := e.filesOf(peer)
		in.Files.Hosts, in.Files.ResolvConf = shared.Hosts, shared.ResolvConf
	}
	if in.ShmPath, err = e.shm(c); err != nil {
		return keeper.Bundle{}, err
	}
	s, err := spec.Build(in)
	if err != nil {
		return keeper.Bundle{}, err
	}
	dir := e.rec.dir(c.ID)
	b := keeper.Bundle{
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
		b.Log = keeper.LogSink{Path: c.LogPath, MaxSize: c.Config.Log.MaxSize, MaxFiles: c.Config.Log.MaxFiles}
	}
	return b, nil
}

func (e *Engine) cgroup(c Container) string {
	parent := e.CgroupParent
	if p := c.Config.CgroupParent; p != "" {
		parent = filepath.Join("/", p)
	}
	return filepath.Join(parent, c.ID)
}
