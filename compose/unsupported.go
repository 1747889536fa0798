package compose

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
)

// Unsupported names every attribute of the project that gantry cannot honour
// yet, in the order of the project's parts; such a project must not be brought
// up. Each is an [*Error] of class ErrNotImplemented. `build` is not among
// them: a service whose image is there needs none.
func Unsupported(p *Project) []error {
	r := &refusals{loc: projectLocator(p)}
	for _, name := range sortedKeys(p.AllJobs()) {
		r.add("jobs are not supported yet", "jobs", name)
	}
	for _, name := range sortedKeys(p.Models) {
		r.add("models are not supported yet", "models", name)
	}
	for _, name := range p.ServiceNames() {
		s := p.Services[name]
		for _, part := range []func(*refusals, Service){
			refuseRuntime, refuseNamespaces, refuseNetworking, refuseStorage, refuseSecurity, refuseLifecycle, refuseLogging} {
			part(r, s)
		}
		for _, key := range sortedKeys(s.Networks) {
			vip := s.Deploy != nil && s.Deploy.EndpointMode == "vip"
			r.service(s, vip && p.Networks[key].Driver == "macvlan", "deploy.endpoint_mode", "vip is not possible on network "+key+", a macvlan, whose containers talk past this machine; use dnsrr")
		}
	}
	for _, name := range p.NetworkNames() {
		refuseNetwork(r, name, p.Networks[name])
	}
	for _, name := range p.VolumeNames() {
		refuseVolume(r, name, p.Volumes[name])
	}
	for _, name := range p.SecretNames() {
		s := p.Secrets[name]
		refuseObject(r, "secrets", name, bool(s.External), s.Driver, s.File+s.Environment+s.Content)
	}
	for _, name := range p.ConfigNames() {
		c := p.Configs[name]
		refuseObject(r, "configs", name, bool(c.External), c.Driver, c.File+c.Environment+c.Content)
	}
	return r.errs
}

// InterfaceOption is the option of an endpoint's driver that names the
// interface inside, as interface_name does.
const InterfaceOption = "com.docker.network.endpoint.ifname"

// refusals collects errors with their places.
type refusals struct {
	loc  *locator
	errs []error
}

func (r *refusals) add(cause string, path ...string) {
	r.errs = append(r.errs, r.loc.at(&Error{Object: strings.Join(path, "."), Cause: cause,
		Next: "remove it", class: errdefs.ErrNotImplemented}, path...))
}

// service refuses an attribute of a service if it is set.
func (r *refusals) service(s Service, set bool, key, what string) {
	if set {
		r.add(what, append([]string{"services", s.Name}, strings.Split(key, ".")...)...)
	}
}

func refuseRuntime(r *refusals, s Service) {
	const yet = " not supported yet"
	r.service(s, s.Provider != nil, "provider", "providers are"+yet)
	r.service(s, len(s.Models) > 0, "models", "models are"+yet)
	r.service(s, len(s.Gpus) > 0, "gpus", "GPUs are"+yet)
	r.service(s, len(s.StorageOpt) > 0, "storage_opt", "storage options are"+yet)
	r.service(s, s.Umask != nil, "umask", "a umask is"+yet)
	r.service(s, s.UseAPISocket, "use_api_socket", "giving a container the API's socket is"+yet)
	r.service(s, s.CredentialSpec != nil, "credential_spec", "credential specs exist on Windows alone")
	r.service(s, s.Isolation != "" && s.Isolation != "default", "isolation", "isolation "+strconv.Quote(s.Isolation)+" exists on Windows alone")
	switch s.Runtime {
	case "", "gantry", "runc", "io.containerd.runc.v2":
	default:
		r.service(s, true, "runtime", fmt.Sprintf("runtime %q is%s, gantry has its own", s.Runtime, yet))
	}
	for _, d := range s.Devices {
		// "vendor.com/class=name" asks the Container Device Interface.
		r.service(s, !strings.HasPrefix(d.Source, "/"), "devices", fmt.Sprintf("device %q is no path: CDI devices are%s", d.Source, yet))
	}
	if s.Deploy != nil && s.Deploy.Resources.Reservations != nil {
		r.service(s, len(s.Deploy.Resources.Reservations.Devices) > 0, "deploy.resources.reservations.devices", "reserving devices is"+yet)
	}
	if s.Platform != "" && !platformHere(s.Platform) {
		r.service(s, true, "platform", fmt.Sprintf("%s does not run here, on %s/%s: emulation is%s", s.Platform, runtime.GOOS, runtime.GOARCH, yet))
	}
}

// platformHere tells whether images of a platform run on this machine.
func platformHere(platform string) bool {
	p, err := platforms.Parse(platform)
	return err == nil && platforms.Default().Match(p)
}

func refuseNamespaces(r *refusals, s Service) {
	oneOf := func(key, value string, allowed ...string) {
		ok := value == "" || slices.ContainsFunc(allowed, func(a string) bool {
			return value == a || strings.HasSuffix(a, ":") && strings.HasPrefix(value, a) && value != a
		})
		r.service(s, !ok, key, fmt.Sprintf("%s %q is not supported yet (only %s)", key, value, strings.Join(allowed, ", ")))
	}
	oneOf("pid", s.Pid, "host", ServicePrefix, ContainerPrefix)
	oneOf("ipc", s.Ipc, "private", "shareable", "none", "host", ServicePrefix, ContainerPrefix)
	oneOf("uts", s.Uts, "host")
	oneOf("cgroup", s.Cgroup, "host", "private")
	oneOf("userns_mode", s.UserNSMode, "host")
	oneOf("network_mode", s.NetworkMode, "bridge", "none", "host", ServicePrefix, ContainerPrefix)
}

func refuseNetworking(r *refusals, s Service) {
	r.service(s, s.Net != "", "net", "has long been replaced by network_mode")
	r.service(s, len(s.ExternalLinks) > 0, "external_links", "links to containers of other projects are not supported yet; share a network instead")
	for _, name := range sortedKeys(s.Networks) {
		n := s.Networks[name]
		if n == nil {
			continue
		}
		at := "networks." + name + "."
		for _, key := range sortedKeys(n.DriverOpts) {
			r.service(s, key != InterfaceOption, at+"driver_opts."+key, "this option of an endpoint is not supported yet (only "+InterfaceOption+")")
		}
		r.service(s, len(n.LinkLocalIPs) > 0, at+"link_local_ips", "link-local addresses are not supported yet")
		r.service(s, !n.ServiceNameAliasEnabled(), at+"use_service_name_alias", "leaving out the service's name is not supported yet")
	}
	if s.Deploy != nil {
		mode := s.Deploy.EndpointMode
		r.service(s, !slices.Contains([]string{"", "vip", "dnsrr"}, mode), "deploy.endpoint_mode", fmt.Sprintf("%q is no endpoint mode (vip, dnsrr)", mode))
	}
	for _, p := range s.Ports {
		r.service(s, p.Protocol != "" && p.Protocol != "tcp" && p.Protocol != "udp", "ports", fmt.Sprintf("protocol %q is not supported yet (only tcp, udp)", p.Protocol))
	}
}

func refuseStorage(r *refusals, s Service) {
	r.service(s, s.VolumeDriver != "", "volume_driver", "volume drivers are not supported yet")
	r.service(s, len(s.VolumesFrom) > 0, "volumes_from", "taking another container's volumes is not supported yet; name the volumes in both")
	for _, v := range s.Volumes {
		switch v.Type {
		case VolumeTypeBind, VolumeTypeVolume, VolumeTypeTmpfs, VolumeTypeImage:
		default:
			r.add(fmt.Sprintf("volumes of type %q are not supported yet", v.Type), "services", s.Name, "volumes", v.Source)
		}
		if v.Bind != nil && !slices.Contains([]string{"", "enabled", "disabled", "writable", "readonly"}, v.Bind.Recursive) {
			r.add(fmt.Sprintf("bind.recursive %q is not supported yet (only enabled, disabled, writable, readonly)", v.Bind.Recursive), "services", s.Name, "volumes", v.Source)
		}
	}
	for _, c := range s.Secrets {
		refuseOwner(r, s.Name, "secrets", c.Source, c.UID, c.GID)
	}
	for _, c := range s.Configs {
		refuseOwner(r, s.Name, "configs", c.Source, c.UID, c.GID)
	}
}

func refuseOwner(r *refusals, service, section, source string, ids ...string) {
	for _, id := range ids {
		if _, err := strconv.ParseUint(id, 10, 32); id != "" && err != nil {
			r.add(fmt.Sprintf("owner %q is no number: names are not supported yet", id), "services", service, section, source)
		}
	}
}

func refuseSecurity(r *refusals, s Service) {
	for _, opt := range s.SecurityOpt {
		key, value := securityOption(opt)
		switch {
		case key == "no-new-privileges" && (value == "" || value == "true" || value == "false"):
		case key == "seccomp" && value != "":
		case key == "apparmor" && value != "":
		case key == "label" && value == "disable": // no labels are ever set
		case key == "systempaths" && value == "unconfined":
		case key == "writable-cgroups" && (value == "true" || value == "false"):
		default:
			if len(opt) > 60 {
				opt = opt[:60] + "…"
			}
			r.add(fmt.Sprintf("security option %q is not supported yet", opt), "services", s.Name, "security_opt")
		}
	}
}

// securityOption splits "key=value" or, as it was once written, "key:value".
func securityOption(opt string) (key, value string) {
	if i := strings.IndexAny(opt, "=:"); i >= 0 {
		return opt[:i], opt[i+1:]
	}
	return opt, ""
}

func refuseLifecycle(r *refusals, s Service) {
	r.service(s, len(s.PreStart) > 0, "pre_start", "hooks are not supported yet")
	r.service(s, len(s.PostStart) > 0, "post_start", "hooks are not supported yet")
	r.service(s, len(s.PreStop) > 0, "pre_stop", "hooks are not supported yet")
	if _, _, err := PullPolicy(s); err != nil {
		r.service(s, true, "pull_policy", err.Error())
	}
	policy, count, counted := strings.Cut(s.Restart, ":")
	_, err := strconv.ParseUint(count, 10, 31)
	switch {
	case !counted && slices.Contains([]string{"", "no", "always", "on-failure", "unless-stopped"}, policy):
	case counted && policy == "on-failure" && err == nil:
	default:
		r.service(s, true, "restart", fmt.Sprintf("%q is no restart policy (no, always, on-failure[:COUNT], unless-stopped)", s.Restart))
	}
	if s.Deploy != nil && s.Deploy.RestartPolicy != nil {
		c := s.Deploy.RestartPolicy.Condition
		r.service(s, !slices.Contains([]string{"", "none", "on-failure", "any"}, c), "deploy.restart_policy.condition",
			fmt.Sprintf("%q is no condition (none, on-failure, any)", c))
	}
}

func refuseLogging(r *refusals, s Service) {
	r.service(s, s.LogDriver != "", "log_driver", "has long been replaced by logging")
	r.service(s, len(s.LogOpt) > 0, "log_opt", "has long been replaced by logging")
	if s.Logging == nil {
		return
	}
	switch s.Logging.Driver {
	case "", "json-file", "local":
		for _, k := range slices.Sorted(maps.Keys(s.Logging.Options)) {
			r.service(s, k != "max-size" && k != "max-file", "logging.options."+k, "this option is not supported yet (only max-size, max-file)")
		}
	case "none":
	default:
		r.service(s, true, "logging.driver", fmt.Sprintf("log driver %q is not supported yet (only json-file, local, none)", s.Logging.Driver))
	}
}

func refuseNetwork(r *refusals, name string, n Network) {
	if n.External {
		return // taken as it is
	}
	refuse := func(set bool, key, cause string) {
		if set {
			r.add(cause, append([]string{"networks", name}, strings.Split(key, ".")...)...)
		}
	}
	refuse(!slices.Contains([]string{"", "default", "bridge", "macvlan"}, n.Driver), "driver", fmt.Sprintf("network driver %q is not supported yet (only bridge, macvlan)", n.Driver))
	refuse(n.EnableIPv4 != nil && !*n.EnableIPv4, "enable_ipv4", "networks without IPv4 are not supported yet")
	refuse(n.Ipam.Driver != "" && n.Ipam.Driver != "default", "ipam.driver", fmt.Sprintf("address driver %q is not supported yet (only default)", n.Ipam.Driver))
	refuse(len(n.Ipam.Options) > 0, "ipam.options", "options of the address driver are not supported yet")
}

func refuseVolume(r *refusals, name string, v Volume) {
	if v.External {
		return
	}
	if v.Driver != "" && v.Driver != "local" {
		r.add(fmt.Sprintf("volume driver %q is not supported yet (only local)", v.Driver), "volumes", name, "driver")
	}
	for _, k := range slices.Sorted(maps.Keys(v.DriverOpts)) {
		if k != "type" && k != "o" && k != "device" {
			r.add("this option is not supported yet (only type, o, device)", "volumes", name, "driver_opts", k)
		}
	}
}

func refuseObject(r *refusals, section, name string, external bool, driver, source string) {
	if external {
		r.add("nothing outside the project keeps "+section+" yet; give it a file, environment or content", section, name, "external")
	}
	if driver != "" && source == "" {
		r.add(fmt.Sprintf("driver %q is not supported yet; give it a file or environment", driver), section, name, "driver")
	}
}

// Notes are attributes that mean nothing on one Linux machine (Swarm's and
// Windows'), one line each: they are read and have no effect.
func Notes(p *Project) []string {
	var notes []string
	for _, name := range p.ServiceNames() {
		s := p.Services[name]
		note := func(set bool, key, why string) {
			if set {
				notes = append(notes, "services."+name+"."+key+": has no effect: "+why)
			}
		}
		note(s.CPUCount != 0, "cpu_count", "it is for Windows; cpus does the same")
		note(s.CPUPercent != 0, "cpu_percent", "it is for Windows; cpus does the same")
		for _, v := range s.Volumes {
			at := "volumes." + v.Target + "."
			note(v.Bind != nil && v.Type != VolumeTypeBind, at+"bind", "the mount is of type "+v.Type)
			note(v.Volume != nil && v.Type != VolumeTypeVolume, at+"volume", "the mount is of type "+v.Type)
			note(v.Image != nil && v.Type != VolumeTypeImage, at+"image", "the mount is of type "+v.Type)
			note(v.Tmpfs != nil && v.Type != VolumeTypeTmpfs, at+"tmpfs", "the mount is of type "+v.Type)
		}
		for _, p := range s.Ports {
			note(p.Mode != "" && p.Mode != "ingress", "ports."+strconv.Itoa(int(p.Target))+".mode", "it is for a cluster")
		}
		if d := s.Deploy; d != nil {
			const swarm = "it is for a cluster"
			note(d.Mode != "" && d.Mode != "replicated", "deploy.mode", swarm)
			note(len(d.Labels) > 0, "deploy.labels", "it labels a cluster's services; labels does containers")
			note(len(d.Placement.Constraints)+len(d.Placement.Preferences) > 0 || d.Placement.MaxReplicas > 0, "deploy.placement", swarm)
			if r := d.Resources.Reservations; r != nil {
				note(r.NanoCPUs != 0, "deploy.resources.reservations.cpus", swarm)
				note(len(r.GenericResources) > 0, "deploy.resources.reservations.generic_resources", swarm)
			}
		}
	}
	for _, name := range p.SecretNames() {
		s := p.Secrets[name]
		if s.TemplateDriver != "" || s.Driver != "" || len(s.DriverOpts) > 0 {
			notes = append(notes, "secrets."+name+": drivers have no effect: they are for a cluster")
		}
	}
	for _, name := range p.ConfigNames() {
		if p.Configs[name].TemplateDriver != "" {
			notes = append(notes, "configs."+name+".template_driver: has no effect: it is for a cluster")
		}
	}
	return notes
}
