package scheduler

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"gantry/compose"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

// What a goal needs to see is what it names, each once, and nothing without a
// name.
func TestLookFor(t *testing.T) {
	p, err := load("services: {web: {image: nginx}, api: {image: nginx, networks: [back]}, db: {image: busybox, volumes: ['data:/d']}}\n" +
		"networks: {back: {name: spine}}\nvolumes: {data: {}}")
	if err != nil {
		t.Fatal(err)
	}
	want := Look{Project: "shop", Images: []string{"busybox", "nginx", "sha256:n"}, Networks: []string{"shop_default", "spine"}, Volumes: []string{"shop_data"}, Dirs: []string{"/src"}}
	goal := Goal{Project: p, Images: map[string]string{"nginx": "sha256:n"}}
	if d := cmp.Diff(want, LookFor(goal, Goal{}, goal)); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if d := cmp.Diff(Look{Project: "shop", Dirs: []string{"/b"}}, LookFor(DownGoal("shop", Options{Dir: "/b"}))); d != "" {
		t.Errorf("of a down (-want +got):\n%s", d)
	}
}

// The default network need not be defined; every other one must be.
func TestUndefinedNetworks(t *testing.T) {
	for name, yaml := range map[string]string{"default": "services: {web: {image: busybox}}", "back": "services: {web: {image: busybox, networks: [back]}}\nnetworks: {back: {}}"} {
		p, err := load(yaml)
		if err != nil {
			t.Fatal(err)
		}
		p.Networks = nil
		g, err := NewGoal(p, Options{})
		if err != nil {
			t.Fatal(err)
		}
		plan, err := Reconcile(g, State{Images: map[string]string{"busybox": "sha256:b"}})
		if refused := errdefs.IsInvalidArgument(err); refused != (name == "back") || !refused && !strings.Contains(plan.String(), "create network shop_default") {
			t.Errorf("network %s: %v\n%s", name, err, plan)
		}
	}
}

// A step has as data what its reason says in words.
func TestStepsHaveTheirChanges(t *testing.T) {
	w, g, plan := up(t, two, Options{})
	if err := Execute(t.Context(), w, plan, nil); err != nil {
		t.Fatal(err)
	}
	is, err := load("services:\n  db: {image: busybox, mem_limit: 64m}\n  web: {image: busybox, depends_on: [db], scale: 2, command: other}\n")
	if err != nil {
		t.Fatal(err)
	}
	next, err := NewGoal(is, Options{})
	if err != nil {
		t.Fatal(err)
	}
	have := w.look(g, next)
	have.Was = g.Project
	if plan, err = Reconcile(Merge(&g, next, have), have); err != nil {
		t.Fatal(err)
	}
	got := map[string][]Change{}
	for _, s := range plan.Steps {
		if verb := s.Do.What().Verb; verb == "update" || verb == "replace" {
			got[verb] = append(got[verb], s.Changes...)
			if s.Why != some(s.Changes) {
				t.Errorf("%s: %s, and the changes are %v", s.Do, s.Why, s.Changes)
			}
		}
	}
	command := Change{Field: "command", Is: []any{"other"}}
	if d := cmp.Diff(map[string][]Change{"update": {{Field: "mem_limit", Is: "64m"}}, "replace": {command, command}}, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

// What Docker Compose has made is replaced, and its ports are taken over only
// when it has stopped.
func TestMadeByCompose(t *testing.T) {
	w, g, plan := up(t, "services: {web: {image: busybox, ports: ['8080:80']}}", Options{})
	if err := Execute(t.Context(), w, plan, nil); err != nil {
		t.Fatal(err)
	}
	c := w.named("shop-web-1")
	c.Maker, c.Hash, c.Parts, c.Uses = "docker compose 2.29.1", "theirs", "", ""
	have := w.look(g)
	plan, err := Reconcile(Merge(&g, g, have), have)
	if want := "replace shop-web-1 stop-first (port 8080/tcp is the old container's own): made by docker compose 2.29.1"; err != nil || !strings.Contains(plan.String(), want) {
		t.Errorf("%v\n%s\nwant %s", err, plan, want)
	}
	// Without ports the two run side by side.
	c.Ports = nil
	have = w.look(g)
	if plan, err = Reconcile(Merge(&g, g, have), have); err != nil || !slices.ContainsFunc(plan.Steps, func(s Step) bool { return strings.HasPrefix(s.Do.String(), "replace shop-web-1 start-first") }) {
		t.Errorf("%v\n%s", err, plan)
	}
}

// While two containers have a number, an await names the one it is about, and
// names none that it does not ask for.
func TestAwaitsTellTwoOfANumberApart(t *testing.T) {
	w, g, plan := up(t, "services: {web: {image: busybox, scale: 3, command: a}}", Options{})
	if err := Execute(t.Context(), w, plan, nil); err != nil {
		t.Fatal(err)
	}
	is, err := load("services: {web: {image: busybox, scale: 3, command: b, deploy: {update_config: {parallelism: 1}}}}")
	if err != nil {
		t.Fatal(err)
	}
	next, err := NewGoal(is, Options{})
	if err != nil {
		t.Fatal(err)
	}
	have := w.look(g, next)
	next = Merge(&g, next, have)
	if plan, err = Reconcile(next, have); err != nil {
		t.Fatal(err)
	}
	w.fault = func(part, _ string) error { // the daemon dies before anybody leaves
		if part == "await" {
			return errDead
		}
		return nil
	}
	if err := Execute(t.Context(), w, plan, nil); !errors.Is(err, errDead) {
		t.Fatal(err)
	}
	have = w.look(next)
	if plan, err = Reconcile(next, have); err != nil {
		t.Fatal(err)
	}
	heir := w.replica("shop", "web", 1, "").ID
	var got []map[int]string
	for _, s := range plan.Steps {
		if a, ok := s.Do.(Await); ok {
			got = append(got, a.Spec.IDs)
		}
	}
	if d := cmp.Diff([]map[int]string{{1: heir}, nil, nil}, got); d != "" {
		t.Errorf("-want +got:\n%s\n%s", d, plan)
	}
}

// What an older gantry made has a hash of everything and none of its parts. It
// is changed in place where the project it was made from is still known.
func TestMadeWithoutParts(t *testing.T) {
	w, g, plan := up(t, "services: {web: {image: busybox}}", Options{})
	if err := Execute(t.Context(), w, plan, nil); err != nil {
		t.Fatal(err)
	}
	w.named("shop-web-1").Parts = ""
	is, err := load("services: {web: {image: busybox, mem_limit: 64m}}")
	if err != nil {
		t.Fatal(err)
	}
	limited, err := NewGoal(is, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what string
		goal Goal
		was  *compose.Project
		want string
	}{
		{"as wanted", g, nil, "nothing to do"},
		{"changed, and known", limited, g.Project, "update shop-web-1"},
		{"changed, and not known", limited, nil, "replace shop-web-1"},
	} {
		have := w.look(g)
		have.Was = c.was
		plan, err := Reconcile(Merge(&g, c.goal, have), have)
		if err != nil || !strings.Contains(plan.String(), c.want) {
			t.Errorf("%s: %v\n%s", c.what, err, plan)
		}
	}
}
