package scheduler

import (
	"testing"
	"time"
)

// repairable is a project that was up for an hour when a repair was begun, and
// what there is of it: containers of a service are numbered as they come.
func repairable(t *testing.T, yaml string, begun time.Time, services ...string) (Goal, State) {
	t.Helper()
	p, err := load(yaml)
	if err != nil {
		t.Fatal(err)
	}
	g, err := NewGoal(p, Options{})
	if err != nil {
		t.Fatal(err)
	}
	have := State{Now: begun.Add(time.Minute), Networks: []Network{{ID: "n1", Name: "shop_default", Project: "shop", Key: "default"}}}
	numbers := map[string]int{}
	for _, s := range services {
		numbers[s]++
		name := ContainerName(p, p.Services[s], numbers[s])
		have.Containers = append(have.Containers, Container{ID: name, Name: name, Project: "shop", Service: s, Number: numbers[s],
			Status: Running, Created: begun.Add(-time.Hour), StartedAt: begun.Add(-time.Hour)})
	}
	return g, have
}

// A repair that nobody saw the end of has stopped a container: it is started,
// unless the repair has made another one in its place, of the same number.
func TestRepairGoesOn(t *testing.T) {
	begun := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		what       string
		number     int // of a container made since
		created    time.Duration
		status     Status
		restarting []string
		want       string
	}{
		{"stopped", 2, time.Second, Running, []string{"shop-web-1"}, "1. start shop-web-1: was being restarted\n"},
		{"stopped by a call", 2, time.Second, Running, nil, "nothing to do\n"},
		{"replaced", 1, time.Second, Running, []string{"shop-web-1"}, "1. remove shop-web-1: another one has its place\n2. run shop-web-2: lost [after 1]\n"},
		{"a copy from before", 1, -time.Second, Exited, []string{"shop-web-1"}, "1. start shop-web-1: was being restarted\n"},
		{"replaced in vain", 1, time.Second, Dead, []string{"shop-web-1"}, "1. remove other: it is dead\n2. start shop-web-1: was being restarted\n3. run shop-web-2: lost [after 1]\n"},
	} {
		g, have := repairable(t, "services: {web: {image: busybox, scale: 2}}", begun, "web", "web")
		have.Images = map[string]string{"busybox": "sha256:b"}
		first, other := &have.Containers[0], &have.Containers[1]
		first.Status, first.Stopped, first.FinishedAt = Exited, true, begun.Add(time.Millisecond)
		other.ID, other.Name, other.Number, other.Created, other.Status = "other", "other", c.number, begun.Add(c.created), c.status
		plan, problems, err := Repair(g, have, begun, c.restarting...)
		if err != nil || len(problems) > 0 || plan.String() != c.want {
			t.Errorf("%s: %v %v\n%swant\n%s", c.what, err, problems, plan, c.want)
		}
	}
}

// Where a dependency only has to run for a while until its dependent restarts,
// the plan says so: nothing else will.
func TestRepairComesAgain(t *testing.T) {
	begun := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	const yaml = "services: {db: {image: busybox}, web: {image: busybox, depends_on: {db: {condition: service_started, restart: true}}}}"
	for _, c := range []struct {
		what   string
		unripe bool
		health string
		want   string
		again  bool
	}{
		{"ready", false, HealthNone, "1. restart shop-web-1: db was started anew\n", false},
		{"unripe", true, HealthNone, "nothing to do\n", true},
		{"ill", false, Unhealthy, "nothing to do\n", false},
	} {
		g, have := repairable(t, yaml, begun, "db", "web")
		db := &have.Containers[0]
		db.StartedAt, db.Unripe, db.Health = begun, c.unripe, c.health
		plan, problems, err := Repair(g, have, time.Time{})
		if err != nil || len(problems) > 0 || plan.String() != c.want || plan.again != c.again {
			t.Errorf("%s: %v %v, again %v\n%swant\n%s", c.what, err, problems, plan.again, plan, c.want)
		}
	}
}
