package server

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sort"
	"sync"

	"github.com/containerd/errdefs"

	"gantry/runtime/keeper"
)

// demanding are the verbs that keep a processor busy, and of which many come
// at once.
var demanding = map[string]bool{
	keeper.VerbCreate: true, keeper.VerbRun: true, keeper.VerbStart: true, keeper.VerbDelete: true,
}

// dispatch does what a request asks and gives the answer's body.
func (s *Server) dispatch(verb string, r *request) (answer any, err error) {
	defer func() {
		if p := recover(); p != nil {
			// The parent of every container must not die of one request.
			s.log.Error("panic", "verb", verb, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("%s: internal error: %v", verb, p)
		}
	}()
	switch verb {
	case keeper.VerbWait, keeper.VerbShutdown, keeper.VerbUpgrade, keeper.VerbArchive:
		// They wait, or take the turn for themselves.
	default:
		s.turn.RLock()
		defer s.turn.RUnlock()
	}
	if demanding[verb] {
		s.breadth.widen()
	}
	switch verb {
	case keeper.VerbHello:
		return s.hello(r)
	case keeper.VerbDeposit:
		return nil, s.deposit(r)
	case keeper.VerbSettled:
		return nil, s.settle(r)
	case keeper.VerbCreate:
		return call(r, func(b keeper.Bundle) (keeper.Status, error) { return s.create(b, false) })
	case keeper.VerbRun:
		return call(r, func(b keeper.Bundle) (keeper.Status, error) { return s.create(b, true) })
	case keeper.VerbStart:
		return on(s, r, func(c *container, _ keeper.Target) (keeper.Status, error) { return c.start() })
	case keeper.VerbExec:
		return s.exec(r)
	case keeper.VerbSignal:
		return nil, do(r, func(q keeper.SignalCall) error {
			c, err := s.find(q.ID)
			if err != nil {
				return err
			}
			return c.signal(q.ExecID, q.Signal)
		})
	case keeper.VerbPause:
		return on(s, r, func(c *container, _ keeper.Target) (any, error) { return nil, c.pause() })
	case keeper.VerbResume:
		return on(s, r, func(c *container, _ keeper.Target) (any, error) { return nil, c.resume() })
	case keeper.VerbUpdate:
		return nil, do(r, func(q keeper.UpdateCall) error {
			c, err := s.find(q.ID)
			if err != nil {
				return err
			}
			return c.update(q.Resources)
		})
	case keeper.VerbResize:
		return nil, do(r, func(q keeper.ResizeCall) error {
			c, err := s.find(q.ID)
			if err != nil {
				return err
			}
			return c.resize(q.ExecID, q.Width, q.Height)
		})
	case keeper.VerbStats:
		return call(r, s.stats)
	case keeper.VerbWait:
		return on(s, r, func(c *container, t keeper.Target) (keeper.Exit, error) { return c.wait(r.ctx, t.ExecID) })
	case keeper.VerbDelete:
		return nil, do(r, func(t keeper.Target) error { return s.delete(t.ID) })
	case keeper.VerbList:
		return s.list(), nil
	case keeper.VerbAttach:
		return nil, s.attach(r)
	case keeper.VerbNoStdin:
		return on(s, r, func(c *container, _ keeper.Target) (any, error) {
			r.conn.mu.Lock()
			delete(r.conn.stdin, c.id)
			r.conn.mu.Unlock()
			return nil, c.closeStdin()
		})
	case keeper.VerbProcess:
		return on(s, r, func(c *container, _ keeper.Target) ([]int, error) { return c.processes() })
	case keeper.VerbHold:
		return nil, s.hold(r)
	case keeper.VerbHeld:
		return nil, s.held(r)
	case keeper.VerbNames:
		return s.heldNames(), nil
	case keeper.VerbDrop:
		return nil, do(r, func(n keeper.Name) error { s.drop(n.Name); return nil })
	case keeper.VerbGuard:
		return nil, s.setGuard(r)
	case keeper.VerbGoodbye:
		s.unguard()
		return nil, nil
	case keeper.VerbArchive:
		return s.archive(r)
	case keeper.VerbShutdown:
		return nil, s.shutdown(r)
	case keeper.VerbUpgrade:
		return nil, s.upgrade(r)
	}
	return nil, keeper.Classed(errdefs.ErrNotImplemented, fmt.Errorf("this keeper does not know the verb %q: it is older than the daemon", verb))
}

// call decodes a request and answers it.
func call[Q, A any](r *request, f func(Q) (A, error)) (any, error) {
	var q Q
	if err := r.decode(&q); err != nil {
		return nil, err
	}
	a, err := f(q)
	if err != nil {
		return nil, err
	}
	return a, nil
}

// do is call without an answer.
func do[Q any](r *request, f func(Q) error) error {
	var q Q
	if err := r.decode(&q); err != nil {
		return err
	}
	return f(q)
}

// on is call for what concerns one container.
func on[A any](s *Server, r *request, f func(*container, keeper.Target) (A, error)) (any, error) {
	return call(r, func(t keeper.Target) (A, error) {
		c, err := s.find(t.ID)
		if err != nil {
			var none A
			return none, err
		}
		return f(c, t)
	})
}

// hello answers the handshake.
func (s *Server) hello(r *request) (any, error) {
	return call(r, func(h keeper.Hello) (keeper.Welcome, error) {
		if h.Protocol != keeper.Protocol && h.Protocol != keeper.Protocol-1 && h.Protocol != keeper.Protocol+1 {
			return keeper.Welcome{}, keeper.Classed(errdefs.ErrFailedPrecondition,
				fmt.Errorf("the daemon speaks version %d of the protocol, this keeper %d: end the keeper once its containers are stopped", h.Protocol, keeper.Protocol))
		}
		r.resume = h.Resume
		r.bare.Store(h.Protocol < 2)
		program, _ := os.Readlink("/proc/self/exe")
		return keeper.Welcome{Protocol: min(h.Protocol, keeper.Protocol), Pid: os.Getpid(), Program: program}, nil
	})
}

// deposit takes what a client holds for containers of an earlier keeper.
func (s *Server) deposit(r *request) error {
	return do(r, func(ds []keeper.Deposit) error {
		if len(ds) != len(r.files) {
			return keeper.Classed(errdefs.ErrInvalidArgument, errors.New("a deposit needs one descriptor each"))
		}
		for _, d := range ds {
			f, err := r.take()
			if err != nil {
				return err
			}
			c, err := s.find(d.ID)
			if err != nil {
				f.Close() // of a container that is gone
				continue
			}
			c.deposited(d, f)
		}
		return nil
	})
}

// settle ends the handshake: what has not been deposited by now is lost. The
// client is handed everything there is to hold, and told of the exits it may
// have missed.
func (s *Server) settle(r *request) error {
	s.mu.Lock()
	first := !s.settled
	s.settled = true
	s.mu.Unlock()
	if first {
		for _, c := range s.all() {
			c.settle()
		}
	}
	conn := r.conn
	resume := r.resume
	r.after = func() {
		conn.mu.Lock()
		conn.told = true
		conn.mu.Unlock()
		for _, c := range s.all() {
			c.entrustTo(conn)
			if st := c.status(); resume && st.Exit != nil {
				conn.push(keeper.VerbEvent, keeper.Event{Kind: keeper.Exited, ID: c.id, Exit: st.Exit})
			}
		}
	}
	return nil
}

// left is called when a client's connection has ended.
func (s *Server) left(c *conn) {
	c.mu.Lock()
	var ids []string
	for id := range c.stdin {
		ids = append(ids, id)
	}
	c.mu.Unlock()
	if s.ctx.Err() != nil {
		return
	}
	for _, id := range ids {
		ct, err := s.find(id)
		if err == nil && ct.record.StdinOnce {
			_ = ct.closeStdin()
		}
	}
	s.guardLeft(c)
}

func (s *Server) list() []keeper.Status {
	cs := s.all()
	list := make([]keeper.Status, 0, len(cs))
	for _, c := range cs {
		if st := c.status(); st.State != "" {
			list = append(list, st)
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].ID < list[j].ID })
	return list
}

func (s *Server) stats(ids []string) (map[string]keeper.Stats, error) {
	var cs []*container
	if len(ids) == 0 {
		cs = s.all()
	}
	for _, id := range ids {
		if c, err := s.find(id); err == nil {
			cs = append(cs, c)
		}
	}
	all := make(map[string]keeper.Stats, len(cs))
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, runtime.NumCPU())
	for _, c := range cs {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			st, err := c.stats()
			if err != nil {
				s.log.Debug("stats", "container", c.id, "error", err)
				return
			}
			mu.Lock()
			all[c.id] = st
			mu.Unlock()
		})
	}
	wg.Wait()
	return all, nil
}

// shutdown ends the keeper.
func (s *Server) shutdown(r *request) error {
	return do(r, func(q keeper.ShutdownCall) error {
		if !q.Force {
			for _, c := range s.all() {
				if st := c.status(); st.Live() {
					return keeper.Classed(errdefs.ErrFailedPrecondition, fmt.Errorf("container %s is %s: stop it first", c.id, st.State))
				}
			}
		}
		s.unguard()
		r.after = s.quit
		return nil
	})
}
