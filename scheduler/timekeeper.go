package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"time"
)

// timekeeper runs jobs when they are due. A run goes through these states, each
// on disk before anything is done about it:
//
//	          due                container made           container ended
//	waiting ───────► (revision) ────────────────► Made ───────────────────► Ended
//	   ▲                │ could not be made          │ container removed      │
//	   │                └────────────────────────────┴────────────────────────┤
//	   └──────────────────────────────────────────────────────────────────────┘
//
// A daemon that dies goes on where the file says: a run without a container is
// made, and one that has a container is that. So a run is never made twice, and
// times that passed while there was no daemon are made up for by one run.
type timekeeper struct {
	s    *Scheduler
	look chan struct{} // holds one: something may be due, or have ended

	mu     sync.Mutex
	tables map[string]timetable // by project; those with a job
	making map[string]bool      // project/service: its container is being made
}

// timetable is what is kept of a project's jobs.
type timetable map[string]job

// job is where a service with a schedule stands.
type job struct {
	Schedule string    // the one From is of
	From     time.Time // later times are still to come
	Held     bool      `json:",omitempty"` // it is stopped, and its times pass
	Run      *run      `json:",omitempty"` // the last one
}

// run is one run of a job.
type run struct {
	Due      time.Time
	Revision int // in the history
	Missed   int `json:",omitempty"` // times before it that nobody was there for
	Skipped  int `json:",omitempty"` // times that came before it had ended
	Made     bool
	Ended    bool
}

// jobsVersion is the form of a timetable on disk.
const jobsVersion = 1

type wireJobs struct {
	Version int       `json:"version"`
	Jobs    timetable `json:"jobs"`
}

// lookAtLeast is how long a sleep may be: clocks are set, and machines sleep.
const lookAtLeast = time.Minute

func newTimekeeper(s *Scheduler) *timekeeper {
	return &timekeeper{s: s, look: make(chan struct{}, 1), tables: map[string]timetable{}, making: map[string]bool{}}
}

// goalChanged takes note of a project's jobs.
func (k *timekeeper) goalChanged(project string, g Goal) {
	k.mu.Lock()
	defer k.mu.Unlock()
	t, known := k.tables[project]
	if !known {
		if g.IsDown() || !slices.ContainsFunc(slices.Collect(maps.Values(g.traits())), func(t *traits) bool { return t.schedule != "" }) {
			return
		}
		t = k.load(project)
	}
	k.tables[project] = t
	k.poke()
}

// forget drops the timetable of a project that is down.
func (k *timekeeper) forget(project string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.tables, project)
	if err := k.s.store.removeTimes(project); err != nil {
		return err
	}
	return nil
}

// happened has a project looked at whose runs may have ended.
func (k *timekeeper) happened(project string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, has := k.tables[project]; has {
		k.poke()
	}
}

// poke has everything looked at; it never blocks.
func (k *timekeeper) poke() {
	select {
	case k.look <- struct{}{}:
	default:
	}
}

// load reads a timetable. One that cannot be read is begun anew: times before
// now are nobody's.
func (k *timekeeper) load(project string) timetable {
	var w wireJobs
	data, err := k.s.store.times(project)
	if err == nil {
		err = json.Unmarshal(data, &w)
	}
	if err == nil && w.Version > jobsVersion {
		err = &tooNew{"the times of jobs of " + project, w.Version}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		k.s.log.Error("the times of jobs are lost; they begin anew", "project", project, "error", err)
	}
	if err != nil || w.Jobs == nil {
		return timetable{}
	}
	return w.Jobs
}

func (k *timekeeper) save(project string, t timetable) error {
	data, err := json.Marshal(wireJobs{jobsVersion, t})
	if err == nil {
		err = k.s.store.saveTimes(project, data)
	}
	if err != nil {
		return fmt.Errorf("keep the times of jobs of %s: %w", project, err)
	}
	return nil
}

// run looks whenever something may be due or have ended.
func (k *timekeeper) run() {
	ctx := k.s.ctx
	for {
		var due <-chan time.Time
		stop := func() bool { return true }
		if next := k.lookAtAll(ctx); !next.IsZero() {
			t := time.NewTimer(min(time.Until(next), lookAtLeast))
			due, stop = t.C, t.Stop
		}
		select {
		case <-due:
		case <-k.look:
		case <-ctx.Done():
			stop()
			return
		}
		stop()
	}
}

// lookAtAll does what is to be done about all jobs, and says when the next one
// is due.
func (k *timekeeper) lookAtAll(ctx context.Context) (next time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, project := range sortedKeys(k.tables) {
		r := k.s.stored(project)
		if r == nil || r.Goal.IsDown() {
			continue
		}
		t, err := k.lookAt(ctx, project, r.Goal)
		if err != nil {
			k.s.log.Error("run jobs", "project", project, "error", err)
			t = time.Now().Add(lookAtLeast)
		}
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	return next
}

// lookAt does what is to be done about a project's jobs. The caller holds mu.
func (k *timekeeper) lookAt(ctx context.Context, project string, g Goal) (next time.Time, err error) {
	now := time.Now().Round(0) // on the clock that schedules are written for
	old, jobs := k.tables[project], timetable{}
	var containers []Container
	if slices.ContainsFunc(slices.Collect(maps.Values(old)), func(j job) bool { return j.Run != nil && !j.Run.Ended }) {
		have, err := k.s.engine.Observe(ctx, Look{Project: project})
		if err != nil {
			return time.Time{}, err
		}
		containers = have.Containers
	}
	var begin []string
	says := g.traits()
	for _, name := range sortedKeys(says) {
		schedule, want := says[name].schedule, g.Services[name]
		if schedule == "" {
			continue
		}
		j := old[name]
		if j.Run != nil {
			r := *j.Run
			j.Run = &r
			k.observe(project, name, j.Run, containers)
		}
		if j.Schedule != schedule || j.Held && !want.Stopped {
			j.Schedule, j.From = schedule, now
		}
		j.Held = want.Stopped
		due, missed, at, err := dueOf(schedule, j.From, now)
		if err != nil {
			return time.Time{}, err
		}
		switch {
		case due.IsZero():
		case j.Held:
			j.From = due
		case j.Run != nil && !j.Run.Ended:
			j.From = due
			j.Run.Skipped += missed + 1
		default:
			j.From = due
			j.Run = &run{Due: due, Missed: missed}
			j.Run.Revision = k.s.remember(project, Revision{Kind: KindRun, At: now, Services: []string{name},
				Changes: j.Run.changes(name, ""), Outcome: UnderWay}).Number
		}
		if j.Run != nil && !j.Run.Ended && !j.Run.Made && !j.Held {
			begin = append(begin, name)
		}
		jobs[name] = j
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	if !maps.EqualFunc(old, jobs, job.equal) {
		if err := k.save(project, jobs); err != nil {
			return time.Time{}, err
		}
		k.tables[project] = jobs
	}
	for _, name := range begin {
		k.make(project, name, *jobs[name].Run)
	}
	return next, nil
}

func (j job) equal(o job) bool {
	return j.Schedule == o.Schedule && j.From.Equal(o.From) && j.Held == o.Held && (j.Run == nil) == (o.Run == nil) &&
		(j.Run == nil || *j.Run == *o.Run)
}

// text says which run it is.
func (r run) text() string { return "due at " + r.Due.Format("2006-01-02 15:04 MST") }

// changes are what the history says of a run: first what all want to know.
func (r run) changes(service, ended string) []string {
	all := []string{service + ": " + r.text() + ended}
	switch {
	case r.Missed >= mostMissed:
		all = append(all, fmt.Sprintf("%s: for %d times and more that were missed before it", service, r.Missed))
	case r.Missed > 0:
		all = append(all, fmt.Sprintf("%s: for %d that were missed before it as well", service, r.Missed))
	}
	if r.Skipped > 0 {
		all = append(all, fmt.Sprintf("%s: %d more were due before it had ended, and are skipped", service, r.Skipped))
	}
	return all
}

// observe sees what has become of a run.
func (k *timekeeper) observe(project, service string, r *run, containers []Container) {
	if r.Ended {
		return
	}
	i := slices.IndexFunc(containers, func(c Container) bool {
		return c.Service == service && !c.OneOff && c.Run == runLabel(r.Due) && !c.broken()
	})
	if i < 0 {
		if r.Made && !k.making[project+"/"+service] {
			k.end(project, service, r, 0, Interrupted, "", errors.New("its container was removed"))
		}
		return
	}
	c := containers[i]
	switch c.Status {
	case Exited:
		r.Made = true
		took := max(c.FinishedAt.Sub(c.StartedAt), 0)
		outcome, text := Done, fmt.Sprintf(", exit code %d after %s", c.ExitCode, took.Round(10*time.Millisecond))
		var err error
		if c.ExitCode != 0 {
			outcome, err = NotDone, fmt.Errorf("exit code %d", c.ExitCode)
		}
		switch {
		case c.Stopped:
			outcome, err = Interrupted, errors.New("it was stopped")
		case c.Lost:
			outcome, text, err = Interrupted, "", errors.New("its process was lost with the machine")
		}
		k.end(project, service, r, took, outcome, text, err)
	case Created: // to be started
	default:
		r.Made = true
	}
}

// end closes a run's entry in the history.
func (k *timekeeper) end(project, service string, r *run, took time.Duration, outcome Outcome, text string, cause error) {
	r.Ended = true
	err := k.s.history.amend(project, r.Revision, func(v *Revision) {
		v.Took, v.Outcome, v.Error = took, outcome, ""
		v.Changes = r.changes(service, text)
		if cause != nil {
			v.Error = cause.Error()
		}
	})
	k.s.log.Info("job", "project", project, "service", service, "run", r.text(), "outcome", outcome, "took", took, "error", cause)
	if err != nil {
		k.s.log.Warn("keep a history", "project", project, "error", err)
	}
}

// make has the project make the container of a run, at its turn. The caller
// holds mu.
func (k *timekeeper) make(name, service string, r run) {
	key := name + "/" + service
	if k.making[key] {
		return
	}
	k.making[key] = true
	k.s.work.Go(func() {
		err := k.s.call(name, &call{ctx: k.s.ctx, instead: func(ctx context.Context, p *project) error { return p.runJob(ctx, service, r.Due) }})
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.making, key)
		if k.s.ctx.Err() != nil {
			return // the next daemon sees to it
		}
		k.made(name, service, r, err)
		k.poke()
	})
}

// made notes that a run has its container, or why it has none. The caller holds
// mu.
func (k *timekeeper) made(project, service string, r run, cause error) {
	j, ok := k.tables[project][service]
	if !ok || j.Run == nil || !j.Run.Due.Equal(r.Due) || j.Run.Ended {
		return
	}
	now := *j.Run
	if now.Made = true; cause != nil {
		k.end(project, service, &now, 0, NotDone, "", cause)
	}
	j.Run = &now
	t := maps.Clone(k.tables[project])
	t[service] = j
	k.tables[project] = t
	if err := k.save(project, t); err != nil {
		k.s.log.Error("run jobs", "project", project, "error", err)
	}
}

// runJob makes and starts the container of a run. The goal stays as it is: what
// is wanted of the service is no replica.
func (p *project) runJob(ctx context.Context, service string, due time.Time) error {
	r := p.record()
	if r == nil || r.Goal.IsDown() {
		return notFound("project %s is not up", p.name)
	}
	g := r.Goal.clone()
	w, ok := g.Services[service]
	if !ok || w.Stopped {
		return conflict("service %s is stopped", service)
	}
	w.Replicas, w.Run = 1, due
	g.Services[service] = w
	g.Options, g.Scope = Options{Services: []string{service}, NoDeps: true}, []string{service}
	have, err := p.observe(ctx, LookFor(g))
	if err != nil {
		return err
	}
	plan, err := Reconcile(g, have)
	if err == nil {
		err = check(ctx, p.s.engine, plan)
	}
	if err != nil {
		return err
	}
	return Execute(ctx, p.s.engine, plan, nil)
}

// status tells when a project's jobs are run next.
func (k *timekeeper) status(st *ProjectStatus, g *Goal) {
	if g.IsDown() {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range st.Services {
		s := &st.Services[i]
		if s.Schedule = scheduleOf(g.Project.Services[s.Name]); s.Schedule == "" {
			continue
		}
		if j, ok := k.tables[st.Name][s.Name]; ok && !j.Held && j.Schedule == s.Schedule {
			_, _, s.NextRun, _ = dueOf(s.Schedule, j.From, time.Now()) // it was parsed when the project was loaded
		}
	}
}
