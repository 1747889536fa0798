package scheduler

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"gantry/compose"
)

// defaultNetwork is the key of the network of services that name none.
const defaultNetwork = "default"

// hashOfNetwork is the hash of the definition that a network counts as made of.
func (p *planner) hashOfNetwork(key string) string {
	if h, kept := p.kept[key]; kept {
		return h
	}
	return p.outline.hashOfNetwork(key)
}

// usesLabel is the value of LabelUses. Of a volume the name is enough: its
// definition is the volume's own matter.
func (p *planner) usesLabel(s *traits) string {
	list := make([]string, 0, len(s.keys)+len(s.mounts))
	for _, key := range s.keys {
		hash := p.hashOfNetwork(key)
		list = append(list, "network:"+key+"="+hash[:min(len(hash), 12)])
	}
	for _, key := range s.mounts {
		list = append(list, "volume:"+key+"="+VolumeName(p.p, key))
	}
	return strings.Join(list, ",")
}

func (p *planner) network(name string) (Network, bool) {
	for _, n := range p.have.Networks {
		if n.Name == name {
			return n, true
		}
	}
	return Network{}, false
}

// networkChanged reports whether a network exists under another definition.
func (p *planner) networkChanged(key string) bool {
	if p.p.Networks[key].External {
		return false
	}
	n, ok := p.network(NetworkName(p.p, key))
	return ok && n.Project == p.p.Name && n.Hash != "" && n.Hash != p.hashOfNetwork(key)
}

// planNetworks makes the networks that services which run are on.
func (p *planner) planNetworks() error {
	for _, key := range p.used(func(s *service) []string { return s.keys }) {
		if err := p.planNetwork(key); err != nil && !p.lack("network", key, err) {
			return err
		}
	}
	return nil
}

func (p *planner) planNetwork(key string) error {
	conf, defined := p.p.Networks[key]
	if !defined && key != defaultNetwork {
		return invalid("network %s is used and not defined; define it under networks", key)
	}
	name := NetworkName(p.p, key)
	is, exists := p.network(name)
	if conf.External {
		if !exists {
			return notFound("network %s is external and does not exist; create a network %s, or remove external from it", key, name)
		}
		p.networks[key] = 0
		return nil
	}
	if exists && is.Project != p.p.Name {
		return conflict("network %s exists and belongs to %s; set external: true to use it, or give network %s another name",
			name, owner(is.Project), key)
	}
	why, after := "does not exist", []int(nil)
	if exists {
		if !p.networkChanged(key) {
			p.networks[key] = 0
			return nil
		}
		if why = p.networkReason(key); why == "" {
			why = "its definition has changed"
		}
		gone, err := p.clearNetwork(key, is, why)
		if err != nil {
			return err
		}
		after = []int{gone}
		why = "removed before"
	}
	hash := p.hashOfNetwork(key)
	p.networks[key] = p.add(Step{After: after, Why: why, Do: CreateNetwork{NetworkSpec{Name: name, Key: key, Config: conf,
		Labels: objectLabels(p.p, conf.Labels, key, LabelNetwork, hash)}}})
	return nil
}

// used collects the keys of services that run, sorted.
func (p *planner) used(keys func(*service) []string) []string {
	set := map[string]bool{}
	for _, s := range p.order {
		if s.runs() {
			for _, k := range keys(s) {
				set[k] = true
			}
		}
	}
	return sortedKeys(set)
}

// keepNetworks leaves changed networks as they are where containers must not be
// replaced. From then on such a network counts as it is, or whatever else is on
// it would be replaced again and again.
func (p *planner) keepNetworks(keys []string) {
	if o := p.want.Options; o.Recreate != Never && o.RecreateDependencies != Never {
		return
	}
	slices.Sort(keys)
	for _, key := range slices.Compact(keys) {
		if p.networkChanged(key) {
			is, _ := p.network(NetworkName(p.p, key))
			p.note("network %s has changed and stays as it is, since nothing is to be replaced", is.Name)
			p.kept[key] = is.Hash
		}
	}
}

// clearNetwork stops all that is on a network and removes it. The containers
// are replaced later, because what they use has changed.
func (p *planner) clearNetwork(key string, n Network, why string) (int, error) {
	inUse := func(by string) error {
		return conflict("network %s has changed (%s) and is in use by %s, which is not part of what is wanted; remove that container first", n.Name, why, by)
	}
	if len(n.Others) > 0 {
		return 0, inUse(n.Others[0])
	}
	for _, c := range p.have.Containers {
		if c.OneOff && c.present() && p.doomed[c.ID] == 0 && slices.Contains(c.Networks, n.Name) {
			return 0, inUse(c.Name)
		}
	}
	var after []int
	on := map[string]bool{}
	for _, name := range sortedKeys(p.containers) {
		for _, c := range p.containers[name] {
			if slices.Contains(c.Networks, n.Name) {
				on[c.ID] = true
			}
		}
	}
	for _, name := range sortedKeys(p.containers) {
		for _, c := range p.containers[name] {
			joined := slices.ContainsFunc(c.Joins, func(id string) bool { return on[id] })
			if !on[c.ID] && !joined || !c.present() {
				continue
			}
			if step := p.doomed[c.ID]; step != 0 {
				after = append(after, step)
				continue
			}
			if p.services[name] == nil {
				return 0, inUse(c.Name)
			}
			if _, ok := p.stopping[c.ID]; !ok {
				p.stopping[c.ID] = p.add(Step{Do: Stop{ID: c.ID, Name: c.Name, Service: name, Timeout: p.want.Options.Timeout},
					Why: "network " + n.Name + " is made again"})
			}
			after = append(after, p.stopping[c.ID])
		}
	}
	return p.add(Step{Do: RemoveNetwork{ID: n.ID, Name: n.Name}, Why: why, After: after}), nil
}

func (p *planner) volume(name string) (Volume, bool) {
	for _, v := range p.have.Volumes {
		if v.Name == name {
			return v, true
		}
	}
	return Volume{}, false
}

// planVolumes makes the named volumes that services which run mount.
func (p *planner) planVolumes() error {
	for _, key := range p.used(func(s *service) []string { return s.mounts }) {
		if err := p.planVolume(key); err != nil && !p.lack("volume", key, err) {
			return err
		}
	}
	return nil
}

func (p *planner) planVolume(key string) error {
	conf, defined := p.p.Volumes[key]
	if !defined {
		return invalid("volume %s is used and not defined; define it under volumes", key)
	}
	name := VolumeName(p.p, key)
	conf.Name = name
	hash := p.outline.hashOfVolume(key)
	is, exists := p.volume(name)
	why, after := "does not exist", []int(nil)
	switch {
	case is.Lost != "" && (p.holding || !p.want.Options.RenewVolumes || bool(conf.External)):
		return notFound("%s; put it back, or let it be made again, empty: `gantry up --yes`", lostVolume(is))
	case p.holding && !exists:
		return notFound("volume %s is gone; put it back, or let it be made again, empty: `gantry up`", name)
	case bool(conf.External) && !exists:
		return notFound("volume %s is external and does not exist; create a volume %s, or remove external from it", key, name)
	case is.Lost != "":
		gone, err := p.clearVolume(name, "its data is gone")
		if err != nil {
			return err
		}
		why, after = "its data is gone", []int{gone}
	case bool(conf.External):
		p.volumes[key] = 0
		return nil
	case exists && is.Project == p.p.Name && !p.ours(is.Dir):
		p.note("volume %s was made by the project of the same name in %s and is used as it is", name, is.Dir)
		p.volumes[key] = 0
		return nil
	case exists && is.Project != p.p.Name:
		p.note("volume %s belongs to %s and is used as it is; set external: true to say that this is meant", name, owner(is.Project))
		p.volumes[key] = 0
		return nil
	case exists && (is.Hash == "" || is.Hash == hash):
		p.volumes[key] = 0
		return nil
	case exists:
		why = p.volumeReason(key)
		if !p.want.Options.RenewVolumes {
			p.note("volume %s stays as it is, making it again would lose its data: %s", name, why)
			p.volumes[key] = 0
			return nil
		}
		if len(is.Others) > 0 {
			return conflict("volume %s has changed (%s) and is in use by %s, which is not part of what is wanted; remove that container first",
				name, why, is.Others[0])
		}
		gone, err := p.clearVolume(name, why)
		if err != nil {
			return err
		}
		why, after = "removed before", []int{gone}
	}
	labels := objectLabels(p.p, conf.Labels, key, LabelVolume, hash)
	if p.p.WorkingDir != "" {
		labels[LabelWorkingDir] = p.p.WorkingDir // data outlives its project, and another one's name
	}
	p.volumes[key] = p.add(Step{After: after, Why: why, Do: CreateVolume{VolumeSpec{Name: name, Key: key, Config: conf, Labels: labels}}})
	return nil
}

// clearVolume removes all containers that mount a volume, then the volume.
func (p *planner) clearVolume(name, why string) (int, error) {
	var after []int
	for _, service := range sortedKeys(p.containers) {
		for _, c := range p.containers[service] {
			if !slices.Contains(c.Volumes, name) {
				continue
			}
			if p.services[service] == nil && p.doomed[c.ID] == 0 {
				return 0, conflict("volume %s has changed (%s) and is in use by %s, which is not part of what is wanted; remove that container first",
					name, why, c.Name)
			}
			after = append(after, p.doom(c, "volume "+name+" is made again"))
		}
	}
	return p.add(Step{Do: RemoveVolume{Name: name}, Why: why, After: after, Destroys: destroys(name)}), nil
}

// freePorts stops the containers whose ports another service gets: they will be
// replaced or removed anyway, but perhaps too late. What only has to give up the
// port does so in place, unless it gets one itself that is not free yet.
func (p *planner) freePorts() error {
	gets := map[string]string{} // port → service
	for _, s := range p.order {
		if s.runs() {
			for _, port := range s.ports {
				gets[port] = s.name
			}
		}
	}
	held := map[string][]string{} // port → services
	for name, cs := range p.containers {
		for _, c := range cs {
			for _, port := range c.Ports {
				if c.present() && gets[port] != "" {
					held[port] = append(held[port], name)
				}
			}
		}
	}
	another := func(s *service) func(string) bool {
		return func(port string) bool {
			return slices.ContainsFunc(held[port], func(name string) bool { return name != s.name })
		}
	}
	for _, s := range p.order {
		waits := slices.ContainsFunc(s.ports, another(s))
		for _, c := range p.containers[s.name] {
			if !c.present() || p.stopping[c.ID] != 0 || p.doomed[c.ID] != 0 || s.runs() && (p.want.policy(s.name) == Never || !p.outdated(s, c)) {
				continue
			}
			for _, port := range c.Ports {
				if to := gets[port]; to != "" && to != s.name {
					if s.runs() && !waits && !p.renewed(s, c) && p.joinChanged(s, c) == "" {
						if _, err := p.reshape(s, c); err != nil {
							return err
						}
						break
					}
					p.stopping[c.ID] = p.add(Step{Do: Stop{ID: c.ID, Name: c.Name, Service: s.name, Timeout: p.want.Options.Timeout},
						Why: "port " + port + " goes to " + to})
					break
				}
			}
		}
	}
	return nil
}

// freed are the steps that free the ports a service gets.
func (p *planner) freed(s *service) []int {
	if len(s.ports) == 0 {
		return nil
	}
	var steps []int
	for _, other := range p.order {
		if other == s {
			continue
		}
		for _, c := range p.containers[other.name] {
			step := cmp.Or(p.stopping[c.ID], p.updating[c.ID])
			if step != 0 && slices.ContainsFunc(c.Ports, func(port string) bool { return slices.Contains(s.ports, port) }) {
				steps = append(steps, step)
			}
		}
	}
	return steps
}

// freeNames takes their names from containers whose container_name another
// service gets: they will be replaced or removed anyway, but perhaps too late,
// or each after the other.
func (p *planner) freeNames() error {
	for _, s := range p.order {
		if c, held := p.nameKept(s); held {
			return conflict("service %s: its container_name %s is the name of a container of %s, which is not part of what is wanted; remove that one first (with --remove-orphans, where the project does not have %[3]s any more)",
				s.name, c.Name, c.Service)
		}
		c, other := p.nameHolder(s)
		if other == nil || !s.runs() || p.doomed[c.ID] != 0 {
			continue
		}
		if other.want.Replicas == 0 || other.runs() && p.want.policy(other.name) != Never && p.renewed(other, c) {
			p.aside[c.ID] = p.add(Step{Do: Rename{ID: c.ID, Name: c.Name, To: AsideName(c.ID, c.Name), Service: other.name},
				Why: "the name " + c.Name + " goes to " + s.name})
		}
	}
	return nil
}

// nameKept is the container that has the container_name of a service, is of one
// that nothing is planned for, and stays.
func (p *planner) nameKept(s *service) (*Container, bool) {
	if s.conf.ContainerName == "" || !s.runs() || p.want.policy(s.name) == Never {
		return nil, false
	}
	for _, name := range sortedKeys(p.containers) {
		if p.services[name] != nil {
			continue
		}
		for _, c := range p.containers[name] {
			if c.Name == s.conf.ContainerName && p.doomed[c.ID] == 0 {
				return c, true
			}
		}
	}
	return nil, false
}

// nameHolder is the container that has the container_name of a service and is
// another one's, and whose it is.
func (p *planner) nameHolder(s *service) (*Container, *service) {
	if s.conf.ContainerName == "" {
		return nil, nil
	}
	for _, other := range p.order {
		if other == s {
			continue
		}
		for _, c := range p.containers[other.name] {
			if c.Name == s.conf.ContainerName {
				return c, other
			}
		}
	}
	return nil, nil
}

// named is the step that frees the name a service gets, if there is one.
func (p *planner) named(s *service) []int {
	if c, other := p.nameHolder(s); other != nil && p.aside[c.ID] != 0 {
		return []int{p.aside[c.ID]}
	}
	return nil
}

// hostPorts are the ports of the host that a service asks for by number.
func hostPorts(s *compose.Service) []string {
	var ports []string
	for _, p := range s.Ports {
		if n, err := strconv.Atoi(p.Published); err == nil && n != 0 { // else a range, or any
			ports = append(ports, strconv.Itoa(n)+"/"+cmp.Or(p.Protocol, "tcp"))
		}
	}
	return ports
}

// doom removes a container before its service is planned for.
func (p *planner) doom(c *Container, why string) int {
	return p.removeEarly(c, why, RemoveOptions{Timeout: p.want.Options.Timeout})
}

func (p *planner) removeEarly(c *Container, why string, o RemoveOptions) int {
	id, ok := p.doomed[c.ID]
	if !ok {
		var after []int
		for _, early := range []int{p.stopping[c.ID], p.aside[c.ID]} {
			if early != 0 {
				after = append(after, early)
			}
		}
		id = p.add(Step{Do: Remove{ID: c.ID, Name: c.Name, Service: c.Service, Running: c.present(), Options: o},
			Why: why, After: after})
		p.doomed[c.ID] = id
	}
	return id
}

func destroys(volume string) string { return "all data in volume " + volume }

func owner(project string) string {
	if project == "" {
		return "no project"
	}
	return "project " + project
}
