package spec

// Discard takes away the limits that this machine cannot keep and that Docker
// leaves out with a warning, and says which, in Docker's words. What is not
// said here, [Config.Validate] refuses. A project's limits are never discarded.
func (c Config) Discard(h Host) (Config, []string) {
	var warnings []string
	warn := func(text string) { warnings = append(warnings, text) }
	has := func(controller string) bool {
		return len(h.Controllers) == 0 || needController(h, "", controller) == nil
	}
	const gone = " or the cgroup is not mounted. "
	r := &c.Resources
	if !has("memory") {
		if r.Memory != 0 || r.MemorySwap != 0 {
			warn("Your kernel does not support memory limit capabilities" + gone + "Limitation discarded.")
			r.Memory, r.MemorySwap = 0, 0
		}
		if r.MemoryLow != 0 {
			warn("Your kernel does not support memory soft limit capabilities" + gone + "Limitation discarded.")
			r.MemoryLow = 0
		}
	}
	if r.Memory > 0 && r.MemorySwap > 0 && !h.SwapLimit && len(h.Controllers) > 0 {
		warn("Your kernel does not support swap limit capabilities" + gone + "Memory limited without swap.")
		r.MemorySwap = 0
	}
	if r.Swappiness != nil && *r.Swappiness != -1 && (h.CgroupV2 || !has("memory")) {
		warn("Your kernel does not support memory swappiness capabilities" + gone + "Memory swappiness discarded.")
		r.Swappiness = nil
	}
	if r.OomKillOff && (h.CgroupV2 || !has("memory")) {
		warn("Your kernel does not support OomKillDisable. OomKillDisable discarded.")
		r.OomKillOff = false
	}
	if r.OomKillOff && r.Memory == 0 {
		warn("OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources.")
	}
	if r.PidsLimit > 0 && !has("pids") {
		warn("Your kernel does not support PIDs limit capabilities" + gone + "PIDs limit discarded.")
		r.PidsLimit = 0
	}
	if !has("cpu") {
		if r.CPUShares != 0 {
			warn("Your kernel does not support CPU shares" + gone + "Shares discarded.")
			r.CPUShares = 0
		}
		if r.CPUPeriod != 0 || r.CPUQuota > 0 {
			warn("Your kernel does not support CPU CFS scheduler" + gone + "Period and quota discarded.")
			r.CPUPeriod, r.CPUQuota = 0, 0
		}
	}
	if (r.CpusetCpus != "" || r.CpusetMems != "") && !has("cpuset") {
		warn("Your kernel does not support cpuset" + gone + "Cpuset discarded.")
		r.CpusetCpus, r.CpusetMems = "", ""
	}
	c.discardBlkio(h, has("blkio"), warn)
	if n := &c.Network; len(n.Ports) > 0 && n.Mode == modeHost {
		warn("Published ports are discarded when using host network mode")
		n.Ports = nil
	}
	return c, warnings
}

func (c *Config) discardBlkio(h Host, controller bool, warn func(string)) {
	r := &c.Resources
	weights := controller && (h.BlkioWeight || len(h.Controllers) == 0)
	valid := func(w uint16) bool { return w >= minBlkioWeight && w <= maxBlkioWeight }
	if !weights && valid(r.BlkioWeight) {
		warn("Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.")
		r.BlkioWeight = 0
	}
	if (!weights || !h.DiskWeights && len(h.Controllers) > 0) && len(r.BlkioWeights) > 0 {
		warn("Your kernel does not support Block I/O weight_device.")
		r.BlkioWeights = nil
	}
	if controller {
		return
	}
	for _, list := range []struct {
		rates *[]Rate
		text  string
	}{
		{&r.ReadBps, "BPS Block I/O read limit"}, {&r.WriteBps, "BPS Block I/O write limit"},
		{&r.ReadIOPS, "IOPS Block read limit in IO"}, {&r.WriteIOPS, "IOPS Block I/O write limit"},
	} {
		if len(*list.rates) > 0 {
			warn("Your kernel does not support " + list.text + " or the cgroup is not mounted. " + list.text + " discarded.")
			*list.rates = nil
		}
	}
}
