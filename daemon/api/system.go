package api

import (
	"context"
	"net/http"
	"os"
	goruntime "runtime"
	"time"

	"gantry/runtime"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"
)

func (s *server) ping(_ context.Context, w http.ResponseWriter, r *http.Request) error {
	h := w.Header()
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	h.Set("Pragma", "no-cache")
	h.Set("Swarm", "inactive")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if r.Method == http.MethodHead {
		h.Set("Content-Length", "0")
		return nil
	}
	_, err := w.Write([]byte("OK"))
	return err
}

func (s *server) version(_ context.Context, w http.ResponseWriter, _ *http.Request) error {
	v := system.VersionResponse{
		Platform:      system.PlatformInfo{Name: "gantry"},
		Version:       s.Version,
		APIVersion:    Newest,
		MinAPIVersion: oldest,
		Os:            "linux",
		Arch:          goruntime.GOARCH,
		GitCommit:     s.Commit,
		BuildTime:     s.Built,
		GoVersion:     goruntime.Version(),
		KernelVersion: kernel(),
	}
	v.Components = []system.ComponentVersion{{Name: "Engine", Version: s.Version, Details: map[string]string{
		"ApiVersion":    v.APIVersion,
		"MinAPIVersion": v.MinAPIVersion,
		"Arch":          v.Arch,
		"BuildTime":     v.BuildTime,
		"Experimental":  "false",
		"GitCommit":     v.GitCommit,
		"GoVersion":     v.GoVersion,
		"KernelVersion": v.KernelVersion,
		"Os":            v.Os,
	}}}
	return writeJSON(w, http.StatusOK, v)
}

func (s *server) info(ctx context.Context, w http.ResponseWriter, _ *http.Request) error {
	images, err := s.Engine.ListImages(ctx)
	if err != nil {
		return err
	}
	host := s.Engine.Host()
	name, _ := os.Hostname()
	count := countContainers(s.Engine.List())
	cgroup := "1"
	if host.CgroupV2 {
		cgroup = "2"
	}
	security := []string{"name=cgroupns"}
	if host.Seccomp {
		security = append([]string{"name=seccomp,profile=builtin"}, security...)
	}
	if host.AppArmor {
		security = append([]string{"name=apparmor"}, security...)
	}
	has := func(controller string) bool {
		for _, c := range host.Controllers {
			if c == controller {
				return true
			}
		}
		return false
	}
	return writeJSON(w, http.StatusOK, system.Info{
		ID:                 s.Root,
		Containers:         count.Total,
		ContainersRunning:  count.Running,
		ContainersPaused:   count.Paused,
		ContainersStopped:  count.Stopped,
		Images:             len(images),
		Driver:             "overlayfs",
		DriverStatus:       [][2]string{{"driver-type", "io.containerd.snapshotter.v1"}},
		Plugins:            system.PluginsInfo{Volume: []string{"local"}, Network: []string{"bridge", "host", "macvlan", "null"}, Log: []string{"json-file", "local", "none"}},
		MemoryLimit:        has("memory"),
		SwapLimit:          has("memory"),
		CPUCfsPeriod:       has("cpu"),
		CPUCfsQuota:        has("cpu"),
		CPUShares:          has("cpu"),
		CPUSet:             has("cpuset"),
		PidsLimit:          has("pids"),
		IPv4Forwarding:     true,
		NGoroutines:        goruntime.NumGoroutine(),
		SystemTime:         time.Now().Format(time.RFC3339Nano),
		LoggingDriver:      "json-file",
		CgroupDriver:       "cgroupfs",
		CgroupVersion:      cgroup,
		KernelVersion:      kernel(),
		OperatingSystem:    "Linux",
		OSType:             "linux",
		Architecture:       machine(),
		NCPU:               host.CPUs,
		MemTotal:           host.Memory,
		DockerRootDir:      s.Root,
		Name:               name,
		Labels:             []string{},
		ServerVersion:      s.Version,
		Runtimes:           map[string]system.RuntimeWithStatus{"gantry": {}},
		DefaultRuntime:     "gantry",
		Swarm:              swarm.Info{LocalNodeState: swarm.LocalNodeStateInactive},
		LiveRestoreEnabled: true,
		InitBinary:         "gantry-runtime",
		SecurityOptions:    security,
		CDISpecDirs:        []string{},
		Warnings:           orNone(s.Engine.Warnings()),
	})
}

// eventKinds are the filters of events that name an object of their kind.
// Of the last five there is none here.
var eventKinds = []string{"container", "image", "network", "volume", "daemon", "plugin", "service", "node", "secret", "config"}

func (s *server) events(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	f, err := readFilters(q, append([]string{"type", "event", "label", "scope"}, eventKinds...)...)
	if err != nil {
		return err
	}
	query := runtime.EventQuery{}
	if query.Since, err = readTime(q, "since"); err != nil {
		return err
	}
	if query.Until, err = readTime(q, "until"); err != nil {
		return err
	}
	if !query.Until.IsZero() && query.Until.Before(query.Since) {
		return invalid("`since` time (%d) cannot be after `until` time (%d)", query.Since.Unix(), query.Until.Unix())
	}
	if query.Since.IsZero() {
		// What happens between the header and the subscription is not lost.
		query.Since = time.Now()
	}
	out := beginLines(w, linesType(r))
	return s.Engine.Events(ctx, query, func(e runtime.Event) error {
		if !f.event(e) {
			return nil
		}
		return out.send(wireOldEvent(e))
	})
}

// plugins lists what cannot be installed: nothing.
func (s *server) plugins(_ context.Context, w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, http.StatusOK, []struct{}{})
}

type containerCount struct{ Total, Running, Paused, Stopped int }

func countContainers(all []runtime.Container) containerCount {
	c := containerCount{Total: len(all)}
	for _, ct := range all {
		switch ct.State {
		case runtime.Running:
			c.Running++
		case runtime.Paused:
			c.Paused++
		default:
			c.Stopped++
		}
	}
	return c
}
