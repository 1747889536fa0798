package scheduler

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gantry/compose"

	"pgregory.net/rapid"
)

var errDead = errors.New("the process has died")

// anyProject draws a project: up to five services that depend on earlier ones
// in every way there is, on up to two networks, with up to two volumes.
func anyProject(t *rapid.T) *compose.Project {
	p := &compose.Project{Name: "shop", WorkingDir: "/src", Services: compose.Services{}, Networks: compose.Networks{}, Volumes: compose.Volumes{}}
	for _, key := range []string{"default", "back"} {
		p.Networks[key] = compose.Network{Internal: rapid.Bool().Draw(t, key+" internal")}
	}
	for _, key := range []string{"data", "logs"} {
		p.Volumes[key] = compose.Volume{}
	}
	n := rapid.IntRange(1, 5).Draw(t, "services")
	for i := range n {
		s := compose.Service{Name: fmt.Sprintf("s%d", i)}
		label := func(what string) string { return s.Name + " " + what }
		s.Image = rapid.SampledFrom([]string{"busybox", "nginx"}).Draw(t, label("image"))
		s.Command = compose.ShellCommand{rapid.SampledFrom([]string{"a", "b"}).Draw(t, label("command"))}
		replicas := rapid.IntRange(0, 3).Draw(t, label("replicas"))
		s.Scale = &replicas
		s.Networks = map[string]*compose.ServiceNetwork{}
		for _, key := range rapid.SliceOfDistinct(rapid.SampledFrom([]string{"default", "back"}), rapid.ID).Draw(t, label("networks")) {
			s.Networks[key] = nil
		}
		if rapid.Bool().Draw(t, label("mounts")) {
			s.Volumes = append(s.Volumes, compose.ServiceVolume{Type: compose.VolumeTypeVolume, Source: "data", Target: "/data"})
		}
		s.DependsOn = compose.DependsOn{}
		for j := range i {
			if rapid.IntRange(0, 2).Draw(t, label(fmt.Sprintf("needs s%d", j))) > 0 {
				continue
			}
			s.DependsOn[fmt.Sprintf("s%d", j)] = compose.Dependency{
				// Nobody can be healthy and done: odd services are jobs.
				Condition: rapid.SampledFrom([]string{compose.ConditionStarted, []string{compose.ConditionHealthy, compose.ConditionCompleted}[j%2]}).Draw(t, label("condition")),
				Required:  rapid.IntRange(0, 3).Draw(t, label("required")) > 0,
				Restart:   rapid.Bool().Draw(t, label("restart")),
			}
		}
		if i > 0 && rapid.IntRange(0, 4).Draw(t, label("joins")) == 0 {
			target := fmt.Sprintf("s%d", rapid.IntRange(0, i-1).Draw(t, label("joins whom")))
			if scale := p.Services[target].Scale; *scale > 0 {
				s.NetworkMode, s.Networks = compose.ServicePrefix+target, nil
			}
		}
		p.Services[s.Name] = s
	}
	return p
}

func anyOptions(t *rapid.T, p *compose.Project) Options {
	o := Options{
		Recreate:      rapid.SampledFrom([]Policy{Changed, Changed, Changed, Always, Never}).Draw(t, "recreate"),
		NoStart:       rapid.IntRange(0, 9).Draw(t, "no start") == 0,
		Wait:          rapid.Bool().Draw(t, "wait"),
		RemoveOrphans: rapid.Bool().Draw(t, "remove orphans"),
		RenewVolumes:  rapid.Bool().Draw(t, "renew volumes"),
		NoDeps:        rapid.IntRange(0, 4).Draw(t, "no deps") == 0,
		Parallel:      rapid.SampledFrom([]int{0, 1, 3}).Draw(t, "parallel"),
	}
	o.RecreateDependencies = o.Recreate
	if rapid.IntRange(0, 3).Draw(t, "partial") == 0 {
		o.Services = []string{rapid.SampledFrom(p.ServiceNames()).Draw(t, "which")}
	}
	return o
}

// life is a machine with one project that things happen to.
type life struct {
	*rapid.T
	w         *sim
	untouched func() error
	stored    *Goal
	was       *compose.Project
}

func newLife(t *rapid.T) *life {
	l := &life{T: t, w: newSim()}
	l.untouched = l.w.foreign()
	l.w.image("busybox", "sha256:1")
	l.w.image("nginx", "sha256:2")
	return l
}

// suit has the containers of a project behave as their dependents need them to.
func (l *life) suit(p *compose.Project) {
	l.w.behave = map[string]string{}
	for _, s := range p.Services {
		for name, d := range s.DependsOn {
			switch d.Condition {
			case compose.ConditionHealthy:
				if l.w.behave[name] == "" {
					l.w.behave[name] = "check"
				}
			case compose.ConditionCompleted:
				l.w.behave[name] = "exit 0"
			}
		}
	}
}

// ask is what a call does up to its plan. ok is false if the goal is refused,
// which is right in two cases: a service to be made shares a namespace of one
// that is to have no replicas, or an orphan is in the way.
func (l *life) ask(asked Goal) (g Goal, plan Plan, ok bool) {
	goals := []Goal{asked}
	if l.stored != nil {
		goals = append(goals, *l.stored)
	}
	have := l.w.look(goals...)
	g = Merge(l.stored, asked, have)
	if _, err := Reconcile(g, have); err != nil && (strings.Contains(err.Error(), "shares a namespace") || strings.Contains(err.Error(), "not part of what is wanted")) {
		return g, plan, false
	}
	l.stored = &g
	return g, l.reconcile(g, have), true
}

// reconcile is Reconcile, held to its own laws: it writes to nothing it was
// given, and the order of what it is shown is of no matter.
func (l *life) reconcile(g Goal, have State) Plan {
	have.Was = l.was
	before, states := fmt.Sprintf("%#v", g), fmt.Sprintf("%#v", have)
	plan, err := Reconcile(g, have)
	if err != nil {
		l.Fatalf("%v", err)
	}
	if after := fmt.Sprintf("%#v", g); after != before {
		l.Fatalf("the goal was written to:\n%s\n%s", before, after)
	}
	if after := fmt.Sprintf("%#v", have); after != states {
		l.Fatalf("the state was written to:\n%s\n%s", states, after)
	}
	mixed := have
	mixed.Containers, mixed.Networks, mixed.Volumes = slices.Clone(have.Containers), slices.Clone(have.Networks), slices.Clone(have.Volumes)
	rand.Shuffle(len(mixed.Containers), reflect.Swapper(mixed.Containers))
	rand.Shuffle(len(mixed.Networks), reflect.Swapper(mixed.Networks))
	rand.Shuffle(len(mixed.Volumes), reflect.Swapper(mixed.Volumes))
	again, err := Reconcile(g, mixed)
	if err != nil || again.String() != plan.String() {
		l.Fatalf("the same goal and state gave two plans:\n%s\n%s%v", plan, again, err)
	}
	for i, s := range plan.Steps {
		for _, id := range s.After {
			if id <= 0 || id >= s.ID {
				l.Fatalf("step %d comes after %d, which is not before it:\n%s", s.ID, id, plan)
			}
		}
		if s.ID != i+1 || s.Why == "" {
			l.Fatalf("step %d is %+v", i+1, s)
		}
	}
	return plan
}

// watch has every start of a container checked against what its service was
// promised.
func (l *life) watch(g Goal, then func(part, object string) error) {
	had := map[string]int{}
	for _, c := range l.w.containers {
		if c.present() {
			had[c.Service]++
		}
	}
	l.w.fault = func(part, object string) error {
		if then != nil {
			if err := then(part, object); err != nil {
				return err
			}
		}
		if part == "start" && !g.IsDown() {
			startLaws(l.w, &g, l.w.named(object), had, nil)
		}
		return nil
	}
}

// startLaws holds the start of a container to what its service was promised:
// no more replicas than were there or are wanted, and none before what it
// depends on, unless something has happened to that meanwhile.
func startLaws(w *sim, g *Goal, c *Container, had map[string]int, broken map[string]bool) {
	running := 1
	for _, other := range w.containers {
		if other.Service == c.Service && other.Project == c.Project && other.present() && !other.OneOff {
			running++
		}
	}
	most := max(had[c.Service], g.Services[c.Service].Replicas)
	if surge := batchSize(g, c.Service); running > most+surge {
		w.lawBroken("%s is started as one of %d, %d and a surge of %d wanted", c.Name, running, most, surge)
	}
	for name, d := range w.of(g.Project, c.Service).dependsOn {
		want, planned := g.Services[name]
		if !d.Required || !planned || want.Stopped || !g.inScope(name) || broken[name] {
			continue
		}
		parts, met := w.of(g.Project, name).parts, 0
		for _, o := range w.containers {
			if o.Project != c.Project || o.Service != name || o.OneOff || o.StartedAt.IsZero() {
				continue
			}
			if g.policy(name) != Never && !(o.Parts == parts || subset(parsePairs(o.Parts), parsePairs(parts), inPlace)) {
				continue // an old one, which is about to be replaced
			}
			switch d.Condition {
			case compose.ConditionHealthy:
				if o.Status != Running || o.Health != Healthy {
					continue
				}
			case compose.ConditionCompleted:
				if !o.completed() {
					continue
				}
			}
			met++
		}
		if all := want.Replicas - w.away(c.Project, name, want.Asked); met < all {
			w.lawBroken("%s is started while %d of %d replicas of %s are %s", c.Name, met, all, name, d.Condition)
		}
	}
}

// away is how many replicas of a service calls have removed since it was last
// asked for: nobody waits for those.
func (w *sim) away(project, service string, asked time.Time) int {
	numbers := map[int]bool{}
	for _, r := range w.removals[project] {
		if r.Service == service && r.At.After(asked) {
			numbers[r.Number] = true
		}
	}
	for _, c := range w.containers {
		if c.Project == project && c.Service == service {
			delete(numbers, c.Number)
		}
	}
	return len(numbers)
}

// finish walks without faults until nothing is left, which must be after one
// round, and looks whether the goal has come true.
func (l *life) finish(g Goal) {
	l.watch(g, nil)
	defer func() { l.w.fault = nil }()
	plan := l.reconcile(g, l.w.look(g))
	if err := Execute(context.Background(), l.w, plan, nil); err != nil {
		l.Fatalf("%v\nof\n%s\nafter\n%s", err, plan, strings.Join(l.w.log, "\n"))
	}
	have := l.w.look(g)
	if again := l.reconcile(g, have); !again.Empty() {
		l.Fatalf("when all steps of\n%s\nhad succeeded there was left\n%s", plan, again)
	}
	if err := isTrue(l.w, g, have); err != nil {
		l.Fatalf("%v\nafter\n%s", err, plan)
	}
	l.check()
	l.was = g.Project
}

func (l *life) check() {
	if err := l.untouched(); err != nil {
		l.Fatalf("%v", err)
	}
	if len(l.w.broken) > 0 {
		l.Fatalf("%s\nin\n%s", strings.Join(l.w.broken, "\n"), strings.Join(l.w.log, "\n"))
	}
}

// isTrue says what of a goal has not come true.
func isTrue(machine *sim, g Goal, have State) error {
	machine.mu.Lock()
	defer machine.mu.Unlock()
	count, byName, kept := map[string]int{}, map[replicaKey]bool{}, false
	failed := machine.failed(&g, have)
	for _, c := range have.Containers {
		if c.Project != g.Project.Name || c.OneOff {
			continue
		}
		if g.IsDown() {
			if len(g.Known) > 0 && !slices.Contains(g.Known, c.Service) && !g.Options.RemoveOrphans {
				kept = true
				continue
			}
			return fmt.Errorf("%s is still there", c.Name)
		}
		w, wanted := g.Services[c.Service]
		if wanted && machine.of(g.Project, c.Service).job {
			continue // a run, and not what is wanted of it
		}
		key := replicaKey{c.Service, c.Number}
		if failed[key] && c.present() && c.Parts != machine.of(g.Project, c.Service).parts {
			continue // the one before it, which serves on
		}
		if byName[key] && wanted && !w.Stopped && g.inScope(c.Service) {
			return fmt.Errorf("two containers are number %d of %s", c.Number, c.Service)
		}
		byName[key] = true
		count[c.Service]++
		if !g.inScope(c.Service) || w.Stopped || !wanted {
			continue
		}
		if g.policy(c.Service) != Never {
			s := machine.of(g.Project, c.Service)
			if c.Parts != s.parts || c.Generation < w.Generation {
				return fmt.Errorf("%s is out of date", c.Name)
			}
			if !slices.Equal(c.Ports, s.ports) {
				return fmt.Errorf("%s has the ports %s, and should have %s", c.Name, c.Ports, s.ports)
			}
		}
		if !c.present() && !g.Options.NoStart && !c.FinishedAt.After(w.Asked) && !c.completed() {
			return fmt.Errorf("%s does not run: %+v", c.Name, c)
		}
	}
	for name, w := range g.Services {
		gone := map[int]bool{} // by calls since it was asked for
		for _, r := range have.Removals {
			if r.Service == name && r.At.After(w.Asked) && !byName[replicaKey{name, r.Number}] {
				gone[r.Number] = true
			}
		}
		all := w.Replicas - min(len(gone), w.Replicas)
		if count[name] > all && machine.of(g.Project, name).autoscaled && count[name] <= w.Replicas {
			all = count[name] // fewer are wanted by now, and it is as many without who has gone
		}
		if g.inScope(name) && !w.Stopped && count[name] != all {
			return fmt.Errorf("%s has %d replicas, %d wanted", name, count[name], all)
		}
	}
	for _, n := range have.Networks {
		if g.IsDown() && !kept && n.Project == g.Project.Name {
			return fmt.Errorf("network %s is still there", n.Name)
		}
	}
	for _, v := range have.Volumes {
		if g.IsDown() && !kept && g.Options.Volumes && v.Project == g.Project.Name {
			return fmt.Errorf("volume %s is still there", v.Name)
		}
	}
	return nil
}

// disturb does something to a container behind the scheduler's back.
func (l *life) disturb() {
	var own []*Container
	for _, c := range l.w.look(DownGoal("shop", Options{})).Containers {
		own = append(own, l.w.containers[c.ID])
	}
	if len(own) == 0 {
		return
	}
	c := rapid.SampledFrom(own).Draw(l.T, "whom")
	l.w.clock = l.w.clock.Add(time.Millisecond)
	switch what := rapid.SampledFrom([]string{"exit", "stop", "lose", "dead", "copy", "rename", "image"}).Draw(l.T, "happens"); what {
	case "exit":
		l.w.exit(c, 1)
	case "stop":
		l.w.exit(c, 143)
		c.Stopped = true
	case "lose":
		delete(l.w.containers, c.ID)
	case "dead":
		c.Status = Dead
	case "copy":
		twin := *c
		l.w.seq++
		twin.ID = fmt.Sprintf("c%04d", l.w.seq)
		twin.Name, twin.Created = twin.ID+"_"+c.Name, l.w.clock
		l.w.containers[twin.ID] = &twin
	case "rename":
		c.Name = "renamed_" + c.Name
	case "image":
		l.w.seq++
		l.w.image(c.Image, fmt.Sprintf("sha256:%d", l.w.seq))
	}
}

// anyCall draws what the user wants next.
func (l *life) anyCall(p *compose.Project) Goal {
	if l.stored != nil && rapid.IntRange(0, 3).Draw(l.T, "down") == 0 {
		return DownGoal("shop", Options{Volumes: rapid.Bool().Draw(l.T, "volumes"),
			RemoveOrphans: rapid.Bool().Draw(l.T, "remove orphans")})
	}
	g, err := NewGoal(p, anyOptions(l.T, p))
	if err != nil {
		l.Fatalf("%v", err)
	}
	return g
}

// TestLaws lives through calls, each of which may be broken off at any part of
// any action: by a failure of that part, or by the death of the process, in
// which every part after it fails. Whatever happened, the next walk of the same
// goal brings it about.
func TestLaws(t *testing.T) {
	for i := range 5 { // of 100 lives each, or what -rapid.checks says
		t.Run(fmt.Sprint(i), func(t *testing.T) { rapid.Check(t, live) })
	}
}

func live(t *rapid.T) {
	l := newLife(t)
	for i := range rapid.IntRange(1, 4).Draw(t, "calls") {
		p := anyProject(t)
		if i > 0 && rapid.Bool().Draw(t, "same project") && l.stored != nil {
			p = l.stored.Project
		}
		for range rapid.IntRange(0, 2).Draw(t, "disturbances") {
			l.disturb()
		}
		asked := l.anyCall(p)
		g, plan, ok := l.ask(asked)
		if !ok {
			continue
		}
		t.Logf("call: %s scope %v options %+v\n%s", asked.Project.Name, g.Scope, g.Options, plan)
		l.suit(g.Project)
		at, dies, parts := rapid.IntRange(0, 30).Draw(t, "fault at"), rapid.Bool().Draw(t, "dies"), 0
		l.watch(g, func(string, string) error {
			if parts++; parts == at || parts > at && dies && at > 0 {
				return errDead
			}
			return nil
		})
		err := Execute(context.Background(), l.w, plan, nil)
		if err != nil && !errors.Is(err, errDead) {
			t.Fatalf("%v\nof\n%s", err, plan)
		}
		l.check()
		l.finish(g)
		if g.IsDown() {
			l.stored = nil
		}
	}
}

// TestSchedulerSurvives is the same with whole schedulers in virtual time: a
// call is broken off by failures and by the death of the daemon, and the next
// daemon finishes what was asked without being asked again.
func TestSchedulerSurvives(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, drop := scratch(t)
		defer drop()
		rapid.SyncTest(t, func(t *rapid.T) {
			l := newLife(t)
			log := slog.New(slog.NewTextHandler(io.Discard, nil))
			p := anyProject(t)
			l.suit(p)
			l.w.pace = func(ctx context.Context, _, _ string) error {
				select {
				case <-time.After(10 * time.Millisecond):
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			for i := range rapid.IntRange(1, 3).Draw(t, "calls") {
				l.session(p, dir, log, i > 0)
			}
		})
	})
}

// session is one daemon that takes a call and may die of it, and the next one.
func (l *life) session(p *compose.Project, dir string, log *slog.Logger, mayDown bool) {
	s, err := Open(Config{Root: dir, Engine: l.w, Log: log})
	if err != nil {
		l.Fatalf("%v", err)
	}
	defer s.Close()
	at := rapid.IntRange(0, 25).Draw(l.T, "dies at")
	var parts int
	dead := false
	l.w.mu.Lock()
	l.w.fault = func(string, string) error {
		if parts++; at > 0 && parts >= at && !dead {
			dead = true
			s.cancel() // as in dying: nothing is written after it
		}
		if dead {
			return errDead
		}
		return nil
	}
	l.w.mu.Unlock()
	var g Goal
	if mayDown && rapid.Bool().Draw(l.T, "down") {
		g = DownGoal("shop", Options{Volumes: true})
	} else if g, err = NewGoal(p, Options{}); err != nil {
		l.Fatalf("%v", err)
	}
	err = s.Apply(context.Background(), g, nil)
	s.Close()
	if err != nil && !dead {
		l.Fatalf("%v", err)
	}
	l.w.fault = nil
	stored := s.stored("shop") // what is on disk

	s2, err := Open(Config{Root: dir, Engine: l.w, Log: log})
	if err != nil {
		l.Fatalf("%v", err)
	}
	defer s2.Close()
	time.Sleep(20 * time.Minute) // which is longer than a walk is tried again
	synctest.Wait()
	if stored != nil {
		if err := isTrue(l.w, stored.Goal, l.w.look(stored.Goal)); err != nil {
			l.Fatalf("long after the death: %v", err)
		}
		switch r := s2.stored("shop"); {
		case stored.Goal.IsDown() && r != nil:
			l.Fatalf("the goal of a down that is done is still stored: %+v", r)
		case !stored.Goal.IsDown() && (r == nil || r.Phase != Settled):
			l.Fatalf("long after the death the project is %+v", r)
		}
	}
	l.check()
}
