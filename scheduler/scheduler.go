package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"sync"
	"time"

	"gantry/compose"

	"github.com/containerd/errdefs"
)

// Config is what a Scheduler stands on. It does not close the Engine.
type Config struct {
	Root   string // goals are kept below Root/projects
	Engine Engine
	Log    *slog.Logger
}

// Scheduler keeps goals and walks projects towards them, each project in a
// goroutine of its own. All methods are safe for concurrent use.
//
// Calls about one project take their turns, in the order they come; only a
// `down` does not wait for the walk under way but breaks it off. Different
// projects know nothing of each other.
type Scheduler struct {
	engine Engine
	log    *slog.Logger
	store  store

	ctx    context.Context // done when closing
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	projects map[string]*project
	newer    map[string]error // goals a newer gantry wrote
}

// Open loads the goals and goes on with every walk that was broken off.
func Open(c Config) (*Scheduler, error) {
	st, err := openStore(c.Root)
	if err != nil {
		return nil, err
	}
	records, newer, err := st.load()
	if records == nil {
		return nil, err
	}
	if err != nil {
		c.Log.Error("some goals are lost", "error", err)
	}
	s := &Scheduler{engine: c.Engine, log: c.Log, store: st, projects: map[string]*project{}, newer: newer}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	for name, r := range records {
		p := newProject(s, name)
		p.rec = &r
		if r.Phase == Walking {
			c.Log.Info("going on with a walk that was broken off", "project", name)
			p.next = time.Now()
		}
		s.begin(p)
	}
	s.work.Go(s.watch)
	return s, nil
}

// begin starts a project's goroutine; the caller holds mu or is alone.
func (s *Scheduler) begin(p *project) {
	s.projects[p.name] = p
	s.work.Go(p.loop)
}

// watch wakes projects to which something has happened.
func (s *Scheduler) watch() {
	for name := range s.engine.Watch(s.ctx) {
		s.mu.Lock()
		p := s.projects[name]
		s.mu.Unlock()
		if p != nil {
			p.wake()
		}
	}
}

// Close breaks off all walks and waits for the steps under way to end. What is
// unfinished goes on after the next Open.
func (s *Scheduler) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.work.Wait()
	return nil
}

var (
	errClosing  error = &refusal{"the daemon is stopping", errdefs.ErrUnavailable}
	errReplaced error = &refusal{"broken off by a later down", errdefs.ErrAborted}
)

// validName is what Compose allows as a project's name. It is also a file's.
var validName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*$`)

// call hands a call to the goroutine of its project and waits for the end.
func (s *Scheduler) call(name string, c *call) error {
	if !validName.MatchString(name) {
		return invalid("project name %q: must be lower-case letters, digits, - and _, and begin with a letter or digit", name)
	}
	p, err := s.enter(name)
	if err != nil {
		return err
	}
	defer s.leave(p)
	if c.urgent {
		p.hurry(1)
	}
	c.done = make(chan error, 1)
	select {
	case p.calls <- c: // it waits no longer
		return <-c.done
	case <-c.ctx.Done():
		err = context.Cause(c.ctx)
	case <-s.ctx.Done():
		err = errClosing
	}
	if c.urgent {
		p.hurry(-1)
	}
	return err
}

// enter finds the project, or begins it, and keeps it there until leave.
func (s *Scheduler) enter(name string) (*project, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosing
	}
	if err := s.newer[name]; err != nil {
		return nil, err
	}
	p := s.projects[name]
	if p == nil {
		p = newProject(s, name)
		s.begin(p)
	}
	p.users++
	return p, nil
}

// leave ends a project that has neither a goal nor a caller.
func (s *Scheduler) leave(p *project) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.users--; p.users == 0 && p.record() == nil {
		delete(s.projects, p.name)
		close(p.quit)
	}
}

// stored is the record of a project, nil if there is none.
func (s *Scheduler) stored(name string) *record {
	s.mu.Lock()
	p := s.projects[name]
	s.mu.Unlock()
	if p == nil {
		return nil
	}
	return p.record()
}

// Apply makes the goal the project's, merged as [Merge] says, and walks until
// nothing is left to do. The goal is stored before anything is done; a goal
// that is refused is not stored and changes nothing.
//
// What fails, or is interrupted because ctx is done, is the caller's to repeat:
// the goal stays, the project is [Failed], and nothing is tried again behind
// the caller's back. Only a walk the daemon itself broke off, by closing or
// dying, goes on without a caller; if that fails it is tried again, ever more
// rarely, and then given up.
//
// report, if not nil, hears of every plan and every step, one event at a time,
// and not after Apply has returned. It should be quick.
func (s *Scheduler) Apply(ctx context.Context, g Goal, report func(Event)) error {
	if g.Project == nil {
		return invalid("a goal needs a project")
	}
	return s.call(g.Project.Name, &call{ctx: ctx, look: []Goal{g}, urgent: g.IsDown(), report: report,
		change: func(stored *Goal, have State) (Goal, error) { return Merge(stored, g, have), nil }})
}

// Down is Apply of [DownGoal].
func (s *Scheduler) Down(ctx context.Context, project string, o Options, report func(Event)) error {
	return s.Apply(ctx, DownGoal(project, o), report)
}

// Scale changes how many replicas services have; what they depend on is
// brought up too unless o.NoDeps is set.
func (s *Scheduler) Scale(ctx context.Context, project string, replicas map[string]int, o Options, report func(Event)) error {
	names := slices.Sorted(maps.Keys(replicas))
	return s.change(ctx, project, names, o, true, report, func(service string, w *Want) {
		if n, ok := replicas[service]; ok {
			w.Replicas = n
		}
	})
}

// Stop stops services, all if o.Services names none, dependents first. They
// stay stopped until they are started or applied again.
func (s *Scheduler) Stop(ctx context.Context, project string, o Options, report func(Event)) error {
	return s.change(ctx, project, o.Services, o, false, report, func(_ string, w *Want) { w.Stopped = true })
}

// Start starts services that were stopped, all if o.Services names none, with
// what they depend on unless o.NoDeps is set.
func (s *Scheduler) Start(ctx context.Context, project string, o Options, report func(Event)) error {
	return s.change(ctx, project, o.Services, o, true, report, func(_ string, w *Want) { w.Stopped = false })
}

// change changes what is wanted of services in the stored goal.
func (s *Scheduler) change(ctx context.Context, project string, names []string, o Options, deps bool, report func(Event), f func(string, *Want)) error {
	return s.call(project, &call{ctx: ctx, report: report, change: func(stored *Goal, have State) (Goal, error) {
		if stored == nil || stored.IsDown() {
			return Goal{}, notFound("project %s is not up; bring it up with `gantry up -d`", project)
		}
		g := stored.clone()
		for _, name := range names {
			if _, ok := g.Services[name]; !ok {
				return Goal{}, noService(project, name, slices.Sorted(maps.Keys(g.Services)))
			}
		}
		g.Options, g.Scope = o, nil
		if len(names) > 0 {
			g.Options.Services, g.Scope = names, slices.Clone(names)
			if deps && !o.NoDeps {
				graph, err := compose.NewGraph(g.Project)
				if err != nil {
					return Goal{}, err
				}
				g.Scope = graph.Closure(names...)
			}
			slices.Sort(g.Scope)
		}
		for name, w := range g.Services {
			if g.inScope(name) {
				f(name, &w)
				g.Services[name] = w
			}
		}
		stamp(&g, have)
		return g, nil
	}})
}

// Plan is what Apply of the goal would do now.
func (s *Scheduler) Plan(ctx context.Context, g Goal) (Plan, error) {
	if g.Project == nil {
		return Plan{}, invalid("a goal needs a project")
	}
	r := s.stored(g.Project.Name)
	return dryRun(ctx, s.engine, r, g)
}

// dryRun plans. It holds an Observer and so cannot change anything.
func dryRun(ctx context.Context, o Observer, r *record, asked Goal) (Plan, error) {
	looks := []Goal{asked}
	if r != nil {
		looks = append(looks, r.Goal)
	}
	have, err := o.Observe(ctx, LookFor(looks...))
	if err != nil {
		return Plan{}, fmt.Errorf("look at project %s: %w", asked.Project.Name, err)
	}
	_, plan, err := decide(r, have, func(stored *Goal, have State) (Goal, error) { return Merge(stored, asked, have), nil })
	if err == nil {
		err = check(ctx, o, plan)
	}
	return plan, err
}

// Goal is the stored goal of a project, ErrNotFound if there is none. It holds
// secrets.
func (s *Scheduler) Goal(project string) (Goal, error) {
	r := s.stored(project)
	if r == nil {
		return Goal{}, notFound("project %s is not up", project)
	}
	return r.Goal.clone(), nil
}

// Status looks at one project, ErrNotFound if there is neither a goal nor a
// container.
func (s *Scheduler) Status(ctx context.Context, name string) (ProjectStatus, error) {
	s.mu.Lock()
	p := s.projects[name]
	s.mu.Unlock()
	st := ProjectStatus{Name: name}
	var goal *Goal
	if p != nil {
		goal = p.status(&st)
	}
	look := Look{Project: name}
	have, err := s.engine.Observe(ctx, look)
	if err != nil {
		return st, fmt.Errorf("look at project %s: %w", name, err)
	}
	st.count(goal, have)
	if goal == nil && len(st.Services) == 0 {
		return st, notFound("no project %s", name)
	}
	return st, nil
}

// Projects looks at all projects, sorted by name.
func (s *Scheduler) Projects(ctx context.Context) ([]ProjectStatus, error) {
	names, err := s.engine.Projects(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for projects: %w", err)
	}
	s.mu.Lock()
	for name := range s.projects {
		names = append(names, name)
	}
	s.mu.Unlock()
	slices.Sort(names)
	var all []ProjectStatus
	for _, name := range slices.Compact(names) {
		st, err := s.Status(ctx, name)
		if errdefs.IsNotFound(err) {
			continue // gone since
		}
		if err != nil {
			return nil, err
		}
		all = append(all, st)
	}
	return all, nil
}
