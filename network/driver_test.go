package network

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
)

func shOutput(script string) ([]byte, error) {
	return exec.Command("sh", "-c", script).CombinedOutput()
}

// A sandbox of a macvlan is a machine of its own on the network of its parent.
func TestMacvlan(t *testing.T) {
	w := newWorld(t)
	lan := Spec{Driver: DriverMacvlan, Options: map[string]string{optionParent: "ext0"}, EnableIPv6: true, Subnets: []Subnet{
		{Prefix: netip.MustParsePrefix("198.51.100.0/24"), Gateway: netip.MustParseAddr("198.51.100.2"), Range: netip.MustParsePrefix("198.51.100.64/26")}}}
	n := w.network("lan", lan)
	w.network("more")
	a, b := w.join("a", "lan"), w.join("b", "lan")
	if addrOf(a) != netip.MustParseAddr("198.51.100.64") || n.Driver != DriverMacvlan {
		t.Errorf("%+v", a)
	}
	w.echo(w.outside, "out", 7)
	w.echo(a.Path, "a", 7)
	w.reach(a.Path, "tcp", "198.51.100.2:7", "out "+addrOf(a).String()) // under its own address
	w.reach(w.outside, "tcp", addrOf(a).String()+":7", "a 198.51.100.2")
	w.reach(b.Path, "tcp", addrOf(a).String()+":7", "a "+addrOf(b).String())
	w.must(inside(a.Path, func() error {
		return sh("ip route show default | grep -q 'via 198.51.100.2'; ip -d link show eth0 | grep -q 'macvlan mode bridge'")
	}))

	w.crash()
	w.open(asked("a", "lan"), asked("b", "lan"))
	again, err := w.Attach(t.Context(), asked("a", "lan"))
	w.must(err)
	if again.Endpoints[0] != a.Endpoints[0] {
		t.Errorf("was %+v, is %+v", a.Endpoints[0], again.Endpoints[0])
	}
	// A bridge besides, and off again.
	if _, err := w.Connect(t.Context(), "a", Endpoint{Network: "more", GwPriority: 1}); err != nil {
		t.Error(err)
	}
	w.must(w.Disconnect(t.Context(), "a", "lan"))
	w.must(w.Disconnect(t.Context(), "a", "more"))

	if _, err := w.CreateNetwork(t.Context(), Spec{Name: "gone", Driver: DriverMacvlan, Options: map[string]string{optionParent: "eth77"}}); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "eth77") {
		t.Errorf("a parent that is not there: %v", err)
	}
	lan.Name = "twice"
	if _, err := w.CreateNetwork(t.Context(), lan); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a subnet twice: %v", err)
	}
}

func TestMacvlanPrivate(t *testing.T) {
	w := newWorld(t)
	w.network("lan", Spec{Driver: DriverMacvlan, Options: map[string]string{optionParent: "ext0", optionMode: "private"}, Subnets: []Subnet{
		{Prefix: netip.MustParsePrefix("198.51.100.0/24"), Gateway: netip.MustParseAddr("198.51.100.2"), Range: netip.MustParsePrefix("198.51.100.64/26")}}})
	a, b := w.join("a", "lan"), w.join("b", "lan")
	w.echo(a.Path, "a", 7)
	w.reach(w.outside, "tcp", addrOf(a).String()+":7", "a 198.51.100.2")
	w.blocked(b.Path, "tcp", addrOf(a).String()+":7")
}

func TestBridgeOptions(t *testing.T) {
	w := newWorld(t)
	n := w.network("n", Spec{EnableIPv6: true, Options: map[string]string{
		optionName: "br-mine", optionMTU: "1400", optionPrefix: "net", optionICC: "false", optionBinding: "127.0.0.1"}})
	if n.Bridge != "br-mine" || n.HostBinding() != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("%+v", n)
	}
	link, err := netlink.LinkByName("br-mine")
	w.must(err)
	if link.Attrs().MTU != 1400 {
		t.Errorf("mtu %d", link.Attrs().MTU)
	}
	a, b := w.join("a", "n"), w.join("b", "n")
	if a.Endpoints[0].Interface != "net0" {
		t.Errorf("%+v", a)
	}
	w.echo(a.Path, "a", 7)
	w.echo(w.outside, "out", 7)
	w.blocked(b.Path, "tcp", addrOf(a).String()+":7")
	w.reach("", "tcp", addrOf(a).String()+":7", "a "+n.Subnets[0].Gateway.String())
	// The guard that keeps the machine from being a router knows the name.
	w.reach(a.Path, "tcp", "198.51.100.2:7", "out 198.51.100.1")
	w.blocked(w.outside, "tcp", addrOf(a).String()+":7")

	w.crash()
	w.open(asked("a", "n"), asked("b", "n"))
	w.blocked(b.Path, "tcp", addrOf(a).String()+":7")
	w.reach(a.Path, "tcp", "198.51.100.2:7", "out 198.51.100.1")

	if _, err := w.CreateNetwork(t.Context(), Spec{Name: "m", Options: map[string]string{optionName: "ext0"}}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a link of somebody else: %v", err)
	}
}

// A network is gone by name at once, and its subnet can be had again at once.
func TestNetworkAgain(t *testing.T) {
	w := newWorld(t)
	s := Spec{Subnets: []Subnet{{Prefix: netip.MustParsePrefix("10.77.0.0/24")}}}
	var slowest time.Duration
	for range 5 {
		n := w.network("n", s)
		w.join("a", "n")
		w.must(w.Detach(t.Context(), "a"))
		began := time.Now()
		w.must(w.RemoveNetwork(t.Context(), n.ID))
		slowest = max(slowest, time.Since(began))
	}
	t.Logf("removing took at most %s", slowest)
}
