package tests

import (
	"strings"
	"testing"
)

// Health checks from outside are health checks: dependents wait for them, they
// are shown, and a change of one is a change of the service.
func TestProbesFromOutside(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	file := `
services:
  db:
    image: busybox
    command: sh -c 'sleep 0.2; exec nc -ll -p 5432 -e cat'
    stop_signal: SIGKILL
    x-gantry: {healthcheck: {tcp: 5432}}
  web:
    image: busybox
    command: sh -c 'mkdir /www; echo up >/www/health; exec httpd -f -p 8080 -h /www'
    stop_signal: SIGKILL
    depends_on: {db: {condition: service_healthy}}
    x-gantry: {healthcheck: {http: PATH, interval: 1s}}
`
	dir := m.project("outside", strings.ReplaceAll(file, "PATH", "8080/health"))
	m.okIn(dir, "up", "-d", "--wait")
	if out := m.okIn(dir, "ps"); strings.Count(out, "(healthy)") != 2 {
		t.Error(out)
	}
	out := m.okIn(dir, "container", "inspect", "outside-web-1")
	inOrder(t, out, `"Health"`, `"healthy"`, `200 OK\nup\n`)
	inOrder(t, out, `"Healthcheck"`, `"HTTP"`, `"8080/health"`)
	if out := m.okIn(dir, "exec", "-T", "web", "ps"); strings.Count(out, "\n") != 3 { // the heading, the server, ps
		t.Errorf("a probe has a process in the container:\n%s", out)
	}
	m.fails(m.project("outside", strings.ReplaceAll(file, "PATH", "health")), []string{"up", "-d"}, "compose.yaml:", "x-gantry.healthcheck.http", "8080/health")
	dir = m.project("outside", strings.ReplaceAll(file, "PATH", "8080/"))
	if r := m.in(dir, "plan"); !strings.Contains(r.out, `healthcheck.test ["HTTP","8080/health"] → ["HTTP","8080/"]`) {
		t.Error(r)
	}
	m.fails(dir, []string{"up", "-d", "--wait"}, "web", "404 Not Found") // a directory without an index
	m.okIn(dir, "down")
}
