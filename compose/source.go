package compose

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/containerd/errdefs"
)

// Source says where a project comes from, in the terms of the command line.
// The zero Source with a WorkDir is what `gantry up` without flags means.
type Source struct {
	// WorkDir is the caller's working directory; "" is the process's own.
	// Relative Files start here, and so does the search for a compose file.
	WorkDir string
	// Environ is the caller's environment as NAME=value. It wins over .env
	// files, and COMPOSE_* variables in it stand in for flags.
	Environ []string
	// Stdin is read for a file named "-".
	Stdin io.Reader

	Files       []string // -f; "-" is Stdin; none: COMPOSE_FILE, else searched for
	ProjectDir  string   // --project-directory; "": the first file's directory
	ProjectName string   // -p; "": COMPOSE_PROJECT_NAME, `name:`, the directory's name
	Profiles    []string // --profile; none: COMPOSE_PROFILES; "*" enables all
	EnvFiles    []string // --env-file; none: COMPOSE_ENV_FILES, else .env
	// Instance asks for a copy of the project: its name, or [AutoInstance];
	// "": GANTRY_INSTANCE, else the project itself.
	Instance string

	// Services restricts the project to these and what they depend on; none
	// means all. A service named here is enabled whatever its profiles say.
	Services []string
	// NoDeps leaves out what Services depend on.
	NoDeps bool
	// All keeps networks, volumes, secrets and configs that no service uses.
	All bool

	// NoContent leaves the files and variables of secrets and configs unread:
	// for commands that start nothing.
	NoContent bool
	// NoEnvResolution leaves env_file and label_file as they are written.
	NoEnvResolution  bool
	NoInterpolate    bool // leave ${…} as written; only [LoadModel] can
	NoNormalize      bool
	NoPathResolution bool
	NoConsistency    bool

	// Warn receives what is odd but no error, a line each; nil drops it.
	Warn func(string)
	// Said receives what a copy has otherwise than its files say, a line each;
	// nil drops it.
	Said func(string)
}

// Load reads a project. What it returns is self-contained: env files are
// resolved into environments, label files into labels, and secrets and configs
// hold their content.
//
// An error is one line: file and line where they are known, the object, the
// cause and the next step. It is an [*Error].
func Load(ctx context.Context, src Source) (*Project, error) {
	if src.NoInterpolate {
		return nil, &Error{Cause: "a project without interpolation has no values of the right type",
			Next: "render its model instead", class: errdefs.ErrInvalidArgument}
	}
	in, err := open(ctx, src)
	if err != nil {
		return nil, err
	}
	p, err := in.project(ctx)
	if err != nil {
		return nil, in.explain(ctx, err)
	}
	whole := p
	if p, err = in.selected(p); err != nil {
		return nil, err
	}
	if err := in.separate(p, whole); err != nil {
		return nil, err
	}
	if !src.NoEnvResolution {
		if p, err = in.resolveFiles(p); err != nil {
			return nil, err
		}
	}
	if !src.NoContent {
		if err := in.readContents(p); err != nil {
			return nil, err
		}
	}
	return withBuildSecrets(p, whole), publishAsSaid(p)
}

// Settings are the COMPOSE_ variables that stand in the project's .env files
// and not in the caller's environment: what a user sets there counts like what
// is set in the environment. What is wrong with the files is said by whoever
// reads the project.
func Settings(src Source) map[string]string {
	src.Warn = nil
	in, _, err := prepare(src)
	if err != nil {
		return nil
	}
	said := map[string]bool{}
	for _, kv := range src.Environ {
		name, _, _ := strings.Cut(kv, "=")
		said[name] = true
	}
	var all map[string]string
	for name, v := range in.env {
		if strings.HasPrefix(name, "COMPOSE_") && !said[name] {
			if all == nil {
				all = map[string]string{}
			}
			all[name] = v
		}
	}
	return all
}

// LoadModel reads a project as the tree its merged files make, for rendering
// without interpolation.
func LoadModel(ctx context.Context, src Source) (map[string]any, error) {
	in, err := open(ctx, src)
	if err != nil {
		return nil, err
	}
	model, _, err := in.model(ctx)
	if err != nil {
		return nil, in.explain(ctx, err)
	}
	delete(model, "version")
	return model, nil
}

// Place is the project's directory, by which it is known besides its name: the
// WorkingDir that Load would give.
func Place(src Source) (string, error) {
	src.Warn = nil
	in, _, err := prepare(src)
	if err != nil {
		return "", err
	}
	return in.projectDir, nil
}

// ProjectName derives the name of the project without loading it, for commands
// that need no more. It is the name Load would give. Where no compose file is
// found and none is asked for, the directory names the project.
func ProjectName(ctx context.Context, src Source) (string, error) {
	in, paths, err := prepare(src)
	if err != nil {
		return "", err
	}
	if err := in.nameProject(); err != nil {
		return "", err
	}
	if !in.nameSaid {
		for _, path := range paths {
			f, err := in.read(path)
			if err != nil {
				return "", err
			}
			in.files = append(in.files, f)
		}
		in.name = ""
		if err := in.nameProject(); err != nil {
			return "", err
		}
	}
	if err := in.nameCopy(ctx); err != nil {
		return "", err
	}
	return in.baseName(ctx)
}

// model has compose-go merge the files into one canonical tree.
//
// Compiling compose-go's JSON schema costs more than the rest of loading (some
// 15 of 20 ms), so the files are merged without it first and the result is
// checked by [conforms]. Whatever that does not like, or what fails or panics
// for want of validation, is loaded once more with the schema, which decides
// and words the error.
func (in *input) model(ctx context.Context) (map[string]any, *types.ConfigDetails, error) {
	go parseSchema() // beside the merging
	model, details, err := in.merge(ctx, false)
	rules := parseSchema()
	if errors.Is(err, errNoName) {
		return nil, nil, err
	}
	if err == nil && !in.doubted && conforms(rules, model) {
		if in.src.NoNormalize {
			return model, details, nil
		}
		if model, err = in.normalize(model, details); err == nil {
			return model, details, nil
		}
	}
	return in.merge(ctx, true)
}

// merge is one loading by compose-go. Without validation it leaves
// normalisation, which would cover mistakes up, to normalize.
func (in *input) merge(ctx context.Context, validate bool) (model map[string]any, d *types.ConfigDetails, err error) {
	defer recovered(&err)
	details, options := in.options(validate)
	model, err = loader.LoadModelWithContext(ctx, details, options...)
	name := details.Environment["COMPOSE_PROJECT_NAME"]
	if err == nil && name == "" {
		err = errNoName
	}
	in.doubted = in.doubted || loader.NormalizeProjectName(name) != name
	return model, &details, err
}

func (in *input) normalize(model map[string]any, details *types.ConfigDetails) (_ map[string]any, err error) {
	defer recovered(&err)
	if _, ok := model["version"]; ok {
		in.warn("version: has no meaning any more; remove it")
		delete(model, "version")
	}
	services, _ := model["services"].(map[string]any)
	for _, s := range services {
		// `pid:` without a value is allowed, but more than compose-go expects.
		if s, ok := s.(map[string]any); ok && s["pid"] == nil {
			delete(s, "pid")
		}
	}
	model["name"] = details.Environment["COMPOSE_PROJECT_NAME"]
	return loader.Normalize(model, details.Environment)
}

func (in *input) project(ctx context.Context) (*Project, error) {
	model, details, err := in.model(ctx)
	if err != nil {
		return nil, err
	}
	return in.bind(model, details, in.src.NoConsistency)
}

// bind makes a project of a model, checking it for consistency unless told not
// to. The model is used up.
func (in *input) bind(model map[string]any, details *types.ConfigDetails, unchecked bool) (p *Project, err error) {
	defer recovered(&err)
	_, options := in.options(false)
	opts := loader.ToOptions(details, options)
	opts.SkipConsistencyCheck = unchecked
	opts.SetProjectName(details.Environment["COMPOSE_PROJECT_NAME"], true)
	if p, err = toProject(model, opts, *details); err != nil {
		return nil, err
	}
	for _, f := range in.files {
		p.ComposeFiles = append(p.ComposeFiles, f.Filename)
	}
	if !unchecked {
		err = check(p, in.locator())
	}
	return p, err
}

// toProject is compose-go's, which takes any key with x- for an extension, be it
// that of a label. Written as a list, labels and variables are safe from it.
func toProject(model map[string]any, opts *loader.Options, details types.ConfigDetails) (*Project, error) {
	asLists := func(object any) {
		o, _ := object.(map[string]any)
		for _, key := range []string{"labels", "annotations", "environment"} {
			m, _ := o[key].(map[string]any)
			if !slices.ContainsFunc(slices.Collect(maps.Keys(m)), func(k string) bool { return strings.HasPrefix(k, "x-") }) {
				continue
			}
			var list []any
			for _, k := range sortedKeys(m) {
				switch v := m[k]; {
				case v != nil:
					list = append(list, fmt.Sprintf("%s=%v", k, v))
				case key == "environment":
					list = append(list, k)
				default:
					list = append(list, k+"=")
				}
			}
			o[key] = list
		}
	}
	for _, section := range []string{"services", "networks", "volumes", "secrets", "configs"} {
		objects, _ := model[section].(map[string]any)
		for _, o := range objects {
			asLists(o)
			if s, ok := o.(map[string]any); ok && section == "services" {
				asLists(s["deploy"])
			}
		}
	}
	return loader.ModelToProject(model, opts, details)
}

// recovered turns a panic of compose-go, which asserts types where it trusts
// its schema, into an error.
func recovered(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("compose file cannot be understood: %v", r)
	}
}

var errNoName = &Error{Object: "name", Cause: "the project has no name: there is nothing in its directory's that can be part of one",
	Next: "give one with -p or a `name:` in the compose file", class: errdefs.ErrInvalidArgument}
