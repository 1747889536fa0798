package cli

import (
	"errors"
	"fmt"
	"time"

	"gantry/client"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
)

func (a *app) builderCommand() *cobra.Command {
	builder := noun("builder", "The build cache")
	builder.AddCommand(a.builderUsageCommand(), a.builderPruneCommand())
	return builder
}

// cacheRow is a record of the build cache.
type cacheRow struct {
	ID          string
	Type        string
	Size        string
	CreatedAt   string
	LastUsed    string
	UsageCount  int
	InUse       bool
	Shared      bool
	Reclaimable bool
	Parents     []string
	Description string
}

func cacheRowOf(r client.CacheRecord, now time.Time) cacheRow {
	row := cacheRow{ID: r.ID, Type: r.Type, Size: bytesText(r.Size), CreatedAt: r.CreatedAt.Format(time.RFC3339), LastUsed: "never",
		UsageCount: r.UsageCount, InUse: r.InUse, Shared: r.Shared, Reclaimable: !r.InUse && !r.Shared, Parents: r.Parents, Description: r.Description}
	if r.LastUsedAt != nil {
		row.LastUsed = ago(now.Sub(*r.LastUsedAt))
	}
	return row
}

// cacheColumns are what a table of the build cache shows.
func cacheColumns(verbose bool) []column {
	cols := []column{{"ID", "ID"}, {"TYPE", "Type"}, {"SIZE", "Size"}, {"RECLAIMABLE", "Reclaimable"}, {"LAST USED", "LastUsed"}}
	if verbose {
		cols = append(cols, column{"IN USE", "InUse"}, column{"SHARED", "Shared"}, column{"USES", "UsageCount"}, column{"CREATED", "CreatedAt"}, column{"DESCRIPTION", "Description"})
	}
	return cols
}

func (a *app) builderUsageCommand() *cobra.Command {
	var verbose bool
	var format string
	var pairs []string
	cmd := &cobra.Command{
		Use: "du", Short: "Show what the build cache holds", Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := parseCacheFilters(pairs)
			if err != nil {
				return err
			}
			c, err := a.daemon(cmd.Context())
			if err != nil {
				return err
			}
			u, err := c.CacheUsage(cmd.Context(), f)
			if err != nil {
				return err
			}
			l := list[cacheRow]{quiet: "ID", columns: cacheColumns(verbose)}
			for _, r := range u.Items {
				l.rows = append(l.rows, cacheRowOf(r, time.Now()))
			}
			if err := l.print(a.out, format, false); err != nil || format != "" && format != formatTable {
				return err
			}
			shared := int64(0)
			for _, r := range u.Items {
				if r.Shared {
					shared += r.Size
				}
			}
			fmt.Fprintf(a.out, "\nShared with images: %s\nPrivate: %s\nReclaimable: %s\n", bytesText(shared), bytesText(u.TotalSize), bytesText(u.Reclaimable))
			return nil
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&pairs, "filter", nil, "only records that have `key=value`: "+cacheKeys)
	f.BoolVar(&verbose, "verbose", false, "everything about each record")
	f.StringVar(&format, "format", "table", "table, json or a Go template")
	dryRunnable(cmd)
	return cmd
}

const cacheKeys = "until=24h, unused-for=24h, id=…, parent=…, type=regular, description=…, inuse=true, shared=true, private=true"

// parseCacheFilters reads filters of the build cache, of which some need no
// value.
func parseCacheFilters(pairs []string) (client.Filters, error) {
	f := client.Filters{}
	for _, p := range pairs {
		switch p {
		case "inuse", "shared", "private":
			f = f.Add(p, "true")
			continue
		}
		one, err := parseFilters([]string{p})
		if err != nil {
			return nil, err
		}
		for key, values := range one {
			f = f.Add(key, values...)
		}
	}
	return f, nil
}

func (a *app) builderPruneCommand() *cobra.Command {
	var p pruning
	var o client.CachePrune
	var reserved, keep, most, free string
	cmd := &cobra.Command{
		Use: "prune", Short: "Remove build cache that no build uses", Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.Filters, err = parseCacheFilters(p.filters); err != nil {
				return err
			}
			if keep != "" && reserved != "" {
				return errors.New("--keep-storage is the old name of --reserved-space: give one of them")
			}
			for _, size := range []struct {
				flag, text string
				to         *int64
			}{{"keep-storage", keep, &o.Reserved}, {"reserved-space", reserved, &o.Reserved}, {"max-used-space", most, &o.MaxUsed}, {"min-free-space", free, &o.MinFree}} {
				if size.text == "" {
					continue
				}
				if *size.to, err = units.RAMInBytes(size.text); err != nil || *size.to < 0 {
					return fmt.Errorf("--%s %q: must be a size such as 512MB or 10GB", size.flag, size.text)
				}
			}
			o.All = p.all
			text := "build cache that no build uses and no image has"
			if p.all {
				text = "all build cache that no build uses"
			}
			if ok, err := a.sure(cmd.Context(), p.force, "This removes "+text+"."); err != nil || !ok {
				return err
			}
			c, err := a.daemon(cmd.Context())
			if err != nil {
				return err
			}
			r, err := c.PruneCache(cmd.Context(), o)
			if err != nil {
				return err
			}
			a.tellPruned("", r)
			fmt.Fprintln(a.out, "Total reclaimed space:", bytesText(int64(r.Bytes))) //nolint:gosec // no disk is that large
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&p.force, "force", "f", false, "do not ask")
	f.BoolVarP(&p.all, "all", "a", false, "also what images have, and what BuildKit keeps for itself")
	f.StringArrayVar(&p.filters, "filter", nil, "only records that have `key=value`: "+cacheKeys)
	f.StringVar(&reserved, "reserved-space", "", "`size` of the most recently used cache that stays")
	f.StringVar(&most, "max-used-space", "", "`size` that the cache is brought down to")
	f.StringVar(&free, "min-free-space", "", "`size` that is to be free on the disk")
	f.StringVar(&keep, "keep-storage", "", "old name of --reserved-space")
	_ = f.MarkHidden("keep-storage")
	return cmd
}
