package runtime

import (
	"time"

	"gantry/network"
	"gantry/runtime/spec"
)

// Config is what a user asks of a container.
type Config = spec.Config

// State is where a container stands in its life:
//
//	          start               exit, no restart due
//	created ────────► running ─────────────────────────► exited
//	                  │  ▲  │ exit, restart due            │  ▲
//	            pause │  │  └────────► restarting ─────────┼──┘ stop
//	                  ▼  │ unpause        │ start         │
//	                paused               └───► running ◄──┘ start
//
// From created, exited and dead a container can be removed, from any other
// state by force. That it is to go is on disk before anything happens
// ([Container.Removal]), so the next daemon finishes a removal that was cut
// short. A container that could not be taken apart is dead: remove is all it
// answers to.
type State string

const (
	Created    State = "created"
	Running    State = "running"
	Paused     State = "paused"
	Restarting State = "restarting"
	Exited     State = "exited"
	Removing   State = "removing"
	Dead       State = "dead"
)

// Live reports whether the container has a process.
func (s State) Live() bool { return s == Running || s == Paused }

// Container is a snapshot of one container. It is a value: nothing that
// happens later changes it, and nothing done to it changes the container.
type Container struct {
	ID      string // 64 hexadecimal digits
	Name    string
	Created time.Time

	Asked  Config // as the user asked, without the contents of files
	Config Config // with the image's configuration merged in

	State      State
	Pid        int // 0 when not live
	StartedAt  time.Time
	FinishedAt time.Time
	ExitCode   int
	ExitLost   bool // nobody was there to collect the exit code
	OOMKilled  bool
	// Lost says that its process went with the machine, or with all that the
	// keeper knew: it neither ended nor was it stopped.
	Lost bool
	// Error is why the last start failed, or the container is dead.
	Error string

	// Stopped says that a call stopped the container: it stays so until a
	// call starts it.
	Stopped bool
	// Committing says that the container may be frozen only because an image is
	// being made of it: a daemon that finds it so lets it go on.
	Committing bool
	// Removal is set from the call that removes the container until it is gone.
	Removal *Removal
	// RestartCount is how often the policy has restarted it since a call
	// started it, Crashes how often in a row (see restart.go).
	RestartCount int
	Crashes      int
	// Recent are the last restarts, as far as a bound counts them.
	Recent []time.Time
	// GaveUp says why it is not restarted (any more) although its policy would
	// have it.
	GaveUp string

	Health   *Health           // nil: no healthcheck
	Networks []network.Joined  // while live or restarting
	Ports    []network.Binding // while live or restarting
	Mounts   []MountPoint
	LogPath  string    // "": driver none
	Changed  time.Time // of the state
}

// Removal is the intent to remove a container.
type Removal struct {
	Volumes bool      // its anonymous volumes too
	Call    bool      `json:",omitempty"` // a call wants it, and no plan
	At      time.Time `json:",omitzero"`
}

// MountPoint is a mount as it was resolved for this container.
type MountPoint struct {
	Type        string // spec.MountBind, MountVolume, MountTmpfs, MountFile
	Name        string `json:",omitempty"` // of the volume
	Source      string `json:",omitempty"` // on the host
	Destination string
	Driver      string `json:",omitempty"`
	ReadOnly    bool   `json:",omitempty"`
	Propagation string `json:",omitempty"`
	Anonymous   bool   `json:",omitempty"` // goes with the container
}

// Health states.
const (
	Starting  = "starting"
	Healthy   = "healthy"
	Unhealthy = "unhealthy"
)

// Health is what the probes say.
type Health struct {
	Status        string // Starting, Healthy, Unhealthy
	FailingStreak int
	Log           []Probe // the last five, oldest first
}

// Probe is the outcome of one health check.
type Probe struct {
	Start, End time.Time
	ExitCode   int    // -1: it did not end in time, or could not be run
	Output     string // the first 4 KiB
}

// StopOptions bend a stop. The zero value is the container's own way.
type StopOptions struct {
	Signal  string
	Timeout *time.Duration // until SIGKILL; negative: never
}

// RemoveOptions bend a removal.
type RemoveOptions struct {
	Force   bool         // end a live container first
	Stop    *StopOptions // how it is ended; nil: by SIGKILL
	Volumes bool         // its anonymous volumes too
	// Planned says that whoever keeps places filled removes it: there is nothing
	// to remember.
	Planned bool
}

// Conditions of [Engine.Wait].
const (
	NotRunning = "not-running"
	NextExit   = "next-exit"
	Removed    = "removed"
)

// Waited is the answer of [Engine.Wait].
type Waited struct {
	ExitCode int
	Error    string
}

// ExecConfig asks for a further process in a live container.
type ExecConfig struct {
	Command    []string
	Env        []string
	WorkingDir string
	User       string
	Privileged bool
	TTY        bool
	Stdin      bool
	Stdout     bool
	Stderr     bool
	DetachKeys string
	Width      uint16
	Height     uint16
}

// Exec is a snapshot of an exec.
type Exec struct {
	ID, Container string
	Config        ExecConfig
	Running       bool
	Pid           int
	ExitCode      *int // nil until it has ended
}

// Event tells that something happened to an object.
type Event struct {
	Type       string // "container", "image", "network", "volume", "daemon"
	Action     string // "start", "die", "exec_create: sh", "health_status: healthy" …
	ID         string
	Attributes map[string]string
	Time       time.Time
}
