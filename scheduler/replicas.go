package scheduler

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"gantry/compose"
)

// planServices plans each service's replicas, dependencies first.
func (p *planner) planServices() error {
	begun := len(p.plan.Steps)
	for i, s := range p.order {
		if i > 0 && i == len(p.order)/16 { // a sixteenth tells how many steps there will be
			p.plan.Steps = slices.Grow(p.plan.Steps, 16*(len(p.plan.Steps)-begun))
		}
		if s.want.Stopped {
			continue // see stopServices
		}
		plan := p.planReplicas
		switch {
		case s.schedule != "":
			plan = p.planJob
		case p.holding:
			plan = p.holdReplicas
		}
		if err := plan(s); err != nil {
			return err
		}
	}
	return nil
}

func (p *planner) planReplicas(s *service) error {
	kept, removed := p.choose(s)
	s.cleared, s.replicas = removed, kept
	away := p.away(s)
	for n := 1; len(s.replicas)+len(away) < s.want.Replicas; n++ {
		if !slices.Contains(away, n) && !slices.ContainsFunc(kept, func(r replica) bool { return r.number == n }) {
			s.replicas = append(s.replicas, replica{number: n, name: containerName(p.p, s.conf, n), fresh: true})
		}
	}
	slices.SortFunc(s.replicas, func(a, b replica) int { return cmp.Compare(a.number, b.number) })

	var updates []*replica
	for i := range s.replicas {
		r := &s.replicas[i]
		if err := p.judge(s, r); err != nil {
			return err
		}
		if r.why != "" || len(r.before) > 0 {
			updates = append(updates, r)
			continue
		}
		step, err := p.planReplica(s, r, removed)
		if err != nil {
			return err
		}
		if step != 0 {
			r.acted = true
			s.acted = append(s.acted, step)
		}
	}
	return p.rollOut(s, updates, removed)
}

// judge says why a replica's container is to be replaced, if it is, and plans to
// change in place what can be.
func (p *planner) judge(s *service, r *replica) error {
	if r.fresh || p.want.policy(s.name) == Never {
		return nil
	}
	why, joins := p.changed(s, r.old), p.joinChanged(s, r.old)
	if why != "" && joins == "" && !p.renewed(s, r.old) {
		step, err := p.reshape(s, r.old)
		r.updated = []int{step}
		return err
	}
	r.why = cmp.Or(why, joins)
	return nil
}

// choose says which of a service's containers stay as replicas, sorted by
// number, and plans the removal of the others. removed are the steps that free
// names and numbers which new replicas may need.
func (p *planner) choose(s *service) (kept []replica, removed []int) {
	usable := make([]*Container, 0, len(p.containers[s.name])) // sorted by number, as they are
	for _, c := range p.containers[s.name] {
		switch {
		case p.doomed[c.ID] != 0:
			removed = append(removed, p.doomed[c.ID])
		case c.broken():
			removed = append(removed, p.doom(c, "it is "+string(c.Status)))
		case c.Number <= 0:
			removed = append(removed, p.doom(c, "it has no number"))
		default:
			usable = append(usable, c)
		}
	}
	kept = make([]replica, 0, max(len(usable), s.want.Replicas))
	for len(usable) > 0 {
		n := 1
		for n < len(usable) && usable[n].Number == usable[0].Number {
			n++
		}
		r, others := p.rank(s, usable[:n])
		for _, c := range others {
			removed = append(removed, p.doom(c, fmt.Sprintf("%s is number %d of %s", r.old.Name, r.number, s.name)))
		}
		kept = append(kept, r)
		usable = usable[n:]
	}
	if surplus := len(kept) - s.want.Replicas; surplus > 0 {
		why := fmt.Sprintf("%s has %d replicas, %d wanted", s.name, len(kept), s.want.Replicas)
		t := p.trial(s)
		ready := func(c *Container) bool { return p.ready(c, t) }
		slices.SortStableFunc(kept, func(a, b replica) int {
			return cmp.Or(-compareBool(a.old.present(), b.old.present()), -compareBool(a.any((*Container).ready), b.any((*Container).ready)),
				-compareBool(a.any(ready), b.any(ready)), compareBool(p.outdated(s, a.old), p.outdated(s, b.old)), byNumber(a.old, b.old))
		})
		victims := slices.Clone(kept[s.want.Replicas:])
		kept = kept[:s.want.Replicas]
		slices.SortFunc(victims, func(a, b replica) int { return byNumber(a.old, b.old) })
		for _, v := range slices.Backward(victims) {
			for _, c := range append(v.before, v.old) {
				p.removeEarly(c, why, RemoveOptions{Timeout: p.want.Options.Timeout, Drain: s.want.Replicas > 0})
			}
		}
	}
	return kept, removed
}

// any reports whether one of the containers that are there for a replica is so.
func (r replica) any(so func(*Container) bool) bool {
	return so(r.old) || slices.ContainsFunc(r.before, so)
}

// rank says which of the containers that share a number is the replica, and
// which of them may serve until it is ready. others are neither.
func (p *planner) rank(s *service, cs []*Container) (r replica, others []*Container) {
	best := slices.MaxFunc(cs, func(a, b *Container) int { return p.better(s, a, b) })
	r = replica{number: best.Number, name: best.Name, old: best}
	for _, c := range cs {
		switch {
		case c.ID == best.ID:
		case c.present() && p.stopping[c.ID] == 0 && p.renewed(s, c) && !p.replaces(s, best) && !p.want.Options.NoStart:
			r.before = append(r.before, c)
		default:
			others = append(others, c)
		}
	}
	return r, others
}

// replaces reports whether a container gives way to a new one: it is not as
// wanted, or what it shares a namespace with is another one now.
func (p *planner) replaces(s *service, c *Container) bool {
	return p.renewed(s, c) || p.want.policy(s.name) != Never && p.joinChanged(s, c) != ""
}

// better compares two containers that share a number. The replica is the one
// that stays; of two that do, the one that is as wanted; else the one that is
// ready or at least runs, else the younger.
func (p *planner) better(s *service, a, b *Container) int {
	stays := !p.replaces(s, a)
	return cmp.Or(
		compareBool(stays, !p.replaces(s, b)),
		compareBool(stays && !p.outdated(s, a), stays && !p.outdated(s, b)),
		compareBool(a.ready(), b.ready()),
		compareBool(a.present(), b.present()),
		a.Created.Compare(b.Created),
		strings.Compare(b.ID, a.ID),
	)
}

// compareBool sorts false before true.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// planReplica plans for one replica and returns the step that brings it to
// life, 0 if nothing needs to be done.
func (p *planner) planReplica(s *service, r *replica, removed []int) (int, error) {
	c := r.old
	if r.fresh {
		spec, after, err := p.spec(s, r)
		if err != nil {
			return 0, err
		}
		return p.add(Step{Do: Run{spec}, Why: "does not exist", After: slices.Concat(removed, after)}), nil
	}
	p.putBack(s, r, removed)
	if p.want.Options.NoStart {
		return 0, nil
	}
	renewed := p.dependencyRenewed(s, c)
	if c.present() {
		if renewed == "" {
			return 0, nil
		}
		return p.add(Step{Do: Restart{c.ID, c.Name, s.name, p.want.Options.Timeout}, Why: renewed, After: slices.Concat(r.updated, p.doorsOf(s))}), nil
	}
	why := p.startReason(s, c)
	if why == "" {
		why = renewed
	}
	if why == "" {
		return 0, nil
	}
	return p.add(Step{Do: Start{c.ID, c.Name, s.name}, Why: why, After: slices.Concat(p.orphans, p.freed(s), removed, r.updated, p.networkSteps(s), p.doorsOf(s))}), nil
}

// startReason says why a container that does not run should, "" if it has had
// its run: it ended after it was last asked for, or it is a job that is done.
func (p *planner) startReason(s *service, c *Container) string {
	if c.Status == Created || c.FinishedAt.IsZero() {
		return "never started"
	}
	if c.Lost && !c.Stopped {
		return "lost its process"
	}
	if c.FinishedAt.After(s.want.Asked) || p.done(s, c) && !slices.Contains(p.want.Options.Services, s.name) {
		return ""
	}
	switch {
	case !c.Stopped:
		return fmt.Sprintf("exited (%d)", c.ExitCode)
	case s.want.NoStart:
		return "" // nor has whoever asked since wanted it to be started
	default:
		return "stopped"
	}
}

// done reports whether the container is a job that ended well.
func (p *planner) done(s *service, c *Container) bool {
	return p.jobs[s.name] && c.completed() && runsOnce(s.conf)
}

// runsOnce reports whether the runtime lets the service end.
func runsOnce(s *compose.Service) bool {
	if s.Deploy != nil && s.Deploy.RestartPolicy != nil { // outranks restart
		c := s.Deploy.RestartPolicy.Condition
		return c != "" && c != "any"
	}
	return s.Restart != "always" && s.Restart != "unless-stopped"
}

// spec is the container to be made for a replica, and what it must wait for.
func (p *planner) spec(s *service, r *replica) (RunSpec, []int, error) {
	after := slices.Concat(p.orphans, p.freed(s), p.named(s), p.networkSteps(s), p.doorsOf(s))
	for _, key := range s.mounts {
		if step := p.volumes[key]; step != 0 {
			after = append(after, step)
		}
	}
	if !p.imagePresent(s) {
		if p.pulling[s.image] == 0 {
			p.late = append(p.late, s.name)
		}
		step, err := p.pull(s)
		if err != nil {
			return RunSpec{}, nil, err
		}
		if p.holding {
			after = append(after, step)
		}
	}
	joins, joined, err := p.joins(s)
	if err != nil {
		return RunSpec{}, nil, err
	}
	after = append(after, joined...)

	return RunSpec{Project: p.p, Service: s.conf, Number: r.number, Name: containerName(p.p, s.conf, r.number),
		Image: s.image, ImageID: s.id, Labels: p.labels(s, r.number), Networks: s.keys, Joins: joins,
		NoStart: p.want.Options.NoStart}, after, nil
}

// labels of a replica.
func (p *planner) labels(s *service, number int) map[string]string {
	if s.labels == nil {
		s.labels = ContainerLabels(p.p, *s.conf, number, false)
		s.labels[LabelHash] = p.hashOf(s)
		s.labels[LabelParts], s.labels[LabelUses] = p.wantedParts(s), s.uses
		s.labels[LabelGeneration] = strconv.Itoa(s.want.Generation)
		if s.id != "" {
			s.labels[LabelImage] = s.id
		}
	}
	l := maps.Clone(s.labels)
	l[LabelNumber] = strconv.Itoa(number)
	return l
}

// networkSteps are the steps that create the networks of a service.
func (p *planner) networkSteps(s *service) []int {
	var steps []int
	for _, key := range s.keys {
		if step := p.networks[key]; step != 0 {
			steps = append(steps, step)
		}
	}
	return steps
}

// joinTargets are the services whose namespaces a service shares.
func joinTargets(s *compose.Service) []string {
	var names []string
	for _, mode := range []string{s.NetworkMode, s.Pid, s.Ipc} {
		if name, ok := strings.CutPrefix(mode, compose.ServicePrefix); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
