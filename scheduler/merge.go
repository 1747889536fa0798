package scheduler

import (
	"maps"
	"slices"
	"strings"
	"time"

	"gantry/compose"
)

// DownGoal is the goal to have nothing of a project, or, if o.Services names
// some, none of those.
func DownGoal(project string, o Options) Goal {
	return Goal{Project: &compose.Project{Name: project, WorkingDir: o.Dir}, Options: o}
}

// Merge is the goal a project has after a call: what was stored before, if
// anything, with what is asked now.
//
// A goal about all services replaces the stored one. A goal about some of them
// (Scope) is laid over it: `up db` changes db and what it depends on, and
// leaves what is wanted of the others, and how they are defined, as it was.
//
// How many replicas an autoscaled service has is left as it is, unless the call
// says a number itself.
//
// Images that the call does not fix are fixed to what their names mean now, so
// that nothing started later is another one.
//
// The services asked for are stamped: Asked is now, or later if a container
// exited later than now says, and where a recreation is forced the generation
// is one that no container has yet. Merge changes neither goal.
func Merge(stored *Goal, asked Goal, have State) Goal {
	if asked.IsDown() {
		return mergeDown(stored, asked, have)
	}
	g := asked.clone()
	if asked.Scope != nil && stored != nil && !stored.IsDown() {
		g = lay(stored.clone(), asked)
	}
	if g.Services == nil {
		g.Services = map[string]Want{}
	}
	for name, w := range g.Services {
		if stored != nil {
			was := stored.Services[name]
			w.Generation = max(w.Generation, was.Generation)
			if rule := autoscaled(g.Project.Services[name]); rule != nil && was.Replicas > 0 && !slices.Contains(asked.Options.Scaled, name) {
				w.Replicas = rule.Within(was.Replicas) // what was measured since counts for more than the file
			}
		}
		g.Services[name] = w
	}
	stamp(&g, have)
	pin(&g, asked.Images, have)
	g = g.outlined()
	widen(&g, have)
	return g
}

// widen takes into the scope what a changed network takes down anyway: the
// services with a container on a network that will be made again, or in a
// namespace of such a container; and what their own changed networks take down.
// The plan cannot see to that: when the network is new, and the process has
// died, nothing would show whom it has taken down. It takes in those, too, that
// an earlier call has taken down and not brought up again. They all count as
// asked for now, or one could think that somebody wants them stopped.
func widen(g *Goal, have State) {
	if g.Scope == nil || g.Options.Recreate == Never || g.Options.RecreateDependencies == Never {
		return
	}
	p := newPlanner(*g, have)
	remade := map[string]bool{}
	for more := g.Scope; len(more) > 0; {
		for _, name := range more {
			conf := g.Project.Services[name]
			for _, key := range networkKeys(&conf) {
				if p.networkChanged(key) {
					remade[NetworkName(g.Project, key)] = true
				}
			}
		}
		more = nil
		for name := range p.takenDown(remade) {
			_, wanted := g.Services[name]
			if _, defined := g.Project.Services[name]; wanted && defined && !g.inScope(name) {
				more = append(more, name)
			}
		}
		g.Scope = append(slices.Clone(g.Scope), more...)
		for _, name := range more {
			w := g.Services[name]
			w.Asked, w.NoStart = askedAt(g.Project.Name, have), g.Options.NoStart
			g.Services[name] = w
		}
	}
	slices.Sort(g.Scope)
}

// takenDown are the services with a container on one of these networks, or that
// was taken down before, or in a namespace of such a container.
func (p *planner) takenDown(networks map[string]bool) map[string]bool {
	taken, on := map[string]bool{}, map[string]bool{}
	for service, cs := range p.containers {
		for _, c := range cs {
			if slices.ContainsFunc(c.Networks, func(n string) bool { return networks[n] }) || p.leftDown(c) {
				on[c.ID], taken[service] = true, true
			}
		}
	}
	for service, cs := range p.containers {
		for _, c := range cs {
			if slices.ContainsFunc(c.Joins, func(id string) bool { return on[id] }) {
				taken[service] = true
			}
		}
	}
	return taken
}

// leftDown reports whether a container was stopped for a network that has been
// made anew since, and was not replaced.
func (p *planner) leftDown(c *Container) bool {
	if !c.Stopped || c.present() {
		return false
	}
	for what, hash := range parsePairs(c.Uses) {
		key, network := strings.CutPrefix(what, compose.PartNetwork)
		if conf, defined := p.p.Networks[key]; network && defined && !bool(conf.External) && !strings.HasPrefix(p.hashOfNetwork(key), hash) {
			return true
		}
	}
	return false
}

// pin fixes the images of the services in scope: by the ids the caller gave,
// else to what their names mean now.
func pin(g *Goal, given map[string]string, have State) {
	images, sources := maps.Clone(g.Images), maps.Clone(g.Sources)
	for name := range g.Services {
		s, ok := g.Project.Services[name]
		if !ok || !g.inScope(name) {
			continue
		}
		s.Name = name
		ref := compose.ImageName(g.Project, s)
		if id := have.Images[ref]; given[ref] == "" && id != "" {
			if images == nil {
				images = map[string]string{}
			}
			images[ref] = id
			delete(sources, ref)
			if source := have.Sources[ref]; source != "" {
				if sources == nil {
					sources = map[string]string{}
				}
				sources[ref] = source
			}
		}
	}
	g.Images, g.Sources = images, sources
}

// lay puts the services in the scope of asked over base.
func lay(base, asked Goal) Goal {
	g := base
	p := *asked.Project
	p.Services = base.Project.Services
	p.Networks = over(base.Project.Networks, asked.Project.Networks)
	p.Volumes = over(base.Project.Volumes, asked.Project.Volumes)
	p.Secrets = over(base.Project.Secrets, asked.Project.Secrets)
	p.Configs = over(base.Project.Configs, asked.Project.Configs)
	for name, s := range asked.Project.Services {
		if _, ok := p.Services[name]; !ok || asked.inScope(name) {
			p.Services[name] = s
		}
	}
	g.Project = &p
	g.Services = over(base.Services, asked.Services)
	g.Images, g.Sources = over(base.Images, asked.Images), over(base.Sources, asked.Sources)
	g.Coming, g.Pulls = asked.Coming, asked.Pulls
	g.Scope = slices.Clone(asked.Scope)
	g.Known = slices.Compact(slices.Sorted(slices.Values(append(g.Known, asked.Known...))))
	g.Options = asked.Options
	return g
}

func over[M ~map[string]V, V any](under, top M) M {
	m := make(M, len(under)+len(top))
	maps.Copy(m, under)
	maps.Copy(m, top)
	return m
}

// mergeDown keeps of the stored goal what `down` must know: which services are
// the project's own.
func mergeDown(stored *Goal, asked Goal, have State) Goal {
	if names := asked.Options.Services; len(names) > 0 && stored != nil && !stored.IsDown() {
		g := stored.clone()
		g.Options, g.Scope = asked.Options, slices.Sorted(slices.Values(names))
		for _, name := range names {
			w := g.Services[name]
			w.Replicas = 0
			g.Services[name] = w
		}
		stamp(&g, have)
		return g
	}
	g := asked.clone()
	if asked.Options.Named {
		g.Project.WorkingDir = "" // whatever bears the name
	}
	if stored != nil {
		g.Project.WorkingDir = stored.Project.WorkingDir
		g.Known = append(g.Known, stored.Known...)
		if stored.Project != nil {
			g.Known = append(g.Known, stored.Project.ServiceNames()...)
		}
		g.Known = slices.Compact(slices.Sorted(slices.Values(g.Known)))
	}
	if g.Options.Services != nil {
		g.Scope = slices.Sorted(slices.Values(g.Options.Services))
	}
	return g
}

// stamp marks the services in the goal's scope as asked for now.
func stamp(g *Goal, have State) {
	now, highest := askedAt(g.Project.Name, have), map[string]int{}
	for _, c := range have.Containers {
		if c.Project == g.Project.Name && !c.OneOff {
			highest[c.Service] = max(highest[c.Service], c.Generation)
		}
	}
	for name, w := range g.Services {
		if !g.inScope(name) {
			continue
		}
		w.Asked, w.NoStart = now, g.Options.NoStart
		if g.policy(name) == Always {
			w.Generation = max(w.Generation, highest[name]) + 1
		}
		g.Services[name] = w
	}
}

// askedAt is when a service counts as asked for now: after all that has
// happened to the project's containers, whatever the clock says.
func askedAt(project string, have State) time.Time {
	now := have.Now
	for _, r := range have.Removals {
		now = later(now, r.At)
	}
	for _, c := range have.Containers {
		if c.Project == project && !c.OneOff {
			now = later(now, c.FinishedAt)
		}
	}
	return now
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
