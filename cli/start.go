package cli

import (
	"context"
	"fmt"
	"slices"

	"gantry/client"
	"gantry/scheduler"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
)

func (a *app) startCommand() *cobra.Command {
	var wait bool
	var waitTimeout int
	cmd := &cobra.Command{
		Use:               "start [SERVICE...]",
		Short:             "Start services that were stopped",
		ValidArgsFunction: a.completeServices,
		RunE: func(cmd *cobra.Command, services []string) error {
			ctx := cmd.Context()
			s, err := a.stack(ctx, stackOptions{services: services, all: true})
			if err != nil {
				return err
			}
			if len(s.containers) == 0 {
				return fmt.Errorf("project %s has no containers to start; bring it up with `gantry up`", s.name)
			}
			options := scheduler.Options{Services: services, Wait: wait, Parallel: max(a.parallel, 0)}
			err = a.bend(ctx, s, options, waitTimeout, "start", (*client.Client).Start,
				func(w *scheduler.Want) { w.Stopped = false })
			if !unmanaged(err) {
				return err
			}
			// Somebody else's project: there is no goal to bend.
			if wait {
				return fmt.Errorf("--wait: project %s was not brought up by gantry", s.name)
			}
			return a.each(ctx, waves(s.containers, false), "start", func(ctx context.Context, r replica) error {
				return s.client.StartContainer(ctx, r.ID)
			})
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until services are running or healthy")
	cmd.Flags().IntVar(&waitTimeout, "wait-timeout", 0, "longest to wait, in `seconds`")
	dryRunnable(cmd)
	return cmd
}

// unmanaged reports that a project has no goal: something else made it.
func unmanaged(err error) bool { return errdefs.IsNotFound(err) }

// bend changes what is wanted of services in the stored goal, by a call of the
// client; in a dry run it shows what the call would do.
func (a *app) bend(ctx context.Context, s *stack, o scheduler.Options, waitSeconds int, title string,
	call func(*client.Client, context.Context, string, scheduler.Options, func(scheduler.Event)) error, change func(*scheduler.Want)) error {
	if a.dryRun {
		return a.planBent(ctx, s, o, func(_ string, w *scheduler.Want) { change(w) })
	}
	bound, cancel := within(ctx, waitSeconds)
	defer cancel()
	err := a.changed(title, s.name, func(report func(scheduler.Event)) error { return call(s.client, bound, s.name, o, report) })
	return timedOut(ctx, err, s.name, waitSeconds)
}

// planBent shows what a change of the stored goal would do.
func (a *app) planBent(ctx context.Context, s *stack, o scheduler.Options, change func(string, *scheduler.Want)) error {
	g, err := s.client.Goal(ctx, s.name, true)
	if err != nil {
		return err
	}
	g.Options, g.Scope = o, slices.Clone(o.Services)
	for name, w := range g.Services {
		if len(o.Services) == 0 || slices.Contains(o.Services, name) {
			change(name, &w)
			g.Services[name] = w
		}
	}
	_, err = a.printPlan(ctx, s.client, g, "")
	return err
}
