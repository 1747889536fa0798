package spec

import "slices"

// Host is what [Config.Validate] and [Build] must know of the machine. It is a
// value: whoever calls reads it once. A zero field means "not known", and what
// cannot be known is not checked.
type Host struct {
	Hostname string
	Kernel   KernelVersion
	CPUs     int
	Memory   int64 // bytes

	CgroupV2    bool     // the unified hierarchy; false: v1, or hybrid with its controllers on v1
	Controllers []string // cgroup controllers that can be used: "cpu", "memory", "pids", …; v2's "io" is "blkio" here as well
	SwapLimit   bool     // the memory controller accounts swap
	BlkioWeight bool     // the blkio controller has weights
	DiskWeights bool     // and one for each device
	CpusOnline  string   // "0-3,8", as the kernel's cpu/online
	MemsOnline  string   // NUMA nodes

	// HardLimits are the caller's own hard resource limits by lower-case name
	// ("nofile"). Without CAP_SYS_RESOURCE no container can have more.
	HardLimits  map[string]uint64 // [Unlimited] for none
	NrOpen      uint64            // fs.nr_open, above which nofile cannot go even with it
	OomScoreAdj int               // the caller's own; lower needs CAP_SYS_RESOURCE

	Capabilities  []string // bounding set, "CAP_CHOWN", …
	Seccomp       bool     // the kernel has seccomp filters
	AppArmor      bool     // the kernel enforces AppArmor
	DockerDefault bool     // and the profile "docker-default" is loaded

	// ThermalPaths are the directories of CPU thermal counters, which are
	// masked since they tell what other processes do (GHSA-6fw5-f8r9-fgfm).
	ThermalPaths []string
}

// Unlimited is RLIM_INFINITY.
const Unlimited = ^uint64(0)

// KernelVersion is a release up to its second number, as 6.12.
type KernelVersion struct{ Major, Minor int }

// AtLeast says whether v is major.minor or newer.
func (v KernelVersion) AtLeast(major, minor int) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}

// Has says whether the bounding set holds the capability, "CAP_SYS_RESOURCE".
func (h Host) Has(capability string) bool { return slices.Contains(h.Capabilities, capability) }

// Node is a device node of the host, as stat(2) shows it.
type Node struct {
	Path         string
	Type         string // "c", "b" or "p"
	Major, Minor int64
	Mode         uint32 // permission bits
	UID, GID     uint32
}
