package cli

import (
	"context"
	"fmt"
	"strings"

	"gantry/client"

	"github.com/spf13/cobra"
)

func (a *app) volumeCommand() *cobra.Command {
	volume := noun("volume", "Volumes")
	volume.AddCommand(a.volumeListCommand(), a.volumeCreateCommand(), a.volumePruneCommand(), notYet("update", ""),
		a.inspectCommand("volumes", a.completeVolumes, func(ctx context.Context, c *client.Client, ref string) (any, error) { return c.Volume(ctx, ref) }))
	var force bool
	rm := &cobra.Command{
		Use:               "rm VOLUME...",
		Aliases:           []string{"remove"},
		Short:             "Remove volumes, with what is in them",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeVolumes,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.forEach(cmd.Context(), args, func(ctx context.Context, c *client.Client, name string) error {
				if err := c.RemoveVolume(ctx, name, force); err != nil {
					return err
				}
				fmt.Fprintln(a.out, name)
				return nil
			})
		},
	}
	rm.Flags().BoolVarP(&force, "force", "f", false, "one that does not exist is no error")
	volume.AddCommand(rm)
	return volume
}

func (a *app) volumeListCommand() *cobra.Command {
	var quiet bool
	var format string
	var filters []string
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List volumes",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := parseFilters(filters)
			if err != nil {
				return err
			}
			c, err := a.daemon(cmd.Context())
			if err != nil {
				return err
			}
			volumes, err := c.Volumes(cmd.Context(), f)
			if err != nil {
				return err
			}
			return volumeTable(volumes).print(a.out, format, quiet)
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "names alone")
	cmd.Flags().StringArrayVar(&filters, "filter", nil, "only those with `key=value`")
	cmd.Flags().StringVar(&format, "format", "table", "table, json or a Go template")
	dryRunnable(cmd)
	return cmd
}

func (a *app) volumeCreateCommand() *cobra.Command {
	var driver string
	var labels, options []string
	cmd := &cobra.Command{
		Use:   "create [NAME]",
		Short: "Make a volume",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec := client.VolumeSpec{Driver: driver, Labels: pairs(labels), DriverOpts: pairs(options)}
			if len(args) > 0 {
				spec.Name = args[0]
			}
			c, err := a.daemon(cmd.Context())
			if err != nil {
				return err
			}
			v, err := c.CreateVolume(cmd.Context(), spec)
			if err != nil {
				return err
			}
			fmt.Fprintln(a.out, v.Name)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&driver, "driver", "d", "local", "`driver`")
	f.StringArrayVar(&labels, "label", nil, "`key=value`")
	f.StringArrayVarP(&options, "opt", "o", nil, "option of the driver, `key=value`")
	return cmd
}

// pairs reads key=value; a key alone has an empty value.
func pairs(list []string) map[string]string {
	out := map[string]string{}
	for _, p := range list {
		k, v, _ := strings.Cut(p, "=")
		out[k] = v
	}
	return out
}
