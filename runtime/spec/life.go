package spec

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Defaults of a container's life, Docker's.
const (
	DefaultStopTimeout = 10 * time.Second
	defaultProbe       = 30 * time.Second // interval, and timeout
	defaultStartProbe  = 5 * time.Second
	defaultRetries     = 3
)

// The real-time signals as the C library counts them: it keeps 32 and 33.
const (
	sigRTMin = 34
	sigRTMax = 64
)

// ParseSignal reads a signal as a person writes it: "TERM", "SIGTERM", "15",
// "RTMIN+3", in any case.
func ParseSignal(s string) (syscall.Signal, error) {
	if number, err := strconv.Atoi(s); err == nil {
		if number < 1 || number > sigRTMax {
			return 0, fmt.Errorf("invalid signal: %s: it is not between 1 and %d: %w", s, sigRTMax, errdefs.ErrInvalidArgument)
		}
		return syscall.Signal(number), nil
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if sig, ok := realTime(name); ok {
		return sig, nil
	}
	switch name {
	case "CLD": // names of old, which the table has not
		name = "CHLD"
	case "POLL":
		name = "IO"
	case "IOT":
		name = "ABRT"
	}
	if sig := unix.SignalNum("SIG" + name); sig != 0 {
		return sig, nil
	}
	return 0, fmt.Errorf("invalid signal: %s: use a name as SIGTERM, or a number: %w", s, errdefs.ErrInvalidArgument)
}

func realTime(name string) (syscall.Signal, bool) {
	var base, sign int
	var offset string
	switch {
	case strings.HasPrefix(name, "RTMIN"):
		base, sign, offset = sigRTMin, 1, name[len("RTMIN"):]
	case strings.HasPrefix(name, "RTMAX"):
		base, sign, offset = sigRTMax, -1, name[len("RTMAX"):]
	default:
		return 0, false
	}
	if offset == "" {
		return syscall.Signal(base), true
	}
	if (sign > 0) != (offset[0] == '+') || sign < 0 && offset[0] != '-' {
		return 0, false
	}
	distance, err := strconv.ParseUint(offset[1:], 10, 8)
	number := base + sign*int(distance)
	if err != nil || number < sigRTMin || number > sigRTMax {
		return 0, false
	}
	return syscall.Signal(number), true
}

// Stop says how a container is asked to end and how long it may take before it
// is killed; a negative time is for ever.
func (c Config) Stop() (syscall.Signal, time.Duration) {
	signal, grace := syscall.SIGTERM, DefaultStopTimeout
	if s, err := ParseSignal(c.StopSignal); err == nil {
		signal = s
	}
	if c.StopTimeout != nil {
		grace = *c.StopTimeout
	}
	return signal, grace
}

// Rotation is how large a file of the log grows and how many there are; 0 is
// the writer's own default. The driver "local" writes the same lines as
// json-file, uncompressed; what makes it another are Docker's defaults for it.
func (l LogConfig) Rotation() (size int64, files int) {
	size, files = l.MaxSize, l.MaxFiles
	if l.Driver == "local" {
		size, files = cmp.Or(size, 20<<20), cmp.Or(files, 5)
	}
	return size, files
}

// Probe is the health check with every default filled in; false: there is none.
func (c Config) Probe() (Healthcheck, bool) {
	if c.Healthcheck == nil || len(c.Healthcheck.Test) == 0 || c.Healthcheck.Test[0] == "NONE" {
		return Healthcheck{}, false
	}
	h := *c.Healthcheck
	if h.Interval == 0 {
		h.Interval = defaultProbe
	}
	if h.Timeout == 0 {
		h.Timeout = defaultProbe
	}
	if h.StartInterval == 0 {
		h.StartInterval = defaultStartProbe
	}
	if h.Retries == 0 {
		h.Retries = defaultRetries
	}
	return h, true
}
