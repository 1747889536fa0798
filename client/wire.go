package client

import (
	"encoding/json"
	"net/url"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"
)

// The shapes of Docker's API, so that its module is named here alone.
type (
	Container        = container.Summary         // a line of a list
	ContainerDetails = container.InspectResponse // everything about one
	ContainerConfig  = container.Config
	HostConfig       = container.HostConfig
	NetworkingConfig = network.NetworkingConfig
	PortSummary      = container.PortSummary
	MountPoint       = container.MountPoint
	Mount            = mount.Mount
	Port             = network.Port
	PortBinding      = network.PortBinding
	EndpointSettings = network.EndpointSettings
	EndpointAddress  = network.EndpointIPAMConfig
	Exec             = container.ExecInspectResponse
	Stats            = container.StatsResponse
	Top              = container.TopResponse
	Image            = image.Summary
	ImageDetails     = image.InspectResponse
	ImageConfig      = dockerspec.DockerOCIImageConfig
	ImageRemoved     = image.DeleteResponse
	Network          = network.Network
	NetworkDetails   = network.Inspect
	NetworkSpec      = network.CreateRequest
	IPAM             = network.IPAM
	Subnet           = network.IPAMConfig
	Volume           = volume.Volume
	VolumeSpec       = volume.CreateRequest
	Event            = events.Message
	Info             = system.Info
	Version          = system.VersionResponse
	CacheUsage       = build.DiskUsage
	CacheRecord      = build.CacheRecord
	ImageStep        = image.HistoryResponseItem
	ImageFound       = registry.SearchResult
	UpdateConfig     = container.UpdateConfig
	Resources        = container.Resources
	RestartPolicy    = container.RestartPolicy
)

// DiskUsage is what takes the disk: Docker's report, and the logs that it does
// not count.
type DiskUsage struct {
	system.DiskUsage
	LogUsage *LogUsage `json:",omitempty"`
}

// LogUsage is what containers' logs take.
type LogUsage struct {
	ActiveCount, TotalCount, TotalSize, Reclaimable int64

	Items []LogSize `json:",omitempty"`
}

// LogSize is what the log of one container takes.
type LogSize struct {
	ID, Name string
	Size     int64
}

// Filters narrow a list: an object is in it when, for every key, one of the
// values matches. As Docker's --filter key=value.
type Filters map[string][]string

// Add appends values to a key and gives the filters back.
func (f Filters) Add(key string, values ...string) Filters {
	f[key] = append(f[key], values...)
	return f
}

func (f Filters) into(q url.Values) {
	if len(f) == 0 {
		return
	}
	// Docker's own form since API 1.22: a set per key.
	sets := make(map[string]map[string]bool, len(f))
	for key, values := range f {
		sets[key] = make(map[string]bool, len(values))
		for _, v := range values {
			sets[key][v] = true
		}
	}
	text, _ := json.Marshal(sets) // maps of strings cannot fail
	q.Set("filters", string(text))
}

// query builds url.Values from pairs, leaving out those with an empty value.
func query(pairs ...string) url.Values {
	q := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	return q
}

// flag is how Docker writes a boolean in a query.
func flag(on bool) string {
	if on {
		return "1"
	}
	return ""
}
