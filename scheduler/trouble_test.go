package scheduler

import (
	"fmt"
	"slices"
	"time"

	"gantry/compose"
)

// replicaKey is one replica of a service.
type replicaKey struct {
	service string
	number  int
}

// trouble is what happens to a machine between calls. A project that is settled
// is held meanwhile: what was lost comes back, and what a call of somebody else
// has stopped or removed stays so.
func (l *lifetime) trouble() error {
	n := l.IntN(4) - 1
	if n <= 0 {
		return nil
	}
	for _, c := range l.w.containers { // what calls have brought back
		delete(l.taken, replicaKey{c.Service, c.Number})
		if c.present() {
			delete(l.halted, c.ID)
		}
	}
	for range n {
		l.disturb()
	}
	if l.often(1, 3) {
		return nil // the call comes at once
	}
	l.f.mu.Lock()
	l.f.wild = l.IntN(3)
	l.f.mu.Unlock()
	l.idle(15 * time.Second)
	l.f.mu.Lock()
	l.f.wild = 0
	l.f.mu.Unlock()
	l.idle(40 * time.Second)
	l.calm(true) // the autoscaler may just have had to do with it
	return l.held()
}

// held says in what a settled project is not as it should be while nobody
// calls.
func (l *lifetime) held() error {
	r := l.mem.record("shop")
	if r.Phase != Settled {
		return nil
	}
	have := l.w.look(r.Goal)
	plan, problems, err := Repair(r.Goal, have, r.Repairing, r.Restarting...)
	if err != nil || len(problems) == 0 && !plan.Empty() {
		return fmt.Errorf("the project is held and there is left\n%s%v", plan, err)
	}
	there, numbers := map[string]int{}, map[replicaKey]bool{}
	jobs := l.jobs(r.Goal.Project)
	for _, c := range have.Containers {
		if _, job := jobs[c.Service]; job {
			continue // see jobLaw
		}
		// What is not in the project any more a call may have stopped while it was.
		if w, wanted := r.Goal.Services[c.Service]; wanted && c.Stopped && !c.present() && !l.halted[c.ID] && !w.Stopped && c.FinishedAt.After(w.Asked) && !l.f.broken[c.Service] {
			return fmt.Errorf("%s is stopped, and no call has done it", c.Name)
		}
		there[c.Service]++
		numbers[replicaKey{c.Service, c.Number}] = true
		if at, ok := l.taken[replicaKey{c.Service, c.Number}]; ok && at.After(r.Goal.Services[c.Service].Asked) {
			return fmt.Errorf("%s was removed by a call and is there again", c.Name)
		}
		if l.halted[c.ID] && c.present() {
			return fmt.Errorf("%s was stopped by a call and runs again", c.Name)
		}
	}
	for _, gone := range have.Removals {
		if key := (replicaKey{gone.Service, gone.Number}); !numbers[key] {
			there[key.service]++
			numbers[key] = true
		}
	}
	for name, w := range r.Goal.Services {
		s := r.Goal.Project.Services[name]
		// A job that is gone has had its run.
		if there[name] < w.Replicas && !w.Stopped && !completes(r.Goal.Project, name) && len(problems) == 0 && !l.f.broken[name] {
			return fmt.Errorf("of %s there are %d, %d are wanted and nobody has removed one (%s)", name, there[name], w.Replicas, s.Image)
		}
	}
	return nil
}

// completes reports whether somebody waits for a service to have ended well.
func completes(p *compose.Project, name string) bool {
	for _, s := range p.Services {
		if s.DependsOn[name].Condition == compose.ConditionCompleted {
			return true
		}
	}
	return false
}

// disturb does something to the machine that no call to the scheduler asked
// for.
func (l *lifetime) disturb() {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	l.w.tick()
	if l.often(1, 5) {
		ref := pick(l, "busybox", "nginx")
		delete(l.w.images, l.w.images[ref])
		delete(l.w.images, ref)
		l.disturbed = l.disturbed || l.runs(&l.mem.record("shop").Goal) // whose image is to be here at any time
		l.tell("image %s is lost", ref)
		return
	}
	var own []*Container
	for _, id := range sortedKeys(l.w.containers) {
		if c := l.w.containers[id]; c.Project == "shop" {
			own = append(own, c)
		}
	}
	if len(own) == 0 {
		return
	}
	c := own[l.IntN(len(own))]
	what := pick(l, "exits", "is stopped", "is lost", "loses its process", "is removed", "is dead", "has a copy", "is renamed", "has a new image", "gets sick")
	switch what {
	case "exits":
		if c.present() {
			l.w.exit(c, 1)
		}
	case "is stopped":
		if c.present() { // else there is nothing to stop
			l.w.exit(c, 143)
			c.Stopped = true
			l.halted[c.ID] = true
		}
	case "is lost":
		delete(l.w.containers, c.ID)
	case "loses its process":
		if c.present() {
			l.w.exit(c, 255)
			c.Lost = true
		}
	case "is removed":
		delete(l.w.containers, c.ID)
		l.w.removals[c.Project] = append(l.w.removals[c.Project], Removal{Service: c.Service, Number: c.Number, At: l.w.clock})
		if !slices.ContainsFunc(own, func(o *Container) bool { return o != c && o.Service == c.Service && o.Number == c.Number }) {
			l.taken[replicaKey{c.Service, c.Number}] = l.w.clock
		}
	case "is dead":
		c.Status = Dead
	case "has a copy":
		twin := *c
		l.w.seq++
		twin.ID = fmt.Sprintf("c%04d", l.w.seq)
		twin.Name, twin.Created = twin.ID+"_"+c.Name, l.w.clock
		l.w.containers[twin.ID], l.halted[twin.ID] = &twin, l.halted[c.ID]
	case "is renamed":
		c.Name = "renamed_" + c.Name
	case "has a new image":
		l.w.seq++
		l.w.image(c.Image, fmt.Sprintf("sha256:%d", l.w.seq))
	case "gets sick":
		if c.Health != HealthNone {
			c.Health = Unhealthy
		}
	}
	l.w.happened(c.Project)
	l.disturbed, l.upset = true, true
	l.tell("%s: %s", c.Name, what)
}
