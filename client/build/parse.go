package build

import (
	"encoding/csv"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
)

// fields reads "key=value,key=value", where a field may be quoted as in CSV.
func fields(what, text string) ([]string, error) {
	r := csv.NewReader(strings.NewReader(text))
	all, err := r.Read()
	if err != nil {
		return nil, invalid("%s %q: must be key=value pairs separated by commas", what, text)
	}
	return all, nil
}

// pairs reads fields that must all be key=value.
func pairs(what, text string) (map[string]string, error) {
	all, err := fields(what, text)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, f := range all {
		key, value, ok := strings.Cut(f, "=")
		if !ok || key == "" {
			return nil, invalid("%s %q: %q is not key=value", what, text, f)
		}
		out[strings.ToLower(strings.TrimSpace(key))] = value
	}
	return out, nil
}

// take gives the value of a key and removes it.
func take(m map[string]string, keys ...string) string {
	var v string
	for _, k := range keys {
		if m[k] != "" {
			v = m[k]
		}
		delete(m, k)
	}
	return v
}

// within makes a path absolute, starting from a directory.
func within(dir, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// ParseOutput reads an --output. Relative paths start from dir.
func ParseOutput(text, dir string) (Output, error) {
	const what = "--output"
	if text == "" {
		return Output{}, invalid("%s is empty", what)
	}
	if !strings.Contains(text, "=") { // a directory, or standard output
		if text == Stdin {
			return Output{Type: OutputTar, Dest: Stdin}, nil
		}
		return Output{Type: OutputLocal, Dest: within(dir, text)}, nil
	}
	m, err := pairs(what, text)
	if err != nil {
		return Output{}, err
	}
	o := Output{Type: take(m, "type"), Dest: take(m, "dest"), Attrs: m}
	switch o.Type {
	case "":
		return Output{}, invalid("%s %q: type is missing", what, text)
	case "registry":
		o.Type, o.Attrs["push"] = OutputImage, "true"
	case OutputDocker:
		if o.Dest == "" { // into the daemon
			o.Type = OutputImage
			delete(o.Attrs, "context")
		}
	}
	if o.Dest != Stdin {
		o.Dest = within(dir, o.Dest)
	}
	return o, o.check(0)
}

// check refuses an output that cannot be had; platforms is how many it must
// hold.
func (o Output) check(platforms int) error {
	what := "output of type " + o.Type
	isDir := false
	if o.Dest != "" && o.Dest != Stdin {
		st, err := os.Stat(o.Dest)
		isDir = err == nil && st.IsDir()
	}
	switch o.Type {
	case OutputImage:
		if o.Dest != "" {
			return invalid("%s has no dest: it goes into the store", what)
		}
	case OutputLocal:
		if o.Dest == "" || o.Dest == Stdin {
			return invalid("%s needs dest=DIRECTORY", what)
		}
	case OutputTar, OutputOCI, OutputDocker:
		if o.Directory() {
			if o.Dest == "" || o.Dest == Stdin {
				return invalid("%s with tar=false needs dest=DIRECTORY", what)
			}
			break
		}
		if isDir {
			return invalid("%s: dest=%s is a directory; a file is needed", what, o.Dest)
		}
		if o.Dest == "" {
			return invalid("%s needs dest=FILE, or dest=- for standard output", what)
		}
		if o.Type == OutputDocker && platforms > 1 {
			return unsupported("%s holds one platform, not %d: use type=oci", what, platforms)
		}
	case "cacheonly":
		return nil
	default:
		return unsupported("%s is not supported (only image, registry, local, tar, oci, docker, cacheonly)", what)
	}
	return nil
}

// Directory says whether an archive is written as a directory instead.
func (o Output) Directory() bool {
	tar, err := strconv.ParseBool(o.Attrs["tar"])
	return (o.Type == OutputOCI || o.Type == OutputDocker) && err == nil && !tar
}

// ParseCache reads where cache comes from or goes to: an image's name, or
// type=…. Relative paths start from dir.
func ParseCache(what, text, dir string) (Cache, error) {
	if text == "" {
		return Cache{}, invalid("%s is empty", what)
	}
	if !strings.Contains(text, "=") {
		return Cache{Type: "registry", Attrs: map[string]string{"ref": text}}, nil
	}
	m, err := pairs(what, text)
	if err != nil {
		return Cache{}, err
	}
	c := Cache{Type: take(m, "type"), Attrs: m}
	for _, key := range []string{"src", "dest"} {
		if m[key] != "" {
			m[key] = within(dir, m[key])
		}
	}
	if c.Type == "" {
		return c, invalid("%s %q: type is missing", what, text)
	}
	need := map[string]string{"registry": "ref", "local": "src"}[c.Type]
	if c.Type == "local" && strings.HasSuffix(what, "to") {
		need = "dest"
	}
	if need != "" && m[need] == "" {
		return c, invalid("%s %q: %s is missing", what, text, need)
	}
	return c, c.check()
}

func (c Cache) check() error {
	switch c.Type {
	case "registry":
		if _, err := reference.ParseNormalizedNamed(c.Attrs["ref"]); err != nil {
			return invalid("build cache of the image %q: %v", c.Attrs["ref"], err)
		}
		return nil
	case "local", "inline":
		return nil
	}
	return unsupported("build cache of type %q is not supported (only registry, local, inline)", c.Type)
}

// ParseSecret reads a --secret. Relative paths start from dir; environ says
// which variables there are.
func ParseSecret(text, dir string, environ func(string) (string, bool)) (Secret, error) {
	const what = "--secret"
	m, err := pairs(what, text)
	if err != nil {
		return Secret{}, err
	}
	kind := take(m, "type")
	s := Secret{ID: take(m, "id"), File: take(m, "src", "source"), Env: take(m, "env")}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		return s, invalid("%s %q: unknown key %s (only id, src, env, type)", what, text, key)
	}
	switch {
	case s.ID == "":
		return s, invalid("%s %q: id is missing", what, text)
	case kind == "env" && s.Env == "":
		if s.Env, s.File = s.File, ""; s.Env == "" {
			s.Env = s.ID
		}
	case kind != "" && kind != "env" && kind != "file":
		return s, invalid("%s %q: type must be file or env", what, text)
	case s.File == "" && s.Env == "":
		if _, ok := environ(s.ID); ok && kind == "" {
			s.Env = s.ID
		} else {
			s.File = s.ID
		}
	}
	if s.File != "" && s.Env != "" {
		return s, invalid("%s %q: src and env exclude each other", what, text)
	}
	if s.Env != "" {
		value, ok := environ(s.Env)
		if !ok {
			return s, invalid("%s %s: the variable %s is not set", what, s.ID, s.Env)
		}
		s.Env, s.Content = "", []byte(value)
		return s, nil
	}
	s.File = within(dir, s.File)
	return s, s.check(what)
}

// check refuses a secret whose file cannot be read.
func (s Secret) check(what string) error {
	if s.File == "" {
		return nil
	}
	f, err := os.Open(s.File)
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, s.ID, err)
	}
	return f.Close()
}

// ParseSSH reads a --ssh: "default", or ID[=SOCKET|KEY[,KEY]].
func ParseSSH(text, dir string) (Key, error) {
	id, paths, ok := strings.Cut(text, "=")
	if id == "" || ok && paths == "" {
		return Key{}, invalid("--ssh %q: must be default or ID=SOCKET|KEY[,KEY]", text)
	}
	k := Key{ID: id}
	if ok {
		for path := range strings.SplitSeq(paths, ",") {
			k.Paths = append(k.Paths, within(dir, path))
		}
	}
	return k, nil
}

// ParseAttest reads a --attest, or the value of --provenance or --sbom, which
// name its type. It gives none when that is switched off.
func ParseAttest(kind, text string) (attests map[string]string, err error) {
	what := "--" + kind
	if kind == "" {
		m, err := pairs("--attest", text)
		if err != nil {
			return nil, err
		}
		if kind = take(m, "type"); kind == "" {
			return nil, invalid("--attest %q: type is missing", text)
		}
		off, _ := strconv.ParseBool(take(m, "disabled"))
		if off {
			return nil, nil
		}
		return map[string]string{kind: join(m)}, nil
	}
	if on, err := strconv.ParseBool(text); err == nil {
		if !on {
			return nil, nil
		}
		return map[string]string{kind: ""}, nil
	}
	if kind == "provenance" && (text == "min" || text == "max") {
		text = "mode=" + text
	}
	m, err := pairs(what, text)
	if err != nil {
		return nil, err
	}
	if off, _ := strconv.ParseBool(take(m, "disabled")); off {
		return nil, nil
	}
	delete(m, "type")
	return map[string]string{kind: join(m)}, nil
}

// join is the opposite of pairs.
func join(m map[string]string) string {
	var b strings.Builder
	w := csv.NewWriter(&b)
	var all []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		all = append(all, k+"="+m[k])
	}
	if len(all) == 0 {
		return ""
	}
	_ = w.Write(all) // into memory
	w.Flush()
	return strings.TrimSuffix(b.String(), "\n")
}

// IsRemote tells a URL, which the builder fetches, from a path.
func IsRemote(context string) bool {
	for _, prefix := range []string{"https://", "http://", "git://", "ssh://", "github.com/", "git@"} {
		if strings.HasPrefix(context, prefix) {
			return true
		}
	}
	return false
}

// isSource tells a named context that is no path.
func isSource(source string) bool {
	return IsRemote(source) || strings.Contains(source, "://") || strings.HasPrefix(source, ServicePrefix)
}

// ParseContext reads NAME=SOURCE, a --build-context. Relative paths start from
// dir.
func ParseContext(text, dir string) (name, source string, err error) {
	name, source, ok := strings.Cut(text, "=")
	if !ok || name == "" || source == "" {
		return "", "", invalid("--build-context %q: must be NAME=SOURCE", text)
	}
	if path, ok := strings.CutPrefix(source, "oci-layout://"); ok {
		return name, "oci-layout://" + within(dir, path), nil
	}
	if !isSource(source) {
		source = within(dir, source)
	}
	return name, source, nil
}

// typed writes what pairs reads.
func typed(kind string, m map[string]string) string {
	text := "type=" + kind
	if rest := join(m); rest != "" {
		text += "," + rest
	}
	return text
}

func (c Cache) String() string { return typed(c.Type, c.Attrs) }

func (o Output) String() string {
	m := maps.Clone(o.Attrs)
	if m == nil {
		m = map[string]string{}
	}
	if o.Dest != "" {
		m["dest"] = o.Dest
	}
	return typed(o.Type, m)
}
