package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Dial reaches what listens in a namespace, at the first address that does.
func TestDial(t *testing.T) {
	w := newWorld(t)
	w.network("lan")
	a := w.join("a", "lan")
	w.echo(a.Path, "a", 7)
	loopback := func(port int) netip.AddrPort { return netip.MustParseAddrPort(fmt.Sprintf("127.0.0.1:%d", port)) }
	own := netip.AddrPortFrom(addrOf(a), 7)

	for _, to := range [][]netip.AddrPort{{loopback(7)}, {own}, {loopback(8), netip.MustParseAddrPort("[::1]:8"), own}} {
		c, err := Dial(t.Context(), w.Namespace("a"), to...)
		w.must(err)
		said, err := io.ReadAll(c)
		w.must(errors.Join(err, c.Close()))
		if len(said) == 0 || said[0] != 'a' {
			t.Errorf("%v: %q", to, said)
		}
	}
	if _, err := Dial(t.Context(), w.Namespace("a"), loopback(8)); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("where nobody listens: %v", err)
	}
	if _, err := Dial(t.Context(), w.Namespace("nobody"), loopback(7)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("in no namespace: %v", err)
	}
}

// A peer that does not answer is waited for as long as is said.
func TestDialGivesUp(t *testing.T) {
	w := newWorld(t)
	w.network("lan")
	a := w.join("a", "lan")
	w.must(inside(a.Path, func() error { // whose queue is full
		full, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		w.Cleanup(func() { unix.Close(full) })
		return errors.Join(unix.Bind(full, &unix.SockaddrInet4{Port: 9}), unix.Listen(full, 0))
	}))
	to := netip.MustParseAddrPort("127.0.0.1:9")
	var got []net.Conn
	defer func() {
		for _, c := range got {
			c.Close()
		}
	}()
	for range 8 {
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		c, err := Dial(ctx, a.Path, to)
		cancel()
		if err == nil {
			got = append(got, c)
			continue
		}
		if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took < 150*time.Millisecond || took > 5*time.Second {
			t.Errorf("after %s: %v", took, err)
		}
		return
	}
	t.Error("every connection was taken")
}
