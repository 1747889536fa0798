package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"gantry/compose"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
)

// portRow is a port of a service and who can reach it.
type portRow struct {
	Service   string
	Port      string // "80/tcp"; "all": every one
	Published string // "0.0.0.0:8080"; "": nowhere on the host
	Reach     string // one of the reaches, or the networks it can be reached on
	Rule      string // what decides it
}

// Reaches of a port, the narrowest first.
const (
	reachNetworks = "its networks"  // other containers there, and the machine itself
	reachLoopback = "loopback"      // the machine itself
	reachLocal    = "local network" // who is on a private network of the machine
	reachAll      = "everywhere"    // who reaches any address of the machine
)

func (a *app) portsCommand() *cobra.Command {
	var format string
	var all bool
	cmd := &cobra.Command{
		Use:   "ports [SERVICE...]",
		Short: "Show what can be reached from where, and why",
		Long: `Shows the ports of services, from where each can be reached, and what decides that:

  its networks   other containers on the service's networks, and this machine
  loopback       this machine
  local network  whoever is on the private network of a machine's address
  everywhere     whoever reaches this machine

Ports without an address of the host are published on every one, unless the
project says x-gantry: {publish: loopback}. What the firewall of this machine
keeps away is told as a warning.`,
		ValidArgsFunction: a.completeServices,
		RunE: func(cmd *cobra.Command, services []string) error {
			return a.ports(cmd.Context(), services, all, format)
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "ports that are not published, too")
	cmd.Flags().StringVar(&format, "format", "table", "table, json or a Go template")
	a.completeFlagValues(cmd, "format", "table", "json")
	dryRunnable(cmd)
	return cmd
}

func (a *app) ports(ctx context.Context, services []string, all bool, format string) error {
	s, err := a.stack(ctx, stackOptions{services: services})
	if err != nil {
		return err
	}
	var byDefault string // the address of ports that name none
	goal, err := s.client.Goal(ctx, s.name, false)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if goal.Project != nil {
		g, err := compose.Gantry(goal.Project)
		if err != nil {
			return err
		}
		if g.Publish == "loopback" {
			byDefault = "x-gantry.publish: loopback"
		}
	}
	networks, err := s.client.Networks(ctx, nil)
	if err != nil {
		return err
	}
	macvlans := map[string]bool{}
	for _, n := range networks {
		macvlans[n.Name] = n.Driver == "macvlan"
	}
	info, err := s.client.Info(ctx)
	if err != nil {
		return err
	}
	l := list[portRow]{quiet: "Published", columns: []column{{"SERVICE", "Service"}, {"PORT", "Port"}, {"PUBLISHED", "Published"}, {"REACHABLE FROM", "Reach"}, {"DECIDED BY", "Rule"}}}
	seen := map[portRow]bool{}
	for _, r := range s.containers {
		for _, row := range portRows(r, macvlans, byDefault) {
			if !seen[row] && (all || row.Reach != reachNetworks) {
				seen[row] = true
				l.rows = append(l.rows, row)
			}
		}
	}
	if err := l.print(a.out, format, false); err != nil {
		return err
	}
	for _, w := range info.Warnings {
		fmt.Fprintln(a.err, "warning:", w)
	}
	return nil
}

// portRows are the ports of one container. byDefault, unless it is empty, is
// what publishes ports without an address on loopback alone.
func portRows(r replica, macvlans map[string]bool, byDefault string) (rows []portRow) {
	if r.HostConfig.NetworkMode == "host" {
		return []portRow{{r.service, "all", "", reachAll, "network_mode: host, where every port is the machine's own"}}
	}
	var on []string
	if r.NetworkSettings != nil {
		on = slices.Sorted(maps.Keys(r.NetworkSettings.Networks))
	}
	for _, name := range on {
		if macvlans[name] {
			addr := r.NetworkSettings.Networks[name].IPAddress
			rows = append(rows, portRow{r.service, "all", addr.String(), reachLocal, "network " + name + " is a macvlan, where every port is the container's own"})
		}
	}
	for _, p := range sortedPorts(r.Ports) {
		row := portRow{Service: r.service, Port: fmt.Sprintf("%d/%s", p.PrivatePort, p.Type)}
		if p.PublicPort == 0 {
			row.Reach, row.Rule = reachNetworks, "it is not published; on "+strings.Join(on, ", ")
		} else {
			row.Published = netip.AddrPortFrom(p.IP, p.PublicPort).String()
			row.Reach, row.Rule = reachOf(p.IP, byDefault)
		}
		rows = append(rows, row)
	}
	slices.SortStableFunc(rows, func(a, b portRow) int { return cmp.Compare(portNumber(a), portNumber(b)) })
	return rows
}

func portNumber(r portRow) int {
	number, _, _ := strings.Cut(r.Port, "/")
	n, err := strconv.Atoi(number)
	if err != nil {
		return 0
	}
	return n
}

// reachOf says who reaches a port that is published on an address of the host,
// and why.
func reachOf(ip netip.Addr, byDefault string) (reach, rule string) {
	shared := netip.MustParsePrefix("100.64.0.0/10") // of carriers and overlays, RFC 6598
	switch ip = ip.Unmap(); {
	case !ip.IsValid() || ip.IsUnspecified():
		return reachAll, "the port names no address of the host"
	case ip.IsLoopback() && byDefault != "":
		return reachLoopback, byDefault
	case ip.IsLoopback():
		return reachLoopback, "its address of the host, " + ip.String()
	case ip.IsPrivate() || ip.IsLinkLocalUnicast() || shared.Contains(ip):
		return reachLocal, "its address of the host, " + ip.String() + ", which is private"
	}
	return reachAll, "its address of the host, " + ip.String() + ", which is public"
}
