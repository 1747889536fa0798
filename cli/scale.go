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

func (a *app) scaleCommand() *cobra.Command {
	var noDeps bool
	cmd := &cobra.Command{
		Use:               "scale SERVICE=REPLICAS...",
		Short:             "Change how many containers services have",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeScale,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			replicas, err := parseScale(args)
			if err != nil {
				return err
			}
			name, err := a.stackName(ctx)
			if err != nil {
				return err
			}
			c, err := a.daemon(ctx)
			if err != nil {
				return err
			}
			list, err := projectContainers(ctx, c, name)
			if err != nil {
				return err
			}
			if err := a.mind(ctx, c, name, list, false); err != nil {
				return err
			}
			o := scheduler.Options{NoDeps: noDeps, Parallel: max(a.parallel, 0)}
			if a.dryRun {
				for service := range replicas {
					o.Services = append(o.Services, service)
				}
				slices.Sort(o.Services)
				return a.planBent(ctx, &stack{name: name, client: c}, o, func(service string, w *scheduler.Want) {
					if n, ok := replicas[service]; ok {
						w.Replicas = n
					}
				})
			}
			err = a.changed("scale", name, func(report func(scheduler.Event)) error { return c.Scale(ctx, name, replicas, o, report) })
			if unmanaged(err) {
				if a.foreign(ctx, c, name, list) {
					return fmt.Errorf("project %s was not brought up by gantry, which does not know how its containers are made; take it over with `gantry up -d --scale %s`",
						name, strings.Join(args, " --scale "))
				}
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&noDeps, "no-deps", false, "leave alone what the services depend on")
	dryRunnable(cmd)
	return cmd
}

// foreign reports whether a project has containers and no goal: something else
// made them.
func (a *app) foreign(ctx context.Context, c *client.Client, project string, list []replica) bool {
	_, err := c.Goal(ctx, project, false)
	return unmanaged(err) && len(list) > 0
}

// completeScale offers SERVICE=.
func (a *app) completeScale(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	names, d := a.completeServices(cmd, nil, word)
	for i := range names {
		names[i] += "="
	}
	return names, d | cobra.ShellCompDirectiveNoSpace
}
