package compose

import (
	"bytes"
	"context"
	"encoding/json"
	"testing"

	"github.com/compose-spec/compose-go/v2/schema"
	"github.com/compose-spec/compose-go/v2/types"
	"gopkg.in/yaml.v3"
	"pgregory.net/rapid"
)

// TestSchemaKeywords fails when the specification's schema comes to use a
// keyword that conforms does not know.
func TestSchemaKeywords(t *testing.T) {
	known := map[string]bool{"$schema": true, "$id": true, "title": true, "description": true, "default": true, "deprecated": true, "format": true, "$defs": true,
		"type": true, "$ref": true, "properties": true, "patternProperties": true, "additionalProperties": true, "unevaluatedProperties": true, "items": true,
		"required": true, "enum": true, "oneOf": true, "anyOf": true, "allOf": true, "uniqueItems": true, "minimum": true, "maximum": true, "pattern": true}
	var walk func(node any, names bool)
	walk = func(node any, names bool) {
		switch node := node.(type) {
		case []any:
			for _, e := range node {
				walk(e, false)
			}
		case map[string]any:
			for k, e := range node {
				if !names && !known[k] {
					t.Errorf("keyword %s is unknown", k)
				}
				if k != "enum" && k != "default" || names {
					walk(e, !names && (k == "properties" || k == "patternProperties" || k == "$defs"))
				}
			}
		}
	}
	var root any
	if err := json.Unmarshal([]byte(schema.Schema), &root); err != nil {
		t.Fatal(err)
	}
	walk(root, false)
}

// TestConformsAgrees spoils good projects at random: whatever the quick check
// lets pass, compose-go's own validator must let pass as well.
func TestConformsAgrees(t *testing.T) {
	notRacing(t)
	spoilt, passed := 0, 0
	rules := parseSchema()
	rapid.Check(t, func(t *rapid.T) {
		var model any
		if err := yaml.Unmarshal([]byte(projectText(t)), &model); err != nil {
			return // a string that YAML does not take
		}
		model = spoil(t, model, 0)
		data, err := json.Marshal(model)
		if err != nil {
			t.Fatal(err)
		}
		in := &input{workDir: "/nowhere", projectDir: "/nowhere", name: "x", env: types.Mapping{}, warned: map[string]bool{},
			files: []types.ConfigFile{{Filename: "/nowhere/compose.yaml", Content: data}}}
		if err := in.nameProject(); err != nil {
			t.Fatal(err)
		}
		quick, details, err := in.merge(context.Background(), false)
		ok := err == nil && !in.doubted && conforms(rules, quick)
		if ok {
			_, err = in.normalize(quick, details)
			ok = err == nil
		}
		_, _, slow := in.merge(context.Background(), true)
		if ok && slow != nil {
			t.Fatalf("let pass, but: %v\n%s", slow, data)
		}
		if slow != nil {
			spoilt++
		} else if ok {
			passed++
		}
	})
	if spoilt == 0 || passed == 0 {
		t.Errorf("%d refused, %d let pass: the property says nothing", spoilt, passed)
	}
	t.Logf("%d refused, %d let pass", spoilt, passed)
}

// spoil replaces one node somewhere below with something else.
func spoil(t *rapid.T, node any, depth int) any {
	wrong := func() any {
		return rapid.SampledFrom([]any{nil, true, -1, 70000, 1.5, "", "x", "1s", []any{}, []any{"a", "a"}, []any{1}, map[string]any{}, map[string]any{"x": "y"},
			map[string]any{"x-y": 1}, []any{map[string]any{"a": 1}}}).Draw(t, "wrong")
	}
	if depth > 0 && rapid.IntRange(0, 3).Draw(t, "here?") == 0 {
		return wrong()
	}
	switch node := node.(type) {
	case map[string]any:
		keys := sortedKeys(node)
		if len(keys) == 0 || rapid.IntRange(0, 6).Draw(t, "add?") == 0 {
			node[rapid.SampledFrom([]string{"x-new", "new", "name", "image", "driver", "mode", "A B"}).Draw(t, "key")] = wrong()
			return node
		}
		k := rapid.SampledFrom(keys).Draw(t, "key")
		node[k] = spoil(t, node[k], depth+1)
		return node
	case []any:
		if len(node) == 0 {
			return wrong()
		}
		i := rapid.IntRange(0, len(node)-1).Draw(t, "item")
		node[i] = spoil(t, node[i], depth+1)
		return node
	}
	return wrong()
}

func FuzzLoad(f *testing.F) {
	for _, seed := range []string{"services: {a: {image: b}}", "services:\n  a: {image: $X, ports: ['80-81:80-81']}\n", "a: &a [*a]", "<<: *x", "- a", "\t", "!reset a", "name: ${",
		"services: {a: {extends: {service: a}}}", "services: {a: {image: a, volumes: [':']}}", "networks: {a: {external: {name: x}}}", "? a\n: b", "---\n---\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, word := range []string{"include", "file", "extends"} { // no reading of what the fuzzer names
			if bytes.Contains(bytes.ToLower(data), []byte(word)) {
				t.Skip("names files: " + word)
			}
		}
		in := &input{src: Source{NoContent: true}, workDir: "/nowhere", projectDir: "/nowhere", name: "x", env: types.Mapping{}, warned: map[string]bool{},
			files: []types.ConfigFile{{Filename: "/nowhere/compose.yaml", Content: data}}}
		p, err := in.project(context.Background())
		if err != nil {
			if text := in.explain(context.Background(), err).Error(); text == "" {
				t.Fatal("an error says nothing")
			}
			return
		}
		if _, err := NewGraph(p); err != nil {
			t.Fatalf("a checked project has no graph: %v", err)
		}
		Unsupported(p)
		Notes(p)
		if data, err := Encode(p); err == nil {
			if _, err := Decode(data); err != nil {
				t.Fatalf("%v\n%s", err, data)
			}
		}
	})
}
