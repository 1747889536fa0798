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
)

// lan is a network with what is known of it at run time.
type lan struct {
	Network
	mtu        int
	masquerade bool
	pool       *pool
	ends       map[string]*end // by sandbox

	up    sync.Mutex // one at a time makes the bridge
	index int        // of the bridge; 0: to be made. Guarded by Fabric.mu
	local bool       // route_localnet is set. Guarded by Fabric.mu
}

func (l *lan) subnet() Subnet { return l.Subnets[0] }

// gateway is the bridge's address with the subnet's length.
func (l *lan) gateway() netip.Prefix {
	return netip.PrefixFrom(l.subnet().Gateway, l.subnet().Prefix.Bits())
}

func newLAN(n Network) (*lan, error) {
	mtu, masquerade, err := options(n.Options)
	if err != nil {
		return nil, err
	}
	if len(n.Subnets) != 1 {
		return nil, fmt.Errorf("%d subnets instead of one: %w", len(n.Subnets), errdefs.ErrInvalidArgument)
	}
	return &lan{Network: n, mtu: mtu, masquerade: masquerade && !n.Internal,
		pool: newPool(n.Subnets[0]), ends: map[string]*end{}}, nil
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
		return nil, fmt.Errorf("network %s exists already: %w", s.Name, errdefs.ErrAlreadyExists)
	}
	unlock, err := machineLock()
	if err != nil {
		return nil, fmt.Errorf("create network %s: %w", s.Name, err)
	}
	defer unlock()
	used, err := f.prefixes(nil)
	if err != nil {
		return nil, fmt.Errorf("create network %s: %w", s.Name, err)
	}
	chosen := len(s.Subnets) == 0
	if chosen {
		if s.Subnets, err = f.freeSubnet(used); err != nil {
			return nil, fmt.Errorf("create network %s: %w", s.Name, err)
		}
	} else if t, hit := collision(s.Subnets[0].Prefix, used); hit {
		return nil, fmt.Errorf("network %s: subnet %s overlaps with %s; choose another: %w", s.Name, s.Subnets[0].Prefix, t.by, errdefs.ErrFailedPrecondition)
	}
	id := make([]byte, 32)
	_, _ = rand.Read(id) // never fails
	n := Network{ID: hex.EncodeToString(id), Spec: s, Created: time.Now().UTC(), Chosen: chosen}
	n.Bridge = bridgePrefix + f.tag + n.ID[:7]
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

// freeSubnet chooses where nobody asked for a certain one.
func (f *Fabric) freeSubnet(used []taken) ([]Subnet, error) {
	p, err := chooseSubnet(f.pools, used)
	if err != nil {
		return nil, err
	}
	s, err := checkSubnet(Subnet{Prefix: p})
	return []Subnet{s}, err
}

// settle gives a network that nobody is on and that has no bridge a subnet that
// is still free: as long as its daemon was away, nothing kept its own. The
// caller holds the machine's lock. ok is false for a subnet that was asked for
// and is taken, which whoever uses the network is told.
func (f *Fabric) settle(l *lan) (_ *lan, ok bool, _ error) {
	used, err := f.prefixes(l)
	if err != nil {
		return nil, false, err
	}
	if _, hit := collision(l.subnet().Prefix, used); !hit || !l.Chosen {
		return l, !hit, nil
	}
	n := l.Network
	if n.Subnets, err = f.freeSubnet(used); err != nil {
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
// addresses, and our networks, of which some may have no bridge now; save l.
func (f *Fabric) prefixes(l *lan) ([]taken, error) {
	except := ""
	if l != nil {
		except = l.Bridge
	}
	used, err := hostPrefixes(except)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, o := range f.lans {
		if o != l {
			// First, since a network's name says more than its route.
			used = append([]taken{{o.subnet().Prefix, "network " + o.Name + " (" + o.subnet().Prefix.String() + ")"}}, used...)
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
	used, err := f.prefixes(l)
	if err != nil {
		return err
	}
	if t, hit := collision(l.subnet().Prefix, used); hit {
		return fmt.Errorf("network %s: its subnet %s now overlaps with %s; remove the one or the other: %w", l.Name, l.subnet().Prefix, t.by, errdefs.ErrFailedPrecondition)
	}
	return f.makeBridge(ctx, l)
}

// lost says that a network's bridge is not what it was.
func (f *Fabric) lost(l *lan) {
	f.mu.Lock()
	l.index = 0
	f.mu.Unlock()
}

// bridge is the index of a network's bridge, 0 if it has none now.
func (f *Fabric) bridge(l *lan) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return l.index
}

// makeBridge makes the bridge and lets packets pass it. The caller holds the
// machine's lock.
func (f *Fabric) makeBridge(ctx context.Context, l *lan) error {
	f.mu.Lock()
	joined := f.joined
	f.mu.Unlock()
	if !joined {
		if err := joinHost(f.tag); err != nil {
			return err
		}
		f.mu.Lock()
		f.joined = true
		f.mu.Unlock()
		if drops, err := foreignDrops(f.tag); err != nil {
			f.log.Warn("cannot read the host's firewall", "error", err)
		} else {
			for _, d := range drops {
				f.log.Warn(d)
			}
		}
	}
	f.admit(l)
	// Rules first: there is no moment in which the bridge is open.
	if err := f.table.commit(ctx); err != nil {
		f.expel(l)
		return err
	}
	index, err := ensureBridge(l.Bridge, l.gateway(), l.mtu)
	if err != nil {
		f.expel(l)
		return errors.Join(err, f.table.commit(context.WithoutCancel(ctx)))
	}
	f.mu.Lock()
	l.index = index
	local := l.local
	f.mu.Unlock()
	if local {
		return writeSysctl("net/ipv4/conf/"+l.Bridge+"/route_localnet", "1")
	}
	return nil
}

// admit puts a bridge into the table, expel takes it out; the caller commits.
func (f *Fabric) admit(l *lan) {
	for _, set := range bridgeSets(l) {
		f.table.put(set, ifnameKey(l.Bridge), "")
	}
	f.table.put(setWithin, ifnameKey(l.Bridge)+ifnameKey(l.Bridge), "")
}

func (f *Fabric) expel(l *lan) {
	for _, set := range bridgeSets(l) {
		f.table.del(set, ifnameKey(l.Bridge))
	}
	f.table.del(setWithin, ifnameKey(l.Bridge)+ifnameKey(l.Bridge))
}

func bridgeSets(l *lan) []string {
	in := []string{setBridges}
	if l.Internal {
		in = append(in, setInternal)
	}
	if l.masquerade {
		in = append(in, setMasked)
	}
	return in
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
		return fmt.Errorf("network %s is in use by %s; remove or disconnect them first: %w", l.Name, strings.Join(who, ", "), errdefs.ErrFailedPrecondition)
	}
	delete(f.lans, l.ID) // from here on nobody can join
	last := true
	for _, o := range f.lans {
		if o.index != 0 {
			last = false
		}
	}
	f.mu.Unlock()

	unlock, err := machineLock()
	if err != nil {
		return fmt.Errorf("remove network %s: %w", l.Name, err)
	}
	defer unlock()
	err = deleteLink(l.Bridge)
	f.expel(l)
	if last {
		f.table.drop()
		f.mu.Lock()
		f.joined = false
		f.mu.Unlock()
	}
	err = errors.Join(err, f.table.commit(ctx))
	if last {
		err = errors.Join(err, leaveHost(f.tag))
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
		return nil, fmt.Errorf("network %s does not exist: %w", idOrName, errdefs.ErrNotFound)
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
		all = append(all, EndpointInfo{Sandbox: id, Name: s.title(), Joined: s.joined(l.ends[id])})
	}
	return all
}
