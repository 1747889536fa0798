package scheduler

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"time"

	"gantry/compose"
)

// What a daemon does without a caller in a life, and how the life hears of it.

// overheard is the log of a daemon, which tells of plans that no caller hears
// of.
type overheard struct{ l *lifetime }

func (overheard) Enabled(context.Context, slog.Level) bool { return true }

func (o overheard) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		plan, ok := a.Value.Any().(Plan)
		switch {
		case ok && r.Message == "walking":
			o.l.begun(plan)
		case ok:
			o.l.tell("  %s\n%s", r.Message, plan)
		case r.Message == "autoscale" && a.Key == "change":
			o.l.tell("  %s: %s", r.Message, a.Value)
		case r.Message == "autoscale" && a.Key == "error" && a.Value.Any() != nil:
			o.l.tell("  %s: %v", r.Message, a.Value)
		}
		return true
	})
	return nil
}

func (o overheard) WithAttrs([]slog.Attr) slog.Handler { return o }

func (o overheard) WithGroup(string) slog.Handler { return o }

// meter tells of containers that all do something else each time.
type meter struct{ l *lifetime }

func (m meter) Usage(_ context.Context, ids []string) (map[string]Usage, error) {
	l, now := m.l, time.Now()
	if l.f.isDead() {
		return nil, errDead
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.used == nil {
		l.used = map[string]Usage{}
	}
	all := map[string]Usage{}
	for _, id := range ids {
		u, known := l.used[id]
		if busy := l.f.chance("usage", id) >> 32 % 100; known {
			u.CPU += now.Sub(u.At) * time.Duration(busy) / 100
		}
		u.At = now
		l.used[id], all[id] = u, u
	}
	return all, nil
}

// rescaled are the services of a goal with the replicas that autoscaling has
// given them since.
func rescaled(g, since Goal) map[string]Want {
	all := maps.Clone(g.Services)
	for name, w := range all {
		if autoscaled(g.Project.Services[name]) != nil && w.Replicas > 0 {
			w.Replicas = since.Services[name].Replicas
			all[name] = w
		}
	}
	return all
}

// byAutoscaler says of a goal that the autoscaler may have changed it last.
func byAutoscaler(g Goal) bool {
	return g.Options.NoDeps && g.Options.Recreate == Never && len(g.Scope) > 0 &&
		!slices.ContainsFunc(g.Scope, func(s string) bool { return autoscaled(g.Project.Services[s]) == nil })
}

// calm waits until no walk is under way that nobody has called for and, if it is
// to be still, nothing else is.
func (l *lifetime) calm(still bool) {
	for range 100 {
		if l.mem.record("shop").Phase != Walking && (!still || l.f.under.Load() == 0) {
			return
		}
		l.idle(5 * time.Second)
	}
}

// jobOf is the job of a goal that a container, by name, is a run of, "" if none.
func (l *lifetime) jobOf(g *Goal, name string) (string, *Container) {
	jobs := l.jobs(g.Project)
	if len(jobs) == 0 {
		return "", nil
	}
	c := l.w.named(name)
	for service, container := range jobs {
		if c != nil && c.Project == "shop" && c.Service == service || c == nil && name == container {
			return service, c
		}
	}
	return "", nil
}

// jobs are the services of a project that are run by a schedule, and what the
// containers of their runs are called.
func (l *lifetime) jobs(p *compose.Project) map[string]string {
	if p == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	names, known := l.scheduled[p]
	if !known {
		if l.scheduled == nil {
			l.scheduled = map[*compose.Project]map[string]string{}
		}
		names = scheduled(p)
		l.scheduled[p] = names
	}
	return names
}

//go:noinline
func scheduled(p *compose.Project) map[string]string {
	names := map[string]string{}
	for name, s := range p.Services {
		if s.Name = name; s.Extensions != nil && scheduleOf(s) != "" {
			names[name] = ContainerName(p, s, 1)
		}
	}
	return names
}

// runsNeed are the parts of actions that the run of a job begins with.
var runsNeed = map[string]bool{"pull": true, "create network": true, "remove network": true, "create volume": true}

// runs reports whether a goal has a job that may be run.
func (l *lifetime) runs(g *Goal) bool {
	for name := range l.jobs(g.Project) {
		if !g.Services[name].Stopped {
			return true
		}
	}
	return false
}

// jobLaw holds the runs of a job to theirs: one at a time, each time that it is
// due is run once, and none while it is stopped.
func (l *lifetime) jobLaw(g *Goal, job, part string, c *Container) error {
	if part != "start" {
		return nil
	}
	if g.Services[job].Stopped {
		l.w.lawBroken("%s is started and %s is stopped", c.Name, job)
	}
	for _, o := range l.w.containers {
		if o != c && o.Project == "shop" && o.Service == job && o.present() {
			l.w.lawBroken("%s is started while %s runs", c.Name, o.Name)
		}
	}
	run := job + " " + c.Run
	if id, ok := l.made[run]; ok && id != c.ID && !l.upset && len(l.f.broken) == 0 || c.Run == "" {
		l.w.lawBroken("%s is a second run of %s due at %s", c.Name, job, c.Run)
	}
	l.made[run] = c.ID
	return nil
}
