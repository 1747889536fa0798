package api

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"gantry/runtime"
	"gantry/runtime/spec"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	dockernet "github.com/moby/moby/api/types/network"
)

// wireSummary is a container's line in a list, as of now.
func wireSummary(c runtime.Container, now time.Time) container.Summary {
	path, args := commandLine(c.Config)
	s := container.Summary{
		ID:              c.ID,
		Names:           []string{"/" + c.Name},
		Image:           c.Config.Image,
		ImageID:         c.Config.ImageID,
		Command:         oneLine(path, args),
		Created:         c.Created.Unix(),
		Ports:           wirePortList(c),
		Labels:          orEmpty(c.Config.Labels),
		State:           container.ContainerState(c.State),
		Status:          statusText(c, now),
		NetworkSettings: &container.NetworkSettingsSummary{Networks: wireEndpoints(c)},
		Mounts:          wireMountPoints(c),
	}
	s.HostConfig.NetworkMode = networkMode(c)
	s.HostConfig.Annotations = c.Config.Annotations
	s.Health = &container.HealthSummary{Status: container.NoHealthcheck}
	if c.Health != nil {
		s.Health = &container.HealthSummary{Status: container.HealthStatus(c.Health.Status), FailingStreak: c.Health.FailingStreak}
	}
	return s
}

// statusText is the sentence that docker ps shows.
func statusText(c runtime.Container, now time.Time) string {
	ago := func(t time.Time) string { return units.HumanDuration(now.Sub(t)) }
	switch c.State {
	case runtime.Running:
		up := "Up " + ago(c.StartedAt)
		switch {
		case c.Health == nil:
			return up
		case c.Health.Status == runtime.Starting:
			return up + " (health: starting)"
		}
		return up + " (" + c.Health.Status + ")"
	case runtime.Paused:
		return "Up " + ago(c.StartedAt) + " (Paused)"
	case runtime.Restarting:
		return fmt.Sprintf("Restarting (%d) %s ago", c.ExitCode, ago(c.FinishedAt))
	case runtime.Exited:
		if c.FinishedAt.IsZero() {
			return "Created"
		}
		return fmt.Sprintf("Exited (%d) %s ago", c.ExitCode, ago(c.FinishedAt))
	case runtime.Removing:
		return "Removal In Progress"
	case runtime.Dead:
		return "Dead"
	}
	return "Created"
}

// commandLine is the program and its arguments. An Entrypoint of one empty
// word is how it is switched off.
func commandLine(c spec.Config) (path string, args []string) {
	words := c.Command
	if len(c.Entrypoint) > 0 && !slices.Equal(c.Entrypoint, []string{""}) {
		words = append(slices.Clone(c.Entrypoint), c.Command...)
	}
	if len(words) == 0 {
		return "", []string{}
	}
	return words[0], append([]string{}, words[1:]...)
}

// oneLine is a command as a list shows it: words with a space stand in quotes,
// which makes it easy to read and is not meant for a shell.
func oneLine(path string, args []string) string {
	words := []string{path}
	for _, a := range args {
		if strings.Contains(a, " ") {
			a = "'" + a + "'"
		}
		words = append(words, a)
	}
	return strings.TrimSpace(strings.Join(words, " "))
}

// wireInspect is everything about a container.
func wireInspect(c runtime.Container) container.InspectResponse {
	path, args := commandLine(c.Config)
	host := wireHostConfig(c.Config)
	host.NetworkMode = container.NetworkMode(networkMode(c))
	if host.IpcMode == "" {
		host.IpcMode = container.IPCModePrivate // what nothing said means
	}
	out := container.InspectResponse{
		ID:      c.ID,
		Created: stamp(c.Created),
		Path:    path,
		Args:    args,
		State:   wireState(c),
		Image:   c.Config.ImageID,

		LogPath:         c.LogPath,
		Name:            "/" + c.Name,
		RestartCount:    c.RestartCount,
		Driver:          "overlayfs",
		Platform:        "linux",
		AppArmorProfile: c.Config.AppArmor,
		HostConfig:      host,
		Mounts:          wireMountPoints(c),
		Config:          wireConfig(c),
		NetworkSettings: &container.NetworkSettings{
			Ports:    wirePorts(c),
			Networks: wireEndpoints(c),
		},
	}
	if c.Pid != 0 {
		out.NetworkSettings.SandboxID = c.ID
		out.NetworkSettings.SandboxKey = fmt.Sprintf("/proc/%d/ns/net", c.Pid)
	}
	return out
}

// stamp writes a time the way Docker does: in UTC, and year one for never.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func wireState(c runtime.Container) *container.State {
	s := &container.State{
		Status:     container.ContainerState(c.State),
		Running:    c.State.Live() || c.State == runtime.Restarting,
		Paused:     c.State == runtime.Paused,
		Restarting: c.State == runtime.Restarting,
		OOMKilled:  c.OOMKilled,
		Dead:       c.State == runtime.Dead,
		Pid:        c.Pid,
		ExitCode:   c.ExitCode,
		Error:      c.Error,
		StartedAt:  stamp(c.StartedAt),
		FinishedAt: stamp(c.FinishedAt),
	}
	if c.State.Live() {
		s.ExitCode = 0 // of the life before this one
	}
	if h := c.Health; h != nil {
		s.Health = &container.Health{Status: container.HealthStatus(h.Status), FailingStreak: h.FailingStreak, Log: []*container.HealthcheckResult{}}
		for _, p := range h.Log {
			s.Health.Log = append(s.Health.Log, &container.HealthcheckResult{Start: p.Start, End: p.End, ExitCode: p.ExitCode, Output: p.Output})
		}
	}
	return s
}

func wireConfig(c runtime.Container) *container.Config {
	in := c.Config
	out := &container.Config{
		Hostname: in.Hostname, Domainname: in.Domainname, User: in.User,
		AttachStdin: in.OpenStdin, AttachStdout: true, AttachStderr: true,
		Tty: in.TTY, OpenStdin: in.OpenStdin, StdinOnce: in.StdinOnce,
		Env: in.Env, Cmd: in.Command, Image: in.Image, WorkingDir: in.WorkingDir, Entrypoint: in.Entrypoint,
		NetworkDisabled: false, Labels: orEmpty(in.Labels), StopSignal: in.StopSignal,
	}
	if out.Hostname == "" && len(c.ID) >= 12 && in.UTSMode != "host" {
		out.Hostname = c.ID[:12]
	}
	if in.StopTimeout != nil {
		seconds := int(in.StopTimeout.Seconds())
		out.StopTimeout = &seconds
	}
	if k := in.Healthcheck; k != nil {
		out.Healthcheck = &container.HealthConfig{Test: k.Test, Interval: k.Interval, Timeout: k.Timeout,
			StartPeriod: k.StartPeriod, StartInterval: k.StartInterval, Retries: k.Retries}
	}
	for _, text := range in.Network.Exposed {
		if p, err := dockernet.ParsePort(text); err == nil {
			if out.ExposedPorts == nil {
				out.ExposedPorts = dockernet.PortSet{}
			}
			out.ExposedPorts[p] = struct{}{}
		}
	}
	for _, m := range in.Mounts {
		if m.Type == spec.MountVolume && m.Source == "" {
			if out.Volumes == nil {
				out.Volumes = map[string]struct{}{}
			}
			out.Volumes[m.Target] = struct{}{}
		}
	}
	return out
}

func wireMountPoints(c runtime.Container) []container.MountPoint {
	out := []container.MountPoint{}
	for _, m := range c.Mounts {
		p := container.MountPoint{
			Type: mount.Type(m.Type), Name: m.Name, Source: m.Source, Destination: m.Destination,
			Driver: m.Driver, RW: !m.ReadOnly, Propagation: mount.Propagation(m.Propagation),
		}
		if m.Type == spec.MountFile {
			p.Type = mount.TypeBind // of a file of the container's own
		}
		out = append(out, p)
	}
	slices.SortStableFunc(out, func(a, b container.MountPoint) int { return strings.Compare(a.Destination, b.Destination) })
	return out
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

func orNone[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
