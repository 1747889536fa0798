package runtime

import (
	"os"
	osexec "os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gantry/runtime/spec"
)

// What readHost says is compared with other ways to ask the same machine.
func TestReadHost(t *testing.T) {
	h, err := readHost("")
	if err != nil {
		t.Fatal(err)
	}
	if name, _ := os.Hostname(); h.Hostname != name {
		t.Errorf("hostname %q, want %q", h.Hostname, name)
	}
	release, err := osexec.Command("uname", "-r").Output()
	if err != nil {
		t.Fatal(err)
	}
	want := strconv.Itoa(h.Kernel.Major) + "." + strconv.Itoa(h.Kernel.Minor)
	if !strings.HasPrefix(string(release), want) {
		t.Errorf("kernel %s, uname says %s", want, release)
	}
	if h.CPUs < 1 || h.Memory < 1<<20 {
		t.Errorf("%d CPUs, %d bytes of memory", h.CPUs, h.Memory)
	}

	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "CapBnd:")
	set, err := strconv.ParseUint(strings.Fields(after)[0], 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	for name, bit := range map[string]int{"CAP_CHOWN": unix.CAP_CHOWN, "CAP_SYS_ADMIN": unix.CAP_SYS_ADMIN, "CAP_SYS_RESOURCE": unix.CAP_SYS_RESOURCE, "CAP_CHECKPOINT_RESTORE": unix.CAP_CHECKPOINT_RESTORE} {
		if want := set>>bit&1 == 1; h.Has(name) != want {
			t.Errorf("%s: %v, /proc/self/status says %v", name, h.Has(name), want)
		}
	}

	var nofile unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &nofile); err != nil {
		t.Fatal(err)
	}
	if h.HardLimits["nofile"] != nofile.Max {
		t.Errorf("nofile %d, want %d", h.HardLimits["nofile"], nofile.Max)
	}
	if h.NrOpen < nofile.Max {
		t.Errorf("nr_open %d is below our own limit %d", h.NrOpen, nofile.Max)
	}
	_, err = os.Stat("/sys/fs/cgroup/cgroup.controllers")
	if h.CgroupV2 != (err == nil) {
		t.Errorf("cgroup v2: %v, but cgroup.controllers: %v", h.CgroupV2, err)
	}
	for _, controller := range []string{"cpu", "memory", "pids"} {
		if !slices.Contains(h.Controllers, controller) {
			t.Errorf("no %s controller among %v", controller, h.Controllers)
		}
	}
	if filters := strings.Contains(string(status), "Seccomp_filters:"); h.Seccomp != filters {
		t.Errorf("seccomp filters: %v, /proc/self/status says %v", h.Seccomp, filters)
	}
	if h.CpusOnline == "" {
		t.Error("no CPUs online")
	}
}

// What a unified hierarchy gives is what reaches the containers' parent.
func TestReadUnified(t *testing.T) {
	tree := func(files map[string]string) string {
		root := t.TempDir()
		for name, text := range files {
			name = filepath.Join(root, name)
			must(t, os.MkdirAll(filepath.Dir(name), 0o755))
			must(t, os.WriteFile(name, []byte(text), 0o644))
		}
		return root
	}
	const all = "cpuset cpu io memory hugetlb pids\n"
	for _, c := range []struct {
		what  string
		files map[string]string
		want  spec.Host
	}{
		{"all handed down", map[string]string{
			"cgroup.controllers": all, "gantry/cgroup.subtree_control": all,
			"gantry/memory.swap.max": "max", "gantry/io.bfq.weight": "default 100", "gantry/io.weight": "default 100",
		}, spec.Host{Controllers: []string{"blkio", "cpu", "cpuset", "devices", "freezer", "hugetlb", "io", "memory", "pids"}, SwapLimit: true, BlkioWeight: true, DiskWeights: true}},
		{"no swap, no BFQ", map[string]string{
			"cgroup.controllers": all, "gantry/cgroup.subtree_control": "io memory", "init.scope/io.weight": "default 100",
		}, spec.Host{Controllers: []string{"blkio", "devices", "freezer", "io", "memory"}, BlkioWeight: true}},
		{"nothing comes down", map[string]string{
			"cgroup.controllers": all, "gantry/cgroup.subtree_control": "",
		}, spec.Host{Controllers: []string{"devices", "freezer"}}},
		{"not there yet", map[string]string{"cgroup.controllers": "pids"}, spec.Host{Controllers: []string{"devices", "freezer", "pids"}}},
	} {
		var h spec.Host
		must(t, readUnified(&h, tree(c.files), "/gantry"))
		c.want.CgroupV2 = true
		if !reflect.DeepEqual(h, c.want) {
			t.Errorf("%s: %+v, want %+v", c.what, h, c.want)
		}
	}
}
