package daemon

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// spareSize is enough for the records of whatever is taken down at a time.
const spareSize = 4 << 20

// spareLater is when a disk that had no room to spare is looked at again.
const spareLater = time.Minute

// spare is room that is kept on the disk. To stop or remove something is written
// down before it is done; on a disk that is full that would be impossible, and
// with it what makes room. So a call that ends something may have the spare.
type spare struct {
	path  string
	log   *slog.Logger
	mu    sync.Mutex
	again *time.Timer // takes it again
}

func newSpare(root string, log *slog.Logger) *spare {
	s := &spare{path: filepath.Join(root, "spare"), log: log}
	s.again = time.AfterFunc(time.Hour, s.keep)
	s.again.Stop()
	return s
}

// keep takes the room, again if it was given up. A disk that has little else
// is left as it is, and looked at later.
func (s *spare) keep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st, err := os.Lstat(s.path); err == nil && st.Size() == spareSize {
		return
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(s.path), &disk); err != nil || disk.Bavail*uint64(disk.Bsize) < 2*spareSize {
		s.again.Reset(spareLater)
		return
	}
	f, err := os.OpenFile(s.path, os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err == nil {
		err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, spareSize), f.Close())
	}
	if err != nil {
		s.log.Debug("keep some room on the disk", "error", errors.Join(err, os.Remove(s.path)))
		s.again.Reset(spareLater)
	}
}

func (s *spare) end() { s.again.Stop() }

// give gives the room up and says whether there was any.
func (s *spare) give() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := os.Remove(s.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Error("give up the room that was kept", "error", err)
	}
	s.again.Reset(lullTime)
	return err == nil
}
