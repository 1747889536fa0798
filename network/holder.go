package network

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// holder is a socket that holds a published port on one address.
type holder struct {
	name string // in Sockets
	addr netip.Addr
	tcp  *net.TCPListener
	udp  *net.UDPConn
	stop func() // ends the proxy and waits for it; nil: none serves
}

func (h *holder) close() {
	if h.tcp != nil {
		h.tcp.Close()
	} else if h.udp != nil {
		h.udp.Close()
	}
	if h.stop != nil {
		h.stop()
	}
}

// raw is either socket.
func (h *holder) raw() interface {
	syscall.Conn
	File() (*os.File, error)
} {
	if h.tcp != nil {
		return h.tcp
	}
	return h.udp
}

func (h *holder) port() uint16 {
	if h.tcp != nil {
		return uint16(h.tcp.Addr().(*net.TCPAddr).Port)
	}
	return uint16(h.udp.LocalAddr().(*net.UDPAddr).Port)
}

// hold takes p's port on every address it is for, the same number on all, and
// deposits the sockets. With p.port 0 it chooses the number. EADDRINUSE: it
// is not free.
func (f *Fabric) hold(p *published) error {
	addrs := []netip.Addr{p.asked.HostIP}
	if !p.asked.HostIP.IsValid() {
		addrs = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	}
	// An ephemeral number is free on the first address for certain, on the
	// second perhaps not.
	for try := 0; ; try++ {
		err := f.holdAll(p, addrs)
		if err == nil || p.asked.HostPort != 0 || try == 20 || !errors.Is(err, unix.EADDRINUSE) {
			return err
		}
		p.port = 0
	}
}

func (f *Fabric) holdAll(p *published, addrs []netip.Addr) error {
	p.holders = nil
	for i, a := range addrs {
		h, err := f.listen(p.asked.Protocol, a, p.port)
		if err != nil {
			// A machine without IPv6 is no reason not to publish for IPv4.
			if i > 0 && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)) {
				continue
			}
			f.letGo(p)
			if errors.Is(err, unix.EADDRNOTAVAIL) {
				return fmt.Errorf("%s is no address of this machine: %w", a, err)
			}
			return err
		}
		p.port = h.port()
		p.holders = append(p.holders, h)
	}
	for _, h := range p.holders {
		if err := f.deposit(h.name, h.raw()); err != nil {
			f.letGo(p)
			return err
		}
	}
	return nil
}

// deposit gives a socket to [Sockets].
func (f *Fabric) deposit(name string, conns ...interface {
	syscall.Conn
	File() (*os.File, error)
}) error {
	var files []*os.File
	defer func() {
		for i, file := range files {
			file.Close()
			// Whoever called Fd on the duplicate made the socket block, which
			// the two share.
			if raw, err := conns[i].SyscallConn(); err == nil {
				_ = raw.Control(func(fd uintptr) { _ = unix.SetNonblock(int(fd), true) })
			}
		}
	}()
	for _, c := range conns {
		file, err := c.File()
		if err != nil {
			return err
		}
		files = append(files, file)
	}
	if err := f.sockets.Hold(name, files...); err != nil {
		return fmt.Errorf("deposit socket %s: %w", name, err)
	}
	return nil
}

// letGo closes a port for good.
func (f *Fabric) letGo(p *published) {
	p.close()
	for _, h := range p.holders {
		if err := f.sockets.Drop(h.name); err != nil {
			f.log.Warn("a socket stays open", "socket", h.name, "error", err)
		}
	}
}

// listen opens a holder's socket. One that a dead daemon deposited and never
// dropped is taken over.
func (f *Fabric) listen(protocol string, addr netip.Addr, port uint16) (*holder, error) {
	h := &holder{name: holderName(protocol, addr, port), addr: addr}
	family := "4"
	if addr.Is6() {
		family = "6" // Go sets IPV6_V6ONLY for it
	}
	at := netip.AddrPortFrom(addr, port)
	var err error
	if protocol == "udp" {
		h.udp, err = net.ListenUDP("udp"+family, net.UDPAddrFromAddrPort(at))
	} else {
		h.tcp, err = net.ListenTCP("tcp"+family, net.TCPAddrFromAddrPort(at))
	}
	if err == nil {
		h.name = holderName(protocol, addr, h.port())
		return h, nil
	}
	if errors.Is(err, unix.EADDRINUSE) && port != 0 {
		if held, e := f.retake(protocol, addr, port); e == nil {
			return held, nil
		}
	}
	return nil, err
}

var errNotHeld = errors.New("nobody holds it")

// retake gets a holder back from [Sockets].
func (f *Fabric) retake(protocol string, addr netip.Addr, port uint16) (*holder, error) {
	h := &holder{name: holderName(protocol, addr, port), addr: addr}
	err := errNotHeld
	for i, file := range f.sockets.Take(h.name) {
		if i == 0 && protocol == "udp" {
			var c net.PacketConn
			if c, err = net.FilePacketConn(file); err == nil {
				h.udp = c.(*net.UDPConn)
			}
		} else if i == 0 {
			var l net.Listener
			if l, err = net.FileListener(file); err == nil {
				h.tcp = l.(*net.TCPListener)
			}
		}
		file.Close()
	}
	if err != nil {
		return nil, err
	}
	return h, nil
}

// portOwner says who has a port, as " by nginx (pid 123)", or "" where that
// cannot be found out.
func portOwner(protocol string, port uint16) string {
	inodes := map[string]bool{}
	for _, file := range []string{protocol, protocol + "6"} {
		b, err := os.ReadFile("/proc/net/" + file)
		if err != nil {
			continue
		}
		for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
			// sl local_address rem_address st … inode (Documentation/networking/proc_net_tcp.rst)
			w := strings.Fields(lines.Text())
			if len(w) < 10 || protocol == "tcp" && w[3] != "0A" { // 0A: TCP_LISTEN
				continue
			}
			_, hex, ok := strings.Cut(w[1], ":")
			n, err := strconv.ParseUint(hex, 16, 16)
			if ok && err == nil && uint16(n) == port {
				inodes["socket:["+w[9]+"]"] = true
			}
		}
	}
	fds, err := filepath.Glob("/proc/[0-9]*/fd/[0-9]*")
	if err != nil || len(inodes) == 0 {
		return ""
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err != nil || !inodes[to] {
			continue
		}
		pid := strings.Split(fd, "/")[2]
		comm, err := os.ReadFile("/proc/" + pid + "/comm")
		if err != nil {
			continue
		}
		return fmt.Sprintf(" by %s (pid %s)", strings.TrimSpace(string(comm)), pid)
	}
	return ""
}
