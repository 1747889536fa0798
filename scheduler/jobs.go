package scheduler

import (
	"fmt"
	"slices"
	"time"

	"gantry/compose"

	"github.com/robfig/cron/v3"
)

// A service with a schedule has no replicas. It is a job, and each of its runs
// is one container, made when it is due. The last one stays, with its logs,
// until the next is made.

// scheduleOf is when a service is run, as cron writes it; "" for one that is
// not a job.
func scheduleOf(s compose.Service) string {
	g, err := compose.GantryOf(s)
	if err != nil { // refused when the project was loaded
		return ""
	}
	return g.Schedule
}

// Needs reports whether a service will need its image: it has replicas, or it
// is run by a schedule.
func (g Goal) Needs(service string) bool {
	w, wanted := g.Services[service]
	return wanted && (w.Replicas > 0 || scheduleOf(g.Project.Services[service]) != "")
}

// runLabel is what tells one run of a job from another.
func runLabel(due time.Time) string { return due.UTC().Format(time.RFC3339) }

// planJob plans for a job: nothing, or the run that is due. A repair has
// nothing to do with jobs: a run that was lost is over.
func (p *planner) planJob(s *service) error {
	if p.holding {
		return nil
	}
	due := ""
	if !s.want.Run.IsZero() {
		due = runLabel(s.want.Run)
	}
	var after []int
	for _, c := range p.containers[s.name] {
		switch {
		case c.broken():
			after = append(after, p.doom(c, "it is "+string(c.Status)))
		case c.Run == "":
			after = append(after, p.doom(c, s.name+" is run by its schedule"))
		case c.Run == due:
			if c.Status == Created { // whoever made it died before it was started
				p.add(Step{Do: Start{c.ID, c.Name, s.name}, Why: "never started", After: after})
			}
			due = ""
		case due != "" && c.present():
			return conflict("service %s: the run of %s has not ended", s.name, c.Run)
		case due != "":
			after = append(after, p.doom(c, "its run is over"))
		}
	}
	if due == "" {
		return nil
	}
	spec, doors, err := p.spec(s, &replica{number: 1})
	if err != nil {
		return err
	}
	spec.Labels[LabelRun] = due
	p.add(Step{Do: Run{spec}, Why: "due at " + due, After: slices.Concat(after, doors, p.readyFor(s))})
	return nil
}

// readyFor waits for what a job depends on, as far as it runs: a run makes and
// starts nothing but itself.
func (p *planner) readyFor(s *service) (steps []int) {
	for _, e := range p.outline.graph.Dependencies(s.name) {
		spec := AwaitSpec{Project: p.p.Name, Service: e.Service, Condition: IsHealthy}
		for _, c := range p.containers[e.Service] {
			if c.present() && c.Health == Starting {
				spec.Numbers = append(spec.Numbers, c.Number)
			}
		}
		if e.Condition == compose.ConditionHealthy && len(spec.Numbers) > 0 {
			slices.Sort(spec.Numbers)
			steps = append(steps, p.add(Step{Do: Await{spec}, Why: s.name + " depends on it", Optional: true}))
		}
	}
	return steps
}

// checkJob refuses what a job cannot be asked for.
func (p *planner) checkJob(s *service) error {
	if s.want.Replicas > 0 && s.want.Run.IsZero() {
		return invalid("service %s: %d replicas: it is run by its schedule (%s) and has none between its runs; remove x-gantry.schedule to have replicas",
			s.name, s.want.Replicas, s.schedule)
	}
	return nil
}

// mostMissed bounds how many times that have passed are counted.
const mostMissed = 1000

// dueOf says which run of a schedule is due now, the last of those that have
// come since from, and how many came before it; zero: none has. next is when
// the next one will be, zero if never.
func dueOf(schedule string, from, now time.Time) (due time.Time, missed int, next time.Time, err error) {
	times, err := cron.ParseStandard(schedule)
	if err != nil {
		return time.Time{}, 0, time.Time{}, fmt.Errorf("schedule %q: %w", schedule, err)
	}
	for next = times.Next(from); !next.IsZero() && !next.After(now); next = times.Next(next) {
		if missed == mostMissed { // a year of minutes is not worth counting
			return due, missed, times.Next(now), nil
		}
		if !due.IsZero() {
			missed++
		}
		due = next
	}
	return due, missed, next, nil
}
