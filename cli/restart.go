package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"gantry/client"
	"gantry/scheduler"

	"github.com/spf13/cobra"
)

func (a *app) restartCommand() *cobra.Command {
	var timeout int
	var noDeps bool
	cmd := &cobra.Command{
		Use:               "restart [SERVICE...]",
		Short:             "Restart containers",
		ValidArgsFunction: a.completeServices,
		RunE: func(cmd *cobra.Command, services []string) error {
			ctx := cmd.Context()
			s, err := a.stack(ctx, stackOptions{services: services, all: true})
			if err != nil {
				return err
			}
			if len(s.containers) == 0 {
				return fmt.Errorf("project %s has no containers to restart; bring it up with `gantry up`", s.name)
			}
			var o client.StopOptions
			if cmd.Flags().Changed("timeout") {
				o.Timeout = seconds(timeout)
			}
			list := s.containers
			if len(services) > 0 && !noDeps {
				if list, err = withDependents(ctx, s, list); err != nil {
					return err
				}
			}
			return a.each(ctx, waves(list, false), "restart", func(ctx context.Context, r replica) error {
				return s.client.RestartContainer(ctx, r.ID, o)
			})
		},
	}
	cmd.Flags().IntVarP(&timeout, "timeout", "t", 0, "`seconds` a container has to stop (default: its own)")
	cmd.Flags().BoolVar(&noDeps, "no-deps", false, "leave dependents with `restart: true` alone")
	dryRunnable(cmd)
	return cmd
}

// withDependents adds the live containers whose services say that they restart
// together with one of these (depends_on with restart: true).
func withDependents(ctx context.Context, s *stack, list []replica) ([]replica, error) {
	all, err := projectContainers(ctx, s.client, s.name)
	if err != nil {
		return nil, err
	}
	chosen := map[string]bool{}
	for _, r := range list {
		chosen[r.service] = true
	}
	for grown := true; grown; {
		grown = false
		for _, r := range all {
			if chosen[r.service] || !r.live() || !slices.ContainsFunc(restartsWith(r), func(dep string) bool { return chosen[dep] }) {
				continue
			}
			chosen[r.service], grown = true, true
			for _, sibling := range all {
				if sibling.service == r.service && sibling.live() {
					list = append(list, sibling)
				}
			}
		}
	}
	return list, nil
}

// restartsWith reads off the labels which services' restarts are its own:
// "db:service_started:true,…".
func restartsWith(r replica) []string {
	var out []string
	for item := range strings.SplitSeq(r.Labels[scheduler.LabelDependsOn], ",") {
		if parts := strings.Split(item, ":"); len(parts) == 3 && parts[2] == "true" {
			out = append(out, parts[0])
		}
	}
	return out
}
