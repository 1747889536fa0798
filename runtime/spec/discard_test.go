package spec

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

// Nothing is discarded where the machine can do it all, and where it can do
// nothing everything is, each with a warning, until what is left is valid.
func TestDiscard(t *testing.T) {
	ten := int64(10)
	all := Config{
		Resources: Resources{
			CPUShares: 5, CPUQuota: 5000, CPUPeriod: 10000, CpusetCpus: "0", CpusetMems: "0",
			Memory: 32 << 20, MemorySwap: 64 << 20, MemoryLow: 16 << 20, Swappiness: &ten, OomKillOff: true, PidsLimit: 7,
			BlkioWeight: 300, BlkioWeights: []Weight{{"/dev/x", 300}},
			ReadBps: []Rate{{"/dev/x", 1}}, WriteBps: []Rate{{"/dev/x", 1}}, ReadIOPS: []Rate{{"/dev/x", 1}}, WriteIOPS: []Rate{{"/dev/x", 1}},
		},
		Network: Network{Ports: []Port{{Port: 80}}},
	}
	rich := Host{Controllers: []string{"cpu", "cpuset", "memory", "pids", "blkio"}, SwapLimit: true, BlkioWeight: true, DiskWeights: true, CpusOnline: "0", MemsOnline: "0"}
	if got, warnings := all.Discard(rich); len(warnings) > 0 || !reflect.DeepEqual(got, all) {
		t.Errorf("discarded for no reason: %q", warnings)
	}
	poor := Host{Controllers: []string{"freezer"}}
	all.Network.Mode = "host"
	got, warnings := all.Discard(poor)
	if err := got.Resources.Validate(poor); err != nil {
		t.Errorf("what is left is refused: %v", err)
	}
	if !reflect.DeepEqual(got.Resources, Resources{}) || got.Network.Ports != nil {
		t.Errorf("left: %+v", got)
	}
	for _, word := range []string{"memory limit", "soft limit", "swappiness", "OomKillDisable", "PIDs", "CPU shares", "CFS", "cpuset", "O weight or", "weight_device", "read limit", "write limit", "Published ports"} {
		if !slices.ContainsFunc(warnings, func(w string) bool { return strings.Contains(w, word) }) {
			t.Errorf("no warning of %s: %q", word, warnings)
		}
	}
	// Version 2 has neither of these two.
	v2 := rich
	v2.CgroupV2 = true
	got, warnings = all.Discard(v2)
	if len(warnings) != 3 || got.Resources.OomKillOff || got.Resources.Swappiness != nil || got.Resources.Memory == 0 {
		t.Errorf("%q", warnings)
	}
	// An impossible value is the caller's mistake, not the machine's lack.
	wrong := Config{Resources: Resources{BlkioWeight: 5}}
	if got, _ := wrong.Discard(poor); got.Resources.BlkioWeight != 5 {
		t.Error("a wrong weight is discarded instead of refused")
	}
}
