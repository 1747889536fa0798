package api

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"gantry/runtime/spec"

	"github.com/containerd/platforms"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	dockernet "github.com/moby/moby/api/types/network"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// createRequest is the body of a create.
type createRequest struct {
	container.CreateRequest
	HostConfig *hostConfig
	// MacAddress is where clients before API 1.44 put it.
	MacAddress string
}

// hostConfig adds what the API once had: limits of the kernel's own memory,
// which Linux has given up.
type hostConfig struct {
	container.HostConfig
	KernelMemory    int64
	KernelMemoryTCP int64
}

// config is what Docker's three configurations ask for. What gantry does not
// support is refused by name; only what speaks to the client itself
// (AttachStdout, ContainerIDFile, ConsoleSize) is passed over.
func (r createRequest) config() (spec.Config, error) {
	if r.Config == nil {
		return spec.Config{}, invalid("Config cannot be empty in order to create a container: give an image")
	}
	h := &container.HostConfig{}
	if r.HostConfig != nil {
		h = &r.HostConfig.HostConfig
	}
	if r.Image == "" {
		return spec.Config{}, invalid("no image given: the field Image is empty")
	}
	if name := refused(r.Config, h); name != "" {
		return spec.Config{}, unsupported("%s is not supported", name)
	}
	c := spec.Config{
		Image: r.Image, Entrypoint: r.Entrypoint, Command: r.Cmd, Env: r.Env,
		WorkingDir: r.WorkingDir, User: r.User, GroupAdd: h.GroupAdd,
		Hostname: r.Hostname, Domainname: r.Domainname, Labels: r.Labels, Annotations: h.Annotations,
		TTY: r.Tty, OpenStdin: r.OpenStdin, StdinOnce: r.StdinOnce, Init: h.Init != nil && *h.Init,
		ReadOnly: h.ReadonlyRootfs, ShmSize: h.ShmSize, VolumesFrom: h.VolumesFrom,
		CapAdd: h.CapAdd, CapDrop: h.CapDrop, Privileged: h.Privileged,
		MaskedPaths: h.MaskedPaths, ReadonlyPaths: h.ReadonlyPaths,
		Sysctls: h.Sysctls,
		PidMode: string(h.PidMode), IpcMode: string(h.IpcMode), UTSMode: string(h.UTSMode),
		CgroupMode: string(h.CgroupnsMode), UsernsMode: string(h.UsernsMode),
		CgroupParent: h.CgroupParent, DeviceCgroupRules: h.DeviceCgroupRules, OomScoreAdj: h.OomScoreAdj,
		StopSignal: r.StopSignal, AutoRemove: h.AutoRemove,
	}
	if h.IpcMode.IsPrivate() {
		c.IpcMode = "" // as an inspect shows what nothing said means
	}
	if r.StopTimeout != nil {
		timeout := time.Duration(*r.StopTimeout) * time.Second
		c.StopTimeout = &timeout
	}
	if k := r.Healthcheck; k != nil {
		c.Healthcheck = &spec.Healthcheck{Test: k.Test, Interval: k.Interval, Timeout: k.Timeout,
			StartPeriod: k.StartPeriod, StartInterval: k.StartInterval, Retries: k.Retries}
	}
	for _, u := range h.Ulimits {
		if u != nil {
			c.Ulimits = append(c.Ulimits, spec.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
		}
	}
	for _, d := range h.Devices {
		c.Devices = append(c.Devices, spec.Device{Source: d.PathOnHost, Target: d.PathInContainer, Permissions: d.CgroupPermissions})
	}
	c.Resources = resources(h.Resources)
	for _, step := range []func(*spec.Config, createRequest, *container.HostConfig) error{
		restartPolicy, logConfig, securityOpts, mounts, networking, ports,
	} {
		if err := step(&c, r, h); err != nil {
			return spec.Config{}, err
		}
	}
	return c, nil
}

// runtimes are the names under which clients ask for a platform's own runtime.
var runtimes = []string{"", "gantry", "runc", "io.containerd.runc.v2"}

// refused names the first field that asks for what gantry does not do.
func refused(c *container.Config, h *container.HostConfig) string {
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"Shell", len(c.Shell) > 0},
		{"OnBuild", len(c.OnBuild) > 0},
		{"ArgsEscaped (Windows)", c.ArgsEscaped},
		{"HostConfig.VolumeDriver " + h.VolumeDriver, h.VolumeDriver != "" && h.VolumeDriver != "local"},
		{"HostConfig.Cgroup " + string(h.Cgroup), h.Cgroup != ""},
		{"HostConfig.StorageOpt", len(h.StorageOpt) > 0},
		{"HostConfig.Runtime " + h.Runtime, !slices.Contains(runtimes, h.Runtime)},
		{"HostConfig.Umask", h.Umask != nil},
		{"HostConfig.Isolation " + string(h.Isolation), !h.Isolation.IsDefault()},
		{"HostConfig.DeviceRequests", len(h.DeviceRequests) > 0},
		{"HostConfig.CpuCount (Windows)", h.CPUCount != 0},
		{"HostConfig.CpuPercent (Windows)", h.CPUPercent != 0},
		{"HostConfig.IOMaximumIOps (Windows)", h.IOMaximumIOps != 0},
		{"HostConfig.IOMaximumBandwidth (Windows)", h.IOMaximumBandwidth != 0},
	} {
		if f.set {
			return f.name
		}
	}
	return ""
}

// warnings are about what has no effect any more.
func (r createRequest) warnings() []string {
	if h := r.HostConfig; h != nil && (h.KernelMemory != 0 || h.KernelMemoryTCP != 0) {
		return []string{"Kernel memory limits are discarded: Linux has given them up, and the memory limit covers them."}
	}
	return nil
}

// checkLinks refuses a further name for a container that is not there.
func (s *server) checkLinks(c spec.Config) error {
	for _, link := range c.Network.Links {
		ref, _, _ := strings.Cut(link, ":")
		if _, err := s.Engine.Inspect(ref); err != nil {
			return invalid("could not get container for %s: %v", ref, err)
		}
	}
	return nil
}

// checkPlatform refuses to run an image on a platform that is not this
// machine's, or that is not the image's.
func (s *server) checkPlatform(ctx context.Context, ref, asked string) error {
	if asked == "" {
		return nil
	}
	p, err := platforms.Parse(asked)
	if err != nil {
		return invalid("platform %q: %v", asked, err)
	}
	if !platforms.Default().Match(p) {
		return unsupported("platform %s does not run on this machine, which is %s: emulation is not supported", asked, platforms.DefaultString())
	}
	img, err := s.Engine.Image(ctx, ref)
	if err != nil {
		return err
	}
	has := platforms.Normalize(ocispec.Platform{OS: img.Config.OS, Architecture: img.Config.Architecture, Variant: img.Config.Variant})
	if has.Architecture != "" && !platforms.Only(p).Match(has) {
		return notFoundf("image with reference %s was found but does not provide the specified platform (%s)", ref, asked)
	}
	return nil
}

func resources(r container.Resources) spec.Resources {
	out := spec.Resources{
		NanoCPUs: r.NanoCPUs, CPUShares: uint64(max(r.CPUShares, 0)), CPUQuota: r.CPUQuota, CPUPeriod: uint64(max(r.CPUPeriod, 0)),
		CPURtPeriod: uint64(max(r.CPURealtimePeriod, 0)), CPURtRuntime: r.CPURealtimeRuntime,
		CpusetCpus: r.CpusetCpus, CpusetMems: r.CpusetMems,
		Memory: r.Memory, MemorySwap: r.MemorySwap, MemoryLow: r.MemoryReservation, Swappiness: r.MemorySwappiness,
		BlkioWeight: r.BlkioWeight,
		ReadBps:     rates(r.BlkioDeviceReadBps), WriteBps: rates(r.BlkioDeviceWriteBps),
		ReadIOPS: rates(r.BlkioDeviceReadIOps), WriteIOPS: rates(r.BlkioDeviceWriteIOps),
		OomKillOff: r.OomKillDisable != nil && *r.OomKillDisable,
	}
	if r.PidsLimit != nil {
		out.PidsLimit = *r.PidsLimit
	}
	// Older clients write "not said" as -1.
	if out.Swappiness != nil && *out.Swappiness == -1 {
		out.Swappiness = nil
	}
	for _, w := range r.BlkioWeightDevice {
		if w != nil {
			out.BlkioWeights = append(out.BlkioWeights, spec.Weight{Path: w.Path, Weight: w.Weight})
		}
	}
	return out
}

func rates(in []*blkiodev.ThrottleDevice) (out []spec.Rate) {
	for _, t := range in {
		if t != nil {
			out = append(out, spec.Rate{Path: t.Path, Rate: t.Rate})
		}
	}
	return out
}

func restartPolicy(c *spec.Config, _ createRequest, h *container.HostConfig) error {
	if err := container.ValidateRestartPolicy(h.RestartPolicy); err != nil {
		return invalid("%v", err)
	}
	c.Restart = spec.RestartPolicy{Name: string(h.RestartPolicy.Name), MaxRetries: h.RestartPolicy.MaximumRetryCount}
	if h.AutoRemove && !h.RestartPolicy.IsNone() {
		return invalid("can't create 'AutoRemove' container with restart policy")
	}
	return nil
}

func logConfig(c *spec.Config, _ createRequest, h *container.HostConfig) error {
	l := h.LogConfig
	switch l.Type {
	case "", "json-file", "local", "none":
	default:
		return unsupported("logging driver %s is not supported: json-file, local and none are", l.Type)
	}
	c.Log = spec.LogConfig{Driver: l.Type, Options: l.Config}
	for name, value := range l.Config {
		switch name {
		case "max-size":
			if value == "-1" {
				c.Log.MaxSize = -1
				continue
			}
			n, err := units.RAMInBytes(value)
			if err != nil || n <= 0 {
				return invalid("log option max-size: %q is not a size such as 10m", value)
			}
			c.Log.MaxSize = n
		case "max-file":
			n, err := strconv.Atoi(value)
			if err != nil || n < 1 {
				return invalid("log option max-file: %q is not a number from 1", value)
			}
			c.Log.MaxFiles = n
		case "mode":
			if value != "blocking" {
				return unsupported("log option mode=%s is not supported", value)
			}
		case "compress":
			if value != "false" {
				return unsupported("log option compress=%s is not supported", value)
			}
		default:
			return unsupported("log option %s is not supported", name)
		}
	}
	return nil
}

// securityOpts reads name=value, and name:value as older clients wrote it.
func securityOpts(c *spec.Config, _ createRequest, h *container.HostConfig) error {
	for _, opt := range h.SecurityOpt {
		name, value, ok := strings.Cut(opt, "=")
		if !ok {
			name, value, _ = strings.Cut(opt, ":")
		}
		switch name {
		case "no-new-privileges":
			on := true
			if value != "" {
				var err error
				if on, err = strconv.ParseBool(value); err != nil {
					return invalid("security option %q: it is true or false", opt)
				}
			}
			c.NoNewPrivileges = on
		case "seccomp":
			if value != "builtin" {
				c.Seccomp = value
			}
		case "apparmor":
			c.AppArmor = value
		case "systempaths":
			if value != "unconfined" {
				return invalid("security option %q: systempaths can only be unconfined", opt)
			}
			c.MaskedPaths, c.ReadonlyPaths = []string{}, []string{}
		case "writable-cgroups":
			on := true
			if value != "" {
				var err error
				if on, err = strconv.ParseBool(value); err != nil {
					return invalid("security option %q: it is true or false", opt)
				}
			}
			c.WritableCgroups = &on
		case "label":
			// Without SELinux in the runtime there is nothing to disable.
			if value != "disable" {
				return unsupported("security option %q (SELinux) is not supported", opt)
			}
		default:
			return unsupported("security option %q is not supported", opt)
		}
	}
	return nil
}

func networking(c *spec.Config, r createRequest, h *container.HostConfig) error {
	n := &c.Network
	n.DNSSearch, n.DNSOptions, n.ExtraHosts, n.Links = h.DNSSearch, h.DNSOptions, h.ExtraHosts, h.Links
	for _, a := range h.DNS {
		if a.IsValid() {
			n.DNS = append(n.DNS, a.String())
		}
	}
	n.MacAddress = r.MacAddress
	asked := map[string]*dockernet.EndpointSettings{}
	if r.NetworkingConfig != nil {
		asked = r.NetworkingConfig.EndpointsConfig
	}
	mode := string(h.NetworkMode)
	if r.NetworkDisabled {
		mode = "none"
	}
	first := ""
	switch {
	case mode == "" || mode == dockernet.NetworkDefault:
		if _, ok := asked[dockernet.NetworkDefault]; ok {
			first = dockernet.NetworkDefault
		}
	case h.NetworkMode.IsHost(), mode == "none", h.NetworkMode.IsContainer():
		n.Mode = mode
		if h.NetworkMode.IsHost() && len(h.Links) > 0 {
			return invalid("conflicting options: host type networking can't be used with links. This would result in undefined behavior")
		}
		for name := range asked {
			if name != mode {
				return invalid("conflicting options: cannot attach both user-defined and non-user-defined network-modes")
			}
		}
		return nil
	default:
		first = mode
		if mode == dockernet.NetworkBridge && len(asked) == 0 {
			return nil // no endpoints mean it
		}
	}
	names := sortedKeys(asked)
	if i := slices.Index(names, first); i > 0 {
		names = slices.Insert(slices.Delete(names, i, i+1), 0, first)
	} else if i < 0 && first != "" {
		names = slices.Insert(names, 0, first)
	}
	for _, name := range names {
		e, err := endpoint(name, asked[name])
		if err != nil {
			return err
		}
		if name == first && e.MacAddress == "" {
			e.MacAddress = r.MacAddress
		}
		n.Endpoints = append(n.Endpoints, e)
		if asked[name] == nil {
			continue
		}
		for _, link := range asked[name].Links { // where newer clients put them
			if !slices.Contains(n.Links, link) {
				n.Links = append(slices.Clip(n.Links), link)
			}
		}
	}
	return nil
}

// ifname is the driver option that names the interface inside.
const ifname = "com.docker.network.endpoint.ifname"

// endpoint reads what was asked of one network; what an inspect shows of a
// running endpoint (addresses, ids) is no wish and is passed over.
func endpoint(name string, in *dockernet.EndpointSettings) (spec.Endpoint, error) {
	if name == dockernet.NetworkDefault {
		name = dockernet.NetworkBridge
	}
	e := spec.Endpoint{Network: name}
	if in == nil {
		return e, nil
	}
	e.Aliases, e.GwPriority, e.MacAddress = in.Aliases, in.GwPriority, in.MacAddress.String()
	if ipam := in.IPAMConfig; ipam != nil {
		if len(ipam.LinkLocalIPs) > 0 {
			return e, unsupported("network %s: LinkLocalIPs are not supported", name)
		}
		e.IPv4, e.IPv6 = ipam.IPv4Address, ipam.IPv6Address
	}
	for key, value := range in.DriverOpts {
		if key != ifname {
			return e, unsupported("network %s: the driver option %s of an endpoint is not supported: %s is", name, key, ifname)
		}
		e.Interface = value
	}
	return e, nil
}

func ports(c *spec.Config, r createRequest, h *container.HostConfig) error {
	c.Network.PublishAll = h.PublishAllPorts
	for _, p := range sortedPorts(r.ExposedPorts) {
		c.Network.Exposed = append(c.Network.Exposed, p.String())
	}
	for _, p := range sortedPorts(h.PortBindings) {
		if p.Num() == 0 {
			return invalid("invalid port 0 in HostConfig.PortBindings")
		}
		for _, b := range h.PortBindings[p] {
			out := spec.Port{Port: p.Num(), Protocol: string(p.Proto())}
			if out.Protocol == "sctp" {
				return unsupported("publishing the SCTP port %d is not supported: TCP and UDP are", out.Port)
			}
			if b.HostIP.IsValid() {
				out.HostIP = b.HostIP.String()
			}
			from, to, isRange := strings.Cut(b.HostPort, "-")
			var err error
			if out.HostPort, err = portNumber(from); err == nil {
				out.HostEnd, err = portNumber(to)
			}
			if err != nil || isRange && out.HostEnd < out.HostPort {
				return invalid("invalid port specification: %q", b.HostPort)
			}
			if out.HostEnd == out.HostPort {
				out.HostEnd = 0
			}
			c.Network.Ports = append(c.Network.Ports, out)
		}
	}
	return nil
}

// portNumber reads a port of the host; none is 0.
func portNumber(text string) (uint16, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 16)
	return uint16(n), err
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func sortedPorts[V any](m map[dockernet.Port]V) []dockernet.Port {
	all := make([]dockernet.Port, 0, len(m))
	for p := range m {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b dockernet.Port) int {
		return cmp.Or(cmp.Compare(a.Num(), b.Num()), strings.Compare(string(a.Proto()), string(b.Proto())))
	})
	return all
}

// parseAddr is for addresses stored as text; what is none is left out.
func parseAddr(text string) netip.Addr {
	a, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}
	}
	return a
}

// portOf makes Docker's port of ours.
func portOf(number uint16, protocol string) dockernet.Port {
	p, _ := dockernet.PortFrom(number, dockernet.IPProtocol(cmp.Or(protocol, "tcp")))
	return p
}
