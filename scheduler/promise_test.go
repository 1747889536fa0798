package scheduler

import (
	"maps"
	"slices"

	"gantry/compose"
)

// promise is what an update owes to those who use a service: how many replicas
// stay ready, and how many there may be at the most.
type promise struct {
	least int
	trial Trial // which makes a replica ready
}

// promises are those of a plan, by service. A service whose containers are
// stopped for another reason than their update, too, has none: it goes with its
// network, its volume, its port, or is asked to.
func promises(w *sim, g Goal, plan Plan) map[string]promise {
	if g.IsDown() || g.Options.NoStart {
		return nil
	}
	all, stopped := map[string]promise{}, map[string]bool{}
	orders := map[string][]Order{}
	for _, s := range plan.Steps {
		what := s.Do.What()
		switch a := s.Do.(type) {
		case Replace:
			orders[what.Service] = append(orders[what.Service], a.Options.Order)
		case Stop, Restart:
			stopped[what.Service] = true
		case Remove:
			// One too many, or what another container of its number has
			// replaced, serves nobody.
			stopped[what.Service] = stopped[what.Service] || !a.Options.Drain
		case Await:
			if a.Spec.Trial != nil {
				all[what.Service] = promise{trial: *a.Spec.Trial}
			}
		}
	}
	for name, p := range all {
		want := g.Services[name].Replicas
		ready := readyNow(w, name, p.trial, nil)
		if stopped[name] || len(orders[name]) == 0 || ready == 0 {
			delete(all, name)
			continue
		}
		p.least = min(ready, want)
		if slices.ContainsFunc(orders[name], func(o Order) bool { return o != StartFirst }) {
			p.least -= batchSize(&g, name)
		}
		all[name] = p
	}
	return all
}

// readyNow is how many replicas of a service have stood a trial, without one
// container. Two that share a number while one takes the other's place are one.
func readyNow(w *sim, service string, t Trial, without *Container) int {
	numbers := map[int]bool{}
	for _, c := range w.containers {
		if c != without && c.Project == "shop" && c.Service == service && !c.OneOff && t.Stood(c, w.clock) {
			numbers[c.Number] = true
		}
	}
	return len(numbers)
}

// batchSize is how many replicas of a service are replaced at a time.
func batchSize(g *Goal, service string) int {
	n := g.Services[service].Replicas
	var conf *compose.UpdateConfig
	if d := g.Project.Services[service].Deploy; d != nil {
		if conf = d.UpdateConfig; g.Options.Rollback {
			conf = d.RollbackConfig
		}
	}
	if conf != nil && conf.Parallelism != nil {
		if k := int(*conf.Parallelism); k > 0 {
			return min(k, n)
		}
		return n
	}
	return (n + 3) / 4
}

// failed are the replicas whose update has failed and may: they are as wanted,
// and have ended since they were asked for.
func (w *sim) failed(g *Goal, have State) map[replicaKey]bool {
	all, count := map[replicaKey]bool{}, map[string]int{}
	for _, c := range have.Containers {
		want, wanted := g.Services[c.Service]
		if c.OneOff || !wanted || !c.FinishedAt.After(want.Asked) || c.present() || c.completed() || tolerated(g, c.Service) == 0 {
			continue
		}
		if key := (replicaKey{c.Service, c.Number}); c.Parts == w.of(g.Project, c.Service).parts && !all[key] {
			all[key] = true
			count[c.Service]++
		}
	}
	maps.DeleteFunc(all, func(key replicaKey, _ bool) bool { return count[key.service] > tolerated(g, key.service) })
	return all
}

// tolerated is how many replicas of a service may fail in an update.
func tolerated(g *Goal, service string) int {
	d := g.Project.Services[service].Deploy
	if d == nil {
		return 0
	}
	conf := d.UpdateConfig
	if g.Options.Rollback {
		conf = d.RollbackConfig
	}
	n := g.Services[service].Replicas
	switch {
	case conf == nil:
		return 0
	case conf.MaxFailureRatio > 0:
		return int(float64(conf.MaxFailureRatio)*float64(n) + 1e-5) // 0.7 is a little less
	case conf.FailureAction == compose.FailureContinue:
		return n
	}
	return 0
}

// stopLaws holds the stop of a container to what was promised.
func stopLaws(w *sim, c *Container, promises map[string]promise, broken map[string]bool) {
	p, ok := promises[c.Service]
	if !ok || broken[c.Service] || !p.trial.Stood(c, w.clock) {
		return
	}
	if left := readyNow(w, c.Service, p.trial, c); left < p.least {
		w.lawBroken("%s is stopped and leaves %d ready, %d were promised", c.Name, left, p.least)
	}
}
