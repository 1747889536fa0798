package network

import (
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"
)

// pool hands out the addresses of one subnet. It remembers where it left
// off: an address that was given back is not given out again before all others
// were, since something may still send to it. Not safe for concurrent use.
type pool struct {
	subnet Subnet
	used   map[netip.Addr]bool
	next   netip.Addr // where the search goes on
}

// newPool expects a subnet that was checked.
func newPool(s Subnet) *pool {
	p := &pool{subnet: s, used: map[netip.Addr]bool{s.Gateway: true}}
	for _, a := range s.Aux {
		p.used[a] = true
	}
	switch {
	case s.Prefix.Addr().Is6():
		p.used[s.Prefix.Addr()] = true // of any router, RFC 4291 section 2.6.1
	case s.Prefix.Bits() < 31:
		p.used[s.Prefix.Addr()] = true // the network itself
		p.used[lastOf(s.Prefix)] = true
	}
	return p
}

// take reserves an address: the given one, or the next free one.
func (p *pool) take(want netip.Addr) (netip.Addr, error) {
	if want.IsValid() {
		switch {
		case !p.subnet.Prefix.Contains(want):
			return want, fmt.Errorf("address %s is not in the network's subnet %s: %w", want, p.subnet.Prefix, errdefs.ErrInvalidArgument)
		case p.used[want]:
			return want, fmt.Errorf("address %s is in use; choose another one: %w", want, errdefs.ErrAlreadyExists)
		}
		p.used[want] = true
		return want, nil
	}
	from := p.subnet.Prefix
	if p.subnet.Range.IsValid() {
		from = p.subnet.Range
	}
	first, last := from.Addr(), lastOf(from)
	start := p.next
	if !start.IsValid() || start.Less(first) || last.Less(start) {
		start = first
	}
	for a := start; ; {
		if !p.used[a] {
			p.used[a] = true
			p.next = a.Next()
			return a, nil
		}
		if a = a.Next(); !a.IsValid() || last.Less(a) {
			a = first
		}
		if a == start {
			return netip.Addr{}, fmt.Errorf("no address of %s is free; give the network a larger subnet: %w", from, errdefs.ErrFailedPrecondition)
		}
	}
}

func (p *pool) free(a netip.Addr) { delete(p.used, a) }

// lastOf is the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
