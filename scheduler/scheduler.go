package scheduler

import (
	"context"
	"errors"
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

	// Meter tells what containers use; nil: no service is scaled by it.
	Meter   Meter
	Measure time.Duration // how often that is looked at; 0: every 15 s

	// Spare gives up room that was kept on the disk for a full one, and says
	// whether there was any. Nil: none is kept.
	Spare func() bool
}

// Scheduler keeps goals and walks projects towards them, each project in a
// goroutine of its own. All methods are safe for concurrent use.
//
// Calls about one project take their turns, in the order they come; only a
// `down` does not wait for the walk under way but breaks it off. Different
// projects know nothing of each other.
type Scheduler struct {
	engine  Engine
	log     *slog.Logger
	store   shelf
	history chronicle
	spare   func() bool

	ctx    context.Context // done when closing
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	projects map[string]*project
	newer    map[string]error // goals a newer gantry wrote

	autoscaler *autoscaler
	timekeeper *timekeeper
}

// Open loads the goals and goes on with every walk that was broken off.
func Open(c Config) (*Scheduler, error) {
	st, err := openStore(c.Root)
	if err != nil {
		return nil, err
	}
	return open(c, st, &history{dir: st.dir})
}

func open(c Config, st shelf, h chronicle) (*Scheduler, error) {
	records, newer, err := st.load()
	if records == nil {
		return nil, err
	}
	if err != nil {
		c.Log.Error("some goals are lost", "error", err)
	}
	s := &Scheduler{engine: c.Engine, log: c.Log, store: st, history: h, spare: c.Spare, projects: map[string]*project{}, newer: newer}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.autoscaler, s.timekeeper = newAutoscaler(s, c.Meter, c.Measure), newTimekeeper(s)
	for name, r := range records {
		p := newProject(s, name)
		r.Goal = r.Goal.outlined()
		p.rec = &r
		if r.Phase == Walking {
			c.Log.Info("going on with a walk that was broken off", "project", name)
			p.next = time.Now()
		}
		p.held.look = time.Now() // much may have happened meanwhile
		s.begin(p)
		s.goalChanged(name, r.Goal)
	}
	s.work.Go(s.watch)
	s.work.Go(s.autoscaler.run)
	s.work.Go(s.timekeeper.run)
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
			s.timekeeper.happened(name)
		} else {
			s.engine.Forget(name)
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
	errLater    error = &refusal{"broken off by a later call", errdefs.ErrAborted}
)

// validName is what Compose allows as a project's name. It is also a file's.
var validName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*$`)

// maxName bounds a project's name: it is a file's, with something behind it.
const maxName = 200

func checkName(name string) error {
	switch {
	case !validName.MatchString(name):
		return invalid("project name %q: must be lower-case letters, digits, - and _, and begin with a letter or digit", name)
	case len(name) > maxName:
		return invalid("project name %s…: has %d characters, and may have %d; give a shorter one with -p", name[:40], len(name), maxName)
	}
	return nil
}

// call hands a call to the goroutine of its project and waits for the end.
func (s *Scheduler) call(name string, c *call) error {
	if err := checkName(name); err != nil {
		return err
	}
	p, err := s.enter(name)
	if err != nil {
		return err
	}
	defer s.leave(p)
	p.interrupt(1)
	defer p.interrupt(-1)
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

// goalChanged tells those who do something of their own about goals.
func (s *Scheduler) goalChanged(project string, g Goal) {
	s.autoscaler.goalChanged(g)
	s.timekeeper.goalChanged(project, g)
}

// all are the projects, sorted by name.
func (s *Scheduler) all() []*project {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*project
	for _, name := range sortedKeys(s.projects) {
		all = append(all, s.projects[name])
	}
	return all
}

// remember adds a revision to a project's history, with no goal to go back to.
func (s *Scheduler) remember(project string, r Revision) Revision {
	kept, err := s.history.append(project, r, nil)
	if err != nil {
		s.log.Warn("keep a history", "project", project, "error", err)
	}
	return kept
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
	return s.call(g.Project.Name, &call{ctx: ctx, kind: KindApply, look: []Goal{g}, urgent: g.IsDown(), report: report,
		change: func(stored *Goal, have State) (Goal, error) { return Merge(stored, g, have), nil }})
}

// Down is Apply of [DownGoal].
func (s *Scheduler) Down(ctx context.Context, project string, o Options, report func(Event)) error {
	return s.Apply(ctx, DownGoal(project, o), report)
}

// Scale changes how many replicas services have; what they depend on is
// brought up too unless o.NoDeps is set.
func (s *Scheduler) Scale(ctx context.Context, project string, replicas map[string]int, o Options, report func(Event)) error {
	names := sortedKeys(replicas)
	return s.change(ctx, KindScale, project, names, o, true, report, func(service string, w *Want) {
		if n, ok := replicas[service]; ok {
			w.Replicas = n
		}
	})
}

// Stop stops services, all if o.Services names none, dependents first. They
// stay stopped until they are started or applied again.
func (s *Scheduler) Stop(ctx context.Context, project string, o Options, report func(Event)) error {
	return s.change(ctx, "", project, o.Services, o, false, report, func(_ string, w *Want) { w.Stopped = true })
}

// Start starts services that were stopped, all if o.Services names none, with
// what they depend on unless o.NoDeps is set.
func (s *Scheduler) Start(ctx context.Context, project string, o Options, report func(Event)) error {
	return s.change(ctx, "", project, o.Services, o, true, report, func(_ string, w *Want) { w.Stopped = false })
}

// change changes what is wanted of services in the stored goal.
func (s *Scheduler) change(ctx context.Context, kind Kind, project string, names []string, o Options, deps bool, report func(Event), f func(string, *Want)) error {
	return s.call(project, &call{ctx: ctx, kind: kind, report: report, change: func(stored *Goal, have State) (Goal, error) {
		if stored == nil || stored.IsDown() {
			return Goal{}, notFound("project %s is not up; bring it up with `gantry up -d`", project)
		}
		g := stored.clone()
		for _, name := range names {
			if _, ok := g.Services[name]; !ok {
				return Goal{}, noService(project, name, sortedKeys(g.Services))
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
	if err := checkName(g.Project.Name); err != nil {
		return Plan{}, err
	}
	r := s.stored(g.Project.Name)
	return dryRun(ctx, s.engine, r, []Goal{g}, func(stored *Goal, have State) (Goal, error) { return Merge(stored, g, have), nil })
}

// dryRun plans. It holds an Observer and so cannot change anything.
func dryRun(ctx context.Context, o Observer, r *record, looks []Goal, change func(*Goal, State) (Goal, error)) (Plan, error) {
	if r != nil {
		looks = append(slices.Clone(looks), r.Goal)
	}
	look := LookFor(looks...)
	have, err := o.Observe(ctx, look)
	if err != nil {
		return Plan{}, fmt.Errorf("look at project %s: %w", look.Project, err)
	}
	_, plan, err := decide(r, have, change)
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

// History is what was changed of a project, the newest first; ErrNotFound if
// the project has neither a goal nor a history.
func (s *Scheduler) History(project string) ([]Revision, error) {
	if !validName.MatchString(project) {
		return nil, notFound("no project %q", project)
	}
	all, err := s.history.list(project)
	if err != nil {
		s.log.Warn("part of a history is lost", "project", project, "error", err)
	}
	if len(all) == 0 && s.stored(project) == nil {
		return nil, notFound("project %s is not up", project)
	}
	return all, nil
}

// Images are the ids of all images that may be asked for by them: those of goals,
// and of what the projects' histories can go back to. With an error it is not
// known which there are.
func (s *Scheduler) Images() (map[string]bool, error) {
	s.mu.Lock()
	projects := maps.Clone(s.projects)
	var errs []error
	for _, err := range s.newer {
		errs = append(errs, err)
	}
	s.mu.Unlock()
	ids := map[string]bool{}
	for name, p := range projects {
		kept, err := s.history.images(name)
		errs = append(errs, err)
		if r := p.record(); r != nil {
			kept = slices.AppendSeq(kept, maps.Values(r.Goal.Images))
		}
		for _, id := range kept {
			ids[id] = true
		}
	}
	return ids, errors.Join(errs...)
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
	if goal != nil {
		s.autoscaler.status(&st, goal)
		s.timekeeper.status(&st, goal)
	}
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
