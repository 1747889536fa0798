package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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
		e.probe(ctx, ct, withDefaults(*c.Config.Healthcheck), c.StartedAt)
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

// probe follows the schedule: one probe at a time per container, a bounded
// number over all of them.
func (e *Engine) probe(ctx context.Context, ct *container, hc spec.Healthcheck, started time.Time) {
	s := newSchedule(hc, started)
	for {
		ct.mu.Lock()
		c, awaited := ct.c, ct.awaited > 0
		ct.mu.Unlock()
		if c.Health == nil {
			return
		}
		at, early := s.next(c.Health.Status, awaited)
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
		if c = ct.snapshot(); c.State == Paused {
			s = s.after(time.Now(), c.Health.Status, false)
			continue
		}
		select {
		case e.probing <- struct{}{}:
		case <-ctx.Done():
			return
		}
		p := e.probeOnce(ctx, c, hc)
		<-e.probing
		if ctx.Err() != nil {
			return
		}
		e.probed(ct, p, hc, early)
		s = s.after(p.End, ct.snapshot().Health.Status, early)
	}
}

// probed records an outcome, and moves traffic when it changes the state.
func (e *Engine) probed(ct *container, p Probe, hc spec.Healthcheck, early bool) {
	before := ct.snapshot()
	if before.Health == nil {
		return
	}
	h := judge(*before.Health, p, hc, p.Start.Sub(before.StartedAt), early)
	set := func(c *Container) {
		c.Health = &h
		if h.Status != before.Health.Status {
			c.Changed = time.Now()
		}
	}
	if h.Status == before.Health.Status {
		// Only what others act on is worth a write.
		ct.mu.Lock()
		set(&ct.c)
		ct.mu.Unlock()
		return
	}
	// Traffic first: who hears that the container is healthy may use it.
	e.setReady(before, true, h.Status == Healthy)
	now, err := e.update(ct, false, set)
	if err != nil {
		e.Log.Error("record health", "container", now.Name, "error", err)
		return
	}
	e.emit(now, "health_status: "+h.Status, nil)
}

// probeOnce runs the check in the container.
func (e *Engine) probeOnce(ctx context.Context, c Container, hc spec.Healthcheck) Probe {
	p := Probe{Start: time.Now(), ExitCode: -1}
	var cmd []string
	switch hc.Test[0] {
	case "CMD":
		cmd = hc.Test[1:]
	case "CMD-SHELL":
		cmd = append(shellOf(c.Config), hc.Test[1:]...)
	default:
		cmd = hc.Test
	}
	out := &firstBytes{max: probeOutput}
	id := newID()
	x := &exec{x: Exec{ID: id, Container: c.ID, Config: ExecConfig{Command: cmd}}, probe: true, done: make(chan struct{})}
	e.mu.Lock()
	e.execs[id] = x
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		delete(e.execs, id)
		e.mu.Unlock()
	}()
	limit, cancel := context.WithTimeout(ctx, hc.Timeout)
	err := e.runExec(limit, c, x, &ExecStreams{Out: out, Err: out})
	cancel()
	p.End = time.Now()
	switch s := x.snapshot(); {
	case errors.Is(err, context.DeadlineExceeded):
		fmt.Fprintf(out, "\nthe check did not end within %s", hc.Timeout)
		if err := e.killExec(context.WithoutCancel(ctx), c.ID, id); err != nil {
			e.Log.Warn("end a health check", "container", c.Name, "error", err)
		}
	case err != nil && ctx.Err() == nil:
		fmt.Fprint(out, err)
	case s.ExitCode != nil:
		p.ExitCode = *s.ExitCode
	}
	p.Output = out.String()
	return p
}

// shellOf is what runs CMD-SHELL checks.
func shellOf(Config) []string { return []string{"/bin/sh", "-c"} }

// firstBytes keeps the beginning of what is written to it. Two streams write
// at once, so it locks.
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

func (f *firstBytes) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.buf.String()
}
