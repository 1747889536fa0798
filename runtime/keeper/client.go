package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Client is the daemon's hold on its keeper. It is safe for concurrent use.
//
// When the keeper dies, the client starts another one, gives it all that it
// holds, and sends again every call that was under way: they are idempotent.
// Only Exec and Attach are not repeated; they fail with ErrUnavailable, since
// nobody can tell whether the process was started. Calls made in between wait
// for the new keeper, or for their context.
type Client struct {
	opts Options
	log  *slog.Logger

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	events *eventQueue
	reap   sync.WaitGroup // of keepers this process started

	mu      sync.Mutex
	link    *link         // nil while no keeper is there
	changed chan struct{} // closed and replaced when link changes
	why     error         // why there is none
	closing bool          // Shutdown is under way: its end is no accident
	holds   map[string][]Parked
	kept    map[depositKey]kept
}

type depositKey struct{ id, exec, kind string }

type kept struct {
	Deposit
	file Parked
}

// Connect finds the keeper of o.Run, or starts one.
func Connect(ctx context.Context, o Options) (*Client, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.HandshakeTimeout == 0 {
		o.HandshakeTimeout = 10 * time.Second
	}
	if o.LogFile == "" {
		o.LogFile = filepath.Join(o.Run, "keeper.log")
	}
	if o.Program == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find gantry-runtime: %w", err)
		}
		o.Program = filepath.Join(filepath.Dir(self), "gantry-runtime")
	}
	c := &Client{
		opts:    o,
		log:     o.Log,
		events:  newEventQueue(),
		changed: make(chan struct{}),
		holds:   map[string][]Parked{},
		kept:    map[depositKey]kept{},
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	l, err := c.establish(ctx, false)
	if err != nil {
		c.cancel()
		c.events.close()
		c.reap.Wait()
		return nil, fmt.Errorf("connect to the keeper in %s: %w", o.Run, err)
	}
	c.setLink(l, nil)
	c.wg.Go(func() { c.serve(l) })
	return c, nil
}

// Close lets go of the keeper, which goes on with its containers. Descriptors
// in its store stay there.
func (c *Client) Close() error {
	c.cancel()
	c.mu.Lock()
	if c.link != nil {
		c.link.conn.Close()
	}
	c.mu.Unlock()
	c.wg.Wait()
	c.events.close()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, files := range c.holds {
		CloseParked(files)
	}
	for _, k := range c.kept {
		CloseParked([]Parked{k.file})
	}
	c.holds, c.kept = map[string][]Parked{}, map[depositKey]kept{}
	return nil
}

// Events delivers what happens without a call, in order. The channel is closed
// by Close. Nothing is lost when nobody reads for a while.
func (c *Client) Events() <-chan Event { return c.events.out }

// serve keeps a link: it handles what arrives, and when the keeper dies makes a
// new one.
func (c *Client) serve(l *link) {
	for {
		err := l.receive(c.push)
		c.setLink(nil, unavailable("the keeper has died"))
		l.fail(err)
		c.mu.Lock()
		asked := c.closing
		c.mu.Unlock()
		if asked || c.ctx.Err() != nil {
			return
		}
		c.log.Warn("the keeper has died; starting another", "error", err)
		c.events.add(Event{Kind: KeeperLost})
		for wait := time.Duration(0); ; wait = min(2*wait+50*time.Millisecond, 5*time.Second) {
			select {
			case <-time.After(wait):
			case <-c.ctx.Done():
				return
			}
			next, err := c.establish(c.ctx, true)
			if err == nil {
				l = next
				break
			}
			if c.ctx.Err() != nil {
				return
			}
			c.log.Error("cannot start a keeper", "error", err)
			c.setLink(nil, unavailable("no keeper: %v", err))
		}
		c.events.add(Event{Kind: KeeperBack})
		c.setLink(l, nil)
	}
}

// establish dials a keeper, starting one if need be, and gives it what this
// side holds. A connection may turn out to lead to a keeper that is just dying.
func (c *Client) establish(ctx context.Context, resume bool) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.HandshakeTimeout)
	defer cancel()
	for try := 0; ; try++ {
		l, err := c.handshake(ctx, resume)
		if err == nil || try == 3 || ctx.Err() != nil || !broken(err) {
			return l, err
		}
	}
}

// broken says whether err is a connection's end, rather than an answer.
func broken(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func (c *Client) handshake(ctx context.Context, resume bool) (_ *link, err error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer func() {
		if !stop() && err == nil {
			err = ctx.Err()
		}
		if err != nil {
			conn.Close()
			conn.CloseFiles()
		}
	}()
	l := newLink(conn)
	var w Welcome
	if err := l.first(VerbHello, Hello{Protocol: Protocol, Resume: resume}, &w, c.push); err != nil {
		return nil, fmt.Errorf("handshake: %w", err)
	}
	if w.Protocol != Protocol && w.Protocol != Protocol-1 {
		return nil, Classed(failedPrecondition, fmt.Errorf("the keeper (process %d) speaks version %d of the protocol, this daemon %d and the one before: stop its containers and end it, or run a matching daemon", w.Pid, w.Protocol, Protocol))
	}
	l.pid = w.Pid
	if err := c.deposit(l); err != nil {
		return nil, err
	}
	return l, nil
}

// deposit gives a keeper all that this client holds.
func (c *Client) deposit(l *link) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var batch []Deposit
	var parked []Parked
	send := func(verb string, body any, parked []Parked) error {
		files, err := Files(parked)
		if err != nil {
			return err
		}
		defer closeAll(files)
		return l.first(verb, body, nil, c.pushLocked, files...)
	}
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		err := send(VerbDeposit, batch, parked)
		batch, parked = nil, nil
		return err
	}
	for _, k := range c.kept {
		batch, parked = append(batch, k.Deposit), append(parked, k.file)
		if len(batch) == MaxFiles {
			if err := flush(); err != nil {
				return fmt.Errorf("deposit: %w", err)
			}
		}
	}
	if err := flush(); err != nil {
		return fmt.Errorf("deposit: %w", err)
	}
	for name, parked := range c.holds {
		if err := send(VerbHold, Name{name}, parked); err != nil {
			return fmt.Errorf("hold %s: %w", name, err)
		}
	}
	if c.opts.Guard != nil {
		if err := c.guard(l); err != nil {
			return fmt.Errorf("guard: %w", err)
		}
	}
	if err := l.first(VerbSettled, nil, nil, c.pushLocked); err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	return nil
}

func (c *Client) guard(l *link) error {
	pidfd, err := OpenPidfd(os.Getpid())
	if err != nil {
		return err
	}
	defer pidfd.Close()
	mnt, err := os.Open("/proc/self/ns/mnt")
	if err != nil {
		return err
	}
	defer mnt.Close()
	return l.first(VerbGuard, c.opts.Guard, nil, c.pushLocked, pidfd, mnt)
}

// push handles what the keeper says without being asked.
func (c *Client) push(m Message, files []*os.File) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pushLocked(m, files)
}

func (c *Client) pushLocked(m Message, files []*os.File) {
	switch m.Verb {
	case VerbEvent:
		var e Event
		if err := json.Unmarshal(m.Body, &e); err == nil {
			if key := (depositKey{e.ID, e.ExecID, DepositPidfd}); e.Kind == ExecExited {
				if k, ok := c.kept[key]; ok { // all there is of an exec
					CloseParked([]Parked{k.file})
					delete(c.kept, key)
				}
			}
			c.events.add(e)
		}
	case VerbReturn:
		var ds []Deposit
		if err := json.Unmarshal(m.Body, &ds); err == nil {
			files = c.keep(ds, files)
		}
	default:
		c.log.Debug("unknown message of the keeper", "verb", m.Verb)
	}
	closeAll(files)
}

// keep stores deposits and returns the files it did not take.
func (c *Client) keep(ds []Deposit, files []*os.File) []*os.File {
	for _, d := range ds {
		if d.Drop {
			for key, k := range c.kept {
				if key.id == d.ID && (d.ExecID == "" || key.exec == d.ExecID) && (d.Kind == "" || key.kind == d.Kind) {
					CloseParked([]Parked{k.file})
					delete(c.kept, key)
				}
			}
			continue
		}
		if len(files) == 0 {
			break
		}
		f := files[0]
		files = files[1:]
		parked, err := Park(f)
		f.Close()
		if err != nil {
			c.log.Warn("cannot hold a descriptor for the next keeper", "container", d.ID, "kind", d.Kind, "error", err)
			continue
		}
		key := depositKey{d.ID, d.ExecID, d.Kind}
		if old, ok := c.kept[key]; ok {
			CloseParked([]Parked{old.file})
		}
		c.kept[key] = kept{d, parked}
	}
	return files
}

func (c *Client) setLink(l *link, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l != nil && c.ctx.Err() != nil {
		l.conn.Close()
	}
	c.link, c.why = l, why
	close(c.changed)
	c.changed = make(chan struct{})
}

// current waits for a link.
func (c *Client) current(ctx context.Context) (*link, error) {
	for {
		c.mu.Lock()
		l, changed, why := c.link, c.changed, c.why
		c.mu.Unlock()
		if l != nil {
			return l, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), why)
		case <-c.ctx.Done():
			return nil, unavailable("the connection to the keeper is closed")
		}
	}
}

// call sends a request and decodes the answer into reply. A call that was
// under way when the keeper died is sent again to the next one if again is set.
func (c *Client) call(ctx context.Context, verb string, body, reply any, again bool, files ...*os.File) ([]*os.File, error) {
	return c.callFirst(ctx, verb, body, reply, again, nil, files...)
}

// callFirst is call for an answer with something in it that must be taken out
// before anything that follows is handled.
func (c *Client) callFirst(ctx context.Context, verb string, body, reply any, again bool, first func(*answer), files ...*os.File) ([]*os.File, error) {
	for {
		l, err := c.current(ctx)
		if err != nil {
			return nil, err
		}
		m, got, err := l.call(ctx, verb, body, first, files)
		if errors.Is(err, errLinkLost) {
			if again {
				c.await(l)
				continue
			}
			return nil, unavailable("%s: the keeper died before it answered", verb)
		}
		if err != nil {
			return nil, err
		}
		if m.Error != nil {
			closeAll(got)
			return nil, m.Error.Err()
		}
		if reply != nil {
			if err := json.Unmarshal(m.Body, reply); err != nil {
				closeAll(got)
				return nil, fmt.Errorf("answer to %s: %w", verb, err)
			}
		}
		return got, nil
	}
}

// await returns when l is no longer the current link: serve has noticed too.
func (c *Client) await(l *link) {
	for {
		c.mu.Lock()
		now, changed := c.link, c.changed
		c.mu.Unlock()
		if now != l {
			return
		}
		select {
		case <-changed:
		case <-c.ctx.Done():
			return
		}
	}
}

// Shutdown ends the keeper and closes the client. While containers are alive
// it is refused with ErrFailedPrecondition, unless forced: they go on then, and
// the next keeper finds them.
func (c *Client) Shutdown(ctx context.Context, force bool) error {
	c.mu.Lock()
	l := c.link
	c.closing = l != nil
	c.mu.Unlock()
	if l == nil {
		return unavailable("no keeper to shut down")
	}
	m, files, err := l.call(ctx, VerbShutdown, ShutdownCall{force}, nil, nil)
	closeAll(files)
	if err == nil && m.Error != nil {
		err = m.Error.Err()
	}
	if err != nil && !errors.Is(err, errLinkLost) {
		c.mu.Lock()
		c.closing = false
		c.mu.Unlock()
		return err
	}
	c.cancel()
	pid, err := OpenPidfd(l.pid)
	if err == nil {
		defer pid.Close()
		if err := WaitPidfd(ctx, pid); err != nil {
			return fmt.Errorf("wait for the keeper to end: %w", err)
		}
	}
	c.Close()
	c.reap.Wait()
	return nil
}
