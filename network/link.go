package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// rtnl is a route netlink socket of one network namespace: the one its thread
// was in when it was opened, wherever it is used.
type rtnl struct{ fd int }

func openRTNL() (*rtnl, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open route netlink: %w", err)
	}
	// The kernel answers within the call; the limit is against a lost answer.
	tv := unix.Timeval{Sec: 30}
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv),
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open route netlink: %w", err)
	}
	return &rtnl{fd}, nil
}

func (r *rtnl) close() { unix.Close(r.fd) }

// do sends requests in one message each but one system call together, and
// waits for all answers. The kernel carries them out in order and does not
// stop at a failure; the first failure is returned, with data of the answers
// that had any.
func (r *rtnl) do(reqs ...*nl.NetlinkRequest) (data [][]byte, err error) {
	var out []byte
	left := map[uint32]bool{}
	for _, q := range reqs {
		q.Flags |= unix.NLM_F_ACK
		out = append(out, q.Serialize()...)
		left[q.Seq] = true
	}
	if err := unix.Sendto(r.fd, out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("send to route netlink: %w", err)
	}
	buf := make([]byte, 32<<10)
	for len(left) > 0 {
		n, _, e := unix.Recvfrom(r.fd, buf, 0)
		if e == unix.EINTR {
			continue
		}
		if e != nil {
			return data, fmt.Errorf("receive from route netlink: %w", e)
		}
		for b := buf[:n]; len(b) >= unix.SizeofNlMsghdr; {
			size := int(binary.NativeEndian.Uint32(b))
			kind, seq := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint32(b[8:])
			if size < unix.SizeofNlMsghdr || size > len(b) {
				return data, errors.New("receive from route netlink: malformed message")
			}
			body := b[unix.SizeofNlMsghdr:size]
			b = b[min((size+3)&^3, len(b)):]
			if !left[seq] {
				continue
			}
			if kind != unix.NLMSG_ERROR {
				data = append(data, append([]byte(nil), body...))
				continue
			}
			delete(left, seq)
			if code := int32(binary.NativeEndian.Uint32(body)); code != 0 && err == nil {
				err = unix.Errno(-code)
			}
		}
	}
	return data, err
}

// veth is a pair of links to be: one end on the host, in a bridge, the other
// in a namespace.
type veth struct {
	Host   string // name on the host
	Master int    // index of the bridge
	MTU    int    // 0: the kernel's
	Peer   string // name in the namespace
	MAC    net.HardwareAddr
	NS     int // descriptor of the namespace
}

// vethPrefix begins the names of all host ends.
const vethPrefix = "gv-"

// sweepGroup is where links are put to be deleted together.
const sweepGroup = 0x676f

// deleteLinks deletes links in one call: the kernel waits once for all packets
// under way, not once for each link (about 30 ms). Links that are gone are no
// error.
func deleteLinks(indexes []int) error {
	if len(indexes) == 0 {
		return nil
	}
	r, err := openRTNL()
	if err != nil {
		return err
	}
	defer r.close()
	for _, i := range indexes {
		req := nl.NewNetlinkRequest(unix.RTM_SETLINK, 0)
		m := nl.NewIfInfomsg(unix.AF_UNSPEC)
		m.Index = int32(i)
		req.AddData(m)
		req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(sweepGroup)))
		if _, err := r.do(req); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("sweep links: %w", err)
		}
	}
	req := nl.NewNetlinkRequest(unix.RTM_DELLINK, 0)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(sweepGroup)))
	if _, err := r.do(req); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("sweep links: %w", err)
	}
	return nil
}

// linkGroup is the link group of all our host ends; 'g' 'n'.
const linkGroup = 0x676e

// request is the one RTM_NEWLINK that makes the pair with the peer already in
// its namespace and the host's end up and in the bridge (struct ifinfomsg
// inside VETH_INFO_PEER: drivers/net/veth.c). The peer cannot be made up: when
// veth_newlink configures it, it has no peer itself yet.
func (v veth) request() *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	u32 := func(n int) []byte { return nl.Uint32Attr(uint32(n)) }
	up := nl.NewIfInfomsg(unix.AF_UNSPEC)
	up.Flags, up.Change = unix.IFF_UP, unix.IFF_UP
	req.AddData(up)
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(v.Host)))
	req.AddData(nl.NewRtAttr(unix.IFLA_MASTER, u32(v.Master)))
	req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, u32(linkGroup)))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	peer.AddChild(nl.NewIfInfomsg(unix.AF_UNSPEC))
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(v.Peer))
	peer.AddRtAttr(unix.IFLA_ADDRESS, v.MAC)
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, u32(v.NS))
	if v.MTU > 0 {
		req.AddData(nl.NewRtAttr(unix.IFLA_MTU, u32(v.MTU)))
		peer.AddRtAttr(unix.IFLA_MTU, u32(v.MTU))
	}
	req.AddData(info)
	return req
}

// index finds a link by name.
func (r *rtnl) index(name string) (int, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	data, err := r.do(req)
	if err != nil {
		return 0, fmt.Errorf("link %s: %w", name, err)
	}
	if len(data) == 0 || len(data[0]) < unix.SizeofIfInfomsg {
		return 0, fmt.Errorf("link %s: the kernel sent nothing", name)
	}
	return int(nl.DeserializeIfInfomsg(data[0]).Index), nil
}

// setUp asks for a link to be set up.
func setUp(index int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, 0)
	m := nl.NewIfInfomsg(unix.AF_UNSPEC)
	m.Index, m.Flags, m.Change = int32(index), unix.IFF_UP, unix.IFF_UP
	req.AddData(m)
	return req
}

// address asks for an address on a link. One of IPv6 is used at once: that
// nobody else has it is known.
func address(index int, p netip.Prefix) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	m := nl.NewIfAddrmsg(routeFamily(p.Addr()))
	m.Prefixlen, m.Index = uint8(p.Bits()), uint32(index)
	if p.Addr().Is6() {
		m.Flags = unix.IFA_F_NODAD
	}
	req.AddData(m)
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, p.Addr().AsSlice()))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, p.Addr().AsSlice()))
	if p.Addr().Is4() && p.Bits() < 31 {
		req.AddData(nl.NewRtAttr(unix.IFA_BROADCAST, lastOf(p).AsSlice()))
	}
	return req
}

func routeFamily(a netip.Addr) int {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// defaultRoute asks for the route to everywhere else, replacing the one there is.
func defaultRoute(index int, gateway netip.Addr) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	m := nl.NewRtMsg()
	m.Family = uint8(routeFamily(gateway))
	req.AddData(m)
	req.AddData(nl.NewRtAttr(unix.RTA_GATEWAY, gateway.AsSlice()))
	req.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index))))
	return req
}

// macvlan is a link to be in a namespace that shares a link of the host's.
type macvlan struct {
	Parent int // its index
	Mode   uint32
	MTU    int // 0: the parent's
	Name   string
	MAC    net.HardwareAddr
	NS     int // descriptor of the namespace
}

func (v macvlan) request() *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(v.Name)))
	req.AddData(nl.NewRtAttr(unix.IFLA_LINK, nl.Uint32Attr(uint32(v.Parent))))
	req.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, v.MAC))
	req.AddData(nl.NewRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(v.NS))))
	if v.MTU > 0 {
		req.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(v.MTU))))
	}
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("macvlan"))
	info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.IFLA_MACVLAN_MODE, nl.Uint32Attr(v.Mode))
	req.AddData(info)
	return req
}

// enableIPv6 switches IPv6 on for a link of the thread's namespace: without
// looking for others with its addresses, which takes a second in which they
// cannot be used, and without listening to routers that nobody asked for.
func enableIPv6(link string) error {
	for _, set := range [][2]string{{"accept_ra", "0"}, {"accept_dad", "0"}, {"disable_ipv6", "0"}} {
		if err := writeSysctl("net/ipv6/conf/"+link+"/"+set[0], set[1]); err != nil {
			return fmt.Errorf("IPv6 on %s: %w", link, err)
		}
	}
	return nil
}

// linkUp sets a link of the thread's namespace up.
func linkUp(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// macOf makes the hardware address of an IPv4 address: 02:42 and its bytes, as
// Docker long did. The same address always has the same one, so that no
// neighbour's cache is ever wrong when an address is used again.
func macOf(a netip.Addr) net.HardwareAddr {
	b := a.As4()
	return net.HardwareAddr{0x02, 0x42, b[0], b[1], b[2], b[3]}
}

// ensureBridge makes a bridge as it should be, whatever there is of it, and
// returns its index. The first of its addresses is one of IPv4.
func ensureBridge(name string, gateways []netip.Prefix, mtu int) (int, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, mtu
	// An address of its own: else the bridge takes its smallest port's and
	// changes it as sandboxes come and go.
	attrs.HardwareAddr = macOf(gateways[0].Addr())
	err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return 0, fmt.Errorf("make bridge %s: %w", name, err)
	}
	made := err == nil
	link, err := netlink.LinkByName(name)
	if err != nil {
		return 0, fmt.Errorf("bridge %s: %w", name, err)
	}
	if len(gateways) > 1 {
		if err := enableIPv6(name); err != nil {
			return 0, err
		}
	} else if made {
		// Absent where the kernel has none.
		_ = writeSysctl("net/ipv6/conf/"+name+"/disable_ipv6", "1")
	}
	r, err := openRTNL()
	if err != nil {
		return 0, err
	}
	defer r.close()
	index := link.Attrs().Index
	for _, gateway := range gateways {
		if _, err := r.do(address(index, gateway)); err != nil && !errors.Is(err, unix.EEXIST) {
			return 0, fmt.Errorf("address %s of bridge %s: %w", gateway, name, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return 0, fmt.Errorf("set bridge %s up: %w", name, err)
	}
	return index, nil
}

// deleteLink deletes a link; it is no error if there is none.
func deleteLink(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete link %s: %w", name, err)
	}
	return nil
}
