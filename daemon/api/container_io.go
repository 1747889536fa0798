package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"gantry/runtime"
	"gantry/runtime/logs"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types"
	"github.com/moby/moby/api/types/container"
)

// logQuery reads which lines of a log are asked for.
func logQuery(r *http.Request) (logs.Query, error) {
	q := r.URL.Query()
	out := logs.Query{Follow: boolean(q, "follow"), Stdout: boolean(q, "stdout"), Stderr: boolean(q, "stderr"), Tail: -1}
	if !out.Stdout && !out.Stderr {
		return out, invalid("Bad parameters: you must choose at least one stream")
	}
	// Docker takes everything that is not a number of lines for "all".
	if n, err := strconv.Atoi(q.Get("tail")); err == nil && n >= 0 {
		out.Tail = n
	}
	var err error
	if out.Since, err = readTime(q, "since"); err != nil {
		return out, err
	}
	out.Until, err = readTime(q, "until")
	return out, err
}

func (s *server) containerLogs(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	q, err := logQuery(r)
	if err != nil {
		return err
	}
	c, err := s.Engine.Inspect(r.PathValue("id"))
	if err != nil {
		return err
	}
	if c.LogPath == "" {
		return unsupported("configured logging driver does not support reading: container %s keeps no log (logging driver %q)", c.Name, c.Config.Log.Driver)
	}
	out := &logWriter{w: w, raw: c.Config.TTY, stamps: boolean(r.URL.Query(), "timestamps"), details: boolean(r.URL.Query(), "details")}
	kind := types.MediaTypeMultiplexedStream
	if out.raw || before(ctx, 42) {
		kind = types.MediaTypeRawStream
	}
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(http.StatusOK)
	if q.Follow {
		// A line goes out when it comes; without following, when the buffer
		// is full.
		out.flush = http.NewResponseController(w).Flush
		_ = out.flush()
	}
	err = s.Engine.Logs(ctx, c.ID, q, out.write)
	if errdefs.IsNotFound(err) {
		return nil // removed while it was followed: the end
	}
	return err
}

// logWriter writes entries of a log the way Docker's clients read them.
type logWriter struct {
	w      io.Writer
	raw    bool // of a terminal: no frames
	stamps bool
	// details are attributes that a logging driver was told to keep of a
	// container. There are none; the space behind them remains.
	details bool
	flush   func() error
	buf     []byte
	// mid tells, for each stream, that its last entry was part of a line, so
	// that the next gets no time of its own.
	mid [3]bool
}

func (l *logWriter) write(e logs.Entry) error {
	l.buf = l.buf[:0]
	if !l.raw {
		l.buf = append(l.buf, 0, 0, 0, 0, 0, 0, 0, 0)
	}
	if l.stamps && !l.mid[e.Stream] {
		l.buf = e.Time.UTC().AppendFormat(l.buf, "2006-01-02T15:04:05.000000000Z07:00")
		l.buf = append(l.buf, ' ')
	}
	if l.details && !l.mid[e.Stream] {
		l.buf = append(l.buf, ' ')
	}
	l.mid[e.Stream] = e.Partial()
	l.buf = append(l.buf, e.Line...)
	if !l.raw {
		head := frame(e.Stream, len(l.buf)-8)
		copy(l.buf, head[:])
	}
	if _, err := l.w.Write(l.buf); err != nil {
		return err
	}
	if l.flush != nil {
		return l.flush()
	}
	return nil
}

// containerAttach joins a container's streams. The header goes out when the
// engine has attached, because a client starts the container after it and
// must not miss its first words.
func (s *server) containerAttach(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	return s.attach(ctx, w, r, hijack, false)
}

// attach joins streams over a connection that take takes over. Plain says that
// it tells standard output and error not apart.
func (s *server) attach(ctx context.Context, w http.ResponseWriter, r *http.Request,
	take func(context.Context, http.ResponseWriter, *http.Request, bool) (*hijacked, error), plain bool,
) error {
	q := r.URL.Query()
	c, err := s.Engine.Inspect(r.PathValue("id"))
	if err != nil {
		return err
	}
	if keys := q.Get("detachKeys"); keys != "" {
		if _, err := detachKeys(keys); err != nil {
			return err
		}
	}
	switch {
	case c.State == runtime.Paused:
		return errdefs.ErrConflict.WithMessage("container " + c.Name + " is paused, unpause the container before attach")
	case c.State == runtime.Restarting:
		return errdefs.ErrConflict.WithMessage("container " + c.Name + " is restarting, wait until the container is running")
	}
	stdin, stdout, stderr := boolean(q, "stdin"), boolean(q, "stdout"), boolean(q, "stderr")
	if !boolean(q, "stream") {
		stdin = false
	}
	keys, _ := detachKeys(q.Get("detachKeys"))

	// The engine attaches before the connection is taken over: what it writes
	// meanwhile waits in the pipe, and an error is still a status.
	gate := newGate()
	attached := make(chan struct{})
	ended := make(chan error, 1)
	actx, end := context.WithCancelCause(context.WithoutCancel(ctx))
	cancel := func() { end(nil) }
	defer cancel()
	o := runtime.AttachOptions{Out: gate, Stdout: stdout, Stderr: stderr, Attached: attached}
	if stdin {
		o.Stdin = gate
	}
	if boolean(q, "stream") {
		go func() { ended <- s.Engine.Attach(actx, c.ID, o) }()
		select {
		case <-attached:
		case err := <-ended:
			gate.shut()
			if err != nil {
				return err
			}
			ended <- nil
		case <-ctx.Done():
			gate.shut()
			cancel()
			<-ended
			return ctx.Err()
		}
	} else {
		ended <- nil
	}

	h, err := take(ctx, w, r, c.Config.TTY)
	if err != nil {
		gate.shut()
		cancel()
		<-ended
		return err
	}
	defer h.close()
	raw := plain || c.Config.TTY
	if boolean(q, "logs") && c.LogPath != "" {
		past := &logWriter{w: h, raw: raw}
		err := s.Engine.Logs(h.ctx, c.ID, logs.Query{Stdout: stdout, Stderr: stderr, Tail: -1}, past.write)
		if err != nil {
			h.tell(err, raw)
		}
	}
	var out io.Writer = h
	if plain && !c.Config.TTY {
		out = &unframed{w: h}
	}
	detached := make(chan struct{})
	var in io.Reader = h
	if stdin && c.Config.TTY {
		in = &detacher{in: h, keys: keys, detached: detached}
	}
	if !stdin {
		h.drain()
	}
	gate.open(in, out)
	select {
	case err = <-ended:
	case <-h.ctx.Done():
		cancel()
		err = <-ended
	case <-detached:
		end(runtime.ErrDetached)
		<-ended
		err = nil
	}
	gate.shut()
	if err != nil && !errors.Is(err, context.Canceled) {
		h.tell(err, raw)
	}
	return nil
}

func (s *server) containerResize(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	width, height, err := readSize(r.URL.Query())
	if err != nil {
		return err
	}
	if err := s.Engine.Resize(ctx, r.PathValue("id"), width, height); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// statsEvery is the pace of a stream of samples, as Docker's.
const statsEvery = time.Second

func (s *server) containerStats(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	stream := q.Get("stream") == "" || boolean(q, "stream")
	if stream && boolean(q, "one-shot") {
		return invalid("cannot have stream=true and one-shot=true")
	}
	c, err := s.Engine.Inspect(r.PathValue("id"))
	if err != nil {
		return err
	}
	var previous container.StatsResponse
	// sample is all zeros for a container that does not run, as in Docker.
	sample := func() (container.StatsResponse, error) {
		st, err := s.Engine.Stats(ctx, c.ID)
		if err != nil && (errdefs.IsConflict(err) || errdefs.IsFailedPrecondition(err)) {
			return container.StatsResponse{ID: c.ID, Name: "/" + c.Name, OSType: "linux"}, nil
		} else if err != nil {
			return container.StatsResponse{}, err
		}
		now := wireStats(c, st, s.Engine.Host())
		now.PreRead, now.PreCPUStats = previous.Read, previous.CPUStats
		previous = now
		return now, nil
	}
	first, err := sample()
	if err != nil {
		return err
	}
	if !stream && boolean(q, "one-shot") {
		return writeJSON(w, http.StatusOK, first)
	}
	tick := time.NewTicker(statsEvery)
	defer tick.Stop()
	// A rate needs two samples; the first of a stream has nothing to compare to.
	if !stream {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		second, err := sample()
		if err != nil {
			return err
		}
		return writeJSON(w, http.StatusOK, second)
	}
	out := beginLines(w, "application/json")
	for now := first; ; {
		if err := out.send(now); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if now, err = sample(); errdefs.IsNotFound(err) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func (s *server) containerTop(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	columns, err := psOptions(r.URL.Query().Get("ps_args"))
	if err != nil {
		return err
	}
	all, err := s.Engine.Top(ctx, r.PathValue("id"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, wireTop(all, columns, s.Engine.Host(), time.Now()))
}
