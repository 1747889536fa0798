package server

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"

	"gantry/runtime/keeper"
)

// guard is what the keeper needs to start a daemon again that died unasked.
type guard struct {
	keeper.Guard
	conn   *conn
	pidfd  *os.File
	mnt    *os.File          // the daemon's mount namespace: ours hides RUN/rootfs from the host
	cgroup map[string]string // the daemon's
	since  time.Time
}

func (g *guard) close() { closeAll([]*os.File{g.pidfd, g.mnt}) }

// A daemon that dies is started again at once, and later and later when it dies
// soon after its start.
const (
	restartMin  = 10 * time.Millisecond
	restartMax  = 30 * time.Second
	restartLong = 30 * time.Second // a life that long begins anew
)

// backOff is how long the next start waits, after a life and an earlier wait.
func backOff(earlier, lived time.Duration) time.Duration {
	if lived >= restartLong {
		return 0
	}
	return min(max(2*earlier, restartMin), restartMax)
}

func (s *Server) setGuard(r *request) error {
	return do(r, func(g keeper.Guard) error {
		if len(g.Args) == 0 {
			return keeper.Classed(errdefs.ErrInvalidArgument, errors.New("guard: no command"))
		}
		pidfd, err := r.take()
		if err != nil {
			return err
		}
		mnt, err := r.take()
		if err != nil {
			pidfd.Close()
			return err
		}
		next := &guard{Guard: g, conn: r.conn, pidfd: pidfd, mnt: mnt, since: time.Now()}
		if pid, err := pidOf(pidfd); err == nil {
			next.cgroup, _ = cgroups.ParseCgroupFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		}
		s.mu.Lock()
		old := s.guard
		s.guard = next
		s.mu.Unlock()
		if old != nil {
			old.close()
		}
		select {
		case s.guarded <- struct{}{}:
		default:
		}
		return nil
	})
}

func (s *Server) unguard() {
	s.mu.Lock()
	g := s.guard
	s.guard = nil
	s.mu.Unlock()
	if g != nil {
		g.close()
	}
}

// guardLeft is called when a connection has ended: if it was the guarded
// daemon's and that is dead, it is started again.
func (s *Server) guardLeft(c *conn) {
	s.mu.Lock()
	g := s.guard
	if g == nil || g.conn != c {
		s.mu.Unlock()
		return
	}
	s.guard = nil
	s.mu.Unlock()
	defer g.close()
	if err := keeper.WaitPidfd(s.ctx, g.pidfd); err != nil {
		return
	}
	for lived := time.Since(g.since); ; {
		s.mu.Lock()
		s.restartWait = backOff(s.restartWait, lived)
		wait := s.restartWait
		s.mu.Unlock()
		select {
		case <-time.After(wait):
		case <-s.ctx.Done():
			return
		}
		s.log.Warn("the daemon has died unasked; starting it again", "command", g.Args)
		began := time.Now()
		err := s.respawn(g)
		if err == nil {
			return // a daemon that came so far that it asked to be guarded has a guard of its own
		}
		s.log.Error("start the daemon again", "error", err)
		lived = time.Since(began)
	}
}

// respawn starts the daemon and waits until it has registered a guard of its
// own (nil) or has died without (an error).
func (s *Server) respawn(g *guard) error {
	// The daemon shall live in its cgroups from its first moment: what is
	// started is this program, which waits for the pipe to close (see after)
	// and then becomes the daemon.
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	defer w.Close()
	cmd := exec.Command("/proc/self/exe") //nolint:noctx // outlives this keeper: it starts the next
	cmd.Args = append([]string{"gantry-runtime", "after"}, g.Args...)
	cmd.ExtraFiles = []*os.File{r}
	cmd.Env = g.Env
	cmd.Dir = g.Dir
	if g.Log != "" {
		f, err := os.OpenFile(g.Log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		cmd.Stdout, cmd.Stderr = f, f
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	select {
	case <-s.guarded: // of an earlier daemon
	default:
	}
	if err := startIn(cmd, g.mnt); err != nil {
		return err
	}
	for controller, path := range g.cgroup {
		joinCgroup(controller, path, cmd.Process.Pid)
	}
	w.Close()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // as long as the daemon lives, which may be longer than us
	select {
	case err := <-ended:
		return fmt.Errorf("it ended: %w", errors.Join(err, errors.New("see its log")))
	case <-s.guarded:
		return nil
	case <-s.ctx.Done():
		return nil
	}
}

// startIn starts a command in another mount namespace. The thread that goes
// there does not come back: it ends with the goroutine.
func startIn(cmd *exec.Cmd, mnt *os.File) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			result <- os.NewSyscallError("unshare", err)
			return
		}
		if err := unix.Setns(int(mnt.Fd()), unix.CLONE_NEWNS); err != nil {
			result <- os.NewSyscallError("setns", err)
			return
		}
		result <- cmd.Start()
	}()
	return <-result
}

// joinCgroup moves a process into a cgroup of one hierarchy, if it is there.
func joinCgroup(controller, path string, pid int) {
	dir := filepath.Join("/sys/fs/cgroup", path)
	if !cgroups.IsCgroup2UnifiedMode() {
		root, err := cgroups.FindCgroupMountpoint("/", controller)
		if controller == "" {
			root, err = "/sys/fs/cgroup/unified", nil
		}
		if err != nil {
			return
		}
		dir = filepath.Join(root, path)
	}
	_ = os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, pid), 0)
}

// pidOf reads the process id a pidfd stands for.
func pidOf(pidfd *os.File) (int, error) {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return 0, err
	}
	var pid int
	var inner error
	err = raw.Control(func(fd uintptr) {
		var info unix.PidfdInfo
		info.Mask = unix.PIDFD_INFO_PID
		if inner = unix.IoctlPidfdInfo(int(fd), &info); inner == nil {
			pid = int(info.Pid)
			return
		}
		var b []byte
		if b, inner = os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd)); inner == nil {
			pid, inner = pidField(b)
		}
	})
	if err == nil {
		err = inner
	}
	return pid, err
}
