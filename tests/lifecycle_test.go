package tests

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// state is what inspect says of a container: by default its state.
func (m *machine) state(container string) string { return m.shows(container, "{{.State.Status}}") }

func (m *machine) shows(container, format string) string {
	m.t.Helper()
	return strings.TrimSpace(m.ok("container", "inspect", container, "--format", format))
}

// A container's life is Docker's: each of its states, and every way between.
func TestStates(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	dir := m.project("life", `
services:
  web: {image: busybox, command: sleep 1000, stop_signal: SIGKILL}
  codes: {image: busybox, command: sh -c 'trap "exit 5" TERM; while :; do sleep 0.05; done'}
`)
	const web, codes = "life-web-1", "life-codes-1"
	want := func(container, state string) {
		t.Helper()
		if got := m.state(container); got != state {
			t.Errorf("%s is %s, want %s", container, got, state)
		}
	}
	m.okIn(dir, "up", "--no-start")
	want(web, "created")
	if r := m.in(dir, "exec", "-T", "web", "true"); r.code != 1 || !strings.Contains(r.err, "not running") {
		t.Errorf("exec in a created container: %s", r)
	}
	m.okIn(dir, "start")
	want(web, "running")
	m.okIn(dir, "pause", "web")
	want(web, "paused")
	if out := m.okIn(dir, "ps", "web"); !strings.Contains(out, "Paused") {
		t.Errorf("ps: %s", out)
	}
	m.fails(m.dir, []string{"container", "exec", web, "true"}, web, "paused")
	m.fails(m.dir, []string{"container", "start", web}, web, "paused")
	m.okIn(dir, "unpause", "web")
	want(web, "running")
	pid := m.shows(web, "{{.State.Pid}}")
	m.okIn(dir, "restart", "web")
	if now := m.shows(web, "{{.State.Pid}}"); now == pid || now == "0" {
		t.Errorf("restarted, and its process is %s, was %s", now, pid)
	}
	m.okIn(dir, "stop", "codes")
	want(codes, "exited")
	if got := m.shows(codes, "{{.State.ExitCode}}"); got != "5" {
		t.Errorf("exit code %s", got)
	}
	m.okIn(dir, "start", "codes")
	waited := make(chan result, 1)
	go func() { waited <- m.gantry("container", "wait", codes) }()
	time.Sleep(200 * time.Millisecond)
	m.okIn(dir, "kill", "-s", "TERM", "codes")
	if r := <-waited; strings.TrimSpace(r.out) != "5" {
		t.Errorf("wait: %s", r)
	}
	m.ok("container", "rename", codes, "another-name")
	want("another-name", "exited")
	m.fails(m.dir, []string{"container", "inspect", codes}, codes)
	m.fails(m.dir, []string{"container", "rename", "another-name", web}, web, "in use")
	m.ok("container", "rename", "another-name", codes)
	m.fails(m.dir, []string{"container", "rm", web}, web, "running", "Stop")
	m.okIn(dir, "kill", "web")
	want(web, "exited")
	if got := m.shows(web, "{{.State.ExitCode}}"); got != "137" {
		t.Errorf("killed, exit code %s", got)
	}
	m.ok("container", "start", web)
	m.ok("container", "rm", "-f", web)
	m.okIn(dir, "rm", "-f", "codes")
	if left := m.ok("container", "ls", "-aq"); left != "" {
		t.Errorf("left: %s", left)
	}
	// Removed by a call: nothing brings it back but the next up.
	time.Sleep(300 * time.Millisecond)
	if left := m.ok("container", "ls", "-aq"); left != "" {
		t.Errorf("back again: %s", left)
	}
	m.okIn(dir, "up", "-d")
	want(web, "running")
}

// Restart policies, the wait between restarts, and that a stop holds.
func TestRestartPolicies(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	dir := m.project("restart", `
x-crash: &crash {image: busybox, command: "false"}
services:
  never: {<<: *crash, restart: "no"}
  twice: {<<: *crash, restart: "on-failure:2"}
  fine: {image: busybox, command: "true", restart: on-failure}
  always: {<<: *crash, restart: always}
  kept: {image: busybox, command: sleep 1000, restart: always, stop_signal: SIGKILL}
  unless: {image: busybox, command: sleep 1000, restart: unless-stopped, stop_signal: SIGKILL}
`)
	m.okIn(dir, "up", "-d")
	begin := time.Now()
	eventually(t, 10*time.Second, "two restarts, then no more", func() bool {
		return m.shows("restart-twice-1", "{{.State.Status}} {{.RestartCount}} {{.State.ExitCode}}") == "exited 2 1"
	})
	if got := m.shows("restart-never-1", "{{.State.Status}} {{.RestartCount}} {{.State.ExitCode}}"); got != "exited 0 1" {
		t.Errorf("no: %s", got)
	}
	if got := m.shows("restart-fine-1", "{{.State.Status}} {{.RestartCount}} {{.State.ExitCode}}"); got != "exited 0 0" {
		t.Errorf("on-failure that did not fail: %s", got)
	}
	time.Sleep(max(0, 2500*time.Millisecond-time.Since(begin)))
	var n int
	fmt.Sscan(m.shows("restart-always-1", "{{.RestartCount}}"), &n)
	if n < 3 || n > 8 {
		t.Errorf("restarted %d times in 2.5 s: the wait should double from 100 ms", n)
	}
	if got := m.state("restart-always-1"); got != "restarting" && got != "running" {
		t.Errorf("between restarts it is %s", got)
	}
	t.Run("a crash is repaired at once", func(t *testing.T) {
		m := m.with(t)
		for _, name := range []string{"restart-kept-1", "restart-unless-1"} {
			old := m.shows(name, "{{.State.Pid}}")
			kill9(t, old)
			eventually(t, 2*time.Second, name+" runs again", func() bool {
				now := m.shows(name, "{{.State.Pid}}")
				return now != old && now != "0"
			})
		}
	})
	t.Run("a stop holds, also while it waits to restart", func(t *testing.T) {
		m := m.with(t)
		m.okIn(dir, "stop", "kept", "always", "unless")
		m.kill("gantryd")
		m.ok("daemon", "start")
		m.ok("daemon", "stop", "--leave")
		m.ok("daemon", "start")
		time.Sleep(300 * time.Millisecond)
		for _, name := range []string{"kept", "always", "unless"} {
			if got := m.state("restart-" + name + "-1"); got != "exited" {
				t.Errorf("%s was stopped and is %s", name, got)
			}
		}
		m.okIn(dir, "up", "-d")
		if got := m.state("restart-kept-1"); got != "running" {
			t.Errorf("the next up wants it, and it is %s", got)
		}
	})
	t.Run("a daemon that was away restarts what ended", func(t *testing.T) {
		m := m.with(t)
		pid := m.shows("restart-kept-1", "{{.State.Pid}}")
		m.ok("daemon", "stop", "--leave")
		kill9(t, pid)
		m.ok("daemon", "start")
		eventually(t, 3*time.Second, "it runs again", func() bool {
			return m.state("restart-kept-1") == "running" && m.shows("restart-kept-1", "{{.State.Pid}}") != pid
		})
	})
}

// All conditions of depends_on.
func TestDependencies(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	t.Run("in order", func(t *testing.T) {
		m := m.with(t)
		dir := m.project("deps", `
services:
  top:
    image: busybox
    command: sleep 1000
    stop_signal: SIGKILL
    depends_on:
      job: {condition: service_completed_successfully}
      healthy: {condition: service_healthy}
      started: {condition: service_started}
      broken: {condition: service_healthy, required: false}
      off: {condition: service_started, required: false}
  job: {image: busybox, command: sleep 0.3}
  started: {image: busybox, command: sleep 1000, stop_signal: SIGKILL}
  healthy:
    image: busybox
    command: sh -c 'sleep 0.4; touch /ok; exec sleep 1000'
    stop_signal: SIGKILL
    healthcheck: {test: test -e /ok, interval: 20s, start_period: 30s}
  broken:
    image: busybox
    command: sleep 1000
    stop_signal: SIGKILL
    healthcheck: {test: "false", interval: 50ms, retries: 1}
  off: {image: busybox, command: sleep 1000, profiles: [never]}
`)
		r := m.in(dir, "up", "-d")
		if r.code != 0 || r.took > 10*time.Second {
			t.Fatalf("after %s: %s", r.took, r)
		}
		at := func(name, event string) time.Time {
			t.Helper()
			when, err := time.Parse(time.RFC3339Nano, m.shows("deps-"+name+"-1", "{{.State."+event+"}}"))
			if err != nil {
				t.Fatal(err)
			}
			return when
		}
		top := at("top", "StartedAt")
		if at("job", "FinishedAt").After(top) || at("started", "StartedAt").After(top) || top.Sub(at("healthy", "StartedAt")) < 400*time.Millisecond {
			t.Error("it was started too early")
		}
		if got := m.shows("deps-healthy-1", "{{.State.Health.Status}}"); got != "healthy" {
			t.Errorf("health: %s", got)
		}
		if got := m.gantry("container", "inspect", "deps-off-1"); got.code == 0 {
			t.Error("a service of a profile that is off was started")
		}
		m.okIn(dir, "down")
	})
	t.Run("what fails opens no door", func(t *testing.T) {
		m := m.with(t)
		for name, c := range map[string][2]string{
			"failed":    {"job: {image: busybox, command: sh -c 'exit 4'}", "service_completed_successfully"},
			"unhealthy": {"job: {image: busybox, command: sleep 1000, stop_signal: SIGKILL, healthcheck: {test: 'false', interval: 50ms, retries: 2}}", "service_healthy"},
			"gone":      {"job: {image: busybox, command: sh -c 'exit 6', healthcheck: {test: sleep 1000, interval: 50ms, start_period: 5s}}", "service_healthy"},
		} {
			dir := m.project(name, "services:\n  "+c[0]+"\n  side: {image: busybox, command: sleep 1000, stop_signal: SIGKILL}\n  top: {image: busybox, command: sleep 1000, depends_on: {job: {condition: "+c[1]+"}}}\n")
			m.oneLine(m.in(dir, "up", "-d"), name+"-job-1")
			if m.gantry("container", "inspect", name+"-top-1").code == 0 {
				t.Errorf("%s: the dependent was made", name)
			}
			if got := m.state(name + "-side-1"); got != "running" {
				t.Errorf("%s: a service that depends on nothing is %s", name, got)
			}
			m.okIn(dir, "down")
		}
	})
	t.Run("a chain takes as long as its services, not its intervals", func(t *testing.T) {
		m := m.with(t)
		var yaml strings.Builder
		yaml.WriteString("services:\n")
		for i := range 6 {
			fmt.Fprintf(&yaml, "  s%d: {image: busybox, command: sleep 1000, stop_signal: SIGKILL, healthcheck: {test: 'true', interval: 30s}", i)
			if i > 0 {
				fmt.Fprintf(&yaml, ", depends_on: {s%d: {condition: service_healthy}}", i-1)
			}
			yaml.WriteString("}\n")
		}
		dir := m.project("chain", yaml.String())
		if r := m.in(dir, "up", "-d", "--wait"); r.code != 0 || r.took > 8*time.Second {
			t.Errorf("after %s: %s", r.took, r)
		}
		events := m.events(dir, func() { m.okIn(dir, "down") })
		if got := only(events, "die"); !slices.Equal(got, []string{"s5", "s4", "s3", "s2", "s1", "s0"}) {
			t.Errorf("down ended them in the order %v", got)
		}
	})
	t.Run("--wait tells what does not become ready", func(t *testing.T) {
		m := m.with(t)
		dir := m.project("waits", "services: {sick: {image: busybox, command: sleep 1000, stop_signal: SIGKILL, healthcheck: {test: 'echo no luck; false', interval: 50ms, retries: 2}}}")
		m.oneLine(m.in(dir, "up", "-d", "--wait"), "waits-sick-1", "unhealthy")
		m.okIn(dir, "down")
	})
}

// events are those of a project while f runs.
func (m *machine) events(dir string, f func()) []string {
	m.t.Helper()
	since := time.Now().Add(-time.Millisecond).UTC().Format(time.RFC3339Nano)
	f()
	until := time.Now().UTC().Format(time.RFC3339Nano)
	var all []string
	for line := range strings.Lines(m.okIn(dir, "events", "--since", since, "--until", until, "--json")) {
		action, service := between(line, `"action":"`), between(line, `"service":"`)
		all = append(all, action+" "+service)
	}
	return all
}

func between(text, before string) string {
	_, rest, _ := strings.Cut(text, before)
	value, _, _ := strings.Cut(rest, `"`)
	return value
}

// only keeps the services that an action happened to.
func only(events []string, action string) []string {
	var services []string
	for _, e := range events {
		if service, ok := strings.CutPrefix(e, action+" "); ok {
			services = append(services, service)
		}
	}
	return services
}

// What up does is what plan says: nothing without a change, and what changed
// with its reason.
func TestPlans(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	const yaml = `
services:
  web:
    image: busybox
    command: sleep 1000
    stop_signal: SIGKILL
    environment: {LEVEL: "%s"}
    depends_on: [db]
    scale: %d
  db: {image: busybox, command: sleep 1000, stop_signal: SIGKILL}
%s
`
	project := func(level string, scale int, more string) string {
		return m.project("plans", fmt.Sprintf(yaml, level, scale, more))
	}
	const extra = "  old: {image: busybox, command: sleep 1000, stop_signal: SIGKILL}\n  debug: {image: busybox, command: sleep 1000, stop_signal: SIGKILL, profiles: [debug]}"
	dir := project("info", 2, extra)
	plan := func(code int, words ...string) {
		t.Helper()
		r := m.in(dir, "plan")
		if r.code != code {
			t.Errorf("want code %d: %s", code, r)
		}
		for _, w := range words {
			if !strings.Contains(r.out, w) {
				t.Errorf("%q is not in the plan:\n%s", w, r.out)
			}
		}
	}
	ids := func(service string) []string { return sorted(strings.Fields(m.okIn(dir, "ps", "-aq", service))) }

	plan(2, "network plans_default: does not exist → create", "run 2 containers (plans-web-1, plans-web-2)", "run plans-db-1")
	m.okIn(dir, "up", "-d", "db")
	if len(ids("web")) != 0 || len(ids("db")) != 1 {
		t.Error("up of one service is not that")
	}
	db := ids("db")
	m.okIn(dir, "up", "-d")
	web := ids("web")
	if len(web) != 2 || !slices.Equal(ids("db"), db) || len(ids("old")) != 1 {
		t.Error("up of the rest")
	}
	if len(strings.Fields(m.okIn(dir, "--profile", "debug", "ps", "-aq"))) != 4 {
		t.Error("a profile that is off")
	}
	plan(0)
	if events := m.events(dir, func() { m.okIn(dir, "up", "-d") }); len(events) > 0 {
		t.Errorf("an up without a change: %v", events)
	}
	if !slices.Equal(ids("web"), web) {
		t.Error("up without a change made other containers")
	}

	project("debug", 2, extra)
	plan(2, `web: environment.LEVEL "info" → "debug" → replace 2 containers`, "(plans-web-1, plans-web-2)")
	if r := m.in(dir, "plan"); strings.Contains(r.out, "plans-db-1") {
		t.Errorf("the database has not changed:\n%s", r.out)
	}
	m.okIn(dir, "up", "-d")
	for _, id := range ids("web") {
		if slices.Contains(web, id) {
			t.Error("a replica was not recreated")
		}
	}
	if !slices.Equal(ids("db"), db) {
		t.Error("the database was recreated")
	}
	plan(0)

	m.okIn(dir, "scale", "web=4")
	if n := len(ids("web")); n != 4 {
		t.Errorf("scaled to 4, there are %d", n)
	}
	m.okIn(dir, "scale", "web=0")
	if n := len(ids("web")); n != 0 {
		t.Errorf("scaled to 0, there are %d", n)
	}
	m.okIn(dir, "up", "-d", "--scale", "web=1")
	if n := len(ids("web")); n != 1 {
		t.Errorf("up --scale 1, there are %d", n)
	}

	project("debug", 1, "")
	plan(0, "orphan", "plans-old-1")
	m.okIn(dir, "up", "-d")
	if m.state("plans-old-1") != "running" {
		t.Error("an orphan was touched without being asked to")
	}
	m.okIn(dir, "up", "-d", "--remove-orphans")
	if m.gantry("container", "inspect", "plans-old-1").code == 0 {
		t.Error("the orphan is still there")
	}

	t.Run("a step that fails leaves the others", func(t *testing.T) {
		m := m.with(t)
		project("debug", 1, "  bad: {image: busybox, command: /nosuch}\n  good: {image: busybox, command: sleep 1000, stop_signal: SIGKILL}\n  after: {image: busybox, command: sleep 1000, depends_on: [bad]}")
		m.oneLine(m.in(dir, "up", "-d"), "plans-bad-1", "/nosuch")
		if got := m.state("plans-good-1"); got != "running" {
			t.Errorf("good is %s", got)
		}
		if m.gantry("container", "inspect", "plans-after-1").code == 0 {
			t.Error("the dependent of a failed service was made")
		}
	})
	t.Run("a replacement that fails leaves the one before", func(t *testing.T) {
		m := m.with(t)
		project("debug", 1, "  good: {image: busybox, command: /nosuch}")
		old := ids("good")
		m.oneLine(m.in(dir, "up", "-d"), "plans-good-1", "/nosuch")
		if got := m.state("plans-good-1"); got != "running" || !slices.Equal(ids("good"), old) {
			t.Errorf("it is %s; %v, was %v", got, ids("good"), old)
		}
		plan(2, "replace plans-good-1", "configuration has changed")
	})
	t.Run("a stop is intent, and the next up wants it", func(t *testing.T) {
		m := m.with(t)
		project("debug", 1, "")
		m.okIn(dir, "up", "-d", "--remove-orphans")
		m.ok("container", "stop", "plans-db-1")
		time.Sleep(300 * time.Millisecond)
		if got := m.state("plans-db-1"); got != "exited" {
			t.Errorf("it is %s", got)
		}
		plan(2, "start plans-db-1")
		m.okIn(dir, "up", "-d")
		if got := m.state("plans-db-1"); got != "running" {
			t.Errorf("it is %s", got)
		}
	})
	t.Run("plan as JSON, dry run", func(t *testing.T) {
		m := m.with(t)
		project("trace", 1, "")
		if r := m.in(dir, "plan", "--format", "json"); r.code != 2 || !strings.Contains(r.out, `"replace"`) && !strings.Contains(r.out, "plans-web-1") {
			t.Errorf("%s", r)
		}
		before := ids("web")
		m.in(dir, "--dry-run", "up", "-d")
		if !slices.Equal(before, ids("web")) {
			t.Error("a dry run did something")
		}
	})
	t.Run("down and nothing", func(t *testing.T) {
		m := m.with(t)
		m.okIn(dir, "down")
		if got := m.ok("ls", "-aq"); got != "" {
			t.Errorf("projects: %s", got)
		}
		m.okIn(dir, "down")
	})
}
