package daemon

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// spareSize is enough for the records of whatever is taken down at a time.
const spareSize = 4 << 20

// spare is room that is kept on the disk. To stop or remove something is written
// down before it is done; on a disk that is full that would be impossible, and
// with it what makes room. So a call that ends something may have the spare.
type spare struct {
	path string
	log  *slog.Logger
	mu   sync.Mutex
}

func newSpare(root string, log *slog.Logger) *spare {
	return &spare{path: filepath.Join(root, "spare"), log: log}
}

// keep takes the room, again if it was given up. A disk that has none is left
// as it is.
func (s *spare) keep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st, err := os.Lstat(s.path); err == nil && st.Size() == spareSize {
		return
	}
	f, err := os.OpenFile(s.path, os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err == nil {
		err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, spareSize), f.Close())
	}
	if err != nil {
		s.log.Debug("keep some room on the disk", "error", errors.Join(err, os.Remove(s.path)))
	}
}

// give gives the room up and says whether there was any.
func (s *spare) give() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := os.Remove(s.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Error("give up the room that was kept", "error", err)
	}
	return err == nil
}
