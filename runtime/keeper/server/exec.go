package server

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"gantry/runtime/keeper"
)

// keptExits is how many execs that have ended a container remembers: a health
// check is one every second, for months.
const keptExits = 128

// execution is a further process in a container. Its fields are guarded by the
// container's mu.
type execution struct {
	c      *container
	id     string
	pid    int
	pidfd  *os.File              // nil before the start and after the end
	begun  atomic.Bool           // as its container's
	proc   *libcontainer.Process // of libcontainer's own making
	master *os.File              // ours of a terminal, for resize; the caller has its own
	exit   *keeper.Exit
	done   chan struct{}
}

func (c *container) exec(id string) (*execution, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.execs[id]
	if !ok {
		return nil, notFound("exec %s of container %s", id, c.id)
	}
	return e, nil
}

// exec starts a process in a running container.
func (s *Server) exec(r *request) (any, error) {
	return call(r, func(q keeper.ExecCall) (keeper.ExecStarted, error) {
		if err := keeper.CheckID(q.ExecID); err != nil {
			return keeper.ExecStarted{}, err
		}
		c, err := s.find(q.ID)
		if err != nil {
			return keeper.ExecStarted{}, err
		}
		if !q.Unhurried {
			s.warmCgroups()
		}
		var stdio [3]*os.File
		for i := range stdio {
			if q.Has[i] {
				if stdio[i], err = r.take(); err != nil {
					return keeper.ExecStarted{}, err
				}
			}
		}
		defer closeAll(stdio[:])
		e, err := c.reserveExec(q.ExecID)
		if err != nil {
			return keeper.ExecStarted{}, err
		}
		master, err := e.start(q.ExecRequest, stdio)
		if err != nil {
			c.mu.Lock()
			delete(c.execs, q.ExecID)
			c.mu.Unlock()
			return keeper.ExecStarted{}, err
		}
		if master != nil {
			r.out = append(r.out, master)
		}
		e.entrust(r)
		return keeper.ExecStarted{Pid: e.pid}, nil
	})
}

// entrust hands the process's pidfd to all clients to hold, to the one that
// asked for the process with the answer. Its end is told after that.
func (e *execution) entrust(r *request) {
	whom := func(*conn) bool { return true }
	if pidfd, err := keeper.Dup(e.pidfd); err == nil && !r.bare.Load() {
		r.out = append(r.out, pidfd)
		whom = func(c *conn) bool { return c != r.conn }
	} else if err == nil {
		pidfd.Close()
	}
	e.c.s.entrustWhom(whom, []keeper.Deposit{{ID: e.c.id, ExecID: e.id, Kind: keeper.DepositPidfd, Pid: e.pid}}, e.pidfd)
	r.after = func() { e.c.waiter.Go(e.watch) }
}

func (c *container) reserveExec(id string) (*execution, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch c.state {
	case keeper.StateRunning:
	case keeper.StatePaused:
		return nil, c.paused()
	default:
		return nil, c.notRunning()
	}
	if _, ok := c.execs[id]; ok {
		return nil, keeper.Classed(errdefs.ErrAlreadyExists, fmt.Errorf("exec %s of container %s is there already", id, c.id))
	}
	e := &execution{c: c, id: id, done: make(chan struct{})}
	c.execs[id] = e
	return e, nil
}

func (c *container) paused() error {
	return keeper.Classed(errdefs.ErrFailedPrecondition, fmt.Errorf("container %s is paused: resume it first", c.id))
}

// start runs the process. It returns the caller's copy of a terminal's master.
func (e *execution) start(q keeper.ExecRequest, stdio [3]*os.File) (_ *os.File, err error) {
	c := e.c
	p, err := processOf(q.Process)
	if err != nil {
		return nil, err
	}
	if q.Process.User.Username != "" || len(q.GroupAdd) > 0 {
		root, err := os.OpenFile("/proc/"+strconv.Itoa(c.status().Pid)+"/root", unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return nil, c.notRunning()
		}
		err = resolveUser(p, q.Process, q.GroupAdd, root)
		root.Close()
		if err != nil {
			return nil, err
		}
	}
	withPrimaryGroup(p)
	var ours *os.File
	if q.TTY {
		var child *os.File
		if ours, child, err = consolePair(); err != nil {
			return nil, err
		}
		defer ours.Close()
		defer child.Close()
		p.ConsoleSocket = child
		if q.Width > 0 && q.Height > 0 {
			p.ConsoleWidth, p.ConsoleHeight = q.Width, q.Height
		}
	} else {
		for _, f := range stdio {
			if f == nil {
				continue
			}
			// Go makes its pipes non-blocking; programs do not expect that.
			if err := setBlocking(f); err != nil {
				return nil, err
			}
		}
		if stdio[0] != nil {
			p.Stdin = stdio[0]
		}
		if stdio[1] != nil {
			p.Stdout = stdio[1]
		}
		if stdio[2] != nil {
			p.Stderr = stdio[2]
		}
	}
	if err := c.clone(func() error { return e.enter(p, q.Unhurried) }); err != nil {
		return nil, c.unlessOver(startError(err, p.Cwd))
	}
	pidfd, err := keeper.OpenPidfd(e.pid)
	if err != nil {
		e.discard()
		return nil, err
	}
	var master, mine *os.File
	if q.TTY {
		if master, err = receiveConsole(ours); err == nil {
			mine, err = keeper.Dup(master)
		}
		if err != nil {
			e.discard()
			pidfd.Close()
			closeAll([]*os.File{master})
			return nil, fmt.Errorf("terminal: %w", err)
		}
	}
	c.mu.Lock()
	e.pidfd, e.master = pidfd, mine
	c.mu.Unlock()
	return master, nil
}

// entrance is a way into a container that costs less than libcontainer's own;
// see precompile/join.go.in.
type entrance interface {
	Enter(_ *libcontainer.Process, alone bool) (pid int, err error)
}

// enter makes the process. For one call at a time of each container.
func (e *execution) enter(p *libcontainer.Process, alone bool) (err error) {
	c := e.c
	if c.way == nil {
		if c.way, err = entranceOf(c.lc); err != nil {
			return err
		}
	}
	var pid int
	if c.way != nil {
		pid, err = c.way.Enter(p, alone)
	} else if err = c.lc.Start(p); err == nil {
		pid, err = p.Pid()
	}
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e.pid = pid // whoever fails next to be made knows by it that this one is not half made
	if c.way == nil {
		e.proc = p
	}
	return nil
}

// discard ends a process that nobody watches.
func (e *execution) discard() {
	if e.proc != nil {
		_ = e.proc.Signal(unix.SIGKILL)
		_, _ = e.proc.Wait()
		return
	}
	_ = unix.Kill(e.pid, unix.SIGKILL) // a child of ours: the number is its own
	_, _ = unix.Wait4(e.pid, nil, 0, nil)
}

// watch waits for the end of the process and tells it.
func (e *execution) watch() {
	if err := keeper.WaitPidfd(context.Background(), e.pidfd); err != nil {
		select {
		case <-e.c.leaving:
			return
		default:
			e.c.s.log.Error("wait for an exec", "container", e.c.id, "exec", e.id, "error", err)
		}
	}
	c := e.c
	c.s.turn.RLock()
	defer c.s.turn.RUnlock()
	exit := collect(e.proc, e.pidfd)
	c.mu.Lock()
	e.exit = &exit
	e.pidfd.Close()
	e.pidfd = nil
	if e.master != nil {
		e.master.Close()
		e.master = nil
	}
	e.proc = nil
	c.ended = append(c.ended, e.id)
	if len(c.ended) > keptExits {
		delete(c.execs, c.ended[0])
		c.ended = c.ended[1:]
	}
	c.mu.Unlock()
	close(e.done)
	c.s.entrustWhom(func(c *conn) bool { return c.bare.Load() }, []keeper.Deposit{{ID: c.id, ExecID: e.id, Drop: true}})
	c.s.tell(keeper.Event{Kind: keeper.ExecExited, ID: c.id, ExecID: e.id, Exit: &exit})
}

// gone ends an exec whose container is dismantled: with a pid namespace that
// is not the container's own, it may still live.
func (e *execution) gone() {
	e.c.mu.Lock()
	pidfd := e.pidfd
	e.c.mu.Unlock()
	if pidfd != nil {
		if err := sendSignal(pidfd, unix.SIGKILL); err != nil {
			e.c.s.log.Warn("kill an exec", "container", e.c.id, "exec", e.id, "error", err)
		}
	}
}

func (e *execution) resize(w, h uint16) error {
	e.c.mu.Lock()
	defer e.c.mu.Unlock()
	if e.master == nil {
		return keeper.Classed(errdefs.ErrFailedPrecondition, fmt.Errorf("exec %s has no terminal", e.id))
	}
	return setSize(e.master, w, h)
}

func setBlocking(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = unix.SetNonblock(int(fd), false) }); err != nil {
		return err
	}
	return inner
}
