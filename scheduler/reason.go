package scheduler

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"gantry/compose"
)

// outdated reports whether a container is not what its service wants now.
func (p *planner) outdated(s *service, c Container) bool {
	return c.Hash != s.hash || c.Uses != s.uses || c.Generation < s.want.Generation ||
		s.id != "" && c.ImageID != "" && c.ImageID != s.id
}

// changed says why a container is not what its service wants now, "" if it is.
func (p *planner) changed(s *service, c Container) string {
	if !p.outdated(s, c) {
		return ""
	}
	if c.Hash != s.hash && c.Maker != "" {
		return "made by " + c.Maker
	}
	var why []string
	if c.Hash != s.hash {
		why = append(why, p.fieldReason(s, c))
	}
	if s.id != "" && c.ImageID != "" && c.ImageID != s.id {
		why = append(why, fmt.Sprintf("image %s is another one (%s → %s)", s.image, shortID(c.ImageID), shortID(s.id)))
	}
	if c.Uses != s.uses && (c.Hash == s.hash || p.origin(s, c) == nil) {
		why = append(why, p.usesReason(c.Uses, s.uses)...)
	}
	if len(why) == 0 && c.Generation < s.want.Generation {
		why = append(why, "recreation is forced")
	}
	if len(why) == 0 {
		why = append(why, "what it uses has changed")
	}
	return strings.Join(why, "; ")
}

// origin is the project a container was made from, nil if it is not known.
func (p *planner) origin(s *service, c Container) *compose.Project {
	for _, was := range []*compose.Project{p.have.Was, p.have.Tried} {
		if was == nil {
			continue
		}
		conf, ok := was.Services[s.name]
		if !ok {
			continue
		}
		hash, asked := s.hashes[was]
		if !asked {
			conf.Name = s.name
			hash = compose.HashIn(was, conf)
			if s.hashes == nil {
				s.hashes = map[*compose.Project]string{}
			}
			s.hashes[was] = hash
		}
		if hash == c.Hash {
			return was
		}
	}
	return nil
}

// fieldReason names the fields of the service that have changed, if the
// project the container was made from is known.
func (p *planner) fieldReason(s *service, c Container) string {
	const unknown = "its configuration has changed"
	was := p.origin(s, c)
	if was == nil {
		return unknown + ", and what it was is not known any more"
	}
	text, asked := s.fields[was] // the same for all replicas
	if !asked {
		text = some(p.changedFields(was, s), unknown)
		if s.fields == nil {
			s.fields = map[*compose.Project]string{}
		}
		s.fields[was] = text
	}
	return text
}

func (p *planner) changedFields(was *compose.Project, s *service) []fmt.Stringer {
	var all []fmt.Stringer
	for _, d := range diff("", tree(was.Services[s.name]), tree(*s.conf)) {
		if !unhashed(d.field) {
			all = append(all, d)
		}
	}
	for _, ref := range s.conf.Secrets {
		if was.Secrets[ref.Source].Content != p.p.Secrets[ref.Source].Content {
			all = append(all, content("secret "+ref.Source))
		}
	}
	for _, ref := range s.conf.Configs {
		if was.Configs[ref.Source].Content != p.p.Configs[ref.Source].Content {
			all = append(all, content("config "+ref.Source))
		}
	}
	return all
}

// content is a change of what a secret or config holds, which is never shown.
type content string

func (c content) String() string { return "content of " + string(c) }

// some joins the first changes and counts the others.
func some(changes []fmt.Stringer, none string) string {
	const most = 4
	if len(changes) == 0 {
		return none
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
// compose.Hash.
func unhashed(field string) bool {
	top, _, _ := strings.Cut(field, ".")
	switch top {
	case "build", "pull_policy", "pull_refresh_after", "scale", "depends_on", "profiles", "develop", "attach", "extends", "env_file", "label_file":
		return true
	}
	for _, f := range []string{"deploy.replicas", "deploy.update_config", "deploy.rollback_config"} {
		if field == f || strings.HasPrefix(field, f+".") {
			return true
		}
	}
	return false
}

// usesReason compares two values of LabelUses.
func (p *planner) usesReason(was, is string) []string {
	before, now := parseUses(was), parseUses(is)
	var why []string
	for _, what := range slices.Sorted(maps.Keys(now)) {
		if before[what] == now[what] {
			continue
		}
		kind, key, _ := strings.Cut(what, ":")
		text := kind + " " + key + " has changed"
		if kind == "network" {
			if fields := p.networkReason(key); fields != "" {
				text += " (" + fields + ")"
			}
		}
		why = append(why, text)
	}
	for _, what := range slices.Sorted(maps.Keys(before)) {
		if _, ok := now[what]; !ok {
			kind, key, _ := strings.Cut(what, ":")
			why = append(why, kind+" "+key+" is not used any more")
		}
	}
	return why
}

func parseUses(s string) map[string]string {
	m := map[string]string{}
	for item := range strings.SplitSeq(s, ",") {
		if what, hash, ok := strings.Cut(item, "="); ok {
			m[what] = hash
		}
	}
	return m
}

// networkReason names the fields of a network that have changed, "" if they
// are not known.
func (p *planner) networkReason(key string) string {
	if p.have.Was == nil {
		return ""
	}
	was, ok := p.have.Was.Networks[key]
	if !ok {
		return ""
	}
	return fields(was, p.p.Networks[key])
}

// volumeReason names the fields of a volume that have changed.
func (p *planner) volumeReason(key string) string {
	if p.have.Was != nil {
		if was, ok := p.have.Was.Volumes[key]; ok {
			if f := fields(was, p.p.Volumes[key]); f != "" {
				return f
			}
		}
	}
	return "its definition has changed"
}

func fields(was, is any) string {
	var all []fmt.Stringer
	for _, d := range diff("", tree(was), tree(is)) {
		all = append(all, d)
	}
	return some(all, "")
}

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

// change is one field that is not what it was.
type change struct {
	field   string
	was, is any // nil: not set
}

// diff compares two trees, map by map; lists are compared as a whole.
func diff(field string, was, is any) []change {
	a, aMap := was.(map[string]any)
	b, bMap := is.(map[string]any)
	if !(aMap || was == nil) || !(bMap || is == nil) || !aMap && !bMap {
		if reflect.DeepEqual(was, is) {
			return nil
		}
		return []change{{field, was, is}}
	}
	keys := slices.Concat(slices.Collect(maps.Keys(a)), slices.Collect(maps.Keys(b)))
	slices.Sort(keys)
	var all []change
	for _, k := range slices.Compact(keys) {
		name := k
		if field != "" {
			name = field + "." + k
		}
		all = append(all, diff(name, a[k], b[k])...)
	}
	return all
}

func (c change) String() string {
	switch {
	case secretive(c):
		return c.field + " (hidden)"
	case c.was == nil:
		return c.field + " unset → " + show(c.is)
	case c.is == nil:
		return c.field + " " + show(c.was) + " → unset"
	}
	was, is := []rune(compact(c.was)), []rune(compact(c.is))
	from := apart(was, is)
	return c.field + " " + cut(was, from) + " → " + cut(is, from)
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
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return "?"
	}
	return strings.TrimSpace(b.String())
}

// By what a value is taken for a secret: the name of its field, a password in
// a URL, or in free text a word, or a long one that nobody would have thought
// up.
var (
	secretName = regexp.MustCompile(`(?i)pass|pwd|secret|token|credential|private|auth|salt|dsn|cookie|session|signature|(^|[_.-])key($|[_.-])|[a-z]key$`)
	secretURL  = regexp.MustCompile(`://[^/@\s]*:[^/@\s]*@`)
	secretWord = regexp.MustCompile(`(?i)pass|pwd|secret|token|credential|auth|key`)
	longWord   = regexp.MustCompile(`[A-Za-z0-9+]{20,}`)
)

// secretive reports whether a change should be shown without its values. It
// would rather hide one too many.
func secretive(c change) bool {
	top, rest, _ := strings.Cut(c.field, ".")
	if rest != "" && secretName.MatchString(rest) {
		return true
	}
	for _, v := range []any{c.was, c.is} {
		text := compact(v)
		if secretURL.MatchString(text) || freeText[top] && (secretWord.MatchString(text) || random(text)) {
			return true
		}
	}
	return false
}

// random reports whether a text has a long word of digits and letters without
// order.
func random(text string) bool {
	for _, word := range longWord.FindAllString(text, -1) {
		if strings.ContainsAny(word, "0123456789") && strings.ContainsFunc(word, unicode.IsLetter) {
			return true
		}
	}
	return false
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
