package scheduler

import (
	"context"
	"log/slog"
	"time"
)

// Config is what a Scheduler stands on. It does not close the Engine.
type Config struct {
	Root   string // goals are kept below Root/projects
	Engine Engine
	Log    *slog.Logger
}

// Scheduler keeps goals and walks projects towards them, each in a goroutine
// of its own. All methods are safe for concurrent use.
type Scheduler struct{}

// Phase is where a project stands on the way to its goal.
type Phase string

// Phases.
const (
	Unmanaged Phase = ""        // there is no goal: containers made by somebody else
	Walking   Phase = "walking" // steps are being taken, or will be again after a while
	Settled   Phase = "settled" // nothing was left to do
	Failed    Phase = "failed"  // given up until the next call; Error says why
)

// ProjectStatus is how a project is doing.
type ProjectStatus struct {
	Name     string
	Phase    Phase
	Error    string          `json:",omitempty"` // of the last walk
	Next     time.Time       `json:",omitzero"`  // when a failed walk is tried again
	Asked    time.Time       `json:",omitzero"`  // the last call
	Down     bool            `json:",omitempty"` // the goal is to have nothing
	Files    []string        `json:",omitempty"` // compose files
	Services []ServiceStatus `json:",omitempty"`
}

// ServiceStatus is how a service is doing. Services are sorted by name.
type ServiceStatus struct {
	Name    string
	Wanted  int
	Present int  // running, paused or about to restart
	Ready   int  // running, and healthy where there is a health check
	Exited  int  // exited or never started
	Orphan  bool `json:",omitempty"` // the project does not have it
}

// Open loads the goals and goes on with every walk that was broken off.
func Open(c Config) (*Scheduler, error) { panic("being written") }

// Close stops all walks, after the steps under way, and waits for them. What
// is unfinished goes on after the next Open.
func (s *Scheduler) Close() error { panic("being written") }

// Apply makes the goal the project's, merged as [Merge] says, and walks until
// nothing is left to do. report, if not nil, hears of every plan and step, one
// event at a time.
func (s *Scheduler) Apply(ctx context.Context, g Goal, report func(Event)) error {
	panic("being written")
}

// Scale changes how many replicas services have.
func (s *Scheduler) Scale(ctx context.Context, project string, replicas map[string]int, o Options, report func(Event)) error {
	panic("being written")
}

// Stop stops services, all if none is named, dependents first, and keeps them
// stopped until they are started or applied again.
func (s *Scheduler) Stop(ctx context.Context, project string, o Options, report func(Event)) error {
	panic("being written")
}

// Start starts services that were stopped, all if none is named, with what
// they depend on.
func (s *Scheduler) Start(ctx context.Context, project string, o Options, report func(Event)) error {
	panic("being written")
}

// Down is Apply of [DownGoal].
func (s *Scheduler) Down(ctx context.Context, project string, o Options, report func(Event)) error {
	panic("being written")
}

// Plan is what Apply of the goal would do now. It changes nothing: it holds no
// more than an [Observer].
func (s *Scheduler) Plan(ctx context.Context, g Goal) (Plan, error) { panic("being written") }

// Goal is the stored goal of a project, ErrNotFound if there is none.
func (s *Scheduler) Goal(project string) (Goal, error) { panic("being written") }

// Status looks at one project, ErrNotFound if there is neither a goal nor a
// container.
func (s *Scheduler) Status(ctx context.Context, project string) (ProjectStatus, error) {
	panic("being written")
}

// Projects looks at all projects, sorted by name.
func (s *Scheduler) Projects(ctx context.Context) ([]ProjectStatus, error) { panic("being written") }
