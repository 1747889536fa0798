package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"gantry/runtime"
	"gantry/runtime/logs"
	"gantry/scheduler"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
)

// mostCrashes is how often a new replica may be started again before its update
// has failed: one that looks for something which is just being replaced too
// finds it at the second or third time.
const mostCrashes = 3

// What of a failed replica's output an error shows.
const (
	lastLines = 10
	lineShown = 200 // bytes
)

// try waits until new replicas have stood their trial, or have failed it. Those
// that have failed are stopped, so that nobody is sent to them, and kept.
func (e *engine) try(ctx context.Context, a scheduler.AwaitSpec) error {
	failed := make([]error, len(a.Numbers))
	var all sync.WaitGroup
	for i, number := range a.Numbers {
		all.Go(func() {
			c, ok := e.replica(a.Project, a.Service, number, a.IDs[number])
			if !ok {
				failed[i] = noReplica(a.Service, number)
				return
			}
			if err := e.stand(ctx, c.ID, *a.Trial); err != nil && ctx.Err() == nil {
				failed[i] = e.setBack(ctx, c, err)
			}
		})
	}
	all.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	n := 0
	for _, err := range failed {
		if err != nil {
			n++
		}
	}
	if n <= a.Trial.Tolerate {
		return nil
	}
	return errors.Join(failed...)
}

// stand waits until a container has stood a trial.
func (e *engine) stand(ctx context.Context, id string, t scheduler.Trial) error {
	for {
		c, err := e.rt.Inspect(id)
		switch {
		case err != nil:
			return err
		case c.State == runtime.Paused:
			return fmt.Errorf("container %s is paused; unpause it: %w", c.Name, errdefs.ErrFailedPrecondition)
		case c.State == runtime.Exited && t.MayEnd && c.ExitCode == 0 && !c.Stopped && !c.StartedAt.IsZero():
			return nil
		case c.State == runtime.Exited || c.State == runtime.Dead:
			return fmt.Errorf("container %s exited with code %d: %w", c.Name, c.ExitCode, errdefs.ErrFailedPrecondition)
		case c.RestartCount >= mostCrashes:
			return fmt.Errorf("container %s has crashed %d times, the last time with code %d: %w", c.Name, c.RestartCount, c.ExitCode, errdefs.ErrFailedPrecondition)
		}
		if c.State == runtime.Running && c.Health != nil && c.Health.Status != runtime.Healthy {
			if err := e.healthy(ctx, c); err != nil {
				return err
			}
			continue
		}
		left := t.For - time.Since(c.StartedAt)
		if c.State == runtime.Running && (left <= 0 || c.Health != nil && !t.Checked) {
			return nil
		}
		if err := e.change(ctx, c, min(left, t.For)); err != nil {
			return err
		}
	}
}

// healthy waits until a running container is healthy, or runs no longer.
func (e *engine) healthy(ctx context.Context, c runtime.Container) error {
	g, waiting := errgroup.WithContext(ctx)
	waiting, stop := context.WithCancel(waiting)
	defer stop()
	var end error
	g.Go(func() error {
		defer stop()
		end = e.rt.AwaitHealthy(waiting, c.ID)
		return nil
	})
	g.Go(func() error {
		defer stop()
		for now := c; now.State == runtime.Running && now.StartedAt.Equal(c.StartedAt); {
			if e.rt.AwaitChange(waiting, now) != nil {
				return nil
			}
			var err error
			if now, err = e.rt.Inspect(c.ID); err != nil {
				return nil
			}
		}
		return nil
	})
	_ = g.Wait() // neither gives an error
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(end, context.Canceled) {
		return nil // it has ended: whoever waits looks again
	}
	return end
}

// change waits until something has happened to a container, for a running one
// no longer than it needs to have run.
func (e *engine) change(ctx context.Context, c runtime.Container, left time.Duration) error {
	bound, cancel := ctx, context.CancelFunc(func() {})
	if c.State == runtime.Running {
		bound, cancel = context.WithTimeout(ctx, left)
	}
	defer cancel()
	if err := e.rt.AwaitChange(bound, c); err != nil && (ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded)) {
		return err
	}
	return nil
}

// setBack stops a replica that has failed its trial and adds to the error what
// it wrote last.
func (e *engine) setBack(ctx context.Context, c runtime.Container, err error) error {
	if said := e.lastWords(ctx, c); said != "" {
		err = fmt.Errorf("%w; the last it wrote:\n%s", err, said)
	} else {
		err = fmt.Errorf("%w; it has written nothing", err)
	}
	if serr := e.Stop(ctx, c.ID, nil); serr != nil && !errdefs.IsNotFound(serr) {
		err = errors.Join(err, serr)
	}
	return err
}

// lastWords are the last lines a container has written.
func (e *engine) lastWords(ctx context.Context, c runtime.Container) string {
	var lines []string
	err := e.rt.Logs(ctx, c.ID, logs.Query{Stdout: true, Stderr: true, Tail: lastLines}, func(entry logs.Entry) error {
		line := strings.ToValidUTF8(strings.TrimRight(string(entry.Line), "\r\n"), "�")
		if len(line) > lineShown {
			line = strings.ToValidUTF8(line[:lineShown], "") + "…"
		}
		lines = append(lines, scheduler.Quoted+line)
		return nil
	})
	if err != nil && len(lines) == 0 {
		return fmt.Sprintf("    (its output cannot be read: %v)", err)
	}
	return strings.Join(lines, "\n")
}
