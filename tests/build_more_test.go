package tests

import (
	"fmt"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

// A build takes what it needs from wherever it is.
func TestBuildSources(t *testing.T) {
	t.Parallel()
	m := newMachine(t, memory())
	run := func(name string, f func(t *testing.T, m *machine)) {
		t.Run(name, func(t *testing.T) { t.Parallel(); f(t, m.with(t)) })
	}
	run("git", func(t *testing.T, m *machine) {
		backend := "/usr/lib/git-core/git-http-backend"
		if _, err := os.Stat(backend); err != nil {
			t.Skipf("needs git to serve a repository: %v", err)
		}
		dir := filepath.Join(m.dir, "repos", "app")
		write(t, filepath.Join(dir, "sub", "Dockerfile"), "FROM scratch\nCOPY a /\n")
		write(t, filepath.Join(dir, "sub", "a"), "from git")
		for _, args := range [][]string{{"init", "-q", "-b", "main"}, {"add", "."}, {"-c", "user.name=x", "-c", "user.email=x@y", "commit", "-qm", "x"}} {
			cmd := exec.Command("git", args...)
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("git %v: %v %s", args, err, out)
			}
		}
		srv := httptest.NewServer(&cgi.Handler{Path: backend, Env: []string{
			"GIT_PROJECT_ROOT=" + filepath.Dir(dir), "GIT_HTTP_EXPORT_ALL=1",
			"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"}})
		defer srv.Close()
		out := filepath.Join(m.dir, "git-out")
		m.ok("image", "build", "-o", out, srv.URL+"/app/.git#main:sub")
		if got := read(t, filepath.Join(out, "a")); got != "from git" {
			t.Error(got)
		}
	})
	run("http", func(t *testing.T, m *machine) {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "FROM busybox\nRUN echo from a URL > /x\n")
		}))
		defer srv.Close()
		m.ok("image", "build", "-t", "from-http", srv.URL+"/Dockerfile")
		m.ok("image", "inspect", "from-http")
	})
	run("an OCI layout and an image", func(t *testing.T, m *machine) {
		dir := m.source("layout", "FROM busybox\nRUN echo layer > /l\n")
		m.okIn(dir, "image", "build", "-o", "type=oci,tar=false,dest=lay", ".")
		write(t, filepath.Join(dir, "Dockerfile"), "FROM base AS make\nRUN cat /l > /n && test -x /bin/sh\nFROM scratch\nCOPY --from=make /n /\nCOPY --from=img /bin/busybox /b\n")
		if got := m.built(dir, "n", "--build-context", "base=oci-layout://lay", "--build-context", "img=docker-image://busybox"); got != "layer" {
			t.Error(got)
		}
	})
	run("other platforms", func(t *testing.T, m *machine) {
		dir := m.source("platforms", "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /a\n", "arm64", "arm", "amd64", "amd")
		if got := m.built(dir, "linux_arm64/a", "--platform", "linux/amd64,linux/arm64"); got != "arm" {
			t.Error(got)
		}
		m.oneLine(m.in(dir, "image", "build", "--platform", "linux/amd64,linux/arm64", "-o", "type=docker,dest=x.tar", "."), "holds one platform")
	})
	run("attestations", func(t *testing.T, m *machine) {
		// What looks at the image is an image: one with busybox's means.
		looks := m.source("looks", "FROM busybox\nCOPY scan /\nCMD [\"sh\", \"/scan\"]\n", "scan", `
cat > $BUILDKIT_SCAN_DESTINATION/sbom.spdx.json <<EOF
{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://spdx.dev/Document","predicate":{"files":"$(echo $(ls $BUILDKIT_SCAN_SOURCE))"}}
EOF
`)
		m.okIn(looks, "image", "build", "-q", "-t", "scanner", ".")
		dir := m.source("attested", "FROM scratch\nCOPY only /\n", "only", "x")
		out := filepath.Join(m.dir, "attested-out")
		m.okIn(dir, "image", "build", "--sbom", "generator=scanner", "-o", out, ".")
		if got := read(t, filepath.Join(out, "sbom.spdx.json")); !strings.Contains(got, `"files": "only"`) {
			t.Error(got)
		}
		m.okIn(dir, "image", "build", "-q", "-t", "mute", ".")
		m.oneLine(m.in(dir, "image", "build", "-q", "--sbom", "generator=mute", "."), "scanner docker.io/library/mute:latest")
		m.oneLine(m.in(dir, "image", "build", "-q", "--sbom", "some", "."), `--sbom "some"`)
		// The id is the image's, as without them, and so up is content with it.
		if with, without := m.okIn(dir, "image", "build", "-q", "--provenance", "max", "--sbom", "generator=scanner", "."), m.okIn(dir, "image", "build", "-q", "."); with != without {
			t.Errorf("the image is %s with attestations, %s without", with, without)
		}
		up := m.project("attests", `
services:
  app: {build: {dockerfile_inline: "FROM busybox\nRUN echo x > /x\n", sbom: "generator=scanner", provenance: true}, stop_signal: SIGKILL, command: sleep 1000}
`)
		m.okIn(up, "up", "-d")
		if r := m.in(up, "plan"); r.code != 0 {
			t.Error(r)
		}
		m.okIn(up, "down")
	})
	run("an image of another time", func(t *testing.T, m *machine) {
		dir := m.source("epoch", "FROM busybox\nRUN echo x > /f\n")
		m.okIn(dir, "image", "build", "--build-arg", "SOURCE_DATE_EPOCH=1000000000", "-o", "type=image,name=epoch,rewrite-timestamp=true", ".")
		up := m.project("epoch-runs", "services: {app: {image: epoch, pull_policy: never, command: stat -c %Y /f}}")
		if r := m.in(up, "up", "--no-log-prefix"); !strings.Contains(r.out, "1000000000\n") {
			t.Errorf("the files are not those of the image's layers: %s", r)
		}
	})
	run("an attested image that runs", func(t *testing.T, m *machine) {
		dir := m.project("attested", "services: {app: {build: {dockerfile_inline: \"FROM busybox\\nRUN echo attested > /a\\n\", provenance: mode=max}, command: cat /a}}")
		if r := m.in(dir, "up"); !strings.Contains(r.out, "attested") {
			t.Error(r)
		}
		if r := m.in(dir, "plan"); r.code != 2 || !strings.Contains(r.out, "start attested-app-1") {
			t.Errorf("the image that was built is not the one of the plan: %s", r)
		}
	})
}

// Steps have the limits and the rights they are given, and no others.
func TestBuildSteps(t *testing.T) {
	t.Parallel()
	m := newMachine(t, memory())
	dir := m.source("steps", `
FROM busybox AS make
ARG N
RUN (ulimit -n; df /dev/shm | tail -1 | awk '{print $2}'; grep -c extra /etc/hosts; ls /sys/class/net | tr '\n' ' ') > /got
FROM scratch
COPY --from=make /got /
`)
	if got := m.built(dir, "got", "--build-arg", "N=1", "--ulimit", "nofile=77:99", "--shm-size", "5m", "--add-host", "extra:10.1.2.3", "--network", "none"); got != "77\n5120\n1\nlo" {
		t.Errorf("got %q", got)
	}
	write(t, filepath.Join(dir, "Dockerfile"), "FROM busybox AS make\nRUN --security=insecure grep CapEff /proc/self/status > /got\nFROM scratch\nCOPY --from=make /got /\n")
	r := m.in(dir, "image", "build", "-q", ".")
	if r.code != 1 {
		t.Error(r)
	}
	inOrder(t, r.err, ">>> RUN --security=insecure grep", "--allow security.insecure", "build.entitlements: [security.insecure]")
	if got := m.built(dir, "got", "--allow", "security.insecure"); strings.Contains(got, "00000000a80425fb") {
		t.Errorf("a step that was given all rights has %s", got)
	}
	write(t, filepath.Join(dir, "Dockerfile"), "FROM busybox AS make\nRUN --network=host ls /sys/class/net > /got\nFROM scratch\nCOPY --from=make /got /\n")
	r = m.in(dir, "image", "build", "-q", ".")
	if r.code != 1 {
		t.Error(r)
	}
	inOrder(t, r.err, ">>> RUN --network=host ls", "--allow network.host", "build.entitlements: [network.host]")
	if got := m.built(dir, "got", "--network", "host"); !strings.Contains(got, "lo") {
		t.Error(got)
	}
	// What no step can be limited to is refused before any runs, cached or not.
	m.oneLine(m.in(dir, "image", "build", "-q", "-m", "3", "."), "mem_limit: 3 bytes is less than 6 MiB")
	// A cgroup made for the steps goes with them.
	parent := "/" + m.tag + "-steps"
	m.okIn(dir, "image", "build", "-q", "--no-cache", "--network", "host", "--cgroup-parent", parent, ".")
	if left := cgroupsAt(t, parent); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	// By its compose file.
	up := m.project("rights", `
services:
  app:
    build: {privileged: true, ulimits: {nofile: 55}, shm_size: 3m, extra_hosts: ["more=10.4.5.6"], dockerfile_inline: "FROM busybox\nRUN --security=insecure (ulimit -n; grep -c more /etc/hosts) > /got\n"}
    command: cat /got
`)
	if r := m.in(up, "up", "--no-log-prefix"); !strings.Contains(r.out, "55\n1\n") {
		t.Error(r)
	}
}

// Cache goes to a directory or a registry and comes back from there, also to a
// daemon that has never built; and images are pushed with the caller's login.
func TestBuildCache(t *testing.T) {
	t.Parallel()
	hash, err := bcrypt.GenerateFromPassword([]byte("hunter2"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	place := t.TempDir()
	write(t, filepath.Join(place, "users"), "anna:"+string(hash)+"\n")
	addr := freeAddress(t)
	runBeside(t, addr, filepath.Join(programs, "gantry"), "registry", "serve", "--addr", addr, "--root", filepath.Join(place, "data"), "--htpasswd", place+"/users")

	m := registryMachine(t)
	m.ok("image", "import", archive(t, "busybox"), "busybox", "--change", `CMD ["sh"]`)
	base := filepath.Join(place, "base.tar")
	m.ok("image", "save", "-o", base, "busybox")
	machineOf := func() *machine { // with the same base
		m := registryMachine(t)
		m.ok("image", "load", "-i", base)
		return m
	}
	dir := m.project("caches", fmt.Sprintf(`
services:
  app:
    image: %s/app
    build: {dockerfile_inline: "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /id\n", tags: ["%[1]s/app:two"], cache_to: ["type=local,dest=cache", "type=registry,ref=%[1]s/cache"]}
`, addr))
	if r := m.in(dir, "build", "--push"); r.code != 1 || strings.Contains(r.err, "hunter2") {
		t.Errorf("pushed without a login: %s", r)
	}
	if r := m.login(addr, "anna", "hunter2"); r.code != 0 {
		t.Fatal(r)
	}
	m.okIn(dir, "build", "--push")
	id := m.imageID(addr + "/app:two")
	want := m.ok("image", "inspect", id, "--format", "{{.RootFS.Layers}}")

	other := machineOf()
	if r := other.login(addr, "anna", "hunter2"); r.code != 0 {
		t.Fatal(r)
	}
	other.ok("image", "pull", addr+"/app:two")
	if got := other.imageID(addr + "/app:two"); got != id {
		t.Errorf("pulled %s, pushed %s", got, id)
	}
	for i, from := range []string{"type=local,src=" + filepath.Join(dir, "cache"), addr + "/cache"} {
		fresh := other
		if i > 0 {
			fresh = machineOf()
			fresh.login(addr, "anna", "hunter2")
		}
		again := fresh.source("again", "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /id\n")
		r := fresh.in(again, "image", "build", "--cache-from", from, "-t", "again", ".")
		if layers := fresh.ok("image", "inspect", "again", "--format", "{{.RootFS.Layers}}"); r.code != 0 || layers != want {
			t.Errorf("%s: the step has run again: %s", from, r)
		}
	}
	for _, each := range []*machine{m, other} {
		text, err := os.ReadFile(filepath.Join(each.root, "gantryd.log"))
		if err != nil || slices.ContainsFunc([]string{"hunter2", "YW5uYT"}, func(s string) bool { return strings.Contains(string(text), s) }) {
			t.Errorf("the log tells the login, or %v", err)
		}
	}
}

// A build that fails for want of a file of its context keeps the context no longer.
func TestBuildThatLacksAFile(t *testing.T) {
	t.Parallel()
	m := newMachine(t, memory())
	dir := m.source("lacks", "FROM busybox\nCOPY nope /\n", "big", strings.Repeat("x", 1<<20))
	for _, flag := range []string{"--progress=plain", "--no-cache"} {
		if r := m.in(dir, "image", "build", flag, "."); r.code != 1 || !strings.Contains(r.err, "nope") {
			t.Fatal(r)
		}
	}
	m.okIn(dir, "builder", "prune", "-af")
	if r := m.in(dir, "builder", "du"); r.code != 0 || strings.Contains(r.out, "regular") {
		t.Errorf("the cache is not empty: %s", r)
	}
}
