package server

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"gantry/runtime/keeper"
	"gantry/runtime/logs"
)

const (
	// maxBehind is how far an attached reader may fall behind: enough for one
	// that is busy for a moment while a program prints a long text.
	maxBehind = 8 << 20
	// lastWords is how long a reader that does not read is waited for when
	// there is nothing more to come.
	lastWords = 30 * time.Second
)

// attach is one receiver of a container's output: a bounded queue and a
// goroutine that empties it. Output never waits for it.
type attach struct {
	out    *os.File
	frames bool // Docker's frames; a terminal's output is sent as it is
	want   [3]bool

	mu    sync.Mutex
	wake  *sync.Cond
	queue [][]byte
	size  int
	most  int  // it ever was
	over  bool // nothing more comes
	gone  bool // nobody reads
}

// attach begins to copy output to out, which it owns.
func (io *stdio) attach(out *os.File, stdout, stderr bool) error {
	fd, err := rawDup(out)
	out.Close()
	if err != nil {
		return err
	}
	f, err := pollable(fd, "attach")
	if err != nil {
		return err
	}
	a := &attach{out: f, frames: !io.c.record.TTY, want: [3]bool{logs.Stdout: stdout || io.c.record.TTY, logs.Stderr: stderr}}
	a.wake = sync.NewCond(&a.mu)
	io.mu.Lock()
	defer io.mu.Unlock()
	if io.ended {
		f.Close()
		return io.c.notRunning()
	}
	io.attaches[a] = struct{}{}
	io.writers.Go(func() {
		var watch sync.WaitGroup
		watch.Go(a.watch)
		a.write()
		a.out.Close()
		watch.Wait()
		io.mu.Lock()
		delete(io.attaches, a)
		io.mu.Unlock()
		a.mu.Lock()
		a.queue = nil
		large := a.most > 1<<20
		a.mu.Unlock()
		if large {
			// Otherwise a program as idle as this one keeps it for minutes.
			debug.FreeOSMemory()
		}
	})
	return nil
}

// add queues a piece of output and says whether the reader keeps up.
func (a *attach) add(s logs.Stream, p []byte) bool {
	if !a.want[s] {
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.gone || a.over {
		return false
	}
	if a.size+len(p) > maxBehind {
		a.push(logs.Stderr, fmt.Appendf(nil, "gantry: attach ended: its reader is %d bytes behind\n", a.size))
		a.over = true
		_ = a.out.SetWriteDeadline(time.Now().Add(lastWords))
		return false
	}
	a.push(s, p)
	return true
}

func (a *attach) push(s logs.Stream, p []byte) {
	var b []byte
	if a.frames {
		b = make([]byte, 8, 8+len(p))
		b[0] = byte(s)
		binary.BigEndian.PutUint32(b[4:], uint32(len(p)))
	}
	b = append(b, p...)
	a.queue = append(a.queue, b)
	a.size += len(b)
	a.most = max(a.most, a.size)
	a.wake.Signal()
}

// end says that nothing more comes.
func (a *attach) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.over = true
	_ = a.out.SetWriteDeadline(time.Now().Add(lastWords))
	a.wake.Signal()
}

// cut ends it at once.
func (a *attach) cut() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gone = true
	_ = a.out.SetWriteDeadline(time.Now())
	a.wake.Signal()
}

func (a *attach) write() {
	for {
		a.mu.Lock()
		for len(a.queue) == 0 && !a.over && !a.gone {
			a.wake.Wait()
		}
		queue, gone := a.queue, a.gone
		a.queue = nil
		a.mu.Unlock()
		if gone || len(queue) == 0 {
			return
		}
		for _, b := range queue {
			_, err := a.out.Write(b)
			a.mu.Lock()
			a.size -= len(b)
			if err != nil {
				a.gone = true
			}
			gone = a.gone
			a.mu.Unlock()
			if gone {
				return
			}
		}
	}
}

// watch notices a reader that leaves while there is nothing to write: the
// poller reports the error condition of a pipe without one.
func (a *attach) watch() {
	raw, err := a.out.SyscallConn()
	if err != nil {
		return
	}
	err = raw.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd)}}
		n, err := unix.Poll(p, 0)
		return err == nil && n > 0 && p[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0
	})
	if err == nil {
		a.cut()
	}
}

// attach connects a client to a container's streams.
func (s *Server) attach(r *request) error {
	return do(r, func(q keeper.AttachCall) error {
		c, err := s.find(q.ID)
		if err != nil {
			return err
		}
		c.mu.Lock()
		io, state := c.io, c.state
		c.mu.Unlock()
		if io == nil || state == "" || state == keeper.StateStopped {
			return c.notRunning()
		}
		if q.HasOut {
			out, err := r.take()
			if err != nil {
				return err
			}
			if err := io.attach(out, q.Stdout, q.Stderr); err != nil {
				return err
			}
		}
		if !q.Stdin {
			return nil
		}
		in, err := io.openStdin()
		if err != nil {
			return fmt.Errorf("open standard input: %w", err)
		}
		if in == nil {
			return nil
		}
		r.out = append(r.out, in)
		r.conn.mu.Lock()
		r.conn.stdin[c.id] = true
		r.conn.mu.Unlock()
		return nil
	})
}

func rawDup(f *os.File) (int, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var fd int
	var inner error
	if err := raw.Control(func(n uintptr) { fd, inner = unix.FcntlInt(n, unix.F_DUPFD_CLOEXEC, 3) }); err != nil {
		return 0, err
	}
	return fd, inner
}
