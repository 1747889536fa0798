package cli

import (
	"fmt"
	"net"
	"slices"
	"strconv"

	"gantry/client"

	"github.com/spf13/cobra"
)

func (a *app) portCommand() *cobra.Command {
	var protocol string
	var index int
	cmd := &cobra.Command{
		Use:               "port SERVICE PRIVATE_PORT",
		Short:             "Show where a service's port is published",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeService,
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := strconv.ParseUint(args[1], 10, 16)
			if err != nil {
				return fmt.Errorf("port %q: must be a number up to 65535", args[1])
			}
			if protocol != "tcp" && protocol != "udp" {
				return fmt.Errorf("--protocol %q: must be tcp or udp", protocol)
			}
			_, r, err := a.replicaOf(cmd.Context(), args[0], index)
			if err != nil {
				return err
			}
			for _, p := range sortedPorts(r.Ports) {
				if p.PrivatePort == uint16(n) && p.Type == protocol && p.PublicPort != 0 {
					fmt.Fprintln(a.out, net.JoinHostPort(p.IP.String(), strconv.Itoa(int(p.PublicPort))))
					return nil
				}
			}
			published := slices.DeleteFunc(slices.Clone(r.Ports), func(p client.PortSummary) bool { return p.PublicPort == 0 })
			return fmt.Errorf("service %s does not publish port %d/%s; it publishes: %s", args[0], n, protocol, orNothing(portsText(published)))
		},
	}
	cmd.Flags().StringVar(&protocol, "protocol", "tcp", "tcp or udp")
	cmd.Flags().IntVar(&index, "index", 0, "number of the container, if a service has several")
	a.completeFlagValues(cmd, "protocol", "tcp", "udp")
	dryRunnable(cmd)
	return cmd
}

func orNothing(text string) string {
	if text == "" {
		return "nothing"
	}
	return text
}
