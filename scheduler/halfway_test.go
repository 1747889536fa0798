package scheduler

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A repair has stopped both containers of one number to start them anew, and
// the daemon has died of it: each is started, although the other one runs.
func TestRepairGoesOnWithCopies(t *testing.T) {
	g := goalOf(t, "services: {web: {image: busybox}}", Options{})
	begun := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	web := Container{Project: "shop", Service: "web", Number: 1, Created: begun.Add(-time.Hour), StartedAt: begun.Add(-time.Hour)}
	runs, stopped := web, web
	runs.ID, runs.Name, runs.Status = "c1", "shop-web-1", Running
	stopped.ID, stopped.Name, stopped.Status = "c2", "c2_shop-web-1", Exited
	stopped.Stopped, stopped.FinishedAt = true, begun.Add(time.Second)
	have := State{Now: begun.Add(time.Minute), Containers: []Container{runs, stopped},
		Networks: []Network{{ID: "n1", Name: "shop_default", Project: "shop", Key: "default"}}}
	for _, c := range []struct {
		restarting []string
		want       string
	}{
		{[]string{"c1", "c2"}, "1. start c2_shop-web-1: was being restarted\n"},
		{[]string{"c1"}, "nothing to do\n"}, // a call has stopped it
	} {
		plan, problems, err := Repair(g, have, begun, c.restarting...)
		if err != nil || len(problems) > 0 || plan.String() != c.want {
			t.Errorf("restarting %v: %s%v %v, want %s", c.restarting, plan, problems, err, c.want)
		}
	}
}

// A rollback that has failed and is asked for again goes back to the same, not
// forward to what it was to undo. And what a call had stopped runs after it, as
// after an up.
func TestRollbackIsGoneOnWith(t *testing.T) {
	for name, c := range map[string]struct {
		first []string // services of the rollback that fails
		to    int      // where the next one goes back to
	}{
		"all again":         {nil, 1},
		"one, and then all": {[]string{"web"}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			inVirtualTime(t, func(h *house) {
				ctx := h.Context()
				for _, command := range []string{"one", "two", "three"} {
					if err := h.Apply(ctx, h.goal(fleet(command, ""), Options{}), nil); err != nil {
						h.Fatal(err)
					}
				}
				h.w.mu.Lock()
				db := h.w.named("shop-db-1")
				h.w.exit(db, 143)
				db.Stopped = true
				h.w.mu.Unlock()
				h.failing("start", "shop-web-2")
				if err := h.Rollback(ctx, "shop", 1, Options{Services: c.first}, nil); err == nil {
					h.Fatal("it did not fail")
				}
				h.w.mu.Lock()
				h.w.fault = nil
				h.w.mu.Unlock()
				if err := h.Rollback(ctx, "shop", 0, Options{Wait: true}, nil); err != nil {
					h.Fatal(err)
				}
				want := []string{"1 apply done", "2 apply done", "3 apply done", "4 rollback failed to 1", fmt.Sprintf("5 rollback done to %d", c.to)}
				if d := cmp.Diff(want, h.story()); d != "" {
					h.Errorf("history (-want +got):\n%s", d)
				}
				h.w.mu.Lock()
				defer h.w.mu.Unlock()
				if db.Status != Running {
					h.Errorf("db is %s", db.Status)
				}
			})
		})
	}
}
