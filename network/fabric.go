package network

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
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
	local     netip.Prefix // the /48 of networks' subnets for IPv6

	table  *table // of IPv4
	table6 *table
	entry  chan struct{} // bounds threads in namespaces
	names  *names
	dns    *dnsServer
	proxy  *proxy

	making     sync.Mutex // of networks: their names and subnets
	publishing sync.Mutex // of ports, and of the file that lists them

	mu        sync.Mutex
	lans      map[string]*lan
	sandboxes map[string]*sandbox
	groups    map[string]*group
	leaving   map[string]chan struct{} // bridges that are being deleted
	joined    bool                     // this instance is known to the host's firewall
	joined6   bool                     // and to that of IPv6
	order     int                      // counts attachments
	localnet  []string                 // bridges to set route_localnet on
	stale     []flow                   // to be forgotten
	peers     map[int]bool             // indexes of the sandboxes' links on the host
	readdress []*lan                   // whose bridges have other virtual addresses now

	watch *watch
	quit  chan struct{} // closed by Close
	lock  *os.File      // RUN/network.lock: one fabric per directory
	tasks sync.WaitGroup
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
		sockets: o.Sockets, pools: o.Pools, local: localPrefix(o.Instance),
		names: newNames(), entry: make(chan struct{}, max(4, 2*runtime.GOMAXPROCS(0))),
		lans: map[string]*lan{}, sandboxes: map[string]*sandbox{}, groups: map[string]*group{}, peers: map[int]bool{}, quit: make(chan struct{}), leaving: map[string]chan struct{}{},
	}
	if err := os.MkdirAll(filepath.Join(f.run, "netns"), 0o711); err != nil {
		return nil, fmt.Errorf("open network: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(f.run, "network.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open network: %w", err)
	}
	f.lock = lock
	for begin := time.Now(); ; time.Sleep(5 * time.Millisecond) { // who holds it may be dying
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if time.Since(begin) > 2*time.Second {
			lock.Close()
			return nil, fmt.Errorf("open network: another daemon uses %s: %w", f.run, errdefs.ErrFailedPrecondition)
		}
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
	f.table = newTable("gantry-"+f.tag, ipv4(), f.log)
	f.table6 = newTable("gantry-"+f.tag, ipv6(), f.log)
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
	close(f.quit)
	f.stopWatch()
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
	f.table6.close()
	return errors.Join(err, f.lock.Close())
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
	f.mu.Lock()
	six := f.joined6
	f.mu.Unlock()
	drops, err := foreignDrops(f.tag, six)
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
