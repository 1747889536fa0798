package scheduler

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"gantry/compose"
)

// What has changed of a container's service either needs a new container or
// can be had in place, by [Update]. The labels tell: LabelParts has a hash for
// each part of the service, and all parts but one can be changed in place.

// partsLabel is the value of LabelParts.
func partsLabel(p *compose.Project, s compose.Service) string { return pairs(compose.Parts(p, s)) }

// pairs writes "a=1,b=2", sorted; parsePairs reads it.
func pairs(m map[string]string) string {
	var b strings.Builder
	for _, k := range sortedKeys(m) {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(k)
		b.WriteByte('=')
		b.WriteString(m[k])
	}
	return b.String()
}

func sortedKeys[V any](m map[string]V) []string {
	keys := slices.AppendSeq(make([]string, 0, len(m)), maps.Keys(m))
	slices.Sort(keys)
	return keys
}

func parsePairs(s string) map[string]string {
	m := map[string]string{}
	for item := range strings.SplitSeq(s, ",") {
		if k, v, ok := strings.Cut(item, "="); ok {
			m[k] = v
		}
	}
	return m
}

// hashOf is LabelHash of a service's containers.
func (p *planner) hashOf(s *service) string { return p.outline.hashOf(s.traits) }

// wantedParts is LabelParts of a service's containers.
func (p *planner) wantedParts(s *service) string { return p.outline.partsOf(s.traits) }

// partsOf is LabelParts of a container. One of an older gantry has a hash of
// everything instead: that is enough if it is as wanted, or if the project it
// was made from is still known. "": not known.
func (p *planner) partsOf(s *service, c *Container) string {
	switch {
	case c.Parts != "":
		return c.Parts
	case c.Hash == p.hashOf(s):
		return p.wantedParts(s)
	}
	was := p.origin(s, c)
	if was == nil {
		return ""
	}
	parts, asked := s.partsIn[was]
	if !asked {
		conf := was.Services[s.name]
		conf.Name = s.name
		parts = partsLabel(was, conf)
		if s.partsIn == nil {
			s.partsIn = map[*compose.Project]string{}
		}
		s.partsIn[was] = parts
	}
	return parts
}

// renewed reports whether a container is to be replaced by a new one.
func (p *planner) renewed(s *service, c *Container) bool {
	return p.outdated(s, c) && (!p.reshapable(s, c) || p.stopping[c.ID] != 0 ||
		// Stopped since the service was asked for: by a plan that had to, and
		// died before it replaced the container.
		c.Stopped && !c.present() && c.FinishedAt.After(s.want.Asked))
}

// reshapable reports whether all that has changed can be had in place.
func (p *planner) reshapable(s *service, c *Container) bool {
	if c.Generation < s.want.Generation || p.otherImage(s, c) {
		return false
	}
	is := [2]string{p.partsOf(s, c), c.Uses}
	can, asked := s.reshapes[is] // the same for most replicas
	if !asked {
		can = is[0] != "" && subset(parsePairs(is[0]), parsePairs(p.wantedParts(s)), inPlace) && subset(parsePairs(c.Uses), parsePairs(s.uses), joinable)
		if s.reshapes == nil {
			s.reshapes = map[[2]string]bool{}
		}
		s.reshapes[is] = can
	}
	return can
}

// subset reports whether two sets of hashes differ in nothing but what may:
// of a key in both of them, or of one in either.
func subset(a, b map[string]string, may func(key string, both bool) bool) bool {
	for k, v := range a {
		w, both := b[k]
		if v != w && !may(k, both) {
			return false
		}
	}
	for k := range b {
		if _, both := a[k]; !both && !may(k, false) {
			return false
		}
	}
	return true
}

// inPlace says which parts of a service can be changed in place.
func inPlace(part string, both bool) bool {
	switch part {
	case compose.PartResources, compose.PartRestart, compose.PartPorts, compose.PartAliases:
		return true
	}
	return joinable(part, both)
}

// joinable says of networks that they can be joined and left.
func joinable(what string, both bool) bool {
	return !both && strings.HasPrefix(what, compose.PartNetwork)
}

// reshape is the step that changes a container in place.
func (p *planner) reshape(s *service, c *Container) (int, error) {
	if step := p.updating[c.ID]; step != 0 {
		return step, nil
	}
	names, joined, err := p.joins(s)
	if err != nil {
		return 0, err
	}
	labels := p.labels(s, c.Number)
	labels[LabelGeneration] = strconv.Itoa(c.Generation) // a rollback may want an older one
	spec := RunSpec{Project: p.p, Service: s.conf, Number: c.Number, Name: c.Name, Image: s.image, ImageID: c.ImageID,
		Labels: labels, Networks: s.keys, Joins: names}
	step := p.add(Step{Do: Update{ID: c.ID, Spec: spec}, Why: p.changed(s, c), Changes: p.changesOf(s, c),
		After: slices.Concat(p.orphans, p.freed(s), p.networkSteps(s), joined)})
	p.updating[c.ID] = step
	s.updated = append(s.updated, step)
	return step, nil
}
