package compose

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/tools/txtar"
)

// project writes files given as txtar and returns the directory. Text before
// the first file is compose.yaml.
func project(t testing.TB, text string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "shop")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	a := txtar.Parse([]byte(text))
	if len(a.Comment) > 0 {
		a.Files = append(a.Files, txtar.File{Name: "compose.yaml", Data: a.Comment})
	}
	for _, f := range a.Files {
		path := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func load(t testing.TB, text string, change ...func(*Source)) (*Project, error) {
	t.Helper()
	src := Source{WorkDir: project(t, text)}
	for _, c := range change {
		c(&src)
	}
	return Load(context.Background(), src)
}

func mustLoad(t testing.TB, text string, change ...func(*Source)) *Project {
	t.Helper()
	p, err := load(t, text, change...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestErrors(t *testing.T) {
	for _, c := range []struct {
		name, files, want string
		src               Source
		class             func(error) bool
	}{
		{name: "not YAML", files: "services:\n  web:\n    image: [nginx\n",
			want: `compose.yaml:3: not YAML: did not find expected ',' or ']'; correct it there or just above`},
		{name: "wrong indentation", files: "services:\n  a:\n    image: busybox\n    restart: always\n   command: x\n  b:\n    image: busybox\n",
			want: `compose.yaml:5: not YAML: did not find expected key; correct it there or just above`},
		{name: "a key in a list", files: "services:\n  a:\n    image: busybox\n    command:\n      - a\n      - b\n      c: x\n",
			want: `compose.yaml:7: not YAML: did not find expected '-' indicator; correct it there or just above`},
		{name: "tab", files: "services:\n\tweb: {image: nginx}\n",
			want: `compose.yaml:2: not YAML: found character that cannot start any token; correct it there or just above`},
		{name: "a list", files: "- a\n- b\n",
			want: `compose.yaml:1: not a compose file: the top level must be a mapping; it needs a services section`},
		{name: "empty", files: "# nothing\n",
			want: `compose.yaml: is empty; it needs a services section`},
		{name: "key twice", files: "services:\n  web:\n    image: a\n    image: b\n",
			want: `compose.yaml:4: mapping key "image" already defined at line 3; keep one of them`},
		{name: "unknown key", files: "services:\n  web:\n    image: nginx\n    imgae: b\n",
			want: `compose.yaml:4: services.web: unknown key imgae; did you mean image?`},
		{name: "unknown key, no guess", files: "services:\n  web:\n    image: nginx\n    flavour: b\n",
			want: `compose.yaml:4: services.web: unknown key flavour; remove it, or begin its name with x- to keep it for yourself`},
		{name: "unknown top-level key", files: "services:\n  web: {image: nginx}\nvolums: {}\n",
			want: `compose.yaml:3: unknown key volums; did you mean volumes?`},
		{name: "unknown nested key", files: "services:\n  web:\n    image: nginx\n    healthcheck:\n      test: x\n      intervall: 1s\n",
			want: `compose.yaml:6: services.web.healthcheck: unknown key intervall; did you mean interval?`},
		{name: "wrong type", files: "services:\n  web:\n    image: nginx\n    ports: 80\n",
			want: `compose.yaml:4: services.web.ports: must be a list; write each entry on a line of its own after "- "`},
		{name: "wrong type of a service", files: "services:\n  web: nginx\n",
			want: `compose.yaml:2: services.web: must be a mapping; write "key: value" lines below it`},
		{name: "bad duration", files: "services:\n  web:\n    image: a\n    healthcheck: {test: x, interval: often}\n",
			want: `compose.yaml:4: services.web.healthcheck.interval: time: invalid duration "often"`},
		{name: "bad port", files: "services:\n  web:\n    image: a\n    ports:\n      - 80:80\n      - 99999:80\n",
			want: `compose.yaml:6: services.web.ports: invalid hostPort: 99999`},
		{name: "bad volume", files: "services:\n  web:\n    image: a\n    volumes:\n      - data:/b:ro:rw\n",
			want: `compose.yaml:5: services.web.volumes: invalid spec: data:/b:ro:rw: too many colons`},
		{name: "bad size", files: "services:\n  web:\n    image: a\n    mem_limit: lots\n",
			want: `compose.yaml:4: services.web.mem_limit: invalid size: 'lots'`},
		{name: "no number", files: "services:\n  web:\n    image: a\n    scale: ${N:-few}\n",
			want: `compose.yaml:4: services.web.scale: "few" is not a number`},
		{name: "no boolean", files: "services:\n  web:\n    image: a\n    tty: ${N:-maybe}\n",
			want: `compose.yaml:4: services.web.tty: "maybe" is not a boolean; write true or false`},
		{name: "neither image nor build", files: "services:\n  web:\n    ports: [80]\n",
			want: `compose.yaml:2: services.web: neither image nor build says what to run; add an image`},
		{name: "undefined network", files: "services:\n  web:\n    image: a\n    networks:\n      - front\nnetworks: {frontt: {}}\n",
			want: `compose.yaml:5: services.web.networks: undefined network front; did you mean frontt?`},
		{name: "undefined volume", files: "services:\n  web:\n    image: a\n    volumes:\n      - data:/data\n",
			want: `compose.yaml:5: services.web.volumes: undefined volume data; define it under volumes at the top level or remove it here`},
		{name: "undefined secret", files: "services:\n  web:\n    image: a\n    secrets:\n      - source: key\n",
			want: `compose.yaml:5: services.web.secrets: undefined secret key; define it under secrets at the top level or remove it here`},
		{name: "undefined config", files: "services:\n  web:\n    image: a\n    configs: [conf]\n",
			want: `compose.yaml:4: services.web.configs: undefined config conf; define it under configs at the top level or remove it here`},
		{name: "undefined service", files: "services:\n  web:\n    image: a\n    depends_on:\n      - bd\n  db: {image: b}\n",
			want: `compose.yaml:5: services.web.depends_on: undefined service bd; did you mean db?`},
		{name: "undefined link", files: "services:\n  web:\n    image: a\n    links: ['redis:cache']\n",
			want: `compose.yaml:4: services.web.links: undefined service redis; define it under services or remove it here`},
		{name: "disabled dependency", files: "services:\n  web:\n    image: a\n    depends_on: [db]\n  db: {image: b, profiles: [data]}\n",
			want: `compose.yaml:4: services.web.depends_on: service db is disabled by its profiles; enable it with --profile data`},
		{name: "disabled dependency of a service enabled by name", files: "services:\n  web:\n    image: a\n    profiles: [front]\n    depends_on: [db]\n  db: {image: b, profiles: [data]}\n",
			src:  Source{Services: []string{"web"}},
			want: `compose.yaml:5: services.web.depends_on: service db is disabled by its profiles; enable it with --profile data`},
		{name: "circle", files: "services:\n  web:\n    image: a\n    depends_on: [db]\n  db:\n    image: a\n    depends_on:\n      web: {condition: service_started}\n",
			want: `compose.yaml:7: services.db.depends_on: services wait for each other: db → web → db; remove one of these dependencies`},
		{name: "depends on itself", files: "services:\n  web:\n    image: a\n    depends_on: [web]\n",
			want: `compose.yaml:4: services.web.depends_on: services wait for each other: web → web; remove one of these dependencies`},
		{name: "missing variable", files: "services:\n  web:\n    image: a\n    environment:\n      - A=b\n      - PASS=${PASS:?set a password}\n",
			want: `compose.yaml:6: services.web.environment: required variable PASS is missing: set a password; set it in the environment or in .env`},
		{name: "missing variable, no reason", files: "services:\n  web:\n    image: ${IMAGE?}\n",
			want: `compose.yaml:3: services.web.image: required variable IMAGE is not set; set it in the environment or in .env`},
		{name: "bad interpolation", files: "services:\n  web:\n    image: a\n    command: echo ${\n",
			want: `compose.yaml:4: services.web.command: invalid interpolation "echo ${"; write $$ for a literal $`},
		{name: "a name with dots", files: "services:\n  a.b:\n    image: a\n    ports: 80\n",
			want: `compose.yaml:4: services.a.b.ports: must be a list; write each entry on a line of its own after "- "`},
		{name: "two values for one limit", files: "services:\n  web:\n    image: a\n    scale: 2\n    deploy: {replicas: 3}\n",
			want: `compose.yaml:2: services.web: can't set distinct values on 'scale' and 'deploy.replicas'`},
		{name: "one name for two containers", files: "services:\n  web:\n    image: a\n    scale: 2\n    container_name: me\n",
			want: `compose.yaml:5: services.web.container_name: 2 replicas cannot share the name "me"; remove container_name or ask for one replica`},
		{name: "one name for two services", files: "services:\n  a: {image: a, container_name: me}\n  b:\n    image: a\n    container_name: me\n",
			want: `compose.yaml:5: services.b.container_name: "me" is also the name of service a; give each its own, or none`},
		{name: "network_mode and networks", files: "services:\n  web:\n    image: a\n    network_mode: host\n    networks: [default]\n",
			want: `compose.yaml:4: services.web: network_mode and networks exclude each other; keep one of them`},
		{name: "health check", files: "services:\n  web:\n    image: a\n    healthcheck: {test: [curl, x]}\n",
			want: `compose.yaml:4: services.web.healthcheck.test: a list must begin with CMD, CMD-SHELL or NONE, not "curl"; write ["CMD", …] or a plain string`},
		{name: "target twice", files: "services:\n  web:\n    image: a\n    tmpfs: [/x]\n    volumes: ['/a:/x']\n",
			want: `compose.yaml:5: services.web.volumes[0]: target /x already mounted as services.web.tmpfs[0]`},
		{name: "secret without source", files: "services:\n  web: {image: a, secrets: [s]}\nsecrets:\n  s: {}\n",
			want: `compose.yaml:4: secrets.s: one of file|environment must be set`},
		{name: "secret's file is missing", files: "services:\n  web: {image: a, secrets: [s]}\nsecrets:\n  s:\n    file: ./no\n",
			want: `compose.yaml:5: secrets.s.file: no: does not exist; create it`, class: errdefs.IsNotFound},
		{name: "secret's file is a directory", files: "services:\n  web: {image: a, secrets: [s]}\nsecrets:\n  s:\n    file: .\n",
			want: `compose.yaml:5: secrets.s.file: .: is a directory; mount it as a volume`},
		{name: "config's variable is missing", files: "services:\n  web: {image: a, configs: [s]}\nconfigs:\n  s:\n    environment: NOPE\n",
			want: `compose.yaml:5: configs.s.environment: variable NOPE is not set; set it, also in .env`},
		{name: "env_file is missing", files: "services:\n  web:\n    image: a\n    env_file:\n      - web.env\n",
			want: "compose.yaml:4: services.web.env_file: web.env: does not exist; create it or mark it `required: false`", class: errdefs.IsNotFound},
		{name: "env_file is broken", files: "services:\n  web:\n    image: a\n    env_file: web.env\n-- web.env --\nA=b\nnot this!\n",
			want: `compose.yaml:4: services.web.env_file: web.env:2: unexpected character "!" in variable name "not this!"; write it as NAME=value lines`},
		{name: ".env is broken", files: "services: {web: {image: a}}\n-- .env --\nA=b\nnot this!\n",
			want: `.env:2: env file: unexpected character "!" in variable name "not this!"; write it as NAME=value lines`},
		{name: "seccomp profile is missing", files: "services:\n  web:\n    image: a\n    security_opt: ['seccomp:./p.json']\n",
			want: `compose.yaml:4: services.web.security_opt: seccomp profile p.json: does not exist; name a profile in JSON, or unconfined`, class: errdefs.IsNotFound},
		{name: "extends nobody", files: "services:\n  web:\n    extends: bse\n  base: {image: a}\n",
			want: `compose.yaml:3: cannot extend service "web" in compose.yaml: service "bse" not found`},
		{name: "extends in a circle", files: "services:\n  a: {extends: b}\n  b: {extends: a}\n",
			want: `compose.yaml:2: services.a.extends: services extend each other: a → b → a; remove one of these`},
		{name: "include of nothing", files: "include:\n  - no.yaml\nservices: {}\n",
			want: `compose.yaml:2: include: no.yaml: does not exist; create it`, class: errdefs.IsNotFound},
		{name: "include in a circle", files: "include: [b.yaml]\n-- b.yaml --\ninclude: [compose.yaml]\nservices: {a: {image: a}}\n",
			want: `compose.yaml:1: include cycle detected: compose.yaml include b.yaml include compose.yaml`},
		{name: "error in an included file", files: "include: [b/b.yaml]\n-- b/b.yaml --\nservices:\n  a:\n    image: a\n    networks: [none]\n",
			want: `b/b.yaml:4: services.a.networks: undefined network none; define it under networks at the top level or remove it here`},
		{name: "error in the override", files: "services: {web: {image: a}}\n-- compose.override.yaml --\nservices:\n  web:\n    ports: 1\n",
			want: `compose.override.yaml:3: services.web.ports: must be a list; write each entry on a line of its own after "- "`},
		{name: "git include", files: "include: ['https://github.com/a/b.git']\nservices: {}\n", class: errdefs.IsNotImplemented,
			want: `https://github.com/a/b.git: remote compose files (git, oci) are not supported yet; fetch it and name the local file`},
		{name: "oci file", files: "services: {}\n", src: Source{Files: []string{"oci://registry/app"}}, class: errdefs.IsNotImplemented,
			want: `oci://registry/app: remote compose files (git, oci) are not supported yet; fetch it and name the local file`},
		{name: "no such file", files: "services: {}\n", src: Source{Files: []string{"no.yaml"}}, class: errdefs.IsNotFound,
			want: `no.yaml: compose file: does not exist; name another with -f`},
		{name: "a directory", files: "services: {}\n", src: Source{Files: []string{"."}},
			want: `.: is not a file; name a compose file with -f`},
		{name: "no such env file", files: "services: {}\n", src: Source{EnvFiles: []string{"no.env"}}, class: errdefs.IsNotFound,
			want: `no.env: env file: does not exist; create it or name another with --env-file`},
		{name: "bad project name", files: "services: {}\n", src: Source{ProjectName: "My Shop"},
			want: `-p: invalid project name "My Shop"; use lower-case letters, digits, - and _, and begin with a letter or digit`},
		{name: "no such service", files: "services: {web: {image: a}, worker: {image: b}}\n", src: Source{Services: []string{"wbe"}}, class: errdefs.IsNotFound,
			want: `service wbe: no such service; did you mean web?`},
		{name: "empty project", files: "services: {}\n", src: Source{},
			want: ``},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := load(t, c.files, func(src *Source) {
				dir := src.WorkDir
				*src = c.src
				src.WorkDir = dir
			})
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil {
				t.Fatalf("loaded: %+v", p.Services)
			}
			if got := err.Error(); got != c.want {
				t.Errorf("\n got %s\nwant %s", got, c.want)
			}
			var e *Error
			if !errors.As(err, &e) {
				t.Errorf("%T is no *Error", err)
			}
			if c.class == nil {
				c.class = errdefs.IsInvalidArgument
			}
			if !c.class(err) {
				t.Errorf("class is %v", errors.Unwrap(err))
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line")
			}
		})
	}
}

func TestNoComposeFile(t *testing.T) {
	dir := t.TempDir()
	_, err := Load(context.Background(), Source{WorkDir: dir})
	want := "no compose file in " + dir + " or above it; write a compose.yaml or name a file with -f"
	if err == nil || err.Error() != want || !errdefs.IsNotFound(err) {
		t.Fatalf("\n got %v\nwant %s", err, want)
	}
}
