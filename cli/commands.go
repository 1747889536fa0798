package cli

import "github.com/spf13/cobra"

// groups are the commands as the help shows them.
func (a *app) groups() []group {
	return []group{
		{"stack", "Stacks:", []*cobra.Command{
			a.upCommand(), a.downCommand(), a.planCommand(), a.createCommand(), a.startCommand(), a.stopCommand(), a.restartCommand(),
			a.scaleCommand(), a.killCommand(), a.rmCommand(), a.pauseCommand(), a.unpauseCommand(),
		}},
		{"look", "Looking at them:", []*cobra.Command{
			a.psCommand(), a.logsCommand(), a.lsCommand(), a.configCommand(), a.imagesCommand(), a.volumesCommand(), a.portCommand(),
			a.topCommand(), a.statsCommand(), a.eventsCommand(), a.waitCommand(),
		}},
		{"inside", "Going inside:", []*cobra.Command{a.execCommand(), a.attachCommand()}},
		{"object", "Objects:", []*cobra.Command{a.imageCommand(), a.containerCommand(), a.networkCommand(), a.volumeCommand()}},
		{"gantry", "gantry itself:", []*cobra.Command{a.daemonCommand(), a.completionCommand(), a.manCommand(), a.versionCommand()}},
	}
}
