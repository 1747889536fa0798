package cli

import (
	"slices"
	"strings"

	"gantry/client"
	"gantry/scheduler"

	"github.com/spf13/cobra"
)

// volumeRow is a volume in a list.
type volumeRow struct {
	Driver     string
	Labels     labels
	Mountpoint string
	Name       string
	Scope      string
	Created    string
}

func asVolumeRow(v client.Volume) volumeRow {
	return volumeRow{Driver: v.Driver, Labels: v.Labels, Mountpoint: v.Mountpoint, Name: v.Name, Scope: v.Scope, Created: v.CreatedAt}
}

func volumeTable(volumes []client.Volume) list[volumeRow] {
	l := list[volumeRow]{quiet: "Name", columns: []column{{"DRIVER", "Driver"}, {"VOLUME NAME", "Name"}}}
	for _, v := range volumes {
		l.rows = append(l.rows, asVolumeRow(v))
	}
	slices.SortFunc(l.rows, func(a, b volumeRow) int { return strings.Compare(a.Name, b.Name) })
	return l
}

func (a *app) volumesCommand() *cobra.Command {
	var quiet bool
	var format string
	cmd := &cobra.Command{
		Use:               "volumes [SERVICE...]",
		Short:             "List the project's volumes",
		ValidArgsFunction: a.completeServices,
		RunE: func(cmd *cobra.Command, services []string) error {
			ctx := cmd.Context()
			s, err := a.stack(ctx, stackOptions{services: services, all: true, looks: true})
			if err != nil {
				return err
			}
			volumes, err := s.client.Volumes(ctx, client.Filters{}.Add("label", scheduler.LabelProject+"="+s.name))
			if err != nil {
				return err
			}
			if len(services) > 0 {
				used := map[string]bool{}
				for _, r := range s.containers {
					for _, m := range r.Mounts {
						used[m.Name] = true
					}
				}
				volumes = slices.DeleteFunc(volumes, func(v client.Volume) bool { return !used[v.Name] })
			}
			return volumeTable(volumes).print(a.out, format, quiet)
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "names alone")
	cmd.Flags().StringVar(&format, "format", "table", "table, json or a Go template")
	a.completeFlagValues(cmd, "format", "table", "json")
	dryRunnable(cmd)
	return cmd
}
