package network

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
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
	Networks    []string          // ids; names on other networks do not exist for it
	Servers     []netip.AddrPort  // asked instead of the host's resolvers
	Hostname    string            // its own; "" none
	Links       map[string]string // names it alone has for others, folded: its name → theirs
	HostGateway netip.Addr        // answer to host.docker.internal; zero: no such name
	Internal    bool              // only internal networks: nothing leaves it
	// Within runs something in the sandbox's network namespace: servers on the
	// loopback are the sandbox's own. nil: they are the host's.
	Within func(func() error) error
	// Hold: it is not known yet what the sandbox sees. Its queries wait in
	// the sockets until update says.
	Hold bool
}

const (
	dnsQuerySize   = 2048             // bytes of a query; real ones have less than 400
	dnsPending     = 64               // queries one sandbox may have at other resolvers
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
// the sandbox's view, from the host's namespace, unless they are the sandbox's
// own.
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
				send(s.forwarder.ask(s.ctx, q, servers, len(s.pending)))
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
				select {
				case s.pending <- struct{}{}:
				case <-s.ctx.Done():
					return
				}
				reply = s.forwarder.ask(s.ctx, q, s.servers(), len(s.pending))
				<-s.pending
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
func (s *dnsSandbox) servers() resolvers {
	v := s.view.Load()
	r := resolvers{list: v.Servers}
	own := func(a netip.AddrPort) bool { return v.Within != nil && a.Addr().IsLoopback() }
	if slices.ContainsFunc(v.Servers, own) {
		r.of, r.within = s.id, v.Within
	}
	switch {
	case v.Internal:
		r.list = slices.DeleteFunc(slices.Clone(v.Servers), func(a netip.AddrPort) bool { return !own(a) })
	case len(v.Servers) == 0:
		r.list = s.o.Upstreams()
	}
	return r
}
