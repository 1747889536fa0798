package compose

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const renderFiles = `name: shop
x-top: {a: 1}
services:
  web: {image: "nginx:${TAG:-1}", build: ., command: "echo $${HOME} costs 5$$", secrets: [key, env], configs: [conf, envconf, text], ports: ["${PORT:?needed}:80"], profiles: [front]}
  app: {build: ., environment: {A: "${A}"}}
secrets: {key: {file: key}, env: {environment: SECRET}}
configs: {conf: {file: key}, envconf: {environment: SECRET}, text: {content: "plain"}}
-- key --
FROM THE FILE
`

func rendered(s *Source) {
	s.Environ = []string{"SECRET=FROM THE ENVIRONMENT", "PORT=80", "A=$b"}
	s.Profiles = []string{"front"}
}

// TestRenderHidesContent: what is read from files and variables into secrets
// and configs is not shown, whether it was loaded or not.
func TestRenderHidesContent(t *testing.T) {
	p := mustLoad(t, renderFiles, rendered)
	for name, render := range map[string]func(*Project) ([]byte, error){"yaml": YAML, "json": JSON} {
		data, err := render(p)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(data), "FROM THE") {
			t.Errorf("%s shows content:\n%s", name, data)
		}
		if !strings.Contains(string(data), "SECRET") || !strings.Contains(string(data), "plain") {
			t.Errorf("%s hides what was written:\n%s", name, data)
		}
		if name == "json" && !json.Valid(data) {
			t.Errorf("not JSON:\n%s", data)
		}
	}
	src := Source{WorkDir: project(t, renderFiles)}
	rendered(&src)
	model, err := LoadModel(context.Background(), src)
	if err != nil {
		t.Fatal(err)
	}
	data, err := ModelYAML(model)
	if err != nil || strings.Contains(string(data), "FROM THE") {
		t.Errorf("the model shows content: %v\n%s", err, data)
	}
}

// TestRenderLoads: what is shown is a compose file of the same project.
func TestRenderLoads(t *testing.T) {
	p := mustLoad(t, renderFiles, rendered)
	data, err := YAML(p)
	if err != nil {
		t.Fatal(err)
	}
	q := mustLoad(t, string(data), rendered)
	for name, s := range p.Services {
		if name == "web" && q.Services[name].Command[1] != "${HOME}" {
			t.Errorf("$ is lost: %q", q.Services[name].Command)
		}
		if Hash(s) != Hash(q.Services[name]) {
			t.Errorf("%s changed: %s", name, cmp.Diff(s, q.Services[name]))
		}
	}
}

func TestLists(t *testing.T) {
	p := mustLoad(t, renderFiles, rendered, func(s *Source) { s.Profiles = nil })
	if diff := cmp.Diff([]string{"shop-app"}, Images(p)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"front"}, Profiles(p)); diff != "" {
		t.Error(diff)
	}
	model, err := LoadModel(context.Background(), Source{WorkDir: project(t, renderFiles), NoInterpolate: true})
	if err != nil {
		t.Fatal(err)
	}
	want := []Variable{{Name: "A"}, {Name: "PORT", Required: true}, {Name: "TAG", Default: "1"}}
	if diff := cmp.Diff(want, Variables(model)); diff != "" {
		t.Error(diff)
	}
	data, err := ModelYAML(model)
	if err != nil || !strings.Contains(string(data), "nginx:${TAG:-1}") {
		t.Errorf("interpolated: %v\n%s", err, data)
	}
	if data, err = ModelJSON(model); err != nil || !json.Valid(data) {
		t.Errorf("not JSON: %v\n%s", err, data)
	}
	if _, err := Load(context.Background(), Source{WorkDir: project(t, renderFiles), NoInterpolate: true}); err == nil {
		t.Error("a project was loaded without interpolation")
	}
}
