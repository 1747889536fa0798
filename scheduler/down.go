package scheduler

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"gantry/compose"
)

// orphaned reports whether a container belongs to a service the project does
// not have. What `run` made is one when it has ended.
func (p *planner) orphaned(c *Container) bool {
	if c.Project != p.p.Name {
		return false
	}
	if c.OneOff {
		return !c.present() && c.Status != Created
	}
	_, defined := p.p.Services[c.Service]
	return !defined && !slices.Contains(p.want.Known, c.Service)
}

// removeOrphans removes orphans if that was asked for, else speaks of them.
func (p *planner) removeOrphans() error {
	var orphans, foreign []*Container
	for i := range p.have.Containers {
		switch c := &p.have.Containers[i]; {
		case !p.orphaned(c):
		case p.ours(c.Dir):
			orphans = append(orphans, c)
		case !c.OneOff:
			foreign = append(foreign, c)
		}
	}
	p.noteForeign(foreign)
	if p.want.Options.RemoveOrphans {
		p.orphans = p.removeAll(orphans, func(c *Container) string {
			if c.OneOff {
				return "left over from a run"
			}
			return "service " + c.Service + " is not in the project"
		}, RemoveOptions{Timeout: p.want.Options.Timeout})
		return nil
	}
	p.noteOrphans(orphans)
	return nil
}

func (p *planner) noteOrphans(orphans []*Container) {
	names := map[string][]string{}
	for _, c := range orphans {
		if !c.OneOff {
			names[c.Service] = append(names[c.Service], c.Name)
		}
	}
	for _, service := range sortedKeys(names) {
		slices.Sort(names[service])
		p.note("service %s is not in the project; its containers stay (remove them with --remove-orphans): %s", service, strings.Join(names[service], ", "))
	}
}

// removeAll removes containers, those of dependents first. Who depends on whom
// is read off the labels, which say what is, whatever the project says now.
func (p *planner) removeAll(list []*Container, why func(*Container) string, o RemoveOptions) []int {
	byService, dependsOn := map[string][]*Container{}, map[string][]string{}
	for _, c := range list {
		byService[c.Service] = append(byService[c.Service], c)
		if !c.OneOff {
			dependsOn[c.Service] = append(dependsOn[c.Service], c.DependsOn...)
		}
	}
	steps, done := map[string][]int{}, map[string]bool{}
	var all []int
	for _, service := range dependentsFirst(byService, dependsOn) {
		after := steps[service] // so far: those of its dependents
		slices.SortFunc(byService[service], byNumber)
		var own []int
		for _, c := range byService[service] {
			p.doomed[c.ID] = p.add(Step{After: after, Why: why(c),
				Do: Remove{ID: c.ID, Name: c.Name, Service: c.Service, Running: c.present(), Options: o}})
			own = append(own, p.doomed[c.ID])
		}
		all = append(all, own...)
		done[service] = true
		dependencies := dependsOn[service]
		slices.Sort(dependencies)
		for _, d := range slices.Compact(dependencies) {
			if !done[d] {
				steps[d] = append(steps[d], own...)
			}
		}
	}
	return all
}

// dependentsFirst sorts services so that each comes before what it depends on;
// among equals by name. Labels may lie: a circle is cut where it is met.
func dependentsFirst(services map[string][]*Container, dependsOn map[string][]string) []string {
	seen := map[string]bool{}
	var order []string
	var visit func(string)
	visit = func(name string) {
		if seen[name] || services[name] == nil {
			return
		}
		seen[name] = true
		dependencies := slices.Clone(dependsOn[name])
		slices.Sort(dependencies)
		for _, d := range slices.Backward(dependencies) {
			visit(d)
		}
		order = append(order, name)
	}
	for _, name := range slices.Backward(sortedKeys(services)) {
		visit(name)
	}
	slices.Reverse(order)
	return order
}

// reconcileDown removes what carries the project's labels: containers, then
// networks, and what the options add.
func reconcileDown(want Goal, have State) Plan {
	p := newPlanner(want, have)
	o := want.Options
	var remove, orphans, foreign []*Container
	named := make(map[string]bool, len(want.Known))
	for _, name := range want.Known {
		named[name] = true
	}
	for i := range have.Containers {
		c := &have.Containers[i]
		known := !c.OneOff && named[c.Service]
		switch {
		case c.Project != p.p.Name || want.Scope != nil && !want.inScope(c.Service):
		case !known && !p.ours(c.Dir):
			foreign = append(foreign, c)
		case want.Scope == nil && len(want.Known) > 0 && !c.OneOff && !known && !o.RemoveOrphans:
			orphans = append(orphans, c)
		default:
			remove = append(remove, c)
		}
	}
	slices.SortFunc(orphans, func(a, b *Container) int { return cmp.Or(strings.Compare(a.Name, b.Name), byNumber(a, b)) })
	p.noteOrphans(orphans)
	p.noteForeign(foreign)
	removed := p.removeAll(remove, func(*Container) string { return "down" }, RemoveOptions{Timeout: o.Timeout, Volumes: o.Volumes})
	if want.Scope != nil {
		return p.plan
	}
	user := func(uses func(*Container) []string, name string) string {
		for _, c := range slices.Concat(orphans, foreign) {
			if slices.Contains(uses(c), name) {
				return c.Name
			}
		}
		return ""
	}
	for _, n := range slices.SortedFunc(slices.Values(have.Networks), func(a, b Network) int { return strings.Compare(a.Name, b.Name) }) {
		if n.Project != p.p.Name {
			continue
		}
		if c := cmp.Or(user(func(c *Container) []string { return c.Networks }, n.Name), first(n.Others)); c != "" {
			p.note("network %s stays: %s is on it", n.Name, c)
			continue
		}
		p.add(Step{Do: RemoveNetwork{ID: n.ID, Name: n.Name}, Why: "down", After: removed})
	}
	if o.Volumes {
		for _, v := range slices.SortedFunc(slices.Values(have.Volumes), func(a, b Volume) int { return strings.Compare(a.Name, b.Name) }) {
			if v.Project != p.p.Name || v.Key == "" {
				continue
			}
			if !o.Named && !p.ours(v.Dir) {
				p.note("volume %s stays: it was made by the project of the same name in %s (gantry volume rm removes it)", v.Name, v.Dir)
				continue
			}
			if c := cmp.Or(user(func(c *Container) []string { return c.Volumes }, v.Name), first(v.Others)); c != "" {
				p.note("volume %s stays: %s mounts it", v.Name, c)
				continue
			}
			p.add(Step{Do: RemoveVolume{Name: v.Name}, Why: "down with volumes", After: removed, Destroys: destroys(v.Name)})
		}
	}
	p.removeImages(removed)
	return p.plan
}

func first(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return names[0]
}

// removeImages removes the images of the project's services. Another project
// may use one: then it stays, which is no failure.
func (p *planner) removeImages(after []int) {
	if p.want.Options.RemoveImages == RemoveNoImages || p.have.Was == nil {
		return
	}
	refs := map[string]bool{}
	for name, s := range p.have.Was.Services {
		s.Name = name
		ref := compose.ImageName(p.have.Was, s)
		local := s.Build != nil && s.Image == ""
		if p.have.Images[ref] != "" && (local || p.want.Options.RemoveImages == RemoveAllImages) {
			refs[ref] = true
		}
	}
	for _, ref := range sortedKeys(refs) {
		p.add(Step{Do: RemoveImage{ref}, Why: fmt.Sprintf("down with %s images", p.want.Options.RemoveImages), After: after, Optional: true})
	}
}
