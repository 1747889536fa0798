package network

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

// TestProxyRoom: a published port that nobody calls takes no room from those
// that are called, however many there are.
func TestProxyRoom(t *testing.T) {
	backend, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := backend.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "hello")
			c.Close()
		}
	})
	to := netip.MustParseAddrPort(backend.Addr().String())
	x := newProxy(slog.New(slog.DiscardHandler), func(*published, netip.Addr) (netip.AddrPort, bool) { return to, true })
	x.room = make(chan struct{}, 1)
	var holders []*holder
	for range 4 {
		l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		h := &holder{tcp: l}
		holders = append(holders, h)
		x.serve(h, &published{})
	}
	for i, h := range slices.Backward(holders) { // the one that was there first is called last
		var d net.Dialer
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		c, err := d.DialContext(ctx, "tcp4", h.tcp.Addr().String())
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if b, err := io.ReadAll(c); err != nil || string(b) != "hello" {
			t.Errorf("port %d: %q, %v", i, b, err)
		}
		c.Close()
	}
	for _, h := range holders {
		h.close()
	}
	x.close()
	backend.Close()
	served.Wait()
}

// TestProxyTalkers: clients of an UDP port, whose addresses anybody may forge,
// cost little while they wait, and are bounded over all ports.
func TestProxyTalkers(t *testing.T) {
	backend, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer backend.Close()
	to := netip.MustParseAddrPort(backend.LocalAddr().String())
	x := newProxy(slog.New(slog.DiscardHandler), func(*published, netip.Addr) (netip.AddrPort, bool) { return to, true })
	x.talk = make(chan struct{}, 300)
	var holders []*holder
	for range 2 {
		in, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		h := &holder{udp: in}
		x.serve(h, &published{})
		holders = append(holders, h)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	buf := make([]byte, 100)
	heard := 0
	for i := range 400 {
		c, err := net.DialUDP("udp4", nil, holders[i%2].udp.LocalAddr().(*net.UDPAddr))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = c.Write([]byte("hello"))
		_ = backend.SetReadDeadline(time.Now().Add(5 * time.Second))
		if i >= 300 {
			_ = backend.SetReadDeadline(time.Now().Add(time.Millisecond))
		}
		n, from, err := backend.ReadFromUDPAddrPort(buf)
		if err != nil {
			continue
		}
		heard++
		_, _ = backend.WriteToUDPAddrPort(buf[:n], from)
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, err := c.Read(buf); err != nil || string(buf[:n]) != "hello" {
			t.Fatalf("client %d: %q, %v", i, buf[:n], err)
		}
	}
	for range 3 { // a pool is emptied by the second
		runtime.GC()
	}
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); heard != 300 || grown > 4<<20 {
		t.Errorf("%d clients were heard and cost %d bytes", heard, grown)
	}
	for _, h := range holders {
		h.close()
	}
	x.close()
}
