package scheduler

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"gantry/compose"
)

// The number of replicas follows their usage by the rule of Kubernetes'
// HorizontalPodAutoscaler: of each metric,
//
//	wanted = ceil(current × measured ÷ target)
//
// and of several the largest number, unless measured ÷ target is within a tenth
// of 1. What is not measured never makes the service move: it counts as idle
// where the others ask for more, and as busy where they ask for less. Fewer
// replicas are wanted only once a lower number has been enough for a while.

// tolerance is how far the usage may be off its target before anything is done.
const tolerance = 0.1

// defaultStabilization is for how long a lower number must have been enough.
const defaultStabilization = 5 * time.Minute

// replicaLoad is what one replica uses, in hundredths of what it may.
type replicaLoad struct {
	ready       bool
	cpu, memory float64 // negative: not known
}

// unknown is a load that is not known.
const unknown = -1

// demand is what a metric asks for, with what was measured; false where it
// says nothing, because it is not known of any replica.
func demand(current, target int, loads []replicaLoad, metric func(replicaLoad) float64, ignoreUnready bool) (n int, measured float64, ok bool) {
	var sum float64
	var known, missing, unready int
	for _, l := range loads {
		switch v := metric(l); {
		case ignoreUnready && !l.ready: // what it uses to start says nothing of its work
			unready++
		case v < 0:
			missing++
		default:
			sum += v
			known++
		}
	}
	missing += max(current-len(loads), 0) // wanted, and not there
	if known == 0 {
		return current, 0, false
	}
	goal := float64(target)
	measured = sum / float64(known)
	ratio := measured / goal
	count := known
	switch {
	case ratio < 1 && missing > 0: // as if they used all they may
		sum += float64(missing) * max(goal, 100)
		count += missing
	case ratio > 1: // as if they did nothing
		count += missing + unready
	}
	again := sum / float64(count) / goal
	if math.Abs(again-1) <= tolerance || (ratio < 1) != (again < 1) {
		return current, measured, true // too little, or the other way round for want of numbers
	}
	n = int(math.Ceil(again*float64(count) - 1e-9))
	if (again < 1) != (n < current) {
		return current, measured, true // the replicas that count are fewer, or more, than those wanted
	}
	return n, measured, true
}

// advice is the number of replicas that the loads ask for, and why.
func advice(a compose.Autoscale, current int, loads []replicaLoad) (n int, why string) {
	type metric struct {
		name          string
		target        int
		of            func(replicaLoad) float64
		ignoreUnready bool
	}
	n, silent := -1, false
	for _, m := range []metric{
		{"cpu", a.CPU, func(l replicaLoad) float64 { return l.cpu }, true},
		{"memory", a.Memory, func(l replicaLoad) float64 { return l.memory }, false},
	} {
		if m.target == 0 {
			continue
		}
		asks, measured, ok := demand(current, m.target, loads, m.of, m.ignoreUnready)
		if !ok {
			silent = true
			continue
		}
		if asks > n {
			n, why = asks, fmt.Sprintf("%s at %.0f%%, aimed at %d%%", m.name, measured, m.target)
		}
	}
	if n < 0 || silent && n < current { // what is not known may need the others
		n, why = current, "its usage is not known"
	}
	switch bounded := a.Within(n); {
	case bounded < n:
		n, why = bounded, why+fmt.Sprintf(", and at most %d", a.Max)
	case bounded > n:
		n, why = bounded, why+fmt.Sprintf(", and at least %d", a.Min)
	}
	return n, why
}

// advised is a number of replicas that was asked for at a time.
type advised struct {
	at time.Time
	n  int
}

// settled is the number of replicas there should be, after advice: more at
// once, fewer when no more were asked for in all of the window. It returns what
// is to be remembered, which begins with the number there was.
func settled(a compose.Autoscale, current, n int, now time.Time, past []advised) (int, []advised) {
	window := cmp.Or(a.Stabilization, defaultStabilization)
	if len(past) == 0 {
		past = []advised{{now, current}}
	}
	past = slices.DeleteFunc(append(slices.Clone(past), advised{now, n}), func(p advised) bool { return now.Sub(p.at) >= window })
	if n >= current {
		return n, past
	}
	most := n
	for _, p := range past {
		most = max(most, p.n)
	}
	return min(most, current), past
}

// autoscaled is how the number of a service's replicas follows their usage,
// nil if it does not.
func autoscaled(s compose.Service) *compose.Autoscale {
	g, err := compose.GantryOf(s)
	if err != nil { // refused when the project was loaded
		return nil
	}
	return g.Autoscale
}
