package network

import (
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// flow is a published UDP port whose backends changed. The kernel translates
// the first datagram of a flow and remembers; a client that goes on sending
// from one port would keep its old backend for ever, alive or not. So flows
// that lead to somebody who is no backend now are forgotten, and so are those
// that began when the port led nowhere.
type flow struct {
	host     netip.Addr // zero: every address
	port     uint16
	backends []netip.Addr
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (m *flowFilter) MatchConntrackFlow(c *netlink.ConntrackFlow) bool {
	if c.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	dst, ok1 := netip.AddrFromSlice(c.Forward.DstIP.To4())
	from, ok2 := netip.AddrFromSlice(c.Reverse.SrcIP.To4())
	if !ok1 || !ok2 || !m.local[dst] && !dst.IsLoopback() {
		return false
	}
	return slices.ContainsFunc(m.flows, func(x flow) bool {
		wide := !x.host.IsValid() || x.host.IsUnspecified() || x.host == dst
		return wide && x.port == c.Forward.DstPort && !slices.Contains(x.backends, from)
	})
}

type flowFilter struct {
	flows []flow
	local map[netip.Addr]bool // the machine's addresses
}

// forgetFlows deletes what the kernel remembers of such flows.
func (f *Fabric) forgetFlows(stale []flow) {
	m := &flowFilter{flows: stale, local: map[netip.Addr]bool{}}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		f.log.Warn("cannot list addresses", "error", err)
		return
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			m.local[p.Addr()] = true
		}
	}
	if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, m); err != nil {
		f.log.Warn("UDP clients may keep a backend that is gone", "error", err)
	}
}
