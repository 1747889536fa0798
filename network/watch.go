package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// What the fabric has made can be taken away behind its back: a bridge or veth
// deleted, the ruleset flushed, forwarding switched off. The kernel tells of
// that by netlink. Most of what it tells is our own doing; only what looks like
// a loss makes the fabric look at everything and put back what is missing
// ([Fabric.mend]).

const (
	// mendDelay gathers what is lost at once: one command deletes many things.
	mendDelay = 20 * time.Millisecond
	// mendEvery is when everything is looked at although nothing was heard.
	mendEvery = time.Minute
	// mendAgain and mendRarely bound the wait after what could not be mended.
	mendAgain, mendRarely = time.Second, time.Minute
	// localEvery is how often route_localnet is looked at while ports are
	// published: nothing tells when that is changed.
	localEvery = 500 * time.Millisecond
)

// watch is the two netlink sockets of the host's namespace.
type watch struct {
	route, nft *os.File
	suspicion  chan struct{} // holds one
	raised     atomic.Int64  // how often
}

// listenNetlink opens a netlink socket that hears what groups are told, each a
// bit by its number.
func listenNetlink(protocol int, groups ...int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20) // a limit, not an allocation
	var mask uint32
	for _, g := range groups {
		mask |= 1 << (g - 1)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: mask}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}

// startWatch begins to listen for losses, until Close.
func (f *Fabric) startWatch() error {
	w := &watch{suspicion: make(chan struct{}, 1)}
	var err error
	if w.route, err = listenNetlink(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF); err != nil {
		return fmt.Errorf("watch links and routes: %w", err)
	}
	if w.nft, err = listenNetlink(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES); err != nil {
		return errors.Join(fmt.Errorf("watch nftables: %w", err), w.route.Close())
	}
	f.watch = w
	self, _ := os.ReadFile("/proc/self/comm")
	changes := &nftChanges{fabric: f, self: strings.TrimSpace(string(self))}
	f.tasks.Go(func() { f.hear(w.route, w, func(kind uint16, body []byte) bool { return f.lossOf(kind, body) }) })
	f.tasks.Go(func() { f.hear(w.nft, w, changes.loss) })
	f.tasks.Go(func() { f.mender(w) })
	return nil
}

// stopWatch ends what startWatch began, but for what is being mended.
func (f *Fabric) stopWatch() {
	if f.watch != nil {
		f.watch.route.Close()
		f.watch.nft.Close()
	}
}

// hear reads messages and raises suspicion where loss says so, and where
// messages were lost.
func (f *Fabric) hear(from *os.File, w *watch, loss func(kind uint16, body []byte) bool) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		suspect := errors.Is(err, unix.ENOBUFS)
		if err != nil && !suspect {
			if !errors.Is(err, fs.ErrClosed) {
				f.log.Error("losses of links and rules are not heard of any more", "error", err)
			}
			return
		}
		for b := buf[:max(n, 0)]; len(b) >= unix.SizeofNlMsghdr; {
			size := int(binary.NativeEndian.Uint32(b))
			if size < unix.SizeofNlMsghdr || size > len(b) {
				break
			}
			suspect = loss(binary.NativeEndian.Uint16(b[4:]), b[unix.SizeofNlMsghdr:size]) || suspect
			b = b[min((size+3)&^3, len(b)):]
		}
		if suspect {
			w.suspect()
		}
	}
}

func (w *watch) suspect() {
	w.raised.Add(1)
	select {
	case w.suspicion <- struct{}{}:
	default:
	}
}

// attribute finds one attribute of a message behind its fixed part.
func attribute(body []byte, fixed int, kind uint16) []byte {
	if len(body) < fixed {
		return nil
	}
	attrs, err := nl.ParseRouteAttr(body[fixed:])
	if err != nil {
		return nil
	}
	for _, a := range attrs {
		if a.Attr.Type&^unix.NLA_F_NESTED == kind {
			return a.Value
		}
	}
	return nil
}

func number(b []byte) int {
	if len(b) < 4 {
		return 0
	}
	return int(int32(binary.NativeEndian.Uint32(b)))
}

// lossOf reports whether a message of route netlink tells that something of
// ours is not as we made it.
func (f *Fabric) lossOf(kind uint16, body []byte) bool {
	switch kind {
	case unix.RTM_DELLINK, unix.RTM_NEWLINK:
		if len(body) < unix.SizeofIfInfomsg || body[0] == unix.AF_BRIDGE {
			return false
		}
		index := number(body[4:])
		bridge, end := f.ours(index)
		if kind == unix.RTM_DELLINK {
			return bridge || end
		}
		up := binary.NativeEndian.Uint32(body[8:])&unix.IFF_UP != 0
		if bridge && !up || end && (!up || number(attribute(body, unix.SizeofIfInfomsg, unix.IFLA_MASTER)) == 0) {
			// Or it is what we have just made, as it was before we were done.
			now, err := netlink.LinkByIndex(index)
			return err != nil || now.Attrs().Flags&net.FlagUp == 0 || end && now.Attrs().MasterIndex == 0
		}
		return false
	case unix.RTM_DELADDR:
		if len(body) < unix.SizeofIfAddrmsg {
			return false
		}
		bridge, _ := f.ours(number(body[4:]))
		return bridge && !f.givenUp(body[1], attribute(body, unix.SizeofIfAddrmsg, unix.IFA_LOCAL))
	case unix.RTM_DELROUTE:
		bridge, _ := f.ours(number(attribute(body, unix.SizeofRtMsg, unix.RTA_OIF)))
		return bridge && !f.givenUp(body[1], attribute(body, unix.SizeofRtMsg, unix.RTA_DST))
	case unix.RTM_NEWNETCONF:
		// struct netconfmsg is the family and padding.
		index, forwarding := attribute(body, 4, 1), attribute(body, 4, 2) // NETCONFA_IFINDEX, NETCONFA_FORWARDING
		if forwarding == nil || number(forwarding) != 0 {
			return false
		}
		bridge, _ := f.ours(number(index))
		f.mu.Lock()
		defer f.mu.Unlock()
		joined := f.joined
		if body[0] == unix.AF_INET6 {
			joined = f.joined6
		}
		return joined && (bridge || number(index) == -1) // NETCONFA_IFINDEX_ALL
	}
	return false
}

// ours says what a link of the host is to us, by its index.
func (f *Fabric) ours(index int) (bridge, end bool) {
	if index == 0 {
		return false, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.lans {
		if l.bridged() && l.index == index {
			return true, false
		}
	}
	return false, f.peers[index]
}

// nftChanges follows batches: what they touch, and then who has sent them.
type nftChanges struct {
	fabric  *Fabric
	self    string // our own name
	touched bool
}

// loss reports whether a message ends a batch of somebody else's that has
// touched a table that concerns us.
func (c *nftChanges) loss(kind uint16, body []byte) bool {
	if kind>>8 != unix.NFNL_SUBSYS_NFTABLES {
		return false
	}
	if kind&0xff != unix.NFT_MSG_NEWGEN {
		// Every object's first attribute is the table's name.
		table := strings.TrimRight(string(attribute(body, nl.SizeofNfgenmsg, 1)), "\x00")
		// Docker keeps a chain for others in filter, in which bridges are accepted.
		if table == c.fabric.table.name || table == guardName || table == "filter" && kind&0xff != unix.NFT_MSG_NEWSETELEM {
			c.touched = true
		}
		return false
	}
	touched := c.touched
	c.touched = false
	by := strings.TrimRight(string(attribute(body, nl.SizeofNfgenmsg, unix.NFTA_GEN_PROC_NAME)), "\x00")
	return touched && by != c.self
}

// mender puts back what is missing whenever something seems to be.
func (f *Fabric) mender(w *watch) {
	again := mendEvery
	look := time.NewTimer(again)
	defer look.Stop()
	local := time.NewTicker(localEvery)
	defer local.Stop()
	for {
		select {
		case <-f.quit:
			return
		case <-local.C:
			if !f.localLost() {
				continue
			}
		case <-look.C:
		case <-w.suspicion:
			t := time.NewTimer(mendDelay)
			select {
			case <-t.C:
			case <-f.quit:
				t.Stop()
				return
			}
			select {
			case <-w.suspicion: // one look is for all of it
			default:
			}
		}
		err := f.mend()
		switch {
		case err == nil:
			again = mendEvery
		case again == mendEvery:
			again = mendAgain
		default:
			again = min(2*again, mendRarely/2)
		}
		if err != nil {
			f.log.Error("the network is not what it should be", "error", err, "next try in", again)
		}
		look.Reset(again)
	}
}
