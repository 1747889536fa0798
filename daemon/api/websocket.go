package api

import (
	"bufio"
	"context"
	"crypto/sha1" //nolint:gosec // what RFC 6455 asks for; it protects nothing
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// A websocket (RFC 6455) for attach, server side: what the container writes
// goes out in binary messages, what comes in in messages of any kind and length
// is input. Nothing is kept of a message: its size bounds no memory.

// websocketGUID is RFC 6455's, section 1.3.
const websocketGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

// Kinds of frames, section 5.2, and reasons to close, section 7.4.
const (
	wsContinuation = 0x0
	wsText         = 0x1
	wsBinary       = 0x2
	wsClose        = 0x8
	wsPing         = 0x9
	wsPong         = 0xA

	wsNormal        = 1000
	wsProtocolError = 1002
	wsTooBig        = 1009

	// maxFrame is more than any terminal sends at once.
	maxFrame = 16 << 20
	// wsChunk is what is sent in one message.
	wsChunk = 32 << 10
)

// containerAttachWS is containerAttach over a websocket. Its messages are the
// bytes of the streams, without frames of their own to tell them apart.
func (s *server) containerAttachWS(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	if err := checkWebsocket(r); err != nil {
		return err
	}
	if before(ctx, 42) { // all streams, whatever was asked for
		u := *r.URL
		u.RawQuery += "&stdin=1&stdout=1&stderr=1"
		r = r.Clone(ctx)
		r.URL = &u
	}
	return s.attach(ctx, w, r, hijackWebsocket, true)
}

// checkWebsocket says what is wrong with a request to speak it.
func checkWebsocket(r *http.Request) error {
	key, err := base64.StdEncoding.DecodeString(r.Header.Get("Sec-Websocket-Key"))
	switch {
	case !hasToken(r.Header, "Connection", "upgrade"), !hasToken(r.Header, "Upgrade", "websocket"):
		return invalid("this is a websocket: it takes a request to upgrade (Connection: Upgrade, Upgrade: websocket)")
	case r.Header.Get("Sec-Websocket-Version") != "13":
		return invalid("websocket version %q is not supported: 13 is", r.Header.Get("Sec-Websocket-Version"))
	case err != nil || len(key) != 16:
		return invalid("Sec-WebSocket-Key is not 16 bytes in base64")
	}
	// A page of some other site, in a browser that has a certificate for this
	// daemon, must not get into a container with it.
	if origin := r.Header.Get("Origin"); origin != "" {
		if u, err := url.Parse(origin); err != nil || !strings.EqualFold(u.Hostname(), hostname(r.Host)) {
			return forbidden("websocket: the origin %q is not this host", origin)
		}
	}
	return nil
}

func hostname(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return hostport
}

// hasToken looks for a word in a header that is a list.
func hasToken(h http.Header, name, token string) bool {
	for _, line := range h.Values(name) {
		if slices.ContainsFunc(strings.Split(line, ","), func(t string) bool { return strings.EqualFold(strings.TrimSpace(t), token) }) {
			return true
		}
	}
	return false
}

// hijackWebsocket takes the connection over as a websocket.
func hijackWebsocket(ctx context.Context, w http.ResponseWriter, r *http.Request, _ bool) (*hijacked, error) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if errors.Is(err, http.ErrNotSupported) {
		return nil, invalid("this connection cannot be upgraded: use HTTP/1.1")
	} else if err != nil {
		return nil, fmt.Errorf("take the connection over: %w", err)
	}
	if a, ok := w.(*answer); ok {
		a.taken = true
	}
	ws := &websocket{Conn: conn, in: rw.Reader}
	h := &hijacked{conn: ws, in: bufio.NewReader(ws)}
	h.ctx, h.cancel = context.WithCancel(context.WithoutCancel(ctx))
	sum := sha1.Sum([]byte(r.Header.Get("Sec-Websocket-Key") + websocketGUID)) //nolint:gosec // as above
	head := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Accept: " + base64.StdEncoding.EncodeToString(sum[:]) + "\r\n\r\n"
	if _, err := io.WriteString(conn, head); err != nil {
		h.close()
		return nil, fmt.Errorf("answer: %w", err)
	}
	return h, nil
}

// websocket is a connection whose reads and writes are the content of messages.
type websocket struct {
	net.Conn
	in *bufio.Reader

	left  int64 // of the frame being read
	mask  [4]byte
	at    int  // in the mask
	inMsg bool // the message goes on in the next frame

	writing sync.Mutex // a pong may come between two messages
	closed  bool       // a close frame was sent
}

var errWebsocketClosed = errors.New("the websocket was closed")

// Read gives what the next data frames hold. A peer that closes is gone: unlike
// a raw stream a websocket has no half.
func (ws *websocket) Read(p []byte) (int, error) {
	for ws.left == 0 {
		if err := ws.next(); err != nil {
			return 0, err
		}
	}
	n, err := ws.in.Read(p[:min(int64(len(p)), ws.left)])
	for i := range n {
		p[i] ^= ws.mask[ws.at&3]
		ws.at++
	}
	ws.left -= int64(n)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// next reads the head of the next data frame, and answers control frames.
func (ws *websocket) next() error {
	var head [2]byte
	if _, err := io.ReadFull(ws.in, head[:]); err != nil {
		return errWebsocketClosed
	}
	// Said before more is read: what is not masked may end here.
	if head[1]&0x80 == 0 {
		return ws.fail(wsProtocolError, "a client masks its frames")
	}
	final, kind := head[0]&0x80 != 0, head[0]&0x0f
	size := int64(head[1] & 0x7f)
	extended := 0
	switch size {
	case 126:
		extended = 2
	case 127:
		extended = 8
	}
	var rest [8 + 4]byte
	if _, err := io.ReadFull(ws.in, rest[:extended+4]); err != nil {
		return errWebsocketClosed
	}
	switch extended {
	case 2:
		size = int64(binary.BigEndian.Uint16(rest[:]))
	case 8:
		size = int64(binary.BigEndian.Uint64(rest[:])) //nolint:gosec // a negative one is refused below
	}
	control := kind >= wsClose
	switch {
	case head[0]&0x70 != 0:
		return ws.fail(wsProtocolError, "extensions were not agreed on")
	case control && (!final || size > 125):
		return ws.fail(wsProtocolError, "a control frame is short and in one piece")
	case !control && ws.inMsg != (kind == wsContinuation), kind > wsBinary && kind < wsClose, kind > wsPong:
		return ws.fail(wsProtocolError, "a frame of an unexpected kind")
	case size < 0 || size > maxFrame:
		return ws.fail(wsTooBig, fmt.Sprintf("a frame has at most %d bytes", maxFrame))
	}
	ws.mask, ws.at = [4]byte(rest[extended:extended+4]), 0
	if !control {
		ws.left, ws.inMsg = size, !final
		return nil
	}
	var payload [125]byte
	body := payload[:size]
	if _, err := io.ReadFull(ws.in, body); err != nil {
		return errWebsocketClosed
	}
	for i := range body {
		body[i] ^= ws.mask[i&3]
	}
	switch kind {
	case wsPing:
		return ws.frame(wsPong, body)
	case wsClose:
		if len(body) >= 2 {
			body = body[:2] // the reason comes back without its words
		}
		_ = ws.goodbye(body)
		return errWebsocketClosed
	}
	return nil
}

// fail tells the peer what it did wrong, and ends.
func (ws *websocket) fail(code uint16, text string) error {
	_ = ws.goodbye(append(binary.BigEndian.AppendUint16(nil, code), text...))
	return fmt.Errorf("websocket: %s", text)
}

// frame sends one frame in one write.
func (ws *websocket) frame(kind byte, body []byte) error {
	ws.writing.Lock()
	defer ws.writing.Unlock()
	if ws.closed {
		return errWebsocketClosed
	}
	return ws.send(kind, body)
}

func (ws *websocket) send(kind byte, body []byte) error {
	b := make([]byte, 0, len(body)+4)
	b = append(b, 0x80|kind)
	if len(body) < 126 {
		b = append(b, byte(len(body)))
	} else {
		b = binary.BigEndian.AppendUint16(append(b, 126), uint16(len(body)))
	}
	_, err := ws.Conn.Write(append(b, body...))
	return err
}

// farewell is how long a goodbye may take: a peer that reads nothing is not
// waited for.
const farewell = time.Second

// goodbye sends the last frame.
func (ws *websocket) goodbye(body []byte) error {
	_ = ws.SetWriteDeadline(time.Now().Add(farewell))
	ws.writing.Lock()
	defer ws.writing.Unlock()
	if ws.closed {
		return nil
	}
	ws.closed = true
	return ws.send(wsClose, body)
}

func (ws *websocket) Write(p []byte) (int, error) {
	for done := 0; ; {
		n := min(len(p)-done, wsChunk)
		if n == 0 {
			return done, nil
		}
		if err := ws.frame(wsBinary, p[done:done+n]); err != nil {
			return done, err
		}
		done += n
	}
}

// CloseWrite says that nothing more will come.
func (ws *websocket) CloseWrite() error {
	return ws.goodbye(binary.BigEndian.AppendUint16(nil, wsNormal))
}

// unframed takes the headers off Docker's multiplexed stream, which come in
// any pieces.
type unframed struct {
	w    io.Writer
	head []byte
	left uint32
}

func (u *unframed) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		if u.left > 0 {
			n := min(len(p), int(u.left))
			if _, err := u.w.Write(p[:n]); err != nil {
				return total - len(p), err
			}
			u.left -= uint32(n) //nolint:gosec // at most left
			p = p[n:]
			continue
		}
		n := min(len(p), 8-len(u.head))
		u.head = append(u.head, p[:n]...)
		p = p[n:]
		if len(u.head) == 8 {
			u.left, u.head = binary.BigEndian.Uint32(u.head[4:]), u.head[:0]
		}
	}
	return total, nil
}
