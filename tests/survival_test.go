package tests

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// counter prints numbers without end; it stops when told to.
const counter = `sh -c 'trap "exit 0" TERM; i=0; while :; do echo line $$i; i=$$((i+1)); sleep 0.01; done'`

// numbers are those a counter has printed, as its log has them.
func (m *machine) numbers(dir, service string) []int {
	m.t.Helper()
	var all []int
	for line := range strings.Lines(m.okIn(dir, "logs", "--no-log-prefix", service)) {
		if n, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, "line "))); err == nil {
			all = append(all, n)
		}
	}
	return all
}

// wholeFrom reports the first number missing in a row.
func wholeFrom(all []int) error {
	for i := 1; i < len(all); i++ {
		if all[i] != all[i-1]+1 {
			return fmt.Errorf("%d follows %d", all[i], all[i-1])
		}
	}
	return nil
}

// running are the processes 1 of a project's containers, by name.
func (m *machine) running(dir string) map[string]string {
	m.t.Helper()
	pids := map[string]string{}
	for name := range strings.Lines(m.okIn(dir, "ps", "-q")) {
		name = strings.TrimSpace(name)
		out := m.ok("container", "inspect", name, "--format", "{{.State.Pid}} {{.State.StartedAt}}")
		pids[name] = strings.TrimSpace(out)
	}
	return pids
}

func same(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}

// The keeper is killed: containers run on, also one with a terminal, and the
// log goes on.
func TestKeeperDies(t *testing.T) {
	m := newMachine(t)
	dir := m.project("keeper", `
services:
  plain:
    image: busybox
    command: `+counter+`
  terminal:
    image: busybox
    tty: true
    stdin_open: true
    command: `+counter+`
  crashing:
    image: busybox
    restart: always
    command: sh -c 'sleep 1000'
`)
	m.okIn(dir, "up", "-d")
	before := m.running(dir)
	for range 3 {
		time.Sleep(400 * time.Millisecond)
		m.kill("gantry-runtime")
		time.Sleep(400 * time.Millisecond)
		if after := m.running(dir); !same(before, after) {
			t.Fatalf("before %v, after %v", before, after)
		}
	}
	r := m.in(dir, "exec", "-T", "plain", "true")
	if r.code != 0 {
		t.Error("exec after it:", r)
	}
	for _, service := range []string{"plain", "terminal"} {
		all := m.numbers(dir, service)
		if len(all) < 100 {
			t.Fatalf("%s: only %d lines were logged", service, len(all))
		}
		// A read of the dead keeper may be lost, and then the log says so.
		if err := wholeFrom(all); err != nil && !strings.Contains(m.okIn(dir, "logs", service), "gantry:") {
			t.Errorf("%s: a gap without a mark: %v", service, err)
		}
		last := all[len(all)-1]
		eventually(t, 3*time.Second, service+" goes on", func() bool {
			now := m.numbers(dir, service)
			return now[len(now)-1] > last+10
		})
	}
	t.Run("a crash after it is repaired", func(t *testing.T) {
		m := m.with(t)
		name := "keeper-crashing-1"
		old := m.ok("container", "inspect", name, "--format", "{{.State.Pid}}")
		kill9(t, old)
		eventually(t, 3*time.Second, "it runs again", func() bool {
			now := m.ok("container", "inspect", name, "--format", "{{.State.Pid}}")
			return now != old && strings.TrimSpace(now) != "0"
		})
	})
}

func kill9(t testing.TB, pid string) {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(pid))
	if err != nil || n < 2 {
		t.Fatalf("no process id: %q", pid)
	}
	p, err := os.FindProcess(n)
	if err == nil {
		err = p.Kill()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Both are killed at once.
func TestBothDie(t *testing.T) {
	m := newMachine(t)
	dir := m.project("both", `
services:
  plain:
    image: busybox
    command: `+counter+`
    ports: ["`+strconv.Itoa(freePort(t))+`:80"]
  ending:
    image: busybox
    command: sh -c 'sleep 1.5; exit 7'
`)
	m.okIn(dir, "up", "-d")
	plain := m.ok("container", "inspect", "both-plain-1", "--format", "{{.State.Pid}}")
	m.kill("gantry-runtime")
	m.kill("gantryd")
	time.Sleep(2 * time.Second) // one ends while nobody is there
	if now := m.ok("container", "inspect", "both-plain-1", "--format", "{{.State.Pid}}"); now != plain {
		t.Errorf("the container had process %s, now %s", plain, now)
	}
	// Nobody was its parent. Either the kernel remembers, or it is said to be
	// unknown; it is never guessed.
	code := strings.TrimSpace(m.ok("container", "inspect", "both-ending-1", "--format", "{{.State.Status}} {{.State.ExitCode}}"))
	if code != "exited 7" && code != "exited 255" {
		t.Errorf("the container that ended meanwhile is %q", code)
	}
	if all := m.numbers(dir, "plain"); len(all) < 50 {
		t.Errorf("only %d lines", len(all))
	} else if err := wholeFrom(all); err != nil && !strings.Contains(m.okIn(dir, "logs", "plain"), "gantry:") {
		t.Errorf("a gap without a mark: %v", err)
	}
	if r := m.in(dir, "exec", "-T", "plain", "true"); r.code != 0 {
		t.Error(r)
	}
}

const threeTiers = `
services:
  db:
    image: busybox
    command: sh -c 'trap "exit 0" TERM; while :; do sleep 1000 & wait $$!; done'
    healthcheck: {test: ["CMD", "true"], interval: 1s}
    volumes: ["data:/data"]
    networks: [back]
  job:
    image: busybox
    command: "true"
    networks: [back]
    depends_on: {db: {condition: service_healthy}}
  web:
    image: busybox
    command: sh -c 'trap "exit 0" TERM; while :; do sleep 1000 & wait $$!; done'
    ports: ["%d:80"]
    deploy: {replicas: 3}
    networks: [back, front]
    depends_on: {job: {condition: service_completed_successfully}}
networks: {back: {internal: true}, front: {}}
volumes: {data: {}}
`

// Programs are killed at random moments of up and of down: the next command
// converges, and after down the machine is as before.
func TestRandomKills(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	dir := m.project("kills", fmt.Sprintf(threeTiers, freePort(t)))
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("GANTRY_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("seed %d (GANTRY_SEED repeats it)", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	victims := [][]string{{"gantryd"}, {"gantry-runtime"}, {"gantryd", "gantry-runtime"}}
	m.okIn(dir, "up", "-d")
	m.okIn(dir, "down", "-v")
	clean := m.snapshot()

	disturb := func(args ...string) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		cmd := m.command(ctx, dir, args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rnd.IntN(350)) * time.Millisecond)
		for _, v := range victims[rnd.IntN(len(victims))] {
			for _, pid := range m.pids(v) {
				kill9(t, strconv.Itoa(pid))
			}
		}
		cmd.Wait() // it may have failed: that is the point
	}
	for i := range 20 {
		disturb("up", "-d")
		if r := m.in(dir, "up", "-d"); r.code != 0 {
			t.Fatalf("round %d: up after a kill: %s", i, r)
		}
		if got := len(strings.Fields(m.okIn(dir, "ps", "-q", "--status", "running"))); got != 4 {
			t.Fatalf("round %d: %d containers run, want 4:\n%s", i, got, m.okIn(dir, "ps", "-a"))
		}
		disturb("down", "-v")
		if r := m.in(dir, "down", "-v"); r.code != 0 {
			t.Fatalf("round %d: down after a kill: %s", i, r)
		}
		if left := m.okIn(dir, "ps", "-aq"); left != "" {
			t.Fatalf("round %d: containers are left: %s", i, left)
		}
		var left string
		for range 50 { // the kernel collects namespaces a little later
			if left = m.snapshot().minus(clean).without("process"); left == "" {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if left != "" {
			t.Fatalf("round %d: left behind after down:\n%s", i, left)
		}
		if dirs := m.leftovers(); len(dirs) > 0 {
			t.Fatalf("round %d: directories left: %v", i, dirs)
		}
	}
}

// leftovers are files of containers, networks or volumes that no longer are.
// Content that may be large is deleted in the background, so it has a moment.
func (m *machine) leftovers() []string {
	var all []string
	for range 100 {
		if all = m.filesLeft(); len(all) == 0 {
			break
		}
		time.Sleep(30 * time.Millisecond)
	}
	return all
}

func (m *machine) filesLeft() []string {
	var all []string
	for _, pattern := range []string{
		m.root + "/containers/*", m.root + "/networks/*.json", m.root + "/volumes/*",
		m.run + "/netns/*", m.run + "/keeper/*", m.run + "/libcontainer/*", m.run + "/rootfs/*", m.run + "/files/*", m.run + "/shm/*",
	} {
		found, _ := filepath.Glob(pattern)
		for _, f := range found {
			if !anonymousNetwork(f) {
				all = append(all, f)
			}
		}
	}
	return all
}

// The default network is made once and stays.
var bridgeName = regexp.MustCompile(`"Name":\s*"bridge"`)

func anonymousNetwork(path string) bool {
	if !strings.HasSuffix(path, ".json") {
		return false
	}
	data, err := os.ReadFile(path)
	return err == nil && bridgeName.Match(data)
}
