package runtime

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// Wait returns when the container has met the condition: [NotRunning],
// [NextExit] or [Removed]. watching, if not nil, is called once nothing that
// happens to the container from then on can be missed. As with Docker, a
// process that ends ends the wait for NotRunning, too, though its restart
// policy starts another: who waits wants to know that it ended.
func (e *Engine) Wait(ctx context.Context, ref, condition string, watching func()) (Waited, error) {
	ct, err := e.find(ref)
	if err != nil {
		return Waited{}, err
	}
	before := ct.view().exits
	if watching != nil {
		watching()
	}
	for {
		v := ct.view()
		var met bool
		switch condition {
		case NotRunning, "":
			met = v.idle() && v.State != Restarting || v.exits != before
		case NextExit:
			met = v.exits != before || v.removed
		case Removed:
			if met = v.removed; met {
				v.Error = "" // the removal went well; what a start said, its caller has heard
			}
		default:
			return Waited{}, fmt.Errorf("wait condition %q: not one of not-running, next-exit, removed: %w", condition, errdefs.ErrInvalidArgument)
		}
		if met {
			return Waited{ExitCode: v.ExitCode, Error: v.Error}, nil
		}
		if err := e.next(ctx, v); err != nil {
			return Waited{}, err
		}
	}
}

// AwaitChange returns when any field of the container has changed since c was
// taken, or its record is gone.
func (e *Engine) AwaitChange(ctx context.Context, c Container) error {
	ct, err := e.find(c.ID)
	if err != nil {
		return nil //nolint:nilerr // a whole id that is not found: the record is gone
	}
	v := ct.view()
	if v.removed || !v.Changed.Equal(c.Changed) || v.State != c.State {
		return nil
	}
	return e.next(ctx, v)
}

// next waits until what v shows has changed.
func (e *Engine) next(ctx context.Context, v view) error {
	select {
	case <-v.changed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-e.closing:
		return errClosing
	}
}

// AwaitHealthy returns when the container is healthy. Meanwhile it is probed
// early. It is an error when the container turns unhealthy or ends first.
func (e *Engine) AwaitHealthy(ctx context.Context, ref string) error {
	ct, err := e.find(ref)
	if err != nil {
		return err
	}
	ct.mu.Lock()
	ct.awaited++
	nudge(ct.nudge)
	ct.mu.Unlock()
	defer func() {
		ct.mu.Lock()
		ct.awaited--
		ct.mu.Unlock()
	}()
	for {
		v := ct.view()
		running := v.State == Running && !v.settling
		switch {
		case v.removed:
			return fmt.Errorf("container %s was removed: %w", v.Name, errdefs.ErrNotFound)
		case v.State == Exited || v.State == Dead:
			return fmt.Errorf("container %s exited with code %d before it was healthy: %w", v.Name, v.ExitCode, errdefs.ErrFailedPrecondition)
		case running && v.Health == nil:
			return fmt.Errorf("container %s has no healthcheck: %w", v.Name, errdefs.ErrFailedPrecondition)
		case running && v.Health.Status == Healthy:
			return nil
		case running && v.Health.Status == Unhealthy:
			return fmt.Errorf("container %s is unhealthy%s: %w", v.Name, lastProbe(v.Health), errdefs.ErrFailedPrecondition)
		}
		if err := e.next(ctx, v); err != nil {
			return err
		}
	}
}

// waitExit waits until the run that c shows has ended and is settled.
func (e *Engine) waitExit(ctx context.Context, ct *container, c Container) error {
	for {
		v := ct.view()
		if v.idle() || !v.settling && !v.StartedAt.Equal(c.StartedAt) {
			return nil
		}
		if err := e.next(ctx, v); err != nil {
			return err
		}
	}
}

func lastProbe(h *Health) string {
	if len(h.Log) == 0 {
		return ""
	}
	p := h.Log[len(h.Log)-1]
	out, _, _ := strings.Cut(strings.TrimSpace(p.Output), "\n")
	return fmt.Sprintf(" (last probe: exit code %d, %q)", p.ExitCode, out)
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
