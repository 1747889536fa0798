package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"gantry/runtime/keeper"
)

// Files of RUN/keeper/<id>.
const (
	recordFile = "bundle.json"
	exitFile   = "exit.json"
	pumpFile   = "pump" // see stdio.go
)

// watch waits for the end of the container's process, without a thread, and
// then tells it: first to the disk, then to the world.
func (c *container) watch() {
	if err := keeper.WaitPidfd(context.Background(), c.pidfd); err != nil {
		select {
		case <-c.leaving:
			return
		default:
			c.s.log.Error("wait for a container", "container", c.id, "error", err)
		}
	}
	c.s.turn.RLock()
	defer c.s.turn.RUnlock()
	c.finish(collect(c.proc, c.pidfd))
}

// collect takes the exit of a process that has ended. It must be told by its
// libcontainer process, if there is one, for that closes what belongs to it.
func collect(proc *libcontainer.Process, pidfd *os.File) keeper.Exit {
	if proc != nil {
		if state, _ := proc.Wait(); state != nil {
			if status, ok := state.Sys().(syscall.WaitStatus); ok {
				return exitOf(unix.WaitStatus(status))
			}
		}
	}
	return reap(pidfd)
}

// finish records an exit and ends what depends on the process.
func (c *container) finish(exit keeper.Exit) {
	if c.record.HostPid && c.cgroup != nil {
		// In a pid namespace that is not its own, the others outlive it.
		if err := killCgroup(c.cgroup); err != nil {
			c.s.log.Warn("kill what a container left", "container", c.id, "error", err)
		}
	}
	if c.cgroup != nil {
		if n, err := c.cgroup.OOMKillCount(); err == nil && n > 0 {
			exit.OOM = true
		}
	}
	if err := writeJSON(filepath.Join(c.dir(), exitFile), exit); err != nil {
		c.s.log.Error("journal an exit", "container", c.id, "error", err)
	}
	c.mu.Lock()
	oom := exit.OOM && !c.oom
	c.mu.Unlock()
	if c.io != nil {
		c.io.finish() // the log is complete and closed before anybody hears of the exit
	}
	c.mu.Lock()
	c.exit = &exit
	c.oom = c.oom || exit.OOM
	c.state = keeper.StateStopped
	if c.pidfd != nil {
		c.pidfd.Close()
		c.pidfd = nil
	}
	c.mu.Unlock()
	close(c.done)
	c.s.entrust([]keeper.Deposit{{ID: c.id, Drop: true}})
	if oom {
		c.s.tell(keeper.Event{Kind: keeper.OOM, ID: c.id})
	}
	c.s.tell(keeper.Event{Kind: keeper.Exited, ID: c.id, Exit: &exit})
}

// reap collects the exit of a process that has ended, of which there is only a
// pidfd. If it is a child of ours, we reap it. If another has it, the status
// can be read as long as it is a zombie, and of those whose pidfd was open in
// time the kernel remembers it afterwards (Linux 6.15). In the moment between
// the two, neither is so: it is asked again for a second.
func reap(pidfd *os.File) keeper.Exit {
	exit := keeper.Exit{Code: 255, At: time.Now()}
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return exit
	}
	var status unix.WaitStatus
	known := false
	err = raw.Control(func(fd uintptr) {
		for wait := time.Millisecond; wait < time.Second; wait *= 2 {
			for _, ask := range []func(int) (unix.WaitStatus, bool){waitid, zombieStatus, exitInfo} {
				if status, known = ask(int(fd)); known {
					return
				}
			}
			time.Sleep(wait)
		}
	})
	if err == nil && known {
		return exitOf(status)
	}
	return exit
}

// zombieStatus reads the exit status of a process that nobody has reaped yet:
// the last field of /proc/PID/stat (proc_pid_stat(5)).
func zombieStatus(fd int) (unix.WaitStatus, bool) {
	fdinfo, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	if err != nil {
		return 0, false
	}
	pid, err := pidField(fdinfo)
	if err != nil || pid <= 0 {
		return 0, false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	i := bytes.LastIndexByte(stat, ')') // the name before it may hold anything
	if i < 0 {
		return 0, false
	}
	fields := bytes.Fields(stat[i+1:])
	if len(fields) < 50 || string(fields[0]) != "Z" {
		return 0, false
	}
	code, err := strconv.Atoi(string(fields[49]))
	if err != nil {
		return 0, false
	}
	// Still there, so it was this one that was read and not a successor.
	if unix.PidfdSendSignal(fd, 0, nil, 0) != nil {
		return 0, false
	}
	return unix.WaitStatus(code), true
}

// waitid reaps the process if it is a child of ours (of a keeper that this one
// has replaced in place).
func waitid(fd int) (unix.WaitStatus, bool) {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PIDFD, fd, &info, unix.WEXITED|unix.WNOHANG, nil)
	if err != nil {
		return 0, false
	}
	// waitid(2) fills the union of siginfo_t with the members of SIGCHLD.
	child := (*struct {
		_           [16]byte
		pid, uid    int32
		status, pad int32
	})(unsafe.Pointer(&info))
	if child.pid == 0 {
		return 0, false
	}
	if info.Code == 1 { // CLD_EXITED
		return unix.WaitStatus(child.status << 8), true
	}
	return unix.WaitStatus(child.status), true
}

// pidfdInfoExit asks for the exit status in a pidfd's information.
const pidfdInfoExit = 1 << 3

func exitInfo(fd int) (unix.WaitStatus, bool) {
	info := unix.PidfdInfo{Mask: pidfdInfoExit}
	if err := unix.IoctlPidfdInfo(fd, &info); err != nil || info.Mask&pidfdInfoExit == 0 {
		return 0, false
	}
	return unix.WaitStatus(info.Exit_code), true
}

func exitOf(status unix.WaitStatus) keeper.Exit {
	exit := keeper.Exit{At: time.Now(), Known: true, Code: status.ExitStatus()}
	if status.Signaled() {
		exit.Signal = status.Signal()
		exit.Code = 128 + int(exit.Signal)
	}
	return exit
}

// writeJSON replaces a file in one step. It is not forced to disk: RUN is
// memory on most machines, and what it tells of, processes, does not outlive
// the machine either; a killed keeper loses nothing by that.
func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("decode %s: %w", path, err)
	}
	return nil
}

// sendSignal signals a process. That it has just ended is no error.
func sendSignal(pidfd *os.File, sig syscall.Signal) error {
	err := trySignal(pidfd, sig)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// owns says whether the process of a pidfd still has its number: until it has
// been collected, nobody else gets it.
func owns(pidfd *os.File) bool { return trySignal(pidfd, 0) == nil }

// hasEnded says whether the process of a pidfd has, collected or not.
func hasEnded(pidfd *os.File) bool {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return false
	}
	var n int
	closed := raw.Control(func(fd uintptr) { n, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0) })
	return closed != nil || n > 0
}

func trySignal(pidfd *os.File, sig syscall.Signal) error {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if raw.Control(func(fd uintptr) { inner = unix.PidfdSendSignal(int(fd), sig, nil, 0) }) != nil {
		return unix.ESRCH // its pidfd was closed meanwhile, which only its end does
	}
	return inner
}
