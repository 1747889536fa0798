package tests

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// The projects, the slowest first.
var realDockerfiles = []realDockerfile{
	{dir: "postgres", check: checkPostgres},
	{dir: "c", check: checkC},
	{dir: "python", check: checkPython, two: true},
	{dir: "node", check: checkNode},
	{dir: "go", args: []string{"--build-arg", "VERSION=v1.2"}, check: checkGo, two: true},
	{dir: "redis", check: checkRedis},
	{dir: "nginx", check: checkNginx},
	{dir: "secrets", more: secretArgs, check: checkSecrets},
	{dir: "heredoc", args: []string{"--build-arg", "PLANET=Venus"}, check: checkHeredoc, two: true},
	{dir: "worker", check: checkWorker, two: true},
	{
		dir: "onbuild", context: "child",
		first: func(m *machine, dir string) {
			m.build("-t", "texts-base", "--build-arg", "COLOUR=blue", filepath.Join(dir, "base"))
		},
		args:  []string{"--build-arg", "NAME=shelf"},
		check: checkOnBuild,
	},
	{dir: "copy", check: checkCopy},
	{dir: "archive", first: packed, check: checkArchive, two: true},
}

func checkPostgres(t *testing.T, d *dockered) {
	c := d.start()
	d.healthy(c)
	got := d.dockerOK("exec", c, "psql", "-h", "/tmp", "-Atc", "SELECT count(*), sum(height), current_user FROM plants")
	d.says("answer", got, "3|2442|postgres")
	inOrder(t, d.output(c), "init: 10-tables.sql", "init: 20-rows.sql", "database system is ready to accept connections")
	if code := d.stopped(c); code != "0" {
		t.Errorf("SIGINT ends it with code %s", code)
	}
	d.dockerOK("start", c)
	d.healthy(c)
	if n := strings.Count(d.output(c), "init: 20-rows.sql"); n != 1 {
		t.Errorf("the rows were made %d times", n)
	}
}

func checkC(t *testing.T, d *dockered) {
	d.says("output", d.once(), "2 3 5 7 11 13 17 19 23 29")
	d.says("output", d.once("primes", "7"), "2 3 5")
	if r := d.docker("run", "--rm", d.image, "sh", "-c", "command -v gcc || grep -q .symtab /usr/local/bin/primes"); r.code == 0 {
		t.Errorf("the compiler or the symbols are in the image: %s", r)
	}
}

func checkPython(t *testing.T, d *dockered) {
	d.says("output", d.once("/etc/hostname"), "/etc/hostname: 1 lines\ntally 3.1 for app in /venv")
	if got := d.once(); !strings.HasPrefix(got, "/etc/passwd: ") {
		t.Errorf("CMD is not the default: %s", got)
	}
}

func checkNode(t *testing.T, d *dockered) {
	c := d.start()
	_, body := d.ask(c, "3000", "/")
	d.says("answer", body, `{"name":"rhymes","version":"1.4.0","asked":"1 time","user":"node","env":"production"}`)
	if _, body = d.ask(c, "3000", "/"); !strings.Contains(body, "2 times") {
		t.Errorf("the second time it says %s", body)
	}
}

func checkGo(t *testing.T, d *dockered) {
	c := d.start()
	_, body := d.ask(c, "8080", "/")
	d.says("answer", body, "clock v1.2, user 65532, shell false")
	if n := d.inspect("{{len .RootFS.Layers}}"); n != "1" {
		t.Errorf("%s layers from scratch", n)
	}
}

func checkRedis(t *testing.T, d *dockered) {
	c := d.start()
	d.healthy(c)
	d.says("its user", d.dockerOK("exec", c, "id", "-un"), "redis")
	d.says("its policy", d.dockerOK("exec", c, "redis-cli", "config", "get", "maxmemory-policy"), "maxmemory-policy\nallkeys-lru")
	d.dockerOK("exec", c, "redis-cli", "set", "kept", "yes")
	d.stopped(c)
	d.dockerOK("start", c)
	d.healthy(c)
	d.says("after a restart its value", d.dockerOK("exec", c, "redis-cli", "get", "kept"), "yes")
}

func checkNginx(t *testing.T, d *dockered) {
	c := d.start()
	_, body := d.ask(c, "80", "/about")
	d.says("page", body, "<!doctype html><title>about</title><pre>\nWe make pages of text.\n</pre>")
	if resp, _ := d.ask(c, "80", "/", "Accept-Encoding", "gzip"); resp.Header.Get("Content-Encoding") != "gzip" {
		t.Errorf("the packed page is not sent: %v", resp.Header)
	}
	if resp, _ := d.ask(c, "80", "/health"); resp.StatusCode != http.StatusNoContent {
		t.Errorf("health: %s", resp.Status)
	}
	if resp, _ := d.ask(c, "80", "/about.txt"); resp.StatusCode != http.StatusNotFound {
		t.Errorf("a source of a page is there: %s", resp.Status)
	}
	if out := d.output(c); !strings.Contains(out, `"GET /about HTTP/1.1" 200`) {
		t.Errorf("log: %s", out)
	}
	if code := d.stopped(c); code != "0" {
		t.Errorf("SIGQUIT ends it with code %s", code)
	}
}

const buildToken = "token-of-the-build-7e1c"

func secretArgs(m *machine) []string {
	m.t.Helper()
	write(m.t, filepath.Join(m.dir, "token"), buildToken)
	agent := filepath.Join(m.dir, "agent")
	sshAgent(m.t, agent, "gantry-tests")
	return []string{"--secret", "id=token,src=" + filepath.Join(m.dir, "token"), "--ssh", "default=" + agent}
}

func checkSecrets(t *testing.T, d *dockered) {
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(buildToken+"\n")))
	d.says("output", d.once(), fmt.Sprintf("400 12 %d\n%s  -\ngantry-tests (ED25519)", len(buildToken), sum))
	if out := d.ok("image", "history", "--no-trunc", d.image); strings.Contains(out, buildToken) {
		t.Errorf("history has the secret: %s", out)
	}
}

func checkHeredoc(t *testing.T, d *dockered) {
	d.says("output", d.once(), `Hello, Venus!
Hello, $PLANET, literally!
line 1
line 2
line 3
1
4
9
16
25
$HOME stays as it is`)
}

func checkWorker(t *testing.T, d *dockered) {
	d.says("config", d.inspect(`{{.Config.User}} {{.Config.StopSignal}} {{json .Config.Volumes}} {{json .Config.Healthcheck.Test}}`),
		`worker SIGUSR1 {"/var/lib/worker/queue":{}} ["CMD-SHELL","test -e /tmp/ready"]`)
	c := d.start()
	d.healthy(c)
	if code := d.stopped(c); code != "0" {
		t.Errorf("its signal ends it with code %s", code)
	}
	d.says("output", d.output(c), "work hard, steady, as worker (1200:1200) in /var/lib/worker\nstopped after 2 jobs")
}

func checkOnBuild(t *testing.T, d *dockered) {
	d.says("output", d.once(), "made from latest, blue\nshelf has 2 texts\nblue")
	base := &dockered{d.machine, "texts-base"}
	d.says("base", base.inspect(`{{json .Config.Shell}} {{len .Config.OnBuild}} {{index .Config.Labels "org.example.colour"}}`),
		`["/bin/sh","-e","-u","-c"] 3 blue`)
}

func checkCopy(t *testing.T, d *dockered) {
	d.says("output", d.once(), `-rw-r--r-- 0:0 chosen/deep/one.txt
-rw-r--r-- 0:0 chosen/secret.txt
-rw-r--r-- 0:0 chosen/with space.txt
-rw-r--r-- 0:0 link/made/deep/file
lrwxrwxrwx 0:0 link/made/link
-rw-r----- 700:700 link/secret.txt
-rw-r--r-- 700:700 owned/README.md
-rw-r--r-- 700:700 owned/deep/one.txt
-rw-r--r-- 700:700 owned/drafts/plan.md
-rw-r--r-- 700:700 owned/secret.txt
-rw-r--r-- 700:700 owned/with space.txt
-rw-r--r-- 0:0 parents/drafts/plan.md
-rw-r--r-- 0:0 parents/files/deep/one.txt
-rw-r--r-- 0:0 spaced out/with space.txt
from-a-stage`)
}

func checkArchive(t *testing.T, d *dockered) {
	d.says("output", d.once(), `./docs/guide.md
./release.tar.gz
./src/main.py
./src/pkg/mod.py
2.0
release runs`)
}
