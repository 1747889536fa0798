package scheduler

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"gantry/compose"
)

// Repair is what must be done so that a project that was brought to its goal is
// there again: what was lost without a call, and nothing else. It is as pure as
// [Reconcile] and narrower. It makes containers that no longer exist, starts
// those that lost their process, replaces those whose namespace has gone with
// another, and restarts those whose dependency, declared with restart: true,
// was started anew. What a call has stopped, removed, added or changed is as
// somebody wants it, a process that has ended has had its run, and data is not
// made up.
//
// begun, if not zero, is when a repair was begun that nobody saw the end of:
// what was made since then and never started is its work, and it has stopped
// those of restarting that do not run.
//
// What cannot be repaired holds up nothing else: problems says what, and why.
func Repair(want Goal, have State, begun time.Time, restarting ...string) (plan Plan, problems []string, err error) {
	if want.IsDown() {
		return Plan{Project: want.Project.Name}, nil, nil
	}
	want = want.outlined()
	if want.outline.make(); want.outline.err != nil {
		return Plan{}, nil, want.outline.err
	}
	want.Scope = nil
	want.Options = Options{Recreate: Never, RecreateDependencies: Never, Parallel: want.Options.Parallel}
	p := newPlanner(want, have)
	p.holding, p.begun, p.restarting = true, begun, restarting
	for _, stage := range []func() error{p.chooseServices, p.planNetworks, p.planVolumes, p.planServices} {
		if err := stage(); err != nil {
			return Plan{}, nil, err
		}
	}
	p.plan.Notes = nil
	p.dropUnused()
	for _, c := range have.Containers {
		if c.Project == want.Project.Name && !c.OneOff && c.GaveUp != "" && !c.Stopped {
			p.problems = append(p.problems, c.Name+" "+c.GaveUp)
		}
	}
	slices.Sort(p.problems)
	return p.plan, slices.Compact(p.problems), nil
}

// withhold notes a replica that a call has taken away since its service was
// last asked for, and reports whether it is one.
func (p *planner) withhold(service string, number int, at time.Time) bool {
	w, wanted := p.want.Services[service]
	if !wanted || at.IsZero() || !at.After(w.Asked) {
		return false
	}
	p.withheld[service] = append(p.withheld[service], number)
	return true
}

// away are the numbers of replicas that a call has removed and nobody has taken
// the place of, sorted.
func (p *planner) away(s *service) []int {
	numbers := slices.Sorted(slices.Values(p.withheld[s.name]))
	return slices.DeleteFunc(slices.Compact(numbers), func(n int) bool {
		return slices.ContainsFunc(p.containers[s.name], func(c *Container) bool { return c.Number == n })
	})
}

// lack notes, while holding, why something that services use cannot be had.
func (p *planner) lack(kind, key string, why error) bool {
	if p.holding {
		p.lacking[kind+" "+key] = why.Error()
	}
	return p.holding
}

// lacks says why no container of the service can be made or started, "" if it
// can.
func (p *planner) lacks(s *service) string {
	for _, key := range s.keys {
		if why := p.lacking["network "+key]; why != "" {
			return why
		}
	}
	for _, key := range s.mounts {
		if why := p.lacking["volume "+key]; why != "" {
			return why
		}
	}
	return ""
}

// holdReplicas is planReplicas for Repair. Nothing is superfluous: who has more
// replicas than wanted has got them by a call.
func (p *planner) holdReplicas(s *service) error {
	there := p.away(s)
	var removed []int
	for _, c := range p.containers[s.name] {
		switch {
		case c.Status == Dead:
			removed = append(removed, p.doom(c, "it is dead"))
			continue
		case p.replaced(s, c):
			removed = append(removed, p.doom(c, "another one has its place"))
			continue
		case c.Stopped && !c.present() && !p.halfway(c) && p.served(s, c):
			continue // its update has failed, which was tolerated: the one before it counts
		}
		there = append(there, c.Number)
		s.replicas = append(s.replicas, replica{number: c.Number, name: c.Name, old: c})
	}
	// A job that is gone has had its run: whoever waited for it went on.
	if !p.jobs[s.name] || !runsOnce(s.conf) {
		for n := 1; len(there) < s.want.Replicas; n++ {
			if !slices.Contains(there, n) {
				there = append(there, n)
				s.replicas = append(s.replicas, replica{number: n, name: containerName(p.p, s.conf, n), fresh: true})
			}
		}
	}
	slices.SortStableFunc(s.replicas, func(a, b replica) int { return cmp.Compare(a.number, b.number) })
	why := p.lacks(s)
	if why != "" {
		p.problems = append(p.problems, why)
	}
	for i := range s.replicas {
		r := &s.replicas[i]
		step, err := p.holdReplica(s, r, removed, why == "")
		if err != nil {
			p.problems = append(p.problems, err.Error())
		} else if step != 0 {
			r.acted = true
			s.acted = append(s.acted, step)
		}
	}
	s.replicas = slices.DeleteFunc(s.replicas, func(r replica) bool { return r.fresh && !r.acted })
	return nil
}

// holdReplica is planReplica for Repair. able says that all is there that the
// service uses.
func (p *planner) holdReplica(s *service, r *replica, removed []int, able bool) (int, error) {
	c := r.old
	switch {
	case r.fresh:
		if !able {
			return 0, nil
		}
		spec, after, err := p.spec(s, r)
		if err != nil {
			return 0, err
		}
		spec.NoStart = s.want.NoStart
		return p.add(Step{Do: Run{spec}, Why: "lost", After: slices.Concat(removed, after)}), nil
	case !able || (c.Stopped || s.want.NoStart && !c.present()) && !p.halfway(c):
		return 0, nil
	}
	if why := p.joinChanged(s, c); why != "" && (c.present() || p.halfway(c)) {
		spec, after, err := p.spec(s, r)
		if err != nil {
			return 0, err
		}
		r.fresh, spec.NoStart = true, false // it takes the place of one that runs, or did
		if slices.ContainsFunc(p.containers[s.name], func(o *Container) bool { return o.ID != c.ID && o.Name == spec.Name && p.doomed[o.ID] == 0 }) {
			spec.Name = c.Name // of two that share a number the other one has the name, and stays
		}
		return p.add(Step{Why: why, After: after, Do: Replace{Old: c.ID, Spec: spec}}), nil
	}
	if c.present() {
		why := p.networkLost(s)
		if why == "" {
			why = p.dependencyRestarted(s, c)
		}
		if why == "" {
			return 0, nil
		}
		return p.add(Step{Do: Restart{ID: c.ID, Name: c.Name, Service: s.name}, Why: why, After: slices.Concat(p.networkSteps(s), p.doorsOf(s))}), nil
	}
	switch {
	case c.Lost, p.halfway(c):
	case c.Status == Created && !p.begun.IsZero() && c.Created.After(p.begun):
	default:
		return 0, nil
	}
	why := "never started"
	switch {
	case c.Lost:
		why = "lost its process"
	case p.halfway(c):
		why = "was being restarted"
	}
	return p.add(Step{Do: Start{c.ID, c.Name, s.name}, Why: why, After: slices.Concat(p.networkSteps(s), p.doorsOf(s))}), nil
}

// halfway reports whether a repair that nobody saw the end of has stopped the
// container, and not a call.
func (p *planner) halfway(c *Container) bool {
	return c.Stopped && !c.present() && slices.Contains(p.restarting, c.ID) && c.FinishedAt.After(p.begun)
}

// replaced reports whether such a repair has made another container in its
// place.
func (p *planner) replaced(s *service, c *Container) bool {
	return p.halfway(c) && slices.ContainsFunc(p.containers[s.name], func(o *Container) bool {
		return o.ID != c.ID && o.Number == c.Number && !o.broken() && o.Created.After(p.begun)
	})
}

// served reports whether another container of the same number runs.
func (p *planner) served(s *service, c *Container) bool {
	return slices.ContainsFunc(p.containers[s.name], func(o *Container) bool { return o.ID != c.ID && o.Number == c.Number && o.present() })
}

// networkLost says which network of a running container is made anew.
func (p *planner) networkLost(s *service) string {
	for _, key := range s.keys {
		if p.networks[key] != 0 {
			return "network " + NetworkName(p.p, key) + " was lost"
		}
	}
	return ""
}

// dependencyRestarted says which dependency declared with restart: true was
// started anew since the container was, and is ready, "" if none. Of several
// replicas all must have been: one of them more or less is no reason.
func (p *planner) dependencyRestarted(s *service, c *Container) string {
	if c.Status != Running {
		return ""
	}
	for _, e := range p.outline.graph.Dependencies(s.name) {
		d := p.services[e.Service]
		if !e.Restart || d == nil || linked(s.conf, e.Service) {
			continue
		}
		if len(d.acted) > 0 && !slices.ContainsFunc(d.replicas, func(r replica) bool { return !r.fresh && !r.acted }) {
			return e.Service + " is started anew"
		}
		if len(d.replicas) == 0 || slices.ContainsFunc(d.replicas, func(r replica) bool { return r.acted || !r.old.StartedAt.After(c.StartedAt) }) {
			continue
		}
		if !slices.ContainsFunc(d.replicas, func(r replica) bool { return !r.old.ready() }) {
			return e.Service + " was started anew"
		}
		// It may crash again at once. Time alone makes it ripe: nobody tells.
		p.plan.again = p.plan.again || slices.ContainsFunc(d.replicas, func(r replica) bool { return r.old.Unripe })
	}
	return ""
}

// linked reports whether the service has another name for a service. What it is
// said to depend on by that alone is there under its name however often it is
// started.
func linked(s *compose.Service, other string) bool {
	return slices.ContainsFunc(s.Links, func(link string) bool {
		target, _, _ := strings.Cut(link, ":")
		return target == other
	})
}

// dropUnused leaves out what is fetched or made for nobody: a network without
// containers was removed by somebody, perhaps.
func (p *planner) dropUnused() {
	needed, number := map[int]bool{}, map[int]int{}
	for _, s := range p.plan.Steps {
		for _, id := range s.After {
			needed[id] = true
		}
	}
	var steps []Step
	for _, s := range p.plan.Steps {
		_, network := s.Do.(CreateNetwork)
		_, pull := s.Do.(Pull)
		if (network || pull) && !needed[s.ID] {
			continue
		}
		number[s.ID] = len(steps) + 1
		s.ID = number[s.ID]
		s.After = slices.Clone(s.After)
		for i, id := range s.After {
			s.After[i] = number[id]
		}
		steps = append(steps, s)
	}
	p.plan.Steps = steps
}

func lostVolume(v Volume) string {
	return fmt.Sprintf("the data of volume %s is gone (%s does not exist)", v.Name, v.Lost)
}
