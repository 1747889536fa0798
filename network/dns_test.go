package network

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

// upstream is a resolver on the loopback that says what the test wants.
type upstream struct {
	addr   netip.AddrPort
	asked  atomic.Int32
	byTCP  atomic.Int32
	handle func(q *dns.Msg, tcp bool) *dns.Msg // nil: no answer
}

// listenBoth opens the same port for both protocols.
func listenBoth(t testing.TB) (*net.UDPConn, *net.TCPListener) {
	t.Helper()
	var last error
	for range 20 {
		tcp, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		udp, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(tcp.Addr().(*net.TCPAddr).AddrPort()))
		if err == nil {
			return udp, tcp
		}
		last = err
		tcp.Close()
	}
	t.Fatal(last)
	return nil, nil
}

func startUpstream(t testing.TB, handle func(q *dns.Msg, tcp bool) *dns.Msg) *upstream {
	t.Helper()
	udp, tcp := listenBoth(t)
	u := &upstream{addr: udp.LocalAddr().(*net.UDPAddr).AddrPort(), handle: handle}
	h := func(isTCP bool) dns.HandlerFunc {
		return func(w dns.ResponseWriter, q *dns.Msg) {
			u.asked.Add(1)
			if isTCP {
				u.byTCP.Add(1)
			}
			if m := u.handle(q, isTCP); m != nil {
				w.WriteMsg(m)
			}
		}
	}
	var running sync.WaitGroup
	servers := []*dns.Server{{PacketConn: udp, Handler: h(false)}, {Listener: tcp, Handler: h(true)}}
	for _, s := range servers {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		running.Go(func() { s.ActivateAndServe() })
		<-started
	}
	t.Cleanup(func() {
		for _, s := range servers {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			s.ShutdownContext(ctx)
			cancel()
		}
		running.Wait()
	})
	return u
}

func answer(q *dns.Msg, records ...string) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = true
	for _, r := range records {
		rr, err := dns.NewRR(r)
		if err != nil {
			panic(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	return m
}

func refuse(rcode int) func(*dns.Msg, bool) *dns.Msg {
	return func(q *dns.Msg, _ bool) *dns.Msg { return new(dns.Msg).SetRcode(q, rcode) }
}

// checkLeaks fails the test if it leaves goroutines behind.
func checkLeaks(t *testing.T) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
}

// box is a sandbox's resolver with its sockets on the loopback.
type box struct {
	*dnsServer
	addr string
}

func startBox(t testing.TB, d *dnsServer, id string, v view) box {
	t.Helper()
	udp, tcp := listenBoth(t)
	d.serve(id, udp, tcp, v)
	return box{d, udp.LocalAddr().String()}
}

func (b box) ask(t testing.TB, network, name string, qtype uint16) *dns.Msg {
	t.Helper()
	return b.send(t, network, new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype))
}

func (b box) send(t testing.TB, network string, q *dns.Msg) *dns.Msg {
	t.Helper()
	c := dns.Client{Net: network, Timeout: 6 * time.Second, UDPSize: dns.MaxMsgSize}
	m, _, err := c.Exchange(q, b.addr)
	if err != nil {
		t.Fatalf("%s %s: %v", network, q.Question[0].Name, err)
	}
	if !m.RecursionAvailable || !m.Response {
		t.Errorf("%s: flags of %v", q.Question[0].Name, m.MsgHdr)
	}
	return m
}

// short writes a reply as "RCODE[ aa][ tc] record record".
func short(m *dns.Msg) string {
	s := dns.RcodeToString[m.Rcode]
	if m.Authoritative {
		s += " aa"
	}
	if m.Truncated {
		s += " tc"
	}
	var list []string
	for _, rr := range m.Answer {
		list = append(list, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	slices.Sort(list)
	return strings.TrimSpace(s + " " + strings.Join(list, " "))
}

func TestOwnNames(t *testing.T) {
	checkLeaks(t)
	u := startUpstream(t, refuse(dns.RcodeNameError))
	d := newDNS(dnsOptions{Names: shopNames(), Upstreams: func() []netip.AddrPort { return []netip.AddrPort{u.addr} }})
	defer d.Close()
	b := startBox(t, d, "w1", view{Networks: []string{"f", "b"}, Hostname: "front.example", HostGateway: addr("10.0.0.1")})
	for _, network := range []string{"udp", "tcp"} {
		for _, c := range []struct {
			name  string
			qtype uint16
			want  string
		}{
			{"web", dns.TypeA, "NOERROR aa 10.0.0.2 10.0.1.2"},
			{"WeB", dns.TypeA, "NOERROR aa 10.0.0.2 10.0.1.2"},
			{"web", dns.TypeAAAA, "NOERROR aa"}, // no data, at once
			{"web", dns.TypeMX, "NOERROR aa"},
			{"shop-web-2", dns.TypeAAAA, "NOERROR aa fd00::3"},
			{"shop-web-2", dns.TypeANY, "NOERROR aa 10.0.0.3 fd00::3"},
			{"web.back", dns.TypeA, "NOERROR aa 10.0.1.2"},
			{"shop_db_1", dns.TypeA, "NXDOMAIN aa"}, // does not run
			{"front.example", dns.TypeA, "NOERROR aa 10.0.0.2 10.0.1.2"},
			{"host.docker.internal", dns.TypeA, "NOERROR aa 10.0.0.1"},
			{"gateway.docker.internal", dns.TypeAAAA, "NOERROR aa"},
			{"host.gantry.internal", dns.TypeA, "NOERROR aa 10.0.0.1"},
			{"localhost", dns.TypeA, "NOERROR aa 127.0.0.1"},
			{"app.localhost", dns.TypeAAAA, "NOERROR aa ::1"},
			{"2.0.0.10.in-addr.arpa", dns.TypePTR, "NOERROR aa shop-web-1.front."},
			{"3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa", dns.TypePTR, "NOERROR aa shop-web-2.front."},
		} {
			m := b.ask(t, network, c.name, c.qtype)
			if got := short(m); got != c.want {
				t.Errorf("%s %s %s: %s, want %s", network, c.name, dns.TypeToString[c.qtype], got, c.want)
			}
			if len(m.Answer) > 0 && (m.Answer[0].Header().Ttl != dnsTTL || m.Question[0].Name != dns.Fqdn(c.name)) {
				t.Errorf("%s: %v", c.name, m)
			}
		}
	}
	if n := u.asked.Load(); n != 0 {
		t.Errorf("%d of these went out", n)
	}
	for _, name := range []string{"nobody", "7.7.7.7.in-addr.arpa"} {
		if got := short(b.ask(t, "udp", name, dns.TypePTR)); got != "NXDOMAIN" {
			t.Errorf("%s: %s", name, got)
		}
	}
	if n := u.asked.Load(); n != 2 {
		t.Errorf("upstream asked %d times, not for what is not ours", n)
	}
	// A new view and a new state are seen by the next query.
	d.update("w1", view{Networks: []string{"f"}})
	d.o.Names.state("w2", isReady)
	if got := short(b.ask(t, "udp", "web", dns.TypeA)); got != "NOERROR aa 10.0.0.2 10.0.0.3" {
		t.Errorf("after changes: %s", got)
	}
	if got := short(b.ask(t, "udp", "host.docker.internal", dns.TypeA)); got != "NXDOMAIN aa" {
		t.Errorf("without a gateway: %s", got)
	}
}

func TestNobodyToAsk(t *testing.T) {
	checkLeaks(t)
	u := startUpstream(t, func(q *dns.Msg, _ bool) *dns.Msg { return answer(q, "example.com. 60 IN A 192.0.2.1") })
	d := newDNS(dnsOptions{Names: shopNames(), Upstreams: func() []netip.AddrPort { return nil }})
	defer d.Close()
	inside := startBox(t, d, "inside", view{Networks: []string{"b"}, Internal: true, Servers: []netip.AddrPort{u.addr}})
	alone := startBox(t, d, "alone", view{Networks: []string{"b"}})
	for _, c := range []struct {
		box        box
		name, want string
	}{
		{inside, "web", "NOERROR aa 10.0.1.2"},
		{inside, "example.com", "NXDOMAIN"},
		{inside, "word", "NXDOMAIN"},
		{alone, "example.com", "SERVFAIL"},
		{alone, "word", "NXDOMAIN"},
	} {
		begin := time.Now()
		if got := short(c.box.ask(t, "udp", c.name, dns.TypeA)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if took := time.Since(begin); took > 500*time.Millisecond {
			t.Errorf("%s took %v", c.name, took)
		}
	}
	if u.asked.Load() != 0 {
		t.Error("a query left an internal network")
	}
}

func TestForwarding(t *testing.T) {
	checkLeaks(t)
	yes := func(ip string) func(*dns.Msg, bool) *dns.Msg {
		return func(q *dns.Msg, _ bool) *dns.Msg { return answer(q, q.Question[0].Name+" 60 IN A "+ip) }
	}
	slow := func(h func(*dns.Msg, bool) *dns.Msg, d time.Duration) func(*dns.Msg, bool) *dns.Msg {
		return func(q *dns.Msg, tcp bool) *dns.Msg { time.Sleep(d); return h(q, tcp) }
	}
	silent := func(*dns.Msg, bool) *dns.Msg { return nil }
	var lost atomic.Int32
	for name, c := range map[string]struct {
		servers []func(*dns.Msg, bool) *dns.Msg
		want    string
		within  time.Duration
	}{
		"one":                        {[]func(*dns.Msg, bool) *dns.Msg{yes("192.0.2.1")}, "NOERROR 192.0.2.1", time.Second},
		"first is silent":            {[]func(*dns.Msg, bool) *dns.Msg{silent, yes("192.0.2.2")}, "NOERROR 192.0.2.2", time.Second},
		"first fails":                {[]func(*dns.Msg, bool) *dns.Msg{refuse(dns.RcodeServerFailure), yes("192.0.2.2")}, "NOERROR 192.0.2.2", time.Second},
		"public knows less":          {[]func(*dns.Msg, bool) *dns.Msg{slow(yes("192.0.2.1"), 50*time.Millisecond), refuse(dns.RcodeNameError)}, "NOERROR 192.0.2.1", time.Second},
		"first does not know":        {[]func(*dns.Msg, bool) *dns.Msg{refuse(dns.RcodeNameError), silent}, "NXDOMAIN", 200 * time.Millisecond},
		"second does not, first out": {[]func(*dns.Msg, bool) *dns.Msg{silent, refuse(dns.RcodeNameError)}, "NXDOMAIN", time.Second},
		"all fail":                   {[]func(*dns.Msg, bool) *dns.Msg{refuse(dns.RcodeRefused), refuse(dns.RcodeServerFailure)}, "SERVFAIL", time.Second},
		"a datagram is lost": {[]func(*dns.Msg, bool) *dns.Msg{func(q *dns.Msg, tcp bool) *dns.Msg {
			if lost.Add(1) == 1 {
				return nil
			}
			return yes("192.0.2.1")(q, tcp)
		}}, "NOERROR 192.0.2.1", 2 * time.Second},
		"truncated": {[]func(*dns.Msg, bool) *dns.Msg{func(q *dns.Msg, tcp bool) *dns.Msg {
			m := yes("192.0.2.1")(q, tcp)
			if !tcp {
				m.Answer, m.Truncated = nil, true
			}
			return m
		}}, "NOERROR 192.0.2.1", time.Second},
		"no EDNS there": {[]func(*dns.Msg, bool) *dns.Msg{func(q *dns.Msg, tcp bool) *dns.Msg {
			if q.IsEdns0() != nil {
				return new(dns.Msg).SetRcodeFormatError(q)
			}
			return yes("192.0.2.1")(q, tcp)
		}}, "NOERROR 192.0.2.1", time.Second},
		"answer to another question": {[]func(*dns.Msg, bool) *dns.Msg{func(q *dns.Msg, tcp bool) *dns.Msg {
			m := answer(q, "evil.example. 60 IN A 203.0.113.1")
			m.Question[0].Name = "evil.example."
			return m
		}, yes("192.0.2.2")}, "NOERROR 192.0.2.2", time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var servers []netip.AddrPort
			for _, h := range c.servers {
				servers = append(servers, startUpstream(t, h).addr)
			}
			d := newDNS(dnsOptions{Upstreams: func() []netip.AddrPort { return servers }})
			defer d.Close()
			b := startBox(t, d, "c", view{})
			begin := time.Now()
			if got := short(b.ask(t, "udp", "example.com", dns.TypeA)); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			if took := time.Since(begin); took > c.within {
				t.Errorf("took %v, more than %v", took, c.within)
			}
		})
	}
}

// A resolver that never answers costs its timeout once; a dead one costs
// nothing; and neither keeps Close waiting.
func TestSilentUpstream(t *testing.T) {
	checkLeaks(t)
	u := startUpstream(t, func(*dns.Msg, bool) *dns.Msg { return nil })
	dead := netip.MustParseAddrPort("127.0.0.1:1")
	d := newDNS(dnsOptions{Names: shopNames(), Upstreams: func() []netip.AddrPort { return []netip.AddrPort{dead} }})
	b := startBox(t, d, "c", view{Networks: []string{"f"}})
	begin := time.Now()
	if got := short(b.ask(t, "udp", "example.com", dns.TypeA)); got != "SERVFAIL" || time.Since(begin) > time.Second {
		t.Errorf("nobody listens: %s after %v", got, time.Since(begin))
	}
	d.update("c", view{Networks: []string{"f"}, Servers: []netip.AddrPort{u.addr}})
	// More questions than may be outstanding: own names are answered all the
	// same, and the excess fails at once.
	c, err := net.Dial("udp", b.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range 2 * dnsPending {
		q, _ := new(dns.Msg).SetQuestion(fmt.Sprintf("n%d.example.", i), dns.TypeA).Pack()
		c.Write(q)
	}
	begin = time.Now()
	if got := short(b.ask(t, "udp", "web", dns.TypeA)); got != "NOERROR aa 10.0.0.2" || time.Since(begin) > 500*time.Millisecond {
		t.Errorf("own name beside: %s after %v", got, time.Since(begin))
	}
	c.SetReadDeadline(time.Now().Add(time.Second))
	failed := 0
	for buf := make([]byte, 512); failed < dnsPending; failed++ {
		if _, err := c.Read(buf); err != nil {
			break
		}
	}
	if failed != dnsPending {
		t.Errorf("%d failed at once, want %d", failed, dnsPending)
	}
	begin = time.Now()
	d.Close()
	if took := time.Since(begin); took > 500*time.Millisecond {
		t.Errorf("Close took %v", took)
	}
}

func TestCache(t *testing.T) {
	checkLeaks(t)
	u := startUpstream(t, func(q *dns.Msg, _ bool) *dns.Msg {
		if strings.HasPrefix(q.Question[0].Name, "no") {
			m := new(dns.Msg).SetRcode(q, dns.RcodeNameError)
			if strings.HasPrefix(q.Question[0].Name, "no.") {
				soa, _ := dns.NewRR("example. 3600 IN SOA a. b. 1 2 3 4 20")
				m.Ns = append(m.Ns, soa)
			}
			return m
		}
		return answer(q, q.Question[0].Name+" 60 IN A 192.0.2.1")
	})
	var now atomic.Int64
	d := newDNS(dnsOptions{
		Upstreams: func() []netip.AddrPort { return []netip.AddrPort{u.addr} },
		Now:       func() time.Time { return noonDNS.Add(time.Duration(now.Load())) },
	})
	defer d.Close()
	b := startBox(t, d, "c", view{})
	other := startBox(t, d, "o", view{})
	step := func(b box, name string, asked int32) *dns.Msg {
		t.Helper()
		before := u.asked.Load()
		m := b.ask(t, "udp", name, dns.TypeA)
		if n := u.asked.Load() - before; n != asked {
			t.Errorf("%s at %v: upstream asked %d times, want %d", name, time.Duration(now.Load()), n, asked)
		}
		return m
	}
	step(b, "yes.example", 1)
	now.Store(int64(50 * time.Second))
	m := step(other, "YES.example", 0)
	if ttl := m.Answer[0].Header().Ttl; ttl != 10 {
		t.Errorf("TTL after 50 of 60 s: %d", ttl)
	}
	now.Store(int64(61 * time.Second))
	step(b, "yes.example", 1)
	step(b, "no.example", 1)
	now.Add(int64(19 * time.Second))
	step(b, "no.example", 0)
	now.Add(int64(2 * time.Second))
	step(b, "no.example", 1)
	step(b, "none.example", 1) // without an SOA
	step(b, "none.example", 1)
}

var noonDNS = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func TestCacheIsBounded(t *testing.T) {
	now := noonDNS
	c := newDNSCache(func() time.Time { return now })
	q := new(dns.Msg).SetQuestion("example.", dns.TypeA)
	wire, _ := answer(q, "example. 60 IN A 192.0.2.1").Pack()
	for i := range 3 * cacheEntries {
		now = now.Add(time.Millisecond)
		c.put(dnsKey{name: fmt.Sprint(i)}, wire)
		if _, _, ok := c.get(dnsKey{name: fmt.Sprint(i)}); !ok {
			t.Fatal("what was put last is not there")
		}
	}
	if len(c.entries) > cacheEntries {
		t.Errorf("%d entries", len(c.entries))
	}
}

func TestSizes(t *testing.T) {
	checkLeaks(t)
	n := newNames()
	for i := range 100 {
		n.set(fmt.Sprint(i), []entry{{NetworkID: "n", Names: []string{"web"}, Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), Standing: isReady}})
	}
	d := newDNS(dnsOptions{Names: n, Upstreams: func() []netip.AddrPort { return nil }})
	defer d.Close()
	b := startBox(t, d, "c", view{Networks: []string{"n"}})
	for _, c := range []struct {
		network string
		edns    uint16
		records int
		tc      bool
	}{
		{"udp", 0, 30, true}, {"udp", 1232, 74, true}, {"udp", 4096, 100, false}, {"udp", 100, 29, true}, {"tcp", 0, 100, false},
	} {
		q := new(dns.Msg).SetQuestion("web.", dns.TypeA)
		if c.edns > 0 {
			q.SetEdns0(c.edns, false)
		}
		m := b.send(t, c.network, q)
		opt := m.IsEdns0()
		if len(m.Answer) < c.records || m.Truncated != c.tc || (opt != nil) != (c.edns > 0) {
			t.Errorf("%s %d: %d records, truncated %v, %v", c.network, c.edns, len(m.Answer), m.Truncated, opt)
		}
		m.Compress = true
		if wire, _ := m.Pack(); c.network == "udp" && len(wire) > max(512, int(c.edns)) {
			t.Errorf("%s %d: %d bytes", c.network, c.edns, len(wire))
		}
	}
}

func TestHostResolvers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	h := &hostResolvers{path: path}
	if got := h.servers(); got != nil {
		t.Errorf("no file: %v", got)
	}
	for _, c := range []struct{ file, want string }{
		{"# comment\nsearch a b\nnameserver 127.0.0.53\noptions edns0\n", "[127.0.0.53:53]"},
		{"nameserver 10.0.0.1\n nameserver fe80::1%eth0\nnameserver nonsense\nnameserver ::1 # x\nnameserver 10.0.0.4\n", "[10.0.0.1:53 [fe80::1%eth0]:53 [::1]:53]"},
		{"", "[]"},
	} {
		next := path + ".new"
		if err := os.WriteFile(next, []byte(c.file), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, path); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if got := fmt.Sprint(h.servers()); got != c.want {
				t.Errorf("%q: %s, want %s", c.file, got, c.want)
			}
		}
	}
}

// Queries that come before the names are known wait instead of failing.
func TestHoldAndPause(t *testing.T) {
	checkLeaks(t)
	d := newDNS(dnsOptions{Upstreams: func() []netip.AddrPort { return nil }})
	defer d.Close()
	resume := d.pause()
	b := startBox(t, d, "c", view{Hold: true})
	startBox(t, d, "never", view{Hold: true})
	got := make(chan string, 2)
	var asking sync.WaitGroup
	defer asking.Wait()
	for _, network := range []string{"udp", "tcp"} {
		asking.Go(func() { got <- short(b.ask(t, network, "web", dns.TypeA)) })
	}
	none := func(when string) {
		t.Helper()
		select {
		case s := <-got:
			t.Errorf("%s: answered %s", when, s)
		case <-time.After(30 * time.Millisecond):
		}
	}
	none("at first")
	resume()
	none("without a view")
	resume = d.pause()
	d.update("c", view{Networks: []string{"f"}})
	none("in a pause")
	d.o.Names.set("w", []entry{{NetworkID: "f", Names: []string{"web"}, Addr: addr("10.0.0.2"), Standing: isRunning}})
	resume()
	resume()
	for range 2 {
		if s := <-got; s != "NOERROR aa 10.0.0.2" {
			t.Error(s)
		}
	}
}

// Stopping and beginning again while queries come in: no goroutine is left,
// nobody else notices.
func TestServeAndStop(t *testing.T) {
	checkLeaks(t)
	u := startUpstream(t, func(q *dns.Msg, _ bool) *dns.Msg { return answer(q, q.Question[0].Name+" 0 IN A 192.0.2.1") })
	d := newDNS(dnsOptions{Names: shopNames(), Upstreams: func() []netip.AddrPort { return []netip.AddrPort{u.addr} }})
	stays := startBox(t, d, "stays", view{Networks: []string{"f"}})
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for range 10 {
				b := startBox(t, d, fmt.Sprint(i), view{Networks: []string{"f"}})
				c, err := net.Dial("tcp", b.addr) // left open
				if err != nil {
					t.Error(err)
					return
				}
				if got := short(b.ask(t, "udp", "web", dns.TypeA)); got != "NOERROR aa 10.0.0.2" {
					t.Error(got)
				}
				if got := short(stays.ask(t, "tcp", "example.com", dns.TypeA)); got != "NOERROR 192.0.2.1" {
					t.Error(got)
				}
				d.stop(fmt.Sprint(i))
				c.Close()
			}
		})
	}
	all.Wait()
	again := startBox(t, d, "stays", view{Networks: []string{"f"}}) // takes the old one's place
	if got := short(again.ask(t, "udp", "web", dns.TypeA)); got != "NOERROR aa 10.0.0.2" {
		t.Error(got)
	}
	d.Close()
	d.stop("stays")
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	d.serve("late", udp, nil, view{})
	if _, err := udp.Write(nil); err == nil {
		t.Error("a socket given after Close stays open")
	}
}

func TestBadQueries(t *testing.T) {
	u := func() *dns.Msg { return new(dns.Msg).SetQuestion("web.", dns.TypeA) }
	for name, c := range map[string]struct {
		change func(*dns.Msg)
		want   string
	}{
		"notify":       {func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }, "NOTIMP"},
		"no question":  {func(m *dns.Msg) { m.Question = nil }, "FORMERR"},
		"two":          {func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, "FORMERR"},
		"chaos":        {func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, "REFUSED"},
		"transfer":     {func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR }, "REFUSED"},
		"EDNS version": {func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }, "BADSIG"}, // 16, also BADVERS
		"response":     {func(m *dns.Msg) { m.Response = true }, ""},
	} {
		q := u()
		c.change(q)
		wire, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		ok, reply := parseQuery(wire)
		got := ""
		if reply != nil {
			if wire, err := packFor(reply, 512); err != nil || reply.Unpack(wire) != nil {
				t.Fatal(name, err)
			}
			got = dns.RcodeToString[reply.Rcode]
		}
		if ok != nil || got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// Whatever a container sends, it gets one well-formed reply of a size it can
// take, or none.
func FuzzQuery(f *testing.F) {
	seed := func(m *dns.Msg) {
		wire, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
	}
	seed(new(dns.Msg).SetQuestion("web.", dns.TypeA))
	seed(new(dns.Msg).SetQuestion("2.0.0.10.in-addr.arpa.", dns.TypePTR).SetEdns0(1232, true))
	seed(new(dns.Msg).SetQuestion("3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", dns.TypePTR))
	f.Add([]byte("\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01"))
	d := newDNS(dnsOptions{Names: shopNames(), Upstreams: func() []netip.AddrPort { return nil }})
	s := &dnsSandbox{dnsServer: d, id: "w1"}
	s.view.Store(&view{Networks: []string{"f", "b"}, Hostname: "h", HostGateway: addr("10.0.0.1")})
	f.Fuzz(func(t *testing.T, packet []byte) {
		q, reply := parseQuery(packet)
		if q != nil {
			if reply = s.local(q); reply == nil {
				t.Fatal("with nobody to ask every query is answered here")
			}
		}
		if reply == nil {
			return
		}
		limit := udpLimit(reply)
		wire, err := packFor(reply, limit)
		if err != nil {
			t.Fatalf("reply to %x: %v", packet, err)
		}
		m := new(dns.Msg)
		if err := m.Unpack(wire); err != nil || !m.Response || m.Id != reply.Id || len(wire) > limit {
			t.Fatalf("reply to %x: %x: %v", packet, wire, err)
		}
	})
}

func BenchmarkOwnName(b *testing.B) {
	d := newDNS(dnsOptions{Names: shopNames()})
	defer d.Close()
	x := startBox(b, d, "w1", view{Networks: []string{"f"}})
	c, err := net.Dial("udp", x.addr)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	q, _ := new(dns.Msg).SetQuestion("web.", dns.TypeA).Pack()
	buf := make([]byte, 512)
	for b.Loop() {
		if _, err := c.Write(q); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
}
