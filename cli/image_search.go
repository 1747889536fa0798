package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

// foundRow is an image that a search has found.
type foundRow struct {
	Name        string
	Description string
	StarCount   int
	IsOfficial  string
	IsAutomated string
}

func (a *app) imageSearchCommand() *cobra.Command {
	var noTrunc bool
	var format string
	var limit int
	var filters []string
	cmd := &cobra.Command{
		Use:   "search [HOST/]TERM",
		Short: "Search Docker Hub, or another registry that can be searched",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := parseFilters(filters)
			if err != nil {
				return err
			}
			if limit < 1 || limit > 100 {
				return fmt.Errorf("--limit %d: must be from 1 to 100", limit)
			}
			c, err := a.daemon(cmd.Context())
			if err != nil {
				return err
			}
			found, err := c.SearchImages(cmd.Context(), args[0], limit, f)
			if err != nil {
				return err
			}
			l := list[foundRow]{columns: []column{{"NAME", "Name"}, {"DESCRIPTION", "Description"}, {"STARS", "StarCount"}, {"OFFICIAL", "IsOfficial"}}}
			for _, i := range found {
				row := foundRow{Name: i.Name, Description: i.Description, StarCount: i.StarCount}
				if !noTrunc {
					row.Description = clip(row.Description, 45)
				}
				if i.IsOfficial {
					row.IsOfficial = "[OK]"
				}
				l.rows = append(l.rows, row)
			}
			return l.print(a.out, format, false)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&noTrunc, "no-trunc", false, "do not shorten")
	f.IntVar(&limit, "limit", 25, "how many at most, up to 100")
	f.StringArrayVarP(&filters, "filter", "f", nil, "only those with `key=value`: is-official=true, stars=3")
	f.StringVar(&format, "format", "table", "table, json or a Go template")
	dryRunnable(cmd)
	return cmd
}
