package network

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// entry is one address of a sandbox on one network and the names it answers to
// there. A sandbox with IPv4 and IPv6 on a network has two entries there.
type entry struct {
	NetworkID string
	Network   string   // the network's name, for NAME.NETWORK and reverse lookups
	Names     []string // the first is the sandbox's own (a container's name); others are aliases
	Addr      netip.Addr
	Standing  standing
	Virtual   bool // Addr is shared with others
}

// record is an entry in the registry.
type record struct {
	entry
	sandbox string
	keys    []string // under which it is found in names.byName
}

// names knows which name means which addresses, on every network of a fabric.
// Names are compared without regard to case and to a trailing dot; nothing
// else is asked of them, so "_" and the like are allowed.
//
// It is safe for concurrent use. A lookup costs a map access and a short list.
type names struct {
	mu        sync.RWMutex
	byName    map[string][]*record
	byAddr    map[netip.Addr][]*record
	bySandbox map[string][]*record
}

func newNames() *names {
	return &names{
		byName:    map[string][]*record{},
		byAddr:    map[netip.Addr][]*record{},
		bySandbox: map[string][]*record{},
	}
}

// fold gives a name the form under which it is compared.
func fold(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

func foldAll(links map[string]string) map[string]string {
	folded := make(map[string]string, len(links))
	for name, target := range links {
		folded[fold(name)] = fold(target)
	}
	return folded
}

// set replaces everything known of a sandbox, in one step: no lookup sees it
// half changed.
func (n *names) set(sandbox string, entries []entry) {
	fresh := make([]*record, 0, len(entries))
	for _, e := range entries {
		e.Addr = e.Addr.Unmap().WithZone("")
		e.Names = slices.Clone(e.Names)
		r := &record{entry: e, sandbox: sandbox}
		for _, name := range e.Names {
			name = fold(name)
			if name == "" {
				continue
			}
			r.addKey(name)
			if e.Network != "" {
				r.addKey(name + "." + fold(e.Network))
			}
		}
		fresh = append(fresh, r)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.drop(sandbox)
	if len(fresh) == 0 {
		return
	}
	n.bySandbox[sandbox] = fresh
	for _, r := range fresh {
		n.byAddr[r.Addr] = append(n.byAddr[r.Addr], r)
		for _, k := range r.keys {
			n.byName[k] = append(n.byName[k], r)
		}
	}
}

func (r *record) addKey(k string) {
	if !slices.Contains(r.keys, k) {
		r.keys = append(r.keys, k)
	}
}

// state moves all entries of a sandbox at once.
func (n *names) state(sandbox string, now standing) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range n.bySandbox[sandbox] {
		r.Standing = now
	}
}

// remove forgets a sandbox.
func (n *names) remove(sandbox string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.drop(sandbox)
}

// drop does remove's work under the lock.
func (n *names) drop(sandbox string) {
	for _, r := range n.bySandbox[sandbox] {
		without(n.byAddr, r.Addr, r)
		for _, k := range r.keys {
			without(n.byName, k, r)
		}
	}
	delete(n.bySandbox, sandbox)
}

// without takes r out of the list under key; an empty list leaves the map.
func without[K comparable](m map[K][]*record, key K, r *record) {
	list := m[key]
	i := slices.Index(list, r)
	if i < 0 {
		return
	}
	if list = slices.Delete(list, i, i+1); len(list) == 0 {
		delete(m, key)
	} else {
		m[key] = list
	}
}

// Lookup gives the addresses a name has on the given networks: those of the
// highest standing there is, in random order and each once. known is true also
// when the name belongs to somebody there who does not run: then nobody else
// needs to be asked about it.
func (n *names) Lookup(name string, networks []string) (addrs []netip.Addr, known bool) {
	return n.lookup("", name, networks)
}

// lookup is Lookup for a sandbox that asks. Where it is alone behind a virtual
// address it gets its own: a bridge need not send it back what it has sent.
func (n *names) lookup(asks, name string, networks []string) (addrs []netip.Addr, known bool) {
	best, others := isLeaving, false
	n.mu.RLock()
	for _, r := range n.byName[fold(name)] {
		if !slices.Contains(networks, r.NetworkID) {
			continue
		}
		known = true
		if r.Standing < best || !r.Addr.IsValid() {
			continue
		}
		if r.Standing > best {
			addrs, best, others = nil, r.Standing, false
		}
		addrs = appendOnce(addrs, r.Addr)
		others = others || r.sandbox != asks || !r.Virtual
	}
	n.mu.RUnlock()
	if len(addrs) > 0 && !others {
		addrs = slices.DeleteFunc(n.own(asks, networks), netip.Addr.Is6)
	}
	rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
	return addrs, known
}

func appendOnce(list []netip.Addr, a netip.Addr) []netip.Addr {
	if slices.Contains(list, a) {
		return list
	}
	return append(list, a)
}

// own gives the addresses of one sandbox itself.
func (n *names) own(sandbox string, networks []string) (addrs []netip.Addr) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	for _, r := range n.bySandbox[sandbox] {
		if !r.Virtual && r.Addr.IsValid() && slices.Contains(networks, r.NetworkID) {
			addrs = appendOnce(addrs, r.Addr)
		}
	}
	return addrs
}

// Reverse gives the name behind an address on the given networks, as
// "container.network", or "".
func (n *names) Reverse(addr netip.Addr, networks []string) string {
	n.mu.RLock()
	defer n.mu.RUnlock()
	for _, r := range n.byAddr[addr.Unmap()] {
		if len(r.Names) == 0 || !slices.Contains(networks, r.NetworkID) {
			continue
		}
		name := strings.TrimSuffix(r.Names[0], ".")
		if r.Network != "" {
			name += "." + r.Network
		}
		return name
	}
	return ""
}
