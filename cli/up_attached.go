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
	"gantry/compose"
	"gantry/scheduler"
)

// upAttached brings a goal up and shows what its containers write, from the
// moment they start until they have all ended or somebody interrupts.
//
//	Apply ──────failed──────────► what was written, and the error
//	follow ──all ended, or one that counts──► stop
//	  │  first interrupt ───────────────────► stop, gracefully
//	  └                                       │ second
//	                                          ▼
//	                                        kill
func (a *app) upAttached(ctx context.Context, c *client.Client, g scheduler.Goal, o upOptions) error {
	signals := make(chan os.Signal, 2)
	defer a.interrupts.take(signals)()

	began := time.Now()
	printer := &logPrinter{out: a.out, prefix: !o.noPrefix, colour: !o.noColor && a.colourful(a.out), timestamps: o.timestamp}
	f := newFollower(c, g.Project.Name, printer, shownServices(g, o), began)
	f.skip = attachable(o.attach, o.noAttach)
	for name, want := range g.Services {
		s := g.Project.Services[name]
		s.Name = name
		for n := range want.Replicas {
			if r := (replica{name: scheduler.ContainerName(g.Project, s, n+1), service: name}); f.wants(r) {
				printer.know(r.short(g.Project.Name))
			}
		}
	}
	end := &ending{o: o, jobs: jobs(g.Project), signal: make(chan struct{})}
	f.counts = func(r replica) bool { return r.service == o.exitCodeFrom && !r.labels.OneOff }
	f.exited = func(r replica, code int) error {
		if !f.wants(r) && r.service != o.exitCodeFrom {
			return nil
		}
		printer.say(r.short(g.Project.Name), exitText(code))
		end.saw(r.service, code)
		return nil
	}

	applying, cancelApply := context.WithCancel(ctx)
	defer cancelApply()
	applied := make(chan error, 1)
	go func() { applied <- a.applyAttached(applying, c, g) }()

	following, cancelFollow := context.WithCancel(ctx)
	defer cancelFollow()
	starting, started := context.WithCancel(following)
	defer started()
	followed := make(chan error, 1)
	go func() {
		if err := f.during(following, starting); err != nil {
			followed <- err
			return
		}
		list, err := projectContainers(following, c, g.Project.Name)
		if err == nil {
			err = f.run(following, list, client.LogsOptions{Since: began})
		}
		followed <- err
	}()
	wait := func() error { // for the follower, once
		if followed == nil {
			return nil
		}
		err := <-followed
		followed = nil
		if errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	}
	up := false            // the apply has ended
	var broke error        // why the follower ended before it
	stop := func() error { // what has been started, with all that writes still shown
		if !up {
			cancelApply()
			<-applied // the steps under way end first
			up = true
			started()
		}
		err := a.stopAll(ctx, c, g, o, signals, cancelFollow)
		cancelFollow()
		return errors.Join(err, wait())
	}

	for {
		select {
		case err := <-applied:
			up = true
			if err != nil {
				cancelFollow()
				_ = wait()
				return errors.Join(err, f.rest(ctx))
			}
			started()
			if followed == nil {
				return fmt.Errorf("project %s is up, but its logs cannot be followed: %w; see `gantry logs -f`", g.Project.Name, broke)
			}
		case err := <-followed:
			followed = nil
			switch {
			case !up: // the apply goes on
				broke = err
			case err != nil:
				return err
			default:
				return end.result()
			}
		case <-end.signal:
			fmt.Fprintln(a.err, "Aborting on container exit...")
			return errors.Join(stop(), end.result())
		case <-signals:
			fmt.Fprintln(a.err, "\nGracefully stopping... (press Ctrl+C again to force)")
			if err := stop(); err != nil {
				return err
			}
			return exitCode(exitInterrupted)
		}
	}
}

// applyAttached is apply with a line for each step, since the containers' own
// lines come in between.
func (a *app) applyAttached(ctx context.Context, c *client.Client, g scheduler.Goal) error {
	show := a.lineProgress()
	defer show.close()
	said := false
	return c.Apply(ctx, g, func(e scheduler.Event) {
		if e.Plan != nil && !said {
			said = true
			fmt.Fprintln(a.err, "Attaching to the containers; Ctrl-C stops them")
		}
		show.event(e)
	})
}

// jobs are the services that others wait for to complete.
func jobs(p *compose.Project) map[string]bool {
	all := map[string]bool{}
	for _, s := range p.Services {
		for name, d := range s.DependsOn {
			if d.Condition == compose.ConditionCompleted {
				all[name] = true
			}
		}
	}
	return all
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
	jobs   map[string]bool // whose good end is no reason to stop the others
	signal chan struct{}   // closed when all are to be stopped

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
	awaited := e.jobs[service] && code == 0 && service != e.o.exitCodeFrom
	if e.ended || awaited || !(e.o.abortOnExit || e.o.abortOnFailure && code != 0) {
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
