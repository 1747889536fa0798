package cli

import (
	"context"

	"gantry/client"
	"gantry/scheduler"

	"github.com/spf13/cobra"
)

func (a *app) pauseCommand() *cobra.Command {
	return a.freezing("pause", "Freeze the processes of services", scheduler.Running, (*client.Client).PauseContainer)
}

func (a *app) unpauseCommand() *cobra.Command {
	return a.freezing("unpause", "Let frozen processes go on", scheduler.Paused, (*client.Client).UnpauseContainer)
}

// freezing is a command that does one thing to the containers in one state.
func (a *app) freezing(verb, short string, from scheduler.Status, do func(*client.Client, context.Context, string) error) *cobra.Command {
	cmd := &cobra.Command{
		Use:               verb + " [SERVICE...]",
		Short:             short,
		ValidArgsFunction: a.completeServices,
		RunE: func(cmd *cobra.Command, services []string) error {
			s, err := a.stack(cmd.Context(), stackOptions{services: services})
			if err != nil {
				return err
			}
			var list []replica
			for _, r := range s.containers {
				if scheduler.Status(r.State) == from {
					list = append(list, r)
				}
			}
			return a.each(cmd.Context(), [][]replica{list}, verb, func(ctx context.Context, r replica) error {
				return do(s.client, ctx, r.ID)
			})
		},
	}
	dryRunnable(cmd)
	return cmd
}
