package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"gantry/network"
	"gantry/runtime/keeper"
)

// recover makes the Engine's view, the machine and the records agree again
// after any death of any of them.
//
//	record      keeper      what it means
//	any         live        it runs: adopt it
//	any         created     a start was cut short before its first instruction: undo
//	live        stopped     it ended while nobody listened: settle the exit
//	live        –           keeper and process are gone (a reboot): settle as lost
//	removing    any         finish the removal
//	–           any         nobody's: delete
func (e *Engine) recover(ctx context.Context) error {
	all, torn, err := e.rec.load()
	if err != nil {
		return err
	}
	kept, err := e.Keeper.List(ctx)
	if err != nil {
		return fmt.Errorf("ask the keeper what lives: %w", err)
	}
	held := make(map[string]keeper.Status, len(kept))
	for _, st := range kept {
		held[st.ID] = st
	}

	var ended, removing, due []*container
	var live []network.Sandbox
	for _, c := range all {
		st, known := held[c.ID]
		delete(held, c.ID)
		ct := newContainer(c)
		e.byID[c.ID], e.byName[c.Name] = ct, c.ID
		switch {
		case c.State == Removing || c.State == Dead:
			removing = append(removing, ct)
			continue
		case known && (st.State == keeper.StateRunning || st.State == keeper.StatePaused):
			ct.c.State, ct.c.Pid, ct.c.StartedAt = Running, st.Pid, st.StartedAt
			if st.State == keeper.StatePaused {
				ct.c.State = Paused
			}
			if ct.c.Health == nil && probes(c.Config.Healthcheck) {
				ct.c.Health = &Health{Status: Starting}
			}
			if ownNetwork(c.Config.Network.Mode) {
				live = append(live, e.sandbox(ct.c))
			}
		case known && st.State == keeper.StateCreated:
			if err := e.Keeper.Delete(ctx, c.ID); err != nil {
				return fmt.Errorf("undo the start of %s: %w", c.Name, err)
			}
			if c.State == Restarting || c.State.Live() {
				ct.c.State = Restarting
				due = append(due, ct)
			}
		case known || c.State.Live():
			// A start whose record was not written yet has run all the same.
			ct.c.State = Running
			if known && !st.StartedAt.IsZero() {
				ct.c.StartedAt = st.StartedAt
			}
			ended = append(ended, ct)
		case c.State == Restarting:
			due = append(due, ct)
		}
	}
	if err := e.Fabric.Recover(ctx, live); err != nil {
		return fmt.Errorf("recover the network: %w", err)
	}
	e.adopt(ctx)
	for _, ct := range ended {
		x := keeper.Exit{Code: 255, At: time.Now()}
		if st, ok := find(kept, ct.c.ID); ok && st.Exit != nil {
			x = *st.Exit
		}
		e.spawn(func() {
			ct.op.Lock()
			defer ct.op.Unlock()
			e.settle(e.ctx, ct, x)
		})
	}
	for _, ct := range due {
		e.restartLater(ct, backoff(ct.c.RestartCount))
	}
	for _, ct := range removing {
		e.spawn(func() {
			if err := e.Remove(e.ctx, ct.c.ID, RemoveOptions{}); err != nil {
				e.Log.Error("finish a removal", "container", ct.c.Name, "error", err)
			}
		})
	}
	return e.sweep(ctx, held, torn)
}

func find(all []keeper.Status, id string) (keeper.Status, bool) {
	for _, st := range all {
		if st.ID == id {
			return st, true
		}
	}
	return keeper.Status{}, false
}

// adopt takes up the live containers where the daemon before left them.
func (e *Engine) adopt(ctx context.Context) {
	for _, ct := range e.byID {
		c := ct.c
		if !c.State.Live() || c.Pid == 0 {
			continue
		}
		if ownNetwork(c.Config.Network.Mode) {
			w := e.wire(ctx, c)
			if w.err != nil {
				e.Log.Error("reconnect a running container", "container", c.Name, "error", w.err)
			} else {
				ct.c.Networks, ct.c.Ports = w.joined, w.ports
			}
			e.setReady(ct.c, true, c.Health == nil || c.Health.Status == Healthy)
		}
		if c.Health != nil {
			e.watchHealth(ct, ct.c)
		}
		if err := e.rec.write(ct.c, false); err != nil {
			e.Log.Error("record an adopted container", "container", c.Name, "error", err)
		}
	}
}

// sweep removes what no record owns.
func (e *Engine) sweep(ctx context.Context, held map[string]keeper.Status, torn []string) error {
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
		remove func(id string) error
	}{
		{"files", func(id string) error { return os.RemoveAll(e.filesDir(id)) }},
		{"shm", e.releaseShm},
	} {
		dirs, err := os.ReadDir(filepath.Join(e.Run, place.dir))
		if !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, d := range dirs {
			if e.byID[d.Name()] == nil {
				errs = append(errs, place.remove(d.Name()))
			}
		}
	}
	pinned, err := e.Images.Pinned(ctx)
	errs = append(errs, err)
	for _, id := range pinned {
		if e.imageUsers(id.String()) == nil {
			errs = append(errs, e.Images.Release(ctx, id))
		}
	}
	return errors.Join(errs...)
}
