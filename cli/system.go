package cli

import (
	"encoding/json"
	"fmt"
	"time"

	"gantry/client"

	"github.com/spf13/cobra"
)

// systemCommand is about the whole machine rather than one stack.
func (a *app) systemCommand() *cobra.Command {
	system := noun("system", "The machine: space, events, facts")
	system.AddCommand(a.systemUsageCommand(), a.systemPruneCommand(), a.systemInfoCommand(), a.systemEventsCommand())
	return system
}

func (a *app) systemInfoCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use: "info", Short: "Show what the daemon knows of the machine and of itself", Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.daemon(cmd.Context())
			if err != nil {
				return err
			}
			info, err := c.Info(cmd.Context())
			if err != nil {
				return err
			}
			switch format {
			case "":
			case formatJSON:
				return json.NewEncoder(a.out).Encode(info)
			default:
				tmpl, err := parseTemplate(format)
				if err != nil {
					return err
				}
				line, err := execute(tmpl, info)
				if err == nil {
					_, err = fmt.Fprintln(a.out, line)
				}
				return err
			}
			var t table
			for _, row := range [][2]string{
				{"Server", info.ServerVersion}, {"Root", info.DockerRootDir},
				{"Containers", fmt.Sprintf("%d (%d running, %d paused, %d stopped)", info.Containers, info.ContainersRunning, info.ContainersPaused, info.ContainersStopped)},
				{"Images", fmt.Sprint(info.Images)}, {"Storage", info.Driver}, {"Logging", info.LoggingDriver}, {"Cgroups", "v" + info.CgroupVersion + ", " + info.CgroupDriver},
				{"Kernel", info.KernelVersion}, {"System", info.OperatingSystem + ", " + info.Architecture}, {"CPUs", fmt.Sprint(info.NCPU)}, {"Memory", bytesText(info.MemTotal)}, {"Name", info.Name},
			} {
				t.add(row[0]+":", row[1])
			}
			if err := t.write(a.out); err != nil {
				return err
			}
			for _, w := range info.Warnings {
				fmt.Fprintln(a.err, "warning:", w)
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "json or a Go template")
	dryRunnable(cmd)
	return cmd
}

func (a *app) systemEventsCommand() *cobra.Command {
	var since, until, format string
	var filters []string
	cmd := &cobra.Command{
		Use: "events", Short: "Show what happens to everything, as it happens", Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			now := time.Now()
			from, err := parseTime("--since", since, now)
			if err != nil {
				return err
			}
			to, err := parseTime("--until", until, now)
			if err != nil {
				return err
			}
			f, err := parseFilters(filters)
			if err != nil {
				return err
			}
			c, err := a.daemon(cmd.Context())
			if err != nil {
				return err
			}
			enc := json.NewEncoder(a.out)
			return c.Events(cmd.Context(), client.EventsOptions{Since: stamp(from), Until: stamp(to), Filters: f}, func(e client.Event) error {
				switch format {
				case "":
					_, err := fmt.Fprintln(a.out, asEventLine(e))
					return err
				case formatJSON:
					return enc.Encode(e)
				}
				tmpl, err := parseTemplate(format)
				if err != nil {
					return err
				}
				line, err := execute(tmpl, e)
				if err == nil {
					_, err = fmt.Fprintln(a.out, line)
				}
				return err
			})
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&filters, "filter", "f", nil, "only those with `key=value`")
	f.StringVar(&format, "format", "", "json or a Go template")
	f.StringVar(&since, "since", "", "from this `time` on: 2026-01-02T15:04:05Z, or 10m for ten minutes ago")
	f.StringVar(&until, "until", "", "up to this `time`")
	dryRunnable(cmd)
	return cmd
}
