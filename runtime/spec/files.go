package spec

import (
	"bufio"
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// nameserver is where every container with a network of its own finds the
// resolver; real files name this address, as Docker's containers do.
const nameserver = "127.0.0.11"

// HostName is a line of /etc/hosts; Name may be several, with spaces.
type HostName struct{ Name, Addr string }

// HostsFile is the content of /etc/hosts: loopback, then names.
func HostsFile(names []HostName) []byte {
	var b bytes.Buffer
	b.WriteString("127.0.0.1\tlocalhost\n" +
		"::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::\tip6-localnet\nff00::\tip6-mcastprefix\n" +
		"ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n")
	for _, n := range names {
		fmt.Fprintf(&b, "%s\t%s\n", n.Addr, n.Name)
	}
	return b.Bytes()
}

// ResolvConf is the content of /etc/resolv.conf. Search domains and options are
// the container's, else the host's; a container on the host's network keeps
// the host's servers.
func ResolvConf(n Network, host []byte) []byte {
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
