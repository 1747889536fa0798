package tests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// snapshot is what a container platform leaves on a host: mounts, network
// namespaces, links, nftables, cgroups and processes.
type snapshot map[string][]string

func takeSnapshot(t testing.TB) snapshot {
	t.Helper()
	s, err := look()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func look() (snapshot, error) {
	s := snapshot{}
	add := func(kind string, lines []string) {
		slices.Sort(lines)
		s[kind] = lines
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var points []string
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 {
			points = append(points, f[4])
		}
	}
	add("mount", points)

	links, err := filepath.Glob("/sys/class/net/*")
	if err != nil {
		return nil, err
	}
	add("link", links)

	tables, err := tables()
	if err != nil {
		return nil, err
	}
	add("nftables", tables)
	add("cgroup", cgroups())

	var procs []string
	for _, d := range below("/proc", "") {
		data, err := os.ReadFile(d + "/cmdline")
		if err != nil {
			continue // no process, or one that has ended
		}
		line := strings.ReplaceAll(strings.TrimRight(string(data), "\x00"), "\x00", " ")
		if strings.HasPrefix(filepath.Base(strings.Fields(line + " x")[0]), "gantry") {
			procs = append(procs, line)
		}
	}
	add("process", procs)
	return s, nil
}

// tables are the names of the nftables tables. Asking for names only keeps
// this quick, and clear of what old versions of nft cannot print.
func tables() ([]string, error) {
	out, err := exec.Command("nft", "list", "tables").Output()
	if err != nil {
		return nil, fmt.Errorf("nft list tables: %w", err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n"), nil
}

// cgroups are the groups gantry has made, in whichever hierarchy, and those
// right below them.
func cgroups() (all []string) {
	const root = "/sys/fs/cgroup"
	for _, hierarchy := range append([]string{root}, below(root, "")...) {
		for _, group := range below(hierarchy, "gantry") {
			all = append(append(all, group), below(group, "")...)
		}
	}
	return all
}

// below are the directories in a directory whose names begin so. It looks at
// none of them: this is asked a thousand times.
func below(dir, prefix string) (all []string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), prefix) {
			all = append(all, filepath.Join(dir, e.Name()))
		}
	}
	return all
}

// snapshot is what the host has of this machine alone: tests run side by side.
func (m *machine) snapshot() snapshot {
	m.t.Helper()
	own := snapshot{}
	for kind, lines := range takeSnapshot(m.t) {
		for _, line := range lines {
			if m.owns(line) {
				own[kind] = append(own[kind], line)
			}
		}
	}
	return own
}

// owns tells whether the name of a kernel object, a path or a command line is
// this machine's.
func (m *machine) owns(line string) bool {
	for _, mark := range []string{m.dir + "/", "gn-" + m.tag, "gv-" + m.tag, "gantry-" + m.tag} {
		if strings.Contains(line, mark) {
			return true
		}
	}
	return false
}

// settled is what the machine has on the host beyond before. The kernel
// collects namespaces and their links a little after they are dropped.
func (m *machine) settled(before snapshot) difference {
	m.t.Helper()
	for begin := time.Now(); ; breathe(begin) {
		left := m.snapshot().minus(before)
		if left == "" || time.Since(begin) > 15*time.Second {
			return left
		}
	}
}

// minus lists what is here and was not before. Several things of one name
// count each.
func (s snapshot) minus(before snapshot) difference {
	var b strings.Builder
	for _, kind := range []string{"process", "mount", "link", "nftables", "cgroup"} {
		had := map[string]int{}
		for _, x := range before[kind] {
			had[x]++
		}
		for _, x := range s[kind] {
			if had[x]--; had[x] < 0 {
				fmt.Fprintf(&b, "%s: %s\n", kind, x)
			}
		}
	}
	return difference(b.String())
}

// difference is lines of the form "kind: name".
type difference string

// without leaves a kind out.
func (d difference) without(kind string) string {
	var b strings.Builder
	for line := range strings.Lines(string(d)) {
		if !strings.HasPrefix(line, kind+": ") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// short is the difference as an error shows it.
func (d difference) short() string {
	lines := strings.SplitAfter(string(d), "\n")
	if n := len(lines); n > 25 {
		lines = append(lines[:25:25], fmt.Sprintf("… and %d more\n", n-25))
	}
	return strings.Join(lines, "")
}
