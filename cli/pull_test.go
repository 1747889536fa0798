package cli

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gantry/client"
	"gantry/compose"
	"gantry/scheduler"
)

// registries answers for a daemon that pulls; names without "bad" in them.
func (d *fakeDaemon) registries() *[]string {
	var pulls []string
	d.answers["POST /images/create"] = func(w http.ResponseWriter, r *http.Request) {
		ref := r.URL.Query().Get("fromImage") + ":" + r.URL.Query().Get("tag")
		text, _ := base64.URLEncoding.DecodeString(r.Header.Get("X-Registry-Auth"))
		var a struct{ Username string }
		_ = json.Unmarshal(text, &a)
		d.mu.Lock()
		pulls = append(pulls, strings.TrimSpace(ref+" "+r.URL.Query().Get("platform")+" "+a.Username))
		d.mu.Unlock()
		if strings.Contains(ref, "bad") {
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"message":"manifest unknown"}`)
			return
		}
		fmt.Fprintln(w, `{"status":"Pulling from it","id":"1"}`)
		fmt.Fprintln(w, `{"status":"Downloading","progressDetail":{"current":5,"total":10},"id":"0123456789ab"}`)
		fmt.Fprintln(w, `{"status":"Downloading","progressDetail":{"current":9,"total":10},"id":"0123456789ab"}`)
		fmt.Fprintln(w, `{"status":"Pull complete","id":"0123456789ab"}`)
		fmt.Fprintln(w, `{"status":"Status: Downloaded newer image for it"}`)
	}
	return &pulls
}

const many = `name: many
services:
  a: {image: web, platform: linux/amd64}
  b: {image: "reg.test/app:2", pull_policy: missing}
  c: {image: "reg.test/app:2"}
  d: {image: built, build: .}
  e: {build: .}
  f: {image: here, pull_policy: missing}
  g: {image: no, pull_policy: never}
`

func TestPull(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	config := `{"auths":{"reg.test":{"auth":"` + base64.StdEncoding.EncodeToString([]byte("anna:hunter2")) + `"}}}`
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	d := newDaemon(t)
	d.say("GET /images/here/json", map[string]any{"Id": "sha256:1"})
	pulls := d.registries()
	file := composeFile(t, many)
	gantry := func(args ...string) (result, []string) {
		*pulls = nil
		r := run(t, nil, append([]string{"--host", d.host, "-f", file}, args...)...)
		slices.Sort(*pulls)
		return r, *pulls
	}
	r, got := gantry("pull")
	if want := []string{"built:latest", "reg.test/app:2  anna", "web:latest linux/amd64"}; r.code != 0 || !slices.Equal(got, want) {
		t.Errorf("pulled %q, want %q: %+v", got, want, r)
	}
	for _, want := range []string{" Image web  Pulling\n", " Image web  Pulled\n", " 0123456789ab  Downloading\n", " 0123456789ab  Pull complete\n"} {
		if !strings.Contains(r.err, want) {
			t.Errorf("no %q in %q", want, r.err)
		}
	}
	if strings.Contains(r.err+r.out, "hunter2") {
		t.Error("the password is shown")
	}
	if r, got := gantry("pull", "-q", "--ignore-buildable", "--policy", "missing", "f", "d", "a"); r.code != 0 || r.err != "" || !slices.Equal(got, []string{"web:latest linux/amd64"}) {
		t.Errorf("%q %+v", got, r)
	}
	if r, got := gantry("--dry-run", "pull", "a"); r.code != 0 || r.out != "pull web\n" || len(got) > 0 {
		t.Errorf("%q %+v", got, r)
	}
	file = composeFile(t, "name: x\nservices: {a: {image: bad1}, b: {image: web}}")
	if r, got := gantry("pull"); r.code != 1 || len(got) != 2 || !strings.Contains(r.err, "gantry: service a: manifest unknown; an image that no registry has is brought with `gantry image load`\n") {
		t.Errorf("%q %+v", got, r)
	}
	if r, _ := gantry("pull", "--ignore-pull-failures"); r.code != 0 || !strings.Contains(r.err, " Image bad1  Warning: manifest unknown") {
		t.Errorf("%+v", r)
	}
	if r, got := gantry("image", "pull", "--platform", "linux/arm64", "reg.test/app:2"); r.code != 0 || r.out != "Status: Downloaded newer image for it\n" || !slices.Equal(got, []string{"reg.test/app:2 linux/arm64 anna"}) {
		t.Errorf("%q %+v", got, r)
	}
	if r, _ := gantry("image", "pull", "-q", "web"); r.code != 0 || r.out != "web\n" || r.err != "" {
		t.Errorf("%+v", r)
	}
	if r, got := gantry("image", "pull", "-a", "web"); r.code != 0 || !slices.Equal(got, []string{"web:"}) {
		t.Errorf("%q %+v", got, r)
	}
	if r, got := gantry("image", "pull", "-a", "web:1"); r.code != 1 || len(got) > 0 {
		t.Errorf("%q %+v", got, r)
	}
}

// up pulls what is missing before it says what it wants, and nothing if that
// fails.
func TestUpPulls(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	d := newDaemon(t)
	d.say("GET /images/here/json", map[string]any{"Id": "sha256:1"})
	pulls := d.registries()
	goals := make(chan scheduler.Goal, 1)
	d.project(t, "x", 0, goals)
	gantry := func(text string, args ...string) result {
		*pulls = nil
		return run(t, nil, append([]string{"--host", d.host, "-f", composeFile(t, text)}, args...)...)
	}
	if r := gantry("name: x\nservices: {a: {image: here}, b: {image: web}}", "up", "-d"); r.code != 0 || !slices.Equal(*pulls, []string{"web:latest"}) {
		t.Errorf("%q %+v", *pulls, r)
	}
	<-goals
	if r := gantry("name: x\nservices: {a: {image: here}}", "create", "--pull", "always", "--quiet-pull"); r.code != 0 || !slices.Equal(*pulls, []string{"here:latest"}) || strings.Contains(r.err, "Pulled") {
		t.Errorf("%q %+v", *pulls, r)
	}
	if g := <-goals; g.Project.Services["a"].PullPolicy != "always" {
		t.Errorf("%+v", g.Project.Services["a"])
	}
	if r := gantry("name: x\nservices: {a: {image: bad}}", "up", "-d"); r.code != 1 || !strings.Contains(r.err, "manifest unknown") {
		t.Errorf("%+v", r)
	}
	if r := gantry("name: x\nservices: {a: {image: web, scale: 0}}", "up", "-d"); r.code != 0 || len(*pulls) > 0 {
		t.Errorf("nobody needs it: %q %+v", *pulls, r)
	}
	<-goals
	// A plan pulls nothing.
	if r := gantry("name: x\nservices: {a: {image: web}}", "plan"); r.code != 0 || len(*pulls) > 0 {
		t.Errorf("%q %+v", *pulls, r)
	}
	<-goals
}

// What one service builds another may run: nobody asks a registry for it.
func TestBuiltForAnother(t *testing.T) {
	d := newDaemon(t)
	pulls := d.registries()
	const text = "name: x\nservices: {a: {image: badapp, build: .}, b: {image: badapp}, c: {image: badapp, pull_policy: always}}"
	if r := run(t, nil, "--host", d.host, "-f", composeFile(t, text), "pull"); r.code != 0 || !slices.Equal(*pulls, []string{"badapp:latest"}) {
		t.Errorf("pulled %q: %+v", *pulls, r)
	}
	p, err := compose.Load(t.Context(), compose.Source{Files: []string{composeFile(t, text)}})
	if err != nil {
		t.Fatal(err)
	}
	for services, want := range map[string]string{"a b": compose.PullBuild, "b": compose.PullMissing, "a b c": compose.PullAlways} {
		g, err := scheduler.NewGoal(p, scheduler.Options{Services: strings.Fields(services)})
		if err != nil {
			t.Fatal(err)
		}
		jobs, err := imagesOf(g, false)
		if err != nil || len(jobs) != 1 || jobs[0].policy != want || jobs[0].optional == (services == "b") {
			t.Errorf("%s: %+v, %v", services, jobs[0], err)
		}
	}
}

func TestDue(t *testing.T) {
	now := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		policy string
		here   bool
		age    time.Duration
		want   bool
	}{
		{policy: compose.PullMissing, here: true}, {policy: compose.PullMissing, want: true},
		{policy: compose.PullAlways, here: true, want: true}, {policy: compose.PullNever}, {policy: compose.PullBuild},
		{policy: compose.PullRefresh, here: true, age: 23 * time.Hour}, {policy: compose.PullRefresh, here: true, age: 24 * time.Hour, want: true},
		{policy: compose.PullRefresh, want: true},
	} {
		job := transfer{policy: tt.policy, every: 24 * time.Hour}
		if got := job.due(tt.here, now.Add(-tt.age), now); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
}

func TestLogin(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	d := newDaemon(t)
	d.answers["POST /auth"] = func(w http.ResponseWriter, r *http.Request) {
		var a struct{ Username, Password, ServerAddress string }
		_ = json.NewDecoder(r.Body).Decode(&a)
		if a.Password != "hunter2" || a.ServerAddress != "reg.test" {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"message":"the registry does not take this name and password"}`)
			return
		}
		fmt.Fprint(w, `{"Status":"Login Succeeded"}`)
	}
	login := func(in string, args ...string) (int, string, string) {
		var out, errs strings.Builder
		a := &app{in: strings.NewReader(in), out: &out, err: &errs, env: func(string) string { return "" }}
		code := a.run(t.Context(), append([]string{"--host", d.host, "login"}, args...))
		return code, out.String(), errs.String()
	}
	if code, out, errs := login("wrong\n", "-u", "anna", "--password-stdin", "reg.test"); code != 1 || out != "" || strings.Contains(errs, "wrong") {
		t.Errorf("%d %q %q", code, out, errs)
	}
	if _, err := os.Stat(filepath.Join(dir, "config.json")); err == nil {
		t.Error("a refused login was kept")
	}
	if code, out, errs := login("hunter2\r\n", "-u", "anna", "--password-stdin", "https://reg.test/v2/"); code != 0 || out != "Login Succeeded\n" || !strings.Contains(errs, "not encrypted") || strings.Contains(errs, "hunter2") {
		t.Errorf("%d %q %q", code, out, errs)
	}
	if code, _, errs := login("", "-u", "anna", "reg.test"); code != 1 || !strings.Contains(errs, "no terminal") {
		t.Errorf("%d %q", code, errs)
	}
	if r := run(t, nil, "logout", "reg.test"); r.code != 0 || r.out != "Removed the login to reg.test\n" {
		t.Errorf("%+v", r)
	}
	if r := run(t, nil, "logout", "reg.test"); r.code != 0 || r.out != "Not logged in to reg.test\n" {
		t.Errorf("%+v", r)
	}
}

// Layers stand below their image while it is under way.
func TestBoardOfLayers(t *testing.T) {
	now := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	b := &board{title: "pull", begun: now}
	b.apply(step("pull", "image", "web", scheduler.StepStarted), now)
	b.apply(step("pull", "image", "db", scheduler.StepStarted), now)
	b.layer("web", client.ImageProgress{Layer: "0123456789ab", Status: "Downloading", Current: 5e6, Total: 10e6}, now)
	b.layer("db", client.ImageProgress{Layer: "0123456789ab", Status: "Pull complete"}, now)
	b.layer("web", client.ImageProgress{Layer: "ba9876543210", Status: "Already exists"}, now)
	want := []string{"[+] pull 0/2", "Image web", "  0123456789ab", "  ba9876543210", "Image db", "  0123456789ab"}
	got := b.frame(80, 0, now)
	for i, line := range got {
		if len(got) != len(want) || !strings.Contains(line, want[i]) {
			t.Fatalf("got\n%s", strings.Join(got, "\n"))
		}
	}
	if !strings.Contains(got[2], "Downloading") || !strings.Contains(got[2], "5MB / 10MB") {
		t.Errorf("%q", got[2])
	}
	b.apply(step("pull", "image", "web", scheduler.StepDone), now)
	if got := b.frame(80, 0, now); len(got) != 4 || !strings.HasPrefix(got[0], "[+] pull 1/2") {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
}
