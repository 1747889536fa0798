package compose

import (
	"slices"
	"sort"
	"strings"

	"github.com/containerd/errdefs"
)

// Graph is the services of a project and who depends on whom: by depends_on,
// links, volumes_from, and network_mode, ipc and pid of the form service:NAME.
// It is immutable.
type Graph struct {
	names []string          // sorted
	out   map[string][]Edge // dependencies, sorted by service
	in    map[string][]Edge // the same edges seen from the other end
}

// Edge is one dependency.
type Edge struct {
	Service   string // the service at the other end
	Condition string // ConditionStarted, ConditionHealthy or ConditionCompleted
	Required  bool   // false: a missing or failed one does not hold the dependent back
	Restart   bool   // the dependent restarts when this one is recreated
	// Via names the attributes that ask for it: "depends_on", "links", …
	Via []string
}

// NewGraph makes the graph of a project's enabled services. An optional
// dependency on a service that is not there is left out, a required one is an
// error; a circle is an error that names it: "web → db → web".
func NewGraph(p *Project) (*Graph, error) {
	g := &Graph{names: p.ServiceNames(), out: map[string][]Edge{}, in: map[string][]Edge{}}
	for _, name := range g.names {
		for _, e := range dependencies(p.Services[name]) {
			if _, ok := p.Services[e.Service]; !ok {
				if !e.Required {
					continue
				}
				return nil, missingDependency(p, name, e)
			}
			g.out[name] = append(g.out[name], e)
			back := e
			back.Service = name
			g.in[e.Service] = append(g.in[e.Service], back)
		}
	}
	if circle := g.circle(); circle != nil {
		return nil, &Error{Object: "services." + circle[0] + ".depends_on",
			Cause: "services wait for each other: " + strings.Join(circle, " → "),
			Next:  "remove one of these dependencies", class: errdefs.ErrInvalidArgument}
	}
	return g, nil
}

func missingDependency(p *Project, name string, e Edge) *Error {
	err := &Error{Object: "services." + name + "." + e.Via[0], class: errdefs.ErrInvalidArgument}
	if s, ok := p.DisabledServices[e.Service]; ok {
		err.Cause = "service " + e.Service + " is disabled by its profiles"
		err.Next = "enable it with --profile " + firstOf(s.Profiles)
		if len(s.Profiles) == 0 {
			err.Cause, err.Next = "service "+e.Service+" is not selected", "select it as well"
		}
		return err
	}
	err.Cause = "undefined service " + e.Service
	err.Next = "define it under services or remove it here"
	if guess := closest(e.Service, p.ServiceNames()); guess != "" && guess != name {
		err.Next = "did you mean " + guess + "?"
	}
	return err
}

// dependencies lists what a service depends on. depends_on has the word where
// another attribute names the same service.
func dependencies(s Service) []Edge {
	edges := map[string]Edge{}
	for name, d := range s.DependsOn {
		condition := d.Condition
		if condition == "" {
			condition = ConditionStarted
		}
		edges[name] = Edge{Service: name, Condition: condition, Required: d.Required, Restart: d.Restart}
	}
	add := func(name, via string, restart bool) {
		e, ok := edges[name]
		if !ok {
			e = Edge{Service: name, Condition: ConditionStarted, Required: true, Restart: restart}
		}
		if !slices.Contains(e.Via, via) {
			e.Via = append(e.Via, via)
		}
		edges[name] = e
	}
	for _, link := range s.Links {
		name, _, _ := strings.Cut(link, ":")
		add(name, "links", true)
	}
	for _, ns := range []struct{ via, value string }{{"network_mode", s.NetworkMode}, {"ipc", s.Ipc}, {"pid", s.Pid}} {
		if name, ok := strings.CutPrefix(ns.value, ServicePrefix); ok {
			add(name, ns.via, true)
		}
	}
	for _, v := range s.VolumesFrom {
		if !strings.HasPrefix(v, ContainerPrefix) {
			name, _, _ := strings.Cut(v, ":")
			add(name, "volumes_from", false)
		}
	}
	list := make([]Edge, 0, len(edges))
	for _, name := range sortedKeys(edges) {
		e := edges[name]
		// compose-go writes implied dependencies into depends_on; only where
		// nothing else explains an edge is it the user's own.
		if len(e.Via) == 0 {
			e.Via = []string{"depends_on"}
		}
		list = append(list, e)
	}
	return list
}

// circle finds one: a path whose first and last service are the same.
func (g *Graph) circle() []string {
	const (
		open = 1
		done = 2
	)
	state := map[string]int{}
	var path []string
	var visit func(string) []string
	visit = func(name string) []string {
		state[name] = open
		path = append(path, name)
		for _, e := range g.out[name] {
			switch state[e.Service] {
			case open:
				return append(slices.Clone(path[slices.Index(path, e.Service):]), e.Service)
			case 0:
				if c := visit(e.Service); c != nil {
					return c
				}
			}
		}
		path = path[:len(path)-1]
		state[name] = done
		return nil
	}
	for _, name := range g.names {
		if state[name] == 0 {
			if c := visit(name); c != nil {
				return c
			}
		}
	}
	return nil
}

// Names lists all services, sorted.
func (g *Graph) Names() []string { return slices.Clone(g.names) }

// Order lists every service after all it depends on: the waves, one after the
// other.
func (g *Graph) Order() []string {
	order := make([]string, 0, len(g.names))
	for _, wave := range g.Waves() {
		order = append(order, wave...)
	}
	return order
}

// Waves groups the services into steps, each sorted: those of a wave depend on
// earlier waves only, and on the one before at least once.
func (g *Graph) Waves() [][]string {
	depth := map[string]int{}
	var measure func(string) int
	measure = func(name string) int {
		if d, ok := depth[name]; ok {
			return d
		}
		d := 0
		for _, e := range g.out[name] {
			d = max(d, measure(e.Service)+1)
		}
		depth[name] = d
		return d
	}
	var waves [][]string
	for _, name := range g.names {
		d := measure(name)
		for len(waves) <= d {
			waves = append(waves, nil)
		}
		waves[d] = append(waves[d], name)
	}
	return waves
}

// Dependencies are the edges that leave a service, sorted by name.
func (g *Graph) Dependencies(name string) []Edge { return slices.Clone(g.out[name]) }

// Dependents are the services that depend directly on one, sorted.
func (g *Graph) Dependents(name string) []string {
	var names []string
	for _, e := range g.in[name] {
		names = append(names, e.Service)
	}
	sort.Strings(names)
	return names
}

// Roots are the services that depend on nothing: they start first.
func (g *Graph) Roots() []string { return g.without(g.out) }

// Leaves are the services nothing depends on: they stop first.
func (g *Graph) Leaves() []string { return g.without(g.in) }

func (g *Graph) without(edges map[string][]Edge) []string {
	var names []string
	for _, name := range g.names {
		if len(edges[name]) == 0 {
			names = append(names, name)
		}
	}
	return names
}

// Closure is the named services and all they depend on, in Order.
func (g *Graph) Closure(names ...string) []string {
	want := map[string]bool{}
	var visit func(string)
	visit = func(name string) {
		if want[name] || !slices.Contains(g.names, name) {
			return
		}
		want[name] = true
		for _, e := range g.out[name] {
			visit(e.Service)
		}
	}
	for _, name := range names {
		visit(name)
	}
	return slices.DeleteFunc(g.Order(), func(name string) bool { return !want[name] })
}

// Reverse is the graph with every edge turned round: the order of `down`.
func (g *Graph) Reverse() *Graph { return &Graph{names: g.names, out: g.in, in: g.out} }
