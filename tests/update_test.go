package tests

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// alive are the names of a service's containers that run, sorted.
func (m *machine) alive(dir, service string) []string {
	m.t.Helper()
	return strings.Fields(m.okIn(dir, "ps", "--status", "running", "--format", "{{.Name}}", service))
}

// A new replica is there before the old one leaves, and the old one is gone
// when up returns; where two cannot live together the old one goes first. It
// takes the second that the new one is watched, and no longer.
func TestUpdateOrder(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	stack := func(level string) string {
		return fmt.Sprintf(`
services:
  web: {image: busybox, command: sleep 1000, stop_signal: SIGKILL, environment: {LEVEL: %[1]s}}
  db: {image: busybox, command: sleep 1000, stop_signal: SIGKILL, environment: {LEVEL: %[1]s}, volumes: ["data:/data"]}
volumes: {data: {}}
`, level)
	}
	dir := m.project("order", stack("info"))
	m.okIn(dir, "up", "-d")
	write(t, dir+"/compose.yaml", stack("debug"))
	inOrder(t, m.in(dir, "plan").out, "replace order-db-1, stop-first (writes to volume data)")
	r := m.in(dir, "up", "-d")
	if r.code != 0 || r.took > 3*time.Second {
		t.Errorf("took %s: %s", r.took, r)
	}
	for _, service := range []string{"web", "db"} {
		if got := m.okIn(dir, "ps", "-a", "--format", "{{.Name}}", service); strings.TrimSpace(got) != "order-"+service+"-1" {
			t.Errorf("containers of %s: %s", service, got)
		}
		if got := m.okIn(dir, "exec", "-T", service, "sh", "-c", "echo $LEVEL"); got != "debug\n" {
			t.Errorf("%s runs with LEVEL=%s", service, got)
		}
	}
	if r := m.in(dir, "plan"); r.code != 0 {
		t.Errorf("there is something left: %s", r)
	}
}

// An update that fails leaves what serves alone, keeps the replica that has
// failed, and shows what it wrote.
func TestUpdateFails(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	stack := func(command string) string {
		return fmt.Sprintf(`
services:
  web: {image: busybox, command: %s, stop_signal: SIGKILL, scale: 2, restart: always}
`, command)
	}
	dir := m.project("fails", stack(`sh -c 'exec sleep 1000'`))
	m.okIn(dir, "up", "-d")
	write(t, dir+"/compose.yaml", stack(`sh -c 'echo reading /etc/app; echo no such file; exit 3'`))
	r := m.in(dir, "up", "-d")
	if r.code != 1 {
		t.Fatal(r)
	}
	inOrder(t, r.err, "has crashed 3 times", "code 3", "| reading /etc/app", "| no such file")
	if got := m.alive(dir, "web"); len(got) != 2 || !strings.HasSuffix(got[0]+got[1], "fails-web-2") && !strings.HasSuffix(got[0]+got[1], "_fails-web-1") {
		t.Errorf("these run: %q", got)
	}
	if got := m.okIn(dir, "logs", "web"); !strings.Contains(got, "no such file") {
		t.Errorf("the failed one's logs are gone: %s", got)
	}
	// The way back needs nothing new.
	write(t, dir+"/compose.yaml", stack(`sh -c 'exec sleep 1000'`))
	begun := m.okIn(dir, "ps", "--format", "{{.ID}}", "web")
	if r := m.in(dir, "up", "-d"); r.code != 0 {
		t.Fatal(r)
	}
	if now := m.okIn(dir, "ps", "--format", "{{.ID}}", "web"); now != begun {
		t.Errorf("what served was replaced: %s, was %s", now, begun)
	}
	if got := strings.Fields(m.okIn(dir, "ps", "-a", "--format", "{{.Name}}", "web")); strings.Join(got, " ") != "fails-web-1 fails-web-2" {
		t.Errorf("containers: %q", got)
	}
}

// failure_action: rollback goes back by itself, and rollback when asked; history
// tells of all of it.
func TestUpdateRollsBack(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	stack := func(command, more string) string {
		return fmt.Sprintf(`
services:
  web: {image: busybox, command: %q, stop_signal: SIGKILL, scale: 2, deploy: {update_config: {monitor: 200ms, parallelism: 1, %s}, rollback_config: {parallelism: 0, monitor: 200ms}}}
`, command, more)
	}
	dir := m.project("back", stack("sleep 1001", "failure_action: rollback"))
	m.okIn(dir, "up", "-d")
	write(t, dir+"/compose.yaml", stack("sleep 1002", "failure_action: rollback"))
	m.okIn(dir, "up", "-d")
	write(t, dir+"/compose.yaml", stack(`sh -c 'echo going down; exit 4'`, "failure_action: rollback"))
	r := m.in(dir, "up", "-d")
	if r.code != 1 {
		t.Fatal(r)
	}
	inOrder(t, r.err, "exited with code 4", "| going down", "rolled back to revision 2")
	runs := func(what string) {
		t.Helper()
		got := m.okIn(dir, "top", "web")
		if n := strings.Count(got, what); n != 2 || len(strings.Fields(m.okIn(dir, "ps", "-aq", "web"))) != 2 {
			t.Errorf("%d of 2 run %s:\n%s\n%s", n, what, got, m.okIn(dir, "ps", "-a"))
		}
	}
	runs("sleep 1002")
	inOrder(t, m.okIn(dir, "rollback", "--dry-run"), "command", "1001", "replace 2 containers, start-first")
	m.okIn(dir, "rollback", "web")
	runs("sleep 1001")
	m.okIn(dir, "rollback", "--to", "2")
	runs("sleep 1002")
	history := m.okIn(dir, "history")
	inOrder(t, history, "6", "rollback to 2", "done", "5", "rollback to 1", "done", "4", "rollback to 2", "done", "3", "apply", "rolled back", "2", "apply", "done", "1", "apply", "done")
	if got := m.okIn(dir, "history", "--no-trunc", "web"); !strings.Contains(got, "going down") {
		t.Errorf("why revision 3 failed is not told:\n%s", got)
	}
	m.fails(dir, []string{"rollback", "--to", "77"}, "no revision 77", "gantry history")
	m.fails(dir, []string{"rollback", "nobody"}, "no service", "nobody")
}

// A daemon that is killed in the middle of an update goes on with it.
func TestUpdateSurvives(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	stack := func(n int) string {
		return fmt.Sprintf(`
services:
  web: {image: busybox, command: sleep %d, stop_signal: SIGKILL, scale: 3, deploy: {update_config: {monitor: 300ms, parallelism: 1, delay: 300ms}}}
`, n)
	}
	dir := m.project("survives", stack(1001))
	m.okIn(dir, "up", "-d")
	write(t, dir+"/compose.yaml", stack(1002))
	done := make(chan result, 1)
	go func() { done <- m.in(dir, "up", "-d") }()
	eventually(t, 5*time.Second, "the first replica is replaced", func() bool {
		return strings.Contains(m.gantry("-p", "survives", "top", "web").out, "sleep 1002")
	})
	m.kill("gantryd")
	if r := <-done; r.code == 0 {
		t.Error("up did not notice that its daemon died")
	}
	eventually(t, 15*time.Second, "the update is done", func() bool {
		r := m.in(dir, "top", "web")
		return strings.Count(r.out, "sleep 1002") == 3 && !strings.Contains(r.out, "sleep 1001")
	})
	eventually(t, 5*time.Second, "it is told as done", func() bool {
		return strings.Contains(strings.Split(m.okIn(dir, "history"), "\n")[1], "done")
	})
	if r := m.in(dir, "plan"); r.code != 0 {
		t.Errorf("there is something left: %s", r)
	}
}

// A time that is up ends the wait and not what serves; the next call goes on.
func TestUpdateWaits(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	stack := func(n int, file string) string {
		return fmt.Sprintf(`
services:
  web: {image: busybox, command: sleep %d, stop_signal: SIGKILL, healthcheck: {test: test -e %s, interval: 100ms, start_period: 60s}}
`, n, file)
	}
	dir := m.project("waits", stack(1001, "/bin/sh"))
	m.okIn(dir, "up", "-d", "--wait")
	write(t, dir+"/compose.yaml", stack(1002, "/ready"))
	m.fails(dir, []string{"up", "-d", "--wait", "--wait-timeout", "1"}, "not ready after 1 seconds")
	if got := m.okIn(dir, "top", "web"); !strings.Contains(got, "sleep 1001") || !strings.Contains(got, "sleep 1002") {
		t.Errorf("both should run:\n%s", got)
	}
	done := make(chan result, 1)
	go func() { done <- m.in(dir, "up", "-d", "--wait") }()
	time.Sleep(300 * time.Millisecond)
	m.ok("container", "exec", "waits-web-1", "touch", "/ready")
	if r := <-done; r.code != 0 {
		t.Fatal(r)
	}
	if got := m.okIn(dir, "top", "web"); strings.Contains(got, "sleep 1001") || !strings.Contains(got, "sleep 1002") {
		t.Errorf("the new one alone should run:\n%s", got)
	}
}
