package cli

import (
	"github.com/spf13/cobra"
)

func (a *app) createCommand() *cobra.Command {
	var o upOptions
	cmd := &cobra.Command{
		Use:               "create [SERVICE...]",
		Short:             "Create containers and do not start them",
		ValidArgsFunction: a.completeServices,
		RunE: func(cmd *cobra.Command, services []string) error {
			o.noStart = true
			if !cmd.Flags().Changed("remove-orphans") {
				o.removeOrphans = a.settingBool("COMPOSE_REMOVE_ORPHANS")
			}
			return a.up(cmd.Context(), services, o)
		},
	}
	o.createFlags(cmd, a)
	dryRunnable(cmd)
	return cmd
}
