package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"gantry/runtime/keeper"
	"gantry/runtime/rootfs"
)

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
	c.s.endWriters(c.id)
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
		defer func() {
			if err := rootfs.Unmount(c.rootfs()); err != nil {
				c.s.log.Warn("a root filesystem stays mounted", "container", c.id, "error", err)
			}
		}()
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
	defer c.s.ownCgroup(c.record.CgroupsPath)()
	if c.lc, err = libcontainer.Create(c.s.path("libcontainer"), c.id, config); err != nil {
		return fmt.Errorf("create container: %w", err)
	}
	if err := c.clone(func() error { return c.lc.Start(process) }); err != nil {
		return startError(err, process.Cwd)
	}
	c.proc = process
	pid, err := process.Pid()
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.pid = pid
	c.mu.Unlock()
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
	// The map is libcontainer's own, and changes when it removes the cgroups.
	c.cgroup, err = cgroupManager(st.Config.Cgroups, maps.Clone(st.CgroupPaths))
	return err
}

// adopt begins to look after a live process.
func (c *container) adopt(state string, pidfd *os.File) {
	c.mu.Lock()
	c.state = state
	c.pidfd = pidfd
	c.made = true
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
	if err := c.hear(f); err != nil {
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

// hear waits for the word on its fifo with which the process goes to run.
func (c *container) hear(fifo *os.File) error {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	wg.Go(func() {
		select {
		case <-c.done:
			_ = fifo.SetReadDeadline(time.Now())
		case <-stop:
		}
	})
	var b [1]byte
	for {
		if c.proc == nil { // it may have been let go by a keeper that died in this moment
			_ = fifo.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		}
		_, err := io.ReadFull(fifo, b[:])
		switch {
		case err == nil:
			return nil
		case ended(c.done):
			// On a busy machine it may have run and ended before we came to
			// read; with a deadline in the past the poller does not even look.
			if wasWritten(fifo) {
				return nil
			}
			return err
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		case hasBegun(c.pid):
			return nil
		}
	}
}

// wasWritten takes what is in a fifo without waiting for it.
func wasWritten(fifo *os.File) bool {
	raw, err := fifo.SyscallConn()
	if err != nil {
		return false
	}
	var n int
	var b [1]byte
	err = raw.Control(func(fd uintptr) { n, _ = unix.Read(int(fd), b[:]) })
	return err == nil && n > 0
}

func ended(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// awaitProgram waits until a process executes the program it was made for. For
// a moment after its start it is still ours, and a signal would be taken by the
// Go in it, which ends with code 2 or does nothing.
func awaitProgram(pid int, pidfd *os.File, begun *atomic.Bool) {
	const atMost = 5 * time.Second // one that waits for its disk as long is past helping
	pause := 100 * time.Microsecond
	for end := time.Now().Add(atMost); !begun.Load() && time.Now().Before(end) && !hasEnded(pidfd); pause = min(2*pause, 10*time.Millisecond) {
		if hasBegun(pid) {
			begun.Store(true)
			return
		}
		time.Sleep(pause)
	}
}

// hasBegun says whether a container's process executes its own program and no
// longer ours.
func hasBegun(pid int) bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil || strings.HasPrefix(exe, sealedName) {
		return false
	}
	// Without the sealed copy, where memory may not be executed.
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && !bytes.HasSuffix(line, []byte("gantry-runtime\x00init\x00"))
}
