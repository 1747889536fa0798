package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// wrk is the load over kept connections, by the program of that name: written
// in C, it spends less of the two CPUs on itself than a client in Go, whose own
// waking up would be part of what is measured.
func (l load) wrk(ctx context.Context, enter []string) (loaded, error) {
	ctx, cancel := context.WithTimeout(ctx, l.For+20*time.Second)
	defer cancel()
	args := append(slices.Clone(enter), "wrk", "--latency", "-t1", "-c"+strconv.Itoa(l.Clients), fmt.Sprintf("-d%d", int(l.For.Seconds())), "http://"+l.Addr+"/")
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return loaded{}, fmt.Errorf("requests to %s: %w: %s", l.Addr, err, tail(errs.String()))
	}
	return readWrk(out)
}

var (
	wrkRate    = regexp.MustCompile(`(?m)^Requests/sec:\s+([\d.]+)$`)
	wrkLatency = regexp.MustCompile(`(?m)^\s+(50|99)%\s+([\d.]+(?:us|ms|s))$`)
	wrkTrouble = regexp.MustCompile(`(?m)^\s+(Socket errors|Non-2xx).*$`)
)

// readWrk reads what wrk prints. Requests that failed make the whole worthless.
func readWrk(out []byte) (seen loaded, err error) {
	if bad := wrkTrouble.Find(out); bad != nil {
		return seen, fmt.Errorf("wrk: %s", bytes.TrimSpace(bad))
	}
	rate := wrkRate.FindSubmatch(out)
	if rate == nil {
		return seen, fmt.Errorf("wrk: no rate in %q", tail(string(out)))
	}
	if seen.PerSecond, err = strconv.ParseFloat(string(rate[1]), 64); err != nil {
		return seen, err
	}
	for _, m := range wrkLatency.FindAllSubmatch(out, -1) {
		d, err := time.ParseDuration(string(m[2]))
		if err != nil {
			return seen, err
		}
		if µs := float64(d) / float64(time.Microsecond); string(m[1]) == "50" {
			seen.P50 = µs
		} else {
			seen.P99 = µs
		}
	}
	if seen.P50 == 0 || seen.P99 == 0 {
		return seen, fmt.Errorf("wrk: no latencies in %q", tail(string(out)))
	}
	return seen, nil
}
