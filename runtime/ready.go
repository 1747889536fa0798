package runtime

import (
	"context"
	"errors"
	"time"

	"gantry/runtime/keeper"
)

// Ready says whether a container is fit to serve: it runs, and it is healthy
// or, without a health check, has run for as long as its configuration asks.
// Names and published ports follow this, and so do updates and what people are
// shown.
func (c Container) Ready(now time.Time) bool {
	if c.Health != nil {
		return c.State.Live() && c.Health.Status == Healthy
	}
	return c.State.Live() && c.readyIn(now) <= 0
}

// readyMost bounds how long a container that has crashed must run before it
// counts as ready, unless its configuration asks for more.
const readyMost = 10 * time.Second

// readyIn is how long a running container without a health check must go on
// running to be ready. One that has crashed must last twice as long for every
// crash in a row: what takes a second to fail must not be called upon once a
// second.
func (c Container) readyIn(now time.Time) time.Duration {
	d, most := c.Config.ReadyAfter, max(readyMost, c.Config.ReadyAfter)
	for n := c.Crashes; n > 0 && d < most; n-- {
		d *= 2
	}
	return min(d, most) - now.Sub(onOurClock(c.StartedAt, now))
}

// attendance is who follows the process of a container with names and published
// ports.
type attendance struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// attend sends traffic to a container that runs as it stands now, again when it
// becomes ready by running on, and away from it in the moment in which its
// process ends: what the keeper has to do before it tells of that takes time.
func (e *Engine) attend(ct *container) {
	c, now := ct.snapshot(), time.Now()
	e.setReady(c, true, c.Ready(now))
	if !ownNetwork(c.Config.Network.Mode) {
		return
	}
	var wait time.Duration
	if c.Health == nil {
		wait = c.readyIn(now)
	}
	ctx, cancel := context.WithCancel(e.ctx)
	a := attendance{cancel, make(chan struct{})}
	ct.mu.Lock()
	ct.attended = a
	ct.mu.Unlock()
	follows := e.spawn(func() {
		defer close(a.done)
		e.follow(ctx, ct, c, wait)
	})
	if !follows { // the daemon is closing
		close(a.done)
	}
}

// follow is attend for one process, which is ready after some time.
func (e *Engine) follow(ctx context.Context, ct *container, c Container, wait time.Duration) {
	pidfd, err := keeper.OpenPidfd(c.Pid)
	if err != nil {
		return // it has ended, and the keeper says so
	}
	defer pidfd.Close()
	if wait > 0 {
		ripe, cancel := context.WithTimeout(ctx, wait)
		err := keeper.WaitPidfd(ripe, pidfd)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			e.setReady(c, true, true)
			ct.mu.Lock()
			ct.wake()
			ct.mu.Unlock()
			if err := pidfd.SetReadDeadline(time.Time{}); err != nil {
				e.Log.Error("wait for the end of a container", "container", c.Name, "error", err)
				return
			}
		}
	}
	if err := keeper.WaitPidfd(ctx, pidfd); err == nil {
		e.setReady(c, false, false)
	}
}

// endAttendance ends what follows the process that has ended, and waits for it.
func (ct *container) endAttendance() {
	ct.mu.Lock()
	a := ct.attended
	ct.attended = attendance{}
	ct.mu.Unlock()
	if a.cancel != nil {
		a.cancel()
		<-a.done
	}
}
