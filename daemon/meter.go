package daemon

import (
	"cmp"
	"context"

	"gantry/runtime/keeper"
	"gantry/runtime/spec"
	"gantry/scheduler"
)

var _ scheduler.Meter = (*engine)(nil)

// Usage reads what containers use, in one question to the keeper.
func (e *engine) Usage(ctx context.Context, ids []string) (map[string]scheduler.Usage, error) {
	stats, err := e.rt.StatsOf(ctx, ids)
	if err != nil {
		return nil, err
	}
	all := make(map[string]scheduler.Usage, len(stats))
	for id, s := range stats {
		c, err := e.rt.Inspect(id)
		if err != nil {
			continue // gone since
		}
		all[id] = usageOf(s, c.Config.Resources)
	}
	return all, nil
}

func usageOf(s keeper.Stats, r spec.Resources) scheduler.Usage {
	u := scheduler.Usage{At: s.Read, CPU: s.CPUTotal, Processors: processors(r), Memory: s.MemoryUsage, MemoryMost: uint64(max(r.Memory, 0))}
	// The page cache that nobody has used lately goes as soon as it is in the
	// way. cgroup v1 counts it with children under another name.
	u.Memory -= min(u.Memory, cmp.Or(s.Memory["total_inactive_file"], s.Memory["inactive_file"]))
	return u
}

// defaultPeriod is the kernel's, in µs.
const defaultPeriod = 100_000

// processors that a container may use, 0 without a limit.
func processors(r spec.Resources) float64 {
	switch {
	case r.NanoCPUs > 0:
		return float64(r.NanoCPUs) / 1e9
	case r.CPUQuota > 0:
		return float64(r.CPUQuota) / float64(cmp.Or(r.CPUPeriod, defaultPeriod))
	}
	return 0
}
