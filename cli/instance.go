package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"gantry/client"
	"gantry/compose"
	"gantry/scheduler"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
)

// settledPorts gives the ports of a copy their places on the daemon's machine.
func settledPorts(ctx context.Context, c *client.Client, p *compose.Project) (*compose.Project, error) {
	blocks := compose.FixedPorts(p)
	if compose.InstanceOf(p) == "" || len(blocks) == 0 {
		return p, nil
	}
	to, err := c.PlacePorts(ctx, p.Name, blocks)
	if err != nil {
		return nil, fmt.Errorf("find ports for %s: %w", p.Name, err)
	}
	return compose.MovePorts(p, to), nil
}

// likelyPorts is settledPorts without a daemon: it gives the places where the
// ports go unless somebody else is there.
func likelyPorts(p *compose.Project) *compose.Project {
	if compose.InstanceOf(p) == "" {
		return p
	}
	to := map[int]int{}
	for _, b := range compose.FixedPorts(p) {
		if b.Placeable() == nil {
			to[b.First] = b.Candidate(p.Name, 0)
		}
	}
	return compose.MovePorts(p, to)
}

// knownPorts is settledPorts where a daemon listens, likelyPorts where none
// does: for commands that only show a project.
func (a *app) knownPorts(ctx context.Context, p *compose.Project) (*compose.Project, error) {
	if compose.InstanceOf(p) == "" {
		return p, nil
	}
	c, err := a.connect()
	if err != nil {
		return nil, err
	}
	moved, err := settledPorts(ctx, c, p)
	if errdefs.IsUnavailable(err) {
		return likelyPorts(p), nil
	}
	return moved, err
}

// beginImages lets the images that a copy would build begin as those that the
// files name, where these are here: nothing need be built to run a copy of what
// is built, or was loaded. Where the project itself runs from another
// directory, its images are of other files, and the copy builds its own. A dry
// run only pins what it would be.
func (a *app) beginImages(ctx context.Context, c *client.Client, g *scheduler.Goal, o upOptions, planned bool) error {
	if o.build || o.pull == "build" {
		return nil
	}
	froms := map[string]string{}
	for _, s := range g.Project.Services {
		if from := compose.CopiedImage(s); from != "" && s.PullPolicy != compose.PullBuild {
			froms[s.Image] = from
		}
	}
	if len(froms) == 0 {
		return nil
	}
	base := strings.TrimSuffix(g.Project.Name, "-"+compose.InstanceOf(g.Project))
	st, err := c.Project(ctx, base)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if st.Dir != "" && st.Dir != g.Project.WorkingDir && !o.noBuild {
		return nil
	}
	for _, image := range slices.Sorted(maps.Keys(froms)) {
		from := froms[image]
		if _, err := c.Image(ctx, image); !errdefs.IsNotFound(err) {
			if err != nil {
				return err
			}
			continue
		}
		is, err := c.Image(ctx, from)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		if planned {
			if g.Images == nil {
				g.Images = map[string]string{}
			}
			g.Images[image] = is.ID
		} else if err := c.TagImage(ctx, from, image[:strings.LastIndexByte(image, ':')], image[strings.LastIndexByte(image, ':')+1:]); err != nil {
			return fmt.Errorf("image %s of the copy: %w", image, err)
		}
		a.note(fmt.Sprintf("image %s begins as %s, which is here; --build builds it from these files", image, from))
	}
	return nil
}

// sayPorts tells where the ports of a copy are.
func (a *app) sayPorts(p *compose.Project) {
	for _, name := range p.ServiceNames() {
		for _, port := range p.Services[name].Ports {
			if from := compose.MovedPort(port); from != "" {
				a.note(fmt.Sprintf("%s: port %s is %s in the copy %s", name, from, port.Published, p.Name))
			}
		}
	}
}

// completeInstance offers the copies there are of the project, and auto.
func (a *app) completeInstance(cmd *cobra.Command, given []string, word string) ([]string, cobra.ShellCompDirective) {
	return a.names(func(ctx context.Context, c *client.Client) ([]string, error) {
		src := a.source()
		src.Instance, src.Warn = "", nil
		src.Environ = append(slices.Clone(src.Environ), "GANTRY_INSTANCE=")
		names := []string{compose.AutoInstance}
		base, err := compose.ProjectName(ctx, src)
		if err != nil {
			return names, nil //nolint:nilerr // who stands in no project is offered what is always there
		}
		list, err := c.Projects(ctx)
		if err != nil {
			return names, nil //nolint:nilerr // no daemon is started for a press of a key
		}
		for _, p := range list {
			if instance, ok := strings.CutPrefix(p.Name, base+"-"); ok {
				names = append(names, instance)
			}
		}
		return names, nil
	})(cmd, given, word)
}
