package runtime

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gantry/network"
	"gantry/runtime/spec"
)

// hostsFile is the content of /etc/hosts: loopback, the extra hosts as asked,
// then the container's own name on each of its addresses.
func hostsFile(c Container, own string, joined []network.Joined, gateway netip.Addr) ([]byte, error) {
	var names []spec.HostName
	for _, x := range c.Config.Network.ExtraHosts {
		name, addr, ok := splitHost(x)
		if !ok {
			return nil, fmt.Errorf("extra host %q: not NAME:ADDRESS", x)
		}
		if addr == "host-gateway" {
			if !gateway.IsValid() {
				return nil, fmt.Errorf("extra host %q: no address of the host can be had; see the daemon's log", x)
			}
			addr = gateway.String()
		}
		names = append(names, spec.HostName{Name: name, Addr: addr})
	}
	if d := c.Config.Domainname; d != "" {
		own += "." + d
	}
	if short, _, ok := strings.Cut(own, "."); ok {
		own += " " + short
	}
	for _, j := range joined {
		if j.IPv4.IsValid() {
			names = append(names, spec.HostName{Name: own, Addr: j.IPv4.Addr().String()})
		}
		if j.IPv6.IsValid() {
			names = append(names, spec.HostName{Name: own, Addr: j.IPv6.Addr().String()})
		}
	}
	return spec.HostsFile(names), nil
}

// hostGateway is the address under which a container reaches the host: that of
// its own network, which the host has there also when the network is internal;
// without a network the default bridge's, which asking for makes.
func (e *Engine) hostGateway(c Container, joined []network.Joined) netip.Addr {
	asked := slices.ContainsFunc(c.Config.Network.ExtraHosts, func(x string) bool { return strings.HasSuffix(x, "host-gateway") })
	if !asked {
		return netip.Addr{}
	}
	for _, j := range joined {
		if !j.Primary {
			continue
		}
		if j.Gateway.IsValid() {
			return j.Gateway
		}
		if n, err := e.Fabric.Network(j.NetworkID); err == nil && len(n.Subnets) > 0 {
			return n.Subnets[0].Gateway
		}
	}
	return e.Fabric.HostGateway()
}

// splitHost takes "name:addr" and "name=addr" apart. An IPv6 address may stand
// in brackets.
func splitHost(x string) (name, addr string, ok bool) {
	i := strings.IndexAny(x, ":=")
	if i <= 0 || i == len(x)-1 {
		return "", "", false
	}
	addr = strings.Trim(x[i+1:], "[]")
	if addr != "host-gateway" {
		if _, err := netip.ParseAddr(addr); err != nil {
			return "", "", false
		}
	}
	return x[:i], addr, true
}

// overwrite puts content into an existing file in place: it is bind-mounted
// into the container, which would not see a new inode.
func overwrite(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	if _, err = f.Write(content); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// filesOf are the generated files a container shows below /etc.
func (e *Engine) filesOf(id string) spec.Files {
	dir := e.rec.dir(id)
	return spec.Files{
		Hostname:   filepath.Join(dir, "hostname"),
		Hosts:      filepath.Join(dir, "hosts"),
		ResolvConf: filepath.Join(dir, "resolv.conf"),
	}
}
