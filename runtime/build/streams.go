package build

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"gantry/runtime/keeper"
	"gantry/runtime/spec"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/identity"
)

// streams are the standard streams of one process, on their way between it and
// BuildKit.
type streams struct {
	out   *os.File // read: the process's output
	in    *os.File // written: its input; nil for none
	close sync.Once
	work  sync.WaitGroup
	fed   sync.WaitGroup
	owned []io.Closer // BuildKit's ends
}

// attach begins to copy the streams of a step whose process is made and not
// let go yet.
func (x *steps) attach(ctx context.Context, s *step, p executor.ProcessInfo) (*streams, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	in, err := x.o.Keeper.Attach(ctx, keeper.AttachRequest{
		ID: s.id, Stdin: p.Stdin != nil, Stdout: true, Stderr: true, Out: w,
	})
	if err != nil {
		r.Close()
		return nil, err
	}
	st := &streams{out: r, in: in}
	st.own(p)
	st.work.Go(func() {
		if p.Meta.Tty {
			_, err = io.Copy(writer(p.Stdout), r)
		} else {
			err = unframe(r, writer(p.Stdout), writer(p.Stderr))
		}
		// Whoever does not read on is no reason to stop the process.
		_, _ = io.Copy(io.Discard, r)
	})
	st.feed(p.Stdin)
	return st, nil
}

// own takes the ends that are to be closed when the process is over.
func (st *streams) own(p executor.ProcessInfo) {
	for _, c := range []io.Closer{p.Stdout, p.Stderr} {
		if c != nil {
			st.owned = append(st.owned, c)
		}
	}
}

// feed copies a process's input to it.
func (st *streams) feed(from io.ReadCloser) {
	if from == nil || st.in == nil {
		return
	}
	st.owned = append(st.owned, from)
	st.fed.Go(func() {
		_, _ = io.Copy(st.in, from)
		st.in.Close()
	})
}

// drain waits until all output is delivered, and lets go of the rest.
func (st *streams) drain() {
	st.work.Wait()
	st.cut()
}

// cut ends the copying at once.
func (st *streams) cut() {
	st.close.Do(func() {
		st.out.Close()
		if st.in != nil {
			st.in.Close()
		}
		for _, c := range st.owned {
			_ = c.Close()
		}
		st.work.Wait()
		st.fed.Wait()
	})
}

func writer(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}

// maxFrame is more than the keeper puts into one.
const maxFrame = 16 << 20

// unframe takes output in Docker's frames apart: the number of the stream,
// three zero bytes, the length, big-endian, and the bytes.
func unframe(r io.Reader, stdout, stderr io.Writer) error {
	br := bufio.NewReaderSize(r, 64<<10)
	var head [8]byte
	for {
		if _, err := io.ReadFull(br, head[:]); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		n := binary.BigEndian.Uint32(head[4:])
		if n > maxFrame {
			return fmt.Errorf("a frame of %d bytes", n)
		}
		w := stdout
		if head[0] == 2 {
			w = stderr
		}
		if _, err := io.CopyN(w, br, int64(n)); err != nil {
			return err
		}
	}
}

// exec runs a process in the step s and waits for its end.
func (x *steps) exec(ctx context.Context, s *step, p executor.ProcessInfo) error {
	process, err := spec.Exec(s.config, spec.ExecConfig{
		ID: s.id, Args: p.Meta.Args, Env: p.Meta.Env, WorkingDir: p.Meta.Cwd, User: p.Meta.User, TTY: p.Meta.Tty,
	}, x.o.Host)
	if err != nil {
		return err
	}
	req := keeper.ExecRequest{ID: s.id, ExecID: identity.NewID(), Process: process, TTY: p.Meta.Tty}
	st := &streams{}
	st.own(p)
	var theirs []*os.File
	pipe := func() (ours, its *os.File) {
		r, w, perr := os.Pipe()
		err = errors.Join(err, perr)
		return r, w
	}
	var stdout, stderr *os.File
	if !p.Meta.Tty {
		stdout, req.Stdout = pipe()
		stderr, req.Stderr = pipe()
		if p.Stdin != nil {
			req.Stdin, st.in = pipe()
		}
		theirs = []*os.File{req.Stdout, req.Stderr, req.Stdin}
	}
	if err != nil {
		for _, f := range append(theirs, stdout, stderr, st.in) {
			f.Close() // a nil file says so, and no more
		}
		return err
	}
	started, err := x.o.Keeper.Exec(ctx, req) // owns its files
	if err != nil {
		for _, f := range []*os.File{stdout, stderr, st.in} {
			f.Close()
		}
		return exitError(err)
	}
	if p.Meta.Tty {
		st.out, st.in = started.Console, started.Console
		st.work.Go(func() { _, _ = io.Copy(writer(p.Stdout), started.Console) })
	} else {
		st.out = stdout
		st.work.Go(func() { _, _ = io.Copy(writer(p.Stdout), stdout) })
		st.work.Go(func() {
			_, _ = io.Copy(writer(p.Stderr), stderr)
			stderr.Close()
		})
	}
	st.feed(p.Stdin)
	over := make(chan struct{})
	var passing sync.WaitGroup
	passing.Go(func() { x.pass(ctx, s.id, req.ExecID, p, over) })
	exit, err := x.o.Keeper.WaitExec(ctx, s.id, req.ExecID)
	close(over)
	passing.Wait()
	if ctx.Err() != nil {
		kill := context.WithoutCancel(ctx)
		err = errors.Join(context.Cause(ctx), ignoreGone(x.o.Keeper.Signal(kill, s.id, req.ExecID, 9)))
		if stderr != nil {
			stderr.Close()
		}
		st.cut()
		return err
	}
	if err != nil {
		st.cut()
		return err
	}
	st.drain()
	return verdict(exit, p.Meta.ValidExitCodes)
}

func ignoreGone(err error) error {
	if errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err) {
		return nil
	}
	return err
}
