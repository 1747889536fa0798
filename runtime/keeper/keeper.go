// Package keeper is the daemon's side of gantry-runtime, the small process that
// is the parent of every container: the values both sides speak of, the
// protocol between them, and the [Client] that starts a keeper when none
// runs, and a new one when it dies.
//
// The package knows processes, descriptors and the wire. It does not know
// libcontainer or cgroups (those are behind keeper/server, which only
// gantry-runtime links), and nothing of images, networks or records: a
// container comes in as a finished specification and a list of directories.
//
// A container's life in the keeper is one run of it:
//
//	        Create            Start            its process ends
//	absent ───────► created ────────► running ─────────────────► stopped
//	  ▲                │               ▲  │                         │
//	  │                │         Resume│  │Pause                    │
//	  │                │               │  ▼                         │
//	  │                │              paused                        │
//	  └────────────────┴──────────── Delete ────────────────────────┘
//
// A container that is started again is deleted and created again under the
// same id. Every call is idempotent by id: repeated, it finds its work done.
//
// Either side may be killed at any instant. What the kernel forgets when a
// process dies, the other side holds: the keeper has the daemon's listening
// sockets ([Client.Hold]), the client has a pidfd, the end of standard input
// and the terminal of every container, and gives them to the next keeper.
package keeper

import (
	"fmt"
	"os"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gantry/runtime/rootfs"
)

// Bundle is everything the keeper needs to make a container.
type Bundle struct {
	ID string // letters, digits, "_", "+", "-", "."

	// Spec is complete except for what can only be known inside the root
	// filesystem: Root.Path is set by the keeper when Rootfs is given, and
	// Process.User.Username ("name", "uid:group"…; "" means that UID and GID
	// hold) is resolved there, as are the names and ids of GroupAdd.
	Spec     *specs.Spec
	GroupAdd []string `json:",omitempty"`

	// Rootfs is mounted by the keeper, where nobody else sees it. Without
	// Lower, Spec.Root.Path is used as it is.
	Rootfs rootfs.Overlay

	TTY       bool `json:",omitempty"`
	OpenStdin bool `json:",omitempty"` // standard input stays open until CloseStdin; else /dev/null
	StdinOnce bool `json:",omitempty"` // it also closes when a daemon that attached it dies

	Width, Height uint16 `json:",omitempty"` // of the terminal

	Log LogSink
}

// LogSink says where output is written, besides to those who attached.
type LogSink struct {
	Path     string `json:",omitempty"` // "": nowhere; output is read all the same
	MaxSize  int64  `json:",omitempty"` // bytes, as in logs.Options
	MaxFiles int    `json:",omitempty"`
}

// States of a container in the keeper.
const (
	StateCreated = "created"
	StateRunning = "running"
	StatePaused  = "paused"
	StateStopped = "stopped"
)

// Status is a snapshot of one container.
type Status struct {
	ID        string
	State     string
	Pid       int       // in the keeper's namespace; stays after the exit
	CreatedAt time.Time `json:",omitzero"`
	StartedAt time.Time `json:",omitzero"`
	TTY       bool      `json:",omitempty"`
	Exit      *Exit     `json:",omitempty"` // of StateStopped
	OOM       bool      `json:",omitempty"` // the kernel killed a process of it for want of memory
	Execs     []string  `json:",omitempty"` // running ones
}

// Live reports whether the container has a process.
func (s Status) Live() bool { return s.State != "" && s.State != StateStopped }

// Exit is how a process ended.
type Exit struct {
	// Code is the exit status, or 128 and the signal's number.
	Code   int
	Signal syscall.Signal `json:",omitempty"`
	At     time.Time
	// Known is false when nobody was there to collect the status: the process
	// died while no keeper lived and the kernel did not remember. Code is 255
	// then.
	Known bool
	OOM   bool `json:",omitempty"`
}

// ExecRequest asks for a further process in a running container.
type ExecRequest struct {
	ID, ExecID string // ExecID is unique in the container
	// Process, as in a specification; User.Username is resolved as in Bundle.
	Process  *specs.Process
	GroupAdd []string `json:",omitempty"`

	TTY           bool   `json:",omitempty"`
	Width, Height uint16 `json:",omitempty"`
	// Unhurried says that nobody waits for it: what costs work to be sooner is
	// left out.
	Unhurried bool `json:",omitempty"`
	// Stdin, Stdout and Stderr become the process's own, without TTY. The call
	// takes ownership of them. A nil one is /dev/null.
	Stdin, Stdout, Stderr *os.File `json:"-"`
}

// ExecStarted is the answer to an [ExecRequest].
type ExecStarted struct {
	Pid int
	// Console is the terminal's master of an exec with TTY, for the caller to
	// read, write and close. Closing it hangs the terminal up.
	Console *os.File `json:"-"`
}

// AttachRequest asks for a container's output, its input, or both.
type AttachRequest struct {
	ID             string
	Stdin          bool `json:",omitempty"`
	Stdout, Stderr bool `json:",omitempty"`

	// Out receives output from now on: Docker's frames (stream, three zero
	// bytes, big-endian length) or, of a container with a terminal, its bytes.
	// It is written without blocking: a reader that falls more than 8 MiB
	// behind is cut off, after a frame on stderr that says so. Out is closed
	// when the container has ended and everything is delivered. Pass the
	// writing end of a pipe or a socket; the call takes ownership of it.
	Out *os.File `json:"-"`
}

// Event tells of something that happened without a call.
type Event struct {
	Kind   EventKind
	ID     string `json:",omitempty"` // of the container
	ExecID string `json:",omitempty"`
	Exit   *Exit  `json:",omitempty"` // of Exited and ExecExited
}

// EventKind is what happened.
type EventKind string

// Kinds of events. An exit may be told twice when a keeper died between; it is
// never told before it is on disk.
const (
	Exited     EventKind = "exit"
	ExecExited EventKind = "exec-exit"
	OOM        EventKind = "oom"
	KeeperLost EventKind = "keeper-lost" // calls wait until KeeperBack
	KeeperBack EventKind = "keeper-back" // exits in between follow as events
)

// Stats is what a container's cgroup has counted.
type Stats struct {
	Read time.Time

	CPUTotal, CPUUser, CPUSystem time.Duration
	PerCPU                       []time.Duration `json:",omitempty"`
	Periods, ThrottledPeriods    uint64
	ThrottledTime                time.Duration
	MemoryUsage, MemoryMax       uint64 // bytes; Max is the peak
	MemoryLimit                  uint64 // bytes; 0: none
	MemoryFailures               uint64
	Memory                       map[string]uint64 `json:",omitempty"` // memory.stat
	SwapUsage                    uint64
	Pids, PidsLimit              uint64 // PidsLimit 0: none
	OOMKills                     uint64
	IOBytes, IOOps               []IO `json:",omitempty"`
}

// IO is one counter of a block device.
type IO struct {
	Major, Minor uint64
	Op           string // "read", "write", "sync", "async", "discard", "total"
	Value        uint64
}

// StartError is a container or exec whose command could not be run. It is
// ErrInvalidArgument, or ErrNotFound when the command is not there.
type StartError struct {
	Code int // as Docker's exit codes: 127 not found, 126 not executable, 128 otherwise
	Err  error
}

func (e *StartError) Error() string { return e.Err.Error() }
func (e *StartError) Unwrap() error { return e.Err }

// CheckID says whether id can name a container or an exec.
func CheckID(id string) error {
	if id == "" || len(id) > 128 || id == "." || id == ".." {
		return invalid(fmt.Errorf("bad id %q: must have 1 to 128 letters, digits or any of _ . + -", id))
	}
	for i := range len(id) {
		switch c := id[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '+', c == '-', c == '.':
		default:
			return invalid(fmt.Errorf("bad id %q: must have 1 to 128 letters, digits or any of _ . + -", id))
		}
	}
	return nil
}
