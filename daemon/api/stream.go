package api

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/moby/moby/api/types"

	"gantry/runtime/logs"
)

// jsonLines answers with JSON values one by one, each on its way at once.
type jsonLines struct {
	w     http.ResponseWriter
	flush func() error
}

// beginLines sends the header of an answer of JSON values, so that the client
// knows that it has been heard before the first of them.
func beginLines(w http.ResponseWriter, contentType string) *jsonLines {
	l := &jsonLines{w: w, flush: http.NewResponseController(w).Flush}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(http.StatusOK)
	_ = l.flush()
	return l
}

func (l *jsonLines) send(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	if _, err := l.w.Write(append(text, '\n')); err != nil {
		return err
	}
	return l.flush()
}

// linesType picks the name of the format that the client asked for.
func linesType(r *http.Request) string {
	for _, accept := range r.Header.Values("Accept") {
		for _, kind := range []string{types.MediaTypeJSONLines, types.MediaTypeNDJSON} {
			if strings.Contains(accept, kind) {
				return kind
			}
		}
	}
	return types.MediaTypeJSON
}

// frame is the header of a piece of a multiplexed stream: the stream's number,
// three zeros and the length, big endian.
func frame(stream logs.Stream, length int) [8]byte {
	var h [8]byte
	h[0] = byte(stream)
	binary.BigEndian.PutUint32(h[4:], uint32(length))
	return h
}

// hijacked is a connection that a request has turned into a raw stream.
type hijacked struct {
	conn net.Conn
	in   *bufio.Reader
	// ctx ends when the peer is gone. A peer that only closed its writing side
	// (the end of stdin) is not.
	ctx    context.Context
	cancel context.CancelFunc

	watch sync.WaitGroup
	once  sync.Once
	heard sync.Once // the peer has read the header
}

// hijack takes the connection over and sends the header Docker's clients wait
// for: 101 if they asked to upgrade, else a 200 without a length.
func hijack(ctx context.Context, w http.ResponseWriter, r *http.Request, tty bool) (*hijacked, error) {
	kind := types.MediaTypeMultiplexedStream
	if tty || before(ctx, 42) {
		kind = types.MediaTypeRawStream
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if errors.Is(err, http.ErrNotSupported) {
		return nil, invalid("this connection cannot be upgraded: use HTTP/1.1")
	} else if err != nil {
		return nil, fmt.Errorf("take the connection over: %w", err)
	}
	if a, ok := w.(*answer); ok {
		a.taken = true
	}
	h := &hijacked{conn: conn, in: rw.Reader}
	// The request's context does not outlive a hijack of its connection.
	h.ctx, h.cancel = context.WithCancel(context.WithoutCancel(ctx))
	head := "HTTP/1.1 200 OK\r\nContent-Type: " + kind + "\r\n"
	if r.Header.Get("Upgrade") != "" {
		head = "HTTP/1.1 101 UPGRADED\r\nContent-Type: " + kind + "\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
	}
	for _, name := range []string{"Api-Version", "Docker-Experimental", "Ostype", "Server"} {
		head += name + ": " + w.Header().Get(name) + "\r\n"
	}
	if _, err := io.WriteString(conn, head+"\r\n"); err != nil {
		h.close()
		return nil, fmt.Errorf("answer: %w", err)
	}
	return h, nil
}

// Read gives what the peer sends. After its end the connection is watched for
// the peer's going away.
func (h *hijacked) Read(p []byte) (int, error) {
	n, err := h.in.Read(p)
	if err != nil {
		h.once.Do(func() {
			if !errors.Is(err, io.EOF) {
				h.cancel()
				return
			}
			h.watch.Add(1)
			go func() {
				defer h.watch.Done()
				if hungUp(h.conn) {
					h.cancel()
				}
			}()
		})
	}
	return n, err
}

// Write sends to the peer; a peer that is gone ends the stream.
func (h *hijacked) Write(p []byte) (int, error) {
	h.heard.Do(func() { untilRead(h.ctx, h.conn) })
	n, err := h.conn.Write(p)
	if err != nil {
		h.cancel()
	}
	return n, err
}

// drain reads and forgets what a peer sends that nobody listens to, so that
// its end is seen.
func (h *hijacked) drain() {
	h.watch.Add(1)
	go func() {
		defer h.watch.Done()
		_, _ = io.Copy(io.Discard, h)
	}()
}

// close ends the stream and waits for whoever still reads from it here.
func (h *hijacked) close() {
	if half, ok := h.conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	h.cancel()
	_ = h.conn.Close()
	h.watch.Wait()
}

// tell writes an error where the output would be, since the time for a status
// has passed.
func (h *hijacked) tell(err error, tty bool) {
	text := message(err) + "\r\n"
	if !tty {
		head := frame(logs.Stderr, len(text))
		text = string(head[:]) + text
	}
	_, _ = io.WriteString(h, text)
}

// headerPatience is how long the first word of a stream waits for its header to
// be read.
const headerPatience = 2 * time.Second

// untilRead waits until the peer has read all that was sent, or for a moment.
// docker-py reads the header through a buffer and the stream past it: what has
// arrived together with the header is lost to it, and commands here are faster
// than it reads. Where the kernel does not tell (TCP) there is no wait.
func untilRead(ctx context.Context, conn net.Conn) {
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return
	}
	raw, err := unixConn.SyscallConn()
	if err != nil {
		return
	}
	pause := 50 * time.Microsecond
	for end := time.Now().Add(headerPatience); time.Now().Before(end); {
		unread := 0
		err := raw.Control(func(fd uintptr) { unread, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
		if err != nil || unread == 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, 5*time.Millisecond)
	}
}

// hungUp waits until the peer of a connection has closed it altogether. It is
// false when this side was closed first, and where the kernel cannot tell (TCP
// shows the same for half a close; there a failing write ends the stream).
//
// The wait is the runtime's network poller's, so that it holds no thread: the
// function given to Read runs once at first and then at every edge.
func hungUp(conn net.Conn) bool {
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return false
	}
	raw, err := unixConn.SyscallConn()
	if err != nil {
		return false
	}
	gone := false
	err = raw.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd)}}
		if _, err := unix.Poll(fds, 0); err != nil {
			return false
		}
		gone = fds[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
		return gone
	})
	return err == nil && gone
}
