package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"gantry/runtime/keeper"
	"gantry/runtime/rootfs"
)

// Archive calls are answered by helpers: this program again, confined to a
// container's root filesystem before it looks at anything in there.
//
//	          a process lives                      none does
//	enter its mount namespace (archive.c)   a namespace of its own: overlay and
//	               │                        mounts as for a start, pivot_root
//	               │                                    │ execute itself anew
//	               └──────────► shed all rights ◄───────┘
//	                            (archive.c)
//	                                 │
//	                     stat, pack or unpack below /
//
// A helper executes nothing of the container and is in none of its cgroups or
// other namespaces, so one that is paused or frozen can be copied from as well.
// It ends when the client's end of the outcome closes; the keeper ends it when
// it is not ready in time, when the container that it writes to gets another
// process (two mounts would write to one layer), and when the keeper itself
// goes.

const (
	// maxHelpers bounds how many copies are under way at a time.
	maxHelpers = 64
	// readyTime is how long one may take until it can begin.
	readyTime = 30 * time.Second
)

// helper is a process that does an archive call.
type helper struct {
	id     string // of the container
	writes bool
	cmd    *exec.Cmd
	pidfd  *os.File
	done   chan struct{} // closed when it has ended

	mu  sync.Mutex
	why error // it was ended
}

// archive starts a helper and waits until it is ready.
func (s *Server) archive(r *request) (any, error) {
	return call(r, func(q keeper.ArchiveCall) (rootfs.PathStat, error) {
		var files [2]*os.File
		for i := range files {
			if i == 1 && !q.HasData {
				break
			}
			f, err := r.take()
			if err != nil {
				closeAll(files[:])
				return rootfs.PathStat{}, err
			}
			files[i] = f
		}
		defer closeAll(files[:])
		h, answer, err := s.startHelper(q.ArchiveRequest, files[0], files[1])
		if err != nil {
			return rootfs.PathStat{}, err
		}
		defer answer.Close()
		return h.ready(answer)
	})
}

// startHelper makes the process of a helper. Somebody who gives the container
// another process waits for that, and then sees it.
func (s *Server) startHelper(q keeper.ArchiveRequest, outcome, data *os.File) (_ *helper, answer *os.File, err error) {
	c, err := s.reserveArchive(q.ID)
	if err != nil {
		return nil, nil, err
	}
	defer c.op.Unlock()
	st := c.status()
	if st.State == "" {
		defer s.forget(c)
	}
	stage := "join"
	var namespace *os.File
	switch {
	case st.Live():
		if q.Op == keeper.ArchiveExport {
			stage = "bare"
		}
		q.Root = nil
		if namespace, err = c.mountNamespace(); err != nil {
			return nil, nil, err
		}
		defer namespace.Close()
	case q.Root == nil:
		return nil, nil, c.notRunning()
	default:
		stage = "mount"
	}
	request, err := requestFile(asked{q, s.path("rootfs")})
	if err != nil {
		return nil, nil, err
	}
	defer request.Close()
	var program *os.File
	if stage == "mount" {
		if program, err = os.Open("/proc/self/exe"); err != nil {
			return nil, nil, err
		}
		defer program.Close()
	}
	answer, theirs, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer theirs.Close()
	h := &helper{id: q.ID, writes: q.Op == keeper.ArchivePut, done: make(chan struct{})}
	h.cmd = &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{"gantry-runtime", "archive", stage}, Dir: "/",
		Env:         []string{"GOMAXPROCS=1", "TZ="}, // with it, no file of the container's says what time it is
		Stderr:      os.Stderr,
		ExtraFiles:  []*os.File{request, theirs, outcome, data, namespace, program},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if stage == "mount" {
		h.cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNS
	}
	if err := s.launch(h); err != nil {
		answer.Close()
		return nil, nil, err
	}
	return h, answer, nil
}

// reserveArchive gives the container of an id with its op held, made up if the
// keeper has none.
func (s *Server) reserveArchive(id string) (*container, error) {
	if err := keeper.CheckID(id); err != nil {
		return nil, err
	}
	return s.reserve(id)
}

// mountNamespace opens that of a live container.
func (c *container) mountNamespace() (*os.File, error) {
	pidfd, pid, _, err := c.target("")
	if err != nil {
		return nil, err
	}
	ns, err := os.Open("/proc/" + strconv.Itoa(pid) + "/ns/mnt")
	if err != nil {
		return nil, c.notRunning()
	}
	// The number may be another's by now, and so the namespace.
	if !owns(pidfd) {
		ns.Close()
		return nil, c.notRunning()
	}
	return ns, nil
}

// requestFile hands a request over as a file: a pipe may be too small for it.
func requestFile(a asked) (*os.File, error) {
	text, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("archive request", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "request")
	if _, err := f.Write(text); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// launch makes the process and looks after it.
func (s *Server) launch(h *helper) error {
	s.mu.Lock()
	full := len(s.helpers) >= maxHelpers
	if !full {
		s.helpers[h] = struct{}{}
	}
	s.mu.Unlock()
	if full {
		return keeper.Classed(errdefs.ErrResourceExhausted, fmt.Errorf("%d copies from and to containers are under way: wait for one to end", maxHelpers))
	}
	leave := func() {
		s.mu.Lock()
		delete(s.helpers, h)
		s.mu.Unlock()
	}
	err := h.cmd.Start()
	if err == nil {
		if h.pidfd, err = keeper.OpenPidfd(h.cmd.Process.Pid); err != nil {
			_ = h.cmd.Process.Kill()
			_ = h.cmd.Wait()
		}
	}
	if err != nil {
		leave()
		return fmt.Errorf("start a helper: %w", err)
	}
	outcome, err := keeper.Dup(h.cmd.ExtraFiles[outcomeFd-3])
	if err != nil {
		s.log.Warn("an ended copy will not say why", "error", err)
	}
	s.wg.Go(func() {
		defer leave()
		stop := context.AfterFunc(s.ctx, func() { h.end(errors.New("the keeper is ending")) })
		defer stop()
		h.watch(outcome)
	})
	return nil
}

// watch waits for the helper's end, and tells the client why it was ended.
// Should the client leave first, so does the helper.
func (h *helper) watch(outcome *os.File) {
	defer close(h.done)
	defer h.pidfd.Close()
	if outcome != nil {
		defer outcome.Close()
		h.withClient(int(outcome.Fd()))
	}
	err := h.cmd.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil && h.why != nil && outcome != nil {
		_ = json.NewEncoder(outcome).Encode(keeper.ArchiveOutcome{Error: keeper.Fail(h.why)})
	}
}

// withClient returns when the helper has ended, and ends it when nobody has the
// other end of its outcome any more. It takes a thread: nothing but poll says
// that a pipe has lost its reader.
func (h *helper) withClient(outcome int) {
	raw, err := h.pidfd.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(pidfd uintptr) {
		poll := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}, {Fd: int32(outcome)}}
		for {
			_, err := unix.Poll(poll, -1)
			switch {
			case errors.Is(err, unix.EINTR):
				continue
			case err != nil || poll[0].Revents != 0:
				return
			case poll[1].Revents != 0:
				_ = unix.PidfdSendSignal(int(pidfd), unix.SIGKILL, nil, 0)
				poll = poll[:1]
			}
		}
	})
}

// end kills the helper.
func (h *helper) end(why error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.why == nil {
		h.why = why
	}
	if !ended(h.done) {
		_ = h.cmd.Process.Kill()
	}
}

// ready reads what the helper says once it can begin.
func (h *helper) ready(answer *os.File) (rootfs.PathStat, error) {
	_ = answer.SetReadDeadline(time.Now().Add(readyTime))
	var a archiveAnswer
	err := json.NewDecoder(io.LimitReader(answer, 1<<20)).Decode(&a)
	switch {
	case err == nil && a.Error == nil:
		return a.Stat, nil
	case err == nil:
		err = a.Error.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = keeper.Classed(errdefs.ErrUnavailable, fmt.Errorf("the filesystem of container %s does not answer", h.id))
	default:
		err = keeper.Classed(errdefs.ErrUnavailable, errors.New("the copy ended before it began"))
	}
	h.end(err)
	<-h.done
	return rootfs.PathStat{}, err
}

// endWriters ends the copies into a container, and waits until they are gone.
func (s *Server) endWriters(id string) {
	s.mu.Lock()
	var hs []*helper
	for h := range s.helpers {
		if h.id == id && h.writes {
			hs = append(hs, h)
		}
	}
	s.mu.Unlock()
	for _, h := range hs {
		h.end(keeper.Classed(errdefs.ErrUnavailable, fmt.Errorf("container %s was started meanwhile", id)))
		select {
		case <-h.done:
		case <-time.After(killTime): // it waits for a filesystem that does not answer
			s.log.Warn("a copy does not end", "container", id)
		}
	}
}
