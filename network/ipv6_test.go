package network

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/miekg/dns"
	"pgregory.net/rapid"
)

// outside6 gives the outside IPv6, with a way to every local address by this
// machine.
func (w *world) outside6() {
	w.must(sh("ip -6 addr add 2001:db8::1/64 dev ext0 nodad"))
	w.must(inside(w.outside, func() error {
		return sh("sysctl -qw net.ipv6.conf.ext1.disable_ipv6=0; ip -6 addr add 2001:db8::2/64 dev ext1 nodad; ip -6 route add fc00::/7 via 2001:db8::1")
	}))
}

func (w *world) addr6(a Attached) string {
	w.Helper()
	p := a.Endpoints[0].IPv6
	if !p.IsValid() || p.Bits() != 64 || !a.Endpoints[0].Gateway6.IsValid() {
		w.Fatalf("no IPv6: %+v", a.Endpoints[0])
	}
	return p.Addr().String()
}

// echo6 answers on TCP over IPv6.
func (w *world) echo6(path, name string) { w.echoOn("tcp6", path, name, 7) }

func TestIPv6(t *testing.T) {
	w := newWorld(t)
	w.outside6()
	n := w.network("six", Spec{EnableIPv6: true})
	if len(n.Subnets) != 2 || !n.Chosen6 || n.Subnets[1].Prefix.Bits() != 64 || !n.Subnets[1].Prefix.Addr().IsPrivate() {
		t.Fatalf("%+v", n)
	}
	other := w.network("other", Spec{EnableIPv6: true})
	w.network("four")
	w.network("closed", Spec{EnableIPv6: true, Internal: true})
	a, b := w.join("a", "six"), w.join("b", "six")
	c, d := w.join("c", "other"), w.join("d", "closed")
	four := w.join("e", "four")
	if four.Endpoints[0].IPv6.IsValid() {
		t.Errorf("IPv6 on a network without: %+v", four)
	}
	if n.Subnets[1].Prefix.Overlaps(other.Subnets[1].Prefix) {
		t.Errorf("%s and %s overlap", n.Subnets[1].Prefix, other.Subnets[1].Prefix)
	}
	w.echo6(a.Path, "a")
	w.echo6(d.Path, "d")
	w.echo6(w.outside, "out")
	at := "[" + w.addr6(a) + "]:7"
	w.reach(b.Path, "tcp6", at, "a "+w.addr6(b))
	w.reach("", "tcp6", at, "a "+n.Subnets[1].Gateway.String()) // the machine itself
	w.blocked(c.Path, "tcp6", at)
	w.blocked(d.Path, "tcp6", at)
	w.blocked(w.outside, "tcp6", at)
	w.reach(b.Path, "tcp6", "[2001:db8::2]:7", "out 2001:db8::1") // under the machine's address
	w.blocked(d.Path, "tcp6", "[2001:db8::2]:7")
	// On a network without IPv6 there is none on the link at all.
	w.must(inside(four.Path, func() error { return sh("! ip -6 addr show dev eth0 | grep -q inet6") }))
	if got := w.ask6(b.Path, "a"); got != w.addr6(a) {
		t.Errorf("AAAA of a is %q", got)
	}

	// Asked for by name, refused where it cannot be.
	ask := asked("f", "six")
	ask.Endpoints[0].IPv6 = n.Subnets[1].Prefix.Addr().Next().Next().Next().Next().Next().Next().Next().Next().Next()
	f, err := w.Attach(t.Context(), ask)
	w.must(err)
	if w.addr6(f) != ask.Endpoints[0].IPv6.String() {
		t.Errorf("%+v", f)
	}
	ask.ID = "g"
	if _, err := w.Attach(t.Context(), ask); !errdefs.IsAlreadyExists(err) {
		t.Errorf("an address twice: %v", err)
	}
	ask.Endpoints[0].Network = "four"
	if _, err := w.Attach(t.Context(), ask); !errdefs.IsInvalidArgument(err) {
		t.Errorf("IPv6 on a network without: %v", err)
	}
}

// ask6 asks the resolver of a sandbox for an AAAA.
func (w *world) ask6(path, name string) string {
	w.Helper()
	var got string
	w.must(inside(path, func() error {
		m, _, err := new(dns.Client).Exchange(new(dns.Msg).SetQuestion(name+".", dns.TypeAAAA), "127.0.0.11:53")
		if err == nil && len(m.Answer) == 1 {
			got = m.Answer[0].(*dns.AAAA).AAAA.String()
		}
		return err
	}))
	return got
}

// A daemon that comes back finds addresses of both families, and the routes
// move with the networks of a running sandbox.
func TestIPv6Recovers(t *testing.T) {
	w := newWorld(t)
	w.network("six", Spec{EnableIPv6: true})
	w.network("more", Spec{EnableIPv6: true})
	a := w.join("a", "six")
	b := w.join("b", "six")
	w.echo6(a.Path, "a")
	live := []Sandbox{asked("a", "six"), asked("b", "six")}
	w.crash()
	w.open(live...)
	again, err := w.Attach(t.Context(), live[0])
	w.must(err)
	if again.Endpoints[0] != a.Endpoints[0] {
		t.Errorf("was %+v, is %+v", a.Endpoints[0], again.Endpoints[0])
	}
	w.reach(b.Path, "tcp6", "["+w.addr6(a)+"]:7", "a "+w.addr6(b))

	route := func() string {
		var out []byte
		w.must(inside(b.Path, func() (err error) { out, err = shOutput("ip -6 route show default; ip route show default"); return err }))
		return string(out)
	}
	j, err := w.Connect(t.Context(), "b", Endpoint{Network: "more", GwPriority: 5})
	w.must(err)
	if got := route(); strings.Count(got, "eth1") != 2 || !strings.Contains(got, j.Gateway6.String()) || !strings.Contains(got, j.Gateway.String()) {
		t.Errorf("default routes with the other network:\n%s", got)
	}
	w.must(w.Disconnect(t.Context(), "b", "more"))
	if got := route(); strings.Count(got, "eth0") != 2 || strings.Contains(got, "eth1") {
		t.Errorf("default routes without it:\n%s", got)
	}
}

// Forwarding is switched on for as long as it is needed, and links that listen
// to routers go on with that.
func TestIPv6Forwarding(t *testing.T) {
	w := newWorld(t)
	read := func(name string) string {
		b, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + name)
		w.must(err)
		return strings.TrimSpace(string(b))
	}
	w.must(writeSysctl("net/ipv6/conf/ext0/accept_ra", "1"))
	n := w.network("six", Spec{EnableIPv6: true})
	if read("all/forwarding") != "1" || read("ext0/accept_ra") != "2" {
		t.Errorf("forwarding %s, accept_ra %s", read("all/forwarding"), read("ext0/accept_ra"))
	}
	w.network("four")
	w.must(w.RemoveNetwork(t.Context(), n.ID))
	if read("all/forwarding") != "0" || read("ext0/accept_ra") != "1" {
		t.Errorf("after the last network: forwarding %s, accept_ra %s", read("all/forwarding"), read("ext0/accept_ra"))
	}
	if got := w.nft("list", "tables"); strings.Contains(got, "ip6 gantry") || !strings.Contains(got, "ip gantry") {
		t.Errorf("tables:\n%s", got)
	}
}

func TestSubnets6(t *testing.T) {
	if p := localPrefix("a"); p.Bits() != 48 || p != localPrefix("a") || p == localPrefix("b") || p.Masked() != p || p.Addr().As16()[0] != 0xfd {
		t.Errorf("%s %s", p, localPrefix("b"))
	}
	rapid.Check(t, func(t *rapid.T) {
		of := netip.MustParsePrefix("fd12:3456:789a::/48")
		var used []taken
		for range rapid.IntRange(0, 9).Draw(t, "routes") {
			b := of.Addr().As16()
			b[7] = rapid.Byte().Draw(t, "subnet") % 8
			used = append(used, taken{netip.PrefixFrom(netip.AddrFrom16(b), rapid.IntRange(61, 68).Draw(t, "bits")).Masked(), "route"})
		}
		p, err := chooseSubnet6(of, used)
		if err != nil {
			t.Fatal(err)
		}
		if hit, ok := collision(p, used); ok || p.Bits() != 64 || !of.Overlaps(p) {
			t.Fatalf("chose %s, in use by %v", p, hit)
		}
	})
}
