package scheduler

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

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
	next := goalOf(t, "services:\n  db: {image: busybox, mem_limit: 64m}\n  web: {image: busybox, depends_on: [db], scale: 2, command: other}\n", Options{})
	have := w.look(g, next)
	have.Was = g.Project
	plan, err := Reconcile(Merge(&g, next, have), have)
	if err != nil {
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
	next := goalOf(t, "services: {web: {image: busybox, scale: 3, command: b, deploy: {update_config: {parallelism: 1}}}}", Options{})
	have := w.look(g, next)
	next = Merge(&g, next, have)
	plan, err := Reconcile(next, have)
	if err != nil {
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
	limited := goalOf(t, "services: {web: {image: busybox, mem_limit: 64m}}", Options{})
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

// A run waits for those replicas of a dependency that are about to be healthy,
// and for nobody else.
func TestRunWaitsForWhatStarts(t *testing.T) {
	p, err := load(nightly + "  cache: {image: busybox}\n")
	if err != nil {
		t.Fatal(err)
	}
	g, err := NewGoal(p, Options{})
	if err != nil {
		t.Fatal(err)
	}
	g.Services["backup"] = Want{Run: time.Date(2026, 1, 1, 3, 0, 0, 0, time.UTC)}
	g.Scope = []string{"backup"}
	container := func(number int, status Status, health string) Container {
		return Container{ID: fmt.Sprint(number), Project: "shop", Service: "db", Number: number, Status: status, Health: health}
	}
	have := State{Images: map[string]string{"busybox": "sha256:b"}, Networks: []Network{{ID: "n", Name: "shop_default", Project: "shop"}}}
	for _, c := range []struct {
		condition  string
		containers []Container
		want       string
	}{
		{compose.ConditionHealthy, []Container{container(1, Running, Healthy), container(3, Running, Starting), container(2, Running, Starting), container(4, Exited, Starting)},
			"1. await db healthy (2 replicas): backup depends on it (may fail)\n2. run shop-backup-1: due at 2026-01-01T03:00:00Z [after 1]\n"},
		{compose.ConditionHealthy, []Container{container(1, Running, Healthy)}, "1. run shop-backup-1: due at 2026-01-01T03:00:00Z\n"},
		{compose.ConditionStarted, []Container{container(1, Running, Starting)}, "1. run shop-backup-1: due at 2026-01-01T03:00:00Z\n"},
	} {
		d := g.Project.Services["backup"].DependsOn["db"]
		d.Condition = c.condition
		g.Project.Services["backup"].DependsOn["db"] = d
		have.Containers = c.containers
		plan, err := Reconcile(g, have)
		if err != nil || plan.String() != c.want {
			t.Errorf("%v\n%swant\n%s", err, plan, c.want)
		}
		for _, s := range plan.Steps {
			if a, ok := s.Do.(Await); ok && !slices.Equal(a.Spec.Numbers, []int{2, 3}) {
				t.Errorf("it waits for %v", a.Spec.Numbers)
			}
		}
	}
}

// An image is needed by who has replicas, and by a job that has none yet.
func TestNeeds(t *testing.T) {
	p, err := load(nightly + "  none: {image: busybox, scale: 0}\n  left: {image: busybox}\n")
	if err != nil {
		t.Fatal(err)
	}
	g, err := NewGoal(p, Options{})
	if err != nil {
		t.Fatal(err)
	}
	delete(g.Services, "left")
	for name, want := range map[string]bool{"backup": true, "db": true, "none": false, "left": false, "nobody": false} {
		if got := g.Needs(name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// The effect of a step is the gravest that it has.
func TestEffects(t *testing.T) {
	spec := RunSpec{Name: "shop-web-1", Service: &compose.Service{Name: "web"}}
	lost := "all data in volume data"
	p := Plan{Steps: []Step{{Do: Run{spec}}, {Do: Update{Spec: spec}}, {Do: Restart{}}, {Do: Replace{Spec: spec}}, {Do: Replace{Spec: spec}, Destroys: lost}, {Do: Start{}}}}
	var got []Effect
	for _, s := range p.Steps {
		got = append(got, s.Effect())
	}
	if d := cmp.Diff([]Effect{"", InPlace, Restarts, Replaces, DestroysData, ""}, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if d := cmp.Diff([]string{lost}, p.Destroys()); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

// What Docker Compose writes in the label of a volume's hash says nothing here,
// and what is external keeps its name.
func TestNamesAndLabels(t *testing.T) {
	for of, want := range map[string]string{version: "h", "2.29.1": "", "": ""} {
		if got := VolumeHash(map[string]string{LabelVersion: of, LabelHash: "h"}); got != want {
			t.Errorf("by version %q: %q", of, got)
		}
	}
	p := &compose.Project{Name: "shop",
		Volumes:  compose.Volumes{"own": {}, "named": {Name: "n"}, "theirs": {External: true}, "called": {External: true, Name: "c"}},
		Networks: compose.Networks{"own": {}, "named": {Name: "n"}, "theirs": {External: true}, "called": {External: true, Name: "c"}}}
	for key, want := range map[string]string{"own": "shop_own", "named": "n", "theirs": "theirs", "called": "c"} {
		if volume, network := VolumeName(p, key), NetworkName(p, key); volume != want || network != want {
			t.Errorf("%s: volume %s, network %s", key, volume, network)
		}
	}
}

// Who has moved is told from where, and nobody else is told anything.
func TestMovesAreTold(t *testing.T) {
	have := State{Dirs: map[string]string{"/b": "1:2", "/z": ""}}
	down := DownGoal("shop", Options{Dir: "/b"})
	for dir, want := range map[string][]string{"/z": {"project shop has moved here from /z, which is gone"}, "/b": nil} {
		have.Containers = []Container{at(dir, "web", Running)}
		_, plan, err := decide(nil, have, func(*Goal, State) (Goal, error) { return down, nil })
		if err != nil || !slices.Equal(plan.Notes, want) {
			t.Errorf("from %s: %q, %v", dir, plan.Notes, err)
		}
	}
}

// A status tells orphans from what the project has, or has had switched off;
// where nobody says what is wanted there are none.
func TestStatusCounts(t *testing.T) {
	goal := &Goal{Project: &compose.Project{Name: "shop", Services: compose.Services{"web": {}, "db": {}}}, Known: []string{"debug"},
		Services: map[string]Want{"web": {Replicas: 2}, "db": {Replicas: 1, Stopped: true}}}
	have := State{Containers: []Container{at("", "web", Running), at("", "web", Exited), at("", "web", Dead), at("", "old", Created), at("", "debug", Paused),
		{Project: "shop", Service: "web", OneOff: true, Status: Running}, {Project: "other", Service: "web", Status: Running}}}
	want := []ServiceStatus{{Name: "db"}, {Name: "debug", Present: 1}, {Name: "old", Exited: 1, Orphan: true}, {Name: "web", Wanted: 2, Present: 1, Ready: 1, Exited: 1}}
	st := ProjectStatus{Name: "shop"}
	st.count(goal, have)
	if d := cmp.Diff(want, st.Services); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	st = ProjectStatus{Name: "shop"}
	st.count(nil, have)
	want = want[1:]
	want[1].Orphan, want[2].Wanted = false, 0
	if d := cmp.Diff(want, st.Services); d != "" {
		t.Errorf("without a goal (-want +got):\n%s", d)
	}
}

// Going back asks anew for those services alone that differ; the others keep
// the time at which they were asked for last.
func TestBackAsksForWhatDiffers(t *testing.T) {
	first, now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 1, 3, 0, 0, 0, 0, time.UTC)
	second := first.Add(24 * time.Hour)
	goal := func(yaml string, asked time.Time) Goal {
		p, err := load(yaml)
		if err != nil {
			t.Fatal(err)
		}
		g, err := NewGoal(p, Options{})
		if err != nil {
			t.Fatal(err)
		}
		for name, w := range g.Services {
			w.Asked = asked
			g.Services[name] = w
		}
		return g
	}
	before := goal("services: {same: {image: busybox}, changed: {image: busybox}, stopped: {image: busybox}}", first)
	after := goal("services: {same: {image: busybox}, changed: {image: busybox, command: x}, stopped: {image: busybox}, new: {image: busybox}}", second)
	w := after.Services["stopped"]
	w.Stopped = true
	after.Services["stopped"] = w
	got := back(after, before, State{Now: now})
	want := map[string]Want{"same": {Replicas: 1, Asked: second}, "changed": {Replicas: 1, Asked: now}, "stopped": {Replicas: 1, Asked: now}, "new": {Asked: second}}
	if d := cmp.Diff(want, got.Services); d != "" || got.Scope != nil {
		t.Errorf("scope %v, -want +got:\n%s", got.Scope, d)
	}
	got = back(goal("services: {same: {image: busybox}, changed: {image: busybox}, stopped: {image: busybox}}", second), before, State{Now: now})
	for name, w := range got.Services {
		if !w.Asked.Equal(second) {
			t.Errorf("%s, which is the same, is asked for at %s", name, w.Asked)
		}
	}
}

// A service goes back with its secrets, configs and image, unless another one
// uses them too and stays.
func TestWhatIsSharedGoesBackTogether(t *testing.T) {
	goal := func(secret, config, image string, shared bool) Goal {
		yaml := "services:\n  web: {image: busybox, secrets: [s], configs: [c]}\n  api: {image: nginx}\nsecrets: {s: {environment: TOKEN}}\nconfigs: {c: {content: x}}\n"
		if shared {
			yaml = strings.Replace(yaml, "image: nginx", "image: busybox, secrets: [s], configs: [c]", 1)
		}
		p, err := load(yaml)
		if err != nil {
			t.Fatal(err)
		}
		p.Secrets = compose.Secrets{"s": {Content: secret}}
		p.Configs = compose.Configs{"c": {Content: config}}
		g, err := NewGoal(p, Options{})
		if err != nil {
			t.Fatal(err)
		}
		g.Images = map[string]string{"busybox": image}
		return g
	}
	for _, c := range []struct {
		now    [3]string // secret, config, image; what it was is "a" each
		shared bool
		scope  []string
		refuse string
	}{
		{[3]string{"a", "a", "a"}, true, []string{"web"}, ""},
		{[3]string{"b", "b", "b"}, false, []string{"web"}, ""},
		{[3]string{"b", "b", "b"}, true, []string{"api", "web"}, ""},
		{[3]string{"b", "a", "a"}, true, []string{"web"}, "secret s"},
		{[3]string{"a", "b", "a"}, true, []string{"web"}, "config c"},
		{[3]string{"a", "a", "b"}, true, []string{"web"}, "image busybox"},
	} {
		g, err := backOf(goal(c.now[0], c.now[1], c.now[2], c.shared), goal("a", "a", "a", c.shared), 1, Options{Services: c.scope}, State{})
		if c.refuse != "" {
			if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "service web cannot go back alone: "+c.refuse+" has changed since and is used by api") {
				t.Errorf("%+v: %v", c, err)
			}
			continue
		}
		if err != nil || g.Project.Secrets["s"].Content+g.Project.Configs["c"].Content+g.Images["busybox"] != "aaa" {
			t.Errorf("%+v: %v, %v %v %v", c, err, g.Project.Secrets, g.Project.Configs, g.Images)
		}
	}
}

// What was broken off is still to be done by the next call, unless that is a
// down: it is about what it names.
func TestNextCallGoesOn(t *testing.T) {
	p, err := load(two)
	if err != nil {
		t.Fatal(err)
	}
	up, err := NewGoal(p, Options{})
	if err != nil {
		t.Fatal(err)
	}
	down, earlier := DownGoal("shop", Options{}), &compose.Project{Name: "shop"}
	for _, c := range []struct {
		stored           Goal
		phase            Phase
		scope, ask, want []string
		was, tried       *compose.Project // that a plan may tell of
	}{
		{up, Walking, []string{"db"}, []string{"web"}, []string{"db", "web"}, earlier, p},
		{up, Walking, nil, []string{"web"}, nil, earlier, p},
		{up, Walking, []string{"db"}, nil, nil, earlier, p},
		{up, Settled, []string{"db"}, []string{"web"}, []string{"web"}, p, nil},
		{down, Walking, nil, []string{"web"}, []string{"web"}, earlier, nil},
	} {
		asked := c.stored
		c.stored.Scope, asked.Scope = c.scope, c.ask
		have := State{Images: map[string]string{"busybox": "sha256:b"}}
		got, _, err := decide(&record{Goal: c.stored, Phase: c.phase, Was: earlier}, have, func(_ *Goal, seen State) (Goal, error) {
			if seen.Was != c.was || seen.Tried != c.tried {
				t.Errorf("%+v: it was %v, tried was %v", c, seen.Was, seen.Tried)
			}
			return asked, nil
		})
		if err != nil || !slices.Equal(got.Scope, c.want) || (got.Scope == nil) != (c.want == nil) {
			t.Errorf("%+v: %v, scope %v", c, err, got.Scope)
		}
	}
}
