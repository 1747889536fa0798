package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"gantry/runtime/keeper"

	"github.com/containerd/errdefs"
)

// AttachOptions say what of a container's streams a client wants.
type AttachOptions struct {
	// Stdin is copied to the container until it ends or the container does.
	Stdin io.Reader
	// Out receives Docker's frames; of a container with a terminal, its bytes.
	Out            io.Writer
	Stdout, Stderr bool
	// Attached, when set, is closed once nothing that the container writes can
	// be missed any more.
	Attached chan<- struct{}
}

// attachment is one client on one container.
type attachment struct {
	o     AttachOptions
	read  *os.File // our end of the output
	write *os.File // the keeper's
	stdin *os.File
	once  sync.Once
	ready chan struct{} // closed when attached or failed
	err   error
}

func (a *attachment) settle(err error) {
	a.once.Do(func() {
		a.err = err
		close(a.ready)
	})
}

func (a *attachment) fail(err error) { a.settle(err) }

// Attach carries a container's streams until it ends, or ctx does. A container
// that is not started yet is attached when it is, before its first byte.
func (e *Engine) Attach(ctx context.Context, ref string, o AttachOptions) error {
	ct, err := e.find(ref)
	if err != nil {
		return err
	}
	a := &attachment{o: o, ready: make(chan struct{})}
	if o.Stdout || o.Stderr {
		if a.read, a.write, err = os.Pipe(); err != nil {
			return err
		}
		defer a.read.Close()
	}
	if err := e.join(ctx, ct, a); err != nil {
		return err
	}
	select {
	case <-a.ready:
	case <-ctx.Done():
		e.leave(ct, a)
		return ctx.Err()
	case <-e.closing:
		return fmt.Errorf("the daemon is stopping: %w", errdefs.ErrUnavailable)
	}
	if a.err != nil {
		return a.err
	}
	return e.carry(ctx, ct, a)
}

// join attaches to a live container at once, and to another one when it starts.
func (e *Engine) join(ctx context.Context, ct *container, a *attachment) error {
	ct.op.Lock()
	defer ct.op.Unlock()
	switch c := ct.snapshot(); c.State {
	case Running, Paused:
		a.settle(e.attachNow(ctx, c, a))
	case Created, Exited, Restarting:
		ct.mu.Lock()
		ct.pending = append(ct.pending, a)
		ct.mu.Unlock()
		if a.o.Attached != nil {
			close(a.o.Attached)
			a.o.Attached = nil
		}
	default:
		return fmt.Errorf("container %s is being removed: %w", c.Name, errdefs.ErrConflict)
	}
	return nil
}

// leave forgets an attachment that still waits.
func (e *Engine) leave(ct *container, a *attachment) {
	ct.mu.Lock()
	defer ct.mu.Unlock()
	for i, p := range ct.pending {
		if p == a {
			ct.pending = append(ct.pending[:i:i], ct.pending[i+1:]...)
			break
		}
	}
	if a.write != nil {
		a.write.Close()
		a.write = nil
	}
}

func (e *Engine) attachNow(ctx context.Context, c Container, a *attachment) (err error) {
	out := a.write
	a.write = nil // the call owns it
	a.stdin, err = e.Keeper.Attach(ctx, keeper.AttachRequest{
		ID: c.ID, Stdin: a.o.Stdin != nil && c.Config.OpenStdin,
		Stdout: a.o.Stdout, Stderr: a.o.Stderr, Out: out,
	})
	if err == nil && a.o.Attached != nil {
		close(a.o.Attached)
	}
	return err
}

// attachPending attaches those who waited for the start; the process exists and
// has not run yet. The caller holds op.
func (e *Engine) attachPending(ctx context.Context, ct *container) error {
	ct.mu.Lock()
	pending, c := ct.pending, ct.c
	ct.pending = nil
	ct.mu.Unlock()
	for _, a := range pending {
		a.settle(e.attachNow(ctx, c, a))
	}
	return nil
}

// carry copies both ways. It ends with the output, or without any when the
// input ends or the container does.
func (e *Engine) carry(ctx context.Context, ct *container, a *attachment) error {
	c := ct.snapshot()
	fed := make(chan struct{})
	if a.stdin == nil {
		close(fed)
	} else {
		go func() {
			defer close(fed)
			io.Copy(a.stdin, a.o.Stdin)
			a.stdin.Close()
			if c.Config.StdinOnce && !c.Config.TTY {
				e.Keeper.CloseStdin(context.WithoutCancel(ctx), c.ID)
			}
		}()
	}
	gone := make(chan struct{})
	watching, stop := context.WithCancel(ctx)
	defer stop()
	if a.read != nil {
		go func() {
			defer close(gone)
			io.Copy(a.o.Out, a.read)
		}()
	} else {
		go func() {
			defer close(gone)
			e.waitExit(watching, ct, ct.snapshot())
		}()
	}
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-e.closing:
		return errors.Join(errdefs.ErrUnavailable)
	}
}

// Resize sets the size of a container's terminal.
func (e *Engine) Resize(ctx context.Context, ref string, width, height uint16) error {
	ct, err := e.find(ref)
	if err != nil {
		return err
	}
	c := ct.snapshot()
	if !c.State.Live() {
		return fmt.Errorf("container %s is not running: %w", c.Name, errdefs.ErrConflict)
	}
	return e.Keeper.Resize(ctx, c.ID, "", width, height)
}
