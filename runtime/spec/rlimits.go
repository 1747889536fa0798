package spec

import (
	"maps"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// rlimits are the resources of setrlimit(2), which has the same numbers on all
// architectures that gantry runs on. RLIMIT_AS is left out as Docker does: the
// limit would hit the program that sets the container up.
var rlimits = map[string]int{
	"cpu": 0, "fsize": 1, "data": 2, "stack": 3, "core": 4, "rss": 5, "nproc": 6, "nofile": 7,
	"memlock": 8, "locks": 10, "sigpending": 11, "msgqueue": 12, "nice": 13, "rtprio": 14, "rttime": 15,
}

// Rlimits are the names that a [Ulimit] may have, and their numbers.
func Rlimits() map[string]int { return maps.Clone(rlimits) }

// Open files by default, systemd's numbers for services. The soft limit is low
// for the sake of programs that use select(2) or close all they could have;
// who needs more raises it up to the hard one.
const (
	defaultNofileSoft = 1024
	defaultNofileHard = 524288
)

const sysResource = "CAP_SYS_RESOURCE"

func checkUlimits(c Config, h Host) error {
	seen := map[string]bool{}
	for _, u := range c.Ulimits {
		field := "ulimits." + u.Name
		if _, ok := rlimits[u.Name]; !ok {
			return refuse(field, "there is no such limit: use one of %s", strings.Join(slices.Sorted(maps.Keys(rlimits)), ", "))
		}
		if seen[u.Name] {
			return refuse(field, "is given twice: remove one")
		}
		seen[u.Name] = true
		if u.Soft < -1 || u.Hard < -1 {
			return refuse(field, "%d:%d is negative: use -1 for unlimited", u.Soft, u.Hard)
		}
		soft, hard := limit(u.Soft), limit(u.Hard)
		if soft > hard {
			return refuse(field, "the soft limit %d is above the hard limit %d: raise the hard one", u.Soft, u.Hard)
		}
		if own, known := h.HardLimits[u.Name]; known && hard > own && !h.Has(sysResource) {
			return refuse(field, "%d is above this machine's hard limit %d, and gantry has no %s to raise it: ask for %d at most, or give gantryd the capability", u.Hard, own, sysResource, own)
		}
		if u.Name == "nofile" && h.NrOpen != 0 && hard > h.NrOpen {
			return refuse(field, "%d is above the kernel's fs.nr_open %d: ask for less, or raise the sysctl", u.Hard, h.NrOpen)
		}
	}
	return nil
}

func limit(v int64) uint64 {
	if v < 0 {
		return Unlimited
	}
	return uint64(v)
}

// posixLimits are those asked for and our own default, which is clamped to
// what the machine can give.
func posixLimits(c Config, h Host) []specs.POSIXRlimit {
	var limits []specs.POSIXRlimit
	nofile := false
	for _, u := range c.Ulimits {
		limits = append(limits, specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(u.Name), Soft: limit(u.Soft), Hard: limit(u.Hard)})
		nofile = nofile || u.Name == "nofile"
	}
	if !nofile {
		hard := uint64(defaultNofileHard)
		if own, known := h.HardLimits["nofile"]; known && !h.Has(sysResource) {
			hard = min(hard, own)
		}
		if h.NrOpen != 0 {
			hard = min(hard, h.NrOpen)
		}
		limits = append(limits, specs.POSIXRlimit{Type: "RLIMIT_NOFILE", Soft: min(defaultNofileSoft, hard), Hard: hard})
	}
	slices.SortFunc(limits, func(a, b specs.POSIXRlimit) int { return strings.Compare(a.Type, b.Type) })
	return limits
}

// oomScore is what was asked for; our default of 0 gives way to what the
// machine can give.
func oomScore(c Config, h Host) *int {
	score := c.OomScoreAdj
	if score == 0 && h.OomScoreAdj > 0 && !h.Has(sysResource) {
		score = h.OomScoreAdj
	}
	return &score
}
