package spec

import "maps"

// rlimits are the resources of setrlimit(2), which has the numbers of the
// architectures that gantry runs on. RLIMIT_AS is left out as Docker does: the
// limit would hit the program that sets the container up.
var rlimits = map[string]int{
	"cpu": 0, "fsize": 1, "data": 2, "stack": 3, "core": 4, "rss": 5, "nproc": 6, "nofile": 7,
	"memlock": 8, "locks": 10, "sigpending": 11, "msgqueue": 12, "nice": 13, "rtprio": 14, "rttime": 15,
}

// Rlimits are the names that a [Ulimit] may have, and their numbers.
func Rlimits() map[string]int { return maps.Clone(rlimits) }
