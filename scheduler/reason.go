package scheduler

import (
	"fmt"
	"slices"
	"strings"

	"gantry/compose"
)

// outdated reports whether a container is not what its service wants now.
func (p *planner) outdated(s *service, c *Container) bool {
	return p.partsOf(s, c) != p.wantedParts(s) || c.Uses != s.uses || c.Generation < s.want.Generation || p.otherImage(s, c) || s.halfMoved(c)
}

// halfMoved reports whether a container has other ports of the host than it
// should, whatever its labels say: they come last when it is changed in place,
// and that was broken off, and is not wanted any more.
func (s *service) halfMoved(c *Container) bool {
	if c.Maker != "" || s.keys == nil {
		return false
	}
	return len(c.Ports) != len(s.ports) || slices.ContainsFunc(c.Ports, func(port string) bool { return !slices.Contains(s.ports, port) })
}

// otherImage reports whether a container was made from another image than the
// service wants.
func (p *planner) otherImage(s *service, c *Container) bool {
	return s.id != "" && c.ImageID != "" && c.ImageID != s.id
}

// changed says why a container is not what its service wants now, "" if it is.
func (p *planner) changed(s *service, c *Container) string {
	if !p.outdated(s, c) {
		return ""
	}
	if c.Maker != "" && c.Hash != p.hashOf(s) {
		return "made by " + c.Maker
	}
	var why []string
	if p.partsOf(s, c) != p.wantedParts(s) && (c.Uses == s.uses || p.origin(s, c) != nil || !subset(parsePairs(c.Parts), parsePairs(p.wantedParts(s)), joinable)) {
		why = append(why, p.fieldReason(s, c))
	}
	if p.otherImage(s, c) {
		why = append(why, fmt.Sprintf("image %s is another one (%s → %s)", s.image, shortID(c.ImageID), shortID(s.id)))
	}
	if c.Uses != s.uses && (p.partsOf(s, c) == p.wantedParts(s) || p.origin(s, c) == nil) {
		why = append(why, p.usesReason(c.Uses, s.uses)...)
	}
	if len(why) == 0 && s.halfMoved(c) {
		why = append(why, "its ports are those of a change that was broken off")
	}
	if len(why) == 0 && c.Generation < s.want.Generation {
		why = append(why, "recreation is forced")
	}
	if len(why) == 0 {
		why = append(why, "what it uses has changed")
	}
	return strings.Join(why, "; ")
}

// origin is the project a container was made from, nil if it is not known.
func (p *planner) origin(s *service, c *Container) *compose.Project {
	for _, was := range []*compose.Project{p.have.Was, p.have.Tried} {
		if was == nil {
			continue
		}
		hash, asked := s.hashes[was]
		if !asked {
			if conf, ok := was.Services[s.name]; ok {
				conf.Name = s.name
				hash = compose.HashIn(was, conf)
			}
			if s.hashes == nil {
				s.hashes = map[*compose.Project]string{}
			}
			s.hashes[was] = hash
		}
		if hash != "" && hash == c.Hash {
			return was
		}
	}
	return nil
}

// fieldReason names the fields of the service that have changed, if the
// project the container was made from is known.
func (p *planner) fieldReason(s *service, c *Container) string {
	was := p.origin(s, c)
	if was == nil {
		return changedParts(c.Parts, p.wantedParts(s))
	}
	text, asked := s.fields[was] // the same for all replicas
	if !asked {
		text = some(p.fieldChanges(s, was))
		if s.fields == nil {
			s.fields = map[*compose.Project]string{}
		}
		s.fields[was] = text
	}
	return text
}

// changedParts names the parts that differ, where no more is known. Networks
// that are joined or left are said elsewhere.
func changedParts(was, is string) string {
	words := map[string]string{compose.PartResources: "limits", compose.PartRestart: "restart policy", compose.PartPorts: "ports", compose.PartAliases: "aliases"}
	var names []string
	before, now := parsePairs(was), parsePairs(is)
	for part, word := range words {
		if before[part] != now[part] {
			names = append(names, word)
		}
	}
	slices.Sort(names)
	if was == "" || before[compose.PartContainer] != now[compose.PartContainer] || len(names) == 0 {
		return "its configuration has changed, and what it was is not known any more"
	}
	return "its " + strings.Join(names, " and ") + " changed, and what that was is not known any more"
}

// changesOf are the fields that have changed since a container was made, as
// far as they are known. All replicas share them.
func (p *planner) changesOf(s *service, c *Container) []Change {
	if was := p.origin(s, c); was != nil && p.partsOf(s, c) != p.wantedParts(s) {
		return p.fieldChanges(s, was)
	}
	return nil
}

// fieldChanges are the fields of a service that have changed since a project
// before, and the secrets and configs whose content has.
func (p *planner) fieldChanges(s *service, was *compose.Project) []Change {
	all, asked := s.changes[was]
	if asked {
		return all
	}
	before, now := compose.Effective(was.Services[s.name]), compose.Effective(*s.conf)
	all = serviceChanges(&before, &now)
	for _, ref := range s.conf.Secrets {
		if was.Secrets[ref.Source].Content != p.p.Secrets[ref.Source].Content {
			all = append(all, Change{Field: "content of secret " + ref.Source, Hidden: true})
		}
	}
	for _, ref := range s.conf.Configs {
		if was.Configs[ref.Source].Content != p.p.Configs[ref.Source].Content {
			all = append(all, Change{Field: "content of config " + ref.Source, Hidden: true})
		}
	}
	if s.changes == nil {
		s.changes = map[*compose.Project][]Change{}
	}
	s.changes[was] = all
	return all
}

// usesReason compares two values of LabelUses.
func (p *planner) usesReason(was, is string) []string {
	before, now := parsePairs(was), parsePairs(is)
	var why []string
	for _, what := range sortedKeys(now) {
		if before[what] == now[what] {
			continue
		}
		kind, key, _ := strings.Cut(what, ":")
		text := kind + " " + key + " has changed"
		if before[what] == "" {
			text = kind + " " + key + " is new to it"
		}
		if kind == "network" {
			if fields := p.networkReason(key); fields != "" {
				text += " (" + fields + ")"
			}
		}
		why = append(why, text)
	}
	for _, what := range sortedKeys(before) {
		if _, ok := now[what]; !ok {
			kind, key, _ := strings.Cut(what, ":")
			why = append(why, kind+" "+key+" is not used any more")
		}
	}
	return why
}

// networkReason names the fields of a network that have changed, "" if they
// are not known.
func (p *planner) networkReason(key string) string {
	if p.have.Was == nil {
		return ""
	}
	was, ok := p.have.Was.Networks[key]
	if !ok || len(fieldsOf(was, p.p.Networks[key])) == 0 {
		return ""
	}
	return some(fieldsOf(was, p.p.Networks[key]))
}

// volumeReason names the fields of a volume that have changed.
func (p *planner) volumeReason(key string) string {
	if p.have.Was != nil {
		if was, ok := p.have.Was.Volumes[key]; ok {
			if all := fieldsOf(was, p.p.Volumes[key]); len(all) > 0 {
				return some(all)
			}
		}
	}
	return "its definition has changed"
}
