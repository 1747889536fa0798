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
)

// proxy carries what reaches a holder's socket to a backend, in user space.
// Most traffic never comes here: the kernel translates it before it would.
type proxy struct {
	log  *slog.Logger
	pick func(*published) (netip.AddrPort, bool)
	room chan struct{} // bounds connections; when full, clients wait in the backlog
	ctx  context.Context
	end  context.CancelFunc
}

const (
	proxyConns   = 2048             // over all ports
	proxyFlows   = 1024             // UDP clients of one port
	proxyIdle    = 90 * time.Second // an UDP client that is silent for so long is forgotten
	proxyConnect = 5 * time.Second
)

func newProxy(log *slog.Logger, pick func(*published) (netip.AddrPort, bool)) *proxy {
	ctx, end := context.WithCancel(context.Background())
	return &proxy{log: log, pick: pick, room: make(chan struct{}, proxyConns), ctx: ctx, end: end}
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
		select {
		case x.room <- struct{}{}:
		case <-ctx.Done():
			return
		}
		c, err := h.tcp.AcceptTCP()
		if err != nil {
			<-x.room
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
	to, ok := x.pick(p)
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

// datagrams gives every client a socket to one backend of its own, so that
// answers find their way back.
func (x *proxy) datagrams(ctx context.Context, tasks *sync.WaitGroup, in *net.UDPConn, p *published) {
	var mu sync.Mutex
	flows := map[netip.AddrPort]*net.UDPConn{}
	defer context.AfterFunc(ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range flows {
			c.Close()
		}
	})()
	buf := make([]byte, 64<<10)
	for {
		n, from, err := in.ReadFromUDPAddrPort(buf)
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
		mu.Lock()
		c, room := flows[from], len(flows) < proxyFlows
		mu.Unlock()
		if c == nil {
			to, ok := x.pick(p)
			if !ok || !room {
				continue // as the network does: drop
			}
			if c, err = net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to)); err != nil {
				continue
			}
			mu.Lock()
			flows[from] = c
			mu.Unlock()
			tasks.Go(func() {
				back := make([]byte, 64<<10)
				for {
					_ = c.SetReadDeadline(time.Now().Add(proxyIdle))
					n, err := c.Read(back)
					if err == nil {
						_, err = in.WriteToUDPAddrPort(back[:n], from)
					}
					if err != nil {
						break
					}
				}
				mu.Lock()
				delete(flows, from)
				mu.Unlock()
				c.Close()
			})
		}
		_, _ = c.Write(buf[:n])
	}
}
