package runtime

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"gantry/runtime/spec"
)

// The namespace that /proc shows as the keeper's is where mounts are lent to:
// none of the threads that go to containers may be the one it is taken from.
func TestKeeperStaysAtHome(t *testing.T) {
	h := newHouse(t)
	home := func() string {
		to, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", h.e.Keeper.Pid()))
		must(t, err)
		return to
	}
	before := home()
	var starts sync.WaitGroup
	for range 4 {
		starts.Go(func() {
			for range 5 {
				c, err := h.e.Create(background(t), "", box("true"))
				if err == nil {
					err = h.e.Start(background(t), c.ID)
				}
				if err != nil {
					t.Error(err)
				}
				h.gone(t, c.ID)
			}
		})
	}
	starts.Wait()
	if now := home(); now != before {
		t.Errorf("the keeper is in %s, was in %s", now, before)
	}
}

// What is on loan is taken back with the keeper's namespace as it was, and a
// daemon that died meanwhile is swept up after.
func TestLend(t *testing.T) {
	h := newHouse(t)
	dir := t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, ""))
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	must(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
	must(t, unix.Mount("tmpfs", filepath.Join(dir, "sub"), "tmpfs", 0, ""))
	t.Cleanup(func() { unix.Unmount(filepath.Join(dir, "sub"), unix.MNT_DETACH) })

	s, err := h.e.sight()
	must(t, err)
	if s.same(dir) {
		t.Skip("the machine's / is shared, so the keeper sees everything")
	}
	at := filepath.Join(h.run, "rootfs", lentPrefix+"x.0")
	count := func() int {
		table, err := readMounts(fmt.Sprintf("/proc/%d/mountinfo", h.e.Keeper.Pid()))
		must(t, err)
		n := 0
		for _, m := range table {
			if within(m.Point, at) {
				n++
			}
		}
		return n
	}
	for name, undo := range map[string]func() error{
		"taken back": func() error { return h.e.takeBack(at) },
		"swept":      func() error { return h.e.sweep(background(t), nil, nil, nil) },
	} {
		source, moved, err := h.e.lend(s, spec.Mount{Type: spec.MountBind, Source: dir}, at)
		if err != nil || !moved || source != at || count() != 2 {
			t.Fatalf("%s: %q %v %v, %d mounts", name, source, moved, err, count())
		}
		must(t, undo())
		if _, err := os.Lstat(at); err == nil || count() != 0 {
			t.Errorf("%s: %v, %d mounts are left", name, err, count())
		}
	}
	if table, _ := readMounts("/proc/self/mountinfo"); mountOf(table, filepath.Join(dir, "sub")).Point != filepath.Join(dir, "sub") {
		t.Error("the machine lost a mount")
	}
}
