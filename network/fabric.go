package network

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Fabric is one daemon's network. All methods may be called from any
// goroutine; changes of different sandboxes do not wait for each other.
//
// Locks are taken in this order: one sandbox's mu, making, one lan's up,
// publishing, mu. While mu is held nothing waits for the kernel.
type Fabric struct {
	root, run string
	tag       string
	log       *slog.Logger
	sockets   Sockets
	pools     []netip.Prefix

	table *table
	entry chan struct{} // bounds threads in namespaces
	names *names
	dns   *dnsServer
	proxy *proxy

	making     sync.Mutex // of networks: their names and subnets
	publishing sync.Mutex // of ports, and of the file that lists them

	mu        sync.Mutex
	lans      map[string]*lan
	sandboxes map[string]*sandbox
	groups    map[string]*group
	joined    bool     // this instance is known to the host's firewall
	order     int      // counts attachments
	localnet  []string // bridges to set route_localnet on
	stale     []flow   // to be forgotten

	lock  *os.File // RUN/network.lock: one fabric per directory
	tasks sync.WaitGroup
}

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

// Open reads what is stored and changes nothing on the machine. Call Recover
// next.
func Open(ctx context.Context, o Options) (*Fabric, error) {
	if o.Root == "" || o.Run == "" || o.Instance == "" {
		return nil, fmt.Errorf("open network: root, run directory and instance must be given: %w", errdefs.ErrInvalidArgument)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Sockets == nil {
		o.Sockets = noSockets{}
	}
	if o.Pools == nil {
		o.Pools = DefaultPools()
	}
	for _, p := range o.Pools {
		if !p.IsValid() || !p.Addr().Is4() || p.Bits() > 29 {
			return nil, fmt.Errorf("open network: address pool %s is no IPv4 prefix of at least /29: %w", p, errdefs.ErrInvalidArgument)
		}
	}
	f := &Fabric{
		root: o.Root, run: o.Run, tag: tagOf(o.Instance), log: o.Log,
		sockets: o.Sockets, pools: o.Pools,
		names: newNames(), entry: make(chan struct{}, max(4, 2*runtime.GOMAXPROCS(0))),
		lans: map[string]*lan{}, sandboxes: map[string]*sandbox{}, groups: map[string]*group{},
	}
	if err := os.MkdirAll(filepath.Join(f.run, "netns"), 0o711); err != nil {
		return nil, fmt.Errorf("open network: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(f.run, "network.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open network: %w", err)
	}
	f.lock = lock
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("open network: another daemon uses %s: %w", f.run, errdefs.ErrFailedPrecondition)
	}
	stored, err := f.loadNetworks()
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("open network: %w", err)
	}
	for _, n := range stored {
		l, err := newLAN(n)
		if err != nil {
			lock.Close()
			return nil, fmt.Errorf("open network %s: %w", n.Name, err)
		}
		f.lans[n.ID] = l
	}
	f.table = newTable("gantry-"+f.tag, f.log)
	f.dns = newDNS(dnsOptions{Log: f.log, Names: f.names})
	f.proxy = newProxy(f.log, f.pick)
	return f, nil
}

// tagOf is the instance in the names of links and tables: five digits, so that
// a link's name leaves seven of its fifteen for itself.
func tagOf(instance string) string {
	sum := sha256.Sum256([]byte(instance))
	return hex.EncodeToString(sum[:])[:5]
}

// Close stops serving names and proxied ports. Everything in the kernel stays
// as it is, for the containers and for the next daemon; sockets stay with
// [Sockets]. Only if nothing is attached does the default network's bridge go,
// and with the last bridge every trace in the host's firewall.
func (f *Fabric) Close() error {
	var err error
	if l, e := f.find(DefaultNetwork); e == nil && len(f.Attached(l.ID)) == 0 {
		err = f.unmake(context.Background(), l)
	}
	var ports []*published
	f.mu.Lock()
	for _, g := range f.groups {
		ports = append(ports, g.ports...)
	}
	f.mu.Unlock()
	f.proxy.close()
	for _, p := range ports {
		p.close()
	}
	f.dns.Close()
	f.tasks.Wait()
	f.table.close()
	return errors.Join(err, f.lock.Close())
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
	if len(s.Subnets) == 0 {
		p, err := chooseSubnet(f.pools, used)
		if err != nil {
			return nil, fmt.Errorf("create network %s: %w", s.Name, err)
		}
		sub, err := checkSubnet(Subnet{Prefix: p})
		if err != nil {
			return nil, err
		}
		s.Subnets = []Subnet{sub}
	} else if t, hit := collision(s.Subnets[0].Prefix, used); hit {
		return nil, fmt.Errorf("network %s: subnet %s overlaps with %s; choose another: %w", s.Name, s.Subnets[0].Prefix, t.by, errdefs.ErrFailedPrecondition)
	}
	id := make([]byte, 32)
	_, _ = rand.Read(id) // never fails
	n := Network{ID: hex.EncodeToString(id), Spec: s, Created: time.Now().UTC()}
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

// HostGateway is the address under which sandboxes reach the machine: the
// default network's gateway, which is made if it is not there. Zero if that
// fails. A sandbox also reaches the machine by any Joined.Gateway of its own,
// at no such cost.
func (f *Fabric) HostGateway() netip.Addr {
	ctx := context.Background()
	l, err := f.findOrDefault(ctx, DefaultNetwork)
	if err == nil {
		err = f.ensureUp(ctx, l)
	}
	if err != nil {
		f.log.Warn("no gateway to the host", "error", err)
		return netip.Addr{}
	}
	return l.subnet().Gateway
}

// Warnings says what on this machine keeps packets of containers from their
// way, one sentence each with what to do about it.
func (f *Fabric) Warnings() []string {
	drops, err := foreignDrops(f.tag)
	if err != nil {
		return []string{"cannot read the host's firewall: " + err.Error()}
	}
	if b, err := os.ReadFile("/proc/net/ip_tables_names"); err == nil && strings.Contains(string(b), "filter") {
		drops = append(drops, "legacy iptables rules are loaded, which gantry cannot read; if containers cannot be reached, accept "+
			bridgePrefix+f.tag+"+ in their FORWARD chain")
	}
	return drops
}

// noSockets is the store of those who have none.
type noSockets struct{}

func (noSockets) Hold(string, ...*os.File) error { return nil }
func (noSockets) Take(string) []*os.File         { return nil }
func (noSockets) Drop(string) error              { return nil }
