package runtime

import (
	"errors"
	"time"

	"github.com/containerd/errdefs"
)

// treat ends a container that is unhealthy, where its restart policy says that
// this is a failure, and the policy goes on with it as after any other end. One
// that has used its restarts up is left as it is, and says so; it is looked at
// again after every probe.
func (e *Engine) treat(ct *container) {
	ct.mu.Lock()
	c, busy := ct.c, ct.curing
	ct.mu.Unlock()
	if busy || !c.Config.Restart.Unhealthy || c.State != Running || c.Stopped || c.Removal != nil || c.Health == nil || c.Health.Status != Unhealthy {
		return
	}
	now := time.Now()
	v := nextRestart(c.Config.Restart, exited{Sick: true, Code: 1, Ran: now.Sub(c.StartedAt), Count: c.RestartCount, Row: c.Crashes, At: now, Recent: c.Recent})
	switch {
	case v.Restart:
		ct.mu.Lock()
		ct.curing = true
		ct.mu.Unlock()
		// The prober, which calls, ends before the container does.
		e.spawn(func() { e.cure(ct) })
	case v.GaveUp != c.GaveUp:
		c, err := e.update(ct, fact, func(c *Container) { c.GaveUp = v.GaveUp })
		if err != nil {
			e.Log.Error("record that a container stays unhealthy", "container", c.Name, "error", err)
			return
		}
		e.Log.Warn("an unhealthy container is left as it is", "container", c.Name, "why", v.GaveUp)
		e.emit(c, "health_status: "+Unhealthy, nil)
	}
}

// cure ends an unhealthy container in its own way.
func (e *Engine) cure(ct *container) {
	defer func() {
		ct.mu.Lock()
		ct.curing = false
		ct.mu.Unlock()
	}()
	e.Log.Info("restarting an unhealthy container", "container", ct.snapshot().Name)
	if err := e.halt(e.ctx, ct, StopOptions{}, asSick); err != nil && !errors.Is(err, errdefs.ErrNotModified) && e.ctx.Err() == nil {
		e.Log.Error("end an unhealthy container", "container", ct.snapshot().Name, "error", err)
	}
}
