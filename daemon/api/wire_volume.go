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
	return volume.Volume{Name: r.Name, Driver: r.Driver, Options: r.DriverOpts, Labels: r.Labels, Anonymous: r.Name == ""}, nil
}

func wireVolume(v volume.Volume) volumetypes.Volume {
	return volumetypes.Volume{
		Name: v.Name, Driver: v.Driver, Mountpoint: v.Mountpoint, CreatedAt: v.Created.UTC().Format(time.RFC3339),
		Labels: orEmpty(v.Labels), Options: orEmpty(v.Options), Scope: "local",
	}
}
