package compose

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/containerd/errdefs"
)

// Select restricts a loaded project to the named services (patterns as of
// [path/filepath.Match]) and, unless noDeps is set, what they depend on;
// resources no longer used go. No names: all.
//
// It knows the services that were enabled when the project was loaded; to
// enable one by naming it, name it in [Source].
func Select(p *Project, names []string, noDeps bool) (*Project, error) {
	p, err := selectServices(p, names, noDeps)
	if err != nil {
		return nil, err
	}
	return p.WithoutUnnecessaryResources(), nil
}

func selectServices(p *Project, names []string, noDeps bool) (*Project, error) {
	if len(names) == 0 {
		return p, nil
	}
	for _, name := range names {
		if err := knownService(p, name); err != nil {
			return nil, err
		}
	}
	policy := types.IncludeDependencies
	if noDeps {
		policy = types.IgnoreDependencies
	}
	q, err := p.WithSelectedServices(names, policy)
	if err != nil {
		return nil, &Error{Cause: oneLine(err.Error()), class: errdefs.ErrNotFound}
	}
	return q, nil
}

// knownService refuses a name or pattern that no enabled service has.
func knownService(p *Project, name string) error {
	known := p.ServiceNames()
	for _, k := range known {
		if ok, err := filepath.Match(name, k); ok || err != nil {
			return nil //nolint:nilerr // a bad pattern is refused where services are selected by it
		}
	}
	if s, ok := p.DisabledServices[name]; ok {
		return &Error{Object: "service " + name, Cause: "is disabled by its profiles",
			Next: "enable it with --profile " + firstOf(s.Profiles), class: errdefs.ErrNotFound}
	}
	next := "the project has " + strings.Join(known, ", ")
	if guess := closest(name, known); guess != "" {
		next = fmt.Sprintf("did you mean %s?", guess)
	} else if len(known) == 0 {
		next = ""
	}
	return &Error{Object: "service " + name, Cause: "no such service", Next: next, class: errdefs.ErrNotFound}
}

// selected applies what the Source says about services: those it names are
// enabled by that alone.
func (in *input) selected(p *Project) (*Project, error) {
	if len(in.src.Services) > 0 {
		var err error
		if p, err = p.WithServicesEnabled(in.src.Services...); err != nil {
			return nil, &Error{Cause: oneLine(err.Error()), class: errdefs.ErrInvalidArgument}
		}
		// A service enabled only now was not there when dependencies were
		// checked.
		if !in.src.NoConsistency && !in.src.NoDeps {
			if err := check(p, in.locator()); err != nil {
				return nil, err
			}
		}
		if p, err = selectServices(p, in.src.Services, in.src.NoDeps); err != nil {
			return nil, err
		}
	}
	// An optional dependency on a service that is not there says nothing.
	p = p.WithoutUnresolvedOptionalDependencies()
	if !in.src.All {
		p = p.WithoutUnnecessaryResources()
	}
	return p, nil
}

// resolveFiles reads env_file and label_file into the services.
func (in *input) resolveFiles(p *Project) (*Project, error) {
	for _, name := range p.ServiceNames() {
		s := p.Services[name]
		for _, f := range s.EnvFiles {
			if err := readable(f.Path); err != nil && (bool(f.Required) || !errors.Is(err, fs.ErrNotExist)) {
				return nil, in.locator().at(&Error{Object: "services." + name + ".env_file",
					Cause: in.show(f.Path) + ": " + cause(err), Next: "create it or mark it `required: false`", class: class(err)},
					"services", name, "env_file")
			}
		}
		for _, f := range s.LabelFiles {
			if err := readable(f); err != nil {
				return nil, in.locator().at(&Error{Object: "services." + name + ".label_file",
					Cause: in.show(f) + ": " + cause(err), Next: "create it", class: class(err)},
					"services", name, "label_file")
			}
		}
	}
	q, err := resolveEnv(p)
	if err != nil {
		return nil, in.brokenFile(p, err)
	}
	return q, nil
}

// brokenFile finds the env or label file that does not parse: compose-go does
// not say which.
func (in *input) brokenFile(p *Project, err error) error {
	for _, name := range p.ServiceNames() {
		s := p.Services[name]
		try := func(key, path, format string) *Error {
			data, err := os.ReadFile(path)
			if err == nil {
				err = parseVars(data, format)
			}
			if err == nil {
				return nil
			}
			line, text := cutLine(oneLine(err.Error()))
			place := in.show(path)
			if line > 0 {
				place += fmt.Sprintf(":%d", line)
			}
			return in.locator().at(invalid("services."+name+"."+key, place+": "+text, "write it as NAME=value lines"), "services", name, key)
		}
		for _, f := range s.EnvFiles {
			if e := try("env_file", f.Path, f.Format); e != nil {
				return e
			}
		}
		for _, f := range s.LabelFiles {
			if e := try("label_file", f, ""); e != nil {
				return e
			}
		}
	}
	return &Error{Object: "env_file", Cause: oneLine(err.Error()), class: errdefs.ErrInvalidArgument}
}

func parseVars(data []byte, format string) (err error) {
	defer recovered(&err)
	return dotenv.ParseWithFormat(bytes.NewReader(data), "", map[string]string{}, func(string) (string, bool) { return "", true }, format)
}

func resolveEnv(p *Project) (q *Project, err error) {
	defer recovered(&err)
	registerRaw()
	if q, err = p.WithServicesEnvironmentResolved(true); err == nil {
		q, err = q.WithServicesLabelsResolved(true)
	}
	return q, err
}

// registerRaw teaches compose-go env_file's `format: raw`, which it leaves to
// its callers and keeps in a table of its own.
var registerRaw = sync.OnceFunc(func() { dotenv.RegisterFormat("raw", parseRaw) })

// parseRaw reads NAME=value lines whose values are taken to the letter. A bare
// NAME takes its value from the environment, # begins a comment line.
func parseRaw(r io.Reader, _ string, vars map[string]string, lookup func(string) (string, bool)) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	for i, line := range strings.Split(strings.TrimPrefix(string(data), "\uFEFF"), "\n") {
		line = strings.TrimLeft(strings.TrimSuffix(line, "\r"), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, said := strings.Cut(line, "=")
		if name == "" || strings.ContainsAny(name, " \t") {
			return fmt.Errorf("line %d: %q is no name", i+1, name)
		}
		if !said && lookup != nil {
			value, said = lookup(name)
		}
		if said {
			vars[name] = value
		}
	}
	return nil
}

func readable(path string) error {
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		err = errDirectory
	}
	return err
}

var errDirectory = errors.New("is a directory")

// maxContent bounds a secret or config: its content travels with the project
// and is held in memory by every container that mounts it.
const maxContent = 16 << 20

// readContents fills in the content of every secret and config of p, and of
// the seccomp profiles its services name.
func (in *input) readContents(p *Project) error {
	for _, name := range p.ServiceNames() {
		s := p.Services[name]
		for i, opt := range s.SecurityOpt {
			key, value := securityOption(opt)
			if key != "seccomp" || value == "unconfined" || strings.HasPrefix(strings.TrimSpace(value), "{") {
				continue
			}
			path := value
			if !filepath.IsAbs(path) {
				path = filepath.Join(p.WorkingDir, path)
			}
			profile, err := os.ReadFile(path)
			var text bytes.Buffer
			if err == nil {
				err = json.Compact(&text, profile)
			}
			if err != nil {
				return in.locator().at(&Error{Object: "services." + name + ".security_opt", Cause: "seccomp profile " + in.show(path) + ": " + cause(err),
					Next: "name a profile in JSON, or unconfined", class: class(err)}, "services", name, "security_opt")
			}
			s.SecurityOpt[i] = "seccomp=" + text.String()
		}
	}
	for _, name := range sortedKeys(p.Secrets) {
		s := p.Secrets[name]
		content, err := in.content("secrets", name, types.FileObjectConfig(s))
		if err != nil {
			return err
		}
		s.Content = content
		p.Secrets[name] = s
	}
	for _, name := range sortedKeys(p.Configs) {
		c := p.Configs[name]
		content, err := in.content("configs", name, types.FileObjectConfig(c))
		if err != nil {
			return err
		}
		c.Content = content
		p.Configs[name] = c
	}
	return nil
}

func (in *input) content(section, name string, o types.FileObjectConfig) (string, error) {
	fail := func(key, text, next string, class error) (string, error) {
		return "", in.locator().at(&Error{Object: section + "." + name + "." + key, Cause: text, Next: next, class: class}, section, name, key)
	}
	switch {
	case bool(o.External):
		return "", nil // refused by Unsupported: there is nowhere it could be
	case o.Environment != "":
		v, ok := in.env[o.Environment]
		if !ok {
			return fail("environment", fmt.Sprintf("variable %s is not set", o.Environment), "set it, also in .env", errdefs.ErrInvalidArgument)
		}
		return v, nil
	case o.File != "":
		f, err := os.Open(o.File)
		if err != nil {
			return fail("file", in.show(o.File)+": "+cause(err), "create it", class(err))
		}
		defer f.Close()
		data, err := io.ReadAll(io.LimitReader(f, maxContent+1))
		switch {
		case err != nil && errors.Is(readable(o.File), errDirectory):
			return fail("file", in.show(o.File)+": is a directory", "mount it as a volume", errdefs.ErrInvalidArgument)
		case err != nil:
			return fail("file", in.show(o.File)+": "+cause(err), "", class(err))
		case len(data) > maxContent:
			return fail("file", fmt.Sprintf("%s: is larger than %d MiB", in.show(o.File), maxContent>>20), "mount it as a volume", errdefs.ErrInvalidArgument)
		}
		return string(data), nil
	}
	return o.Content, nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return slices.Clip(keys)
}

func firstOf(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}
