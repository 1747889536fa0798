package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// mend looks at everything the fabric has made on the host and puts back what
// is missing, in place: running sandboxes keep their namespaces, addresses and
// interfaces' names. It changes nothing where nothing is missing. What cannot
// be put back keeps nothing else from it.
func (f *Fabric) mend() error {
	ctx := context.Background()
	f.mu.Lock()
	joined, six := f.joined, f.joined6
	var up []*lan
	for _, l := range f.lans {
		if l.bridged() && l.index != 0 {
			up = append(up, l)
		}
	}
	sandboxes := slices.Collect(maps.Values(f.sandboxes))
	f.mu.Unlock()
	if !joined {
		return nil
	}
	err := f.mendHost(up)
	err = errors.Join(err, f.table.check(ctx))
	if six {
		err = errors.Join(err, f.table6.check(ctx))
	}
	for _, l := range up {
		if e := f.mendBridge(ctx, l); e != nil {
			err = errors.Join(err, fmt.Errorf("network %s: %w", l.Name, e))
		}
	}
	links, e := hostLinks(f.tag)
	if e != nil {
		return errors.Join(err, e)
	}
	for _, s := range sandboxes {
		if e := f.mendSandbox(ctx, s, links); e != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", s.title(), e))
		}
	}
	return err
}

// mendHost puts back what lets packets be forwarded.
func (f *Fabric) mendHost(up []*lan) error {
	unlock, err := machineLock()
	if err != nil {
		return err
	}
	defer unlock()
	f.mu.Lock()
	joined, six := f.joined, f.joined6 // or the last network has gone meanwhile
	f.mu.Unlock()
	if !joined {
		return nil
	}
	err = f.joinAs(ipv4())
	if six {
		err = errors.Join(err, f.joinAs(ipv6()))
	}
	for _, l := range up {
		if !l.named() {
			continue
		}
		err = errors.Join(err, admitNamed(ipv4(), l.Bridge))
		if _, six := l.subnet6(); six {
			err = errors.Join(err, admitNamed(ipv6(), l.Bridge))
		}
	}
	return err
}

// mendBridge makes a bridge as it should be.
func (f *Fabric) mendBridge(ctx context.Context, l *lan) error {
	l.up.Lock()
	f.mu.Lock()
	gone := f.lans[l.ID] != l
	index, local := l.index, l.local
	f.mu.Unlock()
	if gone || index == 0 {
		l.up.Unlock()
		return nil
	}
	link, err := netlink.LinkByName(l.Bridge)
	if errors.As(err, &netlink.LinkNotFoundError{}) || err == nil && link.Attrs().Index != index {
		f.lost(l, index)
		l.up.Unlock()
		f.log.Warn("a bridge was deleted; making it again", "network", l.Name, "bridge", l.Bridge)
		return f.ensureUp(ctx, l)
	}
	defer l.up.Unlock()
	if err != nil {
		return err
	}
	if _, err := ensureBridge(l.Bridge, l.gateways(), l.mtu); err != nil {
		return err
	}
	if err := f.setVirtuals([]*lan{l}); err != nil {
		return err
	}
	if err := mendRoutes(l, index); err != nil {
		return err
	}
	if err := mendSysctl("net/ipv4/conf/"+l.Bridge+"/forwarding", "1"); err != nil {
		return err
	}
	if local {
		return mendSysctl("net/ipv4/conf/"+l.Bridge+"/route_localnet", "1")
	}
	return nil
}

// mendRoutes puts the route to a network's addresses back, which the kernel
// makes together with the bridge's address.
func mendRoutes(l *lan, index int) error {
	for _, g := range l.gateways() {
		family := routeFamily(g.Addr())
		have, err := whole(func() ([]netlink.Route, error) {
			return netlink.RouteListFiltered(family, &netlink.Route{LinkIndex: index}, netlink.RT_FILTER_OIF)
		})
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		if slices.ContainsFunc(have, func(r netlink.Route) bool { return r.Dst != nil && r.Dst.String() == g.Masked().String() }) {
			continue
		}
		dst, err := netlink.ParseIPNet(g.Masked().String())
		if err != nil {
			return err
		}
		r := &netlink.Route{LinkIndex: index, Dst: dst, Protocol: unix.RTPROT_KERNEL}
		if g.Addr().Is4() {
			r.Scope, r.Src = netlink.SCOPE_LINK, g.Addr().AsSlice()
		}
		if err := netlink.RouteReplace(r); err != nil {
			return fmt.Errorf("route to %s: %w", g.Masked(), err)
		}
	}
	return nil
}

// mendSysctl sets a value that is another one now.
func mendSysctl(name, value string) error {
	now, err := os.ReadFile("/proc/sys/" + name)
	if err == nil && strings.TrimSpace(string(now)) != value {
		err = writeSysctl(name, value)
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil // the link has gone meanwhile
	}
	return err
}

// localLost reports whether route_localnet was switched off where published
// ports need it.
func (f *Fabric) localLost() bool {
	var local []string
	f.mu.Lock()
	for _, l := range f.lans {
		if l.local && l.index != 0 {
			local = append(local, l.Bridge)
		}
	}
	f.mu.Unlock()
	return slices.ContainsFunc(local, func(bridge string) bool {
		b, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + bridge + "/route_localnet")
		return err == nil && strings.TrimSpace(string(b)) != "1"
	})
}

// hostLinks are our host ends, by index.
func hostLinks(tag string) (map[int]*netlink.LinkAttrs, error) {
	links, err := whole(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	ends := map[int]*netlink.LinkAttrs{}
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, vethPrefix+tag) {
			ends[l.Attrs().Index] = l.Attrs()
		}
	}
	return ends, nil
}

// mendSandbox puts a sandbox's links back into their bridges, and makes those
// that are gone again, under the same addresses.
func (f *Fabric) mendSandbox(ctx context.Context, s *sandbox, links map[int]*netlink.LinkAttrs) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return nil
	}
	var lost []*end
	for _, e := range s.ends {
		f.mu.Lock()
		peer := e.peer
		f.mu.Unlock()
		if !e.lan.bridged() || peer == 0 {
			continue
		}
		at := links[peer]
		if at == nil { // or it is younger than the list
			if _, err := netlink.LinkByIndex(peer); errors.As(err, &netlink.LinkNotFoundError{}) {
				lost = append(lost, e)
			}
			continue
		}
		if at.MasterIndex != f.bridge(e.lan) {
			if err := f.enslave(e, peer); err != nil {
				return fmt.Errorf("network %s: put %s back into its bridge: %w", e.lan.Name, e.link, err)
			}
		}
		if at.RawFlags&unix.IFF_UP == 0 {
			if err := netlink.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: peer}}); err != nil {
				return fmt.Errorf("network %s: set %s up: %w", e.lan.Name, e.link, err)
			}
		}
	}
	if len(lost) == 0 {
		return nil
	}
	if !isNamespace(f.path(s.id)) {
		return fmt.Errorf("its link is gone, and its network namespace %s, too; restart it", f.path(s.id))
	}
	f.log.Warn("a link was deleted; making it again", "sandbox", s.title(), "links", len(lost))
	// Its other end is there, perhaps, without an end on this side.
	if err := f.unlink(s.id, lost); err != nil {
		return err
	}
	f.forgetPeers(lost)
	return f.wire(ctx, s, lost, false)
}

// enslave puts an endpoint's link on the host into its bridge.
func (f *Fabric) enslave(e *end, peer int) error {
	link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: peer}}
	bridge := f.bridge(e.lan)
	if bridge == 0 { // which would take the link out of any
		return fmt.Errorf("that is about to be made again: %w", errdefs.ErrUnavailable)
	}
	if err := netlink.LinkSetMasterByIndex(link, bridge); err != nil {
		return err
	}
	if e.lan.icc {
		return nil
	}
	return netlink.LinkSetIsolated(link, true)
}

// remember notes an endpoint's link on the host; forgetPeers that there is none.
func (f *Fabric) remember(e *end, peer int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e.peer = peer
	f.peers[peer] = true
}

func (f *Fabric) forgetPeers(ends []*end) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range ends {
		delete(f.peers, e.peer)
		e.peer = 0
	}
}
