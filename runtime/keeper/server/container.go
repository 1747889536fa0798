package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"gantry/runtime/keeper"
	"gantry/runtime/rootfs"
)

// record is what a later keeper must know of a container, on disk as
// RUN/keeper/<id>/bundle.json before the first process of it exists. The
// specification is not in it: libcontainer keeps its own form.
type record struct {
	Version     int
	ID          string
	CreatedAt   time.Time
	StartedAt   time.Time `json:",omitzero"`
	Ready       bool      // the process waits to be started; without it, it is half made
	CgroupsPath string
	HostPid     bool `json:",omitempty"` // shares a pid namespace: its init does not take the others with it
	TTY         bool `json:",omitempty"`
	OpenStdin   bool `json:",omitempty"`
	StdinOnce   bool `json:",omitempty"`
	Log         keeper.LogSink
}

const recordVersion = 1

// container is one run of a container. See package keeper for its states; a
// container that is being made has state "" and is in no list.
type container struct {
	s  *Server
	id string

	op     sync.Mutex // held by the one call that changes its life
	making sync.Mutex // held while a process of it is made; see clone
	way    entrance   // for execs, under making; nil until the first, and where there is none

	mu      sync.Mutex
	record  record
	state   string
	made    bool // all is in its place; before that, only the call that makes it may look
	deleted bool
	lc      *libcontainer.Container
	proc    *libcontainer.Process // nil: a child of an earlier keeper
	cgroup  cgroups.Manager
	pid     int
	pidfd   *os.File    // nil once it has ended
	begun   atomic.Bool // executes its own program, as far as anybody has looked
	exit    *keeper.Exit
	oom     bool
	io      *stdio
	execs   map[string]*execution
	ended   []string      // ids of execs that have ended, oldest first
	done    chan struct{} // closed when stopped
	waiter  sync.WaitGroup
	pausing chan struct{} // closed while the container is being frozen; see clone
	// Of a process that ended unseen, deposited:
	orphan     *os.File // its pidfd
	outputHeld bool     // its FIFOs were held: nothing is lost that it wrote
	leaving    chan struct{}
}

func newContainer(s *Server, id string) *container {
	return &container{
		s: s, id: id, execs: map[string]*execution{},
		done: make(chan struct{}), leaving: make(chan struct{}), pausing: make(chan struct{}),
	}
}

func (c *container) dir() string    { return c.s.path("keeper", c.id) }
func (c *container) rootfs() string { return c.s.path("rootfs", c.id) }

func (c *container) isMade() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.made
}

func (c *container) status() keeper.Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.statusLocked()
}

func (c *container) statusLocked() keeper.Status {
	st := keeper.Status{
		ID: c.id, State: c.state, Pid: c.pid, TTY: c.record.TTY,
		CreatedAt: c.record.CreatedAt, StartedAt: c.record.StartedAt,
		Exit: c.exit, OOM: c.oom,
	}
	for id, e := range c.execs {
		if e.exit == nil {
			st.Execs = append(st.Execs, id)
		}
	}
	return st
}

// delete ends a container and removes all that was made for it.
func (s *Server) delete(id string) error {
	if err := keeper.CheckID(id); err != nil {
		return err
	}
	c, err := s.reserve(id)
	if err != nil {
		return err
	}
	defer c.op.Unlock()
	return c.destroy()
}

// destroy is delete with op held.
func (c *container) destroy() error {
	if err := c.kill(); err != nil {
		return fmt.Errorf("delete %s: %w", c.id, err)
	}
	if err := c.dismantle(); err != nil {
		return fmt.Errorf("delete %s: %w", c.id, err)
	}
	c.s.entrust([]keeper.Deposit{{ID: c.id, Drop: true}})
	c.s.forget(c)
	return nil
}

// killTime bounds the wait for killed processes: one in an uninterruptible
// sleep (a dead network filesystem) is not waited for for ever.
const killTime = 10 * time.Second

// kill ends every process and waits until they are gone.
func (c *container) kill() error {
	c.mu.Lock()
	pidfd, cg := c.pidfd, c.cgroup
	live := c.state != "" && c.state != keeper.StateStopped
	c.mu.Unlock()
	if cg != nil && (live || c.record.HostPid) {
		if err := c.killAll(cg, pidfd); err != nil {
			return err
		}
	}
	if !live {
		return nil
	}
	select {
	case <-c.done:
		return nil
	case <-time.After(killTime):
		return keeper.Classed(errdefs.ErrUnavailable, fmt.Errorf("process %d does not die (a filesystem it waits for may be gone)", c.pid))
	}
}

// dismantle removes what a dead container has left: everything that make made,
// in reverse, whether or not it is there.
func (c *container) dismantle() error {
	var errs []error
	if c.proc != nil && c.status().State == "" { // make failed behind its start
		_ = c.proc.Signal(unix.SIGKILL)
		_, _ = c.proc.Wait()
	}
	c.mu.Lock()
	execs := make([]*execution, 0, len(c.execs))
	for _, e := range c.execs {
		execs = append(execs, e)
	}
	c.mu.Unlock()
	for _, e := range execs {
		e.gone()
	}
	if c.lc != nil {
		if err := c.lc.Destroy(); err != nil {
			errs = append(errs, err)
		}
	} else if err := c.sweep(); err != nil {
		errs = append(errs, err)
	}
	c.s.leaveParents(c.record.CgroupsPath)
	if c.io != nil {
		c.io.close()
	}
	c.waiter.Wait()
	if err := rootfs.Unmount(c.rootfs()); err != nil {
		errs = append(errs, err)
	}
	if err := os.Remove(c.rootfs()); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	if len(errs) == 0 { // the record goes last: as long as it is there, the next keeper tries again
		if err := os.RemoveAll(c.dir()); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// release lets go of a container that outlives this keeper.
func (c *container) release() {
	close(c.leaving)
	c.mu.Lock()
	if c.pidfd != nil {
		_ = c.pidfd.SetReadDeadline(time.Now())
	}
	for _, e := range c.execs {
		if e.pidfd != nil {
			_ = e.pidfd.SetReadDeadline(time.Now())
		}
	}
	c.mu.Unlock()
	c.waiter.Wait()
	if c.io != nil {
		c.io.release()
	}
}

// wait waits for the end of the container or of one of its execs.
func (c *container) wait(ctx context.Context, execID string) (keeper.Exit, error) {
	done := c.done
	if execID != "" {
		e, err := c.exec(execID)
		if err != nil {
			return keeper.Exit{}, err
		}
		done = e.done
	}
	select {
	case <-done:
	case <-ctx.Done():
		return keeper.Exit{}, keeper.Classed(errdefs.ErrUnavailable, ctx.Err())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if execID != "" {
		e, ok := c.execs[execID]
		if !ok || e.exit == nil {
			return keeper.Exit{}, notFound("exec %s of container %s", execID, c.id)
		}
		return *e.exit, nil
	}
	if c.exit == nil {
		return keeper.Exit{}, notFound("container %s", c.id)
	}
	return *c.exit, nil
}

func notFound(format string, args ...any) error {
	return keeper.Classed(errdefs.ErrNotFound, fmt.Errorf("no "+format, args...))
}

// signal sends a signal to the container's first process or to an exec's.
func (c *container) signal(execID string, sig unix.Signal) error {
	pidfd, pid, begun, err := c.target(execID)
	if err != nil {
		return err
	}
	if execID == "" && sig == unix.SIGKILL {
		// A frozen process does not die of SIGKILL with cgroup v1.
		c.mu.Lock()
		cg := c.cgroup
		paused := c.state == keeper.StatePaused
		c.mu.Unlock()
		if err := sendSignal(pidfd, sig); err != nil {
			return fmt.Errorf("signal process %d: %w", pid, err)
		}
		if paused {
			return cg.Freeze(cgroups.Thawed)
		}
		return nil
	}
	if sig != unix.SIGKILL && begun != nil {
		awaitProgram(pid, pidfd, begun)
	}
	if err := sendSignal(pidfd, sig); err != nil {
		return fmt.Errorf("signal process %d: %w", pid, err)
	}
	return nil
}

// target gives the pidfd of a live process, and where is kept whether it
// executes its own program: nil while that is not to be waited for.
func (c *container) target(execID string) (pidfd *os.File, pid int, begun *atomic.Bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if execID == "" {
		if c.pidfd == nil {
			return nil, 0, nil, c.notRunning()
		}
		if c.state == keeper.StateRunning {
			begun = &c.begun
		}
		return c.pidfd, c.pid, begun, nil
	}
	e, ok := c.execs[execID]
	if !ok {
		return nil, 0, nil, notFound("exec %s of container %s", execID, c.id)
	}
	if e.exit != nil || e.pidfd == nil {
		return nil, 0, nil, keeper.Classed(errdefs.ErrFailedPrecondition, fmt.Errorf("exec %s has ended", execID))
	}
	if c.state == keeper.StateRunning {
		begun = &e.begun
	}
	return e.pidfd, e.pid, begun, nil
}

func (c *container) notRunning() error {
	return keeper.Classed(errdefs.ErrFailedPrecondition, fmt.Errorf("container %s is not running", c.id))
}

// unlessOver is an error of a call, or, where the process has ended meanwhile,
// that: it fails in as many ways as there are things to do to a process.
func (c *container) unlessOver(err error) error {
	pidfd, pid, _, gone := c.target("")
	if gone != nil || hasEnded(pidfd) {
		return c.notRunning()
	}
	// It gives its namespaces back a moment before its end is seen.
	if _, gone := os.Readlink(fmt.Sprintf("/proc/%d/ns/ipc", pid)); gone != nil {
		return c.notRunning()
	}
	return err
}

func (c *container) pause() error {
	c.op.Lock()
	defer c.op.Unlock()
	switch c.status().State {
	case keeper.StatePaused:
		return nil
	case keeper.StateRunning:
	default:
		return c.notRunning()
	}
	// Those that wait to make a process in it give up; the one that makes one
	// is waited for, for a time that clone bounds.
	c.mu.Lock()
	close(c.pausing)
	c.mu.Unlock()
	c.making.Lock()
	err := c.lc.Pause()
	if err == nil {
		c.setState(keeper.StateRunning, keeper.StatePaused)
	}
	c.mu.Lock()
	c.pausing = make(chan struct{})
	c.mu.Unlock()
	c.making.Unlock()
	if err != nil {
		return c.unlessOver(fmt.Errorf("pause %s: %w", c.id, err))
	}
	return nil
}

func (c *container) resume() error {
	c.op.Lock()
	defer c.op.Unlock()
	switch c.status().State {
	case keeper.StateRunning:
		return nil
	case keeper.StatePaused:
	default:
		return c.notRunning()
	}
	if err := c.lc.Resume(); err != nil && !errors.Is(err, libcontainer.ErrNotPaused) {
		return c.unlessOver(fmt.Errorf("resume %s: %w", c.id, err))
	}
	c.setState(keeper.StatePaused, keeper.StateRunning)
	return nil
}

func (c *container) setState(from, to string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == from {
		c.state = to
	}
}

func (c *container) processes() ([]int, error) {
	c.mu.Lock()
	cg, live := c.cgroup, c.pidfd != nil
	c.mu.Unlock()
	if cg == nil || !live {
		return nil, c.notRunning()
	}
	pids, err := cg.GetAllPids()
	if err != nil {
		return nil, fmt.Errorf("processes of %s: %w", c.id, err)
	}
	return pids, nil
}

func (c *container) resize(execID string, w, h uint16) error {
	c.mu.Lock()
	io := c.io
	c.mu.Unlock()
	if execID != "" {
		e, err := c.exec(execID)
		if err != nil {
			return err
		}
		return e.resize(w, h)
	}
	if io == nil || !c.record.TTY {
		return keeper.Classed(errdefs.ErrFailedPrecondition, fmt.Errorf("container %s has no terminal", c.id))
	}
	return io.resize(w, h)
}
