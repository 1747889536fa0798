package cli

import (
	"context"
	"fmt"
	"strings"

	"gantry/client"
	"gantry/scheduler"

	"github.com/spf13/cobra"
)

func (a *app) rmCommand() *cobra.Command {
	var force, stop, volumes, all bool
	cmd := &cobra.Command{
		Use:               "rm [SERVICE...]",
		Short:             "Remove containers that do not run",
		ValidArgsFunction: a.completeServices,
		RunE: func(cmd *cobra.Command, services []string) error {
			ctx := cmd.Context()
			s, err := a.stack(ctx, stackOptions{services: services, all: true, oneOff: true})
			if err != nil {
				return err
			}
			if stop && !a.dryRun {
				if err := a.stop(ctx, s, scheduler.Options{Services: services, Parallel: max(a.parallel, 0)}); err != nil {
					return err
				}
			}
			var gone []replica
			var names []string
			for _, r := range s.containers {
				if stop || !r.live() {
					gone = append(gone, r)
					names = append(names, r.name)
				}
			}
			if len(gone) == 0 {
				fmt.Fprintln(a.err, "No stopped containers")
				return nil
			}
			if !force && !a.dryRun {
				ok, err := a.ask(ctx, "Remove "+strings.Join(names, ", ")+"?")
				if err != nil || !ok {
					return err
				}
			}
			return a.remove(ctx, s, gone, false, volumes)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&force, "force", "f", false, "do not ask")
	f.BoolVarP(&stop, "stop", "s", false, "stop containers that run, first")
	f.BoolVarP(&volumes, "volumes", "v", false, "remove their anonymous volumes, too")
	f.BoolVarP(&all, "all", "a", false, "")
	f.Lookup("all").Hidden = true // has been without effect for long
	dryRunnable(cmd)
	return cmd
}

// remove removes containers, those of dependents first.
func (a *app) remove(ctx context.Context, s *stack, list []replica, force, volumes bool) error {
	return a.each(ctx, waves(list, true), "remove", func(ctx context.Context, r replica) error {
		return s.client.RemoveContainer(ctx, r.ID, client.RemoveOptions{Force: force, Volumes: volumes})
	})
}
