package network

import (
	"log/slog"
	"net"
	"net/netip"
	"time"
)

// dnsOptions are what a dnsServer needs from outside.
type dnsOptions struct {
	Log   *slog.Logger
	Names *names
	// Upstreams gives the host's resolvers; it is called for every query that
	// is forwarded. nil: those of /etc/resolv.conf.
	Upstreams func() []netip.AddrPort
	Now       func() time.Time // nil: time.Now
}

// view is what one sandbox sees through its resolver.
type view struct {
	Networks    []string         // ids; names on other networks do not exist for it
	Servers     []netip.AddrPort // asked instead of the host's resolvers
	Hostname    string           // its own; "" none
	HostGateway netip.Addr       // answer to host.docker.internal; zero: that name is unknown
	Internal    bool             // only internal networks: nothing is forwarded
}

type dnsServer struct{}

func newDNS(o dnsOptions) *dnsServer { return &dnsServer{} }

func (d *dnsServer) serve(sandbox string, udp *net.UDPConn, tcp *net.TCPListener, v view) {}
func (d *dnsServer) update(sandbox string, v view)                                      {}
func (d *dnsServer) stop(sandbox string)                                                {}
func (d *dnsServer) Close()                                                             {}
