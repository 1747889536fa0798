package keeper

import (
	"log/slog"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Verbs of the protocol and the bodies of their requests and answers. Where
// no answer is named it is empty.
const (
	VerbHello    = "hello"     // Hello → Welcome
	VerbDeposit  = "deposit"   // []Deposit with one file each: after hello, before anything else
	VerbSettled  = "settled"   // the client has deposited all it holds
	VerbReturn   = "return"    // push: []Deposit with one file each, for the client to hold
	VerbEvent    = "event"     // push: Event
	VerbCreate   = "create"    // Bundle → Status
	VerbStart    = "start"     // Target → Status
	VerbRun      = "run"       // Bundle → Status
	VerbExec     = "exec"      // ExecCall with stdio → ExecStarted, with Console if TTY, and the process's pidfd to hold
	VerbSignal   = "signal"    // SignalCall
	VerbPause    = "pause"     // Target
	VerbResume   = "resume"    // Target
	VerbUpdate   = "update"    // UpdateCall
	VerbResize   = "resize"    // ResizeCall
	VerbStats    = "stats"     // []string → map[string]Stats
	VerbWait     = "wait"      // Target → Exit
	VerbDelete   = "delete"    // Target
	VerbList     = "list"      // → []Status
	VerbAttach   = "attach"    // AttachRequest, with Out if HasOut → with stdin if asked for
	VerbNoStdin  = "no-stdin"  // Target: close standard input
	VerbProcess  = "processes" // Target → []int
	VerbHold     = "hold"      // Held with files
	VerbHeld     = "held"      // Name → with files; VerbHeldNames lists
	VerbNames    = "held-names"
	VerbDrop     = "drop"     // Held
	VerbGuard    = "guard"    // Guard with the daemon's pidfd and mount namespace
	VerbGoodbye  = "goodbye"  // the daemon ends because it was asked to
	VerbShutdown = "shutdown" // the keeper ends; refused while containers live, unless Force
	VerbUpgrade  = "upgrade"  // UpgradeCall: the keeper executes another binary in place
)

// Hello opens a connection.
type Hello struct {
	Protocol int
	// Resume says that the client has lost a keeper: exits that have been
	// recorded are told again.
	Resume bool `json:",omitempty"`
}

// Welcome answers Hello.
type Welcome struct {
	Protocol int
	Pid      int
	Program  string // the binary it was started from
	Build    string // what distinguishes binaries
}

// Kinds of deposits: what the client holds for the next keeper.
const (
	DepositPidfd   = "pidfd"
	DepositConsole = "console" // a terminal's master
	DepositStdin   = "stdin"   // the writing end of standard input
	DepositStdout  = "stdout"  // a FIFO, which keeps what was not read as long as somebody has it open
	DepositStderr  = "stderr"
)

// Deposit is one descriptor of a container or an exec that must outlive the
// keeper.
type Deposit struct {
	ID     string
	ExecID string `json:",omitempty"`
	Kind   string
	Pid    int  `json:",omitempty"` // of DepositPidfd
	Drop   bool `json:",omitempty"` // push only: forget all of this container or exec; carries no file
}

// Target names a container or one of its execs.
type Target struct {
	ID     string
	ExecID string `json:",omitempty"`
}

// ExecCall is an ExecRequest on the wire. Files are stdin, stdout and stderr,
// those that Has says are there.
type ExecCall struct {
	ExecRequest
	Has [3]bool
}

// SignalCall sends Signal.
type SignalCall struct {
	Target
	Signal syscall.Signal
}

// UpdateCall changes limits.
type UpdateCall struct {
	ID        string
	Resources *specs.LinuxResources
}

// ResizeCall sets a terminal's size.
type ResizeCall struct {
	Target
	Width, Height uint16
}

// AttachCall is an AttachRequest on the wire; one file if HasOut.
type AttachCall struct {
	AttachRequest
	HasOut bool
}

// Name names held descriptors.
type Name struct{ Name string }

// Guard tells the keeper how to start the daemon again when it dies without a
// goodbye.
type Guard struct {
	Args []string // Args[0] is the program
	Env  []string
	Dir  string
	Log  string // file that standard output and error are appended to; "": discarded
}

// ShutdownCall ends the keeper.
type ShutdownCall struct {
	Force bool // with containers alive; they go on, for the next keeper
}

// UpgradeCall replaces the keeper's program.
type UpgradeCall struct{ Program string }

// Options of [Connect].
type Options struct {
	// Run is the directory keeper and daemon share: RUN/keeper.sock,
	// RUN/keeper/, RUN/libcontainer/, RUN/rootfs/.
	Run string
	// Program is the keeper's binary; "": gantry-runtime beside this one.
	Program string
	// Cgroup is where a keeper that is started puts itself, as an absolute
	// path below every hierarchy's root, so that the daemon's limits do not
	// reach it; "": where the daemon is.
	Cgroup string
	// LogFile receives the log of a keeper that is started; "": RUN/keeper.log.
	LogFile string
	Guard   *Guard // nil: nobody starts the daemon again
	// HandshakeTimeout bounds starting a keeper and agreeing with it; 0: 10 s.
	HandshakeTimeout time.Duration
	Log              *slog.Logger `json:"-"` // nil: discarded
}
