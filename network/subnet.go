package network

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A network's subnet must collide with nothing the machine can reach, or the
// machine would lose it. What counts is what the kernel routes at the moment
// the subnet is chosen, and what our other networks own.

// taken is a prefix that is in use, and by whom.
type taken struct {
	prefix netip.Prefix
	by     string
}

// machineLock serialises everything that several daemons on one machine must
// not do at once: choosing subnets and switching forwarding.
func machineLock() (unlock func(), err error) {
	const path = "/run/lock/gantry-network.lock"
	if err := os.MkdirAll("/run/lock", 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

// whole lists anew what changed while it was listed, as links and routes do
// when others on the machine start containers at the same time.
func whole[T any](list func() ([]T, error)) ([]T, error) {
	for tries := 100; ; tries-- {
		all, err := list()
		if tries == 0 || !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
}

// hostPrefixes reads every prefix of the machine's routes and addresses, except
// those of the given link. Default routes and the links' own addresses of IPv6
// are everybody's.
func hostPrefixes(except string) ([]taken, error) {
	links, err := whole(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	name := map[int]string{}
	for _, l := range links {
		name[l.Attrs().Index] = l.Attrs().Name
	}
	var all []taken
	routes, err := whole(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil || r.Table == unix.RT_TABLE_LOCAL {
			continue // addresses are listed below
		}
		a, ok := plainAddr(r.Dst.IP)
		bits, _ := r.Dst.Mask.Size()
		if !ok || bits == 0 || everybodys(a) || name[r.LinkIndex] == except && except != "" {
			continue
		}
		p := netip.PrefixFrom(a, bits).Masked()
		by := fmt.Sprintf("route %s", p)
		if n := name[r.LinkIndex]; n != "" {
			by += " dev " + n
		}
		all = append(all, taken{p, by})
	}
	addrs, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, x := range addrs {
		a, ok := plainAddr(x.IP)
		bits, _ := x.Mask.Size()
		if !ok || everybodys(a) || name[x.LinkIndex] == except && except != "" {
			continue
		}
		all = append(all, taken{netip.PrefixFrom(a, bits).Masked(), fmt.Sprintf("address %s/%d of %s", a, bits, name[x.LinkIndex])})
	}
	return all, nil
}

func plainAddr(ip net.IP) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(ip)
	return a.Unmap(), ok
}

func everybodys(a netip.Addr) bool { return a.Is6() && (a.IsLinkLocalUnicast() || a.IsMulticast()) }

// collision finds who uses part of p.
func collision(p netip.Prefix, used []taken) (taken, bool) {
	for _, t := range used {
		if t.prefix.Overlaps(p) {
			return t, true
		}
	}
	return taken{}, false
}

// Lengths of the subnets that networks get by themselves. On the default one is
// whoever names none: it has as many addresses as its bridge has ports.
const (
	subnetBits        = 24
	defaultSubnetBits = 22
)

// chooseSubnet finds the first subnet of the pools that collides with nothing
// and has the length, or the pool's own if that is longer.
func chooseSubnet(pools []netip.Prefix, length int, used []taken) (netip.Prefix, error) {
	for _, pool := range pools {
		bits := max(length, pool.Bits())
		step := uint32(1) << (32 - bits)
		b := pool.Masked().Addr().As4()
		last := lastOf(pool).As4()
		// Wider than 32 bits: the last step may pass the end of all addresses.
		for n := uint64(binary.BigEndian.Uint32(b[:])); n <= uint64(binary.BigEndian.Uint32(last[:])); n += uint64(step) {
			binary.BigEndian.PutUint32(b[:], uint32(n))
			p := netip.PrefixFrom(netip.AddrFrom4(b), bits)
			if _, hit := collision(p, used); !hit {
				return p, nil
			}
		}
	}
	return netip.Prefix{}, fmt.Errorf("every subnet of the address pools %v collides with a route of this machine or another network; remove networks or give this one a subnet: %w", pools, errdefs.ErrFailedPrecondition)
}

// subnetBits6 is the length of every subnet in which IPv6 works as meant.
const subnetBits6 = 64

// localPrefix is the /48 of unique local addresses (RFC 4193) from which an
// instance's networks get their subnets: made from what no other machine has,
// so that networks of two machines can one day be joined.
func localPrefix(instance string) netip.Prefix {
	machine, _ := os.ReadFile("/etc/machine-id") // without one: the host's name
	if len(machine) == 0 {
		name, _ := os.Hostname()
		machine = []byte(name)
	}
	sum := sha256.Sum256(append(machine, instance...))
	var b [16]byte
	b[0] = 0xfd
	copy(b[1:6], sum[:5])
	return netip.PrefixFrom(netip.AddrFrom16(b), 48)
}

// chooseSubnet6 finds the first /64 of a prefix that collides with nothing.
func chooseSubnet6(of netip.Prefix, used []taken) (netip.Prefix, error) {
	b := of.Addr().As16()
	for n := range 1 << (subnetBits6 - 48) {
		binary.BigEndian.PutUint16(b[6:], uint16(n))
		p := netip.PrefixFrom(netip.AddrFrom16(b), subnetBits6)
		if _, hit := collision(p, used); !hit {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("every /64 of %s is taken; give the network an IPv6 subnet: %w", of, errdefs.ErrFailedPrecondition)
}

// checkSubnet completes a subnet that a user asked for, or says what is wrong
// with it.
func checkSubnet(s Subnet) (Subnet, error) {
	bad := func(format string, a ...any) (Subnet, error) {
		return s, fmt.Errorf(format+": %w", append(a, errdefs.ErrInvalidArgument)...)
	}
	switch {
	case !s.Prefix.IsValid():
		return bad("a subnet without a prefix")
	case s.Prefix.Addr().Is4In6():
		return bad("subnet %s is IPv4 written as IPv6; write it as IPv4", s.Prefix)
	case s.Prefix.Bits() > s.Prefix.Addr().BitLen()-2:
		return bad("subnet %s has no room for a gateway and a sandbox", s.Prefix)
	case s.Prefix.Bits() < 8:
		return bad("subnet %s is larger than a /8", s.Prefix)
	case s.Prefix.Addr().IsLoopback() || s.Prefix.Addr().IsMulticast() || everybodys(s.Prefix.Addr()):
		return bad("subnet %s cannot be used by a network", s.Prefix)
	case s.Prefix != s.Prefix.Masked():
		return bad("subnet %s has bits beyond its length; write %s", s.Prefix, s.Prefix.Masked())
	}
	if !s.Gateway.IsValid() {
		s.Gateway = s.Prefix.Addr().Next()
	}
	outside := func(a netip.Addr) bool {
		return !s.Prefix.Contains(a) || a == s.Prefix.Addr() || a.Is4() && a == lastOf(s.Prefix)
	}
	if outside(s.Gateway) {
		return bad("gateway %s is no host address of subnet %s", s.Gateway, s.Prefix)
	}
	if s.Range.IsValid() {
		if s.Range.Bits() < s.Prefix.Bits() || !s.Prefix.Contains(s.Range.Addr()) {
			return bad("ip range %s is not part of subnet %s", s.Range, s.Prefix)
		}
		s.Range = s.Range.Masked()
	}
	for name, a := range s.Aux {
		if outside(a) {
			return bad("auxiliary address %s=%s is no host address of subnet %s", name, a, s.Prefix)
		}
		if a == s.Gateway {
			return bad("auxiliary address %s=%s is the gateway's", name, a)
		}
	}
	return s, nil
}
