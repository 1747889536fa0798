package scheduler

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"syscall"
	"time"

	"gantry/compose"
)

// How a walk without a caller is tried again.
const (
	firstDelay = time.Second
	mostDelay  = 5 * time.Minute
	mostTries  = 10 // a quarter of an hour in all
)

// mostRounds bounds how often one walk plans anew. One round does the work, a
// second finds nothing to do; more are for a world that moves meanwhile.
const mostRounds = 16

// project is one project's goal and the goroutine that walks towards it. The
// goroutine alone writes; mu lets others read.
type project struct {
	s     *Scheduler
	name  string
	calls chan *call
	woken chan struct{} // holds one: something has happened
	quit  chan struct{} // closed when nobody needs the project any more
	users int           // callers; guarded by the Scheduler's mu

	mu       sync.Mutex
	rec      *record   // nil: no goal; the value is never written to
	next     time.Time // when an unfinished walk is tried again; zero: not
	err      string    // of the last try
	breakOff context.CancelCauseFunc
	urgent   int // downs that are waiting
	held     held

	ending bool // the last call only stops and removes: it may have the spare room

	// Of a walk without a caller.
	tries int
	last  time.Time // when the last try ended
	stuck string    // what was left to do then
}

// call is a change of the goal that somebody waits for.
type call struct {
	ctx    context.Context
	kind   Kind   // of the history's entry; "": none
	to     int    // revision that is gone back to
	look   []Goal // to be seen besides the stored one
	change func(stored *Goal, have State) (Goal, error)
	urgent bool
	// unasked: nobody has called. If it fails the goal is as it was, and the
	// project is held as before.
	unasked bool
	report  func(Event)
	done    chan error
	// instead is done at the call's turn and leaves the goal as it is.
	instead func(context.Context, *project) error
}

func newProject(s *Scheduler, name string) *project {
	return &project{s: s, name: name, calls: make(chan *call), woken: make(chan struct{}, 1), quit: make(chan struct{})}
}

// loop serves the project until it is no longer needed or the Scheduler
// closes. Whoever was promised an answer gets it.
func (p *project) loop() {
	for {
		var due <-chan time.Time
		stop := func() bool { return true }
		if next := p.due(); !next.IsZero() {
			t := time.NewTimer(time.Until(next))
			due, stop = t.C, t.Stop
		}
		select {
		case <-p.s.ctx.Done():
			stop()
			return
		case <-p.quit:
			stop()
			return
		case c := <-p.calls:
			if c.urgent {
				p.hurry(-1) // its turn has come; it must not break off the call after it
			}
			c.done <- p.serve(c)
			p.heldAgain()
		case <-p.woken:
			p.consider()
		case <-due:
			p.resume()
			p.hold()
		}
		stop()
	}
}

// wake tells the goroutine that something has happened; it never blocks.
func (p *project) wake() {
	select {
	case p.woken <- struct{}{}:
	default:
	}
}

// hurry counts the downs that wait, and breaks off the walk under way for one.
func (p *project) hurry(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.urgent += n
	if n > 0 && p.breakOff != nil {
		p.breakOff(errReplaced)
	}
}

// walking makes a context for a walk that ends when parent does, when the
// Scheduler closes, or when a down cannot wait.
func (p *project) walking(parent context.Context, urgent bool) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	stop := context.AfterFunc(p.s.ctx, func() { cancel(errClosing) })
	p.mu.Lock()
	defer p.mu.Unlock()
	if !urgent {
		p.breakOff = cancel
		if p.urgent > 0 {
			cancel(errReplaced)
		}
	}
	return ctx, func() {
		stop()
		cancel(nil)
		p.mu.Lock()
		p.breakOff = nil
		p.mu.Unlock()
	}
}

func (p *project) record() *record {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rec
}

// status fills in what the project knows of itself.
func (p *project) status(st *ProjectStatus) *Goal {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rec == nil {
		return nil
	}
	g := &p.rec.Goal
	st.Phase, st.Error, st.Next = p.rec.Phase, p.rec.Error, p.next
	if p.err != "" {
		st.Error = p.err
	}
	p.held.status(st)
	st.Down, st.Dir, st.Files = g.IsDown(), g.Project.WorkingDir, slices.Clone(g.Project.ComposeFiles)
	return g
}

// keep stores a record, on disk first.
func (p *project) keep(r record) error {
	r.Goal = r.Goal.outlined()
	err := p.s.store.save(p.name, r)
	if errors.Is(err, syscall.ENOSPC) && p.ending && p.s.spare != nil && p.s.spare() {
		err = p.s.store.save(p.name, r)
	}
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.rec, p.next, p.err = &r, time.Time{}, ""
	p.mu.Unlock()
	p.s.goalChanged(p.name, r.Goal)
	return nil
}

// forget is keep of nothing.
func (p *project) forget() error {
	if p.record() == nil {
		return nil
	}
	if err := p.s.timekeeper.forget(p.name); err != nil {
		return err
	}
	if err := p.s.history.forget(p.name); err != nil { // first: while there is a goal it is tried again
		return err
	}
	if err := p.s.store.remove(p.name); err != nil {
		return err
	}
	p.s.engine.Forget(p.name)
	p.mu.Lock()
	p.rec, p.next, p.err = nil, time.Time{}, ""
	p.mu.Unlock()
	return nil
}

// before is the project to compare with: the one last brought to its goal.
func (r *record) before() *compose.Project {
	switch {
	case r == nil:
		return nil
	case r.Phase == Settled && !r.Goal.IsDown() || r.Was == nil && !r.Goal.IsDown():
		return r.Goal.Project
	}
	return r.Was
}

// decide is the goal after a call, and the plan for it.
func decide(r *record, have State, change func(*Goal, State) (Goal, error)) (Goal, Plan, error) {
	var stored *Goal
	if r != nil {
		stored = &r.Goal
		have.Was = r.before()
		if !r.Goal.IsDown() && r.Goal.Project != have.Was {
			have.Tried = r.Goal.Project
		}
	}
	goal, err := change(stored, have)
	if err != nil {
		return Goal{}, Plan{}, err
	}
	if r != nil && r.Phase == Walking && !goal.IsDown() {
		goal.Scope = union(stored.Scope, goal.Scope) // what was broken off is still to be done
	}
	note, err := admit(stored, goal, have)
	if err != nil {
		return Goal{}, Plan{}, err
	}
	goal = goal.outlined()
	plan, err := Reconcile(goal, have)
	if note != "" {
		plan.Notes = append([]string{note}, plan.Notes...)
	}
	return goal, plan, err
}

// union of two scopes, of which nil is everything.
func union(a, b []string) []string {
	if a == nil || b == nil {
		return nil
	}
	return slices.Compact(slices.Sorted(slices.Values(slices.Concat(a, b))))
}

// serve does a call.
func (p *project) serve(c *call) error {
	ctx, end := p.walking(c.ctx, c.urgent)
	defer end()
	if c.instead != nil {
		return c.instead(ctx, p)
	}
	r := p.record()
	looks := slices.Clone(c.look)
	if r != nil {
		looks = append(looks, r.Goal)
	}
	look := LookFor(looks...)
	look.Project = p.name
	have, err := p.observe(ctx, look)
	if err != nil {
		return err
	}
	goal, plan, err := decide(r, have, c.change)
	if err == nil {
		err = check(ctx, p.s.engine, plan)
	}
	if err != nil {
		return err
	}
	p.ending = ends(plan)
	next := record{Goal: goal, Was: r.before(), Phase: Walking, Unasked: c.unasked}
	if r != nil {
		before := *r
		p.ended(&before, Interrupted, errLater)
		next.Base = before.Base
		next.Repairing, next.Restarting = r.Repairing, halted(have, r.Restarting)
	}
	changed := r == nil || !same(r.Goal, goal)
	if plan.Empty() {
		tell(c.report, Event{Plan: &plan})
		if goal.IsDown() {
			return p.forget()
		}
		if next.Phase = Settled; !changed && r.Phase == Settled {
			return nil // not worth a write
		}
		if changed {
			p.begin(&next, c.kind, c.to, plan)
		}
		return p.settle(next)
	}
	if !goal.IsDown() && (changed || acts(plan)) {
		p.begin(&next, c.kind, c.to, plan)
	}
	if err := p.keep(next); err != nil {
		return err
	}
	p.tries = 0
	err = p.bring(ctx, &next, plan, c.report)
	var undone *rolledBack
	switch {
	case err == nil, errors.As(err, &undone):
		return err
	case p.s.ctx.Err() != nil || errors.Is(context.Cause(ctx), errReplaced):
		return err // the next daemon goes on with it; the down replaces it
	case ctx.Err() != nil:
		p.ended(&next, Interrupted, err)
	default:
		p.ended(&next, NotDone, err)
	}
	if c.unasked {
		return errors.Join(err, p.takeBack(*r, goal, plan, have.Now))
	}
	next.Phase, next.Error = Failed, err.Error()
	return errors.Join(err, p.keep(next))
}

// settle ends a walk that succeeded.
func (p *project) settle(r record) error {
	if r.Goal.IsDown() {
		return p.forget()
	}
	r.Phase, r.Error, r.Unasked = Settled, "", false
	p.ended(&r, Done, nil)
	return p.keep(r)
}

// same reports whether two goals differ in no more than when they were asked
// for and how.
func same(a, b Goal) bool {
	if len(a.Services) != len(b.Services) || !reflect.DeepEqual(a.Images, b.Images) || !slices.Equal(a.Known, b.Known) {
		return false
	}
	for name, w := range a.Services {
		v, ok := b.Services[name]
		w.Asked, v.Asked = time.Time{}, time.Time{}
		if !ok || v != w {
			return false
		}
	}
	return reflect.DeepEqual(a.Project, b.Project)
}

func tell(report func(Event), e Event) {
	if report != nil {
		report(e)
	}
}

func (p *project) observe(ctx context.Context, l Look) (State, error) {
	have, err := p.s.engine.Observe(ctx, l)
	if ctx.Err() != nil {
		return State{}, context.Cause(ctx)
	}
	if err != nil {
		return State{}, fmt.Errorf("look at project %s: %w", p.name, err)
	}
	return have, nil
}

// left is what there is to do now for a record.
func (p *project) left(ctx context.Context, r *record) (Plan, error) {
	look := LookFor(r.Goal)
	if r.Was != nil {
		look = LookFor(Goal{Project: r.Was}, r.Goal)
	}
	have, err := p.observe(ctx, look)
	if err != nil {
		return Plan{}, err
	}
	have.Was = r.Was
	if !r.Goal.IsDown() {
		pin(&r.Goal, r.Goal.Images, have) // what was pulled meanwhile
	}
	return Reconcile(r.Goal, have)
}

// walk executes the plan and whatever is found to be left after it.
func (p *project) walk(ctx context.Context, r *record, plan Plan, report func(Event)) error {
	for range mostRounds {
		tell(report, Event{Plan: &plan})
		if err := Execute(ctx, p.s.engine, plan, report); err != nil {
			return err
		}
		before := plan.String()
		var err error
		if plan, err = p.left(ctx, r); err != nil || !acts(plan) {
			return err
		}
		if plan.String() == before {
			break
		}
	}
	return fmt.Errorf("project %s does not settle: when all steps had succeeded there was left:\n%s", p.name, plan)
}

// acts reports whether a plan does more than wait and what may fail.
func acts(p Plan) bool {
	return slices.ContainsFunc(p.Steps, func(s Step) bool {
		_, await := s.Do.(Await)
		return !await && !s.Optional
	})
}

// ends reports whether a plan does nothing but stop and remove.
func ends(p Plan) bool {
	return len(p.Steps) > 0 && !slices.ContainsFunc(p.Steps, func(s Step) bool {
		verb := s.Do.What().Verb
		return verb != "stop" && verb != "remove"
	})
}

// resume goes on with a walk that has no caller.
func (p *project) resume() {
	r := p.record()
	if r == nil || r.Phase != Walking {
		return
	}
	ctx, end := p.walking(p.s.ctx, false)
	defer end()
	next := *r
	plan, err := p.left(ctx, &next)
	switch {
	case err != nil:
	case !acts(plan):
		err = p.settle(next)
	default:
		err = p.bring(ctx, &next, plan, func(e Event) {
			switch {
			case e.Plan != nil:
				p.s.log.Info("walking", "project", p.name, "plan", *e.Plan)
			case e.Progress == StepDone || e.Progress == StepFailed:
				p.s.log.Info(e.What.Verb+" "+e.What.Kind, "project", p.name, "name", e.What.Name, "took", e.Took, "error", e.Err)
			}
		})
	}
	var undone *rolledBack
	if err == nil || p.s.ctx.Err() != nil || errors.Is(context.Cause(ctx), errReplaced) || errors.As(err, &undone) {
		return
	}
	p.tries++
	p.s.log.Warn("a walk has failed", "project", p.name, "try", p.tries, "error", err)
	if p.tries >= mostTries || len(brokenUpdates(err)) > 0 {
		p.ended(&next, NotDone, err)
		if next.Phase, next.Error = Failed, err.Error(); next.Unasked {
			next.Phase, next.Error, next.Unasked = Settled, "", false // nobody would look into it
		}
		if err := p.keep(next); err == nil {
			return
		}
	}
	p.last = time.Now()
	p.stuck = ""
	if plan, perr := p.left(ctx, &next); perr == nil {
		p.stuck = plan.String()
	}
	p.mu.Lock()
	p.next, p.err = p.last.Add(delay(p.tries)), err.Error()
	p.mu.Unlock()
}

// delay before the try after so many.
func delay(tries int) time.Duration {
	return min(firstDelay<<min(tries-1, 20), mostDelay)
}

// consider tries an unfinished walk before its time if something other than
// our own last try has changed what is left to do.
func (p *project) consider() {
	r := p.record()
	if r != nil && r.Phase == Settled {
		p.holdSoon()
		return
	}
	if r == nil || r.Phase != Walking || p.next.IsZero() || time.Since(p.last) < firstDelay {
		return
	}
	ctx, end := p.walking(p.s.ctx, false)
	next := *r
	plan, err := p.left(ctx, &next)
	end()
	if err == nil && plan.String() != p.stuck {
		p.resume()
	}
}
