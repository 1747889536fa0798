package runtime

import (
	"reflect"
	"testing"
	"time"

	"gantry/runtime/spec"

	"pgregory.net/rapid"
)

func TestNextRestart(t *testing.T) {
	policy := func(name string, max ...int) spec.RestartPolicy {
		p := spec.RestartPolicy{Name: name}
		if len(max) > 0 {
			p.MaxRetries = max[0]
		}
		return p
	}
	for _, c := range []struct {
		what string
		p    spec.RestartPolicy
		x    exited
		want verdict
	}{
		{"no policy", policy(""), exited{Code: 1}, verdict{}},
		{"no", policy("no"), exited{Code: 1}, verdict{}},
		{"always, clean end", policy("always"), exited{}, verdict{Restart: true, Delay: 0, Count: 1, Row: 1}},
		{"always, stopped", policy("always"), exited{Stopped: true}, verdict{}},
		{"on-failure, clean end", policy("on-failure"), exited{}, verdict{}},
		{"on-failure, failed", policy("on-failure"), exited{Code: 3}, verdict{Restart: true, Delay: 0, Count: 1, Row: 1}},
		{"on-failure, code lost", policy("on-failure"), exited{Lost: true}, verdict{Restart: true, Delay: 0, Count: 1, Row: 1}},
		{"on-failure, second crash", policy("on-failure", 3), exited{Code: 3, Count: 1, Row: 1}, verdict{Restart: true, Delay: 100 * time.Millisecond, Count: 2, Row: 2}},
		{"on-failure, used up", policy("on-failure", 3), exited{Code: 3, Count: 3, Row: 3}, verdict{Count: 3, Row: 3}},
		{"on-failure, used up with hours in between", policy("on-failure", 3), exited{Code: 3, Count: 3, Ran: time.Hour}, verdict{Count: 3}},
		{"fifth crash in a row", policy("always"), exited{Count: 4, Row: 4}, verdict{Restart: true, Delay: 800 * time.Millisecond, Count: 5, Row: 5}},
		{"bounded", policy("always"), exited{Count: 60, Row: 60}, verdict{Restart: true, Delay: time.Minute, Count: 61, Row: 61}},
		{"recovered in between", policy("always"), exited{Count: 9, Row: 9, Ran: time.Minute}, verdict{Restart: true, Delay: 0, Count: 10, Row: 1}},
	} {
		got := nextRestart(c.p, c.x)
		got.GaveUp = ""
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %+v, want %+v", c.what, got, c.want)
		}
	}
}

func TestRestartLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := spec.RestartPolicy{
			Name:       rapid.SampledFrom([]string{"", "no", "always", "on-failure", "unless-stopped"}).Draw(t, "policy"),
			MaxRetries: rapid.IntRange(0, 5).Draw(t, "max"),
		}
		if rapid.Bool().Draw(t, "swarm") {
			p.MaxRetries = 0
			p.Attempts = rapid.IntRange(0, 5).Draw(t, "attempts")
			p.Window = time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "window"))
			p.Unhealthy = rapid.Bool().Draw(t, "unhealthy")
		}
		x := exited{
			Sick:    rapid.Bool().Draw(t, "sick"),
			At:      time.Unix(1_000_000, 0),
			Code:    rapid.IntRange(0, 255).Draw(t, "code"),
			Ran:     time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "ran")),
			Stopped: rapid.Bool().Draw(t, "stopped"),
			Count:   rapid.IntRange(0, 100).Draw(t, "count"),
			Row:     rapid.IntRange(0, 100).Draw(t, "row"),
		}
		v := nextRestart(p, x)
		if v.Restart && x.Stopped {
			t.Fatal("restarted what a call stopped")
		}
		if v.Delay < 0 || v.Delay > maxBackoff {
			t.Fatalf("delay %s out of bounds", v.Delay)
		}
		if v.Restart && v.GaveUp != "" || len(v.Recent) > max(p.Attempts, sickAttempts) {
			t.Fatalf("%+v", v)
		}
		if !v.Restart && v.Delay != 0 {
			t.Fatal("a delay without a restart")
		}
	})
}

// Swarm's bounds: attempts within a window, or for ever; and those of a
// container that turns unhealthy again and again.
func TestRestartBounds(t *testing.T) {
	for _, c := range []struct {
		what   string
		p      spec.RestartPolicy
		every  time.Duration // between two ends
		sick   bool
		ends   int
		starts int
		delay  time.Duration // of the last start
	}{
		{"attempts, for ever", spec.RestartPolicy{Name: "always", Attempts: 3}, time.Hour, false, 10, 3, 0},
		{"attempts within a window", spec.RestartPolicy{Name: "always", Attempts: 3, Window: time.Minute}, 10 * time.Second, false, 4, 3, 0},
		{"slower than the window", spec.RestartPolicy{Name: "on-failure", Attempts: 3, Window: time.Minute}, 21 * time.Second, false, 50, 50, 0},
		{"a delay", spec.RestartPolicy{Name: "always", Delay: 5 * time.Second}, time.Second, false, 4, 4, 5 * time.Second},
		{"sick, and nothing said", spec.RestartPolicy{Name: "no", Unhealthy: true}, time.Minute, true, 9, 5, 800 * time.Millisecond},
		{"sick once in a while", spec.RestartPolicy{Name: "no", Unhealthy: true}, 13 * time.Minute, true, 50, 50, 800 * time.Millisecond},
		{"sick, with attempts", spec.RestartPolicy{Name: "always", Unhealthy: true, Attempts: 2}, time.Minute, true, 9, 2, 0},
		{"sick, and nobody minds", spec.RestartPolicy{Name: "on-failure"}, time.Minute, true, 1, 1, 0},
		{"sick, with no policy", spec.RestartPolicy{Name: "no"}, time.Minute, true, 3, 0, 0},
	} {
		now := time.Unix(1_000_000, 0)
		var v verdict
		var delay time.Duration
		starts := 0
		for range c.ends {
			now = now.Add(c.every)
			v = nextRestart(c.p, exited{Code: 1, Sick: c.sick, Ran: c.every, Count: v.Count, Row: v.Row, At: now, Recent: v.Recent})
			if v.Restart {
				starts, delay = starts+1, v.Delay
			}
		}
		if starts != c.starts || delay != c.delay {
			t.Errorf("%s: %d starts, the last after %v; want %d after %v", c.what, starts, delay, c.starts, c.delay)
		}
		if (v.GaveUp != "") != (c.starts < c.ends && c.starts > 0) {
			t.Errorf("%s: it gave up: %q", c.what, v.GaveUp)
		}
	}
}
