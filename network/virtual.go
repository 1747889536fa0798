package network

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A group may have an address of its own on a network, beside those of its
// sandboxes: the names that all of them share mean that one, and the kernel
// leads each connection made to it to one of them. It is an address of the
// network's bridge, which so answers for it, and of the network's pool, which
// so gives it to nobody else.
//
// A client that is led to a sandbox of its own network would be answered by it
// directly, from an address it has not called; so its address is hidden behind
// the bridge's, or its packets pass the bridge's own netfilter. There, a bridge
// sends nothing back by the port it came from: a sandbox that calls its own
// group is led to the next of the others.

// virtual is the address of a group on one network. Guarded by Fabric.mu.
type virtual struct {
	addr     netip.Addr
	backends []netip.Addr // in the table
}

// virtualise gives a sandbox's group the virtual addresses that the sandbox
// asks for. Where the network has no address left, its names mean its own. The
// caller holds mu.
func (f *Fabric) virtualise(s *sandbox) {
	for _, e := range s.ends {
		if len(e.Virtual) == 0 || !e.lan.bridged() {
			continue
		}
		g := f.groupOf(s.groupName())
		if g.virtuals[e.lan] != nil {
			continue
		}
		addr, err := e.lan.pool.take(e.VirtualAddr)
		if err != nil && e.VirtualAddr.IsValid() {
			addr, err = e.lan.pool.take(netip.Addr{})
		}
		if err != nil {
			f.log.Warn("no virtual address; names mean the addresses of those who have them", "group", s.groupName(), "network", e.lan.Name, "error", err)
			continue
		}
		if g.virtuals == nil {
			g.virtuals = map[*lan]*virtual{}
		}
		g.virtuals[e.lan] = &virtual{addr: addr}
		f.table.put(setVirtual, addrKey(addr), "")
		f.readdress = append(f.readdress, e.lan)
	}
}

// virtual is the address of the end's group on its network, zero if it has
// none. The caller holds mu.
func (f *Fabric) virtual(s *sandbox, e *end) (addr netip.Addr) {
	if g := f.groups[s.groupName()]; g != nil && len(e.Virtual) > 0 && g.virtuals[e.lan] != nil {
		addr = g.virtuals[e.lan].addr
	}
	return addr
}

// balanceVirtual is balance for a group's virtual addresses. Those that nobody
// of the group is behind any more are given back. The caller holds mu.
func (f *Fabric) balanceVirtual(g *group) (changed bool) {
	for l, v := range g.virtuals {
		var to []netip.Addr
		best, used := isLeaving, false
		for _, s := range g.inOrder() {
			for _, e := range s.ends {
				if e.lan != l || len(e.Virtual) == 0 {
					continue
				}
				used = true
				now := s.standing()
				if now < best {
					continue
				}
				if now > best {
					to, best = nil, now
				}
				to = append(to, e.addr)
			}
		}
		if used && slices.Equal(to, v.backends) {
			continue
		}
		changed = true
		f.leadVirtual(l, v, to)
		if !used {
			f.table.del(setVirtual, addrKey(v.addr))
			l.pool.free(v.addr)
			delete(g.virtuals, l)
			f.readdress = append(f.readdress, l)
		}
	}
	return changed
}

// leadVirtual fills the slots of a virtual address.
func (f *Fabric) leadVirtual(l *lan, v *virtual, backends []netip.Addr) {
	to := shares(backends, false)
	for slot := range slots {
		key := virtualKey(l.Bridge, v.addr, slot)
		if len(backends) == 0 {
			f.table.del(mapVirtual, key)
		} else {
			f.table.put(mapVirtual, key, addrKey(backends[to[slot]]))
		}
	}
	for _, a := range v.backends {
		f.table.del(mapOthers, addrKey(a)+addrKey(v.addr))
	}
	if len(backends) > 1 {
		for i, a := range backends {
			f.table.put(mapOthers, addrKey(a)+addrKey(v.addr), addrKey(backends[(i+1)%len(backends)]))
		}
	}
	v.backends = backends
	f.stale = append(f.stale, flow{host: v.addr, backends: backends})
}

// givenUp says of an address that a bridge has lost, with the length of its
// prefix, whether it was a virtual one that is none any more.
func (f *Fabric) givenUp(length byte, address []byte) bool {
	addr, ok := netip.AddrFromSlice(address)
	if !ok || !addr.Is4() || length != 32 {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.lans {
		if l.subnet().Gateway == addr || slices.Contains(f.virtualsOf(l), addr) {
			return false
		}
	}
	return true
}

// virtualsOf are the virtual addresses on a network. The caller holds mu.
func (f *Fabric) virtualsOf(l *lan) (all []netip.Addr) {
	for _, g := range f.groups {
		if v := g.virtuals[l]; v != nil {
			all = append(all, v.addr)
		}
	}
	return all
}

// setVirtuals gives the bridges of networks the virtual addresses there are,
// and takes those from them that are none any more. A bridge that is not there
// gets them when it is made.
func (f *Fabric) setVirtuals(lans []*lan) error {
	if len(lans) == 0 {
		return nil
	}
	have, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, l := range lans {
		f.mu.Lock()
		index, want := l.index, f.virtualsOf(l)
		f.mu.Unlock()
		if index == 0 || !l.bridged() {
			continue
		}
		link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
		for _, a := range have {
			addr, ok := netip.AddrFromSlice(a.IP.To4())
			if ones, _ := a.Mask.Size(); a.LinkIndex != index || !ok || ones != 32 || addr == l.subnet().Gateway {
				continue
			}
			if i := slices.Index(want, addr); i >= 0 {
				want = slices.Delete(want, i, i+1)
			} else if err := netlink.AddrDel(link, &netlink.Addr{IPNet: a.IPNet}); err != nil && err != unix.EADDRNOTAVAIL { //nolint:errorlint // a bare errno
				return fmt.Errorf("take address %s from bridge %s: %w", addr, l.Bridge, err)
			}
		}
		for _, addr := range want {
			a := &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(32, 32)}, Scope: int(netlink.SCOPE_LINK)}
			if err := netlink.AddrReplace(link, a); err != nil {
				return fmt.Errorf("address %s of bridge %s: %w", addr, l.Bridge, err)
			}
		}
	}
	return nil
}
