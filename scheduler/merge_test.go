package scheduler

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"gantry/compose"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

// What exited in the future (the clock was set back) must still be started.
func TestMergeTrustsNoClock(t *testing.T) {
	w, g, plan := up(t, two, Options{})
	if err := Execute(t.Context(), w, plan, nil); err != nil {
		t.Fatal(err)
	}
	c := w.named("shop-web-1")
	w.exit(c, 1)
	c.FinishedAt = w.clock.Add(time.Hour)
	have := w.look(g)
	next := Merge(&g, g, have)
	if plan, err := Reconcile(next, have); err != nil || len(plan.Steps) != 1 || plan.Steps[0].Do.String() != "start shop-web-1" {
		t.Errorf("plan\n%s%v", plan, err)
	}
}

// Images are what they were when their service was last asked for.
func TestMergePinsImages(t *testing.T) {
	yaml := "services: {one: {image: busybox}, two: {image: nginx}, three: {image: given}}"
	p, err := load(yaml)
	if err != nil {
		t.Fatal(err)
	}
	w := newSim()
	w.image("busybox", "sha256:b1")
	w.image("nginx", "sha256:n1")
	ask := func(o Options, stored *Goal) Goal {
		asked, err := NewGoal(p, o)
		if err != nil {
			t.Fatal(err)
		}
		asked.Images = map[string]string{"given": "sha256:g"}
		return Merge(stored, asked, w.look(asked))
	}
	first := ask(Options{}, nil)
	w.image("busybox", "sha256:b2")
	w.image("nginx", "sha256:n2")
	second := ask(Options{Services: []string{"two"}}, &first)
	for ref, want := range map[string][2]string{"busybox": {"sha256:b1", "sha256:b1"}, "nginx": {"sha256:n1", "sha256:n2"}, "given": {"sha256:g", "sha256:g"}} {
		if got := [2]string{first.Images[ref], second.Images[ref]}; got != want {
			t.Errorf("%s is %v, want %v", ref, got, want)
		}
	}
	// A fixed image counts, whatever its name means by now; if it is gone it
	// is the one to be pulled.
	have := w.look(first)
	delete(have.Images, "sha256:b1")
	plan, err := Reconcile(first, have)
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := plan.Steps[0].Do.(Pull); !ok || got != (Pull{Ref: "busybox", ID: "sha256:b1"}) {
		t.Errorf("plan\n%s", plan)
	}
}

// Where a fixed image came from is fixed with it, and forgotten with it.
func TestMergePinsSources(t *testing.T) {
	asked := goalOf(t, "services: {one: {image: busybox}}", Options{})
	g := Merge(nil, asked, State{Images: map[string]string{"busybox": "sha256:b1"}, Sources: map[string]string{"busybox": "busybox@sha256:1"}})
	text, err := json.Marshal(g)
	if err != nil {
		t.Fatal(err)
	}
	var stored Goal
	if err := json.Unmarshal(text, &stored); err != nil || stored.Sources["busybox"] != "busybox@sha256:1" {
		t.Fatalf("%v %v", stored.Sources, err)
	}
	plan, err := Reconcile(stored, State{})
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := plan.Steps[0].Do.(Pull); !ok || got != (Pull{Ref: "busybox", ID: "sha256:b1", Source: "busybox@sha256:1"}) {
		t.Errorf("plan\n%s", plan)
	}
	later := Merge(&stored, asked, State{Images: map[string]string{"busybox": "sha256:loaded"}})
	if later.Images["busybox"] != "sha256:loaded" || len(later.Sources) > 0 || stored.Sources["busybox"] == "" {
		t.Errorf("after another was loaded: %v %v; before: %v", later.Images, later.Sources, stored.Sources)
	}
}

// An image that could be built is pulled where it is known to have come from a
// registry, and else not: who built it has the only one.
func TestBuiltOrPulled(t *testing.T) {
	asked := goalOf(t, "services: {one: {image: mine, build: .}}", Options{})
	had := map[string]string{"mine": "sha256:m1"}
	plan, err := Reconcile(Merge(nil, asked, State{Images: had, Sources: map[string]string{"mine": "mine@sha256:1"}}), State{})
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := plan.Steps[0].Do.(Pull); !ok || got != (Pull{Ref: "mine", ID: "sha256:m1", Source: "mine@sha256:1"}) {
		t.Errorf("plan\n%s", plan)
	}
	if plan, err = Reconcile(Merge(nil, asked, State{Images: had}), State{}); !errdefs.IsNotFound(err) {
		t.Errorf("nobody but its builder had it: %v\n%s", err, plan)
	}
}

// A generation no container has yet, also when the store was lost.
func TestMergeForces(t *testing.T) {
	w, g, plan := up(t, two, Options{})
	if err := Execute(t.Context(), w, plan, nil); err != nil {
		t.Fatal(err)
	}
	w.named("shop-web-2").Generation = 7
	asked := g
	asked.Options.Recreate = Always
	for _, stored := range []*Goal{nil, &g} {
		if next := Merge(stored, asked, w.look(g)); next.Services["web"].Generation != 8 || next.Services["db"].Generation != 1 {
			t.Errorf("generations %+v", next.Services)
		}
	}
}

func TestNewGoal(t *testing.T) {
	p, err := load(two)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewGoal(p, Options{Services: []string{"wbe"}}); !errdefs.IsNotFound(err) {
		t.Errorf("a service that is not there: %v", err)
	}
	for _, c := range []struct {
		o    Options
		want []string
	}{
		{Options{Services: []string{"web"}}, []string{"db", "web"}},
		{Options{Services: []string{"web"}, NoDeps: true}, []string{"web"}},
		{Options{}, nil},
	} {
		if g, err := NewGoal(p, c.o); err != nil || !slices.Equal(g.Scope, c.want) {
			t.Errorf("%+v: scope %v, %v", c.o, g.Scope, err)
		}
	}
}

// What a replica is made of, and labelled with.
func TestRunSpec(t *testing.T) {
	_, g, plan := up(t, "services: {web: {image: busybox, labels: {mine: x}, depends_on: {db: {condition: service_healthy, restart: true}}}, db: {image: busybox}}", Options{})
	var spec RunSpec
	for _, s := range plan.Steps {
		if r, ok := s.Do.(Run); ok && r.Spec.Name == "shop-web-1" {
			spec = r.Spec
		}
	}
	want := map[string]string{"mine": "x", LabelProject: "shop", LabelService: "web", LabelNumber: "1", LabelOneOff: "False", LabelImage: "sha256:1",
		LabelDependsOn: "db:service_healthy:true", LabelWorkingDir: "/src", LabelConfigFiles: "-", LabelVersion: version, LabelGeneration: "0",
		LabelHash: compose.HashIn(g.Project, *spec.Service), LabelUses: spec.Labels[LabelUses],
		LabelParts: partsLabel(g.Project, *spec.Service)}
	if d := cmp.Diff(want, spec.Labels); d != "" {
		t.Errorf("labels (-want +got):\n%s", d)
	}
	if spec.ImageID != "sha256:1" || spec.Image != "busybox" || spec.Number != 1 || !slices.Equal(spec.Networks, []string{"default"}) {
		t.Errorf("%+v", spec)
	}
	if c := FromLabels(spec.Labels); c.Service != "web" || c.Number != 1 || !slices.Equal(c.DependsOn, []string{"db"}) || c.OneOff {
		t.Errorf("read back %+v", c)
	}
	g.Images = map[string]string{"busybox": "sha256:fixed"}
	if l := LookFor(g); !slices.Equal(l.Images, []string{"busybox", "sha256:fixed"}) || !slices.Equal(l.Networks, []string{"shop_default"}) || l.Project != "shop" {
		t.Errorf("looks for %+v", l)
	}
}
