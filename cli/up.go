package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"gantry/client"
	"gantry/compose"
	"gantry/scheduler"

	"github.com/spf13/cobra"
)

// upOptions are the flags of up, and of create and plan as far as they have
// them.
type upOptions struct {
	detach, wait, noStart        bool
	build, noBuild, watch, menu  bool
	forceRecreate, noRecreate    bool
	alwaysRecreateDeps, noDeps   bool
	removeOrphans, renewVolumes  bool
	quietPull, quietBuild        bool
	abortOnExit, abortOnFailure  bool
	attachDependencies           bool
	noColor, noPrefix, timestamp bool
	yes                          bool
	exitCodeFrom, pull           string
	attach, noAttach, scale      []string
	timeout, waitTimeout         int
	hasTimeout                   bool
}

func (a *app) upCommand() *cobra.Command {
	var o upOptions
	cmd := &cobra.Command{
		Use:               "up [SERVICE...]",
		Short:             "Create and start services",
		ValidArgsFunction: a.completeServices,
		RunE: func(cmd *cobra.Command, services []string) error {
			o.hasTimeout = cmd.Flags().Changed("timeout")
			if !cmd.Flags().Changed("remove-orphans") {
				o.removeOrphans = a.settingBool("COMPOSE_REMOVE_ORPHANS")
			}
			return a.up(cmd.Context(), services, o)
		},
	}
	o.flags(cmd, a)
	f := cmd.Flags()
	f.BoolVarP(&o.detach, "detach", "d", false, "leave the containers running in the background")
	f.BoolVar(&o.wait, "wait", false, "wait until services are running or healthy; implies --detach")
	f.IntVar(&o.waitTimeout, "wait-timeout", 0, "longest to wait, in `seconds`")
	f.BoolVar(&o.noStart, "no-start", false, "create the containers and do not start them")
	f.BoolVar(&o.abortOnExit, "abort-on-container-exit", false, "stop everything when a container ends")
	f.BoolVar(&o.abortOnFailure, "abort-on-container-failure", false, "stop everything when a container fails")
	f.StringVar(&o.exitCodeFrom, "exit-code-from", "", "end with the exit code of this `service`; implies --abort-on-container-exit")
	f.StringArrayVar(&o.attach, "attach", nil, "show the output of this `service` and no other; may be given several times")
	f.StringArrayVar(&o.noAttach, "no-attach", nil, "do not show the output of this `service`; may be given several times")
	f.BoolVar(&o.attachDependencies, "attach-dependencies", false, "show the output of dependencies, too")
	f.BoolVar(&o.noColor, "no-color", false, "no colours")
	f.BoolVar(&o.noPrefix, "no-log-prefix", false, "lines without the name of their container")
	f.BoolVar(&o.timestamp, "timestamps", false, "show the time of each line")
	f.BoolVarP(&o.watch, "watch", "w", false, "not supported yet")
	f.BoolVar(&o.menu, "menu", false, "not supported yet")
	a.completeFlagServices(cmd, "attach", "no-attach", "exit-code-from")
	dryRunnable(cmd)
	return cmd
}

// flags are those up shares with create and plan.
func (o *upOptions) flags(cmd *cobra.Command, a *app) {
	f := cmd.Flags()
	o.createFlags(cmd, a)
	f.BoolVar(&o.alwaysRecreateDeps, "always-recreate-deps", false, "recreate dependencies, too")
	f.BoolVar(&o.noDeps, "no-deps", false, "leave alone what the services depend on")
	f.BoolVarP(&o.renewVolumes, "renew-anon-volumes", "V", false, "recreated containers get fresh anonymous volumes")
	f.IntVarP(&o.timeout, "timeout", "t", 0, "`seconds` a container has to stop (default: its own)")
	f.BoolVar(&o.quietBuild, "quiet-build", false, "build without progress")
}

func (o *upOptions) createFlags(cmd *cobra.Command, a *app) {
	f := cmd.Flags()
	f.BoolVar(&o.build, "build", false, "build images also if they are here")
	f.BoolVar(&o.noBuild, "no-build", false, "do not build images, also if they are not here")
	f.BoolVar(&o.forceRecreate, "force-recreate", false, "recreate containers that have not changed")
	f.BoolVar(&o.noRecreate, "no-recreate", false, "leave containers that exist as they are")
	f.StringVar(&o.pull, "pull", "policy", "`when` to pull images: always, missing, never, build (build them instead) or policy (as the compose file says)")
	f.BoolVar(&o.quietPull, "quiet-pull", false, "pull without progress")
	f.BoolVar(&o.removeOrphans, "remove-orphans", false, "remove containers of services the project does not have")
	f.StringArrayVar(&o.scale, "scale", nil, "number of containers as `SERVICE=NUM`, whatever the compose file says")
	f.BoolVarP(&o.yes, "yes", "y", false, "answer yes to every question")
	a.completeFlagValues(cmd, "pull", "always", "missing", "never", "build", "policy")
	_ = cmd.RegisterFlagCompletionFunc("scale", a.completeScale)
}

// refuse names what is not supported yet and what does not go together.
func (o *upOptions) refuse() error {
	together := func(a bool, nameA string, b bool, nameB string) error {
		if a && b {
			return fmt.Errorf("%s and %s cannot be combined", nameA, nameB)
		}
		return nil
	}
	switch {
	case o.watch:
		return errors.New("--watch is not supported yet")
	case o.menu:
		return errors.New("--menu is not supported yet")
	}
	switch o.pull {
	case "always", "missing", "never", "policy", "":
	case "build":
		o.build = true
	case "newer":
		return fmt.Errorf("--pull %s is not supported", o.pull)
	default:
		return fmt.Errorf("--pull %q: must be always, missing, never, build or policy", o.pull)
	}
	abort := o.abortOnExit || o.abortOnFailure || o.exitCodeFrom != ""
	attached := len(o.attach) > 0 || o.attachDependencies
	if o.timeout < 0 || o.waitTimeout < 0 {
		return errors.New("--timeout and --wait-timeout must not be negative")
	}
	return errors.Join(
		together(o.build, "--build", o.noBuild, "--no-build"),
		together(o.forceRecreate, "--force-recreate", o.noRecreate, "--no-recreate"),
		together(o.alwaysRecreateDeps, "--always-recreate-deps", o.noRecreate, "--no-recreate"),
		together(o.renewVolumes, "--renew-anon-volumes", o.noRecreate, "--no-recreate"),
		together(o.detach, "--detach", abort, "--abort-on-container-exit, --abort-on-container-failure or --exit-code-from"),
		together(o.wait, "--wait", abort, "--abort-on-container-exit, --abort-on-container-failure or --exit-code-from"),
		together(o.abortOnExit, "--abort-on-container-exit", o.abortOnFailure, "--abort-on-container-failure"),
		together(o.detach || o.wait, "--detach", attached, "--attach or --attach-dependencies"),
		together(o.noDeps, "--no-deps", o.attachDependencies, "--attach-dependencies"),
	)
}

// options are what the scheduler is told.
func (o *upOptions) options(services []string, parallel int) scheduler.Options {
	so := scheduler.Options{Services: services, NoDeps: o.noDeps, NoStart: o.noStart, Wait: o.wait,
		RemoveOrphans: o.removeOrphans, RenewAnonVolumes: o.renewVolumes, RenewVolumes: o.yes, Parallel: max(parallel, 0)}
	switch {
	case o.forceRecreate:
		so.Recreate = scheduler.Always
	case o.noRecreate:
		so.Recreate, so.RecreateDependencies = scheduler.Never, scheduler.Never
	}
	switch {
	case o.alwaysRecreateDeps:
		so.RecreateDependencies = scheduler.Always
	case o.forceRecreate && len(services) == 0:
		so.RecreateDependencies = scheduler.Always
	}
	if o.hasTimeout {
		so.Timeout = seconds(o.timeout)
	}
	return so
}

func seconds(n int) *time.Duration {
	d := time.Duration(n) * time.Second
	return &d
}

// goal loads the project and makes of it what is wanted. A project that cannot
// be honoured is refused here, with everything that stands in the way.
func (a *app) goal(ctx context.Context, services []string, o upOptions) (scheduler.Goal, error) {
	p, err := a.load(ctx, func(s *compose.Source) { s.Services, s.NoDeps, s.Said = services, o.noDeps, a.note })
	if err != nil {
		return scheduler.Goal{}, err
	}
	if o.pull != "" && o.pull != "policy" {
		for name, s := range p.Services {
			s.PullPolicy, s.PullRefreshAfter = o.pull, ""
			p.Services[name] = s
		}
	}
	if errs := compose.Unsupported(p); len(errs) > 0 {
		return scheduler.Goal{}, errors.Join(errs...)
	}
	for _, n := range compose.Notes(p) {
		a.warn(n)
	}
	if len(p.Services) == 0 {
		return scheduler.Goal{}, fmt.Errorf("project %s has no service to bring up", p.Name)
	}
	replicas, err := parseScale(o.scale)
	if err != nil {
		return scheduler.Goal{}, err
	}
	for name, n := range replicas {
		s, ok := p.Services[name]
		if !ok {
			return scheduler.Goal{}, fmt.Errorf("--scale %s=%d: project %s has no service %q; it has %s", name, n, p.Name, name, strings.Join(p.ServiceNames(), ", "))
		}
		s.SetScale(n)
		p.Services[name] = s
	}
	if len(services) > 0 { // patterns become names
		services = matching(p, services)
	}
	if from := o.exitCodeFrom; from != "" {
		if _, ok := p.Services[from]; !ok {
			return scheduler.Goal{}, fmt.Errorf("--exit-code-from %s: project %s has no such service; it has %s", from, p.Name, strings.Join(p.ServiceNames(), ", "))
		}
	}
	if compose.InstanceOf(p) != "" {
		c, err := a.daemon(ctx)
		if err != nil {
			return scheduler.Goal{}, err
		}
		if p, err = settledPorts(ctx, c, p); err != nil {
			return scheduler.Goal{}, err
		}
		a.sayPorts(p)
	}
	options := o.options(services, a.parallel)
	options.Named = a.meant()
	options.Scaled = slices.Sorted(maps.Keys(replicas))
	return scheduler.NewGoal(p, options)
}

// matching are the services of a project that names and patterns mean.
func matching(p *compose.Project, patterns []string) []string {
	var out []string
	for _, name := range p.ServiceNames() {
		if slices.ContainsFunc(patterns, func(pattern string) bool { return pattern == name || globs(pattern, name) }) {
			out = append(out, name)
		}
	}
	return out
}

// parseScale reads SERVICE=NUM pairs.
func parseScale(pairs []string) (map[string]int, error) {
	out := map[string]int{}
	for _, pair := range pairs {
		name, text, ok := strings.Cut(pair, "=")
		n, err := strconv.Atoi(text)
		if !ok || err != nil || n < 0 || name == "" {
			return nil, fmt.Errorf("%q: must be SERVICE=NUMBER", pair)
		}
		out[name] = n
	}
	return out, nil
}

// ignoreOrphans makes the plan silent about containers of services the project
// does not have, for COMPOSE_IGNORE_ORPHANS.
func (a *app) ignoreOrphans(ctx context.Context, c *client.Client, g *scheduler.Goal) error {
	if !a.settingBool("COMPOSE_IGNORE_ORPHANS") {
		return nil
	}
	list, err := projectContainers(ctx, c, g.Project.Name)
	if err != nil {
		return err
	}
	for _, r := range list {
		if _, ok := g.Project.Services[r.service]; !ok && !slices.Contains(g.Known, r.service) {
			g.Known = append(g.Known, r.service)
		}
	}
	return nil
}

// ask puts a question that y answers with yes.
func (a *app) ask(ctx context.Context, question string) (bool, error) {
	fmt.Fprintf(a.err, "? %s [y/N] ", question)
	answer := make(chan string, 1)
	go func() { // left behind at its read if ctx ends first: the program ends then
		line, _ := bufio.NewReader(a.in).ReadString('\n')
		answer <- line
	}()
	select {
	case line := <-answer:
		if !strings.HasSuffix(line, "\n") {
			fmt.Fprintln(a.err) // nobody pressed the key
		}
		return truth(strings.TrimSpace(line)), nil
	case <-ctx.Done():
		fmt.Fprintln(a.err)
		return false, context.Cause(ctx)
	}
}

func (a *app) up(ctx context.Context, services []string, o upOptions) error {
	if o.abortOnFailure && o.exitCodeFrom != "" {
		o.abortOnExit = false
	} else if o.exitCodeFrom != "" {
		o.abortOnExit = true
	}
	if err := o.refuse(); err != nil {
		return err
	}
	g, err := a.goal(ctx, services, o)
	if err != nil {
		return err
	}
	c, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	// Before images are pulled and built whose names are another project's.
	if err := a.clash(ctx, c, g.Project.Name, g.Project.WorkingDir, false); err != nil {
		return err
	}
	if err := a.ignoreOrphans(ctx, c, &g); err != nil {
		return err
	}
	builds, err := a.bring(ctx, c, &g, o, a.dryRun)
	if err != nil {
		return err
	}
	if a.dryRun {
		return a.showPlan(ctx, c, g, "")
	}
	if err := a.consent(ctx, c, &g, o.yes); err != nil {
		return err
	}
	if err := a.buildComing(ctx, c, &g, builds, o); err != nil {
		return err
	}
	if o.detach || o.wait || o.noStart {
		return a.applyWithin(ctx, c, g, o.waitTimeout, "up")
	}
	return a.upAttached(ctx, c, g, o)
}

// applyWithin is apply with a bound on its time, if seconds is positive.
func (a *app) applyWithin(ctx context.Context, c *client.Client, g scheduler.Goal, seconds int, title string) error {
	bound, cancel := within(ctx, seconds)
	defer cancel()
	return timedOut(ctx, a.apply(bound, c, g, title), g.Project.Name, seconds)
}

// within bounds a context, if seconds is positive.
func within(ctx context.Context, seconds int) (context.Context, context.CancelFunc) {
	if seconds <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Duration(seconds)*time.Second)
}

// timedOut says what has become of a project whose time within is up.
func timedOut(ctx context.Context, err error, project string, seconds int) error {
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return fmt.Errorf("project %s is not ready after %d seconds; see `gantry ps` and `gantry logs`", project, seconds)
	}
	return err
}

func (a *app) apply(ctx context.Context, c *client.Client, g scheduler.Goal, title string) error {
	return a.changed(title, g.Project.Name, func(report func(scheduler.Event)) error { return c.Apply(ctx, g, report) })
}

// shown runs what reports events with a view of its progress.
func (a *app) shown(title string, do func(report func(scheduler.Event)) error) error {
	show := a.newProgress(title)
	defer show.close()
	return do(show.event)
}

// changed is shown of a call about a project, of which it is said if there was
// nothing to do.
func (a *app) changed(title, project string, do func(report func(scheduler.Event)) error) error {
	return a.shown(title, func(report func(scheduler.Event)) error {
		steps := 0
		err := do(func(e scheduler.Event) {
			if e.Plan == nil {
				steps++
			}
			report(e)
		})
		if err == nil && steps == 0 {
			verb := "keep"
			if title == "stop" {
				verb = "stop"
			}
			report(scheduler.Event{What: scheduler.What{Verb: verb, Kind: "project", Name: project}, Progress: scheduler.StepDone})
		}
		return err
	})
}
