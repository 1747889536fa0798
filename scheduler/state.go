package scheduler

import (
	"strconv"
	"strings"
	"time"

	"gantry/compose"
)

// State is what there is, as far as one project is concerned. It is a value
// taken at one time; looking again gives another.
type State struct {
	Now        time.Time
	Containers []Container
	Networks   []Network
	Volumes    []Volume
	// Removals are replicas that a call took away, and not the scheduler.
	Removals []Removal
	// Images are the images on the machine: reference as asked in [Look] → id.
	Images map[string]string
	// Sources are the names, with a digest, of those that a registry has:
	// reference → "web@sha256:…".
	Sources map[string]string
	// Dirs are directories that projects' compose files lie in: path → what the
	// directory is, the same for every path to it, "" if it is not there. Those
	// that are not here were not looked at.
	Dirs map[string]string
	// Was is the project of the goal before this one; nil if there was none.
	// It only serves to say what has changed.
	Was *compose.Project
	// Tried is that of a later goal that was not brought to its end: some
	// containers may be made from it. It serves the same.
	Tried *compose.Project
}

// Status is where a container stands in its life, in Docker's words.
type Status string

// Statuses.
const (
	Created    Status = "created"
	Running    Status = "running"
	Paused     Status = "paused"
	Restarting Status = "restarting" // the runtime will start it again
	Exited     Status = "exited"
	Removing   Status = "removing"
	Dead       Status = "dead"
)

// Health of a container with a health check.
const (
	HealthNone = "" // no health check
	Starting   = "starting"
	Healthy    = "healthy"
	Unhealthy  = "unhealthy"
)

// Container is one container as the scheduler sees it. The fields of the first
// group are read off the labels by [FromLabels].
type Container struct {
	Project    string
	Service    string
	Number     int // of the replica, from 1; 0: none said
	OneOff     bool
	Hash       string
	Generation int
	Uses       string   // LabelUses
	Parts      string   // LabelParts
	Run        string   // LabelRun
	Maker      string   // what made it, if not gantry: "docker compose 1.29.2"
	DependsOn  []string // services
	Dir        string   // of the project it was made from

	ID         string
	Name       string
	Image      string // as the user wrote it
	ImageID    string
	Status     Status
	Health     string
	ExitCode   int
	Created    time.Time
	StartedAt  time.Time // of the last start; zero: never started
	FinishedAt time.Time // of the last exit; zero: never exited
	Stopped    bool      // a call stopped it
	// Lost says that its process is gone and neither ended by itself nor by a
	// call: with the machine, or with all that was known of it.
	Lost bool
	// RemovedAt is when a call began to remove it; zero: none has.
	RemovedAt time.Time
	// GaveUp says why the runtime starts it no more, or lets it be unhealthy,
	// though its restart policy would have it otherwise; "" where it does not.
	GaveUp string
	// Unripe says of one that runs without a health check that it has not run
	// for long enough to be ready.
	Unripe bool

	// Networks are the names of the networks it is configured to be on,
	// whether it runs or not.
	Networks []string
	// Volumes are the names of the volumes it mounts.
	Volumes []string
	// Ports are the ports of the host it publishes, "8080/tcp"; without those
	// the runtime may choose.
	Ports []string
	// Joins are the ids of the containers whose namespaces it shares
	// (network_mode, pid and ipc of the form service: or container:).
	Joins []string
}

// FromLabels is the container that carries these labels, as far as they say.
func FromLabels(labels map[string]string) Container {
	number, _ := strconv.Atoi(labels[LabelNumber])
	generation, _ := strconv.Atoi(labels[LabelGeneration])
	maker := ""
	if _, ours := labels[LabelGeneration]; !ours {
		maker = strings.TrimSpace("docker compose " + labels[LabelVersion])
	}
	return Container{
		Maker:      maker,
		Project:    labels[LabelProject],
		Service:    labels[LabelService],
		Number:     number,
		OneOff:     labels[LabelOneOff] == "True",
		Hash:       labels[LabelHash],
		Generation: generation,
		Uses:       labels[LabelUses],
		Parts:      labels[LabelParts],
		Run:        labels[LabelRun],
		DependsOn:  dependencies(labels[LabelDependsOn]),
		Dir:        labels[LabelWorkingDir],
	}
}

// present reports whether the container has a process or is about to have one
// again: the runtime's business, nothing to be done here.
func (c *Container) present() bool {
	return c.Status == Running || c.Status == Paused || c.Status == Restarting
}

// broken reports whether the container can only be removed.
func (c *Container) broken() bool { return c.Status == Dead || c.Status == Removing }

// ready reports whether the container is what a waiting user hopes for.
func (c *Container) ready() bool {
	return c.Status == Running && (c.Health == HealthNone && !c.Unripe || c.Health == Healthy)
}

// completed reports whether the container ran and ended well.
func (c *Container) completed() bool { return c.Status == Exited && c.ExitCode == 0 && !c.Stopped }

// Network is one network.
type Network struct {
	ID, Name string
	Project  string // LabelProject; "": nobody's
	Key      string // LabelNetwork
	Hash     string // LabelHash; "": not said
	// Others are the names of running containers on it that are not the
	// project's, sorted.
	Others []string
}

// Volume is one volume.
type Volume struct {
	Name    string
	Project string // LabelProject; "": nobody's
	Key     string // LabelVolume; "" for an anonymous one
	Hash    string // LabelHash; "": not said
	Dir     string // LabelWorkingDir: of the project it was made for; "": not said
	// Others are the names of containers that mount it and are not the
	// project's, sorted.
	Others []string
	// Lost says where its data was, and no longer is; "" where it is there.
	Lost string
}

// Removal is a replica that a call has removed. Until its service is asked for
// again nobody makes it anew.
type Removal struct {
	Service string
	Number  int
	At      time.Time
}
