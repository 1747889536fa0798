package api

import (
	"gantry/network"

	dockernet "github.com/moby/moby/api/types/network"
)

// networkRequest is the body of a create.
type networkRequest struct {
	dockernet.CreateRequest
	// CheckDuplicate is what clients before API 1.44 send; names are unique here.
	CheckDuplicate bool
}

func (r networkRequest) spec() (network.Spec, error) {
	switch {
	case r.Name == "":
		return network.Spec{}, invalid("a network needs a name")
	case isPredefined(r.Name), r.Name == dockernet.NetworkDefault: // which a container names to mean bridge
		return network.Spec{}, forbidden("operation is not permitted on predefined %s network", r.Name)
	case r.Scope != "" && r.Scope != "local":
		return network.Spec{}, unsupported("network scope %s is not supported: there is no swarm", r.Scope)
	case r.Ingress:
		return network.Spec{}, unsupported("an ingress network is not supported: there is no swarm")
	case r.ConfigOnly || r.ConfigFrom != nil && r.ConfigFrom.Network != "":
		return network.Spec{}, unsupported("config-only networks are not supported")
	case r.EnableIPv4 != nil && !*r.EnableIPv4:
		return network.Spec{}, unsupported("a network without IPv4 is not supported")
	}
	s := network.Spec{Name: r.Name, Driver: r.Driver, Internal: r.Internal, Attachable: r.Attachable, Labels: r.Labels, Options: r.Options}
	if s.Driver == "" {
		s.Driver = "bridge"
	}
	if r.EnableIPv6 != nil {
		s.EnableIPv6 = *r.EnableIPv6
	}
	if r.IPAM == nil {
		return s, nil
	}
	if d := r.IPAM.Driver; d != "" && d != "default" {
		return s, unsupported("IPAM driver %s is not supported: default is", d)
	}
	if len(r.IPAM.Options) > 0 {
		return s, unsupported("IPAM options are not supported")
	}
	for _, c := range r.IPAM.Config {
		if !c.Subnet.IsValid() {
			if c.IPRange.IsValid() || c.Gateway.IsValid() || len(c.AuxAddress) > 0 {
				return s, invalid("an IPAM configuration with a range, a gateway or addresses needs a subnet")
			}
			continue
		}
		s.Subnets = append(s.Subnets, network.Subnet{Prefix: c.Subnet.Masked(), Gateway: c.Gateway, Range: c.IPRange, Aux: c.AuxAddress})
	}
	return s, nil
}

func wireNetwork(n network.Network) dockernet.Network {
	out := dockernet.Network{
		Name: n.Name, ID: n.ID, Created: n.Created, Scope: "local", Driver: n.Driver,
		EnableIPv4: true, EnableIPv6: n.EnableIPv6, Internal: n.Internal, Attachable: n.Attachable,
		IPAM:    dockernet.IPAM{Driver: "default", Config: []dockernet.IPAMConfig{}},
		Options: orEmpty(n.Options), Labels: orEmpty(n.Labels),
	}
	if out.Driver == "" {
		out.Driver = "bridge"
	}
	for _, s := range n.Subnets {
		out.IPAM.Config = append(out.IPAM.Config, dockernet.IPAMConfig{Subnet: s.Prefix, IPRange: s.Range, Gateway: s.Gateway, AuxAddress: s.Aux})
	}
	return out
}

// wireNetworkDetails adds who is on the network; names are the containers' by id.
func wireNetworkDetails(n network.Network, on []network.EndpointInfo, names map[string]string) dockernet.Inspect {
	out := dockernet.Inspect{Network: wireNetwork(n), Containers: map[string]dockernet.EndpointResource{}}
	for _, e := range on {
		name := names[e.Sandbox]
		if name == "" {
			name = e.Name
		}
		out.Containers[e.Sandbox] = dockernet.EndpointResource{
			Name: name, EndpointID: e.EndpointID, MacAddress: parseMAC(e.MAC), IPv4Address: e.IPv4, IPv6Address: e.IPv6,
		}
	}
	return out
}
