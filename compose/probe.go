package compose

import (
	"strconv"
	"time"
)

// HealthCheckOf is the health check a service has: the one it says, or the one
// of x-gantry, whose test is ["TCP", port] or ["HTTP", "port/path"]. nil: its
// image's.
func HealthCheckOf(s Service) *HealthCheck {
	g, err := GantryOf(s)
	if err != nil || g.Probe == nil { // an error was refused when the project was loaded
		return s.HealthCheck
	}
	p := g.Probe
	h := &HealthCheck{Test: []string{"HTTP", p.HTTP}}
	if p.TCP != 0 {
		h.Test = []string{"TCP", strconv.Itoa(p.TCP)}
	}
	for _, f := range []struct {
		from time.Duration
		to   **Duration
	}{{p.Interval, &h.Interval}, {p.Timeout, &h.Timeout}, {p.StartPeriod, &h.StartPeriod}, {p.StartInterval, &h.StartInterval}} {
		if f.from != 0 {
			*f.to = new(Duration(f.from))
		}
	}
	if p.Retries != 0 {
		h.Retries = new(uint64(p.Retries))
	}
	return h
}

// Effective is a service as its containers are made: with the health check it
// has, wherever that is said.
func Effective(s Service) Service {
	s.HealthCheck = HealthCheckOf(s)
	return s
}
