package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"sync"
)

// errLinkLost is a connection that ended before the answer came.
var errLinkLost = errors.New("connection to the keeper lost")

// link is one connection to one keeper, with the calls under way on it.
type link struct {
	conn *Conn
	pid  int

	mu      sync.Mutex
	last    uint64
	pending map[uint64]waiting
	dead    bool
}

// waiting is who waits for an answer.
type waiting struct {
	ch    chan answer // nil: nobody any more
	first func(*answer)
}

type answer struct {
	Message
	files []*os.File
}

func newLink(c *Conn) *link {
	return &link{conn: c, pending: map[uint64]waiting{}}
}

// call sends a request and waits for its answer; receive must be running. The
// context ends the wait, not the deed. What first is for, it sees the answer
// before anything that follows it is handled, and also when nobody waits.
func (l *link) call(ctx context.Context, verb string, body any, first func(*answer), files []*os.File) (Message, []*os.File, error) {
	m, err := request(verb, body)
	if err != nil {
		return Message{}, nil, err
	}
	ch := make(chan answer, 1)
	l.mu.Lock()
	if l.dead {
		l.mu.Unlock()
		return Message{}, nil, errLinkLost
	}
	l.last++
	m.ID = l.last
	l.pending[m.ID] = waiting{ch, first}
	l.mu.Unlock()
	if err := l.conn.Send(m, files...); err != nil {
		l.forget(m.ID, false)
		if errors.Is(err, errProtocol) {
			return Message{}, nil, err
		}
		l.conn.Close() // half a frame may be out: receive ends and fails the others
		return Message{}, nil, errLinkLost
	}
	select {
	case a, ok := <-ch:
		if !ok {
			return Message{}, nil, errLinkLost
		}
		return a.Message, a.files, nil
	case <-ctx.Done():
		l.forget(m.ID, first != nil)
		select {
		case a := <-ch: // it came at the last moment
			closeAll(a.files)
		default:
		}
		return Message{}, nil, ctx.Err()
	}
}

// forget is for who does not wait any more; an answer that may come is expected.
func (l *link) forget(id uint64, expected bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w, ok := l.pending[id]
	if delete(l.pending, id); ok && expected {
		l.pending[id] = waiting{first: w.first}
	}
}

// receive hands out answers and pushes until the connection ends.
func (l *link) receive(push func(Message, []*os.File)) error {
	defer l.conn.CloseFiles()
	for {
		m, files, err := l.conn.Receive()
		if err != nil {
			return err
		}
		if m.ID == 0 {
			push(m, files)
			continue
		}
		a := answer{m, files}
		l.mu.Lock()
		w := l.pending[m.ID]
		delete(l.pending, m.ID)
		if w.first != nil {
			w.first(&a)
		}
		if w.ch != nil {
			w.ch <- a // never blocks; under the lock so that forget sees all or nothing
		}
		l.mu.Unlock()
		if w.ch == nil {
			closeAll(a.files)
		}
	}
}

// fail ends all calls under way.
func (l *link) fail(error) {
	l.conn.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = true
	for id, w := range l.pending {
		if w.ch != nil {
			close(w.ch)
		}
		delete(l.pending, id)
	}
}

// first is call before receive is running: part of the handshake.
func (l *link) first(verb string, body, reply any, push func(Message, []*os.File), files ...*os.File) error {
	m, err := request(verb, body)
	if err != nil {
		return err
	}
	l.last++
	m.ID = l.last
	if err := l.conn.Send(m, files...); err != nil {
		return err
	}
	for {
		a, got, err := l.conn.Receive()
		if err != nil {
			return err
		}
		if a.ID == 0 {
			push(a, got)
			continue
		}
		closeAll(got)
		if a.ID != m.ID {
			continue
		}
		if a.Error != nil {
			return a.Error.Err()
		}
		if reply == nil {
			return nil
		}
		return json.Unmarshal(a.Body, reply)
	}
}

func request(verb string, body any) (Message, error) {
	m := Message{Verb: verb}
	if body == nil {
		return m, nil
	}
	b, err := json.Marshal(body)
	if err != nil {
		return m, err
	}
	m.Body = b
	return m, nil
}
