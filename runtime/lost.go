package runtime

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// What lies on disk can be taken away behind the daemon's back: a container's
// directory, with its layer and record, or a volume's data. inotify tells of
// it. Of a container nothing is left then that could go on, so its process is
// ended and it is forgotten; of a volume, whoever asks is told.

// lossDelay is how long a directory must be missing: our own removals and
// renames are done by then.
const lossDelay = 100 * time.Millisecond

// lossWatch is the inotify instance. Its goroutine alone uses volumes.
type lossWatch struct {
	f       *os.File
	fd      int // of f: asking f for it would make its reads block a thread
	places  map[int32]string
	volumes int32
}

// Watched: names that go, and in the directory of volumes those that come.
const (
	goes  = unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_ONLYDIR
	comes = unix.IN_MOVED_TO
)

func (e *Engine) openLossWatch() (*lossWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch for losses: inotify (see fs.inotify.max_user_instances): %w", err)
	}
	w := &lossWatch{f: os.NewFile(uintptr(fd), "inotify"), fd: fd, places: map[int32]string{}}
	_, err = w.add(e.rec.root, goes)
	if err == nil {
		w.volumes, err = w.add(e.Volumes.Dir(), goes|comes)
	}
	if err != nil {
		return nil, errors.Join(err, w.f.Close())
	}
	for _, v := range e.Volumes.List() {
		w.volume(filepath.Dir(v.Mountpoint))
	}
	return w, nil
}

func (w *lossWatch) add(dir string, mask uint32) (int32, error) {
	wd, err := unix.InotifyAddWatch(w.fd, dir, mask)
	if err != nil {
		return 0, fmt.Errorf("watch for losses: %s: %w", dir, err)
	}
	w.places[int32(wd)] = dir
	return int32(wd), nil
}

// volume watches a volume's directory, in which its data is; one that has gone
// by now is told of by its parent.
func (w *lossWatch) volume(dir string) { _, _ = w.add(dir, goes) }

// watchLosses hears of losses until the instance is closed.
func (e *Engine) watchLosses(w *lossWatch) {
	buf := make([]byte, 16<<10)
	for {
		n, err := w.f.Read(buf)
		if err != nil {
			if !errors.Is(err, fs.ErrClosed) {
				e.Log.Error("losses of directories are not heard of any more", "error", err)
			}
			return
		}
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			wd := int32(binary.NativeEndian.Uint32(b))
			mask := binary.NativeEndian.Uint32(b[4:])
			size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
			name := string(bytes.TrimRight(b[unix.SizeofInotifyEvent:min(size, len(b))], "\x00"))
			b = b[min(size, len(b)):]
			dir := w.places[wd]
			switch {
			case mask&unix.IN_Q_OVERFLOW != 0:
				e.spawn(e.lookForLosses)
			case mask&unix.IN_IGNORED != 0:
				delete(w.places, wd)
			case mask&comes != 0 && wd == w.volumes:
				if !strings.HasPrefix(name, ".") {
					w.volume(filepath.Join(dir, name))
				}
			case mask&(unix.IN_DELETE|unix.IN_MOVED_FROM) == 0:
			case wd == w.volumes:
				e.later(func() { e.volumeGone(name) })
			case dir == e.rec.root:
				e.later(func() { e.recordGone(name) })
			case name == "_data":
				e.later(func() { e.volumeGone(filepath.Base(dir)) })
			}
		}
	}
}

// later runs f when what we do ourselves is done.
func (e *Engine) later(f func()) {
	e.spawn(func() {
		t := time.NewTimer(lossDelay)
		defer t.Stop()
		select {
		case <-t.C:
			f()
		case <-e.closing:
		}
	})
}

// lookForLosses looks at everything, for what was not told.
func (e *Engine) lookForLosses() {
	for _, ct := range e.all() {
		e.recordGone(ct.snapshot().ID)
	}
	for _, v := range e.Volumes.List() {
		e.volumeGone(v.Name)
	}
}

// volumeGone tells of a volume whose data is gone.
func (e *Engine) volumeGone(name string) {
	if _, lost := e.Volumes.Lost(name); !lost {
		return
	}
	v, err := e.Volumes.Get(name)
	if err != nil {
		return
	}
	e.Log.Error("the data of a volume is gone; put it back, or remove the volume and make it anew", "volume", name, "directory", v.Mountpoint)
	attrs := map[string]string{"driver": v.Driver}
	for k, value := range v.Labels {
		attrs[k] = value
	}
	e.emitObject("volume", "lost", name, attrs)
}

// VolumeLost says where the data of a volume was that is gone, or, of a volume
// that is not known at all, would be.
func (e *Engine) VolumeLost(name string) (string, bool) { return e.Volumes.Lost(name) }

// recordGone ends and forgets a container whose directory is gone.
func (e *Engine) recordGone(id string) {
	ct, err := e.find(id)
	if err != nil || ct.snapshot().ID != id {
		return
	}
	if _, err := os.Lstat(e.rec.dir(id)); !errors.Is(err, fs.ErrNotExist) {
		return
	}
	v := ct.view()
	if v.removed || v.Removal != nil {
		return
	}
	e.Log.Error("the directory of a container is gone; the container is, too", "container", v.Name, "directory", e.rec.dir(id))
	ct.recall(func(c *Container) { c.Removal = &Removal{At: time.Now()} })
	ctx := context.WithoutCancel(e.ctx)
	if err := e.halt(ctx, ct, StopOptions{Signal: "SIGKILL"}, forGood); err != nil && !errors.Is(err, errdefs.ErrNotModified) {
		e.Log.Error("end a container that is gone", "container", v.Name, "error", err)
		return
	}
	ct.op.Lock()
	defer ct.op.Unlock()
	if err := e.removeLocked(ctx, ct); err != nil {
		e.Log.Error("forget a container that is gone", "container", v.Name, "error", err)
	}
}
