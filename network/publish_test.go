package network

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func (w *world) publish(group string, ports ...Port) []Binding {
	w.Helper()
	b, err := w.Publish(w.Context(), group, ports)
	w.must(err)
	return b
}

func TestPublishedPortIsReachedFromEverywhere(t *testing.T) {
	w := newWorld(t)
	w.network("front")
	w.network("other")
	w.network("inner", Spec{Internal: true})
	a, b, c, i := w.join("a", "front"), w.join("b", "front"), w.join("c", "other"), w.join("i", "inner")
	w.echo(a.Path, "a", 80)
	got := w.publish("a", Port{HostPort: 8080, Port: 80}, Port{HostPort: 8053, Port: 80, Protocol: "udp"})
	if len(got) != 4 || got[0] != (Binding{netip.IPv4Unspecified(), 8080, 80, "tcp"}) || got[1].HostIP != netip.IPv6Unspecified() {
		t.Errorf("bindings: %+v", got)
	}
	gateway := a.Endpoints[0].Gateway.String()
	sibling := gateway
	if b0, err := os.ReadFile("/proc/sys/net/bridge/bridge-nf-call-iptables"); err == nil && b0[0] == '1' {
		sibling = addrOf(b).String()
	}
	for _, x := range []struct{ path, host, from string }{
		{w.outside, "198.51.100.1", "198.51.100.2"}, // the client's own address
		{"", "127.0.0.1", gateway},
		{"", "198.51.100.1", "198.51.100.1"},
		{b.Path, gateway, sibling},
		{b.Path, "198.51.100.1", sibling},
		{a.Path, "198.51.100.1", gateway}, // itself
		{c.Path, "198.51.100.1", addrOf(c).String()},
	} {
		w.reach(x.path, "tcp4", x.host+":8080", "a "+x.from)
		w.reach(x.path, "udp4", x.host+":8053", "a "+x.from)
	}
	w.reach("", "tcp6", "[::1]:8080", "a "+gateway)
	w.reach("", "udp6", "[::1]:8053", "a "+gateway)
	w.blocked(i.Path, "tcp4", i.Endpoints[0].IPv4.Masked().Addr().Next().String()+":8080")
	w.blocked(w.outside, "tcp4", addrOf(a).String()+":80")

	// Idempotent, and the difference only.
	if again := w.publish("a", Port{HostPort: 8080, Port: 80}, Port{HostPort: 8053, Port: 80, Protocol: "udp"}); !slices.Equal(got, again) {
		t.Errorf("published again as %v", again)
	}
	w.echo(a.Path, "a2", 81)
	w.publish("a", Port{HostPort: 8080, Port: 81})
	w.reach(w.outside, "tcp4", "198.51.100.1:8080", "a2 198.51.100.2")
	w.blocked(w.outside, "udp4", "198.51.100.1:8053")
	w.must(w.Unpublish(t.Context(), "a"))
	w.blocked(w.outside, "tcp4", "198.51.100.1:8080")
	w.blocked("", "tcp6", "[::1]:8080")
	if b := w.Bindings("a"); len(b) > 0 {
		t.Errorf("bindings after unpublish: %v", b)
	}
}

func TestPublishOnOneAddressOnly(t *testing.T) {
	w := newWorld(t)
	a, b := w.join("a", ""), w.join("b", "")
	w.echo(a.Path, "a", 80)
	w.echo(b.Path, "b", 80)
	w.publish("a", Port{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 8080, Port: 80})
	w.publish("b", Port{HostIP: netip.MustParseAddr("198.51.100.1"), HostPort: 8080, Port: 80})
	w.reach("", "tcp4", "127.0.0.1:8080", "a "+a.Endpoints[0].Gateway.String())
	w.reach("", "tcp4", "198.51.100.1:8080", "b 198.51.100.1")
	w.reach(w.outside, "tcp4", "198.51.100.1:8080", "b 198.51.100.2")
	w.must(w.Unpublish(t.Context(), "b"))
	w.reach("", "tcp4", "127.0.0.1:8080", "a "+a.Endpoints[0].Gateway.String())
	w.blocked(w.outside, "tcp4", "198.51.100.1:8080")
	_, err := w.Publish(t.Context(), "b", []Port{{HostIP: netip.MustParseAddr("203.0.113.9"), HostPort: 8080, Port: 80}})
	if err == nil || !strings.Contains(err.Error(), "203.0.113.9 is no address of this machine") {
		t.Errorf("foreign address: %v", err)
	}
}

// tally counts who answers n calls.
func (w *world) tally(n int, path, network, addr string) map[string]int {
	w.Helper()
	count := map[string]int{}
	for range n {
		got, err := ask(path, network, addr)
		w.must(err)
		count[strings.Fields(got)[0]]++
	}
	return count
}

func TestPublishedPortIsBalancedOverReadySandboxes(t *testing.T) {
	w := newWorld(t)
	w.network("front")
	for _, id := range []string{"a", "b", "c"} {
		s := asked(id, "front")
		s.Group = "web"
		at, err := w.Attach(t.Context(), s)
		w.must(err)
		w.echo(at.Path, id, 80)
	}
	w.publish("web", Port{HostPort: 8080, Port: 80}, Port{HostPort: 8080, Port: 80, Protocol: "udp"})
	// A second port in between must not disturb the turn.
	w.publish("b", Port{HostPort: 8081, Port: 80})
	for path, host := range map[string]string{w.outside: "198.51.100.1", "": "127.0.0.1"} {
		for _, network := range []string{"tcp4", "udp4"} {
			got := w.tally(60, path, network, host+":8080")
			for _, id := range []string{"a", "b", "c"} {
				if got[id] < 15 || got[id] > 25 {
					t.Errorf("%s to %s is not balanced: %v", network, host, got)
				}
			}
		}
	}
	if got := w.tally(30, "", "tcp6", "[::1]:8080"); len(got) != 3 {
		t.Errorf("IPv6 is not balanced: %v", got)
	}
	w.must(w.SetState("a", true, false))
	if got := w.tally(30, w.outside, "tcp4", "198.51.100.1:8080"); got["a"] > 0 || got["b"] < 10 || got["c"] < 10 {
		t.Errorf("a is not ready: %v", got)
	}
	w.must(w.SetState("b", true, false))
	w.must(w.SetState("c", true, false))
	if got := w.tally(30, w.outside, "tcp4", "198.51.100.1:8080"); len(got) != 3 {
		t.Errorf("none is ready, so all: %v", got)
	}
	w.must(w.SetState("b", false, false))
	w.must(w.SetState("c", true, true))
	if got := w.tally(10, w.outside, "tcp4", "198.51.100.1:8080"); got["c"] != 10 {
		t.Errorf("only c is ready: %v", got)
	}
	w.must(w.Detach(t.Context(), "c"))
	if got := w.tally(10, w.outside, "tcp4", "198.51.100.1:8080"); got["a"] != 10 {
		t.Errorf("only a runs: %v", got)
	}
	w.must(w.SetState("a", false, false))
	w.blocked(w.outside, "tcp4", "198.51.100.1:8080")
}

func TestUDPClientDoesNotKeepABackendThatIsGone(t *testing.T) {
	w := newWorld(t)
	for _, id := range []string{"a", "b"} {
		s := asked(id, "")
		s.Group = "dns"
		at, err := w.Attach(t.Context(), s)
		w.must(err)
		w.echo(at.Path, id, 53)
	}
	w.publish("dns", Port{HostPort: 8053, Port: 53, Protocol: "udp"})
	var c net.Conn
	w.must(inside(w.outside, func() (err error) {
		c, err = net.Dial("udp4", "198.51.100.1:8053")
		return err
	}))
	defer c.Close()
	say := func() string {
		buf := make([]byte, 100)
		c.SetDeadline(time.Now().Add(300 * time.Millisecond))
		c.Write([]byte("?"))
		n, _ := c.Read(buf)
		return string(buf[:min(1, n)])
	}
	first := say()
	if other := say(); first == "" || other != first {
		t.Fatalf("one flow went to %q and %q", first, other)
	}
	w.must(w.SetState(first, false, false))
	within(t, 2*time.Second, "the client to reach the other backend", func() bool { s := say(); return s != "" && s != first })
}

func TestPortClashNamesItsOwner(t *testing.T) {
	w := newWorld(t)
	l, err := net.Listen("tcp4", "127.0.0.1:8080")
	w.must(err)
	defer l.Close()
	w.join("a", "")
	for _, ip := range []netip.Addr{{}, netip.MustParseAddr("127.0.0.1")} {
		_, err = w.Publish(t.Context(), "a", []Port{{HostPort: 7070, Port: 70}, {HostIP: ip, HostPort: 8080, Port: 80}})
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "8080/tcp is in use by ") || !strings.Contains(err.Error(), fmt.Sprintf("(pid %d)", os.Getpid())) {
			t.Errorf("clash: %v", err)
		}
	}
	w.publish("b", Port{HostPort: 7070, Port: 70}) // nothing half-made is left of the first
	_, err = w.Publish(t.Context(), "a", []Port{{HostPort: 7070, Port: 70}})
	if err == nil || !strings.Contains(err.Error(), "port 7070/tcp is published by b already") {
		t.Errorf("clash with b: %v", err)
	}
	_, err = w.Publish(t.Context(), "a", []Port{{HostPort: 7071, Port: 70, Protocol: "sctp"}})
	if !errdefs.IsNotImplemented(err) {
		t.Errorf("sctp: %v", err)
	}
	// A range takes the first that is free.
	if got := w.publish("a", Port{HostPort: 7070, HostEnd: 7072, Port: 70}); got[0].HostPort != 7071 {
		t.Errorf("range: %v", got)
	}
	// Ephemeral ports are kept and are the same for both families.
	got := w.publish("c", Port{Port: 70}, Port{Port: 70})
	if len(got) != 4 || got[0].HostPort < 1024 || got[0].HostPort != got[1].HostPort || got[0].HostPort == got[2].HostPort {
		t.Errorf("ephemeral: %v", got)
	}
	if again := w.publish("c", Port{Port: 70}, Port{Port: 70}); !slices.Equal(got, again) {
		t.Errorf("ephemeral again: %v", again)
	}
}
