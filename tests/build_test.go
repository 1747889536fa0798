package tests

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/md5"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// source writes a directory to build from.
func (m *machine) source(name, dockerfile string, files ...string) string {
	m.t.Helper()
	dir := filepath.Join(m.dir, name)
	write(m.t, filepath.Join(dir, "Dockerfile"), dockerfile)
	for i := 0; i+1 < len(files); i += 2 {
		write(m.t, filepath.Join(dir, files[i]), files[i+1])
	}
	return dir
}

// built builds a directory into files and gives one of them.
func (m *machine) built(dir, file string, args ...string) string {
	m.t.Helper()
	out := filepath.Join(dir, "out")
	m.okIn(dir, append([]string{"image", "build", "-o", out, "."}, args...)...)
	return read(m.t, filepath.Join(out, file))
}

func read(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// A Dockerfile becomes an image, by image build.
func TestImageBuild(t *testing.T) {
	t.Parallel()
	m := newMachine(t, memory())
	run := func(name string, f func(t *testing.T, m *machine)) {
		t.Run(name, func(t *testing.T) { t.Parallel(); f(t, m.with(t)) })
	}
	run("of several stages that runs", func(t *testing.T, m *machine) {
		dir := m.source("stages", `
FROM busybox AS make
ARG WHO=nobody
RUN echo "built by $WHO" > /out
FROM busybox
COPY --from=make /out /out
LABEL kind=test
CMD ["cat", "/out"]
`)
		r := m.in(dir, "image", "build", "-t", "stages", "-t", "stages:two", "--build-arg", "WHO=me", "--iidfile", "id", "--metadata-file", "meta.json", "--progress", "plain", ".")
		if r.code != 0 || r.out != "" {
			t.Fatal(r)
		}
		inOrder(t, r.err, "load build definition from Dockerfile", "[make 2/2] RUN echo")
		id := read(t, filepath.Join(dir, "id"))
		if got := strings.TrimSpace(m.ok("image", "inspect", "stages:two", "--format", `{{.Id}} {{index .Config.Labels "kind"}}`)); got != id+" test" {
			t.Errorf("got %q, want %q", got, id)
		}
		var meta map[string]any
		if err := json.Unmarshal([]byte(read(t, filepath.Join(dir, "meta.json"))), &meta); err != nil || meta["containerimage.config.digest"] != id {
			t.Errorf("got %v, %v", meta, err)
		}
		up := m.project("stages-up", "services: {job: {image: stages}}")
		if r := m.in(up, "up"); !strings.Contains(r.out, "built by me") {
			t.Error(r)
		}
		if r := m.in(dir, "image", "build", "-q", "-t", "stages", "--build-arg", "WHO=me", "."); r.out != id+"\n" || r.err != "" {
			t.Errorf("a build that is cached gives another image: %s", r)
		}
	})
	run("without what .dockerignore names", func(t *testing.T, m *machine) {
		dir := m.source("ignore", "FROM scratch\nCOPY . /\n", ".dockerignore", "*.log\n!keep.log\nDockerfile\n", "a.log", "", "keep.log", "kept", "sub/x", "x")
		if got := m.built(dir, "keep.log"); got != "kept" {
			t.Error(got)
		}
		for name, want := range map[string]bool{"a.log": false, "Dockerfile": false, "sub/x": true} {
			if _, err := os.Stat(filepath.Join(dir, "out", name)); (err == nil) != want {
				t.Errorf("%s: there is %v, want %v", name, err == nil, want)
			}
		}
	})
	run("to which is sent what has changed", func(t *testing.T, m *machine) {
		dir := m.source("big", "FROM scratch\nCOPY big small /\n", "big", strings.Repeat("0123456789abcdef", 4<<16), "small", "1")
		sent := func() string {
			t.Helper()
			r := m.in(dir, "image", "build", "--progress", "plain", "-o", "type=cacheonly", ".")
			last := ""
			for line := range strings.Lines(r.err) {
				if _, after, ok := strings.Cut(line, "transferring context: "); ok {
					last = strings.Fields(after)[0]
				}
			}
			if r.code != 0 {
				t.Error(r)
			}
			return last
		}
		if got := sent(); !strings.HasSuffix(got, "MB") {
			t.Errorf("first %s were sent", got)
		}
		write(t, filepath.Join(dir, "small"), "2")
		if got := sent(); strings.HasSuffix(got, "MB") || got == "" {
			t.Errorf("then %s were sent", got)
		}
	})
	run("with secrets that stay secret", func(t *testing.T, m *machine) {
		const secret = "hunter2-and-more"
		dir := m.source("secrets", `
FROM busybox AS make
RUN --mount=type=secret,id=file --mount=type=secret,id=env,target=/env \
    cat /run/secrets/file /env | md5sum > /sum && ! test -s /run/secrets/nosuch
RUN test ! -e /run/secrets/file
FROM scratch
COPY --from=make /sum /
`)
		write(t, filepath.Join(m.dir, "secret.txt"), secret)
		own := *m
		own.env = append(slices.Clone(m.env), "PASS="+secret)
		r := own.in(dir, "image", "build", "--progress", "rawjson", "--secret", "id=file,src=../secret.txt", "--secret", "id=env,env=PASS", "-o", "out", ".")
		if r.code != 0 || strings.Contains(r.err, secret) {
			t.Fatal(r)
		}
		if got, want := read(t, filepath.Join(dir, "out", "sum")), fmt.Sprintf("%x", md5.Sum([]byte(secret+secret))); !strings.HasPrefix(got, want) {
			t.Errorf("got %s, want %s", got, want)
		}
		log, err := os.ReadFile(filepath.Join(m.root, "gantryd.log"))
		if err != nil || strings.Contains(string(log), secret) {
			t.Errorf("the daemon's log tells the secret, or %v", err)
		}
	})
	run("with an agent's socket", func(t *testing.T, m *machine) {
		l, err := net.Listen("unix", filepath.Join(m.dir, "agent.sock"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		dir := m.source("ssh", "FROM busybox AS make\nRUN --mount=type=ssh test -S $SSH_AUTH_SOCK && echo yes > /got\nFROM scratch\nCOPY --from=make /got /\n")
		if got := m.built(dir, "got", "--ssh", "default="+l.Addr().String()); got != "yes" {
			t.Error(got)
		}
	})
	run("with a cache mount that lasts", func(t *testing.T, m *machine) {
		dir := m.source("cache", "FROM busybox AS make\nARG N\nRUN --mount=type=cache,target=/c echo $N >> /c/all && cp /c/all /all\nFROM scratch\nCOPY --from=make /all /\n")
		m.built(dir, "all", "--build-arg", "N=1")
		if got := m.built(dir, "all", "--build-arg", "N=2"); got != "1\n2" {
			t.Errorf("got %q", got)
		}
	})
	run("from standard input", func(t *testing.T, m *machine) {
		cmd := m.command(context.Background(), m.dir, "image", "build", "-q", "-t", "fromstdin", "-")
		cmd.Stdin = strings.NewReader("FROM busybox\nRUN echo hi > /hi\n")
		if r := m.runCommand(cmd); r.code != 0 || !strings.HasPrefix(r.out, "sha256:") {
			t.Error(r)
		}
		var archive bytes.Buffer
		w := tar.NewWriter(&archive)
		for name, text := range map[string]string{"sub/Dockerfile": "FROM scratch\nCOPY a /a\n", "a": "of a tar"} {
			w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))})
			io.WriteString(w, text)
		}
		w.Close()
		cmd = m.command(context.Background(), m.dir, "image", "build", "-f", "sub/Dockerfile", "-o", "type=tar,dest=-", "-")
		cmd.Stdin = &archive
		r := m.runCommand(cmd)
		if got := untar(t, strings.NewReader(r.out)); got["a"] != "of a tar" {
			t.Errorf("got %v: %s", got, r)
		}
		dir := m.source("elsewhere", "FROM nosuch", "x", "x of the context")
		write(t, filepath.Join(m.dir, "other.Dockerfile"), "FROM scratch\nCOPY x /\n")
		if got := m.built(dir, "x", "-f", "../other.Dockerfile"); got != "x of the context" {
			t.Error(got)
		}
	})
	run("into archives", func(t *testing.T, m *machine) {
		dir := m.source("outputs", "FROM busybox\nRUN echo out > /out.txt\n")
		m.okIn(dir, "image", "build", "-t", "arch:1", "-o", "type=oci,dest=o.tar", "-o", "type=docker,dest=d.tar", "-o", "type=tar,dest=new/t.tar", ".")
		for file, want := range map[string]string{"o.tar": "index.json", "d.tar": "manifest.json", "new/t.tar": "out.txt"} {
			f, err := os.Open(filepath.Join(dir, file))
			if err != nil {
				t.Fatal(err)
			}
			if got := untar(t, f); got[want] == "" {
				t.Errorf("%s holds no %s", file, want)
			}
			f.Close()
		}
		if r := m.in(dir, "image", "inspect", "arch:1"); r.code == 0 {
			t.Error("an image that was to go elsewhere is in the store")
		}
		m.okIn(dir, "image", "load", "-i", "d.tar")
		m.ok("image", "inspect", "arch:1")
		left, _ := filepath.Glob(filepath.Join(dir, ".*"))
		if len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	run("whose step fails", func(t *testing.T, m *machine) {
		dir := m.source("fails", "FROM busybox\nRUN echo before\nRUN echo what is wrong; exit 3\nRUN echo after\n")
		r := m.in(dir, "image", "build", ".")
		if r.code != 1 || r.out != "" || strings.Contains(r.err, "] RUN echo after\n#") {
			t.Error(r)
		}
		inOrder(t, r.err, "what is wrong", "Dockerfile:3", ">>> RUN echo what is wrong; exit 3", "gantry: ", "exit code: 3")
		if n := strings.Count(r.err, "gantry: "); n != 1 {
			t.Errorf("%d lines of error: %s", n, r)
		}
	})
	run("that is only looked at", func(t *testing.T, m *machine) {
		dir := m.source("check", "FROM busybox AS base\nfrom base\nRUN exit 1\n")
		r := m.in(dir, "image", "build", "--check", ".")
		if r.code != 1 || !strings.Contains(r.out, "ConsistentInstructionCasing") {
			t.Error(r)
		}
		if out := m.okIn(dir, "image", "build", "--call", "targets", "."); !strings.Contains(out, "base") {
			t.Error(out)
		}
		write(t, filepath.Join(dir, "Dockerfile"), "FROM busybox\nRUN exit 1\n")
		if out := m.okIn(dir, "image", "build", "--check", "."); !strings.Contains(out, "no warnings") {
			t.Error(out)
		}
	})
	run("refused in one line", func(t *testing.T, m *machine) {
		dir := m.source("bad", "FROM scratch\nCOPY a /\n", "a", "")
		for _, tt := range []struct {
			args, want string
		}{
			{"", "wrong number of arguments (0)"},
			{"nosuch", "build context nosuch: no such directory"},
			{"a", "build context a is no directory"},
			{"-f nosuch .", "no Dockerfile"},
			{"--network front .", `network "front"`},
			{"--allow device .", `entitlement "device"`},
			{"-o type=zip,dest=x .", "output of type zip"},
			{"--secret id=x,src=nosuch .", "secret"},
			{"--ssh default .", "SSH_AUTH_SOCK"},
			{"--cache-to type=gha .", `"gha"`},
			{"--isolation hyperv .", "--isolation hyperv"},
			{"--squash .", "--squash"},
			{"--security-opt x .", "--security-opt"},
			{"--builder x .", "--builder"},
			{"--rm=false .", "--rm=false"},
			{"--shm-size much .", `--shm-size "much"`},
			{"--add-host x .", `--add-host "x"`},
			{"--progress loud .", `--progress "loud"`},
			{"--progress tty .", "no terminal"},
			{"--push .", "--push needs a name"},
			{"--build-context x .", `--build-context "x"`},
			{"--build-context x=nosuch .", "no directory"},
			{"-q --target nosuch .", "nosuch"},
			{"-q -t Bad! .", "Bad!"},
			{"--cache-from Bad! .", `build cache of the image "Bad!"`},
			{"--iidfile nosuch/id .", "nosuch"},
			{"-q --ulimit nofile=2:1 .", `ulimit "nofile=2:1"`},
			{"-q --cpuset-cpus 8000 .", "cpuset"},
		} {
			own := *m
			own.env = append(slices.Clone(m.env), "SSH_AUTH_SOCK=")
			r := own.in(dir, append([]string{"image", "build"}, strings.Fields(tt.args)...)...)
			own.oneLine(r, tt.want)
		}
	})
}

func untar(t testing.TB, r io.Reader) map[string]string {
	t.Helper()
	all := map[string]string{}
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if err != nil {
			return all
		}
		text, _ := io.ReadAll(in)
		all[h.Name] = string(text)
	}
}

// An interrupt ends a build at once, wherever it is, and nothing is left.
func TestBuildInterrupted(t *testing.T) {
	t.Parallel()
	m := newMachine(t, memory())
	dir := m.source("sleeps", "FROM busybox\nRUN echo asleep; exec sleep 98765\n")
	gone := func(why string) {
		t.Helper()
		eventually(t, 5*time.Second, "no step is left after "+why, func() bool { return !runs("sleep", "98765") })
	}
	x := m.openTerminal(dir, "image", "build", ".")
	x.shows("asleep")
	begin := time.Now()
	x.types("\x03")
	x.ends(130)
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("it took %s", took)
	}
	gone("an interrupt")

	// Also when the client is killed, and cannot say goodbye.
	cmd := m.command(context.Background(), dir, "image", "build", "--no-cache", ".")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "the step runs", func() bool { return runs("sleep", "98765") })
	cmd.Process.Signal(syscall.SIGKILL)
	cmd.Wait()
	gone("the client's death")
	write(t, filepath.Join(dir, "Dockerfile"), "FROM busybox\nRUN echo awake\n")
	m.okIn(dir, "image", "build", "-q", ".")
}

// runs reports whether a process with this command line does.
func runs(command ...string) bool {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		text, _ := os.ReadFile(filepath.Join(d, "cmdline"))
		if strings.TrimSuffix(string(text), "\x00") == strings.Join(command, "\x00") {
			return true
		}
	}
	return false
}

// Services are built by build, and by up as far as it needs to.
func TestComposeBuild(t *testing.T) {
	t.Parallel()
	m := newMachine(t, memory())
	run := func(name string, f func(t *testing.T, m *machine)) {
		t.Run(name, func(t *testing.T) { t.Parallel(); f(t, m.with(t)) })
	}
	run("only what a change touches", func(t *testing.T, m *machine) {
		dir := m.project("changes", "services: {app: {build: ., stop_signal: SIGKILL}}", "Dockerfile", `
FROM busybox
COPY a /a
RUN cat /proc/sys/kernel/random/uuid > /id.a
COPY b /b
RUN cat /proc/sys/kernel/random/uuid > /id.b
CMD ["sleep", "1000"]
`, "a", "1", "b", "1")
		look := func() (a, b, container string) {
			t.Helper()
			ids := strings.Fields(m.okIn(dir, "exec", "-T", "app", "cat", "/id.a", "/id.b"))
			return ids[0], ids[1], m.shows("changes-app-1", "{{.Id}}")
		}
		if r := m.in(dir, "plan"); r.code != 2 || !strings.Contains(r.out, "run changes-app-1") || !strings.Contains(r.out, "note: image changes-app is built first: it is not here") {
			t.Error(r)
		}
		if r := m.in(dir, "up", "-d", "--no-build"); r.code != 1 || !strings.Contains(r.err, "--no-build") {
			t.Error(r)
		}
		if r := m.in(dir, "image", "inspect", "changes-app"); r.code == 0 {
			t.Error("it was built all the same")
		}
		m.okIn(dir, "up", "-d")
		a, b, c := look()
		write(t, filepath.Join(dir, "b"), "2")
		m.okIn(dir, "up", "-d") // the image is here
		if _, b2, c2 := look(); b2 != b || c2 != c {
			t.Error("up builds an image that is here")
		}
		r := m.in(dir, "up", "-d", "--build", "--progress", "plain")
		if r.code != 0 || !strings.Contains(r.err, "CACHED") || !strings.Contains(r.err, "Container changes-app-1  Recreated") {
			t.Error(r)
		}
		a2, b2, c2 := look()
		if a2 != a || b2 == b || c2 == c {
			t.Errorf("got %s %s %s, before %s %s %s", a2, b2, c2, a, b, c)
		}
		m.okIn(dir, "up", "-d", "--build")
		if _, b3, c3 := look(); b3 != b2 || c3 != c2 {
			t.Error("what has not changed is built or recreated")
		}
		if r := m.in(dir, "plan"); r.code != 0 {
			t.Error(r)
		}
	})
	run("with the images of other services", func(t *testing.T, m *machine) {
		dir := m.project("contexts", `
services:
  base: {build: {dockerfile_inline: "FROM busybox\nENV FROM_BASE=yes\nRUN echo base > /base\n"}}
  app:
    build: {context: ., additional_contexts: {base: "service:base", files: ./files}, pull: true, args: {WHO: },
      dockerfile_inline: "FROM base\nARG WHO\nCOPY --from=files x /x\nRUN echo $$(cat /base) $$(cat /x) $$FROM_BASE $$WHO > /app\n"}
    command: cat /app
`, "files/x", "file")
		own := *m
		own.env = append(slices.Clone(m.env), "WHO=caller")
		r := own.in(dir, "build", "app", "--progress", "plain")
		if r.code != 0 || !strings.Contains(r.err, "[app ") || !strings.Contains(r.err, "[base ") {
			t.Error(r)
		}
		if r := own.in(dir, "build", "--check"); r.code != 0 || strings.Count(r.out, "no warnings") != 2 {
			t.Error(r)
		}
		if r := own.in(dir, "up", "--no-build", "app"); !strings.Contains(r.out, "base file yes caller") {
			t.Error(r)
		}
	})
	run("equal ones once, others side by side", func(t *testing.T, m *machine) {
		dir := m.project("twins", `
x-build: &build {dockerfile_inline: "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /id\n"}
services:
  a: {build: *build}
  b: {build: *build, image: twins-named}
  c: {build: {dockerfile_inline: "FROM busybox\nRUN echo c > /c\n", tags: ["twins-c:more"]}}
`)
		r := m.in(dir, "build", "-q")
		if n := len(strings.Fields(r.out)); r.code != 0 || n != 2 {
			t.Fatalf("%d images: %s", n, r)
		}
		id := func(name string) string { return m.ok("image", "inspect", name, "--format", "{{.Id}}") }
		if id("twins-a") != id("twins-named") || id("twins-c") != id("twins-c:more") || id("twins-a") == id("twins-c") {
			t.Error("the images are not what they should be")
		}
		if out := m.okIn(dir, "build", "--print"); !strings.Contains(out, `"tags": [
        "twins-c",
        "twins-c:more"`) {
			t.Error(out)
		}
		if out := m.okIn(dir, "build", "--dry-run", "c"); out != "build c: twins-c, twins-c:more\n" {
			t.Errorf("got %q", out)
		}
	})
	run("with secrets that are not kept", func(t *testing.T, m *machine) {
		const secret = "not-for-the-goal-31337"
		dir := m.project("hush", `
secrets: {token: {file: ./token}}
services:
  base: # which nobody runs, and nobody else needs the secret
    profiles: [base]
    build:
      secrets: [token]
      dockerfile_inline: "FROM busybox\nRUN --mount=type=secret,id=token wc -c < /run/secrets/token > /size\n"
  app:
    build: {additional_contexts: {base: "service:base"}, dockerfile_inline: "FROM base\n"}
    command: cat /size
`, "token", secret)
		if r := m.in(dir, "up"); !strings.Contains(r.out, "22") {
			t.Error(r)
		}
		filepath.WalkDir(m.root, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				if text, err := os.ReadFile(path); err == nil && bytes.Contains(text, []byte(secret)) {
					t.Errorf("%s holds the secret", path)
				}
			}
			return nil
		})
	})
	run("refused by name", func(t *testing.T, m *machine) {
		for section, want := range map[string]string{
			"isolation: hyperv":         "compose.yaml:2: services.app.build.isolation: isolation \"hyperv\"",
			"network: front":            "services.app.build.network",
			"entitlements: [device]":    "services.app.build.entitlements",
			"platforms: [linux/a/b/c]":  "services.app.build.platforms",
			"cache_to: ['type=s3,a=b']": "service app: build cache of type \"s3\"",
			"context: nosuch":           "no directory",
		} {
			dir := m.project("refuses", "services:\n  app: {build: {"+section+"}}\n", "Dockerfile", "FROM busybox\n")
			r := m.in(dir, "build")
			m.oneLine(r, want)
			if r := m.in(dir, "up", "-d"); r.code != 1 || !strings.Contains(r.err, want) {
				t.Error(r)
			}
		}
		dir := m.project("nothing", "services: {app: {image: busybox}}")
		m.oneLine(m.in(dir, "build"), "project nothing has no service with a build section")
		m.oneLine(m.in(dir, "build", "app"), "no build section in service app")
		m.oneLine(m.in(dir, "build", "--builder", "x"), "--builder is not supported")
	})
}
