package scheduler

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"gantry/compose"
)

// pick is one of several.
func pick[T any](l *lifetime, from ...T) T { return from[l.IntN(len(from))] }

// often is true in n of m cases.
func (l *lifetime) often(n, m int) bool { return l.IntN(m) < n }

// drawProject draws three to five services that depend on earlier ones in every
// way there is.
func (l *lifetime) drawProject() *compose.Project {
	p := &compose.Project{Name: "shop", WorkingDir: "/src", Services: compose.Services{},
		Networks: compose.Networks{"default": {}, "back": {Internal: l.often(1, 2)}}, Volumes: compose.Volumes{"data": {}}}
	n := 3 + l.IntN(3)/2
	depends := false
	for i := range n {
		s := l.drawService(p, i)
		depends = depends || len(s.DependsOn) > 0
		if i == n-1 && !depends {
			s.DependsOn["s0"] = compose.Dependency{Condition: compose.ConditionStarted, Required: true}
		}
		if i == n-1 && l.often(1, 5) {
			s.Deploy, s.ContainerName, s.Ports, s.Scale = nil, "", nil, nil
			s.Extensions = map[string]any{"x-gantry": map[string]any{"schedule": pick(l, "* * * * *", "*/2 * * * *")}}
		}
		p.Services[s.Name] = s
	}
	return p
}

func (l *lifetime) drawService(p *compose.Project, i int) compose.Service {
	s := compose.Service{Name: fmt.Sprintf("s%d", i)}
	s.Image, s.Command = pick(l, "busybox", "nginx"), compose.ShellCommand{pick(l, "a", "b")}
	scale := l.IntN(4)
	s.Scale = &scale
	if s.Networks = map[string]*compose.ServiceNetwork{}; l.often(1, 2) {
		s.Networks["back"] = nil
	}
	if l.often(1, 2) {
		s.Networks["default"] = nil
	}
	if l.often(1, 4) {
		s.Volumes = []compose.ServiceVolume{{Type: compose.VolumeTypeVolume, Source: "data", Target: "/data"}}
	}
	if l.often(1, 5) {
		s.Ports = []compose.ServicePort{{Target: 80, Published: pick(l, "8080", "8081")}}
		for _, o := range p.Services {
			if len(o.Ports) > 0 && o.Ports[0].Published == s.Ports[0].Published {
				s.Ports = nil
				break
			}
		}
	}
	if l.often(1, 4) {
		scale, s.ContainerName = min(scale, 1), pick(l, "ann", "bob")
		for _, o := range p.Services {
			if o.ContainerName == s.ContainerName {
				s.ContainerName = ""
				break
			}
		}
	}
	if l.often(1, 2) {
		s.Deploy = &compose.Deploy{UpdateConfig: l.drawUpdate()}
		if l.often(1, 2) {
			s.Deploy.RollbackConfig = l.drawUpdate()
			s.Deploy.RollbackConfig.FailureAction = pick(l, "", "pause", "continue")
		}
	}
	if i%2 == 0 && s.ContainerName == "" && l.often(1, 6) {
		least := 1 + l.IntN(2)
		s.Extensions = map[string]any{"x-gantry": map[string]any{"autoscale": map[string]any{
			"min": least, "max": least + 1 + l.IntN(2), "cpu": "50%", "stabilization": "20s"}}}
	}
	s.DependsOn = compose.DependsOn{}
	for j := range i {
		if l.often(1, 3) {
			// Nobody can be healthy and done: odd services are jobs.
			s.DependsOn[fmt.Sprintf("s%d", j)] = compose.Dependency{
				Condition: pick(l, compose.ConditionStarted, []string{compose.ConditionHealthy, compose.ConditionCompleted}[j%2]),
				Required:  l.often(3, 4), Restart: l.often(1, 2)}
		}
	}
	if i > 0 && l.often(1, 6) {
		target := fmt.Sprintf("s%d", l.IntN(i))
		if o := p.Services[target]; *o.Scale > 0 && o.NetworkMode == "" && len(s.Ports) == 0 {
			s.NetworkMode, s.Networks = compose.ServicePrefix+target, nil
		}
	}
	return s
}

func (l *lifetime) drawUpdate() *compose.UpdateConfig {
	u := &compose.UpdateConfig{Order: pick(l, "", "", "start-first", "stop-first"), FailureAction: pick(l, "", "", "pause", "continue", "rollback")}
	if l.often(1, 2) {
		n := uint64(l.IntN(3))
		u.Parallelism = &n
	}
	if l.often(1, 3) {
		u.Delay = compose.Duration(time.Duration(1+l.IntN(5)) * time.Second)
	}
	if l.often(1, 3) {
		u.Monitor = compose.Duration(time.Duration(1+l.IntN(20)) * time.Second)
	}
	if l.often(1, 4) {
		u.MaxFailureRatio = 0.5
	}
	return u
}

// suit has containers behave as their dependents need them to.
func (l *lifetime) suit(projects ...*compose.Project) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	l.w.behave = map[string]string{}
	for _, p := range projects {
		for _, s := range p.Services {
			if scheduleOf(s) != "" && l.seed%2 == 0 { // else a run lasts until something happens to it
				l.w.behave[s.Name] = fmt.Sprintf("exit %d", l.seed%3)
			}
			for name, d := range s.DependsOn {
				switch d.Condition {
				case compose.ConditionHealthy:
					l.w.behave[name] = "check"
				case compose.ConditionCompleted:
					l.w.behave[name] = "exit 0"
				}
			}
		}
	}
}

// change is the project after an edit of its file.
func (l *lifetime) change() {
	p := *l.project
	p.Services, p.Networks, p.Volumes = maps.Clone(p.Services), maps.Clone(p.Networks), maps.Clone(p.Volumes)
	for range 1 + l.IntN(2) {
		names := p.ServiceNames()
		name := names[l.IntN(len(names))]
		s := p.Services[name]
		switch l.IntN(12) {
		case 0, 1, 2:
			s.Command = compose.ShellCommand{fmt.Sprint("c", l.IntN(4))}
		case 3:
			s.Image = pick(l, "busybox", "nginx")
		case 4:
			n := p.Networks["back"]
			n.Internal = !n.Internal
			p.Networks["back"] = n
		case 5:
			v := p.Volumes["data"]
			v.Labels = compose.Labels{"edition": fmt.Sprint(l.IntN(3))}
			p.Volumes["data"] = v
		case 6: // names and ports go from one to another
			to := names[l.IntN(len(names))]
			for _, n := range names {
				if o := p.Services[n]; o.ContainerName != "" && o.GetScale() == 1 && n != name {
					to = n
				}
			}
			if o := p.Services[to]; to != name && s.GetScale() <= 1 && o.GetScale() <= 1 && s.Extensions == nil && o.Extensions == nil {
				s.ContainerName, o.ContainerName = o.ContainerName, s.ContainerName
				if s.NetworkMode == "" && o.NetworkMode == "" {
					s.Ports, o.Ports = o.Ports, s.Ports
				}
				p.Services[to], l.moved = o, true
			}
		case 7:
			scale := l.IntN(4)
			if s.ContainerName != "" {
				scale = min(scale, 1)
			}
			if scheduleOf(s) == "" {
				s.Scale = &scale
			}
		case 8: // it joins a network or leaves one
			if s.NetworkMode == "" {
				key := pick(l, "default", "back")
				had := s.Networks
				if s.Networks = maps.Clone(had); len(had) == 2 {
					delete(s.Networks, key)
				} else {
					s.Networks[key] = nil
				}
			}
		case 9:
			s.MemLimit = compose.UnitBytes(l.IntN(3) << 20)
		case 10:
			if s.NetworkMode == "" {
				s.Ports = pick(l, nil, []compose.ServicePort{{Target: 80, Published: "90" + name[1:]}})
			}
		case 11: // its last service goes, nobody needs it
			if last := names[len(names)-1]; len(names) > 3 && last != name {
				delete(p.Services, last)
			}
		}
		p.Services[name] = s
	}
	l.project = &p
}

// drawWish draws what the user wants next.
func (l *lifetime) drawWish() wish {
	r := l.s.stored("shop")
	if r == nil || r.Goal.IsDown() || l.often(5, 10) {
		if l.often(1, 2) {
			l.change()
		}
		return l.up()
	}
	names := slices.Sorted(maps.Keys(r.Goal.Services))
	name := names[l.IntN(len(names))]
	o := Options{Services: []string{name}, NoDeps: l.often(1, 3)}
	switch l.IntN(7) {
	case 6:
		return l.back(r, name)
	case 0:
		o = Options{Volumes: l.often(1, 2), RemoveOrphans: l.often(1, 2), RemoveImages: pick(l, "", "", RemoveAllImages, RemoveLocalImages)}
		if l.often(1, 4) {
			o = Options{Services: []string{name}}
		}
		return l.apply(fmt.Sprintf("down%s", describe(o)), DownGoal("shop", o))
	case 1:
		if l.often(1, 2) {
			o = Options{}
		}
		return wish{text: "stop" + describe(o), call: func(ctx context.Context) error { return l.s.Stop(ctx, "shop", o, l.report) }}
	case 2:
		if l.often(1, 2) {
			o = Options{}
		}
		return wish{text: "start" + describe(o), call: func(ctx context.Context) error { return l.s.Start(ctx, "shop", o, l.report) }}
	}
	n := l.IntN(5)
	if r.Goal.Project.Services[name].ContainerName != "" {
		n = min(n, 1)
	}
	return wish{text: fmt.Sprintf("scale %s=%d", name, n), call: func(ctx context.Context) error {
		return l.s.Scale(ctx, "shop", map[string]int{name: n}, o, l.report)
	}}
}

func (l *lifetime) up() wish {
	o := Options{
		Recreate:      pick(l, Changed, Changed, Changed, Changed, Always, Never),
		NoStart:       l.often(1, 12),
		Wait:          l.often(1, 2),
		RemoveOrphans: l.often(1, 2),
		RenewVolumes:  l.often(1, 2),
		NoDeps:        l.often(1, 6),
		Parallel:      pick(l, 0, 0, 1, 3),
	}
	if l.moved {
		o.Recreate, l.moved = Changed, false // who has it must give it away
	} else if l.often(1, 4) {
		names := l.project.ServiceNames()
		o.Services = []string{names[l.IntN(len(names))]}
	}
	o.RecreateDependencies = o.Recreate
	g, err := NewGoal(l.project, o)
	if err != nil {
		panic(err)
	}
	l.suit(l.project)
	if r := l.s.stored("shop"); r != nil && g.Scope != nil {
		l.suit(r.Goal.Project, l.project)
	}
	return l.apply("up"+describe(o), g)
}

func (l *lifetime) apply(text string, g Goal) wish {
	return wish{text: text, options: &g.Options, all: len(g.Options.Services) == 0,
		call: func(ctx context.Context) error { return l.s.Apply(ctx, g, l.report) },
		plan: func(ctx context.Context) (Plan, error) { return l.s.Plan(ctx, g) }}
}

// back is a rollback by a call, of everything or of one service, to the last
// goal that came about or to any there was.
func (l *lifetime) back(r *record, name string) wish {
	o, to := Options{Wait: l.often(1, 2)}, 0
	if told, _ := l.mem.list("shop"); l.often(1, 3) {
		to = 1 + l.IntN(len(told)+1)
	}
	if l.often(1, 2) {
		o.Services = []string{name}
	}
	if _, target, err := l.s.target("shop", r.Goal, to, o.Services); err == nil {
		if o.Services != nil && clashes(r.Goal.Project, target.Project, name) {
			o.Services = nil // who has it must give it away
		}
		p := target.Project
		if o.Services != nil { // who depends on it is not brought back with it
			q := *r.Goal.Project
			q.Services = maps.Clone(q.Services)
			q.Services[name] = p.Services[name]
			p = &q
		}
		l.suit(r.Goal.Project, p)
	}
	return wish{text: fmt.Sprintf("rollback to %d%s", to, describe(o)), options: &o,
		call: func(ctx context.Context) error { return l.s.Rollback(ctx, "shop", to, o, l.report) },
		plan: func(ctx context.Context) (Plan, error) { return l.s.PlanRollback(ctx, "shop", to, o) }}
}

// clashes reports whether a service as it was before has a name or a port that
// another one has got since.
func clashes(now, before *compose.Project, name string) bool {
	was, ok := before.Services[name]
	if !ok {
		return false
	}
	for other, s := range now.Services {
		if other == name {
			continue
		}
		if was.ContainerName != "" && s.ContainerName == was.ContainerName {
			return true
		}
		for _, port := range hostPorts(&was) {
			if slices.Contains(hostPorts(&s), port) {
				return true
			}
		}
	}
	return false
}

// describe says what is not the default.
func describe(o Options) string {
	var b strings.Builder
	for v, i := reflect.ValueOf(o), 0; i < v.NumField(); i++ {
		if !v.Field(i).IsZero() {
			fmt.Fprintf(&b, " %s=%v", v.Type().Field(i).Name, v.Field(i))
		}
	}
	return b.String()
}
