package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"gantry/runtime/keeper"

	"golang.org/x/sys/unix"
)

// sockets is the keeper's descriptor store as the network and the API see it.
type sockets struct {
	keeper *keeper.Client

	mu   sync.Mutex
	held map[string][]*os.File // what the daemon before left, until it is taken
}

func openSockets(ctx context.Context, k *keeper.Client) (*sockets, error) {
	held, err := k.Held(ctx)
	if err != nil {
		return nil, fmt.Errorf("take back the sockets of the daemon before: %w", err)
	}
	return &sockets{keeper: k, held: held}, nil
}

// storing bounds a call to the keeper that has no caller's context.
const storing = 10 * time.Second

func (s *sockets) Hold(name string, files ...*os.File) error {
	ctx, cancel := context.WithTimeout(context.Background(), storing)
	defer cancel()
	return s.keeper.Hold(ctx, name, files...)
}

func (s *sockets) Take(name string) []*os.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	files := s.held[name]
	delete(s.held, name)
	return files
}

func (s *sockets) Drop(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), storing)
	defer cancel()
	closeAll(s.Take(name))
	return s.keeper.Drop(ctx, name)
}

// sweep lets go of what nobody has taken back.
func (s *sockets) sweep() error {
	s.mu.Lock()
	left := s.held
	s.held = nil
	s.mu.Unlock()
	var errs []error
	for name, files := range left {
		closeAll(files)
		errs = append(errs, s.Drop(name))
	}
	return errors.Join(errs...)
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// group may use the socket besides root, where the machine has it.
const group = "gantry"

// listen opens an address of the API, or takes it over from the daemon before:
// calls made meanwhile have queued in it.
func (s *sockets) listen(host string) (net.Listener, error) {
	if address, ok := isTCP(host); ok {
		return s.listenTCP(host, address)
	}
	path := strings.TrimPrefix(host, "unix://")
	for _, f := range s.Take("api " + host) {
		l, err := net.FileListener(f)
		f.Close()
		if err == nil && sameSocket(path, l) {
			return l, nil
		}
		if l != nil {
			l.Close()
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("listen on %s: another daemon serves there; stop it or choose another run directory", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	// Nobody but root gets in before the mode is set.
	old := unix.Umask(0o177)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	unix.Umask(old)
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	gid := 0
	if g, err := user.LookupGroup(group); err == nil {
		gid, _ = strconv.Atoi(g.Gid)
	}
	f, err := l.File()
	if err == nil {
		err = errors.Join(os.Chown(path, 0, gid), os.Chmod(path, 0o660), s.Hold("api "+host, f), f.Close())
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

// close takes an address of the API away: calls to it are refused from then on.
func (s *sockets) close(host string) error {
	if path, ok := strings.CutPrefix(host, "unix://"); ok {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return s.Drop("api " + host)
}

// sameSocket tells whether a listener is the one its path leads to: somebody
// may have removed the file.
func sameSocket(path string, l net.Listener) bool {
	if l.Addr().String() != path {
		return false
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return false
	}
	c.Close()
	return true
}
