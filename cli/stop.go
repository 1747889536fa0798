package cli

import (
	"context"

	"gantry/client"
	"gantry/scheduler"

	"github.com/spf13/cobra"
)

func (a *app) stopCommand() *cobra.Command {
	var timeout int
	cmd := &cobra.Command{
		Use:               "stop [SERVICE...]",
		Short:             "Stop services and keep their containers",
		ValidArgsFunction: a.completeServices,
		RunE: func(cmd *cobra.Command, services []string) error {
			ctx := cmd.Context()
			options := scheduler.Options{Services: services, Parallel: max(a.parallel, 0)}
			if cmd.Flags().Changed("timeout") {
				options.Timeout = seconds(timeout)
			}
			s, err := a.stack(ctx, stackOptions{services: services, all: true, oneOff: true})
			if err != nil {
				return err
			}
			return a.stop(ctx, s, options)
		},
	}
	cmd.Flags().IntVarP(&timeout, "timeout", "t", 0, "`seconds` a container has to stop (default: its own)")
	dryRunnable(cmd)
	return cmd
}

// stop stops services of a project, dependents first.
func (a *app) stop(ctx context.Context, s *stack, o scheduler.Options) error {
	err := a.bend(ctx, s, o, 0, "stop", (*client.Client).Stop, func(w *scheduler.Want) { w.Stopped = true })
	if !unmanaged(err) {
		return err
	}
	var live []replica
	for _, r := range s.containers {
		if r.live() {
			live = append(live, r)
		}
	}
	return a.each(ctx, waves(live, true), "stop", func(ctx context.Context, r replica) error {
		return s.client.StopContainer(ctx, r.ID, client.StopOptions{Timeout: o.Timeout})
	})
}
