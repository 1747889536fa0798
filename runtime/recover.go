package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gantry/network"
	"gantry/runtime/keeper"
)

// recover makes the Engine's view, the machine and the records agree again
// after any death of any of them.
//
//	record       keeper     what it means
//	removal      any        a removal was cut short: finish it
//	any          live       it runs: adopt it
//	any          created    a start was cut short before its first instruction: undo
//	live         stopped    it ended while nobody listened: settle the exit
//	not live     stopped    the same, of a start that was not recorded; or it is settled: clear
//	live         –          keeper and process are gone (a reboot): settle as lost
//	restarting   not live   a restart is due
//	exited       –          of one that is removed when it ends: remove it
//	–            any        nobody's: delete
//	unreadable   any        leave it as it is, but for its network, which nobody can tell
//
// What cannot be put right of one container keeps the others from nothing.
func (e *Engine) recover(ctx context.Context) error {
	all, torn, broken, err := e.rec.load(e.Log)
	if err != nil {
		return err
	}
	list, err := e.Keeper.List(ctx)
	if err != nil {
		return fmt.Errorf("ask the keeper what lives: %w", err)
	}
	held := make(map[string]keeper.Status, len(list))
	for _, st := range list {
		held[st.ID] = st
	}
	var then []func() // work that may begin once everything is known
	var live []*container
	for _, c := range all {
		st, known := held[c.ID]
		delete(held, c.ID)
		ct := newContainer(c)
		e.byID[c.ID], e.byName[c.Name] = ct, c.ID
		switch e.found(ctx, ct, st, known) {
		case hasEnded:
			var x keeper.Exit
			if st.Exit != nil {
				x = *st.Exit
			} else {
				x = lost(ct)
			}
			then = append(then, func() {
				ct.op.Lock()
				defer ct.op.Unlock()
				e.settle(e.ctx, ct, x)
			})
		case isDue:
			then = append(then, func() { e.restartLater(ct, wait(ct.c.Config.Restart, ct.c.Crashes)) })
		case isDoomed:
			then = append(then, func() {
				// It is ended as it would be by a stop.
				if err := e.remove(e.ctx, ct, RemoveOptions{Force: true, Stop: &StopOptions{}}); err != nil {
					e.Log.Error("finish a removal", "container", ct.c.Name, "error", err)
				}
			})
		}
		if known && ct.c.State.Live() && ct.c.Pid != 0 && st.Live() {
			live = append(live, ct)
		}
	}
	e.adopt(ctx, live)
	for _, id := range broken {
		delete(held, id)
	}
	if err := e.sweep(ctx, held, torn, broken); err != nil {
		e.Log.Error("sweep what nobody owns", "error", err)
	}
	for _, f := range then {
		e.spawn(f)
	}
	e.complete = len(broken) == 0 // their images may not be pinned
	e.collectImages()
	return nil
}

// What recover finds a container to be.
type finding int

const (
	isSettled finding = iota
	isLive
	hasEnded
	isDue
	isDoomed
)

// found lays a record beside what the keeper says, and brings it up to date.
func (e *Engine) found(ctx context.Context, ct *container, st keeper.Status, known bool) finding {
	c := &ct.c
	if known && st.Live() && st.State != keeper.StateCreated {
		c.State, c.Pid, c.StartedAt = Running, st.Pid, st.StartedAt
		if st.State == keeper.StatePaused {
			c.State = Paused
			if c.Committing {
				e.thaw(ctx, c)
			}
		}
		c.Committing = false
	} else if known && !e.ranUnseen(*c, st) {
		// Nothing of it has run, or what ran is settled.
		if err := e.Keeper.Delete(ctx, c.ID); err != nil {
			e.Log.Error("clear what is left of a container", "container", c.Name, "error", err)
		}
		known = false
	}
	switch {
	case c.Removal != nil || c.State == Removing || c.State == Dead:
		if c.State.Live() && !(known && st.Live()) {
			c.State = Exited
		}
		return isDoomed
	case known && st.Live():
		return isLive
	case known:
		c.State, c.StartedAt = Running, st.StartedAt
		return hasEnded
	case c.State.Live():
		return hasEnded
	case c.State == Restarting:
		return isDue
	case c.State == Exited && c.Config.AutoRemove:
		c.Removal = &Removal{Volumes: true}
		return isDoomed
	}
	c.Networks, c.Ports = nil, nil // of a run that was not cleared
	return isSettled
}

// thaw lets a container go on that a commit had frozen, which died with its
// daemon.
func (e *Engine) thaw(ctx context.Context, c *Container) {
	if err := e.Keeper.Resume(ctx, c.ID); err != nil {
		e.Log.Error("let a container go on that was being committed", "container", c.Name, "error", err)
		return
	}
	c.State = Running
}

// ranUnseen says whether the keeper tells of a run that the record has not
// seen the end of.
func (e *Engine) ranUnseen(c Container, st keeper.Status) bool {
	if st.State != keeper.StateStopped || st.StartedAt.IsZero() || st.Exit == nil {
		return false
	}
	return c.State.Live() || !st.Exit.At.Equal(c.FinishedAt)
}

// adopt takes up live containers where the daemon before left them.
func (e *Engine) adopt(ctx context.Context, live []*container) {
	var sandboxes []network.Sandbox
	for _, ct := range live {
		if ownNetwork(ct.c.Config.Network.Mode) {
			sandboxes = append(sandboxes, e.sandbox(ct.c))
		}
	}
	if err := e.Fabric.Recover(ctx, sandboxes); err != nil {
		e.Log.Error("recover the network", "error", err)
	}
	for _, ct := range live {
		c := ct.snapshot()
		if probes(c.Config.Healthcheck) && c.Health == nil {
			c.Health = &Health{Status: Starting}
		}
		if ownNetwork(c.Config.Network.Mode) {
			if w := e.rewire(ctx, c); w.err != nil {
				e.Log.Error("reconnect a running container", "container", c.Name, "error", w.err)
			} else {
				c.Networks, c.Ports = w.joined, w.ports
			}
		}
		c, _ = e.update(ct, fact, func(now *Container) { *now = c })
		e.attend(ct)
		if c.Health != nil && c.Removal == nil {
			e.watchHealth(ct, c)
		}
	}
}

// rewire is wire for a container whose network the fabric has just recovered:
// only what the record does not know is asked for again.
func (e *Engine) rewire(ctx context.Context, c Container) wiring {
	if !follows(c.Networks, c.Config.Network.Endpoints) {
		return e.wire(ctx, c)
	}
	w := wiring{joined: c.Networks}
	w.ports, w.err = e.publish(ctx, c)
	return w
}

// sweep removes what no record owns.
func (e *Engine) sweep(ctx context.Context, held map[string]keeper.Status, torn, broken []string) error {
	var errs []error
	for id := range held {
		e.Log.Warn("delete a container without a record", "id", id)
		errs = append(errs, e.Keeper.Delete(ctx, id))
	}
	for _, id := range torn {
		errs = append(errs, os.RemoveAll(e.rec.dir(id)))
	}
	for _, place := range []struct {
		dir    string
		remove func(name string) error
	}{
		{"files", func(id string) error { return os.RemoveAll(e.filesDir(id)) }},
		{"shm", e.releaseShm},
		{"rootfs", func(name string) error {
			if !strings.HasPrefix(name, lentPrefix) {
				return nil // the keeper's
			}
			return e.takeBack(filepath.Join(e.Run, "rootfs", name))
		}},
		{"subpaths", func(name string) error { return letGo(filepath.Join(e.Run, "subpaths", name)) }},
	} {
		dirs, err := os.ReadDir(filepath.Join(e.Run, place.dir))
		if !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, d := range dirs {
			if e.byID[d.Name()] == nil && !slices.Contains(broken, d.Name()) {
				errs = append(errs, place.remove(d.Name()))
			}
		}
	}
	if len(broken) > 0 {
		return errors.Join(errs...)
	}
	pinned, err := e.Images.Pinned(ctx)
	errs = append(errs, err)
	for _, id := range pinned {
		if len(e.imageUsers(id.String())) == 0 {
			errs = append(errs, e.Images.Release(ctx, id))
		}
	}
	return errors.Join(errs...)
}
