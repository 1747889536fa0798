package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Recover makes the fabric know again what an earlier daemon made, and is
// called once after Open, before anything else. live is every sandbox whose
// namespace is in use, with its endpoints as asked for and its state now.
//
// Live sandboxes keep their namespace, addresses and interfaces; what is
// missing of them is made. Published ports of groups with a live sandbox are
// taken back, others closed. Namespaces, links, ports and table elements that
// nobody owns are removed; traffic goes on meanwhile, since the table is
// replaced in one step when everything is known.
//
// A sandbox that cannot be recovered does not keep others from it; the error
// joins what failed.
func (f *Fabric) Recover(ctx context.Context, live []Sandbox) error {
	if err := f.recover(ctx, live); err != nil {
		return fmt.Errorf("recover network: %w", err)
	}
	return nil
}

func (f *Fabric) recover(ctx context.Context, live []Sandbox) error {
	defer f.dns.pause()() // no query is answered while only some of the names are known
	unlock, err := machineLock()
	if err != nil {
		return err
	}
	defer func() {
		if unlock != nil {
			unlock()
		}
	}()
	// Adopting may already change this and that; none of it may be written
	// before everything is known.
	f.table.pause(true)
	f.table6.pause(true)
	defer f.table.pause(false)
	defer f.table6.pause(false)
	var failed error
	if err := f.recoverBridges(live); err != nil {
		failed = errors.Join(failed, err)
	}
	unlock()
	unlock = nil

	keep := map[string]bool{}
	for _, w := range live {
		keep[w.ID] = true
	}
	masters, err := hostEnds(f.tag)
	if err != nil {
		return errors.Join(failed, err)
	}
	owned := map[int]bool{}
	for _, w := range live {
		if err := f.adopt(ctx, w, masters, owned); err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", w.title(), err))
		}
	}
	failed = errors.Join(failed, f.recoverPorts(), f.sweepNamespaces(keep))

	f.mu.Lock()
	used, used6 := f.joined, f.joined6
	for name := range f.groups {
		f.balance(name)
	}
	f.readdress = slices.Collect(maps.Values(f.lans)) // for addresses that are left of another life
	f.mu.Unlock()
	if used {
		f.table.forget() // so that it is replaced by what is wanted now
	} else {
		f.table.drop()
	}
	if used6 {
		f.table6.forget()
	} else {
		f.table6.drop()
	}
	f.table.pause(false)
	f.table6.pause(false)
	failed = errors.Join(failed, f.rebalanced(ctx), f.table6.commit(ctx), f.startWatch())
	f.serveAll()
	bridges, ends, err := f.orphans(owned)
	if err != nil {
		return errors.Join(failed, err)
	}
	// Deleting links waits for packets under way, some 30 ms; nobody needs to
	// wait for that.
	f.tasks.Go(func() {
		err := deleteLinks(ends)
		for _, name := range bridges {
			err = errors.Join(err, deleteLink(name))
		}
		if err != nil {
			f.log.Warn("links that nobody owns are left", "error", err)
		}
	})
	return failed
}

// recoverBridges finds the bridges there are and makes those that are missing,
// so that every network has its subnet before others choose it. Without any
// network it leaves the host's firewall.
func (f *Fabric) recoverBridges(live []Sandbox) error {
	needed := map[*lan]bool{}
	for _, w := range live {
		for _, e := range w.Endpoints {
			if l, err := f.find(e.Network); err == nil {
				needed[l] = true
			}
		}
	}
	var up, idle []*lan
	f.mu.Lock()
	for _, l := range f.lans {
		switch _, err := netlink.LinkByName(l.Bridge); {
		case !l.bridged(): // found when it is needed
		case err == nil || needed[l]:
			up = append(up, l)
		case l.Name != DefaultNetwork: // which comes with its first user
			idle = append(idle, l)
		}
	}
	f.mu.Unlock()
	var failed error
	for _, l := range idle {
		l, ok, err := f.settle(l)
		failed = errors.Join(failed, err)
		if ok {
			up = append(up, l)
		}
	}
	var six bool
	for _, l := range up {
		_, has := l.subnet6()
		six = six || has
		if err := f.join(l); err != nil {
			return errors.Join(failed, err)
		}
	}
	failed = errors.Join(failed, f.leave(len(up) == 0, !six))
	for _, l := range up {
		index, err := ensureBridge(l.Bridge, l.gateways(), l.mtu)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		f.mu.Lock()
		l.index = index
		f.mu.Unlock()
		f.admit(l)
	}
	return failed
}

// adopt takes a live sandbox over. An endpoint is recognised in its namespace
// by an address of its network's subnet. masters gives the bridge of each host
// end; adopt puts those that are the sandbox's into owned.
func (f *Fabric) adopt(ctx context.Context, w Sandbox, masters map[int]int, owned map[int]bool) error {
	s, err := f.sandbox(w.ID)
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	path := f.path(w.ID)
	if !isNamespace(path) {
		f.mu.Lock()
		delete(f.sandboxes, w.ID)
		s.gone = true
		f.mu.Unlock()
		return fmt.Errorf("its network namespace %s is gone; restart it: %w", path, errdefs.ErrNotFound)
	}
	f.mu.Lock()
	s.hostname, s.servers, s.links, s.group = w.Hostname, w.DNS, foldAll(w.Links), w.Group
	s.running, s.ready = w.Running, w.Ready
	f.mu.Unlock()
	found, err := readNamespace(path)
	if err != nil {
		return err
	}
	for _, x := range found {
		owned[x.peer] = true
	}
	for _, e := range w.Endpoints {
		l, err := f.find(e.Network)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(found, func(x seen) bool { return l.subnet().Prefix.Contains(x.addr) })
		if i < 0 {
			continue // Attach makes it below
		}
		x := found[i]
		f.mu.Lock()
		if _, err := l.pool.take(x.addr); err != nil {
			f.mu.Unlock()
			return fmt.Errorf("network %s: %w", l.Name, err)
		}
		n := &end{Endpoint: e, lan: l, addr: x.addr, mac: x.mac, link: x.name}
		if l.bridged() {
			n.peer = x.peer
			f.peers[x.peer] = true
		}
		if six, ok := l.subnet6(); ok {
			for _, y := range found {
				if y.name == x.name && six.Prefix.Contains(y.addr) {
					n.addr6, _ = l.pool6.take(y.addr)
				}
			}
		}
		l.ends[s.id] = n
		s.ends = append(s.ends, n)
		f.mu.Unlock()
		// A bridge that was lost and made again has no ports.
		if bridge := f.bridge(l); l.bridged() && masters[x.peer] != bridge {
			if err := netlink.LinkSetMasterByIndex(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: x.peer}}, bridge); err != nil {
				return fmt.Errorf("network %s: put %s back into its bridge: %w", l.Name, x.name, err)
			}
		}
	}
	if err := f.unlink(w.ID, f.strays(s, found, masters)); err != nil {
		return err
	}
	if len(s.ends) > 0 {
		f.takeDNS(s)
	}
	if len(s.ends) == len(w.Endpoints) && (s.serving || len(s.ends) == 0) {
		f.enlist(s)
		return nil
	}
	if err := f.attach(ctx, s, w); err != nil {
		return err
	}
	if found, err = readNamespace(path); err != nil {
		return err
	}
	for _, x := range found {
		owned[x.peer] = true
	}
	return nil
}

// strays are the links of ours that lead to a network the sandbox is not to be
// on: it was being taken off it, or put on it, when the daemon died. Links that
// the sandbox's own programs made are theirs.
func (f *Fabric) strays(s *sandbox, found []seen, masters map[int]int) []*end {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []*end
	for _, x := range found {
		if _, ours := masters[x.peer]; !ours || slices.ContainsFunc(s.ends, func(e *end) bool { return e.link == x.name }) {
			continue
		}
		for _, l := range f.lans {
			if l.bridged() && l.subnet().Prefix.Contains(x.addr) {
				all = append(all, &end{link: x.name})
				break
			}
		}
	}
	return all
}

// enlist is announce without writing to the table.
func (f *Fabric) enlist(s *sandbox) {
	v := f.register(s, s.groupName())
	if s.serving {
		f.dns.update(s.id, v)
	}
}

// seen is an interface found in a namespace, with one of its addresses.
type seen struct {
	name string
	addr netip.Addr
	mac  net.HardwareAddr
	peer int // index of the other end, on the host
}

func readNamespace(path string) ([]seen, error) {
	var all []seen
	err := inside(path, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		links, err := whole(h.LinkList)
		if err != nil {
			return fmt.Errorf("list links: %w", err)
		}
		addrs, err := whole(func() ([]netlink.Addr, error) { return h.AddrList(nil, netlink.FAMILY_ALL) })
		if err != nil {
			return fmt.Errorf("list addresses: %w", err)
		}
		for _, l := range links {
			for _, a := range addrs {
				ip, ok := plainAddr(a.IP)
				if ok && a.LinkIndex == l.Attrs().Index && (l.Type() == "veth" || l.Type() == DriverMacvlan) {
					all = append(all, seen{name: l.Attrs().Name, addr: ip, mac: l.Attrs().HardwareAddr, peer: l.Attrs().ParentIndex})
				}
			}
		}
		return nil
	})
	return all, err
}

// hostEnds gives the bridge of each of our host ends, by index; 0: in none.
func hostEnds(tag string) (map[int]int, error) {
	links, err := whole(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	ends := map[int]int{}
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, vethPrefix+tag) {
			ends[l.Attrs().Index] = l.Attrs().MasterIndex
		}
	}
	return ends, nil
}

// recoverPorts takes the published ports of groups with sandboxes back.
func (f *Fabric) recoverPorts() error {
	stored, err := f.loadPorts()
	if err != nil {
		return err
	}
	var failed error
	for name, ports := range stored.Groups {
		f.mu.Lock()
		owned := f.groups[name] != nil
		f.mu.Unlock()
		for _, sp := range ports {
			if !owned {
				for _, a := range sp.On {
					failed = errors.Join(failed, f.sockets.Drop(holderName(sp.Asked.Protocol, a, sp.Port)))
				}
				continue
			}
			p := &published{group: name, asked: sp.Asked, port: sp.Port}
			for _, a := range sp.On {
				h, err := f.retake(sp.Asked.Protocol, a, sp.Port)
				if err != nil { // the store is lost too; the port may still be free
					if h, err = f.listen(sp.Asked.Protocol, a, sp.Port); err == nil {
						err = f.deposit(h.name, h.raw())
					}
				}
				if err != nil {
					failed = errors.Join(failed, fmt.Errorf("port %s of %s: %w", p, name, err))
					continue
				}
				p.holders = append(p.holders, h)
			}
			f.mu.Lock()
			g := f.groups[name]
			g.ports = append(g.ports, p)
			g.backends = nil // balance fills them
			f.admitPort(p)
			f.mu.Unlock()
		}
	}
	return errors.Join(failed, f.savePorts())
}

// serveAll starts the proxies of ports that were taken back.
func (f *Fabric) serveAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, g := range f.groups {
		for _, p := range g.ports {
			for _, h := range p.holders {
				if h.stop == nil {
					f.proxy.serve(h, p)
				}
			}
		}
	}
}

// sweepNamespaces lets go of namespaces that nobody owns, and of their
// resolvers' sockets.
func (f *Fabric) sweepNamespaces(keep map[string]bool) error {
	dir := filepath.Join(f.run, "netns")
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var failed error
	for _, e := range files {
		if !keep[e.Name()] {
			failed = errors.Join(failed, f.sockets.Drop(dnsName(e.Name())), dropNamespace(filepath.Join(dir, e.Name())))
		}
	}
	return failed
}

// orphans finds this instance's bridges that belong to no network, and host
// ends that are not owned.
func (f *Fabric) orphans(owned map[int]bool) (bridges []string, ends []int, err error) {
	links, err := whole(netlink.LinkList)
	if err != nil {
		return nil, nil, fmt.Errorf("list links: %w", err)
	}
	lans := map[string]bool{}
	f.mu.Lock()
	for _, l := range f.lans {
		lans[l.Bridge] = true
	}
	f.mu.Unlock()
	for _, l := range links {
		name, index := l.Attrs().Name, l.Attrs().Index
		switch {
		case strings.HasPrefix(name, bridgePrefix+f.tag) && !lans[name]:
			bridges = append(bridges, name)
		case strings.HasPrefix(name, vethPrefix+f.tag) && !owned[index]:
			ends = append(ends, index)
		}
	}
	return bridges, ends, nil
}
