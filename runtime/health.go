package runtime

import (
	"math/rand/v2"
	"slices"
	"time"

	"gantry/runtime/spec"
)

// Defaults of a healthcheck, as Docker's.
const (
	probeInterval      = 30 * time.Second
	probeTimeout       = 30 * time.Second
	probeStartInterval = 5 * time.Second
	probeRetries       = 3
	probesKept         = 5
	probeOutput        = 4096 // bytes kept of one probe's output
)

// Early probes: while somebody waits for a starting container it is probed at
// once and then after growing gaps, so that the wait is as long as the service
// needs and no longer. While nobody does the gaps are wider: a new replica gets
// no traffic before it is healthy, and an interval of half a minute is long.
const (
	earlyFirstGap = 50 * time.Millisecond
	earlyGrowth   = 1.5
	earlyIdleGap  = time.Second
)

// withDefaults fills what a healthcheck leaves open.
func withDefaults(h spec.Healthcheck) spec.Healthcheck {
	or := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	or(&h.Interval, probeInterval)
	or(&h.Timeout, probeTimeout)
	or(&h.StartInterval, probeStartInterval)
	if h.Retries <= 0 {
		h.Retries = probeRetries
	}
	return h
}

// probes tells whether h asks for probing at all.
func probes(h *spec.Healthcheck) bool {
	return h != nil && len(h.Test) > 0 && h.Test[0] != "NONE"
}

// judge is the state after a probe. ran is how long the container had run when
// the probe began; early marks one that the healthcheck's own schedule did not
// ask for: it can turn a container healthy, and nothing else.
//
// A failure in the start period does not count until the container has once
// been healthy (Docker Engine API, HealthConfig.StartPeriod).
func judge(h Health, p Probe, hc spec.Healthcheck, ran time.Duration, early bool) Health {
	h.Log = append(slices.Clone(h.Log), p)
	if n := len(h.Log); n > probesKept {
		h.Log = h.Log[n-probesKept:]
	}
	if p.ExitCode == 0 {
		h.Status, h.FailingStreak = Healthy, 0
		return h
	}
	if early || h.Status == Starting && ran < hc.StartPeriod {
		return h
	}
	h.FailingStreak++
	if h.FailingStreak >= hc.Retries {
		h.Status = Unhealthy
	}
	return h
}

// schedule says when to probe next.
type schedule struct {
	hc      spec.Healthcheck
	started time.Time
	regular time.Time     // when the healthcheck's own schedule asks next
	gap     time.Duration // before the next early probe; 0: none made yet
	early   time.Time     // when the last early probe ended
}

func newSchedule(hc spec.Healthcheck, started time.Time) schedule {
	s := schedule{hc: hc, started: started}
	s.regular = started.Add(s.interval(started, Starting))
	return s
}

// onOurClock is when something happened that is said to have been at a given
// time, on the clock that nobody sets: of a time read from disk or from the
// keeper only the distance counts, and what lies ahead, because the clock was
// set back meanwhile, is now.
func onOurClock(said, now time.Time) time.Time { return now.Add(-max(now.Sub(said), 0)) }

// resumed is the schedule of a container that was probed before now, by another
// daemon. It begins anew somewhere within an interval, so that a daemon with a
// hundred containers does not probe them all at once.
func (s schedule) resumed(now time.Time) schedule {
	s.regular = now.Add(time.Duration(rand.Int64N(int64(s.hc.Interval) + 1)))
	return s
}

// interval is the distance of regular probes at a given time.
func (s schedule) interval(now time.Time, status string) time.Duration {
	if status == Starting && now.Sub(s.started) < s.hc.StartPeriod {
		return min(s.hc.StartInterval, s.hc.Interval)
	}
	return s.hc.Interval
}

// next is when to probe, and whether that probe is early.
func (s schedule) next(status string, awaited bool) (at time.Time, early bool) {
	if status != Starting {
		return s.regular, false
	}
	last, gap := s.started, s.gap
	if gap > 0 {
		last = s.early
	}
	if !awaited {
		gap = max(gap, earlyIdleGap)
	}
	e := last.Add(gap)
	if e.Before(s.regular) {
		return e, true
	}
	return s.regular, false
}

// together moves a probe a little, so that containers are probed in company: to
// wake daemon and keeper, and to let them fall asleep again, costs as much as a
// probe does. Beats are powers of two, so that those of different intervals
// meet, and at most a 16th of the interval or about a second.
func together(at, began time.Time, interval time.Duration) time.Time {
	beat := time.Millisecond
	for beat*2 <= min(interval/16, 1100*time.Millisecond) {
		beat *= 2
	}
	return began.Add(at.Sub(began).Round(beat))
}

// after is the schedule once a probe has ended.
func (s schedule) after(end time.Time, status string, early bool) schedule {
	if !early {
		s.regular = end.Add(s.interval(end, status))
		return s
	}
	s.early = end
	if s.gap == 0 {
		s.gap = earlyFirstGap
	} else {
		s.gap = min(time.Duration(float64(s.gap)*earlyGrowth), s.hc.Interval)
	}
	return s
}
