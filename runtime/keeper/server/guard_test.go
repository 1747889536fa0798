package server

import (
	"slices"
	"testing"
	"time"
)

// A daemon that dies again and again is started later and later, one that has
// lived for a while at once.
func TestBackOff(t *testing.T) {
	var waits []time.Duration
	wait := time.Duration(0)
	for _, lived := range []time.Duration{time.Hour, 0, time.Second, 0, time.Minute, 0} {
		wait = backOff(wait, lived)
		waits = append(waits, wait/time.Millisecond)
	}
	if want := []time.Duration{0, 10, 20, 40, 0, 10}; !slices.Equal(waits, want) {
		t.Errorf("waits of %v ms, want %v", waits, want)
	}
	for range 20 {
		wait = backOff(wait, 0)
	}
	if wait != restartMax {
		t.Errorf("after twenty deaths it waits %s", wait)
	}
}
