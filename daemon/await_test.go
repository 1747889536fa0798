package daemon

import (
	"testing"
	"time"
)

// A container that keeps crashing after a while is not ready in between.
func TestSteadyFor(t *testing.T) {
	for crashes, want := range map[int]time.Duration{0: 300 * time.Millisecond, 1: 600 * time.Millisecond, 3: 2400 * time.Millisecond, 5: 9600 * time.Millisecond, 6: 10 * time.Second, 1000: 10 * time.Second} {
		if got := steadyFor(crashes); got != want {
			t.Errorf("after %d crashes: %s, want %s", crashes, got, want)
		}
	}
}
