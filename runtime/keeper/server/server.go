// Package server is the keeper itself: the parent of every container, and the
// only place that knows libcontainer and cgroups. gantry-runtime links it, and
// little else: libcontainer executes that binary anew for every container and
// every exec, so what it weighs is paid each time.
//
// What must survive the keeper is on disk in RUN/keeper/<id> before it is
// told, in descriptors the daemon holds, or in the kernel: a container's
// output waits in its FIFOs, which it holds open itself.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"gantry/runtime/keeper"
)

// Options of [Serve].
type Options struct {
	Run    string   // directory shared with the daemon
	Cgroup string   // where the keeper puts itself; "": nowhere
	Ready  *os.File // receives "ready", "busy" or an error, then is closed; nil: nobody asks
	Log    *slog.Logger

	// Of a keeper that was executed by another one (see upgrade): what it
	// inherited.
	Lock, Listener *os.File
}

// Server is a running keeper.
type Server struct {
	opts Options
	log  *slog.Logger
	lock *os.File
	sock *net.UnixListener
	home map[string]string // the cgroups it came from

	ctx  context.Context // ends with the server
	quit context.CancelFunc
	wg   sync.WaitGroup // everything but containers' own goroutines

	// turn is held for reading by whatever changes a container, and for
	// writing by an upgrade, which must not cut it in two.
	turn sync.RWMutex

	clones chan struct{} // bounds processes being made at the same time

	mu          sync.Mutex
	containers  map[string]*container
	conns       map[*conn]struct{}
	helpers     map[*helper]struct{}
	holds       map[string][]keeper.Parked
	guard       *guard
	guarded     chan struct{} // a guard was set
	restartWait time.Duration // before the daemon's last restart
	settled     bool          // a client has deposited what it holds
	upgrading   string
	next        *os.File        // the socket, for the program that comes after
	parents     map[string]bool // cgroups we have looked at or made; see ownCgroup
	entering    map[string]int  // those in which containers are being made

	filters filters
	breadth breadth
	began   time.Time
	warmed  atomic.Int64 // when, in ns since began; 0: never
	buffers sync.Pool    // of 64 KiB
}

// errBusy means that another keeper has the directory.
var errBusy = errors.New("another keeper has this directory")

// Serve is the keeper's life. It returns when a client has asked it to end or
// ctx does.
func Serve(ctx context.Context, o Options) error {
	s := &Server{
		opts:       o,
		log:        o.Log,
		began:      time.Now(),
		clones:     make(chan struct{}, cloneLimit()),
		containers: map[string]*container{},
		conns:      map[*conn]struct{}{},
		helpers:    map[*helper]struct{}{},
		holds:      map[string][]keeper.Parked{},
		guarded:    make(chan struct{}, 1),
		parents:    map[string]bool{},
		entering:   map[string]int{},
	}
	s.ctx, s.quit = context.WithCancel(ctx)
	defer s.quit()
	s.breadth.open()
	defer s.breadth.rest.Stop()
	err := s.open()
	if o.Ready != nil {
		switch {
		case err == nil:
			fmt.Fprintln(o.Ready, "ready")
		case errors.Is(err, errBusy):
			fmt.Fprintln(o.Ready, "busy")
		default:
			fmt.Fprintln(o.Ready, err)
		}
		o.Ready.Close()
	}
	if err != nil {
		return err
	}
	s.log.Info("keeper serves", "run", o.Run, "pid", os.Getpid())
	s.serve()
	return s.close()
}

// open takes the directory, finds what lives in it, and listens.
func (s *Server) open() error {
	for _, dir := range []string{s.opts.Run, s.path("rootfs")} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
	}
	// A container's streams belong to its user, by number: a user of the
	// machine with the same one must not come to them.
	for _, dir := range []string{s.path("keeper"), s.path("libcontainer")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if err := os.Chmod(dir, 0o700); err != nil { // an older keeper's
			return err
		}
	}
	if err := s.takeLock(); err != nil {
		return err
	}
	if err := s.privateRootfs(); err != nil {
		return fmt.Errorf("make %s private: %w", s.path("rootfs"), err)
	}
	if err := s.enterCgroup(); err != nil {
		return err
	}
	if err := s.recover(); err != nil {
		return err
	}
	return s.listen()
}

func (s *Server) path(elem ...string) string {
	return filepath.Join(append([]string{s.opts.Run}, elem...)...)
}

// takeLock makes this keeper the only one of its directory, or has the lock from
// the keeper it replaces.
func (s *Server) takeLock() error {
	if s.opts.Lock != nil {
		s.lock = s.opts.Lock
		unix.CloseOnExec(int(s.lock.Fd()))
		return nil
	}
	f, err := os.OpenFile(s.path("keeper.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := keeper.LockFile(f); err != nil {
		f.Close()
		if errors.Is(err, keeper.ErrLocked) {
			return errBusy
		}
		return err
	}
	s.lock = f
	return nil
}

// privateRootfs makes RUN/rootfs a mount whose own mounts are seen by this
// process alone. The bind mount itself is in the host's table, once.
func (s *Server) privateRootfs() error {
	dir := s.path("rootfs")
	err := unix.Mount("", dir, "", unix.MS_PRIVATE, "")
	if errors.Is(err, unix.EINVAL) { // not a mount point yet
		if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		err = unix.Mount("", dir, "", unix.MS_PRIVATE, "")
	}
	return err
}

func (s *Server) listen() error {
	if s.opts.Listener != nil {
		l, err := net.FileListener(s.opts.Listener)
		s.opts.Listener.Close()
		if err != nil {
			return err
		}
		s.sock = l.(*net.UnixListener)
		return nil
	}
	path := keeper.SocketPath(s.opts.Run)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	old := unix.Umask(0o177)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	unix.Umask(old)
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	s.sock = l
	return nil
}

// serve accepts until the server is asked to end.
func (s *Server) serve() {
	stop := context.AfterFunc(s.ctx, func() { s.sock.Close() })
	defer stop()
	for {
		sock, err := s.sock.AcceptUnix()
		if err != nil {
			if s.ctx.Err() != nil {
				return
			}
			s.log.Error("accept", "error", err)
			select {
			case <-time.After(100 * time.Millisecond): // out of descriptors, perhaps
			case <-s.ctx.Done():
				return
			}
			continue
		}
		if err := checkPeer(sock); err != nil {
			s.log.Warn("connection refused", "error", err)
			sock.Close()
			continue
		}
		c := newConn(s, sock)
		s.mu.Lock()
		s.conns[c] = struct{}{}
		s.mu.Unlock()
		s.wg.Go(c.serve)
	}
}

// checkPeer lets only root in, whatever becomes of the socket's mode.
func checkPeer(sock *net.UnixConn) error {
	raw, err := sock.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var inner error
	if err := raw.Control(func(fd uintptr) {
		cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if inner != nil {
		return inner
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("user %d may not speak to the keeper", cred.Uid)
	}
	return nil
}

// close ends connections and lets go of containers, which go on.
func (s *Server) close() error {
	s.mu.Lock()
	program := s.upgrading
	for c := range s.conns {
		c.drain()
	}
	list := make([]*container, 0, len(s.containers))
	for _, c := range s.containers {
		list = append(list, c)
	}
	s.mu.Unlock()
	s.wg.Wait()
	for _, c := range list {
		c.release()
	}
	if program != "" {
		return s.execute(program)
	}
	if len(list) == 0 {
		_ = unix.Unmount(s.path("rootfs"), unix.MNT_DETACH)
		s.leaveCgroup()
	}
	if err := os.Remove(keeper.SocketPath(s.opts.Run)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// find gives a container by id.
func (s *Server) find(id string) (*container, error) {
	if err := keeper.CheckID(id); err != nil {
		return nil, err
	}
	s.mu.Lock()
	c, ok := s.containers[id]
	s.mu.Unlock()
	if !ok {
		return nil, keeper.Classed(errdefs.ErrNotFound, fmt.Errorf("no container %s in the keeper", id))
	}
	if !c.isMade() {
		return nil, c.notRunning()
	}
	return c, nil
}

// buffer lends a buffer as large as a pipe.
func (s *Server) buffer() *[]byte {
	if b, ok := s.buffers.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 64<<10)
	return &b
}

func (s *Server) putBuffer(b *[]byte) { s.buffers.Put(b) }

// all gives the containers of a moment, without those that are being made.
func (s *Server) all() []*container {
	s.mu.Lock()
	list := slices.Collect(maps.Values(s.containers))
	s.mu.Unlock()
	return slices.DeleteFunc(list, func(c *container) bool { return !c.isMade() })
}

// tell sends an event to every client.
func (s *Server) tell(e keeper.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.push(keeper.VerbEvent, e)
	}
}

// entrust hands every client descriptors to hold for the next keeper. The
// files are copied before it returns.
func (s *Server) entrust(ds []keeper.Deposit, files ...*os.File) {
	s.entrustWhom(func(*conn) bool { return true }, ds, files...)
}

func (s *Server) entrustWhom(whom func(*conn) bool, ds []keeper.Deposit, files ...*os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if whom(c) {
			c.push(keeper.VerbReturn, ds, files...)
		}
	}
}
