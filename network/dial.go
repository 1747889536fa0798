package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Namespace is where the network namespace of a sandbox is bound, for [Dial].
func (f *Fabric) Namespace(id string) string { return f.path(id) }

// Dial connects by TCP from within the network namespace bound at a path, ""
// for the host's: to the first of the addresses at which somebody listens. An
// address at which nobody does, or which the namespace cannot have, leads to
// the next one.
//
// A socket belongs to the namespace it was made in for good, so the namespace
// is entered only to make it: a peer that does not answer holds no thread.
func Dial(ctx context.Context, namespace string, to ...netip.AddrPort) (net.Conn, error) {
	var err error
	for _, a := range to {
		var c net.Conn
		if c, err = dial(ctx, namespace, a); err == nil {
			return c, nil
		}
		if !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.EAFNOSUPPORT) {
			break
		}
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return nil, err
}

func dial(ctx context.Context, namespace string, to netip.AddrPort) (net.Conn, error) {
	sock := -1
	begin := func() (err error) {
		sock, err = beginConnect(to)
		return err
	}
	enter := func(fn func() error) error { return inside(namespace, fn) }
	if namespace == "" {
		enter = func(fn func() error) error { return fn() }
	}
	if err := enter(begin); err != nil {
		return nil, fmt.Errorf("connect to %s: %w", to, err)
	}
	file := os.NewFile(uintptr(sock), to.String())
	conn, err := net.FileConn(file)
	file.Close() // conn has its own
	if err != nil {
		return nil, err
	}
	if err := awaitConnect(ctx, conn); err != nil {
		conn.Close()
		return nil, fmt.Errorf("connect to %s: %w", to, err)
	}
	return conn, nil
}

// beginConnect makes a socket in the thread's network namespace and begins to
// connect it.
func beginConnect(to netip.AddrPort) (int, error) {
	family, addr := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(to.Port()), Addr: [4]byte{}})
	if ip := to.Addr().Unmap(); ip.Is4() {
		addr.(*unix.SockaddrInet4).Addr = ip.As4()
	} else {
		family, addr = unix.AF_INET6, &unix.SockaddrInet6{Port: int(to.Port()), Addr: ip.As16()}
	}
	sock, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Connect(sock, addr); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		unix.Close(sock)
		return -1, err
	}
	return sock, nil
}

// awaitConnect waits until a socket is connected, or cannot be.
func awaitConnect(ctx context.Context, conn net.Conn) error {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return fmt.Errorf("a %T is no TCP connection", conn)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // it fails only if the connection is closed
	defer stop()
	var failure error
	err = raw.Write(func(fd uintptr) bool {
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case err != nil:
			failure = err
			return true
		case code != 0:
			failure = unix.Errno(code)
			return true
		}
		_, err = unix.Getpeername(int(fd))
		return err == nil // else not yet: wait until it can be written to
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errors.Join(err, failure)
}
