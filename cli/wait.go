package cli

import (
	"context"
	"errors"
	"fmt"

	"gantry/client"
	"gantry/scheduler"

	"github.com/spf13/cobra"
)

func (a *app) waitCommand() *cobra.Command {
	var down bool
	cmd := &cobra.Command{
		Use:               "wait SERVICE...",
		Short:             "Wait until a container of the services ends, and end with its exit code",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeServices,
		RunE: func(cmd *cobra.Command, services []string) error {
			ctx := cmd.Context()
			s, err := a.stack(ctx, stackOptions{services: services, all: true, looks: !down})
			if err != nil {
				return err
			}
			if len(s.containers) == 0 {
				return fmt.Errorf("project %s has no containers of these services; bring it up with `gantry up`", s.name)
			}
			code, err := a.firstEnd(ctx, s)
			if err != nil {
				return err
			}
			if down {
				err := a.shown("down", func(report func(scheduler.Event)) error {
					return s.client.Down(ctx, s.name, scheduler.Options{Named: true, Parallel: max(a.parallel, 0)}, report)
				})
				if err != nil {
					return err
				}
			}
			if code != 0 {
				return exitCode(code)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&down, "down-project", false, "take the project down when the first container has ended")
	return cmd
}

// firstEnd waits until one of the containers has ended and tells which and how.
func (a *app) firstEnd(ctx context.Context, s *stack) (int, error) {
	waiting, cancel := context.WithCancel(ctx)
	type end struct {
		r    replica
		code int
		err  error
	}
	ends := make(chan end, len(s.containers))
	var begun int
	var failed error
	for _, r := range s.containers {
		wait, err := s.client.WaitContainer(waiting, r.ID, client.NotRunning)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("wait for %s: %w", r.name, err))
			continue
		}
		begun++
		go func() { // ends with waiting; the rest is drained below
			code, err := wait()
			ends <- end{r, code, err}
		}()
	}
	if begun == 0 {
		cancel()
		return 0, failed
	}
	first := <-ends
	cancel()
	for range begun - 1 {
		<-ends
	}
	if first.err != nil {
		return 0, first.err
	}
	fmt.Fprintf(a.out, "container %q exited with status code %d\n", first.r.name, first.code)
	return first.code, nil
}
