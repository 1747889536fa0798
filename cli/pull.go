package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"gantry/client"
	"gantry/client/build"
	"gantry/compose"
	"gantry/scheduler"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// transferOptions are the flags of pull and push.
type transferOptions struct {
	quiet, includeDeps bool
	ignoreFailures     bool
	ignoreBuildable    bool
	policy             string
}

func (o *transferOptions) flags(f *pflag.FlagSet, verb string) {
	f.BoolVarP(&o.quiet, "quiet", "q", false, "without progress")
	f.BoolVar(&o.includeDeps, "include-deps", false, "also those of what the services depend on")
	f.BoolVar(&o.ignoreFailures, "ignore-"+verb+"-failures", false, "an image that cannot be "+verb+"ed is no error")
}

// transferCommand is what pull and push have in common.
func (a *app) transferCommand(verb, short string, o *transferOptions, run func(context.Context, []string, transferOptions) error) *cobra.Command {
	cmd := &cobra.Command{
		Use:               verb + " [SERVICE...]",
		Short:             short,
		ValidArgsFunction: a.completeServices,
		RunE:              func(cmd *cobra.Command, services []string) error { return run(cmd.Context(), services, *o) },
	}
	o.flags(cmd.Flags(), verb)
	dryRunnable(cmd)
	return cmd
}

// transferred are the services whose images are meant, and the daemon.
func (a *app) transferred(ctx context.Context, services []string, o transferOptions) (*compose.Project, *client.Client, error) {
	p, err := a.load(ctx, func(s *compose.Source) { s.Services, s.NoDeps = services, !o.includeDeps })
	if err != nil {
		return nil, nil, err
	}
	c, err := a.daemon(ctx)
	return p, c, err
}

func (a *app) pullCommand() *cobra.Command {
	var o transferOptions
	cmd := a.transferCommand("pull", "Pull the images of services", &o, a.pull)
	f := cmd.Flags()
	f.BoolVar(&o.ignoreBuildable, "ignore-buildable", false, "leave out images that can be built")
	f.StringVar(&o.policy, "policy", "", "`when` to pull, whatever the compose file says: missing or always")
	// Of old: images are always pulled side by side.
	f.Bool("parallel", true, "")
	f.Bool("no-parallel", false, "")
	f.Lookup("parallel").Hidden, f.Lookup("no-parallel").Hidden = true, true
	a.completeFlagValues(cmd, "policy", "missing", "always")
	return cmd
}

func (a *app) pull(ctx context.Context, services []string, o transferOptions) error {
	switch o.policy {
	case "", compose.PullMissing, compose.PullAlways:
	default:
		return fmt.Errorf("--policy %q: must be missing or always", o.policy)
	}
	p, c, err := a.transferred(ctx, services, o)
	if err != nil {
		return err
	}
	var jobs transfers
	built := builtImages(p, func(string) bool { return true })
	for _, name := range p.ServiceNames() {
		s := p.Services[name]
		policy, every, err := compose.PullPolicy(s)
		if err != nil {
			return fmt.Errorf("service %s: %w", name, err)
		}
		// Whoever says pull means it, unless the file says when to.
		switch {
		case o.policy != "":
			policy = o.policy
		case s.PullPolicy == "":
			policy = compose.PullAlways
		}
		if s.Image == "" || o.ignoreBuildable && built[s.Image] {
			continue
		}
		jobs.add(&transfer{ref: cmp.Or(compose.CopiedImage(s), s.Image), platform: s.Platform, service: name, policy: policy, every: every,
			optional: o.ignoreFailures || built[s.Image]})
	}
	return a.pullAll(ctx, c, jobs, o.quiet)
}

// transfer is an image to be pulled or pushed.
type transfer struct {
	ref, platform string
	service       string // the first that needs it
	policy        string
	every         time.Duration // for compose.PullRefresh
	optional      bool          // a failure is told and is none

	here   bool // before
	failed error
}

// transfers are images, each once however many services need it.
type transfers []*transfer

func (t *transfers) add(job *transfer) {
	for _, other := range *t {
		if other.ref == job.ref && other.platform == job.platform {
			if other.policy != compose.PullAlways {
				other.policy = job.policy
			}
			other.optional = other.optional && job.optional
			return
		}
	}
	*t = append(*t, job)
}

// due tells whether an image is to be pulled. It is pure.
func (t *transfer) due(here bool, pulled, now time.Time) bool {
	switch t.policy {
	case compose.PullNever, compose.PullBuild:
		return false
	case compose.PullAlways:
		return true
	case compose.PullRefresh:
		return !here || now.Sub(pulled) >= t.every
	}
	return !here
}

// pullAll pulls what is due, side by side, with a view of its progress.
func (a *app) pullAll(ctx context.Context, c *client.Client, jobs transfers, quiet bool) error {
	due, err := a.dueOf(ctx, c, jobs)
	if err != nil || len(due) == 0 {
		return err
	}
	return a.transferAll(ctx, due, "pull", quiet, func(ctx context.Context, t *transfer, tell func(client.ImageProgress)) error {
		err := c.PullImage(ctx, t.ref, client.PullOptions{Platform: t.platform, Tell: tell})
		if err != nil && !t.here && ctx.Err() == nil {
			err = fmt.Errorf("%w; an image that no registry has is brought with `gantry image load`", err)
		}
		return err
	})
}

// dueOf looks which images are here, and gives those that are to be pulled.
func (a *app) dueOf(ctx context.Context, c *client.Client, jobs transfers) (transfers, error) {
	pulled := make([]time.Time, len(jobs))
	err := a.side(ctx, len(jobs), 6, func(ctx context.Context, i int) error {
		img, err := c.Image(ctx, jobs[i].ref)
		if errdefs.IsNotFound(err) {
			return nil
		}
		if err == nil {
			jobs[i].here, pulled[i] = true, img.Metadata.LastTagTime
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var due transfers
	for i, t := range jobs {
		if t.due(t.here, pulled[i], time.Now()) {
			due = append(due, t)
		}
	}
	return due, nil
}

// side does n things side by side, at most limit at a time, and gives back all
// that went wrong.
func (a *app) side(ctx context.Context, n, limit int, do func(context.Context, int) error) error {
	if a.parallel > 0 {
		limit = min(limit, a.parallel)
	}
	slots := make(chan struct{}, limit)
	errs := make([]error, n)
	var work sync.WaitGroup
	for i := range n {
		work.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if errs[i] = context.Cause(ctx); errs[i] == nil {
				errs[i] = do(ctx, i)
			}
		})
	}
	work.Wait()
	return errors.Join(errs...)
}

// transferAll pulls or pushes images side by side. A failure does not keep the
// others.
func (a *app) transferAll(ctx context.Context, jobs transfers, verb string, quiet bool, do func(context.Context, *transfer, func(client.ImageProgress)) error) error {
	if a.dryRun {
		for _, t := range jobs {
			fmt.Fprintln(a.out, verb, t.ref)
		}
		return nil
	}
	var show progress = quietProgress{}
	if !quiet {
		show = a.newProgress(verb)
	}
	var turn sync.Mutex
	err := a.side(ctx, len(jobs), 6, func(ctx context.Context, i int) error {
		t := jobs[i]
		e := scheduler.Event{What: scheduler.What{Verb: verb, Kind: "image", Name: t.ref}, Progress: scheduler.StepStarted}
		tell := func() {
			turn.Lock()
			defer turn.Unlock()
			show.event(e)
		}
		tell()
		began := time.Now()
		err := do(ctx, t, func(p client.ImageProgress) {
			turn.Lock()
			defer turn.Unlock()
			show.layer(t.ref, p)
		})
		e.Progress, e.Took = scheduler.StepDone, time.Since(began)
		if err != nil {
			e.Progress, e.Err, e.Optional = scheduler.StepFailed, err, t.optional
		}
		tell()
		if err != nil && t.service != "" {
			err = fmt.Errorf("service %s: %w", t.service, err)
		}
		t.failed, t.here = err, t.here || err == nil
		if t.optional && ctx.Err() == nil {
			return nil
		}
		return err
	})
	show.close()
	return err
}

// imagesOf are the images that the services of a goal need. Those that are to be
// built are not pulled first.
func imagesOf(g scheduler.Goal, builds bool) (transfers, error) {
	var jobs transfers
	built := builtImages(g.Project, g.Needs)
	for _, name := range g.Project.ServiceNames() {
		s := g.Project.Services[name]
		if !g.Needs(name) {
			continue
		}
		policy, every, err := compose.PullPolicy(s)
		if err != nil {
			return nil, fmt.Errorf("service %s: %w", name, err)
		}
		if s.Build != nil && (builds || !pulledFirst(s)) {
			policy = compose.PullBuild
		}
		s.Name = name
		ref := compose.ImageName(g.Project, s)
		if s.Build == nil && built[ref] && policy == compose.PullMissing {
			policy = compose.PullBuild // by the other service
		}
		jobs.add(&transfer{ref: ref, platform: s.Platform, service: name, policy: policy, every: every, optional: built[ref]})
	}
	return jobs, nil
}

// builtImages are those that services of a project build. Others may use them
// without a word about how.
func builtImages(p *compose.Project, wanted func(service string) bool) map[string]bool {
	built := map[string]bool{}
	for name, s := range p.Services {
		if s.Build != nil && wanted(name) {
			s.Name = name
			built[compose.ImageName(p, s)] = true
		}
	}
	return built
}

// pulledFirst tells whether a service's image is built only if no registry has
// it.
func pulledFirst(s compose.Service) bool {
	return s.Image != "" && s.PullPolicy != "" && s.PullPolicy != compose.PullBuild && s.PullPolicy != compose.PullNever
}

// bring pulls what the services of a goal need and the policies ask for, before
// anything is changed; what is still missing then is built, by the requests it
// gives back, or refused. A plan pulls nothing.
func (a *app) bring(ctx context.Context, c *client.Client, g *scheduler.Goal, o upOptions, planned bool) ([]build.Request, error) {
	if err := a.beginImages(ctx, c, g, o, planned); err != nil {
		return nil, err
	}
	jobs, err := imagesOf(*g, o.build)
	if err != nil {
		return nil, err
	}
	if planned {
		err = a.comingPulls(ctx, c, g, jobs, o)
	} else {
		err = a.pullAll(ctx, c, jobs, o.quietPull)
	}
	if err != nil {
		return nil, err
	}
	if err := missingImages(jobs); err != nil {
		return nil, err
	}
	return a.comingBuilds(ctx, c, g, o, planned)
}

// comingPulls notes in a goal which images that are here will be asked for
// again. What is not here is a step of the plan.
func (a *app) comingPulls(ctx context.Context, c *client.Client, g *scheduler.Goal, jobs transfers, o upOptions) error {
	due, err := a.dueOf(ctx, c, jobs)
	for _, t := range due {
		if !t.here {
			continue
		}
		if g.Pulls == nil {
			g.Pulls = map[string]string{}
		}
		g.Pulls[t.ref] = "pull_policy is " + t.policy
		if o.pull != "" && o.pull != "policy" {
			g.Pulls[t.ref] = "--pull " + o.pull + " asks for it"
		}
	}
	return err
}

// missingImages refuses a goal whose images are not here and cannot be had.
func missingImages(jobs transfers) error {
	var errs []error
	for _, t := range jobs {
		if !t.here && !t.optional && t.policy == compose.PullNever {
			errs = append(errs, fmt.Errorf("service %s: image %q is not here and pull_policy is never; bring it with `gantry image pull` or `gantry image load`", t.service, t.ref))
		}
	}
	return errors.Join(errs...)
}

func (a *app) imagePullCommand() *cobra.Command {
	var platform string
	cmd := a.imageTransferCommand("pull", "NAME[:TAG|@DIGEST]", "Bring an image from a registry", "all tags of the repository",
		func(ctx context.Context, c *client.Client, ref string, all bool, tell func(client.ImageProgress)) error {
			return c.PullImage(ctx, ref, client.PullOptions{Platform: platform, AllTags: all, Tell: tell})
		})
	cmd.Flags().StringVar(&platform, "platform", "", "`os/arch[/variant]` instead of this machine's")
	return cmd
}

// imageTransferCommand is what image pull and image push have in common.
func (a *app) imageTransferCommand(verb, what, short, all string, do func(ctx context.Context, c *client.Client, ref string, all bool, tell func(client.ImageProgress)) error) *cobra.Command {
	var allTags, quiet bool
	cmd := &cobra.Command{
		Use:   verb + " " + what,
		Short: short,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.transferImage(cmd.Context(), args[0], verb, quiet, func(ctx context.Context, c *client.Client, tell func(client.ImageProgress)) error {
				return do(ctx, c, args[0], allTags, tell)
			})
		},
	}
	cmd.Flags().BoolVarP(&allTags, "all-tags", "a", false, all)
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print nothing but the name")
	return cmd
}

// transferImage pulls or pushes one image, and prints what it has become.
func (a *app) transferImage(ctx context.Context, ref, verb string, quiet bool, do func(context.Context, *client.Client, func(client.ImageProgress)) error) error {
	c, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	var results []string
	err = a.transferAll(ctx, transfers{{ref: ref}}, verb, quiet, func(ctx context.Context, _ *transfer, tell func(client.ImageProgress)) error {
		return do(ctx, c, func(p client.ImageProgress) {
			if p.Layer == "" { // about the whole
				results = append(results, p.Status)
				return
			}
			tell(p)
		})
	})
	switch {
	case err != nil:
		return err
	case quiet:
		fmt.Fprintln(a.out, ref)
	default:
		for _, line := range slices.Compact(results) {
			fmt.Fprintln(a.out, line)
		}
	}
	return nil
}
