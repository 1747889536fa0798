package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gantry/client"
	"gantry/scheduler"

	"github.com/google/go-cmp/cmp"
)

func writeValue(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }

func TestExitCodes(t *testing.T) {
	for _, tt := range []struct {
		err      error
		canceled bool
		code     int
		says     string
	}{
		{nil, false, 0, ""},
		{errors.New("x"), false, 1, "gantry: x\n"},
		{errors.Join(errors.New("one\n"), fmt.Errorf("two: %w", errors.New("three\n  four"))), false, 1, "gantry: one\ngantry: two: three\ngantry: four\n"},
		{exitCode(42), false, 42, ""},
		{fmt.Errorf("wrapped: %w", exitCode(7)), false, 7, ""},
		{context.Canceled, true, 130, ""},
		{context.Canceled, false, 1, "gantry: context canceled\n"}, // not by a signal
	} {
		var b strings.Builder
		ctx, cancel := context.WithCancel(t.Context())
		if tt.canceled {
			cancel()
		}
		a := &app{err: &b}
		if code := a.report(ctx, tt.err); code != tt.code || b.String() != tt.says {
			t.Errorf("%v: got %d and %q", tt.err, code, b.String())
		}
		cancel()
	}
}

// version needs no daemon, and starts none.
func TestVersionWithoutDaemon(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("GANTRY_RUN", dir)
	t.Setenv("GANTRY_ROOT", dir)
	t.Setenv("GANTRY_HOST", "")
	t.Setenv("DOCKER_HOST", "")
	for args, want := range map[string]string{"version --short": "1.2.3\n", "version": "gantry version 1.2.3 (abc)\n", "--version": "gantry version 1.2.3 (abc)\n", "version -f {{.Client.Version}}": "1.2.3\n"} {
		if r := run(t, nil, strings.Fields(args)...); r.code != 0 || !strings.HasPrefix(r.out, want) {
			t.Errorf("%s: got %+v", args, r)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("a daemon was started: %v", left)
	}
}

// What a project's .env says about gantry counts as if it were said in the
// environment, which counts more; a flag counts most.
func TestSettingsOfDotEnv(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for name, text := range map[string]string{
		".env":      "COMPOSE_PARALLEL_LIMIT=7\nCOMPOSE_ANSI=never\nCOMPOSE_PROGRESS=json\nCOMPOSE_IGNORE_ORPHANS=true\nCOMPOSE_FILE=one.yaml\nCOMPOSE_PROJECT_NAME=said\n",
		"one.yaml":  "services: {a: {image: x}}",
		"other.env": "COMPOSE_PARALLEL_LIMIT=9\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		args, environ, want string
	}{
		{"config -q", "", "7 never json true true"},
		{"--ansi always config -q --parallel 3", "", "3 always json true true"},
		{"config -q", "COMPOSE_PARALLEL_LIMIT=2", "2 never json true true"},
		{"-f one.yaml --env-file other.env config -q", "", "9 auto auto false false"},
		{"version --short", "", "7 never json true true"},
	} {
		var out, errs strings.Builder
		env := func(name string) string {
			v, _ := strings.CutPrefix(tt.environ, name+"=")
			if v == tt.environ {
				return ""
			}
			return v
		}
		a := &app{in: strings.NewReader(""), out: &out, err: &errs, env: env, environ: strings.Fields(tt.environ)}
		if code := a.run(t.Context(), strings.Fields(tt.args)); code != 0 {
			t.Errorf("%s: got %d and %q", tt.args, code, errs.String())
		}
		if got := fmt.Sprint(a.parallel, " ", a.ansi, " ", a.progress, " ", a.settingBool("COMPOSE_IGNORE_ORPHANS"), " ", a.named()); got != tt.want {
			t.Errorf("%s %s: got %s, want %s", tt.environ, tt.args, got, tt.want)
		}
	}
}

// What a full disk did not take is an error, also of a command that prints
// without looking back.
func TestLostOutput(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for _, args := range []string{"version --short", "version -f {{.Client.Version}}", "--help"} {
		var errs strings.Builder
		a := &app{in: strings.NewReader(""), out: full, err: &errs, env: func(string) string { return "" }, environ: []string{}}
		if code := a.run(t.Context(), strings.Fields(args)); code != 1 || !strings.Contains(errs.String(), "no space left on device") || strings.Count(errs.String(), "\n") != 1 {
			t.Errorf("%s: got %d and %q", args, code, errs.String())
		}
	}
}

func TestPs(t *testing.T) {
	d := newDaemon(t)
	shop(d)
	ps := func(args ...string) result {
		return run(t, nil, append([]string{"--host", d.host, "-p", "shop", "ps"}, args...)...)
	}
	r := ps("--format", "table {{.Name}}\t{{.Service}}\t{{.State}}\t{{.ExitCode}}", "-a")
	want := "NAME         SERVICE   STATE     EXITCODE\nshop-db-1    db        exited    3\nshop-web-1   web       running   0\nshop-web-2   web       running   0\n"
	if d := cmp.Diff(want, r.out); d != "" {
		t.Error(d, r)
	}
	for args, want := range map[string]string{
		"--services": "web\n", "--services -a": "db\nweb\n", "--status exited --format {{.Names}}": "shop-db-1\n",
		"--filter status=exited --services": "db\n", "web --services": "web\n", "db --services": "",
		`--format {{.Label "com.docker.compose.service"}} web`: "web\nweb\n",
	} {
		if r := ps(splitQuoted(args)...); r.code != 0 || r.out != want {
			t.Errorf("%s: got %+v, want %q", args, r, want)
		}
	}
	if r := ps("-q"); len(strings.Fields(r.out)) != 2 || len(strings.Fields(r.out)[0]) != 64 {
		t.Errorf("-q: got %+v", r)
	}
	var row map[string]any
	if r := ps("--format", "json", "db", "-a"); json.Unmarshal([]byte(r.out), &row) != nil || row["Service"] != "db" || row["ExitCode"] != 3.0 {
		t.Errorf("json: got %+v", r)
	}
	if r := ps("nosuch"); r.code != 1 || !strings.Contains(r.err, `no service "nosuch" in project shop`) {
		t.Errorf("got %+v", r)
	}
}

// splitQuoted splits at spaces outside of {{ }}.
func splitQuoted(text string) []string {
	var out []string
	depth := 0
	for _, w := range strings.Fields(text) {
		if depth > 0 {
			out[len(out)-1] += " " + w
		} else {
			out = append(out, w)
		}
		depth += strings.Count(w, "{{") - strings.Count(w, "}}")
	}
	return out
}

// A command in a directory without a compose file says so, rather than that
// there is nothing.
func TestNoComposeFile(t *testing.T) {
	d := newDaemon(t)
	d.say("GET /containers/json", []client.Container{})
	t.Chdir(t.TempDir())
	for _, command := range []string{"ps", "logs", "stop", "start", "restart", "kill", "top"} {
		if r := run(t, nil, "--host", d.host, command); r.code != 1 || !strings.Contains(r.err, "no compose file in") {
			t.Errorf("%s: got %+v", command, r)
		}
	}
	if r := run(t, nil, "--host", d.host, "-p", "some", "ps"); r.code != 0 {
		t.Errorf("a project that is named needs no file: %+v", r)
	}
	if r := run(t, map[string]string{"COMPOSE_PROJECT_NAME": "some"}, "--host", d.host, "ps"); r.code != 0 {
		t.Errorf("a project that is named needs no file: %+v", r)
	}
}

const two = "name: two\nservices:\n  web: {image: web, depends_on: [db]}\n  db: {image: db, build: .}\n"

func TestUpRefusesWhatCannotBe(t *testing.T) {
	d := newDaemon(t)
	d.say("GET /images/web/json", map[string]any{"Id": "sha256:1"})
	up := func(text string, args ...string) result {
		return run(t, nil, append([]string{"--host", d.host, "-f", composeFile(t, text)}, args...)...)
	}
	for text, want := range map[string]string{
		"name: x\nservices: {a: {image: nosuch, pull_policy: never}, b: {build: .}}":                "gantry: service a: image \"nosuch\" is not here and pull_policy is never; bring it with `gantry image pull` or `gantry image load`\n", // before b is built
		"name: x\nservices: {a: {build: {isolation: hyperv}}}":                                      "services.a.build.isolation",
		"name: x\nservices: {a: {image: web, gpus: all}, b: {image: web, storage_opt: {size: 1G}}}": "storage_opt",
		"name: x\nservices: {a: {image: web, depends_on: [b]}, b: {image: web, depends_on: [a]}}":   "a",
		"name: x\nservices: {}": "has no service",
		"services: [":           "compose.yaml:2: not YAML",
	} {
		for _, args := range [][]string{{"up", "-d"}, {"create"}, {"up", "--dry-run"}, {"plan"}} {
			r := up(text, args...)
			if r.code != 1 || !strings.Contains(r.err, want) {
				t.Errorf("%v: got %+v, want %q", args, r, want)
			}
			for line := range strings.Lines(r.err) {
				if !strings.HasPrefix(line, "gantry: ") {
					t.Errorf("%v: a line of its own: %q", args, line)
				}
			}
		}
	}
	if got := d.changed(); len(got) > 0 {
		t.Errorf("something was changed: %v", got)
	}
	if r := up("name: x\nservices: {a: {image: web, gpus: all}, b: {image: web, storage_opt: {size: 1G}}}", "up", "-d"); strings.Count(r.err, "\n") != 2 {
		t.Errorf("not a line for each: %q", r.err)
	}
}

// project answers for a daemon that plans and applies.
func (d *fakeDaemon) project(t *testing.T, name string, steps int, goals chan<- scheduler.Goal) {
	plan := fmt.Sprintf(`{"project":%q,"steps":[`, name)
	for i := range steps {
		if i > 0 {
			plan += ","
		}
		plan += fmt.Sprintf(`{"id":%d,"verb":"run","kind":"container","name":"c%d","service":"a","text":"run c%d","why":"does not exist"}`, i+1, i+1, i+1)
	}
	plan += `]}`
	read := func(r *http.Request) {
		var g scheduler.Goal
		if err := json.NewDecoder(r.Body).Decode(&g); err != nil {
			t.Errorf("the goal cannot be read: %v", err)
		}
		goals <- g
	}
	d.answers["POST /projects/"+name+"/plan"] = func(w http.ResponseWriter, r *http.Request) {
		read(r)
		fmt.Fprint(w, plan)
	}
	d.answers["PUT /projects/"+name] = func(w http.ResponseWriter, r *http.Request) {
		read(r)
		fmt.Fprintf(w, `{"Event":{"plan":%s}}`+"\n", plan)
		fmt.Fprintln(w, `{"Result":{"Status":200}}`)
	}
}

func TestUpAndPlan(t *testing.T) {
	d := newDaemon(t)
	d.say("GET /images/web/json", map[string]any{"Id": "sha256:1"})
	d.say("GET /images/db/json", map[string]any{"Id": "sha256:2"})
	goals := make(chan scheduler.Goal, 1)
	d.project(t, "two", 2, goals)
	file := composeFile(t, two)
	gantry := func(env map[string]string, args ...string) result {
		return run(t, env, append([]string{"--host", d.host, "-f", file}, args...)...)
	}
	text := "a: does not exist → run 2 containers (c1, c2)\n2 steps: 2 run\n"
	if r := gantry(nil, "plan"); r.code != 2 || r.out != text || r.err != "" {
		t.Errorf("plan: got %+v", r)
	}
	<-goals
	if r := gantry(nil, "up", "--dry-run"); r.code != 2 || r.out != text {
		t.Errorf("up --dry-run: got %+v", r)
	}
	<-goals
	if r := gantry(nil, "plan", "--format", "json"); r.code != 2 || !json.Valid([]byte(r.out)) {
		t.Errorf("plan as JSON: got %+v", r)
	}
	<-goals
	if got := d.changed(); len(got) > 0 {
		t.Fatalf("looking ahead changed something: %v", got)
	}
	for args, check := range map[string]func(scheduler.Goal) bool{
		"up -d":               func(g scheduler.Goal) bool { return len(g.Services) == 2 && g.Scope == nil && !g.Options.Wait },
		"up -d web":           func(g scheduler.Goal) bool { return len(g.Scope) == 2 && g.Options.Services[0] == "web" },
		"up -d --no-deps web": func(g scheduler.Goal) bool { return len(g.Scope) == 1 && g.Options.NoDeps },
		"up -d w*":            func(g scheduler.Goal) bool { return g.Options.Services[0] == "web" },
		"up --wait --scale web=3 --scale db=0": func(g scheduler.Goal) bool {
			return g.Options.Wait && g.Services["web"].Replicas == 3 && g.Services["db"].Replicas == 0
		},
		"up -d --force-recreate web": func(g scheduler.Goal) bool {
			return g.Options.Recreate == scheduler.Always && g.Options.RecreateDependencies == ""
		},
		"up -d --force-recreate":           func(g scheduler.Goal) bool { return g.Options.Recreate == scheduler.Always },
		"up -d --always-recreate-deps web": func(g scheduler.Goal) bool { return g.Options.RecreateDependencies == scheduler.Always },
		"up -d --no-recreate":              func(g scheduler.Goal) bool { return g.Options.Recreate == scheduler.Never },
		"up -d -V --remove-orphans -y -t 0": func(g scheduler.Goal) bool {
			o := g.Options
			return o.RenewAnonVolumes && o.RemoveOrphans && o.RenewVolumes && o.Timeout != nil && *o.Timeout == 0
		},
		"--parallel 3 create": func(g scheduler.Goal) bool {
			return g.Options.NoStart && g.Options.Parallel == 3 && g.Options.Timeout == nil
		},
		"up --no-start":                   func(g scheduler.Goal) bool { return g.Options.NoStart },
		"up -d --pull never --quiet-pull": func(g scheduler.Goal) bool { return g.Options.Parallel == 0 },
	} {
		r := gantry(nil, strings.Fields(args)...)
		select {
		case g := <-goals:
			if r.code != 0 || !check(g) {
				t.Errorf("%s: got %+v, goal %+v", args, r, g.Options)
			}
		default:
			t.Errorf("%s: no goal was sent: %+v", args, r)
		}
	}
	gantry(map[string]string{"COMPOSE_REMOVE_ORPHANS": "true", "COMPOSE_PARALLEL_LIMIT": "7"}, "up", "-d")
	if g := <-goals; !g.Options.RemoveOrphans || g.Options.Parallel != 7 {
		t.Errorf("the environment is not heeded: %+v", g.Options)
	}
	d.say("GET /containers/json", []client.Container{container("two", "gone", 1, "running")})
	gantry(map[string]string{"COMPOSE_IGNORE_ORPHANS": "1"}, "up", "-d")
	if g := <-goals; !cmp.Equal(g.Known, []string{"gone"}) {
		t.Errorf("COMPOSE_IGNORE_ORPHANS is not heeded: %v", g.Known)
	}
}

func TestCompletion(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("GANTRY_RUN", filepath.Join(dir, "run"))
	t.Setenv("GANTRY_ROOT", filepath.Join(dir, "root"))
	t.Setenv("GANTRY_HOST", "")
	t.Setenv("DOCKER_HOST", "")
	file := composeFile(t, "name: shop\nservices: {web: {image: web}, worker: {image: web, profiles: [x]}, db: {image: db}}")
	d := newDaemon(t)
	shop(d)
	d.say("GET /images/json", []map[string]any{{"Id": "sha256:1", "RepoTags": []string{"busybox:latest", "web:2"}}})
	d.say("GET /networks", []map[string]any{{"Name": "shop_edge"}})
	d.say("GET /volumes", map[string]any{"Volumes": []map[string]any{{"Name": "rows"}}})
	d.say("GET /projects", []map[string]any{{"Name": "shop"}})
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"-f", file, "logs", ""}, "db web worker"},
		{[]string{"-f", file, "logs", "web", "w"}, "worker"},
		{[]string{"-f", file, "up", "--attach", "d"}, "db"},
		{[]string{"-f", file, "scale", "w"}, "web= worker="},
		{[]string{"-f", file, "up", "--scale", "d"}, "db="},
		{[]string{"-f", file, "port", "d"}, "db"},
		{[]string{"-f", file, "port", "db", ""}, ""},
		{[]string{"help", "image", "lo"}, "load\tLoad images from an archive of docker save or of an OCI layout"},
		{[]string{"-f", file, "--profile", ""}, "x"},
		{[]string{"--progress", "q"}, "quiet"},
		{[]string{"up", "--progress", "q"}, "quiet"},
		{[]string{"-f", ""}, "yaml yml"}, // extensions, for the shell
		{[]string{"up", "-f", ""}, "yaml yml"},
		{[]string{"up", "--file", ""}, "yaml yml"},
		{[]string{"--host", d.host, "ps", "-p", ""}, "shop"},
		{[]string{"-f", file, "ps", "--status", "re"}, "removing restarting"},
		{[]string{"resta"}, "restart\tRestart containers"},
		// From the daemon, where it runs.
		{[]string{"--host", d.host, "-p", "shop", "--project-directory", dir, "exec", ""}, "db web"},
		{[]string{"--host", d.host, "container", "inspect", "shop-w"}, "shop-web-1 shop-web-2"},
		{[]string{"--host", d.host, "image", "rm", ""}, "busybox web:2"},
		{[]string{"--host", d.host, "network", "rm", ""}, "shop_edge"},
		{[]string{"--host", d.host, "volume", "inspect", ""}, "rows"},
		{[]string{"--host", d.host, "--project-name", ""}, "shop"},
		// And nothing, soon, where it does not.
		{[]string{"container", "inspect", ""}, ""},
		{[]string{"image", "rm", ""}, ""},
	} {
		t.Chdir(dir)
		r := run(t, nil, append([]string{"__complete"}, tt.args...)...)
		var got []string
		for line := range strings.Lines(r.out) {
			if !strings.HasPrefix(line, ":") {
				got = append(got, strings.TrimSuffix(line, "\n"))
			}
		}
		if slices.Sort(got); strings.Join(got, " ") != tt.want {
			t.Errorf("%v: got %q, want %q (%+v)", tt.args, strings.Join(got, " "), tt.want, r)
		}
	}
	for _, name := range []string{"run", "root"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			t.Error("a completion has started a daemon")
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if r := run(t, nil, "completion", shell); r.code != 0 || !strings.Contains(r.out, "__complete") {
			t.Errorf("%s: exit code %d, %d bytes", shell, r.code, len(r.out))
		}
	}
}

func TestManPages(t *testing.T) {
	dir := t.TempDir()
	if r := run(t, nil, "man", dir); r.code != 0 {
		t.Fatalf("got %+v", r)
	}
	text, err := os.ReadFile(filepath.Join(dir, "gantry-up.1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{".TH \"GANTRY-UP\" 1", `gantry\-up \- Create and start services`, ".B \\-d, \\-\\-detach\n", ".SH OPTIONS OF EVERY COMMAND", ".BR gantry (1)"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("gantry-up.1 lacks %q", want)
		}
	}
	for _, hidden := range []string{"gantry-watch.1", "gantry-man.1"} {
		if _, err := os.Stat(filepath.Join(dir, hidden)); err == nil {
			t.Errorf("%s: there is a page for a command that is not shown", hidden)
		}
	}
}

// BenchmarkRoot is the part of every start that is ours.
func BenchmarkRoot(b *testing.B) {
	for b.Loop() {
		a := &app{env: os.Getenv}
		a.root([]string{"ps", "-a"})
	}
}
