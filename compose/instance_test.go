package compose

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A copy's name is that of its project with the instance, however either is
// said.
func TestCopyName(t *testing.T) {
	const plain, named = "services: {a: {image: a, environment: {P: \"$COMPOSE_PROJECT_NAME\", I: \"${GANTRY_INSTANCE:-none}\"}}}\n", "name: ${N:-Stall}\nservices: {a: {image: a}}\n"
	const head = "-- .git/HEAD --\nref: refs/heads/Feature/Log-in.2\n"
	for _, c := range []struct {
		name, files, want string
		change            func(*Source)
	}{
		{"of a directory", plain, "shop-two", func(s *Source) { s.Instance = "two" }},
		{"of name:", named, "stall-two", func(s *Source) { s.Instance = "two" }},
		{"of name: with a variable", named, "tent-two", func(s *Source) { s.Instance, s.Environ = "two", []string{"N=tent"} }},
		{"of -p", named, "flag-two", func(s *Source) { s.Instance, s.ProjectName = "two", "flag" }},
		{"of COMPOSE_PROJECT_NAME", named, "env-two", func(s *Source) { s.Instance, s.Environ = "two", []string{"COMPOSE_PROJECT_NAME=env"} }},
		{"variable", plain, "shop-two", environ("GANTRY_INSTANCE=two")},
		{"variable in .env", plain + "-- .env --\nGANTRY_INSTANCE=two\n", "shop-two", nil},
		{"none, whatever .env says", plain + "-- .env --\nGANTRY_INSTANCE=two\n", "shop", environ("GANTRY_INSTANCE=")},
		{"flag wins", plain, "shop-one", func(s *Source) { s.Instance, s.Environ = "one", []string{"GANTRY_INSTANCE=two"} }},
		{"put right", plain, "shop-my-copy_2", func(s *Source) { s.Instance = "/My  copy_2!" }},
		{"too long", plain, "shop-aaaaaaaaaaaaaaaaaaaaaaaaa-852785", func(s *Source) { s.Instance = strings.Repeat("a", 33) }},
		{"branch", plain + head, "shop-feature-log-in-2", func(s *Source) { s.Instance = "auto" }},
		{"branch, from below", plain + head + "-- sub/x --\n", "shop-feature-log-in-2", below("sub", func(s *Source) { s.Instance = "auto" })},
		{"branch of a worktree", plain + "-- .git --\ngitdir: ../repo/worktrees/shop\n-- ../repo/worktrees/shop/HEAD --\nref: refs/heads/fix\n", "shop-fix", func(s *Source) { s.Instance = "auto" }},
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
			if name, err := ProjectName(context.Background(), src); err != nil || name != p.Name || name != c.want {
				t.Errorf("ProjectName: %q, %v; Load: %q; want %q", name, err, p.Name, c.want)
			}
			if v := p.Services["a"].Environment["P"]; v != nil && *v != c.want {
				t.Errorf("COMPOSE_PROJECT_NAME is %q", *v)
			}
			if v := p.Services["a"].Environment["I"]; v != nil && c.want != "shop" && "shop-"+*v != c.want {
				t.Errorf("GANTRY_INSTANCE is %q", *v)
			}
		})
	}
}

func TestNoCopyName(t *testing.T) {
	const plain = "services: {a: {image: a}}\n"
	for _, c := range []struct{ name, files, instance, want string }{
		{"no repository", plain, "auto", "is in no git repository; name the copy with --instance NAME"},
		{"detached", plain + "-- .git/HEAD --\n0123456789012345678901234567890123456789\n", "auto", "no branch is checked out in DIR (detached HEAD); name the copy with --instance NAME"},
		{"a tag", plain + "-- .git/HEAD --\nref: refs/tags/v1\n", "auto", "(detached HEAD)"},
		{"references in tables", plain + "-- .git/HEAD --\nref: refs/heads/.invalid\n", "auto", "references in tables"},
		{"a worktree that is gone", plain + "-- .git --\ngitdir: /nowhere/worktrees/x\n", "auto", "/nowhere/worktrees/x/HEAD: does not exist"},
		{"no letter", plain, "../-", "nothing of \"../-\" can be part of a project's name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := project(t, c.files)
			src := Source{WorkDir: dir, Instance: c.instance}
			_, err := Load(context.Background(), src)
			_, named := ProjectName(context.Background(), src)
			if err == nil || named == nil || err.Error() != named.Error() || !strings.Contains(strings.ReplaceAll(err.Error(), dir, "DIR"), c.want) {
				t.Errorf("got %v and %v, want %q", err, named, c.want)
			}
		})
	}
}

// Nothing that exists once on a machine is had by two copies, unless it is
// said.
func TestCopyIsSeparate(t *testing.T) {
	const file = `
services:
  web:
    image: shop/web:dev
    build: {context: ., tags: [shop/web, "reg:5000/web"]}
    container_name: shop-web
    networks: {back: {ipv4_address: 10.9.0.7}, proxy: {}, default: {}}
    volumes: [rows:/rows, named:/named, disk:/disk, theirs:/theirs, own:/own]
  worker: {image: shop/web:dev, container_name: "${COMPOSE_PROJECT_NAME}_worker"}
  mine: {image: "app:${GANTRY_INSTANCE}", build: .}
  pulled: {image: "reg:5000/app:1", build: ., pull_policy: missing}
  agent: {image: agent, network_mode: host, dns: [10.9.0.53, 9.9.9.9], extra_hosts: ["web=10.9.0.7", "out=10.8.0.1", "me=host-gateway"]}
  spy: {image: spy, network_mode: "container:shop-web", pid: "container:else"}
networks:
  back: {name: backbone, driver_opts: {com.docker.network.bridge.name: br-shop}, ipam: {config: [{subnet: 10.9.0.0/24, gateway: 10.9.0.1}]}}
  proxy: {external: true}
volumes:
  rows: {}
  named: {name: shop_rows}
  own: {name: "${COMPOSE_PROJECT_NAME:-x}.own"}
  disk: {driver_opts: {type: none, o: bind, device: /srv/disk}}
  theirs: {external: true, name: everybodys}
`
	dir := project(t, file)
	var said []string
	p, err := Load(context.Background(), Source{WorkDir: dir, Instance: "two", Said: func(s string) { said = append(said, s) }})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for name, s := range p.Services {
		got[name] = s.Image + " " + s.ContainerName
	}
	for key, n := range p.Networks {
		got["network "+key] = n.Name
	}
	for key, v := range p.Volumes {
		got["volume "+key] = v.Name
	}
	got["tags"] = strings.Join(p.Services["web"].Build.Tags, " ")
	want := map[string]string{
		"web": "shop/web:dev-two shop-web-two", "worker": "shop/web:dev-two shop-two_worker", "mine": "app:two ", "pulled": "reg:5000/app:1 ", "agent": "agent ", "spy": "spy ",
		"network back": "backbone-two", "network proxy": "proxy", "network default": "shop-two_default",
		"volume rows": "shop-two_rows", "volume named": "shop_rows-two", "volume own": "shop-two.own", "volume disk": "shop-two_disk", "volume theirs": "everybodys",
		"tags": "shop/web:latest-two reg:5000/web:latest-two",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	web := p.Services["web"]
	if from := CopiedImage(web) + " " + CopiedImage(p.Services["worker"]) + " " + CopiedImage(p.Services["pulled"]); from != "shop/web:dev shop/web:dev " {
		t.Errorf("images are copied from %q", from)
	}
	one, err := Load(context.Background(), Source{WorkDir: dir, Instance: "two", Services: []string{"worker"}})
	if err != nil || one.Services["worker"].Image != "shop/web:dev-two" {
		t.Errorf("alone the worker runs %q: %v", one.Services["worker"].Image, err)
	}
	if spy := p.Services["spy"]; spy.NetworkMode != "container:shop-web-two" || spy.Pid != "container:else" {
		t.Errorf("containers that are joined: %s, %s", spy.NetworkMode, spy.Pid)
	}
	if web.Networks["proxy"] != nil && len(web.Networks["proxy"].Aliases) > 0 || !slices.Equal(web.Networks["back"].Aliases, []string{"shop-web"}) || !slices.Equal(web.Networks["default"].Aliases, []string{"shop-web"}) {
		t.Errorf("the name in the file is to be found on the copy's own networks: %+v", web.Networks)
	}
	if worker := p.Services["worker"]; worker.Networks["default"] != nil {
		t.Errorf("a name that differs by itself needs no other: %+v", worker.Networks["default"])
	}
	back := p.Networks["back"]
	if len(back.Ipam.Config) > 0 || len(back.DriverOpts) > 0 || p.Services["web"].Networks["back"].Ipv4Address != "" {
		t.Errorf("addresses and links are kept: %+v", back)
	}
	if d := cmp.Diff([]string{
		"network back: its link is not called br-shop here, since a link's name is had once",
		"network back: subnet 10.9.0.0/24, 10.9.0.7 of web: not in a copy, which gets free addresses; services find each other by name",
		"network proxy is external: every copy shares it",
		"volume disk is /srv/disk on the machine: every copy shares it",
		"volume theirs is external: every copy shares it",
		"service agent: extra_hosts web is 10.9.0.7, which is not in a copy: use the name of the service",
		"service agent: dns is 10.9.0.53, which is not in a copy: use the name of the service",
		"service agent is on the host's network: its ports cannot be moved",
	}, said); d != "" {
		t.Error(d)
	}

	lan := "services: {a: {image: a, networks: [lan]}}\nnetworks: {lan: {driver: macvlan, driver_opts: {parent: eth0}, ipam: {config: [{subnet: 192.168.1.0/24}]}}}\n"
	if _, err := Load(context.Background(), Source{WorkDir: project(t, lan), Instance: "two"}); err == nil || !strings.Contains(err.Error(), "compose.yaml:2: networks.lan: a copy cannot have a macvlan") {
		t.Errorf("got %v", err)
	}
}

// The branch is that of the worktree a directory lies in.
func TestBranchOfWorktree(t *testing.T) {
	dir := t.TempDir()
	for path, text := range map[string]string{
		"repo/.git/HEAD": "ref: refs/heads/main\n", "repo/.git/worktrees/w/HEAD": "ref: refs/heads/a/b\n",
		"w/.git": "gitdir: " + dir + "/repo/.git/worktrees/w\n", "w/deep/x": "", "broken/.git": "nothing\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for at, want := range map[string]string{"repo": "main", "w": "a/b", "w/deep": "a/b"} {
		if got, err := branch(filepath.Join(dir, at)); err != nil || got != want {
			t.Errorf("%s: %q, %v", at, got, err)
		}
	}
	if got, err := branch(filepath.Join(dir, "broken")); err == nil || !strings.Contains(err.Error(), "does not point to a git repository") {
		t.Errorf("got %q, %v", got, err)
	}
}

// Where neither a file nor the directory names a project, that is said.
func TestNoName(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "日本")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	name := func() error {
		_, err := ProjectName(context.Background(), Source{WorkDir: dir})
		return err
	}
	if err := name(); err == nil || !strings.HasPrefix(err.Error(), "no compose file in "+dir) {
		t.Errorf("without a file: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "compose.yaml"), []byte("services: {a: {image: a}}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := name(); err == nil || !strings.Contains(err.Error(), "the project has no name") || !strings.Contains(err.Error(), "-p") {
		t.Errorf("with a file: %v", err)
	}
}
