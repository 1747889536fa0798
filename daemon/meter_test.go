package daemon

import (
	"testing"
	"time"

	"gantry/runtime/keeper"
	"gantry/runtime/spec"
	"gantry/scheduler"
)

func TestUsageOf(t *testing.T) {
	now := time.Now()
	read := keeper.Stats{Read: now, CPUTotal: time.Second, MemoryUsage: 100, Memory: map[string]uint64{"inactive_file": 30}}
	for name, tt := range map[string]struct {
		stats  keeper.Stats
		limits spec.Resources
		want   scheduler.Usage
	}{
		"no limits":             {read, spec.Resources{}, scheduler.Usage{Memory: 70}},
		"cpus and memory":       {read, spec.Resources{NanoCPUs: 5e8, Memory: 1000}, scheduler.Usage{Memory: 70, Processors: 0.5, MemoryMost: 1000}},
		"a quota":               {read, spec.Resources{CPUQuota: 150_000}, scheduler.Usage{Memory: 70, Processors: 1.5}},
		"a quota and a period":  {read, spec.Resources{CPUQuota: 20_000, CPUPeriod: 10_000}, scheduler.Usage{Memory: 70, Processors: 2}},
		"no limit, said so":     {read, spec.Resources{CPUQuota: -1, Memory: -1}, scheduler.Usage{Memory: 70}},
		"cgroup v1":             {keeper.Stats{Read: now, CPUTotal: time.Second, MemoryUsage: 100, Memory: map[string]uint64{"inactive_file": 1, "total_inactive_file": 40}}, spec.Resources{}, scheduler.Usage{Memory: 60}},
		"more cache than usage": {keeper.Stats{Read: now, CPUTotal: time.Second, MemoryUsage: 10, Memory: map[string]uint64{"inactive_file": 30}}, spec.Resources{}, scheduler.Usage{}},
	} {
		tt.want.At, tt.want.CPU = now, time.Second
		if got := usageOf(tt.stats, tt.limits); got != tt.want {
			t.Errorf("%s: %+v, want %+v", name, got, tt.want)
		}
	}
}
