package scheduler

import (
	"context"
	"log/slog"
	"maps"
	"time"
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
			o.l.scaleFailed = true
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

// calm waits until no walk is under way that nobody has called for.
func (l *lifetime) calm() {
	for range 100 {
		if l.mem.record("shop").Phase != Walking {
			return
		}
		l.idle(5 * time.Second)
	}
}
