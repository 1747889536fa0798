package runtime

import (
	"time"

	"gantry/runtime/spec"
)

// Restarting begins at once: most crashes are not repeated, and a service that
// is down for 100 ms is down for 100 ms. What crashes again soon is held back.
const (
	firstBackoff = 100 * time.Millisecond
	maxBackoff   = time.Minute
	// A container that ran this long has recovered: its next crash is a first.
	recovered = 10 * time.Second
)

// exited is what is known when a container's process has ended.
type exited struct {
	Code    int
	Lost    bool          // the code is unknown: nobody was there to collect it
	Ran     time.Duration // how long
	Stopped bool          // a call asked for it
	Count   int           // restarts since a call started it
	Row     int           // of them, those in this row of crashes
}

// verdict says whether to start again, and after how long. Count and Row are to
// be remembered for the next one.
type verdict struct {
	Restart bool
	Delay   time.Duration
	Count   int
	Row     int
}

// nextRestart is Docker's restart policy: "always" and "unless-stopped" start
// whatever was not stopped by a call, "on-failure" only what ended with a code
// other than zero and at most MaxRetries times, however far apart. An unknown
// code counts as a failure.
//
// Docker's "always" also starts what a call had stopped when its daemon starts.
// Here a stop holds until a call starts the container again: a daemon that was
// restarted, or a machine, has not asked for anything.
func nextRestart(p spec.RestartPolicy, x exited) verdict {
	row := x.Row
	if x.Ran >= recovered {
		row = 0
	}
	var again bool
	switch p.Name {
	case spec.RestartAlways, spec.RestartUnlessStopped:
		again = !x.Stopped
	case spec.RestartOnFailure:
		failed := x.Code != 0 || x.Lost
		again = failed && !x.Stopped && (p.MaxRetries == 0 || x.Count < p.MaxRetries)
	}
	if !again {
		return verdict{Count: x.Count, Row: row}
	}
	return verdict{Restart: true, Delay: backoff(row), Count: x.Count + 1, Row: row + 1}
}

// backoff is the wait before the n-th restart in a row, n from 0: none, then
// doubling from 100 ms up to a minute.
func backoff(n int) time.Duration {
	if n == 0 {
		return 0
	}
	d := firstBackoff
	for range n - 1 {
		if d *= 2; d >= maxBackoff {
			return maxBackoff
		}
	}
	return d
}
