package network

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// dnsOptions are what a dnsServer needs from outside.
type dnsOptions struct {
	Log   *slog.Logger
	Names *names
	// Upstreams gives the host's resolvers; it is called for every query that
	// is forwarded. nil: those of /etc/resolv.conf.
	Upstreams func() []netip.AddrPort
	Now       func() time.Time // nil: time.Now
}

// view is what one sandbox sees through its resolver. It is not changed once
// given.
type view struct {
	Networks    []string         // ids; names on other networks do not exist for it
	Servers     []netip.AddrPort // asked instead of the host's resolvers
	Hostname    string           // its own; "" none
	HostGateway netip.Addr       // answer to host.docker.internal; zero: no such name
	Internal    bool             // only internal networks: nothing is forwarded
	// Hold: it is not known yet what the sandbox sees. Its queries wait in
	// the sockets until update says.
	Hold bool
}

const (
	dnsQuerySize   = 2048             // bytes of a query; real ones have less than 400
	dnsPending     = 64               // queries one sandbox may have at the host's resolvers
	dnsConnections = 16               // TCP connections of one sandbox
	dnsIdle        = 10 * time.Second // until a silent TCP connection is closed
	dnsAdvertise   = 1232             // EDNS size that passes every path unfragmented (DNS flag day 2020)

	// dnsTTL is what our own answers carry. An answer changes in the moment a
	// replica becomes ready or leaves, so nobody is to remember it: with zero
	// (RFC 1035, 3.2.1) a resolver or a proxy that caches uses it for the
	// lookup in hand only. Asking again costs microseconds here.
	dnsTTL = 0
)

// dnsServer answers the queries of sandboxes, each on sockets of its own in
// the sandbox's network namespace. It opens no sockets there; whoever made
// them gives them to serve, and from then on they are the server's.
//
// What is known of the sandbox's networks is answered at once, by the
// goroutine that read the query; everything else is asked of the resolvers in
// the sandbox's view, from the host's namespace.
type dnsServer struct {
	o         dnsOptions
	forwarder *forwarder
	paused    atomic.Pointer[chan struct{}] // closed at the end of the pause; nil: none

	mu        sync.Mutex
	sandboxes map[string]*dnsSandbox
	closed    bool
}

func newDNS(o dnsOptions) *dnsServer {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Names == nil {
		o.Names = newNames()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Upstreams == nil {
		o.Upstreams = (&hostResolvers{path: "/etc/resolv.conf"}).servers
	}
	return &dnsServer{o: o, forwarder: newForwarder(o.Now), sandboxes: map[string]*dnsSandbox{}}
}

// dnsSandbox is one sandbox's resolver.
type dnsSandbox struct {
	*dnsServer
	id   string
	view atomic.Pointer[view]
	udp  *net.UDPConn
	tcp  *net.TCPListener
	know <-chan struct{} // closed, by told, once it is known what the sandbox sees
	told func()

	ctx     context.Context // ends with stop
	cancel  context.CancelFunc
	running sync.WaitGroup
	pending chan struct{} // a token for each query being forwarded

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// serve begins to answer on a sandbox's sockets, of which either may be nil.
// A resolver it had before is stopped.
func (d *dnsServer) serve(sandbox string, udp *net.UDPConn, tcp *net.TCPListener, v view) {
	ctx, cancel := context.WithCancel(context.Background())
	know := make(chan struct{})
	s := &dnsSandbox{
		dnsServer: d, id: sandbox, udp: udp, tcp: tcp,
		know: know, told: sync.OnceFunc(func() { close(know) }),
		ctx: ctx, cancel: cancel,
		pending: make(chan struct{}, dnsPending),
		conns:   map[net.Conn]struct{}{},
	}
	s.see(v)
	d.mu.Lock()
	old := d.sandboxes[sandbox]
	closed := d.closed
	if !closed {
		d.sandboxes[sandbox] = s
		if udp != nil {
			s.running.Go(s.serveUDP)
		}
		if tcp != nil {
			s.running.Go(s.serveTCP)
		}
	}
	d.mu.Unlock()
	if old != nil && !closed {
		old.stop()
	}
	if closed {
		s.stop()
	}
}

// update changes what a sandbox sees.
func (d *dnsServer) update(sandbox string, v view) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.sandboxes[sandbox]; s != nil {
		s.see(v)
	}
}

func (s *dnsSandbox) see(v view) {
	s.view.Store(&v)
	if !v.Hold {
		s.told()
	}
}

// pause lets all queries wait, in the sockets, until resume is called. It is
// for a daemon that has the sockets of its predecessor before it knows the
// names: better late than a wrong "no such name".
func (d *dnsServer) pause() (resume func()) {
	until := make(chan struct{})
	d.paused.Store(&until)
	return func() {
		if d.paused.CompareAndSwap(&until, nil) {
			close(until)
		}
	}
}

// await waits until queries may be answered; false: never.
func (s *dnsSandbox) await() bool {
	select {
	case <-s.know:
	case <-s.ctx.Done():
		return false
	}
	for until := s.paused.Load(); until != nil; until = s.paused.Load() {
		select {
		case <-*until:
		case <-s.ctx.Done():
			return false
		}
	}
	return true
}

// stop closes a sandbox's sockets and waits until nothing of its resolver
// runs any more.
func (d *dnsServer) stop(sandbox string) {
	d.mu.Lock()
	s := d.sandboxes[sandbox]
	delete(d.sandboxes, sandbox)
	d.mu.Unlock()
	if s != nil {
		s.stop()
	}
}

// Close stops all resolvers.
func (d *dnsServer) Close() {
	d.mu.Lock()
	d.closed = true
	all := d.sandboxes
	d.sandboxes = map[string]*dnsSandbox{}
	d.mu.Unlock()
	for _, s := range all {
		s.shut()
	}
	for _, s := range all {
		s.running.Wait()
	}
	d.forwarder.close()
}

func (s *dnsSandbox) stop() {
	s.shut()
	s.running.Wait()
}

// shut ends everything of s without waiting for it.
func (s *dnsSandbox) shut() {
	s.cancel()
	if s.udp != nil {
		s.udp.Close()
	}
	if s.tcp != nil {
		s.tcp.Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.Close()
	}
}

// failed is asked after a socket's error and says whether to go on; it slows
// down a socket that does nothing but fail.
func (s *dnsSandbox) failed(what string, err error) bool {
	if s.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
		return false
	}
	s.o.Log.Warn("dns: "+what, "sandbox", s.id, "error", err)
	select {
	case <-s.ctx.Done():
		return false
	case <-time.After(100 * time.Millisecond):
		return true
	}
}

func (s *dnsSandbox) serveUDP() {
	buf := make([]byte, dnsQuerySize)
	for {
		n, from, err := s.udp.ReadFromUDPAddrPort(buf)
		if err != nil {
			if s.failed("receive a query", err) {
				continue
			}
			return
		}
		if !s.await() {
			return
		}
		send := func(m *dns.Msg) {
			if m == nil {
				return
			}
			if wire, err := packFor(m, udpLimit(m)); err == nil {
				_, _ = s.udp.WriteToUDPAddrPort(wire, from) // the client asks again, or has gone
			}
		}
		q, reply := parseQuery(buf[:n])
		if q != nil {
			reply = s.local(q)
		}
		if q == nil || reply != nil {
			send(reply)
			continue
		}
		servers := s.servers()
		if reply = s.forwarder.cached(q, servers); reply != nil {
			send(reply)
			continue
		}
		select {
		case s.pending <- struct{}{}:
			s.running.Go(func() {
				defer func() { <-s.pending }()
				send(s.forwarder.ask(s.ctx, q, servers))
			})
		default:
			send(replyTo(q, dns.RcodeServerFailure))
		}
	}
}

func (s *dnsSandbox) serveTCP() {
	for {
		c, err := s.tcp.Accept()
		if err != nil {
			if s.failed("accept a connection", err) {
				continue
			}
			return
		}
		s.mu.Lock()
		take := len(s.conns) < dnsConnections && s.ctx.Err() == nil
		if take {
			s.conns[c] = struct{}{}
		}
		s.mu.Unlock()
		if !take {
			c.Close()
			continue
		}
		s.running.Go(func() {
			s.serveConn(c)
			c.Close()
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		})
	}
}

// serveConn answers the queries of one connection, one after the other.
func (s *dnsSandbox) serveConn(c net.Conn) {
	var buf [dnsQuerySize]byte
	for {
		_ = c.SetDeadline(time.Now().Add(dnsIdle))
		if _, err := io.ReadFull(c, buf[:2]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(buf[:2]))
		if n > dnsQuerySize {
			return
		}
		if _, err := io.ReadFull(c, buf[:n]); err != nil || !s.await() {
			return
		}
		q, reply := parseQuery(buf[:n])
		if q != nil {
			if reply = s.local(q); reply == nil {
				reply = s.forwarder.ask(s.ctx, q, s.servers())
			}
		}
		if reply == nil {
			return
		}
		wire, err := packFor(reply, dns.MaxMsgSize)
		if err != nil {
			return
		}
		_ = c.SetDeadline(time.Now().Add(dnsIdle))
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...)); err != nil {
			return
		}
	}
}

// servers gives the resolvers that s's other queries go to.
func (s *dnsSandbox) servers() []netip.AddrPort {
	v := s.view.Load()
	switch {
	case v.Internal:
		return nil
	case len(v.Servers) > 0:
		return v.Servers
	}
	return s.o.Upstreams()
}

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
	// Nobody else may be asked from an internal network. That a name does not
	// exist is true there; SERVFAIL would make musl wait for its whole
	// timeout, and try its search list never.
	if v.Internal {
		return replyTo(q, dns.RcodeNameError)
	}
	if len(v.Servers) == 0 && len(s.o.Upstreams()) == 0 {
		// Nobody can be asked. Of a single word that is enough: it could only
		// have been a name of ours. Of others nothing is known.
		if !strings.Contains(name, ".") {
			return replyTo(q, dns.RcodeNameError)
		}
		return replyTo(q, dns.RcodeServerFailure)
	}
	return nil
}

// addresses gives what a name means to the sandbox; known without addresses is
// a name that belongs to somebody who does not run.
func (s *dnsSandbox) addresses(name string, v *view) (addrs []netip.Addr, known bool) {
	if addrs, known := s.o.Names.Lookup(name, v.Networks); known {
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
