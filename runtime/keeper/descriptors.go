package keeper

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Dup copies a descriptor without touching its blocking mode, as File.Fd would.
func Dup(f *os.File) (*os.File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var n int
	var inner error
	if err := raw.Control(func(fd uintptr) {
		n, inner = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3)
	}); err != nil {
		return nil, err
	}
	if inner != nil {
		return nil, os.NewSyscallError("dup", inner)
	}
	return os.NewFile(uintptr(n), f.Name()), nil
}

// OpenPidfd opens a pidfd that Go's poller can wait on.
func OpenPidfd(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// WaitPidfd returns when the process has ended. It occupies no thread.
func WaitPidfd(ctx context.Context, pidfd *os.File) error {
	stop := context.AfterFunc(ctx, func() { _ = pidfd.SetReadDeadline(time.Now()) })
	defer stop()
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	err = raw.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return err == nil && n > 0
	})
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
