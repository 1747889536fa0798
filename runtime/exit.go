package runtime

import (
	"context"
	"strconv"
	"time"

	"gantry/runtime/keeper"
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
		e.spawn(func() { e.compare(e.ctx) })
	}
}

// exited settles the end of a container's process: its record, its mounts and
// addresses, and whether it starts again.
func (e *Engine) exited(ctx context.Context, ct *container, x keeper.Exit) {
	e.fault("exit: heard")
	ct.op.Lock()
	defer ct.op.Unlock()
	c := ct.snapshot()
	if !c.State.Live() || ctx.Err() != nil {
		return // settled already; or the next daemon settles it
	}
	if !x.At.After(c.StartedAt) {
		// An earlier run's, told again by a new keeper. Or this one's, and the
		// process was gone before its start was written down, or the clock was
		// set back. The keeper knows.
		st, ok, err := e.kept(ctx, c.ID)
		if err != nil || !ok || st.Exit == nil {
			return
		}
		x = *st.Exit
	}
	e.settle(ctx, ct, x)
}

// kept asks the keeper about one container.
func (e *Engine) kept(ctx context.Context, id string) (keeper.Status, bool, error) {
	all, err := e.Keeper.List(ctx)
	if err != nil {
		return keeper.Status{}, false, err
	}
	for _, st := range all {
		if st.ID == id {
			return st, true, nil
		}
	}
	return keeper.Status{}, false, nil
}

// compare finds the containers that ended with a keeper and of which the next
// one does not tell: it knows them as ended, or not at all.
func (e *Engine) compare(ctx context.Context) {
	all, err := e.Keeper.List(ctx)
	if err != nil {
		e.Log.Error("ask the new keeper what lives", "error", err)
		return
	}
	live := map[string]bool{}
	for _, st := range all {
		live[st.ID] = st.Live()
	}
	for _, ct := range e.all() {
		if c := ct.snapshot(); c.State.Live() && !live[c.ID] {
			e.spawn(func() { e.missed(ctx, ct) })
		}
	}
}

func (e *Engine) missed(ctx context.Context, ct *container) {
	ct.op.Lock()
	defer ct.op.Unlock()
	c := ct.snapshot()
	st, ok, err := e.kept(ctx, c.ID)
	switch {
	case err != nil || !c.State.Live() || ok && st.Live():
	case ok && st.Exit != nil:
		e.settle(ctx, ct, *st.Exit)
	default:
		e.settle(ctx, ct, lost(ct))
	}
}

// lost is the end of a process of which nobody knows anything.
func lost(ct *container) keeper.Exit {
	ct.recall(func(c *Container) { c.Lost = true })
	return keeper.Exit{Code: 255, At: time.Now()}
}

// settle is exited for a caller that holds op and knows that the container was
// live. The exit is in the record before the keeper forgets it; nobody who
// waits is woken before everything is taken apart.
func (e *Engine) settle(ctx context.Context, ct *container, x keeper.Exit) {
	// First of all, since everything else takes time: nobody is sent here.
	e.setReady(ct.snapshot(), false, false)
	ct.endAttendance()
	e.endHealth(ct)
	ct.mu.Lock()
	ct.settling = true
	c, cycling, sick := ct.c, ct.cycling, ct.sick
	ct.sick = false
	ct.mu.Unlock()
	v := nextRestart(c.Config.Restart, exited{
		Code:    x.Code,
		Lost:    !x.Known,
		Ran:     x.At.Sub(c.StartedAt),
		Stopped: c.Stopped || c.Removal != nil,
		Count:   c.RestartCount,
		Row:     c.Crashes,
		Sick:    sick,
		At:      x.At,
		Recent:  c.Recent,
	})
	if cycling && !c.Stopped && c.Removal == nil {
		// The call that ended it starts it. Restarting is what makes the next
		// daemon do so, should this one die first.
		v = verdict{Restart: true, Recent: c.Recent}
	}
	now, err := e.update(ct, fact|quietly, func(c *Container) {
		c.State, c.Pid = Exited, 0
		if v.Restart {
			c.State = Restarting
		}
		c.FinishedAt, c.ExitCode, c.ExitLost, c.OOMKilled = x.At, x.Code, !x.Known, x.OOM
		c.RestartCount, c.Crashes, c.Recent, c.GaveUp = v.Count, v.Row, v.Recent, v.GaveUp
		if c.Health != nil {
			h := *c.Health
			h.Status = Unhealthy
			c.Health = &h
		}
	})
	if err != nil {
		e.Log.Error("record an exit", "container", c.Name, "error", err)
	}
	e.fault("exit: recorded")
	e.clear(ctx, ct, now)
	e.fault("exit: cleared")
	e.emit(now, "die", map[string]string{
		"exitCode":     strconv.Itoa(x.Code),
		"execDuration": strconv.Itoa(max(int(x.At.Sub(c.StartedAt).Seconds()), 0)),
	})
	e.emitJoined(c, "disconnect")
	e.emitMounted(c, "unmount")
	ct.mu.Lock()
	ct.settling = false
	ct.exits++
	ct.wake()
	ct.mu.Unlock()
	switch {
	case cycling:
	case v.Restart && v.Delay == 0:
		e.rerun(ctx, ct)
	case v.Restart:
		e.restartLater(ct, v.Delay)
	case c.Config.AutoRemove && c.Removal == nil:
		e.removeExited(ctx, ct)
	}
}

// clear takes apart what an ended process has left. One that is restarted keeps
// its network; traffic is kept away from it, whatever its last health check has
// said meanwhile.
func (e *Engine) clear(ctx context.Context, ct *container, c Container) {
	problem := func(what string, err error) {
		if err != nil {
			e.Log.Error(what, "container", c.Name, "error", err)
		}
	}
	if c.State == Restarting {
		e.setReady(c, false, false)
	}
	problem("take an ended container apart", e.Keeper.Delete(ctx, c.ID))
	e.endExecs(ct)
	problem("release shared memory", e.releaseShm(c.ID))
	if c.State != Restarting {
		problem("disconnect an ended container", e.unwire(ctx, c))
		ct.recall(func(c *Container) { c.Networks, c.Ports = nil, nil })
	}
}

// removeExited removes a container that asked to be removed when it ends; the
// caller holds op.
func (e *Engine) removeExited(ctx context.Context, ct *container) {
	c, err := e.update(ct, synced|ending, func(c *Container) { c.Removal = &Removal{Volumes: true} })
	if err == nil {
		err = e.removeLocked(ctx, ct)
	}
	if err != nil {
		e.Log.Error("remove an exited container", "container", c.Name, "error", err)
	}
}

// restartLater starts a container again after a while, unless a call comes
// first.
func (e *Engine) restartLater(ct *container, d time.Duration) {
	ct.mu.Lock()
	defer ct.mu.Unlock()
	var t *time.Timer
	t = time.AfterFunc(d, func() {
		e.spawn(func() {
			ct.op.Lock()
			defer ct.op.Unlock()
			ct.mu.Lock()
			due := ct.restart == t
			ct.mu.Unlock()
			if due {
				e.rerun(e.ctx, ct)
			}
		})
	})
	ct.restart = t
}

// rerun starts a container its policy wants started; the caller holds op. A
// start that fails counts as a crash.
func (e *Engine) rerun(ctx context.Context, ct *container) {
	select {
	case e.restarting <- struct{}{}:
		defer func() { <-e.restarting }()
	case <-ctx.Done():
	}
	ct.mu.Lock()
	ct.restart = nil
	c := ct.c
	ct.mu.Unlock()
	if c.State != Restarting || c.Stopped || c.Removal != nil || ctx.Err() != nil {
		return
	}
	err := e.run(ctx, ct, Restarting)
	if err == nil || ctx.Err() != nil {
		return // it runs, or the next daemon tries again
	}
	e.Log.Warn("restart failed", "container", c.Name, "error", err)
	c = ct.snapshot()
	v := nextRestart(c.Config.Restart, exited{Code: c.ExitCode, Count: c.RestartCount, Row: max(c.Crashes, 1), At: time.Now(), Recent: c.Recent})
	if v.Restart {
		ct.recall(func(c *Container) { c.RestartCount, c.Crashes, c.Recent = v.Count, v.Row, v.Recent })
		e.restartLater(ct, v.Delay)
		return
	}
	if c, err = e.update(ct, fact, func(c *Container) { c.State, c.GaveUp = Exited, v.GaveUp }); err == nil {
		e.emit(c, "die", map[string]string{"exitCode": strconv.Itoa(c.ExitCode), "execDuration": "0"})
	}
}
