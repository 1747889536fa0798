package compose

import (
	"encoding/json"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/compose-spec/compose-go/v2/schema"
	"github.com/compose-spec/compose-go/v2/validation"
)

// conforms tells whether a merged model satisfies the JSON schema of the
// Compose specification and compose-go's further rules. It is a filter, not a
// judge: a model it doubts is loaded again by compose-go with its own, slower
// validator (see [input.model]). A property test holds the two against each
// other.
func conforms(s *schemaRoot, model map[string]any) (ok bool) {
	defer func() {
		if recover() != nil { // compose-go's rules trust the schema
			ok = false
		}
	}()
	v := validator{defs: s.Defs, patterns: map[string]*regexp.Regexp{}}
	return v.valid(&s.rule, model, nil) && validation.Validate(model) == nil
}

// parseSchema reads the specification's schema, some 90 KB, once. One that
// cannot be read lets nothing pass.
var parseSchema = sync.OnceValue(func() *schemaRoot {
	s := &schemaRoot{}
	if err := json.Unmarshal([]byte(schema.Schema), s); err != nil {
		return &schemaRoot{rule: rule{Type: typeNames{"none"}}}
	}
	return s
})

type schemaRoot struct {
	rule
	Defs map[string]*rule `json:"$defs"`
}

// rule is a schema, as far as the Compose schema goes: draft 2020-12 with the
// keywords it uses. One that appears here but not in the schema would be dead;
// one that appears there but not here makes [TestSchemaKeywords] fail.
type rule struct {
	Type                  typeNames        `json:"type"`
	Ref                   string           `json:"$ref"`
	Properties            map[string]*rule `json:"properties"`
	PatternProperties     map[string]*rule `json:"patternProperties"`
	AdditionalProperties  *ruleOrBool      `json:"additionalProperties"`
	UnevaluatedProperties *ruleOrBool      `json:"unevaluatedProperties"`
	Items                 *rule            `json:"items"`
	Required              []string         `json:"required"`
	Enum                  []any            `json:"enum"`
	OneOf                 []*rule          `json:"oneOf"`
	AnyOf                 []*rule          `json:"anyOf"`
	AllOf                 []*rule          `json:"allOf"`
	UniqueItems           bool             `json:"uniqueItems"`
	Minimum               *float64         `json:"minimum"`
	Maximum               *float64         `json:"maximum"`
	Pattern               string           `json:"pattern"`
}

// typeNames is one name or a list of them.
type typeNames []string

func (t *typeNames) UnmarshalJSON(data []byte) error {
	if data[0] == '[' {
		return json.Unmarshal(data, (*[]string)(t))
	}
	var one string
	err := json.Unmarshal(data, &one)
	*t = typeNames{one}
	return err
}

// ruleOrBool is a schema, or true or false.
type ruleOrBool struct {
	rule  *rule
	allow bool
}

func (r *ruleOrBool) UnmarshalJSON(data []byte) error {
	if data[0] != '{' {
		return json.Unmarshal(data, &r.allow)
	}
	return json.Unmarshal(data, &r.rule)
}

type validator struct {
	defs     map[string]*rule
	patterns map[string]*regexp.Regexp
}

// valid checks a value. seen, where not nil, collects the properties that a
// rule or one it refers to knows, for unevaluatedProperties above it.
func (v *validator) valid(r *rule, value any, seen map[string]bool) bool {
	value = plain(value)
	if len(r.Type) > 0 && !slices.ContainsFunc(r.Type, func(t string) bool { return isA(value, t) }) {
		return false
	}
	var mine map[string]bool
	if r.UnevaluatedProperties != nil {
		mine = map[string]bool{}
		if seen == nil {
			seen = mine
		}
	}
	record := func(key string) {
		if seen != nil {
			seen[key] = true
		}
		if mine != nil {
			mine[key] = true
		}
	}
	into := seen
	if mine != nil {
		into = mine
	}
	if r.Ref != "" {
		def, ok := v.defs[strings.TrimPrefix(r.Ref, "#/$defs/")]
		if !ok || !v.valid(def, value, into) {
			return false
		}
	}
	for _, all := range r.AllOf {
		if !v.valid(all, value, into) {
			return false
		}
	}
	if len(r.AnyOf) > 0 && v.count(r.AnyOf, value, into) == 0 {
		return false
	}
	if len(r.OneOf) > 0 && v.count(r.OneOf, value, into) != 1 {
		return false
	}
	if len(r.Enum) > 0 && !slices.ContainsFunc(r.Enum, func(e any) bool { return reflect.DeepEqual(e, value) }) {
		return false
	}
	switch value := value.(type) {
	case float64:
		return (r.Minimum == nil || value >= *r.Minimum) && (r.Maximum == nil || value <= *r.Maximum)
	case string:
		return r.Pattern == "" || v.pattern(r.Pattern).MatchString(value)
	case []any:
		return v.validList(r, value)
	case map[string]any:
		if !v.validObject(r, value, record) {
			return false
		}
		if un := r.UnevaluatedProperties; un != nil {
			for k, e := range value {
				if !mine[k] && !un.permits(v, e) {
					return false
				}
				seen[k] = true
			}
		}
	}
	return true
}

func (v *validator) count(rules []*rule, value any, seen map[string]bool) int {
	n := 0
	for _, one := range rules {
		known := map[string]bool{}
		if v.valid(one, value, known) {
			n++
			if seen != nil {
				for k := range known {
					seen[k] = true
				}
			}
		}
	}
	return n
}

func (v *validator) validList(r *rule, list []any) bool {
	if r.Items != nil {
		for _, e := range list {
			if !v.valid(r.Items, e, nil) {
				return false
			}
		}
	}
	if r.UniqueItems {
		for i := range list {
			for j := range i {
				if reflect.DeepEqual(list[i], list[j]) {
					return false
				}
			}
		}
	}
	return true
}

func (v *validator) validObject(r *rule, object map[string]any, record func(string)) bool {
	for _, k := range r.Required {
		if _, ok := object[k]; !ok {
			return false
		}
	}
	for k, e := range object {
		known := false
		if p, ok := r.Properties[k]; ok {
			known = true
			if !v.valid(p, e, nil) {
				return false
			}
		}
		for pattern, p := range r.PatternProperties {
			if v.pattern(pattern).MatchString(k) {
				known = true
				if !v.valid(p, e, nil) {
					return false
				}
			}
		}
		if known {
			record(k)
			continue
		}
		if more := r.AdditionalProperties; more != nil {
			if !more.permits(v, e) {
				return false
			}
			record(k)
		}
	}
	return true
}

func (r *ruleOrBool) permits(v *validator, value any) bool {
	if r.rule != nil {
		return v.valid(r.rule, value, nil)
	}
	return r.allow
}

func (v *validator) pattern(text string) *regexp.Regexp {
	re, ok := v.patterns[text]
	if !ok {
		re = regexp.MustCompile(text)
		v.patterns[text] = re
	}
	return re
}

// plain brings a value to the shapes JSON has.
func plain(value any) any {
	switch value.(type) {
	case nil, bool, string, float64, []any, map[string]any:
		return value
	}
	rv := reflect.ValueOf(value)
	switch rv.Kind() {
	case reflect.Bool:
		return rv.Bool()
	case reflect.String:
		return rv.String()
	case reflect.Float32:
		return rv.Float()
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return float64(rv.Int())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return float64(rv.Uint())
	case reflect.Slice:
		list := make([]any, rv.Len())
		for i := range list {
			list[i] = plain(rv.Index(i).Interface())
		}
		return list
	case reflect.Map:
		object := make(map[string]any, rv.Len())
		for it := rv.MapRange(); it.Next(); {
			object[it.Key().String()] = it.Value().Interface()
		}
		return object
	}
	return value
}

func isA(value any, name string) bool {
	switch value := value.(type) {
	case nil:
		return name == "null"
	case bool:
		return name == "boolean"
	case string:
		return name == "string"
	case float64:
		return name == "number" || name == "integer" && value == math.Trunc(value) && !math.IsInf(value, 0)
	case []any:
		return name == "array"
	case map[string]any:
		return name == "object"
	}
	return false
}
