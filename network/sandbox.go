package network

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// sandbox is a namespace and what the fabric knows of it.
type sandbox struct {
	id string

	mu      sync.Mutex // one change at a time
	serving bool       // its resolver runs; guarded by mu

	// Guarded by Fabric.mu; ends is only changed while mu is held as well.
	hostname       string
	servers        []netip.Addr
	links          map[string]string // folded
	group          string
	ends           []*end // in the order of their interfaces
	running, ready bool
	leaving        bool // see Leave
	order          int  // among all sandboxes, by attachment
	gone           bool // detached while somebody waited for mu
}

// end is an endpoint.
type end struct {
	Endpoint
	lan   *lan
	addr  netip.Addr
	addr6 netip.Addr // zero: none
	mac   net.HardwareAddr
	link  string // name in the namespace
	peer  int    // index of the other end, on the host; 0: not known. Guarded by Fabric.mu
}

// title is what a person calls the sandbox.
func (s *sandbox) title() string {
	if s.hostname != "" {
		return s.hostname
	}
	return s.id[:min(12, len(s.id))]
}

func (s *sandbox) groupName() string {
	if s.group != "" {
		return s.group
	}
	return s.id
}

// primary is the end with the default route, or the first of all if every
// network is internal; nil without ends.
func (s *sandbox) primary() *end {
	var best *end
	for _, e := range s.ends {
		switch {
		case best == nil, best.lan.Internal && !e.lan.Internal,
			best.lan.Internal == e.lan.Internal && e.GwPriority > best.GwPriority:
			best = e
		}
	}
	return best
}

// primary6 is the end with the default route of IPv6, nil if none can have it.
func (s *sandbox) primary6() *end {
	var best *end
	for _, e := range s.ends {
		if e.addr6.IsValid() && !e.lan.Internal && (best == nil || e.GwPriority > best.GwPriority) {
			best = e
		}
	}
	return best
}

func (s *sandbox) joined(e *end, virtual netip.Addr) Joined {
	j := Joined{
		Virtual:   virtual,
		NetworkID: e.lan.ID, NetworkName: e.lan.Name, EndpointID: endpointID(s.id, e.lan.ID),
		Interface: e.link, MAC: e.mac.String(), Primary: s.primary() == e,
		IPv4: netip.PrefixFrom(e.addr, e.lan.subnet().Prefix.Bits()),
	}
	if !e.lan.Internal {
		j.Gateway = e.lan.subnet().Gateway
	}
	if six, ok := e.lan.subnet6(); ok && e.addr6.IsValid() {
		j.IPv6 = netip.PrefixFrom(e.addr6, six.Prefix.Bits())
		if !e.lan.Internal {
			j.Gateway6 = six.Gateway
		}
	}
	return j
}

func endpointID(sandbox, network string) string {
	sum := sha256.Sum256([]byte(sandbox + "/" + network))
	return hex.EncodeToString(sum[:])
}

func (f *Fabric) path(id string) string { return filepath.Join(f.run, "netns", id) }

// sandbox finds or makes the record of a sandbox and locks it.
func (f *Fabric) sandbox(id string) (*sandbox, error) {
	if !nameRule.MatchString(id) {
		return nil, fmt.Errorf("sandbox id %q: %w", id, errdefs.ErrInvalidArgument)
	}
	for {
		f.mu.Lock()
		s := f.sandboxes[id]
		if s == nil {
			f.order++
			s = &sandbox{id: id, order: f.order}
			f.sandboxes[id] = s
		}
		f.mu.Unlock()
		s.mu.Lock()
		if !s.gone {
			return s, nil
		}
		s.mu.Unlock()
	}
}

// Prepare makes the namespace of a sandbox and nothing in it but loopback, so
// that its process can be started beside Attach. It is idempotent.
func (f *Fabric) Prepare(ctx context.Context, id string) (string, error) {
	s, err := f.sandbox(id)
	if err != nil {
		return "", err
	}
	defer s.mu.Unlock()
	path := f.path(id)
	if isNamespace(path) {
		return path, nil
	}
	f.entry <- struct{}{}
	defer func() { <-f.entry }()
	if err := makeNamespace(path, func() error { return nil }); err != nil {
		return "", fmt.Errorf("prepare %s: %w", s.title(), err)
	}
	return path, nil
}

// Attach gives a sandbox exactly the endpoints asked for: it makes what is
// missing, namespace included, removes what is not asked for any more, and
// keeps the rest with its addresses. If it fails, what it added is gone again.
func (f *Fabric) Attach(ctx context.Context, want Sandbox) (Attached, error) {
	s, err := f.sandbox(want.ID)
	if err != nil {
		return Attached{}, err
	}
	defer s.mu.Unlock()
	if err := f.attach(ctx, s, want); err != nil {
		return Attached{}, fmt.Errorf("attach %s: %w", want.title(), err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	a := Attached{Path: f.path(s.id)}
	for _, e := range s.ends {
		a.Endpoints = append(a.Endpoints, s.joined(e, f.virtual(s, e)))
	}
	return a, nil
}

func (w Sandbox) title() string { return (&sandbox{id: w.ID, hostname: w.Hostname}).title() }

func (f *Fabric) attach(ctx context.Context, s *sandbox, want Sandbox) error {
	asked := slices.Clone(want.Endpoints)
	slices.SortStableFunc(asked, func(a, b Endpoint) int { return b.Priority - a.Priority })
	lans := make([]*lan, len(asked))
	for i, e := range asked {
		l, err := f.findOrDefault(ctx, e.Network)
		if err != nil {
			return err
		}
		if slices.Contains(lans[:i], l) {
			return fmt.Errorf("network %s is named twice: %w", l.Name, errdefs.ErrInvalidArgument)
		}
		lans[i] = l
	}

	fresh := !isNamespace(f.path(s.id))
	if fresh {
		f.stopDNS(s) // of a namespace that is gone
	}
	f.mu.Lock()
	old := slices.Clone(s.ends)
	f.mu.Unlock()
	var keep, leave []*end
	for _, e := range old {
		i := slices.Index(lans, e.lan)
		if i >= 0 && !fresh && e.suits(asked[i]) {
			keep = append(keep, e)
		} else {
			leave = append(leave, e)
		}
	}
	if len(keep) > 0 {
		// Links may have been lost without us.
		present, err := f.linksOf(s.id)
		if err != nil {
			return err
		}
		keep = slices.DeleteFunc(keep, func(e *end) bool {
			if present[e.link] {
				return false
			}
			leave = append(leave, e)
			return true
		})
	}
	f.release(s, leave)
	if !fresh {
		if err := f.unlink(s.id, leave); err != nil {
			return err
		}
	}

	var add []*end
	for i, l := range lans {
		j := slices.IndexFunc(keep, func(e *end) bool { return e.lan == l })
		if j < 0 {
			e := &end{Endpoint: asked[i], lan: l}
			if err := f.reserve(s, e); err != nil {
				f.release(s, add)
				return err
			}
			add = append(add, e)
			continue
		}
		f.mu.Lock()
		keep[j].Endpoint = asked[i]
		f.mu.Unlock()
	}
	if err := f.wire(ctx, s, add, fresh); err != nil {
		f.release(s, add)
		if fresh {
			err = errors.Join(err, dropNamespace(f.path(s.id)))
		} else {
			err = errors.Join(err, f.unlink(s.id, add))
		}
		return err
	}
	f.mu.Lock()
	from := s.groupName()
	s.hostname, s.servers, s.links, s.group = want.Hostname, want.DNS, foldAll(want.Links), want.Group
	s.running, s.ready, s.leaving = want.Running, want.Ready, false
	f.mu.Unlock()
	return f.announce(ctx, s, from)
}

// suits reports whether an endpoint is already what is asked for.
func (e *end) suits(asked Endpoint) bool {
	return (!asked.IPv4.IsValid() || asked.IPv4 == e.addr) &&
		(!asked.IPv6.IsValid() || asked.IPv6 == e.addr6) &&
		(asked.Interface == "" || asked.Interface == e.link) &&
		(asked.MAC == "" || strings.EqualFold(asked.MAC, e.mac.String()))
}

// reserve gives an endpoint its address and its interface's name and adds it
// to its sandbox and its network.
func (f *Fabric) reserve(s *sandbox, e *end) error {
	l := e.lan
	if e.IPv6.IsValid() && l.pool6 == nil {
		return fmt.Errorf("network %s: address %s: the network has no IPv6; make it with IPv6 enabled: %w", l.Name, e.IPv6, errdefs.ErrInvalidArgument)
	}
	if len(e.Interface) >= unix.IFNAMSIZ || strings.ContainsAny(e.Interface, "/ :") || e.Interface == "lo" {
		return fmt.Errorf("network %s: interface name %q: %w", l.Name, e.Interface, errdefs.ErrInvalidArgument)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lans[l.ID] != l {
		return fmt.Errorf("network %s was removed: %w", l.Name, errdefs.ErrNotFound)
	}
	if len(l.ends) >= maxEndpoints && l.bridged() {
		return fmt.Errorf("network %s has %d endpoints, and a Linux bridge takes no more; use a second network: %w", l.Name, len(l.ends), errdefs.ErrFailedPrecondition)
	}
	taken := map[string]bool{}
	for _, o := range s.ends {
		taken[o.link] = true
	}
	e.link = e.Interface
	for n := 0; e.link == ""; n++ {
		if name := fmt.Sprintf("%s%d", l.prefix, n); !taken[name] {
			e.link = name
		}
	}
	if taken[e.link] {
		return fmt.Errorf("network %s: interface %s is another network's: %w", l.Name, e.link, errdefs.ErrInvalidArgument)
	}
	addr, err := l.pool.take(e.IPv4)
	if err != nil {
		return fmt.Errorf("network %s: %w", l.Name, err)
	}
	e.addr, e.mac = addr, macOf(addr)
	if l.pool6 != nil {
		if e.addr6, err = l.pool6.take(e.IPv6); err != nil {
			l.pool.free(addr)
			return fmt.Errorf("network %s: %w", l.Name, err)
		}
	}
	if e.MAC != "" {
		if e.mac, err = net.ParseMAC(e.MAC); err != nil || len(e.mac) != 6 {
			l.free(e)
			return fmt.Errorf("network %s: MAC address %q: %w", l.Name, e.MAC, errdefs.ErrInvalidArgument)
		}
	}
	l.ends[s.id] = e
	s.ends = append(s.ends, e)
	return nil
}

// free gives an endpoint's addresses back.
func (l *lan) free(e *end) {
	l.pool.free(e.addr)
	if l.pool6 != nil && e.addr6.IsValid() {
		l.pool6.free(e.addr6)
	}
}

// release takes endpoints out of their sandbox and networks.
func (f *Fabric) release(s *sandbox, ends []*end) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range ends {
		delete(f.peers, e.peer)
		e.lan.free(e)
		delete(e.lan.ends, s.id)
		s.ends = slices.DeleteFunc(s.ends, func(o *end) bool { return o == e })
	}
}

// announce tells names, ports and the sandbox's resolver what the sandbox is
// now, and waits until the kernel balances by it. from is the group it was in.
func (f *Fabric) announce(ctx context.Context, s *sandbox, from string) error {
	v := f.register(s, from)
	f.mu.Lock()
	changed := f.balance(from)
	f.tidy(from)
	changed = f.balance(s.groupName()) || changed
	f.mu.Unlock()
	if s.serving {
		f.dns.update(s.id, v)
	}
	if !changed {
		return nil
	}
	return f.rebalanced(ctx)
}

// register gives the sandbox its names and its place in its group, and returns
// what its resolver shall see.
func (f *Fabric) register(s *sandbox, from string) view {
	f.mu.Lock()
	defer f.mu.Unlock()
	var entries []entry
	v := view{Hostname: s.hostname, Links: s.links, Internal: true}
	path := f.path(s.id)
	v.Within = func(fn func() error) error { return inside(path, fn) }
	for _, a := range s.servers {
		v.Servers = append(v.Servers, netip.AddrPortFrom(a, 53))
	}
	f.enrol(s, from)
	f.virtualise(s)
	for _, e := range s.ends {
		names := e.Names
		if addr := f.virtual(s, e); addr.IsValid() {
			entries = append(entries, entry{NetworkID: e.lan.ID, Network: e.lan.Name, Names: e.Virtual,
				Addr: addr, Standing: s.standing(), Virtual: true})
		} else {
			names = slices.Concat(names, e.Virtual)
		}
		entries = append(entries, entry{NetworkID: e.lan.ID, Network: e.lan.Name, Names: names,
			Addr: e.addr, Standing: s.standing()})
		if e.addr6.IsValid() {
			entries = append(entries, entry{NetworkID: e.lan.ID, Network: e.lan.Name, Names: names,
				Addr: e.addr6, Standing: s.standing()})
		}
		v.Networks = append(v.Networks, e.lan.ID)
		v.Internal = v.Internal && e.lan.Internal
	}
	if p := s.primary(); p != nil && !p.lan.Internal {
		v.HostGateway = p.lan.subnet().Gateway
	}
	f.names.set(s.id, entries)
	return v
}

// SetState says whether a sandbox's process runs and whether it is ready. From
// the moment it returns, names resolve and published ports lead accordingly.
func (f *Fabric) SetState(id string, running, ready bool) error {
	f.mu.Lock()
	s := f.sandboxes[id]
	if s == nil {
		f.mu.Unlock()
		return fmt.Errorf("sandbox %s: %w", id, errdefs.ErrNotFound)
	}
	if s.running == running && s.ready == ready {
		f.mu.Unlock()
		return nil
	}
	s.running, s.ready = running, ready
	return f.restated(s)
}

// restated makes names and published ports follow a sandbox's standing. The
// caller holds mu, and restated lets go of it.
func (f *Fabric) restated(s *sandbox) error {
	f.names.state(s.id, s.standing())
	changed := f.balance(s.groupName())
	f.mu.Unlock()
	if !changed {
		return nil
	}
	return f.rebalanced(context.Background())
}

// Detach takes a sandbox off all networks and lets go of its namespace; the
// kernel collects that once no process is in it. It is idempotent.
func (f *Fabric) Detach(ctx context.Context, id string) error {
	s, err := f.sandbox(id)
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	f.names.remove(id)
	f.mu.Lock()
	s.running, s.ready = false, false
	changed := f.balance(s.groupName())
	f.mu.Unlock()
	if changed {
		err = f.rebalanced(ctx)
	}
	f.stopDNS(s)
	err = errors.Join(err, dropNamespace(f.path(id)))
	f.forgetEnds(s, s.ends)
	f.release(s, slices.Clone(s.ends))
	f.mu.Lock()
	changed = f.balance(s.groupName()) // gives back what nobody is behind any more
	f.dismiss(s)
	delete(f.sandboxes, id)
	s.gone = true
	f.mu.Unlock()
	if changed {
		err = errors.Join(err, f.rebalanced(ctx))
	}
	if err != nil {
		return fmt.Errorf("detach %s: %w", s.title(), err)
	}
	return nil
}

// Connect puts a sandbox that has a namespace on one more network.
func (f *Fabric) Connect(ctx context.Context, id string, e Endpoint) (Joined, error) {
	s, err := f.known(id)
	if err != nil {
		return Joined{}, err
	}
	defer s.mu.Unlock()
	fail := func(err error) (Joined, error) {
		return Joined{}, fmt.Errorf("connect %s to network %s: %w", s.title(), e.Network, err)
	}
	l, err := f.findOrDefault(ctx, e.Network)
	if err != nil {
		return fail(err)
	}
	f.mu.Lock()
	there := l.ends[id] != nil
	f.mu.Unlock()
	if there {
		return fail(fmt.Errorf("it is connected already: %w", errdefs.ErrAlreadyExists))
	}
	add := []*end{{Endpoint: e, lan: l}}
	if err := f.reserve(s, add[0]); err != nil {
		return fail(err)
	}
	if err := f.wire(ctx, s, add, false); err != nil {
		f.release(s, add)
		return fail(errors.Join(err, f.unlink(id, add)))
	}
	if err := f.announce(ctx, s, s.groupName()); err != nil {
		return fail(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return s.joined(add[0], f.virtual(s, add[0])), nil
}

// Disconnect takes a sandbox off one network (by id or name).
func (f *Fabric) Disconnect(ctx context.Context, id, network string) error {
	s, err := f.known(id)
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	fail := func(err error) error {
		return fmt.Errorf("disconnect %s from network %s: %w", s.title(), network, err)
	}
	l, err := f.find(network)
	if err != nil {
		return fail(err)
	}
	f.mu.Lock()
	e := l.ends[id]
	f.mu.Unlock()
	if e == nil {
		return fail(fmt.Errorf("it is not connected: %w", errdefs.ErrNotFound))
	}
	f.release(s, []*end{e})
	// Names and ports first, so that nobody is sent there any more.
	err = f.announce(ctx, s, s.groupName())
	err = errors.Join(err, f.unlink(id, []*end{e}))
	f.forgetEnds(s, []*end{e})
	if err = errors.Join(err, f.wire(ctx, s, nil, false)); err != nil {
		return fail(err)
	}
	return nil
}

// known finds and locks a sandbox that must exist.
func (f *Fabric) known(id string) (*sandbox, error) {
	f.mu.Lock()
	s := f.sandboxes[id]
	f.mu.Unlock()
	if s != nil {
		s.mu.Lock()
		if !s.gone {
			return s, nil
		}
		s.mu.Unlock()
	}
	return nil, fmt.Errorf("sandbox %s is not attached: %w", id, errdefs.ErrNotFound)
}
