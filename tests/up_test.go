package tests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// inOrder fails the test unless the words are found one behind the other.
func inOrder(t testing.TB, text string, words ...string) {
	t.Helper()
	rest := text
	for _, w := range words {
		_, after, ok := strings.Cut(rest, w)
		if !ok {
			t.Errorf("%q is not where it should be in:\n%s", w, text)
			return
		}
		rest = after
	}
}

// up in the foreground shows what containers write from the moment they start,
// whatever becomes of the others.
func TestForegroundLogs(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	run := func(name string, f func(t *testing.T, m *machine)) {
		t.Run(name, func(t *testing.T) { t.Parallel(); f(t, m.with(t)) })
	}
	run("while others wait", func(t *testing.T, m *machine) {
		dir := m.project("early-logs", `
services:
  db:
    image: busybox
    command: sh -c 'echo opening files; while [ ! -e /go ]; do sleep 0.05; done; echo ready to serve; exec sleep 1000'
    stop_signal: SIGKILL
    healthcheck: {test: test -e /go, interval: 100ms, retries: 10000}
  web: {image: busybox, command: sh -c 'echo web is here; exec sleep 1000', stop_signal: SIGKILL, depends_on: {db: {condition: service_healthy}}}
`)
		x := m.openTerminal(dir, "up")
		x.shows("opening files") // and db will not be healthy before somebody says so
		m.okIn(dir, "exec", "-T", "db", "touch", "/go")
		x.shows("web is here")
		x.shows("ready to serve")
		x.types("\x03")
		x.ends(130)
		x.shows("web-1 exited with code")
		x.shows("Container early-logs-db-1  Stopped")
		if strings.Contains(x.screen(), "\x1b[?2026h") {
			t.Errorf("a live view is drawn over the containers' lines:\n%q", x.screen())
		}
		inOrder(t, x.screen(), "Container early-logs-db-1  Started", "Service db  Ready", "web is here", "web-1 exited with code")
		inOrder(t, x.screen(), "opening files", "ready to serve")
		if n := strings.Count(x.screen(), "opening files"); n != 1 {
			t.Errorf("a line is shown %d times:\n%s", n, x.screen())
		}
	})
	run("of an apply that fails", func(t *testing.T, m *machine) {
		dir := m.project("fails", `
services:
  db: {image: busybox, command: sh -c 'echo no such directory; echo giving up; exit 3', restart: "no"}
  sick: {image: busybox, command: sh -c 'echo I feel bad; exec sleep 1000', stop_signal: SIGKILL, healthcheck: {test: "false", interval: 200ms, retries: 2}}
  web: {image: busybox, command: sleep 1000, depends_on: {db: {condition: service_completed_successfully}, sick: {condition: service_healthy}}}
`)
		r := m.in(dir, "up")
		inOrder(t, r.out, "db-1", "no such directory", "giving up", "db-1   exited with code 3")
		inOrder(t, r.out, "sick-1", "I feel bad")
		inOrder(t, r.err, "Container fails-web-1  Skipped", "gantry: ", "fails-db-1", "exit code 3", "gantry logs db")
		if r.code != 1 || strings.Contains(r.err, "giving up") {
			t.Error(r)
		}
	})
	run("of a job that has been done", func(t *testing.T, m *machine) {
		dir := m.project("done", `
services:
  job: {image: busybox, command: sh -c 'echo working; echo worked'}
  web: {image: busybox, command: sleep 1000, stop_signal: SIGKILL, depends_on: {job: {condition: service_completed_successfully}}}
`)
		m.okIn(dir, "up", "-d")
		r := m.in(dir, "up", "job")
		if r.code != 0 || strings.Count(r.out, "working") != 1 || strings.Count(r.out, "worked") != 1 || !strings.Contains(r.out, "job-1 exited with code 0") {
			t.Error(r)
		}
	})
	run("a job that ends well does not end the others", func(t *testing.T, m *machine) {
		dir := m.project("suite", `
services:
  prepare: {image: busybox, command: sh -c 'echo prepared'}
  tests: {image: busybox, command: sh -c 'echo testing; exit 9', depends_on: {prepare: {condition: service_completed_successfully}}}
`)
		r := m.in(dir, "up", "--exit-code-from", "tests")
		if r.code != 9 {
			t.Error(r)
		}
		inOrder(t, r.out, "prepared", "prepare-1 exited with code 0", "testing", "tests-1   exited with code 9")
	})
}

// What Docker Compose made is stopped, started and taken down like gantry's
// own, by its labels, and taken over by up.
func TestStacksOfOthers(t *testing.T) {
	t.Parallel()
	program, err := exec.LookPath("docker-compose")
	if err != nil {
		t.Skip("docker-compose is not installed: the stacks of others are its")
	}
	m := newMachine(t)
	dir := m.project("theirs", `
services:
  db: {image: busybox, command: sleep 1000, stop_signal: SIGKILL}
  web: {image: busybox, command: sh -c 'echo web is here; exec sleep 1000', stop_signal: SIGKILL, depends_on: [db]}
`)
	m.ok("ps", "-a", "-p", "theirs") // starts the daemon
	compose := func(args ...string) {
		t.Helper()
		cmd := exec.Command(program, args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "DOCKER_HOST=unix://"+filepath.Join(m.run, "gantry.sock"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("docker-compose %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	compose("-f", "compose.yaml", "up", "-d")
	states := func(want string) {
		t.Helper()
		if got := m.okIn(dir, "ps", "-a", "--format", "{{.Service}} {{.State}}"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	states("db running\nweb running\n")
	if out := m.okIn(dir, "logs", "web"); !strings.Contains(out, "web is here") {
		t.Error(out)
	}
	m.okIn(dir, "stop")
	states("db exited\nweb exited\n")
	m.okIn(dir, "start")
	states("db running\nweb running\n")
	m.okIn(dir, "restart", "web")
	m.oneLine(m.in(dir, "scale", "web=2"), "theirs", "not brought up by gantry", "gantry up -d --scale web=2")
	inOrder(t, m.in(dir, "plan").out, "made by docker compose", "→ replace theirs-db-1", "made by docker compose", "→ replace theirs-web-1")
	m.okIn(dir, "up", "-d", "--scale", "web=2")
	states("db running\nweb running\nweb running\n")
	compose("-f", "compose.yaml", "stop")
	states("db exited\nweb exited\nweb exited\n")
	m.okIn(dir, "up", "-d")
	states("db running\nweb running\n")
	m.okIn(dir, "down")
	compose("-f", "compose.yaml", "up", "-d")
	m.okIn(dir, "down")
	states("")
}

// Two services may change names with each other.
func TestNamesAreSwapped(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	text := `
services:
  a: {image: busybox, command: sleep 1000, stop_signal: SIGKILL, container_name: %s, volumes: [/data]}
  b: {image: busybox, command: sleep 1000, stop_signal: SIGKILL, container_name: %s}
`
	one, two := "one"+m.tag, "two"+m.tag
	dir := m.project("swap", fmt.Sprintf(text, one, two))
	m.okIn(dir, "up", "-d")
	m.okIn(dir, "exec", "-T", "a", "touch", "/data/kept")
	write(t, filepath.Join(dir, "compose.yaml"), fmt.Sprintf(text, two, one))
	m.okIn(dir, "up", "-d")
	if got, want := m.okIn(dir, "ps", "--format", "{{.Service}} {{.Name}} {{.State}}"), fmt.Sprintf("a %s running\nb %s running\n", two, one); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	m.okIn(dir, "exec", "-T", "a", "test", "-e", "/data/kept")
	if r := m.in(dir, "plan"); r.code != 0 {
		t.Error(r)
	}
}

// up --wait is content when services run and go on running.
func TestWait(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	dir := m.project("waits", `
services:
  good: {image: busybox, command: sleep 1000, stop_signal: SIGKILL}
  bad: {image: busybox, command: sh -c 'sleep 0.05; exit 3'}
`)
	r := m.in(dir, "up", "--wait", "good")
	if r.code != 0 {
		t.Fatal(r)
	}
	for range 10 { // on a machine that is too busy to end it in time it passes for a good one
		if r = m.in(dir, "up", "--wait", "--force-recreate", "bad"); r.code != 0 {
			break
		}
	}
	if r.code != 1 {
		t.Error(r)
	}
	inOrder(t, r.err, "gantry: ", "container waits-bad-1 exited with code 3", "gantry logs bad")
	// A new container of a job must end well even if everybody who waits for it runs already.
	job := `
services:
  job: {image: busybox, command: exit %s}
  web: {image: busybox, command: sleep 1000, stop_signal: SIGKILL, depends_on: {job: {condition: service_completed_successfully}}}
`
	dir = m.project("again", strings.Replace(job, "exit %s", "'true'", 1))
	m.okIn(dir, "up", "-d")
	since := m.shows("again-web-1", "{{.State.StartedAt}}")
	write(t, dir+"/compose.yaml", strings.Replace(job, "exit %s", "sh -c 'exit 4'", 1))
	if r = m.in(dir, "up", "-d"); r.code != 1 {
		t.Error(r)
	}
	inOrder(t, r.err, "gantry: ", "again-job-1", "exit code 4", "gantry logs job")
	if now := m.shows("again-web-1", "{{.State.StartedAt}}"); now != since {
		t.Errorf("web was restarted: %s, %s", since, now)
	}
}
