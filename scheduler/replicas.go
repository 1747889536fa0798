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
	for _, s := range p.order {
		if s.want.Stopped {
			continue // see stopServices
		}
		if err := p.planReplicas(s); err != nil {
			return err
		}
	}
	return nil
}

func (p *planner) planReplicas(s *service) error {
	kept, removed := p.choose(s)
	s.cleared = removed
	for _, c := range kept {
		s.replicas = append(s.replicas, replica{number: c.Number, name: c.Name, old: c})
	}
	for n := 1; len(s.replicas) < s.want.Replicas; n++ {
		if !slices.ContainsFunc(kept, func(c Container) bool { return c.Number == n }) {
			s.replicas = append(s.replicas, replica{number: n, name: ContainerName(p.p, *s.conf, n), fresh: true})
		}
	}
	slices.SortFunc(s.replicas, func(a, b replica) int { return cmp.Compare(a.number, b.number) })

	for i := range s.replicas {
		r := &s.replicas[i]
		step, err := p.planReplica(s, r, removed)
		if err != nil {
			return err
		}
		if step != 0 {
			r.acted = true
			s.acted = append(s.acted, step)
		}
	}
	return nil
}

// choose says which of a service's containers stay as replicas, sorted by
// number, and plans the removal of the others. removed are the steps that free
// names and numbers which new replicas may need.
func (p *planner) choose(s *service) (kept []Container, removed []int) {
	best := map[int]Container{}
	for _, c := range p.containers[s.name] {
		switch {
		case p.doomed[c.ID] != 0:
			removed = append(removed, p.doomed[c.ID])
		case c.broken():
			removed = append(removed, p.doom(c, "it is "+string(c.Status)))
		case c.Number <= 0:
			removed = append(removed, p.doom(c, "it has no number"))
		default:
			b, taken := best[c.Number]
			if taken && p.better(s, c, b) {
				b, c = c, b
			}
			if taken {
				removed = append(removed, p.doom(c, fmt.Sprintf("%s is number %d of %s", b.Name, b.Number, s.name)))
				c = b
			}
			best[c.Number] = c
		}
	}
	kept = slices.SortedFunc(maps.Values(best), byNumber)
	if surplus := len(kept) - s.want.Replicas; surplus > 0 {
		why := fmt.Sprintf("%s has %d replicas, %d wanted", s.name, len(kept), s.want.Replicas)
		slices.SortStableFunc(kept, func(a, b Container) int {
			return cmp.Or(-compareBool(a.present(), b.present()), compareBool(p.outdated(s, a), p.outdated(s, b)), byNumber(a, b))
		})
		victims := slices.Clone(kept[s.want.Replicas:])
		kept = kept[:s.want.Replicas]
		slices.SortFunc(victims, byNumber)
		for _, c := range slices.Backward(victims) {
			p.doom(c, why)
		}
		slices.SortFunc(kept, byNumber)
	}
	return kept, removed
}

// better reports whether a rather than b should be the replica of a number
// both have: the one that is as wanted, else the one that runs, else the
// younger.
func (p *planner) better(s *service, a, b Container) bool {
	return cmp.Or(
		compareBool(!p.outdated(s, a), !p.outdated(s, b)),
		compareBool(a.present(), b.present()),
		a.Created.Compare(b.Created),
		strings.Compare(b.ID, a.ID),
	) > 0
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
	if p.want.policy(s.name) != Never {
		why := p.changed(s, c)
		if why == "" {
			why = p.joinChanged(s, c)
		}
		if why != "" {
			r.fresh, r.name = true, ContainerName(p.p, *s.conf, r.number)
			spec, after, err := p.spec(s, r)
			if err != nil {
				return 0, err
			}
			for _, early := range []int{p.stopping[c.ID], p.aside[c.ID]} {
				if early != 0 {
					after = append(after, early)
				}
			}
			return p.add(Step{Why: why, After: slices.Concat(removed, after),
				Do: Replace{Old: c.ID, Spec: spec, Options: ReplaceOptions{p.want.Options.Timeout, p.want.Options.RenewAnonVolumes}}}), nil
		}
	}
	if p.want.Options.NoStart {
		return 0, nil
	}
	renewed := p.dependencyRenewed(s, c)
	if c.present() {
		if renewed == "" {
			return 0, nil
		}
		return p.add(Step{Do: Restart{c.ID, c.Name, s.name, p.want.Options.Timeout}, Why: renewed, After: p.doorsOf(s)}), nil
	}
	why := p.startReason(s, c)
	if why == "" {
		why = renewed
	}
	if why == "" {
		return 0, nil
	}
	return p.add(Step{Do: Start{c.ID, c.Name, s.name}, Why: why, After: slices.Concat(p.orphans, p.freed(s), removed, p.networkSteps(s), p.doorsOf(s))}), nil
}

// startReason says why a container that does not run should, "" if it has had
// its run: it ended after it was last asked for, or it is a job that is done.
func (p *planner) startReason(s *service, c Container) string {
	if c.Status == Created || c.FinishedAt.IsZero() {
		return "never started"
	}
	if c.FinishedAt.After(s.want.Asked) || p.done(s, c) && !slices.Contains(p.want.Options.Services, s.name) {
		return ""
	}
	if c.Stopped {
		return "stopped"
	}
	return fmt.Sprintf("exited (%d)", c.ExitCode)
}

// done reports whether the container is a job that ended well.
func (p *planner) done(s *service, c Container) bool {
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
	for _, key := range volumeKeys(*s.conf) {
		if step := p.volumes[key]; step != 0 {
			after = append(after, step)
		}
	}
	if !p.imagePresent(s) {
		step, err := p.pull(s)
		if err != nil {
			return RunSpec{}, nil, err
		}
		after = append(after, step)
	}
	joins, joined, err := p.joins(s)
	if err != nil {
		return RunSpec{}, nil, err
	}
	after = append(after, joined...)

	labels := p.labels(s, r.number)
	var networks []string
	if s.conf.NetworkMode == "" || len(s.conf.Networks) > 0 {
		networks = p.networkKeys(*s.conf)
	}
	return RunSpec{Project: p.p, Service: s.conf, Number: r.number, Name: ContainerName(p.p, *s.conf, r.number),
		Image: s.image, ImageID: s.id, Labels: labels, Networks: networks, Joins: joins,
		NoStart: p.want.Options.NoStart}, after, nil
}

// labels of a replica.
func (p *planner) labels(s *service, number int) map[string]string {
	if s.labels == nil {
		s.labels = ContainerLabels(p.p, *s.conf, number, false)
		s.labels[LabelHash] = s.hash
		s.labels[LabelUses] = s.uses
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
	for _, key := range p.networkKeys(*s.conf) {
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
