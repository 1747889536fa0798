package docker

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestLogs(t *testing.T) {
	t.Parallel()
	n := name(t)
	docker(t, "run", "--name", n, "busybox", "sh", "-c", "for i in 1 2 3; do echo out $i; echo err $i >&2; done")
	r := try(t, nil, "logs", n)
	if r.out != "out 1\nout 2\nout 3\n" || r.err != "err 1\nerr 2\nerr 3\n" || r.code != 0 {
		t.Error(r)
	}
	many := name(t)
	docker(t, "run", "--name", many, "busybox", "seq", "1000")
	says(t, "999\n1000", "logs", "--tail", "2", many)
	if out := docker(t, "logs", "-t", "--tail", "1", many); !strings.HasPrefix(out, time.Now().UTC().Format("2006-01-02T")) || !strings.HasSuffix(out, "Z 1000") {
		t.Errorf("with its time: %q", out)
	}
	fails(t, 1, []string{"logs", "nosuch-container"}, "No such container")

	ticks := name(t)
	docker(t, "run", "-d", "--name", ticks, "--stop-signal", "KILL", "busybox", "sh", "-c", "i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.1; done")
	f := follow(t, "logs", "-f", "--tail", "0", ticks)
	f.reads("tick 1")
	old := docker(t, "logs", "-t", "--tail", "1", ticks)
	stamp, last, _ := strings.Cut(old, " ")
	f.reads(fmt.Sprintf("tick %d\n", atoi(t, strings.TrimPrefix(last, "tick "))+3))
	if since := docker(t, "logs", "--since", stamp, ticks); !strings.HasPrefix(since, last+"\n") {
		t.Errorf("since %s: %q", stamp, since)
	}
	if until := docker(t, "logs", "--until", stamp, ticks); !strings.HasSuffix(until, last) {
		t.Errorf("until %s: %q", stamp, until)
	}
	if recent := docker(t, "logs", "--since", "100h", ticks); !strings.HasPrefix(recent, "tick 0\n") {
		t.Errorf("since long ago: %q", recent)
	}
	docker(t, "stop", ticks)
	f.ends(0) // with the container
	none := name(t)
	docker(t, "run", "--name", none, "--log-driver", "none", "busybox", "echo", "unheard")
	fails(t, 1, []string{"logs", none}, "does not support reading")
	small := name(t)
	docker(t, "run", "--name", small, "--log-opt", "max-size=10k", "--log-opt", "max-file=2", "busybox", "sh", "-c", "for i in $(seq 2000); do echo line $i; done")
	if out := docker(t, "logs", small); !strings.HasSuffix(out, "line 2000") || strings.HasPrefix(out, "line 1\n") {
		t.Errorf("of a log kept short: %d bytes", len(out))
	}
}

func atoi(t testing.TB, s string) int {
	t.Helper()
	var n int
	if _, err := fmt.Sscan(s, &n); err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return n
}

func TestStatsAndTop(t *testing.T) {
	t.Parallel()
	n := idle(t, "--memory", "64m")
	out := docker(t, "stats", "--no-stream", "--format", "{{.Name}}|{{.MemUsage}}|{{.PIDs}}|{{.CPUPerc}}|{{.NetIO}}|{{.BlockIO}}", n)
	parts := strings.Split(out, "|")
	if len(parts) != 6 || parts[0] != n || !strings.HasSuffix(parts[1], " / 64MiB") || parts[2] != "1" || !strings.HasSuffix(parts[3], "%") {
		t.Errorf("stats: %q", out)
	}
	f := follow(t, "stats", "--format", "{{.Name}}", n)
	eventually(t, "stats go on", func() bool { return strings.Count(f.text(), n) >= 3 })
	shows(t, []string{"stats", "--no-stream", "-a"}, "MEM USAGE / LIMIT", n)
	top := docker(t, "top", n)
	if lines := strings.Split(top, "\n"); len(lines) != 2 || !strings.HasPrefix(lines[0], "UID ") || !strings.HasSuffix(lines[1], "sleep 1000") {
		t.Errorf("top: %q", top)
	}
	if top := docker(t, "top", n, "-o", "pid,args"); !strings.HasPrefix(top, "PID ") || !strings.Contains(top, docker(t, "inspect", "-f", "{{.State.Pid}}", n)) {
		t.Errorf("top -o pid,args: %q", top)
	}
	docker(t, "stop", n)
	fails(t, 1, []string{"top", n}, "is not running")
	fails(t, 1, []string{"stats", "--no-stream", "nosuch-container"}, "No such container")
}

// event is a line of docker events --format '{{json .}}'.
type event struct {
	Type, Action string
	Actor        struct {
		ID         string
		Attributes map[string]string
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	n := name(t)
	begin := time.Now().Add(-time.Millisecond)
	live := follow(t, "events", "--filter", "container="+n, "--format", "{{.Action}}")
	docker(t, "create", "--name", n, "-l", "colour=green", "--stop-signal", "KILL", "busybox", "sh", "-c", "exec sleep 1000")
	eventually(t, "events are told", func() bool {
		// The stream may have begun after the create.
		docker(t, "start", n)
		docker(t, "pause", n)
		docker(t, "unpause", n)
		docker(t, "kill", n)
		return strings.Contains(live.text(), "die")
	})
	docker(t, "start", n)
	docker(t, "exec", n, "true")
	docker(t, "stop", n)
	docker(t, "rename", n, n+"x")
	docker(t, "rename", n+"x", n)
	docker(t, "rm", n)
	live.reads("destroy")

	since, until := stamp(begin), stamp(time.Now())
	told := func(filters ...string) []event {
		t.Helper()
		args := []string{"events", "--since", since, "--until", until, "--format", "{{json .}}"}
		for _, f := range filters {
			args = append(args, "--filter", f)
		}
		var all []event
		for line := range strings.Lines(docker(t, args...)) {
			var e event
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			all = append(all, e)
		}
		return all
	}
	actions := func(events []event) []string {
		var all []string
		for _, e := range events {
			all = append(all, strings.TrimSpace(e.Action))
		}
		return all
	}
	all := told("container=" + n)
	got := actions(all)
	if len(got) < 6 || got[0] != "create" {
		t.Fatalf("actions: %v", got)
	}
	if want := []string{"create", "start", "pause", "unpause", "kill", "die"}; !slices.Equal(got[:6], want) {
		t.Errorf("actions: %v, want first %v", got, want)
	}
	rest := got[len(got)-10:]
	if want := []string{"start", "exec_create: true", "exec_start: true", "exec_die", "kill", "die", "stop", "rename", "rename", "destroy"}; !slices.Equal(rest, want) {
		t.Errorf("last actions: %v\n want %v", rest, want)
	}
	for _, e := range all {
		if e.Type != "container" || len(e.Actor.ID) != 64 || e.Actor.Attributes["image"] != "busybox" || e.Actor.Attributes["colour"] != "green" {
			t.Errorf("event %+v", e)
		}
		if e.Action == "die" && e.Actor.Attributes["exitCode"] != "137" {
			t.Errorf("die: %v", e.Actor.Attributes)
		}
	}
	if got := actions(told("container="+n, "event=die", "event=destroy")); slices.Contains(got, "start") || !slices.Contains(got, "die") || !slices.Contains(got, "destroy") {
		t.Errorf("filtered: %v", got)
	}
	if got := told("label=colour=green", "event=create"); len(got) != 1 {
		t.Errorf("by label: %v", got)
	}
	if got := told("container="+n, "type=network"); len(got) != 0 {
		t.Errorf("a container of type network: %v", got)
	}
	network := name(t)
	docker(t, "network", "create", network)
	docker(t, "network", "rm", network)
	volume := name(t)
	docker(t, "volume", "create", volume)
	docker(t, "volume", "rm", volume)
	docker(t, "tag", "busybox", "t-events:1")
	docker(t, "rmi", "t-events:1")
	until = stamp(time.Now())
	if got := actions(told("network=" + network)); !slices.Equal(got, []string{"create", "destroy"}) {
		t.Errorf("of the network: %v", got)
	}
	if got := actions(told("volume=" + volume)); !slices.Equal(got, []string{"create", "destroy"}) {
		t.Errorf("of the volume: %v", got)
	}
	if got := actions(told("type=image", "event=tag", "event=untag")); !slices.Contains(got, "tag") || !slices.Contains(got, "untag") {
		t.Errorf("of images: %v", got)
	}
}

// stamp is a time as docker events reads it.
func stamp(t time.Time) string { return fmt.Sprintf("%d.%09d", t.Unix(), t.Nanosecond()) }

func TestSystem(t *testing.T) {
	t.Parallel()
	says(t, "linux", "version", "-f", "{{.Server.Os}}")
	says(t, "linux", "info", "-f", "{{.OSType}}")
	shows(t, []string{"version"}, "Client:", "Server", "API version:       1.41")
	shows(t, []string{"info"}, "Containers:", "Cgroup Driver: cgroupfs", "Swarm: inactive", "Logging Driver: json-file")
	idle(t)
	if n := atoi(t, docker(t, "info", "-f", "{{.ContainersRunning}}")); n < 1 {
		t.Errorf("%d containers run", n)
	}
	fails(t, 1, []string{"service", "ls"}, "not a swarm manager")
	fails(t, 1, []string{"node", "ls"}, "not a swarm manager")
	docker(t, "plugin", "ls")
}

func TestDiskUsage(t *testing.T) {
	t.Parallel()
	n := idle(t, "-v", "/data")
	docker(t, "exec", n, "sh", "-c", "head -c 3000000 /dev/zero >/data/x; head -c 2000000 /dev/zero >/y")
	shows(t, []string{"system", "df"}, "Images", "Containers", "Local Volumes", "Build Cache")
	out := docker(t, "system", "df", "-v")
	for _, want := range []string{`\nbusybox `, n, ` 3(\.\d*)?MB`, ` 2(\.\d*)?MB`} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("%s is not in %s", want, out)
		}
	}
}

// What is pruned bears a label, so that others keep theirs.
func TestPrune(t *testing.T) {
	t.Parallel()
	mark := "prune=" + name(t)
	only := []string{"-f", "--filter", "label=" + mark}
	prune := func(noun string, want string) {
		t.Helper()
		shows(t, append([]string{noun, "prune"}, only...), want)
	}
	n := name(t)
	docker(t, "run", "--name", n, "--label", mark, "busybox", "sh", "-c", "echo much >/file")
	up := idle(t, "--label", mark)
	prune("container", docker(t, "inspect", "-f", "{{.Id}}", n))
	fails(t, 1, []string{"inspect", n}, "no such object")
	says(t, "true", "inspect", "-f", "{{.State.Running}}", up)

	used, unused := name(t), name(t)
	docker(t, "network", "create", "--label", mark, used)
	docker(t, "network", "create", "--label", mark, unused)
	docker(t, "network", "connect", used, up)
	prune("network", unused)
	docker(t, "network", "inspect", used)
	docker(t, "network", "disconnect", used, up)
	prune("network", used)

	volume := name(t)
	docker(t, "volume", "create", "--label", mark, volume)
	prune("volume", volume)
	fails(t, 1, []string{"volume", "inspect", volume}, "no such volume")

	image := name(t)
	docker(t, "commit", "-c", "LABEL "+mark, up, image)
	shows(t, append([]string{"image", "prune", "-a"}, only...), image)
	fails(t, 1, []string{"image", "inspect", image}, "no such image")

	docker(t, "stop", up)
	shows(t, append([]string{"system", "prune"}, only...), "Total reclaimed space")
	fails(t, 1, []string{"inspect", up}, "no such object")
}
