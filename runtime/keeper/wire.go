package keeper

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// The wire is a unix stream socket. A frame is its length (four bytes,
// big-endian), then that many bytes of JSON: one [Message]. Descriptors travel
// as SCM_RIGHTS with the first byte of the frame that counts them in Files.

const (
	// Protocol is the version both sides say in the handshake. A side speaks
	// to its own version and the one before. From version 2 on, the answer to
	// exec carries the deposit of its process, and an exec that has exited
	// takes its deposits along, so that they need no messages of their own.
	Protocol = 2
	// maxFrame bounds what a broken peer can make the other side allocate.
	maxFrame = 16 << 20
	// MaxFiles is the most descriptors one frame carries (SCM_MAX_FD).
	MaxFiles = 253
)

// Message is one frame. A request has an ID and a Verb, its answer the same ID
// and no Verb, a push (an event) a Verb and no ID.
type Message struct {
	ID    uint64          `json:",omitempty"`
	Verb  string          `json:",omitempty"`
	Body  json.RawMessage `json:",omitempty"`
	Error *Failure        `json:",omitempty"`
	Files int             `json:",omitempty"`
}

// errProtocol is a peer that does not speak as it should. The stream cannot be
// trusted after it.
var errProtocol = errors.New("keeper protocol violated")

// Conn sends and receives messages. Send may be called from many goroutines,
// Receive from one.
type Conn struct {
	sock *net.UnixConn

	wmu sync.Mutex

	buf   []byte // received and not yet parsed, from r on
	r     int
	oob   []byte
	files []*os.File // received and not yet claimed by a frame
	lost  bool       // of the last ones, some could not be received
}

// NewConn wraps a connected socket.
func NewConn(c *net.UnixConn) *Conn { return &Conn{sock: c} }

// Close ends the connection; a blocked Receive returns.
func (c *Conn) Close() error { return c.sock.Close() }

// CloseFiles closes what was received and never claimed. For the receiving
// goroutine, once Receive has failed.
func (c *Conn) CloseFiles() {
	closeAll(c.files)
	c.files = nil
}

// Send writes one frame. Files stay the caller's; nil ones are not allowed.
func (c *Conn) Send(m Message, files ...*os.File) error {
	if len(files) > MaxFiles {
		return fmt.Errorf("send %s: %d descriptors in one message: %w", m.Verb, len(files), errProtocol)
	}
	m.Files = len(files)
	frame, err := appendFrame(nil, m)
	if err != nil {
		return err
	}
	c.wmu.Lock()
	defer c.wmu.Unlock()
	n := 0
	if len(files) > 0 {
		n, err = c.sendWithFiles(frame, files)
		if err != nil {
			return err
		}
	}
	_, err = c.sock.Write(frame[n:])
	return err
}

// sendWithFiles writes the beginning of a frame together with its descriptors.
// The raw descriptors are read under Control, since File.Fd would put a pipe
// that both processes share into blocking mode.
func (c *Conn) sendWithFiles(frame []byte, files []*os.File) (int, error) {
	fds := make([]int, 0, len(files))
	var write func(i int) (int, error)
	write = func(i int) (n int, err error) {
		if i == len(files) {
			n, _, err = c.sock.WriteMsgUnix(frame, unix.UnixRights(fds...), nil)
			return n, err
		}
		raw, err := files[i].SyscallConn()
		if err != nil {
			return 0, err
		}
		var inner error
		err = raw.Control(func(fd uintptr) {
			fds = append(fds, int(fd))
			n, inner = write(i + 1)
		})
		if err == nil {
			err = inner
		}
		return n, err
	}
	return write(0)
}

// errNoRoom is what a message that had descriptors says when this process has
// no room for them. The stream is sound, and the next message may be.
var errNoRoom = Classed(errdefs.ErrResourceExhausted, errors.New("the process is out of descriptors: raise its limit (ulimit -n)"))

// Receive reads one frame. The caller owns the files. When these could not be
// received, the message has an Error and none.
func (c *Conn) Receive() (Message, []*os.File, error) {
	for {
		m, n, err := parseFrame(c.buf[c.r:])
		if err != nil {
			return Message{}, nil, err
		}
		if n > 0 {
			c.r += n
			if m.Files > len(c.files) && c.lost {
				c.CloseFiles()
				c.lost = false
				m.Error = Fail(errNoRoom)
				return m, nil, nil
			}
			if m.Files > len(c.files) {
				return Message{}, nil, fmt.Errorf("%w: %d descriptors announced, %d received", errProtocol, m.Files, len(c.files))
			}
			files := c.files[:m.Files:m.Files]
			c.files = c.files[m.Files:]
			return m, files, nil
		}
		if err := c.fill(); err != nil {
			return Message{}, nil, err
		}
	}
}

// fill receives more bytes, and descriptors if some come with them. The kernel
// ends a read behind the descriptors it delivers, so they arrive in the order
// of their frames and no later than their frame's first byte.
func (c *Conn) fill() error {
	if c.r > 0 {
		c.buf = c.buf[:copy(c.buf, c.buf[c.r:])]
		c.r = 0
	}
	if len(c.buf) == 0 && cap(c.buf) > 64<<10 {
		c.buf = nil // one large frame shall not cost memory for ever
	}
	if cap(c.buf)-len(c.buf) < 4<<10 {
		grown := make([]byte, len(c.buf), max(2*cap(c.buf), 16<<10))
		copy(grown, c.buf)
		c.buf = grown
	}
	if c.oob == nil {
		c.oob = make([]byte, unix.CmsgSpace(4*MaxFiles))
	}
	n, oobn, flags, _, err := c.sock.ReadMsgUnix(c.buf[len(c.buf):cap(c.buf)], c.oob)
	if oobn > 0 {
		files, perr := parseFiles(c.oob[:oobn])
		c.files = append(c.files, files...)
		if perr != nil {
			return perr
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if n == 0 {
		if len(c.buf) > 0 {
			return io.ErrUnexpectedEOF
		}
		return io.EOF
	}
	if flags&unix.MSG_CTRUNC != 0 {
		c.lost = true
	}
	c.buf = c.buf[:len(c.buf)+n]
	return nil
}

// parseFiles takes the descriptors out of a control message. They have
// close-on-exec set by the read.
func parseFiles(oob []byte) ([]*os.File, error) {
	scms, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("%w: control message: %w", errProtocol, err)
	}
	var files []*os.File
	for _, scm := range scms {
		if scm.Header.Level != unix.SOL_SOCKET || scm.Header.Type != unix.SCM_RIGHTS {
			continue
		}
		fds, err := unix.ParseUnixRights(&scm)
		if err != nil {
			return files, fmt.Errorf("%w: descriptors: %w", errProtocol, err)
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

// appendFrame appends the frame of m to b.
func appendFrame(b []byte, m Message) ([]byte, error) {
	body, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", m.Verb, err)
	}
	if len(body) > maxFrame {
		return nil, fmt.Errorf("encode %s: %d bytes in one message, at most %d", m.Verb, len(body), maxFrame)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	return append(b, body...), nil
}

// parseFrame reads the frame b begins with and says how many bytes it took; 0
// when b does not hold all of it yet.
func parseFrame(b []byte) (Message, int, error) {
	if len(b) < 4 {
		return Message{}, 0, nil
	}
	size := binary.BigEndian.Uint32(b)
	if size == 0 || size > maxFrame {
		return Message{}, 0, fmt.Errorf("%w: frame of %d bytes", errProtocol, size)
	}
	if uint32(len(b)-4) < size {
		return Message{}, 0, nil
	}
	var m Message
	if err := json.Unmarshal(b[4:4+size], &m); err != nil {
		return Message{}, 0, fmt.Errorf("%w: %w", errProtocol, err)
	}
	if m.Files < 0 || m.Files > MaxFiles || (m.ID == 0 && m.Verb == "") {
		return Message{}, 0, fmt.Errorf("%w: malformed message", errProtocol)
	}
	return m, 4 + int(size), nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}
