package tests

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// lifeRows are flags of a container's life that are refused, or show inside.
func lifeRows(dir string) []dockerRun {
	return []dockerRun{
		row("--restart no", "echo runs", "runs"),
		refusedRow("--restart always", "--restart and --rm|AutoRemove"), // every row has --rm
		row("--stop-timeout 3 --stop-signal USR1", "echo runs", "runs"),
		refusedRow("--stop-signal NOSUCH", "NOSUCH"),
		row("--log-driver json-file --log-opt max-size=1m --log-opt max-file=2", "echo runs", "runs"),
		row("--log-driver local", "echo runs", "runs"),
		row("--log-driver none", "echo runs", "runs"),
		refusedRow("--log-driver syslog", "syslog"),
		refusedRow("--log-opt max-size=huge", "huge"),
		refusedRow("--log-opt max-file=0", "max-file"),
		refusedRow("--log-opt tag=x", "tag"),
		refusedRow("--log-opt labels=x", "labels"),
		refusedRow("--log-opt env=x", "env"),
		refusedRow("--log-opt mode=non-blocking", "non-blocking"),
		refusedRow("--log-opt compress=true", "compress"),
		row("--no-healthcheck", "echo runs", "runs"),
		refusedRow("--health-interval 1ns --health-cmd true", "1ms"),
		refusedRow("--health-retries -1 --health-cmd true", "negative"),
		refusedRow("--no-healthcheck --health-cmd true", "health"),
		row("-a stdout", "echo out; echo err >&2", "out"),
		row("--attach stderr", "echo out; echo err >&2", ""),
		row("--detach-keys ctrl-x,q", "echo runs", "runs"),
		row("-e SET=in -l a=b --label c=d --label-file "+dir+"/labels --publish 0:99 --volume /v --user 0 --workdir /", "echo $SET", "in"),
	}
}

func TestDockerRunLife(t *testing.T) {
	t.Parallel()
	needsDocker(t)
	m := newMachine(t, memory())
	write(t, filepath.Join(m.dir, "labels"), "from.file=yes\n")
	t.Run("flags", func(t *testing.T) { runRows(t, m, lifeRows(m.dir)) })
	for name, part := range map[string]func(*machine){
		"remove": (*machine).removesItself, "restart": (*machine).restarts, "stop": (*machine).stopsAsSaid,
		"health": (*machine).healthFlags, "logs": (*machine).logDrivers, "labels": (*machine).labelsAndFiles, "input": (*machine).inputAndExit,
	} {
		t.Run(name, func(t *testing.T) { part(m.with(t)) })
	}
}

func (m *machine) removesItself() {
	t := m.t
	if out := m.dockerOK("run", "--rm", "--name", "brief", "-v", "/anonymous", "-v", "kept:/kept", "busybox", "echo", "x"); out != "x" {
		t.Errorf("%q", out)
	}
	eventually(t, 20*time.Second, "it is gone with its anonymous volume", func() bool {
		return m.docker("inspect", "brief").code != 0 && m.dockerOK("volume", "ls", "-q") == "kept"
	})
	if r := m.docker("run", "--rm", "busybox", "sh", "-c", "exit 7"); r.code != 7 {
		t.Errorf("exit code: %s", r)
	}
	if r := m.docker("run", "--rm", "busybox", "no-such-program"); r.code != 127 {
		t.Errorf("a program that is not there: %s", r)
	}
	if r := m.docker("run", "--rm", "busybox", "/etc/passwd"); r.code != 126 {
		t.Errorf("a program that is none: %s", r)
	}
	code, text := m.api("POST", "/v1.41/containers/create", map[string]any{"Image": "busybox", "HostConfig": map[string]any{"AutoRemove": true, "RestartPolicy": map[string]any{"Name": "always"}}})
	if code != 400 {
		t.Errorf("AutoRemove with a restart policy: %d %s", code, text)
	}
	if r := m.docker("run", "--pull", "never", "no-such-image"); r.code != 125 || !strings.Contains(r.err, "no-such-image") {
		t.Errorf("an image that is not there: %s", r)
	}
	m.dockerOK("volume", "rm", "kept")
}

func (m *machine) restarts() {
	t := m.t
	id := m.dockerOK("run", "-d", "--restart", "on-failure:2", "busybox", "sh", "-c", "echo try; exit 3")
	eventually(t, 30*time.Second, "it is tried twice again", func() bool {
		return m.dockerOK("inspect", "-f", "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}} {{.HostConfig.RestartPolicy.Name}}:{{.HostConfig.RestartPolicy.MaximumRetryCount}}", id) == "2 exited 3 on-failure:2"
	})
	if out := m.dockerOK("logs", id); out != "try\ntry\ntry" {
		t.Errorf("%q", out)
	}
	for _, policy := range []string{"always", "unless-stopped"} {
		again := m.dockerOK("run", "-d", "--restart", policy, "busybox", "sh", "-c", "sleep 0.2")
		eventually(t, 30*time.Second, policy+" starts it again", func() bool {
			n, _ := strconv.Atoi(m.dockerOK("inspect", "-f", "{{.RestartCount}}", again))
			return n > 0
		})
		m.dockerOK("rm", "-f", again)
	}
	m.dockerOK("rm", id)
	for policy, word := range map[string]string{"sometimes": "sometimes", "on-failure:-1": "negative", "always:3": "retry|retries"} {
		if r := m.docker("create", "--restart", policy, "busybox"); r.code == 0 || !regexp.MustCompile(word).MatchString(r.err) {
			t.Errorf("want a refusal with %q: %s", word, r)
		}
	}
}

func (m *machine) stopsAsSaid() {
	t := m.t
	id := m.dockerOK("run", "-d", "--stop-signal", "USR1", "busybox", "sh", "-c", "trap 'echo got; exit 5' USR1; echo ready; while :; do sleep 0.1; done")
	eventually(t, 20*time.Second, "it is ready", func() bool { return m.dockerOK("logs", id) == "ready" })
	m.dockerOK("stop", id)
	if out := m.dockerOK("inspect", "-f", "{{.State.ExitCode}} {{.Config.StopSignal}}", id); out != "5 USR1" {
		t.Errorf("%q", out)
	}
	deaf := m.dockerOK("run", "-d", "--stop-timeout", "1", "busybox", "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
	began := time.Now()
	m.dockerOK("stop", deaf)
	if took := time.Since(began); took < 900*time.Millisecond || took > 9*time.Second {
		t.Errorf("a deaf container ends after %s", took)
	}
	if out := m.dockerOK("inspect", "-f", "{{.State.ExitCode}} {{.Config.StopTimeout}}", deaf); !strings.HasPrefix(out, "137") {
		t.Errorf("%q", out)
	}
	m.dockerOK("rm", id, deaf)
}

func (m *machine) healthFlags() {
	t := m.t
	id := m.dockerOK("run", "-d", "--health-cmd", "test -e /healthy", "--health-interval", "100ms", "--health-timeout", "2s", "--health-retries", "2", "--health-start-period", "1ms",
		"busybox", "sh", "-c", "sleep 1000")
	status := func(want string) {
		t.Helper()
		eventually(t, 30*time.Second, want, func() bool { return m.dockerOK("inspect", "-f", "{{.State.Health.Status}}", id) == want })
	}
	status("unhealthy")
	m.dockerOK("exec", id, "touch", "/healthy")
	status("healthy")
	if out := m.dockerOK("inspect", "-f", "{{.Config.Healthcheck}}", id); !regexp.MustCompile(`^\{\[CMD-SHELL test -e /healthy\] 100ms 2s 1ms (0s )?2\}$`).MatchString(out) {
		t.Errorf("%q", out)
	}
	m.dockerOK("rm", "-f", id)
	// One that the image has, switched off.
	m.ok("image", "import", archive(t, "busybox"), "checked", "--change", `CMD ["sleep", "1000"]`, "--change", "HEALTHCHECK CMD false")
	id = m.dockerOK("run", "-d", "--no-healthcheck", "checked")
	if out := m.dockerOK("inspect", "-f", "{{.State.Health}} {{.Config.Healthcheck.Test}}", id); out != "<nil> [NONE]" {
		t.Errorf("%q", out)
	}
	m.dockerOK("rm", "-f", id)
	// Newer than Debian's client.
	m.checkCreate(map[string]any{"Image": "busybox", "Cmd": []string{"echo", "runs"}, "Healthcheck": map[string]any{"Test": []string{"CMD", "true"}, "StartInterval": int64(time.Second)}}, "runs", 201)
}

func (m *machine) logDrivers() {
	t := m.t
	for _, driver := range []string{"json-file", "local"} {
		id := m.dockerOK("run", "-d", "--log-driver", driver, "--log-opt", "max-size=1k", "--log-opt", "max-file=2", "busybox", "sh", "-c", "for i in $(seq 200); do echo line $i of many words; done")
		m.dockerOK("wait", id)
		out := m.dockerOK("logs", id)
		if lines := strings.Count(out, "\n"); !strings.HasSuffix(out, "line 200 of many words") || lines > 60 {
			t.Errorf("%s keeps %d lines, the last %q", driver, lines, out[max(0, len(out)-30):])
		}
		if out := m.dockerOK("inspect", "-f", "{{.HostConfig.LogConfig.Type}} {{.HostConfig.LogConfig.Config}}", id); out != driver+" map[max-file:2 max-size:1k]" {
			t.Errorf("%q", out)
		}
		m.dockerOK("rm", id)
	}
	id := m.dockerOK("run", "-d", "--log-driver", "none", "busybox", "echo", "unheard")
	m.dockerOK("wait", id)
	if r := m.docker("logs", id); r.code == 0 || !strings.Contains(r.err, "does not support reading") {
		t.Errorf("logs of none: %s", r)
	}
	m.dockerOK("rm", id)
}

func (m *machine) labelsAndFiles() {
	t := m.t
	cid := filepath.Join(m.dir, "cid")
	m.dockerOK("run", "--cidfile", cid, "-l", "own=1", "--label-file", m.dir+"/labels", "--name", "labelled", "busybox", "true")
	data, err := os.ReadFile(cid)
	if err != nil || !regexp.MustCompile(`^[0-9a-f]{64}$`).Match(data) {
		t.Errorf("cidfile: %q %v", data, err)
	}
	if out := m.dockerOK("inspect", "-f", `{{.Id}} {{index .Config.Labels "own"}} {{index .Config.Labels "from.file"}}`, "labelled"); out != string(data)+" 1 yes" {
		t.Errorf("%q", out)
	}
	if r := m.docker("run", "--rm", "--name", "labelled", "busybox", "true"); r.code != 125 || !strings.Contains(r.err, "in use") {
		t.Errorf("a name twice: %s", r)
	}
	m.dockerOK("rm", "labelled")
	code, text := m.api("POST", "/v1.44/containers/create?name=noted", map[string]any{"Image": "busybox", "HostConfig": map[string]any{"Annotations": map[string]string{"note": "this"}}})
	var shown struct {
		HostConfig struct{ Annotations map[string]string }
	}
	if err := json.Unmarshal([]byte(m.dockerOK("inspect", "-f", "{{json .}}", "noted")), &shown); err != nil || code != 201 {
		t.Fatalf("%d %s %v", code, text, err)
	}
	if _, text := m.api("GET", "/v1.44/containers/noted/json", nil); !strings.Contains(text, `"note":"this"`) {
		t.Errorf("annotations: %s", text)
	}
	m.dockerOK("rm", "noted")
}

func (m *machine) inputAndExit() {
	t := m.t
	if out := m.dockerOK("run", "-i", "--rm", "busybox", "sh", "-c", "cat; echo after"); out != "after" {
		t.Errorf("%q", out) // the client's input is empty
	}
	id := m.dockerOK("create", "--interactive", "--tty", "busybox", "cat")
	if out := m.dockerOK("inspect", "-f", "{{.Config.OpenStdin}} {{.Config.Tty}} {{.State.Status}}", id); out != "true true created" {
		t.Errorf("%q", out)
	}
	m.dockerOK("rm", id)

	x := m.onTerminal(m.dockerCommand(context.Background(), "run", "-it", "--name", "left", "--detach-keys", "ctrl-x,q", "busybox", "sh"))
	x.types("echo $((40+2))\n")
	x.shows("42")
	x.types("\x18q")
	x.ends(0)
	if out := m.dockerOK("inspect", "-f", "{{.State.Status}}", "left"); out != "running" {
		t.Errorf("after detaching it is %s", out)
	}
	m.dockerOK("rm", "-f", "left")
}
