// Package network gives containers their network: bridges, namespaces,
// addresses, published ports, balancing over replicas and name resolution. It
// knows network namespaces, which it calls sandboxes, and nothing of
// containers, images or projects: whoever runs a process in a sandbox says so
// ([Fabric.SetState]), and the fabric never asks upward.
//
// # What it makes in the kernel
//
//	outside ── eth0 ── host ──┬── gn-<tag><id>  one bridge per network
//	                          │      └─ gv-<tag><n> ═ eth0 in RUN/netns/<sandbox>
//	                          └── table ip gantry-<tag>  static rules, changing elements
//
// Networks with IPv6 have a table ip6 of the same name besides. Every name carries the instance's tag, so that several daemons live side by
// side; nobody touches what carries another's. The kernel is the truth about
// what is attached: [Fabric.Recover] reads it back after the daemon died, and
// nothing that containers do depends on the daemon being there, save names
// and the ports of IPv6 clients, whose sockets outlive it in [Sockets].
//
// # Who may talk to whom
//
// Sandboxes of one network reach each other. Networks are isolated from each
// other, and an internal one also from everything outside the machine. From
// outside only published ports can be reached, never a sandbox's own address.
// The machine itself reaches all of them.
package network

import (
	"log/slog"
	"net/netip"
	"os"
	"time"
)

// Options says where a Fabric keeps things and which instance it is.
type Options struct {
	// Root holds what outlives the machine's uptime: networks/<id>.json.
	Root string
	// Run holds what does not: netns/<sandbox>, ports.json.
	Run string
	// Instance tells this daemon's kernel objects from another's. Any
	// non-empty string; links and tables carry a short digest of it.
	Instance string
	// Sockets keeps listening sockets alive while the daemon is away. Nil:
	// nobody does.
	Sockets Sockets
	Log     *slog.Logger
	// Pools are the private prefixes from which networks without a subnet of
	// their own get a /24 (the default network a /22), first free first. Nil:
	// [DefaultPools].
	Pools []netip.Prefix
}

// Sockets is a store of descriptors that outlives the daemon. All three are
// idempotent. Hold duplicates files as it needs; the caller keeps its own.
// Take gives duplicates that the caller closes, nil for an unknown name; the
// store keeps its own until Drop.
type Sockets interface {
	Hold(name string, files ...*os.File) error
	Take(name string) []*os.File
	Drop(name string) error
}

// DefaultNetwork is the name of the network that sandboxes join when they name
// none. It is made when it is first used.
const DefaultNetwork = "bridge"

// Spec is what a user asks of a network.
type Spec struct {
	Name string
	// Driver is "bridge" (also ""), or "macvlan", whose sandboxes are machines
	// of their own on the network of one of the host's links: addresses and
	// ports are theirs, and the host itself cannot reach them. Others are
	// refused by name.
	Driver string `json:",omitempty"`
	// Internal cuts the network off from everything outside the machine and
	// from other networks.
	Internal   bool `json:",omitempty"`
	Attachable bool `json:",omitempty"`
	EnableIPv6 bool `json:",omitempty"` // beside IPv4, which every network has
	// Subnets: at most one for each family, IPv4 first. What is missing is
	// chosen: a free /24 of the pools, a free /64 of unique local addresses.
	Subnets []Subnet          `json:",omitempty"`
	Labels  map[string]string `json:",omitempty"`
	// Options of the driver: see options.go for those honoured; others are
	// refused by name.
	Options map[string]string `json:",omitempty"`
}

// Subnet is an address range of a network.
type Subnet struct {
	Prefix  netip.Prefix
	Gateway netip.Addr            `json:",omitzero"` // zero: the first address
	Range   netip.Prefix          `json:",omitzero"` // where automatic addresses come from; zero: all of Prefix
	Aux     map[string]netip.Addr `json:",omitempty"`
}

// Network is a network as it is: Spec with the subnet that was chosen.
type Network struct {
	ID string // 64 hexadecimal digits
	Spec
	Created time.Time
	Bridge  string // the link on the host
	// Chosen says that nobody asked for the subnet: while the network has no
	// bridge, another may be chosen. Chosen6 says it of that for IPv6.
	Chosen  bool
	Chosen6 bool `json:",omitempty"`
}

// Sandbox asks for one network namespace with its places on networks.
type Sandbox struct {
	ID       string // the container's id; also the name below RUN/netns
	Hostname string
	// Endpoints: none gives a namespace with nothing but loopback.
	Endpoints []Endpoint
	// DNS replaces the host's resolvers for names that are not ours.
	DNS []netip.Addr
	// Links are names this sandbox alone has for others: its name for one, and
	// a name that one answers to.
	Links map[string]string
	// Group owns published ports together with the group's other sandboxes;
	// "" means the sandbox's own id.
	Group string
	// Running and Ready are the state to begin with: both false for one
	// whose process is yet to start. Recover needs what is true now, so that
	// no published port loses its backends meanwhile.
	Running, Ready bool
}

// Endpoint is a place of a sandbox on a network.
type Endpoint struct {
	Network string // name or id; "" is DefaultNetwork
	// Names are its DNS names on that network.
	Names []string
	// Virtual are names that it shares with others of its group and that mean
	// one address for all of them, from which connections are balanced over
	// those who are ready; none: they are in Names. VirtualAddr is that address,
	// if the group has had it before; zero: the next free one.
	Virtual     []string
	VirtualAddr netip.Addr
	IPv4        netip.Addr // zero: the next free one
	IPv6        netip.Addr // zero: the next free one, where the network has IPv6
	MAC         string     // "": made from the IPv4 address
	Interface   string     // "": the next free ethN
	// Priority orders interfaces: higher is connected first.
	Priority int
	// GwPriority decides which endpoint gives the default route: the highest
	// of those whose network is not internal.
	GwPriority int
}

// Attached is a sandbox as it is.
type Attached struct {
	Path      string // of the namespace, RUN/netns/<id>
	Endpoints []Joined
}

// Joined is an endpoint as it is.
type Joined struct {
	NetworkID   string
	NetworkName string
	EndpointID  string // 64 hexadecimal digits, the same for the same sandbox and network
	Interface   string
	IPv4        netip.Prefix // the address with the subnet's length
	IPv6        netip.Prefix `json:",omitzero"` // zero on a network without IPv6
	Gateway     netip.Addr   `json:",omitzero"` // zero on an internal network
	Gateway6    netip.Addr   `json:",omitzero"`
	MAC         string
	Virtual     netip.Addr `json:",omitzero"` // of its group on the network
	// Primary marks the endpoint with the default route (without any: the
	// first). Its address is what published ports lead to.
	Primary bool `json:",omitempty"`
}

// EndpointInfo is an endpoint seen from its network.
type EndpointInfo struct {
	Sandbox string
	Name    string // its host name
	Joined
}

// Port asks to publish a port of a group's sandboxes.
type Port struct {
	HostIP   netip.Addr `json:",omitzero"`  // zero: every address, of IPv4 and IPv6
	HostPort uint16     `json:",omitempty"` // 0: an ephemeral one
	HostEnd  uint16     `json:",omitempty"` // last of a range from which the first free one is taken; 0: HostPort alone
	Port     uint16     // inside
	Protocol string     `json:",omitempty"` // "tcp" (also ""), "udp"; "sctp" is refused by name
	// Sticky leads the connections of one client, by its address, to one and the
	// same of the group's sandboxes for as long as it is there.
	Sticky bool `json:",omitempty"`
}

// Binding is a published port as it is. A Port for every address gives two,
// 0.0.0.0 and ::, as far as the machine has both families.
type Binding struct {
	HostIP   netip.Addr
	HostPort uint16
	Port     uint16
	Protocol string
}

// Limits of Linux and of this package.
const (
	// maxEndpoints is what one bridge takes: 1024 ports (BR_MAX_PORTS in
	// net/bridge/br_private.h) less a margin for links that the kernel has
	// yet to collect.
	maxEndpoints = 1000
	// slots is the number of shares a published port is divided into; further
	// backends than that get none.
	slots = 64
)

// DefaultPools are the prefixes networks get their /24 from: 1024 of them in
// 172.16.0.0/12 (the lower half of which other tools like), then 4096 in
// 10.0.0.0/8, then 192.168.0.0/16.
func DefaultPools() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("172.20.0.0/14"),
		netip.MustParsePrefix("10.208.0.0/12"),
		netip.MustParsePrefix("192.168.0.0/16"),
	}
}
