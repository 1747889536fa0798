package cli

import (
	"context"
	"errors"

	"gantry/client"

	"github.com/spf13/cobra"
)

// noun is a command that only holds others.
func noun(name, short string) *cobra.Command {
	return &cobra.Command{
		Use:   name,
		Short: short,
		Args:  cobra.ArbitraryArgs,

		SuggestionsMinimumDistance: 2,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
		Annotations: map[string]string{dryRunNote: "yes"},
	}
}

// forEach does something to every object named. A failure does not keep the
// others; all failures are told.
func (a *app) forEach(ctx context.Context, refs []string, do func(context.Context, *client.Client, string) error) error {
	c, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, ref := range refs {
		if err := do(ctx, c, ref); err != nil {
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return errors.Join(errs...)
}

type completer func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// inspectCommand shows everything about objects of a noun.
func (a *app) inspectCommand(what string, complete completer, look func(context.Context, *client.Client, string) (any, error)) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:               "inspect NAME...",
		Short:             "Show everything about " + what,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			var found []any
			err := a.forEach(cmd.Context(), args, func(ctx context.Context, c *client.Client, ref string) error {
				o, err := look(ctx, c, ref)
				if err == nil && format != "" && format != formatJSON {
					// A template names the fields as JSON does.
					o, err = jsonObject(o)
				}
				if err == nil {
					found = append(found, o)
				}
				return err
			})
			if len(found) > 0 || err == nil {
				err = errors.Join(err, a.inspect(format, found))
			}
			return err
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "json or a Go template")
	dryRunnable(cmd)
	return cmd
}
