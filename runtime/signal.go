package runtime

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"syscall"

	"gantry/runtime/spec"

	"github.com/containerd/errdefs"
)

const sigkill = syscall.SIGKILL

// Kill sends a signal, SIGKILL if none is named. One that ends a container by
// nature (SIGKILL, or its stop signal) is intent: it is not restarted.
func (e *Engine) Kill(ctx context.Context, ref, name string) error {
	ct, err := e.find(ref)
	if err != nil {
		return err
	}
	if name == "" {
		name = "SIGKILL"
	}
	sig, err := spec.ParseSignal(name)
	if err != nil {
		return err
	}
	c := ct.snapshot()
	if !c.State.Live() {
		return fmt.Errorf("container %s is not running: %w", c.Name, errdefs.ErrConflict)
	}
	if sig == sigkill || sig == stopSignal(c) {
		if c, err = e.update(ct, true, func(c *Container) { c.Stopped = true }); err != nil {
			return err
		}
	}
	if err := e.signal(ctx, c, sig); err != nil {
		return err
	}
	e.emit(c, "kill", map[string]string{"signal": strconv.Itoa(int(sig))})
	if sig == sigkill {
		_, err = e.waitExit(ctx, ct, c)
	}
	return err
}

func stopSignal(c Container) syscall.Signal {
	if sig, err := spec.ParseSignal(c.Config.StopSignal); err == nil {
		return sig
	}
	return syscall.SIGTERM
}

// signal reaches a paused container too: it could not act on it otherwise.
func (e *Engine) signal(ctx context.Context, c Container, sig syscall.Signal) error {
	err := e.Keeper.Signal(ctx, c.ID, "", sig)
	if err != nil && !errors.Is(err, errdefs.ErrNotFound) {
		return fmt.Errorf("signal container %s: %w", c.Name, err)
	}
	if c.State == Paused {
		if err := e.Keeper.Resume(ctx, c.ID); err != nil {
			return fmt.Errorf("resume container %s to end it: %w", c.Name, err)
		}
	}
	return nil
}

// Restart stops a container if it is live and starts it.
func (e *Engine) Restart(ctx context.Context, ref string, o StopOptions) error {
	ct, err := e.find(ref)
	if err != nil {
		return err
	}
	if err := e.stop(ctx, ct, o); err != nil && !errors.Is(err, errdefs.ErrNotModified) {
		return err
	}
	ct.op.Lock()
	defer ct.op.Unlock()
	if err := e.startLocked(ctx, ct); err != nil && !errors.Is(err, errdefs.ErrNotModified) {
		return err
	}
	e.emit(ct.snapshot(), "restart", nil)
	return nil
}

// Pause freezes every process of a container.
func (e *Engine) Pause(ctx context.Context, ref string) error {
	return e.freeze(ctx, ref, Running, Paused, "pause", e.Keeper.Pause)
}

// Unpause lets them go on.
func (e *Engine) Unpause(ctx context.Context, ref string) error {
	return e.freeze(ctx, ref, Paused, Running, "unpause", e.Keeper.Resume)
}

func (e *Engine) freeze(ctx context.Context, ref string, from, to State, verb string, do func(context.Context, string) error) error {
	ct, err := e.find(ref)
	if err != nil {
		return err
	}
	ct.op.Lock()
	defer ct.op.Unlock()
	c := ct.snapshot()
	if c.State != from {
		return fmt.Errorf("cannot %s container %s: it is %s, not %s: %w", verb, c.Name, c.State, from, errdefs.ErrConflict)
	}
	if err := do(ctx, c.ID); err != nil {
		return fmt.Errorf("%s %s: %w", verb, c.Name, err)
	}
	c, err = e.update(ct, false, func(c *Container) { c.State = to })
	if err == nil {
		e.emit(c, verb, nil)
	}
	return err
}
