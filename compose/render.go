package compose

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"sort"

	"github.com/compose-spec/compose-go/v2/template"
	"gopkg.in/yaml.v3"
)

// YAML renders a project for people, as `docker compose config` does: contents
// of secrets left out, every $ doubled so that the text can be loaded again.
func YAML(p *Project) ([]byte, error) {
	data, err := shown(p).MarshalYAML()
	return escape(data), wrapRender(p, err)
}

// JSON is YAML in JSON.
func JSON(p *Project) ([]byte, error) {
	data, err := shown(p).MarshalJSON()
	return escape(data), wrapRender(p, err)
}

func wrapRender(p *Project, err error) error {
	if err != nil {
		return fmt.Errorf("render project %s: %w", p.Name, err)
	}
	return nil
}

// shown leaves out what was read from the files of configs: they are shown as
// they are written. (Those of secrets compose-go never shows.)
func shown(p *Project) *Project {
	out := *p
	out.Configs = Configs{}
	for name, c := range p.Configs {
		if c.File != "" || c.Environment != "" {
			c.Content = ""
		}
		out.Configs[name] = c
	}
	return &out
}

func escape(data []byte) []byte { return bytes.ReplaceAll(data, []byte("$"), []byte("$$")) }

// ModelYAML renders what [LoadModel] gives.
func ModelYAML(model map[string]any) ([]byte, error) {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(withoutValues(model)); err != nil {
		return nil, fmt.Errorf("render the model: %w", err)
	}
	return b.Bytes(), nil
}

// ModelJSON is ModelYAML in JSON.
func ModelJSON(model map[string]any) ([]byte, error) {
	data, err := json.MarshalIndent(withoutValues(model), "", "  ")
	if err != nil {
		return nil, fmt.Errorf("render the model: %w", err)
	}
	return data, nil
}

// withoutValues drops what compose-go has read from the environment into
// secrets and configs.
func withoutValues(model map[string]any) map[string]any {
	out := map[string]any{}
	for k, v := range model {
		section, ok := v.(map[string]any)
		if !ok || k != "secrets" && k != "configs" {
			out[k] = v
			continue
		}
		clean := map[string]any{}
		for name, o := range section {
			object, ok := o.(map[string]any)
			if !ok {
				clean[name] = o
				continue
			}
			c := map[string]any{}
			for key, value := range object {
				if _, fromEnv := object["environment"]; key == "x-#value" || key == "content" && fromEnv {
					continue
				}
				c[key] = value
			}
			clean[name] = c
		}
		out[k] = clean
	}
	return out
}

// Images lists the images the project's services run, sorted, each once.
func Images(p *Project) []string {
	set := map[string]bool{}
	for _, s := range p.Services {
		set[ImageName(p, s)] = true
	}
	return sortedKeys(set)
}

// Profiles lists every profile a service of the project names, enabled or not.
func Profiles(p *Project) []string {
	set := map[string]bool{}
	for _, s := range p.AllServices() {
		for _, profile := range s.Profiles {
			set[profile] = true
		}
	}
	return sortedKeys(set)
}

// Variable is one variable a project's files read.
type Variable struct {
	Name      string
	Required  bool   // ${NAME:?…}
	Default   string // of ${NAME:-default}
	Alternate string // of ${NAME:+alternate}
}

// Variables lists the variables in a model loaded without interpolation,
// sorted by name.
func Variables(model map[string]any) []Variable {
	var list []Variable
	for _, v := range template.ExtractVariables(model, nil) {
		list = append(list, Variable{v.Name, v.Required, v.DefaultValue, v.PresenceValue})
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Name < list[j].Name })
	return slices.Clip(list)
}
