package scheduler

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"gantry/compose"
)

// Change is one field that is not what it was.
type Change struct {
	Field string `json:"field"`         // "environment.LOG_LEVEL"
	Was   any    `json:"was,omitempty"` // as its JSON has it; nil: not set
	Is    any    `json:"is,omitempty"`  // the same
	// Hidden: it may be secret, and its values are left out.
	Hidden bool `json:"hidden,omitempty"`
}

// some joins the first changes and counts the others.
func some(changes []Change) string {
	const most = 4
	if len(changes) == 0 {
		return "its configuration has changed"
	}
	var texts []string
	for _, c := range changes[:min(len(changes), most)] {
		texts = append(texts, c.String())
	}
	text := strings.Join(texts, ", ")
	if more := len(changes) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// unhashed reports whether a field steers gantry and not the container; see
// compose.Parts.
func unhashed(field string) bool {
	top, _, _ := strings.Cut(field, ".")
	switch top {
	case "build", "pull_policy", "pull_refresh_after", "scale", "depends_on", "profiles", "develop", "attach", "extends", "env_file", "label_file",
		"cpu_count", "cpu_percent", "isolation":
		return true
	}
	for _, f := range []string{"deploy.replicas", "deploy.update_config", "deploy.rollback_config", "deploy.mode", "deploy.labels", "deploy.placement"} {
		if field == f || strings.HasPrefix(field, f+".") {
			return true
		}
	}
	return false
}

// serviceFields are the fields of a service that count, those of its parts
// included: where they are in the struct, and what they are called.
var serviceFields = func() (all []serviceField) {
	for _, f := range reflect.VisibleFields(reflect.TypeFor[compose.Service]()) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.Anonymous && name != "" && name != "-" && !unhashed(name) {
			all = append(all, serviceField{f.Index, name})
		}
	}
	return all
}()

type serviceField struct {
	index []int
	name  string
}

// serviceChanges are the fields in which two services ask for different
// containers, sorted.
func serviceChanges(was, is *compose.Service) []Change {
	var all []Change
	a, b := reflect.ValueOf(was).Elem(), reflect.ValueOf(is).Elem()
	for _, f := range serviceFields {
		name := f.name
		x, y := said(a.FieldByIndex(f.index)), said(b.FieldByIndex(f.index))
		if reflect.DeepEqual(x, y) {
			continue // most are, and their trees need not be made
		}
		switch name {
		case "networks":
			all = append(all, networkChanges(was.Networks, is.Networks)...)
		case "environment":
			all = variableChanges(all, was.Environment, is.Environment)
		case "ports":
			all = diff(all, name, portTexts(was.Ports), portTexts(is.Ports))
		case "deploy":
			all = append(all, slices.DeleteFunc(diff(nil, name, tree(x), tree(y)), func(c Change) bool { return unhashed(c.Field) })...)
		default:
			all = diff(all, name, tree(x), tree(y))
		}
	}
	for _, key := range []string{"on_unhealthy", "sticky"} { // the rest steers gantry, or is a health check
		all = diff(all, "x-gantry."+key, extension(was, key), extension(is, key))
	}
	slices.SortStableFunc(all, func(x, y Change) int { return strings.Compare(x.Field, y.Field) })
	return all
}

func extension(s *compose.Service, key string) any {
	m, _ := s.Extensions["x-gantry"].(map[string]any)
	return m[key]
}

// said is the value of a field, nil if it says nothing.
func said(v reflect.Value) any {
	if v.IsZero() {
		return nil
	}
	return v.Interface()
}

// variableChanges adds those of an environment to the changes before: what diff
// would, of the trees that there would be thousands of.
func variableChanges(all []Change, was, is compose.MappingWithEquals) []Change {
	var keys []string
	differs := func(k string) bool {
		x, y := was[k], is[k]
		return (x == nil) != (y == nil) || x != nil && *x != *y
	}
	for k := range was {
		if differs(k) {
			keys = append(keys, k)
		}
	}
	for k := range is {
		if _, both := was[k]; !both && differs(k) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	value := func(v *string) any {
		if v == nil {
			return nil
		}
		return *v
	}
	all = slices.Grow(all, len(keys))
	for _, k := range keys {
		all = append(all, changed("environment."+k, value(was[k]), value(is[k])))
	}
	return all
}

// networkChanges tells networks that are joined and left from another place on
// one.
func networkChanges(was, is map[string]*compose.ServiceNetwork) []Change {
	keys := func(m map[string]*compose.ServiceNetwork) any {
		var list []any
		for _, k := range slices.Sorted(maps.Keys(m)) {
			list = append(list, k)
		}
		if list == nil {
			return nil
		}
		return list
	}
	all := diff(nil, "networks", keys(was), keys(is))
	for _, k := range slices.Sorted(maps.Keys(is)) {
		if old, both := was[k]; both {
			all = diff(all, "networks."+k, tree(old), tree(is[k]))
		}
	}
	return all
}

// portTexts are published ports in Compose's short form.
func portTexts(ports []compose.ServicePort) any {
	var list []any
	for _, p := range ports {
		text := fmt.Sprint(p.Target)
		switch {
		case p.HostIP != "":
			text = p.HostIP + ":" + p.Published + ":" + text
		case p.Published != "":
			text = p.Published + ":" + text
		}
		if p.Protocol != "" && p.Protocol != "tcp" {
			text += "/" + p.Protocol
		}
		list = append(list, text)
	}
	if list == nil {
		return nil
	}
	return list
}

// fieldsOf are the fields in which two values differ.
func fieldsOf(was, is any) []Change { return diff(nil, "", tree(was), tree(is)) }

// tree is a value as the maps, lists and scalars its JSON has.
func tree(v any) any {
	data, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	var t any
	if err := json.Unmarshal(data, &t); err != nil {
		return nil
	}
	return t
}

// diff adds the changes between two trees to those before, map by map; lists
// are compared as a whole.
func diff(all []Change, field string, was, is any) []Change {
	a, aMap := was.(map[string]any)
	b, bMap := is.(map[string]any)
	if !(aMap || was == nil) || !(bMap || is == nil) || !aMap && !bMap {
		if !reflect.DeepEqual(was, is) {
			all = append(all, changed(field, was, is))
		}
		return all
	}
	keys := slices.AppendSeq(slices.AppendSeq(make([]string, 0, len(a)+len(b)), maps.Keys(a)), maps.Keys(b))
	slices.Sort(keys)
	for _, k := range slices.Compact(keys) {
		name := k
		if field != "" {
			name = field + "." + k
		}
		all = diff(all, name, a[k], b[k])
	}
	return all
}

// changed is a change as it may be shown.
func changed(field string, was, is any) Change {
	if secretive(field, was, is) {
		return Change{Field: field, Hidden: true}
	}
	return Change{Field: field, Was: sized(field, was), Is: sized(field, is)}
}

// sized writes a number of bytes as one would in a compose file.
func sized(field string, v any) any {
	switch field[strings.LastIndexByte(field, '.')+1:] {
	case "memory", "mem_limit", "mem_reservation", "memswap_limit", "shm_size", "size":
	default:
		return v
	}
	text, _ := v.(string)
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil || n == 0 {
		return v
	}
	for _, unit := range []struct {
		bytes uint64
		name  string
	}{{1 << 30, "g"}, {1 << 20, "m"}, {1 << 10, "k"}} {
		if n%unit.bytes == 0 {
			return fmt.Sprint(n/unit.bytes, unit.name)
		}
	}
	return v
}

func (c Change) String() string {
	switch {
	case c.Hidden && strings.HasPrefix(c.Field, "content of "):
		return c.Field
	case c.Hidden:
		return c.Field + " (hidden)"
	case c.Was == nil:
		return c.Field + " unset → " + show(c.Is)
	case c.Is == nil:
		return c.Field + " " + show(c.Was) + " → unset"
	}
	was, is := []rune(compact(c.Was)), []rune(compact(c.Is))
	from := apart(was, is)
	return c.Field + " " + cut(was, from) + " → " + cut(is, from)
}

// mostShown is how many characters of a value a reason shows, and leadIn how
// many before the difference of two values that begin alike.
const (
	mostShown = 60
	leadIn    = 20
)

// apart is where to begin to show two values so that they do not look the
// same: at 0, unless the difference would be cut off.
func apart(was, is []rune) int {
	if len(was) <= mostShown && len(is) <= mostShown {
		return 0
	}
	n := 0
	for n < min(len(was), len(is)) && was[n] == is[n] {
		n++
	}
	if n < mostShown-leadIn {
		return 0
	}
	return n - leadIn
}

// show is a value for people, on one line and not too long.
func show(v any) string { return cut([]rune(compact(v)), 0) }

// cut is a text from a place on, with marks where something is left out.
func cut(text []rune, from int) string {
	head, tail := "", ""
	if from > 0 {
		head, text = "…", text[from:]
	}
	if len(text) > mostShown {
		text, tail = text[:mostShown-1], "…"
	}
	return head + string(text) + tail
}

func compact(v any) string {
	if s, ok := v.(string); ok && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == '"' || r == '\\' || r > '~' }) {
		return `"` + s + `"`
	}
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return "?"
	}
	return strings.TrimSpace(b.String())
}

// By what a value is taken for a secret: words in the name of its field, a
// password in a URL, or in free text a word, or a long one that nobody would
// have thought up. A plan may have thousands of changes, so these are not
// regular expressions but where they are seldom needed.
var (
	secretNames = []string{"pass", "pwd", "secret", "token", "credential", "private", "auth", "salt", "dsn", "cookie", "session", "signature"}
	secretWords = []string{"pass", "pwd", "secret", "token", "credential", "auth", "key"}
	secretURL   = regexp.MustCompile(`://[^/@\s]*:[^/@\s]*@`)
)

// secretive reports whether a change should be shown without its values. It
// would rather hide one too many.
func secretive(field string, was, is any) bool {
	top, rest, _ := strings.Cut(field, ".")
	if secretName(rest) {
		return true
	}
	for _, v := range []any{was, is} {
		if v == nil {
			continue
		}
		text := compact(v)
		if strings.Contains(text, "://") && secretURL.MatchString(text) || freeText[top] && (has(strings.ToLower(text), secretWords) || random(text)) {
			return true
		}
	}
	return false
}

// secretName reports whether a name is that of a secret: by a word in it, or
// by a "key" that is a word of its own or its end.
func secretName(name string) bool {
	name = strings.ToLower(name)
	if has(name, secretNames) {
		return true
	}
	const key = "key"
	for from := 0; ; {
		i := strings.Index(name[from:], key)
		if i < 0 {
			return false
		}
		i += from
		from = i + len(key)
		apart := i == 0 || strings.IndexByte("_.-", name[i-1]) >= 0
		if from == len(name) && (apart || name[i-1] >= 'a' && name[i-1] <= 'z') || apart && from < len(name) && strings.IndexByte("_.-", name[from]) >= 0 {
			return true
		}
	}
}

func has(text string, words []string) bool {
	return slices.ContainsFunc(words, func(word string) bool { return strings.Contains(text, word) })
}

// random reports whether a text has a long word of digits and letters without
// order.
func random(text string) bool {
	const long = 20
	if len(text) < long {
		return false
	}
	return slices.ContainsFunc(strings.FieldsFunc(text, func(r rune) bool {
		return r != '+' && (r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r))
	}), func(word string) bool {
		return len(word) >= long && strings.ContainsAny(word, "0123456789") && strings.ContainsFunc(word, unicode.IsLetter)
	})
}

// freeText are fields in which anything may be written.
var freeText = map[string]bool{"environment": true, "command": true, "entrypoint": true, "healthcheck": true,
	"labels": true, "annotations": true, "logging": true, "log_opt": true, "driver_opts": true, "storage_opt": true}

func shortID(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	if len(id) > 12 {
		return id[:12]
	}
	return id
}
