package api

import (
	"os"
	"strconv"
	"strings"

	"gantry/runtime"
	"gantry/runtime/keeper"
	"gantry/runtime/spec"

	"github.com/moby/moby/api/types/container"
)

// wireStats is one sample. Clients compute a share of the CPU from the
// machine's own time beside it.
func wireStats(c runtime.Container, st keeper.Stats, host spec.Host) container.StatsResponse {
	out := container.StatsResponse{
		ID: c.ID, Name: "/" + c.Name, OSType: "linux", Read: st.Read,
		CPUStats: container.CPUStats{
			CPUUsage: container.CPUUsage{
				TotalUsage:        uint64(st.CPUTotal),
				UsageInKernelmode: uint64(st.CPUSystem),
				UsageInUsermode:   uint64(st.CPUUser),
			},
			SystemUsage: systemCPU(),
			OnlineCPUs:  uint32(host.CPUs),
			ThrottlingData: container.ThrottlingData{
				Periods: st.Periods, ThrottledPeriods: st.ThrottledPeriods, ThrottledTime: uint64(st.ThrottledTime),
			},
		},
		MemoryStats: container.MemoryStats{
			Usage: st.MemoryUsage, MaxUsage: st.MemoryMax, Stats: st.Memory, Failcnt: st.MemoryFailures, Limit: st.MemoryLimit,
		},
		PidsStats: container.PidsStats{Current: st.Pids, Limit: st.PidsLimit},
	}
	// On the host's network the counters would be everybody's.
	if c.Pid != 0 && c.Config.Network.Mode != "host" {
		if text, err := os.ReadFile("/proc/" + strconv.Itoa(c.Pid) + "/net/dev"); err == nil {
			out.Networks = networkStats(string(text))
		}
	}
	if out.MemoryStats.Limit == 0 {
		out.MemoryStats.Limit = uint64(host.Memory)
	}
	for _, d := range st.PerCPU {
		out.CPUStats.CPUUsage.PercpuUsage = append(out.CPUStats.CPUUsage.PercpuUsage, uint64(d))
	}
	for _, io := range st.IOBytes {
		out.BlkioStats.IoServiceBytesRecursive = append(out.BlkioStats.IoServiceBytesRecursive, container.BlkioStatEntry{Major: io.Major, Minor: io.Minor, Op: io.Op, Value: io.Value})
	}
	for _, io := range st.IOOps {
		out.BlkioStats.IoServicedRecursive = append(out.BlkioStats.IoServicedRecursive, container.BlkioStatEntry{Major: io.Major, Minor: io.Minor, Op: io.Op, Value: io.Value})
	}
	return out
}

// networkStats reads the counters of every interface but loopback in the
// network namespace of a process (proc_net_dev(5)): sixteen columns behind
// "name:", eight for what came in and eight for what went out.
func networkStats(devices string) map[string]container.NetworkStats {
	out := map[string]container.NetworkStats{}
	for line := range strings.Lines(devices) {
		name, columns, ok := strings.Cut(line, ":")
		if name = strings.TrimSpace(name); !ok || name == "lo" {
			continue
		}
		var n [16]uint64
		fields := strings.Fields(columns)
		if len(fields) < len(n) {
			continue
		}
		for i := range n {
			n[i], _ = strconv.ParseUint(fields[i], 10, 64)
		}
		out[name] = container.NetworkStats{
			RxBytes: n[0], RxPackets: n[1], RxErrors: n[2], RxDropped: n[3],
			TxBytes: n[8], TxPackets: n[9], TxErrors: n[10], TxDropped: n[11],
		}
	}
	return out
}

// ticksPerSecond is USER_HZ, which Linux shows to programs as 100 everywhere.
const ticksPerSecond = 100

// systemCPU is the time all CPUs have spent, idling too, in nanoseconds: the
// first line of /proc/stat (proc_stat(5)), without the guests' time, which is
// part of the users'.
func systemCPU() uint64 {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 {
		return 0
	}
	var ticks uint64
	for _, f := range fields[1:9] {
		n, _ := strconv.ParseUint(f, 10, 64)
		ticks += n
	}
	return ticks * (1_000_000_000 / ticksPerSecond)
}
