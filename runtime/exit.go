package runtime

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"gantry/runtime/keeper"
	"gantry/runtime/spec"

	"github.com/containerd/errdefs"
)

// listen turns what the keeper tells into changes of containers, until the
// Engine closes.
func (e *Engine) listen() {
	for {
		select {
		case <-e.closing:
			return
		case ev, ok := <-e.Keeper.Events():
			if !ok {
				return
			}
			e.heard(ev)
		}
	}
}

func (e *Engine) heard(ev keeper.Event) {
	switch ev.Kind {
	case keeper.Exited:
		if ct, err := e.find(ev.ID); err == nil && ev.Exit != nil {
			// A restart takes as long as a start; the next event does not wait.
			e.spawn(func() { e.exited(e.ctx, ct, *ev.Exit) })
		}
	case keeper.ExecExited:
		if ev.Exit != nil {
			e.execExited(ev.ExecID, *ev.Exit)
		}
	case keeper.OOM:
		if ct, err := e.find(ev.ID); err == nil {
			e.emit(ct.snapshot(), "oom", nil)
		}
	case keeper.KeeperLost:
		e.Log.Warn("the keeper died; containers run on while a new one takes over")
	case keeper.KeeperBack:
		e.Log.Info("a new keeper has taken over")
	}
}

// exited settles the end of a container's process: its record, its mounts and
// addresses, and whether it starts again.
func (e *Engine) exited(ctx context.Context, ct *container, x keeper.Exit) {
	ct.op.Lock()
	defer ct.op.Unlock()
	c := ct.snapshot()
	if !c.State.Live() || x.At.Before(c.StartedAt) {
		return // told twice, or of an earlier run
	}
	e.settle(ctx, ct, x)
}

// settle is exited for a caller that holds op and knows that the container was
// live.
func (e *Engine) settle(ctx context.Context, ct *container, x keeper.Exit) {
	e.endHealth(ct)
	c := ct.snapshot()
	if err := e.Keeper.Delete(ctx, c.ID); err != nil {
		e.Log.Error("take an exited container apart", "container", c.Name, "error", err)
	}
	v := nextRestart(c.Config.Restart, exited{
		Code:    x.Code,
		Lost:    !x.Known,
		Ran:     x.At.Sub(c.StartedAt),
		Stopped: c.Stopped,
		Count:   c.RestartCount,
	})
	select {
	case <-e.closing:
		v = verdict{Count: v.Count} // the next daemon decides
	default:
	}
	if v.Restart {
		e.setReady(c, false, false)
	} else if err := e.unwire(ctx, c); err != nil {
		e.Log.Error("disconnect an exited container", "container", c.Name, "error", err)
	}
	now, err := e.update(ct, false, func(c *Container) {
		c.State, c.Pid = Exited, 0
		if v.Restart {
			c.State = Restarting
		} else {
			c.Networks, c.Ports = nil, nil
		}
		c.FinishedAt, c.ExitCode, c.ExitLost, c.OOMKilled = x.At, x.Code, !x.Known, x.OOM
		c.RestartCount = v.Count
		if c.Health != nil && c.Health.Status != Unhealthy {
			h := *c.Health
			h.Status = Unhealthy
			c.Health = &h
		}
	})
	if err != nil {
		e.Log.Error("record an exit", "container", c.Name, "error", err)
		return
	}
	ct.mu.Lock()
	ct.exits++
	ct.wake()
	ct.mu.Unlock()
	if x.OOM {
		e.emit(now, "oom", nil)
	}
	e.emit(now, "die", map[string]string{
		"exitCode":     strconv.Itoa(x.Code),
		"execDuration": strconv.Itoa(int(x.At.Sub(c.StartedAt).Seconds())),
	})
	switch {
	case v.Restart && v.Delay == 0:
		e.rerun(ctx, ct)
	case v.Restart:
		e.restartLater(ct, v.Delay)
	case c.Config.AutoRemove:
		if err := e.removeLocked(ctx, ct, RemoveOptions{Volumes: true}); err != nil {
			e.Log.Error("remove an exited container", "container", c.Name, "error", err)
		}
	}
}

// restartLater starts a container again after a while, unless a call comes
// first.
func (e *Engine) restartLater(ct *container, d time.Duration) {
	ct.mu.Lock()
	defer ct.mu.Unlock()
	var t *time.Timer
	t = time.AfterFunc(d, func() {
		ct.mu.Lock()
		due := ct.restart == t
		ct.mu.Unlock()
		if !due {
			return
		}
		e.spawn(func() {
			ct.op.Lock()
			defer ct.op.Unlock()
			e.rerun(e.ctx, ct)
		})
	})
	ct.restart = t
}

// rerun starts a container its policy wants started; the caller holds op. A
// start that fails counts as a crash.
func (e *Engine) rerun(ctx context.Context, ct *container) {
	ct.mu.Lock()
	ct.restart = nil
	c := ct.c
	ct.mu.Unlock()
	if c.State != Restarting || c.Stopped || ctx.Err() != nil {
		return
	}
	err := e.run(ctx, ct)
	if err == nil {
		e.emit(ct.snapshot(), "restart", nil)
		return
	}
	e.Log.Warn("restart failed", "container", c.Name, "error", err)
	c = ct.snapshot()
	v := nextRestart(c.Config.Restart, exited{Code: c.ExitCode, Count: max(c.RestartCount, 1)})
	if !v.Restart || ctx.Err() != nil {
		return
	}
	if _, err := e.update(ct, false, func(c *Container) { c.State, c.RestartCount = Restarting, v.Count }); err != nil {
		return
	}
	e.restartLater(ct, v.Delay)
}

// Stop asks a container to end and, after its timeout, kills it. It stays
// stopped until a call starts it. Stopping one that does not run is
// ErrNotModified.
func (e *Engine) Stop(ctx context.Context, ref string, o StopOptions) error {
	ct, err := e.find(ref)
	if err != nil {
		return err
	}
	return e.stop(ctx, ct, o)
}

func (e *Engine) stop(ctx context.Context, ct *container, o StopOptions) error {
	ct.op.Lock()
	ct.mu.Lock()
	if ct.restart != nil {
		ct.restart.Stop()
		ct.restart = nil
	}
	state := ct.c.State
	ct.mu.Unlock()
	c, err := e.update(ct, true, func(c *Container) {
		c.Stopped = true
		if c.State == Restarting {
			c.State = Exited
		}
	})
	ct.op.Unlock()
	if err != nil {
		return err
	}
	if state == Restarting {
		e.emit(c, "stop", nil)
		return e.unwire(ctx, c)
	}
	if !state.Live() {
		return fmt.Errorf("container %s is not running: %w", c.Name, errdefs.ErrNotModified)
	}
	name := c.Config.StopSignal
	if o.Signal != "" {
		name = o.Signal
	}
	if name == "" {
		name = "SIGTERM"
	}
	sig, err := spec.ParseSignal(name)
	if err != nil {
		return err
	}
	if err := e.signal(ctx, c, sig); err != nil {
		return err
	}
	timeout := 10 * time.Second
	if c.Config.StopTimeout != nil {
		timeout = *c.Config.StopTimeout
	}
	if o.Timeout != nil {
		timeout = *o.Timeout
	}
	grace, cancel := ctx, context.CancelFunc(func() {})
	if timeout >= 0 {
		grace, cancel = context.WithTimeout(ctx, timeout)
	}
	_, err = e.waitExit(grace, ct, c)
	cancel()
	if err != nil {
		// A caller that has left still wants the container ended, not hung.
		if err := e.signal(context.WithoutCancel(ctx), c, sigkill); err != nil {
			return err
		}
		if _, err := e.waitExit(ctx, ct, c); err != nil {
			return err
		}
	}
	e.emit(ct.snapshot(), "stop", nil)
	return nil
}

// waitExit waits until the run that c shows has ended and is settled.
func (e *Engine) waitExit(ctx context.Context, ct *container, c Container) (Container, error) {
	for {
		now, _, removed, changed := ct.watch()
		if removed || !now.State.Live() || !now.StartedAt.Equal(c.StartedAt) {
			return now, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return now, ctx.Err()
		case <-e.closing:
			return now, fmt.Errorf("the daemon is stopping: %w", errdefs.ErrUnavailable)
		}
	}
}
