package compose

import (
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// bridgeName is the option that names a network's link on the host.
const bridgeName = "com.docker.network.bridge.name"

// readsName finds text that a copy's name becomes part of by itself.
var readsName = regexp.MustCompile(`\$\{?(COMPOSE_PROJECT_NAME|` + instanceVariable + `)\b`)

// copier makes of a project, loaded under a copy's name, one that shares no
// name and no address with the others. Ports it leaves alone: which are free
// only the machine can tell, see [MovePorts].
type copier struct {
	in    *input
	p     *Project
	built map[string]bool // images that services of the copy build
	named map[string]bool // container_names that are others in the copy
	left  []netip.Prefix  // subnets that the copy does not have
}

// copiedFrom is the key under which a service says what its image is in the
// files.
const copiedFrom = "x-gantry-copied-from"

// CopiedImage is the image that a service of a copy names in the files, "" if it
// runs that one.
func CopiedImage(s Service) string {
	from, _ := s.Extensions[copiedFrom].(string)
	return from
}

// separate makes the project a copy, if one is asked for. whole has all its
// services, also those that were not selected.
func (in *input) separate(p, whole *Project) error {
	if in.instance == "" {
		return nil
	}
	c := copier{in: in, p: p, built: map[string]bool{}, named: map[string]bool{}}
	if err := c.networks(); err != nil {
		return err
	}
	c.volumes()
	for _, s := range whole.AllServices() {
		// What comes from a registry has its name there.
		fromHere := s.PullPolicy == "" || s.PullPolicy == PullBuild || s.PullPolicy == PullNever
		if s.Build != nil && s.Image != "" && fromHere && !in.ownNames[s.Image] {
			c.built[s.Image] = true
		}
		if c.name(s.ContainerName) != s.ContainerName {
			c.named[s.ContainerName] = true
		}
	}
	for _, name := range p.ServiceNames() {
		s := p.Services[name]
		c.service(name, &s)
		p.Services[name] = s
	}
	return nil
}

// say tells the caller what is otherwise than the files say.
func (c *copier) say(format string, args ...any) {
	if c.in.src.Said != nil {
		c.in.src.Said(fmt.Sprintf(format, args...))
	}
}

// name is what something that the files name is called in the copy.
func (c *copier) name(said string) string {
	if said == "" || c.in.ownNames[said] {
		return said
	}
	return said + "-" + c.in.instance
}

// object is the name of a network or volume, which without one of its own has
// the project's before its key.
func (c *copier) object(said, key string) string {
	if said == c.p.Name+"_"+key {
		return said
	}
	return c.name(said)
}

func (c *copier) networks() error {
	for _, key := range c.p.NetworkNames() {
		n := c.p.Networks[key]
		if n.External {
			c.say("network %s is external: every copy shares it", key)
			continue
		}
		n.Name = c.object(n.Name, key)
		if n.Driver == "macvlan" && len(n.Ipam.Config) > 0 {
			return c.in.locator().at(invalid("networks."+key, "a copy cannot have a macvlan of its own: both would give out the same addresses of the local network",
				"make it external, then all copies share it"), "networks", key)
		}
		if link := n.DriverOpts[bridgeName]; link != "" {
			n.DriverOpts = maps.Clone(n.DriverOpts)
			delete(n.DriverOpts, bridgeName)
			c.say("network %s: its link is not called %s here, since a link's name is had once", key, link)
		}
		c.addresses(key, &n)
		c.p.Networks[key] = n
	}
	return nil
}

// addresses leaves those of a network to gantry, since no two networks can
// have the same, and with them those of its services.
func (c *copier) addresses(key string, n *Network) {
	var gone []string
	for _, pool := range n.Ipam.Config {
		switch {
		case pool == nil:
		case pool.Subnet != "":
			gone = append(gone, "subnet "+pool.Subnet)
			if subnet, err := netip.ParsePrefix(pool.Subnet); err == nil {
				c.left = append(c.left, subnet)
			}
		default:
			gone = append(gone, strings.TrimSpace("addresses "+pool.IPRange+" "+pool.Gateway))
		}
	}
	n.Ipam.Config = nil
	for _, name := range c.p.ServiceNames() {
		at := c.p.Services[name].Networks[key]
		if at == nil || at.Ipv4Address == "" && at.Ipv6Address == "" {
			continue
		}
		own := *at
		for _, a := range []*string{&own.Ipv4Address, &own.Ipv6Address} {
			if *a != "" {
				gone = append(gone, *a+" of "+name)
				*a = ""
			}
		}
		c.p.Services[name].Networks[key] = &own
	}
	if len(gone) > 0 {
		c.say("network %s: %s: not in a copy, which gets free addresses; services find each other by name", key, strings.Join(gone, ", "))
	}
}

func (c *copier) volumes() {
	for _, key := range c.p.VolumeNames() {
		v := c.p.Volumes[key]
		if v.External {
			c.say("volume %s is external: every copy shares it", key)
			continue
		}
		v.Name = c.object(v.Name, key)
		if device := v.DriverOpts["device"]; device != "" && v.DriverOpts["type"] != "tmpfs" {
			c.say("volume %s is %s on the machine: every copy shares it", key, device)
		}
		c.p.Volumes[key] = v
	}
}

func (c *copier) service(name string, s *Service) {
	if c.named[s.ContainerName] {
		c.answer(s, s.ContainerName)
	}
	s.ContainerName = c.name(s.ContainerName)
	for _, mode := range []*string{&s.NetworkMode, &s.Pid, &s.Ipc} {
		if of, ok := strings.CutPrefix(*mode, ContainerPrefix); ok && c.named[of] {
			*mode = ContainerPrefix + c.name(of)
		}
	}
	for _, host := range sortedKeys(s.ExtraHosts) {
		for _, addr := range s.ExtraHosts[host] {
			c.leads(name, "extra_hosts "+host, addr)
		}
	}
	for _, addr := range s.DNS {
		c.leads(name, "dns", addr)
	}
	if s.NetworkMode == "host" {
		c.say("service %s is on the host's network: its ports cannot be moved", name)
	}
	if c.built[s.Image] {
		s.Extensions = maps.Clone(s.Extensions)
		if s.Extensions == nil {
			s.Extensions = Extensions{}
		}
		s.Extensions[copiedFrom] = s.Image
		s.Image = c.image(s.Image)
	}
	if s.Build != nil && len(s.Build.Tags) > 0 {
		b := *s.Build
		b.Tags = slices.Clone(b.Tags)
		for i, tag := range b.Tags {
			if !c.in.ownNames[tag] {
				b.Tags[i] = c.image(tag)
			}
		}
		s.Build = &b
	}
	for i, v := range s.Volumes {
		if v.Type == VolumeTypeImage && c.built[v.Source] {
			s.Volumes[i].Source = c.image(v.Source)
		}
	}
}

// leads tells of an address in a subnet that the copy does not have: it would be
// another copy's, and is not reached from here.
func (c *copier) leads(service, what, addr string) {
	at, err := netip.ParseAddr(addr)
	if err == nil && slices.ContainsFunc(c.left, func(p netip.Prefix) bool { return p.Contains(at) }) {
		c.say("service %s: %s is %s, which is not in a copy: use the name of the service", service, what, addr)
	}
}

// answer lets a container be found under a name that it does not bear any more,
// on the networks that are the copy's own: others of the project ask for it.
func (c *copier) answer(s *Service, name string) {
	for key, at := range s.Networks {
		if c.p.Networks[key].External {
			continue
		}
		var own ServiceNetwork
		if at != nil {
			own = *at
		}
		if !slices.Contains(own.Aliases, name) {
			own.Aliases = append(slices.Clone(own.Aliases), name)
		}
		s.Networks[key] = &own
	}
}

// image is a reference with the copy in its tag.
func (c *copier) image(ref string) string {
	if strings.LastIndexByte(ref, ':') <= strings.LastIndexByte(ref, '/') {
		ref += ":latest"
	}
	return ref + "-" + c.in.instance
}
