package spec

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// Target is what a probe from outside asks: a port that takes connections, or,
// where Path is said, one that answers an HTTP request for it.
type Target struct {
	Port uint16
	Path string // "" for TCP, else absolute, with its query
}

// Outside reports whether the probe is made from outside, without a process in
// the container.
func (h Healthcheck) Outside() bool {
	return len(h.Test) > 0 && (h.Test[0] == "TCP" || h.Test[0] == "HTTP")
}

// Target reads the test of a probe from outside.
func (h Healthcheck) Target() (Target, error) {
	if !h.Outside() || len(h.Test) != 2 {
		return Target{}, fmt.Errorf(`%q is no probe from outside: write ["TCP", "5432"] or ["HTTP", "8080/health"]`, h.Test)
	}
	text, path, _ := strings.Cut(h.Test[1], "/")
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return Target{}, fmt.Errorf("%s %q: %q is no port", h.Test[0], h.Test[1], text)
	}
	t := Target{Port: uint16(port)}
	switch {
	case h.Test[0] == "HTTP":
		t.Path = "/" + path
		if u, err := url.ParseRequestURI(t.Path); err != nil || u.Host != "" {
			return Target{}, fmt.Errorf("HTTP %q: %q is no path of an address", h.Test[1], t.Path)
		}
	case path != "":
		return Target{}, fmt.Errorf("TCP %q: a path is for HTTP", h.Test[1])
	}
	return t, nil
}
