package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gantry/client"
	"gantry/client/build"
	"gantry/compose"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// buildOptions are the flags that build and image build share.
type buildOptions struct {
	args, noCacheFilter      []string
	memory, provenance, sbom string
	builder                  string
	check, noCache, pull     bool
	push, quiet              bool
}

func (o *buildOptions) flags(f *pflag.FlagSet) {
	f.StringArrayVar(&o.args, "build-arg", nil, "`NAME=VALUE` for an ARG of the Dockerfile; NAME alone takes it from the environment")
	f.StringVar(&o.builder, "builder", "", "")
	f.BoolVar(&o.check, "check", false, "check the Dockerfile and build nothing")
	f.StringVarP(&o.memory, "memory", "m", "", "`limit` of memory for each step")
	f.BoolVar(&o.noCache, "no-cache", false, "run every step, whatever the cache has")
	f.StringSliceVar(&o.noCacheFilter, "no-cache-filter", nil, "run every step of this `stage`, whatever the cache has")
	f.StringVar(&o.provenance, "provenance", "", "attest how the image was made: true, false, or `mode=min|max`")
	f.BoolVar(&o.pull, "pull", false, "ask registries for newer base images")
	f.BoolVar(&o.push, "push", false, "push the image afterwards")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "print the image's id alone")
	f.StringVar(&o.sbom, "sbom", "", "attest what is in the image: true (as docker/buildkit-syft-scanner sees it), false, or `generator=IMAGE`")
	_ = f.MarkHidden("builder")
}

func (o *buildOptions) refuse() error {
	if o.builder != "" && o.builder != "default" {
		return errors.New("--builder is not supported: the daemon has one builder")
	}
	return nil
}

// apply adds to a request what the flags say; where a push goes is the caller's
// affair.
func (o *buildOptions) apply(a *app, r *build.Request) error {
	r.NoCache = r.NoCache || o.noCache
	r.NoCacheFilter = append(r.NoCacheFilter, o.noCacheFilter...)
	r.Pull = r.Pull || o.pull
	if o.check {
		r.Call = "check"
	}
	if err := a.buildArgs(r, o.args); err != nil {
		return err
	}
	return errors.Join(limitBytes(r, "--memory", "memory", o.memory), r.Attest("provenance", o.provenance), r.Attest("sbom", o.sbom))
}

// limitBytes sets a limit of the steps; none is said by "" or 0.
func limitBytes(r *build.Request, flag, key, text string) error {
	if text == "" {
		return nil
	}
	n, err := build.Bytes(flag, text)
	if n > 0 {
		r.Limit(key, n)
	}
	return err
}

// composeBuild are the flags of build.
type composeBuild struct {
	buildOptions
	ssh                  string
	printing, dependents bool
}

func (a *app) buildCommand() *cobra.Command {
	var o composeBuild
	var ignored struct{ compress, forceRemove, noRemove, parallel bool }
	cmd := &cobra.Command{
		Use:   "build [SERVICE...]",
		Short: "Build the images of services",
		Long: "Build the images of services that have a build section: all, or those named and\nthose whose images they build on.\n" +
			"Steps run as containers do, with no more rights; Ctrl-C ends them at once.",
		ValidArgsFunction: a.completeServices,
		RunE: func(cmd *cobra.Command, services []string) error {
			for name, why := range map[string]string{
				"compress": "the builder is sent what has changed, and no archive", "force-rm": "steps never stay behind",
				"no-rm": "steps never stay behind", "parallel": "what can be built side by side is; --parallel of gantry itself bounds commands",
			} {
				if cmd.Flags().Changed(name) {
					a.warn("--" + name + " has no effect: " + why)
				}
			}
			return a.build(cmd.Context(), services, o)
		},
	}
	f := cmd.Flags()
	o.flags(f)
	f.BoolVar(&o.printing, "print", false, "print what would be built, as a bake file in JSON, and build nothing")
	f.StringVar(&o.ssh, "ssh", "", "agent or keys for steps that ask: default, or `ID=SOCKET|KEY`")
	f.BoolVar(&o.dependents, "with-dependencies", false, "build what the services depend on, too")
	f.BoolVar(&ignored.compress, "compress", true, "")
	f.BoolVar(&ignored.forceRemove, "force-rm", true, "")
	f.BoolVar(&ignored.noRemove, "no-rm", false, "")
	f.BoolVar(&ignored.parallel, "parallel", true, "")
	for _, name := range []string{"compress", "force-rm", "no-rm", "parallel"} {
		_ = f.MarkHidden(name)
	}
	a.completeFlagValues(cmd, "ssh", "default")
	a.completeFlagValues(cmd, "provenance", "true", "false", "mode=min", "mode=max")
	dryRunnable(cmd)
	cmd.Annotations[rawJSONNote] = "yes"
	return cmd
}

// build builds the images of services.
func (a *app) build(ctx context.Context, services []string, o composeBuild) error {
	if err := o.refuse(); err != nil {
		return err
	}
	if o.push && o.check {
		return errors.New("--push and --check cannot be combined")
	}
	// What the build needs of a secret is read when it asks; a service named is
	// enabled whatever its profiles say.
	p, err := a.load(ctx, func(s *compose.Source) {
		s.NoContent, s.NoEnvResolution, s.All = true, true, true
		s.Services, s.NoDeps = services, !o.dependents
	})
	if err != nil {
		return err
	}
	chosen := buildable(p, p.ServiceNames())
	if len(chosen) == 0 {
		if len(services) > 0 {
			return fmt.Errorf("no build section in service %s", strings.Join(services, ", "))
		}
		return fmt.Errorf("project %s has no service with a build section", p.Name)
	}
	requests, err := a.requests(p, chosen)
	if err != nil {
		return err
	}
	for i := range requests {
		if err := a.buildFlags(&requests[i], o); err != nil {
			return err
		}
	}
	switch {
	case o.printing:
		return printBake(a.out, requests)
	case a.dryRun:
		for _, r := range requests {
			fmt.Fprintf(a.out, "build %s: %s\n", r.Name, strings.Join(r.Tags, ", "))
		}
		return nil
	}
	c, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	if err := a.clash(ctx, c, p.Name, p.WorkingDir, true); err != nil {
		return err
	}
	results, err := a.runBuilds(ctx, c, requests, o.quiet)
	if err != nil {
		return err
	}
	return a.told(results, o.check, o.quiet)
}

// told prints what was built, or what was found.
func (a *app) told(results []build.Result, call, ids bool) error {
	failed := false
	seen := map[string]bool{}
	for _, r := range results {
		switch {
		case call:
			if len(results) > 1 {
				fmt.Fprintf(a.out, "%s:\n", r.Name)
			}
			fmt.Fprintln(a.out, r.Text)
			failed = failed || r.Failed
		case ids && r.Image != "" && !seen[r.Image]:
			seen[r.Image] = true
			fmt.Fprintln(a.out, r.Image)
		}
	}
	if failed {
		return exitCode(exitError)
	}
	return nil
}

// buildable are those services that have a build section.
func buildable(p *compose.Project, services []string) []string {
	var out []string
	for _, name := range services {
		if s := p.Services[name]; s.Build != nil {
			out = append(out, name)
		}
	}
	return out
}

// requests are the builds of services, and of those whose images they need.
func (a *app) requests(p *compose.Project, services []string) ([]build.Request, error) {
	services = compose.NeededBuilds(p, services)
	if errs := compose.UnsupportedBuilds(p, services); len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	var all []build.Request
	for _, name := range services {
		r, err := build.FromCompose(p, name)
		if err != nil {
			return nil, err
		}
		a.fromEnvironment(&r)
		all = append(all, r)
	}
	return all, nil
}

// fromEnvironment takes in what the environment says about every build.
func (a *app) fromEnvironment(r *build.Request) {
	if platform := a.env("DOCKER_DEFAULT_PLATFORM"); platform != "" && len(r.Platforms) == 0 {
		r.Platforms = []string{platform}
	}
	if epoch := a.env("SOURCE_DATE_EPOCH"); epoch != "" {
		if _, said := r.Args["SOURCE_DATE_EPOCH"]; !said {
			r.Args["SOURCE_DATE_EPOCH"] = epoch
		}
	}
}

// buildFlags applies the flags of build to a request.
func (a *app) buildFlags(r *build.Request, o composeBuild) error {
	if err := o.apply(a, r); err != nil {
		return err
	}
	if o.push {
		for i := range r.Outputs {
			r.Outputs[i].Attrs["push"] = "true"
		}
	}
	if o.ssh != "" {
		dir, err := os.Getwd()
		if err != nil {
			return err
		}
		key, err := build.ParseSSH(o.ssh, dir)
		if err != nil {
			return err
		}
		r.SSH = append(slices.DeleteFunc(r.SSH, func(k build.Key) bool { return k.ID == key.ID }), key)
	}
	return nil
}

// buildArgs reads NAME=VALUE pairs; a name alone means the environment's value,
// and says nothing where there is none.
func (a *app) buildArgs(r *build.Request, pairs []string) error {
	for _, pair := range pairs {
		name, value, ok := strings.Cut(pair, "=")
		if name == "" {
			return fmt.Errorf("--build-arg %q: must be NAME=VALUE or NAME", pair)
		}
		if !ok {
			if value, ok = a.lookup(name); !ok {
				continue
			}
		}
		if r.Args == nil {
			r.Args = map[string]string{}
		}
		r.Args[name] = value
	}
	return nil
}

// lookup finds a variable, which may be empty.
func (a *app) lookup(name string) (string, bool) {
	for _, kv := range slices.Backward(a.environ) {
		if value, ok := strings.CutPrefix(kv, name+"="); ok {
			return value, true
		}
	}
	return "", false
}

// runBuilds has requests built and shows how it goes.
func (a *app) runBuilds(ctx context.Context, c *client.Client, requests []build.Request, quiet bool) ([]build.Result, error) {
	program, err := client.DaemonProgram()
	if err != nil {
		return nil, err
	}
	job := build.Job{Host: c.Host(), Progress: a.buildProgress(quiet), Requests: requests}
	return build.Run(ctx, program, job, build.Streams{In: stream(a.in), Out: stream(a.out), Err: stream(a.statusWriter())})
}

// buildProgress is how builds show theirs.
func (a *app) buildProgress(quiet bool) string {
	switch {
	case quiet:
		return "quiet"
	case a.progress == formatJSON:
		return "rawjson" // a step of a build is no object of a project
	case (a.progress == "" || a.progress == "auto") && a.env("BUILDKIT_PROGRESS") != "":
		return a.env("BUILDKIT_PROGRESS")
	case (a.progress == "" || a.progress == "auto") && a.ansi == "never":
		return "plain"
	}
	return a.progress
}

// stream is the file behind a reader or writer, so that a program that is given
// it has the terminal, not a copy of what it says.
func stream[T any](v T) T {
	if f := descriptor(v); f != nil {
		if t, ok := any(f).(T); ok {
			return t
		}
	}
	return v
}

// absolute is a path from the working directory.
func absolute(path string) (string, error) {
	if path == "" || path == build.Stdin {
		return path, nil
	}
	return filepath.Abs(path)
}
