package spec

import (
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// capabilities in the order of their numbers, from capabilities(7).
var capabilities = [...]string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID",
	"CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE",
	"CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK",
	"CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE",
	"CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
	"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE",
	"CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG",
	"CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF",
	"CAP_CHECKPOINT_RESTORE",
}

// Capabilities are the names of all Linux capabilities; the index of a name is
// its number.
func Capabilities() []string { return slices.Clone(capabilities[:]) }

// defaultCapabilities are Docker's fourteen.
var defaultCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SYS_CHROOT", "CAP_MKNOD", "CAP_AUDIT_WRITE", "CAP_SETFCAP",
}

// Paths hidden from and read-only to a container that is not privileged, as
// Docker has them: they change or tell of the whole machine. GHSA-6fw5-f8r9-fgfm
// and GHSA-jq35-85cj-fj4p are why interrupts and powercap are here.
var (
	defaultMaskedPaths = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware",
	}
	defaultReadonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

const (
	unconfined    = "unconfined"
	dockerDefault = "docker-default" // the name that Docker's AppArmor profile has on every machine
)

// capability gives a name its full form; "ALL" stands for itself.
func capability(name string) string {
	name = strings.ToUpper(name)
	if name == "ALL" || strings.HasPrefix(name, "CAP_") {
		return name
	}
	return "CAP_" + name
}

func checkPrivileges(c Config, h Host) error {
	for _, list := range []struct {
		field string
		names []string
	}{{"cap_add", c.CapAdd}, {"cap_drop", c.CapDrop}} {
		for _, name := range list.names {
			full := capability(name)
			if full != "ALL" && !slices.Contains(capabilities[:], full) {
				return refuse(list.field, "%q is no capability: see capabilities(7) for the names", name)
			}
		}
	}
	if !c.Privileged {
		for _, name := range c.CapAdd {
			if full := capability(name); full != "ALL" && len(h.Capabilities) > 0 && !h.Has(full) {
				return refuse("cap_add", "gantry itself has no %s on this machine and cannot give it: leave it out, or give it to gantryd", full)
			}
		}
	}
	if c.OomScoreAdj < -1000 || c.OomScoreAdj > 1000 {
		return refuse("oom_score_adj", "%d is not between -1000 and 1000", c.OomScoreAdj)
	}
	if c.OomScoreAdj != 0 && c.OomScoreAdj < h.OomScoreAdj && !h.Has(sysResource) {
		return refuse("oom_score_adj", "%d is below gantry's own %d, which takes %s: ask for %d or more, or give gantryd the capability", c.OomScoreAdj, h.OomScoreAdj, sysResource, h.OomScoreAdj)
	}
	switch {
	case c.AppArmor == "" || c.AppArmor == unconfined:
	case !h.AppArmor:
		return refuse("security_opt", "apparmor=%s: this kernel does not enforce AppArmor: leave the option out", c.AppArmor)
	case c.AppArmor == dockerDefault && !h.DockerDefault:
		return refuse("security_opt", "apparmor=%s: the profile is not loaded: load it with apparmor_parser", c.AppArmor)
	}
	if c.Seccomp != "" { // the default profile is right, and large
		if _, err := seccompFor(c, h, nil); err != nil {
			return err
		}
	}
	for _, list := range []struct {
		field string
		paths []string
	}{{"masked_paths", c.MaskedPaths}, {"readonly_paths", c.ReadonlyPaths}} {
		for _, p := range list.paths {
			if !absolute(p) {
				return refuse(list.field, "%q is not an absolute path", p)
			}
		}
	}
	return nil
}

// boundingSet is what the container's processes can ever have, in the order of
// the numbers: Docker's rules.
func boundingSet(c Config, h Host) []string {
	named := func(names []string, full string) bool {
		return slices.ContainsFunc(names, func(n string) bool { return capability(n) == full })
	}
	wanted := func(full string) bool {
		switch {
		case c.Privileged:
			return true
		case named(c.CapAdd, "ALL"):
			return !named(c.CapDrop, full)
		case named(c.CapAdd, full):
			return true
		case named(c.CapDrop, "ALL"):
			return false
		}
		return slices.Contains(defaultCapabilities, full) && !named(c.CapDrop, full)
	}
	set := []string{}
	for _, full := range capabilities {
		if wanted(full) && (h.Has(full) || len(h.Capabilities) == 0) {
			set = append(set, full)
		}
	}
	return set
}

// processCapabilities are those of a root user. Of another one's the kernel
// keeps only the bounding set when the program is executed, so they need not be
// told apart here, where a name's number is not known.
func processCapabilities(set []string) *specs.LinuxCapabilities {
	return &specs.LinuxCapabilities{Bounding: set, Effective: slices.Clone(set), Permitted: slices.Clone(set)}
}

func apparmorProfile(c Config, h Host) string {
	switch {
	case !h.AppArmor:
		return ""
	case c.AppArmor != "":
		return c.AppArmor
	case c.Privileged || !h.DockerDefault:
		return unconfined
	}
	return dockerDefault
}

func maskedPaths(c Config, h Host) []string {
	switch {
	case c.MaskedPaths != nil:
		return slices.Clone(c.MaskedPaths)
	case c.Privileged:
		return nil
	}
	return slices.Concat(defaultMaskedPaths, h.ThermalPaths)
}

func readonlyPaths(c Config) []string {
	switch {
	case c.ReadonlyPaths != nil:
		return slices.Clone(c.ReadonlyPaths)
	case c.Privileged:
		return nil
	}
	return slices.Clone(defaultReadonlyPaths)
}
