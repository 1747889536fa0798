package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"gantry/client"
	"gantry/scheduler"
)

// upAttached brings a goal up and shows what its containers write, until they
// have all ended or somebody interrupts.
//
//	Apply ──► follow ──all ended, or one that counts──► stop
//	  │         │  first interrupt ───────────────────► stop, gracefully
//	  └ interrupt: what has been started is stopped     │ second
//	                                                    ▼
//	                                                  kill
func (a *app) upAttached(ctx context.Context, c *client.Client, g scheduler.Goal, o upOptions) error {
	signals := make(chan os.Signal, 2)
	defer a.interrupts.take(signals)()

	began := time.Now()
	printer := &logPrinter{out: a.out, prefix: !o.noPrefix, colour: !o.noColor && a.colourful(a.out), timestamps: o.timestamp}
	f := newFollower(c, g.Project.Name, printer, shownServices(g, o))
	f.skip = attachable(o.attach, o.noAttach)
	f.since = began

	applying, cancelApply := context.WithCancel(ctx)
	defer cancelApply()
	applied := make(chan error, 1)

	end := &ending{o: o, signal: make(chan struct{})}
	f.exited = func(r replica, code int) error {
		if !f.wants(r) && r.service != o.exitCodeFrom {
			return nil
		}
		printer.say(r.short(g.Project.Name), exitText(code))
		end.saw(r.service, code)
		return nil
	}

	following, cancelFollow := context.WithCancel(ctx)
	defer cancelFollow()
	followed := make(chan error, 1)
	go func() { applied <- a.apply(applying, c, g, "up") }()
	follow := func() {
		list, err := projectContainers(following, c, g.Project.Name)
		if err != nil {
			followed <- err
			return
		}
		// What ran before is shown from now on, what has been started since
		// from its start.
		followed <- f.run(following, list, client.LogsOptions{Since: began})
	}
	attached := false // the follower has been started, and must be waited for
	wait := func() error {
		if !attached {
			return nil
		}
		err := <-followed
		if errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	}

	for {
		select {
		case err := <-applied:
			if err != nil {
				cancelFollow()
				return errors.Join(err, wait())
			}
			fmt.Fprintln(a.err, "Attached to the containers; Ctrl-C stops them")
			attached = true
			go follow()
		case err := <-followed:
			if err != nil {
				return err
			}
			return end.result()
		case <-end.signal:
			fmt.Fprintln(a.err, "Aborting on container exit...")
			err := a.stopAll(ctx, c, g, o, signals, cancelFollow)
			cancelFollow()
			return errors.Join(err, wait(), end.result())
		case <-signals:
			cancelApply()
			if !attached { // the apply under way ends first
				<-applied
			}
			fmt.Fprintln(a.err, "\nGracefully stopping... (press Ctrl+C again to force)")
			err := a.stopAll(ctx, c, g, o, signals, cancelFollow)
			cancelFollow()
			if err := errors.Join(err, wait()); err != nil {
				return err
			}
			return exitCode(exitInterrupted)
		}
	}
}

// shownServices are those whose output is shown: the ones asked for, and with
// --attach-dependencies what they depend on.
func shownServices(g scheduler.Goal, o upOptions) []string {
	if len(g.Options.Services) > 0 && !o.attachDependencies {
		return append(slices.Clone(g.Options.Services), o.attach...)
	}
	return g.Scope
}

// stopAll stops what the goal is about; on a further interrupt it kills.
func (a *app) stopAll(ctx context.Context, c *client.Client, g scheduler.Goal, o upOptions, signals <-chan os.Signal, cancelFollow func()) error {
	stopping, cancel := context.WithCancel(ctx)
	defer cancel()
	options := scheduler.Options{Parallel: max(a.parallel, 0), Services: g.Options.Services}
	if o.hasTimeout {
		options.Timeout = seconds(o.timeout)
	}
	stopped := make(chan error, 1)
	show := a.lineProgress() // the containers' last words come in between
	go func() {
		defer show.close()
		stopped <- c.Stop(stopping, g.Project.Name, options, show.event)
	}()
	select {
	case err := <-stopped:
		return err
	case <-signals:
	}
	// The stop goes on in the daemon; killed, the containers let it end.
	fmt.Fprintln(a.err, "Killing...")
	cancelFollow()
	list, err := projectContainers(ctx, c, g.Project.Name)
	if err != nil {
		return err
	}
	var live []replica
	for _, r := range list {
		if r.live() && (len(options.Services) == 0 || slices.Contains(options.Services, r.service)) {
			live = append(live, r)
		}
	}
	// The view of the stop stays and shows what becomes of it.
	var work sync.WaitGroup
	for _, r := range live {
		work.Go(func() { _ = c.KillContainer(ctx, r.ID, "") }) // one that has ended meanwhile is as well
	}
	work.Wait()
	select {
	case err := <-stopped:
		return err
	case <-signals:
		return exitCode(exitInterrupted)
	}
}

// ending decides when the end of one container ends them all, and with which
// exit code.
type ending struct {
	o      upOptions
	signal chan struct{} // closed when all are to be stopped

	mu    sync.Mutex
	ended bool
	code  int
	named bool // code is that of --exit-code-from
}

func (e *ending) saw(service string, code int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if service == e.o.exitCodeFrom && !e.named {
		e.named, e.code = true, code
	}
	if e.ended || !(e.o.abortOnExit || e.o.abortOnFailure && code != 0) {
		return
	}
	e.ended = true
	if e.o.exitCodeFrom == "" {
		e.code = code
	}
	close(e.signal)
}

func (e *ending) result() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.code == 0 {
		return nil
	}
	return exitCode(e.code)
}
