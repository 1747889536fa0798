package cli

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"gantry/client"

	"github.com/spf13/cobra"
)

func (a *app) networkCommand() *cobra.Command {
	network := noun("network", "Networks")
	rm := &cobra.Command{
		Use:               "rm NETWORK...",
		Aliases:           []string{"remove"},
		Short:             "Remove networks that nothing is on",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeNetworks,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.forEach(cmd.Context(), args, func(ctx context.Context, c *client.Client, ref string) error {
				if err := c.RemoveNetwork(ctx, ref); err != nil {
					return err
				}
				fmt.Fprintln(a.out, ref)
				return nil
			})
		},
	}
	network.AddCommand(a.networkListCommand(), a.networkCreateCommand(), rm, a.networkPruneCommand(),
		a.inspectCommand("networks", a.completeNetworks, func(ctx context.Context, c *client.Client, ref string) (any, error) { return c.Network(ctx, ref) }),
		a.networkConnectCommand(), a.networkDisconnectCommand())
	return network
}

// networkRow is a network in a list.
type networkRow struct {
	CreatedAt string
	Driver    string
	ID        string
	IPv6      string
	Internal  string
	Labels    labels
	Name      string
	Scope     string
	Subnets   string
}

func (a *app) networkListCommand() *cobra.Command {
	var quiet, noTrunc bool
	var format string
	var filters []string
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List networks",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := parseFilters(filters)
			if err != nil {
				return err
			}
			c, err := a.daemon(cmd.Context())
			if err != nil {
				return err
			}
			networks, err := c.Networks(cmd.Context(), f)
			if err != nil {
				return err
			}
			l := list[networkRow]{quiet: "ID", columns: []column{{"NETWORK ID", "ID"}, {"NAME", "Name"}, {"DRIVER", "Driver"}, {"SUBNET", "Subnets"}, {"SCOPE", "Scope"}}}
			for _, n := range networks {
				row := networkRow{ID: n.ID, Name: n.Name, Driver: n.Driver, Scope: n.Scope, Labels: n.Labels,
					CreatedAt: n.Created.Format("2006-01-02 15:04:05 -0700 MST"), IPv6: strconv.FormatBool(n.EnableIPv6), Internal: strconv.FormatBool(n.Internal)}
				var subnets []string
				for _, c := range n.IPAM.Config {
					subnets = append(subnets, c.Subnet.String())
				}
				row.Subnets = strings.Join(subnets, ",")
				if !noTrunc {
					row.ID = n.ID[:min(12, len(n.ID))]
				}
				l.rows = append(l.rows, row)
			}
			slices.SortFunc(l.rows, func(a, b networkRow) int { return strings.Compare(a.Name, b.Name) })
			return l.print(a.out, format, quiet)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&quiet, "quiet", "q", false, "ids alone")
	f.BoolVar(&noTrunc, "no-trunc", false, "do not shorten")
	f.StringArrayVar(&filters, "filter", nil, "only those with `key=value`")
	f.StringVar(&format, "format", "table", "table, json or a Go template")
	dryRunnable(cmd)
	return cmd
}

func (a *app) networkCreateCommand() *cobra.Command {
	var driver string
	var labels, options, subnets, gateways, ranges []string
	var internal, attachable bool
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a network",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec := client.NetworkSpec{Name: args[0], Driver: driver, Internal: internal, Attachable: attachable,
				Labels: pairs(labels), Options: pairs(options)}
			if err := addSubnets(&spec, subnets, gateways, ranges); err != nil {
				return err
			}
			c, err := a.daemon(cmd.Context())
			if err != nil {
				return err
			}
			id, err := c.CreateNetwork(cmd.Context(), spec)
			if err != nil {
				return err
			}
			fmt.Fprintln(a.out, id)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&driver, "driver", "d", "bridge", "`driver`")
	f.BoolVar(&internal, "internal", false, "leads nowhere else")
	f.BoolVar(&attachable, "attachable", false, "containers may be attached by hand")
	f.StringArrayVar(&subnets, "subnet", nil, "`prefix` of its addresses, such as 10.9.0.0/24")
	f.StringArrayVar(&gateways, "gateway", nil, "`address` of the gateway in the subnet")
	f.StringArrayVar(&ranges, "ip-range", nil, "`prefix` within the subnet that addresses are given from")
	f.StringArrayVar(&labels, "label", nil, "`key=value`")
	f.StringArrayVarP(&options, "opt", "o", nil, "option of the driver, `key=value`")
	return cmd
}

// addSubnets puts each gateway and range to the subnet that holds it.
func addSubnets(spec *client.NetworkSpec, subnets, gateways, ranges []string) error {
	if len(subnets) == 0 {
		if len(gateways)+len(ranges) > 0 {
			return fmt.Errorf("--gateway and --ip-range need a --subnet")
		}
		return nil
	}
	pools := make([]client.Subnet, len(subnets))
	for i, text := range subnets {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return fmt.Errorf("--subnet %q: must be a prefix such as 10.9.0.0/24", text)
		}
		pools[i].Subnet = p
	}
	within := func(addr netip.Addr) *client.Subnet {
		for i := range pools {
			if pools[i].Subnet.Contains(addr) {
				return &pools[i]
			}
		}
		return nil
	}
	for _, text := range gateways {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("--gateway %q: must be an address", text)
		}
		pool := within(addr)
		if pool == nil {
			return fmt.Errorf("--gateway %s: no --subnet holds it", text)
		}
		pool.Gateway = addr
	}
	for _, text := range ranges {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return fmt.Errorf("--ip-range %q: must be a prefix such as 10.9.0.128/25", text)
		}
		pool := within(p.Addr())
		if pool == nil {
			return fmt.Errorf("--ip-range %s: no --subnet holds it", text)
		}
		pool.IPRange = p
	}
	spec.IPAM = &client.IPAM{Config: pools}
	return nil
}

func (a *app) networkConnectCommand() *cobra.Command {
	var aliases []string
	var ip string
	cmd := &cobra.Command{
		Use:               "connect NETWORK CONTAINER",
		Short:             "Put a container on a network",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeAttachment,
		RunE: func(cmd *cobra.Command, args []string) error {
			e := &client.EndpointSettings{Aliases: aliases}
			if ip != "" {
				addr, err := netip.ParseAddr(ip)
				if err != nil {
					return fmt.Errorf("--ip %q: must be an address", ip)
				}
				e.IPAMConfig = &client.EndpointAddress{IPv4Address: addr}
			}
			c, err := a.daemon(cmd.Context())
			if err != nil {
				return err
			}
			return c.ConnectNetwork(cmd.Context(), args[0], args[1], e)
		},
	}
	cmd.Flags().StringArrayVar(&aliases, "alias", nil, "further `name` of the container on the network")
	cmd.Flags().StringVar(&ip, "ip", "", "`address` of the container on the network")
	return cmd
}

func (a *app) networkDisconnectCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "disconnect NETWORK CONTAINER",
		Short:             "Take a container off a network",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeAttachment,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.daemon(cmd.Context())
			if err != nil {
				return err
			}
			return c.DisconnectNetwork(cmd.Context(), args[0], args[1], force)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "even if the container is gone")
	return cmd
}

// completeAttachment offers a network, then a container.
func (a *app) completeAttachment(cmd *cobra.Command, given []string, word string) ([]string, cobra.ShellCompDirective) {
	switch len(given) {
	case 0:
		return a.completeNetworks(cmd, given, word)
	case 1:
		return a.completeContainers(cmd, nil, word)
	}
	return nil, noFiles
}
