package tests

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// repaired is how long a loss may last.
const repaired = time.Second

// field is what inspect says of a container, "" while there is none.
func (m *machine) field(name, format string) string {
	r := m.gantry("container", "inspect", name, "--format", format)
	return strings.TrimSpace(r.out)
}

func (m *machine) runs(name string) bool { return m.field(name, "{{.State.Status}}") == "running" }

// phase is how the daemon says a project stands, and what it misses.
func (m *machine) phase(project string) (phase string, problems []string) {
	m.t.Helper()
	var st struct {
		Phase    string
		Problems []string
	}
	if code, body := m.api("GET", "/projects/"+project, nil); code != 200 {
		m.t.Fatal(code, body)
	} else if err := json.Unmarshal([]byte(body), &st); err != nil {
		m.t.Fatal(err)
	}
	return st.Phase, st.Problems
}

const held = `
services:
  db:
    image: busybox
    command: ` + sleeper + `
    volumes: ["data:/data"]
  web:
    image: busybox
    command: ` + sleeper + `
    depends_on: {db: {condition: service_started, restart: true}}
  once:
    image: busybox
    command: "true"
volumes: {data: {}}
`

const sleeper = `sh -c 'trap "exit 0" TERM; while :; do sleep 1000 & wait $$!; done'`

// A settled project is held: what is lost without a call comes back, what a
// call took does not.
func TestLostContainers(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	dir := m.project("held", held)
	m.okIn(dir, "up", "-d")

	t.Run("its directory is gone", func(t *testing.T) {
		m := m.with(t)
		id := m.field("held-db-1", "{{.Id}}")
		started := m.field("held-web-1", "{{.State.StartedAt}}")
		if err := os.Rename(filepath.Join(m.root, "containers", id), filepath.Join(m.dir, "gone")); err != nil {
			t.Fatal(err)
		}
		eventually(t, repaired, "db is made again", func() bool {
			now := m.field("held-db-1", "{{.Id}}")
			return now != "" && now != id && m.runs("held-db-1")
		})
		eventually(t, repaired, "web, which depends on it with restart: true, is restarted", func() bool {
			return m.field("held-web-1", "{{.State.StartedAt}}") != started && m.runs("held-web-1")
		})
	})
	t.Run("a process that ends has had its run", func(t *testing.T) {
		m := m.with(t)
		kill9(t, m.field("held-web-1", "{{.State.Pid}}"))
		eventually(t, repaired, "web has exited", func() bool { return m.field("held-web-1", "{{.State.Status}}") == "exited" })
		time.Sleep(300 * time.Millisecond)
		if m.runs("held-web-1") {
			t.Error("web runs again, and its restart policy is no")
		}
		m.okIn(dir, "up", "-d")
		if !m.runs("held-web-1") {
			t.Error("up does not start what has exited")
		}
	})
	t.Run("what a call removed stays away", func(t *testing.T) {
		m := m.with(t)
		m.ok("container", "rm", "-f", "held-web-1")
		m.kill("gantryd")
		time.Sleep(600 * time.Millisecond)
		if id := m.field("held-web-1", "{{.Id}}"); id != "" {
			t.Errorf("web is there again: %s", id)
		}
		m.okIn(dir, "up", "-d", "db") // not about web
		time.Sleep(200 * time.Millisecond)
		if id := m.field("held-web-1", "{{.Id}}"); id != "" {
			t.Errorf("web is there again: %s", id)
		}
		m.okIn(dir, "up", "-d")
		if !m.runs("held-web-1") {
			t.Error("up does not make it again")
		}
	})
	t.Run("what a call stopped stays stopped", func(t *testing.T) {
		m := m.with(t)
		m.ok("container", "stop", "-t", "1", "held-web-1")
		m.kill("gantryd")
		time.Sleep(400 * time.Millisecond)
		if got := m.field("held-web-1", "{{.State.Status}}"); got != "exited" {
			t.Errorf("web is %s", got)
		}
		m.okIn(dir, "up", "-d")
	})
	t.Run("a record is deleted while nobody looks", func(t *testing.T) {
		m := m.with(t)
		id := m.field("held-web-1", "{{.Id}}")
		m.ok("daemon", "stop", "--leave")
		if err := os.RemoveAll(filepath.Join(m.root, "containers", id)); err != nil {
			t.Fatal(err)
		}
		eventually(t, 3*time.Second, "web is made again", func() bool {
			now := m.field("held-web-1", "{{.Id}}")
			return now != "" && now != id && m.runs("held-web-1")
		})
	})
	t.Run("the keeper's directory of it is gone", func(t *testing.T) {
		m := m.with(t)
		id, pid := m.field("held-web-1", "{{.Id}}"), m.field("held-web-1", "{{.State.Pid}}")
		for _, dir := range []string{"keeper", "libcontainer"} {
			if err := os.RemoveAll(filepath.Join(m.run, dir, id)); err != nil {
				t.Fatal(err)
			}
		}
		m.kill("gantry-runtime")
		eventually(t, 2*repaired, "web runs again", func() bool {
			now := m.field("held-web-1", "{{.State.Pid}}")
			return now != "0" && now != "" && now != pid && m.runs("held-web-1")
		})
		if program, _ := os.ReadFile("/proc/" + pid + "/cmdline"); len(program) > 0 { // a zombie has none
			t.Errorf("process %s runs beside it", pid)
		}
	})
	if phase, problems := m.phase("held"); phase != "settled" || len(problems) > 0 {
		t.Errorf("the project is %s: %v", phase, problems)
	}
}

// The run directory is gone, and every process with it: the machine was
// started anew.
func TestMachineRestarts(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	dir := m.project("boot", held)
	m.okIn(dir, "up", "-d")
	m.plain("always", "always")
	m.plain("never", "no")
	m.ok("container", "stop", "-t", "1", "boot-web-1")
	m.reboot()
	eventually(t, 3*time.Second, "db and always run", func() bool { return m.runs("boot-db-1") && m.runs("always") })
	time.Sleep(200 * time.Millisecond)
	for name, want := range map[string]string{"boot-web-1": "exited", "never": "exited", "boot-once-1": "exited"} {
		if got := m.field(name, "{{.State.Status}}"); got != want {
			t.Errorf("%s is %s, not %s", name, got, want)
		}
	}
	if out := m.okIn(dir, "exec", "-T", "db", "sh", "-c", "echo yes > /data/x; cat /data/x"); out != "yes\n" {
		t.Errorf("db says %q", out)
	}
}

// The data of a volume is gone: it is said, and nothing that needs it is
// started with an empty one.
func TestVolumeIsLost(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	dir := m.project("lost", held)
	m.okIn(dir, "up", "-d")
	data := filepath.Join(m.root, "volumes", "lost_data", "_data")
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	said := func() bool {
		phase, problems := m.phase("lost")
		return phase == "degraded" && strings.Contains(strings.Join(problems, "\n"), "data of volume lost_data is gone")
	}
	eventually(t, repaired, "the status says so", said)
	if r := m.in(dir, "ps"); !strings.Contains(r.err, "lost_data") {
		t.Errorf("ps does not say it: %s", r)
	}
	id := m.field("lost-db-1", "{{.Id}}")
	if err := os.Rename(filepath.Join(m.root, "containers", id), filepath.Join(m.dir, "gone")); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	if m.runs("lost-db-1") {
		t.Error("db runs again, without its data")
	}
	if _, err := os.Stat(data); err == nil {
		t.Error("there is an empty directory instead of the data")
	}
	m.fails(dir, []string{"up", "-d"}, "lost_data", "--yes")
	m.okIn(dir, "up", "-d", "--yes")
	if !m.runs("lost-db-1") {
		t.Error("db does not run, with consent")
	}
	eventually(t, repaired, "all is well", func() bool { phase, _ := m.phase("lost"); return phase == "settled" })
}

// plain starts a container that is no project's.
func (m *machine) plain(name, restart string) {
	m.t.Helper()
	code, body := m.api("POST", "/containers/create?name="+name, map[string]any{"Image": "busybox", "Cmd": []string{"sleep", "1000"},
		"HostConfig": map[string]any{"RestartPolicy": map[string]any{"Name": restart}}})
	if code != 201 {
		m.t.Fatal(code, body)
	}
	m.ok("container", "start", name)
}

// reboot takes away what a machine that is switched off does: every process,
// and the run directory.
func (m *machine) reboot() {
	m.t.Helper()
	var pids []string
	for _, id := range strings.Fields(m.ok("container", "ls", "-q", "--no-trunc")) {
		pids = append(pids, m.field(id, "{{.State.Pid}}"))
	}
	m.kill("gantry-runtime")
	m.kill("gantryd")
	for _, pid := range pids {
		kill9(m.t, pid)
	}
	m.killAll()
	dirs, _ := filepath.Glob(m.run + "/netns/*")
	for _, d := range append(dirs, m.mounts()...) {
		syscall.Unmount(d, syscall.MNT_DETACH)
	}
	if err := os.RemoveAll(m.run); err != nil {
		m.t.Fatal(err)
	}
	for _, l := range m.links() {
		exec.Command("ip", "link", "del", l).Run()
	}
	exec.Command("nft", "delete", "table", "ip", "gantry-"+m.tag).Run()
}

// mounts are those below the run directory, the deepest first.
func (m *machine) mounts() []string {
	data, _ := os.ReadFile("/proc/self/mountinfo")
	var all []string
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); strings.HasPrefix(f[4]+"/", m.run+"/") {
			all = append(all, f[4])
		}
	}
	slices.Reverse(all)
	return all
}

// links are the machine's, on the host.
func (m *machine) links() []string {
	var all []string
	for _, prefix := range []string{"gn-", "gv-"} {
		found, _ := filepath.Glob("/sys/class/net/" + prefix + m.tag + "*")
		for _, l := range found {
			all = append(all, filepath.Base(l))
		}
	}
	return all
}

// What the network is made of is taken away: running containers are reached
// again within a second, under the same addresses.
func TestLostNetwork(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	port := strconv.Itoa(freePort(t))
	dir := m.project("wires", `
services:
  web:
    image: busybox
    command: sh -c 'mkdir /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www'
    ports: ["`+port+`:80"]
  peer:
    image: busybox
    command: sleep 1000
# One that no other machine takes while its bridge is gone.
networks: {default: {ipam: {config: [{subnet: 10.213.31.0/24}]}}}
`)
	m.okIn(dir, "up", "-d")
	before := m.running(dir)
	address := m.field("wires-web-1", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")
	whole := func() bool {
		r := m.in(dir, "exec", "-T", "peer", "timeout", "1", "wget", "-q", "-O", "-", "http://"+address)
		if r.code != 0 || !strings.Contains(r.out, "hello") {
			return false
		}
		res, err := (&http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://127.0.0.1:" + port)
		if err != nil {
			return false
		}
		res.Body.Close()
		return exec.Command("nft", "list", "table", "ip", "gantry-"+m.tag).Run() == nil
	}
	eventually(t, 2*time.Second, "web serves", whole)
	for _, loss := range []func() error{
		func() error { return exec.Command("nft", "delete", "table", "ip", "gantry-"+m.tag).Run() },
		func() error {
			var errs []error
			for _, l := range m.links() { // bridge and veths alike
				errs = append(errs, exec.Command("ip", "link", "del", l).Run())
			}
			return errors.Join(errs...)
		},
	} {
		if err := loss(); err != nil {
			t.Fatal(err)
		}
		eventually(t, 2*repaired, "web is reached as before", whole)
	}
	if after := m.running(dir); !same(before, after) {
		t.Errorf("containers were restarted: %v, %v", before, after)
	}
}

// An unhealthy container is restarted where that is asked for, a bounded number
// of times, and then the project says so.
func TestUnhealthyIsRestarted(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	const check = `
    healthcheck: {test: ["CMD", "test", "-e", "/tmp/well"], interval: 100ms, retries: 1}`
	dir := m.project("sick", `
services:
  twice:
    image: busybox
    command: `+sleeper+check+`
    deploy: {restart_policy: {condition: on-failure, max_attempts: 2, window: 1h}}
  asked:
    image: busybox
    command: sh -c '[ -e /tmp/again ] && touch /tmp/well; touch /tmp/again; trap "exit 0" TERM; while :; do sleep 1000 & wait $$!; done'`+check+`
    x-gantry: {on_unhealthy: restart}
  left:
    image: busybox
    command: `+sleeper+check+`
`)
	m.okIn(dir, "up", "-d")
	eventually(t, 5*time.Second, "twice was restarted twice, and then no more", func() bool {
		_, problems := m.phase("sick")
		return strings.Contains(strings.Join(problems, "\n"), "sick-twice-1 is unhealthy after 2 restarts within 1h0m0s")
	})
	eventually(t, 5*time.Second, "asked has got well", func() bool {
		return m.field("sick-asked-1", "{{.State.Health.Status}} {{.RestartCount}}") == "healthy 1"
	})
	if got := m.field("sick-twice-1", "{{.State.Status}} {{.RestartCount}}"); got != "running 2" {
		t.Errorf("twice is %s", got)
	}
	if got := m.field("sick-left-1", "{{.State.Status}} {{.RestartCount}}"); got != "running 0" {
		t.Errorf("left is %s", got)
	}
	if r := m.in(dir, "ps"); !strings.Contains(r.err, "degraded") || !strings.Contains(r.err, "sick-twice-1") {
		t.Errorf("ps does not say it: %s", r)
	}
	m.okIn(dir, "exec", "-T", "twice", "touch", "/tmp/well")
	eventually(t, 2*time.Second, "it got well by itself", func() bool { phase, _ := m.phase("sick"); return phase == "settled" })
}

// `up --wait` is content when services are ready and jobs have ended well,
// whether or not anybody waits for the jobs.
func TestWaitForJobs(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	dir := m.project("jobs", `
services:
  web: {image: busybox, command: sleep 1000}
  quick: {image: busybox, command: "true"}
  slow: {image: busybox, command: sh -c 'sleep 0.5', restart: on-failure, healthcheck: {test: ["CMD", "false"], interval: 10s}}
  first: {image: busybox, command: sh -c 'sleep 0.3'}
  then:
    image: busybox
    command: sleep 1000
    depends_on: {first: {condition: service_completed_successfully}}
`)
	m.okIn(dir, "up", "-d", "--wait")
	m.okIn(dir, "up", "-d", "--wait")
	bad := m.project("bad", `
services:
  web: {image: busybox, command: sleep 1000}
  job: {image: busybox, command: sh -c 'exit 3'}
`)
	m.fails(bad, []string{"up", "-d", "--wait"}, "bad-job-1", "exited with code 3")
	ends := m.project("ends", `
services:
  web: {image: busybox, command: sh -c 'sleep 0.1', restart: always}
`)
	if r := m.in(ends, "up", "-d", "--wait", "--wait-timeout", "2"); r.code == 0 {
		t.Errorf("a service that ends again and again is ready: %s", r)
	}
}

// A dependency that its restart policy starts anew takes those along that said
// so.
func TestDependentsRestart(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	dir := m.project("along", `
services:
  db: {image: busybox, command: sleep 1000, restart: always}
  web:
    image: busybox
    command: `+sleeper+`
    depends_on: {db: {condition: service_started, restart: true}}
  other:
    image: busybox
    command: `+sleeper+`
    depends_on: [db]
`)
	m.okIn(dir, "up", "-d")
	web, other := m.field("along-web-1", "{{.State.StartedAt}}"), m.field("along-other-1", "{{.State.StartedAt}}")
	kill9(t, m.field("along-db-1", "{{.State.Pid}}"))
	eventually(t, 5*time.Second, "web is restarted, when db has run for a while", func() bool {
		now := m.field("along-web-1", "{{.State.StartedAt}}")
		return now != web && m.runs("along-web-1")
	})
	if now := m.field("along-other-1", "{{.State.StartedAt}}"); now != other {
		t.Error("other was restarted, and did not say so")
	}
}
