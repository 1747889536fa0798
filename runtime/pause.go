package runtime

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
)

// Pause freezes every process of a container.
func (e *Engine) Pause(ctx context.Context, ref string) error {
	return e.freeze(ctx, ref, Running, Paused, "pause", e.Keeper.Pause)
}

// Unpause lets them go on.
func (e *Engine) Unpause(ctx context.Context, ref string) error {
	return e.freeze(ctx, ref, Paused, Running, "unpause", e.Keeper.Resume)
}

func (ct *container) countPause() {
	ct.mu.Lock()
	defer ct.mu.Unlock()
	ct.pauses++
}

func (e *Engine) freeze(ctx context.Context, ref string, from, to State, verb string, do func(context.Context, string) error) error {
	ct, err := e.find(ref)
	if err != nil {
		return err
	}
	ct.op.Lock()
	defer ct.op.Unlock()
	c := ct.snapshot()
	switch {
	case c.State == from:
	case from == Paused:
		return fmt.Errorf("container %s is not paused: it is %s: %w", c.Name, c.State, errdefs.ErrConflict)
	case c.State == to:
		return fmt.Errorf("container %s is already paused: %w", c.Name, errdefs.ErrConflict)
	default:
		return fmt.Errorf("container %s is not running: it is %s: %w", c.Name, c.State, errdefs.ErrConflict)
	}
	// A probe that hangs because the container is frozen is no failure, when it
	// began before as well as when it slipped in just now.
	ct.countPause()
	defer ct.countPause()
	if err := do(ctx, c.ID); err != nil {
		return fmt.Errorf("%s %s: %w", verb, c.Name, err)
	}
	c, err = e.update(ct, fact, func(c *Container) { c.State = to })
	if err == nil {
		e.emit(c, verb, nil)
	}
	return err
}
