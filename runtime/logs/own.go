package logs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// OwnSize is the size at which gantry's programs put their own log aside.
const OwnSize = 10 << 20

// Own is the log of one of gantry's programs itself: its standard error. While
// that is the file at a known path, the file is put aside as PATH.1, in place of
// an older one, whenever it has grown too large. What the Go runtime writes on
// its own, a panic's trace, goes to the same file: the descriptor is replaced,
// not the writer.
type Own struct {
	mu   sync.Mutex
	out  *os.File
	fds  []int  // descriptors of the file
	path string // "": not a file of ours; it is only written to
	max  int64
	size int64
}

// OpenOwn begins to write to standard error.
func OpenOwn(path string, max int64) *Own { return openOwn(os.Stderr, path, max, 1, 2) }

func openOwn(out *os.File, path string, max int64, fds ...int) *Own {
	o := &Own{out: out, max: max}
	var here, there unix.Stat_t
	if unix.Stat(path, &there) != nil || there.Mode&unix.S_IFMT != unix.S_IFREG {
		return o
	}
	for _, fd := range fds {
		if unix.Fstat(fd, &here) == nil && here.Dev == there.Dev && here.Ino == there.Ino {
			o.fds = append(o.fds, fd)
		}
	}
	if abs, err := filepath.Abs(path); err == nil && len(o.fds) > 0 {
		o.path, o.size = abs, there.Size
	}
	return o
}

// Write adds a line.
func (o *Own) Write(line []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.path != "" && o.size > 0 && o.size+int64(len(line)) > o.max {
		if err := o.putAside(); err != nil {
			fmt.Fprintf(o.out, "the log cannot be put aside: %v\n", err)
		}
		o.size = 0 // of the new file; or of the old one until the next attempt
	}
	n, err := o.out.Write(line)
	o.size += int64(n)
	return n, err
}

// putAside makes the descriptors those of a new file. Another process may have
// done it first: then the file at the path is not ours to put aside.
func (o *Own) putAside() error {
	var here, there unix.Stat_t
	if err := unix.Fstat(o.fds[0], &here); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	err := unix.Stat(o.path, &there)
	switch {
	case err == nil && here.Dev == there.Dev && here.Ino == there.Ino:
		if err := os.Rename(o.path, o.path+".1"); err != nil {
			return err
		}
	case err != nil && !errors.Is(err, unix.ENOENT):
		return &os.PathError{Op: "stat", Path: o.path, Err: err}
	}
	f, err := os.OpenFile(o.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, fd := range o.fds {
		if err := unix.Dup3(int(f.Fd()), fd, 0); err != nil {
			return os.NewSyscallError("dup3", err)
		}
	}
	return nil
}
