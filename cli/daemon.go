package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"gantry/client"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
)

func (a *app) daemonCommand() *cobra.Command {
	daemon := noun("daemon", "The daemon behind the commands")
	start := &cobra.Command{
		Use:   "start",
		Short: "Start the daemon, unless it runs",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			started, err := c.EnsureDaemon(cmd.Context())
			if err != nil {
				return err
			}
			if started {
				fmt.Fprintln(a.out, "started, listening at", c.Host())
			} else {
				fmt.Fprintln(a.out, "already running, listening at", c.Host())
			}
			return nil
		},
	}
	var leave bool
	stop := &cobra.Command{
		Use:   "stop",
		Short: "Stop the daemon",
		Long: "Stop the daemon, and gantry-runtime with it. While containers live this is refused:\n" +
			"take them down first, or let them run on with --leave.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			err = c.StopDaemon(cmd.Context(), leave)
			switch {
			case absent(err):
				fmt.Fprintln(a.out, "not running")
				return nil
			case err != nil:
				return err
			}
			fmt.Fprintln(a.out, "stopped")
			return nil
		},
	}
	stop.Flags().BoolVar(&leave, "leave", false, "stop although containers live; they run on, and the next daemon finds them")
	var format string
	status := &cobra.Command{
		Use:   "status",
		Short: "Show how the daemon is doing",
		Long:  "Show how the daemon is doing. The exit code is 3 when it does not run.",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.daemonStatus(cmd.Context(), format) },
	}
	status.Flags().StringVar(&format, "format", "", "json or a Go template")
	dryRunnable(status)
	daemon.AddCommand(start, stop, status)
	return daemon
}

// exitNotRunning is the answer of `daemon status`, as of a service's script.
const exitNotRunning = 3

// absent reports whether nobody listens.
func absent(err error) bool { return errdefs.IsUnavailable(err) && !errors.Is(err, context.Canceled) }

func (a *app) daemonStatus(ctx context.Context, format string) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	st, err := c.DaemonStatus(ctx)
	if absent(err) && (format == "" || format == "pretty") {
		fmt.Fprintln(a.out, "not running:", err)
		return exitCode(exitNotRunning)
	}
	if err != nil {
		return err
	}
	switch format {
	case "", "pretty":
		return a.printStatus(c, st)
	case formatJSON:
		return json.NewEncoder(a.out).Encode(st)
	}
	t, err := parseTemplate(format)
	if err != nil {
		return err
	}
	text, err := execute(t, st)
	fmt.Fprintln(a.out, text)
	return err
}

// counted is "1 project" and "2 projects".
func counted(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return strconv.Itoa(n) + " " + what
}

func (a *app) printStatus(c *client.Client, st client.DaemonStatus) error {
	keeper := "unknown"
	if st.Keeper != 0 {
		keeper = strconv.Itoa(st.Keeper)
	}
	var t table
	t.add("Address", c.Host())
	t.add("Version", st.Version+", API "+st.APIVersion)
	t.add("Running for", span(time.Since(st.Started)))
	t.add("Process", fmt.Sprintf("%d, gantry-runtime %s", st.Pid, keeper))
	t.add("Root", st.Root)
	t.add("Run", st.Run)
	n := st.Containers
	t.add("Containers", fmt.Sprintf("%d (%d running, %d paused, %d stopped)", n.Total, n.Running, n.Paused, n.Stopped))
	t.add("Objects", strings.Join([]string{counted(st.Projects, "project"), counted(st.Images, "image"), counted(st.Networks, "network"), counted(st.Volumes, "volume")}, ", "))
	return t.write(a.out)
}
