package spec

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const (
	cpuPeriod       = 100_000 // µs, the kernel's default
	minMemory       = 6 << 20 // below this no container starts; Docker's bound
	minShares       = 2
	maxShares       = 262_144
	minCPUPeriod    = 1_000 // µs
	maxCPUPeriod    = 1_000_000
	minCPUQuota     = 1_000
	nanosPerCPU     = 1_000_000_000
	minBlkioWeight  = 10
	maxBlkioWeight  = 1000
	maxCPUSetNumber = 8192 // CONFIG_NR_CPUS never was larger
)

// ResourceSpec turns limits into the specification's form, the same for both
// versions of cgroups: the manager of the hierarchy converts. It has no
// device rules, so that an update of a running container leaves them alone.
// Nodes are the block devices that r names.
func ResourceSpec(r Resources, h Host, nodes []Node) (*specs.LinuxResources, error) {
	blockIO, err := blockSpec(r, nodes)
	if err != nil {
		return nil, err
	}
	out := &specs.LinuxResources{CPU: cpuSpec(r), Memory: memorySpec(r, h), BlockIO: blockIO}
	if r.PidsLimit != 0 {
		limit := max(r.PidsLimit, -1)
		out.Pids = &specs.LinuxPids{Limit: &limit}
	}
	return out, nil
}

// ResourceChange is ResourceSpec for a container that runs with other limits:
// those it has no more are lifted, by the values that mean none.
func ResourceChange(was, is Resources, h Host, nodes []Node) (*specs.LinuxResources, error) {
	unlimited := is
	lift(&unlimited.CPUShares, was.CPUShares, 1024)
	lift(&unlimited.CpusetCpus, was.CpusetCpus, h.CpusOnline)
	lift(&unlimited.CpusetMems, was.CpusetMems, h.MemsOnline)
	lift(&unlimited.Memory, was.Memory, -1)
	if was.Memory != 0 && is.Memory == 0 && is.MemorySwap == 0 && h.SwapLimit || was.MemorySwap != 0 && is.MemorySwap == 0 && is.Memory == 0 {
		unlimited.MemorySwap = -1
	}
	none := int64(-1)
	if h.CgroupV2 {
		none = 1 // less than a page: nothing is kept; -1 would keep everything
	}
	lift(&unlimited.MemoryLow, was.MemoryLow, none)
	lift(&unlimited.PidsLimit, was.PidsLimit, -1)
	if limited, now := cpuQuota(was), cpuQuota(is); limited && !now {
		unlimited.CPUQuota = -1
		lift(&unlimited.CPUPeriod, 1, cpuPeriod)
	}
	return ResourceSpec(unlimited, h, nodes)
}

// cpuQuota reports whether processor time is limited.
func cpuQuota(r Resources) bool { return r.NanoCPUs > 0 || r.CPUQuota != 0 }

// lift sets a limit to none if it was one and is said no more.
func lift[T comparable](limit *T, was, none T) {
	var unsaid T
	if *limit == unsaid && was != unsaid {
		*limit = none
	}
}

func cpuSpec(r Resources) *specs.LinuxCPU {
	cpu := specs.LinuxCPU{Cpus: r.CpusetCpus, Mems: r.CpusetMems}
	if r.CPUShares != 0 {
		shares := min(max(r.CPUShares, minShares), maxShares)
		cpu.Shares = &shares
	}
	quota, period := r.CPUQuota, r.CPUPeriod
	if r.NanoCPUs > 0 {
		period = cpuPeriod
		quota = r.NanoCPUs / (nanosPerCPU / cpuPeriod)
	}
	if quota != 0 {
		cpu.Quota = &quota
	}
	if period != 0 {
		cpu.Period = &period
	}
	if r.CPURtPeriod != 0 {
		cpu.RealtimePeriod = &r.CPURtPeriod
	}
	if r.CPURtRuntime != 0 {
		cpu.RealtimeRuntime = &r.CPURtRuntime
	}
	if cpu == (specs.LinuxCPU{}) {
		return nil
	}
	return &cpu
}

func memorySpec(r Resources, h Host) *specs.LinuxMemory {
	var m specs.LinuxMemory
	if r.Memory != 0 {
		m.Limit = &r.Memory
	}
	swap := r.MemorySwap
	if swap == 0 && r.Memory > 0 && h.SwapLimit {
		swap = 2 * r.Memory // as much swap as memory, Docker's default
	}
	if swap != 0 {
		m.Swap = &swap
	}
	if r.MemoryLow != 0 {
		m.Reservation = &r.MemoryLow
	}
	if r.Swappiness != nil && *r.Swappiness >= 0 {
		value := uint64(*r.Swappiness)
		m.Swappiness = &value
	}
	if r.OomKillOff {
		m.DisableOOMKiller = &r.OomKillOff
	}
	if m == (specs.LinuxMemory{}) {
		return nil
	}
	return &m
}

func blockSpec(r Resources, nodes []Node) (*specs.LinuxBlockIO, error) {
	if r.BlkioWeight == 0 && len(r.BlkioWeights)+len(r.ReadBps)+len(r.WriteBps)+len(r.ReadIOPS)+len(r.WriteIOPS) == 0 {
		return nil, nil
	}
	find := func(field, path string) (Node, error) {
		for _, n := range nodes {
			if n.Path == path && n.Type == "b" {
				return n, nil
			}
		}
		return Node{}, refuse(field, "%s is no block device on this machine", path)
	}
	var out specs.LinuxBlockIO
	if r.BlkioWeight != 0 {
		out.Weight = &r.BlkioWeight
	}
	for _, w := range r.BlkioWeights {
		n, err := find("blkio_config.weight_device", w.Path)
		if err != nil {
			return nil, err
		}
		d := specs.LinuxWeightDevice{Weight: &w.Weight}
		d.Major, d.Minor = n.Major, n.Minor
		out.WeightDevice = append(out.WeightDevice, d)
	}
	for _, list := range []struct {
		field string
		rates []Rate
		to    *[]specs.LinuxThrottleDevice
	}{
		{"blkio_config.device_read_bps", r.ReadBps, &out.ThrottleReadBpsDevice},
		{"blkio_config.device_write_bps", r.WriteBps, &out.ThrottleWriteBpsDevice},
		{"blkio_config.device_read_iops", r.ReadIOPS, &out.ThrottleReadIOPSDevice},
		{"blkio_config.device_write_iops", r.WriteIOPS, &out.ThrottleWriteIOPSDevice},
	} {
		for _, rate := range list.rates {
			n, err := find(list.field, rate.Path)
			if err != nil {
				return nil, err
			}
			d := specs.LinuxThrottleDevice{Rate: rate.Rate}
			d.Major, d.Minor = n.Major, n.Minor
			*list.to = append(*list.to, d)
		}
	}
	return &out, nil
}

// Validate says what of r cannot be honoured on h, as [Config.Validate] does.
func (r Resources) Validate(h Host) error {
	for _, check := range []func(Resources, Host) error{checkCPU, checkCPUSet, checkMemory, checkBlkio} {
		if err := check(r, h); err != nil {
			return err
		}
	}
	if r.PidsLimit != 0 {
		return needController(h, "pids_limit", "pids")
	}
	return nil
}

func needController(h Host, field, controller string) error {
	if len(h.Controllers) == 0 || slices.Contains(h.Controllers, controller) {
		return nil
	}
	return refuse(field, "this machine has no %s controller in its cgroups: enable it, or leave the limit out", controller)
}

func checkCPU(r Resources, h Host) error {
	if r.NanoCPUs != 0 {
		if r.CPUQuota != 0 || r.CPUPeriod != 0 {
			return refuse("cpus", "says the same as cpu_quota and cpu_period: keep one of them")
		}
		if r.NanoCPUs < nanosPerCPU/100 {
			return refuse("cpus", "%g is less than 0.01", float64(r.NanoCPUs)/nanosPerCPU)
		}
		if h.CPUs > 0 && r.NanoCPUs > int64(h.CPUs)*nanosPerCPU {
			return refuse("cpus", "%g is more than the %d CPUs of this machine: ask for less", float64(r.NanoCPUs)/nanosPerCPU, h.CPUs)
		}
	}
	if r.CPUPeriod != 0 && (r.CPUPeriod < minCPUPeriod || r.CPUPeriod > maxCPUPeriod) {
		return refuse("cpu_period", "%d µs is not between %d and %d", r.CPUPeriod, minCPUPeriod, maxCPUPeriod)
	}
	if r.CPUQuota != 0 && r.CPUQuota != -1 && r.CPUQuota < minCPUQuota {
		return refuse("cpu_quota", "%d µs is less than %d", r.CPUQuota, minCPUQuota)
	}
	if r.CPURtPeriod != 0 || r.CPURtRuntime != 0 {
		if h.CgroupV2 {
			return refuse("cpu_rt_runtime", "cgroup v2 has no real-time limits: leave cpu_rt_runtime and cpu_rt_period out")
		}
		if r.CPURtPeriod != 0 && r.CPURtRuntime > 0 && uint64(r.CPURtRuntime) > r.CPURtPeriod {
			return refuse("cpu_rt_runtime", "%d µs is more than cpu_rt_period %d", r.CPURtRuntime, r.CPURtPeriod)
		}
	}
	if r.NanoCPUs != 0 || r.CPUQuota != 0 || r.CPUPeriod != 0 || r.CPUShares != 0 || r.CPURtRuntime != 0 {
		return needController(h, "cpus", "cpu")
	}
	return nil
}

func checkCPUSet(r Resources, h Host) error {
	for _, set := range []struct{ field, want, have string }{
		{"cpuset", r.CpusetCpus, h.CpusOnline}, {"cpuset_mems", r.CpusetMems, h.MemsOnline},
	} {
		if set.want == "" {
			continue
		}
		want, err := parseSet(set.want)
		if err != nil {
			return refuse(set.field, "%q: %v: write a list as 0-2,5", set.want, err)
		}
		if have, err := parseSet(set.have); err == nil {
			for number := range want {
				if !have[number] {
					return refuse(set.field, "%q asks for what this machine has not: it has %s", set.want, set.have)
				}
			}
		}
		if err := needController(h, set.field, "cpuset"); err != nil {
			return err
		}
	}
	return nil
}

// parseSet reads the kernel's form of a set of numbers, "0-2,5".
func parseSet(s string) (map[int]bool, error) {
	set := map[int]bool{}
	for part := range strings.SplitSeq(s, ",") {
		low, high, isRange := strings.Cut(strings.TrimSpace(part), "-")
		from, err := strconv.ParseUint(low, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("%q is no number", low)
		}
		to := from
		if isRange {
			if to, err = strconv.ParseUint(high, 10, 16); err != nil {
				return nil, fmt.Errorf("%q is no number", high)
			}
		}
		if to < from || to > maxCPUSetNumber {
			return nil, fmt.Errorf("%q is no range", part)
		}
		for number := from; number <= to; number++ {
			set[int(number)] = true
		}
	}
	return set, nil
}

func checkMemory(r Resources, h Host) error {
	if r.Memory != 0 && r.Memory < minMemory {
		return refuse("mem_limit", "%d bytes is less than 6 MiB, with which no container starts", r.Memory)
	}
	if r.MemorySwap < -1 {
		return refuse("memswap_limit", "%d is negative: use -1 for unlimited", r.MemorySwap)
	}
	if r.MemorySwap > 0 {
		if r.Memory == 0 {
			return refuse("memswap_limit", "is memory and swap together, so it needs a mem_limit: give one")
		}
		if r.MemorySwap < r.Memory {
			return refuse("memswap_limit", "%d is memory and swap together, so it cannot be less than mem_limit %d", r.MemorySwap, r.Memory)
		}
		if !h.SwapLimit && len(h.Controllers) > 0 {
			return refuse("memswap_limit", "this kernel does not account swap: boot it with swapaccount=1, or leave the limit out")
		}
	}
	if r.MemoryLow < 0 || r.MemoryLow > 0 && r.MemoryLow < minMemory {
		return refuse("mem_reservation", "%d bytes is less than 6 MiB", r.MemoryLow)
	}
	if r.Memory > 0 && r.MemoryLow > r.Memory {
		return refuse("mem_reservation", "%d is more than mem_limit %d", r.MemoryLow, r.Memory)
	}
	if r.Swappiness != nil && *r.Swappiness != -1 {
		if *r.Swappiness < 0 || *r.Swappiness > 100 {
			return refuse("mem_swappiness", "%d is not between 0 and 100", *r.Swappiness)
		}
		if h.CgroupV2 {
			return refuse("mem_swappiness", "cgroup v2 has no swappiness for each group: leave it out")
		}
	}
	if r.OomKillOff && h.CgroupV2 {
		return refuse("oom_kill_disable", "cgroup v2 cannot switch the OOM killer off: leave it out")
	}
	if r.Memory != 0 || r.MemoryLow != 0 || r.MemorySwap != 0 || r.OomKillOff {
		return needController(h, "mem_limit", "memory")
	}
	return nil
}

func checkBlkio(r Resources, h Host) error {
	weight := func(field string, w uint16) error {
		if w < minBlkioWeight || w > maxBlkioWeight {
			return refuse(field, "%d is not between %d and %d", w, minBlkioWeight, maxBlkioWeight)
		}
		if !h.BlkioWeight && len(h.Controllers) > 0 {
			return refuse(field, "this kernel has no I/O weights: use the BFQ scheduler, or leave the weight out")
		}
		return nil
	}
	if r.BlkioWeight != 0 {
		if err := weight("blkio_config.weight", r.BlkioWeight); err != nil {
			return err
		}
	}
	for _, w := range r.BlkioWeights {
		if err := weight("blkio_config.weight_device", w.Weight); err != nil {
			return err
		}
		if !h.DiskWeights && len(h.Controllers) > 0 {
			return refuse("blkio_config.weight_device", "this kernel has no I/O weights for each device: use the BFQ scheduler, or leave it out")
		}
	}
	limited := slices.Concat(r.ReadBps, r.WriteBps, r.ReadIOPS, r.WriteIOPS)
	for _, rate := range limited {
		if !absolute(rate.Path) {
			return refuse("blkio_config", "device %q is not an absolute path", rate.Path)
		}
	}
	if len(limited)+len(r.BlkioWeights) > 0 || r.BlkioWeight != 0 {
		return needController(h, "blkio_config", "blkio")
	}
	return nil
}
