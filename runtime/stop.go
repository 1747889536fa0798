package runtime

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"syscall"
	"time"

	"gantry/runtime/spec"

	"github.com/containerd/errdefs"
)

const sigkill = syscall.SIGKILL

// killTime is how long a killed process is waited for: one that waits for a
// filesystem that is gone does not die.
const killTime = 30 * time.Second

// A purpose says what is to become of a container that a call ends.
type purpose uint8

const (
	forNow  purpose = iota // it stays stopped until a call starts it
	again                  // the same call starts it again
	asSick                 // it is unhealthy, and its restart policy goes on with it
	forGood                // it is doomed, and on disk as such
)

// Stop asks a container to end and, after its timeout, kills it. It stays
// stopped until a call starts it. Stopping one that does not run is
// ErrNotModified. A caller that leaves does not shorten the time the container
// has.
func (e *Engine) Stop(ctx context.Context, ref string, o StopOptions) error {
	ct, err := e.find(ref)
	if err != nil {
		return err
	}
	return e.wait(ctx, func() error {
		err := e.halt(e.ctx, ct, o, forNow)
		if err == nil {
			e.emit(ct.snapshot(), "stop", nil)
		}
		return err
	})
}

// Restart stops a container if it is live and starts it. Its addresses and
// ports stay.
func (e *Engine) Restart(ctx context.Context, ref string, o StopOptions) error {
	ct, err := e.find(ref)
	if err != nil {
		return err
	}
	return e.wait(ctx, func() error { return e.cycle(e.ctx, ct, o) })
}

func (e *Engine) cycle(ctx context.Context, ct *container, o StopOptions) error {
	before := ct.snapshot()
	defer func() {
		ct.mu.Lock()
		defer ct.mu.Unlock()
		ct.cycling = false
	}()
	err := e.halt(ctx, ct, o, again)
	if err == nil {
		e.emit(ct.snapshot(), "stop", nil)
	} else if !errors.Is(err, errdefs.ErrNotModified) {
		return err
	}
	ct.op.Lock()
	defer ct.op.Unlock()
	if c := ct.snapshot(); c.Stopped && !before.Stopped {
		return fmt.Errorf("container %s was stopped by another call meanwhile: %w", c.Name, errdefs.ErrConflict)
	}
	if err := e.startLocked(ctx, ct); err != nil && !errors.Is(err, errdefs.ErrNotModified) {
		return err
	}
	e.emit(ct.snapshot(), "restart", nil)
	return nil
}

// halt ends a container's process and keeps another one from being started. It
// returns when the container is settled; ErrNotModified: it had none.
func (e *Engine) halt(ctx context.Context, ct *container, o StopOptions, why purpose) error {
	sig, grace, err := stopping(ct.snapshot().Config, o)
	if err != nil {
		return err
	}
	c, err := e.intend(ctx, ct, why)
	if err != nil || !c.State.Live() {
		return err
	}
	e.fault("stop: intended")
	e.setLeaving(c) // new connections go to other replicas, where there are any
	e.emitKill(c, sig)
	if err := e.signal(ctx, ct, c, sig, true); err != nil {
		return err
	}
	e.fault("stop: signalled")
	if sig != sigkill {
		patient, cancel := ctx, context.CancelFunc(func() {})
		if grace >= 0 {
			patient, cancel = context.WithTimeout(ctx, grace)
		}
		err = e.waitExit(patient, ct, c)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return err
		}
		e.emitKill(c, sigkill)
		if err := e.signal(ctx, ct, c, sigkill, true); err != nil {
			return err
		}
	}
	return e.waitKilled(ctx, ct, c)
}

// stopping is how a container is ended: its own way, unless o says otherwise.
func stopping(c Config, o StopOptions) (syscall.Signal, time.Duration, error) {
	sig, grace := c.Stop()
	if o.Timeout != nil {
		grace = *o.Timeout
	}
	if o.Signal == "" {
		return sig, grace, nil
	}
	sig, err := spec.ParseSignal(o.Signal)
	return sig, grace, err
}

// intend records why a container is about to be ended. It returns the container
// as it was; ErrNotModified if there is nothing to end.
func (e *Engine) intend(ctx context.Context, ct *container, why purpose) (Container, error) {
	ct.op.Lock()
	defer ct.op.Unlock()
	ct.cancelRestart()
	was := ct.snapshot()
	switch {
	case why == again:
		ct.mu.Lock()
		ct.cycling = was.State.Live()
		ct.mu.Unlock()
	case why == asSick:
		if was.State != Running || was.Stopped || was.Removal != nil || was.Health == nil || was.Health.Status != Unhealthy {
			return was, fmt.Errorf("container %s is not unhealthy any more: %w", was.Name, errdefs.ErrNotModified)
		}
		ct.mu.Lock()
		ct.sick = true
		ct.mu.Unlock()
	case why == forNow && was.Removal == nil && (!was.Stopped || was.State == Restarting):
		if _, err := e.update(ct, synced|ending, func(c *Container) { c.Stopped = true }); err != nil {
			return was, err
		}
	}
	switch {
	case was.State == Restarting && why != again:
		if err := e.unwire(ctx, was); err != nil {
			return was, err
		}
		_, err := e.update(ct, fact, func(c *Container) { c.State, c.Networks, c.Ports = Exited, nil, nil })
		return was, err
	case !was.State.Live():
		return was, fmt.Errorf("container %s is not running: %w", was.Name, errdefs.ErrNotModified)
	}
	return was, nil
}

// waitKilled waits for the end of a process that was sent SIGKILL.
func (e *Engine) waitKilled(ctx context.Context, ct *container, c Container) error {
	limit, cancel := context.WithTimeout(ctx, killTime)
	defer cancel()
	err := e.waitExit(limit, ct, c)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return fmt.Errorf("container %s: process %d does not die (a filesystem it waits for may be gone): %w", c.Name, c.Pid, errdefs.ErrUnavailable)
	}
	return err
}

// Kill sends a signal, SIGKILL if none is named. One that ends a container by
// nature (SIGKILL, or its stop signal) is intent: it is not restarted.
func (e *Engine) Kill(ctx context.Context, ref, name string) error {
	ct, err := e.find(ref)
	if err != nil {
		return err
	}
	sig := sigkill
	if name != "" {
		if sig, err = spec.ParseSignal(name); err != nil {
			return err
		}
	}
	c := ct.snapshot()
	if !c.State.Live() {
		return fmt.Errorf("container %s is not running: %w", c.Name, errdefs.ErrConflict)
	}
	own, _ := c.Config.Stop()
	ends := sig == sigkill || sig == own
	if ends && !c.Stopped {
		if c, err = e.update(ct, synced|ending, func(c *Container) { c.Stopped = true }); err != nil {
			return err
		}
	}
	e.emitKill(c, sig)
	if err := e.signal(ctx, ct, c, sig, ends); err != nil {
		return err
	}
	if sig != sigkill {
		return nil
	}
	return e.waitKilled(ctx, ct, c)
}

func (e *Engine) emitKill(c Container, sig syscall.Signal) {
	e.emit(c, "kill", map[string]string{"signal": strconv.Itoa(int(sig))})
}

// signal reaches the run of a container that c shows; that it has ended is no
// error. One that is to end is let go if it is paused: it could not act on the
// signal otherwise.
func (e *Engine) signal(ctx context.Context, ct *container, c Container, sig syscall.Signal, ends bool) error {
	err := e.Keeper.Signal(ctx, c.ID, "", sig)
	if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) {
		return fmt.Errorf("signal container %s: %w", c.Name, err)
	}
	if !ends || ct.snapshot().State != Paused {
		return nil
	}
	err = e.Unpause(ctx, c.ID)
	if err == nil || errdefs.IsConflict(err) || errdefs.IsFailedPrecondition(err) {
		return nil // it goes, or has gone
	}
	return fmt.Errorf("let paused container %s go, to end it: %w", c.Name, err)
}
