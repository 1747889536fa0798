package runtime

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"gantry/runtime/spec"
)

// watchHealth probes a container that has just started, until endHealth.
func (e *Engine) watchHealth(ct *container, c Container) {
	ctx, cancel := context.WithCancel(e.ctx)
	done := make(chan struct{})
	ct.mu.Lock()
	ct.stopHealth = stopHealth{cancel, done}
	ct.mu.Unlock()
	e.spawn(func() {
		defer close(done)
		e.probe(ctx, ct, withDefaults(*c.Config.Healthcheck), onOurClock(c.StartedAt, time.Now()))
	})
}

// endHealth stops the prober and waits until it has.
func (e *Engine) endHealth(ct *container) {
	ct.mu.Lock()
	s := ct.stopHealth
	ct.stopHealth = stopHealth{}
	ct.mu.Unlock()
	if s.cancelHealth != nil {
		s.cancelHealth()
		<-s.healthDone
	}
}

// probe follows the schedule: one probe at a time per container.
func (e *Engine) probe(ctx context.Context, ct *container, hc spec.Healthcheck, started time.Time) {
	s := newSchedule(hc, started)
	if status := ct.snapshot().Health.Status; status != Starting {
		s = s.resumed(time.Now()) // taken over from the daemon before
	}
	turn := make(chan struct{}, 1)
	for {
		ct.mu.Lock()
		c, awaited := ct.c, ct.awaited > 0
		ct.mu.Unlock()
		at, early := s.next(c.Health.Status, awaited)
		if c.Health.Status != Starting {
			at = together(at, e.began, hc.Interval)
		}
		t := time.NewTimer(time.Until(at))
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-ct.nudge: // somebody waits from now on: look again
			t.Stop()
			continue
		case <-t.C:
		}
		ct.mu.Lock()
		c, pauses := ct.c, ct.pauses
		ct.mu.Unlock()
		if c.State != Running || pauses%2 == 1 { // odd: a pause or its end is under way
			s = s.after(time.Now(), c.Health.Status, false)
			continue
		}
		p := e.probeWith(ctx, c, hc, turn)
		if ctx.Err() != nil {
			return
		}
		ct.mu.Lock()
		paused := ct.pauses != pauses
		ct.mu.Unlock()
		if !paused || p.ExitCode == 0 {
			e.probed(ct, p, hc, p.Start.Sub(started), early)
		}
		s = s.after(p.End, ct.snapshot().Health.Status, early)
	}
}

// probeWith makes one probe, from outside or by a process in the container.
func (e *Engine) probeWith(ctx context.Context, c Container, hc spec.Healthcheck, turn chan struct{}) Probe {
	if hc.Outside() {
		return e.probeOutside(ctx, c, hc)
	}
	return e.probeOnce(ctx, c, hc, turn)
}

// probed records an outcome, and moves traffic when it changes the state.
func (e *Engine) probed(ct *container, p Probe, hc spec.Healthcheck, ran time.Duration, early bool) {
	before := ct.snapshot()
	defer e.treat(ct)
	h := judge(*before.Health, p, hc, ran, early)
	set := func(c *Container) {
		c.Health = &h
		if h.Status != before.Health.Status {
			c.Changed = time.Now()
		}
		if h.Status == Healthy {
			c.GaveUp = ""
		}
	}
	if h.Status == before.Health.Status {
		ct.recall(set) // only what others act on is worth a write
		return
	}
	// Traffic first: who hears that the container is healthy may use it.
	e.setReady(before, true, h.Status == Healthy)
	now, err := e.update(ct, fact, set)
	if err != nil {
		e.Log.Error("record health", "container", now.Name, "error", err)
		return
	}
	e.emit(now, "health_status: "+h.Status, nil)
}

// checkStart bounds the making of a check's process. It is Docker's, and does
// not count for the check's own timeout: a busy machine makes nobody sick.
const checkStart = 30 * time.Second

// probeOnce runs the check in the container. One whose process cannot be made
// in time has failed like one that does not end in time. A bounded number of checks is being started at a time, over all
// containers; those that run wait in the container and hold up no others. turn
// has room for the one check of this container that is being started: who has
// given up on one does not ask for a second beside it.
func (e *Engine) probeOnce(ctx context.Context, c Container, hc spec.Healthcheck, turn chan struct{}) Probe {
	var cmd []string
	switch hc.Test[0] {
	case "CMD":
		cmd = hc.Test[1:]
	case "CMD-SHELL":
		cmd = append([]string{"/bin/sh", "-c"}, hc.Test[1:]...)
	}
	x := &exec{x: Exec{ID: newID(), Container: c.ID, Config: ExecConfig{Command: cmd}}, probe: true, started: true}
	out := &firstBytes{max: probeOutput}
	p := Probe{Start: time.Now(), ExitCode: -1}
	limit := time.NewTimer(e.checkStart)
	defer limit.Stop()
	failed := func(format string, args ...any) Probe {
		p.End, p.Output = time.Now(), strings.TrimPrefix(out.String()+"\n"+fmt.Sprintf(format, args...), "\n")
		return p
	}
	select {
	case turn <- struct{}{}:
	case <-limit.C:
		return failed("the check could not be started within %s: one before it is still being started", e.checkStart)
	case <-ctx.Done():
		return Probe{}
	}
	select {
	case e.probing <- struct{}{}:
	case <-ctx.Done():
		<-turn
		return Probe{}
	}
	p.Start = time.Now()
	limit.Reset(e.checkStart)
	e.keepExec(x)
	defer func() {
		e.mu.Lock()
		delete(e.execs, x.x.ID)
		e.mu.Unlock()
	}()
	type begun struct {
		pipes *execPipes
		err   error
	}
	start, left := make(chan begun), make(chan struct{})
	defer close(left)
	spawned := e.spawn(func() {
		defer func() { <-e.probing; <-turn }()
		pipes, err := e.startExec(e.ctx, c, x, &ExecStreams{Out: out, Err: out, merged: true})
		select {
		case start <- begun{pipes, err}:
		case <-left:
			if err == nil {
				e.endProbe(c, x)
				pipes.close()
			}
		}
	})
	if !spawned { // the daemon is closing
		<-e.probing
		<-turn
		return Probe{}
	}
	var b begun
	select {
	case b = <-start:
	case <-limit.C:
		return failed("the check could not be started within %s", e.checkStart)
	case <-ctx.Done():
		return Probe{}
	}
	if b.err != nil {
		awaitEnd(ctx)
		return failed("%v", b.err)
	}
	limit.Reset(hc.Timeout)
	b.pipes.copy()
	defer b.pipes.close()
	select {
	case <-x.done:
		p.End = time.Now()
		b.pipes.drain(ctx)
		p.ExitCode = *x.snapshot().ExitCode
		p.Output = out.String()
		if p.ExitCode == killed {
			awaitEnd(ctx)
		}
		return p
	case <-limit.C:
		e.endProbe(c, x)
		return failed("the check did not end within %s", hc.Timeout)
	case <-ctx.Done():
		e.endProbe(c, x)
		return Probe{}
	}
}

// killed is the exit code of a process that got SIGKILL.
const killed = 128 + 9

// awaitEnd gives the news of a container's end time to come, which is the end of
// ctx. A container that ends takes the check in it along and lets none begin:
// that says nothing about its health.
func awaitEnd(ctx context.Context) {
	t := time.NewTimer(time.Second)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// endProbe kills a check that is of no use any more.
func (e *Engine) endProbe(c Container, x *exec) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(e.ctx), time.Second)
	defer cancel()
	if err := e.killExec(ctx, c.ID, x.x.ID); err != nil {
		e.Log.Warn("end a health check", "container", c.Name, "error", err)
	}
}

// firstBytes keeps the beginning of what is written to it. Who reads it need not
// wait until all is written, so it locks.
type firstBytes struct {
	mu  sync.Mutex
	buf bytes.Buffer
	max int
}

func (f *firstBytes) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if room := f.max - f.buf.Len(); room > 0 {
		f.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// ReadFrom is for io.Copy, which would have a buffer of 32 KiB for a check that
// says nothing or a line.
func (f *firstBytes) ReadFrom(r io.Reader) (n int64, err error) {
	var piece [512]byte
	for {
		m, err := r.Read(piece[:])
		_, _ = f.Write(piece[:m])
		n += int64(m)
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

func (f *firstBytes) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.buf.String()
}
