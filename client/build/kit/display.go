package kit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	bkclient "github.com/moby/buildkit/client"
	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/util/progress/progressui"
	"golang.org/x/term"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// display is BuildKit's own, of all builds of a job together.
type display struct {
	out      io.Writer
	mode     progressui.DisplayMode
	status   chan *bkclient.SolveStatus
	sources  sync.WaitGroup // builds that still report
	shown    sync.WaitGroup
	warnings []bkclient.VertexWarning
}

func newDisplay(mode string, out *os.File) (*display, error) {
	d := &display{out: out, mode: progressui.DisplayMode(mode), status: make(chan *bkclient.SolveStatus)}
	terminal := term.IsTerminal(int(out.Fd()))
	switch d.mode {
	case progressui.TtyMode:
		if !terminal {
			return nil, invalid("--progress tty: standard error is no terminal")
		}
	case progressui.AutoMode, progressui.DefaultMode:
		if d.mode = progressui.TtyMode; !terminal || os.Getenv("TERM") == "dumb" {
			d.mode = progressui.PlainMode
		}
	}
	ui, err := progressui.NewDisplay(out, d.mode)
	if err != nil {
		return nil, invalid("--progress %s: %v", mode, err)
	}
	d.shown.Go(func() {
		// To its end, also when the builds are broken off.
		d.warnings, err = ui.UpdateFrom(context.Background(), d.status)
		for range d.status { // nobody waits for a display that is gone
			continue
		}
	})
	return d, nil
}

// of is where a build reports, which closes it. Its steps' names begin with
// prefix, if there is one.
func (d *display) of(prefix string) chan *bkclient.SolveStatus {
	in := make(chan *bkclient.SolveStatus)
	d.sources.Go(func() {
		for s := range in {
			if prefix != "" {
				for _, v := range s.Vertexes {
					v.Name = prefixed(prefix, v.Name)
				}
			}
			d.status <- s
		}
	})
	return in
}

// prefixed puts a service before a step: "[stage 2/3] RUN" → "[web stage 2/3]
// RUN".
func prefixed(prefix, step string) string {
	if rest, ok := strings.CutPrefix(step, "["); ok {
		return "[" + prefix + " " + rest
	}
	return "[" + prefix + "] " + step
}

// close waits until all is shown, and tells what the frontend has to remark.
func (d *display) close(well bool) {
	d.sources.Wait()
	close(d.status)
	d.shown.Wait()
	if !well || len(d.warnings) == 0 || d.mode == progressui.QuietMode || d.mode == progressui.RawJSONMode {
		return
	}
	for _, w := range d.warnings {
		line := string(w.Short) // with the number of its line
		if w.SourceInfo != nil {
			line = w.SourceInfo.Filename + ": " + line
		}
		fmt.Fprintln(d.out, "gantry: warning:", line)
	}
}

// explain shows the lines of a Dockerfile that an error is about.
func explain(out io.Writer, err error) {
	for _, s := range bkerrdefs.Sources(err) {
		_ = s.Print(out) // to the terminal
	}
}

// said is an error as the daemon said it, on one line: without what each layer
// of the way here has put before it.
func said(err error) error {
	var remote interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &remote) {
		return err
	}
	st := remote.GRPCStatus()
	e := &daemonError{oneLine(st.Message()), errdefs.ErrUnknown}
	switch st.Code() {
	case codes.Unavailable:
		e.text, e.class = "the daemon went away: "+e.text, errdefs.ErrUnavailable
	case codes.NotFound:
		e.class = errdefs.ErrNotFound
	case codes.InvalidArgument:
		e.class = errdefs.ErrInvalidArgument
	case codes.Unimplemented:
		e.class = errdefs.ErrNotImplemented
	case codes.PermissionDenied:
		e.class = errdefs.ErrPermissionDenied
	case codes.Unauthenticated:
		e.class = errdefs.ErrUnauthenticated
	}
	e.text = strings.TrimSuffix(e.text, ": "+e.class.Error())
	return e
}

// daemonError is what the daemon said, and its class.
type daemonError struct {
	text  string
	class error
}

func (e *daemonError) Error() string { return e.text }
func (e *daemonError) Unwrap() error { return e.class }

func oneLine(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' }), " ")
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}
