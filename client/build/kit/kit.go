// Package kit does what package build asks for: it is a client of BuildKit's,
// and with it gantry's only door to BuildKit on the caller's side. It has the
// files, secrets, keys and credentials that a build needs of its caller, shows
// BuildKit's progress, and takes in what outputs send back.
//
// It knows the daemon as somebody who can be dialled, and nothing of projects
// and commands.
package kit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"gantry/client/build"

	bkclient "github.com/moby/buildkit/client"
)

// Daemon is who builds.
type Daemon struct {
	// Control connects to BuildKit's control API.
	Control func(context.Context) (net.Conn, error)
	// Session connects a session, whose headers meta are.
	Session func(ctx context.Context, proto string, meta map[string][]string) (net.Conn, error)
	// Login gives the credentials for a registry's host, none if there are none.
	Login func(ctx context.Context, host string) (Login, error)
}

// Login is what a registry knows its caller by.
type Login struct{ Username, Password, IdentityToken string }

// Streams are the files of the caller's standard streams.
type Streams struct{ In, Out, Err *os.File }

// Run does a job. Builds that need nothing of each other run side by side; the
// first that fails ends them all. It returns what was built by then.
func Run(ctx context.Context, job build.Job, d Daemon, s Streams) ([]build.Result, error) {
	builds, err := build.Order(job.Requests)
	if err != nil {
		return nil, err
	}
	show, err := newDisplay(job.Progress, s.Err)
	if err != nil {
		return nil, err
	}
	k := &kit{daemon: d, streams: s, show: show, builds: builds}
	results, err := k.all(ctx)
	show.close(err == nil)
	explain(s.Err, err)
	return results, say(ctx, err)
}

// kit is a job at work.
type kit struct {
	client  *bkclient.Client
	daemon  Daemon
	streams Streams
	show    *display
	builds  []build.Build
}

// all runs the builds, each when those it needs are done. What is wrong with one
// of them on this side is said before anything is asked of the daemon.
func (k *kit) all(ctx context.Context) (_ []build.Result, err error) {
	work := make([]*solve, len(k.builds))
	for i, b := range k.builds {
		if work[i], err = k.prepare(ctx, b); err != nil {
			return nil, of(b, err)
		}
	}
	k.client, err = bkclient.New(ctx, "",
		bkclient.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return k.daemon.Control(ctx) }),
		bkclient.WithSessionDialer(k.daemon.Session))
	if err != nil {
		return nil, err
	}
	defer k.client.Close()

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make([]chan struct{}, len(work))
	for i := range done {
		done[i] = make(chan struct{})
	}
	built := make([]*build.Result, len(work))
	var side sync.WaitGroup
	for i, w := range work {
		side.Go(func() {
			defer close(done[i])
			for _, needed := range w.After {
				<-done[needed]
			}
			if ctx.Err() != nil {
				return
			}
			result, err := k.one(ctx, w)
			if err != nil {
				cancel(of(w.Build, err))
				return
			}
			built[i] = &result
		})
	}
	side.Wait()
	var results []build.Result
	for i, r := range built {
		for _, name := range k.builds[i].Names {
			if r != nil {
				one := *r
				one.Name = name
				results = append(results, one)
			}
		}
	}
	if ctx.Err() != nil {
		return results, context.Cause(ctx)
	}
	return results, nil
}

// of says which build an error is about, if it has a name.
func of(b build.Build, err error) error {
	if b.Name == "" {
		return err
	}
	return &build.Error{Name: b.Name, Err: err}
}

// Serve is the program that [build.Run] executes: it reads the job, does it,
// and answers. connect makes the daemon's connections of its address.
func Serve(connect func(host string) (Daemon, error)) int {
	in, err := pipe(build.JobFD, "job")
	if err != nil {
		fmt.Fprintln(os.Stderr, "gantryd: build is for gantry alone:", err)
		return 1
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	job, gone, err := readJob(in, cancel)
	defer func() {
		in.Close()
		<-gone
	}()
	var results []build.Result
	if err == nil {
		quieten(os.Stderr)
		var d Daemon
		if d, err = connect(job.Host); err == nil {
			results, err = Run(ctx, job, d, Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
		}
	}
	answer := build.Answer{}
	if err != nil {
		answer = build.Failed(err)
	}
	answer.Results = results
	if err := writeAnswer(answer); err != nil {
		return 1 // whoever asked is gone
	}
	return 0
}

var errGone = fmt.Errorf("whoever wanted the build is gone: %w", context.Canceled)

// say is an error in one line, with its class.
func say(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var of *build.Error
	if errors.As(err, &of) {
		return &build.Error{Name: of.Name, Err: said(of.Err)}
	}
	return said(err)
}
