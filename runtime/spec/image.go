package spec

import (
	"maps"
	"path"
	"slices"
	"strings"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
)

// WithImage fills what c leaves unsaid from the image's configuration, by
// Docker's rules: an Entrypoint drops the image's command, environment and
// labels merge by name, an image's volume becomes an anonymous one unless
// something is mounted there. It is applied once: afterwards an entrypoint
// that was reset looks like one that was not said.
func (c Config) WithImage(img dockerspec.DockerOCIImage) Config {
	from := img.Config

	c.Entrypoint, c.Command = slices.Clone(c.Entrypoint), slices.Clone(c.Command)
	if len(c.Entrypoint) == 0 && len(c.Command) == 0 {
		c.Command = slices.Clone(from.Cmd)
	}
	switch {
	case c.Entrypoint == nil:
		c.Entrypoint = slices.Clone(from.Entrypoint)
	case len(c.Entrypoint) == 1 && c.Entrypoint[0] == "":
		c.Entrypoint = nil
	}

	c.Env = mergeEnv(from.Env, c.Env)
	c.Labels = mergeLabels(from.Labels, c.Labels)
	if c.WorkingDir == "" {
		c.WorkingDir = from.WorkingDir
	}
	if c.User == "" {
		c.User = from.User
	}
	if c.StopSignal == "" {
		c.StopSignal = from.StopSignal
	}
	c.Healthcheck = mergeHealth(c.Healthcheck, from.Healthcheck)

	c.Network.Exposed = slices.Clone(c.Network.Exposed)
	for _, port := range slices.Sorted(maps.Keys(from.ExposedPorts)) {
		if !strings.Contains(port, "/") {
			port += "/tcp"
		}
		if !slices.Contains(c.Network.Exposed, port) {
			c.Network.Exposed = append(c.Network.Exposed, port)
		}
	}

	c.Mounts = slices.Clone(c.Mounts)
	for _, target := range slices.Sorted(maps.Keys(from.Volumes)) {
		target = path.Clean(target)
		covered := func(m Mount) bool { return path.Clean(m.Target) == target }
		if !slices.ContainsFunc(c.Mounts, covered) {
			c.Mounts = append(c.Mounts, Mount{Type: MountVolume, Target: target})
		}
	}
	return c
}

// mergeEnv puts over on top of base, by name. A bare name hides what base
// says and stays, so that it also hides what comes from the platform.
func mergeEnv(base, over []string) []string {
	var env []string
	at := map[string]int{}
	for _, entry := range slices.Concat(base, over) {
		name, _, _ := strings.Cut(entry, "=")
		if i, ok := at[name]; ok {
			env[i] = entry
			continue
		}
		at[name] = len(env)
		env = append(env, entry)
	}
	return env
}

// setEnv is the environment of a process: the bare names have done their work.
func setEnv(env []string) []string {
	return slices.DeleteFunc(env, func(entry string) bool { return !strings.Contains(entry, "=") })
}

func mergeLabels(base, over map[string]string) map[string]string {
	if len(base)+len(over) == 0 {
		return nil
	}
	labels := maps.Clone(base)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, over)
	return labels
}

func mergeHealth(c *Healthcheck, img *dockerspec.HealthcheckConfig) *Healthcheck {
	if img == nil {
		return c
	}
	merged := Healthcheck{
		Test: slices.Clone(img.Test), Interval: img.Interval, Timeout: img.Timeout,
		StartPeriod: img.StartPeriod, StartInterval: img.StartInterval, Retries: img.Retries,
	}
	if c == nil {
		return &merged
	}
	if len(c.Test) > 0 {
		merged.Test = slices.Clone(c.Test)
	}
	if c.Interval != 0 {
		merged.Interval = c.Interval
	}
	if c.Timeout != 0 {
		merged.Timeout = c.Timeout
	}
	if c.StartPeriod != 0 {
		merged.StartPeriod = c.StartPeriod
	}
	if c.StartInterval != 0 {
		merged.StartInterval = c.StartInterval
	}
	if c.Retries != 0 {
		merged.Retries = c.Retries
	}
	return &merged
}
