package keeper_test

import (
	"fmt"
	"sync"
	"testing"

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
