package spec

// Host is what [Config.Validate] and [Build] must know of the machine. It is a
// value: whoever calls reads it once.
type Host struct {
	CgroupV2    bool     // the unified hierarchy; false: v1, or hybrid with its controllers on v1
	Controllers []string // cgroup controllers that can be used: "cpu", "memory", "pids", …

	// HardLimits are the caller's own hard resource limits by lower-case name
	// ("nofile"). Without CAP_SYS_RESOURCE no container can have more.
	// Unlimited is [Unlimited]; a name that is missing is not checked.
	HardLimits map[string]uint64

	Capabilities []string // bounding set, "CAP_CHOWN", …
	OomScoreAdj  int      // the caller's own; lower needs CAP_SYS_RESOURCE
	AppArmor     bool     // the kernel has it enabled and docker-default can be used
	Seccomp      bool     // the kernel has seccomp filters
	CPUs         int
	Memory       int64 // bytes
	Kernel       KernelVersion
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
func (h Host) Has(capability string) bool {
	for _, c := range h.Capabilities {
		if c == capability {
			return true
		}
	}
	return false
}

// Node is a device node of the host, as stat(2) shows it.
type Node struct {
	Path         string
	Type         string // "c", "b" or "p"
	Major, Minor int64
	Mode         uint32 // permission bits
	UID, GID     uint32
}
