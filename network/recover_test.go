package network

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// The daemon dies and comes back: sandboxes, addresses, ports and elements are
// as before, no call through a published port fails in between, and what
// nobody owns is swept.
func TestTrafficSurvivesTheDaemon(t *testing.T) {
	w := newWorld(t)
	w.network("front")
	var live []Sandbox
	var before []Attached
	for _, id := range []string{"a", "b"} {
		s := asked(id, "front")
		s.Group = "web"
		at, err := w.Attach(t.Context(), s)
		w.must(err)
		w.echo(at.Path, id, 80)
		live, before = append(live, s), append(before, at)
	}
	orphan := w.join("orphan", "front")
	w.publish("orphan", Port{HostPort: 9090, Port: 80})
	bindings := w.publish("web", Port{HostPort: 8080, Port: 80}, Port{Port: 80})

	stop := make(chan struct{})
	var calls, failures atomic.Int64
	var client sync.WaitGroup
	client.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			calls.Add(1)
			if _, err := ask(w.outside, "tcp4", "198.51.100.1:8080"); err != nil {
				failures.Add(1)
				t.Log(err)
			}
		}
	})
	time.Sleep(50 * time.Millisecond)
	w.crash()
	time.Sleep(50 * time.Millisecond)
	w.reach(before[0].Path, "tcp4", addrOf(before[1]).String()+":80", "b "+addrOf(before[0]).String())
	start := time.Now()
	w.open(live...)
	t.Logf("opened and recovered in %v", time.Since(start))
	time.Sleep(50 * time.Millisecond)
	close(stop)
	client.Wait()
	if failures.Load() > 0 || calls.Load() < 100 {
		t.Errorf("%d of %d calls failed", failures.Load(), calls.Load())
	}

	if got := w.Bindings("web"); !slices.Equal(got, bindings) {
		t.Errorf("bindings are %v instead of %v", got, bindings)
	}
	for i, s := range live {
		again, err := w.Attach(t.Context(), s)
		w.must(err)
		if again.Endpoints[0] != before[i].Endpoints[0] {
			t.Errorf("endpoint is %+v instead of %+v", again.Endpoints[0], before[i].Endpoints[0])
		}
	}
	if got := w.tally(4, "", "tcp6", "[::1]:8080"); len(got) != 2 { // the held socket serves again
		t.Errorf("IPv6: %v", got)
	}
	if isNamespace(orphan.Path) {
		t.Error("the namespace nobody owns is still there")
	}
	w.blocked(w.outside, "tcp4", "198.51.100.1:9090")
	if nft := w.nft("list", "table", "ip", w.table.name); strings.Contains(nft, addrOf(orphan).String()) || strings.Contains(nft, "9090") {
		t.Errorf("stale elements:\n%s", nft)
	}
	// Its address is known to be free, theirs to be taken.
	c := w.join("c", "front")
	if a := addrOf(c); a == addrOf(before[0]) || a == addrOf(before[1]) {
		t.Errorf("address %s was given twice", a)
	}
}

// What was lost while the daemon was away is made again.
func TestRecoverRepairs(t *testing.T) {
	w := newWorld(t)
	n := w.network("front")
	live := []Sandbox{asked("a", "front"), asked("b", "front")}
	a, b := w.join("a", "front"), w.join("b", "front")
	w.echo(b.Path, "b", 80)
	w.publish("b", Port{HostPort: 8080, Port: 80})
	w.crash()
	w.must(deleteLink(n.Bridge))
	w.nft("delete", "table", "ip", "gantry-"+tagOf(w.opts.Instance))
	w.open(live...)
	w.reach(a.Path, "tcp4", addrOf(b).String()+":80", "b "+addrOf(a).String())
	w.reach(w.outside, "tcp4", "198.51.100.1:8080", "b 198.51.100.2")
	w.reach(b.Path, "tcp4", b.Endpoints[0].Gateway.String()+":8080", "b "+b.Endpoints[0].Gateway.String())
}

// The machine was started anew: nothing of ours is left but the definitions.
func TestAfterReboot(t *testing.T) {
	w := newWorld(t)
	n := w.network("front")
	a := w.join("a", "front")
	w.publish("a", Port{HostPort: 8080, Port: 80})
	w.crash()
	w.must(dropNamespace(a.Path))
	w.must(deleteLink(n.Bridge))
	w.nft("flush", "ruleset")
	w.must(writeSysctl(ipv4().forwarding, "0"))
	w.store.close()
	w.must(os.Remove(w.opts.Run + "/ports.json"))
	w.open()
	if _, err := w.Network("front"); err != nil {
		t.Error(err)
	}
	a = w.join("a", "front")
	w.echo(a.Path, "a", 80)
	w.publish("a", Port{HostPort: 8080, Port: 80})
	w.reach(w.outside, "tcp4", "198.51.100.1:8080", "a 198.51.100.2")
}

// While the daemon was away, others took the subnets of networks that have no
// bridge. One that was chosen moves, one that was asked for is told about.
func TestSubnetTakenMeanwhile(t *testing.T) {
	w := newWorld(t)
	chosen := w.network("chosen")
	wanted, err := w.CreateNetwork(t.Context(), Spec{Name: "asked", Subnets: []Subnet{{Prefix: netip.MustParsePrefix("10.97.5.0/24")}}})
	w.must(err)
	w.crash()
	for i, n := range []Network{chosen, wanted} {
		w.must(deleteLink(n.Bridge))
		name := fmt.Sprintf("other%d", i)
		_, err := ensureBridge(name, []netip.Prefix{netip.PrefixFrom(n.Subnets[0].Gateway, 24)}, 0)
		w.must(err)
		defer deleteLink(name)
	}
	w.open()
	now, err := w.Network("chosen")
	if err != nil || now.ID != chosen.ID || now.Subnets[0].Prefix.Overlaps(chosen.Subnets[0].Prefix) {
		t.Errorf("%+v %v", now, err)
	}
	a := w.join("a", "chosen")
	if !now.Subnets[0].Prefix.Contains(addrOf(a)) {
		t.Errorf("address %s on %s", addrOf(a), now.Subnets[0].Prefix)
	}
	_, err = w.Attach(t.Context(), Sandbox{ID: "b", Hostname: "b", Endpoints: []Endpoint{{Network: "asked"}}})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "other1") {
		t.Errorf("got %v", err)
	}
}

// A bridge or the whole table vanishes under a living daemon.
func TestLossWhileRunning(t *testing.T) {
	w := newWorld(t)
	n := w.network("front")
	a := w.join("a", "front")
	w.echo(a.Path, "a", 80)
	w.publish("a", Port{HostPort: 8080, Port: 80})
	w.nft("delete", "table", "ip", w.table.name)
	w.must(w.SetState("a", true, false))
	w.must(w.SetState("a", false, false))
	w.must(w.SetState("a", true, true))
	w.reach(w.outside, "tcp4", "198.51.100.1:8080", "a 198.51.100.2")
	w.must(deleteLink(n.Bridge))
	b := w.join("b", "front")
	w.echo(b.Path, "b", 80)
	w.reach("", "tcp4", addrOf(b).String()+":80", "b "+b.Endpoints[0].Gateway.String())
}

func TestTwoInstancesLiveSideBySide(t *testing.T) {
	w := newWorld(t)
	a := w.join("a", "")
	w.echo(a.Path, "a", 80)
	w.publish("a", Port{HostPort: 8080, Port: 80})
	o := w.opts
	o.Root, o.Run, o.Instance, o.Sockets = o.Root+"2", o.Run+"2", "another", nil
	second, err := Open(t.Context(), o)
	w.must(err)
	w.must(second.Recover(t.Context(), nil))
	b, err := second.Attach(t.Context(), asked("b", ""))
	w.must(err)
	w.echo(b.Path, "b", 80)
	if addrOf(b).As4()[2] == addrOf(a).As4()[2] {
		t.Errorf("%s and %s share a subnet", addrOf(a), addrOf(b))
	}
	w.blocked(b.Path, "tcp4", addrOf(a).String()+":80")
	w.blocked(a.Path, "tcp4", addrOf(b).String()+":80")
	w.reach(b.Path, "tcp4", "198.51.100.1:8080", "a "+a.Endpoints[0].Gateway.String())
	if _, err := second.Publish(t.Context(), "b", []Port{{HostPort: 8080, Port: 80}}); err == nil {
		t.Error("both publish port 8080")
	}
	if _, err := Open(t.Context(), o); err == nil {
		t.Error("a third daemon opened the same run directory")
	}
	w.must(second.Detach(t.Context(), "b"))
	w.must(second.Close())
	w.reach(w.outside, "tcp4", "198.51.100.1:8080", "a 198.51.100.2")
}

func TestFirewallOfOthers(t *testing.T) {
	w := newWorld(t)
	w.nft("add", "table", "ip", "filter")
	t.Cleanup(func() { w.nft("delete", "table", "ip", "filter") })
	w.nft("add", "chain", "ip", "filter", "FORWARD", "{ type filter hook forward priority 0; policy drop; }")
	w.network("front")
	got := w.Warnings()
	if len(got) != 1 || !strings.Contains(got[0], `"ip filter FORWARD"`) || !strings.Contains(got[0], "policy is drop") {
		t.Errorf("warnings: %q", got)
	}
	w.must(w.RemoveNetwork(t.Context(), "front"))
	// Docker's chain for others is used where it is.
	w.nft("add", "chain", "ip", "filter", "DOCKER-USER")
	w.nft("add", "rule", "ip", "filter", "FORWARD", "jump", "DOCKER-USER")
	w.network("front")
	if got := w.Warnings(); len(got) > 0 {
		t.Errorf("warnings: %q", got)
	}
	a, b := w.join("a", "front"), w.join("b", "front")
	w.echo(b.Path, "b", 80)
	w.echo(w.outside, "outside", 80)
	w.reach(a.Path, "tcp4", addrOf(b).String()+":80", "b "+addrOf(a).String())
	w.reach(a.Path, "tcp4", "198.51.100.2:80", "outside 198.51.100.1")
	w.must(w.Detach(t.Context(), "a"))
	w.must(w.Detach(t.Context(), "b"))
	w.must(w.RemoveNetwork(t.Context(), "front"))
	if got := w.nft("list", "chain", "ip", "filter", "DOCKER-USER"); strings.Contains(got, "gn-") {
		t.Errorf("rules stay in DOCKER-USER:\n%s", got)
	}
}

// Switching forwarding on must not make the machine a router for others.
func TestForwardingIsForOursOnly(t *testing.T) {
	w := newWorld(t)
	far := w.outside + "2"
	w.must(makeNamespace(far, func() error { return nil }))
	defer dropNamespace(far)
	w.must(sh("ip link add ext2 type veth peer name ext3 && ip addr add 203.0.113.1/24 dev ext2 && ip link set ext2 up"))
	defer deleteLink("ext2")
	w.must(sh("mkdir -p /run/netns && touch /run/netns/gantrytest && mount --bind " + far + " /run/netns/gantrytest && ip link set ext3 netns gantrytest; umount /run/netns/gantrytest; rm /run/netns/gantrytest"))
	w.must(inside(far, func() error {
		return sh("ip addr add 203.0.113.2/24 dev ext3 && ip link set ext3 up && ip route add default via 203.0.113.1")
	}))
	w.echo(far, "far", 80)
	w.blocked(w.outside, "tcp4", "203.0.113.2:80")
	a := w.join("a", "")
	w.blocked(w.outside, "tcp4", "203.0.113.2:80")
	w.reach(a.Path, "tcp4", "203.0.113.2:80", "far 203.0.113.1")
}

func TestSubnets(t *testing.T) {
	w := newWorld(t)
	n := w.network("front", Spec{Subnets: []Subnet{{Prefix: netip.MustParsePrefix("10.9.0.0/29"),
		Gateway: netip.MustParseAddr("10.9.0.6"), Aux: map[string]netip.Addr{"router": netip.MustParseAddr("10.9.0.1")}}}})
	if n.Subnets[0].Gateway != netip.MustParseAddr("10.9.0.6") {
		t.Errorf("network: %+v", n)
	}
	for _, x := range []struct{ subnet, want string }{
		{"10.9.0.0/16", "network front (10.9.0.0/29)"},
		{"198.51.0.0/16", "198.51.100.0/24 dev ext0"},
		{"10.9.1.1/24", "write 10.9.1.0/24"},
	} {
		_, err := w.CreateNetwork(t.Context(), Spec{Name: "x", Subnets: []Subnet{{Prefix: netip.MustParsePrefix(x.subnet)}}})
		if err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("subnet %s: %v", x.subnet, err)
		}
	}
	var got []string
	for _, id := range []string{"a", "b", "c", "d"} {
		got = append(got, addrOf(w.join(id, "front")).String())
	}
	if want := []string{"10.9.0.2", "10.9.0.3", "10.9.0.4", "10.9.0.5"}; !slices.Equal(got, want) {
		t.Errorf("addresses %v", got)
	}
	_, err := w.Attach(t.Context(), asked("e", "front"))
	if err == nil || !strings.Contains(err.Error(), "no address of 10.9.0.0/29 is free") {
		t.Errorf("full: %v", err)
	}
	if files, _ := os.ReadDir(w.opts.Run + "/netns"); len(files) != 4 {
		t.Errorf("a failed attach left a namespace: %v", files)
	}
	w.must(w.Detach(t.Context(), "e"))
}
