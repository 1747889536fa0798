package cli

import (
	"context"
	"encoding/json"
	"fmt"

	"gantry/scheduler"

	"github.com/spf13/cobra"
)

// planner looks ahead. A dry run holds no more than this, so that it cannot
// change anything.
type planner interface {
	Plan(context.Context, scheduler.Goal) (scheduler.Plan, error)
}

func (a *app) planCommand() *cobra.Command {
	var o upOptions
	var format string
	cmd := &cobra.Command{
		Use:   "plan [SERVICE...]",
		Short: "Show what up would do, and why",
		Long: "plan shows what up would do, with its reasons, and does nothing. Steps that do the\n" +
			"same for the same reason are one line; --format json has each with the steps it\n" +
			"comes after, its effect (in place, restart, replace, destroys data) and the fields\n" +
			"that have changed.\n" +
			"What up would pull or build first is noted; which containers that changes is known\nwhen it is here.\n" +
			"Reasons show old and new values, but not of secrets, configs, and what by its\nname or form looks like a secret.\n" +
			"It ends with 0 when there is nothing to do, with 2 when there is, with 1 on an error.\n" +
			"up --dry-run is the same.",
		ValidArgsFunction: a.completeServices,
		RunE: func(cmd *cobra.Command, services []string) error {
			ctx := cmd.Context()
			o.hasTimeout = cmd.Flags().Changed("timeout")
			if format != "" && format != "text" && format != formatJSON {
				return fmt.Errorf("--format %q: must be text or json", format)
			}
			if err := o.refuse(); err != nil {
				return err
			}
			g, err := a.goal(ctx, services, o)
			if err != nil {
				return err
			}
			c, err := a.daemon(ctx)
			if err != nil {
				return err
			}
			if err := a.ignoreOrphans(ctx, c, &g); err != nil {
				return err
			}
			if _, err := a.bring(ctx, c, &g, o, true); err != nil {
				return err
			}
			return a.showPlan(ctx, c, g, format)
		},
	}
	o.flags(cmd, a)
	cmd.Flags().StringVar(&format, "format", "text", "text or json")
	a.completeFlagValues(cmd, "format", "text", "json")
	dryRunnable(cmd)
	return cmd
}

// showPlan prints what bringing a goal about would do, whoever has to be asked
// then, and ends with the code that says whether that is anything.
func (a *app) showPlan(ctx context.Context, c planner, g scheduler.Goal, format string) error {
	g.Options.RenewVolumes = true
	plan, err := a.printPlan(ctx, c, g, format)
	if err == nil && !(plan.Empty() && len(g.Coming) == 0) {
		return exitCode(exitChanges)
	}
	return err
}

func (a *app) printPlan(ctx context.Context, c planner, g scheduler.Goal, format string) (scheduler.Plan, error) {
	plan, err := c.Plan(ctx, g)
	if err != nil {
		return plan, err
	}
	if format == formatJSON {
		enc := json.NewEncoder(a.out)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return plan, enc.Encode(plan)
	}
	_, err = fmt.Fprint(a.out, plan.Text())
	return plan, err
}
