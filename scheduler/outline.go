package scheduler

import (
	"slices"
	"sync"

	"gantry/compose"
)

// outline is what a project says of its services, worked out once: a goal is
// planned for again and again, at each call and whenever something has happened
// to its containers. Nobody writes to a project that has been planned for.
type outline struct {
	project *compose.Project
	made    sync.Once
	graph   *compose.Graph
	err     error // instead of a graph
	all     map[string]*traits

	mu       sync.Mutex
	networks map[string]string // key → hash of the definition
	volumes  map[string]string
}

// traits are what a project says of one service.
type traits struct {
	conf      *compose.Service // with its name
	image     string           // reference
	keys      []string         // of its networks, nil if network_mode says otherwise
	mounts    []string         // keys of the named volumes it mounts
	ports     []string         // of the host
	schedule  string           // of a job, "" for others
	autoscale *compose.Autoscale

	mu          sync.Mutex
	hash, parts string // "": not asked yet
}

// outlined is the goal with an outline of its project.
func (g Goal) outlined() Goal {
	if g.outline == nil || g.outline.project != g.Project {
		g.outline = &outline{project: g.Project}
	}
	return g
}

// traits are what the goal's project says of its services, by name.
func (g Goal) traits() map[string]*traits {
	o := g.outlined().outline
	o.make()
	return o.all
}

// make works out all but the hashes: who only looks for losses needs none.
func (o *outline) make() {
	o.made.Do(func() {
		p := o.project
		o.graph, o.err = compose.NewGraph(p)
		o.all = make(map[string]*traits, len(p.Services))
		for name, conf := range p.Services {
			conf.Name = name
			o.all[name] = &traits{conf: &conf, image: compose.ImageName(p, conf), keys: networkKeys(&conf), mounts: volumeKeys(&conf),
				ports: hostPorts(&conf), schedule: scheduleOf(conf), autoscale: autoscaled(conf)}
		}
	})
}

// hashOf is LabelHash of a service's containers.
func (o *outline) hashOf(s *traits) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hash == "" {
		s.hash = compose.HashIn(o.project, *s.conf)
	}
	return s.hash
}

// partsOf is LabelParts of a service's containers.
func (o *outline) partsOf(s *traits) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.parts == "" {
		s.parts = partsLabel(o.project, *s.conf)
	}
	return s.parts
}

// hashOfNetwork is the hash of a network's definition, its name included.
func (o *outline) hashOfNetwork(key string) string {
	return o.definition(&o.networks, key, func() string {
		n := o.project.Networks[key]
		n.Name = NetworkName(o.project, key)
		return compose.HashNetwork(n)
	})
}

// hashOfVolume is the same of a volume.
func (o *outline) hashOfVolume(key string) string {
	return o.definition(&o.volumes, key, func() string {
		v := o.project.Volumes[key]
		v.Name = VolumeName(o.project, key)
		return compose.HashVolume(v)
	})
}

func (o *outline) definition(of *map[string]string, key string, hash func() string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if *of == nil {
		*of = map[string]string{}
	}
	if (*of)[key] == "" {
		(*of)[key] = hash()
	}
	return (*of)[key]
}

// networkKeys are the networks a service joins, sorted.
func networkKeys(s *compose.Service) []string {
	if s.NetworkMode != "" && len(s.Networks) == 0 {
		return nil
	}
	if len(s.Networks) == 0 {
		return []string{defaultNetwork}
	}
	return sortedKeys(s.Networks)
}

// volumeKeys are the named volumes a service mounts, sorted, each once.
func volumeKeys(s *compose.Service) []string {
	var keys []string
	for i := range s.Volumes {
		if v := &s.Volumes[i]; v.Type == compose.VolumeTypeVolume && v.Source != "" {
			keys = append(keys, v.Source)
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}
