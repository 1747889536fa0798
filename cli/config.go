package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"gantry/client"
	"gantry/compose"

	"github.com/spf13/cobra"
)

type configOptions struct {
	services, volumes, networks, images, profiles, models bool
	environment, variables, quiet                         bool
	hash, format, output                                  string
	noInterpolate, noNormalize, noPathResolution          bool
	noConsistency, noEnvResolution                        bool
	resolveDigests, lockDigests                           bool
}

func (a *app) configCommand() *cobra.Command {
	var o configOptions
	cmd := &cobra.Command{
		Use:               "config [SERVICE...]",
		Aliases:           []string{"convert"},
		Short:             "Check the compose file and show what it means",
		ValidArgsFunction: a.completeServices,
		RunE:              func(cmd *cobra.Command, services []string) error { return a.config(cmd.Context(), services, o) },
	}
	f := cmd.Flags()
	f.BoolVar(&o.services, "services", false, "names of services alone")
	f.BoolVar(&o.volumes, "volumes", false, "names of volumes alone")
	f.BoolVar(&o.networks, "networks", false, "names of networks alone")
	f.BoolVar(&o.images, "images", false, "names of images alone")
	f.BoolVar(&o.profiles, "profiles", false, "names of profiles alone")
	f.BoolVar(&o.models, "models", false, "names of models alone")
	f.StringVar(&o.hash, "hash", "", "hashes of `services`, * for all: they change when a service must be recreated")
	f.BoolVar(&o.environment, "environment", false, "the variables that the file is read with")
	f.BoolVar(&o.variables, "variables", false, "the variables that the file reads, with their defaults")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "check only")
	f.StringVar(&o.format, "format", "", "yaml or json")
	f.StringVarP(&o.output, "output", "o", "", "write to a `file`")
	f.BoolVar(&o.noInterpolate, "no-interpolate", false, "leave ${…} as written")
	f.BoolVar(&o.noNormalize, "no-normalize", false, "do not complete it")
	f.BoolVar(&o.noPathResolution, "no-path-resolution", false, "leave paths as written")
	f.BoolVar(&o.noConsistency, "no-consistency", false, "do not check whether it fits together")
	f.BoolVar(&o.noEnvResolution, "no-env-resolution", false, "leave env_file as written")
	f.BoolVar(&o.resolveDigests, "resolve-image-digests", false, "name images by digest")
	f.BoolVar(&o.lockDigests, "lock-image-digests", false, "an override file that names images by digest")
	a.completeFlagValues(cmd, "format", "yaml", "json")
	a.completeFlagServices(cmd, "hash")
	dryRunnable(cmd)
	return cmd
}

func (a *app) config(ctx context.Context, services []string, o configOptions) error {
	switch o.format {
	case "", "yaml", formatJSON:
	default:
		return fmt.Errorf("--format %q: must be yaml or json", o.format)
	}
	if o.noInterpolate && (o.resolveDigests || o.lockDigests) {
		return errors.New("--no-interpolate and image digests cannot be combined: images are not known then")
	}
	var b bytes.Buffer
	if err := a.renderConfig(ctx, services, o, &b); err != nil {
		return err
	}
	if o.quiet || b.Len() == 0 {
		return nil
	}
	text := b.Bytes()
	if text[len(text)-1] != '\n' {
		text = append(text, '\n')
	}
	if o.output != "" {
		return os.WriteFile(o.output, text, 0o666)
	}
	_, err := a.out.Write(text)
	return err
}

func (a *app) renderConfig(ctx context.Context, services []string, o configOptions, b *bytes.Buffer) error {
	src := a.source()
	src.Services, src.NoContent = services, true
	src.NoNormalize, src.NoPathResolution, src.NoConsistency, src.NoEnvResolution = o.noNormalize, o.noPathResolution, o.noConsistency, o.noEnvResolution
	if o.variables {
		return a.configVariables(ctx, src, o, b)
	}
	if o.noInterpolate {
		if len(services) > 0 {
			return errors.New("--no-interpolate: services cannot be chosen, they are not known then")
		}
		src.NoInterpolate = true
		model, err := compose.LoadModel(ctx, src)
		if err != nil {
			return err
		}
		if _, named := configNames(o); named {
			return errors.New("--no-interpolate shows the whole file alone")
		}
		return write(b, o.format, func() ([]byte, error) { return compose.ModelYAML(model) }, func() ([]byte, error) { return compose.ModelJSON(model) })
	}
	// A hash counts what secrets and configs hold.
	src.NoContent = o.hash == ""
	p, err := compose.Load(ctx, src)
	if err != nil {
		return err
	}
	if p, err = a.knownPorts(ctx, p); err != nil {
		return err
	}
	if names, ok := configNames(o); ok {
		for _, n := range names(p) {
			fmt.Fprintln(b, n)
		}
		return nil
	}
	switch {
	case o.hash != "":
		return configHash(p, o.hash, b)
	case o.environment:
		for _, name := range slices.Sorted(maps.Keys(p.Environment)) {
			fmt.Fprintf(b, "%s=%s\n", name, p.Environment[name])
		}
		return nil
	case o.resolveDigests || o.lockDigests:
		if p, err = a.withDigests(ctx, p); err != nil {
			return err
		}
		if o.lockDigests {
			p = onlyImages(p)
		}
	}
	return write(b, o.format, func() ([]byte, error) { return compose.YAML(p) }, func() ([]byte, error) { return compose.JSON(p) })
}

func write(b *bytes.Buffer, format string, yaml, json func() ([]byte, error)) error {
	render := yaml
	if format == formatJSON {
		render = json
	}
	text, err := render()
	b.Write(text)
	return err
}

// configNames is the list of names that was asked for instead of the file.
func configNames(o configOptions) (func(*compose.Project) []string, bool) {
	switch {
	case o.services:
		return (*compose.Project).ServiceNames, true
	case o.volumes:
		return (*compose.Project).VolumeNames, true
	case o.networks:
		return (*compose.Project).NetworkNames, true
	case o.images:
		return compose.Images, true
	case o.profiles:
		return compose.Profiles, true
	case o.models:
		return func(p *compose.Project) []string { return slices.Sorted(maps.Keys(p.Models)) }, true
	}
	return nil, false
}

func configHash(p *compose.Project, which string, b *bytes.Buffer) error {
	names := p.ServiceNames()
	if which != "*" {
		names = strings.Split(which, ",")
	}
	for _, name := range names {
		s, err := p.GetService(name)
		if err != nil {
			return fmt.Errorf("--hash: no service %q in project %s; it has %s", name, p.Name, strings.Join(p.ServiceNames(), ", "))
		}
		fmt.Fprintln(b, name, compose.HashIn(p, s))
	}
	return nil
}

func (a *app) configVariables(ctx context.Context, src compose.Source, o configOptions, b *bytes.Buffer) error {
	src.NoInterpolate = true
	model, err := compose.LoadModel(ctx, src)
	if err != nil {
		return err
	}
	l := list[compose.Variable]{array: true, columns: []column{{"NAME", "Name"}, {"REQUIRED", "Required"},
		{"DEFAULT VALUE", "Default"}, {"ALTERNATE VALUE", "Alternate"}}, rows: compose.Variables(model)}
	if o.format == "yaml" {
		return errors.New("--variables: --format must be json")
	}
	return l.print(b, o.format, false)
}

// withDigests names the images of a project by their digests, as the daemon
// has them.
func (a *app) withDigests(ctx context.Context, p *compose.Project) (*compose.Project, error) {
	c, err := a.daemon(ctx)
	if err != nil {
		return nil, err
	}
	out := *p
	out.Services = compose.Services{}
	for name, s := range p.Services {
		if s.Image != "" && !strings.Contains(s.Image, "@") {
			if s.Image, err = digestOf(ctx, c, s.Image); err != nil {
				return nil, fmt.Errorf("service %s: %w", name, err)
			}
		}
		out.Services[name] = s
	}
	return &out, nil
}

func digestOf(ctx context.Context, c *client.Client, ref string) (string, error) {
	img, err := c.Image(ctx, ref)
	if err != nil {
		return "", err
	}
	for _, d := range img.RepoDigests {
		if _, digest, ok := strings.Cut(d, "@"); ok {
			return ref + "@" + digest, nil
		}
	}
	return "", fmt.Errorf("image %q has no digest: it was not loaded from where it has one", ref)
}

// onlyImages leaves of a project what an override file needs to lock images.
func onlyImages(p *compose.Project) *compose.Project {
	out := &compose.Project{Name: p.Name, Services: compose.Services{}}
	for name, s := range p.Services {
		var locked compose.Service
		locked.Name, locked.Image = name, s.Image
		out.Services[name] = locked
	}
	return out
}
