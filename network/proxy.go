package network

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// proxy carries what reaches a holder's socket to a backend, in user space.
// Most traffic never comes here: the kernel translates it before it would.
type proxy struct {
	log  *slog.Logger
	pick func(p *published, client netip.Addr) (netip.AddrPort, bool)
	room chan struct{} // bounds connections; when full, clients wait in the backlog
	talk chan struct{} // bounds UDP clients; when full, new ones are not heard
	bufs sync.Pool     // of the largest datagram
	ctx  context.Context
	end  context.CancelFunc
}

const (
	proxyConns   = 2048             // over all ports
	proxyFlows   = 1024             // UDP clients of one port; whoever sends may forge their addresses
	proxyTalks   = 4096             // over all ports
	proxyIdle    = 90 * time.Second // an UDP client that is silent for so long is forgotten
	proxyConnect = 5 * time.Second
)

func newProxy(log *slog.Logger, pick func(*published, netip.Addr) (netip.AddrPort, bool)) *proxy {
	ctx, end := context.WithCancel(context.Background())
	return &proxy{log: log, pick: pick, room: make(chan struct{}, proxyConns), talk: make(chan struct{}, proxyTalks), ctx: ctx, end: end}
}

func (x *proxy) close() { x.end() }

// serve starts a proxy on a holder's socket and gives the holder the means to
// stop it.
func (x *proxy) serve(h *holder, p *published) {
	ctx, end := context.WithCancel(x.ctx)
	var tasks sync.WaitGroup
	h.stop = func() {
		end()
		tasks.Wait()
	}
	if h.tcp != nil {
		tasks.Go(func() { x.accept(ctx, &tasks, h, p) })
	} else {
		tasks.Go(func() { x.datagrams(ctx, &tasks, h.udp, p) })
	}
}

func (x *proxy) accept(ctx context.Context, tasks *sync.WaitGroup, h *holder, p *published) {
	for {
		c, err := h.tcp.AcceptTCP()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
				return
			}
			x.log.Warn("published port", "socket", h.name, "error", err)
			select { // out of descriptors, most likely
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
				return
			}
			continue
		}
		// After the client came: a port that nobody calls takes no room.
		select {
		case x.room <- struct{}{}:
		case <-ctx.Done():
			c.Close()
			return
		}
		tasks.Go(func() {
			defer func() { <-x.room }()
			x.carry(ctx, c, p)
		})
	}
}

// carry copies both ways until both have ended.
func (x *proxy) carry(ctx context.Context, c *net.TCPConn, p *published) {
	defer c.Close()
	refuse := func() { _ = c.SetLinger(0) } // the client sees a reset, as from a closed port
	to, ok := x.pick(p, remote(c))
	if !ok {
		refuse()
		return
	}
	d := net.Dialer{Timeout: proxyConnect}
	b, err := d.DialContext(ctx, "tcp4", to.String())
	if err != nil {
		refuse()
		return
	}
	back := b.(*net.TCPConn)
	defer back.Close()
	defer context.AfterFunc(ctx, func() { c.Close(); back.Close() })()
	var both sync.WaitGroup
	pipe := func(dst, src *net.TCPConn) {
		if _, err := io.Copy(dst, src); err != nil { // splice(2)
			c.Close()
			back.Close()
		}
		_ = dst.CloseWrite()
	}
	both.Go(func() { pipe(back, c) })
	both.Go(func() { pipe(c, back) })
	both.Wait()
}

// remote is the address of a connection's client.
func remote(c *net.TCPConn) netip.Addr {
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr()
	}
	return netip.Addr{}
}

// datagrams gives every client a socket to one backend of its own, so that
// answers find their way back.
func (x *proxy) datagrams(ctx context.Context, tasks *sync.WaitGroup, in *net.UDPConn, p *published) {
	var mu sync.Mutex
	flows := map[udpFlow]*net.UDPConn{}
	defer context.AfterFunc(ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range flows {
			c.Close()
		}
	})()
	// Answers must leave from the address the client called, which on a socket
	// for every address only the ancillary data tell.
	if raw, err := in.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		})
	}
	buf, oob := make([]byte, 64<<10), make([]byte, 128)
	for {
		n, o, _, client, err := in.ReadMsgUDPAddrPort(buf, oob)
		if err != nil {
			if errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
				mu.Lock()
				for _, c := range flows {
					c.Close()
				}
				mu.Unlock()
				return
			}
			continue // an ICMP error of somebody's earlier answer
		}
		from := udpFlow{client, calledAt(oob[:o])}
		mu.Lock()
		c, room := flows[from], len(flows) < proxyFlows
		mu.Unlock()
		if c == nil {
			to, ok := x.pick(p, client.Addr())
			if !ok || !room {
				continue // as the network does: drop
			}
			select {
			case x.talk <- struct{}{}:
			default:
				continue
			}
			if c, err = net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to)); err != nil {
				<-x.talk
				continue
			}
			mu.Lock()
			flows[from] = c
			mu.Unlock()
			tasks.Go(func() {
				x.answers(in, c, from)
				mu.Lock()
				delete(flows, from)
				mu.Unlock()
				c.Close()
				<-x.talk
			})
		}
		_, _ = c.Write(buf[:n])
	}
}

// answers carries what a backend sends to one client until both have been
// silent for long. While it waits it holds no buffer.
func (x *proxy) answers(in, c *net.UDPConn, to udpFlow) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	for {
		_ = c.SetReadDeadline(time.Now().Add(proxyIdle))
		var buf *[]byte
		var n int
		var rerr error
		err := raw.Read(func(fd uintptr) bool {
			buf = x.buffer()
			for {
				if n, rerr = unix.Read(int(fd), *buf); rerr != unix.EINTR { //nolint:errorlint // a system call's errno is bare, and this runs for every packet
					break
				}
			}
			if rerr != unix.EAGAIN { //nolint:errorlint // as above
				return true
			}
			x.bufs.Put(buf)
			buf = nil
			return false
		})
		if err != nil {
			return
		}
		if rerr == nil {
			_, _, rerr = in.WriteMsgUDPAddrPort((*buf)[:n], to.source(), to.client)
		}
		x.bufs.Put(buf)
		if rerr != nil {
			return
		}
	}
}

func (x *proxy) buffer() *[]byte {
	if b, ok := x.bufs.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 64<<10)
	return &b
}

// udpFlow is a client and the address it calls.
type udpFlow struct {
	client netip.AddrPort
	called netip.Addr
}

// calledAt reads the destination from the ancillary data of a datagram.
func calledAt(oob []byte) (a netip.Addr) {
	all, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return a
	}
	for _, m := range all {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= 12:
			a, _ = netip.AddrFromSlice(m.Data[8:12]) // in_pktinfo: ifindex, spec_dst, addr
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= 16:
			a, _ = netip.AddrFromSlice(m.Data[:16]) // in6_pktinfo: addr, ifindex
		}
	}
	return a
}

// source is the ancillary data that makes an answer leave from there.
func (u udpFlow) source() []byte {
	switch {
	case u.called.Is4():
		return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: u.called.As4()})
	case u.called.Is6():
		return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: u.called.As16()})
	}
	return nil
}
