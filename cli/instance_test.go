package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gantry/compose"
	"gantry/scheduler"
)

// A copy's goal has the places the daemon found for its ports, and its images
// begin as those of the files, unless these are of other files.
func TestUpCopy(t *testing.T) {
	const text = `
name: x
services:
  a: {image: "app:1", build: ., ports: ["8080:80", "9000-9001:9000-9001", "80"]}
  b: {image: "app:1"}
`
	file := composeFile(t, text)
	for _, c := range []struct {
		name, dir string // of the project itself
		args      []string
		tags      []string
	}{
		{"alone", "", nil, []string{"app:1 app:1-two"}},
		{"beside its project", filepath.Dir(file), nil, []string{"app:1 app:1-two"}},
		{"in a dry run", "", []string{"--dry-run"}, nil},
		{"of other files, and nothing is to be built", "/elsewhere", []string{"--no-build"}, []string{"app:1 app:1-two"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDaemon(t)
			d.say("GET /images/app:1/json", map[string]any{"Id": "sha256:1"})
			if c.dir != "" {
				d.say("GET /projects/x", scheduler.ProjectStatus{Name: "x", Dir: c.dir})
			}
			var tags []string
			d.answers["POST /images/app:1/tag"] = func(w http.ResponseWriter, r *http.Request) {
				tags = append(tags, "app:1 "+r.URL.Query().Get("repo")+":"+r.URL.Query().Get("tag"))
				w.WriteHeader(http.StatusCreated)
				d.say("GET /images/app:1-two/json", map[string]any{"Id": "sha256:1"})
			}
			var asked struct{ Blocks []compose.PortBlock }
			d.answers["POST /projects/x-two/ports"] = func(w http.ResponseWriter, r *http.Request) {
				if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
					t.Error(err)
				}
				fmt.Fprint(w, `{"Places":{"8080":28080,"9000":29000}}`)
			}
			goals := make(chan scheduler.Goal, 1)
			d.project(t, "x-two", 1, goals)
			r := run(t, nil, append([]string{"--host", d.host, "-f", file, "--instance", "two", "up", "-d"}, c.args...)...)
			if r.code != 0 && !(r.code == exitChanges && c.name == "in a dry run") || !slices.Equal(tags, c.tags) {
				t.Fatalf("tagged %q: %+v", tags, r)
			}
			g := <-goals
			var ports []string
			for _, p := range g.Project.Services["a"].Ports {
				ports = append(ports, p.Published)
			}
			if want := []string{"28080", "29000", "29001", ""}; !slices.Equal(ports, want) || len(asked.Blocks) != 2 {
				t.Errorf("ports %q, asked for %v", ports, asked.Blocks)
			}
			for _, service := range []string{"a", "b"} {
				if image := g.Project.Services[service].Image; image != "app:1-two" {
					t.Errorf("%s runs %s", service, image)
				}
			}
			for _, want := range []string{"note: a: port 8080 is 28080 in the copy x-two\n", "note: image app:1-two begins as app:1"} {
				if strings.Count(r.err, want) != 1 {
					t.Errorf("%q is not said once: %s", want, r.err)
				}
			}
		})
	}
}

// Nothing is pulled, built or named for a project of the same name that is
// another directory's; a build alone is told.
func TestClashComesFirst(t *testing.T) {
	d := newDaemon(t)
	var from string
	d.answers["GET /projects/x/place"] = func(w http.ResponseWriter, r *http.Request) {
		from = r.URL.Query().Get("dir")
		w.Header().Set("Gantry-Error-Class", "failed-precondition")
		w.WriteHeader(http.StatusConflict)
		fmt.Fprint(w, `{"message":"project x is that of /a"}`)
	}
	file := composeFile(t, "name: x\nservices: {a: {image: web}, b: {build: .}}\n")
	pulls := d.registries()
	for _, verb := range [][]string{{"up", "-d"}, {"up", "--build", "-d"}, {"create"}} {
		r := run(t, nil, append([]string{"--host", d.host, "-f", file}, verb...)...)
		if r.code != 1 || r.err != "gantry: project x is that of /a\n" || len(*pulls) > 0 || from != filepath.Dir(file) {
			t.Errorf("%s from %s: pulled %q, %+v", verb, from, *pulls, r)
		}
	}
	if r := run(t, nil, "--host", d.host, "-f", file, "build"); !strings.HasPrefix(r.err, "gantry: note: project x is that of /a\n") {
		t.Errorf("build: %+v", r)
	}
	from = ""
	if r := run(t, nil, "--host", d.host, "-f", file, "-p", "x", "up", "-d"); from != "" || len(*pulls) == 0 {
		t.Errorf("by its name it is asked for: %+v", r)
	}
}

// Where no daemon listens config shows where ports go if nobody is there.
func TestConfigOfCopy(t *testing.T) {
	file := composeFile(t, "name: x\nservices: {a: {image: a, ports: [\"8080:80\"]}}\n")
	want := fmt.Sprintf("published: %q", fmt.Sprint((compose.PortBlock{First: 8080, Count: 1}).Candidate("x-two", 0)))
	r := run(t, nil, "--host", "unix://"+filepath.Join(t.TempDir(), "none"), "-f", file, "--instance", "two", "config")
	if r.code != 0 || !strings.Contains(r.out, want) || !strings.Contains(r.out, "name: x-two\n") {
		t.Errorf("no %s: %+v", want, r)
	}
}
