package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"sync"

	"gantry/runtime/keeper"

	"github.com/containerd/errdefs"
)

// AttachOptions say what of a container's streams a client wants.
type AttachOptions struct {
	// Stdin is copied to the container until it ends or the container does.
	// Attach does not wait for a Read that is under way when it returns: close
	// what it reads from.
	Stdin io.Reader
	// Out receives Docker's frames; of a container with a terminal, its bytes.
	Out            io.Writer
	Stdout, Stderr bool
	// Attached, when set, is closed once nothing that the container writes can
	// be missed any more.
	Attached chan<- struct{}
}

// ErrDetached is the cause with which a caller cancels an Attach whose user has
// left by keys, which is an event of its own.
var ErrDetached = errors.New("detached")

// errNeverRan ends the attachments of a container whose start has failed. Why,
// the one who started it is told; the container itself has said nothing.
var errNeverRan = errors.New("it never ran")

// attachment is one client on one container.
type attachment struct {
	o    AttachOptions
	read *os.File // our end of the output

	mu    sync.Mutex
	write *os.File // the keeper's end, until it is handed over
	stdin *os.File
	err   error
	ready chan struct{} // closed when attached, or when there is nothing to attach to
	done  bool          // ready is closed
	told  bool          // o.Attached is closed
}

// tell closes o.Attached; the caller holds mu.
func (a *attachment) tell() {
	if a.o.Attached != nil && !a.told {
		a.told = true
		close(a.o.Attached)
	}
}

// attach hands the attachment to the keeper. It is called once.
func (a *attachment) attach(ctx context.Context, e *Engine, c Container) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.done {
		return
	}
	out := a.write
	a.write = nil // the call owns it
	a.stdin, a.err = e.Keeper.Attach(ctx, keeper.AttachRequest{
		ID: c.ID, Stdin: a.o.Stdin != nil && c.Config.OpenStdin,
		Stdout: a.o.Stdout, Stderr: a.o.Stderr, Out: out,
	})
	if a.err == nil {
		a.tell()
	}
	a.done = true
	close(a.ready)
}

// fail ends an attachment that waits.
func (a *attachment) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.done {
		return
	}
	a.done, a.err = true, err
	if a.write != nil {
		a.write.Close()
		a.write = nil
	}
	close(a.ready)
}

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
	run, err := e.join(ctx, ct, a)
	if err != nil {
		a.fail(err)
		return err
	}
	e.emit(ct.snapshot(), "attach", nil)
	defer func() {
		if errors.Is(context.Cause(ctx), ErrDetached) {
			e.emit(ct.snapshot(), "detach", nil)
		}
	}()
	select {
	case <-a.ready:
	case <-ctx.Done():
		a.fail(ctx.Err())
	case <-e.closing:
		a.fail(errClosing)
	}
	// From here on nobody else touches it.
	a.mu.Lock()
	stdin, err := a.stdin, a.err
	a.mu.Unlock()
	ct.mu.Lock()
	ct.pending = slices.DeleteFunc(ct.pending, func(p *attachment) bool { return p == a })
	ct.mu.Unlock()
	if err != nil {
		if stdin != nil {
			stdin.Close()
		}
		if errors.Is(err, errNeverRan) {
			return nil
		}
		return err
	}
	return e.carry(ctx, ct, a, stdin, run)
}

// join attaches to a live container at once, and to another one when it starts.
// run is the number of the run it attaches to.
func (e *Engine) join(ctx context.Context, ct *container, a *attachment) (run uint64, err error) {
	ct.op.Lock()
	defer ct.op.Unlock()
	v := ct.view()
	switch {
	case v.removed || v.Removal != nil && !v.State.Live() || v.State == Dead || v.State == Removing:
		return 0, beingRemoved(v.Container)
	case v.State.Live():
		a.attach(ctx, e, v.Container)
		return v.exits, nil
	}
	ct.mu.Lock()
	ct.pending = append(ct.pending, a)
	ct.mu.Unlock()
	a.mu.Lock()
	a.tell()
	a.mu.Unlock()
	return v.exits, nil
}

// attachPending attaches those who waited for the start; the process exists and
// has not run yet. The caller holds op.
func (e *Engine) attachPending(ctx context.Context, ct *container) {
	ct.mu.Lock()
	pending, c := ct.pending, ct.c
	ct.pending = nil
	ct.mu.Unlock()
	for _, a := range pending {
		a.attach(ctx, e, c)
	}
}

// carry copies both ways. It ends with the output, or without any when the
// input ends or the container does.
func (e *Engine) carry(ctx context.Context, ct *container, a *attachment, stdin *os.File, run uint64) error {
	c := ct.snapshot()
	fed := make(chan struct{})
	if stdin != nil {
		go func() {
			defer close(fed)
			io.Copy(stdin, a.o.Stdin)
			stdin.Close()
			// Not the next run's: input may end after the container has.
			if c.Config.StdinOnce && !c.Config.TTY && ct.view().exits == run {
				if err := e.Keeper.CloseStdin(context.WithoutCancel(ctx), c.ID); err != nil && ct.view().exits == run {
					e.Log.Warn("a container was not told that its input has ended", "container", c.Name, "error", err)
				}
			}
		}()
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		if a.read != nil {
			io.Copy(a.o.Out, a.read)
			return
		}
		for v := ct.view(); v.exits == run && !v.removed; v = ct.view() {
			if e.next(watching, v) != nil {
				return
			}
		}
	}()
	var enough <-chan struct{} // nil where the output decides
	if a.read == nil {
		enough = fed
	}
	select {
	case <-gone:
		return nil
	case <-enough:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-e.closing:
		return errClosing
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
	if err := e.Keeper.Resize(ctx, c.ID, "", width, height); err != nil {
		return err
	}
	e.emit(c, "resize", map[string]string{"height": strconv.Itoa(int(height)), "width": strconv.Itoa(int(width))})
	return nil
}
