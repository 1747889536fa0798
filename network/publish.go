package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// A published port belongs to a group of sandboxes, in Compose the replicas of
// a service. The kernel translates its destination to one of the group's
// backends, so clients keep their address and the daemon is not needed. The
// port is divided into 64 slots that connections take in turn; slot i leads to
// backend i mod n.
//
// Besides, every published port is held by a listening socket. It makes a
// clash with another program an error instead of a surprise, and serves those
// whom the kernel does not translate: clients that come by IPv6, a backend that
// calls itself, and clients while no backend runs, whose connection is refused.

// group is sandboxes and the ports published for them. Guarded by Fabric.mu.
type group struct {
	members  map[string]*sandbox
	ports    []*published
	backends []netip.Addr
	turn     int // of the proxy
	virtuals map[*lan]*virtual
	deserted chan struct{} // closes when nobody is left but who is leaving; nil: nobody waits for that
}

// published is one port of a group.
type published struct {
	group   string
	asked   Port   // guarded by Fabric.mu
	port    uint16 // on the host
	holders []*holder
	leads   []netip.Addr // backends in the table; guarded by Fabric.mu
}

func (p *published) proto() byte {
	if p.asked.Protocol == "udp" {
		return unix.IPPROTO_UDP
	}
	return unix.IPPROTO_TCP
}

// close ends its proxies; the sockets live on in [Sockets].
func (p *published) close() {
	for _, h := range p.holders {
		h.close()
	}
}

func (p *published) bindings() []Binding {
	var all []Binding
	for _, h := range p.holders {
		all = append(all, Binding{HostIP: h.addr, HostPort: p.port, Port: p.asked.Port, Protocol: p.asked.Protocol})
	}
	return all
}

// String is how messages call it: 127.0.0.1:8080/tcp.
func (p *published) String() string { return portName(p.asked.HostIP, p.port, p.asked.Protocol) }

func portName(ip netip.Addr, port uint16, protocol string) string {
	if ip.IsValid() {
		return fmt.Sprintf("%s/%s", netip.AddrPortFrom(ip, port), protocol)
	}
	return fmt.Sprintf("%d/%s", port, protocol)
}

// groupOf finds or makes a group. The caller holds mu, as in all below.
func (f *Fabric) groupOf(name string) *group {
	g := f.groups[name]
	if g == nil {
		g = &group{members: map[string]*sandbox{}}
		f.groups[name] = g
	}
	return g
}

// enrol moves a sandbox from one group to its own.
func (f *Fabric) enrol(s *sandbox, from string) {
	if g := f.groups[from]; g != nil && from != s.groupName() {
		delete(g.members, s.id)
		f.tidy(from)
	}
	f.groupOf(s.groupName()).members[s.id] = s
}

func (f *Fabric) dismiss(s *sandbox) {
	if g := f.groups[s.groupName()]; g != nil {
		delete(g.members, s.id)
		f.tidy(s.groupName())
	}
}

// inOrder are the members by their attachment.
func (g *group) inOrder() []*sandbox {
	return slices.SortedFunc(maps.Values(g.members), func(a, b *sandbox) int { return a.order - b.order })
}

// tidy forgets a group that is empty and has no ports.
func (f *Fabric) tidy(name string) {
	if g := f.groups[name]; g != nil && len(g.members)+len(g.ports)+len(g.virtuals) == 0 {
		delete(f.groups, name)
	}
}

// balance finds out where a group's ports lead now and puts that into the
// table. It reports whether there is something to commit.
func (f *Fabric) balance(name string) bool {
	g := f.groups[name]
	if g == nil {
		return false
	}
	if g.deserted != nil && g.highest() <= isLeaving {
		close(g.deserted)
		g.deserted = nil
	}
	changed := f.balanceVirtual(g)
	var ends []*end
	best := isLeaving
	for _, s := range g.inOrder() {
		e := s.primary()
		now := s.standing()
		if e == nil || e.lan.Internal || !e.lan.bridged() || now < best {
			continue // an internal network is not to be reached from outside, a macvlan not from here
		}
		if now > best {
			ends, best = nil, now
		}
		ends = append(ends, e)
	}
	before := g.backends
	g.backends = nil
	for _, e := range ends {
		g.backends = append(g.backends, e.addr)
		if len(g.ports) == 0 {
			continue
		}
		if !e.lan.local {
			e.lan.local = true
			f.localnet = append(f.localnet, e.lan.Bridge)
		}
	}
	if len(g.ports) == 0 || slices.Equal(before, g.backends) {
		return changed
	}
	for _, p := range g.ports {
		f.lead(p, g.backends)
	}
	return true
}

// lead fills the slots of a port; without backends they are emptied.
func (f *Fabric) lead(p *published, backends []netip.Addr) {
	ip := p.asked.HostIP
	if ip.Is6() {
		return // served by the proxy
	}
	set, at := mapSlots, netip.Addr{}
	if ip.IsValid() && !ip.IsUnspecified() {
		set, at = mapSlotsAt, ip
	}
	to := shares(backends, p.asked.Sticky)
	for slot := range slots {
		key := slotKey(at, p.proto(), p.port, slot)
		if len(backends) == 0 {
			f.table.del(set, key)
		} else {
			f.table.put(set, key, target(backends[to[slot]], p.asked.Port))
		}
	}
	if stick := portKey(at, p.proto(), p.port); p.asked.Sticky && len(backends) > 0 {
		f.table.put(stickySet(at), stick, "")
	} else {
		f.table.del(stickySet(at), stick)
	}
	for _, a := range p.leads {
		f.table.del(setOwn, portKey(a, p.proto(), p.port))
	}
	for _, a := range backends {
		f.table.put(setOwn, portKey(a, p.proto(), p.port), "")
	}
	p.leads = slices.Clone(backends)
	if p.proto() == unix.IPPROTO_UDP {
		f.stale = append(f.stale, flow{ip, p.port, slices.Clone(backends)})
	}
}

// stickySet is where sticky ports of an address are told; the zero address is
// for the others.
func stickySet(at netip.Addr) string {
	if at.IsValid() {
		return setStickyAt
	}
	return setSticky
}

// admitPort opens the gate before the maps, which is the port's number alone.
func (f *Fabric) admitPort(p *published) {
	f.table.put(setPublished, portKey(netip.Addr{}, p.proto(), p.port), "")
}

// expelPort closes it, unless the port is published on another address too.
func (f *Fabric) expelPort(p *published) {
	f.lead(p, nil)
	shared := false
	for _, g := range f.groups {
		for _, o := range g.ports {
			if o != p && o.port == p.port && o.proto() == p.proto() {
				shared = true
				for _, a := range o.leads {
					f.table.put(setOwn, portKey(a, o.proto(), o.port), "")
				}
			}
		}
	}
	if shared {
		return
	}
	f.table.del(setPublished, portKey(netip.Addr{}, p.proto(), p.port))
}

// rebalanced commits what balance changed. The caller does not hold mu.
func (f *Fabric) rebalanced(ctx context.Context) error {
	f.mu.Lock()
	bridges, stale, lans := f.localnet, f.stale, f.readdress
	f.localnet, f.stale, f.readdress = nil, nil, nil
	f.mu.Unlock()
	if err := f.setVirtuals(lans); err != nil {
		return err
	}
	for _, b := range bridges {
		// The machine's own 127.0.0.1 may leave by this bridge, and answers
		// come back to it: see the masquerade rule.
		if err := writeSysctl("net/ipv4/conf/"+b+"/route_localnet", "1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			f.log.Warn("ports cannot be reached by 127.0.0.1", "bridge", b, "error", err)
		}
	}
	if err := f.table.commit(ctx); err != nil {
		return err
	}
	if len(stale) > 0 {
		f.tasks.Go(func() { f.forgetFlows(stale) })
	}
	return nil
}

// pick chooses a client's backend for the proxy. ok is false while nobody runs.
func (f *Fabric) pick(p *published, client netip.Addr) (to netip.AddrPort, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := f.groups[p.group]
	if g == nil || len(g.backends) == 0 {
		return to, false
	}
	if p.asked.Sticky {
		return netip.AddrPortFrom(g.backends[shares(g.backends, true)[clientSlot(client)]], p.asked.Port), true
	}
	g.turn++
	return netip.AddrPortFrom(g.backends[g.turn%len(g.backends)], p.asked.Port), true
}

// checkPort completes a port, or says what is wrong with it.
func checkPort(p Port) (Port, error) {
	switch p.Protocol {
	case "":
		p.Protocol = "tcp"
	case "tcp", "udp":
	default:
		return p, fmt.Errorf("publish port %d: protocol %q is not supported; only tcp and udp are: %w", p.Port, p.Protocol, errdefs.ErrNotImplemented)
	}
	if p.Port == 0 || p.HostEnd != 0 && (p.HostPort == 0 || p.HostEnd < p.HostPort) {
		return p, fmt.Errorf("publish port %d to %d-%d: not a port and a range of ports: %w", p.Port, p.HostPort, p.HostEnd, errdefs.ErrInvalidArgument)
	}
	if p.HostEnd == p.HostPort {
		p.HostEnd = 0
	}
	p.HostIP = p.HostIP.Unmap()
	return p, nil
}

// Publish makes exactly these the ports of a group. Ports it has already keep
// their bindings, also ephemeral ones; others of its ports are unpublished. A
// port that another program or group holds is ErrFailedPrecondition, and the
// group is as before.
func (f *Fabric) Publish(ctx context.Context, name string, ports []Port) ([]Binding, error) {
	want := make([]Port, 0, len(ports))
	for _, p := range ports {
		p, err := checkPort(p)
		if err != nil {
			return nil, err
		}
		want = append(want, p)
	}
	f.publishing.Lock()
	defer f.publishing.Unlock()
	f.mu.Lock()
	var old []*published
	if g := f.groups[name]; g != nil {
		old = slices.Clone(g.ports)
	}
	f.mu.Unlock()
	if len(old)+len(want) == 0 {
		return nil, nil
	}

	now := make([]*published, len(want))
	moved := map[*published]Port{}
	claim := func(same func(o *published, w Port) bool, each func(o *published, w Port)) {
		for i, w := range want {
			j := slices.IndexFunc(old, func(o *published) bool { return same(o, w) })
			if now[i] == nil && j >= 0 {
				now[i] = old[j]
				old = slices.Delete(old, j, j+1)
				each(now[i], w)
			}
		}
	}
	claim(func(o *published, w Port) bool { return o.asked == w }, func(*published, Port) {})
	// The same place on the host, leading elsewhere inside: the sockets stay.
	claim(func(o *published, w Port) bool {
		return o.asked.HostIP == w.HostIP && o.asked.Protocol == w.Protocol && w.HostPort == o.port && w.HostEnd == 0
	}, func(o *published, w Port) { moved[o] = w })
	var fresh []*published
	for i, w := range want {
		if now[i] != nil {
			continue
		}
		p, err := f.bind(name, w)
		if err != nil {
			for _, p := range fresh {
				f.letGo(p)
			}
			return nil, err
		}
		now[i] = p
		fresh = append(fresh, p)
	}

	f.mu.Lock()
	g := f.groupOf(name)
	for o, w := range moved {
		o.asked = w
	}
	g.ports = now
	for _, p := range old {
		f.expelPort(p)
	}
	for _, p := range now {
		f.admitPort(p)
	}
	g.backends = nil // so that balance fills the new ports
	changed := f.balance(name) || len(old)+len(fresh) > 0
	f.tidy(name)
	f.mu.Unlock()
	if err := f.savePorts(); err != nil {
		return nil, fmt.Errorf("publish ports of %s: %w", name, err)
	}
	for _, p := range fresh {
		for _, h := range p.holders {
			f.proxy.serve(h, p)
		}
	}
	for _, p := range old {
		f.letGo(p)
	}
	if changed {
		if err := f.rebalanced(ctx); err != nil {
			return nil, fmt.Errorf("publish ports of %s: %w", name, err)
		}
	}
	return f.Bindings(name), nil
}

// Unpublish closes all ports of a group. It is idempotent.
func (f *Fabric) Unpublish(ctx context.Context, group string) error {
	_, err := f.Publish(ctx, group, nil)
	return err
}

// Bindings lists the ports of a group in the order they were asked for.
func (f *Fabric) Bindings(group string) []Binding {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := f.groups[group]
	if g == nil {
		return nil
	}
	var all []Binding
	for _, p := range g.ports {
		all = append(all, p.bindings()...)
	}
	return all
}

// bind finds a port on the host for w and holds it.
func (f *Fabric) bind(group string, w Port) (*published, error) {
	last := max(w.HostPort, w.HostEnd)
	for port := uint32(w.HostPort); port <= uint32(last); port++ {
		p := &published{group: group, asked: w, port: uint16(port)}
		if owner := f.publisher(p); owner != "" {
			if w.HostEnd > 0 {
				continue
			}
			return nil, fmt.Errorf("port %s is published by %s already: %w", p, owner, errdefs.ErrFailedPrecondition)
		}
		err := f.hold(p)
		if err == nil {
			return p, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("publish port %s: %w", p, err)
		}
		if w.HostEnd == 0 {
			if w.HostPort == 0 {
				return nil, fmt.Errorf("publish port %d/%s: no ephemeral port is free: %w", w.Port, w.Protocol, errdefs.ErrFailedPrecondition)
			}
			return nil, fmt.Errorf("port %s is in use%s; publish another port, or stop what has it: %w", p, portOwner(w.Protocol, p.port), errdefs.ErrFailedPrecondition)
		}
	}
	return nil, fmt.Errorf("no port of %d-%d/%s is free: %w", w.HostPort, w.HostEnd, w.Protocol, errdefs.ErrFailedPrecondition)
}

// publisher names the group that has a port that clashes with p.
func (f *Fabric) publisher(p *published) string {
	if p.port == 0 {
		return ""
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, g := range f.groups {
		for _, o := range g.ports {
			if o.port != p.port || o.asked.Protocol != p.asked.Protocol {
				continue
			}
			a, b := o.asked.HostIP, p.asked.HostIP
			if !a.IsValid() || !b.IsValid() || a == b ||
				a.Is4() == b.Is4() && (a.IsUnspecified() || b.IsUnspecified()) {
				return name
			}
		}
	}
	return ""
}

// The list of published ports, RUN/ports.json: what the next daemon takes back
// from [Sockets].

const portsVersion = 1

type storedPorts struct {
	Version int
	Groups  map[string][]storedPort
}

type storedPort struct {
	Asked Port
	Port  uint16
	On    []netip.Addr // addresses that are held
}

func (f *Fabric) portsFile() string { return filepath.Join(f.run, "ports.json") }

func (f *Fabric) savePorts() error {
	s := storedPorts{Version: portsVersion, Groups: map[string][]storedPort{}}
	f.mu.Lock()
	for name, g := range f.groups {
		for _, p := range g.ports {
			sp := storedPort{Asked: p.asked, Port: p.port}
			for _, h := range p.holders {
				sp.On = append(sp.On, h.addr)
			}
			s.Groups[name] = append(s.Groups[name], sp)
		}
	}
	f.mu.Unlock()
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return writeFile(f.portsFile(), b, false)
}

func (f *Fabric) loadPorts() (storedPorts, error) {
	var s storedPorts
	b, err := os.ReadFile(f.portsFile())
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err == nil && s.Version != portsVersion {
		err = fmt.Errorf("version %d is not known", s.Version)
	}
	if err != nil {
		return s, fmt.Errorf("read %s: %w", f.portsFile(), err)
	}
	return s, nil
}

// holderName is what [Sockets] calls a holder.
func holderName(protocol string, addr netip.Addr, port uint16) string {
	return strings.Join([]string{"port", protocol, netip.AddrPortFrom(addr, port).String()}, "/")
}
