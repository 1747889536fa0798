package cli

import (
	"context"
	"fmt"

	"gantry/client"

	"github.com/spf13/cobra"
)

func (a *app) topCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "top [SERVICE...]",
		Short:             "Show the processes of containers",
		ValidArgsFunction: a.completeServices,
		RunE: func(cmd *cobra.Command, services []string) error {
			s, err := a.stack(cmd.Context(), stackOptions{services: services, looks: true})
			if err != nil {
				return err
			}
			var t table
			for _, r := range s.containers {
				top, err := s.client.Top(cmd.Context(), r.ID, "")
				if err != nil {
					return fmt.Errorf("%s: %w", r.name, err)
				}
				if len(t.rows) == 0 {
					t.add(append([]string{"SERVICE", "#"}, top.Titles...)...)
				}
				for _, p := range top.Processes {
					t.add(append([]string{r.service, fmt.Sprint(r.labels.Number)}, p...)...)
				}
			}
			return t.write(a.out)
		},
	}
	dryRunnable(cmd)
	return cmd
}

// printTop shows the processes of one container.
func (a *app) printTop(ctx context.Context, c *client.Client, ref string) error {
	top, err := c.Top(ctx, ref, "")
	if err != nil {
		return err
	}
	var t table
	t.add(top.Titles...)
	for _, p := range top.Processes {
		t.add(p...)
	}
	return t.write(a.out)
}
