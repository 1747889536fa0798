package cli

import (
	"context"

	"gantry/client"
	"gantry/compose"

	"github.com/spf13/cobra"
)

func (a *app) pushCommand() *cobra.Command {
	var o transferOptions
	cmd := &cobra.Command{
		Use:               "push [SERVICE...]",
		Short:             "Push the images of services that can be built",
		ValidArgsFunction: a.completeServices,
		RunE:              func(cmd *cobra.Command, services []string) error { return a.push(cmd.Context(), services, o) },
	}
	o.flags(cmd.Flags(), "push")
	dryRunnable(cmd)
	return cmd
}

// push sends what is the project's own: images that nobody builds here come
// from somewhere else.
func (a *app) push(ctx context.Context, services []string, o transferOptions) error {
	p, err := a.load(ctx, func(s *compose.Source) { s.Services, s.NoDeps = services, !o.includeDeps })
	if err != nil {
		return err
	}
	c, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	var jobs transfers
	for _, name := range p.ServiceNames() {
		s := p.Services[name]
		if s.Build == nil || s.Image == "" {
			if len(services) > 0 && s.Image == "" {
				a.warn("service " + name + " names no image: there is nowhere to push it to")
			}
			continue
		}
		jobs.add(&transfer{ref: s.Image, service: name, optional: o.ignoreFailures})
		for _, tag := range s.Build.Tags {
			jobs.add(&transfer{ref: tag, service: name, optional: o.ignoreFailures})
		}
	}
	if len(jobs) == 0 {
		return nil
	}
	return a.transferAll(ctx, jobs, "push", o.quiet, func(ctx context.Context, t *transfer, tell func(client.ImageProgress)) error {
		return c.PushImage(ctx, t.ref, false, tell)
	})
}

func (a *app) imagePushCommand() *cobra.Command {
	var all, quiet bool
	cmd := &cobra.Command{
		Use:               "push NAME[:TAG]",
		Short:             "Send an image to its registry",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.transferImage(cmd.Context(), args[0], "push", quiet, func(ctx context.Context, c *client.Client, tell func(client.ImageProgress)) error {
				return c.PushImage(ctx, args[0], all, tell)
			})
		},
	}
	cmd.Flags().BoolVarP(&all, "all-tags", "a", false, "all names that the repository has here")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print nothing but the name")
	return cmd
}
