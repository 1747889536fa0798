package api

import (
	"net/netip"

	"gantry/runtime"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	dockernet "github.com/moby/moby/api/types/network"
)

// What clients before API 1.52 read, and scripts with them: half of all that
// was ever written about Docker asks for .NetworkSettings.IPAddress.

// oldEvent is an event with the fields that are Action, Actor.ID and the
// container's image today.
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
	NetworkSettings oldNetworkSettings
}

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
	out := oldInspect{InspectResponse: in}
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

// textOf is an address as text, nothing for none.
func textOf(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
