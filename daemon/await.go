package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gantry/runtime"
	"gantry/runtime/spec"
	"gantry/scheduler"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
)

// Await waits for every replica named.
func (e *engine) Await(ctx context.Context, a scheduler.AwaitSpec) error {
	if a.Trial != nil {
		return e.try(ctx, a)
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, number := range a.Numbers {
		g.Go(func() error {
			c, ok := e.replica(a.Project, a.Service, number, a.IDs[number])
			if !ok {
				return noReplica(a.Service, number)
			}
			return e.await(ctx, c, a.Condition)
		})
	}
	return g.Wait()
}

func noReplica(service string, number int) error {
	return fmt.Errorf("replica %d of %s is not there: %w", number, service, errdefs.ErrNotFound)
}

// replica finds a service's replica by its labels; of two (a replacement under
// way) the one with the id or, without one, the newer.
func (e *engine) replica(project, service string, number int, id string) (found runtime.Container, ok bool) {
	for _, c := range e.rt.List() { // the newest first
		o := scheduler.FromLabels(c.Config.Labels)
		if o.Project == project && o.Service == service && o.Number == number && !o.OneOff && (id == "" || c.ID == id) {
			return c, true
		}
	}
	return runtime.Container{}, false
}

func (e *engine) await(ctx context.Context, c runtime.Container, cond scheduler.Condition) error {
	for {
		if c.State == runtime.Paused && cond != scheduler.IsStarted {
			return fmt.Errorf("container %s is paused; unpause it: %w", c.Name, errdefs.ErrFailedPrecondition)
		}
		switch cond {
		case scheduler.IsStarted:
			if !c.StartedAt.IsZero() {
				return nil
			}
		case scheduler.IsHealthy:
			return e.rt.AwaitHealthy(ctx, c.ID)
		case scheduler.IsReady:
			if endedWell(c) {
				return nil
			}
			if c.Health != nil {
				err := e.rt.AwaitHealthy(ctx, c.ID)
				if now, lookErr := e.rt.Inspect(c.ID); err != nil && lookErr == nil && endedWell(now) {
					return nil
				}
				return err
			}
			if c.State == runtime.Exited || c.State == runtime.Dead {
				return fmt.Errorf("container %s exited with code %d; see `gantry logs %s`: %w",
					c.Name, c.ExitCode, c.Config.Labels[scheduler.LabelService], errdefs.ErrFailedPrecondition)
			}
			if c.State == runtime.Running {
				steady, err := e.steady(ctx, c)
				if steady || err != nil {
					return err
				}
			}
		case scheduler.IsCompleted:
			if c.State == runtime.Exited && !c.StartedAt.IsZero() {
				if c.ExitCode == 0 {
					return nil
				}
				return fmt.Errorf("container %s did not complete successfully: exit code %d; see `gantry logs %s`: %w",
					c.Name, c.ExitCode, c.Config.Labels[scheduler.LabelService], errdefs.ErrFailedPrecondition)
			}
			if c.State == runtime.Dead || c.State == runtime.Removing {
				return fmt.Errorf("container %s was removed: %w", c.Name, errdefs.ErrFailedPrecondition)
			}
		}
		if err := e.rt.AwaitChange(ctx, c); err != nil {
			return err
		}
		var err error
		if c, err = e.rt.Inspect(c.ID); err != nil {
			return err
		}
	}
}

// steadyAfter is how long a container without a healthcheck must have run to
// count as ready: a program that cannot find its configuration or its library
// has ended well before, on a slow machine, too. One that has crashed must last
// twice as long for every crash in a row, up to steadyMost: what takes a second
// to fail must not count as ready once a second.
const (
	steadyAfter = 300 * time.Millisecond
	steadyMost  = 10 * time.Second
)

func steadyFor(crashes int) time.Duration {
	d := steadyAfter
	for ; crashes > 0 && d < steadyMost; crashes-- {
		d *= 2
	}
	return min(d, steadyMost)
}

// steady waits until a running container has run for long enough, and reports
// false if something has happened to it before.
func (e *engine) steady(ctx context.Context, c runtime.Container) (bool, error) {
	most := steadyFor(c.Crashes)
	left := most - time.Since(c.StartedAt)
	if left <= 0 {
		return true, nil
	}
	bound, cancel := context.WithTimeout(ctx, min(left, most)) // whatever the clock was set to meanwhile
	defer cancel()
	err := e.rt.AwaitChange(bound, c)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return true, nil
	}
	return false, err
}

// endedWell reports whether a container was a job, as it turns out: it ended with
// code 0, and its restart policy lets it.
func endedWell(c runtime.Container) bool {
	once := c.Config.Restart.Name != spec.RestartAlways && c.Config.Restart.Name != spec.RestartUnlessStopped
	return once && c.State == runtime.Exited && c.ExitCode == 0 && !c.StartedAt.IsZero() && !c.Stopped && !c.ExitLost
}
