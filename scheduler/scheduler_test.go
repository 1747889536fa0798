package scheduler

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gantry/compose"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

// house is a scheduler on a simulated machine, in virtual time.
type house struct {
	*testing.T
	*Scheduler
	w      *sim
	engine Engine // w, unless a test says otherwise
	dir    string
	log    bytes.Buffer
}

func newHouse(t *testing.T) *house {
	h := &house{T: t, w: newSim(), dir: t.TempDir()}
	h.engine = h.w
	h.w.image("busybox", "sha256:1")
	h.open()
	return h
}

func (h *house) open() {
	h.Helper()
	s, err := Open(Config{Root: h.dir, Engine: h.engine, Log: slog.New(slog.NewTextHandler(&h.log, nil))})
	if err != nil {
		h.Fatal(err)
	}
	h.Scheduler = s
	h.Cleanup(func() { s.Close() })
}

func (h *house) goal(yaml string, o Options) Goal {
	h.Helper()
	return goalOf(h.T, yaml, o)
}

func (h *house) status() ProjectStatus {
	h.Helper()
	st, err := h.Status(context.Background(), "shop")
	if err != nil {
		h.Fatal(err)
	}
	return st
}

// failing makes a part of actions on an object fail, and counts how often.
func (h *house) failing(part, object string) (tries func() int) {
	count := 0
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	h.w.fault = func(p, o string) error {
		if p == part && strings.HasPrefix(o, object) {
			count++
			return fmt.Errorf("%s of %s: %w", p, o, errdefs.ErrUnavailable)
		}
		return nil
	}
	return func() int {
		h.w.mu.Lock()
		defer h.w.mu.Unlock()
		return count
	}
}

const two = "services:\n  db: {image: busybox}\n  web: {image: busybox, depends_on: [db], scale: 2}\n"

// inVirtualTime runs f with a house of its own; every goroutine must end.
func inVirtualTime(t *testing.T, f func(h *house)) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		f(h)
		h.Close()
	})
}

func TestLifeOfAProject(t *testing.T) {
	inVirtualTime(t, func(h *house) {
		ctx := h.Context()
		var plans []string
		hear := func(e Event) {
			if e.Plan != nil {
				plans = append(plans, e.Plan.String())
			}
		}
		dry, err := h.Plan(ctx, h.goal(two, Options{}))
		if err != nil || len(h.w.containers) != 0 {
			h.Fatalf("a dry run made %d containers, %v", len(h.w.containers), err)
		}
		if err := h.Apply(ctx, h.goal(two, Options{}), hear); err != nil {
			h.Fatal(err)
		}
		if len(plans) != 1 || plans[0] != dry.String() {
			h.Errorf("plans %q, the dry run was %q", plans, dry)
		}
		info, err := os.Stat(filepath.Join(h.dir, "projects", "shop.json"))
		if err != nil || info.Mode().Perm() != 0o600 {
			h.Errorf("the goal's file: %v, %v", info, err)
		}
		want := ProjectStatus{Name: "shop", Phase: Settled, Dir: "/src", Files: []string{"-"}, Services: []ServiceStatus{
			{Name: "db", Wanted: 1, Present: 1, Ready: 1}, {Name: "web", Wanted: 2, Present: 2, Ready: 2}}}
		got := h.status()
		got.Asked = time.Time{}
		if d := cmp.Diff(want, got); d != "" {
			h.Errorf("status (-want +got):\n%s", d)
		}

		if err := h.Scale(ctx, "shop", map[string]int{"web": 4}, Options{}, nil); err != nil {
			h.Error(err)
		}
		if err := h.Stop(ctx, "shop", Options{Services: []string{"web"}}, nil); err != nil {
			h.Error(err)
		}
		st := h.status()
		if web := st.Services[1]; web.Exited != 4 || web.Wanted != 0 {
			h.Errorf("stopped: %+v", web)
		}
		if err := h.Start(ctx, "shop", Options{}, nil); err != nil {
			h.Error(err)
		}
		if web := h.status().Services[1]; web.Ready != 4 || web.Wanted != 4 {
			h.Errorf("started: %+v", web)
		}
		all, err := h.Projects(ctx)
		if err != nil || len(all) != 1 || all[0].Name != "shop" {
			h.Errorf("projects %+v, %v", all, err)
		}
		if err := h.Down(ctx, "shop", Options{}, nil); err != nil {
			h.Error(err)
		}
		if _, err := h.Status(ctx, "shop"); !errdefs.IsNotFound(err) {
			h.Errorf("after down: %v", err)
		}
		if left, _ := os.ReadDir(filepath.Join(h.dir, "projects")); len(left) != 0 || len(h.projects) != 0 {
			h.Errorf("after down there are files %v, %d projects", left, len(h.projects))
		}
		if err := h.Down(ctx, "shop", Options{}, nil); err != nil {
			h.Errorf("a second down: %v", err)
		}
		for _, err := range []error{h.Scale(ctx, "shop", map[string]int{"web": 1}, Options{}, nil), h.Stop(ctx, "shop", Options{}, nil)} {
			if !errdefs.IsNotFound(err) {
				h.Errorf("a project that is not up: %v", err)
			}
		}
	})
}

// An up that finds nothing to do writes nothing.
func TestNoOpWritesNothing(t *testing.T) {
	inVirtualTime(t, func(h *house) {
		g := h.goal(two, Options{})
		if err := h.Apply(h.Context(), g, nil); err != nil {
			h.Fatal(err)
		}
		file := filepath.Join(h.dir, "projects", "shop.json")
		if err := os.Truncate(file, 0); err != nil {
			h.Fatal(err)
		}
		if err := h.Apply(h.Context(), h.goal(two, Options{}), nil); err != nil {
			h.Fatal(err)
		}
		if data, _ := os.ReadFile(file); len(data) != 0 {
			h.Errorf("a no-op up wrote the goal")
		}
		if err := h.Apply(h.Context(), h.goal(two+"x-new: 1\n", Options{}), nil); err != nil {
			h.Fatal(err)
		}
		if data, _ := os.ReadFile(file); len(data) == 0 {
			h.Errorf("a goal that differs was not written")
		}
	})
}

// A goal that is refused changes nothing, the stored goal included.
func TestRefusedGoal(t *testing.T) {
	inVirtualTime(t, func(h *house) {
		if err := h.Apply(h.Context(), h.goal(two, Options{}), nil); err != nil {
			h.Fatal(err)
		}
		bad := h.goal(two+"networks: {default: {external: true}}\n", Options{})
		if err := h.Apply(h.Context(), bad, nil); !errdefs.IsNotFound(err) {
			h.Errorf("got %v", err)
		}
		if g, err := h.Goal("shop"); err != nil || g.Project.Networks["default"].External || h.status().Phase != Settled {
			h.Errorf("goal %+v, %v", g.Project.Networks, err)
		}
		// What no container can be made of is refused before others are touched.
		h.w.impossible = map[string]error{"web": fmt.Errorf("no such capability: %w", errdefs.ErrInvalidArgument)}
		done, force := len(h.w.log), h.goal(two, Options{Recreate: Always})
		if err := h.Apply(h.Context(), force, nil); !errdefs.IsInvalidArgument(err) {
			h.Errorf("got %v", err)
		}
		if _, err := h.Plan(h.Context(), force); !errdefs.IsInvalidArgument(err) {
			h.Errorf("a plan of it: %v", err)
		}
		if len(h.w.log) != done || h.status().Phase != Settled {
			h.Errorf("done: %v", h.w.log[done:])
		}
		for _, name := range []string{"", "../etc", "Shop", "a/b", strings.Repeat("a", 201)} {
			if err := h.Down(h.Context(), name, Options{}, nil); !errdefs.IsInvalidArgument(err) {
				h.Errorf("project %q: %v", name, err)
			}
		}
	})
}

// What a caller was told of is not tried again behind his back, whatever
// happens and also by the next daemon; the next call does what is left.
func TestFailureIsTheCallers(t *testing.T) {
	inVirtualTime(t, func(h *house) {
		tries := h.failing("start", "shop-web-2")
		err := h.Apply(h.Context(), h.goal(two, Options{}), nil)
		if !errdefs.IsUnavailable(err) {
			h.Fatalf("got %v", err)
		}
		st := h.status()
		if st.Phase != Failed || st.Error != err.Error() {
			h.Errorf("status %+v", st)
		}
		h.w.happened("shop")
		time.Sleep(time.Hour)
		synctest.Wait()
		h.Close()
		h.open()
		time.Sleep(time.Hour)
		synctest.Wait()
		if tries() != 1 || h.status().Phase != Failed {
			h.Errorf("it was tried %d times; %+v", tries(), h.status())
		}
		h.w.fault = nil
		if err := h.Apply(h.Context(), h.goal(two, Options{}), nil); err != nil || h.status().Services[1].Ready != 2 {
			h.Errorf("%v, %+v", err, h.status())
		}
	})
}

// A caller who goes away in the middle leaves what was done, no more.
func TestInterrupted(t *testing.T) {
	inVirtualTime(t, func(h *house) {
		h.w.pace = slow()
		ctx, cancel := context.WithTimeout(h.Context(), 2500*time.Millisecond)
		defer cancel()
		begun := time.Now()
		err := h.Apply(ctx, h.goal(two, Options{}), nil)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != 2500*time.Millisecond {
			h.Errorf("after %v: %v", time.Since(begun), err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if st := h.status(); st.Phase != Failed || len(h.w.containers) != 1 {
			h.Errorf("%+v, %d containers", st, len(h.w.containers))
		}
	})
}

// A walk the daemon broke off goes on with the next one. When that fails it is
// tried ever more rarely, then given up.
func TestBrokenOffWalkGoesOn(t *testing.T) {
	inVirtualTime(t, func(h *house) {
		h.w.pace = slow()
		done := make(chan error)
		go func() { done <- h.Apply(h.Context(), h.goal(two, Options{}), nil) }()
		time.Sleep(2500 * time.Millisecond)
		synctest.Wait()
		h.Close()
		if err := <-done; !errdefs.IsUnavailable(err) {
			h.Errorf("the caller was told %v", err)
		}
		h.w.pace = nil
		tries := h.failing("start", "shop-web")
		h.open()
		begun := time.Now()
		synctest.Wait()
		if tries() == 0 {
			h.Error("the next daemon did not go on at once")
		}
		st := h.status()
		if st.Phase != Walking || st.Error == "" || !st.Next.Equal(begun.Add(time.Second)) {
			h.Errorf("status %+v", st)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := tries(); n != 2*6 { // at 0, 1, 3, 7, 15, 31 s, two replicas each
			h.Errorf("%d failures in a minute", n)
		}
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if n := tries(); n != 2*mostTries || h.status().Phase != Failed {
			h.Errorf("%d failures in a day, %+v", n, h.status())
		}
	})
}

// While a walk waits to be tried again, a change from outside brings the try
// forward; what the failed try did itself does not.
func TestEventsBringATryForward(t *testing.T) {
	inVirtualTime(t, func(h *house) {
		h.w.pace = slow()
		go h.Apply(h.Context(), h.goal(two, Options{}), nil)
		time.Sleep(500 * time.Millisecond)
		synctest.Wait()
		h.Close()
		h.w.pace = nil
		tries := h.failing("create", "shop-web")
		h.open()
		time.Sleep(40 * time.Second) // the next try comes at 63 s
		synctest.Wait()
		before := tries()
		h.w.happened("shop")
		time.Sleep(time.Second)
		synctest.Wait()
		if tries() != before {
			h.Error("an event without a change was taken for one")
		}
		h.w.mu.Lock()
		h.w.remove(h.w.named("shop-db-1"))
		h.w.mu.Unlock()
		time.Sleep(time.Second)
		synctest.Wait()
		h.w.mu.Lock()
		back := h.w.named("shop-db-1") != nil
		h.w.mu.Unlock()
		if tries() != before+2 || !back {
			h.Errorf("a change did not bring the try forward: %d tries, %d before", tries(), before)
		}
	})
}

// A down does not wait for an up that hangs; another up does.
func TestDownBreaksOffUp(t *testing.T) {
	inVirtualTime(t, func(h *house) {
		h.w.pace = slow()
		errs := make(chan error, 2)
		go func() { errs <- h.Apply(h.Context(), h.goal(two, Options{}), nil) }()
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		go func() { errs <- h.Apply(h.Context(), h.goal(two, Options{}), nil) }()
		time.Sleep(time.Second)
		synctest.Wait()
		if err := h.Down(h.Context(), "shop", Options{}, nil); err != nil {
			h.Error(err)
		}
		if first, second := <-errs, <-errs; !errdefs.IsAborted(first) {
			h.Errorf("the first up ended with %v", first)
		} else if second != nil && !errdefs.IsAborted(second) {
			h.Errorf("the second up ended with %v", second)
		}
	})
}

// An up that comes while a down is under way waits for it and then does its
// work; only downs that wait break off.
func TestUpAfterDown(t *testing.T) {
	for range 50 { // who goes first after the down is the Go scheduler's choice
		inVirtualTime(t, func(h *house) {
			if err := h.Apply(h.Context(), h.goal(two, Options{}), nil); err != nil {
				h.Fatal(err)
			}
			h.w.pace = slow()
			down := make(chan error, 1)
			go func() { down <- h.Down(h.Context(), "shop", Options{}, nil) }()
			time.Sleep(500 * time.Millisecond)
			synctest.Wait()
			if err := h.Apply(h.Context(), h.goal(two, Options{}), nil); err != nil {
				h.Errorf("an up during a down: %v", err)
			}
			if err := <-down; err != nil {
				h.Errorf("the down: %v", err)
			}
			if st := h.status(); st.Down || len(st.Services) != 2 {
				h.Errorf("after both: %+v", st)
			}
		})
	}
}

// Calls about one project take turns; different projects do not wait for each
// other.
func TestTurns(t *testing.T) {
	inVirtualTime(t, func(h *house) {
		h.w.pace = slow("create network")
		one := "services: {web: {image: busybox, deploy: {update_config: {order: stop-first}}}}"
		begun := time.Now()
		took := make(chan time.Duration, 8)
		for i := range 4 {
			go func() {
				g := h.goal(one, Options{Recreate: Always})
				if err := h.Apply(h.Context(), g, nil); err != nil {
					h.Errorf("shop, %d: %v", i, err)
				}
				took <- time.Since(begun)
			}()
			go func() {
				p, err := load(one, func(s *compose.Source) { s.ProjectName = fmt.Sprintf("other%d", i) })
				if err != nil {
					h.Error(err)
					return
				}
				g, _ := NewGoal(p, Options{})
				if err := h.Apply(h.Context(), g, nil); err != nil {
					h.Errorf("%s: %v", p.Name, err)
				}
				took <- time.Since(begun)
			}()
		}
		var all []time.Duration
		for range 8 {
			all = append(all, <-took)
		}
		slices.Sort(all)
		s := time.Second
		if d := cmp.Diff([]time.Duration{s, s, s, s, s, 2 * s, 3 * s, 4 * s}, all); d != "" {
			h.Errorf("calls ended after (-want +got):\n%s", d)
		}
	})
}

// A plan that leaves itself behind is not executed for ever.
func TestDoesNotSettle(t *testing.T) {
	inVirtualTime(t, func(h *house) {
		h.Close()
		h.engine = forgetful{h.w}
		h.open()
		err := h.Apply(h.Context(), h.goal(two, Options{}), nil)
		if err == nil || !strings.Contains(err.Error(), "does not settle") {
			h.Errorf("got %v", err)
		}
	})
}

// forgetful makes containers that nobody sees.
type forgetful struct{ *sim }

func (forgetful) Run(context.Context, RunSpec) error { return nil }

func TestStore(t *testing.T) {
	dir := t.TempDir()
	s, err := openStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, g, _ := up(t, two, Options{})
	p := *g.Project
	p.Name = "good"
	g.Project = &p
	want := record{Goal: g, Was: g.Project, Phase: Failed, Error: "no room"}
	if err := s.save("good", want); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("torn.json", `{"version":1,"phase":"walking","goal":{"ver`)
	write("newer.json", `{"version":2}`)
	write("empty.json", "")
	write("hollow.json", `{"version":1,"phase":"settled"}`)
	if err := s.save("stray", want); err != nil { // another project's
		t.Fatal(err)
	}
	write("other.json.tmp", `{"vers`)
	records, newer, errs := s.load()
	if len(records) != 1 || records["good"].Phase != Failed || records["good"].Error != "no room" || len(records["good"].Was.Services) != 2 {
		t.Errorf("records %+v", records)
	}
	if newer["newer"] == nil || errs == nil || !strings.Contains(errs.Error(), "torn.json.broken") {
		t.Errorf("newer %v, errors %v", newer, errs)
	}
	entries, _ := os.ReadDir(s.dir)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if d := cmp.Diff([]string{"empty.json.broken", "good.json", "hollow.json.broken", "newer.json", "stray.json.broken", "torn.json.broken"}, names); d != "" {
		t.Errorf("files (-want +got):\n%s", d)
	}

	// What a newer gantry wrote is not overwritten.
	h := &Scheduler{newer: newer, projects: map[string]*project{}}
	if _, err := h.enter("newer"); err == nil || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("got %v", err)
	}
	if err := s.remove("good"); err != nil {
		t.Error(err)
	}
	if err := s.remove("good"); err != nil {
		t.Errorf("forgetting twice: %v", err)
	}
}
