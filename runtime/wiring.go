package runtime

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"gantry/network"
	"gantry/runtime/spec"

	"github.com/containerd/errdefs"
)

// ownNetwork tells whether a container has a network namespace of its own.
func ownNetwork(mode string) bool {
	return mode != "host" && !strings.HasPrefix(mode, "container:")
}

// netns is the network namespace a container runs in, made if it is its own;
// "" is the host's.
func (e *Engine) netns(ctx context.Context, c Container) (string, error) {
	mode := c.Config.Network.Mode
	if peer, ok := strings.CutPrefix(mode, "container:"); ok {
		p, err := e.livePeer(peer, "network")
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("/proc/%d/ns/net", p.Pid), nil
	}
	if mode == "host" {
		return "", nil
	}
	return e.Fabric.Prepare(ctx, c.ID)
}

// livePeer is the running container whose namespace is to be joined.
func (e *Engine) livePeer(ref, what string) (Container, error) {
	p, err := e.find(ref)
	if err != nil {
		return Container{}, err
	}
	c := p.snapshot()
	if !c.State.Live() {
		return c, fmt.Errorf("join the %s namespace of container %s: it is not running; start it first: %w", what, c.Name, errdefs.ErrConflict)
	}
	return c, nil
}

// wiring is what connecting a container gave.
type wiring struct {
	joined []network.Joined
	ports  []network.Binding
	took   time.Duration
	err    error
}

// wire connects a container and publishes its ports.
func (e *Engine) wire(ctx context.Context, c Container) (w wiring) {
	defer func(began time.Time) { w.took = time.Since(began) }(time.Now())
	a, err := e.Fabric.Attach(ctx, e.sandbox(c))
	if err != nil {
		return wiring{err: err}
	}
	w.joined = a.Endpoints
	w.ports, w.err = e.publish(ctx, c)
	return w
}

// unwire takes back what wire did; doing it twice is no error.
func (e *Engine) unwire(ctx context.Context, c Container) error {
	if !ownNetwork(c.Config.Network.Mode) {
		return nil
	}
	if e.shared(c.ID) {
		// Others live on in its namespace, and with it would its addresses,
		// which are free for anybody from now on.
		for _, at := range c.Networks {
			if err := e.Fabric.Disconnect(ctx, c.ID, at.NetworkID); err != nil && !errdefs.IsNotFound(err) {
				return err
			}
		}
	}
	return errors.Join(e.unpublish(ctx, c), e.Fabric.Detach(ctx, c.ID))
}

// shared says whether a live container has joined the network of another one.
func (e *Engine) shared(id string) bool {
	for _, ct := range e.all() {
		if c := ct.snapshot(); c.State.Live() && c.Config.Network.Mode == "container:"+id {
			return true
		}
	}
	return false
}

// writeHosts writes /etc/hosts, with the addresses. Who joins another one's
// network sees that one's file.
func (e *Engine) writeHosts(c Container, joined []network.Joined) error {
	if strings.HasPrefix(c.Config.Network.Mode, "container:") {
		return nil
	}
	content, err := hostsFile(c, c.Config.HostName(c.ID, e.host), joined, e.hostGateway(c, joined))
	if err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return overwrite(e.filesOf(c.ID).Hosts, content)
}

// sandbox is a container's wiring in the network's terms.
func (e *Engine) sandbox(c Container) network.Sandbox {
	n := c.Config.Network
	s := network.Sandbox{
		ID:       c.ID,
		Hostname: c.Name,
		Group:    n.Group,
		Running:  c.State.Live(),
		Ready:    c.Ready(time.Now()),
	}
	for _, a := range n.DNS {
		if addr, err := netip.ParseAddr(a); err == nil {
			s.DNS = append(s.DNS, addr)
		}
	}
	for _, l := range n.Links {
		if target, alias, ok := strings.Cut(l, ":"); ok && alias != target {
			if s.Links == nil {
				s.Links = map[string]string{}
			}
			s.Links[alias] = target
		}
	}
	if n.Mode == "none" {
		return s
	}
	for _, ep := range n.Endpoints {
		s.Endpoints = append(s.Endpoints, e.endpoint(c, ep))
	}
	return s
}

// endpoint adds the names every container has to those it asked for.
func (e *Engine) endpoint(c Container, ep spec.Endpoint) network.Endpoint {
	names := []string{c.Name, c.ID[:12]}
	if h := c.Config.Hostname; h != "" {
		names = append(names, h)
	}
	if own, aside := strings.CutPrefix(c.Name, c.ID[:12]+"_"); aside {
		// It has given its name to the container that will replace it, and
		// answers to it until that one is ready.
		names = append(names, own)
	}
	var virtual []string
	var had netip.Addr
	if c.Config.Network.Virtual {
		virtual = ep.Aliases
		for _, j := range c.Networks {
			if j.NetworkID == ep.Network || j.NetworkName == ep.Network {
				had = j.Virtual
			}
		}
	} else {
		names = append(names, ep.Aliases...)
	}
	slices.Sort(names)
	return network.Endpoint{
		Network:     ep.Network,
		Names:       slices.Compact(names),
		Virtual:     virtual,
		VirtualAddr: had,
		IPv4:        ep.IPv4,
		IPv6:        ep.IPv6,
		MAC:         ep.MacAddress,
		Interface:   ep.Interface,
		Priority:    ep.Priority,
		GwPriority:  ep.GwPriority,
	}
}

// setReady moves names and published ports towards a container, or away.
func (e *Engine) setReady(c Container, running, ready bool) {
	if !ownNetwork(c.Config.Network.Mode) {
		return
	}
	err := e.Fabric.SetState(c.ID, running, ready)
	if errdefs.IsNotFound(err) && !running {
		return // its network has gone already
	}
	if err != nil {
		e.Log.Error("direct traffic", "container", c.Name, "running", running, "ready", ready, "error", err)
	}
}

// setLeaving moves names and published ports away from a container that is being
// ended, for good.
func (e *Engine) setLeaving(c Container) {
	if !ownNetwork(c.Config.Network.Mode) {
		return
	}
	if err := e.Fabric.Leave(c.ID); err != nil && !errdefs.IsNotFound(err) {
		e.Log.Error("direct traffic", "container", c.Name, "leaving", true, "error", err)
	}
}

// portGroup is who owns a container's published ports.
func portGroup(c Container) string {
	if g := c.Config.Network.Group; g != "" {
		return g
	}
	return c.ID
}

// published are the ports a container asks to publish.
func published(c Container) ([]network.Port, error) {
	n := c.Config.Network
	var ports []network.Port
	for _, p := range n.Ports {
		np := network.Port{HostPort: p.HostPort, HostEnd: p.HostEnd, Port: p.Port, Protocol: p.Protocol, Sticky: n.Sticky}
		if p.HostIP != "" {
			addr, err := netip.ParseAddr(strings.Trim(p.HostIP, "[]"))
			if err != nil {
				return nil, fmt.Errorf("publish port %d: host address %q is not an IP address: %w", p.Port, p.HostIP, errdefs.ErrInvalidArgument)
			}
			// 0.0.0.0 alone says IPv4 only; Docker's own "every address" is "".
			np.HostIP = addr
		}
		ports = append(ports, np)
	}
	if n.PublishAll {
		for _, x := range n.Exposed {
			var port uint16
			num, proto, _ := strings.Cut(x, "/")
			if _, err := fmt.Sscan(num, &port); err != nil {
				return nil, fmt.Errorf("exposed port %q is not a port: %w", x, errdefs.ErrInvalidArgument)
			}
			if !slices.ContainsFunc(ports, func(p network.Port) bool { return p.Port == port && same(p.Protocol, proto) }) {
				ports = append(ports, network.Port{Port: port, Protocol: proto, Sticky: n.Sticky})
			}
		}
	}
	return ports, nil
}

func same(a, b string) bool {
	or := func(s string) string {
		if s == "" {
			return "tcp"
		}
		return s
	}
	return or(a) == or(b)
}

// portOwner is a group of containers behind the same published ports.
type portOwner struct {
	mu      sync.Mutex // held while its ports are opened or closed
	members map[string]bool
}

func (e *Engine) portOwner(group string) *portOwner {
	e.mu.Lock()
	defer e.mu.Unlock()
	o := e.groups[group]
	if o == nil {
		o = &portOwner{members: map[string]bool{}}
		e.groups[group] = o
	}
	return o
}

// publish opens a container's ports. The first live member of a group opens
// them for all, the last one that leaves closes them.
func (e *Engine) publish(ctx context.Context, c Container) ([]network.Binding, error) {
	ports, err := published(c)
	if err != nil || len(ports) == 0 {
		return nil, err
	}
	if ports, err = e.bindPorts(c, ports); err != nil {
		return nil, err
	}
	group := portGroup(c)
	o := e.portOwner(group)
	o.mu.Lock()
	defer o.mu.Unlock()
	b, err := e.Fabric.Publish(ctx, group, ports)
	if err != nil {
		return nil, err
	}
	o.members[c.ID] = true
	return b, nil
}

// bindPorts gives ports without an address the one that the container's network
// says, and refuses those of a container that is on a macvlan alone: there its
// ports are its own, and nothing of the host's can lead to them.
func (e *Engine) bindPorts(c Container, ports []network.Port) ([]network.Port, error) {
	var binding netip.Addr
	macvlan := ""
	for _, ep := range c.Config.Network.Endpoints {
		n, err := e.Fabric.Network(ep.Network)
		if err != nil {
			return nil, err
		}
		if n.Driver == network.DriverMacvlan {
			macvlan = n.Name
			continue
		}
		if binding = n.HostBinding(); binding.IsValid() {
			break
		}
		macvlan = ""
		break
	}
	if macvlan != "" && !binding.IsValid() {
		return nil, fmt.Errorf("publish port %d: the container is on the macvlan network %s, where its ports are its own; remove the published ports, or give it a bridge too: %w", ports[0].Port, macvlan, errdefs.ErrInvalidArgument)
	}
	for i := range ports {
		if !ports[i].HostIP.IsValid() {
			ports[i].HostIP = binding
		}
	}
	return ports, nil
}

func (e *Engine) unpublish(ctx context.Context, c Container) error {
	group := portGroup(c)
	e.mu.RLock()
	o := e.groups[group]
	e.mu.RUnlock()
	if o == nil {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	was := o.members[c.ID]
	delete(o.members, c.ID)
	if !was || len(o.members) > 0 {
		return nil
	}
	return e.Fabric.Unpublish(ctx, group)
}
