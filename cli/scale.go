package cli

import (
	"slices"

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
			return a.changed("scale", name, func(report func(scheduler.Event)) error { return c.Scale(ctx, name, replicas, o, report) })
		},
	}
	cmd.Flags().BoolVar(&noDeps, "no-deps", false, "leave alone what the services depend on")
	dryRunnable(cmd)
	return cmd
}

// completeScale offers SERVICE=.
func (a *app) completeScale(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	names, d := a.completeServices(cmd, nil, word)
	for i := range names {
		names[i] += "="
	}
	return names, d | cobra.ShellCompDirectiveNoSpace
}
