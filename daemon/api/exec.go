package api

import (
	"context"
	"io"
	"net/http"
	"sync"

	"gantry/runtime"
	"gantry/runtime/logs"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/common"
	"github.com/moby/moby/api/types/container"
)

func (s *server) execCreate(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	var req struct {
		container.ExecCreateRequest
		Detach    bool   // clients say it here too; what counts is the start's
		Container string // docker-py repeats whom the path names
	}
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	if len(req.Cmd) == 0 {
		return invalid("No exec command specified")
	}
	if _, err := detachKeys(req.DetachKeys); err != nil {
		return err
	}
	c := runtime.ExecConfig{
		Command: req.Cmd, Env: req.Env, WorkingDir: req.WorkingDir, User: req.User, Privileged: req.Privileged,
		TTY: req.Tty, Stdin: req.AttachStdin, Stdout: req.AttachStdout, Stderr: req.AttachStderr, DetachKeys: req.DetachKeys,
	}
	var err error
	if c.Width, c.Height, err = consoleSize(req.ConsoleSize); err != nil {
		return err
	}
	id, err := s.Engine.ExecCreate(ctx, r.PathValue("id"), c)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, common.IDResponse{ID: id})
}

// consoleSize reads Docker's pair of height and width.
func consoleSize(size *[2]uint) (width, height uint16, err error) {
	if size == nil {
		return 0, 0, nil
	}
	if size[0] > 65535 || size[1] > 65535 {
		return 0, 0, invalid("ConsoleSize: %v is no size of a terminal", *size)
	}
	return uint16(size[1]), uint16(size[0]), nil
}

func (s *server) execStart(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	var req container.ExecStartRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	// The size that counts is the one of the creation, and then every resize;
	// clients that say it here again have said it there.
	if _, _, err := consoleSize(req.ConsoleSize); err != nil {
		return err
	}
	x, err := s.Engine.ExecInspect(id)
	if err != nil {
		return err
	}
	// These are told by status, while there is one.
	if x.Running || x.ExitCode != nil {
		return errdefs.ErrConflict.WithMessage("exec " + id + " has been started already")
	}
	if c, err := s.Engine.Inspect(x.Container); err != nil {
		return err
	} else if c.State == runtime.Paused {
		return errdefs.ErrConflict.WithMessage("container " + c.Name + " is paused, unpause the container before exec")
	} else if c.State != runtime.Running {
		return errdefs.ErrConflict.WithMessage("container " + c.Name + " is not running")
	}
	if req.Detach {
		if err := s.Engine.ExecStart(ctx, id, nil); err != nil {
			return err
		}
		w.WriteHeader(http.StatusOK)
		return nil
	}

	tty := x.Config.TTY
	keys, err := detachKeys(x.Config.DetachKeys)
	if err != nil {
		return err
	}
	h, err := hijack(ctx, w, r, tty)
	if err != nil {
		return err
	}
	defer h.close()
	detached := make(chan struct{})
	streams := &runtime.ExecStreams{}
	switch {
	case x.Config.Stdin && tty:
		streams.In = &detacher{in: h, keys: keys, detached: detached}
	case x.Config.Stdin:
		streams.In = h
	default:
		h.drain()
	}
	if tty {
		streams.Out = h
	} else {
		var turn sync.Mutex
		if x.Config.Stdout {
			streams.Out = &framer{to: h, turn: &turn, stream: logs.Stdout}
		}
		if x.Config.Stderr {
			streams.Err = &framer{to: h, turn: &turn, stream: logs.Stderr}
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Engine.ExecStart(h.ctx, id, streams) }()
	select {
	case err = <-ended:
	case <-detached:
		h.cancel()
		<-ended
		return nil
	}
	if err != nil && h.ctx.Err() == nil {
		h.tell(err, tty)
	}
	return nil
}

// framer writes one stream into frames of a connection that several share.
type framer struct {
	to     io.Writer
	turn   *sync.Mutex
	stream logs.Stream
	buf    []byte
}

func (f *framer) Write(p []byte) (int, error) {
	f.turn.Lock()
	defer f.turn.Unlock()
	head := frame(f.stream, len(p))
	f.buf = append(append(f.buf[:0], head[:]...), p...)
	if _, err := f.to.Write(f.buf); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (s *server) execResize(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	width, height, err := readSize(r.URL.Query())
	if err != nil {
		return err
	}
	if err := s.Engine.ExecResize(ctx, r.PathValue("id"), width, height); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (s *server) execInspect(_ context.Context, w http.ResponseWriter, r *http.Request) error {
	x, err := s.Engine.ExecInspect(r.PathValue("id"))
	if err != nil {
		return err
	}
	c := x.Config
	privileged := c.Privileged
	process := &container.ExecProcessConfig{Tty: c.TTY, Privileged: &privileged, User: c.User, Arguments: []string{}}
	if len(c.Command) > 0 {
		process.Entrypoint, process.Arguments = c.Command[0], append(process.Arguments, c.Command[1:]...)
	}
	return writeJSON(w, http.StatusOK, container.ExecInspectResponse{
		ID: x.ID, Running: x.Running, ExitCode: x.ExitCode, ProcessConfig: process,
		OpenStdin: c.Stdin, OpenStdout: c.Stdout, OpenStderr: c.Stderr,
		ContainerID: x.Container, DetachKeys: []byte(c.DetachKeys), Pid: x.Pid,
	})
}
