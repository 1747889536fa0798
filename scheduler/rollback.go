package scheduler

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"gantry/compose"

	"github.com/hashicorp/go-multierror"
)

// begin notes in the history that a change begins. A history that cannot be
// written keeps no change from being made.
func (p *project) begin(r *record, kind Kind, to int, plan Plan) {
	if kind == "" {
		return
	}
	rev := Revision{Kind: kind, At: time.Now(), To: to, Outcome: UnderWay}
	rev.Services, rev.Changes = changes(plan)
	rev, err := p.s.history.append(p.name, rev, &r.Goal)
	if err != nil {
		p.s.log.Error("a change is not in the history", "project", p.name, "error", err)
		return
	}
	r.Revision = rev.Number
}

// ended notes in the history how the change under way has ended. A goal that
// came about is what a later change that fails goes back to.
func (p *project) ended(r *record, how Outcome, why error) {
	if r.Revision == 0 {
		return
	}
	err := p.s.history.amend(p.name, r.Revision, func(rev *Revision) {
		rev.Outcome, rev.Took = how, time.Since(rev.At)
		if why != nil {
			rev.Error = why.Error()
		}
	})
	if err != nil {
		p.s.log.Error("the end of a change is not in the history", "project", p.name, "error", err)
	}
	if how == Done {
		r.Base = r.Revision
	}
	r.Revision = 0
}

// takeBack gives up a goal that nobody has called for: the one before it stands,
// and what was done already is undone by a walk of its own. Whom the plan has
// stopped since, and not removed, a repair starts again: for all others a call
// might have stopped it.
func (p *project) takeBack(before record, given Goal, plan Plan, since time.Time) error {
	for _, s := range plan.Steps {
		if a, ok := s.Do.(Remove); ok && a.Running && !slices.Contains(before.Restarting, a.ID) {
			before.Restarting = append(slices.Clone(before.Restarting), a.ID)
		}
	}
	if len(before.Restarting) > 0 && before.Repairing.IsZero() {
		before.Repairing = since
	}
	if before.Phase == Settled {
		before.Goal = before.Goal.clone()
		before.Goal.Scope, before.Goal.Options = given.Scope, given.Options
		before.Phase, before.Unasked = Walking, true
	}
	if err := p.keep(before); err != nil || before.Phase != Walking {
		return err
	}
	p.tries = 0
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = time.Now()
	return nil
}

// bring walks to the goal of a record, which is stored, and back if its update
// fails and failure_action says so. When it returns without an error the
// project is settled.
func (p *project) bring(ctx context.Context, r *record, plan Plan, report func(Event)) error {
	err := p.walk(ctx, r, plan, report)
	if err == nil {
		return p.settle(*r)
	}
	if ctx.Err() != nil || p.s.ctx.Err() != nil || !goesBack(r.Goal, err) {
		return err
	}
	if r.Base == 0 {
		return fmt.Errorf("%w\nfailure_action is rollback, but there is nothing to go back to", err)
	}
	base := r.Base
	if berr := p.goBack(ctx, r, err, report); berr != nil {
		return fmt.Errorf("%w\nrolling back to revision %d failed: %w", err, base, berr)
	}
	return &rolledBack{err, base}
}

// rolledBack is the failure of an update after which all is as it was.
type rolledBack struct {
	err error
	to  int
}

func (r *rolledBack) Error() string {
	return fmt.Sprintf("%v\nrolled back to revision %d", r.err, r.to)
}
func (r *rolledBack) Unwrap() error { return r.err }

// brokenUpdates are the services whose update has failed.
func brokenUpdates(err error) (services []string) {
	var u *brokenUpdate
	var all *multierror.Error
	if errors.As(err, &all) {
		for _, err := range all.Errors {
			if errors.As(err, &u) {
				services = append(services, u.service)
			}
		}
	}
	return services
}

// goesBack reports whether what has failed is to be undone.
func goesBack(g Goal, err error) bool {
	return !g.Options.Rollback && slices.ContainsFunc(brokenUpdates(err), func(name string) bool {
		d := g.Project.Services[name].Deploy
		return d != nil && d.UpdateConfig != nil && d.UpdateConfig.FailureAction == compose.FailureRollback
	})
}

// goBack makes the goal that came about last the project's again.
func (p *project) goBack(ctx context.Context, r *record, why error, report func(Event)) error {
	base, err := p.s.history.goal(p.name, r.Base)
	if err != nil {
		return err
	}
	have, err := p.observe(ctx, LookFor(base, r.Goal))
	if err != nil {
		return err
	}
	goal := back(r.Goal, base, have)
	goal.Options = Options{Rollback: true, Timeout: r.Goal.Options.Timeout, Parallel: r.Goal.Options.Parallel}
	have.Was, have.Tried = r.Was, r.Goal.Project
	plan, err := Reconcile(goal, have)
	if err != nil {
		return err
	}
	p.ended(r, RolledBack, why)
	r.Goal, r.Phase = goal, Walking
	p.begin(r, KindRollback, r.Base, plan)
	if err := p.keep(*r); err != nil {
		return err
	}
	if err := p.walk(ctx, r, plan, report); err != nil {
		return err
	}
	return p.settle(*r)
}

// back is the whole goal to before, after now was tried. Services that came
// with now go; those that differ, or are on a network that does, are asked for
// anew.
func back(now, before Goal, have State) Goal {
	g := before.clone()
	g.Scope = nil
	var differ []string
	for _, name := range slices.Sorted(maps.Keys(now.Services)) {
		w, kept := g.Services[name]
		switch {
		case !kept:
			g.Project.Services[name] = now.Project.Services[name]
			g.Services[name] = Want{Asked: now.Services[name].Asked, Generation: now.Services[name].Generation}
		case sameService(now, before, name) && sameNetworks(now, before, name) && w.Stopped == now.Services[name].Stopped:
			w.Asked = later(w.Asked, now.Services[name].Asked)
			g.Services[name] = w
		default:
			differ = append(differ, name)
		}
	}
	if len(differ) > 0 {
		g.Scope = differ
		g.Options.NoStart = false // what now has stopped runs again, however before was asked for
		stamp(&g, have)
		g.Scope = nil
	}
	return g
}

// sameService reports whether two goals want the same of a service.
func sameService(a, b Goal, name string) bool {
	s, inA := a.Project.Services[name]
	t, inB := b.Project.Services[name]
	v, w := a.Services[name], b.Services[name]
	if !inA || !inB {
		return inA == inB
	}
	s.Name, t.Name = name, name
	return compose.HashIn(a.Project, s) == compose.HashIn(b.Project, t) && v.Replicas == w.Replicas && v.Generation == w.Generation &&
		a.Images[compose.ImageName(a.Project, s)] == b.Images[compose.ImageName(b.Project, t)]
}

// sameNetworks reports whether the networks that a service is on are defined
// alike in two goals: who changes one stops all that is on it.
func sameNetworks(a, b Goal, name string) bool {
	a, b = a.outlined(), b.outlined()
	s := b.traits()[name]
	return s == nil || !slices.ContainsFunc(s.keys, func(key string) bool {
		return a.outline.hashOfNetwork(key) != b.outline.hashOfNetwork(key)
	})
}

// Rollback goes back to an earlier revision: number to or, if that is 0, the
// last that came about and in which what was wanted was not what is wanted now.
// A rollback that did not come about is gone on with.
// If o.Services names some, those alone go back. It rolls out by
// rollback_config.
func (s *Scheduler) Rollback(ctx context.Context, project string, to int, o Options, report func(Event)) error {
	c, err := s.rollback(project, to, o)
	if err != nil {
		return err
	}
	c.ctx, c.report = ctx, report
	return s.call(project, c)
}

// PlanRollback is what Rollback would do now.
func (s *Scheduler) PlanRollback(ctx context.Context, project string, to int, o Options) (Plan, error) {
	c, err := s.rollback(project, to, o)
	if err != nil {
		return Plan{}, err
	}
	return dryRun(ctx, s.engine, s.stored(project), c.look, c.change)
}

func (s *Scheduler) rollback(project string, to int, o Options) (*call, error) {
	r := s.stored(project)
	if r == nil || r.Goal.IsDown() {
		return nil, notFound("project %s is not up", project)
	}
	for _, name := range o.Services {
		if _, ok := r.Goal.Services[name]; !ok {
			return nil, noService(project, name, slices.Sorted(maps.Keys(r.Goal.Services)))
		}
	}
	to, target, err := s.target(project, r.Goal, to, o.Services)
	if err != nil {
		return nil, err
	}
	o.Rollback = true
	return &call{kind: KindRollback, to: to, look: []Goal{target}, change: func(stored *Goal, have State) (Goal, error) {
		if stored == nil || stored.IsDown() {
			return Goal{}, notFound("project %s is not up", project)
		}
		if len(o.Services) > 0 {
			return backOf(*stored, target, to, o, have)
		}
		g := back(*stored, target, have)
		g.Options = o
		stamp(&g, have) // all of it is wanted: also what a call has stopped or removed
		return g, nil
	}}, nil
}

// target finds the revision to go back to.
func (s *Scheduler) target(project string, now Goal, to int, services []string) (int, Goal, error) {
	if to != 0 {
		g, err := s.history.goal(project, to)
		return to, g, err
	}
	all, err := s.history.list(project)
	if to := s.unfinished(project, all, services); to != 0 { // the same again, and not there and back
		if g, err := s.history.goal(project, to); err == nil {
			return to, g, nil
		}
	}
	for _, rev := range all {
		if !rev.Kept || rev.Outcome != Done {
			continue
		}
		g, gerr := s.history.goal(project, rev.Number)
		if gerr != nil {
			err = errors.Join(err, gerr)
			continue
		}
		if differs(now, g, services) {
			return rev.Number, g, nil
		}
	}
	if err != nil {
		return 0, Goal{}, err
	}
	what := "project " + project
	if len(services) > 0 {
		what = "service " + strings.Join(services, ", ")
	}
	return 0, Goal{}, notFound("%s has no earlier revision that came about and was another one; `gantry history` shows all", what)
}

// unfinished is where the last change went back to, if it was a rollback of
// these services that has not come about; else 0.
func (s *Scheduler) unfinished(project string, all []Revision, services []string) int {
	i := slices.IndexFunc(all, func(rev Revision) bool { return rev.Kept })
	if i < 0 || all[i].Kind != KindRollback || all[i].Outcome == Done || all[i].Outcome == RolledBack {
		return 0
	}
	g, err := s.history.goal(project, all[i].Number)
	if err != nil || !slices.Equal(slices.Sorted(slices.Values(g.Options.Services)), slices.Sorted(slices.Values(services))) {
		return 0
	}
	return all[i].To
}

// differs reports whether going back from one goal to another would change
// these services, or if none is named, anything.
func differs(now, before Goal, services []string) bool {
	if len(services) > 0 {
		return slices.ContainsFunc(services, func(name string) bool { return !sameService(now, before, name) })
	}
	for _, g := range []Goal{now, before} {
		for name := range g.Project.Services {
			if !sameService(now, before, name) && max(now.Services[name].Replicas, before.Services[name].Replicas) > 0 {
				return true
			}
		}
	}
	return !maps.EqualFunc(now.Project.Networks, before.Project.Networks, func(a, b compose.Network) bool { return compose.HashNetwork(a) == compose.HashNetwork(b) }) ||
		!maps.EqualFunc(now.Project.Volumes, before.Project.Volumes, func(a, b compose.Volume) bool { return compose.HashVolume(a) == compose.HashVolume(b) })
}

// backOf is the goal with some services as they were. What they share with
// others cannot go back without those.
func backOf(now, before Goal, revision int, o Options, have State) (Goal, error) {
	g := now.clone()
	g.Options, g.Scope = o, slices.Sorted(slices.Values(o.Services))
	p, was := g.Project, before.Project
	for _, name := range g.Scope {
		conf, ok := was.Services[name]
		if !ok {
			return Goal{}, notFound("revision %d has no service %s", revision, name)
		}
		conf.Name = name
		p.Services[name] = conf
		w := before.Services[name]
		w.Generation = max(w.Generation, now.Services[name].Generation)
		g.Services[name] = w
	}
	p.Networks, p.Volumes = over(was.Networks, p.Networks), over(was.Volumes, p.Volumes)
	for _, name := range g.Scope {
		conf := p.Services[name]
		for _, ref := range conf.Secrets {
			if p.Secrets[ref.Source].Content != was.Secrets[ref.Source].Content {
				if other := g.shares(func(s compose.Service) bool {
					return slices.ContainsFunc(s.Secrets, func(r compose.ServiceSecret) bool { return r.Source == ref.Source })
				}); other != "" {
					return Goal{}, together(name, other, "secret "+ref.Source)
				}
			}
			p.Secrets = over(p.Secrets, compose.Secrets{ref.Source: was.Secrets[ref.Source]})
		}
		for _, ref := range conf.Configs {
			if p.Configs[ref.Source].Content != was.Configs[ref.Source].Content {
				if other := g.shares(func(s compose.Service) bool {
					return slices.ContainsFunc(s.Configs, func(r compose.ServiceConfig) bool { return r.Source == ref.Source })
				}); other != "" {
					return Goal{}, together(name, other, "config "+ref.Source)
				}
			}
			p.Configs = over(p.Configs, compose.Configs{ref.Source: was.Configs[ref.Source]})
		}
		ref := compose.ImageName(p, conf)
		if g.Images[ref] != before.Images[ref] {
			if other := g.shares(func(s compose.Service) bool { return compose.ImageName(p, s) == ref }); other != "" {
				return Goal{}, together(name, other, "image "+ref)
			}
		}
		g.Images = over(g.Images, map[string]string{ref: before.Images[ref]})
		g.Sources = over(g.Sources, map[string]string{ref: before.Sources[ref]})
	}
	stamp(&g, have)
	return g, nil
}

// shares names a service outside the scope that uses something.
func (g Goal) shares(uses func(compose.Service) bool) string {
	for _, name := range g.Project.ServiceNames() {
		s := g.Project.Services[name]
		if s.Name = name; !g.inScope(name) && uses(s) {
			return name
		}
	}
	return ""
}

func together(name, other, what string) error {
	return conflict("service %s cannot go back alone: %s has changed since and is used by %s as well; go back with both", name, what, other)
}
