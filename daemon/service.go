package daemon

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"gantry/compose"
	"gantry/network"
	"gantry/runtime/spec"
	"gantry/scheduler"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
)

// containerConfig is a replica of a Compose service in the runtime's terms.
// What a project may not say has been refused by compose.Unsupported; what is
// found here all the same is an error, never ignored.
func containerConfig(r scheduler.RunSpec) (spec.Config, error) {
	s := r.Service
	c := spec.Config{
		Image:             r.Image,
		ImageID:           r.ImageID,
		Entrypoint:        s.Entrypoint,
		Command:           s.Command,
		Env:               environment(s.Environment),
		WorkingDir:        s.WorkingDir,
		User:              s.User,
		GroupAdd:          s.GroupAdd,
		Hostname:          s.Hostname,
		Domainname:        s.DomainName,
		Labels:            r.Labels,
		Annotations:       s.Annotations,
		TTY:               s.Tty,
		OpenStdin:         s.StdinOpen,
		Init:              s.Init != nil && *s.Init,
		ReadOnly:          s.ReadOnly,
		ShmSize:           int64(s.ShmSize),
		CapAdd:            s.CapAdd,
		CapDrop:           s.CapDrop,
		Privileged:        s.Privileged,
		Sysctls:           s.Sysctls,
		Ulimits:           ulimits(s.Ulimits),
		UTSMode:           s.Uts,
		CgroupMode:        s.Cgroup,
		UsernsMode:        s.UserNSMode,
		CgroupParent:      s.CgroupParent,
		Resources:         resources(s),
		DeviceCgroupRules: s.DeviceCgroupRules,
		OomScoreAdj:       int(s.OomScoreAdj),
		StopSignal:        s.StopSignal,
		Healthcheck:       healthcheck(compose.HealthCheckOf(*s)),
	}
	for _, d := range s.Devices {
		c.Devices = append(c.Devices, spec.Device{Source: d.Source, Target: cmp.Or(d.Target, d.Source), Permissions: d.Permissions})
	}
	c.ReadyAfter = readyAfter
	if d := s.Deploy; d != nil && d.UpdateConfig != nil && d.UpdateConfig.Monitor > 0 {
		c.ReadyAfter = time.Duration(d.UpdateConfig.Monitor)
	}
	if s.StopGracePeriod != nil {
		c.StopTimeout = new(time.Duration(*s.StopGracePeriod))
	}
	var err error
	fill := func(f func() error) {
		if err == nil {
			err = f()
		}
	}
	fill(func() error { return security(&c, s.SecurityOpt) })
	fill(func() error { c.PidMode, err = namespaceMode(s.Pid, r.Joins); return err })
	fill(func() error { c.IpcMode, err = namespaceMode(s.Ipc, r.Joins); return err })
	fill(func() error { c.Restart, err = restartPolicy(s); return err })
	fill(func() error { c.Log, err = logConfig(s.Logging); return err })
	fill(func() error { c.Network, err = wiring(r); return err })
	fill(func() error { c.Mounts, err = mounts(r); return err })
	if err != nil {
		return spec.Config{}, fmt.Errorf("service %s: %w", s.Name, err)
	}
	return c, nil
}

// readyAfter is how long a replica without a health check must have run to
// count as ready, unless deploy.update_config.monitor says otherwise.
const readyAfter = time.Second

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

// environment is sorted, so that equal services have equal containers. A name
// without a value takes the image's away.
func environment(m compose.MappingWithEquals) []string {
	var env []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if v := m[k]; v != nil {
			env = append(env, k+"="+*v)
		} else {
			env = append(env, k)
		}
	}
	return env
}

func ulimits(m map[string]*compose.Ulimit) []spec.Ulimit {
	var all []spec.Ulimit
	for _, name := range slices.Sorted(maps.Keys(m)) {
		u := m[name]
		l := spec.Ulimit{Name: name, Soft: int64(u.Soft), Hard: int64(u.Hard)}
		if u.Single != 0 {
			l.Soft, l.Hard = int64(u.Single), int64(u.Single)
		}
		all = append(all, l)
	}
	return all
}

// resources are a service's limits; deploy.resources wins over the older keys,
// as in Docker Compose.
func resources(s *compose.Service) spec.Resources {
	r := spec.Resources{
		NanoCPUs:     nano(s.CPUS),
		CPUShares:    uint64(max(s.CPUShares, 0)),
		CPUQuota:     s.CPUQuota,
		CPUPeriod:    uint64(max(s.CPUPeriod, 0)),
		CPURtPeriod:  uint64(max(s.CPURTPeriod, 0)),
		CPURtRuntime: s.CPURTRuntime,
		CpusetCpus:   s.CPUSet,
		Memory:       int64(s.MemLimit),
		MemorySwap:   int64(s.MemSwapLimit),
		MemoryLow:    int64(s.MemReservation),
		OomKillOff:   s.OomKillDisable,
		PidsLimit:    s.PidsLimit,
	}
	if s.MemSwappiness != 0 {
		r.Swappiness = new(int64(s.MemSwappiness))
	}
	if d := s.Deploy; d != nil {
		if l := d.Resources.Limits; l != nil {
			r.NanoCPUs = cmp.Or(nano(float32(l.NanoCPUs)), r.NanoCPUs)
			r.Memory = cmp.Or(int64(l.MemoryBytes), r.Memory)
			r.PidsLimit = cmp.Or(l.Pids, r.PidsLimit)
		}
		if l := d.Resources.Reservations; l != nil {
			r.MemoryLow = cmp.Or(int64(l.MemoryBytes), r.MemoryLow)
		}
	}
	if b := s.BlkioConfig; b != nil {
		r.BlkioWeight = b.Weight
		for _, w := range b.WeightDevice {
			r.BlkioWeights = append(r.BlkioWeights, spec.Weight{Path: w.Path, Weight: w.Weight})
		}
		r.ReadBps, r.WriteBps = rates(b.DeviceReadBps), rates(b.DeviceWriteBps)
		r.ReadIOPS, r.WriteIOPS = rates(b.DeviceReadIOps), rates(b.DeviceWriteIOps)
	}
	return r
}

// nano turns CPUs into 10⁻⁹ of one, to the third decimal: a float32 carries no
// more, and 0.1 must not become 100000001.
func nano(cpus float32) int64 { return int64(float64(cpus)*1000+0.5) * 1_000_000 }

func rates(all []compose.ThrottleDevice) []spec.Rate {
	var out []spec.Rate
	for _, d := range all {
		out = append(out, spec.Rate{Path: d.Path, Rate: uint64(d.Rate)})
	}
	return out
}

func healthcheck(h *compose.HealthCheck) *spec.Healthcheck {
	if h == nil {
		return nil
	}
	if h.Disable {
		return &spec.Healthcheck{Test: []string{"NONE"}}
	}
	out := &spec.Healthcheck{Test: h.Test}
	for _, f := range []struct {
		from *compose.Duration
		to   *time.Duration
	}{{h.Interval, &out.Interval}, {h.Timeout, &out.Timeout}, {h.StartPeriod, &out.StartPeriod}, {h.StartInterval, &out.StartInterval}} {
		if f.from != nil {
			*f.to = time.Duration(*f.from)
		}
	}
	if h.Retries != nil {
		out.Retries = int(*h.Retries)
	}
	return out
}

func security(c *spec.Config, opts []string) error {
	for _, opt := range opts {
		key, value := opt, ""
		if i := strings.IndexAny(opt, "=:"); i >= 0 {
			key, value = opt[:i], opt[i+1:]
		}
		switch key {
		case "no-new-privileges":
			c.NoNewPrivileges = value != "false"
		case "seccomp":
			c.Seccomp = value
		case "apparmor":
			c.AppArmor = value
		case "systempaths": // only unconfined passes compose.Unsupported
			if value != "unconfined" {
				return invalid("security option %q is not supported", opt)
			}
			c.MaskedPaths, c.ReadonlyPaths = []string{}, []string{}
		case "writable-cgroups":
			c.WritableCgroups = new(value != "false")
		case "label":
			// Only label=disable passes compose.Unsupported: nothing is labelled.
		default:
			return invalid("security option %q is not supported", key)
		}
	}
	return nil
}

// namespaceMode turns service:NAME into the container that stands for it.
func namespaceMode(mode string, joins map[string]string) (string, error) {
	name, ok := strings.CutPrefix(mode, compose.ServicePrefix)
	if !ok {
		return mode, nil
	}
	if joins[name] == "" {
		return "", invalid("%s: service %s has no container to join", mode, name)
	}
	return "container:" + joins[name], nil
}

// restartPolicy is that of deploy where there is one, as in Docker Compose;
// restart is the older key. An unhealthy container counts as failed where
// deploy says how to restart, as in Swarm, or x-gantry does.
func restartPolicy(s *compose.Service) (spec.RestartPolicy, error) {
	x, err := compose.GantryOf(*s)
	if err != nil {
		return spec.RestartPolicy{}, err
	}
	sick := x.OnUnhealthy == "restart"
	if s.Deploy != nil && s.Deploy.RestartPolicy != nil {
		d := s.Deploy.RestartPolicy
		p := spec.RestartPolicy{Unhealthy: sick || d.Condition != "none"}
		switch d.Condition {
		case "none":
			p.Name = spec.RestartNo
		case "on-failure":
			p.Name = spec.RestartOnFailure
		case "", "any":
			p.Name = spec.RestartAlways
		}
		if d.Delay != nil {
			p.Delay = time.Duration(*d.Delay)
		}
		if d.Window != nil {
			p.Window = time.Duration(*d.Window)
		}
		if d.MaxAttempts != nil {
			p.Attempts = int(min(*d.MaxAttempts, math.MaxInt32))
		}
		if p.Name == spec.RestartOnFailure && p.Window == 0 { // which Docker's API can show
			p.MaxRetries, p.Attempts = p.Attempts, 0
		}
		return p, nil
	}
	p := spec.RestartPolicy{Unhealthy: sick}
	if s.Restart != "" {
		name, count, counted := strings.Cut(s.Restart, ":")
		p.Name = name
		if counted {
			n, err := strconv.Atoi(count)
			if err != nil {
				return p, invalid("restart %q: %q is no number", s.Restart, count)
			}
			p.MaxRetries = n
		}
	}
	return p, nil
}

func logConfig(l *compose.Logging) (spec.LogConfig, error) {
	if l == nil {
		return spec.LogConfig{}, nil
	}
	c := spec.LogConfig{Driver: l.Driver, Options: l.Options}
	if v := l.Options["max-size"]; v != "" {
		n, err := units.FromHumanSize(v)
		if v == "-1" {
			n, err = -1, nil
		}
		if err != nil || n == 0 {
			return c, invalid("logging.options.max-size %q is no size; write it as 10m", v)
		}
		c.MaxSize = n
	}
	if v := l.Options["max-file"]; v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			return c, invalid("logging.options.max-file %q is no number of files", v)
		}
		c.MaxFiles = n
	}
	return c, nil
}

// wiring is a service's place on networks. Ports belong to the service, so all
// its replicas share one group.
func wiring(r scheduler.RunSpec) (spec.Network, error) {
	s := r.Service
	n := spec.Network{
		DNS:        s.DNS,
		DNSSearch:  s.DNSSearch,
		DNSOptions: s.DNSOpts,
		MacAddress: s.MacAddress,
		Group:      r.Project.Name + "/" + s.Name,
	}
	for _, name := range slices.Sorted(maps.Keys(s.ExtraHosts)) {
		for _, addr := range s.ExtraHosts[name] {
			n.ExtraHosts = append(n.ExtraHosts, name+":"+addr)
		}
	}
	for _, x := range s.Expose {
		if !strings.Contains(x, "/") {
			x += "/tcp"
		}
		n.Exposed = append(n.Exposed, x)
	}
	g, err := compose.GantryOf(*s)
	if err != nil {
		return n, err
	}
	n.Sticky = g.Sticky == "source"
	n.Virtual = s.Deploy != nil && s.Deploy.EndpointMode == "vip"
	switch mode := s.NetworkMode; {
	case mode == "host" || mode == "none":
		n.Mode = mode
	case strings.HasPrefix(mode, compose.ServicePrefix) || strings.HasPrefix(mode, compose.ContainerPrefix):
		if n.Mode, err = namespaceMode(mode, r.Joins); err != nil {
			return n, err
		}
	default: // "", bridge: the networks named, or the default one
		if n.Endpoints, err = endpoints(r); err != nil {
			return n, err
		}
	}
	for _, l := range s.Links {
		if target, alias, ok := strings.Cut(l, ":"); ok && alias != target {
			n.Links = append(n.Links, l)
		}
	}
	for _, p := range s.Ports {
		port, err := publishedPort(p)
		if err != nil {
			return n, err
		}
		n.Ports = append(n.Ports, port)
	}
	if len(n.Ports) > 0 && n.Mode == "host" {
		return n, invalid("ports cannot be published with network_mode: host, where every port is the host's own; remove ports or network_mode")
	}
	return n, nil
}

func endpoints(r scheduler.RunSpec) ([]spec.Endpoint, error) {
	var all []spec.Endpoint
	for _, key := range r.Networks {
		ep := spec.Endpoint{Network: scheduler.NetworkName(r.Project, key), Aliases: []string{r.Service.Name}}
		if cfg := r.Service.Networks[key]; cfg != nil {
			ep.Aliases = append(ep.Aliases, cfg.Aliases...)
			ep.MacAddress, ep.Interface = cfg.MacAddress, cfg.InterfaceName
			ep.Priority, ep.GwPriority = cfg.Priority, cfg.GatewayPriority
			ep.Interface = cmp.Or(ep.Interface, cfg.DriverOpts[compose.InterfaceOption])
			for _, a := range []struct {
				field, text string
				to          *netip.Addr
			}{{"ipv4_address", cfg.Ipv4Address, &ep.IPv4}, {"ipv6_address", cfg.Ipv6Address, &ep.IPv6}} {
				if a.text == "" {
					continue
				}
				addr, err := netip.ParseAddr(a.text)
				if err != nil {
					return nil, invalid("networks.%s.%s %q is no address", key, a.field, a.text)
				}
				*a.to = addr
			}
		}
		all = append(all, ep)
	}
	if len(all) > 0 && r.Service.MacAddress != "" {
		first := &all[0] // the network connected first, by name among equals
		for i := range all {
			if all[i].Priority > first.Priority {
				first = &all[i]
			}
		}
		first.MacAddress = cmp.Or(first.MacAddress, r.Service.MacAddress)
	}
	return all, nil
}

func publishedPort(p compose.ServicePort) (spec.Port, error) {
	out := spec.Port{HostIP: p.HostIP, Port: uint16(p.Target), Protocol: p.Protocol}
	if p.Target == 0 || p.Target > 65535 {
		return out, invalid("ports: container port %d is none", p.Target)
	}
	if p.Published == "" || p.Published == "0" {
		return out, nil
	}
	first, last, ranged := strings.Cut(p.Published, "-")
	n, err := strconv.ParseUint(first, 10, 16)
	if err != nil {
		return out, invalid("ports: published port %q is none", p.Published)
	}
	out.HostPort = uint16(n)
	if ranged {
		n, err := strconv.ParseUint(last, 10, 16)
		if err != nil || uint16(n) < out.HostPort {
			return out, invalid("ports: published range %q is none", p.Published)
		}
		out.HostEnd = uint16(n)
	}
	return out, nil
}

// mounts are a service's volumes, tmpfs, secrets and configs.
func mounts(r scheduler.RunSpec) ([]spec.Mount, error) {
	var all []spec.Mount
	for _, v := range r.Service.Volumes {
		m, err := volumeMount(r, v)
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	for _, t := range r.Service.Tmpfs {
		target, opts, _ := strings.Cut(t, ":")
		m := spec.Mount{Type: spec.MountTmpfs, Target: target}
		if opts != "" {
			m.TmpfsOptions = strings.Split(opts, ",")
		}
		all = append(all, m)
	}
	for _, ref := range r.Service.Secrets {
		obj, ok := r.Project.Secrets[ref.Source]
		if !ok {
			return nil, invalid("secret %s is not defined", ref.Source)
		}
		m, err := fileMount(ref.UID, ref.GID, ref.Mode, obj.Content)
		if err != nil {
			return nil, fmt.Errorf("secret %s: %w", ref.Source, err)
		}
		m.Target = cmp.Or(ref.Target, ref.Source)
		if !path.IsAbs(m.Target) {
			m.Target = "/run/secrets/" + m.Target
		}
		all = append(all, m)
	}
	for _, ref := range r.Service.Configs {
		obj, ok := r.Project.Configs[ref.Source]
		if !ok {
			return nil, invalid("config %s is not defined", ref.Source)
		}
		m, err := fileMount(ref.UID, ref.GID, ref.Mode, obj.Content)
		if err != nil {
			return nil, fmt.Errorf("config %s: %w", ref.Source, err)
		}
		m.Target = path.Join("/", cmp.Or(ref.Target, ref.Source))
		all = append(all, m)
	}
	return all, nil
}

func volumeMount(r scheduler.RunSpec, v compose.ServiceVolume) (spec.Mount, error) {
	m := spec.Mount{Type: v.Type, Source: v.Source, Target: v.Target, ReadOnly: v.ReadOnly}
	switch v.Type {
	case compose.VolumeTypeBind:
		m.CreateHostPath = true
		if b := v.Bind; b != nil {
			m.CreateHostPath = bool(b.CreateHostPath)
			m.Propagation = b.Propagation
			m.NonRecursive = b.Recursive == "disabled"
			m.ShallowReadOnly = b.Recursive == "writable"
			m.DeepReadOnly = b.Recursive == "readonly"
		}
	case compose.VolumeTypeVolume:
		if v.Source != "" {
			m.Source = scheduler.VolumeName(r.Project, v.Source)
		}
		if o := v.Volume; o != nil {
			m.NoCopy, m.Subpath, m.Labels = o.NoCopy, o.Subpath, o.Labels
		}
	case compose.VolumeTypeImage:
		if i := v.Image; i != nil {
			m.Subpath = i.SubPath
		}
	case compose.VolumeTypeTmpfs:
		if t := v.Tmpfs; t != nil {
			m.TmpfsSize, m.TmpfsMode = int64(t.Size), t.Mode
		}
	default:
		return m, invalid("volume %s: type %q is not supported", v.Target, v.Type)
	}
	return m, nil
}

func fileMount(uid, gid string, mode *compose.FileMode, content string) (spec.Mount, error) {
	m := spec.Mount{Type: spec.MountFile, ReadOnly: true, Content: []byte(content)}
	for _, id := range []struct {
		text string
		to   *int
	}{{uid, &m.UID}, {gid, &m.GID}} {
		if id.text == "" {
			continue
		}
		n, err := strconv.ParseUint(id.text, 10, 32)
		if err != nil {
			return m, invalid("owner %q is no number", id.text)
		}
		*id.to = int(n)
	}
	if mode != nil {
		m.Mode = uint32(*mode)
	}
	return m, nil
}

// networkSpec is a network of a project in the network's terms.
func networkSpec(s scheduler.NetworkSpec) (network.Spec, error) {
	n := network.Spec{
		Name:       s.Name,
		Internal:   s.Config.Internal,
		Attachable: s.Config.Attachable,
		Labels:     s.Labels,
		Options:    s.Config.DriverOpts,
	}
	if d := s.Config.Driver; d != "default" {
		n.Driver = d
	}
	if v6 := s.Config.EnableIPv6; v6 != nil {
		n.EnableIPv6 = *v6
	}
	for _, pool := range s.Config.Ipam.Config {
		sub, err := subnet(pool)
		if err != nil {
			return n, fmt.Errorf("network %s: %w", s.Key, err)
		}
		n.Subnets = append(n.Subnets, sub)
	}
	return n, nil
}

func subnet(p *compose.IPAMPool) (s network.Subnet, err error) {
	if p.Subnet == "" {
		return s, invalid("ipam.config: gateway, ip_range and aux_addresses need a subnet")
	}
	if s.Prefix, err = netip.ParsePrefix(p.Subnet); err != nil {
		return s, invalid("ipam.config.subnet %q is no prefix; write it as 10.5.0.0/24", p.Subnet)
	}
	if p.Gateway != "" {
		if s.Gateway, err = netip.ParseAddr(p.Gateway); err != nil {
			return s, invalid("ipam.config.gateway %q is no address", p.Gateway)
		}
	}
	if p.IPRange != "" {
		if s.Range, err = netip.ParsePrefix(p.IPRange); err != nil {
			return s, invalid("ipam.config.ip_range %q is no prefix", p.IPRange)
		}
	}
	for name, text := range p.AuxiliaryAddresses {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return s, invalid("ipam.config.aux_addresses.%s %q is no address", name, text)
		}
		if s.Aux == nil {
			s.Aux = map[string]netip.Addr{}
		}
		s.Aux[name] = addr
	}
	return s, nil
}
