package runtime

import (
	"context"
	"io"
	"os"
	"sync"
	"time"

	"gantry/runtime/keeper"
)

// drainTime is how long output is waited for once its process has ended: a
// child that outlives it may hold the pipes open for as long as it likes.
const drainTime = 2 * time.Second

// execPipes are our ends of an exec's streams: pipes, or a terminal.
type execPipes struct {
	s       ExecStreams
	in      *os.File
	out     *os.File
	err     *os.File
	console *os.File
	copied  sync.WaitGroup // output only: input ends when the client says so
}

func (p *execPipes) open(req *keeper.ExecRequest) (err error) {
	defer func() {
		if err != nil {
			p.close()
			for _, f := range []*os.File{req.Stdin, req.Stdout, req.Stderr} {
				if f != nil {
					f.Close()
				}
			}
		}
	}()
	if p.s.In != nil {
		if req.Stdin, p.in, err = os.Pipe(); err != nil {
			return err
		}
	}
	if p.s.Out != nil {
		if p.out, req.Stdout, err = os.Pipe(); err != nil {
			return err
		}
	}
	switch {
	case p.s.Err != nil && p.s.merged:
		req.Stderr, err = keeper.Dup(req.Stdout)
	case p.s.Err != nil:
		p.err, req.Stderr, err = os.Pipe()
	}
	return err
}

func (p *execPipes) close() {
	for _, f := range []*os.File{p.in, p.out, p.err, p.console} {
		if f != nil {
			f.Close()
		}
	}
}

// copy begins to carry the streams. The goroutine that reads the client's input
// ends when that does, which is for the client's connection to say.
func (p *execPipes) copy() {
	if p.console != nil {
		if p.s.In != nil {
			go io.Copy(p.console, p.s.In)
		}
		// It ends with EIO when the last process has left the terminal.
		p.copied.Go(func() { carryAll(p.s.Out, p.console) })
		return
	}
	if p.in != nil {
		go func() {
			io.Copy(p.in, p.s.In)
			p.in.Close()
		}()
	}
	if p.out != nil {
		p.copied.Go(func() { carryAll(p.s.Out, p.out) })
	}
	if p.err != nil {
		p.copied.Go(func() { carryAll(p.s.Err, p.err) })
	}
}

// carryAll copies until from ends, also when there is nobody to write to any
// more: the process must not be stopped by a client that has left.
func carryAll(to io.Writer, from io.Reader) {
	if to != nil {
		if _, err := io.Copy(to, from); err == nil {
			return
		}
	}
	io.Copy(io.Discard, from)
}

// drain waits for the last output of a process that has ended.
func (p *execPipes) drain(ctx context.Context) {
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		p.copied.Wait()
	}()
	t := time.NewTimer(drainTime)
	defer t.Stop()
	select {
	case <-drained:
	case <-ctx.Done():
	case <-t.C:
	}
}

// finish looks after the streams of a process that nobody listens to until it
// has ended.
func (p *execPipes) finish(ended, closing <-chan struct{}) {
	select {
	case <-ended:
	case <-closing:
	}
	p.close()
}
