package compose

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"github.com/compose-spec/compose-go/v2/schema"
	"github.com/compose-spec/compose-go/v2/template"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/containerd/errdefs"
	"gopkg.in/yaml.v3"
)

// explain words an error of compose-go as one line with a place. compose-go's
// errors carry their facts in their text alone, so here, and only here, the
// text is read. What no rule knows stays as it is, on one line, with the place
// of the first path it mentions.
func (in *input) explain(ctx context.Context, err error) error {
	var known *Error
	if errors.As(err, &known) {
		return known
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if e := in.notYAML(); e != nil {
		return e
	}
	l := in.locator()
	var absent *fs.PathError
	if errors.As(err, &absent) {
		return in.absentFile(l, absent)
	}
	var missing *template.MissingRequiredError
	text := err.Error()
	switch {
	case errors.As(err, &missing):
		return in.missingVariable(l, text, missing)
	case interpolationFormat.MatchString(text):
		m := interpolationFormat.FindStringSubmatch(text)
		return l.at(invalid(m[1], fmt.Sprintf("invalid interpolation %q", m[2]), "write $$ for a literal $"),
			append(pathOf(m[1]), "~"+m[2])...)
	case strings.HasPrefix(text, "validating "):
		return in.invalidSchema(l, text)
	}
	if e := in.inconsistent(ctx, l); e != nil {
		return e
	}
	return in.other(ctx, l, text)
}

// absentFile is an included or extended file that cannot be read.
func (in *input) absentFile(l *locator, err *fs.PathError) error {
	e := &Error{Object: "include", Cause: in.show(err.Path) + ": " + cause(err), Next: "create it", class: class(err)}
	name := "~" + filepath.Base(err.Path)
	if file, line := l.find("include", name); line > 0 {
		e.File, e.Line = in.show(file), line
		return e
	}
	e.Object = "extends"
	return l.at(e, "services", name)
}

var interpolationFormat = regexp.MustCompile(`(?s)invalid interpolation format for (\S+)\.\n.*?another \$\.\n([^\n]*)`)

// brokenLine is the line at which a mapping or a list goes wrong. yaml.v3 says
// only where it begins; but what ends before that line does not fail so.
func brokenLine(content []byte, broken error) int {
	lines := bytes.SplitAfter(content, []byte("\n"))
	return 1 + sort.Search(len(lines)-1, func(i int) bool {
		err := yaml.Unmarshal(bytes.Join(lines[:i+1], nil), new(yaml.Node))
		return err != nil && err.Error() == broken.Error()
	})
}

// notYAML looks for a file that does not parse at all, or is not a mapping.
func (in *input) notYAML() error {
	for _, f := range in.files {
		bad := func(line int, text string) error {
			return &Error{File: in.show(f.Filename), Line: line, Cause: "not YAML: " + text,
				Next: "correct it there or just above", class: errdefs.ErrInvalidArgument}
		}
		var root yaml.Node
		if err := yaml.Unmarshal(f.Content, &root); err != nil {
			line, text := cutLine(strings.TrimPrefix(err.Error(), "yaml: "))
			switch {
			case strings.HasPrefix(text, "did not find expected key"), strings.HasPrefix(text, "did not find expected '-'"):
				line = brokenLine(f.Content, err)
			case strings.HasPrefix(text, "did not find expected"):
				line++ // yaml.v3 counts the lines of its parser's errors from 0
			}
			return bad(line, text)
		}
		if len(root.Content) == 0 {
			return &Error{File: in.show(f.Filename), Cause: "is empty", Next: "it needs a services section", class: errdefs.ErrInvalidArgument}
		}
		top := root.Content[0]
		if top.Kind != yaml.MappingNode {
			return &Error{File: in.show(f.Filename), Line: top.Line, Cause: "not a compose file: the top level must be a mapping",
				Next: "it needs a services section", class: errdefs.ErrInvalidArgument}
		}
		var any map[string]any
		if err := yaml.Unmarshal(f.Content, &any); err != nil {
			text := strings.TrimSpace(strings.TrimPrefix(strings.TrimPrefix(err.Error(), "yaml: "), "unmarshal errors:"))
			if strings.Contains(text, "already defined") {
				line, text := cutLine(text)
				return &Error{File: in.show(f.Filename), Line: line, Cause: text, Next: "keep one of them", class: errdefs.ErrInvalidArgument}
			}
			if !strings.Contains(text, "!reset") && !strings.Contains(text, "!override") {
				return bad(cutLine(oneLine(text)))
			}
		}
	}
	return nil
}

func (in *input) missingVariable(l *locator, text string, m *template.MissingRequiredError) error {
	object, path := "", []string{}
	if i := strings.Index(text, "while interpolating "); i >= 0 {
		object, _, _ = strings.Cut(text[i+len("while interpolating "):], ":")
		path = pathOf(object)
	}
	e := invalid(strings.ReplaceAll(object, ".[]", ""), "required variable "+m.Variable+" is not set", "set it in the environment or in .env")
	if m.Reason != "" {
		e.Cause = "required variable " + m.Variable + " is missing: " + oneLine(m.Reason)
	}
	return l.at(e, append(path, "~"+m.Variable)...)
}

var additional = regexp.MustCompile(`^(\S*?) ?(?:additional|unevaluated) properties '([^']+)'`)

// invalidSchema words an error of the JSON schema: "validating FILE: PATH
// must be a WANT".
func (in *input) invalidSchema(l *locator, text string) error {
	_, text, _ = strings.Cut(text, ": ")
	text = oneLine(text)
	if m := additional.FindStringSubmatch(text); m != nil {
		return unknownKey(l, m[1], m[2])
	}
	if path, ok := strings.CutSuffix(text, " false schema"); ok { // nothing may be there
		object, key := splitLast("." + path)
		return unknownKey(l, object, key)
	}
	object, cause, ok := strings.Cut(text, " ")
	if !ok || object == "" {
		object, cause = "", strings.TrimSpace(text)
	}
	cause = strings.NewReplacer("must be a array", "must be a list", "array", "list", "a integer", "an integer",
		"missing property ", "lacks ", "missing properties ", "lacks ").Replace(cause)
	return l.at(invalid(object, cause, form(cause)), pathOf(object)...)
}

// form is how the kind of value that is missing is written.
func form(cause string) string {
	switch kind, _ := strings.CutPrefix(cause, "must be a "); {
	case strings.HasPrefix(kind, "list"):
		return `write each entry on a line of its own after "- "`
	case strings.HasPrefix(kind, "mapping"):
		return `write "key: value" lines below it`
	}
	return ""
}

func unknownKey(l *locator, object, key string) error {
	object = strings.TrimPrefix(object, ".")
	path := pathOf(object)
	e := invalid(object, "unknown key "+key, "remove it, or begin its name with x- to keep it for yourself")
	if guess := closest(key, knownKeys(path)); guess != "" {
		e.Next = "did you mean " + guess + "?"
	}
	return l.at(e, append(path, key)...)
}

// knownKeys lists the keys the specification has at a path.
func knownKeys(path []string) []string {
	var keys []string
	for _, attribute := range schema.AttributePaths() {
		parts := attribute.Parts()
		if len(parts) != len(path)+1 {
			continue
		}
		same := true
		for i, p := range path {
			same = same && (parts[i] == p || parts[i] == "*" || parts[i] == "[]")
		}
		if last := parts[len(parts)-1]; same && last != "*" && last != "[]" {
			keys = append(keys, last)
		}
	}
	return keys
}

// inconsistent loads once more without compose-go's check for consistency and
// lets ours say what is wrong, if it finds it.
func (in *input) inconsistent(ctx context.Context, l *locator) error {
	model, details, err := in.model(ctx)
	if err != nil {
		return nil //nolint:nilerr // the caller has an error already; this one is no better
	}
	p, err := in.bind(model, details, true)
	if err != nil {
		return nil //nolint:nilerr // as above
	}
	return check(p, l)
}

var (
	dotted = regexp.MustCompile(`\b(?:services|networks|volumes|secrets|configs|include|jobs|models)(?:\.[^\s:.,;"']+)+`)
	// mapstructure: 'services[web].mem_limit' invalid size
	decoded = regexp.MustCompile(`decoding failed due to the following error\(s\): '([^']+)' ?(.*)`)
	member  = regexp.MustCompile(`(?:^Circular reference:|extends) (\S+) in`)
	quoted  = regexp.MustCompile(`\bservice "([^"]+)"`)
)

func (in *input) other(ctx context.Context, l *locator, text string) error {
	if strings.HasPrefix(text, "error while interpolating ") {
		text, _, _ = strings.Cut(text, "\n") // the first of several
	}
	text = oneLine(text)
	e := &Error{Cause: text, class: errdefs.ErrInvalidArgument}
	e.Cause = strings.ReplaceAll(e.Cause, in.workDir+string(filepath.Separator), "")
	e.Cause = strings.TrimSuffix(e.Cause, ": invalid compose project")
	e.Cause = lowerFirst(e.Cause)
	if m := notCast.FindStringSubmatch(text); m != nil {
		e.Object, e.Cause = m[1], notNumber.ReplaceAllString(m[2], `$1 is not a number`)
		if value, ok := strings.CutPrefix(e.Cause, "invalid boolean:"); ok {
			e.Cause, e.Next = fmt.Sprintf("%q is not a boolean", strings.TrimSpace(value)), "write true or false"
		}
		return l.at(e, pathOf(m[1])...)
	}
	if m := decoded.FindStringSubmatch(text); m != nil {
		e.Cause = m[2]
		path := pathOf(m[1])
		e.Object = strings.Join(path, ".")
		return l.at(e, path...)
	}
	if strings.HasPrefix(text, "Circular reference:") {
		return extendsCircle(l, text)
	}
	if m := dotted.FindString(text); m != "" {
		if rest, ok := strings.CutPrefix(e.Cause, m); ok {
			e.Object, e.Cause = m, strings.TrimLeft(rest, ": ")
			e.Next = form(e.Cause)
		}
		return l.at(e, pathOf(m)...)
	}
	if m := quoted.FindStringSubmatch(text); m != nil {
		key := "image"
		if strings.Contains(text, "extend") {
			key = "extends"
		}
		return l.at(e, "services", m[1], key)
	}
	if strings.Contains(text, "empty compose file") {
		return &Error{File: in.show(in.files[0].Filename), Cause: "the project is empty", Next: "it needs a services section", class: errdefs.ErrInvalidArgument}
	}
	if path := in.isolate(ctx, text); path != nil {
		e.Object = strings.Join(path[:3], ".")
		return l.at(e, path...)
	}
	if strings.Contains(text, "include") {
		return l.at(e, "include")
	}
	if len(in.files) == 1 {
		e.File = in.show(in.files[0].Filename)
	}
	return e
}

// extendsCircle names the services that extend each other, beginning with the
// same one every time.
func extendsCircle(l *locator, text string) error {
	var names []string
	for _, m := range member.FindAllStringSubmatch(text, -1) {
		names = append(names, m[1])
	}
	names = names[:len(names)-1] // the first once more
	first := slices.Index(names, slices.Min(names))
	names = slices.Concat(names[first:], names[:first+1])
	return l.at(invalid("services."+names[0]+".extends", "services extend each other: "+strings.Join(names, " → "),
		"remove one of these"), "services", names[0], "extends")
}

var (
	notCast   = regexp.MustCompile(`^error while interpolating (\S+): failed to cast to expected type: (.*)$`)
	notNumber = regexp.MustCompile(`strconv\.\w+: parsing ("[^"]*"): .*`)
)

// isolate finds the attribute that an error is about by loading one at a time
// and looking for the same error: compose-go does not say whose port or volume
// it could not parse. It gives section, name, key and maybe the item.
func (in *input) isolate(ctx context.Context, text string) []string {
	fails := func(f types.ConfigFile, section, name, key string, value any) bool {
		content, err := yaml.Marshal(map[string]any{section: map[string]any{name: map[string]any{key: value}}})
		if err != nil || ctx.Err() != nil {
			return false
		}
		one := *in
		one.files = []types.ConfigFile{{Filename: f.Filename, Content: content}}
		one.src.Warn = nil
		_, _, err = one.merge(ctx, false)
		return err != nil && oneLine(err.Error()) == text
	}
	for _, f := range slices.Backward(in.files) {
		var sections map[string]any
		if yaml.Unmarshal(f.Content, &sections) != nil {
			continue
		}
		for _, section := range sortedKeys(sections) {
			objects, _ := sections[section].(map[string]any)
			for _, name := range sortedKeys(objects) {
				keys, _ := objects[name].(map[string]any)
				for _, key := range sortedKeys(keys) {
					if !fails(f, section, name, key, keys[key]) {
						continue
					}
					path := []string{section, name, key}
					items, _ := keys[key].([]any)
					for i, item := range items {
						if fails(f, section, name, key, []any{item}) {
							return append(path, strconv.Itoa(i))
						}
					}
					return path
				}
			}
		}
	}
	return nil
}

func pathOf(dotted string) []string {
	if dotted == "" {
		return nil
	}
	return strings.FieldsFunc(dotted, func(r rune) bool { return r == '.' || r == '[' || r == ']' })
}

var lineNumber = regexp.MustCompile(`^(?:.*?\b)?line (\d+)(?:, column \d+)?: ?`)

// cutLine takes "line 3: " off a text.
func cutLine(text string) (int, string) {
	m := lineNumber.FindStringSubmatch(text)
	if m == nil {
		return 0, text
	}
	n, _ := strconv.Atoi(m[1])
	return n, text[len(m[0]):]
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

func lowerFirst(text string) string {
	r, n := utf8.DecodeRuneInString(text)
	if next, _ := utf8.DecodeRuneInString(text[n:]); unicode.IsUpper(next) {
		return text // an acronym
	}
	return string(unicode.ToLower(r)) + text[n:]
}

// cause is the bare reason of a failed file operation.
func cause(err error) string {
	var path *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "does not exist"
	case errors.Is(err, syscall.EISDIR):
		return "is a directory"
	case errors.As(err, &path):
		return path.Err.Error()
	}
	return err.Error()
}

func class(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errdefs.ErrNotFound
	case errors.Is(err, fs.ErrPermission):
		return errdefs.ErrPermissionDenied
	}
	return errdefs.ErrInvalidArgument
}

// closest is the known word that a mistyped one most likely means, or "".
func closest(word string, known []string) string {
	best, distance := "", 3
	if len(word) < 4 {
		distance = 2
	}
	for _, k := range slices.Sorted(slices.Values(known)) {
		if d := edits(word, k); d < distance {
			best, distance = k, d
		}
	}
	return best
}

// edits counts the insertions, deletions, replacements and swaps of neighbours
// that make b of a.
func edits(a, b string) int {
	var before []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next := make([]int, len(b)+1)
		next[0] = i
		for j := 1; j <= len(b); j++ {
			same := 1
			if a[i-1] == b[j-1] {
				same = 0
			}
			next[j] = min(row[j]+1, next[j-1]+1, row[j-1]+same)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}
