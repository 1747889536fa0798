package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"gantry/client"
	"gantry/scheduler"

	"github.com/containerd/errdefs"
)

// follower prints what the containers of a project write as they write it,
// those that start later included.
//
//	events ──start──► one goroutine per container, reading its log
//	        ──die───► exited(), and a look whether anything is left to follow
//
// While containers are still being started, during follows; then run goes on
// until nothing is left, or rest shows what there is and stops.
type follower struct {
	client   *client.Client
	project  string
	printer  *logPrinter
	services []string // none: all
	index    int      // of a replica; 0: all
	skip     func(service string) bool
	began    time.Time
	since    time.Time // from when events are heard; it moves on with them
	starting bool      // more will start: that nothing is left is not the end

	// exited, if not nil, hears of every container that ends, and with what
	// code, behind its last lines. An error ends the follower with it.
	exited func(r replica, code int) error
	exits  map[string]time.Time // of which exited has heard, by id
	// counts says whether the follower waits for a container's end; nil: wants.
	counts func(r replica) bool

	mu       sync.Mutex
	reading  map[string]chan struct{} // closed when the reader has come to the end of a log
	again    map[string]bool          // it was started while its log was being read
	lastLine map[string]time.Time
	work     sync.WaitGroup
}

// newFollower makes a follower of what happens from a time on.
func newFollower(c *client.Client, project string, p *logPrinter, services []string, began time.Time) *follower {
	return &follower{client: c, project: project, printer: p, services: services,
		began: began, since: began,
		exits: map[string]time.Time{}, reading: map[string]chan struct{}{}, again: map[string]bool{}, lastLine: map[string]time.Time{}}
}

// errNothingLeft ends following when no container is left that could write.
var errNothingLeft = errors.New("nothing left to follow")

func (f *follower) wants(r replica) bool {
	return !r.labels.OneOff && r.service != "" &&
		(len(f.services) == 0 || slices.Contains(f.services, r.service)) &&
		(f.index == 0 || r.labels.Number == f.index) &&
		(f.skip == nil || !f.skip(r.service))
}

// during follows while somebody starts containers, until starting is done. What
// ran before is shown from now on, what starts from its start.
func (f *follower) during(ctx, starting context.Context) error {
	f.starting = true
	defer func() { f.starting = false }()
	list, err := f.relist(ctx)
	if err != nil {
		return err
	}
	for _, r := range list {
		if f.wants(r) && r.live() {
			f.read(ctx, r, client.LogsOptions{Since: f.since})
		}
	}
	err = retried(starting, func() error {
		return f.hear(starting, time.Time{}, func(e client.Event) error { return f.heard(ctx, e) })
	})
	if starting.Err() != nil && ctx.Err() == nil {
		return nil
	}
	return err
}

// rest shows what has been written and was not shown yet, and what has ended,
// and waits for no more. Nothing else may be following.
func (f *follower) rest(ctx context.Context) error {
	f.work.Wait()
	list, err := f.relist(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range list {
		if !f.wants(r) {
			continue
		}
		err := readLog(ctx, f.client, r.ID, f.from(r.ID, client.LogsOptions{Since: f.began}), func(l logLine) error {
			f.printer.print(r.short(f.project), l)
			return nil
		})
		if !errdefs.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	errs = append(errs, f.unheard(ctx))
	return errors.Join(errs...)
}

// unheard tells of the ends that no event has told of: a container is seen to
// have ended a little before its event is there.
func (f *follower) unheard(ctx context.Context) error {
	if f.exited == nil {
		return nil
	}
	list, err := f.relist(ctx)
	if err != nil {
		return err
	}
	for _, r := range list {
		if r.live() || r.labels.OneOff {
			continue
		}
		d, err := f.client.Container(ctx, r.ID)
		if err != nil || d.State == nil {
			continue // it is gone
		}
		at, err := time.Parse(time.RFC3339Nano, d.State.FinishedAt)
		if err != nil || !at.After(f.began) || !at.After(f.exits[r.ID]) {
			continue
		}
		f.exits[r.ID] = at
		if err := f.exited(r, d.State.ExitCode); err != nil {
			return err
		}
	}
	return nil
}

// awaited reports whether a container that lives keeps the follower going.
func (f *follower) awaited(r replica) bool {
	return r.live() && (f.wants(r) || f.counts != nil && f.counts(r))
}

// hear listens to events from where it last stopped, up to a time if one is
// given.
func (f *follower) hear(ctx context.Context, until time.Time, each func(client.Event) error) error {
	events := client.EventsOptions{Since: stamp(f.since), Until: stamp(until), Filters: client.Filters{}.
		Add("type", "container").Add("label", scheduler.LabelProject+"="+f.project).
		Add("event", "start", "die", "destroy")}
	return f.client.Events(ctx, events, func(e client.Event) error {
		if at := time.Unix(0, e.TimeNano); at.After(f.since) {
			f.since = at.Add(time.Nanosecond)
		}
		return each(e)
	})
}

// run follows until nothing is left, ctx is done or exited says so. list are
// the containers there are, whose logs are read as o says; a container that
// starts later is read from its start.
func (f *follower) run(ctx context.Context, list []replica, o client.LogsOptions) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer f.work.Wait()
	defer cancel(nil)
	live := 0
	for _, r := range list {
		if f.wants(r) {
			f.printer.know(r.short(f.project))
		}
	}
	for _, r := range list {
		if f.wants(r) {
			f.read(ctx, r, o)
		}
		if f.awaited(r) {
			live++
		}
	}
	var until time.Time
	if live == 0 { // what has happened is still to be heard, and that is all
		until = time.Now()
	}
	hear := func() error {
		return f.hear(ctx, until, func(e client.Event) error { return f.heard(ctx, e) })
	}
	err := hear()
	for lost(ctx, err) && live > 0 {
		// The daemon has gone; the containers have not, and the next daemon is
		// soon there. What happened in between is seen by looking.
		f.since = time.Now()
		gone := err
		if list, err = f.relist(ctx); lost(ctx, err) {
			err = gone
			break
		} else if err != nil {
			break
		}
		left := false
		for _, r := range list {
			if f.wants(r) && r.live() {
				f.read(ctx, r, client.LogsOptions{Since: f.since})
			}
			left = left || f.awaited(r)
		}
		if err = errNothingLeft; left {
			err = hear()
		}
	}
	if errors.Is(err, errNothingLeft) || err == nil && live == 0 {
		// What was written before the end is still to be printed.
		drained := make(chan struct{})
		go func() { f.work.Wait(); close(drained) }()
		select {
		case <-drained:
		case <-ctx.Done():
			return nil
		}
		return f.unheard(ctx)
	}
	return err
}

// stamp writes a time as the events' Since and Until.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return fmt.Sprintf("%d.%09d", t.Unix(), t.Nanosecond())
}

// A daemon that died is back within a second; after patience, somebody has
// stopped it.
const (
	returnPatience = 10 * time.Second
	returnPace     = 100 * time.Millisecond
)

// lost reports that an answer broke off because the daemon is gone.
func lost(ctx context.Context, err error) bool {
	return err != nil && ctx.Err() == nil &&
		(errdefs.IsUnavailable(err) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET))
}

// retried does something until the daemon answers, or it is known not to.
func retried(ctx context.Context, do func() error) error {
	var failing time.Time // since when, in a row
	for {
		began := time.Now()
		err := do()
		if !lost(ctx, err) {
			return err
		}
		if failing.IsZero() || time.Since(began) > time.Second {
			failing = time.Now() // it had been answering until now
		}
		if time.Since(failing) > returnPatience {
			return err
		}
		select {
		case <-time.After(returnPace):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (f *follower) relist(ctx context.Context) (list []replica, err error) {
	err = retried(ctx, func() error {
		list, err = projectContainers(ctx, f.client, f.project)
		return err
	})
	return list, err
}

// eventReplica is the container an event is about.
func eventReplica(e client.Event) replica {
	r := replica{labels: scheduler.FromLabels(e.Actor.Attributes), name: e.Actor.Attributes["name"]}
	r.ID, r.service = e.Actor.ID, r.labels.Service
	return r
}

// lastWords is how long the end of a container may be kept back so that it is
// told behind what was written before.
const lastWords = 250 * time.Millisecond

func (f *follower) died(ctx context.Context, r replica, e client.Event) error {
	if f.exited == nil || r.labels.OneOff {
		return nil
	}
	f.mu.Lock()
	reading := f.reading[r.ID]
	f.mu.Unlock()
	if reading != nil {
		patience := time.NewTimer(lastWords)
		defer patience.Stop()
		select {
		case <-reading:
		case <-patience.C:
		case <-ctx.Done():
		}
	}
	f.exits[r.ID] = time.Unix(0, e.TimeNano)
	code, _ := strconv.Atoi(e.Actor.Attributes["exitCode"])
	return f.exited(r, code)
}

func (f *follower) heard(ctx context.Context, e client.Event) error {
	r := eventReplica(e)
	switch string(e.Action) {
	case "start":
		if f.wants(r) {
			// Its first lines may be older than the event; those of a run before
			// this following are none of it.
			since := time.Unix(0, e.TimeNano).Add(-time.Second)
			if since.Before(f.began) {
				since = f.began
			}
			f.read(ctx, r, client.LogsOptions{Follow: true, Since: since})
		}
	case "die", "destroy":
		if e.Action == "die" {
			if err := f.died(ctx, r, e); err != nil {
				return err
			}
		}
		if f.starting {
			return nil
		}
		list, err := projectContainers(ctx, f.client, f.project)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(list, f.awaited) {
			return errNothingLeft
		}
	}
	return nil
}

// read starts a goroutine for a container's log, unless one is at it. A log is
// gone on with behind the last line that was printed.
func (f *follower) read(ctx context.Context, r replica, o client.LogsOptions) {
	name := r.short(f.project)
	o.Follow = true
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reading[r.ID] != nil {
		f.again[r.ID] = true
		return
	}
	f.reading[r.ID] = make(chan struct{})
	f.work.Go(func() {
		for {
			err := retried(ctx, func() error {
				return readLog(ctx, f.client, r.ID, f.from(r.ID, o), func(l logLine) error {
					f.printer.print(name, l)
					f.mu.Lock()
					f.lastLine[r.ID] = l.at
					f.mu.Unlock()
					return nil
				})
			})
			if err != nil && ctx.Err() == nil && !errdefs.IsNotFound(err) {
				f.printer.say(name, " (its log cannot be read: "+oneLine(err)+")")
			}
			f.mu.Lock()
			again := f.again[r.ID] && err == nil
			delete(f.again, r.ID)
			close(f.reading[r.ID])
			if delete(f.reading, r.ID); again {
				f.reading[r.ID] = make(chan struct{})
			}
			f.mu.Unlock()
			if !again {
				return
			}
		}
	})
}

// from moves the beginning behind the last line that was printed.
func (f *follower) from(id string, o client.LogsOptions) client.LogsOptions {
	f.mu.Lock()
	defer f.mu.Unlock()
	if last := f.lastLine[id]; !last.IsZero() {
		o.Since, o.Tail = last.Add(time.Nanosecond), "all"
	}
	return o
}

// attachable leaves out services by --attach and --no-attach.
func attachable(attach, noAttach []string) func(string) bool {
	return func(service string) bool {
		return len(attach) > 0 && !slices.Contains(attach, service) || slices.Contains(noAttach, service)
	}
}

// exitText is what is said of a container that ended.
func exitText(code int) string { return " exited with code " + strconv.Itoa(code) }
