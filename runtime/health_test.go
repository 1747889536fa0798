package runtime

import (
	"testing"
	"time"

	"gantry/runtime/spec"

	"pgregory.net/rapid"
)

func TestJudge(t *testing.T) {
	hc := withDefaults(spec.Healthcheck{Test: []string{"CMD", "x"}, StartPeriod: 10 * time.Second, Retries: 2})
	pass, fail := Probe{ExitCode: 0}, Probe{ExitCode: 1}

	h := Health{Status: Starting}
	if h = judge(h, fail, hc, time.Second, false); h.Status != Starting || h.FailingStreak != 0 {
		t.Fatalf("a failure in the start period counted: %+v", h)
	}
	if h = judge(h, fail, hc, 11*time.Second, false); h.Status != Starting || h.FailingStreak != 1 {
		t.Fatalf("after the start period: %+v", h)
	}
	if h = judge(h, fail, hc, 12*time.Second, true); h.FailingStreak != 1 {
		t.Fatalf("an early failure counted: %+v", h)
	}
	if h = judge(h, fail, hc, 13*time.Second, false); h.Status != Unhealthy {
		t.Fatalf("two failures of two: %+v", h)
	}
	if h = judge(h, pass, hc, 14*time.Second, false); h.Status != Healthy || h.FailingStreak != 0 {
		t.Fatalf("a success heals: %+v", h)
	}
	if h = judge(h, fail, hc, time.Second, false); h.FailingStreak != 1 {
		t.Fatalf("once healthy, the start period is over: %+v", h)
	}
	if len(h.Log) != probesKept {
		t.Fatalf("kept %d probes", len(h.Log))
	}
}

// Whatever the probes say, a container turns unhealthy only by failures in a
// row that its own schedule asked for.
func TestHealthLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hc := withDefaults(spec.Healthcheck{
			Test:        []string{"CMD", "x"},
			Retries:     rapid.IntRange(1, 5).Draw(t, "retries"),
			Interval:    time.Duration(rapid.IntRange(1, 60).Draw(t, "interval")) * time.Second,
			StartPeriod: time.Duration(rapid.IntRange(0, 60).Draw(t, "start period")) * time.Second,
		})
		start := time.Unix(0, 0)
		h, s, now := Health{Status: Starting}, newSchedule(hc, start), start
		row := 0
		for range rapid.IntRange(1, 100).Draw(t, "probes") {
			at, early := s.next(h.Status, rapid.Bool().Draw(t, "awaited"))
			if at.After(now) {
				now = at
			}
			if early && h.Status != Starting {
				t.Fatal("an early probe of a container that is not starting")
			}
			code := rapid.IntRange(0, 1).Draw(t, "code")
			before := h.Status
			h = judge(h, Probe{ExitCode: code}, hc, now.Sub(start), early)
			switch {
			case code == 0:
				row = 0
			case !early:
				row++
			}
			if h.Status == Unhealthy && before != Unhealthy && row < hc.Retries {
				t.Fatalf("unhealthy after %d failures of %d", row, hc.Retries)
			}
			if s = s.after(now, h.Status, early); s.gap > hc.Interval {
				t.Fatalf("early gap %s is wider than the interval", s.gap)
			}
		}
	})
}

// While somebody waits the first probes come at 0, 50, 125 ms …
func TestEarlyProbes(t *testing.T) {
	start := time.Unix(100, 0)
	s := newSchedule(withDefaults(spec.Healthcheck{Interval: time.Second}), start)
	var got []time.Duration
	for range 4 {
		at, early := s.next(Starting, true)
		if !early {
			t.Fatal("regular before its time")
		}
		got = append(got, at.Sub(start))
		s = s.after(at, Starting, true)
	}
	want := []time.Duration{0, 50 * time.Millisecond, 125 * time.Millisecond, 237500 * time.Microsecond}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("probes at %v, want %v", got, want)
		}
	}
	if at, early := s.next(Starting, false); early || at.Sub(start) != time.Second {
		t.Fatalf("nobody waits: probe at %s, early %v", at.Sub(start), early)
	}
}

// A clock that is set back, by an hour, just after a container has started
// delays no probe and does not make its start period longer.
func TestHealthWhenTheClockIsSetBack(t *testing.T) {
	hc := withDefaults(spec.Healthcheck{Test: []string{"CMD", "x"}, Interval: 10 * time.Second, StartPeriod: time.Minute})
	now := time.Now()
	started := onOurClock(now.Round(0).Add(time.Hour), now)
	s := newSchedule(hc, started)
	if at, _ := s.next(Starting, true); at.After(now) {
		t.Errorf("the first early probe comes after %v", at.Sub(now))
	}
	if s.regular.Sub(now) > hc.Interval {
		t.Errorf("the first probe comes after %v", s.regular.Sub(now))
	}
	fail := Probe{Start: now.Add(2 * time.Minute), ExitCode: 1}
	if h := judge(Health{Status: Starting}, fail, hc, fail.Start.Sub(started), false); h.FailingStreak != 1 {
		t.Error("a failure after the start period does not count")
	}
	if at := onOurClock(now.Round(0).Add(-time.Hour), now); now.Sub(at) != time.Hour {
		t.Errorf("an hour ago was %v ago", now.Sub(at))
	}
}

// Containers that were started whenever are probed at few moments, and no probe
// is moved by more than half a beat. The moments of long intervals are among
// those of short ones.
func TestProbesTogether(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		began := time.Now()
		interval := rapid.SampledFrom([]time.Duration{time.Millisecond, time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Hour}).Draw(t, "interval")
		moments := map[time.Time]bool{}
		for range 100 {
			at := began.Add(time.Duration(rapid.Int64Range(0, int64(interval)).Draw(t, "at")))
			met := together(at, began, interval)
			if by := met.Sub(at).Abs(); by > max(interval/32, time.Millisecond/2) || by > 550*time.Millisecond {
				t.Fatalf("a probe after %v was moved by %v", at.Sub(began), by)
			}
			if again := together(met, began, interval); !again.Equal(met) {
				t.Fatalf("it was moved twice, to %v and %v", met.Sub(began), again.Sub(began))
			}
			if shorter := together(met, began, interval/3); !shorter.Equal(met) {
				t.Fatalf("%v is no moment of %v", met.Sub(began), interval/3)
			}
			moments[met] = true
		}
		if interval <= 30*time.Second && len(moments) > 33 {
			t.Fatalf("100 containers are probed at %d moments", len(moments))
		}
	})
}
