package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"gantry/runtime/keeper"
	"gantry/runtime/spec"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/executor"
	resources "github.com/moby/buildkit/executor/resources/types"
	gateway "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/identity"
)

// steps runs the processes of builds; it is BuildKit's executor.Executor.
type steps struct {
	o *Options

	mu      sync.Mutex
	running map[string]*step
	all     sync.WaitGroup
}

// step is one run of a process on a root filesystem of its own.
type step struct {
	id     string
	dir    string // RUN/build/<id>: its root and what it mounts
	config spec.Config
	tell   func()        // that its process runs
	begun  chan struct{} // closed when it does
	over   chan struct{} // closed when nothing is left of it
	undo   []func() error
}

var _ executor.Executor = (*steps)(nil)

// Run runs a step to its end. started, which may be nil, is closed when the
// process runs, or when it never will.
func (x *steps) Run(ctx context.Context, id string, root executor.Mount, mounts []executor.Mount, p executor.ProcessInfo, started chan<- struct{}) (_ resources.Recorder, err error) {
	tell := func() {}
	if started != nil {
		tell = sync.OnceFunc(func() { close(started) })
		defer tell()
	}
	if id == "" {
		id = identity.NewID()
	}
	s, err := x.begin(id)
	if err != nil {
		return nil, err
	}
	s.tell = tell
	defer func() {
		err = errors.Join(err, s.end())
		x.forget(s)
	}()
	return nil, x.run(ctx, s, root, mounts, p)
}

func (x *steps) begin(id string) (*step, error) {
	if err := keeper.CheckID(id); err != nil {
		return nil, err
	}
	s := &step{id: id, dir: filepath.Join(x.o.Run, id), begun: make(chan struct{}), over: make(chan struct{})}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.running[id] != nil {
		return nil, fmt.Errorf("build step %s runs already: %w", id, errdefs.ErrAlreadyExists)
	}
	x.running[id] = s
	x.all.Add(1)
	return s, nil
}

func (x *steps) forget(s *step) {
	x.mu.Lock()
	delete(x.running, s.id)
	x.mu.Unlock()
	close(s.over)
	x.all.Done()
}

// wait waits until no step is left.
func (x *steps) wait() { x.all.Wait() }

// after has f called when the step is over, the last one first.
func (s *step) after(f func() error) { s.undo = append(s.undo, f) }

func (s *step) end() error {
	var errs []error
	for _, f := range slices.Backward(s.undo) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

func (x *steps) run(ctx context.Context, s *step, root executor.Mount, mounts []executor.Mount, p executor.ProcessInfo) error {
	if err := os.MkdirAll(s.dir, 0o711); err != nil {
		return err
	}
	s.after(func() error { return os.Remove(s.dir) })
	wired := make(chan error, 1)
	netns, err := x.network(ctx, s, p.Meta, wired)
	if err != nil {
		return err
	}
	bundle, err := x.bundle(ctx, s, root, mounts, p, netns)
	if err == nil {
		// Also what a create has begun that was broken off.
		s.after(func() error { return x.o.Keeper.Delete(context.WithoutCancel(ctx), s.id) })
		_, err = x.o.Keeper.Create(ctx, bundle)
	}
	// Always: nothing may go on behind the step's back.
	if werr := <-wired; err == nil {
		err = werr
	}
	if err != nil {
		return err
	}
	streams, err := x.attach(ctx, s, p)
	if err != nil {
		return err
	}
	if _, err := x.o.Keeper.Start(ctx, s.id); err != nil {
		streams.cut()
		return exitError(err)
	}
	close(s.begun)
	s.tell()
	exit, err := x.await(ctx, s, p)
	if err != nil {
		streams.cut()
		return err
	}
	streams.drain()
	return verdict(exit, p.Meta.ValidExitCodes)
}

// await waits for the end of a step's process and passes signals and sizes of
// its terminal on meanwhile. A step whose build is broken off is killed.
func (x *steps) await(ctx context.Context, s *step, p executor.ProcessInfo) (keeper.Exit, error) {
	over := make(chan struct{})
	var passing sync.WaitGroup
	defer passing.Wait()
	defer close(over)
	passing.Go(func() { x.pass(ctx, s.id, "", p, over) })
	exit, err := x.o.Keeper.Wait(ctx, s.id)
	if ctx.Err() != nil {
		return exit, context.Cause(ctx)
	}
	return exit, err
}

// pass carries signals and window sizes to a process until it is over.
func (x *steps) pass(ctx context.Context, id, execID string, p executor.ProcessInfo, over <-chan struct{}) {
	signals, sizes := p.Signal, p.Resize
	for {
		var err error
		select {
		case <-over:
			return
		case sig, ok := <-signals:
			if !ok {
				signals = nil
				continue
			}
			err = x.o.Keeper.Signal(ctx, id, execID, sig)
		case size, ok := <-sizes:
			if !ok {
				sizes = nil
				continue
			}
			err = x.o.Keeper.Resize(ctx, id, execID, uint16(size.Cols), uint16(size.Rows))
		}
		if err != nil && !errdefs.IsFailedPrecondition(err) && !errdefs.IsNotFound(err) {
			x.o.Log.Warn("signal a build step", "step", id, "error", err)
		}
	}
}

// Exec runs a further process in a step that runs, once it does.
func (x *steps) Exec(ctx context.Context, id string, p executor.ProcessInfo) error {
	x.mu.Lock()
	s := x.running[id]
	x.mu.Unlock()
	if s == nil {
		return fmt.Errorf("no build step %s: %w", id, errdefs.ErrNotFound)
	}
	select {
	case <-s.begun:
	case <-s.over:
		return fmt.Errorf("build step %s has ended: %w", id, errdefs.ErrFailedPrecondition)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return x.exec(ctx, s, p)
}

// verdict is what an exit means to BuildKit.
func verdict(exit keeper.Exit, valid []int) error {
	if valid == nil {
		valid = []int{0}
	}
	if exit.Known && slices.Contains(valid, exit.Code) {
		return nil
	}
	e := &gateway.ExitError{ExitCode: uint32(exit.Code)}
	switch {
	case !exit.Known:
		e.ExitCode, e.Err = gateway.UnknownExitStatus, errors.New("the process has ended and nobody knows how: the keeper died meanwhile")
	case exit.OOM:
		e.Err = fmt.Errorf("exit code: %d: the kernel killed a process for want of memory: %w", exit.Code, syscall.ENOMEM)
	}
	return e
}

// exitError is a command that could not be run, with the code a shell gives.
func exitError(err error) error {
	var se *keeper.StartError
	if errors.As(err, &se) {
		return &gateway.ExitError{ExitCode: uint32(se.Code), Err: err}
	}
	return err
}
