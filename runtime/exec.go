package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"gantry/runtime/keeper"
	"gantry/runtime/spec"

	"github.com/containerd/errdefs"
)

// execsKept is how long a finished exec can be asked for its exit code.
const execsKept = 5 * time.Minute

// exec is the live side of an Exec.
type exec struct {
	mu      sync.Mutex
	x       Exec
	started bool
	probe   bool          // a health check's: no event tells of it
	done    chan struct{} // closed when it has ended
}

func (x *exec) snapshot() Exec {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.x
}

// ExecStreams are the ends of an exec's standard streams. With a terminal all
// output goes to Out.
type ExecStreams struct {
	In       io.Reader // nil: none
	Out, Err io.Writer // nil: discarded
}

// ExecCreate prepares a further process in a running container.
func (e *Engine) ExecCreate(ctx context.Context, ref string, x ExecConfig) (string, error) {
	ct, err := e.find(ref)
	if err != nil {
		return "", err
	}
	c := ct.snapshot()
	if err := canExec(c); err != nil {
		return "", err
	}
	if len(x.Command) == 0 {
		return "", fmt.Errorf("exec in %s: no command given: %w", c.Name, errdefs.ErrInvalidArgument)
	}
	id := newID()
	e.mu.Lock()
	e.execs[id] = &exec{x: Exec{ID: id, Container: c.ID, Config: x}, done: make(chan struct{})}
	e.mu.Unlock()
	ct.mu.Lock()
	ct.execs[id] = true
	ct.mu.Unlock()
	e.emit(c, "exec_create: "+strings.Join(x.Command, " "), map[string]string{"execID": id})
	return id, nil
}

func canExec(c Container) error {
	switch c.State {
	case Running:
		return nil
	case Paused:
		return fmt.Errorf("container %s is paused; unpause it first: %w", c.Name, errdefs.ErrConflict)
	}
	return fmt.Errorf("container %s is not running: %w", c.Name, errdefs.ErrConflict)
}

func (e *Engine) findExec(id string) (*exec, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if x := e.execs[id]; x != nil {
		return x, nil
	}
	return nil, fmt.Errorf("No such exec instance: %s: %w", id, errdefs.ErrNotFound) //nolint:staticcheck // Docker's text
}

// ExecInspect returns one exec.
func (e *Engine) ExecInspect(id string) (Exec, error) {
	x, err := e.findExec(id)
	if err != nil {
		return Exec{}, err
	}
	return x.snapshot(), nil
}

// ExecResize sets the size of an exec's terminal.
func (e *Engine) ExecResize(ctx context.Context, id string, width, height uint16) error {
	x, err := e.findExec(id)
	if err != nil {
		return err
	}
	s := x.snapshot()
	if !s.Running {
		return fmt.Errorf("exec %s is not running: %w", id, errdefs.ErrConflict)
	}
	return e.Keeper.Resize(ctx, s.Container, id, width, height)
}

// ExecStart runs a prepared exec. With streams it returns when the process has
// ended and all its output is written; without any it returns at once. A
// command that cannot be run is a keeper.StartError.
func (e *Engine) ExecStart(ctx context.Context, id string, io *ExecStreams) error {
	x, err := e.findExec(id)
	if err != nil {
		return err
	}
	s := x.snapshot()
	ct, err := e.find(s.Container)
	if err != nil {
		return err
	}
	c := ct.snapshot()
	if err := canExec(c); err != nil {
		return err
	}
	x.mu.Lock()
	again := x.started
	x.started = true
	x.mu.Unlock()
	if again {
		return fmt.Errorf("exec %s has been started already: %w", id, errdefs.ErrConflict)
	}
	e.emit(c, "exec_start: "+strings.Join(s.Config.Command, " "), map[string]string{"execID": id})
	return e.runExec(ctx, c, x, io)
}

// runExec starts the process and carries its streams.
func (e *Engine) runExec(ctx context.Context, c Container, x *exec, streams *ExecStreams) error {
	cfg := x.snapshot().Config
	p, err := spec.Exec(c.Config, spec.ExecConfig{
		ID: c.ID, Args: cfg.Command, Env: cfg.Env, WorkingDir: cfg.WorkingDir, User: cfg.User,
		TTY: cfg.TTY, Privileged: cfg.Privileged, Width: cfg.Width, Height: cfg.Height,
	}, e.host)
	if err != nil {
		e.execExited(x.x.ID, keeper.Exit{Code: 126, At: time.Now(), Known: true})
		return err
	}
	req := keeper.ExecRequest{
		ID: c.ID, ExecID: x.x.ID, Process: p, GroupAdd: c.Config.GroupAdd,
		TTY: cfg.TTY, Width: cfg.Width, Height: cfg.Height,
	}
	var pipes execPipes
	if streams != nil && !cfg.TTY {
		if err := pipes.open(&req, streams); err != nil {
			return err
		}
	}
	started, err := e.Keeper.Exec(ctx, req)
	if err != nil {
		pipes.close()
		code := 126
		var se *keeper.StartError
		if errors.As(err, &se) && se.Code != 0 {
			code = se.Code
		}
		e.execExited(x.x.ID, keeper.Exit{Code: code, At: time.Now(), Known: true})
		return err
	}
	x.mu.Lock()
	x.x.Pid = started.Pid
	x.x.Running = x.x.ExitCode == nil
	x.mu.Unlock()
	if streams == nil {
		if started.Console != nil {
			// Nobody reads it: drain, or the process would block.
			e.spawn(func() { io.Copy(io.Discard, started.Console); started.Console.Close() })
		}
		return nil
	}
	var copied *sync.WaitGroup
	if cfg.TTY {
		copied = carryConsole(started.Console, streams)
		defer started.Console.Close()
	} else {
		copied = pipes.carry(streams)
		defer pipes.close()
	}
	select {
	case <-x.done:
	case <-ctx.Done():
		// The client has left. The process goes on, as under Docker; its
		// output has nowhere to go.
		return ctx.Err()
	}
	drained := make(chan struct{})
	go func() { copied.Wait(); close(drained) }()
	select {
	case <-drained:
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(2 * time.Second):
		// A child that outlives the exec holds its pipes open.
	}
	return nil
}

// execPipes are our ends of an exec's streams.
type execPipes struct{ in, out, err *os.File }

func (p *execPipes) open(req *keeper.ExecRequest, s *ExecStreams) (err error) {
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if s.In != nil {
		if req.Stdin, p.in, err = os.Pipe(); err != nil {
			return err
		}
	}
	if s.Out != nil {
		if p.out, req.Stdout, err = os.Pipe(); err != nil {
			return err
		}
	}
	if s.Err != nil {
		p.err, req.Stderr, err = os.Pipe()
	}
	return err
}

func (p *execPipes) close() {
	for _, f := range []*os.File{p.in, p.out, p.err} {
		if f != nil {
			f.Close()
		}
	}
}

// carry copies until the streams end. Only output is waited for: input ends
// when the client says so.
func (p *execPipes) carry(s *ExecStreams) *sync.WaitGroup {
	var out sync.WaitGroup
	if p.in != nil {
		go func() {
			io.Copy(p.in, s.In)
			p.in.Close()
		}()
	}
	for _, o := range []struct {
		from *os.File
		to   io.Writer
	}{{p.out, s.Out}, {p.err, s.Err}} {
		if o.from != nil {
			out.Go(func() { io.Copy(o.to, o.from) })
		}
	}
	return &out
}

func carryConsole(console *os.File, s *ExecStreams) *sync.WaitGroup {
	var out sync.WaitGroup
	if s.In != nil {
		go io.Copy(console, s.In)
	}
	to := s.Out
	if to == nil {
		to = io.Discard
	}
	out.Go(func() { io.Copy(to, console) }) // ends with EIO when the last process has left
	return &out
}

// execExited settles the end of an exec.
func (e *Engine) execExited(id string, exit keeper.Exit) {
	x, err := e.findExec(id)
	if err != nil {
		return // a probe's, or long forgotten
	}
	x.mu.Lock()
	over := x.x.ExitCode != nil
	if !over {
		x.x.ExitCode, x.x.Running, x.x.Pid = &exit.Code, false, 0
		close(x.done)
	}
	s := x.x
	x.mu.Unlock()
	if over || x.probe {
		return
	}
	if ct, err := e.find(s.Container); err == nil {
		e.emit(ct.snapshot(), "exec_die", map[string]string{"execID": id, "exitCode": fmt.Sprint(exit.Code)})
		time.AfterFunc(execsKept, func() {
			e.mu.Lock()
			delete(e.execs, id)
			e.mu.Unlock()
			ct.mu.Lock()
			delete(ct.execs, id)
			ct.mu.Unlock()
		})
	}
}

// killExec ends an exec that took too long.
func (e *Engine) killExec(ctx context.Context, container, id string) error {
	err := e.Keeper.Signal(ctx, container, id, syscall.SIGKILL)
	if errors.Is(err, errdefs.ErrNotFound) {
		return nil
	}
	return err
}
