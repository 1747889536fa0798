package runtime

import (
	"fmt"
	"slices"
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

// A container that turns unhealthy again and again is left as it is after so
// many restarts, where its policy says nothing else: it may do better than none.
const (
	sickAttempts = 5
	sickWindow   = time.Hour
)

// exited is what is known when a container's process has ended, or is to be
// ended because it is unhealthy.
type exited struct {
	Code    int
	Lost    bool          // the code is unknown: nobody was there to collect it
	Ran     time.Duration // how long
	Stopped bool          // a call asked for it
	Sick    bool          // it was ended for being unhealthy
	Count   int           // restarts since a call started it
	Row     int           // of them, those in this row of crashes
	At      time.Time
	Recent  []time.Time // restarts that count for a window, the oldest first
}

// verdict says whether to start again, and after how long. Count, Row and
// Recent are to be remembered for the next one.
type verdict struct {
	Restart bool
	Delay   time.Duration
	Count   int
	Row     int
	Recent  []time.Time
	GaveUp  string // why not, although the policy would have it
}

// nextRestart is Docker's restart policy: "always" and "unless-stopped" start
// whatever was not stopped by a call, "on-failure" only what ended with a code
// other than zero and at most MaxRetries times, however far apart. An unknown
// code counts as a failure.
//
// Docker's "always" also starts what a call had stopped when its daemon starts.
// Here a stop holds until a call starts the container again: a daemon that was
// restarted, or a machine, has not asked for anything.
//
// Swarm's bounds come on top of it (deploy.restart_policy): at most Attempts
// restarts within Window, Delay before each.
func nextRestart(p spec.RestartPolicy, x exited) verdict {
	row := x.Row
	if x.Ran >= recovered {
		row = 0
	}
	again := x.Sick && p.Unhealthy
	switch p.Name {
	case spec.RestartAlways, spec.RestartUnlessStopped:
		again = true
	case spec.RestartOnFailure:
		again = again || x.Code != 0 || x.Lost
	}
	if !again || x.Stopped {
		return verdict{Count: x.Count, Row: row, Recent: x.Recent}
	}
	recent, spent := bounded(p, x)
	if spent != "" {
		return verdict{Count: x.Count, Row: row, Recent: recent, GaveUp: spent}
	}
	v := verdict{Restart: true, Delay: wait(p, row), Count: x.Count + 1, Row: row + 1, Recent: recent}
	if attempts, window := bounds(p, x.Sick); window > 0 {
		v.Recent = append(slices.Clone(recent), x.At)
		if x.Sick && p.Delay == 0 {
			v.Delay = backoff(len(recent)) // it ran well for a while each time
		}
		v.Recent = v.Recent[max(len(v.Recent)-attempts, 0):]
	}
	return v
}

// bounds are how many restarts there may be in which time; no attempts: there is
// no bound, no window: since a call started it.
func bounds(p spec.RestartPolicy, sick bool) (attempts int, window time.Duration) {
	switch {
	case p.Attempts > 0:
		return p.Attempts, p.Window
	case p.Name == spec.RestartOnFailure && p.MaxRetries > 0:
		return p.MaxRetries, 0
	case sick:
		return sickAttempts, sickWindow
	}
	return 0, 0
}

// bounded gives the restarts that still count, and says why there may not be
// another one, "" if there may.
func bounded(p spec.RestartPolicy, x exited) (recent []time.Time, spent string) {
	attempts, window := bounds(p, x.Sick)
	count := x.Count
	if window > 0 {
		recent = slices.DeleteFunc(slices.Clone(x.Recent), func(t time.Time) bool { return t.Before(x.At.Add(-window)) })
		count = len(recent)
	}
	if attempts == 0 || count < attempts {
		return recent, ""
	}
	what := fmt.Sprintf("exited (%d)", x.Code)
	if x.Sick {
		what = "is unhealthy"
	}
	times := fmt.Sprintf("%d restarts", count)
	if count == 1 {
		times = "1 restart"
	}
	if window > 0 {
		times += " within " + window.String()
	}
	return recent, what + " after " + times + ", and is not restarted again"
}

// wait is the time before the n-th restart in a row, n from 0.
func wait(p spec.RestartPolicy, n int) time.Duration {
	if p.Delay > 0 {
		return p.Delay
	}
	return backoff(n)
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
