package network

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// wire makes what add names in the kernel, and the namespace if fresh.
func (f *Fabric) wire(ctx context.Context, s *sandbox, add []*end, fresh bool) (err error) {
	for _, e := range add {
		if err := f.ensureUp(ctx, e.lan); err != nil {
			return err
		}
	}
	// More at once would only wait for the kernel's one lock on links, each
	// with a thread of its own.
	f.entry <- struct{}{}
	defer func() { <-f.entry }()
	f.mu.Lock()
	primary, primary6, ends := s.primary(), s.primary6(), len(s.ends)
	f.mu.Unlock()
	var in *rtnl // in the namespace
	var udp *net.UDPConn
	var tcp *net.TCPListener
	enter := inside
	if fresh {
		enter = makeNamespace
	}
	err = enter(f.path(s.id), func() (err error) {
		if ends == 0 {
			return nil
		}
		if !s.serving {
			if udp, tcp, err = listenDNS(); err != nil {
				return err
			}
		}
		in, err = openRTNL()
		return err
	})
	if in != nil {
		defer in.close()
	}
	if err == nil && len(add) > 0 {
		err = f.link(ctx, s.id, add, in)
	}
	if err == nil && in != nil && !primary.lan.Internal {
		err = in.route(primary, primary.lan.subnet())
	}
	if err == nil && in != nil && primary6 != nil {
		six, _ := primary6.lan.subnet6()
		err = in.route(primary6, six)
	}
	if err != nil {
		if udp != nil {
			err = errors.Join(err, udp.Close(), tcp.Close())
		}
		return err
	}
	if udp != nil {
		return f.startDNS(s, udp, tcp)
	}
	return nil
}

// route makes an endpoint that of the default route.
func (r *rtnl) route(e *end, by Subnet) error {
	index, err := r.index(e.link)
	if err == nil {
		_, err = r.do(defaultRoute(index, by.Gateway))
	}
	if err != nil {
		return fmt.Errorf("default route by %s: %w", e.lan.Name, err)
	}
	return nil
}

// link makes the links of endpoints and gives them their addresses; in is
// a socket in the sandbox's namespace.
func (f *Fabric) link(ctx context.Context, id string, add []*end, in *rtnl) error {
	ns, err := os.Open(f.path(id))
	if err != nil {
		return err
	}
	defer ns.Close()
	out, err := openRTNL()
	if err != nil {
		return err
	}
	defer out.close()
	var hosts, six []string
	for _, e := range add {
		host, err := f.pair(ctx, e, int(ns.Fd()), out)
		if err != nil {
			return fmt.Errorf("network %s: %w", e.lan.Name, err)
		}
		hosts = append(hosts, host)
		if e.addr6.IsValid() {
			six = append(six, e.link)
		}
	}
	if len(six) > 0 {
		err := inside(f.path(id), func() (err error) {
			for _, link := range six {
				err = errors.Join(err, enableIPv6(link))
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	var reqs []*nl.NetlinkRequest
	for _, e := range add {
		index, err := in.index(e.link)
		if err != nil {
			return err
		}
		reqs = append(reqs, setUp(index), address(index, netip.PrefixFrom(e.addr, e.lan.subnet().Prefix.Bits())))
		if six, ok := e.lan.subnet6(); ok {
			reqs = append(reqs, address(index, netip.PrefixFrom(e.addr6, six.Prefix.Bits())))
		}
	}
	if _, err := in.do(reqs...); err != nil {
		return fmt.Errorf("set addresses: %w", err)
	}
	// The kernel acts on "the other end is up" in a work queue, some
	// milliseconds later: until then a link sends nothing and a bridge does
	// not use its port, the first packet is lost, and its sender tries again
	// after a whole second. Asking for a link runs that work at once
	// (linkwatch_sync_dev in rtnl_getlink).
	for i, e := range add {
		_, err1 := in.index(e.link)
		if !e.lan.bridged() {
			if err1 != nil {
				return err1
			}
			continue
		}
		peer, err2 := out.index(hosts[i])
		if err2 == nil {
			f.remember(e, peer)
		}
		_, err3 := out.index(e.lan.Bridge)
		if err := errors.Join(err1, err2, err3); err != nil {
			return err
		}
	}
	return nil
}

// pair makes one veth pair and returns the name of its end on the host, or the
// link on a parent, which has no other end. The kernel's answer tells a lost
// bridge and a name that is taken from other failures.
func (f *Fabric) pair(ctx context.Context, e *end, ns int, out *rtnl) (string, error) {
	for try := 0; ; try++ {
		master, err := f.master(ctx, e.lan)
		if err != nil {
			return "", err
		}
		v := veth{
			Host:   fmt.Sprintf(vethPrefix+"%s%07x", f.tag, rand.Uint32()>>4),
			Master: master, MTU: e.lan.mtu, Peer: e.link, MAC: e.mac, NS: ns,
		}
		req := v.request()
		if !e.lan.bridged() {
			v.Host = e.lan.parent
			req = macvlan{Parent: v.Master, Mode: e.lan.mode, MTU: v.MTU, Name: v.Peer, MAC: v.MAC, NS: ns}.request()
		}
		_, err = out.do(req)
		switch {
		case err == nil && e.lan.bridged() && !e.lan.icc:
			// Before it has an address: isolated ports reach the bridge alone.
			if err := netlink.LinkSetIsolated(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: v.Host}}, true); err != nil {
				return "", fmt.Errorf("isolate %s from the network's others: %w", e.link, err)
			}
			return v.Host, nil
		case err == nil:
			return v.Host, nil
		case !e.lan.bridged() && errors.Is(err, unix.EOPNOTSUPP):
			return "", fmt.Errorf("this kernel has no macvlan; load the module, or use a bridge: %w", errdefs.ErrFailedPrecondition)
		case !e.lan.bridged() && errors.Is(err, unix.EBUSY):
			return "", fmt.Errorf("parent %s is used otherwise: %w", e.lan.parent, errdefs.ErrFailedPrecondition)
		case errors.Is(err, unix.EXFULL):
			return "", fmt.Errorf("its bridge takes no more ports: %w", errdefs.ErrFailedPrecondition)
		case try < 3 && errors.Is(err, unix.EEXIST):
			if _, err := out.index(v.Host); err != nil {
				return "", fmt.Errorf("interface %s exists in the sandbox: %w", e.link, errdefs.ErrAlreadyExists)
			}
		case try < 3 && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV)):
			f.lost(e.lan, master)
		default:
			return "", fmt.Errorf("make link %s: %w", e.link, err)
		}
	}
}

// linksOf lists the links in a namespace by name.
func (f *Fabric) linksOf(id string) (map[string]bool, error) {
	present := map[string]bool{}
	err := inside(f.path(id), func() error {
		all, err := net.Interfaces()
		for _, i := range all {
			present[i.Name] = true
		}
		return err
	})
	return present, err
}

// unlink deletes endpoints' links in a namespace that stays.
func (f *Fabric) unlink(id string, ends []*end) error {
	if len(ends) == 0 || !isNamespace(f.path(id)) {
		return nil
	}
	return inside(f.path(id), func() error {
		var all error
		for _, e := range ends {
			all = errors.Join(all, deleteLink(e.link))
		}
		return all
	})
}
