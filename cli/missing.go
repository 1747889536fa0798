package cli

import (
	"errors"

	"github.com/spf13/cobra"
)

// notYet is a command that exists elsewhere and not here, so that it is
// refused by its own name rather than as unknown.
func notYet(name, instead string) *cobra.Command {
	return &cobra.Command{
		Use:                name,
		Short:              "Not supported yet",
		Hidden:             true,
		DisableFlagParsing: true,
		ValidArgsFunction:  cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			msg := "`" + cmd.CommandPath() + "` is not supported yet"
			if instead != "" {
				msg += "; " + instead
			}
			return errors.New(msg)
		},
		Annotations: map[string]string{dryRunNote: "yes"},
	}
}

// missingCommands are docker compose's that are still to come.
func missingCommands() []*cobra.Command {
	var all []*cobra.Command
	for _, m := range [][2]string{
		{"alpha", ""},
		{"bridge", ""},
		{"commit", ""},
		{"publish", ""},
		{"run", "use `gantry exec` in a running container"},
		{"watch", ""},
	} {
		all = append(all, notYet(m[0], m[1]))
	}
	return all
}
