package network

import (
	"hash/fnv"
	"net/netip"
	"slices"
)

// shares says which backend each slot of a published port leads to, by its
// place in the list; without backends it is nil.
//
// Connections take the slots of an ordinary port in turn, so the backends do,
// too. Those of a sticky port have the slot of their client's address: there
// every backend has its share, and as few slots as can be lead elsewhere when a
// backend comes or goes. The list of backends alone decides, so the next daemon
// comes to the same (rendezvous hashing with bounded loads).
func shares(backends []netip.Addr, sticky bool) []int {
	n := len(backends)
	if n == 0 {
		return nil
	}
	to := make([]int, slots)
	if !sticky {
		for slot := range to {
			to[slot] = slot % n
		}
		return to
	}
	least, more := slots/n, slots%n // so many have one slot more than the least
	load := make([]int, n)
	for slot := range to {
		order := make([]int, n)
		for i := range order {
			order[i] = i
		}
		slices.SortFunc(order, func(a, b int) int {
			if affinity(slot, backends[a]) > affinity(slot, backends[b]) {
				return -1
			}
			return 1
		})
		for _, i := range order {
			if load[i] < least || load[i] == least && more > 0 {
				if load[i] == least {
					more--
				}
				load[i]++
				to[slot] = i
				break
			}
		}
	}
	return to
}

// affinity is how much a slot would like to lead to a backend.
func affinity(slot int, a netip.Addr) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(append(a.AsSlice(), byte(slot)))
	return spread(h.Sum64())
}

// clientSlot is the slot of a client that the proxy serves.
func clientSlot(client netip.Addr) int {
	h := fnv.New64a()
	_, _ = h.Write(client.Unmap().AsSlice())
	return int(spread(h.Sum64()) % slots)
}

// spread lets every bit of a number depend on all of them, which neighbouring
// addresses need (the finaliser of MurmurHash3).
func spread(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
