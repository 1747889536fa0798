package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"gantry/client"

	"github.com/spf13/cobra"
)

// pruning is what the commands called prune have in common.
type pruning struct {
	force   bool
	all     bool
	filters []string
}

func (p *pruning) flags(cmd *cobra.Command, all string) {
	f := cmd.Flags()
	f.BoolVarP(&p.force, "force", "f", false, "do not ask")
	f.StringArrayVar(&p.filters, "filter", nil, "only what has `key=value`: until=24h, label=x, label!=x")
	if all != "" {
		f.BoolVarP(&p.all, "all", "a", false, all)
	}
}

// pruneCommand removes what nobody uses of one noun.
func (a *app) pruneCommand(short, warning, all string, do func(context.Context, *client.Client, client.Filters, bool) (client.Pruned, error)) *cobra.Command {
	var p pruning
	cmd := &cobra.Command{
		Use: "prune", Short: short, Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := parseFilters(p.filters)
			if err != nil {
				return err
			}
			text := warning
			if p.all {
				text += ", also those with a name"
			}
			if ok, err := a.sure(cmd.Context(), p.force, "This removes "+text+"."); err != nil || !ok {
				return err
			}
			c, err := a.daemon(cmd.Context())
			if err != nil {
				return err
			}
			r, err := do(cmd.Context(), c, f, p.all)
			if err != nil {
				return err
			}
			a.tellPruned("", r)
			fmt.Fprintln(a.out, "Total reclaimed space:", bytesText(int64(r.Bytes))) //nolint:gosec // no disk is that large
			return nil
		},
	}
	p.flags(cmd, all)
	return cmd
}

// sure asks before something is lost. Where nobody can answer, it has to have
// been said.
func (a *app) sure(ctx context.Context, force bool, what string) (bool, error) {
	if force {
		return true, nil
	}
	if !isTerminal(a.in) {
		return false, errors.New(strings.ToLower(what[:1]) + strings.TrimSuffix(what[1:], ".") + ": say --force where nobody can be asked")
	}
	return a.ask(ctx, what+" Go on?")
}

func (a *app) tellPruned(what string, r client.Pruned) {
	if len(r.Gone) == 0 {
		return
	}
	if what != "" {
		fmt.Fprintln(a.out, "Deleted "+what+":")
	}
	for _, g := range r.Gone {
		fmt.Fprintln(a.out, g)
	}
	if what != "" {
		fmt.Fprintln(a.out)
	}
}

func (a *app) containerPruneCommand() *cobra.Command {
	return a.pruneCommand("Remove all stopped containers", "all stopped containers", "",
		func(ctx context.Context, c *client.Client, f client.Filters, _ bool) (client.Pruned, error) {
			return c.PruneContainers(ctx, f)
		})
}

func (a *app) networkPruneCommand() *cobra.Command {
	return a.pruneCommand("Remove networks that no container is on", "all networks that no container is on", "",
		func(ctx context.Context, c *client.Client, f client.Filters, _ bool) (client.Pruned, error) {
			return c.PruneNetworks(ctx, f)
		})
}

func (a *app) imagePruneCommand() *cobra.Command {
	return a.pruneCommand("Remove images that have no name", "images without a name that no container uses", "images with a name, too, that no container uses", pruneImages)
}

func (a *app) volumePruneCommand() *cobra.Command {
	return a.pruneCommand("Remove volumes that no container mounts", "volumes without a name that no container mounts, with what is in them", "volumes with a name, too", pruneVolumes)
}

func pruneImages(ctx context.Context, c *client.Client, f client.Filters, all bool) (client.Pruned, error) {
	if all {
		f = maps.Clone(f).Add("dangling", "false")
	}
	return c.PruneImages(ctx, f)
}

func pruneVolumes(ctx context.Context, c *client.Client, f client.Filters, all bool) (client.Pruned, error) {
	if all {
		f = maps.Clone(f).Add("all", "true")
	}
	return c.PruneVolumes(ctx, f)
}

// systemPruneCommand prunes one noun after the other: containers first, which
// hold the others.
func (a *app) systemPruneCommand() *cobra.Command {
	var p pruning
	var volumes bool
	cmd := &cobra.Command{
		Use: "prune", Short: "Remove what nobody uses", Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			f, err := parseFilters(p.filters)
			if err != nil {
				return err
			}
			if volumes && len(f["until"]) > 0 {
				return errors.New("the filter until is not for volumes: prune those by themselves")
			}
			text := "all stopped containers, all networks that no container is on"
			if volumes {
				text += ", all volumes without a name that no container mounts"
			}
			if p.all {
				text += ", all images that no container uses"
			} else {
				text += ", all images without a name"
			}
			// Build cache has no labels: of what has certain ones it has nothing.
			cache := len(f["label"])+len(f["label!"]) == 0
			if cache {
				text += " and the build cache that no build uses"
			}
			if ok, err := a.sure(ctx, p.force, "This removes "+text+"."); err != nil || !ok {
				return err
			}
			c, err := a.daemon(ctx)
			if err != nil {
				return err
			}
			total := uint64(0)
			for _, step := range []struct {
				what string
				on   bool
				do   func() (client.Pruned, error)
			}{
				{"Containers", true, func() (client.Pruned, error) { return c.PruneContainers(ctx, f) }},
				{"Networks", true, func() (client.Pruned, error) { return c.PruneNetworks(ctx, f) }},
				{"Volumes", volumes, func() (client.Pruned, error) { return c.PruneVolumes(ctx, f) }},
				{"Images", true, func() (client.Pruned, error) { return pruneImages(ctx, c, f, p.all) }},
				{"Build Cache", cache, func() (client.Pruned, error) {
					return c.PruneCache(ctx, client.CachePrune{All: p.all, Filters: f})
				}},
			} {
				if !step.on {
					continue
				}
				r, err := step.do()
				if err != nil {
					return err
				}
				a.tellPruned(step.what, r)
				total += r.Bytes
			}
			fmt.Fprintln(a.out, "Total reclaimed space:", bytesText(int64(total))) //nolint:gosec // no disk is that large
			return nil
		},
	}
	p.flags(cmd, "all images that no container uses, also with a name")
	cmd.Flags().BoolVar(&volumes, "volumes", false, "volumes without a name, too")
	return cmd
}
