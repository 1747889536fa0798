package server

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pidOne is the first process of a container that asked for an init: it runs a
// command, hands signals on to it, collects the processes that lose their
// parent, and ends as the command does.
func pidOne(args []string) int {
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "docker-init: no command")
		return 2
	}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	path, err := exec.LookPath(args[0])
	if err != nil {
		fmt.Fprintln(os.Stderr, "docker-init:", err)
		if errors.Is(err, os.ErrPermission) {
			return 126
		}
		return 127
	}
	attr := &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, 1, 2},
		Sys: &syscall.SysProcAttr{Setpgid: true},
	}
	if _, err := unix.IoctlGetTermios(0, unix.TCGETS); err == nil {
		attr.Sys.Foreground = true // of the terminal, or its Ctrl-C would reach only us
	}
	child, err := syscall.ForkExec(path, args, attr)
	if err != nil {
		fmt.Fprintf(os.Stderr, "docker-init: %s: %v\n", path, err)
		return 126
	}
	for sig := range signals {
		switch s := sig.(syscall.Signal); s {
		case unix.SIGCHLD:
			if code, ended := collectChildren(child); ended {
				return code
			}
		case unix.SIGURG, unix.SIGTTIN, unix.SIGTTOU: // Go's own, and the terminal's to us
		default:
			_ = syscall.Kill(child, s)
		}
	}
	return 0
}

// collectChildren reaps whoever has ended and says whether child was among
// them.
func collectChildren(child int) (code int, ended bool) {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return code, ended
		}
		if pid == child && (status.Exited() || status.Signaled()) {
			code, ended = exitOf(status).Code, true
		}
	}
}

func prctlName(name []byte) error {
	return unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0)
}
