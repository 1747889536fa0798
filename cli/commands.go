package cli

import "github.com/spf13/cobra"

// groups are the commands as the help shows them.
func (a *app) groups() []group {
	return []group{
		{"stack", "Stacks:", []*cobra.Command{
			a.upCommand(), a.downCommand(), a.planCommand(), a.psCommand(), a.logsCommand(),
		}},
		{"container", "In a stack:", []*cobra.Command{
			a.execCommand(), a.attachCommand(),
		}},
		{"object", "Objects:", []*cobra.Command{a.imageCommand()}},
		{"gantry", "gantry itself:", []*cobra.Command{a.daemonCommand(), a.completionCommand(), a.versionCommand()}},
	}
}
