package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
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

	op sync.Mutex // held by the one call that changes its life

	mu      sync.Mutex
	record  record
	state   string
	deleted bool
	lc      *libcontainer.Container
	proc    *libcontainer.Process // nil: a child of an earlier keeper
	cgroup  cgroups.Manager
	pid     int
	pidfd   *os.File // nil once it has ended
	exit    *keeper.Exit
	oom     bool
	io      *stdio
	execs   map[string]*execution
	ended   []string      // ids of execs that have ended, oldest first
	done    chan struct{} // closed when stopped
	waiter  sync.WaitGroup
	orphan  *os.File // deposited pidfd of a process that ended unseen
	leaving chan struct{}
}

func newContainer(s *Server, id string) *container {
	return &container{s: s, id: id, execs: map[string]*execution{}, done: make(chan struct{}), leaving: make(chan struct{})}
}

func (c *container) dir() string    { return c.s.path("keeper", c.id) }
func (c *container) rootfs() string { return c.s.path("rootfs", c.id) }

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

// create makes a container, and starts it if asked to. A container that is
// there already is left as it is, but started if it was only created.
func (s *Server) create(b keeper.Bundle, start bool) (keeper.Status, error) {
	if err := keeper.CheckID(b.ID); err != nil {
		return keeper.Status{}, err
	}
	if b.Spec == nil || b.Spec.Process == nil || b.Spec.Linux == nil || len(b.Spec.Process.Args) == 0 {
		return keeper.Status{}, keeper.Classed(errdefs.ErrInvalidArgument, fmt.Errorf("create %s: incomplete specification", b.ID))
	}
	for {
		st, again, err := s.tryCreate(b, start)
		if !again {
			return st, err
		}
	}
}

// tryCreate is create, once. It says that it must be done again when an
// earlier keeper has left a process that died before it ran: the call that
// made it is this one, sent again.
func (s *Server) tryCreate(b keeper.Bundle, start bool) (st keeper.Status, again bool, err error) {
	c, err := s.reserve(b.ID)
	if err != nil {
		return st, false, err
	}
	defer c.op.Unlock()
	switch st = c.status(); {
	case st.State == "":
		if err := c.make(b); err != nil {
			s.forget(c)
			return keeper.Status{}, false, err
		}
	case st.State == keeper.StateStopped && st.StartedAt.IsZero():
		err := c.destroy()
		return keeper.Status{}, err == nil, err
	}
	if !start || c.status().State != keeper.StateCreated {
		return c.status(), false, nil
	}
	if err := c.letGo(); err != nil {
		undone := c.destroy()
		return keeper.Status{}, c.proc == nil && undone == nil, errors.Join(err, undone)
	}
	return c.status(), false, nil
}

// reserve gives the container of an id, new or not, with its op held.
func (s *Server) reserve(id string) (*container, error) {
	for {
		s.mu.Lock()
		c, ok := s.containers[id]
		if !ok {
			c = newContainer(s, id)
			s.containers[id] = c
		}
		s.mu.Unlock()
		c.op.Lock()
		if !c.isDeleted() {
			return c, nil
		}
		c.op.Unlock() // it went while we waited: the next one is another
	}
}

func (c *container) isDeleted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.deleted
}

func (s *Server) forget(c *container) {
	c.mu.Lock()
	c.deleted = true
	c.mu.Unlock()
	s.mu.Lock()
	if s.containers[c.id] == c {
		delete(s.containers, c.id)
	}
	s.mu.Unlock()
}

// make builds everything up to a process that waits for its start. If it
// fails, it leaves nothing.
func (c *container) make(b keeper.Bundle) (err error) {
	c.record = record{
		Version: recordVersion, ID: c.id, CreatedAt: time.Now(), CgroupsPath: b.Spec.Linux.CgroupsPath,
		HostPid: sharesPid(b.Spec), TTY: b.TTY, OpenStdin: b.OpenStdin, StdinOnce: b.StdinOnce, Log: b.Log,
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.dismantle())
		}
	}()
	c.s.warmCgroups()
	for _, dir := range []string{c.dir(), c.rootfs()} {
		if err := os.Mkdir(dir, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	if err := writeJSON(filepath.Join(c.dir(), recordFile), c.record); err != nil {
		return err
	}
	if len(b.Rootfs.Lower) > 0 {
		if err := b.Rootfs.Mount(c.rootfs()); err != nil {
			return fmt.Errorf("mount root filesystem: %w", err)
		}
		// Once the process has its root, this mount has served: what stays is
		// the container's own, and the keeper's table does not grow.
		defer rootfs.Unmount(c.rootfs())
		root := *b.Spec
		b.Spec = &root
		b.Spec.Root = rootOf(root.Root, c.rootfs())
	}
	if b.Spec.Root == nil || b.Spec.Root.Path == "" {
		return keeper.Classed(errdefs.ErrInvalidArgument, errors.New("no root filesystem"))
	}
	process, err := initProcess(b)
	if err != nil {
		return err
	}
	if c.io, err = openStdio(c); err != nil {
		return fmt.Errorf("standard streams: %w", err)
	}
	child, err := c.io.forChild()
	if err != nil {
		return fmt.Errorf("standard streams: %w", err)
	}
	defer child.close()
	child.give(process)

	config, err := configOf(b.Spec, c.id)
	if err != nil {
		return err
	}
	if err := c.s.filters.add(config.Seccomp); err != nil {
		return err
	}
	c.s.ownCgroup(c.record.CgroupsPath)
	if c.lc, err = libcontainer.Create(c.s.path("libcontainer"), c.id, config); err != nil {
		return fmt.Errorf("create container: %w", err)
	}
	if err := c.s.clone(func() error { return c.lc.Start(process) }); err != nil {
		return startError(err)
	}
	c.proc = process
	if c.pid, err = process.Pid(); err != nil {
		return err
	}
	pidfd, err := keeper.OpenPidfd(c.pid)
	if err != nil {
		return err
	}
	if c.record.TTY {
		if err := c.io.console(child.console); err != nil {
			pidfd.Close()
			return fmt.Errorf("terminal: %w", err)
		}
		if b.Width > 0 && b.Height > 0 {
			_ = setSize(c.io.master, b.Width, b.Height)
		}
	}
	if err := c.manage(); err != nil {
		pidfd.Close()
		return err
	}
	c.record.Ready = true
	if err := writeJSON(filepath.Join(c.dir(), recordFile), c.record); err != nil {
		pidfd.Close()
		return err
	}
	c.adopt(keeper.StateCreated, pidfd)
	return nil
}

// manage gets a hand on the container's cgroups.
func (c *container) manage() error {
	st, err := c.lc.State()
	if err != nil {
		return err
	}
	c.cgroup, err = cgroupManager(st.Config.Cgroups, st.CgroupPaths)
	return err
}

// adopt begins to look after a live process.
func (c *container) adopt(state string, pidfd *os.File) {
	c.mu.Lock()
	c.state = state
	c.pidfd = pidfd
	c.mu.Unlock()
	ds, files := c.deposits()
	c.s.entrust(ds, files...)
	c.io.run()
	c.waiter.Go(c.watch)
}

// start lets a created container go.
func (c *container) start() (keeper.Status, error) {
	c.op.Lock()
	defer c.op.Unlock()
	switch st := c.status(); st.State {
	case keeper.StateRunning, keeper.StatePaused:
		return st, nil
	case keeper.StateStopped:
		return st, keeper.Classed(errdefs.ErrFailedPrecondition, fmt.Errorf("start %s: it has ended: delete and create it again", c.id))
	}
	if err := c.letGo(); err != nil {
		return keeper.Status{}, err
	}
	return c.status(), nil
}

// letGo opens the exec fifo, on which the container's first process waits.
// Opened for both directions it neither blocks nor sees an end before the
// other side came, so no thread is spent and the wait can be ended.
func (c *container) letGo() error {
	path := c.s.path("libcontainer", c.id, "exec.fifo")
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("start %s: %w", c.id, err)
	}
	defer f.Close()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-c.done:
			_ = f.SetReadDeadline(time.Now())
		case <-stop:
		}
	})
	var b [1]byte
	for {
		if c.proc == nil { // it may have been let go by a keeper that died in this moment
			_ = f.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		}
		if _, err = io.ReadFull(f, b[:]); err == nil || ended(c.done) || !errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if c.hasBegun() {
			err = nil
			break
		}
	}
	close(stop)
	wg.Wait()
	if err != nil {
		if ended(c.done) {
			return &keeper.StartError{Code: 128, Err: fmt.Errorf("start %s: its process died before it ran", c.id)}
		}
		return fmt.Errorf("start %s: %w", c.id, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	c.mu.Lock()
	c.record.StartedAt = time.Now()
	if c.state == keeper.StateCreated {
		c.state = keeper.StateRunning
	}
	rec := c.record
	c.mu.Unlock()
	return writeJSON(filepath.Join(c.dir(), recordFile), rec)
}

func ended(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// hasBegun says whether the container's process executes its own program and
// no longer ours.
func (c *container) hasBegun() bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", c.pid))
	if err != nil || strings.HasPrefix(exe, sealedName) {
		return false
	}
	// Without the sealed copy, where memory may not be executed.
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", c.pid))
	return err == nil && !bytes.HasSuffix(line, []byte("gantry-runtime\x00init\x00"))
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
	pidfd, pid, err := c.target(execID)
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
	if err := sendSignal(pidfd, sig); err != nil {
		return fmt.Errorf("signal process %d: %w", pid, err)
	}
	return nil
}

// target gives the pidfd of a live process.
func (c *container) target(execID string) (*os.File, int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if execID == "" {
		if c.pidfd == nil {
			return nil, 0, c.notRunning()
		}
		return c.pidfd, c.pid, nil
	}
	e, ok := c.execs[execID]
	if !ok {
		return nil, 0, notFound("exec %s of container %s", execID, c.id)
	}
	if e.exit != nil || e.pidfd == nil {
		return nil, 0, keeper.Classed(errdefs.ErrFailedPrecondition, fmt.Errorf("exec %s has ended", execID))
	}
	return e.pidfd, e.pid, nil
}

func (c *container) notRunning() error {
	return keeper.Classed(errdefs.ErrFailedPrecondition, fmt.Errorf("container %s is not running", c.id))
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
	if err := c.lc.Pause(); err != nil {
		return fmt.Errorf("pause %s: %w", c.id, err)
	}
	c.setState(keeper.StateRunning, keeper.StatePaused)
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
		return fmt.Errorf("resume %s: %w", c.id, err)
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
