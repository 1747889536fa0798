package runtime

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gantry/runtime/keeper"

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
	switch {
	case c.Removal != nil || c.State == Removing || c.State == Dead:
		return beingRemoved(c)
	case c.State == Running:
		return fmt.Errorf("container %s is already running: %w", c.Name, errdefs.ErrNotModified)
	case c.State == Paused:
		return fmt.Errorf("cannot start a paused container, try unpause instead: %s: %w", c.Name, errdefs.ErrConflict)
	}
	ct.cancelRestart()
	if c.Stopped {
		// That it is wanted again holds after a power cut too.
		if _, err := e.update(ct, synced, func(c *Container) { c.Stopped = false }); err != nil {
			return err
		}
	}
	ct.recall(func(c *Container) { c.RestartCount, c.Crashes, c.Recent = 0, 0, nil })
	back := c.State
	if back == Restarting {
		back = Exited
	}
	err := e.run(ctx, ct, back)
	if err != nil && c.Config.AutoRemove {
		if _, rerr := e.update(ct, synced|ending, func(c *Container) { c.Removal = &Removal{Volumes: true} }); rerr == nil {
			rerr = e.removeLocked(context.WithoutCancel(ctx), ct)
			err = errors.Join(err, rerr)
		}
	}
	return err
}

// run gives a container that has no process one; the caller holds op. What it
// began it takes back when it fails, and the container is then in state back.
//
// Network, volumes and process are prepared side by side: the keeper makes the
// process and holds it before its first instruction, until the rest is there.
func (e *Engine) run(ctx context.Context, ct *container, back State) (err error) {
	c := ct.snapshot()
	t := newTimes()
	defer func() {
		if err == nil {
			t.log(ctx, e.Log, c.Name)
			return
		}
		err = fmt.Errorf("start %s: %w%s", c.Name, err, remedy(err))
		// The caller's context may be what ended the start.
		undo := context.WithoutCancel(ctx)
		if left := errors.Join(e.Keeper.Delete(undo, c.ID), e.unwire(undo, c), e.releaseShm(c.ID)); left != nil {
			e.Log.Error("take a failed start back", "container", c.Name, "error", left)
		}
		e.failed(ct, err, back)
	}()

	netns, err := e.netns(ctx, c)
	if err != nil {
		return err
	}
	t.lap("netns")
	e.fault("start: namespace made")
	own := ownNetwork(c.Config.Network.Mode)
	wired := make(chan wiring, 1)
	if own {
		go func() { wired <- e.wire(ctx, c) }()
	} else {
		wired <- wiring{}
	}
	bundle, release, err := e.bundle(ctx, c, netns)
	t.lap("bundle")
	if err == nil {
		err = e.createProcess(ctx, bundle)
		t.lap("keeper create")
	}
	release()
	w := <-wired // always: nothing may go on behind a caller's back
	t.lap("wait for the network")
	t.add("network", w.took)
	if err == nil {
		err = w.err
	}
	if err == nil {
		err = e.writeHosts(c, w.joined)
	}
	if err == nil {
		e.attachPending(ctx, ct)
	}
	if err != nil {
		return err
	}
	t.lap("files")
	e.fault("start: process made")
	st, err := e.Keeper.Start(ctx, c.ID)
	if err != nil {
		return err
	}
	t.lap("keeper start")
	e.fault("start: process runs")
	e.started(ct, st, w)
	t.lap("record")
	return nil
}

// remedy is what helps against a failed start, to stand behind its cause.
func remedy(cause error) string {
	var se *keeper.StartError
	if errors.As(cause, &se) && se.Code == 127 {
		return "; check command and entrypoint against what is in the image"
	}
	return ""
}

// createProcess has the keeper make a process. What an earlier run has left
// there, because the keeper could not be reached or could not take it apart, is
// removed first.
func (e *Engine) createProcess(ctx context.Context, b keeper.Bundle) error {
	for range 2 {
		st, err := e.Keeper.Create(ctx, b)
		if err != nil || st.State == keeper.StateCreated {
			return err
		}
		if err := e.Keeper.Delete(ctx, b.ID); err != nil {
			return err
		}
	}
	return fmt.Errorf("its process ends before it is started: %w", errdefs.ErrUnavailable)
}

// started records that a process runs, and sends traffic its way.
func (e *Engine) started(ct *container, st keeper.Status, w wiring) {
	var health *Health
	if probes(ct.snapshot().Config.Healthcheck) {
		health = &Health{Status: Starting}
	}
	now, err := e.update(ct, fact, func(c *Container) {
		c.State, c.Pid, c.StartedAt, c.Error = Running, st.Pid, st.StartedAt, ""
		c.ExitLost, c.OOMKilled, c.Lost, c.GaveUp = false, false, false, ""
		c.Health, c.Networks, c.Ports = health, w.joined, w.ports
	})
	if err != nil {
		e.Log.Error("record a start", "container", now.Name, "error", err)
		return
	}
	e.attend(ct)
	if health != nil {
		e.watchHealth(ct, now)
	}
	e.emitJoined(now, "connect")
	e.emitMounted(now, "mount")
	e.emit(now, "start", nil)
}

// failed records why a start did not come about, with the exit code a shell
// would give.
func (e *Engine) failed(ct *container, cause error, back State) {
	code := 128
	var se *keeper.StartError
	if errors.As(cause, &se) && se.Code != 0 {
		code = se.Code
	}
	c, err := e.update(ct, fact, func(c *Container) {
		c.Error, c.ExitCode, c.Pid, c.Networks, c.Ports = cause.Error(), code, 0, nil, nil
		c.State = back
		if back != Created {
			c.FinishedAt = time.Now()
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
		a.fail(errNeverRan)
	}
}
