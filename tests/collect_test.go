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
