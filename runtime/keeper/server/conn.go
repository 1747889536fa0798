package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"

	"gantry/runtime/keeper"
)

// maxOutbox bounds what waits for a client that does not read; it is cut off
// then, and finds everything again when it comes back.
const maxOutbox = 64 << 10

// conn is one client. A request has a goroutine of its own, so that a wait or
// a slow start delays nobody; everything sent goes through one outbox, so
// that no container ever waits for a client and an answer never overtakes the
// descriptors that belong to it.
type conn struct {
	s    *Server
	wire *keeper.Conn
	ctx  context.Context // ends with the connection
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu     sync.Mutex
	wake   *sync.Cond
	outbox []parcel
	resume bool // it has lost a keeper
	told   bool // the handshake is over: pushes are wanted
	ending bool // send what is there, then close
	dead   bool
	bare   atomic.Bool // a client of version 1, which gets deposits as messages only

	stdin map[string]bool // containers whose input it attached; for the reading goroutine and handlers, under mu
}

type parcel struct {
	keeper.Message
	files []*os.File // owned
}

func newConn(s *Server, sock *net.UnixConn) *conn {
	c := &conn{s: s, wire: keeper.NewConn(sock), stdin: map[string]bool{}}
	c.wake = sync.NewCond(&c.mu)
	c.ctx, c.stop = context.WithCancel(s.ctx)
	return c
}

func (c *conn) serve() {
	c.wg.Go(c.send)
	for {
		m, files, err := c.wire.Receive()
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				c.s.log.Warn("connection of a client", "error", err)
			}
			break
		}
		if ordered[m.Verb] {
			c.handle(m, files)
		} else {
			c.wg.Go(func() { c.handle(m, files) })
		}
	}
	c.wire.Close() // whatever ended it: the client is not to wait for answers
	c.wire.CloseFiles()
	c.stop()
	c.kill()
	c.s.mu.Lock()
	delete(c.s.conns, c)
	c.s.mu.Unlock()
	c.wg.Wait()
	c.s.left(c)
}

// ordered are the verbs of the handshake, and those whose order matters to
// the client that sends them: they are handled before the next frame is read.
var ordered = map[string]bool{
	keeper.VerbHello: true, keeper.VerbDeposit: true, keeper.VerbSettled: true,
	keeper.VerbHold: true, keeper.VerbDrop: true, keeper.VerbGuard: true, keeper.VerbGoodbye: true,
}

func (c *conn) handle(m keeper.Message, files []*os.File) {
	r := &request{conn: c, body: m.Body, files: files}
	var body any
	var err error
	if m.Error == nil {
		body, err = c.s.dispatch(m.Verb, r)
	} else { // it came without its descriptors
		err = m.Error.Err()
	}
	closeAll(r.files)
	answer := keeper.Message{ID: m.ID}
	if err == nil && body != nil {
		answer.Body, err = json.Marshal(body)
	}
	if err != nil {
		closeAll(r.out)
		r.out = nil
		answer.Body = nil
		answer.Error = keeper.Fail(err)
	}
	c.post(parcel{answer, r.out}, true)
	if r.after != nil {
		r.after()
	}
}

// request is one call under way.
type request struct {
	*conn
	body  json.RawMessage
	files []*os.File // received; what is left is closed after the call
	out   []*os.File // to be sent with the answer; owned
	after func()     // runs once the answer is on its way
}

func (r *request) decode(into any) error {
	if err := json.Unmarshal(r.body, into); err != nil {
		return keeper.Classed(errdefs.ErrInvalidArgument, fmt.Errorf("malformed request: %w", err))
	}
	return nil
}

// take gives the next received descriptor to the caller.
func (r *request) take() (*os.File, error) {
	if len(r.files) == 0 {
		return nil, keeper.Classed(errdefs.ErrInvalidArgument, errors.New("a descriptor is missing"))
	}
	f := r.files[0]
	r.files = r.files[1:]
	return f, nil
}

// push queues something the client has not asked for.
func (c *conn) push(verb string, body any, files ...*os.File) {
	b, err := json.Marshal(body)
	if err != nil {
		c.s.log.Error("encode a message", "verb", verb, "error", err)
		return
	}
	p := parcel{Message: keeper.Message{Verb: verb, Body: b}}
	for _, f := range files {
		d, err := keeper.Dup(f)
		if err != nil {
			c.s.log.Error("copy a descriptor", "error", err)
			closeAll(p.files)
			return
		}
		p.files = append(p.files, d)
	}
	c.post(p, false)
}

func (c *conn) post(p parcel, answer bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead || c.ending && !answer || !answer && !c.told {
		closeAll(p.files)
		return
	}
	if len(c.outbox) >= maxOutbox {
		c.s.log.Warn("a client does not read; cut off")
		closeAll(p.files)
		c.dead = true
		c.wire.Close()
		c.wake.Signal()
		return
	}
	c.outbox = append(c.outbox, p)
	c.wake.Signal()
}

func (c *conn) send() {
	for {
		c.mu.Lock()
		for len(c.outbox) == 0 && !c.dead && !c.ending {
			c.wake.Wait()
		}
		batch := c.outbox
		c.outbox = nil
		dead, ending := c.dead, c.ending
		c.mu.Unlock()
		for _, p := range batch {
			if !dead {
				if err := c.wire.Send(p.Message, p.files...); err != nil {
					dead = true
					c.wire.Close() // the reader ends, and kills the rest
				}
			}
			closeAll(p.files)
		}
		if dead {
			c.kill()
			return
		}
		if ending && len(batch) == 0 {
			c.wire.Close()
			return
		}
	}
}

// kill drops what has not been sent.
func (c *conn) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = true
	for _, p := range c.outbox {
		closeAll(p.files)
	}
	c.outbox = nil
	c.wake.Signal()
}

// drain lets what is queued go out and then closes the connection.
func (c *conn) drain() {
	c.mu.Lock()
	c.ending = true
	c.wake.Signal()
	c.mu.Unlock()
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}
