package api

import (
	"net/netip"
	"slices"

	"gantry/runtime"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	dockernet "github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/storage"
)

// What clients before API 1.52 read, and scripts with them: half of all that
// was ever written about Docker asks for .NetworkSettings.IPAddress.

// oldEvent is an event with the fields that are Action, Actor.ID and the
// container's image today. Newer clients pass them over, and docker-compose 1
// reads them whatever API it speaks.
type oldEvent struct {
	Status string `json:"status,omitempty"`
	ID     string `json:"id,omitempty"`
	From   string `json:"from,omitempty"`
	events.Message
}

// wireOldEvent: only events of containers and images ever had these fields.
func wireOldEvent(e runtime.Event) oldEvent {
	old := oldEvent{Message: wireEvent(e)}
	if e.Type == "container" || e.Type == "image" {
		old.Status, old.ID = e.Action, e.ID
	}
	if e.Type == "container" {
		old.From = e.Attributes["image"]
	}
	return old
}

// oldInspect is a container with what it has on the default network beside the
// list of its networks.
type oldInspect struct {
	container.InspectResponse
	Config          oldConfig
	GraphDriver     storage.DriverData
	NetworkSettings oldNetworkSettings
}

// oldConfig always says what is to happen in builds.
type oldConfig struct {
	*container.Config
	OnBuild []string
}

// oldImage is an image with every field of a container's configuration, though
// an image sets few, and with those of a container it might have been made in:
// see composeImage.
type oldImage struct {
	imageDetails
	Author, Comment       string
	Parent, DockerVersion string
	Config                oldConfig
	Container             string
	ContainerConfig       oldConfig
	GraphDriver           storage.DriverData
}

func wireOldImage(in imageDetails) oldImage {
	out := oldImage{
		imageDetails: in, Author: in.Author, Comment: in.Comment, GraphDriver: driver(),
		Config: oldConfig{Config: &container.Config{}}, ContainerConfig: oldConfig{Config: &container.Config{}},
	}
	c := in.InspectResponse.Config
	if c == nil {
		return out
	}
	out.Config.OnBuild = c.OnBuild
	made := out.Config.Config
	made.User, made.Env, made.Entrypoint, made.Cmd = c.User, c.Env, c.Entrypoint, c.Cmd
	made.WorkingDir, made.Labels, made.StopSignal, made.Shell = c.WorkingDir, c.Labels, c.StopSignal, c.Shell
	made.Volumes, out.ContainerConfig.Volumes = c.Volumes, c.Volumes
	if k := c.Healthcheck; k != nil {
		made.Healthcheck = &container.HealthConfig{Test: k.Test, Interval: k.Interval, Timeout: k.Timeout,
			StartPeriod: k.StartPeriod, StartInterval: k.StartInterval, Retries: k.Retries}
	}
	for text := range c.ExposedPorts {
		if p, err := dockernet.ParsePort(text); err == nil {
			if made.ExposedPorts == nil {
				made.ExposedPorts = dockernet.PortSet{}
			}
			made.ExposedPorts[p] = struct{}{}
		}
	}
	return out
}

// composeImage is an image with what docker-compose 1 looks for without asking
// whether it is there, though it speaks the newest API it is offered: the volumes
// of a container that the image was made in. It keeps a container's volumes at
// those places when it makes the container anew.
type composeImage struct {
	imageDetails
	ContainerConfig containerVolumes
}

type containerVolumes struct {
	Volumes map[string]struct{} `json:",omitempty"`
}

func wireComposeImage(in imageDetails) composeImage {
	out := composeImage{imageDetails: in}
	if c := in.InspectResponse.Config; c != nil {
		out.ContainerConfig.Volumes = c.Volumes
	}
	return out
}

// driver is what stood for the storage of a container or an image.
func driver() storage.DriverData { return storage.DriverData{Name: "overlayfs"} }

type oldNetworkSettings struct {
	Bridge                 string
	HairpinMode            bool
	LinkLocalIPv6Address   string
	LinkLocalIPv6PrefixLen int
	SecondaryIPAddresses   []string
	SecondaryIPv6Addresses []string
	EndpointID             string
	Gateway                string
	GlobalIPv6Address      string
	GlobalIPv6PrefixLen    int
	IPAddress              string
	IPPrefixLen            int
	IPv6Gateway            string
	MacAddress             string
	*container.NetworkSettings
}

func wireOldInspect(in container.InspectResponse) oldInspect {
	out := oldInspect{InspectResponse: in, Config: oldConfig{Config: in.Config}, GraphDriver: driver()}
	out.NetworkSettings.NetworkSettings = in.NetworkSettings
	if in.NetworkSettings == nil {
		return out
	}
	e := in.NetworkSettings.Networks[dockernet.NetworkBridge]
	if e == nil {
		return out
	}
	n := &out.NetworkSettings
	n.EndpointID, n.MacAddress = e.EndpointID, e.MacAddress.String()
	n.Gateway, n.IPAddress, n.IPPrefixLen = textOf(e.Gateway), textOf(e.IPAddress), e.IPPrefixLen
	n.IPv6Gateway, n.GlobalIPv6Address, n.GlobalIPv6PrefixLen = textOf(e.IPv6Gateway), textOf(e.GlobalIPv6Address), e.GlobalIPv6PrefixLen
	return out
}

// oldAliases adds the names that a container has of itself to those it was
// given, where clients before API 1.45 look for them, once it has been started.
func oldAliases(c runtime.Container, in container.InspectResponse) {
	if c.StartedAt.IsZero() || in.NetworkSettings == nil {
		return
	}
	for name, e := range in.NetworkSettings.Networks {
		if isPredefined(name) {
			continue
		}
		aliases := slices.Clone(e.Aliases)
		for _, own := range []string{c.ID[:12], in.Config.Hostname} {
			if own != "" && !slices.Contains(aliases, own) {
				aliases = append(aliases, own)
			}
		}
		e.Aliases = aliases
	}
}

// textOf is an address as text, nothing for none.
func textOf(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
