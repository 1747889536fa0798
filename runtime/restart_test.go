package runtime

import (
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
		{"always, clean end", policy("always"), exited{}, verdict{true, 0, 1, 1}},
		{"always, stopped", policy("always"), exited{Stopped: true}, verdict{}},
		{"on-failure, clean end", policy("on-failure"), exited{}, verdict{}},
		{"on-failure, failed", policy("on-failure"), exited{Code: 3}, verdict{true, 0, 1, 1}},
		{"on-failure, code lost", policy("on-failure"), exited{Lost: true}, verdict{true, 0, 1, 1}},
		{"on-failure, second crash", policy("on-failure", 3), exited{Code: 3, Count: 1, Row: 1}, verdict{true, 100 * time.Millisecond, 2, 2}},
		{"on-failure, used up", policy("on-failure", 3), exited{Code: 3, Count: 3, Row: 3}, verdict{Count: 3, Row: 3}},
		{"on-failure, used up with hours in between", policy("on-failure", 3), exited{Code: 3, Count: 3, Ran: time.Hour}, verdict{Count: 3}},
		{"fifth crash in a row", policy("always"), exited{Count: 4, Row: 4}, verdict{true, 800 * time.Millisecond, 5, 5}},
		{"bounded", policy("always"), exited{Count: 60, Row: 60}, verdict{true, time.Minute, 61, 61}},
		{"recovered in between", policy("always"), exited{Count: 9, Row: 9, Ran: time.Minute}, verdict{true, 0, 10, 1}},
	} {
		if got := nextRestart(c.p, c.x); got != c.want {
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
		x := exited{
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
		if !v.Restart && v.Delay != 0 {
			t.Fatal("a delay without a restart")
		}
	})
}
