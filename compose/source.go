package compose

import (
	"context"
	"fmt"
	"io"

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
	in, err := open(src)
	if err != nil {
		return nil, err
	}
	p, err := in.project(ctx)
	if err != nil {
		return nil, in.explain(ctx, err)
	}
	if p, err = in.selected(p); err != nil {
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
	return p, nil
}

// LoadModel reads a project as the tree its merged files make, for rendering
// without interpolation.
func LoadModel(ctx context.Context, src Source) (map[string]any, error) {
	in, err := open(src)
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
	if in.nameSaid {
		return in.name, nil
	}
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
	if in.name == "" && len(in.files) > 0 {
		_, details, err := in.merge(ctx, false)
		if err != nil {
			return "", in.explain(ctx, err)
		}
		return details.Environment["COMPOSE_PROJECT_NAME"], nil
	}
	if in.name == "" {
		return "", errNoName
	}
	return in.name, nil
}

// model has compose-go merge the files into one canonical tree.
//
// Compiling compose-go's JSON schema costs more than the rest of loading (some
// 15 of 20 ms), so the files are merged without it first and the result is
// checked by [conforms]. Whatever that does not like, or what fails or panics
// for want of validation, is loaded once more with the schema, which decides
// and words the error.
func (in *input) model(ctx context.Context) (map[string]any, *types.ConfigDetails, error) {
	model, details, err := in.merge(ctx, false)
	if err != nil || in.doubted || !conforms(model) {
		model, details, err = in.merge(ctx, true)
	}
	return model, details, err
}

func (in *input) merge(ctx context.Context, validate bool) (model map[string]any, d *types.ConfigDetails, err error) {
	defer recovered(&err)
	details, options := in.options(validate)
	model, err = loader.LoadModelWithContext(ctx, details, options...)
	if err == nil && details.Environment["COMPOSE_PROJECT_NAME"] == "" {
		err = errNoName
	}
	return model, &details, err
}

func (in *input) project(ctx context.Context) (*Project, error) {
	model, details, err := in.model(ctx)
	if err != nil {
		return nil, err
	}
	if _, ok := model["version"]; ok {
		in.warn("version: has no meaning any more; remove it")
		delete(model, "version")
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
	if p, err = loader.ModelToProject(model, opts, *details); err != nil {
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

// recovered turns a panic of compose-go, which asserts types where it trusts
// its schema, into an error.
func recovered(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("compose file cannot be understood: %v", r)
	}
}

var errNoName = &Error{Object: "name", Cause: "the project has no name",
	Next: "give one with -p or a `name:` in the compose file", class: errdefs.ErrInvalidArgument}
