package api

import (
	"context"
	"net/http"

	"gantry/runtime"
	"gantry/runtime/spec"

	"github.com/moby/moby/api/types/container"
)

// containerUpdate changes limits and the restart policy.
func (s *server) containerUpdate(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	var req container.UpdateConfig
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	o, err := updateOptions(req)
	if err != nil {
		return err
	}
	if err := s.Engine.Update(ctx, r.PathValue("id"), o); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, container.UpdateResponse{Warnings: []string{}})
}

func updateOptions(req container.UpdateConfig) (runtime.UpdateOptions, error) {
	var o runtime.UpdateOptions
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"CgroupParent", req.CgroupParent != ""},
		{"BlkioWeightDevice", len(req.BlkioWeightDevice) > 0},
		{"BlkioDeviceReadBps", len(req.BlkioDeviceReadBps) > 0},
		{"BlkioDeviceWriteBps", len(req.BlkioDeviceWriteBps) > 0},
		{"BlkioDeviceReadIOps", len(req.BlkioDeviceReadIOps) > 0},
		{"BlkioDeviceWriteIOps", len(req.BlkioDeviceWriteIOps) > 0},
		{"Devices", len(req.Devices) > 0},
		{"DeviceCgroupRules", len(req.DeviceCgroupRules) > 0},
		{"DeviceRequests", len(req.DeviceRequests) > 0},
		{"MemorySwappiness", req.MemorySwappiness != nil && *req.MemorySwappiness != -1},
		{"OomKillDisable", req.OomKillDisable != nil && *req.OomKillDisable},
		{"Ulimits", len(req.Ulimits) > 0},
		{"CpuCount (Windows)", req.CPUCount != 0},
		{"CpuPercent (Windows)", req.CPUPercent != 0},
		{"IOMaximumIOps (Windows)", req.IOMaximumIOps != 0},
		{"IOMaximumBandwidth (Windows)", req.IOMaximumBandwidth != 0},
	} {
		if f.set {
			return o, unsupported("%s of a container that exists cannot be changed: make a new container", f.name)
		}
	}
	o.Resources = resources(req.Resources)
	if req.PidsLimit != nil && *req.PidsLimit == 0 {
		o.Resources.PidsLimit = -1 // here 0 says "unlimited", and nothing says "as it is"
	}
	if req.RestartPolicy.Name != "" {
		if err := container.ValidateRestartPolicy(req.RestartPolicy); err != nil {
			return o, invalid("%v", err)
		}
		o.Restart = &spec.RestartPolicy{Name: string(req.RestartPolicy.Name), MaxRetries: req.RestartPolicy.MaximumRetryCount}
	}
	return o, nil
}
