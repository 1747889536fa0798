package api

import (
	"net"
	"slices"
	"strconv"
	"strings"

	"gantry/runtime"
	"gantry/runtime/spec"

	"github.com/moby/moby/api/types/container"
	dockernet "github.com/moby/moby/api/types/network"
)

// networkMode is what Docker shows of a container's wiring in one word: the
// network it was created on, as it was asked for and whatever it is on now, or
// the mode that excludes networks, with the id of whom it joins.
func networkMode(c runtime.Container) string {
	n := c.Asked.Network
	switch {
	case strings.HasPrefix(n.Mode, "container:"):
		return c.Config.Network.Mode
	case n.Mode != "":
		return n.Mode
	case len(n.Endpoints) > 0:
		return n.Endpoints[0].Network
	}
	return dockernet.NetworkBridge
}

// networkNames are the networks a container is configured to be on.
func networkNames(c runtime.Container) []string {
	n := c.Config.Network
	if n.Mode != "" && n.Mode != dockernet.NetworkBridge {
		return []string{n.Mode}
	}
	if len(n.Endpoints) == 0 {
		return []string{dockernet.NetworkBridge}
	}
	names := make([]string, len(n.Endpoints))
	for i, e := range n.Endpoints {
		names[i] = e.Network
	}
	return names
}

// wireEndpoints joins what was asked of each network with what came of it
// while the container is live.
func wireEndpoints(c runtime.Container) map[string]*dockernet.EndpointSettings {
	out := map[string]*dockernet.EndpointSettings{}
	for _, name := range networkNames(c) {
		// One that was taken off its last network is on none of them, and not on
		// the one of that name.
		bare := name == dockernet.NetworkNone && c.Asked.Network.Mode != name
		if !bare && !strings.HasPrefix(name, "container:") {
			out[name] = &dockernet.EndpointSettings{}
		}
	}
	for _, e := range c.Config.Network.Endpoints {
		s := out[e.Network]
		if s == nil {
			continue
		}
		s.Aliases, s.GwPriority = e.Aliases, e.GwPriority
		if e.Interface != "" {
			s.DriverOpts = map[string]string{ifname: e.Interface}
		}
		if e.IPv4.IsValid() || e.IPv6.IsValid() {
			s.IPAMConfig = &dockernet.EndpointIPAMConfig{IPv4Address: e.IPv4, IPv6Address: e.IPv6}
		}
		s.MacAddress = parseMAC(e.MacAddress)
		s.DNSNames = dnsNames(c, e)
	}
	for _, j := range c.Networks {
		s := out[j.NetworkName]
		if s == nil {
			s = &dockernet.EndpointSettings{}
			out[j.NetworkName] = s
		}
		s.NetworkID, s.EndpointID, s.Gateway = j.NetworkID, j.EndpointID, j.Gateway
		if j.IPv4.IsValid() {
			s.IPAddress, s.IPPrefixLen = j.IPv4.Addr(), j.IPv4.Bits()
		}
		if j.IPv6.IsValid() {
			s.GlobalIPv6Address, s.GlobalIPv6PrefixLen, s.IPv6Gateway = j.IPv6.Addr(), j.IPv6.Bits(), j.Gateway6
		}
		s.MacAddress = parseMAC(j.MAC)
	}
	return out
}

func dnsNames(c runtime.Container, e spec.Endpoint) []string {
	names := append([]string{c.Name}, e.Aliases...)
	if len(c.ID) >= 12 {
		names = append(names, c.ID[:12])
	}
	if c.Config.Hostname != "" {
		names = append(names, c.Config.Hostname)
	}
	var out []string
	for _, n := range names {
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

func parseMAC(text string) dockernet.HardwareAddr {
	hw, err := net.ParseMAC(text)
	if err != nil {
		return nil
	}
	return dockernet.HardwareAddr(hw)
}

// wirePorts are the exposed ports, each with what it is published as.
func wirePorts(c runtime.Container) dockernet.PortMap {
	out := dockernet.PortMap{}
	if !c.State.Live() {
		return out
	}
	for _, text := range c.Config.Network.Exposed {
		if p, err := dockernet.ParsePort(text); err == nil {
			out[p] = nil
		}
	}
	for _, b := range c.Ports {
		p := portOf(b.Port, b.Protocol)
		out[p] = append(out[p], dockernet.PortBinding{HostIP: b.HostIP, HostPort: strconv.Itoa(int(b.HostPort))})
	}
	return out
}

func wirePortList(c runtime.Container) []container.PortSummary {
	out := []container.PortSummary{}
	all := wirePorts(c)
	for _, p := range sortedPorts(all) {
		if len(all[p]) == 0 {
			out = append(out, container.PortSummary{PrivatePort: p.Num(), Type: string(p.Proto())})
		}
		for _, b := range all[p] {
			n, _ := strconv.ParseUint(b.HostPort, 10, 16)
			out = append(out, container.PortSummary{IP: b.HostIP, PrivatePort: p.Num(), PublicPort: uint16(n), Type: string(p.Proto())})
		}
	}
	return out
}
