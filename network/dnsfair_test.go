package network

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// However many questions some sandboxes have outstanding, the few of another
// are asked.
func TestFloodStarvesNobody(t *testing.T) {
	checkLeaks(t)
	u := startUpstream(t, func(q *dns.Msg, _ bool) *dns.Msg {
		if strings.HasPrefix(q.Question[0].Name, "flood") {
			return nil
		}
		return answer(q, q.Question[0].Name+" 60 IN A 192.0.2.1")
	})
	d := newDNS(dnsOptions{Upstreams: func() []netip.AddrPort { return []netip.AddrPort{u.addr} }})
	defer d.Close()
	quiet := startBox(t, d, "quiet", view{})
	for i := range forwardPending/dnsPending + 1 {
		b := startBox(t, d, fmt.Sprint("loud", i), view{})
		c, err := net.Dial("udp", b.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for n := range dnsPending {
			q, _ := new(dns.Msg).SetQuestion(fmt.Sprintf("flood-%d-%d.example.", i, n), dns.TypeA).Pack()
			c.Write(q)
		}
	}
	outstanding := func() int {
		d.forwarder.mu.Lock()
		defer d.forwarder.mu.Unlock()
		return len(d.forwarder.calls)
	}
	within(t, 3*time.Second, "as many questions as may be outstanding", func() bool { return outstanding() >= forwardPending })
	for _, network := range []string{"udp", "tcp"} {
		if got := short(quiet.ask(t, network, network+".example", dns.TypeA)); got != "NOERROR 192.0.2.1" {
			t.Errorf("beside a flood, by %s: %s", network, got)
		}
	}
	if n := outstanding(); n > forwardPending+(forwardPending/dnsPending+2)*forwardShare {
		t.Errorf("%d questions outstanding", n)
	}
}

// A server on the loopback that a sandbox names is its own, not the machine's,
// and neither is its answer another sandbox's.
func TestServersOnTheLoopback(t *testing.T) {
	w := newWorld(t)
	w.network("front")
	w.network("inner", Spec{Internal: true})
	ask := func(a Attached) (got string) {
		w.must(inside(a.Path, func() error {
			c := dns.Client{Timeout: 6 * time.Second}
			m, _, err := c.Exchange(new(dns.Msg).SetQuestion("same.example.", dns.TypeA), "127.0.0.11:53")
			if err == nil {
				got = short(m)
			}
			return err
		}))
		return got
	}
	for id, on := range map[string]string{"a": "front", "b": "front", "c": "inner"} {
		s := asked(id, on)
		s.DNS = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
		a, err := w.Attach(t.Context(), s)
		w.must(err)
		own := "NOERROR 192.0.2." + fmt.Sprint(id[0])
		var sock net.PacketConn
		w.must(inside(a.Path, func() (err error) {
			sock, err = net.ListenPacket("udp4", "127.0.0.1:53")
			return err
		}))
		started := make(chan struct{})
		server := &dns.Server{PacketConn: sock, NotifyStartedFunc: func() { close(started) }, Handler: dns.HandlerFunc(func(to dns.ResponseWriter, q *dns.Msg) {
			to.WriteMsg(answer(q, q.Question[0].Name+" 60 IN A 192.0.2."+fmt.Sprint(id[0])))
		})}
		ended := make(chan struct{})
		go func() { defer close(ended); server.ActivateAndServe() }()
		<-started
		if got := ask(a); got != own {
			t.Errorf("%s on %s: %s, want %s", id, on, got, own)
		}
		w.must(server.Shutdown())
		<-ended
	}
}
