package cli

import (
	"context"
	"slices"

	"gantry/compose"

	"github.com/spf13/cobra"
)

func (a *app) killCommand() *cobra.Command {
	var signal string
	var orphans bool
	cmd := &cobra.Command{
		Use:               "kill [SERVICE...]",
		Short:             "Send containers a signal, SIGKILL unless said otherwise",
		ValidArgsFunction: a.completeServices,
		RunE: func(cmd *cobra.Command, services []string) error {
			ctx := cmd.Context()
			s, err := a.stack(ctx, stackOptions{services: services, oneOff: true})
			if err != nil {
				return err
			}
			if err := a.each(ctx, [][]replica{s.containers}, "kill", func(ctx context.Context, r replica) error {
				return s.client.KillContainer(ctx, r.ID, signal)
			}); err != nil || !orphans {
				return err
			}
			return a.removeOrphans(ctx, s)
		},
	}
	cmd.Flags().StringVarP(&signal, "signal", "s", "SIGKILL", "`signal` to send")
	cmd.Flags().BoolVar(&orphans, "remove-orphans", false, "remove containers of services the project does not have")
	a.completeFlagValues(cmd, "signal", "SIGHUP", "SIGINT", "SIGQUIT", "SIGKILL", "SIGTERM", "SIGUSR1", "SIGUSR2")
	dryRunnable(cmd)
	return cmd
}

// removeOrphans removes the containers of services that the compose file does
// not have. Those of another directory stay.
func (a *app) removeOrphans(ctx context.Context, s *stack) error {
	p, err := a.load(ctx, func(src *compose.Source) { src.NoContent, src.NoEnvResolution = true, true })
	if err != nil {
		return err
	}
	all, err := projectContainers(ctx, s.client, s.name)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(r replica) bool {
		if r.labels.Dir != "" && r.labels.Dir != p.WorkingDir {
			return true
		}
		_, disabled := p.DisabledServices[r.service]
		_, err := p.GetService(r.service)
		return disabled || err == nil
	})
	return a.remove(ctx, s, all, true, false)
}
