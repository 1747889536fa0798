package cli

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"
)

// group is a heading in the help and what stands below it.
type group struct {
	id, title string
	commands  []maker
}

// maker makes the command of a name.
type maker struct {
	name string
	make func() *cobra.Command
}

// groups are the commands as the help shows them.
func (a *app) groups() []group {
	return []group{
		{"stack", "Stacks:", []maker{
			{"up", a.upCommand}, {"down", a.downCommand}, {"plan", a.planCommand}, {"create", a.createCommand}, {"build", a.buildCommand},
			{"start", a.startCommand}, {"stop", a.stopCommand}, {"restart", a.restartCommand}, {"scale", a.scaleCommand}, {"rollback", a.rollbackCommand},
			{"kill", a.killCommand}, {"rm", a.rmCommand}, {"pull", a.pullCommand}, {"push", a.pushCommand}, {"pause", a.pauseCommand}, {"unpause", a.unpauseCommand},
		}},
		{"look", "Looking at them:", []maker{
			{"ps", a.psCommand}, {"logs", a.logsCommand}, {"ls", a.lsCommand}, {"config", a.configCommand}, {"images", a.imagesCommand},
			{"volumes", a.volumesCommand}, {"port", a.portCommand}, {"ports", a.portsCommand}, {"env", a.envCommand}, {"top", a.topCommand}, {"stats", a.statsCommand},
			{"events", a.eventsCommand}, {"wait", a.waitCommand}, {"history", a.historyCommand},
		}},
		{"inside", "Going inside:", []maker{{"exec", a.execCommand}, {"attach", a.attachCommand}, {"cp", a.cpCommand}, {"export", a.exportCommand}}},
		{"object", "Objects:", []maker{
			{"image", a.imageCommand}, {"container", a.containerCommand}, {"network", a.networkCommand}, {"volume", a.volumeCommand}, {"builder", a.builderCommand}, {"system", a.systemCommand},
		}},
		{"gantry", "gantry itself:", []maker{
			{"login", a.loginCommand}, {"logout", a.logoutCommand}, {"registry", a.registryCommand},
			{"daemon", a.daemonCommand}, {"completion", a.completionCommand}, {"man", a.manCommand}, {"version", a.versionCommand},
		}},
	}
}

// addCommands makes the commands. Making all of them takes more than a
// millisecond, a good part of what `gantry ps` takes, so only those are made
// whose names stand among the arguments. That may be one too many, a service
// called logs, but never one too few: where none stands there, or something
// that is about all of them, all are made.
func (a *app) addCommands(root *cobra.Command, args []string) {
	all := true
	for _, g := range a.groups() {
		all = all && !slices.ContainsFunc(g.commands, func(m maker) bool { return slices.Contains(args, m.name) })
	}
	for _, arg := range args {
		switch arg {
		case "help", "--help", "-h", "man", "completion", "convert", cobra.ShellCompRequestCmd, cobra.ShellCompNoDescRequestCmd:
			all = true
		}
	}
	for _, g := range a.groups() {
		root.AddGroup(&cobra.Group{ID: g.id, Title: g.title})
		for _, m := range g.commands {
			if !all && !slices.Contains(args, m.name) {
				continue
			}
			c := m.make()
			c.GroupID = g.id
			root.AddCommand(c)
			shortGlobals(root, c)
			explainArguments(c)
		}
	}
	root.AddCommand(missingCommands()...)
	root.SetHelpCommand(helpCommand())
	root.SetUsageTemplate(usage)
}

// explainArguments makes a command, and those below it, answer too few or too
// many arguments with what they take.
func explainArguments(c *cobra.Command) {
	for _, below := range c.Commands() {
		explainArguments(below)
	}
	check := c.Args
	if check == nil {
		return
	}
	c.Args = func(cmd *cobra.Command, args []string) error {
		if check(cmd, args) == nil {
			return nil
		}
		return fmt.Errorf("wrong number of arguments (%d); usage: %s", len(args), cmd.UseLine())
	}
}

// helpCommand shows the help of a command by its name.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND...]",
		Short: "Show what a command does",
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			c, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return nil, noFiles
			}
			var names []string
			for _, below := range c.Commands() {
				if below.IsAvailableCommand() {
					names = append(names, below.Name()+"\t"+below.Short)
				}
			}
			return beginning(word, names), noFiles
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, rest, err := cmd.Root().Find(args)
			if err != nil {
				return err
			}
			if len(rest) > 0 {
				return unknownCommand(c, rest[0])
			}
			c.InitDefaultHelpFlag()
			return c.Help()
		},
		Annotations: map[string]string{dryRunNote: "yes"},
	}
}

// usage is how the help of a command goes on after what it does. The flags
// every command has are told once, by `gantry --help`.
const usage = `Usage:{{if .HasAvailableSubCommands}}
  {{.CommandPath}} [OPTIONS] COMMAND{{else}}
  {{.UseLine}}{{end}}{{if .Aliases}}

Aliases:
  {{.NameAndAliases}}{{end}}{{if .HasAvailableSubCommands}}{{$all := .Commands}}{{if .Groups}}{{range $group := .Groups}}

{{.Title}}{{range $all}}{{if and (eq .GroupID $group.ID) (or .IsAvailableCommand (eq .Name "help"))}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{end}}{{else}}

Commands:{{range $all}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{end}}{{end}}{{if .HasAvailableLocalFlags}}

Flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}

{{if .HasParent}}Flags that every command has, such as -f, -p and --profile: gantry --help{{else -}}
Use "gantry COMMAND --help" for more about a command.{{end}}
`

// shortGlobals lets -f and -p stand after a command's name, where it has no
// other use for the letter.
func shortGlobals(root, c *cobra.Command) {
	for _, name := range []string{"file", "project-name"} {
		if c.HasSubCommands() || c.Flags().ShorthandLookup(name[:1]) != nil || c.Flags().Lookup(name) != nil {
			continue
		}
		own := *root.Flags().Lookup(name) // the same value, and whether it was set
		own.Hidden = true
		c.Flags().AddFlag(&own)
		if complete, ok := root.GetFlagCompletionFunc(name); ok {
			_ = c.RegisterFlagCompletionFunc(name, complete)
		}
	}
}
