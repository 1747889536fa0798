package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gantry/compose"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

// up is the goal and the first plan for a project in YAML on a fresh machine.
func up(t *testing.T, yaml string, o Options) (*sim, Goal, Plan) {
	t.Helper()
	asked := goalOf(t, yaml, o)
	w := newSim()
	w.image("busybox", "sha256:1")
	have := w.look(asked)
	g := Merge(nil, asked, have)
	plan, err := Reconcile(g, have)
	if err != nil {
		t.Fatal(err)
	}
	return w, g, plan
}

// goalOf is the goal of a file.
func goalOf(t *testing.T, yaml string, o Options) Goal {
	t.Helper()
	p, err := load(yaml)
	if err != nil {
		t.Fatal(err)
	}
	g, err := NewGoal(p, o)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// slow lets every action but these take a second of virtual time.
func slow(but ...string) func(context.Context, string, string) error {
	return func(ctx context.Context, part, object string) error {
		for _, b := range but {
			if part == b {
				return nil
			}
		}
		select {
		case <-time.After(time.Second):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func TestExecuteIsWide(t *testing.T) {
	for _, c := range []struct {
		parallel, most int
		took           time.Duration
	}{
		{0, 200, time.Second},
		{50, 50, 4 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			w, _, plan := up(t, "services: {web: {image: busybox, scale: 200}}", Options{Parallel: c.parallel})
			w.pace = slow("create network")
			begun := time.Now()
			if err := Execute(t.Context(), w, plan, nil); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begun); w.most != c.most || took != c.took {
				t.Errorf("parallel %d: %d at the same time, %v; want %d, %v", c.parallel, w.most, took, c.most, c.took)
			}
		})
	}
}

// Steps that wait must not take the place of those that act.
func TestExecuteAwaitsTakeNoSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		yaml := "services:\n"
		for i := range 5 {
			yaml += fmt.Sprintf("  db%d: {image: busybox, healthcheck: {test: [CMD, 'true']}}\n  web%d: {image: busybox, depends_on: {db%d: {condition: service_healthy}}}\n", i, i, i)
		}
		w, _, plan := up(t, yaml, Options{Parallel: 1})
		for i := range 5 {
			w.behave[fmt.Sprintf("db%d", i)] = "check"
		}
		w.pace = func(ctx context.Context, part, _ string) error {
			if part == "await" {
				time.Sleep(time.Minute)
			}
			return nil
		}
		begun := time.Now()
		if err := Execute(t.Context(), w, plan, nil); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took != time.Minute {
			t.Errorf("five awaits of a minute took %v", took)
		}
	})
}

const fork = `
services:
  a: {image: busybox}
  a1: {image: busybox, depends_on: [a]}
  a2: {image: busybox, depends_on: [a1]}
  b: {image: busybox}
  b1: {image: busybox, depends_on: [b]}
  c: {image: busybox}
`

func TestExecuteFailures(t *testing.T) {
	w, _, plan := up(t, fork, Options{})
	w.fault = func(part, object string) error {
		if part == "create" && (object == "shop-a-1" || object == "shop-c-1") {
			return fmt.Errorf("no room for %s: %w", object, errdefs.ErrUnavailable)
		}
		return nil
	}
	ended := map[string]Progress{}
	err := Execute(t.Context(), w, plan, func(e Event) {
		if e.Progress == StepStarted {
			return
		}
		if was := ended[e.What.Name]; was != "" {
			t.Errorf("%s ended twice: %s, %s", e.What.Name, was, e.Progress)
		}
		if (e.Err != nil) != (e.Progress == StepFailed) {
			t.Errorf("%+v", e)
		}
		ended[e.What.Name] = e.Progress
	})
	want := map[string]Progress{"shop_default": StepDone, "shop-a-1": StepFailed, "shop-a1-1": StepSkipped, "shop-a2-1": StepSkipped,
		"shop-b-1": StepDone, "shop-b1-1": StepDone, "shop-c-1": StepFailed}
	if d := cmp.Diff(want, ended); d != "" {
		t.Errorf("how steps ended (-want +got):\n%s", d)
	}
	for _, text := range []string{"2 steps failed:", "run shop-a-1: no room for shop-a-1", "run shop-c-1: no room", "2 more that needed them"} {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not say %q", err, text)
		}
	}
	if !errdefs.IsUnavailable(err) {
		t.Errorf("the class of %v is lost", err)
	}

	// One failure is said in one line.
	w, _, plan = up(t, "services: {a: {image: busybox}}", Options{})
	w.fault = func(part, _ string) error {
		if part == "create" {
			return errDead
		}
		return nil
	}
	if err := Execute(t.Context(), w, plan, nil); err == nil || err.Error() != "run shop-a-1: "+errDead.Error() {
		t.Errorf("got %v", err)
	}
}

func TestExecuteStopsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, plan := up(t, fork, Options{})
		w.pace = slow()
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(1500*time.Millisecond, func() { cancel(errReplaced) })
		begun := time.Now()
		ended := map[Progress]int{}
		err := Execute(ctx, w, plan, func(e Event) { ended[e.Progress]++ })
		if took := time.Since(begun); took != 1500*time.Millisecond {
			t.Errorf("it went on for %v", took)
		}
		if !errors.Is(err, errReplaced) || !strings.Contains(err.Error(), "after 1 of 7 steps") {
			t.Errorf("got %v", err)
		}
		if ended[StepDone] != 1 || ended[StepSkipped] == 0 || ended[StepDone]+ended[StepFailed]+ended[StepSkipped] != 7 {
			t.Errorf("not every step has ended once: %v", ended)
		}
	})
}

func TestPlanAndEventsTravel(t *testing.T) {
	_, _, plan := up(t, strings.Replace(fork, "b1: {", "b1: {environment: {PASSWORD: hunter2}, ", 1), Options{Wait: true})
	data, err := json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(data), "hunter2") {
		t.Errorf("the plan tells a secret: %s", data)
	}
	var read Plan
	if err := json.Unmarshal(data, &read); err != nil {
		t.Fatal(err)
	}
	if read.String() != plan.String() || read.Steps[1].Do.What() != plan.Steps[1].Do.What() {
		t.Errorf("read\n%s\nwant\n%s", read, plan)
	}
	if err := Execute(t.Context(), newSim(), read, nil); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a plan that was read was executed: %v", err)
	}

	for _, e := range []Event{
		{Plan: &read},
		{Step: 3, What: What{Verb: "remove", Kind: "container", Name: "shop-web-1", Service: "web", Stops: true}, Progress: StepFailed, Took: time.Second, Err: errors.New("no")},
		{Step: 4, What: What{Verb: "await", Kind: "service", Name: "db", Service: "db"}, Progress: StepSkipped, Optional: true},
	} {
		data, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		var got Event
		if err := json.Unmarshal(data, &got); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprintf("%v", got.Err) != fmt.Sprintf("%v", e.Err) {
			t.Errorf("error %v, want %v", got.Err, e.Err)
		}
		if e.Plan != nil {
			if got.Plan == nil || got.Plan.String() != e.Plan.String() {
				t.Errorf("got %+v of %s", got, data)
			}
			continue
		}
		got.Err, e.Err = nil, nil
		if got != e {
			t.Errorf("got %+v, want %+v", got, e)
		}
	}
}

func TestGoalTravels(t *testing.T) {
	_, g, _ := up(t, "services: {web: {image: busybox, secrets: [s], extra_hosts: ['a:1.2.3.4'], x-mine: {y: 1}}}\nsecrets: {s: {environment: TOKEN}}\n",
		Options{Services: []string{"web"}, Recreate: Always, Timeout: new(time.Duration)})
	data, err := json.Marshal(g)
	if err != nil {
		t.Fatal(err)
	}
	var read Goal
	if err := json.Unmarshal(data, &read); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(read)
	if err != nil || string(again) != string(data) {
		t.Errorf("read %s\nwant %s, %v", again, data, err)
	}
	if !read.Services["web"].Asked.Equal(g.Services["web"].Asked) || read.Services["web"].Generation != 1 || read.Options.Recreate != Always {
		t.Errorf("read %+v", read)
	}
	s := read.Project.Services["web"]
	s.Name = "web"
	want := g.Project.Services["web"]
	want.Name = "web"
	if compose.HashIn(read.Project, s) != compose.HashIn(g.Project, want) {
		t.Error("a goal that has travelled would replace containers")
	}
	down, err := json.Marshal(DownGoal("shop", Options{Volumes: true}))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(down, &read); err != nil || !read.IsDown() || read.Project.Name != "shop" || !read.Options.Volumes {
		t.Errorf("a down travels as %+v, %v", read, err)
	}
	if err := json.Unmarshal([]byte(`{"version": 99}`), &read); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a goal of version 99: %v", err)
	}
}
