package cli

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"gantry/client"
	"gantry/scheduler"

	"github.com/spf13/cobra"
)

// stackRow is a project in a list. Its JSON is docker compose's.
type stackRow struct {
	Name        string
	Status      string
	ConfigFiles string
}

func (a *app) lsCommand() *cobra.Command {
	var all, quiet bool
	var format string
	var filters []string
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List projects",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			var names []*regexp.Regexp
			for _, f := range filters {
				key, value, _ := strings.Cut(f, "=")
				if key != "name" {
					return fmt.Errorf("--filter %q: only name=PATTERN can be filtered by", f)
				}
				re, err := regexp.Compile(value)
				if err != nil {
					return fmt.Errorf("--filter %q: %w", f, err)
				}
				names = append(names, re)
			}
			c, err := a.daemon(ctx)
			if err != nil {
				return err
			}
			containers, err := c.Containers(ctx, client.ListOptions{All: true, Filters: client.Filters{}.Add("label", scheduler.LabelProject)})
			if err != nil {
				return err
			}
			l := list[stackRow]{quiet: "Name", array: true,
				columns: []column{{"NAME", "Name"}, {"STATUS", "Status"}, {"CONFIG FILES", "ConfigFiles"}}}
			for _, row := range stackRows(containers, all) {
				if len(names) == 0 || slices.ContainsFunc(names, func(re *regexp.Regexp) bool { return re.MatchString(row.Name) }) {
					l.rows = append(l.rows, row)
				}
			}
			return l.print(a.out, format, quiet)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "projects of which nothing runs, too")
	f.BoolVarP(&quiet, "quiet", "q", false, "names alone")
	f.StringArrayVar(&filters, "filter", nil, "only those with `name=PATTERN`")
	f.StringVar(&format, "format", "table", "table, json or a Go template")
	a.completeFlagValues(cmd, "format", "table", "json")
	dryRunnable(cmd)
	return cmd
}

// stackRows tells projects by their containers: "running(2), exited(1)".
func stackRows(containers []client.Container, all bool) []stackRow {
	type count struct {
		states map[string]int
		files  []string
		live   bool
	}
	counts := map[string]*count{}
	for _, ct := range containers {
		r := asReplica(ct)
		name := ct.Labels[scheduler.LabelProject]
		if name == "" || r.labels.OneOff {
			continue
		}
		c := counts[name]
		if c == nil {
			c = &count{states: map[string]int{}}
			counts[name] = c
		}
		c.states[string(ct.State)]++
		c.live = c.live || r.live()
		for f := range strings.SplitSeq(ct.Labels[scheduler.LabelConfigFiles], ",") {
			if f != "" && !slices.Contains(c.files, f) {
				c.files = append(c.files, f)
			}
		}
	}
	var rows []stackRow
	for name, c := range counts {
		if !c.live && !all {
			continue
		}
		var parts []string
		for state, n := range c.states {
			parts = append(parts, fmt.Sprintf("%s(%d)", state, n))
		}
		slices.Sort(parts)
		rows = append(rows, stackRow{name, strings.Join(parts, ", "), strings.Join(c.files, ",")})
	}
	slices.SortFunc(rows, func(a, b stackRow) int { return strings.Compare(a.Name, b.Name) })
	return rows
}
