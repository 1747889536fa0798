package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"gantry/runtime"
	"gantry/runtime/logs"
)

// wsPeer is a websocket's client, by hand so that it can do wrong.
type wsPeer struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

const handshake = "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://localhost:80\r\n\r\n"

func dialWS(t *testing.T, host, path string) *wsPeer {
	t.Helper()
	conn, err := net.Dial("unix", strings.TrimPrefix(host, "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	p := &wsPeer{t, conn, bufio.NewReader(conn)}
	fmt.Fprintf(conn, handshake, path)
	resp, err := http.ReadResponse(p.in, nil)
	// The key and its answer are those of RFC 6455, section 1.3.
	if err != nil || resp.StatusCode != 101 || resp.Header.Get("Sec-Websocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Fatalf("got %+v, %v", resp, err)
	}
	return p
}

func (p *wsPeer) send(head byte, masked bool, body string) {
	b := []byte{head, 0}
	switch {
	case len(body) < 126:
		b[1] = byte(len(body))
	case len(body) < 1<<16:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	default:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, uint64(len(body)))
	}
	mask := []byte{0, 0, 0, 0}
	if masked {
		b[1] |= 0x80
		mask = []byte{1, 2, 3, 250}
		b = append(b, mask...)
	}
	for i := range len(body) {
		b = append(b, body[i]^mask[i&3])
	}
	_, _ = p.conn.Write(b)
}

// receive gives the next frame.
func (p *wsPeer) receive() (kind byte, body string) {
	p.t.Helper()
	var head [2]byte
	if _, err := io.ReadFull(p.in, head[:]); err != nil {
		p.t.Fatal(err)
	}
	if head[1]&0x80 != 0 || head[0]&0xf0 != 0x80 {
		p.t.Fatalf("a frame begins with %x", head)
	}
	size := int(head[1])
	if size == 126 {
		var long [2]byte
		_, _ = io.ReadFull(p.in, long[:])
		size = int(binary.BigEndian.Uint16(long[:]))
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(p.in, b); err != nil {
		p.t.Fatal(err)
	}
	return head[0] & 0xf, string(b)
}

func (p *wsPeer) wants(kind byte, body string) {
	p.t.Helper()
	if k, b := p.receive(); k != kind || b != body {
		p.t.Fatalf("got a frame of kind %d, %q; want %d, %q", k, b, kind, body)
	}
}

// echoTwice is a container that says again what it hears, on both of its streams.
func echoTwice(ctx context.Context, o runtime.AttachOptions) error {
	close(o.Attached)
	buf := make([]byte, 100_000)
	for o.Stdin != nil {
		n, err := o.Stdin.Read(buf)
		if n > 0 {
			for _, stream := range []logs.Stream{logs.Stdout, logs.Stderr} {
				head := frame(stream, n)
				if _, err := o.Out.Write(append(head[:], buf[:n]...)); err != nil {
					return err
				}
			}
		}
		if err != nil {
			break
		}
		if string(buf[:n]) == "end" {
			return nil
		}
	}
	<-ctx.Done()
	return ctx.Err()
}

func TestAttachByWebsocket(t *testing.T) {
	f := newFake()
	f.attach = echoTwice
	host := serve(t, Options{Engine: f})
	p := dialWS(t, host, "/containers/web/attach/ws?stream=1&stdin=1&stdout=1&stderr=1")
	p.send(0x82, true, "hello")
	p.wants(wsBinary, "hello")
	p.wants(wsBinary, "hello")
	// In pieces, with a ping between them.
	p.send(0x01, true, "one ")
	p.wants(wsBinary, "one ")
	p.wants(wsBinary, "one ")
	p.send(0x89, true, "are you there")
	p.wants(wsPong, "are you there")
	p.send(0x80, true, "message")
	p.wants(wsBinary, "message")
	p.wants(wsBinary, "message")
	p.send(0x8a, true, "a pong nobody asked for")
	big := strings.Repeat("x", 70_000)
	p.send(0x82, true, big)
	got := 0
	for got < 2*len(big) {
		kind, body := p.receive()
		if kind != wsBinary || strings.Trim(body, "x") != "" {
			t.Fatalf("got a frame of kind %d, %.20q", kind, body)
		}
		got += len(body)
	}
	p.send(0x82, true, "end")
	p.wants(wsBinary, "end")
	p.wants(wsBinary, "end")
	p.wants(wsClose, "\x03\xe8")
	if _, err := p.in.ReadByte(); err != io.EOF {
		t.Errorf("after the end: %v", err)
	}
}

func TestWebsocketGoesWithItsPeer(t *testing.T) {
	for name, leave := range map[string]func(p *wsPeer){
		"says goodbye": func(p *wsPeer) { p.send(0x88, true, "\x03\xe9bye"); p.wants(wsClose, "\x03\xe9") },
		"just leaves":  func(p *wsPeer) { p.conn.Close() },
	} {
		for _, stdin := range []string{"0", "1"} {
			f := newFake()
			left := make(chan struct{})
			f.attach = func(ctx context.Context, o runtime.AttachOptions) error {
				defer close(left)
				return echoTwice(ctx, o)
			}
			p := dialWS(t, serve(t, Options{Engine: f}), "/containers/web/attach/ws?stream=1&stdout=1&stdin="+stdin)
			leave(p)
			select {
			case <-left:
			case <-time.After(20 * time.Second):
				t.Fatalf("%s: the attach goes on", name)
			}
		}
	}
}

func TestWebsocketRefuses(t *testing.T) {
	f := newFake()
	f.attach = echoTwice
	host := serve(t, Options{Engine: f})
	for name, do := range map[string]func(p *wsPeer){
		"unmasked":          func(p *wsPeer) { p.send(0x82, false, "x") },
		"reserved bits":     func(p *wsPeer) { p.send(0xc2, true, "x") },
		"unknown kind":      func(p *wsPeer) { p.send(0x83, true, "x") },
		"unknown control":   func(p *wsPeer) { p.send(0x8b, true, "x") },
		"long ping":         func(p *wsPeer) { p.send(0x89, true, strings.Repeat("x", 126)) },
		"ping in pieces":    func(p *wsPeer) { p.send(0x09, true, "x") },
		"nothing to go on":  func(p *wsPeer) { p.send(0x80, true, "x") },
		"begins twice":      func(p *wsPeer) { p.send(0x02, true, ""); p.send(0x82, true, "") },
		"larger than it is": func(p *wsPeer) { p.conn.Write([]byte{0x82, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}) },
		"a negative size":   func(p *wsPeer) { p.conn.Write([]byte{0x82, 0xff, 255, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}) },
	} {
		p := dialWS(t, host, "/containers/web/attach/ws?stream=1&stdin=1&stdout=1")
		do(p)
		if kind, body := p.receive(); kind != wsClose || len(body) < 2 || (body[:2] != "\x03\xea" && body[:2] != "\x03\xf1") {
			t.Errorf("%s: got a frame of kind %d, %q", name, kind, body)
		}
	}
	for change, want := range map[[2]string]int{
		{"Upgrade: websocket", "Upgrade: h2c"}: 400, {"Version: 13", "Version: 8"}: 400, {"dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ="}: 400,
		{"http://localhost:80", "https://elsewhere.example"}: 403, {"/containers/web", "/containers/none"}: 404, {"x", "x"}: 101,
	} {
		conn, err := net.Dial("unix", strings.TrimPrefix(host, "unix://"))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, strings.Replace(fmt.Sprintf(handshake, "/containers/web/attach/ws?stream=1&stdout=1"), change[0], change[1], 1))
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != want {
			t.Errorf("%v: %+v, %v", change, resp, err)
		}
		conn.Close()
	}
}

func TestUnframed(t *testing.T) {
	var whole []byte
	for i, text := range []string{"", "one", "two three", strings.Repeat("x", 300)} {
		head := frame(logs.Stream(1+i%2), len(text))
		whole = append(append(whole, head[:]...), text...)
	}
	for piece := 1; piece < len(whole); piece++ {
		var out bytes.Buffer
		u := &unframed{w: &out}
		for at := 0; at < len(whole); at += piece {
			p := whole[at:min(at+piece, len(whole))]
			if n, err := u.Write(p); n != len(p) || err != nil {
				t.Fatal(n, err)
			}
		}
		if want := "onetwo three" + strings.Repeat("x", 300); out.String() != want {
			t.Fatalf("in pieces of %d: %q", piece, out.String())
		}
	}
}
