package scheduler

import (
	"context"
	"time"

	"gantry/compose"
)

// Look says what an observation is to contain.
type Look struct {
	// Project: every container, network and volume labelled with it.
	Project string
	// Further objects by name, where they exist, whoever owns them.
	Images   []string // references
	Networks []string
	Volumes  []string
	// Dirs are directories of the machine to tell apart, besides those the
	// containers were made from.
	Dirs []string
}

// Observer can look and change nothing. A dry run holds no more than this.
type Observer interface {
	// Observe takes a [State], all but its Was. Containers of one-off runs are
	// part of it.
	Observe(context.Context, Look) (State, error)
	// Projects are the names of all projects that have a container.
	Projects(context.Context) ([]string, error)
	// Check says why no container can be made from spec, as far as that can be
	// said beforehand. Its image may be missing yet.
	Check(ctx context.Context, spec RunSpec) error
}

// Engine is all the scheduler asks of the machine. Calls come from many
// goroutines at once, a hundred and more; an Engine bounds what it must.
//
// Every call may be repeated, because whoever made it may have died before it
// heard the answer: making what exists, starting what runs and stopping what
// stands still succeed; removing what is gone succeeds or is ErrNotFound.
// Errors name the object and carry a class of containerd/errdefs.
type Engine interface {
	Observer

	// Pull fetches an image. id, if said, is the image it must be, and source
	// the name with a digest that it has in a registry, "" if none is known.
	Pull(ctx context.Context, ref, id, source string) error
	// RemoveImage removes the reference, and the image if it was the last.
	RemoveImage(ctx context.Context, ref string) error

	CreateNetwork(context.Context, NetworkSpec) error
	// RemoveNetwork takes an id.
	RemoveNetwork(ctx context.Context, id string) error
	CreateVolume(context.Context, VolumeSpec) error
	// RemoveVolume takes a name.
	RemoveVolume(ctx context.Context, name string) error

	// Run creates a container and, unless spec.NoStart is set, starts it. What
	// cannot be started is not left behind.
	Run(ctx context.Context, spec RunSpec) error
	// Replace puts a container made from spec in the place of the one with the
	// id old. It stops the old one and gives it the name [AsideName], creates
	// the new one under its final name with the old one's anonymous volumes
	// (unless RenewAnonVolumes), starts it and removes the old one. With the
	// order [StartFirst] the old one runs on and stays, for a Retire. A new one
	// that does not start is removed, and the old one is as it was. Whoever
	// dies in between leaves at most both, with the same number: [Reconcile]
	// sees to that.
	Replace(ctx context.Context, old string, spec RunSpec, o ReplaceOptions) error
	// Update gives the container with the id what of spec needs no new one:
	// limits, restart policy, published ports, networks and their aliases, and
	// spec's labels, which come last: they say that all of it is so.
	Update(ctx context.Context, id string, spec RunSpec) error
	// Retire is Remove of a container whose heir is ready. If the heir is not
	// ready any more it stays, and that is ErrFailedPrecondition: whoever comes
	// next must not. Only where MayFail is set and the heir has ended is it none.
	Retire(context.Context, RetireSpec) error
	// Rename gives a container another name; it runs on.
	Rename(ctx context.Context, id, name string) error
	Start(ctx context.Context, id string) error
	// Stop counts as a call: the runtime does not start the container again.
	Stop(ctx context.Context, id string, timeout *time.Duration) error
	// Remove stops the container if need be.
	Remove(ctx context.Context, id string, o RemoveOptions) error

	// Await returns when all replicas named meet the condition, or as soon as
	// one of them no longer can: it exited, is unhealthy, has no health check.
	// With a Trial, see there.
	Await(context.Context, AwaitSpec) error
	// Delay returns after some time.
	Delay(ctx context.Context, d time.Duration) error

	// Forget says that nobody keeps a goal for the project (any more): which of
	// its replicas were removed by a call need not be remembered.
	Forget(project string)

	// Watch sends the name of a project whenever something has happened to one
	// of its containers, networks or volumes. Names may be dropped while one
	// of the same project is waiting to be read. The channel closes when ctx
	// is done.
	Watch(context.Context) <-chan string
}

// NetworkSpec is a network to be made.
type NetworkSpec struct {
	Name   string
	Key    string          // in the project
	Config compose.Network // read-only
	Labels map[string]string
}

// VolumeSpec is a volume to be made.
type VolumeSpec struct {
	Name   string
	Key    string         // in the project
	Config compose.Volume // read-only
	Labels map[string]string
}

// RunSpec is a container to be made: replica Number of a service.
type RunSpec struct {
	// Project and Service are shared and read-only. Names of networks and
	// volumes on the machine are NetworkName(Project, key) and VolumeName.
	Project *compose.Project
	Service *compose.Service

	Number  int
	Name    string
	Image   string            // reference
	ImageID string            // "": whatever the reference means when it is run (a Pull comes first)
	Labels  map[string]string // all of them, the user's included
	// Networks are the keys of the networks to join, sorted; nil if
	// network_mode says otherwise.
	Networks []string
	// Joins: service → name of the container whose namespace network_mode,
	// pid or ipc "service:…" means.
	Joins   map[string]string
	NoStart bool
}

// ReplaceOptions bend a Replace.
type ReplaceOptions struct {
	Timeout          *time.Duration // for the old one to stop; nil: its own
	RenewAnonVolumes bool
	Order            Order // "": [StopFirst]
}

// RemoveOptions bend a Remove.
type RemoveOptions struct {
	Timeout *time.Duration // to stop; nil: the container's own
	Volumes bool           // its anonymous volumes too
	// Drain lets it leave names and published ports first, and waits until
	// nobody is connected to it any more, for as long as it would have to stop.
	Drain bool
}

// RetireSpec is a container that is to make room for another one of the same
// number: the heir.
type RetireSpec struct {
	ID      string
	Project string
	Service string
	Number  int
	Heir    string // id; "": the newest of the number
	MayFail bool   // the heir: then the old one goes on serving
	Options RemoveOptions
}

// Condition is what an Await waits for.
type Condition string

// Conditions.
const (
	IsStarted   Condition = "started"   // has run, or runs
	IsHealthy   Condition = "healthy"   // it is an error to have no health check
	IsReady     Condition = "ready"     // runs, and is healthy if it has a health check; or ended well, if it may end
	IsCompleted Condition = "completed" // exited with code 0
)

// AwaitSpec names replicas of one service by the labels they carry.
type AwaitSpec struct {
	Project string
	Service string
	Numbers []int // sorted
	// IDs of those replicas that are not the newest container of their number.
	IDs       map[int]string
	Condition Condition
	Trial     *Trial
}

// Quoted begins a line of an error that a container has written.
const Quoted = "    | "

// Trial is what new replicas must stand in an update, where the condition is
// [IsReady]. One that exits, becomes unhealthy or crashes again and again has
// failed it: it is stopped and kept. The others are waited for nevertheless.
// Too many that failed are an error, which shows the last lines each has
// written.
type Trial struct {
	// For is how long a replica without a health check must have run. With
	// one it must be healthy; if Checked, it must have run as long, too.
	For     time.Duration
	Checked bool
	MayEnd  bool // ending with code 0 is as good as being ready
	// Tolerate is how many may fail.
	Tolerate int
}
