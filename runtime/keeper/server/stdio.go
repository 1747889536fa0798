package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"gantry/runtime/keeper"
	"gantry/runtime/logs"
)

// stdio is a container's standard streams.
//
// Without a terminal, output goes through two named FIFOs that the container
// itself holds open for reading and writing: it never gets SIGPIPE, and while
// no keeper lives its output waits in the kernel (64 KiB, then the writer
// waits). The daemon has the FIFOs open too, without reading: so their content
// also outlives a container that ends in that time. Such a FIFO has no end of file; reading ends when the process has
// ended and the FIFO is empty. With a terminal, both directions are its
// master, which the daemon holds too.
type stdio struct {
	c    *container
	log  *logs.Writer // nil: kept nowhere
	full atomic.Bool  // the last piece could not be kept

	pump    []byte // mapped file: what each stream's reader is doing, for the next keeper
	readers sync.WaitGroup
	writers sync.WaitGroup // of attaches

	mu       sync.Mutex
	out      [3]*os.File // by stream
	master   *os.File    // of a terminal
	stdin    *os.File    // writing end of the FIFO; nil: closed or none
	attaches map[*attach]struct{}
	running  bool
	ending   bool // the process has ended: drain and stop
	ended    bool
}

// States of a stream's reader in the pump file. One that is not idle when the
// keeper dies has lost what it held.
const (
	pumpIdle    = 0
	pumpHolding = 1 // read from the FIFO, not yet in the log
	pumpPartial = 2 // the beginning of a line waits for its end
)

var streams = []logs.Stream{logs.Stdout, logs.Stderr}

func (io *stdio) fifo(name string) string { return filepath.Join(io.c.dir(), name) }

// openStdio makes the streams of a container, or finds those an earlier keeper
// has made.
func openStdio(c *container) (_ *stdio, err error) {
	io := &stdio{c: c, attaches: map[*attach]struct{}{}}
	defer func() {
		if err != nil {
			io.close()
		}
	}()
	if io.pump, err = mapFile(io.fifo(pumpFile), 8); err != nil {
		return nil, err
	}
	if sink := c.record.Log; sink.Path != "" {
		if io.log, err = logs.Open(sink.Path, logs.Options{MaxSize: sink.MaxSize, MaxFiles: sink.MaxFiles}); err != nil {
			return nil, err
		}
	}
	if c.record.TTY {
		return io, nil
	}
	for _, s := range streams {
		if err := mkfifo(io.fifo(s.String())); err != nil {
			return nil, err
		}
		if io.out[s], err = openPollable(io.fifo(s.String()), unix.O_RDWR); err != nil {
			return nil, err
		}
	}
	return io, nil
}

// childIO is what the container's process gets.
type childIO struct {
	stdin, stdout, stderr *os.File
	console, socket       *os.File // the two ends on which a terminal's master is sent
}

func (ch *childIO) close() {
	closeAll([]*os.File{ch.stdin, ch.stdout, ch.stderr, ch.console, ch.socket})
}

func (ch *childIO) give(p *libcontainer.Process) {
	if ch.socket != nil {
		p.ConsoleSocket = ch.socket
		return
	}
	if ch.stdin != nil {
		p.Stdin = ch.stdin
	}
	p.Stdout, p.Stderr = ch.stdout, ch.stderr
}

func (io *stdio) forChild() (_ *childIO, err error) {
	ch := &childIO{}
	defer func() {
		if err != nil {
			ch.close()
		}
	}()
	if io.c.record.TTY {
		ch.console, ch.socket, err = consolePair()
		return ch, err
	}
	if ch.stdout, err = openBlocking(io.fifo("stdout"), unix.O_RDWR); err != nil {
		return nil, err
	}
	if ch.stderr, err = openBlocking(io.fifo("stderr"), unix.O_RDWR); err != nil {
		return nil, err
	}
	if io.c.record.OpenStdin {
		path := io.fifo("stdin")
		if err := mkfifo(path); err != nil {
			return nil, err
		}
		// A FIFO's ends can only be opened without waiting while the other is
		// open.
		both, err := openBlocking(path, unix.O_RDWR)
		if err != nil {
			return nil, err
		}
		defer both.Close()
		if ch.stdin, err = openBlocking(path, unix.O_RDONLY); err != nil {
			return nil, err
		}
		if io.stdin, err = openPollable(path, unix.O_WRONLY); err != nil {
			return nil, err
		}
	}
	return ch, nil
}

// console receives the terminal's master from the container's process.
func (io *stdio) console(sock *os.File) error {
	f, err := receiveConsole(sock)
	if err != nil {
		return err
	}
	io.setMaster(f)
	return nil
}

func (io *stdio) setMaster(f *os.File) {
	io.mu.Lock()
	defer io.mu.Unlock()
	if io.master != nil {
		f.Close()
		return
	}
	io.master = f
	io.out[logs.Stdout] = f
}

// recovered says in the log what the death of the last keeper may have cost;
// unheld: the container ended when nobody had its FIFOs open.
func (io *stdio) recovered(unheld bool) {
	lost := ""
	for _, s := range streams {
		switch io.pump[s] {
		case pumpHolding:
			lost = "up to 64 KiB of output may be lost here: the keeper died while it was writing them"
		case pumpPartial:
			if lost == "" {
				lost = "the beginning of a line is lost here: the keeper died before its end was written"
			}
		}
		io.pump[s] = pumpIdle
	}
	if unheld && lost == "" {
		lost = "output may be lost here: the container ended while there was neither keeper nor daemon"
	}
	if io.c.record.TTY && io.master == nil {
		lost = "the terminal is lost: keeper and daemon have died together"
	}
	if lost != "" && io.log != nil {
		if err := io.log.Mark(lost); err != nil {
			io.c.s.log.Error("write a log", "container", io.c.id, "error", err)
		}
	}
}

// run begins to read.
func (io *stdio) run() {
	io.mu.Lock()
	defer io.mu.Unlock()
	if io.running {
		return
	}
	io.running = true
	for _, s := range streams {
		if f := io.out[s]; f != nil {
			io.readers.Go(func() { io.read(s, f) })
		}
	}
}

// read moves output until told to end. While it waits it holds no buffer: a
// hundred idle containers have two hundred of these.
func (io *stdio) read(s logs.Stream, f *os.File) {
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	idle := byte(pumpIdle)
	for {
		var n int
		var rerr error
		var buf *[]byte
		take := func(fd uintptr) {
			buf = io.c.s.buffer()
			io.pump[s] = pumpHolding
			for {
				if n, rerr = unix.Read(int(fd), *buf); rerr != unix.EINTR {
					break
				}
			}
			if rerr != nil || n <= 0 {
				io.pump[s] = idle
				io.c.s.putBuffer(buf)
				buf = nil
			}
		}
		err := raw.Read(func(fd uintptr) bool {
			take(fd)
			return rerr != unix.EAGAIN
		})
		if err != nil { // told to end, or to let go
			io.mu.Lock()
			ending := io.ending
			io.mu.Unlock()
			if !ending || raw.Control(take) != nil {
				return
			}
		}
		if buf == nil {
			return // empty after the end, or a terminal that was hung up
		}
		idle = io.deliver(s, (*buf)[:n])
		io.c.s.breadth.moved()
		io.pump[s] = idle
		io.c.s.putBuffer(buf)
	}
}

// deliver logs a piece of output and hands it to those who are attached. It
// says what remains in memory.
func (io *stdio) deliver(s logs.Stream, p []byte) byte {
	if io.log != nil {
		err := io.log.Write(s, p, time.Now())
		if was := io.full.Swap(err != nil); err != nil && !was { // once, not at every piece
			io.c.s.log.Error("write a log", "container", io.c.id, "error", err)
		}
	}
	io.mu.Lock()
	for a := range io.attaches {
		if !a.add(s, p) {
			delete(io.attaches, a)
		}
	}
	io.mu.Unlock()
	if io.log != nil && p[len(p)-1] != '\n' {
		return pumpPartial
	}
	return pumpIdle
}

// finish is called when the process has ended: what is in the FIFOs is read,
// the log closed, and those attached get their end.
func (io *stdio) finish() {
	io.mu.Lock()
	io.ending = true
	for _, f := range io.out {
		if f != nil {
			_ = f.SetReadDeadline(time.Now())
		}
	}
	io.mu.Unlock()
	done := make(chan struct{})
	go func() {
		io.readers.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(2 * time.Second):
		// Somebody outside the container holds the FIFO and writes without
		// end: it was asked for by sharing a pid namespace.
		io.closeOut()
		<-done
	}
	if io.log != nil {
		if err := io.log.Close(); err != nil {
			io.c.s.log.Error("close a log", "container", io.c.id, "error", err)
		}
	}
	io.mu.Lock()
	defer io.mu.Unlock()
	io.ended = true
	for a := range io.attaches {
		a.end()
		delete(io.attaches, a)
	}
	if io.stdin != nil {
		io.stdin.Close()
		io.stdin = nil
	}
}

// release lets go of a container that outlives this keeper.
func (io *stdio) release() {
	io.mu.Lock()
	for _, f := range io.out {
		if f != nil {
			_ = f.SetReadDeadline(time.Now())
		}
	}
	for a := range io.attaches {
		a.cut()
		delete(io.attaches, a)
	}
	io.mu.Unlock()
	io.readers.Wait()
	io.writers.Wait()
}

func (io *stdio) closeOut() {
	io.mu.Lock()
	defer io.mu.Unlock()
	for i, f := range io.out {
		if f != nil {
			f.Close()
			io.out[i] = nil
		}
	}
}

// close frees everything. Nobody reads any more.
func (io *stdio) close() {
	io.mu.Lock()
	for a := range io.attaches {
		a.cut()
		delete(io.attaches, a)
	}
	io.mu.Unlock()
	io.closeOut()
	io.readers.Wait()
	io.mu.Lock()
	defer io.mu.Unlock()
	if io.stdin != nil {
		io.stdin.Close()
		io.stdin = nil
	}
	io.master = nil // closed as out
	if io.log != nil {
		_ = io.log.Close()
	}
	if io.pump != nil {
		_ = unix.Munmap(io.pump)
		io.pump = nil
	}
}

// openStdin gives a new writing end of standard input; nil when it is closed,
// by us or by the container.
func (io *stdio) openStdin() (*os.File, error) {
	io.mu.Lock()
	defer io.mu.Unlock()
	if !io.c.record.OpenStdin {
		return nil, nil
	}
	if io.c.record.TTY {
		if io.master == nil {
			return nil, nil
		}
		return keeper.Dup(io.master)
	}
	if io.stdin == nil {
		return nil, nil
	}
	f, err := openPollable(io.fifo("stdin"), unix.O_WRONLY)
	if errors.Is(err, unix.ENXIO) {
		return nil, nil
	}
	return f, err
}

// closeStdin closes standard input for good: the FIFO's name goes too, so that
// no later keeper opens it again.
func (c *container) closeStdin() error {
	c.mu.Lock()
	io := c.io
	c.mu.Unlock()
	if io == nil || c.record.TTY {
		return nil
	}
	io.mu.Lock()
	if io.stdin != nil {
		io.stdin.Close()
		io.stdin = nil
	}
	io.mu.Unlock()
	c.s.entrust([]keeper.Deposit{{ID: c.id, Kind: keeper.DepositStdin, Drop: true}})
	if err := os.Remove(io.fifo("stdin")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (io *stdio) resize(w, h uint16) error {
	io.mu.Lock()
	defer io.mu.Unlock()
	if io.master == nil {
		return io.c.notRunning()
	}
	return setSize(io.master, w, h)
}

// mkfifo makes a FIFO only we may open by its name; one that is there stays.
func mkfifo(path string) error {
	if err := unix.Mkfifo(path, 0o600); err != nil && err != unix.EEXIST {
		return fmt.Errorf("mkfifo %s: %w", path, err)
	}
	return nil
}

// openPollable opens a FIFO for Go's poller.
func openPollable(path string, flags int) (*os.File, error) {
	return openFlags(path, flags|unix.O_NONBLOCK)
}

// openBlocking opens it as a program expects its standard streams; os.OpenFile
// would make it non-blocking.
func openBlocking(path string, flags int) (*os.File, error) { return openFlags(path, flags) }

func openFlags(path string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err == nil {
			return os.NewFile(uintptr(fd), path), nil
		}
		if err != unix.EINTR {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

// mapFile maps a small file of shared memory. What is stored there is in the
// file at once, and stays when the process is killed.
func mapFile(path string, size int) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(int64(size)); err != nil {
		return nil, err
	}
	m, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	return m, nil
}
