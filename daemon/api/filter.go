package api

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gantry/runtime"

	"github.com/moby/moby/api/types/container"
	dockernet "github.com/moby/moby/api/types/network"
)

// container reports whether a container passes the filters that need nothing
// but itself.
func (f filters) container(c runtime.Container) bool {
	health := string(container.NoHealthcheck)
	if c.Health != nil {
		health = c.Health.Status
	}
	published := func(wanted string, list []container.PortSummary, public bool) bool {
		r, err := dockernet.ParsePortRange(wanted)
		return err == nil && slices.ContainsFunc(list, func(p container.PortSummary) bool {
			n := p.PrivatePort
			if public {
				n = p.PublicPort
			}
			return n >= r.Start() && n <= r.End() && p.Type == string(r.Proto())
		})
	}
	var ports []container.PortSummary
	if len(f["publish"])+len(f["expose"]) > 0 {
		ports = wirePortList(c)
	}
	return f.any("id", func(v string) bool { return strings.HasPrefix(c.ID, v) }) &&
		f.any("name", func(v string) bool { return nameMatches(v, c.Name) }) &&
		f.labels(c.Config.Labels) &&
		f.is("status", string(c.State)) &&
		f.is("health", health) &&
		f.is("isolation", "default") && // others are Windows'
		(len(f["exited"]) == 0 || c.State == runtime.Exited && f.is("exited", strconv.Itoa(c.ExitCode))) &&
		f.any("volume", func(v string) bool {
			return slices.ContainsFunc(c.Mounts, func(m runtime.MountPoint) bool { return m.Name == v || m.Destination == v })
		}) &&
		f.any("publish", func(v string) bool { return published(v, ports, true) }) &&
		f.any("expose", func(v string) bool { return published(v, ports, false) })
}

// nameMatches takes a filter on a name for what it is in Docker: a regular
// expression, found anywhere in the name; a plain word where it is none.
func nameMatches(pattern, name string) bool {
	if strings.Contains(name, strings.TrimPrefix(pattern, "/")) {
		return true
	}
	re, err := regexp.Compile(pattern)
	return err == nil && (re.MatchString(name) || re.MatchString("/"+name))
}
