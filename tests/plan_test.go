package tests

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// serves reports whether a web server answers at a port of the host.
func serves(port int) bool {
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
	if err != nil {
		return false
	}
	defer r.Body.Close()
	b, _ := io.ReadAll(r.Body)
	return strings.Contains(string(b), "hello")
}

// Each change that can be had in place takes effect, says so beforehand, and
// leaves the container its process; afterwards there is nothing to do.
func TestChangesInPlace(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	first := freePorts(t, 2)
	ports := []int{first, first + 1}
	const head = `
services:
  web:
    image: busybox
    command: sh -c "mkdir -p /w; echo hello > /w/index.html; exec httpd -f -p 80 -h /w"
    stop_grace_period: 1s
    scale: 2
`
	const tail = `
  other: {image: busybox, command: sleep 1000, networks: [default, back], stop_grace_period: 0s}
networks: {back: {}}
`
	dir := m.project("inplace", head+tail)
	m.okIn(dir, "up", "-d")
	pids := func() string {
		return m.shows("inplace-web-1", "{{.State.Pid}} {{.Id}}") + "\n" + m.shows("inplace-web-2", "{{.State.Pid}} {{.Id}}")
	}
	old := pids()
	inside := func(script string) string {
		t.Helper()
		return strings.TrimSpace(m.okIn(dir, "exec", "-T", "--index", "2", "web", "sh", "-c", script))
	}
	limit := func() string {
		return inside("cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max 2>/dev/null; true")
	}
	published := fmt.Sprintf("    ports: ['127.0.0.1:%d:80']\n", ports[0])
	moved := fmt.Sprintf("    ports: ['127.0.0.1:%d:80']\n", ports[1])
	for _, step := range []struct {
		name, yaml, says string
		true             func() bool
	}{
		{"limits", "    deploy: {resources: {limits: {memory: 64m, pids: 50}}}\n", `deploy.resources.limits.memory unset → "64m"`,
			func() bool { return limit() == "67108864\n50" }},
		{"other limits", "    mem_limit: 48m\n    restart: always\n", `mem_limit unset → "48m"`,
			func() bool {
				return limit() == "50331648\nmax" && m.shows("inplace-web-1", "{{.HostConfig.RestartPolicy.Name}}") == "always"
			}},
		{"a port", "    mem_limit: 48m\n" + published, fmt.Sprintf(`ports unset → ["127.0.0.1:%d:80"]`, ports[0]),
			func() bool { return serves(ports[0]) }},
		{"another port", moved, fmt.Sprintf(`ports ["127.0.0.1:%d:80"] → ["127.0.0.1:%d:80"]`, ports[0], ports[1]),
			func() bool { return !serves(ports[0]) && serves(ports[1]) && limit() != "50331648\nmax" }},
		{"a network joined", moved + "    networks: [default, back]\n", `networks ["default"] → ["back","default"]`,
			func() bool {
				return inside("ls /sys/class/net | wc -l") == "3" && serves(ports[1]) && strings.Contains(m.okIn(dir, "exec", "-T", "other", "nslookup", "web", "127.0.0.11"), "web")
			}},
		{"a network left, and an alias", moved + "    networks: {back: {aliases: [nick]}}\n", `networks ["back","default"] → ["back"]`,
			func() bool {
				return inside("ls /sys/class/net | wc -l") == "2" && serves(ports[1]) && strings.Contains(m.okIn(dir, "exec", "-T", "other", "wget", "-qO-", "http://nick"), "hello")
			}},
		{"no port", "    networks: {back: {aliases: [nick]}}\n", "unset", func() bool { return !serves(ports[1]) }},
	} {
		m.project("inplace", head+step.yaml+tail)
		r := m.in(dir, "plan")
		if r.code != 2 || !strings.Contains(r.out, step.says) || !strings.Contains(r.out, "update 2 containers in place (inplace-web-1, inplace-web-2)") {
			t.Errorf("%s: the plan is %s", step.name, r)
		}
		m.okIn(dir, "up", "-d")
		if now := pids(); now != old {
			t.Errorf("%s: the containers are others:\n%s\nbefore:\n%s", step.name, now, old)
		}
		eventually(t, 5*time.Second, step.name, step.true)
		if r := m.in(dir, "plan"); r.code != 0 || r.out != "nothing to do\n" {
			t.Errorf("%s: when it was done there was left %s", step.name, r)
		}
	}
	// A new process is what the last one was made.
	m.okIn(dir, "restart", "-t", "0", "web")
	if got := inside("ls /sys/class/net | wc -l"); got != "2" {
		t.Errorf("after a restart there are %s links", got)
	}
	// A daemon that dies meanwhile finishes what it was at.
	m.project("inplace", head+"    mem_limit: 64m\n"+published+"    networks: [default, back]\n"+tail)
	before := pids()
	up := m.command(t.Context(), dir, "up", "-d")
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(30 * time.Millisecond)
	m.kill("gantryd")
	_ = up.Wait() // it fails, or it was too quick
	m.okIn(dir, "up", "-d")
	if now := pids(); now != before {
		t.Errorf("after the daemon's death the containers are others:\n%s\nbefore:\n%s", now, before)
	}
	eventually(t, 5*time.Second, "an answer", func() bool { return serves(ports[0]) && inside("ls /sys/class/net | wc -l") == "3" })
	m.okIn(dir, "down", "-t", "0")
}

// What a plan destroys is said as data and as text, and does not happen unasked.
func TestDestructionIsAsked(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	const yaml = `
services:
  db: {image: busybox, command: sh -c "touch /d/precious; sleep 1000", volumes: ["data:/d"], stop_grace_period: 0s}
volumes: {data: {%s}}
`
	dir := m.project("asked", fmt.Sprintf(yaml, ""))
	m.okIn(dir, "up", "-d")
	m.project("asked", fmt.Sprintf(yaml, "driver_opts: {type: tmpfs, device: tmpfs}"))
	if r := m.in(dir, "plan"); r.code != 2 || !strings.Contains(r.out, "DESTROYS all data in volume asked_data") || !strings.Contains(r.out, `driver_opts.type unset → "tmpfs"`) {
		t.Errorf("the plan is %s", r)
	}
	r := m.in(dir, "plan", "--format", "json")
	var plan struct {
		Steps []struct{ Verb, Kind, Effect, Destroys string }
	}
	if err := json.Unmarshal([]byte(r.out), &plan); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, s := range plan.Steps {
		found = found || s.Verb == "remove" && s.Kind == "volume" && s.Effect == "destroys data" && s.Destroys == "all data in volume asked_data"
	}
	if !found {
		t.Errorf("as JSON the plan is %s", r.out)
	}
	if r := m.in(dir, "up", "--dry-run"); r.code != 2 || !strings.Contains(r.out, "DESTROYS") {
		t.Errorf("up --dry-run: %s", r)
	}
	kept := func() bool { return m.in(dir, "exec", "-T", "db", "ls", "/d/precious").code == 0 }
	m.oneLine(m.in(dir, "up", "-d"), "project asked", "all data in volume asked_data", "--yes")
	if !kept() {
		t.Fatal("the data is gone, and nobody was asked")
	}
	m.okIn(dir, "up", "-d", "--yes")
	if got := strings.TrimSpace(m.okIn(dir, "exec", "-T", "db", "sh", "-c", "grep ' /d ' /proc/mounts | cut -d' ' -f1")); got != "tmpfs" {
		t.Errorf("the volume is %s", got)
	}
	if r := m.in(dir, "plan"); r.code != 0 {
		t.Errorf("when it was done there was left %s", r)
	}
	// Whoever says down -v from a script means it.
	m.okIn(dir, "down", "-v", "-t", "0")
	if out := m.ok("volume", "ls", "-q"); strings.Contains(out, "asked_data") {
		t.Error("down -v has left the volume")
	}
}
