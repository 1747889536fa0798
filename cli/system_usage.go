package cli

import (
	"fmt"
	"time"

	"gantry/client"

	"github.com/spf13/cobra"
)

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
			if u := du.LogUsage; u != nil {
				l.rows = append(l.rows, usageOf("Logs", u.TotalCount, u.ActiveCount, u.TotalSize, u.Reclaimable))
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

// usageDetails shows each thing that takes the disk with its size.
func (a *app) usageDetails(du client.DiskUsage, format string) error {
	if format != "" && format != formatTable {
		return a.inspect(format, []any{du})
	}
	var images, containers, volumes, logs, cache table
	images.add("IMAGE", "ID", "SIZE", "SHARED", "UNIQUE", "CONTAINERS")
	if u := du.ImageUsage; u != nil {
		for _, i := range u.Items {
			name := "<none>"
			if len(i.RepoTags) > 0 {
				name = i.RepoTags[0]
			}
			images.add(name, shortID(i.ID), bytesText(i.Size), bytesText(i.SharedSize), bytesText(i.Size-i.SharedSize), fmt.Sprint(i.Containers))
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
	logs.add("LOG OF", "SIZE")
	if u := du.LogUsage; u != nil {
		for _, l := range u.Items {
			logs.add(l.Name, bytesText(l.Size))
		}
	}
	cache.add("BUILD CACHE", "TYPE", "SIZE", "LAST USED", "USES", "SHARED")
	if u := du.BuildCacheUsage; u != nil {
		for _, r := range u.Items {
			row := cacheRowOf(r, time.Now())
			cache.add(row.ID, row.Type, row.Size, row.LastUsed, fmt.Sprint(row.UsageCount), fmt.Sprint(row.Shared))
		}
	}
	for i, t := range []table{images, containers, volumes, logs, cache} {
		if i > 0 {
			fmt.Fprintln(a.out)
		}
		if err := t.write(a.out); err != nil {
			return err
		}
	}
	return nil
}
