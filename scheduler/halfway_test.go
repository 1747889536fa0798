package scheduler

import (
	"testing"
	"time"
)

// A repair has stopped both containers of one number to start them anew, and
// the daemon has died of it: each is started, although the other one runs.
func TestRepairGoesOnWithCopies(t *testing.T) {
	p, err := load("services: {web: {image: busybox}}")
	if err != nil {
		t.Fatal(err)
	}
	g, err := NewGoal(p, Options{})
	if err != nil {
		t.Fatal(err)
	}
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
