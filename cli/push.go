package cli

import (
	"context"

	"gantry/client"

	"github.com/spf13/cobra"
)

func (a *app) pushCommand() *cobra.Command {
	return a.transferCommand("push", "Push the images of services that can be built", &transferOptions{}, a.push)
}

// push sends what is the project's own: images that nobody builds here come
// from somewhere else.
func (a *app) push(ctx context.Context, services []string, o transferOptions) error {
	p, c, err := a.transferred(ctx, services, o)
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
	cmd := a.imageTransferCommand("push", "NAME[:TAG]", "Send an image to its registry", "all names that the repository has here",
		func(ctx context.Context, c *client.Client, ref string, all bool, tell func(client.ImageProgress)) error {
			return c.PushImage(ctx, ref, all, tell)
		})
	cmd.ValidArgsFunction = a.completeImages
	return cmd
}
