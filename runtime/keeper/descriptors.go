package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Dup copies a descriptor without touching its blocking mode.
func Dup(f *os.File) (*os.File, error) {
	p, err := Park(f)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(p), f.Name()), nil
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

// patience is how long a lock is waited for whose holder may be dying.
const patience = 2 * time.Second

// LockFile locks a file for this process alone. A process that is being killed
// may be seen dead (its sockets refuse) while the kernel has not closed all of
// its files, so the lock is waited for, and ErrLocked says that its holder lives.
// Somebody waits on then, in vain: what it gets goes when f is closed.
func LockFile(f *os.File) error {
	p, err := Park(f) // the same open file, so the lock is f's
	if err != nil {
		return err
	}
	got := make(chan error, 1)
	go func() {
		defer unix.Close(int(p))
		for {
			err := unix.Flock(int(p), unix.LOCK_EX)
			if !errors.Is(err, unix.EINTR) {
				got <- err
				return
			}
		}
	}()
	select {
	case err := <-got:
		if err != nil {
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		return nil
	case <-time.After(patience):
		return ErrLocked
	}
}

// ErrLocked means that another process holds the lock.
var ErrLocked = errors.New("locked by another process")

// Parked is an open descriptor that is only kept for somebody else. Unlike an
// os.File it is unknown to Go's poller, which would wake its owner for every
// connection and packet that arrives at a socket it merely stores.
type Parked int

// Park copies a descriptor.
func Park(f *os.File) (Parked, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	var n int
	var inner error
	if err := raw.Control(func(fd uintptr) {
		n, inner = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3)
	}); err != nil {
		return -1, err
	}
	if inner != nil {
		return -1, os.NewSyscallError("dup", inner)
	}
	return Parked(n), nil
}

// ParkAll copies all or none.
func ParkAll(files []*os.File) ([]Parked, error) {
	list := make([]Parked, 0, len(files))
	for _, f := range files {
		p, err := Park(f)
		if err != nil {
			CloseParked(list)
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}

// Files copies parked descriptors into files for use.
func Files(list []Parked) ([]*os.File, error) {
	files := make([]*os.File, 0, len(list))
	for _, p := range list {
		n, err := unix.FcntlInt(uintptr(p), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			closeAll(files)
			return nil, os.NewSyscallError("dup", err)
		}
		files = append(files, os.NewFile(uintptr(n), "held"))
	}
	return files, nil
}

// CloseParked closes them.
func CloseParked(list []Parked) {
	for _, p := range list {
		unix.Close(int(p))
	}
}
