package network

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"pgregory.net/rapid"
)

// No address is given twice, none that is reserved, and all of them before
// the pool says it is full.
func TestPoolLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bits := rapid.IntRange(26, 30).Draw(t, "bits")
		s, err := checkSubnet(Subnet{Prefix: netip.PrefixFrom(netip.MustParseAddr("10.1.2.0"), bits)})
		if err != nil {
			t.Fatal(err)
		}
		p := newPool(s)
		room := 1<<(32-bits) - 3 // network, broadcast, gateway
		out := map[netip.Addr]bool{}
		for range rapid.IntRange(0, 200).Draw(t, "steps") {
			if len(out) > 0 && rapid.Bool().Draw(t, "free") {
				keys := slices.SortedFunc(func(yield func(netip.Addr) bool) {
					for a := range out {
						if !yield(a) {
							return
						}
					}
				}, netip.Addr.Compare)
				freed := rapid.SampledFrom(keys).Draw(t, "which")
				p.free(freed)
				delete(out, freed)
				continue
			}
			a, err := p.take(netip.Addr{})
			switch {
			case err != nil && len(out) < room:
				t.Fatalf("%d of %d in use: %v", len(out), room, err)
			case err != nil:
				if !errdefs.IsFailedPrecondition(err) {
					t.Fatal(err)
				}
			case out[a] || !s.Prefix.Contains(a) || a == s.Gateway || a == s.Prefix.Addr() || a == lastOf(s.Prefix):
				t.Fatalf("gave %s", a)
			default:
				out[a] = true
			}
		}
	})
}

func TestPoolTakesWhatIsAsked(t *testing.T) {
	p := newPool(Subnet{Prefix: netip.MustParsePrefix("10.0.0.0/24"), Gateway: netip.MustParseAddr("10.0.0.1"), Range: netip.MustParsePrefix("10.0.0.128/30")})
	if a, err := p.take(netip.Addr{}); err != nil || a != netip.MustParseAddr("10.0.0.128") {
		t.Errorf("range gave %s, %v", a, err)
	}
	if _, err := p.take(netip.MustParseAddr("10.0.0.5")); err != nil {
		t.Errorf("outside the range, asked for: %v", err)
	}
	if _, err := p.take(netip.MustParseAddr("10.0.0.5")); !errdefs.IsAlreadyExists(err) {
		t.Errorf("twice: %v", err)
	}
	if _, err := p.take(netip.MustParseAddr("10.0.1.5")); !errdefs.IsInvalidArgument(err) {
		t.Errorf("outside the subnet: %v", err)
	}
	// Given back, it is not the next to be given.
	p.free(netip.MustParseAddr("10.0.0.128"))
	if a, _ := p.take(netip.Addr{}); a != netip.MustParseAddr("10.0.0.129") {
		t.Errorf("gave %s", a)
	}
}

// A chosen subnet overlaps nothing in use and is one of the pools'.
func TestChosenSubnetCollidesWithNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pools := []netip.Prefix{netip.MustParsePrefix("172.20.0.0/22"), netip.MustParsePrefix("255.255.252.0/22")}
		var used []taken
		for range rapid.IntRange(0, 12).Draw(t, "used") {
			base := rapid.SampledFrom([]string{"172.20.0.0", "172.20.1.128", "172.20.3.0", "255.255.252.0", "255.255.255.0", "172.16.0.0", "10.0.0.0"}).Draw(t, "base")
			p := netip.PrefixFrom(netip.MustParseAddr(base), rapid.IntRange(12, 30).Draw(t, "bits")).Masked()
			used = append(used, taken{p, "route"})
		}
		length := rapid.SampledFrom([]int{defaultSubnetBits, subnetBits}).Draw(t, "length")
		p, err := chooseSubnet(pools, length, used)
		if err != nil {
			for _, pool := range pools {
				for a := pool.Addr(); a.IsValid() && pool.Contains(a); {
					sub := netip.PrefixFrom(a, length)
					if _, hit := collision(sub, used); !hit {
						t.Fatalf("%s is free: %v", sub, err)
					}
					a = lastOf(sub).Next()
				}
			}
			return
		}
		if hit, ok := collision(p, used); ok || p.Bits() != length || !pools[0].Overlaps(p) && !pools[1].Overlaps(p) {
			t.Fatalf("chose %s, in use by %v", p, hit)
		}
	})
}

func TestSpecsThatAreRefused(t *testing.T) {
	subnet := func(s string) []Subnet { return []Subnet{{Prefix: netip.MustParsePrefix(s)}} }
	for _, x := range []struct {
		spec Spec
		want string
	}{
		{Spec{Name: "a b"}, `network name "a b"`},
		{Spec{Name: "host"}, "reserved"},
		{Spec{Name: "x", Driver: "ipvlan"}, `driver "ipvlan" is not supported`},
		{Spec{Name: "x", Driver: "macvlan"}, "option parent"},
		{Spec{Name: "x", Driver: "macvlan", Internal: true, Options: map[string]string{"parent": "e"}}, "internal"},
		{Spec{Name: "x", Driver: "macvlan", Options: map[string]string{"parent": "e", "macvlan_mode": "fast"}}, "private, vepa"},
		{Spec{Name: "x", Driver: "macvlan", Options: map[string]string{"parent": "../x"}}, "name of a link"},
		{Spec{Name: "x", Driver: "macvlan", Options: map[string]string{"parent": "e", optionICC: "false"}}, "not supported by driver macvlan"},
		{Spec{Name: "x", Subnets: subnet("fd00::/64")}, "IPv6"},
		{Spec{Name: "x", EnableIPv6: true, Subnets: subnet("fe80::/64")}, "cannot be used"},
		{Spec{Name: "x", EnableIPv6: true, Subnets: subnet("fd00::/127")}, "no room"},
		{Spec{Name: "x", EnableIPv6: true, Subnets: append(subnet("fd00::/64"), subnet("fd01::/64")...)}, "one family"},
		{Spec{Name: "x", Subnets: subnet("10.0.0.0/31")}, "no room"},
		{Spec{Name: "x", Subnets: append(subnet("10.0.0.0/24"), subnet("10.0.1.0/24")...)}, "one family"},
		{Spec{Name: "x", Options: map[string]string{"com.docker.network.driver.mtu": "big"}}, `mtu="big"`},
		{Spec{Name: "x", Options: map[string]string{"com.docker.network.bridge.name": "gn-1"}}, "name of a link"},
		{Spec{Name: "x", Options: map[string]string{"com.docker.network.bridge.gateway_mode_ipv4": "routed"}}, "is not supported by driver bridge"},
		{Spec{Name: "x", Options: map[string]string{"com.docker.network.bridge.host_binding_ipv4": "here"}}, "IPv4 address"},
		{Spec{Name: "x", Options: map[string]string{"parent": "eth0"}}, "is not supported by driver bridge"},
		{Spec{Name: "x", Subnets: []Subnet{{Prefix: netip.MustParsePrefix("10.0.0.0/24"), Gateway: netip.MustParseAddr("10.0.1.1")}}}, "gateway 10.0.1.1"},
		{Spec{Name: "x", Subnets: []Subnet{{Prefix: netip.MustParsePrefix("10.0.0.0/24"), Range: netip.MustParsePrefix("10.0.0.0/16")}}}, "ip range"},
	} {
		_, err := checkSpec(x.spec)
		if err == nil || !strings.Contains(err.Error(), x.want) || !errdefs.IsInvalidArgument(err) && !errdefs.IsNotImplemented(err) {
			t.Errorf("%+v: %v", x.spec, err)
		}
	}
}

// A listing that others disturbed is made again; one that fails otherwise is
// not.
func TestWhole(t *testing.T) {
	calls := 0
	got, err := whole(func() ([]int, error) {
		if calls++; calls < 3 {
			return []int{1}, netlink.ErrDumpInterrupted
		}
		return []int{1, 2}, nil
	})
	if err != nil || len(got) != 2 {
		t.Errorf("%v, %v", got, err)
	}
	calls = 0
	if _, err := whole(func() ([]int, error) { calls++; return nil, errdefs.ErrUnavailable }); !errdefs.IsUnavailable(err) || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
}
