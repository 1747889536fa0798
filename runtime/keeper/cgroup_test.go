package keeper_test

import (
	"os"
	"path/filepath"
	"testing"
)

// cgroupDirs are the directories of a cgroup, in all hierarchies.
func cgroupDirs(t *testing.T, path string) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"/sys/fs/cgroup" + path, "/sys/fs/cgroup/*" + path} {
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, dirs...)
	}
	return all
}

// A parent that a container's cgroup was made with goes with the last container
// in it, also by the next keeper's hand; one that was there stays.
func TestParentsOfCgroups(t *testing.T) {
	h := newHouse(t)
	there := h.cgroup + "-there"
	hierarchy := "/sys/fs/cgroup"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		hierarchy = "/sys/fs/cgroup/devices"
	}
	h.must(os.Mkdir(hierarchy+there, 0o755))
	t.Cleanup(func() {
		for _, dir := range cgroupDirs(t, there) {
			h.must(os.Remove(dir))
		}
	})
	start := func(id, parent string) {
		t.Helper()
		b := h.bundle(id, "sleep", "100")
		b.Spec.Linux.CgroupsPath = parent + "/" + id
		h.start(b)
	}
	end := func(id string) {
		t.Helper()
		h.must(h.client.Delete(ctx(t), id))
	}
	made := h.cgroup + "-made"
	start("one", made+"/deep")
	start("two", made)
	start("three", there+"/deep")
	end("one")
	if left := cgroupDirs(t, made+"/deep"); len(left) > 0 {
		t.Errorf("after its last container: %q", left)
	}
	if len(cgroupDirs(t, made)) == 0 {
		t.Error("a parent with a container is gone")
	}
	end("two")
	end("three")
	if left := append(cgroupDirs(t, made), cgroupDirs(t, there+"/deep")...); len(left) > 0 {
		t.Errorf("after the last containers: %q", left)
	}
	if len(cgroupDirs(t, there)) == 0 {
		t.Error("a parent that was there before is gone")
	}

	// Made again, by a keeper that does not live to see the end.
	start("four", made)
	h.killKeeper()
	end("four")
	if left := cgroupDirs(t, made); len(left) > 0 {
		t.Errorf("a keeper later: %q", left)
	}
	if len(cgroupDirs(t, h.cgroup)) == 0 {
		t.Error("the keeper's own cgroup is gone")
	}
}
