package rootfs

import (
	"errors"
	"io/fs"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// OpenIn opens path as a process would whose root directory is root: absolute
// symbolic links and ".." stay inside, magic links of /proc are refused. The
// flags are those of open(2); O_CLOEXEC is always added, and files made by
// O_CREAT have mode 0644.
//
// A hostile tree may hold a FIFO or a device under any name: add O_NONBLOCK,
// or O_DIRECTORY, and look at what was opened before reading it.
func OpenIn(root *os.File, path string, flags int) (*os.File, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	if flags&unix.O_CREAT != 0 {
		how.Mode = 0o644
	}
	if path == "" {
		path = "/"
	}
	defer runtime.KeepAlive(root)
	// The kernel answers EAGAIN when something was renamed or mounted while it
	// resolved "..", since it can no longer be sure that it stayed inside.
	for range 128 {
		fd, err := unix.Openat2(int(root.Fd()), path, &how)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), path), nil
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			continue
		}
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return nil, &fs.PathError{Op: "open", Path: path, Err: unix.EAGAIN}
}
