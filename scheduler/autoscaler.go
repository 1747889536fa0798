package scheduler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"gantry/compose"
)

// Meter tells what containers use.
type Meter interface {
	// Usage reads the counters of running containers, by id. Those that do not
	// run, or no longer, are missing from the answer.
	Usage(ctx context.Context, ids []string) (map[string]Usage, error)
}

// Usage is what a container has used, and what it may.
type Usage struct {
	At         time.Time
	CPU        time.Duration // since it was started
	Processors float64       // that it may use; 0: no limit
	Memory     uint64        // bytes, without what the kernel would give back at once
	MemoryMost uint64        // bytes that it may use; 0: no limit
}

// defaultMeasure is how often usage is measured.
const defaultMeasure = 15 * time.Second

// autoscaler measures the services that say so and changes how many replicas
// are wanted of them. While there are none it sleeps.
type autoscaler struct {
	s     *Scheduler
	meter Meter
	every time.Duration
	begin chan struct{} // holds one: there may be something to measure

	// Its goroutine's own.
	last map[string]Usage     // by container
	past map[string][]advised // by project and service

	mu     sync.Mutex
	busy   map[string]bool   // projects that are being changed
	failed map[string]failed // those that could not be
	advice map[string]string // by project and service: what the last measurement said
}

func newAutoscaler(s *Scheduler, m Meter, every time.Duration) *autoscaler {
	return &autoscaler{s: s, meter: m, every: cmp.Or(every, defaultMeasure), begin: make(chan struct{}, 1),
		last: map[string]Usage{}, past: map[string][]advised{}, busy: map[string]bool{}, failed: map[string]failed{}, advice: map[string]string{}}
}

// goalChanged wakes the autoscaler if a goal has something for it; it never blocks.
func (a *autoscaler) goalChanged(g Goal) {
	if a.meter == nil || g.IsDown() {
		return
	}
	for _, s := range g.traits() {
		if s.autoscale != nil {
			select {
			case a.begin <- struct{}{}:
			default:
			}
			return
		}
	}
}

func (a *autoscaler) run() {
	ctx := a.s.ctx
	for {
		select {
		case <-a.begin:
		case <-ctx.Done():
			return
		}
		for a.measure(ctx) {
			t := time.NewTimer(a.every)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				return
			}
		}
	}
}

// scaledService is a service whose replicas follow their usage.
type scaledService struct {
	project, service string
	rule             compose.Autoscale
	replicas         int // wanted now
}

func (s scaledService) key() string { return s.project + "/" + s.service }

// move is a change of the number of a service's replicas.
type move struct {
	service  string
	from, to int
	why      string
}

// measure looks at every such service once; false: there is none.
func (a *autoscaler) measure(ctx context.Context) bool {
	now := time.Now()
	last, past, said := map[string]Usage{}, map[string][]advised{}, map[string]string{}
	found := false
	for _, p := range a.s.all() {
		services, still := p.autoscaled()
		for _, s := range services {
			found = true
			past[s.key()], said[s.key()] = a.past[s.key()], a.advice[s.key()]
		}
		if len(services) == 0 || !still {
			continue
		}
		have, usage, err := a.look(ctx, p.name, services)
		if err != nil {
			a.s.log.Warn("measure what services use", "project", p.name, "error", err)
			continue
		}
		var moves []move
		for _, s := range services {
			n, why := advice(s.rule, s.replicas, a.loads(have, s.service, usage))
			var to int
			to, past[s.key()] = settled(s.rule, s.replicas, n, now, past[s.key()])
			said[s.key()] = why
			if to != s.replicas {
				moves = append(moves, move{s.service, s.replicas, to, why})
			}
		}
		maps.Copy(last, usage)
		if len(moves) > 0 {
			a.apply(p.name, moves)
		}
	}
	a.last, a.past = last, past
	a.mu.Lock()
	a.advice = said
	a.mu.Unlock()
	return found
}

// look reads what the running replicas of services have used.
func (a *autoscaler) look(ctx context.Context, project string, services []scaledService) (State, map[string]Usage, error) {
	have, err := a.s.engine.Observe(ctx, Look{Project: project})
	if err != nil {
		return State{}, nil, err
	}
	var ids []string
	for _, c := range have.Containers {
		if !c.OneOff && c.Status == Running && slices.ContainsFunc(services, func(s scaledService) bool { return s.service == c.Service }) {
			ids = append(ids, c.ID)
		}
	}
	usage, err := a.meter.Usage(ctx, ids)
	return have, usage, err
}

// loads are what the replicas of a service use. What a container uses of a
// processor is known once it has been measured twice.
func (a *autoscaler) loads(have State, service string, usage map[string]Usage) []replicaLoad {
	var all []replicaLoad
	for _, c := range have.Containers {
		if c.Service != service || c.OneOff || !c.present() {
			continue
		}
		l := replicaLoad{ready: c.ready(), cpu: unknown, memory: unknown}
		u, measured := usage[c.ID]
		if measured && u.MemoryMost > 0 {
			l.memory = 100 * float64(u.Memory) / float64(u.MemoryMost)
		}
		before, twice := a.last[c.ID]
		if took := u.At.Sub(before.At); measured && twice && took > 0 && u.CPU >= before.CPU { // less: it was started again
			l.cpu = 100 * float64(u.CPU-before.CPU) / float64(took) / cmp.Or(u.Processors, 1)
		}
		all = append(all, l)
	}
	return all
}

// failed is how often in a row a project could not take its moves, and before
// when that is not tried again.
type failed struct {
	tries int
	again time.Time
}

// errOvertaken: somebody else has said how many replicas there are to be.
var errOvertaken = errors.New("the number of replicas has been changed meanwhile")

// apply has the project take its moves, unless it is still about earlier ones.
func (a *autoscaler) apply(project string, moves []move) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.busy[project] || time.Now().Before(a.failed[project].again) {
		return
	}
	a.busy[project] = true
	a.s.work.Go(func() {
		defer func() {
			a.mu.Lock()
			delete(a.busy, project)
			a.mu.Unlock()
		}()
		r := Revision{Kind: KindAutoscale, At: time.Now(), Outcome: Done}
		for _, m := range moves {
			r.Services = append(r.Services, m.service)
			r.Changes = append(r.Changes, fmt.Sprintf("%s: replicas %d → %d: %s", m.service, m.from, m.to, m.why))
		}
		err := a.s.call(project, &call{ctx: a.s.ctx, unasked: true, change: func(stored *Goal, _ State) (Goal, error) { return moved(stored, moves) }})
		if errors.Is(err, errOvertaken) || a.s.ctx.Err() != nil {
			return // the next daemon goes on with it
		}
		first := a.tried(project, err)
		if r.Took = time.Since(r.At); err != nil {
			r.Outcome, r.Error = NotDone, err.Error()
		}
		a.s.log.Info("autoscale", "project", project, "change", strings.Join(r.Changes, "; "), "error", err)
		if err == nil || first { // what fails again and again is worth one entry
			a.s.remember(project, r)
		}
	})
}

// tried remembers how long a project is left alone after a failure, and says
// whether it is the first in a row.
func (a *autoscaler) tried(project string, err error) (first bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil {
		delete(a.failed, project)
		return false
	}
	tries := a.failed[project].tries + 1
	a.failed[project] = failed{tries, time.Now().Add(delay(tries))}
	return tries == 1
}

// moved is a goal after the moves that still start where they did. It is not a
// call that asks for a service: what was stopped stays so.
func moved(stored *Goal, moves []move) (Goal, error) {
	if stored == nil || stored.IsDown() {
		return Goal{}, errOvertaken
	}
	g := stored.clone()
	// The number is changed and nothing else: an update has to be called for.
	g.Options, g.Scope = Options{NoDeps: true, Recreate: Never, RecreateDependencies: Never}, nil
	for _, m := range moves {
		w, ok := g.Services[m.service]
		if !ok || w.Stopped || w.Replicas != m.from {
			continue
		}
		w.Replicas = m.to
		g.Services[m.service] = w
		g.Scope = append(g.Scope, m.service)
	}
	if len(g.Scope) == 0 {
		return Goal{}, errOvertaken
	}
	slices.Sort(g.Scope)
	g.Options.Services = slices.Clone(g.Scope)
	return g, nil
}

// status tells of a project's services what the last measurement said.
func (a *autoscaler) status(st *ProjectStatus, g *Goal) {
	if g.IsDown() {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range st.Services {
		s := &st.Services[i]
		rule := autoscaled(g.Project.Services[s.Name])
		if rule == nil {
			continue
		}
		s.Autoscale = fmt.Sprintf("%d to %d", rule.Min, rule.Max)
		switch said := a.advice[st.Name+"/"+s.Name]; {
		case s.Wanted == 0:
			s.Autoscale += ", switched off"
		case said != "":
			s.Autoscale += ", " + said
		}
	}
}

// autoscaled are the project's services whose replicas follow their usage, by
// name, and whether the project stands still: nothing is changed behind the
// back of a walk, or of who has to look into a failure.
func (p *project) autoscaled() (all []scaledService, still bool) {
	r := p.record()
	if r == nil || r.Goal.IsDown() {
		return nil, false
	}
	says := r.Goal.traits()
	for _, name := range sortedKeys(says) {
		w := r.Goal.Services[name]
		if rule := says[name].autoscale; rule != nil && w.Replicas > 0 && !w.Stopped {
			all = append(all, scaledService{p.name, name, *rule, w.Replicas})
		}
	}
	return all, r.Phase == Settled
}
