package scheduler

import (
	"slices"
	"time"

	"gantry/compose"
)

// Order is which comes first where a container takes another one's place.
type Order string

// Orders. With neither there is nobody to take turns with: the old container
// does not run.
const (
	StartFirst Order = "start-first" // the old one leaves when the new one is ready
	StopFirst  Order = "stop-first"  // the new one is made when the old one has stopped
)

// defaultMonitor is how long a new replica without a health check must run
// before the old one leaves. It is short, since every `up` of a changed service
// takes it.
const defaultMonitor = time.Second

// rollout is how the replicas of one service are replaced:
//
//	┌─ batch: as many replicas as parallelism says ───────────────┐
//	│ replace … ──► await: ready ──► retire: the old ones, drained ├─► delay ──► next batch
//	└─────────────────────────────────────────────────────────────┘
//
// A replica is ready when it is healthy or, without a health check, when it has
// run for the time of monitor. An await that fails opens no door, so what
// serves goes on serving. While a batch is under way two containers have the
// same number, the one up to date and one that is not and still serves: that is
// all a later look needs to go on with it.
type rollout struct {
	parallelism int
	delay       time.Duration
	trial       Trial
	order       Order
	because     string // of the order, if it is not the default
	// watched: the last batch is waited for although nobody is to retire.
	watched bool
}

// rollout reads how a service is to be updated, or rolled back.
func (p *planner) rollout(s *service, stale []*replica) (rollout, error) {
	n := max(s.want.Replicas, 1)
	r := rollout{parallelism: (n + 3) / 4, trial: p.trial(s)}
	conf := p.updateConfig(s)
	apart, never := p.apart(s, stale)
	switch r.order = Order(conf.Order); {
	case r.order == StartFirst && never:
		return r, invalid("service %s: update order start-first: %s; use stop-first", s.name, apart)
	case r.order == StopFirst:
		r.because = "update_config says so"
	case r.order != "":
	case apart != "":
		r.order, r.because = StopFirst, apart
	default:
		r.order = StartFirst
	}
	if conf.Parallelism != nil {
		if r.parallelism = int(min(*conf.Parallelism, uint64(n))); r.parallelism == 0 {
			r.parallelism = n
		}
		r.watched = true
	}
	r.delay = time.Duration(conf.Delay)
	if conf.Monitor > 0 || conf.FailureAction != "" || conf.MaxFailureRatio > 0 {
		r.watched = true
	}
	// A float32 that was written as 0.7 is a little less.
	r.trial.Tolerate = int(float64(conf.MaxFailureRatio)*float64(n) + 1e-5)
	if conf.FailureAction == compose.FailureContinue && conf.MaxFailureRatio == 0 {
		r.trial.Tolerate = n
	}
	return r, nil
}

// trial is what makes a replica of a service ready.
func (p *planner) trial(s *service) Trial {
	t := Trial{For: defaultMonitor, MayEnd: runsOnce(s.conf)}
	if conf := p.updateConfig(s); conf.Monitor > 0 {
		t.For, t.Checked = time.Duration(conf.Monitor), true
	}
	return t
}

// updateConfig is deploy.update_config or, on the way back, rollback_config.
func (p *planner) updateConfig(s *service) compose.UpdateConfig {
	var conf *compose.UpdateConfig
	if d := s.conf.Deploy; d != nil {
		if conf = d.UpdateConfig; p.want.Options.Rollback {
			conf = d.RollbackConfig
		}
	}
	if conf == nil {
		return compose.UpdateConfig{}
	}
	return *conf
}

// apart says why an old and a new replica of the service should not run at the
// same time, "" if they may. never: they cannot.
func (p *planner) apart(s *service, stale []*replica) (why string, never bool) {
	c := s.conf
	for _, key := range sortedKeys(c.Networks) {
		n := c.Networks[key]
		if n == nil {
			continue
		}
		for _, fixed := range []string{n.Ipv4Address, n.Ipv6Address, n.MacAddress} {
			if fixed != "" {
				return "has the fixed address " + fixed, true
			}
		}
	}
	switch {
	case c.MacAddress != "":
		return "has the fixed address " + c.MacAddress, true
	case c.ContainerName != "":
		return "has the name " + c.ContainerName, false
	case c.NetworkMode != "" && c.NetworkMode != "bridge" && c.NetworkMode != "none" && len(c.Networks) == 0:
		return "shares a network (" + c.NetworkMode + ")", false
	case p.jobs[s.name]:
		return "is a job", false
	}
	for _, r := range stale {
		if r.old.Maker != "" && len(r.old.Ports) > 0 {
			return "port " + r.old.Ports[0] + " is the old container's own", true
		}
	}
	return p.writes(s, stale), false
}

// writes says which volume an old and a new replica would write to at the same
// time and are not meant to: several replicas do so anyway, but for the
// anonymous volumes that each inherits from its predecessor.
func (p *planner) writes(s *service, stale []*replica) string {
	named := map[string]bool{}
	for _, v := range p.have.Volumes {
		named[v.Name] = v.Key != "" || v.Project == ""
	}
	said := map[string]bool{}
	for _, v := range s.conf.Volumes {
		if v.Type == compose.VolumeTypeVolume && v.Source != "" {
			name := VolumeName(p.p, v.Source)
			named[name], said[name] = true, true
		}
	}
	for _, r := range stale {
		for _, name := range r.old.Volumes {
			switch {
			case !named[name] && !p.want.Options.RenewAnonVolumes:
				return "takes over an anonymous volume"
			case named[name] && !said[name] && s.want.Replicas == 1:
				return "the old one writes to volume " + name
			}
		}
	}
	if s.want.Replicas != 1 {
		return ""
	}
	for _, v := range s.conf.Volumes {
		if v.ReadOnly {
			continue
		}
		switch v.Type {
		case compose.VolumeTypeVolume:
			if v.Source == "" {
				return "writes to " + v.Target
			}
			return "writes to volume " + v.Source
		case compose.VolumeTypeBind:
			return "writes to " + v.Source
		}
	}
	return ""
}

// rollOut plans the batches in which replicas are replaced. Those that are
// under way come first.
func (p *planner) rollOut(s *service, updates []*replica, removed []int) error {
	if len(updates) == 0 {
		return nil
	}
	ro, err := p.rollout(s, updates)
	if err != nil {
		return err
	}
	if p.want.Options.NoStart {
		for _, r := range updates {
			if _, err := p.renew(s, r, ro, removed); err != nil {
				return err
			}
		}
		return nil
	}
	tried := p.failed(s)
	switch n := len(tried); {
	case n > ro.trial.Tolerate:
		p.try(s, tried, ro.trial, "its update has failed", removed)
		return nil
	case n > 0:
		p.note("service %s: the update of %d of %d replicas has failed, which is tolerated", s.name, n, s.want.Replicas)
		updates = slices.DeleteFunc(updates, func(r *replica) bool { return slices.Contains(tried, r.number) })
		if len(updates) == 0 {
			return nil
		}
	}
	doors := removed
	if unripe := p.unripe(s, updates, ro.trial); len(unripe) > 0 {
		tried = append(tried, unripe...)
		if ro.trial.Tolerate > 0 {
			unripe = tried
		}
		doors = []int{p.try(s, unripe, ro.trial, "before the next batch", slices.Concat(removed, s.acted))}
	}
	if !slices.ContainsFunc(p.containers[s.name], func(c *Container) bool { return c.present() && p.stopping[c.ID] == 0 }) {
		ro.parallelism = len(updates) // nobody serves who would have to be spared
	}
	slices.SortStableFunc(updates, func(a, b *replica) int { return compareBool(a.why != "", b.why != "") })
	for len(updates) > 0 {
		batch := updates[:min(ro.parallelism, len(updates))]
		updates = updates[len(batch):]
		steps, err := p.batch(s, batch, ro, &tried, doors, len(updates) == 0)
		if err != nil {
			return err
		}
		if doors = steps; len(updates) > 0 && ro.delay > 0 {
			doors = []int{p.add(Step{Do: Delay{Service: s.name, For: ro.delay}, Why: "between two batches", After: doors})}
		}
	}
	s.rolled = doors
	return nil
}

// batch plans one batch and returns the steps the next one comes after. tried
// are the replicas of the batches so far.
func (p *planner) batch(s *service, batch []*replica, ro rollout, tried *[]int, doors []int, last bool) ([]int, error) {
	var acted []int
	retire, ready := false, true
	for _, r := range batch {
		ready = ready && r.why == "" && p.ready(r.old, ro.trial)
		step, err := p.renew(s, r, ro, doors)
		if err != nil {
			return nil, err
		}
		if step != 0 {
			acted = append(acted, step)
		}
		retire = retire || len(r.before) > 0
		*tried = append(*tried, r.number)
	}
	if len(acted) == 0 {
		acted = doors
	}
	if !ready && (retire || !last || ro.watched) {
		numbers := *tried
		if ro.trial.Tolerate == 0 {
			numbers = numbers[len(numbers)-len(batch):]
		}
		ro.trial.MayEnd = ro.trial.MayEnd && !retire
		acted = []int{p.try(s, numbers, ro.trial, "before "+before(retire, last), acted)}
	}
	var steps []int
	for _, r := range batch {
		gone := len(steps)
		for _, c := range r.before {
			id := p.add(Step{Do: Retire{Name: c.Name, Spec: RetireSpec{ID: c.ID, Project: p.p.Name, Service: s.name, Number: r.number, Heir: s.known([]int{r.number})[r.number], MayFail: ro.trial.Tolerate > 0,
				Options: RemoveOptions{Timeout: p.want.Options.Timeout, Volumes: p.want.Options.RenewAnonVolumes, Drain: true}}},
				Why: "the new one is ready", After: acted})
			p.doomed[c.ID] = id
			steps = append(steps, id)
		}
		if r.why == "" {
			p.putBack(s, r, slices.Concat(acted, steps[gone:]))
		}
	}
	if len(steps) == 0 {
		return acted, nil
	}
	return steps, nil
}

// try plans to wait until new replicas have stood their trial.
func (p *planner) try(s *service, numbers []int, t Trial, why string, after []int) int {
	spec := AwaitSpec{Project: p.p.Name, Service: s.name, Numbers: slices.Sorted(slices.Values(numbers)), Condition: IsReady, Trial: &t}
	spec.IDs = s.known(spec.Numbers)
	return p.add(Step{Do: Await{spec}, Why: why, After: after})
}

// known are the ids of those replicas that share their number with another
// container and are not made by this plan: the newest is perhaps not meant.
func (s *service) known(numbers []int) map[int]string {
	var ids map[int]string
	for _, r := range s.replicas {
		if r.fresh || len(r.before) == 0 || !slices.Contains(numbers, r.number) {
			continue
		}
		if ids == nil {
			ids = map[int]string{}
		}
		ids[r.number] = r.old.ID
	}
	return ids
}

// before says what an await comes before.
func before(retire, last bool) string {
	switch {
	case retire:
		return "the old ones leave"
	case last:
		return "the update is done"
	}
	return "the next batch"
}

// renew plans what brings a replica up to date, or to life if it is. It returns
// 0 where that is done.
func (p *planner) renew(s *service, r *replica, ro rollout, doors []int) (int, error) {
	c := r.old
	var step int
	switch {
	case r.why != "":
		r.fresh, r.name = true, containerName(p.p, s.conf, r.number)
		spec, after, err := p.spec(s, r)
		if err != nil {
			return 0, err
		}
		for _, early := range []int{p.stopping[c.ID], p.aside[c.ID]} {
			if early != 0 {
				after = append(after, early)
			}
		}
		do := Replace{Old: c.ID, Spec: spec, Options: ReplaceOptions{Timeout: p.want.Options.Timeout, RenewAnonVolumes: p.want.Options.RenewAnonVolumes}}
		if c.present() && p.stopping[c.ID] == 0 && !p.want.Options.NoStart {
			do.Options.Order, do.Because = ro.order, ro.because
			if ro.order == StartFirst {
				r.before = append(r.before, c)
			}
		}
		step = p.add(Step{Do: do, Why: r.why, Changes: p.changesOf(s, c), After: slices.Concat(doors, after)})
	case !p.want.Options.NoStart && !c.present():
		if why := p.startReason(s, c); why != "" {
			step = p.add(Step{Do: Start{c.ID, c.Name, s.name}, Why: why,
				After: slices.Concat(p.orphans, p.freed(s), doors, r.updated, p.networkSteps(s), p.doorsOf(s))})
		}
	}
	r.acted = true
	if step != 0 {
		s.acted = append(s.acted, step)
	}
	return step, nil
}

// failed are the replicas that are up to date and have had their run, and are
// not there: their update has failed.
func (p *planner) failed(s *service) (numbers []int) {
	for _, r := range s.replicas {
		if c := r.old; !r.fresh && r.why == "" && !c.present() && p.startReason(s, c) == "" && !(c.completed() && runsOnce(s.conf)) {
			numbers = append(numbers, r.number)
		}
	}
	return numbers
}

// unripe are the replicas that are up to date and run, and are not ready yet:
// those of a batch which nobody has seen the end of. The next one waits for
// them, or a daemon that dies at each batch would leave nobody who serves.
func (p *planner) unripe(s *service, updates []*replica, t Trial) (numbers []int) {
	for i := range s.replicas {
		if r := &s.replicas[i]; !r.fresh && !slices.Contains(updates, r) && r.old.present() && !p.ready(r.old, t) {
			numbers = append(numbers, r.number)
		}
	}
	return numbers
}

// ready reports whether a container has stood a trial.
func (p *planner) ready(c *Container, t Trial) bool {
	return t.Stood(c, p.have.Now)
}

// Stood reports whether a container has stood the trial at a given time.
func (t Trial) Stood(c *Container, now time.Time) bool {
	switch {
	case t.MayEnd && c.completed():
		return true
	case !c.ready():
		return false
	}
	return c.Health == Healthy && !t.Checked || now.Sub(c.StartedAt) >= t.For
}

// putBack plans to give a replica its name, if it was set aside for another one
// and that one goes.
func (p *planner) putBack(s *service, r *replica, after []int) {
	if name := containerName(p.p, s.conf, r.number); r.old.Name != name && r.old.Name == AsideName(r.old.ID, name) {
		step := p.add(Step{Do: Rename{ID: r.old.ID, Name: r.old.Name, To: name, Service: s.name}, Why: "it was set aside, and stays", After: after})
		r.name, s.cleared = name, append(slices.Clone(s.cleared), step)
	}
}

// AsideName is the name of a container that has given its own to another one.
func AsideName(id, name string) string {
	if len(id) > 12 {
		id = id[:12]
	}
	return id + "_" + name
}
