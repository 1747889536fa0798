package compose

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func below(dir string, change func(*Source)) func(*Source) {
	return func(s *Source) {
		s.WorkDir = filepath.Join(s.WorkDir, dir)
		if change != nil {
			change(s)
		}
	}
}

func environ(kv ...string) func(*Source) { return func(s *Source) { s.Environ = kv } }

// TestProjectName holds the precedence of docker compose: -p, then
// COMPOSE_PROJECT_NAME (also from .env), then `name:`, then the directory.
func TestProjectName(t *testing.T) {
	const plain, named = "services: {a: {image: a}}\n", "name: ${N:-Stall}\nservices: {a: {image: a}}\n"
	for _, c := range []struct {
		name, files, want string
		change            func(*Source)
	}{
		{"directory", plain, "shop", nil},
		{"directory of the first file", "-- My.App/c.yaml --\n" + plain, "myapp", func(s *Source) { s.Files = []string{"My.App/c.yaml"} }},
		{"file above the working directory", plain + "-- sub/deep/x --\n", "shop", below("sub/deep", nil)},
		{"--project-directory", plain + "-- _Other/x --\n", "other", func(s *Source) { s.ProjectDir = "_Other"; s.Files = []string{"compose.yaml"} }},
		{"name:", named, "stall", nil},
		{"name: with a variable", named, "tent", environ("N=tent")},
		{"name: put right", "name: My.Stall\nservices: {a: {image: a}}\n", "mystall", nil},
		{"name: of a later file wins", named + "-- b.yaml --\nname: b\n", "b", func(s *Source) { s.Files = []string{"compose.yaml", "b.yaml"} }},
		{"COMPOSE_PROJECT_NAME", named, "env", environ("COMPOSE_PROJECT_NAME=env")},
		{".env", named + "-- .env --\nCOMPOSE_PROJECT_NAME=dot\n", "dot", nil},
		{"environment wins over .env", named + "-- .env --\nCOMPOSE_PROJECT_NAME=dot\n", "env", environ("COMPOSE_PROJECT_NAME=env")},
		{"-p", named, "flag", func(s *Source) { s.ProjectName = "flag"; s.Environ = []string{"COMPOSE_PROJECT_NAME=env"} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := Source{WorkDir: project(t, c.files)}
			if c.change != nil {
				c.change(&src)
			}
			p, err := Load(context.Background(), src)
			if err != nil {
				t.Fatal(err)
			}
			if p.Name != c.want {
				t.Errorf("Load: %q, want %q", p.Name, c.want)
			}
			if name, err := ProjectName(context.Background(), src); err != nil || name != c.want {
				t.Errorf("ProjectName: %q, %v, want %q", name, err, c.want)
			}
			if got := p.Environment["COMPOSE_PROJECT_NAME"]; got != c.want {
				t.Errorf("COMPOSE_PROJECT_NAME is %q", got)
			}
		})
	}
}

func TestFilesAreFound(t *testing.T) {
	service := func(name string) string { return "services: {" + name + ": {image: a}}\n" }
	for _, c := range []struct {
		name, files string
		change      func(*Source)
		want        []string // services
	}{
		{"compose.yaml first", "-- compose.yaml --\n" + service("a") + "-- docker-compose.yml --\n" + service("b"), nil, []string{"a"}},
		{"compose.yml", "-- compose.yml --\n" + service("a") + "-- docker-compose.yml --\n" + service("b"), nil, []string{"a"}},
		{"docker-compose.yml", "-- docker-compose.yaml --\n" + service("a") + "-- docker-compose.yml --\n" + service("b"), nil, []string{"b"}},
		{"override", service("a") + "-- compose.override.yaml --\n" + service("b"), nil, []string{"a", "b"}},
		{"no override with -f", service("a") + "-- compose.override.yaml --\n" + service("b"), func(s *Source) { s.Files = []string{"compose.yaml"} }, []string{"a"}},
		{"several -f", service("a") + "-- b.yaml --\n" + service("b"), func(s *Source) { s.Files = []string{"compose.yaml", "b.yaml"} }, []string{"a", "b"}},
		{"above", service("a") + "-- compose.override.yml --\n" + service("b") + "-- x/y/z --\n", below("x/y", nil), []string{"a", "b"}},
		{"stdin", service("a"), func(s *Source) { s.Files = []string{"-"}; s.Stdin = strings.NewReader(service("z")) }, []string{"z"}},
		{"stdin and a file", service("a"), func(s *Source) { s.Files = []string{"compose.yaml", "-"}; s.Stdin = strings.NewReader(service("z")) }, []string{"a", "z"}},
		{"COMPOSE_FILE", "-- a.yaml --\n" + service("a") + "-- b.yaml --\n" + service("b"), environ("COMPOSE_FILE=a.yaml:b.yaml"), []string{"a", "b"}},
		{"COMPOSE_PATH_SEPARATOR", "-- a.yaml --\n" + service("a") + "-- b.yaml --\n" + service("b"), environ("COMPOSE_FILE=a.yaml,b.yaml", "COMPOSE_PATH_SEPARATOR=,"), []string{"a", "b"}},
		{"COMPOSE_FILE in .env", "-- a.yaml --\n" + service("a") + "-- .env --\nCOMPOSE_FILE=a.yaml\n", nil, []string{"a"}},
		{"-f wins over COMPOSE_FILE", service("c") + "-- a.yaml --\n" + service("a"), func(s *Source) { s.Files = []string{"compose.yaml"}; s.Environ = []string{"COMPOSE_FILE=a.yaml"} }, []string{"c"}},
		{"include", "include: [sub/x.yaml]\n" + service("a") + "-- sub/x.yaml --\n" + service("x"), nil, []string{"a", "x"}},
		{"extends", "services: {a: {extends: {file: base.yaml, service: b}}}\n-- base.yaml --\n" + service("b"), nil, []string{"a"}},
		{"two documents", service("a") + "---\n" + service("b"), nil, []string{"a", "b"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var changes []func(*Source)
			if c.change != nil {
				changes = append(changes, c.change)
			}
			p := mustLoad(t, c.files, changes...)
			if diff := cmp.Diff(c.want, p.ServiceNames()); diff != "" {
				t.Error(diff)
			}
			for name, s := range p.Services {
				if s.Image != "a" {
					t.Errorf("%s: image %q", name, s.Image)
				}
			}
		})
	}
}

func TestInterpolation(t *testing.T) {
	const env = "SET=v\nEMPTY=\n"
	for text, want := range map[string]string{
		"$SET": "v", "${SET}": "v", "a${SET}b": "avb", "$$SET": "$SET", "$${SET}": "${SET}",
		"${SET:-d}": "v", "${EMPTY:-d}": "d", "${NONE:-d}": "d",
		"${SET-d}": "v", "${EMPTY-d}": "", "${NONE-d}": "d",
		"${SET:+r}": "r", "${EMPTY:+r}": "", "${NONE:+r}": "",
		"${SET+r}": "r", "${EMPTY+r}": "r", "${NONE+r}": "",
		"${SET:?e}": "v", "${SET?e}": "v", "${EMPTY?e}": "",
		"${NONE:-${SET}}": "v", "${NONE:-x${EMPTY:-y}z}": "xyz", "${NONE}": "",
	} {
		p := mustLoad(t, "services: {a: {image: i, command: ['"+text+"']}}\n-- .env --\n"+env)
		if got := p.Services["a"].Command[0]; got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	for _, text := range []string{"${EMPTY:?e}", "${NONE:?e}", "${NONE?e}"} {
		if _, err := load(t, "services: {a: {image: '"+text+"'}}\n-- .env --\n"+env); err == nil {
			t.Errorf("%s: loaded", text)
		}
	}
}

func TestWarnings(t *testing.T) {
	var warnings []string
	mustLoad(t, "version: '3'\nservices: {a: {image: 'i:$NONE', command: '${NONE} ${OTHER-x} ${SET}'}}\n-- docker-compose.yml --\n",
		func(s *Source) {
			s.Environ = []string{"SET="}
			s.Warn = func(w string) { warnings = append(warnings, strings.TrimPrefix(w, s.WorkDir)) }
		})
	slices.Sort(warnings)
	want := []string{
		": several compose files; using compose.yaml",
		"variable NONE is not set: an empty string stands in for it",
		"version: has no meaning any more; remove it",
	}
	if diff := cmp.Diff(want, warnings); diff != "" {
		t.Error(diff)
	}
}

// TestEnvironment: the caller's wins over --env-file or .env; environment wins
// over env_file; a name without a value is the caller's.
func TestEnvironment(t *testing.T) {
	const files = `services:
  a:
    image: a
    env_file: [one.env, {path: two.env, format: raw}, {path: none.env, required: false}]
    label_file: labels
    labels: {l: own}
    environment: {OWN: own, BOTH: own, PASSED: , ABSENT: , DOLLAR: a$$b}
-- one.env --
BOTH=file
FILE=one
LATER=one
REF=${CALLER}
-- two.env --
LATER='two' ${CALLER}
-- labels --
l=file
m=file
-- .env --
CALLER=dot
PASSED=dot
-- other.env --
CALLER=other
-- third.env --
CALLER=third
PASSED=third
`
	env := func(change func(*Source)) map[string]string {
		p := mustLoad(t, files, change)
		s := p.Services["a"]
		if len(s.EnvFiles)+len(s.LabelFiles) > 0 {
			t.Error("env_file or label_file is still there")
		}
		if diff := cmp.Diff(Labels{"l": "own", "m": "file"}, s.Labels); diff != "" {
			t.Error(diff)
		}
		if v, ok := s.Environment["ABSENT"]; !ok || v != nil {
			t.Errorf("ABSENT is %v, %v", v, ok)
		}
		return s.Environment.ToMapping()
	}
	want := func(caller, passed string) map[string]string {
		return map[string]string{"OWN": "own", "BOTH": "own", "FILE": "one", "LATER": "'two' ${CALLER}", "DOLLAR": "a$b", "REF": caller, "PASSED": passed}
	}
	for _, c := range []struct {
		name   string
		change func(*Source)
		want   map[string]string
	}{
		{".env", func(*Source) {}, want("dot", "dot")},
		{"caller", environ("CALLER=me"), want("me", "dot")},
		{"--env-file", func(s *Source) { s.EnvFiles = []string{"other.env", "third.env"}; s.Environ = []string{"PASSED=me"} }, want("third", "me")},
		{"COMPOSE_ENV_FILES", environ("COMPOSE_ENV_FILES=other.env,third.env"), want("third", "third")},
	} {
		if diff := cmp.Diff(c.want, env(c.change)); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
	p := mustLoad(t, files, environ("COMPOSE_DISABLE_ENV_FILE=1"))
	if v := p.Services["a"].Environment["PASSED"]; v != nil {
		t.Errorf("COMPOSE_DISABLE_ENV_FILE: .env was read: %q", *v)
	}
}

func TestProfilesAndSelection(t *testing.T) {
	const files = `services:
  web: {image: a, depends_on: [app]}
  app: {image: a, depends_on: {db: {condition: service_healthy}, cache: {condition: service_started, required: false}}, networks: [back]}
  db: {image: a, volumes: ["data:/d"], networks: [back]}
  cache: {image: a, profiles: [fast]}
  debug: {image: a, profiles: [tools], depends_on: [db], networks: [back]}
  other: {image: a, env_file: [missing.env], profiles: [tools]}
volumes: {data: {}, unused: {}}
networks: {back: {}}
`
	for _, c := range []struct {
		name     string
		change   func(*Source)
		services []string
		volumes  []string
	}{
		{"all", func(*Source) {}, []string{"app", "db", "web"}, []string{"data"}},
		{"unused too", func(s *Source) { s.All = true }, []string{"app", "db", "web"}, []string{"data", "unused"}},
		{"a profile", func(s *Source) { s.Profiles = []string{"fast"} }, []string{"app", "cache", "db", "web"}, []string{"data"}},
		{"COMPOSE_PROFILES", environ("COMPOSE_PROFILES=x, fast"), []string{"app", "cache", "db", "web"}, []string{"data"}},
		{"with dependencies", func(s *Source) { s.Services = []string{"app"} }, []string{"app", "db"}, []string{"data"}},
		{"without", func(s *Source) { s.Services = []string{"app"}; s.NoDeps = true }, []string{"app"}, nil},
		{"a pattern", func(s *Source) { s.Services = []string{"[wd]*b"}; s.NoDeps = true }, []string{"db", "web"}, []string{"data"}},
		// Naming a service enables it; another of its profile, whose file is
		// missing, is not looked at.
		{"enabled by name", func(s *Source) { s.Services = []string{"debug"} }, []string{"db", "debug"}, []string{"data"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := mustLoad(t, files, c.change)
			if diff := cmp.Diff(c.services, p.ServiceNames()); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(c.volumes, p.VolumeNames()); diff != "" {
				t.Error(diff)
			}
			if _, err := NewGraph(p); err != nil {
				t.Error(err)
			}
		})
	}
	p := mustLoad(t, files)
	q, err := Select(p, []string{"db"}, false)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"db"}, q.ServiceNames()); diff != "" || len(p.Services) != 3 {
		t.Errorf("Select: %s, the original has %v", diff, p.ServiceNames())
	}
	if _, err := Select(p, []string{"debug"}, false); err == nil || err.Error() != "service debug: is disabled by its profiles; enable it with --profile tools" {
		t.Errorf("Select of a disabled service: %v", err)
	}
}

// TestExtensionLikeNames: a label is no extension, whatever its name.
func TestExtensionLikeNames(t *testing.T) {
	p := mustLoad(t, "services: {a: {image: a, labels: {x-l: 1, y: }, environment: {x-e: b, U: }}}\nnetworks: {default: {labels: {x-n: c}}}\n")
	s := p.Services["a"]
	if diff := cmp.Diff(Labels{"x-l": "1", "y": ""}, s.Labels); diff != "" {
		t.Error(diff)
	}
	if v, ok := s.Environment["U"]; *s.Environment["x-e"] != "b" || v != nil || !ok || len(s.Environment) != 2 {
		t.Errorf("%v", s.Environment)
	}
	if diff := cmp.Diff(Labels{"x-n": "c"}, p.Networks["default"].Labels); diff != "" {
		t.Error(diff)
	}
}

func TestPidWithoutValue(t *testing.T) {
	if p := mustLoad(t, "services: {a: {image: a, pid: }}\n"); p.Services["a"].Pid != "" {
		t.Error(p.Services["a"].Pid)
	}
}

func TestContents(t *testing.T) {
	const files = `services:
  a: {image: a, secrets: [file, env], configs: [file, env, text], security_opt: ["seccomp:p.json", "no-new-privileges:true"]}
secrets: {file: {file: s}, env: {environment: PASS}}
configs: {file: {file: s}, env: {environment: PASS}, text: {content: "is ${PASS} $$x"}}
-- s --
from the file $HOME
-- p.json --
{ "defaultAction" : "SCMP_ACT_ALLOW" }
`
	p := mustLoad(t, files, environ("PASS=from $env"))
	got := []string{p.Secrets["file"].Content, p.Secrets["env"].Content, p.Configs["file"].Content, p.Configs["env"].Content, p.Configs["text"].Content}
	want := []string{"from the file $HOME\n", "from $env", "from the file $HOME\n", "from $env", "is from $env $x"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{`seccomp={"defaultAction":"SCMP_ACT_ALLOW"}`, "no-new-privileges:true"}, p.Services["a"].SecurityOpt); diff != "" {
		t.Error(diff)
	}
	sameProject(t, p)

	q := mustLoad(t, files, environ("PASS=x"), func(s *Source) { s.NoContent = true })
	if q.Secrets["file"].Content+q.Configs["file"].Content != "" {
		t.Error("NoContent has read files")
	}
}
