package keeper_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/runtime/keeper"
)

func onUnified() bool {
	var st unix.Statfs_t
	return unix.Statfs("/sys/fs/cgroup", &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// TestWithUnifiedCgroups runs tests anew where /sys/fs/cgroup is version 2, as
// they see it. On a machine whose controllers are on version 1 that hierarchy
// has none of them, but it freezes, kills, counts and guards devices.
func TestWithUnifiedCgroups(t *testing.T) {
	if onUnified() {
		t.Skip("all tests here run with unified cgroups")
	}
	h := newHouse(t)
	const script = `mount -t cgroup2 none /sys/fs/cgroup && exec "$@"`
	cmd := exec.Command("unshare", "-m", "sh", "-c", script, "sh", os.Args[0], "-test.v",
		"-test.run=^(TestUnified|TestExecWhilePausing|TestHostPid)$")
	cmd.Env = append(os.Environ(), "GANTRY_RUNTIME="+program)
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), "mount: ") {
		t.Skipf("needs a kernel that mounts cgroup2: %s", out)
	}
	if err != nil || strings.Count(string(out), "--- PASS") != 3 || strings.Contains(string(out), "--- SKIP") {
		t.Errorf("%v:\n%s", err, out)
	}
	h.must(h.client.Delete(ctx(t), "nothing"))
}

// TestUnified: what is different with version 2.
func TestUnified(t *testing.T) {
	if !onUnified() {
		t.Skip("needs /sys/fs/cgroup to be cgroup2; TestWithUnifiedCgroups runs this there")
	}
	h := newHouse(t)
	dir := filepath.Join("/sys/fs/cgroup", h.cgroup)
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		h.must(err)
		return strings.TrimSpace(string(b))
	}
	b := h.bundle("one", "sh", "-c", "i=0; while true; do i=$((i+1)); usleep 1000; done")
	h.start(b)

	// No process is in a group that hands controllers down, and all of them
	// are handed down.
	if procs := read("cgroup.procs"); procs != "" {
		t.Errorf("processes beside groups: %s", procs)
	}
	if given, all := read("cgroup.subtree_control"), read("cgroup.controllers"); given != all {
		t.Errorf("controllers %q, handed down %q", all, given)
	}
	if n := len(strings.Fields(read("keeper/cgroup.procs"))); n == 0 {
		t.Error("the keeper is not in its group")
	}

	h.must(h.client.Pause(ctx(t), "one"))
	if read("one/cgroup.freeze") != "1" || !strings.Contains(read("one/cgroup.events"), "frozen 1") {
		t.Errorf("paused: %s", read("one/cgroup.events"))
	}
	h.killKeeper()
	if list, err := h.client.List(ctx(t)); err != nil || len(list) != 1 || list[0].State != keeper.StatePaused {
		t.Errorf("paused, to the next keeper: %+v %v", list, err)
	}
	h.must(h.client.Resume(ctx(t), "one"))
	time.Sleep(20 * time.Millisecond)
	all, err := h.client.Stats(ctx(t))
	h.must(err)
	if st := all["one"]; st.CPUTotal <= 0 || st.CPUUser+st.CPUSystem <= 0 || st.Pids == 0 {
		t.Errorf("stats: %+v", st)
	}

	// Devices: a program in the kernel says which, and an exec is under it too.
	if x, out := h.execOut("one", "d", "sh", "-c", "cat </dev/null && /bin/busybox mknod /tmp/kmsg c 1 11 && head -c 1 </tmp/kmsg"); x.Code == 0 || !strings.Contains(out, "Operation not permitted") {
		t.Errorf("a device it may not have: %+v %q", x, out)
	}

	// A limit whose controller does not reach it is an error, not ignored.
	if !strings.Contains(read("cgroup.controllers"), "pids") {
		few := h.bundle("few", "true")
		few.Spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: ptr(int64(50))}
		if _, err := h.client.Run(ctx(t), few); err == nil || !strings.Contains(err.Error(), "pids.max") {
			t.Errorf("a limit that cannot be set: %v", err)
		}
		if err := h.client.Update(ctx(t), "one", &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(50))}}); err == nil {
			t.Error("updated a limit that cannot be set")
		}
	}

	// A container that gives its own group away, as systemd does, still takes
	// execs, and is killed with all that is in it.
	h.start(h.bundle("two", "sleep", "1000"))
	h.must(os.Mkdir(filepath.Join(dir, "two", "inner"), 0o755))
	for pid := range strings.FieldsSeq(read("two/cgroup.procs")) {
		h.must(os.WriteFile(filepath.Join(dir, "two/inner/cgroup.procs"), []byte(pid), 0o644))
	}
	for c := range strings.FieldsSeq(read("two/cgroup.controllers")) {
		h.must(os.WriteFile(filepath.Join(dir, "two/cgroup.subtree_control"), []byte("+"+c), 0o644))
	}
	if x, out := h.execOut("two", "inner", "true"); x.Code != 0 {
		t.Errorf("exec beside an inner group: %+v %s", x, out)
	}
	if pids, err := h.client.Processes(ctx(t), "two"); err != nil || len(pids) == 0 {
		t.Errorf("processes: %v %v", pids, err)
	}
	h.must(h.client.Delete(ctx(t), "two"))
	h.must(h.client.Delete(ctx(t), "one"))
	if _, err := os.Stat(filepath.Join(dir, "two")); err == nil {
		t.Error("its group is left")
	}
	if list, err := h.client.List(ctx(t)); err != nil || len(list) != 0 {
		t.Errorf("%+v %v", list, err)
	}
}
