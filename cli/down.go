package cli

import (
	"context"
	"errors"
	"fmt"

	"gantry/compose"
	"gantry/scheduler"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
)

type downOptions struct {
	volumes, removeOrphans bool
	yes                    bool
	images                 string
	timeout                int
	hasTimeout             bool
}

func (a *app) downCommand() *cobra.Command {
	var o downOptions
	cmd := &cobra.Command{
		Use:               "down [SERVICE...]",
		Short:             "Stop and remove containers and networks",
		ValidArgsFunction: a.completeServices,
		RunE: func(cmd *cobra.Command, services []string) error {
			o.hasTimeout = cmd.Flags().Changed("timeout")
			if !cmd.Flags().Changed("remove-orphans") {
				o.removeOrphans = a.settingBool("COMPOSE_REMOVE_ORPHANS")
			}
			return a.down(cmd.Context(), services, o)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.volumes, "volumes", "v", false, "remove named volumes of the project and anonymous ones, with what is in them")
	f.BoolVarP(&o.yes, "yes", "y", false, "answer yes to every question")
	f.BoolVar(&o.removeOrphans, "remove-orphans", false, "remove containers of services the project does not have")
	f.StringVar(&o.images, "rmi", "", "remove images: local (built ones without a name of their own) or all")
	f.IntVarP(&o.timeout, "timeout", "t", 0, "`seconds` a container has to stop (default: its own)")
	a.completeFlagValues(cmd, "rmi", "local", "all")
	dryRunnable(cmd)
	return cmd
}

func (a *app) down(ctx context.Context, services []string, o downOptions) error {
	switch o.images {
	case scheduler.RemoveNoImages, scheduler.RemoveLocalImages, scheduler.RemoveAllImages:
	default:
		return fmt.Errorf("--rmi %q: must be local or all", o.images)
	}
	if o.timeout < 0 {
		return errors.New("--timeout must not be negative")
	}
	name, err := a.stackName(ctx)
	if err != nil {
		return err
	}
	c, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	options := scheduler.Options{Services: services, Volumes: o.volumes, RemoveOrphans: o.removeOrphans,
		RemoveImages: o.images, Named: a.meant(), Parallel: max(a.parallel, 0)}
	if options.Dir, err = compose.Place(a.source()); err != nil {
		return err
	}
	if o.hasTimeout {
		options.Timeout = seconds(o.timeout)
	}
	if len(services) > 0 {
		if err := a.checkServices(ctx, services); err != nil {
			return err
		}
	}
	if a.dryRun {
		_, err := a.printPlan(ctx, c, scheduler.DownGoal(name, options), "")
		return err
	}
	if o.volumes && !o.yes {
		if err := a.consentDown(ctx, c, scheduler.DownGoal(name, options)); err != nil {
			return err
		}
	}
	steps := 0
	err = a.shown("down", func(report func(scheduler.Event)) error {
		return c.Down(ctx, name, options, func(e scheduler.Event) {
			if e.Plan != nil {
				steps += len(e.Plan.Steps)
			}
			report(e)
		})
	})
	if err != nil || steps > 0 {
		return err
	}
	if !a.named() {
		if _, err := a.load(ctx, func(s *compose.Source) { s.NoContent, s.NoEnvResolution, s.Warn = true, true, nil }); errdefs.IsNotFound(err) {
			return err
		}
	}
	a.warn("project " + name + " has nothing to take down")
	return nil
}

// checkServices refuses names that no container and no compose file knows.
func (a *app) checkServices(ctx context.Context, services []string) error {
	_, err := a.stack(ctx, stackOptions{services: services, all: true})
	return err
}
