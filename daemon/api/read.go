package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bounds of what a request may send. Archives are streamed and bounded by the
// disk alone.
const (
	maxBody = 4 << 20
	// A goal carries the contents of secrets and configs.
	maxGoal = 64 << 20
	// bodyPatience is how long JSON may take to arrive.
	bodyPatience = time.Minute
)

var errNoBody = invalid("got EOF while reading request body: it wants JSON")

// readJSON decodes a body into v, strictly: a field that v does not have is
// refused by name unless it says nothing (null, false, 0, empty), which is how
// older and newer clients send what they do not use.
func readJSON(w http.ResponseWriter, r *http.Request, v any) error {
	// A client that sends a byte now and then must not keep a connection and a
	// goroutine for ever.
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(bodyPatience))
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	_ = control.SetReadDeadline(time.Time{})
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return invalid("the request's body is larger than %d bytes", maxBody)
	} else if err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	if len(text) == 0 {
		return errNoBody
	}
	if kind := r.Header.Get("Content-Type"); !isJSON(kind) {
		return invalid("Content-Type specified (%s) must be 'application/json'", kind)
	}
	if err := json.Unmarshal(text, v); err != nil {
		return invalid("the request's body: %v", err)
	}
	if names := strangers(text, reflect.TypeOf(v)); len(names) > 0 {
		slices.Sort(names)
		return invalid("%s is not supported", strings.Join(names, ", "))
	}
	return nil
}

// readOptionalJSON is readJSON for a body that may be missing, or null.
func readOptionalJSON(w http.ResponseWriter, r *http.Request, v any) error {
	if err := readJSON(w, r, v); !errors.Is(err, errNoBody) {
		return err
	}
	return nil
}

func isJSON(contentType string) bool {
	kind, _, err := mime.ParseMediaType(contentType)
	return err == nil && kind == "application/json"
}

// strangers lists the fields in a JSON text that a type does not have and that
// say something, as paths: "HostConfig.KernelMemory".
func strangers(text json.RawMessage, t reflect.Type) (names []string) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Struct:
		if reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
			return nil
		}
		var fields map[string]json.RawMessage
		if json.Unmarshal(text, &fields) != nil {
			return nil
		}
		known := map[string]reflect.Type{}
		collect(t, known)
		for name, value := range fields {
			if ft, ok := known[strings.ToLower(name)]; ok {
				for _, inner := range strangers(value, ft) {
					names = append(names, name+"."+inner)
				}
			} else if says(value) {
				names = append(names, name)
			}
		}
	case reflect.Slice:
		var items []json.RawMessage
		if json.Unmarshal(text, &items) != nil {
			return nil
		}
		for i, item := range items {
			for _, inner := range strangers(item, t.Elem()) {
				names = append(names, strconv.Itoa(i)+"."+inner)
			}
		}
	case reflect.Map:
		var items map[string]json.RawMessage
		if json.Unmarshal(text, &items) != nil {
			return nil
		}
		for key, item := range items {
			for _, inner := range strangers(item, t.Elem()) {
				names = append(names, key+"."+inner)
			}
		}
	}
	return names
}

// collect gathers a struct's fields by the folded name JSON knows them by.
func collect(t reflect.Type, known map[string]reflect.Type) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			collect(f.Type, known)
		case !f.IsExported() || name == "-":
		default:
			if name == "" {
				name = f.Name
			}
			known[strings.ToLower(name)] = f.Type
		}
	}
}

// says reports whether a JSON value is more than a way to say nothing.
func says(value json.RawMessage) bool {
	var v any
	if json.Unmarshal(value, &v) != nil {
		return true
	}
	return meaning(v)
}

func meaning(v any) bool {
	switch v := v.(type) {
	case nil:
		return false
	case bool:
		return v
	case float64:
		return v != 0
	case string:
		return v != ""
	case []any:
		return slices.ContainsFunc(v, meaning)
	case map[string]any:
		for _, inner := range v {
			if meaning(inner) {
				return true
			}
		}
		return false
	}
	return true
}

// filters are Docker's: an object passes when, for every key, one of the
// values matches.
type filters map[string][]string

// readFilters parses the filters of a query, in the form {"key":{"value":true}}
// or the older {"key":["value"]}, and refuses keys that are not known.
func readFilters(q url.Values, known ...string) (filters, error) {
	text := q.Get("filters")
	if text == "" {
		return nil, nil
	}
	f := filters{}
	var sets map[string]map[string]bool
	if err := json.Unmarshal([]byte(text), &sets); err == nil {
		for key, set := range sets {
			// What a value is set to has never counted.
			f[key] = slices.Sorted(maps.Keys(set))
		}
	} else if err := json.Unmarshal([]byte(text), (*map[string][]string)(&f)); err != nil {
		return nil, invalid("invalid filter: %q is not JSON of the form {\"key\":[\"value\"]}", text)
	}
	for key := range f {
		if !slices.Contains(known, key) {
			return nil, invalid("invalid filter '%s'", key)
		}
		if len(f[key]) == 0 {
			delete(f, key)
		}
	}
	return f, nil
}

// any reports whether a key is absent or one of its values satisfies match.
func (f filters) any(key string, match func(value string) bool) bool {
	values := f[key]
	return len(values) == 0 || slices.ContainsFunc(values, match)
}

// is matches values that equal one of those given.
func (f filters) is(key string, have ...string) bool {
	return f.any(key, func(v string) bool { return slices.Contains(have, v) })
}

// labels matches label filters, "key" or "key=value", all of which must hold,
// and "label!", none of which may.
func (f filters) labels(have map[string]string) bool {
	holds := func(want string) bool {
		key, value, valued := strings.Cut(want, "=")
		got, ok := have[key]
		return ok && (!valued || got == value)
	}
	for _, want := range f["label"] {
		if !holds(want) {
			return false
		}
	}
	return !slices.ContainsFunc(f["label!"], holds)
}

// boolean reads a filter that is true or false.
func (f filters) boolean(key string) (value, set bool, err error) {
	values := f[key]
	if len(values) == 0 {
		return false, false, nil
	}
	switch {
	case len(values) > 1:
	case values[0] == "1" || strings.EqualFold(values[0], "true"):
		return true, true, nil
	case values[0] == "0" || strings.EqualFold(values[0], "false"):
		return false, true, nil
	}
	return false, false, invalid("invalid filter '%s=%v': it is true or false", key, values)
}

// readTime parses a time of a query: Unix seconds with up to nine digits of a
// fraction, or RFC 3339. Nothing and "0" are no time.
func readTime(q url.Values, name string) (time.Time, error) {
	text := q.Get(name)
	if text == "" || text == "0" {
		return time.Time{}, nil
	}
	seconds, fraction, _ := strings.Cut(text, ".")
	if s, err := strconv.ParseInt(seconds, 10, 64); err == nil {
		if len(fraction) > 9 {
			fraction = fraction[:9]
		}
		n := int64(0)
		if fraction != "" {
			if n, err = strconv.ParseInt(fraction+strings.Repeat("0", 9-len(fraction)), 10, 64); err != nil || n < 0 {
				return time.Time{}, invalid("%s: %q is not a time", name, text)
			}
		}
		return time.Unix(s, n), nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return time.Time{}, invalid("%s: %q is neither Unix seconds nor a time of RFC 3339", name, text)
	}
	return t, nil
}

// readSize parses the w and h of a resize.
func readSize(q url.Values) (width, height uint16, err error) {
	for name, into := range map[string]*uint16{"w": &width, "h": &height} {
		n, err := strconv.ParseUint(q.Get(name), 10, 16)
		if err != nil {
			return 0, 0, invalid("%s: %q is not a number of cells", name, q.Get(name))
		}
		*into = uint16(n)
	}
	return width, height, nil
}
