package network

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
)

func TestSandboxesOfOneNetworkReachEachOther(t *testing.T) {
	w := newWorld(t)
	w.network("front")
	a, b := w.join("a", "front"), w.join("b", "front")
	w.echo(b.Path, "b", 80)
	w.reach(a.Path, "tcp4", fmt.Sprintf("%s:80", addrOf(b)), "b "+addrOf(a).String())
	w.reach(a.Path, "udp4", fmt.Sprintf("%s:80", addrOf(b)), "b "+addrOf(a).String())
	w.reach("", "tcp4", fmt.Sprintf("%s:80", addrOf(b)), "b "+a.Endpoints[0].Gateway.String())
}

func TestNetworksAreIsolated(t *testing.T) {
	w := newWorld(t)
	w.network("front")
	w.network("back")
	w.network("inner", Spec{Internal: true})
	a, b, c := w.join("a", "front"), w.join("b", "back"), w.join("c", "inner")
	d := w.join("d", "inner", "back")
	for _, s := range []struct {
		a    Attached
		name string
	}{{a, "a"}, {b, "b"}, {c, "c"}, {d, "d"}} {
		w.echo(s.a.Path, s.name, 80)
	}
	w.echo(w.outside, "outside", 80)
	at := func(a Attached, i int) string { return fmt.Sprintf("%s:80", a.Endpoints[i].IPv4.Addr()) }
	w.blocked(a.Path, "tcp4", at(b, 0))
	w.blocked(b.Path, "udp4", at(a, 0))
	w.blocked(a.Path, "tcp4", at(c, 0))
	w.blocked(c.Path, "tcp4", at(a, 0))
	// Out: under the machine's address, but not from an internal network.
	w.reach(a.Path, "tcp4", "198.51.100.2:80", "outside 198.51.100.1")
	w.blocked(c.Path, "tcp4", "198.51.100.2:80")
	// In: not at all without a published port.
	w.blocked(w.outside, "tcp4", at(a, 0))
	w.blocked(w.outside, "tcp4", at(c, 0))
	// Who is on both reaches both, and its way out is the open one.
	w.reach(d.Path, "tcp4", at(c, 0), "c "+d.Endpoints[0].IPv4.Addr().String())
	w.reach(d.Path, "tcp4", at(b, 0), "b "+d.Endpoints[1].IPv4.Addr().String())
	w.reach(d.Path, "tcp4", "198.51.100.2:80", "outside 198.51.100.1")
	if !d.Endpoints[1].Primary || d.Endpoints[0].Gateway.IsValid() {
		t.Errorf("the internal network gives the way out: %+v", d.Endpoints)
	}
}

func TestLoopbackOfTheMachineCannotBeReachedFromElsewhere(t *testing.T) {
	w := newWorld(t)
	a := w.join("a", "")
	w.echo(a.Path, "a", 80)
	// A published port sets route_localnet on the bridge: the dangerous state.
	if _, err := w.Publish(t.Context(), "a", []Port{{HostPort: 8088, Port: 80}}); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:9999")
	w.must(err)
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			t.Error("a connection came from elsewhere to 127.0.0.1")
			c.Close()
		}
	}()
	for _, path := range []string{a.Path, w.outside} {
		gateway := "198.51.100.1"
		if path == a.Path {
			gateway = a.Endpoints[0].Gateway.String()
		}
		w.must(inside(path, func() error {
			if err := writeSysctl("net/ipv4/conf/all/route_localnet", "1"); err != nil {
				return err
			}
			return sh("ip addr del 127.0.0.1/8 dev lo; ip route del table local 127.0.0.0/8 2>/dev/null; ip route add 127.0.0.1 via " + gateway)
		}))
		w.blocked(path, "tcp4", "127.0.0.1:9999")
		w.blocked(path, "tcp4", "127.0.0.1:8088")
	}
}

func TestConnectAndDisconnect(t *testing.T) {
	w := newWorld(t)
	w.network("front")
	w.network("back")
	a, b := w.join("a", "front"), w.join("b", "back")
	w.echo(a.Path, "a", 80)
	j, err := w.Connect(t.Context(), "a", Endpoint{Network: "back", Names: []string{"a"}})
	w.must(err)
	if j.Interface != "eth1" || j.Primary {
		t.Errorf("connected as %+v", j)
	}
	w.reach(b.Path, "tcp4", j.IPv4.Addr().String()+":80", "a "+addrOf(b).String())
	if _, err := w.Connect(t.Context(), "a", Endpoint{Network: "back"}); err == nil {
		t.Error("connected twice")
	}
	if got := w.Attached("back"); len(got) != 2 || got[0].Name != "a" {
		t.Errorf("attached: %+v", got)
	}
	if err := w.RemoveNetwork(t.Context(), "back"); err == nil {
		t.Error("a network in use was removed")
	} else {
		t.Log(err)
	}
	w.must(w.Disconnect(t.Context(), "a", "front"))
	w.reach(b.Path, "tcp4", j.IPv4.Addr().String()+":80", "a "+addrOf(b).String())
	w.echo(w.outside, "outside", 80)
	w.reach(a.Path, "tcp4", "198.51.100.2:80", "outside 198.51.100.1") // by the other network now
	// Attach is idempotent and heals: the same address, and a link that was lost.
	again := w.join("a", "back")
	if again.Endpoints[0] != func() Joined { j.Primary = true; return j }() {
		t.Errorf("attached again as %+v instead of %+v", again.Endpoints[0], j)
	}
	w.must(inside(a.Path, func() error { return deleteLink("eth1") }))
	healed := w.join("a", "back")
	w.reach(b.Path, "tcp4", addrOf(healed).String()+":80", "a "+addrOf(b).String())
}

// query asks a sandbox's resolver for the addresses of a name.
func query(path, network, name string) (got []string, err error) {
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), dns.TypeA)
	var c *dns.Conn
	err = inside(path, func() (err error) {
		c, err = (&dns.Client{Net: network, Timeout: 2 * time.Second}).Dial("127.0.0.11:53")
		return err
	})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	r, _, err := (&dns.Client{Net: network, Timeout: 2 * time.Second}).ExchangeWithConn(m, c)
	if err != nil {
		return nil, err
	}
	for _, rr := range r.Answer {
		if a, ok := rr.(*dns.A); ok {
			got = append(got, a.A.String())
		}
	}
	return got, nil
}

func TestNamesResolveInsideSandboxes(t *testing.T) {
	w := newWorld(t)
	w.network("front")
	w.network("back")
	a, b := w.join("a", "front"), w.join("b", "front", "back")
	w.join("c", "back")
	w.echo(a.Path, "a", 53) // its own port 53 stays its own
	for _, network := range []string{"udp", "tcp"} {
		got, err := query(a.Path, network, "b")
		if err != nil || !slices.Equal(got, []string{addrOf(b).String()}) {
			t.Errorf("%s: b is %v, %v", network, got, err)
		}
	}
	w.reach(b.Path, "udp4", addrOf(a).String()+":53", "a "+addrOf(b).String())
	w.must(w.SetState("b", false, false))
	if got, _ := query(a.Path, "udp", "b"); len(got) > 0 {
		t.Errorf("b does not run but is %v", got)
	}
	w.must(w.SetState("b", true, true))
	w.must(w.Disconnect(t.Context(), "b", "front"))
	if got, _ := query(a.Path, "udp", "b"); len(got) > 0 {
		t.Errorf("b left but is %v", got)
	}
	// A query that comes while the daemon is away waits for the next one.
	live := []Sandbox{asked("a", "front"), asked("b", "back"), asked("c", "back")}
	w.crash()
	type answer struct {
		got []string
		err error
	}
	done := make(chan answer)
	go func() {
		got, err := query(b.Path, "udp", "c")
		done <- answer{got, err}
	}()
	time.Sleep(100 * time.Millisecond)
	w.open(live...)
	if x := <-done; x.err != nil || len(x.got) != 1 {
		t.Errorf("asked in between: %v, %v", x.got, x.err)
	}
}

func TestSandboxWithoutNetworks(t *testing.T) {
	w := newWorld(t)
	a := w.join("a")
	w.must(inside(a.Path, func() error {
		all, err := net.Interfaces()
		if len(all) != 1 || all[0].Flags&net.FlagUp == 0 {
			t.Errorf("interfaces: %v", all)
		}
		return err
	}))
	if nft := w.nft("list", "ruleset"); nft != "" {
		t.Errorf("rules without a network:\n%s", nft)
	}
}

func TestEndpointAsAsked(t *testing.T) {
	w := newWorld(t)
	w.network("front", Spec{Options: map[string]string{optionMTU: "1400"}})
	s := asked("a", "front")
	s.Endpoints[0].IPv4 = netip.MustParseAddr("172.20.0.77")
	s.Endpoints[0].MAC = "02:00:00:00:00:09"
	s.Endpoints[0].Interface = "lan0"
	a, err := w.Attach(t.Context(), s)
	w.must(err)
	if j := a.Endpoints[0]; j.IPv4.String() != "172.20.0.77/24" || j.MAC != "02:00:00:00:00:09" || j.Interface != "lan0" {
		t.Errorf("joined as %+v", j)
	}
	w.must(inside(a.Path, func() error {
		l, err := net.InterfaceByName("lan0")
		if err == nil && (l.MTU != 1400 || l.HardwareAddr.String() != "02:00:00:00:00:09") {
			t.Errorf("link %+v", l)
		}
		return err
	}))
	s.ID = "b"
	if _, err := w.Attach(t.Context(), s); err == nil || !strings.Contains(err.Error(), "172.20.0.77 is in use") {
		t.Errorf("the same address twice: %v", err)
	}
	w.must(w.Detach(t.Context(), "b"))
	if g := w.HostGateway(); !g.IsValid() || g == a.Endpoints[0].Gateway {
		t.Errorf("host gateway %s", g)
	}
}

// A process ends with a connection open whose peer is gone. Nobody answers its
// goodbye, which must not hold the links.
func TestDetachDoesNotWaitForGoodbyes(t *testing.T) {
	w := newWorld(t)
	w.network("front")
	a, b := w.join("a", "front"), w.join("b", "front")
	address := fmt.Sprintf("%s:80", addrOf(a))
	var server net.Listener
	var conn net.Conn
	w.must(inside(a.Path, func() (err error) { server, err = net.Listen("tcp4", address); return err }))
	defer server.Close()
	w.must(inside(b.Path, func() (err error) { conn, err = net.Dial("tcp4", address); return err }))
	w.must(inside(a.Path, func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkSetDown(eth0)
	}))
	links := func() (n int) {
		all, err := whole(netlink.LinkList)
		w.must(err)
		for _, l := range all {
			if strings.HasPrefix(l.Attrs().Name, "gv-") {
				n++
			}
		}
		return n
	}
	before := links()
	conn.Close()
	w.must(w.Detach(t.Context(), "b"))
	within(t, 8*time.Second, "the link is collected", func() bool { return links() == before-1 })
}
