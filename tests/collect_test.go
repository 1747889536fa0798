package tests

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A build leaves more in the cache than it may: what nobody uses is collected by
// itself, and images stay.
func TestCollection(t *testing.T) {
	t.Parallel()
	m := bareMachine(t)
	m.env = append(m.env, "GANTRY_MAX_USED_SPACE=1MB", "GANTRY_MIN_FREE_SPACE=0", "GANTRY_UNUSED_FOR=0s")
	dir := m.source("big", "FROM scratch\nCOPY noise /noise\n", "noise", strings.Repeat("0123456789abcdef", 300_000))
	// First what makes no image, so that all of it is cache.
	m.okIn(dir, "image", "build", "-o", filepath.Join(m.dir, "out"), ".")
	if st, err := os.Stat(filepath.Join(m.dir, "out", "noise")); err != nil || st.Size() != 4_800_000 {
		t.Fatalf("%v %v", st, err)
	}
	layers := func() int64 {
		var n int64
		err := filepath.WalkDir(filepath.Join(m.root, "images", "snapshots", "snapshots"), func(path string, d os.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				if st, err := d.Info(); err == nil {
					n += st.Size()
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	eventually(t, 15*time.Second, "the cache is below its budget", func() bool { return layers() < 1<<20 })
	// What was collected is made again.
	m.okIn(dir, "image", "build", "-t", "big", ".")
	if got := strings.TrimSpace(m.ok("image", "ls", "-q")); got == "" {
		t.Error("the image is gone")
	}
}

// Images that have lost their names are collected, but not those that a project
// may go back to; whoever prunes them is told when they are missed.
func TestCollectionKeepsWhatHistoriesNeed(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	dir := m.project("back", "services: {app: {build: ., command: sleep 1000, stop_signal: SIGKILL}}")
	version := func(v string) string {
		t.Helper()
		write(t, filepath.Join(dir, "Dockerfile"), "FROM busybox\nRUN echo "+v+" > /v\n")
		m.okIn(dir, "up", "-d", "--build")
		return strings.TrimSpace(m.ok("image", "inspect", "back-app", "--format", "{{.Id}}"))
	}
	first := version("1")
	second := version("2")
	other := m.source("other", "FROM busybox\nARG A\nRUN echo x$A > /x\n")
	lost := strings.TrimSpace(m.okIn(other, "image", "build", "-q", "."))
	// From now on there is room for nothing; the next build is what it looks after.
	m.ok("daemon", "stop", "--leave")
	m.env = append(m.env, "GANTRY_MAX_USED_SPACE=1kB", "GANTRY_MIN_FREE_SPACE=0", "GANTRY_UNUSED_FOR=0s")
	m.okIn(other, "image", "build", "-q", "-t", "other", "--build-arg", "A=1", ".")
	eventually(t, 15*time.Second, "what nobody can ask for is collected", func() bool {
		return m.gantry("image", "inspect", lost).code != 0
	})
	if r := m.in(dir, "rollback"); r.code != 0 || m.okIn(dir, "exec", "-T", "app", "cat", "/v") != "1\n" {
		t.Error(r)
	}
	version("3")
	if out := m.ok("image", "prune", "-f"); !strings.Contains(out, first) || !strings.Contains(out, second) {
		t.Errorf("pruned: %s", out)
	}
	m.oneLine(m.in(dir, "rollback", "--to", "1"), "service app: the image that was built as back-app ("+strings.TrimPrefix(first, "sha256:")[:12]+") is not here any more")
}
