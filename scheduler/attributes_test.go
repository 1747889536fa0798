package scheduler

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"gantry/compose"

	"pgregory.net/rapid"
)

// attribute is one key of a service: two values of it, and what it takes to
// get from one of them, or from none, to the other.
type attribute struct {
	one, two string // YAML
	effect   string // verbs of the steps, "" for none, "refused" for what gantry does not support
}

// attributes are all keys a service can have. A key with a dot is a part of
// another one, one after a slash is what the project says of the network back,
// the volume data or the config two.
var attributes = map[string]attribute{
	"/config":  {"{content: c}", "{content: d}", ""},
	"/network": {"{internal: true}", "{driver_opts: {com.docker.network.driver.mtu: '1400'}, labels: {a: b}}", ""},
	"/volume":  {"{labels: {a: b}}", "{driver_opts: {type: tmpfs, device: tmpfs}}", ""},

	"annotations":            {"{a: b}", "{a: c}", "replace"},
	"attach":                 {"true", "false", ""},
	"blkio_config":           {"{weight: 300}", "{weight: 400}", "replace"},
	"build":                  {"{dockerfile_inline: FROM x}", "{dockerfile_inline: FROM y}", ""},
	"cap_add":                {"[NET_ADMIN]", "[SYS_TIME]", "replace"},
	"cap_drop":               {"[MKNOD]", "[CHOWN]", "replace"},
	"cgroup":                 {"private", "host", "replace"},
	"cgroup_parent":          {"/a", "/b", "replace"},
	"command":                {"[a]", "[b]", "replace"},
	"configs":                {"[one]", "[two]", "replace"},
	"container_name":         {"aa", "bb", "replace"},
	"cpu_count":              {"1", "2", ""},
	"cpu_percent":            {"10", "20", ""},
	"cpu_period":             {"20000", "30000", "update"},
	"cpu_quota":              {"20000", "30000", "update"},
	"cpu_rt_period":          {"20000", "30000", "replace"},
	"cpu_rt_runtime":         {"20000", "30000", "replace"},
	"cpu_shares":             {"100", "200", "update"},
	"cpus":                   {"0.5", "1.5", "update"},
	"cpuset":                 {"'0'", "'1'", "update"},
	"credential_spec":        {"{file: a}", "{file: b}", "refused"},
	"depends_on":             {"[base]", "{base: {condition: service_healthy}}", ""},
	"deploy.endpoint_mode":   {"vip", "dnsrr", "replace"},
	"deploy.labels":          {"{a: b}", "{a: c}", ""},
	"deploy.mode":            {"replicated", "global", ""},
	"deploy.placement":       {"{constraints: [a==b]}", "{constraints: [a==c]}", ""},
	"deploy.replicas":        {"2", "3", "run"},
	"deploy.resources":       {"{limits: {memory: 64m, cpus: '0.5', pids: 10}}", "{limits: {memory: 128m}, reservations: {memory: 32m}}", "update"},
	"deploy.restart_policy":  {"{condition: any}", "{condition: on-failure, max_attempts: 3, delay: 1s, window: 2s}", "update"},
	"deploy.rollback_config": {"{parallelism: 1}", "{parallelism: 2}", ""},
	"deploy.update_config":   {"{parallelism: 1}", "{parallelism: 2, order: stop-first}", ""},
	"develop":                {"{watch: [{path: a, action: rebuild}]}", "{watch: [{path: b, action: rebuild}]}", ""},
	"device_cgroup_rules":    {"['c 1:3 mr']", "['c 1:5 mr']", "replace"},
	"devices":                {"[/dev/null:/dev/a]", "[/dev/null:/dev/b]", "replace"},
	"dns":                    {"[1.1.1.1]", "[1.0.0.1]", "replace"},
	"dns_opt":                {"['ndots:2']", "['ndots:3']", "replace"},
	"dns_search":             {"[a]", "[b]", "replace"},
	"domainname":             {"a", "b", "replace"},
	"entrypoint":             {"[a]", "[b]", "replace"},
	"env_file":               {"one.env", "two.env", "replace"}, // by what is in it
	"environment":            {"{A: b}", "{A: c}", "replace"},
	"expose":                 {"['80']", "['81']", "replace"},
	"extends":                {"{service: parent}\n    scale: 1", "{service: stepparent}\n    scale: 1", "replace"},
	"external_links":         {"[a]", "[b]", "refused"},
	"extra_hosts":            {"['a:1.1.1.1']", "['a:1.1.1.2']", "replace"},
	"gpus":                   {"all", "[{count: 2}]", "refused"},
	"group_add":              {"['1']", "['2']", "replace"},
	"healthcheck":            {"{test: [CMD, a]}", "{test: [CMD, b], interval: 2s}", "replace"},
	"hostname":               {"a", "b", "replace"},
	"image":                  {"nginx", "busybox", "replace"},
	"init":                   {"true", "false", "replace"},
	"ipc":                    {"shareable", "host", "replace"},
	"isolation":              {"default", "default", ""},
	"label_file":             {"one.env", "two.env", "replace"}, // by what is in it
	"labels":                 {"{a: b}", "{a: c}", "replace"},
	"links":                  {"['base:a']", "['base:b']", "replace"},
	"log_driver":             {"a", "b", "refused"},
	"log_opt":                {"{a: b}", "{a: c}", "refused"},
	"logging":                {"{driver: json-file}", "{driver: none}", "replace"},
	"mac_address":            {"'02:42:ac:11:00:01'", "'02:42:ac:11:00:02'", "replace"},
	"mem_limit":              {"64m", "128m", "update"},
	"mem_reservation":        {"32m", "48m", "update"},
	"mem_swappiness":         {"10", "20", "replace"},
	"memswap_limit":          {"1g", "2g", "update"},
	"models":                 {"[m]", "[n]", "refused"},
	"net":                    {"host", "none", "refused"},
	"network_mode":           {"host", "none", "replace"},
	"networks":               {"[default, back]", "[back]", "update"},
	"networks.default":       {"{ipv4_address: 10.1.1.9}", "{ipv4_address: 10.1.1.10}", "replace"},
	"oom_kill_disable":       {"true", "false", "replace"},
	"oom_score_adj":          {"100", "200", "replace"},
	"pid":                    {"host", "'service:base'", "replace"},
	"pids_limit":             {"10", "20", "update"},
	"platform":               {"linux/amd64", "linux/386", "replace"},
	"ports":                  {"['8080:80']", "['8081:80', '127.0.0.1::90/udp']", "update"},
	"post_start":             {"[{command: [a]}]", "[{command: [b]}]", "refused"},
	"pre_start":              {"[{command: [a]}]", "[{command: [b]}]", "refused"},
	"pre_stop":               {"[{command: [a]}]", "[{command: [b]}]", "refused"},
	"privileged":             {"true", "false", "replace"},
	"profiles":               {"[on]", "[on, off]", ""},
	"provider":               {"{type: a}", "{type: b}", "refused"},
	"pull_policy":            {"always", "missing", ""},
	"pull_refresh_after":     {"1h\n    pull_policy: refresh", "2h\n    pull_policy: refresh", ""},
	"read_only":              {"true", "false", "replace"},
	"restart":                {"always", "'on-failure:3'", "update"},
	"runtime":                {"a", "b", "refused"},
	"scale":                  {"2", "3", "run"},
	"secrets":                {"[one]", "[two]", "replace"},
	"security_opt":           {"['no-new-privileges:true']", "['seccomp:unconfined']", "replace"},
	"shm_size":               {"64m", "128m", "replace"},
	"stdin_open":             {"true", "false", "replace"},
	"stop_grace_period":      {"1s", "2s", "replace"},
	"stop_signal":            {"SIGINT", "SIGQUIT", "replace"},
	"storage_opt":            {"{size: 1g}", "{size: 2g}", "refused"},
	"sysctls":                {"{net.a: '1'}", "{net.a: '2'}", "replace"},
	"tmpfs":                  {"[/a]", "[/b]", "replace"},
	"tty":                    {"true", "false", "replace"},
	"ulimits":                {"{nproc: 10}", "{nproc: 20}", "replace"},
	"use_api_socket":         {"true", "false", "refused"},
	"user":                   {"a", "b", "replace"},
	"userns_mode":            {"host", "host", "replace"},
	"uts":                    {"host", "''", "replace"},
	"volumes":                {"['data:/d']", "['data:/e', /anonymous]", "replace"},
	"volumes_from":           {"[base]", "['base:ro']", "refused"},
	"x-gantry.autoscale":     {"{max: 3, cpu: 70%}", "{max: 4, cpu: 70%}", ""},
	"x-gantry.healthcheck":   {"{tcp: 80}", "{tcp: 81}", "replace"},
	"x-gantry.on_unhealthy":  {"restart", "restart", "update"},
	"working_dir":            {"/a", "/b", "replace"},
}

// attributed is a project whose service web has the attributes given.
func attributed(t testing.TB, dir string, values map[string]string) (*compose.Project, error) {
	parts := map[string][]string{}
	var lines []string
	defined := func(key, otherwise string) string {
		if values[key] != "" {
			return values[key]
		}
		return otherwise
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if key[0] == '/' {
			continue
		}
		if top, rest, ok := strings.Cut(key, "."); ok {
			parts[top] = append(parts[top], rest+": "+values[key])
		} else {
			lines = append(lines, "    "+key+": "+values[key])
		}
	}
	for _, top := range slices.Sorted(maps.Keys(parts)) {
		lines = append(lines, "    "+top+": {"+strings.Join(parts[top], ", ")+"}")
	}
	if values["image"] == "" {
		lines = append(lines, "    image: busybox")
	}
	return load("services:\n  base: {image: busybox}\n  parent: {image: busybox, environment: {FROM: parent}, scale: 0}\n"+
		"  stepparent: {image: busybox, environment: {FROM: stepparent}, scale: 0}\n  web:\n"+
		strings.Join(lines, "\n")+"\nnetworks: {back: "+defined("/network", "{}")+", default: {ipam: {config: [{subnet: 10.1.1.0/24}]}}}\nvolumes: {data: "+defined("/volume", "{}")+"}\n"+
		"secrets: {one: {environment: TOKEN}, two: {environment: TOKEN}}\nconfigs: {one: {content: a}, two: "+defined("/config", "{content: b}")+"}\nmodels: {m: {model: a}, n: {model: b}}\n",
		func(s *compose.Source) { s.WorkDir, s.Profiles = dir, []string{"on"} })
}

func attributeFiles(t testing.TB) string {
	dir := t.TempDir()
	for name, text := range map[string]string{"one.env": "A=one\n", "two.env": "A=two\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestEveryAttribute sets and changes each key a service can have, and takes it
// away again: what that takes is as said above, and when it is done nothing is
// left to do.
func TestEveryAttribute(t *testing.T) {
	notRacing(t)
	dir := attributeFiles(t)
	for key, a := range attributes {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			u := newUps(t)
			for i, value := range []string{"", a.one, a.two, ""} {
				values := map[string]string{}
				if value != "" {
					values[key] = value
				}
				p, err := attributed(t, dir, values)
				if err == nil && len(compose.Unsupported(p)) > 0 {
					err = compose.Unsupported(p)[0]
				}
				if value != "" && a.effect == "refused" && err != nil {
					return
				}
				if err != nil {
					t.Fatalf("%s: %v", value, err)
				}
				plan := u.up(p)
				got := verbs(plan)
				switch {
				case i == 0 || a.effect == "run": // as often as there are fewer of them
				case i == 1 || i == 3:
					if got != a.effect && got != "" { // it may be the default
						t.Errorf("to or from none takes %q, not %q:\n%s", got, a.effect, plan)
					}
				case got != a.effect && a.one != a.two:
					t.Errorf("%s takes %q, not %q:\n%s", value, got, a.effect, plan)
				}
			}
			if a.effect == "refused" {
				t.Error("it is not refused")
			}
		})
	}
}

// verbs are what is done to the containers of web. That the old one leaves is
// part of its replacement.
func verbs(p Plan) string {
	var all []string
	for _, s := range p.Steps {
		if w := s.Do.What(); w.Kind == "container" && w.Service == "web" && w.Verb != "retire" {
			all = append(all, w.Verb)
		}
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), " ")
}

// TestAttributesAreAll fails when the model has a key that is not above.
func TestAttributesAreAll(t *testing.T) {
	fields := func(v any) (names []string) {
		for _, f := range reflect.VisibleFields(reflect.TypeOf(v)) {
			if name, _, _ := strings.Cut(f.Tag.Get("yaml"), ","); !f.Anonymous && name != "" && name != "-" && name[0] != '#' {
				names = append(names, name)
			}
		}
		return names
	}
	for _, name := range fields(compose.Service{}) {
		switch name {
		case "name", "dockerfile", "umask", "volume_driver", "net": // not keys of the specification
		case "deploy":
			for _, part := range fields(compose.Deploy{}) {
				if _, ok := attributes["deploy."+part]; !ok {
					t.Errorf("deploy.%s is not tried", part)
				}
			}
		default:
			if _, ok := attributes[name]; !ok {
				t.Errorf("%s is not tried", name)
			}
		}
	}
}

// ups brings projects up on one machine, one after the other.
type ups struct {
	t interface {
		Helper()
		Fatalf(string, ...any)
	}
	w      *sim
	stored *Goal
	was    *compose.Project
}

func newUps(t interface {
	Helper()
	Fatalf(string, ...any)
}) *ups {
	u := &ups{t: t, w: newSim()}
	u.w.image("busybox", "sha256:1")
	u.w.image("nginx", "sha256:2")
	u.w.behave["base"] = "check"
	return u
}

// up brings a project up as client and daemon do, and again: there must be
// nothing to do then.
func (u *ups) up(p *compose.Project) Plan {
	u.t.Helper()
	plan := u.once(p, true)
	if again := u.once(p, false); !again.Empty() {
		u.t.Fatalf("when it was up there was left:\n%s\nafter:\n%s", again, plan)
	}
	return plan
}

func (u *ups) once(p *compose.Project, act bool) Plan {
	u.t.Helper()
	asked, err := NewGoal(p, Options{})
	if err != nil {
		u.t.Fatalf("%v", err)
	}
	if act { // by wire; what is asked again is compared with what came of that
		data, err := json.Marshal(asked)
		if err == nil {
			asked = Goal{}
			err = json.Unmarshal(data, &asked)
		}
		if err != nil {
			u.t.Fatalf("%v", err)
		}
	}
	for name, s := range asked.Project.Services { // as if it had been built
		s.Name = name
		if ref := compose.ImageName(asked.Project, s); s.Build != nil && u.w.images[ref] == "" {
			u.w.image(ref, "sha256:1")
		}
	}
	goals := []Goal{asked}
	if u.stored != nil {
		goals = append(goals, *u.stored)
	}
	have := u.w.look(goals...)
	have.Was = u.was
	g := Merge(u.stored, asked, have)
	plan, err := Reconcile(g, have)
	if err != nil {
		u.t.Fatalf("%v", err)
	}
	if !act {
		return plan
	}
	if err := Execute(context.Background(), u.w, plan, nil); err != nil {
		u.t.Fatalf("%v\nof\n%s", err, plan)
	}
	if len(u.w.broken) > 0 {
		u.t.Fatalf("%v", u.w.broken)
	}
	u.stored, u.was = &g, g.Project
	return plan
}

// TestUpTwice draws services with any attributes that go together, changes them
// again and again, and looks that an up after an up has nothing to do. What is
// to change in place never costs a container.
func TestUpTwice(t *testing.T) {
	notRacing(t)
	dir := attributeFiles(t)
	var keys []string
	for _, key := range slices.Sorted(maps.Keys(attributes)) {
		if attributes[key].effect != "refused" {
			keys = append(keys, key)
		}
	}
	tried, loaded := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		u := newUps(t)
		values := map[string]string{}
		for range rapid.IntRange(2, 5).Draw(t, "ups") {
			gentle := true // all that changes can be had in place
			for _, key := range rapid.SliceOfNDistinct(rapid.SampledFrom(keys), 0, 6, rapid.ID).Draw(t, "keys") {
				a := attributes[key]
				value := rapid.SampledFrom([]string{"", a.one, a.two}).Draw(t, key)
				if value != values[key] && (a.effect == "replace" || key[0] == '/') {
					gentle = false
				}
				if values[key] = value; value == "" {
					delete(values, key)
				}
			}
			tried++
			p, err := attributed(nil, dir, values)
			if err != nil || len(compose.Unsupported(p)) > 0 {
				return // what does not go together: counted below
			}
			if s := p.Services["web"]; s.ContainerName != "" && s.GetScale() > 1 {
				return
			}
			loaded++
			first := u.stored == nil
			if plan := u.up(p); !first && gentle && values["mac_address"] == "" && strings.Contains(verbs(plan), "replace") {
				t.Fatalf("a container was replaced without need:\n%s", plan)
			}
		}
	})
	if loaded*3 < tried {
		t.Errorf("only %d of %d drawn projects load: the property says little", loaded, tried)
	}
	t.Logf("%d of %d drawn projects load", loaded, tried)
}

// TestUpTwiceCorpus does the same with real projects. They are data from
// outside, in the directory that GANTRY_CORPUS names.
func TestUpTwiceCorpus(t *testing.T) {
	root := os.Getenv("GANTRY_CORPUS")
	if root == "" {
		root = "../shared/corpus"
	}
	if !filepath.IsAbs(root) {
		root = filepath.Join("..", root) // named from the repository's root
	}
	if _, err := os.Stat(root); err != nil {
		t.Skipf("no corpus of real projects at %s: set GANTRY_CORPUS", root)
	}
	var files []string
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if ext := filepath.Ext(path); err == nil && !d.IsDir() && (ext == ".yml" || ext == ".yaml") {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	up := 0
	for _, file := range files {
		t.Run(strings.TrimPrefix(file, root), func(t *testing.T) {
			src := compose.Source{WorkDir: filepath.Dir(file), Files: []string{filepath.Base(file)}, ProjectName: "shop", Environ: []string{}}
			p, err := compose.Load(context.Background(), src)
			if err != nil {
				t.Skipf("it does not load by itself: %v", err)
			}
			u := newUps(t)
			for name, s := range p.Services {
				s.Name = name
				u.w.image(compose.ImageName(p, s), "sha256:"+name)
				for dep, d := range s.DependsOn {
					switch d.Condition {
					case compose.ConditionHealthy:
						u.w.behave[dep] = "check"
					case compose.ConditionCompleted:
						u.w.behave[dep] = "exit 0"
					}
				}
			}
			for key, n := range p.Networks {
				if n.External {
					name := NetworkName(p, key)
					u.w.networks["n-"+name] = &Network{ID: "n-" + name, Name: name}
				}
			}
			for key, v := range p.Volumes {
				if v.External {
					u.w.volumes[VolumeName(p, key)] = &Volume{Name: VolumeName(p, key)}
				}
			}
			u.up(p)
			// Read anew, it is the same project.
			again, err := compose.Load(context.Background(), src)
			if err != nil {
				t.Fatal(err)
			}
			if plan := u.once(again, false); !plan.Empty() {
				t.Errorf("read again, there was to do:\n%s", plan)
			}
			up++
		})
	}
	if up == 0 {
		t.Errorf("none of %d files came up", len(files))
	}
	t.Logf("%d of %d files of the corpus came up twice", up, len(files))
}
