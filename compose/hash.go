package compose

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
)

// Hash is what counts as changed in a service: two services with the same hash
// need no new container. What only steers gantry does not count: the number of
// replicas, dependencies, profiles, how the image is built, pulled or watched,
// and how updates roll out.
//
// It does not see the content of secrets and configs; [HashIn] does.
func Hash(s Service) string {
	h := sha256.New()
	hashService(h, s)
	return hex.EncodeToString(h.Sum(nil))
}

// HashIn is Hash together with the content of the secrets and configs that the
// service mounts from its project: a container holds copies of these, so a new
// content needs a new container. It is what a container is labelled with.
func HashIn(p *Project, s Service) string {
	h := sha256.New()
	hashService(h, s)
	for _, ref := range s.Secrets {
		hashContent(h, "secret", ref.Source, p.Secrets[ref.Source].Content)
	}
	for _, ref := range s.Configs {
		hashContent(h, "config", ref.Source, p.Configs[ref.Source].Content)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func hashService(w io.Writer, s Service) {
	s = Effective(s)
	s.Build = nil
	s.PullPolicy = ""
	s.PullRefreshAfter = ""
	s.Scale = nil
	s.DependsOn = nil
	s.Profiles = nil
	s.Develop = nil
	s.Attach = nil
	s.Extends = nil
	s.EnvFiles = nil // their content is in Environment
	s.LabelFiles = nil
	if s.Deploy != nil {
		d := *s.Deploy
		d.Replicas = nil
		d.UpdateConfig = nil
		d.RollbackConfig = nil
		s.Deploy = &d
	}
	hashJSON(w, "service "+s.Name, s)
}

// Parts of a container that can be changed while it runs. What they do not
// cover is [PartContainer]: another one needs a new container. Each network a
// service is on is a part of its own, [PartNetwork] and its key: a network can
// be joined and left, while how a container is on one it stays on is settled.
const (
	PartContainer = "container"
	PartResources = "resources"
	PartRestart   = "restart"
	PartPorts     = "ports"
	PartAliases   = "aliases"
	PartNetwork   = "network:"
)

// Parts takes HashIn apart: part → hash of what a service says of it. A part
// of which nothing is said is left out.
func Parts(p *Project, s Service) map[string]string {
	all := map[string]string{}
	say := func(part string, v any) { all[part] = short(hashOf(part, v)) }
	fixed, limits := withoutLimits(s)
	if limits != (resourceFields{}) {
		say(PartResources, limits)
	}
	g, _ := GantryOf(s) // what it says wrong was refused when the project was loaded
	restart := restartFields{Restart: fixed.Restart, OnUnhealthy: g.OnUnhealthy}
	if fixed.Deploy != nil {
		restart.Policy = fixed.Deploy.RestartPolicy
		d := *fixed.Deploy
		d.RestartPolicy = nil
		fixed.Deploy = &d
	}
	fixed.Restart = ""
	if restart != (restartFields{}) {
		say(PartRestart, restart)
	}
	if ports := portFields(fixed.Ports, g.Sticky); len(ports) > 0 {
		say(PartPorts, ports)
	}
	fixed.Ports = nil
	if s.MacAddress == "" { // which goes to the first of the networks, whichever that is
		aliases := map[string][]string{}
		for key, n := range s.Networks {
			var on ServiceNetwork
			if n != nil {
				on = *n
			}
			if len(on.Aliases) > 0 {
				aliases[key] = on.Aliases
			}
			on.Aliases = nil
			all[PartNetwork+key] = short(hashOf("on network", on))
		}
		if len(aliases) > 0 {
			say(PartAliases, aliases)
		}
		fixed.Networks = nil
		if len(s.Networks) == 0 && s.NetworkMode == "" {
			all[PartNetwork+"default"] = short(hashOf("on network", ServiceNetwork{}))
		}
	}
	all[PartContainer] = short(HashIn(p, withoutSteering(fixed)))
	return all
}

// withoutSteering takes out what steers gantry, or a scheduler that it is not,
// and what Windows alone knows: nothing of it is in a container.
func withoutSteering(s Service) Service {
	s.CPUCount, s.CPUPercent, s.Isolation = 0, 0, ""
	if s.Deploy == nil {
		return s
	}
	d := *s.Deploy
	d.Replicas, d.UpdateConfig, d.RollbackConfig, d.Extensions = nil, nil, nil, nil
	d.Mode, d.Labels, d.Placement = "", nil, Placement{}
	if s.Deploy = &d; reflect.DeepEqual(d, Deploy{}) {
		s.Deploy = nil
	}
	return s
}

// short is enough of a hash to tell the few values of one part apart.
func short(hash string) string { return hash[:12] }

// resourceFields are the limits that a live container can be given.
type resourceFields struct {
	CPUS, LimitCPUs                                      float32
	CPUShares, CPUQuota, CPUPeriod, PidsLimit, LimitPids int64
	CPUSet                                               string
	Memory, Swap, Reservation, LimitMemory, LowMemory    UnitBytes
}

// withoutLimits takes the limits out of a service.
func withoutLimits(s Service) (Service, resourceFields) {
	f := resourceFields{CPUS: s.CPUS, CPUShares: s.CPUShares, CPUQuota: s.CPUQuota, CPUPeriod: s.CPUPeriod, CPUSet: s.CPUSet,
		PidsLimit: s.PidsLimit, Memory: s.MemLimit, Swap: s.MemSwapLimit, Reservation: s.MemReservation}
	s.CPUS, s.CPUShares, s.CPUQuota, s.CPUPeriod, s.CPUSet, s.PidsLimit = 0, 0, 0, 0, "", 0
	s.MemLimit, s.MemSwapLimit, s.MemReservation = 0, 0, 0
	if s.Deploy == nil {
		return s, f
	}
	d := *s.Deploy
	if l := d.Resources.Limits; l != nil {
		rest := *l
		f.LimitCPUs, f.LimitMemory, f.LimitPids = float32(l.NanoCPUs), l.MemoryBytes, l.Pids
		rest.NanoCPUs, rest.MemoryBytes, rest.Pids, rest.Extensions = 0, 0, 0, nil
		d.Resources.Limits = &rest
		if reflect.DeepEqual(rest, Resource{}) {
			d.Resources.Limits = nil
		}
	}
	if l := d.Resources.Reservations; l != nil {
		rest := *l
		f.LowMemory = l.MemoryBytes
		rest.NanoCPUs, rest.MemoryBytes, rest.Extensions = 0, 0, nil // processors are not reserved here
		d.Resources.Reservations = &rest
		if reflect.DeepEqual(rest, Resource{}) {
			d.Resources.Reservations = nil
		}
	}
	d.Resources.Extensions = nil
	s.Deploy = &d
	return s, f
}

type restartFields struct {
	Restart     string
	OnUnhealthy string
	Policy      *DeployRestart
}

// portField is what of a port has an effect: not what it is called.
type portField struct {
	HostIP, Published, Protocol, Sticky string
	Target                              uint32
}

func portFields(ports []ServicePort, sticky string) []portField {
	var all []portField
	for _, p := range ports {
		all = append(all, portField{p.HostIP, p.Published, p.Protocol, sticky, p.Target})
	}
	return all
}

// HashNetwork is what counts as changed in a network.
func HashNetwork(n Network) string { return hashOf("network", n) }

// HashVolume is what counts as changed in a volume.
func HashVolume(v Volume) string {
	if v.Driver == "" {
		v.Driver = "local"
	}
	return hashOf("volume", v)
}

func hashOf(kind string, v any) string {
	h := sha256.New()
	hashJSON(h, kind, v)
	return hex.EncodeToString(h.Sum(nil))
}

// hashJSON writes a value as JSON, where maps are sorted.
func hashJSON(w io.Writer, kind string, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		// Only values a loaded project cannot have: check refuses a cpus
		// that is no number. Such a service never equals another.
		data = fmt.Appendf(nil, "%v", err)
	}
	fmt.Fprintf(w, "%s\n%d\n%s", kind, len(data), data)
}

func hashContent(w io.Writer, kind, name, content string) {
	fmt.Fprintf(w, "\n%s %q %d %x", kind, name, len(content), sha256.Sum256([]byte(content)))
}
