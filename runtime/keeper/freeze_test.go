package keeper_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"gantry/runtime/keeper"
)

// TestExecWhilePausing: execs that come while the container is being frozen are
// refused or run, and never keep it from being thawed.
func TestExecWhilePausing(t *testing.T) {
	h := newHouse(t)
	h.start(h.bundle("froze", "sleep", "1000"))
	c := ctx(t)
	var all sync.WaitGroup
	for i := range 3 {
		all.Go(func() {
			for n := range 15 {
				_, err := h.client.Exec(c, keeper.ExecRequest{ID: "froze", ExecID: fmt.Sprintf("e%d-%d", i, n), Process: process("true")})
				if err != nil && !errdefs.IsFailedPrecondition(err) {
					t.Error(err)
				}
			}
		})
	}
	for range 30 {
		h.must(h.client.Pause(c, "froze"))
		h.must(h.client.Resume(c, "froze"))
	}
	all.Wait()
}

// TestPauseBesideStuckExecs: a container in which processes cannot be made, and
// a queue of those who want to, do not keep it from being paused.
func TestPauseBesideStuckExecs(t *testing.T) {
	h := newHouse(t)
	h.start(h.bundle("evil", "sh", "-c", stopper))
	c := ctx(t)
	var stuck sync.WaitGroup
	refused := make(chan error, 12)
	for i := range cap(refused) {
		stuck.Go(func() {
			_, err := h.client.Exec(c, keeper.ExecRequest{ID: "evil", ExecID: fmt.Sprint("x", i), Process: process("true")})
			refused <- err
		})
	}
	time.Sleep(300 * time.Millisecond)
	began := time.Now()
	h.must(h.client.Pause(c, "evil"))
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the pause took %v", took)
	}
	stuck.Wait()
	close(refused)
	for err := range refused {
		if err != nil && !errdefs.IsFailedPrecondition(err) && !errdefs.IsUnavailable(err) {
			t.Error(err)
		}
	}
	h.must(h.client.Resume(c, "evil"))
	h.must(h.client.Delete(c, "evil"))
}
