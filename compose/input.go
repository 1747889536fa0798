package compose

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/template"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/containerd/errdefs"
	"gopkg.in/yaml.v3"
)

// Names searched for, best first, and those of the overrides beside them.
var (
	fileNames     = []string{"compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"}
	overrideNames = []string{"compose.override.yml", "compose.override.yaml", "docker-compose.override.yml", "docker-compose.override.yaml"}
)

// input is a Source with its files found and read: all that compose-go is told.
type input struct {
	src        Source
	workDir    string        // the caller's, absolute
	projectDir string        // where relative paths of the project start
	env        types.Mapping // what ${…} sees
	files      []types.ConfigFile
	name       string          // "" when only a `name:` in the files can say
	nameSaid   bool            // the name was asked for, by -p or COMPOSE_PROJECT_NAME, or is a copy's
	instance   string          // which copy; "": the project itself
	ownNames   map[string]bool // values that a copy's name is part of already
	profiles   []string
	warned     map[string]bool
	// doubted: what the merged model does not show must be validated, too: the
	// keys of included files, a name that is no string or not as it should be.
	doubted bool
}

// open finds the files and the environment of a project. The order is that of
// `docker compose`: the caller's environment wins over .env files; the .env of
// the working directory may name the compose files (COMPOSE_FILE); then the
// .env beside the first of these is read as well.
func open(ctx context.Context, src Source) (*input, error) {
	in, paths, err := prepare(src)
	if err != nil {
		return nil, err
	}
	if len(paths) == 0 {
		return nil, in.noFile()
	}
	for _, p := range paths {
		f, err := in.read(p)
		if err != nil {
			return nil, err
		}
		in.files = append(in.files, f)
	}
	if err := in.nameProject(); err != nil {
		return nil, err
	}
	return in, in.nameCopy(ctx)
}

func (in *input) noFile() error {
	return &Error{Cause: fmt.Sprintf("no compose file in %s or above it", in.workDir),
		Next: "write a compose.yaml or name a file with -f", class: errdefs.ErrNotFound}
}

// prepare is open up to the paths of the files, of which there may be none.
func prepare(src Source) (*input, []string, error) {
	in := &input{src: src, env: types.Mapping{}, warned: map[string]bool{}, ownNames: map[string]bool{}}
	dir, err := filepath.Abs(src.WorkDir)
	if err != nil {
		return nil, nil, fmt.Errorf("find the working directory: %w", err)
	}
	in.workDir = dir
	for _, kv := range src.Environ {
		if k, v, ok := strings.Cut(kv, "="); ok && k != "" {
			in.env[k] = v
		}
	}
	if _, ok := in.env["PWD"]; !ok {
		in.env["PWD"] = in.workDir
	}

	paths := make([]string, 0, len(src.Files))
	for _, f := range src.Files {
		paths = append(paths, in.abs(f))
	}
	if err := in.dotenv(paths); err != nil {
		return nil, nil, err
	}
	if len(paths) == 0 {
		if paths, err = in.findFiles(); err != nil {
			return nil, nil, err
		}
		if err := in.dotenv(paths); err != nil {
			return nil, nil, err
		}
	}
	in.projectDir = in.dir(paths)

	in.profiles = src.Profiles
	if len(in.profiles) == 0 {
		for _, p := range strings.Split(in.env["COMPOSE_PROFILES"], ",") {
			if p = strings.TrimSpace(p); p != "" {
				in.profiles = append(in.profiles, p)
			}
		}
	}
	return in, paths, nil
}

func (in *input) abs(path string) string {
	if path == "-" || isRemote(path) || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(in.workDir, path)
}

// dir is the project's directory: the one asked for, else that of the first
// file, else the caller's.
func (in *input) dir(paths []string) string {
	if in.src.ProjectDir != "" {
		return filepath.Clean(in.abs(in.src.ProjectDir))
	}
	for _, p := range paths {
		if p != "-" {
			return filepath.Dir(p)
		}
	}
	return in.workDir
}

// dotenv reads the env files into the environment, where what is there stays.
func (in *input) dotenv(paths []string) error {
	files := in.src.EnvFiles
	if list := in.env["COMPOSE_ENV_FILES"]; len(files) == 0 && list != "" {
		files = strings.Split(list, ",")
	}
	if len(files) == 0 {
		off, err := in.callerFlag("COMPOSE_DISABLE_ENV_FILE")
		if err != nil || off {
			return err
		}
		path := filepath.Join(in.dir(paths), ".env")
		if info, err := os.Stat(path); err != nil || info.IsDir() {
			// Nobody asked for the default file; that it cannot be looked
			// at is worth a word, no more.
			if errors.Is(err, fs.ErrPermission) {
				in.warn(fmt.Sprintf("%s: cannot be read, ignored", in.show(path)))
			}
			return nil
		}
		files = []string{path}
	}
	vars := map[string]string{}
	for _, f := range files {
		path := in.abs(f)
		data, err := os.ReadFile(path)
		if err != nil {
			return &Error{File: in.show(path), Cause: "env file: " + cause(err), Next: "create it or name another with --env-file", class: class(err)}
		}
		if err := in.parseEnv(path, data, vars); err != nil {
			return err
		}
	}
	in.env.Merge(vars)
	return nil
}

func (in *input) parseEnv(path string, data []byte, vars map[string]string) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &Error{File: in.show(path), Cause: fmt.Sprintf("env file cannot be parsed: %v", r), Next: "write it as NAME=value lines", class: errdefs.ErrInvalidArgument}
		}
	}()
	parsed, err := dotenv.ParseWithLookup(bytes.NewReader(data), func(k string) (string, bool) {
		if v, ok := in.env[k]; ok {
			return v, true
		}
		v, ok := vars[k]
		return v, ok
	})
	for k, v := range parsed {
		vars[k] = v
	}
	if err != nil {
		line, text := cutLine(err.Error())
		return &Error{File: in.show(path), Line: line, Cause: "env file: " + text, Next: "write it as NAME=value lines", class: errdefs.ErrInvalidArgument}
	}
	return nil
}

// callerFlag is a truth value in the caller's own environment, where .env
// files have no say.
func (in *input) callerFlag(name string) (bool, error) {
	for _, kv := range in.src.Environ {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			b, err := strconv.ParseBool(v)
			if err != nil {
				return false, &Error{Object: name, Cause: fmt.Sprintf("%q is neither true nor false", v), class: errdefs.ErrInvalidArgument}
			}
			return b, nil
		}
	}
	return false, nil
}

// findFiles takes the files COMPOSE_FILE names, else the first directory
// upwards that holds one.
func (in *input) findFiles() ([]string, error) {
	if list, ok := in.env["COMPOSE_FILE"]; ok {
		sep := in.env["COMPOSE_PATH_SEPARATOR"]
		if sep == "" {
			sep = string(os.PathListSeparator)
		}
		var paths []string
		for _, f := range strings.Split(list, sep) {
			if f == "" {
				return nil, &Error{Object: "COMPOSE_FILE", Cause: fmt.Sprintf("%q has an empty entry", list),
					Next: "name files separated by " + sep + " or unset it", class: errdefs.ErrInvalidArgument}
			}
			paths = append(paths, in.abs(f))
		}
		return paths, nil
	}
	dir := in.workDir
	if in.src.ProjectDir != "" {
		dir = in.abs(in.src.ProjectDir)
	}
	for {
		if found := in.pick(dir, fileNames); found != "" {
			paths := []string{found}
			if over := in.pick(dir, overrideNames); over != "" {
				paths = append(paths, over)
			}
			return paths, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return nil, nil
		}
		dir = up
	}
}

func (in *input) pick(dir string, names []string) string {
	var found []string
	for _, n := range names {
		if _, err := os.Stat(filepath.Join(dir, n)); err == nil {
			found = append(found, filepath.Join(dir, n))
		}
	}
	if len(found) == 0 {
		return ""
	}
	if len(found) > 1 {
		in.warn(fmt.Sprintf("%s: several compose files; using %s", dir, filepath.Base(found[0])))
	}
	return found[0]
}

func (in *input) read(path string) (types.ConfigFile, error) {
	file := types.ConfigFile{Filename: path}
	if isRemote(path) {
		return file, refuseRemote(path)
	}
	var err error
	switch {
	case path == "-" && in.src.Stdin == nil:
		return file, &Error{File: "-", Cause: "there is no standard input to read", class: errdefs.ErrInvalidArgument}
	case path == "-":
		file.Content, err = io.ReadAll(in.src.Stdin)
	default:
		var info fs.FileInfo
		if info, err = os.Stat(path); err == nil && !info.Mode().IsRegular() && info.Mode()&fs.ModeNamedPipe == 0 {
			return file, &Error{File: in.show(path), Cause: "is not a file", Next: "name a compose file with -f", class: errdefs.ErrInvalidArgument}
		}
		if err == nil {
			file.Content, err = os.ReadFile(path)
		}
	}
	if err != nil {
		return file, &Error{File: in.show(path), Cause: "compose file: " + cause(err), Next: "name another with -f", class: class(err)}
	}
	if file.Content == nil {
		file.Content = []byte{} // nil would have compose-go read the file itself
	}
	return file, nil
}

// nameProject settles the name as far as it can be before loading: -p, then
// COMPOSE_PROJECT_NAME, then `name:` in the files (compose-go reads it), then
// the project's directory.
func (in *input) nameProject() error {
	name, from := in.src.ProjectName, "-p"
	if name == "" {
		name, from = in.env["COMPOSE_PROJECT_NAME"], "COMPOSE_PROJECT_NAME"
	}
	for _, f := range in.files {
		in.doubted = in.doubted || oddExternal.Match(f.Content)
	}
	if name != "" {
		if loader.NormalizeProjectName(name) != name {
			return &Error{Object: from, Cause: fmt.Sprintf("invalid project name %q", name),
				Next: "use lower-case letters, digits, - and _, and begin with a letter or digit", class: errdefs.ErrInvalidArgument}
		}
		in.name, in.nameSaid = name, true
		return nil
	}
	for _, f := range in.files {
		if mayHaveName.Match(f.Content) {
			var said struct{ Name any }
			if yaml.Unmarshal(f.Content, &said) == nil && said.Name != nil && said.Name != "" {
				_, isString := said.Name.(string)
				in.doubted = in.doubted || !isString
				return nil
			}
		}
	}
	in.name = loader.NormalizeProjectName(filepath.Base(in.projectDir))
	return nil
}

// mayHaveName spares most files a second parse.
var mayHaveName = regexp.MustCompile(`(?m)^["'{]?.*name["']?\s*:`)

// oddExternal finds an `external` that is neither true nor false: as a mapping
// it is deprecated, and merging drops keys it should not have.
var oddExternal = regexp.MustCompile(`(?m)external["']?[ \t]*:[ \t]*(?:[^tf \t]|$)`)

// options are what compose-go is asked to do. validate turns its JSON schema
// on; see [input.model].
func (in *input) options(validate bool) (types.ConfigDetails, []func(*loader.Options)) {
	details := types.ConfigDetails{WorkingDir: in.projectDir, ConfigFiles: in.files, Environment: in.env.Clone()}
	return details, []func(*loader.Options){func(o *loader.Options) {
		o.SetProjectName(in.name, in.nameSaid)
		o.SkipValidation = !validate
		o.SkipInterpolation = in.src.NoInterpolate
		o.SkipNormalization = in.src.NoNormalize || !validate
		o.SkipConsistencyCheck = in.src.NoConsistency
		o.ResolvePaths = !in.src.NoPathResolution
		o.ConvertWindowsPaths, _ = strconv.ParseBool(in.env["COMPOSE_CONVERT_WINDOWS_PATHS"])
		o.Profiles = in.profiles
		o.ResourceLoaders = []loader.ResourceLoader{remote{}}
		o.Interpolate.Substitute = in.substitute
		o.Listeners = append(o.Listeners, func(event string, _ map[string]any) { in.doubted = in.doubted || event == "include" })
		// Selected services first, then their files: see Load.
		o.SkipResolveEnvironment = true
		o.SkipResolveLabels = true
	}}
}

// substitute is compose-go's substitution, but a variable that is not set is
// told to the caller instead of a global logger.
func (in *input) substitute(text string, lookup template.Mapping) (string, error) {
	if !strings.Contains(text, "$") {
		return text, nil
	}
	value, err := template.SubstituteWithOptions(text, lookup, template.WithoutLogging,
		template.WithReplacementFunction(func(ref string, lookup template.Mapping, c *template.Config) (string, error) {
			if m := plainVariable.FindStringSubmatch(ref); m != nil {
				if _, ok := lookup(m[1]); !ok {
					in.warn(fmt.Sprintf("variable %s is not set: an empty string stands in for it", m[1]))
				}
			}
			return template.DefaultReplacementFunc(ref, lookup, c)
		}))
	if err == nil && in.instance != "" && readsName.MatchString(text) {
		in.ownNames[value] = true
	}
	return value, err
}

var plainVariable = regexp.MustCompile(`^\$\{?([_a-zA-Z][_a-zA-Z0-9]*)\}?$`)

func (in *input) warn(text string) {
	if in.src.Warn != nil && !in.warned[text] {
		in.warned[text] = true
		in.src.Warn(text)
	}
}

// show writes a path as the user would: relative where it lies below the
// working directory.
func (in *input) show(path string) string { return showPath(in.workDir, path) }

func showPath(workDir, path string) string {
	if rel, err := filepath.Rel(workDir, path); err == nil && filepath.IsLocal(rel) {
		return rel
	}
	return path
}

// remote stands where a loader of remote files would, and refuses.
type remote struct{}

func (remote) Accept(path string) bool                          { return isRemote(path) }
func (remote) Load(_ context.Context, p string) (string, error) { return "", refuseRemote(p) }
func (remote) Dir(path string) string                           { return path }

func isRemote(path string) bool {
	return strings.Contains(path, "://") || strings.HasPrefix(path, "git@") || strings.HasPrefix(path, "github.com/")
}

func refuseRemote(path string) error {
	return &Error{Object: path, Cause: "remote compose files (git, oci) are not supported yet",
		Next: "fetch it and name the local file", class: errdefs.ErrNotImplemented}
}
