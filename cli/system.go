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

// usageRow is a line of system df.
type usageRow struct {
	Type        string
	TotalCount  int64
	Active      int64
	Size        string
	Reclaimable string
}

func usageOf(kind string, count, active, size, free int64) usageRow {
	r := usageRow{Type: kind, TotalCount: count, Active: active, Size: bytesText(size), Reclaimable: bytesText(free)}
	if size > 0 {
		r.Reclaimable += fmt.Sprintf(" (%d%%)", 100*free/size)
	}
	return r
}

func (a *app) systemUsageCommand() *cobra.Command {
	var verbose bool
	var format string
	cmd := &cobra.Command{
		Use: "df", Short: "Show what takes the disk", Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.daemon(cmd.Context())
			if err != nil {
				return err
			}
			du, err := c.DiskUsage(cmd.Context(), verbose)
			if err != nil {
				return err
			}
			if verbose {
				return a.usageDetails(du, format)
			}
			l := list[usageRow]{quiet: "Type", columns: []column{{"TYPE", "Type"}, {"TOTAL", "TotalCount"}, {"ACTIVE", "Active"}, {"SIZE", "Size"}, {"RECLAIMABLE", "Reclaimable"}}}
			if u := du.ImageUsage; u != nil {
				l.rows = append(l.rows, usageOf("Images", u.TotalCount, u.ActiveCount, u.TotalSize, u.Reclaimable))
			}
			if u := du.ContainerUsage; u != nil {
				l.rows = append(l.rows, usageOf("Containers", u.TotalCount, u.ActiveCount, u.TotalSize, u.Reclaimable))
			}
			if u := du.VolumeUsage; u != nil {
				l.rows = append(l.rows, usageOf("Local Volumes", u.TotalCount, u.ActiveCount, u.TotalSize, u.Reclaimable))
			}
			if u := du.BuildCacheUsage; u != nil {
				l.rows = append(l.rows, usageOf("Build Cache", u.TotalCount, u.ActiveCount, u.TotalSize, u.Reclaimable))
			}
			return l.print(a.out, format, false)
		},
	}
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "each thing by itself")
	cmd.Flags().StringVar(&format, "format", "table", "table, json or a Go template")
	dryRunnable(cmd)
	return cmd
}

// usageDetails shows each image, container and volume with its size.
func (a *app) usageDetails(du client.DiskUsage, format string) error {
	if format != "" && format != formatTable {
		return a.inspect(format, []any{du})
	}
	var images, containers, volumes table
	images.add("IMAGE", "ID", "SIZE", "SHARED", "CONTAINERS")
	if u := du.ImageUsage; u != nil {
		for _, i := range u.Items {
			name := "<none>"
			if len(i.RepoTags) > 0 {
				name = i.RepoTags[0]
			}
			images.add(name, shortID(i.ID), bytesText(i.Size), bytesText(i.SharedSize), fmt.Sprint(i.Containers))
		}
	}
	containers.add("CONTAINER", "IMAGE", "SIZE", "STATUS")
	if u := du.ContainerUsage; u != nil {
		for _, c := range u.Items {
			name := c.ID
			if len(c.Names) > 0 {
				name = c.Names[0][1:]
			}
			containers.add(name, c.Image, bytesText(c.SizeRw), c.Status)
		}
	}
	volumes.add("VOLUME", "CONTAINERS", "SIZE")
	if u := du.VolumeUsage; u != nil {
		for _, v := range u.Items {
			size, users := "elsewhere", "0"
			if d := v.UsageData; d != nil {
				users = fmt.Sprint(d.RefCount)
				if d.Size >= 0 {
					size = bytesText(d.Size)
				}
			}
			volumes.add(v.Name, users, size)
		}
	}
	for i, t := range []table{images, containers, volumes} {
		if i > 0 {
			fmt.Fprintln(a.out)
		}
		if err := t.write(a.out); err != nil {
			return err
		}
	}
	return nil
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
