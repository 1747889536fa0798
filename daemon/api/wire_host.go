package api

import (
	"os"
	"strconv"
	"strings"

	"gantry/runtime/spec"

	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	dockernet "github.com/moby/moby/api/types/network"
)

func wireHostConfig(c spec.Config) *container.HostConfig {
	h := &container.HostConfig{
		RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyMode(c.Restart.Name), MaximumRetryCount: c.Restart.MaxRetries},
		AutoRemove:    c.AutoRemove, Annotations: c.Annotations,
		CapAdd: c.CapAdd, CapDrop: c.CapDrop, CgroupnsMode: container.CgroupnsMode(c.CgroupMode),
		DNSOptions: c.Network.DNSOptions, DNSSearch: c.Network.DNSSearch,
		ExtraHosts: c.Network.ExtraHosts, GroupAdd: c.GroupAdd, IpcMode: container.IpcMode(c.IpcMode),
		Links: c.Network.Links, OomScoreAdj: c.OomScoreAdj, PidMode: container.PidMode(c.PidMode),
		Privileged: c.Privileged, PublishAllPorts: c.Network.PublishAll, ReadonlyRootfs: c.ReadOnly,
		UTSMode: container.UTSMode(c.UTSMode), UsernsMode: container.UsernsMode(c.UsernsMode),
		ShmSize: c.ShmSize, Sysctls: c.Sysctls, Runtime: "gantry",
		MaskedPaths: c.MaskedPaths, ReadonlyPaths: c.ReadonlyPaths,
		VolumesFrom: c.VolumesFrom,
		LogConfig:   container.LogConfig{Type: c.Log.Driver, Config: orEmpty(c.Log.Options)},
		Resources:   wireResources(c),
	}
	if h.RestartPolicy.Name == "" {
		h.RestartPolicy.Name = container.RestartPolicyDisabled
	}
	if h.LogConfig.Type == "" {
		h.LogConfig.Type = "json-file"
	}
	if h.ShmSize == 0 {
		h.ShmSize = 64 << 20
	}
	if c.Init {
		h.Init = &c.Init
	}
	for _, text := range c.Network.DNS {
		if a := parseAddr(text); a.IsValid() {
			h.DNS = append(h.DNS, a)
		}
	}
	if c.NoNewPrivileges {
		h.SecurityOpt = append(h.SecurityOpt, "no-new-privileges")
	}
	if c.Seccomp != "" {
		h.SecurityOpt = append(h.SecurityOpt, "seccomp="+c.Seccomp)
	}
	if w := c.WritableCgroups; w != nil {
		h.SecurityOpt = append(h.SecurityOpt, "writable-cgroups="+strconv.FormatBool(*w))
	}
	if c.AppArmor != "" {
		h.SecurityOpt = append(h.SecurityOpt, "apparmor="+c.AppArmor)
	}
	for _, p := range c.Network.Ports {
		if h.PortBindings == nil {
			h.PortBindings = dockernet.PortMap{}
		}
		key := portOf(p.Port, p.Protocol)
		b := dockernet.PortBinding{HostIP: parseAddr(p.HostIP)}
		if p.HostPort != 0 {
			b.HostPort = strconv.Itoa(int(p.HostPort))
		}
		if p.HostEnd != 0 {
			b.HostPort += "-" + strconv.Itoa(int(p.HostEnd))
		}
		h.PortBindings[key] = append(h.PortBindings[key], b)
	}
	for _, m := range c.Mounts {
		wireMount(h, m)
	}
	return h
}

func wireResources(c spec.Config) container.Resources {
	r := c.Resources
	out := container.Resources{
		CPUShares: int64(r.CPUShares), Memory: r.Memory, NanoCPUs: r.NanoCPUs, CgroupParent: c.CgroupParent,
		BlkioWeight:        r.BlkioWeight,
		BlkioDeviceReadBps: wireRates(r.ReadBps), BlkioDeviceWriteBps: wireRates(r.WriteBps),
		BlkioDeviceReadIOps: wireRates(r.ReadIOPS), BlkioDeviceWriteIOps: wireRates(r.WriteIOPS),
		CPUPeriod: int64(r.CPUPeriod), CPUQuota: r.CPUQuota,
		CPURealtimePeriod: int64(r.CPURtPeriod), CPURealtimeRuntime: r.CPURtRuntime,
		CpusetCpus: r.CpusetCpus, CpusetMems: r.CpusetMems, DeviceCgroupRules: c.DeviceCgroupRules,
		MemoryReservation: r.MemoryLow, MemorySwap: r.MemorySwap, MemorySwappiness: r.Swappiness,
	}
	if r.OomKillOff {
		out.OomKillDisable = &r.OomKillOff
	}
	if r.PidsLimit != 0 {
		out.PidsLimit = &r.PidsLimit
	}
	for _, w := range r.BlkioWeights {
		out.BlkioWeightDevice = append(out.BlkioWeightDevice, &blkiodev.WeightDevice{Path: w.Path, Weight: w.Weight})
	}
	for _, d := range c.Devices {
		out.Devices = append(out.Devices, container.DeviceMapping{PathOnHost: d.Source, PathInContainer: d.Target, CgroupPermissions: d.Permissions})
	}
	for _, u := range c.Ulimits {
		out.Ulimits = append(out.Ulimits, &container.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	return out
}

func wireRates(in []spec.Rate) (out []*blkiodev.ThrottleDevice) {
	for _, r := range in {
		out = append(out, &blkiodev.ThrottleDevice{Path: r.Path, Rate: r.Rate})
	}
	return out
}

// wireMount adds a mount where a client would have said it: a bind that makes
// its source as Binds, an anonymous volume in Config.Volumes, else in Mounts.
// The content of secrets and configs is not shown.
func wireMount(h *container.HostConfig, m spec.Mount) {
	switch {
	case m.Type == spec.MountFile:
		return
	case m.Type == spec.MountBind && m.CreateHostPath && !m.NonRecursive && !m.ShallowReadOnly && !m.DeepReadOnly:
		var opts []string
		if m.ReadOnly {
			opts = append(opts, "ro")
		}
		if m.Propagation != "" {
			opts = append(opts, m.Propagation)
		}
		text := m.Source + ":" + m.Target
		if len(opts) > 0 {
			text += ":" + strings.Join(opts, ",")
		}
		h.Binds = append(h.Binds, text)
		return
	case m.Type == spec.MountVolume && m.Source == "" && !m.NoCopy && !m.ReadOnly && len(m.Labels)+len(m.DriverOptions) == 0 && m.Subpath == "":
		return
	}
	out := mount.Mount{Type: mount.Type(m.Type), Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly}
	switch m.Type {
	case spec.MountBind:
		o := mount.BindOptions{Propagation: mount.Propagation(m.Propagation), NonRecursive: m.NonRecursive, CreateMountpoint: m.CreateHostPath,
			ReadOnlyNonRecursive: m.ShallowReadOnly, ReadOnlyForceRecursive: m.DeepReadOnly}
		if o != (mount.BindOptions{}) {
			out.BindOptions = &o
		}
	case spec.MountImage:
		if m.Subpath != "" {
			out.ImageOptions = &mount.ImageOptions{Subpath: m.Subpath}
		}
	case spec.MountVolume:
		if m.NoCopy || len(m.Labels)+len(m.DriverOptions) > 0 || m.Subpath != "" || m.Driver != "" {
			out.VolumeOptions = &mount.VolumeOptions{NoCopy: m.NoCopy, Labels: m.Labels, Subpath: m.Subpath}
			if m.Driver != "" || len(m.DriverOptions) > 0 {
				out.VolumeOptions.DriverConfig = &mount.Driver{Name: m.Driver, Options: m.DriverOptions}
			}
		}
	case spec.MountTmpfs:
		if m.TmpfsSize != 0 || m.TmpfsMode != 0 || len(m.TmpfsOptions) > 0 {
			out.TmpfsOptions = &mount.TmpfsOptions{SizeBytes: m.TmpfsSize, Mode: os.FileMode(m.TmpfsMode)}
			for _, opt := range m.TmpfsOptions {
				out.TmpfsOptions.Options = append(out.TmpfsOptions.Options, strings.SplitN(opt, "=", 2))
			}
		}
	}
	h.Mounts = append(h.Mounts, out)
}
