package api

import (
	"time"

	"gantry/runtime/volume"

	volumetypes "github.com/moby/moby/api/types/volume"
)

func volumeSpec(r volumetypes.CreateRequest) (volume.Volume, error) {
	if r.ClusterVolumeSpec != nil {
		return volume.Volume{}, unsupported("cluster volumes are not supported: there is no swarm")
	}
	if len(r.Name) == 1 {
		return volume.Volume{}, invalid("create %s: volume name is too short, names should be at least two alphanumeric characters", r.Name)
	}
	if r.Driver != "" && r.Driver != "local" {
		return volume.Volume{}, notFoundf("create %s: error looking up volume plugin %s: plugin %q not found; local is the only driver", r.Name, r.Driver, r.Driver)
	}
	return volume.Volume{Name: r.Name, Driver: r.Driver, Options: r.DriverOpts, Labels: r.Labels, Anonymous: r.Name == ""}, nil
}

func wireVolume(v volume.Volume) volumetypes.Volume {
	return volumetypes.Volume{
		Name: v.Name, Driver: v.Driver, Mountpoint: v.Mountpoint, CreatedAt: v.Created.UTC().Format(time.RFC3339),
		Labels: v.Labels, Options: v.Options, Scope: "local",
	}
}
