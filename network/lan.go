package network

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
)

// lan is a network with what is known of it at run time.
type lan struct {
	Network
	settings
	pool, pool6 *pool           // pool6 is nil without IPv6
	ends        map[string]*end // by sandbox

	up    sync.Mutex // one at a time makes the bridge
	index int        // of the bridge, or the parent; 0: to be made. Guarded by Fabric.mu
	local bool       // route_localnet is set. Guarded by Fabric.mu
}

// subnet is that of IPv4.
func (l *lan) subnet() Subnet { return l.Subnets[0] }

// subnet6 is that of IPv6, if there is one.
func (l *lan) subnet6() (s Subnet, ok bool) {
	if len(l.Subnets) < 2 {
		return s, false
	}
	return l.Subnets[1], true
}

// bridged tells networks with a bridge of their own from those on a link of the
// host's.
func (l *lan) bridged() bool { return l.Driver != DriverMacvlan }

// named says that the bridge's name is the user's.
func (l *lan) named() bool { return l.name != "" }

// gateways are the bridge's addresses with the subnets' lengths.
func (l *lan) gateways() (all []netip.Prefix) {
	for _, s := range l.Subnets {
		all = append(all, netip.PrefixFrom(s.Gateway, s.Prefix.Bits()))
	}
	return all
}

func newLAN(n Network) (*lan, error) {
	set, err := settingsOf(n.Spec)
	if err != nil {
		return nil, err
	}
	if len(n.Subnets) == 0 || len(n.Subnets) > 2 || n.Subnets[0].Prefix.Addr().Is6() {
		return nil, fmt.Errorf("%d subnets instead of one for each family: %w", len(n.Subnets), errdefs.ErrInvalidArgument)
	}
	set.masquerade = set.masquerade && !n.Internal
	l := &lan{Network: n, settings: set, pool: newPool(n.Subnets[0]), ends: map[string]*end{}}
	if six, ok := l.subnet6(); ok {
		l.pool6 = newPool(six)
	}
	return l, nil
}

// CreateNetwork makes a network and its bridge. Without a subnet in the
// specification it gets a free one. A name that is taken is ErrAlreadyExists.
func (f *Fabric) CreateNetwork(ctx context.Context, s Spec) (Network, error) {
	l, err := f.create(ctx, s)
	if err != nil {
		return Network{}, err
	}
	return l.Network, nil
}

func (f *Fabric) create(ctx context.Context, s Spec) (*lan, error) {
	s, err := checkSpec(s)
	if err != nil {
		return nil, err
	}
	f.making.Lock()
	defer f.making.Unlock()
	if l, err := f.find(s.Name); err == nil && l.Name == s.Name {
		return nil, fmt.Errorf("network with name %s already exists: %w", s.Name, errdefs.ErrAlreadyExists)
	}
	unlock, err := machineLock()
	if err != nil {
		return nil, fmt.Errorf("create network %s: %w", s.Name, err)
	}
	defer unlock()
	// A macvlan's subnet is that of the host's link.
	used, err := f.prefixes(nil, s.Driver == DriverBridge)
	if err != nil {
		return nil, fmt.Errorf("create network %s: %w", s.Name, err)
	}
	for _, sub := range s.Subnets {
		t, hit := collision(sub.Prefix, used)
		if hit { // with a bridge that is on its way out, perhaps
			if err := f.vanished(ctx); err != nil {
				return nil, err
			}
			if used, err = f.prefixes(nil, s.Driver == DriverBridge); err != nil {
				return nil, fmt.Errorf("create network %s: %w", s.Name, err)
			}
			t, hit = collision(sub.Prefix, used)
		}
		if hit {
			return nil, fmt.Errorf("network %s: subnet %s overlaps with %s; choose another: %w", s.Name, sub.Prefix, t.by, errdefs.ErrFailedPrecondition)
		}
	}
	id := make([]byte, 32)
	_, _ = rand.Read(id) // never fails
	n := Network{ID: hex.EncodeToString(id), Spec: s, Created: time.Now().UTC()}
	if err := f.chooseSubnets(&n, used); err != nil {
		return nil, fmt.Errorf("create network %s: %w", s.Name, err)
	}
	if n.Bridge, err = f.bridgeName(n); err != nil {
		return nil, fmt.Errorf("create network %s: %w", s.Name, err)
	}
	l, err := newLAN(n)
	if err != nil {
		return nil, fmt.Errorf("create network %s: %w", s.Name, err)
	}
	if err := f.saveNetwork(n); err != nil {
		return nil, fmt.Errorf("create network %s: %w", s.Name, err)
	}
	// The bridge is made under the machine's lock: its route is what keeps
	// other daemons from choosing the same subnet.
	if err := f.makeBridge(ctx, l); err != nil {
		return nil, errors.Join(fmt.Errorf("create network %s: %w", s.Name, err), deleteLink(n.Bridge), removeFile(f.networkFile(n.ID)))
	}
	f.mu.Lock()
	f.lans[n.ID] = l
	f.mu.Unlock()
	return l, nil
}

// bridgeName is what a network's link on the host is called.
func (f *Fabric) bridgeName(n Network) (string, error) {
	set, err := settingsOf(n.Spec)
	switch {
	case err != nil:
		return "", err
	case n.Driver == DriverMacvlan:
		return set.parent, nil
	case set.name == "":
		return bridgePrefix + f.tag + n.ID[:7], nil
	}
	// It would be taken for ours, and deleted with the network.
	if _, err := netlink.LinkByName(set.name); err == nil {
		return "", fmt.Errorf("a link named %s exists on this machine; choose another name: %w", set.name, errdefs.ErrFailedPrecondition)
	}
	return set.name, nil
}

// chooseSubnets chooses what nobody asked for, or what was chosen before.
func (f *Fabric) chooseSubnets(n *Network, used []taken) error {
	has := func(six bool) bool {
		return slices.ContainsFunc(n.Subnets, func(s Subnet) bool { return s.Prefix.Addr().Is6() == six })
	}
	add := func(p netip.Prefix, err error) error {
		if err != nil {
			return err
		}
		s, err := checkSubnet(Subnet{Prefix: p})
		n.Subnets = append(n.Subnets, s)
		return err
	}
	n.Subnets = slices.Clone(n.Subnets)
	if !has(false) {
		n.Chosen = true
		length := subnetBits
		if n.Name == DefaultNetwork {
			length = defaultSubnetBits
		}
		if err := add(chooseSubnet(f.pools, length, used)); err != nil {
			return err
		}
	}
	if n.EnableIPv6 && !has(true) {
		n.Chosen6 = true
		if err := add(chooseSubnet6(f.local, used)); err != nil {
			return err
		}
	}
	sortSubnets(n.Subnets)
	return nil
}

// settle gives a network that nobody is on and that has no bridge subnets that
// are still free: as long as its daemon was away, nothing kept its own. The
// caller holds the machine's lock. ok is false for a subnet that was asked for
// and is taken, which whoever uses the network is told.
func (f *Fabric) settle(l *lan) (_ *lan, ok bool, _ error) {
	used, err := f.prefixes(l, l.bridged())
	if err != nil {
		return nil, false, err
	}
	n := l.Network
	n.Subnets = nil
	for _, s := range l.Subnets {
		_, hit := collision(s.Prefix, used)
		chosen := l.Chosen
		if s.Prefix.Addr().Is6() {
			chosen = l.Chosen6
		}
		switch {
		case !hit:
			n.Subnets = append(n.Subnets, s)
		case !chosen:
			return l, false, nil
		}
	}
	if len(n.Subnets) == len(l.Subnets) {
		return l, true, nil
	}
	if err := f.chooseSubnets(&n, used); err != nil {
		return nil, false, err
	}
	moved, err := newLAN(n)
	if err == nil {
		err = f.saveNetwork(n)
	}
	if err != nil {
		return nil, false, err
	}
	f.log.Info("a network has moved: its subnet was taken", "network", n.Name, "from", l.subnet().Prefix, "to", moved.subnet().Prefix)
	f.mu.Lock()
	f.lans[n.ID] = moved
	f.mu.Unlock()
	return moved, true, nil
}

// prefixes lists what a subnet must not collide with: the machine's routes and
// addresses (if host), and our networks, of which some may have no bridge now;
// save l.
func (f *Fabric) prefixes(l *lan, host bool) (used []taken, err error) {
	except := ""
	if l != nil {
		except = l.Bridge
	}
	if host {
		if used, err = hostPrefixes(except); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, o := range f.lans {
		if o == l {
			continue
		}
		for _, s := range o.Subnets {
			// First, since a network's name says more than its route.
			used = append([]taken{{s.Prefix, "network " + o.Name + " (" + s.Prefix.String() + ")"}}, used...)
		}
	}
	return used, nil
}

// ensureUp makes a network's bridge if it is not there, as after the machine
// was started anew.
func (f *Fabric) ensureUp(ctx context.Context, l *lan) error {
	l.up.Lock()
	defer l.up.Unlock()
	if f.bridge(l) != 0 {
		return nil
	}
	unlock, err := machineLock()
	if err != nil {
		return err
	}
	defer unlock()
	used, err := f.prefixes(l, l.bridged())
	if err != nil {
		return err
	}
	for _, s := range l.Subnets {
		if t, hit := collision(s.Prefix, used); hit {
			return fmt.Errorf("network %s: its subnet %s now overlaps with %s; remove the one or the other: %w", l.Name, s.Prefix, t.by, errdefs.ErrFailedPrecondition)
		}
	}
	return f.makeBridge(ctx, l)
}

// RemoveNetwork removes a network nobody is on. With sandboxes attached it is
// ErrFailedPrecondition, naming them.
func (f *Fabric) RemoveNetwork(ctx context.Context, idOrName string) error {
	l, err := f.find(idOrName)
	if err != nil {
		return err
	}
	if l.Name == DefaultNetwork {
		return fmt.Errorf("network %s is built in and cannot be removed: %w", l.Name, errdefs.ErrFailedPrecondition)
	}
	return f.unmake(ctx, l)
}

func (f *Fabric) unmake(ctx context.Context, l *lan) error {
	f.making.Lock()
	defer f.making.Unlock()
	f.mu.Lock()
	if f.lans[l.ID] == nil {
		f.mu.Unlock()
		return fmt.Errorf("network %s: %w", l.Name, errdefs.ErrNotFound)
	}
	if len(l.ends) > 0 {
		var who []string
		for id := range l.ends {
			who = append(who, f.sandboxes[id].title())
		}
		f.mu.Unlock()
		slices.Sort(who)
		return fmt.Errorf("error while removing network: network %s id %s has active endpoints: %s; remove or disconnect them first: %w", l.Name, l.ID, strings.Join(who, ", "), errdefs.ErrPermissionDenied)
	}
	delete(f.lans, l.ID) // from here on nobody can join
	last, last6 := true, true
	for _, o := range f.lans {
		if o.index != 0 && o.bridged() {
			last = false
			if _, six := o.subnet6(); six {
				last6 = false
			}
		}
	}
	last, last6 = last && f.joined, last6 && f.joined6
	f.mu.Unlock()
	if !l.bridged() {
		if err := removeFile(f.networkFile(l.ID)); err != nil {
			return fmt.Errorf("remove network %s: %w", l.Name, err)
		}
		return nil
	}

	unlock, err := machineLock()
	if err != nil {
		return fmt.Errorf("remove network %s: %w", l.Name, err)
	}
	defer unlock()
	if l.named() {
		err = errors.Join(deleteLink(l.Bridge), expelNamed(ipv4(), l.Bridge))
		if _, six := l.subnet6(); six {
			err = errors.Join(err, expelNamed(ipv6(), l.Bridge))
		}
	}
	f.expel(l)
	if last {
		f.table.drop()
	}
	if last6 {
		f.table6.drop()
	}
	err = errors.Join(err, f.commit(ctx, l), f.leave(last, last6))
	if !l.named() { // last, for the kernel holds up whoever changes links meanwhile
		defer f.vanish(l.Bridge)
	}
	if err = errors.Join(err, removeFile(f.networkFile(l.ID))); err != nil {
		return fmt.Errorf("remove network %s: %w", l.Name, err)
	}
	return nil
}

// Network finds a network by name, id, or an unambiguous beginning of its id.
func (f *Fabric) Network(idOrName string) (Network, error) {
	l, err := f.find(idOrName)
	if err != nil {
		return Network{}, err
	}
	return l.Network, nil
}

func (f *Fabric) find(idOrName string) (*lan, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if idOrName == "" {
		idOrName = DefaultNetwork
	}
	if l := f.lans[idOrName]; l != nil {
		return l, nil
	}
	var byID []*lan
	for _, l := range f.lans {
		if l.Name == idOrName {
			return l, nil
		}
		if strings.HasPrefix(l.ID, idOrName) {
			byID = append(byID, l)
		}
	}
	switch len(byID) {
	case 1:
		return byID[0], nil
	case 0:
		return nil, fmt.Errorf("network %s not found: %w", idOrName, errdefs.ErrNotFound)
	}
	return nil, fmt.Errorf("%d networks have ids that begin with %s; give more of it: %w", len(byID), idOrName, errdefs.ErrInvalidArgument)
}

// findOrDefault also makes the default network if it is meant and not there.
func (f *Fabric) findOrDefault(ctx context.Context, idOrName string) (*lan, error) {
	l, err := f.find(idOrName)
	if !errdefs.IsNotFound(err) || idOrName != "" && idOrName != DefaultNetwork {
		return l, err
	}
	l, err = f.create(ctx, Spec{Name: DefaultNetwork})
	if errdefs.IsAlreadyExists(err) { // somebody was faster
		return f.find(idOrName)
	}
	return l, err
}

// Networks lists all networks by name.
func (f *Fabric) Networks() []Network {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []Network
	for _, l := range f.lans {
		all = append(all, l.Network)
	}
	slices.SortFunc(all, func(a, b Network) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Attached lists who is on a network (by id or name), by sandbox id.
func (f *Fabric) Attached(network string) []EndpointInfo {
	l, err := f.find(network)
	if err != nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []EndpointInfo
	for _, id := range slices.Sorted(maps.Keys(l.ends)) {
		s := f.sandboxes[id]
		all = append(all, EndpointInfo{Sandbox: id, Name: s.title(), Joined: s.joined(l.ends[id], f.virtual(s, l.ends[id]))})
	}
	return all
}
