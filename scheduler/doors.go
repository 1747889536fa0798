package scheduler

import (
	"fmt"
	"slices"

	"gantry/compose"
)

// doorsOf are the steps a replica of the service must come after because of
// what the service depends on: every replica of a dependency, not the last one
// only.
func (p *planner) doorsOf(s *service) []int {
	if p.want.Options.NoStart {
		return nil // what does not run needs nobody
	}
	if s.doors == nil {
		doors := []int{}
		for _, e := range p.outline.graph.Dependencies(s.name) {
			if d := p.services[e.Service]; d != nil && d.runs() {
				doors = append(doors, p.door(s, d, e)...)
			}
		}
		s.doors = &doors
	}
	return *s.doors
}

// door is what stands between a service and one of its dependencies.
func (p *planner) door(s, d *service, e compose.Edge) []int {
	why := s.name + " depends on it"
	if p.holding && len(d.acted) == 0 {
		return nil // as it is, the service ran with it
	}
	switch e.Condition {
	case compose.ConditionHealthy:
		if !d.all(func(c *Container) bool { return c.Status == Running && c.Health == Healthy }) {
			return []int{p.await(d, IsHealthy, !e.Required, why)}
		}
	case compose.ConditionCompleted:
		if !d.all((*Container).completed) {
			return []int{p.await(d, IsCompleted, !e.Required, why)}
		}
	default:
		if e.Required {
			return slices.Concat(d.updated, d.acted)
		}
		if len(d.acted) > 0 {
			return []int{p.await(d, IsStarted, true, why)}
		}
	}
	if !e.Required {
		return nil
	}
	return d.updated // so that what it joins, say, is there
}

// all reports whether every replica is there, is left as it is and meets the
// condition.
func (s *service) all(ok func(*Container) bool) bool {
	return !slices.ContainsFunc(s.replicas, func(r replica) bool { return r.fresh || r.acted || !ok(r.old) })
}

// await plans to wait for all replicas of a service; who needs the same shares
// the step.
func (p *planner) await(d *service, c Condition, optional bool, why string) int {
	key := awaitKey{d.name, c, optional}
	if step, ok := p.awaits[key]; ok {
		return step
	}
	spec := AwaitSpec{Project: p.p.Name, Service: d.name, Condition: c}
	for _, r := range d.replicas {
		spec.Numbers = append(spec.Numbers, r.number)
	}
	spec.IDs = d.known(spec.Numbers)
	after := slices.Concat(d.cleared, d.updated, d.acted)
	if c == IsReady {
		after = append(after, d.rolled...) // what fails there is said once
	}
	p.awaits[key] = p.add(Step{Do: Await{spec}, Why: why, After: after, Optional: optional})
	return p.awaits[key]
}

// awaitJobs plans to wait for the jobs that run again, also where everybody
// who waits for them runs already: that they fail must not go unsaid.
func (p *planner) awaitJobs() error {
	if p.want.Options.NoStart || p.want.Options.NoDeps {
		return nil
	}
	for _, s := range p.order {
		if !s.runs() {
			continue
		}
		for _, e := range p.outline.graph.Dependencies(s.name) {
			d := p.services[e.Service]
			if d == nil || e.Condition != compose.ConditionCompleted || !d.runs() || len(d.acted) == 0 {
				continue
			}
			if _, ok := p.awaits[awaitKey{d.name, IsCompleted, false}]; !ok {
				p.await(d, IsCompleted, !e.Required, s.name+" depends on it")
			}
		}
	}
	return nil
}

// awaitAll plans, where the user asked to wait, until services are ready and
// jobs have ended well.
func (p *planner) awaitAll() error {
	if !p.want.Options.Wait || p.want.Options.NoStart {
		return nil
	}
	for _, s := range p.order {
		if !s.runs() {
			continue
		}
		condition, met := IsReady, (*Container).ready
		switch {
		case p.jobs[s.name]:
			condition, met = IsCompleted, (*Container).completed
		case runsOnce(s.conf):
			// Nobody has said whether it is a service or a job: it may end well.
			met = func(c *Container) bool { return c.ready() || c.completed() }
		}
		_, healthy := p.awaits[awaitKey{s.name, IsHealthy, false}]
		if !s.all(met) && (condition != IsReady || !healthy) {
			p.await(s, condition, false, "asked to wait")
		}
	}
	return nil
}

// dependencyRenewed says which dependency declared with restart: true was made
// anew since the container started, "" if none. Only when all its replicas are
// younger was it: one more of them is no reason.
func (p *planner) dependencyRenewed(s *service, c *Container) string {
	if p.done(s, c) || c.StartedAt.IsZero() {
		return ""
	}
	for _, e := range p.outline.graph.Dependencies(s.name) {
		d := p.services[e.Service]
		if !e.Restart || d == nil || len(d.replicas) == 0 {
			continue
		}
		if !slices.ContainsFunc(d.replicas, func(r replica) bool { return !r.fresh && !r.old.Created.After(c.StartedAt) }) {
			return e.Service + " is new"
		}
	}
	return ""
}

// joins names the containers whose namespaces a new replica shares, and the
// steps it must come after so that they are there.
func (p *planner) joins(s *service) (map[string]string, []int, error) {
	targets := joinTargets(s.conf)
	if len(targets) == 0 {
		return nil, nil, nil
	}
	names, after := map[string]string{}, []int(nil)
	for _, t := range targets {
		r, ok := p.joined(t)
		if !ok {
			return nil, nil, conflict("service %s shares a namespace of %s, which has no container; bring %s up as well", s.name, t, t)
		}
		names[t] = r.name
		if d := p.services[t]; d != nil {
			after = slices.Concat(after, d.acted, d.cleared)
		}
	}
	return names, after, nil
}

// joined is the replica of a service that others share namespaces with: the
// first.
func (p *planner) joined(name string) (replica, bool) {
	if d := p.services[name]; d != nil && !d.want.Stopped {
		if len(d.replicas) == 0 {
			return replica{}, false
		}
		return d.replicas[0], true
	}
	for _, c := range p.containers[name] {
		if !c.broken() {
			return replica{number: c.Number, name: c.Name, old: c}, true
		}
	}
	return replica{}, false
}

// joinChanged says which container the replica shares a namespace with is
// another one now, "" if none.
func (p *planner) joinChanged(s *service, c *Container) string {
	for _, t := range joinTargets(s.conf) {
		r, ok := p.joined(t)
		if ok && (r.fresh || len(c.Joins) > 0 && !slices.Contains(c.Joins, r.old.ID)) {
			return fmt.Sprintf("shares a namespace of %s, which is new", r.name)
		}
	}
	return ""
}

// stopServices stops what is wanted stopped, dependents first.
func (p *planner) stopServices() error {
	stops := map[string][]int{}
	for _, s := range slices.Backward(p.order) {
		if !s.want.Stopped {
			continue
		}
		var after []int
		for _, name := range p.outline.graph.Dependents(s.name) {
			after = append(after, stops[name]...)
		}
		for _, c := range p.containers[s.name] {
			if !c.present() || p.stopping[c.ID] != 0 || p.doomed[c.ID] != 0 {
				continue
			}
			stops[s.name] = append(stops[s.name], p.add(Step{After: after, Why: "asked to",
				Do: Stop{ID: c.ID, Name: c.Name, Service: s.name, Timeout: p.want.Options.Timeout}}))
		}
		if len(stops[s.name]) == 0 {
			stops[s.name] = after // whoever comes after these passes through
		}
	}
	return nil
}
