package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"gantry/scheduler"

	"github.com/spf13/cobra"
)

// historyRow is a revision in a list.
type historyRow struct {
	Revision int
	Kind     string
	Outcome  string
	At       string
	Seconds  float64
	To       int      `json:",omitempty"`
	Kept     bool     // one can go back to it
	Services []string `json:",omitempty"`
	Changes  []string `json:",omitempty"`
	Error    string   `json:",omitempty"`

	When        string `json:"-"`
	Number      string `json:"-"`
	What        string `json:"-"`
	ServiceText string `json:"-"`
}

func (a *app) historyCommand() *cobra.Command {
	var quiet, whole bool
	var format string
	cmd := &cobra.Command{
		Use:   "history [SERVICE...]",
		Short: "Show what was changed, when, and how it ended",
		Long: "history shows what was changed of a project, the newest first: by up, scale and\n" +
			"rollback, and by gantry itself. Values that look like secrets are not shown.\n" +
			"One can go back to revisions that are done, with `gantry rollback --to REVISION`.\n" +
			"The last 20 such are kept; the history ends with the project, when it is taken down.",
		ValidArgsFunction: a.completeServices,
		RunE: func(cmd *cobra.Command, services []string) error {
			ctx := cmd.Context()
			name, c, err := a.stackHere(ctx, true)
			if err != nil {
				return err
			}
			all, err := c.History(ctx, name)
			if err != nil {
				return err
			}
			l := list[historyRow]{quiet: "Number", array: true, columns: []column{{"REVISION", "Number"}, {"WHEN", "When"},
				{"BY", "Kind"}, {"OUTCOME", "Outcome"}, {"SERVICES", "ServiceText"}, {"CHANGES", "What"}}}
			for _, r := range all {
				if len(services) == 0 || slices.ContainsFunc(services, func(s string) bool { return slices.Contains(r.Services, s) }) {
					l.rows = append(l.rows, asHistoryRow(r, services, whole))
				}
			}
			return l.print(a.out, format, quiet)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&quiet, "quiet", "q", false, "numbers alone")
	f.BoolVar(&whole, "no-trunc", false, "all changes, and why a revision failed")
	f.StringVar(&format, "format", "table", "table, json or a Go template")
	a.completeFlagValues(cmd, "format", "table", "json")
	dryRunnable(cmd)
	return cmd
}

// shownChange is how many characters of a change a row shows.
const shownChange = 80

// asHistoryRow is a revision as it is shown, of all its services or of some.
func asHistoryRow(r scheduler.Revision, services []string, whole bool) historyRow {
	row := historyRow{Revision: r.Number, Kind: string(r.Kind), Outcome: string(r.Outcome), At: r.At.UTC().Format(time.RFC3339),
		Seconds: r.Took.Seconds(), To: r.To, Kept: r.Kept && r.Outcome == scheduler.Done, Services: r.Services, Changes: r.Changes, Error: r.Error,
		Number: strconv.Itoa(r.Number), When: ago(time.Since(r.At)), ServiceText: strings.Join(r.Services, ", ")}
	if r.To > 0 {
		row.Kind += " to " + strconv.Itoa(r.To)
	}
	shown := slices.DeleteFunc(slices.Clone(r.Changes), func(text string) bool {
		return len(services) > 0 && !slices.ContainsFunc(services, func(s string) bool { return strings.HasPrefix(text, s+": ") })
	})
	switch {
	case whole:
		if r.Error != "" {
			shown = append(shown, "error: "+r.Error)
		}
		row.What = strings.Join(shown, "; ")
	case len(shown) > 0:
		row.What = shown[0]
		if text := []rune(row.What); len(text) > shownChange {
			row.What = string(text[:shownChange-1]) + "…"
		}
		if more := len(shown) - 1; more > 0 {
			row.What += fmt.Sprintf(" and %d more", more)
		}
	}
	return row
}
