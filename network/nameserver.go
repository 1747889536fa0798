package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Every sandbox finds its resolver at 127.0.0.11:53. The resolver's sockets
// live inside the sandbox on ports of their own, and a rule there leads port 53
// of that one address to them: so the sandbox's programs may own port 53.

var resolverAddr = netip.AddrFrom4([4]byte{127, 0, 0, 11})

// listenDNS opens a resolver's sockets in the thread's namespace and leads
// port 53 to them.
func listenDNS() (*net.UDPConn, *net.TCPListener, error) {
	at := netip.AddrPortFrom(resolverAddr, 0)
	udp, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, nil, fmt.Errorf("open the resolver's socket: %w", err)
	}
	tcp, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(at))
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open the resolver's socket: %w", err), udp.Close())
	}
	if err := redirectDNS(udp, tcp); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("lead port 53 to the resolver: %w", err), udp.Close(), tcp.Close())
	}
	return udp, tcp, nil
}

// redirectDNS writes, in the thread's namespace and replacing what was there,
//
//	table ip gantry-dns {
//	  chain output { type nat hook output priority dstnat
//	    ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:<udp>
//	    ip daddr 127.0.0.11 tcp dport 53 dnat to 127.0.0.11:<tcp>
//	  }
//	}
func redirectDNS(udp *net.UDPConn, tcp *net.TCPListener) error {
	c, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return err
	}
	defer c.CloseLasting()
	t := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "gantry-dns"}
	// Deleting is dear, 5 to 15 ms: the kernel waits for packets under way.
	again, err := hasTable(c, nftables.TableFamilyIPv4, t.Name)
	if err != nil {
		return err
	}
	if again {
		c.DelTable(t)
	}
	c.AddTable(t)
	ch := c.AddChain(&nftables.Chain{Name: "output", Table: t, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest})
	lead := func(proto byte, port int) {
		c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: []expr.Any{
			&expr.Payload{DestRegister: r0, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
			&expr.Cmp{Op: expr.CmpOpEq, Register: r0, Data: resolverAddr.AsSlice()},
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: r0},
			&expr.Cmp{Op: expr.CmpOpEq, Register: r0, Data: []byte{proto}},
			&expr.Payload{DestRegister: r0, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: r0, Data: []byte{0, 53}},
			&expr.Immediate{Register: r0, Data: resolverAddr.AsSlice()},
			&expr.Immediate{Register: r4, Data: []byte{byte(port >> 8), byte(port)}},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: r0, RegProtoMin: r4},
		}})
	}
	lead(unix.IPPROTO_UDP, udp.LocalAddr().(*net.UDPAddr).Port)
	lead(unix.IPPROTO_TCP, tcp.Addr().(*net.TCPAddr).Port)
	return c.Flush()
}

func dnsName(id string) string { return "dns/" + id }

// startDNS deposits a resolver's sockets and begins to answer. The caller
// holds s.mu and tells the resolver afterwards what the sandbox sees.
func (f *Fabric) startDNS(s *sandbox, udp *net.UDPConn, tcp *net.TCPListener) error {
	if err := f.deposit(dnsName(s.id), udp, tcp); err != nil {
		return errors.Join(err, udp.Close(), tcp.Close())
	}
	f.dns.serve(s.id, udp, tcp, view{Hold: true})
	s.serving = true
	return nil
}

// takeDNS takes a resolver's sockets back after a restart of the daemon.
func (f *Fabric) takeDNS(s *sandbox) bool {
	files := f.sockets.Take(dnsName(s.id))
	defer func() {
		for _, file := range files {
			file.Close()
		}
	}()
	if len(files) != 2 {
		return false
	}
	udp, err := net.FilePacketConn(files[0])
	if err != nil {
		return false
	}
	tcp, err := net.FileListener(files[1])
	if err != nil {
		udp.Close()
		return false
	}
	f.dns.serve(s.id, udp.(*net.UDPConn), tcp.(*net.TCPListener), view{Hold: true})
	s.serving = true
	return true
}

// stopDNS ends a sandbox's resolver and gives up its sockets, which otherwise
// would keep the namespace alive. The caller holds s.mu.
func (f *Fabric) stopDNS(s *sandbox) {
	f.dns.stop(s.id)
	s.serving = false
	if err := f.sockets.Drop(dnsName(s.id)); err != nil {
		f.log.Warn("a resolver's sockets stay open", "sandbox", s.title(), "error", err)
	}
}
