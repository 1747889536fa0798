package recorded

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// shaper writes answers without what is another's tomorrow: ids become the
// names they were given by `let`, or {id}; times, addresses of the daemon's
// own choice, process ids, sizes and ports become words in braces. What the
// scene itself has said is kept as it is.
type shaper struct {
	said string // all requests of the scene
	ids  []named
	root string // the daemon's directory
}

type named struct{ name, id string }

var (
	longID    = regexp.MustCompile(`[0-9a-f]{64}`)
	timeText  = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)`)
	address4  = regexp.MustCompile(`\b\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\b(/\d+|:\d+)?`)
	macText   = regexp.MustCompile(`\b[0-9a-f]{2}(:[0-9a-f]{2}){5}\b`)
	shortID   = regexp.MustCompile(`\b[0-9a-f]{12}\b`)
	moniker   = regexp.MustCompile(`^[a-z]+_[a-z]+\d?$`)
	agoText   = regexp.MustCompile(`(About )?(an?|\d+|Less than a) (second|minute|hour)s?( ago)?`)
	scratch   = regexp.MustCompile(`docker-import-\d+`)
	layerPath = regexp.MustCompile(`\{root\}/(overlay2|containers)/[^"/:]+`)
)

// changing are keys whose numbers, or texts, differ from day to day.
var changing = map[string]bool{
	"Created": true, "time": true, "timeNano": true, "Pid": true, "Size": true, "SizeRw": true, "SizeRootFs": true,
	"VirtualSize": true, "LayersSize": true, "IPPrefixLen": true, "HostPort": true, "PublicPort": true, "current": true,
	"total": true, "CreatedAt": true, "BuildTime": true, "SpaceReclaimed": true, "PID": true, "PPID": true,
}

// unordered are lists that come in an order of chance.
var unordered = map[string]bool{
	"Mounts": true, "Ports": true, "RepoTags": true, "RepoDigests": true,
	"VolumesDeleted": true, "NetworksDeleted": true, "ContainersDeleted": true,
}

// machine are keys whose values, or which themselves, follow the kernel, the
// build or the clock: what is recorded on one machine must hold on another.
var machine = map[string]bool{
	"CgroupnsMode": true, "OomKillDisable": true, "percpu_usage": true, "max_usage": true, "failcnt": true, "stats": true,
	"MaskedPaths": true, "DockerVersion": true, "BuildTime": true, "GitCommit": true, "execDuration": true,
	"io_service_bytes_recursive": true, "io_serviced_recursive": true, "io_queue_recursive": true, "io_service_time_recursive": true,
	"io_wait_time_recursive": true, "io_merged_recursive": true, "io_time_recursive": true, "sectors_recursive": true,
}

// let remembers an id.
func (s *shaper) let(name, id string) {
	s.ids = append(s.ids, named{name, strings.TrimPrefix(id, "sha256:")})
}

// fill puts remembered ids into a text.
func (s *shaper) fill(text string) string {
	for _, n := range s.ids {
		text = strings.ReplaceAll(text, "{"+n.name+":12}", n.id[:min(12, len(n.id))])
		text = strings.ReplaceAll(text, "{"+n.name+"}", n.id)
	}
	return text
}

// text takes out of a text what does not last.
func (s *shaper) text(t string) string {
	if s.root != "" {
		t = strings.ReplaceAll(t, s.root, "{root}")
	}
	for _, n := range s.ids {
		t = strings.ReplaceAll(t, n.id, "{"+n.name+"}")
		if len(n.id) == 64 {
			t = strings.ReplaceAll(t, n.id[:12], "{"+n.name+":12}")
		}
	}
	t = longID.ReplaceAllStringFunc(t, func(id string) string {
		if strings.Contains(s.said, id) {
			return id
		}
		return "{id}"
	})
	t = shortID.ReplaceAllStringFunc(t, func(id string) string {
		if strings.Contains(s.said, id) {
			return id
		}
		return "{id:12}"
	})
	t = timeText.ReplaceAllStringFunc(t, func(at string) string {
		if strings.HasPrefix(at, "0001-") || strings.Contains(s.said, at) || at == "2020-01-02T03:04:05Z" {
			return at
		}
		return "{time}"
	})
	t = macText.ReplaceAllStringFunc(t, func(mac string) string {
		if strings.Contains(s.said, mac) {
			return mac
		}
		return "{mac}"
	})
	t = address4.ReplaceAllStringFunc(t, func(a string) string {
		bare, rest, cut := strings.Cut(a, "/")
		if !cut {
			bare, rest, cut = strings.Cut(a, ":")
		}
		ip, err := netip.ParseAddr(bare)
		if err != nil || ip.IsUnspecified() || ip.IsLoopback() || strings.Contains(s.said, bare) {
			return a
		}
		switch {
		case cut && strings.Contains(a, "/"):
			return "{subnet}"
		case cut && rest != "":
			return "{ip}:{port}"
		}
		return "{ip}"
	})
	t = layerPath.ReplaceAllString(t, "{root}/$1/{id}")
	t = scratch.ReplaceAllString(t, "docker-import-{number}")
	return agoText.ReplaceAllString(t, "{ago}")
}

// value shapes a decoded JSON value that stands behind a key.
func (s *shaper) value(key string, v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		_, exec := v["ProcessConfig"]
		for k, inner := range v {
			if k == "Pid" && exec || key == "Health" && k != "Status" {
				continue // dockerd learns it late, and does not forget it; checks follow the clock
			}
			if !machine[k] {
				out[s.text(k)] = s.value(k, inner)
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, inner := range v {
			out[i] = s.value(key, inner)
		}
		if unordered[key] {
			return sorted(out)
		}
		return out
	case json.Number:
		if changing[key] && v.String() != "0" && v.String() != "-1" && !s.saidNumber(v.String()) {
			return "{number}"
		}
		return v
	case string:
		if key == "SandboxKey" && v != "" {
			return "{path}"
		}
		if changing[key] && v != "" && timeText.MatchString(v) {
			return s.text(v)
		}
		if _, err := strconv.ParseUint(v, 10, 64); err == nil && changing[key] && v != "0" && !s.saidNumber(v) {
			return "{number}"
		}
		return s.text(v)
	}
	return v
}

// saidNumber reports whether a request holds a number as a word.
func (s *shaper) saidNumber(n string) bool {
	return regexp.MustCompile(`\b` + n + `\b`).MatchString(s.said)
}

// types replaces every value by the name of its type.
func types(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, inner := range v {
			out[k] = types(inner)
		}
		return out
	case []any:
		if len(v) == 0 {
			return v
		}
		return []any{types(v[0]), "..."}
	case json.Number:
		return "{number}"
	case string:
		if v == "{number}" {
			return v
		}
		return "{string}"
	case bool:
		return "{bool}"
	}
	return v
}

// readValues decodes a text of JSON values one after the other.
func readValues(text []byte) ([]any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var all []any
	for {
		var v any
		if err := d.Decode(&v); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
}

// width is where a JSON value is broken into lines.
const width = 110

// printValue writes a value as JSON, its keys sorted, short ones on one line.
func printValue(v any) []string {
	return strings.Split(indent(v, ""), "\n")
}

func indent(v any, margin string) string {
	line := oneLine(v)
	if len(line)+len(margin) <= width {
		return line
	}
	in := margin + "  "
	var b strings.Builder
	switch v := v.(type) {
	case map[string]any:
		b.WriteString("{\n")
		for i, k := range sortedKeys(v) {
			key, _ := json.Marshal(k)
			fmt.Fprintf(&b, "%s%s: %s", in, key, indent(v[k], in))
			if i < len(v)-1 {
				b.WriteByte(',')
			}
			b.WriteByte('\n')
		}
		b.WriteString(margin + "}")
	case []any:
		b.WriteString("[\n")
		for i, inner := range v {
			b.WriteString(in + indent(inner, in))
			if i < len(v)-1 {
				b.WriteByte(',')
			}
			b.WriteByte('\n')
		}
		b.WriteString(margin + "]")
	default:
		return line
	}
	return b.String()
}

func oneLine(v any) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // what was decoded can be encoded
	return strings.TrimSuffix(b.String(), "\n")
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// event is one line for an event: type, action, who, and its attributes.
func (s *shaper) event(e event) string {
	line := fmt.Sprintf("%s %s %s", e.Type, s.text(e.Action), s.text(e.Actor.ID))
	keys := make([]string, 0, len(e.Actor.Attributes))
	for k := range e.Actor.Attributes {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		if machine[k] {
			continue
		}
		value := s.text(e.Actor.Attributes[k])
		if k == "name" && moniker.MatchString(value) && !strings.Contains(s.said, value) {
			value = "{name}"
		}
		line += fmt.Sprintf(" %s=%s", k, value)
	}
	return line
}

// event is an event on the wire.
type event struct {
	Type, Action string
	Actor        struct {
		ID         string
		Attributes map[string]string
	}
}
