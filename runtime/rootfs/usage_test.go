package rootfs

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestUsage(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, size int) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	allocated := func(name string) int64 {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks * 512
	}
	write("a", 100_000)
	write("deep/er/b", 5000)
	if err := os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "deep/again")); err != nil {
		t.Fatal(err)
	}
	// What lies outside does not count, nor do holes.
	outside := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(outside, make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"out": filepath.Dir(outside), "file": outside, "loop": "loop"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	write("hole", 0)
	if err := os.Truncate(filepath.Join(dir, "hole"), 1<<40); err != nil {
		t.Fatal(err)
	}
	got, err := Usage(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	want := int64(0)
	for _, name := range []string{"a", "deep/er/b", "out", "file", "loop", "hole"} {
		want += allocated(name)
	}
	if got != want || got < 105_000 || got > 1<<20 {
		t.Errorf("%d bytes, want %d", got, want)
	}

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Usage(ended, dir); err == nil {
		t.Error("it went on after its caller had left")
	}
	if _, err := Usage(t.Context(), filepath.Join(dir, "missing")); !os.IsNotExist(err) {
		t.Errorf("got %v", err)
	}
}

// A tree deeper than a path can name takes neither descriptors nor for ever.
func TestUsageOfADeepTree(t *testing.T) {
	dir := t.TempDir()
	at, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	name := string(make([]byte, 0, 200))
	for range 200 {
		name += "d"
	}
	for range 40 {
		if err := unix.Mkdirat(at, name, 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(at, name, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(at)
		at = next
	}
	unix.Close(at)
	if got, err := Usage(t.Context(), dir); err != nil || got != 0 {
		t.Errorf("%d, %v", got, err)
	}
}
