package logs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// Watcher tells followers that a log has changed, by inotify on the log's
// directory. One serves any number of logs; it holds a descriptor and a
// goroutine until Close.
type Watcher struct {
	mu     sync.Mutex
	closed bool
	f      *os.File // the inotify instance
	fd     int      // of f: asking f for it would make its reads block a thread
	done   chan struct{}
	dirs   map[int32]*watched
}

// watched is one directory.
type watched struct {
	wd   int32
	subs map[*subscription]struct{}
	gone chan struct{} // closed when the directory has been removed
}

// subscription is one follower's interest in one file.
type subscription struct {
	base string
	dir  *watched
	// changed holds a token when the file may have changed since the token
	// was last taken.
	changed chan struct{}
	gone    <-chan struct{} // the directory was removed
	closed  <-chan struct{} // the watcher was
}

func (s *subscription) poke() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// NewWatcher returns a watcher of nothing yet.
func NewWatcher() (*Watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch logs: inotify (see fs.inotify.max_user_instances): %w", err)
	}
	w := &Watcher{
		fd:   fd,
		f:    os.NewFile(uintptr(fd), "inotify"),
		done: make(chan struct{}),
		dirs: map[int32]*watched{},
	}
	go w.run()
	return w, nil
}

// Close ends the watcher; a Read that follows by it returns fs.ErrClosed.
func (w *Watcher) Close() error {
	w.mu.Lock()
	was := w.closed
	w.closed = true
	w.mu.Unlock()
	if was {
		return nil
	}
	err := w.f.Close() // ends the goroutine's read
	<-w.done
	return err
}

// What makes a follower look again: data in PATH, a new PATH (made or moved
// there), PATH gone, the directory gone.
const watchMask = unix.IN_MODIFY | unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM |
	unix.IN_DELETE | unix.IN_DELETE_SELF | unix.IN_ONLYDIR

func (w *Watcher) subscribe(path string) (*subscription, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, fmt.Errorf("watch %s: %w", path, fs.ErrClosed)
	}
	// Asked anew also for a directory already watched: the same one gives the
	// same number again, and another may have taken its place.
	wd, err := unix.InotifyAddWatch(w.fd, filepath.Dir(path), watchMask)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", filepath.Dir(path), err)
	}
	d := w.dirs[int32(wd)]
	if d == nil {
		d = &watched{wd: int32(wd), subs: map[*subscription]struct{}{}, gone: make(chan struct{})}
		w.dirs[d.wd] = d
	}
	s := &subscription{base: filepath.Base(path), dir: d, changed: make(chan struct{}, 1), gone: d.gone, closed: w.done}
	d.subs[s] = struct{}{}
	return s, nil
}

func (w *Watcher) unsubscribe(s *subscription) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(s.dir.subs, s)
	if len(s.dir.subs) > 0 || w.dirs[s.dir.wd] != s.dir {
		return
	}
	delete(w.dirs, s.dir.wd)
	if !w.closed {
		// The kernel gives numbers out in turn: events still queued under
		// this one reach nobody.
		_, _ = unix.InotifyRmWatch(w.fd, uint32(s.dir.wd))
	}
}

// run hands out notices until the instance is closed.
func (w *Watcher) run() {
	defer close(w.done)
	buf := make([]byte, 16<<10)
	for {
		n, err := w.f.Read(buf)
		if err != nil || n <= 0 {
			return
		}
		w.mu.Lock()
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			// struct inotify_event: wd, mask, cookie, length of the name
			wd := int32(binary.NativeEndian.Uint32(b))
			mask := binary.NativeEndian.Uint32(b[4:])
			size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
			w.notice(wd, mask, bytes.TrimRight(b[unix.SizeofInotifyEvent:size], "\x00"))
			b = b[size:]
		}
		w.mu.Unlock()
	}
}

// notice passes one event on; w.mu is held.
func (w *Watcher) notice(wd int32, mask uint32, file []byte) {
	if mask&unix.IN_Q_OVERFLOW != 0 { // some were lost: everybody looks
		for _, d := range w.dirs {
			for s := range d.subs {
				s.poke()
			}
		}
		return
	}
	d := w.dirs[wd]
	if d == nil {
		return
	}
	if mask&unix.IN_IGNORED != 0 {
		delete(w.dirs, wd)
		close(d.gone)
		return
	}
	for s := range d.subs {
		if string(file) == s.base {
			s.poke()
		}
	}
}
