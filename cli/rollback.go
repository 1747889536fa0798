package cli

import (
	"errors"
	"fmt"
	"strconv"

	"gantry/scheduler"

	"github.com/spf13/cobra"
)

func (a *app) rollbackCommand() *cobra.Command {
	var to, timeout, waitTimeout int
	var wait bool
	cmd := &cobra.Command{
		Use:   "rollback [SERVICE...]",
		Short: "Go back to what was wanted before",
		Long: "rollback goes back to the last revision that came about and was another one, or to\n" +
			"the one that --to names (see `gantry history`): definitions, number of replicas and\n" +
			"images. Given services, only they go back; what they share with others, such as a\n" +
			"secret that has changed since, they cannot go back without.\n" +
			"A rollback that failed is gone on with when it is asked for again.\n" +
			"It rolls out as deploy.rollback_config says, and is a revision itself. The compose\n" +
			"file stays as it is: the next `gantry up` brings about what it says.",
		ValidArgsFunction: a.completeServices,
		RunE: func(cmd *cobra.Command, services []string) error {
			ctx := cmd.Context()
			if to < 0 || timeout < 0 || waitTimeout < 0 {
				return errors.New("--to, --timeout and --wait-timeout must not be negative")
			}
			name, c, err := a.stackHere(ctx, false)
			if err != nil {
				return err
			}
			o := scheduler.Options{Services: services, Named: true, Wait: wait, Parallel: max(a.parallel, 0)}
			if cmd.Flags().Changed("timeout") {
				o.Timeout = seconds(timeout)
			}
			if a.dryRun {
				plan, err := c.PlanRollback(ctx, name, to, o)
				if err == nil {
					_, err = fmt.Fprint(a.out, plan.Text())
				}
				return err
			}
			bound, cancel := within(ctx, waitTimeout)
			defer cancel()
			err = a.changed("rollback", name, func(report func(scheduler.Event)) error { return c.Rollback(bound, name, to, o, report) })
			return timedOut(ctx, err, name, waitTimeout)
		},
	}
	f := cmd.Flags()
	f.IntVar(&to, "to", 0, "the `revision` to go back to")
	f.IntVarP(&timeout, "timeout", "t", 0, "`seconds` a container has to stop (default: its own)")
	f.BoolVar(&wait, "wait", false, "wait until services are running or healthy")
	f.IntVar(&waitTimeout, "wait-timeout", 0, "longest to wait, in `seconds`")
	_ = cmd.RegisterFlagCompletionFunc("to", a.completeRevisions)
	dryRunnable(cmd)
	return cmd
}

// completeRevisions offers those one can go back to. No daemon is ever started
// for it.
func (a *app) completeRevisions(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := patience(cmd.Context())
	defer cancel()
	name, err := a.stackName(ctx)
	if err != nil {
		return nil, noFiles
	}
	c, err := a.connect()
	if err != nil {
		return nil, noFiles
	}
	all, err := c.History(ctx, name)
	if err != nil {
		return nil, noFiles
	}
	var numbers []string
	for _, r := range all {
		if row := asHistoryRow(r, nil, false); row.Kept {
			numbers = append(numbers, strconv.Itoa(r.Number)+"\t"+row.When+": "+row.What)
		}
	}
	return beginning(word, numbers), noFiles
}
