package network

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// vip attaches a sandbox of group web, which has an address of its own.
func vip(id string, networks ...string) Sandbox {
	s := asked(id, networks...)
	s.Group = "web"
	for i := range s.Endpoints {
		s.Endpoints[i].Virtual = []string{"web"}
	}
	return s
}

// web is what the name means on a network.
func (w *world) web(n Network) netip.Addr {
	w.Helper()
	addrs, _ := w.Fabric.names.Lookup("web", []string{n.ID})
	if len(addrs) != 1 {
		w.Fatalf("web means %v", addrs)
	}
	return addrs[0]
}

// remembers says whether the kernel leads a datagram for a virtual address to
// anybody but those.
func (w *world) remembers(addr string, at map[string]Attached, those []string) bool {
	w.Helper()
	flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
	w.must(err)
	return slices.ContainsFunc(flows, func(x *netlink.ConntrackFlow) bool {
		return x.Forward.Protocol == unix.IPPROTO_UDP && x.Forward.DstIP.String() == addr &&
			!slices.ContainsFunc(those, func(id string) bool {
				return slices.ContainsFunc(at[id].Endpoints, func(e Joined) bool { return e.IPv4.Addr().String() == x.Reverse.SrcIP.String() })
			})
	})
}

func TestVirtualAddress(t *testing.T) {
	w := newWorld(t)
	front, back := w.network("front"), w.network("back", Spec{Internal: true})
	other := w.network("other")
	at := map[string]Attached{}
	for _, id := range []string{"a", "b", "c"} {
		a, err := w.Attach(t.Context(), vip(id, "front", "back"))
		w.must(err)
		w.echo(a.Path, id, 80)
		at[id] = a
	}
	client, inner, stranger := w.join("client", "front"), w.join("inner", "back"), w.join("stranger", "other")
	_ = other
	v, vBack := w.web(front), w.web(back)
	if v == vBack || v != at["a"].Endpoints[0].Virtual || at["c"].Endpoints[1].Virtual != vBack {
		t.Fatalf("%v on one network and %v on the other; %+v", v, vBack, at["a"].Endpoints)
	}
	everyone := func(path, addr string, want ...string) {
		t.Helper()
		for _, network := range []string{"tcp4", "udp4"} {
			if network == "udp4" {
				// Or a port that a client uses again leads to somebody who has left.
				within(t, 5*time.Second, "flows to others to be forgotten", func() bool { return !w.remembers(addr, at, want) })
			}
			got := w.tally(60, path, network, addr+":80")
			if len(got) != len(want) {
				t.Errorf("%s to %s: %v, want %v", network, addr, got, want)
			}
			for _, id := range want {
				if got[id] == 0 {
					t.Errorf("%s to %s: %v, want %v", network, addr, got, want)
				}
			}
		}
	}
	everyone(client.Path, v.String(), "a", "b", "c")
	everyone(inner.Path, vBack.String(), "a", "b", "c")
	for path, port := range map[string]string{
		stranger.Path: ":80", // another network
		w.outside:     ":80",
		client.Path:   ":81", // nobody listens
	} {
		w.blocked(path, "tcp4", v.String()+port)
	}
	// A sandbox that calls its own group reaches somebody.
	for _, id := range []string{"a", "b", "c"} {
		if got := w.tally(10, at[id].Path, "tcp4", v.String()+":80"); len(got) == 0 {
			t.Errorf("%s reaches %v", id, got)
		}
	}
	if own := w.Fabric.names.own("a", []string{front.ID}); len(own) != 1 || own[0] != addrOf(at["a"]) {
		t.Errorf("a itself is %v", own)
	}
	if name := w.Fabric.names.Reverse(v, []string{front.ID}); name != "web.front" {
		t.Errorf("%v is %q", v, name)
	}

	w.must(w.SetState("a", true, false))
	everyone(client.Path, v.String(), "b", "c")
	w.must(w.Leave("b"))
	everyone(client.Path, v.String(), "c")

	// Another daemon leaves it as it is, and so do a bridge and a table that are
	// made anew.
	w.crash()
	live := []Sandbox{asked("client", "front"), asked("inner", "back"), asked("stranger", "other")}
	for _, id := range []string{"a", "b", "c"} {
		s := vip(id, "front", "back")
		s.Endpoints[0].VirtualAddr, s.Endpoints[1].VirtualAddr = v, vBack
		live = append(live, s)
	}
	w.open(live...)
	if now := w.web(front); now != v {
		t.Fatalf("it was %v and is %v", v, now)
	}
	everyone(client.Path, v.String(), "a", "b", "c")
	w.must(sh("ip addr del " + v.String() + "/32 dev " + front.Bridge))
	within(t, time.Second, "the address to come back", func() bool {
		_, err := askFor(100*time.Millisecond, client.Path, "tcp4", v.String()+":80")
		return err == nil
	})

	for _, id := range []string{"a", "b", "c"} {
		w.must(w.SetState(id, false, false))
	}
	w.blocked(client.Path, "tcp4", v.String()+":80")
	for _, id := range []string{"a", "b", "c"} {
		w.must(w.Detach(t.Context(), id))
	}
	out, err := shOutput("ip -4 -o addr show dev " + front.Bridge)
	w.must(err)
	if strings.Contains(string(out), v.String()+"/32") {
		t.Errorf("the address is left:\n%s", out)
	}
	if out := w.nft("list", "table", "ip", w.table.name); strings.Contains(out, v.String()) {
		t.Errorf("left in the table:\n%s", out)
	}
}

// With one sandbox behind it, and that one calling.
func TestVirtualAddressOfOne(t *testing.T) {
	w := newWorld(t)
	front := w.network("front")
	a, err := w.Attach(t.Context(), vip("a", "front"))
	w.must(err)
	w.echo(a.Path, "a", 80)
	client := w.join("client", "front")
	if got := w.tally(5, client.Path, "tcp4", w.web(front).String()+":80"); got["a"] != 5 {
		t.Errorf("%v", got)
	}
	for asks, want := range map[string]netip.Addr{"a": addrOf(a), "client": w.web(front)} {
		if got, _ := w.Fabric.names.lookup(asks, "web", []string{front.ID}); len(got) != 1 || got[0] != want {
			t.Errorf("for %s web is %v, not %v", asks, got, want)
		}
	}
}
