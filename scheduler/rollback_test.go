package scheduler

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

// fleet is a service of three whose command tells revisions apart; more goes
// into its update_config.
func fleet(command, more string) string {
	return fmt.Sprintf(`
services:
  web: {image: busybox, command: %s, scale: 3, deploy: {update_config: {monitor: 5s, %s}}}
  db: {image: busybox}
`, command, more)
}

// run shows which containers of web run, by name and by their hash in the
// order of hashes.
func (h *house) run(hashes ...string) (all []string) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(h.w.containers)) {
		if c := h.w.containers[id]; c.Service == "web" && c.Project == "shop" && c.Status == Running {
			all = append(all, fmt.Sprintf("%s %d", asideID.ReplaceAllString(c.Name, "ID_"), slices.Index(hashes, c.Hash)))
		}
	}
	slices.Sort(all)
	return all
}

func (h *house) hash(service string) string {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	for _, c := range h.w.containers {
		if c.Service == service && c.Project == "shop" {
			return c.Hash
		}
	}
	return ""
}

// story is a project's history in one line each, the oldest first.
func (h *house) story() (all []string) {
	h.Helper()
	revisions, err := h.History("shop")
	if err != nil {
		h.Fatal(err)
	}
	for _, r := range slices.Backward(revisions) {
		text := fmt.Sprintf("%d %s %s", r.Number, r.Kind, r.Outcome)
		if r.To != 0 {
			text += fmt.Sprintf(" to %d", r.To)
		}
		all = append(all, text)
	}
	return all
}

// ill makes the nth container of web that is started from now on end at once.
func (h *house) ill(nth int) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	n := 0
	h.w.fault = func(part, object string) error {
		if part == "start" && strings.HasPrefix(object, "shop-web") {
			n++
			delete(h.w.behave, "web")
			if n == nth {
				h.w.behave["web"] = "exit 7"
			}
		}
		return nil
	}
}

func TestFailureActions(t *testing.T) {
	for name, c := range map[string]struct {
		more  string
		ok    bool
		runs  []string // what runs in the end: name and which revision
		story string   // how the update ended
		left  int      // of the rollback, if there was one
	}{
		"pause":               {"failure_action: pause", false, []string{"ID_shop-web-2 0", "shop-web-1 1", "shop-web-3 0"}, "2 apply failed", 0},
		"unsaid":              {"delay: 1s", false, []string{"ID_shop-web-2 0", "shop-web-1 1", "shop-web-3 0"}, "2 apply failed", 0},
		"rollback":            {"failure_action: rollback", false, []string{"shop-web-1 0", "shop-web-2 0", "shop-web-3 0"}, "2 apply rolled back", 3},
		"continue":            {"failure_action: continue", true, []string{"ID_shop-web-2 0", "shop-web-1 1", "shop-web-3 1"}, "2 apply done", 0},
		"a third may fail":    {"max_failure_ratio: 0.34", true, []string{"ID_shop-web-2 0", "shop-web-1 1", "shop-web-3 1"}, "2 apply done", 0},
		"a quarter may fail":  {"max_failure_ratio: 0.25", false, []string{"ID_shop-web-2 0", "shop-web-1 1", "shop-web-3 0"}, "2 apply failed", 0},
		"continue to a limit": {"failure_action: continue, max_failure_ratio: 0.1", false, []string{"ID_shop-web-2 0", "shop-web-1 1", "shop-web-3 0"}, "2 apply failed", 0},
	} {
		t.Run(name, func(t *testing.T) {
			inVirtualTime(t, func(h *house) {
				ctx := h.Context()
				if err := h.Apply(ctx, h.goal(fleet("one", c.more), Options{}), nil); err != nil {
					h.Fatal(err)
				}
				first := h.hash("web")
				h.ill(2)
				err := h.Apply(ctx, h.goal(fleet("two", c.more), Options{}), nil)
				if (err == nil) != c.ok {
					h.Errorf("it ended with %v", err)
				}
				if err != nil && !strings.Contains(err.Error(), "shop-web-2") {
					h.Errorf("the error does not say who failed: %v", err)
				}
				second := h.hash("none")
				for _, x := range h.w.look(h.Scheduler.stored("shop").Goal).Containers {
					if x.Service == "web" && x.Hash != first {
						second = x.Hash
					}
				}
				if d := cmp.Diff(c.runs, h.run(first, second)); d != "" {
					h.Errorf("these run (-want +got):\n%s", d)
				}
				want := []string{"1 apply done", c.story}
				if c.left != 0 {
					want = append(want, fmt.Sprintf("%d rollback done to 1", c.left))
				}
				if d := cmp.Diff(want, h.story()); d != "" {
					h.Errorf("history (-want +got):\n%s", d)
				}
				st := h.status()
				if failed := !c.ok && c.left == 0; failed != (st.Phase == Failed) {
					h.Errorf("the project is %s", st.Phase)
				}
				if c.left != 0 {
					if !strings.Contains(err.Error(), "rolled back to revision 1") || h.Scheduler.stored("shop").Goal.Project.Services["web"].Command[0] != "one" {
						h.Errorf("%v; goal %v", err, h.Scheduler.stored("shop").Goal.Project.Services["web"].Command)
					}
				}
			})
		})
	}
}

// A daemon that closes in the middle of an update goes on with it, and one that
// closes while it rolls back goes on with that.
func TestUpdateGoesOn(t *testing.T) {
	for _, at := range []string{"create shop-web-2", "start shop-web-2", "await web", "retire", "stop ID_shop-web-1", "remove ID_shop-web-1"} {
		for _, ill := range []bool{false, true} {
			t.Run(fmt.Sprint(at, ill), func(t *testing.T) {
				inVirtualTime(t, func(h *house) {
					ctx := h.Context()
					const more = "failure_action: rollback"
					if err := h.Apply(ctx, h.goal(fleet("one", more), Options{}), nil); err != nil {
						h.Fatal(err)
					}
					first := h.hash("web")
					if ill {
						h.ill(3)
					}
					then, once := h.w.fault, false
					h.w.mu.Lock()
					h.w.fault = func(part, object string) error {
						if !once && strings.HasPrefix(part+" "+asideID.ReplaceAllString(object, "ID_"), at) {
							once = true
							h.Scheduler.cancel() // as Close does, which would wait for this very step
							return errdefs.ErrUnavailable
						}
						if then != nil {
							return then(part, object)
						}
						return nil
					}
					h.w.mu.Unlock()
					err := h.Apply(ctx, h.goal(fleet("two", more), Options{}), nil)
					if once && !errors.Is(err, errClosing) && err == nil {
						h.Errorf("it ended with %v", err)
					}
					h.Close()
					h.open()
					h.settle()
					runs := h.run(first)
					want := []string{"shop-web-1 -1", "shop-web-2 -1", "shop-web-3 -1"}
					if ill {
						want = []string{"shop-web-1 0", "shop-web-2 0", "shop-web-3 0"}
					}
					if d := cmp.Diff(want, runs); d != "" {
						h.Errorf("these run (-want +got):\n%s\n%s\n%s", d, strings.Join(h.w.log, "\n"), h.log.String())
					}
					for _, line := range h.story() {
						if strings.Contains(line, string(UnderWay)) {
							h.Errorf("history: %q", h.story())
						}
					}
				})
			})
		}
	}
}

// settle waits until the project walks no longer.
func (h *house) settle() {
	h.Helper()
	for range 600 {
		if h.status().Phase != Walking {
			return
		}
		time.Sleep(time.Second)
	}
	h.Fatalf("it still walks: %+v", h.status())
}

func TestRollback(t *testing.T) {
	inVirtualTime(t, func(h *house) {
		ctx := h.Context()
		stack := func(web, db, token string) string {
			return fmt.Sprintf(`
services:
  web: {image: busybox, command: %s, configs: [token]}
  api: {image: busybox, configs: [token]}
  db: {image: busybox, command: %s}
configs: {token: {content: %s}}
`, web, db, token)
		}
		for _, s := range []string{stack("one", "one", "a"), stack("two", "one", "a"), stack("two", "two", "a"), stack("three", "two", "b")} {
			if err := h.Apply(ctx, h.goal(s, Options{}), nil); err != nil {
				h.Fatal(err)
			}
		}
		if err := h.Scale(ctx, "shop", map[string]int{"db": 2}, Options{}, nil); err != nil {
			h.Fatal(err)
		}
		commands := func() string {
			g := h.Scheduler.stored("shop").Goal
			return fmt.Sprintf("%v %v %d %s", g.Project.Services["web"].Command, g.Project.Services["db"].Command, g.Services["db"].Replicas, g.Project.Configs["token"].Content)
		}
		// One that shares a config which has changed cannot go alone.
		if err := h.Rollback(ctx, "shop", 0, Options{Services: []string{"web"}}, nil); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "config token") {
			h.Errorf("web alone: %v", err)
		}
		plan, err := h.PlanRollback(ctx, "shop", 2, Options{Services: []string{"db"}})
		if err != nil || !strings.Contains(plan.String(), "replace shop-db-1 start-first: command") {
			h.Errorf("%v:\n%s", err, plan)
		}
		for _, c := range []struct {
			to       int
			services []string
			want     string
		}{
			{0, nil, "[three] [two] 1 b"},            // before the scaling
			{0, []string{"db"}, "[three] [two] 2 b"}, // what it was before that
			{3, nil, "[two] [two] 1 a"},              // a revision by its number
			{1, []string{"db"}, "[two] [one] 1 a"},   // one service of one
			{1, nil, "[one] [one] 1 a"},              //
			{0, []string{"web"}, "[two] [one] 1 a"},
		} {
			err := h.Rollback(ctx, "shop", c.to, Options{Services: c.services}, nil)
			if rest, refused := strings.CutPrefix(c.want, "refused: "); refused {
				if err == nil || !strings.Contains(err.Error(), rest) {
					h.Errorf("%+v: %v", c, err)
				}
				continue
			}
			if err != nil || commands() != c.want {
				h.Errorf("%+v: %v, it is %s\n%s", c, err, commands(), strings.Join(h.story(), "\n"))
			}
			if st := h.status(); st.Phase != Settled {
				h.Errorf("%+v: the project is %s", c, st.Phase)
			}
		}
		if err := h.Rollback(ctx, "shop", 99, Options{}, nil); !errdefs.IsNotFound(err) {
			h.Errorf("to a revision that is not there: %v", err)
		}
		if err := h.Rollback(ctx, "shop", 0, Options{Services: []string{"cache"}}, nil); !errdefs.IsNotFound(err) {
			h.Errorf("of a service that is not there: %v", err)
		}
		if err := h.Down(ctx, "shop", Options{}, nil); err != nil {
			h.Fatal(err)
		}
		if all, err := h.History("shop"); !errdefs.IsNotFound(err) {
			h.Errorf("after down there is a history: %v, %v", all, err)
		}
	})
}

// What is said of a change holds no secrets, and a call that changes nothing
// leaves no entry.
func TestHistoryTells(t *testing.T) {
	inVirtualTime(t, func(h *house) {
		ctx := h.Context()
		stack := func(level, password string) string {
			return fmt.Sprintf("services: {web: {image: busybox, scale: 3, environment: {LEVEL: %s, PASSWORD: %s}}}", level, password)
		}
		for _, s := range []string{stack("info", "geheim1"), stack("debug", "geheim2"), stack("debug", "geheim2")} {
			if err := h.Apply(ctx, h.goal(s, Options{Wait: true}), nil); err != nil {
				h.Fatal(err)
			}
		}
		all, err := h.History("shop")
		if err != nil || len(all) != 2 {
			h.Fatalf("%+v, %v", all, err)
		}
		want := []string{`web: replace 3 containers: environment.LEVEL "info" → "debug", environment.PASSWORD (hidden)`}
		if d := cmp.Diff(want, all[0].Changes); d != "" {
			h.Errorf("changes (-want +got):\n%s", d)
		}
		if d := cmp.Diff([]string{"web"}, all[0].Services); d != "" {
			h.Errorf("services (-want +got):\n%s", d)
		}
	})
}

// What a plan has stopped because it makes a network anew is brought up again:
// by the way back, and by the next call, whether there was a way back or not.
func TestNetworkIsMadeInVain(t *testing.T) {
	for name, c := range map[string]struct {
		action string
		after  map[string]int // containers that cannot be made → after having been made so often
		runs   int            // of web after that
	}{
		"goes back":        {"rollback", map[string]int{"shop-web-2": 0}, 2},
		"does not go back": {"rollback", map[string]int{"shop-web-2": 0, "shop-web-1": 1}, 1},
		"stays":            {"pause", map[string]int{"shop-web-1": 0}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			inVirtualTime(t, func(h *house) {
				goal := func(network string, o Options) Goal {
					return h.goal(`
services:
  web: {image: busybox, scale: 2, networks: [back], deploy: {update_config: {failure_action: `+c.action+`}}}
  job: {image: busybox, scale: 0, networks: [back]}
networks: {back: `+network+`}`, o)
				}
				ctx := h.Context()
				if err := h.Apply(ctx, goal("{}", Options{}), nil); err != nil {
					h.Fatal(err)
				}
				// Whoever wants nothing started now does not want this to stay down for good.
				if err := h.Apply(ctx, goal("{}", Options{NoStart: true}), nil); err != nil {
					h.Fatal(err)
				}
				h.w.mu.Lock()
				h.w.fault = func(part, object string) error {
					if left, fails := c.after[object]; part == "create" && fails {
						if c.after[object]--; left <= 0 {
							return errors.New("it was told to")
						}
					}
					return nil
				}
				h.w.mu.Unlock()
				partly := Options{Services: []string{"job"}, NoDeps: true}
				if err := h.Apply(ctx, goal("{internal: true}", partly), nil); err == nil {
					h.Fatal("it did not fail")
				}
				h.w.mu.Lock()
				h.w.fault = nil
				h.w.mu.Unlock()
				if n := len(h.run()); n != c.runs {
					h.Errorf("after it %d of web run, want %d", n, c.runs)
				}
				if err := h.Apply(ctx, goal("{internal: true}", partly), nil); err != nil {
					h.Fatal(err)
				}
				if n := len(h.run()); n != 2 {
					h.Errorf("in the end %d of web run", n)
				}
			})
		})
	}
}
