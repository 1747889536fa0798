package tests

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// replicasOf is how many containers of a service run.
func (m *machine) replicasOf(dir, service string) int {
	return len(strings.Fields(m.okIn(dir, "ps", "-q", "--status", "running", service)))
}

// The number of replicas is what was said last: by the file, by up or by scale;
// none is a number, too.
func TestScale(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	dir := m.project("many", `
services:
  web: {image: busybox, command: sleep 1000, stop_signal: SIGKILL, deploy: {replicas: 2}, volumes: ["data:/data"]}
  db: {image: busybox, command: sleep 1000, stop_signal: SIGKILL}
volumes: {data: {}}
`)
	for _, tt := range []struct {
		args []string
		want int
	}{
		{[]string{"up", "-d"}, 2},
		{[]string{"up", "-d", "--scale", "web=4"}, 4},
		{[]string{"scale", "web=0"}, 0},
		{[]string{"start"}, 0}, // there is none to start
		{[]string{"scale", "web=3"}, 3},
		{[]string{"stop", "web"}, 0},
		{[]string{"scale", "web=1"}, 0}, // stopped stays stopped
		{[]string{"start", "web"}, 1},
		{[]string{"up", "-d"}, 2}, // as the file says
		{[]string{"up", "-d", "--scale", "web=0"}, 0},
		{[]string{"up", "-d", "--no-deps", "web"}, 2},
	} {
		m.okIn(dir, tt.args...)
		if n := m.replicasOf(dir, "web"); n != tt.want {
			t.Errorf("%v: %d replicas, want %d", tt.args, n, tt.want)
		}
		if n := m.replicasOf(dir, "db"); n != 1 {
			t.Errorf("%v: %d of the other service", tt.args, n)
		}
	}
	m.fails(dir, []string{"scale", "web=-1"}, "-1")
	m.okIn(dir, "down", "-v")
}

// A service under load gets replicas up to its maximum, and keeps them in an up.
func TestAutoscale(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.env = append(m.env, "GANTRY_MEASURE=250ms")
	m.ok("daemon", "stop") // the next command starts one that measures as often
	file := `
services:
  web:
    image: busybox
    command: sh -c 'while [ ! -e /work/done ]; do :; done; exec sleep 1000'
    stop_signal: SIGKILL
    cpus: 0.05
    volumes: [work:/work]
    x-gantry: {autoscale: {min: %s, max: 3, cpu: 50%%, stabilization: 1s}}
volumes: {work: {}}
`
	dir := m.project("busy", fmt.Sprintf(file, "1"))
	m.okIn(dir, "up", "-d")
	eventually(t, 10*time.Second, "there are three", func() bool { return m.replicasOf(dir, "web") == 3 })
	if out := m.okIn(dir, "up", "-d"); m.replicasOf(dir, "web") != 3 {
		t.Errorf("up has changed the number of replicas:\n%s", out)
	}
	m.fails(dir, []string{"scale", "web=4"}, "between 1 and 3")
	eventually(t, 10*time.Second, "ps says what it does", func() bool {
		return strings.Contains(m.in(dir, "ps").err, "web: autoscaled, 1 to 3, cpu at ")
	})
	m.okIn(dir, "exec", "-T", "--index", "1", "web", "touch", "/work/done")
	eventually(t, 10*time.Second, "there is one", func() bool { return m.replicasOf(dir, "web") == 1 })
	if out := m.okIn(dir, "history", "--no-trunc", "web"); !strings.Contains(out, "autoscale") || !strings.Contains(out, "web: replicas 1 → ") {
		t.Errorf("no history of it:\n%s", out)
	}
	m.fails(m.project("busy", fmt.Sprintf(file, "0")), []string{"up", "-d"}, "compose.yaml:", "x-gantry.autoscale.min", "0 is no whole number from 1")
	m.okIn(dir, "down", "-v")
}

// A job is run when it is due, whatever becomes of the daemon, and is nothing
// that up starts.
func TestSchedule(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	dir := m.project("nightly", `
services:
  backup:
    image: busybox
    command: sh -c 'echo run >>/data/runs; echo worked; exit 3'
    volumes: [data:/data]
    x-gantry: {schedule: "@every 1s"}
  idle: {image: busybox, command: sleep 1000, stop_signal: SIGKILL, volumes: [data:/data]}
volumes: {data: {}}
`)
	runs := func() int { return strings.Count(m.in(dir, "exec", "-T", "idle", "cat", "/data/runs").out, "run") }
	out := m.in(dir, "up", "-d", "--wait")
	if out.code != 0 || strings.Contains(out.err, "backup") {
		t.Errorf("up says something of a job: %s", out)
	}
	eventually(t, 10*time.Second, "it is run twice", func() bool { return runs() >= 2 })
	if r := m.in(dir, "ps"); !strings.Contains(r.err, "backup: a job (@every 1s), next run in ") {
		t.Errorf("ps does not say when it is run: %s", r)
	}
	if out := m.okIn(dir, "logs", "backup"); !strings.Contains(out, "worked") {
		t.Errorf("no log of it: %s", out)
	}
	if out := m.okIn(dir, "ps", "-a", "--format", "{{.Service}} {{.State}}"); strings.Count(out, "backup") != 1 {
		t.Errorf("more than one run is there:\n%s", out)
	}
	if out := m.okIn(dir, "history", "backup"); !strings.Contains(out, "run") || !strings.Contains(out, ", exit code 3 after ") {
		t.Errorf("no history of its runs:\n%s", out)
	}
	m.kill("gantryd")
	n := runs()
	eventually(t, 10*time.Second, "it is run by the next daemon", func() bool { return runs() > n+1 })
	m.okIn(dir, "stop", "backup")
	n = runs()
	time.Sleep(1500 * time.Millisecond)
	if now := runs(); now != n {
		t.Errorf("it is stopped, and is run %d times", now-n)
	}
	m.okIn(dir, "up", "-d")
	if r := m.in(dir, "plan"); r.code != 0 {
		t.Errorf("up twice is not empty: %s", r)
	}
	m.okIn(dir, "down", "-v")
}
