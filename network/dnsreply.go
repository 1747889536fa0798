package network

import (
	"encoding/binary"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// parseQuery understands a packet. What is no query at all gives nothing; a
// query nobody could answer gives the reply that says so.
func parseQuery(packet []byte) (q, reply *dns.Msg) {
	const header = 12
	if len(packet) < header || packet[2]&0x80 != 0 { // a response: never answer one, or two servers talk for ever
		return nil, nil
	}
	q = new(dns.Msg)
	if err := q.Unpack(packet); err != nil {
		bad := new(dns.Msg)
		bad.Id = binary.BigEndian.Uint16(packet)
		bad.Response = true
		bad.Opcode = int(packet[2]>>3) & 0xf
		bad.RecursionDesired = packet[2]&1 != 0
		bad.Rcode = dns.RcodeFormatError
		return nil, bad
	}
	switch opt := q.IsEdns0(); {
	case q.Opcode != dns.OpcodeQuery:
		return nil, replyTo(q, dns.RcodeNotImplemented)
	case len(q.Question) != 1:
		return nil, replyTo(q, dns.RcodeFormatError)
	case opt != nil && opt.Version() != 0:
		return nil, replyTo(q, dns.RcodeBadVers)
	case q.Question[0].Qclass != dns.ClassINET && q.Question[0].Qclass != dns.ClassANY:
		return nil, replyTo(q, dns.RcodeRefused)
	case q.Question[0].Qtype == dns.TypeAXFR || q.Question[0].Qtype == dns.TypeIXFR:
		return nil, replyTo(q, dns.RcodeRefused)
	}
	return q, nil
}

// replyTo begins the reply to a query.
func replyTo(q *dns.Msg, rcode int) *dns.Msg {
	m := new(dns.Msg)
	m.Id = q.Id
	m.Response = true
	m.Opcode = q.Opcode
	m.RecursionDesired = q.RecursionDesired
	m.RecursionAvailable = true
	m.CheckingDisabled = q.CheckingDisabled
	m.Rcode = rcode
	m.Question = q.Question
	if opt := q.IsEdns0(); opt != nil {
		// The client's size is kept here until packFor has looked at it.
		m.SetEdns0(opt.UDPSize(), opt.Do())
	}
	return m
}

// udpLimit gives the size of datagram the client takes.
func udpLimit(m *dns.Msg) int {
	if opt := m.IsEdns0(); opt != nil {
		return min(max(int(opt.UDPSize()), dns.MinMsgSize), 4096)
	}
	return dns.MinMsgSize
}

// packFor makes the bytes of a reply, of which no more than limit: what does
// not fit is left out and the truncated bit tells the client to come by TCP.
func packFor(m *dns.Msg, limit int) ([]byte, error) {
	if opt := m.IsEdns0(); opt != nil {
		opt.SetUDPSize(dnsAdvertise)
	}
	m.Compress = true
	m.Truncate(limit)
	return m.Pack()
}

// local answers what is known here, nil if others have to be asked.
func (s *dnsSandbox) local(q *dns.Msg) *dns.Msg {
	v := s.view.Load()
	question := q.Question[0]
	name := fold(question.Name)
	if question.Qtype == dns.TypePTR {
		if addr, ok := fromArpa(name); ok {
			if target := s.o.Names.Reverse(addr, v.Networks); target != "" {
				m := replyTo(q, dns.RcodeSuccess)
				m.Authoritative = true
				m.Answer = []dns.RR{&dns.PTR{Hdr: ownHeader(question), Ptr: dns.Fqdn(target)}}
				return m
			}
		}
	}
	if addrs, known := s.addresses(name, v); known {
		return addressReply(q, addrs)
	}
	if len(s.servers().list) > 0 {
		return nil
	}
	// Nobody can be asked. Of a single word that is enough: it could only have
	// been a name of ours. On an internal network it is true of every name, and
	// SERVFAIL would make musl wait for its whole timeout and never try its
	// search list. Of others nothing is known.
	if v.Internal || !strings.Contains(name, ".") {
		return replyTo(q, dns.RcodeNameError)
	}
	return replyTo(q, dns.RcodeServerFailure)
}

// addresses gives what a name means to the sandbox; known without addresses is
// a name that belongs to somebody who does not run.
func (s *dnsSandbox) addresses(name string, v *view) (addrs []netip.Addr, known bool) {
	if target, linked := v.Links[name]; linked {
		name = target
	}
	if addrs, known := s.o.Names.lookup(s.id, name, v.Networks); known {
		return addrs, true
	}
	switch {
	case name == "localhost" || strings.HasSuffix(name, ".localhost"): // RFC 6761, 6.3
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, true
	case name == "host.docker.internal" || name == "gateway.docker.internal" || name == "host.gantry.internal":
		if v.HostGateway.IsValid() {
			return []netip.Addr{v.HostGateway.Unmap()}, true
		}
		return nil, true
	case v.Hostname != "" && name == fold(v.Hostname):
		addrs = s.o.Names.own(s.id, v.Networks)
		return addrs, len(addrs) > 0
	}
	return nil, false
}

func ownHeader(q dns.Question) dns.RR_Header {
	return dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: dnsTTL}
}

// addressReply answers any type of query for a name of ours. A name that has
// no record of the type asked for exists all the same: NOERROR and nothing in
// it, at once, so that asking for AAAA beside A costs nothing.
func addressReply(q *dns.Msg, addrs []netip.Addr) *dns.Msg {
	question := q.Question[0]
	m := replyTo(q, dns.RcodeSuccess)
	m.Authoritative = true
	if len(addrs) == 0 {
		m.Rcode = dns.RcodeNameError
		return m
	}
	for _, a := range addrs {
		h := ownHeader(question)
		switch {
		case a.Is4() && (question.Qtype == dns.TypeA || question.Qtype == dns.TypeANY):
			h.Rrtype = dns.TypeA
			m.Answer = append(m.Answer, &dns.A{Hdr: h, A: a.AsSlice()})
		case a.Is6() && (question.Qtype == dns.TypeAAAA || question.Qtype == dns.TypeANY):
			h.Rrtype = dns.TypeAAAA
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: h, AAAA: a.AsSlice()})
		}
	}
	return m
}

// fromArpa reads the address out of a name for reverse lookup, as
// "4.3.2.1.in-addr.arpa" and 32 digits before "ip6.arpa".
func fromArpa(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		p := strings.Split(rest, ".")
		if len(p) != 4 {
			return netip.Addr{}, false
		}
		a, err := netip.ParseAddr(p[3] + "." + p[2] + "." + p[1] + "." + p[0])
		return a, err == nil
	}
	rest, ok := strings.CutSuffix(name, ".ip6.arpa")
	if !ok || len(rest) != 63 {
		return netip.Addr{}, false
	}
	var b strings.Builder
	for i := 62; i >= 0; i -= 2 {
		b.WriteByte(rest[i])
		if i > 0 && rest[i-1] != '.' {
			return netip.Addr{}, false
		}
		if i%8 == 0 && i > 0 {
			b.WriteByte(':')
		}
	}
	a, err := netip.ParseAddr(b.String())
	return a, err == nil && a.Is6()
}
