package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"gantry/client"

	"github.com/spf13/cobra"
)

// address is a published port under the name of a variable.
type address struct{ name, value string }

func (a *app) envCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "env [SERVICE...]",
		Short: "Show where ports are published, as variables",
		Long: "env shows where the ports of running services are published, as variables for a\n" +
			"shell:\n\n" +
			"  eval \"$(gantry --instance auto env)\" && curl \"http://$WEB_80\"\n\n" +
			"A variable is called after the service and the port of its container, in capital\n" +
			"letters; what cannot be part of a variable's name is _. A UDP port's ends in _UDP,\n" +
			"a port's second address in _2.",
		ValidArgsFunction: a.completeServices,
		RunE:              func(cmd *cobra.Command, services []string) error { return a.printEnv(cmd.Context(), services, format) },
	}
	cmd.Flags().StringVar(&format, "format", "shell", "shell (export NAME=value), dotenv (NAME=value) or json")
	a.completeFlagValues(cmd, "format", "shell", "dotenv", "json")
	dryRunnable(cmd)
	return cmd
}

func (a *app) printEnv(ctx context.Context, services []string, format string) error {
	if !slices.Contains([]string{"shell", "dotenv", formatJSON}, format) {
		return fmt.Errorf("--format %q: must be shell, dotenv or json", format)
	}
	s, err := a.stack(ctx, stackOptions{services: services})
	if err != nil {
		return err
	}
	if len(s.containers) == 0 {
		return fmt.Errorf("nothing of project %s runs; bring it up with `gantry up -d`", s.name)
	}
	all := addresses(s.containers, machineOf(s.client.Host()))
	if format == formatJSON {
		return printAddresses(a, all)
	}
	for _, v := range all {
		if format == "shell" {
			fmt.Fprintf(a.out, "export %s=%s\n", v.name, quoted(v.value))
		} else {
			fmt.Fprintf(a.out, "%s=%s\n", v.name, v.value)
		}
	}
	return nil
}

// printAddresses writes one object, its keys in the order of the list.
func printAddresses(a *app, all []address) error {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, v := range all {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%q:%q", v.name, v.value)
	}
	b.WriteByte('}')
	var out bytes.Buffer
	if err := json.Indent(&out, b.Bytes(), "", "  "); err != nil {
		return err
	}
	_, err := fmt.Fprintln(a.out, out.String())
	return err
}

// addresses are the published ports of containers, sorted by service and port.
// Replicas behind one port have one address.
func addresses(containers []replica, machine string) []address {
	type key struct {
		service string
		port    uint16
		udp     bool
	}
	var keys []key
	found := map[key][]string{}
	for _, r := range containers {
		for _, p := range sortedPorts(r.Ports) {
			if p.PublicPort == 0 || everywhere6(p) && slices.ContainsFunc(r.Ports, func(q client.PortSummary) bool { return samePort(p, q) && !everywhere6(q) }) {
				continue
			}
			k := key{r.service, p.PrivatePort, p.Type == "udp"}
			at := reached(p, machine)
			if found[k] == nil {
				keys = append(keys, k)
			}
			if !slices.Contains(found[k], at) {
				found[k] = append(found[k], at)
			}
		}
	}
	slices.SortStableFunc(keys, func(a, b key) int {
		if c := strings.Compare(a.service, b.service); c != 0 {
			return c
		}
		return int(a.port) - int(b.port)
	})
	var all []address
	taken := map[string]bool{}
	for _, k := range keys {
		name := variable(k.service) + "_" + strconv.Itoa(int(k.port))
		if k.udp {
			name += "_UDP"
		}
		for _, at := range found[k] {
			free := name
			for n := 2; taken[free]; n++ {
				free = name + "_" + strconv.Itoa(n)
			}
			taken[free] = true
			all = append(all, address{free, at})
		}
	}
	return all
}

// reached is where a port that is published on all of the machine's addresses,
// or on one, is reached from here.
func reached(p client.PortSummary, machine string) string {
	host := machine
	switch {
	case everywhere6(p) && host == loopback:
		host = "::1"
	case p.IP.IsValid() && !p.IP.IsUnspecified():
		host = p.IP.String()
	}
	return net.JoinHostPort(host, strconv.Itoa(int(p.PublicPort)))
}

// everywhere6 reports whether a port is published on all IPv6 addresses: most
// are, beside all of IPv4.
func everywhere6(p client.PortSummary) bool { return p.IP.Is6() && p.IP.IsUnspecified() }

func samePort(p, q client.PortSummary) bool {
	return p.PublicPort == q.PublicPort && p.PrivatePort == q.PrivatePort && p.Type == q.Type
}

const loopback = "127.0.0.1"

// machineOf is the machine that a daemon's address leads to.
func machineOf(host string) string {
	u, err := url.Parse(host)
	if err != nil || u.Hostname() == "" || !slices.Contains([]string{"tcp", "http", "https"}, u.Scheme) {
		return loopback
	}
	return u.Hostname()
}

// variable is a service's name as part of a variable's.
func variable(service string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
			return r
		}
		return '_'
	}, strings.ToUpper(service))
	if name == "" || name[0] <= '9' {
		name = "_" + name
	}
	return name
}

// quoted is text as a shell reads it back: as it is where nothing in it means
// anything, else in quotes.
func quoted(text string) string {
	plain := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("._:/@%+-", r)
	}
	if text != "" && strings.IndexFunc(text, func(r rune) bool { return !plain(r) }) < 0 {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
