package scheduler

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"gantry/compose"

	"pgregory.net/rapid"
)

func TestAdvice(t *testing.T) {
	rule := func(cpu, memory int) compose.Autoscale {
		return compose.Autoscale{Min: 1, Max: 10, CPU: cpu, Memory: memory}
	}
	cpu := func(values ...float64) (all []replicaLoad) {
		for _, v := range values {
			all = append(all, replicaLoad{ready: true, cpu: v, memory: unknown})
		}
		return all
	}
	starting := func(values ...float64) (all []replicaLoad) {
		for _, v := range values {
			all = append(all, replicaLoad{cpu: v, memory: v})
		}
		return all
	}
	for name, tt := range map[string]struct {
		rule    compose.Autoscale
		current int
		loads   []replicaLoad
		want    int
		why     string
	}{
		"as aimed at":                       {rule(70, 0), 2, cpu(70, 70), 2, "cpu at 70%, aimed at 70%"},
		"within the tolerance above":        {rule(70, 0), 2, cpu(76, 77), 2, ""},
		"within the tolerance below":        {rule(70, 0), 2, cpu(63, 64), 2, ""},
		"twice as much":                     {rule(70, 0), 2, cpu(140, 140), 4, "cpu at 140%, aimed at 70%"},
		"a part more is one more":           {rule(50, 0), 4, cpu(60, 60, 60, 60), 5, ""},
		"uneven replicas count together":    {rule(50, 0), 2, cpu(100, 20), 3, ""},
		"half as much":                      {rule(70, 0), 4, cpu(35, 35, 35, 35), 2, ""},
		"nothing":                           {rule(70, 0), 4, cpu(0, 0, 0, 0), 1, "cpu at 0%, aimed at 70%, and at least 1"},
		"more than there may be":            {rule(10, 0), 5, cpu(100, 100, 100, 100, 100), 10, "cpu at 100%, aimed at 10%, and at most 10"},
		"nobody was measured":               {rule(70, 0), 3, cpu(unknown, unknown, unknown), 3, "its usage is not known"},
		"missing, and too much":             {rule(50, 0), 3, cpu(100, 100, unknown), 4, ""},
		"missing, and little":               {rule(50, 0), 3, cpu(10, 10, unknown), 3, ""}, // (10+10+100)/3 is 40: ceil(0.8 × 3)
		"missing, and hardly anything":      {rule(90, 0), 4, cpu(1, 1, 1, unknown), 2, ""},
		"missing would turn it round":       {rule(100, 0), 2, cpu(130, unknown), 2, ""},
		"wanted and not there, and much":    {rule(50, 0), 4, cpu(100, 100), 4, ""},
		"wanted and not there, and little":  {rule(50, 0), 4, cpu(10, 10), 4, ""},
		"not ready, and the others busy":    {rule(50, 0), 3, append(cpu(100, 100), starting(900)...), 4, ""},
		"not ready, and the others idle":    {rule(50, 0), 3, append(cpu(10, 10), starting(900)...), 1, ""},
		"nobody is ready":                   {rule(50, 0), 2, starting(900, 900), 2, "its usage is not known"},
		"memory counts before it is ready":  {rule(0, 50), 2, starting(100, 100), 4, "memory at 100%, aimed at 50%"},
		"the largest number of two metrics": {rule(50, 50), 2, []replicaLoad{{true, 10, 100}, {true, 10, 100}}, 4, "memory at 100%, aimed at 50%"},
		"one metric is silent: not fewer":   {rule(50, 50), 4, cpu(10, 10, 10, 10), 4, "its usage is not known"},
		"one metric is silent: but more":    {rule(50, 50), 2, cpu(100, 100), 4, "cpu at 100%, aimed at 50%"},
		"a target above the limit":          {rule(150, 0), 2, cpu(160, unknown), 2, ""},
		"not ready, and close to it":        {rule(50, 0), 4, append(cpu(70, 70, 70), starting(0)...), 4, ""}, // 210/4 is 52.5
		"more than wanted, and little":      {rule(50, 0), 2, cpu(40, 40, 40, 40), 2, ""},
		"outside its bounds":                {rule(50, 0), 12, cpu(50, 50, 50, 50, 50, 50, 50, 50, 50, 50, 50, 50), 10, ""},
	} {
		got, why := advice(tt.rule, tt.current, tt.loads)
		if got != tt.want || tt.why != "" && why != tt.why {
			t.Errorf("%s: %d (%s), want %d %s", name, got, why, tt.want, tt.why)
		}
	}
}

// Whatever is measured, the number stays within its bounds; what is fully known
// gives the textbook's number; and more usage never gives fewer replicas.
func TestAdviceIsSound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		least := rapid.IntRange(1, 5).Draw(t, "min")
		rule := compose.Autoscale{Min: least, Max: rapid.IntRange(least, 20).Draw(t, "max"), CPU: rapid.IntRange(1, 200).Draw(t, "cpu")}
		current := rapid.IntRange(rule.Min, rule.Max).Draw(t, "current")
		known := rapid.Bool().Draw(t, "known")
		n := current
		if !known {
			n = rapid.IntRange(0, current+2).Draw(t, "there")
		}
		var loads, more []replicaLoad
		var sum float64
		for range n {
			l := replicaLoad{ready: true, cpu: rapid.Float64Range(0, 400).Draw(t, "load"), memory: unknown}
			if !known && rapid.Bool().Draw(t, "unknown") {
				l.cpu = unknown
			}
			l.ready = known || rapid.Bool().Draw(t, "ready")
			loads = append(loads, l)
			sum += l.cpu
			if l.cpu >= 0 {
				l.cpu += rapid.Float64Range(0, 100).Draw(t, "more")
			}
			more = append(more, l)
		}
		got, why := advice(rule, current, loads)
		if got < rule.Min || got > rule.Max {
			t.Fatalf("%d replicas of %d to %d", got, rule.Min, rule.Max)
		}
		if !strings.Contains(why, "%") && got != current {
			t.Fatalf("%d to %d without a measurement: %s", current, got, why)
		}
		if !known {
			return
		}
		ratio := sum / float64(n) / float64(rule.CPU)
		want := current
		if math.Abs(ratio-1) > tolerance {
			want = min(max(int(math.Ceil(ratio*float64(current)-1e-9)), rule.Min), rule.Max)
		}
		if got != want {
			t.Fatalf("%d, want %d: ratio %f of %d", got, want, ratio, current)
		}
		if busier, _ := advice(rule, current, more); busier < got {
			t.Fatalf("%d replicas, and %d when busier", got, busier)
		}
	})
}

// There are fewer replicas only when no more were asked for in all of the
// window, and more at once.
func TestSettledIsSlowDownwards(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rule := compose.Autoscale{Min: 1, Max: 9, CPU: 50, Stabilization: time.Duration(rapid.IntRange(1, 10).Draw(t, "window")) * time.Minute}
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		current := rapid.IntRange(1, 9).Draw(t, "current")
		began := advised{now, current}
		all := []advised{began}
		var past []advised
		for range 40 {
			now = now.Add(time.Duration(rapid.IntRange(5, 90).Draw(t, "gap")) * time.Second)
			asked := rapid.IntRange(1, 9).Draw(t, "asked")
			var to int
			if past == nil {
				all[0].at = now // it begins with the number there was
			}
			to, past = settled(rule, current, asked, now, past)
			all = append(all, advised{now, asked})
			most := asked
			for _, a := range all {
				if now.Sub(a.at) < rule.Stabilization {
					most = max(most, a.n)
				}
			}
			if want := max(min(most, current), asked); to != want {
				t.Fatalf("from %d to %d where %d was asked for and %d at most: want %d", current, to, asked, most, want)
			}
			if slices.ContainsFunc(past, func(a advised) bool { return now.Sub(a.at) >= rule.Stabilization }) {
				t.Fatal("it remembers for ever")
			}
			current = to
		}
	})
}
