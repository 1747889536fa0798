package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"gantry/runtime/keeper"
	"gantry/runtime/spec"

	"github.com/containerd/errdefs"
)

// execsKept is how long an exec that has ended, or was never started, can be
// asked for.
const execsKept = 5 * time.Minute

// exec is the live side of an Exec.
type exec struct {
	mu      sync.Mutex
	x       Exec
	started bool
	since   time.Time     // it was made, started or ended
	probe   bool          // a health check's: no event tells of it
	begun   chan struct{} // closed when it runs
	done    chan struct{} // closed when it has ended
}

func (x *exec) snapshot() Exec {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.x
}

// forgotten says whether nobody can be interested in it any more.
func (x *exec) forgotten(now time.Time) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return (x.x.ExitCode != nil || !x.started) && now.Sub(x.since) > execsKept
}

// ExecStreams are the ends of an exec's standard streams. With a terminal all
// output goes to Out.
type ExecStreams struct {
	In       io.Reader // nil: none
	Out, Err io.Writer // nil: discarded
	merged   bool      // Out and Err are the same: one pipe will do
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
	e.keepExec(&exec{x: Exec{ID: id, Container: c.ID, Config: x}})
	e.emit(c, "exec_create: "+eventCommand(x.Command), map[string]string{"execID": id})
	return id, nil
}

// eventCommand is a command as its events name it: the program, a space, and
// the arguments, even if there are none.
func eventCommand(words []string) string {
	return words[0] + " " + strings.Join(words[1:], " ")
}

// keepExec makes an exec known, and forgets old ones.
func (e *Engine) keepExec(x *exec) {
	x.since, x.begun, x.done = time.Now(), make(chan struct{}), make(chan struct{})
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, old := range e.execs {
		if old.forgotten(x.since) {
			delete(e.execs, id)
		}
	}
	e.execs[x.x.ID] = x
}

// execsOf are the execs of a container.
func (e *Engine) execsOf(ct *container) []*exec {
	id := ct.snapshot().ID
	e.mu.RLock()
	defer e.mu.RUnlock()
	var all []*exec
	for _, x := range e.execs {
		if x.x.Container == id { // never changes
			all = append(all, x)
		}
	}
	return all
}

func (e *Engine) forgetExecs(ct *container) {
	for _, x := range e.execsOf(ct) {
		e.mu.Lock()
		delete(e.execs, x.x.ID)
		e.mu.Unlock()
	}
}

// lastWord is how long the exit of an exec is waited for once its container has
// ended. It is told before the container's, unless a keeper died in between.
const lastWord = 2 * time.Second

// endExecs sees to it that nobody waits for an exec of a container that has
// ended.
func (e *Engine) endExecs(ct *container) {
	for _, x := range e.execsOf(ct) {
		if s := x.snapshot(); !s.Running {
			continue
		}
		e.spawn(func() {
			select {
			case <-x.done:
			case <-e.closing:
			case <-time.After(lastWord):
				e.execExited(x.x.ID, keeper.Exit{Code: 128 + int(syscall.SIGKILL), At: time.Now()})
			}
		})
	}
}

func canExec(c Container) error {
	switch c.State {
	case Running:
		return nil
	case Paused:
		return fmt.Errorf("container %s is paused, unpause the container before exec: %w", c.Name, errdefs.ErrConflict)
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

// startPatience is how long a resize waits for the exec to start: clients send
// both at the same time.
const startPatience = 2 * time.Second

// ExecResize sets the size of an exec's terminal.
func (e *Engine) ExecResize(ctx context.Context, id string, width, height uint16) error {
	x, err := e.findExec(id)
	if err != nil {
		return err
	}
	select {
	case <-x.begun:
	case <-x.done:
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(startPatience):
	}
	s := x.snapshot()
	if !s.Running {
		return fmt.Errorf("exec %s is not running: %w", id, errdefs.ErrConflict)
	}
	return e.Keeper.Resize(ctx, s.Container, id, width, height)
}

// ExecStart runs a prepared exec. With streams it returns when the process has
// ended and all its output is written; without any it returns at once. A
// command that cannot be run is a keeper.StartError. A caller that leaves
// leaves the process running.
func (e *Engine) ExecStart(ctx context.Context, id string, streams *ExecStreams) error {
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
	e.emit(c, "exec_start: "+eventCommand(s.Config.Command), map[string]string{"execID": id})
	p, err := e.startExec(ctx, c, x, streams)
	if err != nil {
		return err
	}
	p.copy()
	if streams == nil {
		e.spawn(func() { p.finish(x.done, e.closing) })
		return nil
	}
	select {
	case <-x.done:
		p.drain(ctx)
		p.close()
		return nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-e.closing:
		err = errClosing
	}
	e.spawn(func() { p.finish(x.done, e.closing) })
	return err
}

// startExec starts the process of an exec. On an error the exec has ended.
func (e *Engine) startExec(ctx context.Context, c Container, x *exec, streams *ExecStreams) (_ *execPipes, err error) {
	defer func() {
		if err == nil {
			return
		}
		code := 126
		var se *keeper.StartError
		if errors.As(err, &se) && se.Code != 0 {
			code = se.Code
		}
		e.execExited(x.x.ID, keeper.Exit{Code: code, At: time.Now(), Known: true})
	}()
	cfg := x.snapshot().Config
	p, err := spec.Exec(e.shownConfig(c), spec.ExecConfig{
		ID: c.ID, Args: cfg.Command, Env: cfg.Env, WorkingDir: cfg.WorkingDir, User: cfg.User,
		TTY: cfg.TTY, Privileged: cfg.Privileged, Width: cfg.Width, Height: cfg.Height,
	}, e.host)
	if err != nil {
		return nil, err
	}
	req := keeper.ExecRequest{
		ID: c.ID, ExecID: x.x.ID, Process: p, GroupAdd: c.Config.GroupAdd,
		TTY: cfg.TTY, Width: cfg.Width, Height: cfg.Height, Unhurried: x.probe,
	}
	pipes := &execPipes{}
	if streams != nil {
		pipes.s = *streams
		if !cfg.TTY {
			if err := pipes.open(&req); err != nil {
				return nil, err
			}
		}
	}
	started, err := e.Keeper.Exec(ctx, req)
	if err != nil {
		pipes.close()
		return nil, err
	}
	pipes.console = started.Console
	x.mu.Lock()
	x.x.Pid = started.Pid
	x.x.Running = x.x.ExitCode == nil
	if !x.x.Running {
		x.x.Pid = 0
	}
	close(x.begun)
	x.mu.Unlock()
	return pipes, nil
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
		x.since = time.Now()
		close(x.done)
	}
	s := x.x
	x.mu.Unlock()
	if over || x.probe {
		return
	}
	if ct, err := e.find(s.Container); err == nil {
		e.emit(ct.snapshot(), "exec_die", map[string]string{"execID": id, "exitCode": strconv.Itoa(exit.Code)})
	}
}

// killExec ends an exec that took too long; that it has ended is no error.
func (e *Engine) killExec(ctx context.Context, container, id string) error {
	err := e.Keeper.Signal(ctx, container, id, syscall.SIGKILL)
	if errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err) {
		return nil
	}
	return err
}
