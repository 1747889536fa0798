package network

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// standing is what a sandbox is to those who look for somebody to talk to.
// Names and published ports lead to the highest standing there is among those
// they mean, and never to somebody who is away.
//
//	away ──process runs──► running ──ready──► ready
//	  ▲                       │                 │
//	  └──── process ends ── leaving ◄──── [Fabric.Leave] or [Fabric.Drain]
type standing uint8

const (
	isAway    standing = iota
	isLeaving          // it serves those it has, and others only where nobody else is
	isRunning
	isReady
)

// standing of a sandbox. The caller holds Fabric.mu.
func (s *sandbox) standing() standing {
	switch {
	case !s.running:
		return isAway
	case s.leaving:
		return isLeaving
	case s.ready:
		return isReady
	}
	return isRunning
}

// highest is the best standing in a group.
func (g *group) highest() (best standing) {
	for _, s := range g.members {
		best = max(best, s.standing())
	}
	return best
}

// Leave takes a sandbox out of names and published ports for good: whatever
// [Fabric.SetState] says of it, it is looked for only where nobody else of
// those meant runs, until [Fabric.Attach] gives it a new process. Connections
// it has live on.
func (f *Fabric) Leave(id string) error { return f.setLeaving(id, true) }

// Rejoin undoes [Fabric.Leave].
func (f *Fabric) Rejoin(id string) error { return f.setLeaving(id, false) }

func (f *Fabric) setLeaving(id string, leaving bool) error {
	f.mu.Lock()
	s := f.sandboxes[id]
	if s == nil {
		f.mu.Unlock()
		return fmt.Errorf("sandbox %s: %w", id, errdefs.ErrNotFound)
	}
	s.leaving = leaving
	return f.restated(s)
}

// Looking at a sandbox's connections, while it is drained.
const (
	// drainSettle is how long after the last look that found none a sandbox
	// counts as drained: who was given its address just before calls it now.
	drainSettle = 50 * time.Millisecond
	drainFirst  = 10 * time.Millisecond
	drainMost   = 200 * time.Millisecond
	// drainIdle is how long a connection must have been idle to be waited for
	// no longer: a browser keeps one for minutes.
	drainIdle = time.Second
)

// Drain is [Fabric.Leave], and then waits until nobody who is connected to the
// sandbox is waiting for an answer or getting one. It also returns when nobody of the sandbox's group is left
// to whom others could go instead; then there is nothing to wait for. When ctx
// ends first its error is returned, and the sandbox still leaves.
func (f *Fabric) Drain(ctx context.Context, id string) error {
	if err := f.Leave(id); err != nil {
		return err
	}
	deserted := f.deserted(id)
	tick := time.NewTimer(0)
	defer tick.Stop()
	gap, quiet := drainFirst, time.Time{}
	for {
		select {
		case <-deserted:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		_, n, err := f.inbound(id)
		switch {
		case errdefs.IsNotFound(err):
			return nil // it has ended
		case err != nil:
			return fmt.Errorf("drain %s: %w", id, err)
		case n > 0:
			quiet = time.Time{}
		case quiet.IsZero():
			quiet = time.Now()
		case time.Since(quiet) >= drainSettle:
			return nil
		}
		if n > 0 {
			gap = min(gap*3/2, drainMost)
		} else {
			gap = drainSettle
		}
		tick.Reset(gap)
	}
}

// deserted closes when all who run in the sandbox's group are leaving.
func (f *Fabric) deserted(id string) <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.sandboxes[id]; s != nil {
		if g := f.groups[s.groupName()]; g != nil && g.highest() > isLeaving {
			if g.deserted == nil {
				g.deserted = make(chan struct{})
			}
			return g.deserted
		}
	}
	gone := make(chan struct{})
	close(gone)
	return gone
}

// Connections counts the TCP connections that others have made to a sandbox.
func (f *Fabric) Connections(id string) (n int, err error) {
	n, _, err = f.inbound(id)
	return n, err
}

// inbound counts the connections to a sandbox, and those that are in use. They
// are read off its sockets and not off the machine's connection tracking: that
// would not see clients on the same bridge, and remembers connections for days
// whose end it has missed.
func (f *Fabric) inbound(id string) (all, busy int, err error) {
	path := f.path(id)
	if !isNamespace(path) {
		return 0, 0, fmt.Errorf("sandbox %s: %w", id, errdefs.ErrNotFound)
	}
	err = inside(path, func() error {
		var sockets []*netlink.InetDiagTCPInfoResp
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			some, err := whole(func() ([]*netlink.InetDiagTCPInfoResp, error) { return netlink.SocketDiagTCPInfo(family) })
			if err != nil {
				return fmt.Errorf("list connections: %w", err)
			}
			sockets = append(sockets, some...)
		}
		all, busy = inbound(sockets)
		return nil
	})
	return all, busy, err
}

// idle reports whether nothing is under way on a connection: the last word was
// the server's, a while ago, and the client has it. (Times in TCPInfo are in
// milliseconds.)
func idle(s *netlink.Socket, t *netlink.TCPInfo) bool {
	if s.State != netlink.TCP_ESTABLISHED || t == nil || s.RQueue > 0 || t.Unacked > 0 || t.Notsent_bytes > 0 {
		return false
	}
	quiet := time.Duration(min(t.Last_data_sent, t.Last_data_recv)) * time.Millisecond
	return quiet >= drainIdle && (t.Bytes_received == 0 || t.Bytes_sent > 0 && t.Last_data_sent <= t.Last_data_recv)
}

// inbound counts connections to ports that somebody listens on. One whose
// process has closed it counts until the other side has all of it. Loopback is
// the sandbox talking to itself, as health checks do.
func inbound(sockets []*netlink.InetDiagTCPInfoResp) (all, busy int) {
	listens := map[uint16]bool{}
	for _, r := range sockets {
		if s := r.InetDiagMsg; s.State == netlink.TCP_LISTEN {
			listens[s.ID.SourcePort] = true
		}
	}
	for _, r := range sockets {
		switch s := r.InetDiagMsg; s.State {
		case netlink.TCP_ESTABLISHED, netlink.TCP_SYN_RECV, netlink.TCP_NEW_SYN_REC, netlink.TCP_CLOSE_WAIT,
			netlink.TCP_FIN_WAIT1, netlink.TCP_CLOSING, netlink.TCP_LAST_ACK:
			if listens[s.ID.SourcePort] && !net.IP.IsLoopback(s.ID.Source) {
				if all++; !idle(s, r.TCPInfo) {
					busy++
				}
			}
		}
	}
	return all, busy
}
