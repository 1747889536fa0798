package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"gantry/client"

	"github.com/spf13/cobra"
)

func (a *app) containerCommand() *cobra.Command {
	container := noun("container", "Containers")
	container.AddCommand(a.containerListCommand(), a.containerLogsCommand(), a.containerStatsCommand(), a.containerExecCommand(),
		a.containerAttachCommand(), a.containerRemoveCommand(), a.containerTopCommand(), a.containerWaitCommand(), a.containerRenameCommand(),
		a.containerCpCommand(), a.containerExportCommand(), a.containerDiffCommand(), a.containerPruneCommand(), a.containerUpdateCommand(), a.containerCommitCommand(),
		a.containerStopCommand("stop", "Stop containers", (*client.Client).StopContainer),
		a.containerStopCommand("restart", "Restart containers", (*client.Client).RestartContainer),
		a.containerVerb("start", "Start containers", (*client.Client).StartContainer),
		a.containerVerb("pause", "Freeze containers", (*client.Client).PauseContainer),
		a.containerVerb("unpause", "Let frozen containers go on", (*client.Client).UnpauseContainer),
		a.inspectCommand("containers", a.completeContainers, func(ctx context.Context, c *client.Client, ref string) (any, error) { return c.Container(ctx, ref) }))
	var signal string
	kill := a.containerVerb("kill", "Send containers a signal, SIGKILL unless said otherwise",
		func(c *client.Client, ctx context.Context, ref string) error {
			return c.KillContainer(ctx, ref, signal)
		})
	kill.Flags().StringVarP(&signal, "signal", "s", "SIGKILL", "`signal` to send")
	container.AddCommand(kill)
	for _, name := range []string{"create", "run"} {
		container.AddCommand(notYet(name, ""))
	}
	return container
}

// containerVerb does one thing to containers and prints those it was done to.
func (a *app) containerVerb(verb, short string, do func(*client.Client, context.Context, string) error) *cobra.Command {
	return &cobra.Command{
		Use:               verb + " CONTAINER...",
		Short:             short,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeContainers,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.forEach(cmd.Context(), args, func(ctx context.Context, c *client.Client, ref string) error {
				if err := do(c, ctx, ref); err != nil {
					return err
				}
				fmt.Fprintln(a.out, ref)
				return nil
			})
		},
	}
}

func (a *app) containerStopCommand(verb, short string, do func(*client.Client, context.Context, string, client.StopOptions) error) *cobra.Command {
	var o client.StopOptions
	var timeout int
	cmd := a.containerVerb(verb, short, func(c *client.Client, ctx context.Context, ref string) error { return do(c, ctx, ref, o) })
	cmd.Flags().StringVarP(&o.Signal, "signal", "s", "", "`signal` to stop with (default: the container's own)")
	cmd.Flags().IntVarP(&timeout, "timeout", "t", 0, "`seconds` until it is killed, -1 for never (default: the container's own)")
	cmd.PreRun = func(cmd *cobra.Command, _ []string) {
		if cmd.Flags().Changed("timeout") {
			o.Timeout = seconds(timeout)
		}
	}
	return cmd
}

func (a *app) containerRemoveCommand() *cobra.Command {
	var o client.RemoveOptions
	cmd := a.containerVerb("rm", "Remove containers", func(c *client.Client, ctx context.Context, ref string) error { return c.RemoveContainer(ctx, ref, o) })
	cmd.Aliases = []string{"remove"}
	cmd.Flags().BoolVarP(&o.Force, "force", "f", false, "kill one that runs, first")
	cmd.Flags().BoolVarP(&o.Volumes, "volumes", "v", false, "its anonymous volumes, too")
	return cmd
}

func (a *app) containerRenameCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "rename CONTAINER NAME",
		Short:             "Give a container another name",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeContainers,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.daemon(cmd.Context())
			if err != nil {
				return err
			}
			return c.RenameContainer(cmd.Context(), args[0], args[1])
		},
	}
}

func (a *app) containerListCommand() *cobra.Command {
	var all, quiet, noTrunc bool
	var last int
	var format string
	var filters []string
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list", "ps"},
		Short:   "List containers",
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
			found, err := c.Containers(cmd.Context(), client.ListOptions{All: all, Limit: max(last, 0), Filters: f})
			if err != nil {
				return err
			}
			l := list[containerRow]{quiet: "ID", columns: []column{{"CONTAINER ID", "ID"}, {"IMAGE", "Image"}, {"COMMAND", "Command"},
				{"CREATED", "RunningFor"}, {"STATUS", "Status"}, {"PORTS", "Ports"}, {"NAMES", "Names"}}}
			for _, ct := range found {
				l.rows = append(l.rows, asContainerRow(ct, time.Now(), noTrunc))
			}
			return l.print(a.out, format, quiet)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "stopped containers, too")
	f.BoolVarP(&quiet, "quiet", "q", false, "ids alone")
	f.BoolVar(&noTrunc, "no-trunc", false, "do not shorten")
	f.IntVarP(&last, "last", "n", -1, "the last `n` made, stopped or not")
	f.StringArrayVar(&filters, "filter", nil, "only those with `key=value`")
	f.StringVar(&format, "format", "table", "table, json or a Go template")
	dryRunnable(cmd)
	return cmd
}

func (a *app) containerLogsCommand() *cobra.Command {
	var o logsOptions
	cmd := &cobra.Command{
		Use:               "logs CONTAINER",
		Short:             "Show what a container has written",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeContainers,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if err := o.parse(time.Now()); err != nil {
				return err
			}
			c, err := a.daemon(ctx)
			if err != nil {
				return err
			}
			return containerLogs(ctx, c, args[0], o, a.out, a.err)
		},
	}
	o.flags(cmd)
	dryRunnable(cmd)
	return cmd
}

// containerLogs prints one log as it was written: each stream to its own.
func containerLogs(ctx context.Context, c *client.Client, ref string, o logsOptions, out, errs io.Writer) error {
	d, err := c.Container(ctx, ref)
	if err != nil {
		return err
	}
	q := o.query()
	q.Stdout, q.Stderr, q.Timestamps = true, true, o.timestamps
	body, err := c.Logs(ctx, ref, q)
	if err != nil {
		return err
	}
	defer body.Close()
	if d.Config != nil && d.Config.Tty {
		_, err = io.Copy(out, body)
	} else {
		err = client.Demux(out, errs, body)
	}
	if err != nil {
		return logError(ctx, err)
	}
	return nil
}

func (a *app) containerStatsCommand() *cobra.Command {
	var o statsOptions
	cmd := &cobra.Command{
		Use:               "stats [CONTAINER...]",
		Short:             "Show what containers use",
		ValidArgsFunction: a.completeContainers,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			c, err := a.daemon(ctx)
			if err != nil {
				return err
			}
			found, err := c.Containers(ctx, client.ListOptions{All: o.all || len(args) > 0})
			if err != nil {
				return err
			}
			byID := map[string]replica{}
			var chosen []replica
			for _, ct := range found {
				byID[ct.ID] = asReplica(ct)
				if len(args) == 0 {
					chosen = append(chosen, asReplica(ct))
				}
			}
			for _, ref := range args {
				d, err := c.Container(ctx, ref)
				if err != nil {
					return err
				}
				r, ok := byID[d.ID]
				if !ok {
					return fmt.Errorf("container %s is gone", ref)
				}
				chosen = append(chosen, r)
			}
			return a.stats(ctx, c, chosen, o)
		},
	}
	o.flags(cmd, a)
	return cmd
}

func (a *app) containerExecCommand() *cobra.Command {
	var o execOptions
	cmd := &cobra.Command{
		Use:                   "exec [OPTIONS] CONTAINER COMMAND [ARG...]",
		DisableFlagsInUseLine: true,
		Short:                 "Run a command in a running container",
		Args:                  cobra.MinimumNArgs(2),
		ValidArgsFunction:     a.completeContainers,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.chosenTTY = cmd.Flags().Changed("tty")
			c, err := a.daemon(cmd.Context())
			if err != nil {
				return err
			}
			return a.exec(cmd.Context(), c, args[0], args[1:], o)
		},
	}
	cmd.Flags().SetInterspersed(false)
	o.flags(cmd)
	// As docker exec has them: both are asked for.
	for _, name := range []string{"interactive", "tty"} {
		f := cmd.Flags().Lookup(name)
		f.DefValue = "false"
		_ = f.Value.Set("false") // a boolean takes it
	}
	return cmd
}

func (a *app) containerAttachCommand() *cobra.Command {
	var o attachOptions
	cmd := &cobra.Command{
		Use:               "attach CONTAINER",
		Short:             "Join a container's process",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeContainers,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.daemon(cmd.Context())
			if err != nil {
				return err
			}
			return a.attach(cmd.Context(), c, args[0], o)
		},
	}
	o.flags(cmd)
	return cmd
}

func (a *app) containerTopCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "top CONTAINER",
		Short:             "Show the processes of a container",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeContainers,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.daemon(cmd.Context())
			if err != nil {
				return err
			}
			return a.printTop(cmd.Context(), c, args[0])
		},
	}
	dryRunnable(cmd)
	return cmd
}

func (a *app) containerWaitCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "wait CONTAINER...",
		Short:             "Wait until containers have ended, and print their exit codes",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeContainers,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			c, err := a.daemon(ctx)
			if err != nil {
				return err
			}
			var errs []error
			for _, ref := range args {
				wait, err := c.WaitContainer(ctx, ref, client.NotRunning)
				if err == nil {
					var code int
					if code, err = wait(); err == nil {
						fmt.Fprintln(a.out, code)
					}
				}
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		},
	}
}
