package runtime

import (
	"bufio"
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gantry/network"
	"gantry/runtime/spec"
)

// nameserver is where every container with a network of its own finds the
// resolver; real files name this address, as Docker's containers do.
const nameserver = "127.0.0.11"

// hostsFile is the content of /etc/hosts: loopback, the extra hosts as asked,
// then the container's own name on each of its addresses.
func hostsFile(c Container, own string, joined []network.Joined, gateway netip.Addr) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString("127.0.0.1\tlocalhost\n" +
		"::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::\tip6-localnet\nff00::\tip6-mcastprefix\n" +
		"ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n")
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
		fmt.Fprintf(&b, "%s\t%s\n", addr, name)
	}
	if d := c.Config.Domainname; d != "" {
		own += "." + d
	}
	if short, _, ok := strings.Cut(own, "."); ok {
		own += " " + short
	}
	for _, j := range joined {
		if j.IPv4.IsValid() {
			fmt.Fprintf(&b, "%s\t%s\n", j.IPv4.Addr(), own)
		}
		if j.IPv6.IsValid() {
			fmt.Fprintf(&b, "%s\t%s\n", j.IPv6.Addr(), own)
		}
	}
	return b.Bytes(), nil
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

// resolvConf is the content of /etc/resolv.conf. Search domains and options are
// the container's, else the host's; a container on the host's network keeps
// the host's servers.
func resolvConf(n spec.Network, host []byte) []byte {
	var search, options, servers []string
	for s := bufio.NewScanner(bytes.NewReader(host)); s.Scan(); {
		switch f := strings.Fields(s.Text()); {
		case len(f) < 2:
		case f[0] == "search":
			search = f[1:]
		case f[0] == "options":
			options = f[1:]
		case f[0] == "nameserver":
			servers = append(servers, f[1])
		}
	}
	if len(n.DNSSearch) > 0 {
		search = slices.DeleteFunc(slices.Clone(n.DNSSearch), func(s string) bool { return s == "." })
	}
	if n.Mode != "host" {
		servers = []string{nameserver}
		options = []string{"ndots:0"}
	} else if len(n.DNS) > 0 {
		servers = n.DNS
	}
	if len(n.DNSOptions) > 0 {
		options = n.DNSOptions
	}
	var b bytes.Buffer
	for _, s := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(search, " "))
	}
	if len(options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(options, " "))
	}
	return b.Bytes()
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
