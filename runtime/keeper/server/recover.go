package server

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/system"
	"golang.org/x/sys/unix"

	"gantry/runtime/keeper"
	"gantry/runtime/rootfs"
)

// recover finds what earlier keepers have left: containers that live are
// looked after again, those that ended are remembered, and what was half made
// is removed, for nobody was told of it.
func (s *Server) recover() error {
	entries, err := os.ReadDir(s.path("keeper"))
	if err != nil {
		return err
	}
	known := map[string]bool{}
	var wg sync.WaitGroup
	for _, e := range entries {
		id := e.Name()
		if keeper.CheckID(id) != nil {
			continue
		}
		known[id] = true
		wg.Go(func() {
			c := newContainer(s, id)
			keep, err := c.recover()
			if err != nil {
				s.log.Error("recover a container; removing it", "container", id, "error", err)
			}
			if keep {
				c.made = true
				s.mu.Lock()
				s.containers[id] = c
				s.mu.Unlock()
				return
			}
			if err := c.dismantle(); err != nil {
				s.log.Error("remove the rest of a container", "container", id, "error", err)
			}
		})
	}
	wg.Wait()
	if err := s.sweepCgroups(known); err != nil {
		s.log.Error("sweep what nobody owns", "error", err)
	}
	for _, dir := range []string{"libcontainer", "rootfs"} {
		entries, err := os.ReadDir(s.path(dir))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if known[e.Name()] {
				continue
			}
			path := s.path(dir, e.Name())
			if dir == "rootfs" {
				err = errors.Join(rootfs.Unmount(path), os.Remove(path))
			} else {
				err = os.RemoveAll(path)
			}
			if err != nil {
				s.log.Error("remove what nobody owns", "path", path, "error", err)
			}
		}
	}
	return nil
}

// recover takes up one container; it says whether there is anything to keep.
func (c *container) recover() (bool, error) {
	if err := readJSON(filepath.Join(c.dir(), recordFile), &c.record); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			err = nil // it had not come so far
		}
		return false, err
	}
	if !c.record.Ready {
		return false, nil
	}
	var err error
	c.lc, err = libcontainer.Load(c.s.path("libcontainer"), c.id)
	if err != nil {
		c.lc = nil
		if errors.Is(err, libcontainer.ErrNotExist) {
			err = nil
		}
		return false, err
	}
	st, err := c.lc.State()
	if err != nil {
		return false, err
	}
	if c.cgroup, err = cgroupManager(st.Config.Cgroups, maps.Clone(st.CgroupPaths)); err != nil {
		return false, err
	}
	c.pid = st.InitProcessPid
	var exit keeper.Exit
	if err := readJSON(filepath.Join(c.dir(), exitFile), &exit); err == nil {
		c.exit, c.oom, c.state = &exit, exit.OOM, keeper.StateStopped
		close(c.done)
		return true, nil
	}
	if c.io, err = openStdio(c); err != nil {
		return true, err
	}
	pidfd, err := pidfdOf(st.InitProcessPid, st.InitProcessStartTime)
	if err != nil {
		if !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, unix.ESRCH) {
			c.s.log.Error("cannot look after a container's process; taking it for ended", "container", c.id, "pid", st.InitProcessPid, "error", err)
		}
		return true, nil //nolint:nilerr // it has ended; settle says how
	}
	status, err := c.lc.Status()
	if err != nil {
		pidfd.Close()
		return true, err
	}
	state := keeper.StateRunning
	if status == libcontainer.Paused {
		state = keeper.StatePaused
	}
	// The fifo goes when the process has been let go; a keeper may have died
	// just before it took it away. A process that has died meanwhile and whose
	// fifo is there never ran.
	fifo := c.s.path("libcontainer", c.id, "exec.fifo")
	if _, err := os.Stat(fifo); err == nil {
		if !hasBegun(c.pid) {
			state = keeper.StateCreated
		} else if err := os.Remove(fifo); err != nil {
			c.s.log.Warn("remove the fifo of a running container", "container", c.id, "error", err)
		}
	}
	if state != keeper.StateCreated && c.record.StartedAt.IsZero() {
		c.record.StartedAt = time.Now() // the last keeper died before it could write it down
	}
	if c.record.OpenStdin && !c.record.TTY {
		if f, err := openPollable(c.io.fifo("stdin"), os.O_WRONLY); err == nil {
			c.io.stdin = f
		}
	}
	c.mu.Lock()
	c.state, c.pidfd = state, pidfd
	c.mu.Unlock()
	if !c.record.TTY {
		c.io.recovered(false)
		c.io.run()
	}
	c.waiter.Go(c.watch)
	return true, nil
}

// pidfdOf opens a pidfd of the process that began at the given time (field 22
// of /proc/PID/stat); another one may have its number by now.
func pidfdOf(pid int, began uint64) (*os.File, error) {
	pidfd, err := keeper.OpenPidfd(pid)
	if err != nil {
		return nil, err
	}
	stat, err := system.Stat(pid)
	if err != nil || stat.StartTime != began || stat.State == system.Dead {
		pidfd.Close()
		return nil, os.ErrProcessDone
	}
	return pidfd, nil
}

// deposited takes a descriptor that the daemon has held for this container.
func (c *container) deposited(d keeper.Deposit, f *os.File) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case d.Kind == keeper.DepositConsole && c.io != nil && c.pidfd != nil:
		c.io.setMaster(f)
		return
	case d.Kind == keeper.DepositPidfd && d.ExecID == "" && c.state == "" && c.orphan == nil:
		c.orphan = f
		return
	case d.Kind == keeper.DepositStdout && c.state == "":
		// By its name we have had the same FIFO open since we began: that the
		// client had it too is why what was in it is still there.
		c.outputHeld = true
	case d.Kind == keeper.DepositPidfd && d.ExecID != "" && c.execs[d.ExecID] == nil && c.pidfd != nil:
		e := &execution{c: c, id: d.ExecID, pid: d.Pid, pidfd: f, done: make(chan struct{})}
		c.execs[d.ExecID] = e
		c.waiter.Go(e.watch)
		return
	}
	f.Close()
}

// settle is called when all deposits are in.
func (c *container) settle() {
	c.mu.Lock()
	state, orphan, held := c.state, c.orphan, c.outputHeld
	c.orphan = nil
	c.mu.Unlock()
	if c.io == nil {
		return
	}
	if state == "" {
		exit := keeper.Exit{Code: 255}
		if orphan != nil {
			exit = reap(orphan)
			orphan.Close()
		}
		c.io.recovered(!held)
		c.io.run()
		c.finish(exit)
		return
	}
	if c.record.TTY {
		c.io.recovered(false)
		c.io.run()
	}
}
