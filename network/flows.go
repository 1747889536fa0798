package network

import (
	"errors"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// flow is a published UDP port, or a virtual address, whose backends changed. The kernel translates
// the first datagram of a flow and remembers; a client that goes on sending
// from one port would keep its old backend for ever, alive or not. So flows
// that lead to somebody who is no backend now are forgotten, and so are those
// that began when the port led nowhere.
type flow struct {
	host     netip.Addr // zero: every address
	port     uint16     // 0: every port
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
		return wide && (x.port == 0 || x.port == c.Forward.DstPort) && !slices.Contains(x.backends, from)
	})
}

type flowFilter struct {
	flows []flow
	local map[netip.Addr]bool // the machine's addresses
}

// forgetEnds is forgetTo for endpoints of a sandbox whose group is translated to.
func (f *Fabric) forgetEnds(s *sandbox, ends []*end) {
	f.mu.Lock()
	g := f.groups[s.groupName()]
	led := g != nil && len(g.ports)+len(g.virtuals) > 0
	f.mu.Unlock()
	if !led {
		return
	}
	for _, e := range ends {
		f.forgetTo(e.addr)
	}
}

// forgetTo deletes what the kernel remembers of connections that are translated
// to an address, whose sandbox is gone. What it remembers counts until it
// expires: a client that uses the same port of its own again, and one whose
// first packet was lost on the way there, would be led to nobody.
func (f *Fabric) forgetTo(addr netip.Addr) {
	if !addr.Is4() {
		return
	}
	// The kernel looks for them itself (Linux 6.7), where the table may be
	// large. An older one takes this for a single entry that is not wholly told,
	// and refuses it.
	const bySource = 1 << 0 // CTA_FILTER_F_CTA_IP_SRC, net/netfilter/nf_conntrack_netlink.c
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_INET, Version: nl.NFNETLINK_V0})
	reply := nl.NewRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_REPLY, nil)
	reply.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_IP, nil).AddRtAttr(nl.CTA_IP_V4_SRC, addr.AsSlice())
	req.AddData(reply)
	filter := nl.NewRtAttr(unix.NLA_F_NESTED|ctaFilter, nil)
	filter.AddRtAttr(ctaFilterReplyFlags, nl.Uint32Attr(bySource))
	req.AddData(filter)
	if _, err := req.Execute(unix.NETLINK_NETFILTER, 0); err == nil || errors.Is(err, unix.ENOENT) {
		return
	}
	if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, &translatedTo{addr}); err != nil {
		f.log.Warn("clients may be led to a container that is gone", "address", addr, "error", err)
	}
}

// Attributes of linux/netfilter/nfnetlink_conntrack.h.
const (
	ctaFilter           = 25
	ctaFilterReplyFlags = 2
)

// translatedTo is a filter of connections that were led to an address.
type translatedTo struct{ addr netip.Addr }

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (m *translatedTo) MatchConntrackFlow(c *netlink.ConntrackFlow) bool {
	from, ok := netip.AddrFromSlice(c.Reverse.SrcIP.To4())
	return ok && from == m.addr
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
