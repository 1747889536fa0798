package daemon

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
)

// Budget bounds what the build cache and images without a name may take. Sizes
// are written as "10GB", or as "25%" of the disk.
type Budget struct {
	MaxUsed string // of both together; "": a quarter of the disk
	MinFree string // on the disk; "": a tenth of it
	// Unused is how long nobody must have used something for it to be collected;
	// "": an hour. Whoever builds every few minutes keeps what the builds share.
	Unused string
}

// args are the flags that say the same to the next daemon.
func (b Budget) args() (args []string) {
	for _, f := range []struct{ flag, value string }{{"--max-used-space", b.MaxUsed}, {"--min-free-space", b.MinFree}, {"--unused-for", b.Unused}} {
		if f.value != "" {
			args = append(args, f.flag, f.value)
		}
	}
	return args
}

// bounds are a budget in numbers.
type bounds struct {
	maxUsed, minFree int64
	unused           time.Duration
}

// on is the budget on a disk of so many bytes. It is pure.
func (b Budget) on(size int64) (out bounds, err error) {
	if out.maxUsed, err = share(cmp.Or(b.MaxUsed, "25%"), size); err != nil {
		return out, fmt.Errorf("--max-used-space %w", err)
	}
	if out.minFree, err = share(cmp.Or(b.MinFree, "10%"), size); err != nil {
		return out, fmt.Errorf("--min-free-space %w", err)
	}
	if out.unused, err = time.ParseDuration(cmp.Or(b.Unused, "1h")); err != nil || out.unused < 0 {
		return out, fmt.Errorf("--unused-for %q: must be a duration such as 90m", b.Unused)
	}
	return out, nil
}

func share(text string, of int64) (int64, error) {
	if p, ok := strings.CutSuffix(text, "%"); ok {
		n, err := strconv.ParseFloat(p, 64)
		if err != nil || !(n >= 0 && n <= 100) {
			return 0, fmt.Errorf("%q: must be a size such as 10GB, or a share of the disk such as 25%%", text)
		}
		return int64(n / 100 * float64(of)), nil
	}
	n, err := units.RAMInBytes(text)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q: must be a size such as 10GB, or a share of the disk such as 25%%", text)
	}
	return n, nil
}
