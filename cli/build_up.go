package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"gantry/client"
	"gantry/client/build"
	"gantry/compose"
	"gantry/scheduler"

	"github.com/containerd/errdefs"
)

// wantedBuild is a service whose image may be to be built.
type wantedBuild struct {
	service, image string
	gone           bool // there is none
}

// wantedBuilds are the builds a goal needs: those whose images are not here, and
// those that its user, or its project, wants in any case.
func (a *app) wantedBuilds(ctx context.Context, c *client.Client, g scheduler.Goal, o upOptions, planned bool) ([]wantedBuild, error) {
	var all []wantedBuild
	for _, name := range g.Project.ServiceNames() {
		s := g.Project.Services[name]
		if !g.Needs(name) || s.Build == nil {
			continue
		}
		s.Name = name
		all = append(all, wantedBuild{service: name, image: compose.ImageName(g.Project, s)})
	}
	err := a.side(ctx, len(all), 6, func(ctx context.Context, i int) error {
		_, err := c.Image(ctx, all[i].image)
		if errdefs.IsNotFound(err) {
			all[i].gone, err = g.Images[all[i].image] == "", nil
		}
		return err
	})
	return slices.DeleteFunc(all, func(w wantedBuild) bool {
		// What would be pulled first is the plan's own step.
		return w.because(g, o) == "" || planned && !o.build && pulledFirst(g.Project.Services[w.service])
	}), err
}

// because is why a service is built, "" if it is not.
func (w wantedBuild) because(g scheduler.Goal, o upOptions) string {
	switch {
	case o.noBuild && !w.gone:
		return ""
	case w.gone:
		return "it is not here"
	case o.build:
		return "--build asks for it"
	case g.Project.Services[w.service].PullPolicy == compose.PullBuild:
		return "pull_policy is build"
	}
	return ""
}

// comingBuilds says which builds a goal needs, and notes in it what will come of
// them. Nothing is built.
func (a *app) comingBuilds(ctx context.Context, c *client.Client, g *scheduler.Goal, o upOptions, planned bool) ([]build.Request, error) {
	wanted, err := a.wantedBuilds(ctx, c, *g, o, planned)
	if err != nil {
		return nil, err
	}
	if o.noBuild {
		var errs []error
		for _, w := range wanted {
			errs = append(errs, fmt.Errorf("service %s: image %q is not here, and --no-build forbids to build it; leave the flag out or bring the image", w.service, w.image))
		}
		return nil, errors.Join(errs...)
	}
	var services []string
	for _, w := range wanted {
		services = append(services, w.service)
		if g.Coming == nil {
			g.Coming = map[string]string{}
		}
		g.Coming[w.image] = w.because(*g, o)
	}
	requests, err := a.requests(g.Project, services)
	for i := range requests {
		requests[i].Platforms = onePlatform(g.Project, requests[i])
	}
	g.Project = withoutBuildSecrets(g.Project)
	return requests, err
}

// buildComing builds what a goal needs, with the caller's credentials and keys,
// and fixes the goal's images to what came of it.
func (a *app) buildComing(ctx context.Context, c *client.Client, g *scheduler.Goal, requests []build.Request, o upOptions) error {
	g.Coming = nil
	if len(requests) == 0 {
		return nil
	}
	results, err := a.runBuilds(ctx, c, requests, o.quietBuild)
	if err != nil {
		return err
	}
	for _, r := range results {
		s, ok := g.Project.Services[r.Name]
		if !ok || r.Image == "" {
			continue
		}
		if g.Images == nil {
			g.Images = map[string]string{}
		}
		s.Name = r.Name
		g.Images[compose.ImageName(g.Project, s)] = r.Image
	}
	return nil
}

// onePlatform is the platform to build for what will run here, where a build
// may have several.
func onePlatform(p *compose.Project, r build.Request) []string {
	if len(r.Platforms) <= 1 {
		return r.Platforms
	}
	if s := p.Services[r.Name]; s.Platform != "" {
		return []string{s.Platform}
	}
	return nil // this machine's
}

// withoutBuildSecrets leaves out of a project what builds alone may see: it is
// not for the daemon to keep.
func withoutBuildSecrets(p *compose.Project) *compose.Project {
	mounted := map[string]bool{}
	for _, s := range p.Services {
		for _, ref := range s.Secrets {
			mounted[ref.Source] = true
		}
	}
	out := *p
	out.Secrets = compose.Secrets{}
	for name, s := range p.Secrets {
		if mounted[name] {
			out.Secrets[name] = s
		}
	}
	return &out
}
