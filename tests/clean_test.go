package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// footprint is what a process holds.
type footprint struct {
	fds, threads, rss int // rss in KiB
	children          int
}

func (m *machine) footprint(program string) footprint {
	m.t.Helper()
	pids := m.pids(program)
	if len(pids) != 1 {
		m.t.Fatalf("%d processes of %s", len(pids), program)
	}
	dir := filepath.Join("/proc", strconv.Itoa(pids[0]))
	fds, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		m.t.Fatal(err)
	}
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		m.t.Fatal(err)
	}
	f := footprint{fds: len(fds)}
	for line := range strings.Lines(string(status)) {
		name, rest, _ := strings.Cut(line, ":")
		n, _ := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")))
		switch name {
		case "VmRSS":
			f.rss = n
		case "Threads":
			f.threads = n
		}
	}
	children, _ := os.ReadFile(filepath.Join(dir, "task", strconv.Itoa(pids[0]), "children"))
	f.children = len(strings.Fields(string(children)))
	return f
}

// Two hundred rounds of up and down leave nothing: no descriptor, thread,
// process, file or megabyte.
func TestTwoHundredRounds(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	m := newMachine(t, memory())
	dir := m.project("rounds", fmt.Sprintf(`
services:
  web:
    image: busybox
    command: sh -c 'trap "exit 0" TERM; while :; do sleep 1000 & wait $$!; done'
    ports: ["%d:80"]
    volumes: ["data:/data", "/anonymous"]
    healthcheck: {test: ["CMD", "true"], interval: 1s}
volumes: {data: {}}
`, freePort(t)))
	round := func() {
		m.okIn(dir, "up", "-d")
		m.okIn(dir, "down", "-v")
	}
	for range 20 { // pools and caches fill
		round()
	}
	before := map[string]footprint{"gantryd": m.footprint("gantryd"), "gantry-runtime": m.footprint("gantry-runtime")}
	host := m.snapshot()
	for range 200 {
		round()
	}
	for program, b := range before {
		a := m.footprint(program)
		t.Logf("%s: before %+v, after %+v", program, b, a)
		if a.fds > b.fds+3 {
			t.Errorf("%s: %d descriptors, then %d", program, b.fds, a.fds)
		}
		// The scheduler of Go keeps threads it once needed.
		if a.threads > b.threads+6 {
			t.Errorf("%s: %d threads, then %d", program, b.threads, a.threads)
		}
		if a.rss > b.rss+12*1024 {
			t.Errorf("%s: %d KiB, then %d", program, b.rss, a.rss)
		}
		if a.children > b.children {
			t.Errorf("%s: %d children, then %d", program, b.children, a.children)
		}
	}
	if left := m.settled(host); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
	if dirs := m.leftovers(); len(dirs) > 0 {
		t.Errorf("directories left: %v", dirs)
	}
}
