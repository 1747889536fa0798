package runtime

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gantry/runtime/spec"

	"github.com/containerd/errdefs"
)

// cgroupFile reads a file of a container's cgroup, in whichever hierarchy has it.
func (h *house) cgroupFile(t testing.TB, id string, names ...string) string {
	t.Helper()
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		for _, name := range names {
			for _, below := range []string{"*", "*/*", ""} {
				found, _ := filepath.Glob(filepath.Join(root, h.cgroup, below, id, name))
				more, _ := filepath.Glob(filepath.Join(root, h.cgroup, below, "*"+id+"*", name))
				for _, path := range append(found, more...) {
					b, err := os.ReadFile(path)
					must(t, err)
					return strings.TrimSpace(string(b))
				}
			}
		}
	}
	t.Fatalf("no cgroup of %s has any of %v", id, names)
	return ""
}

func TestUpdateLimitsOfALiveContainer(t *testing.T) {
	h := newHouse(t)
	cfg := box("sleep", "1000")
	cfg.Resources = spec.Resources{Memory: 64 << 20, PidsLimit: 50}
	c := h.start(t, cfg)
	must(t, h.e.Update(background(t), c.ID, UpdateOptions{Resources: spec.Resources{Memory: 32 << 20, PidsLimit: 20, CPUShares: 512}}))
	if got := h.cgroupFile(t, c.ID, "memory.max", "memory.limit_in_bytes"); got != "33554432" {
		t.Errorf("memory limit is %s", got)
	}
	if got := h.cgroupFile(t, c.ID, "pids.max"); got != "20" {
		t.Errorf("pids limit is %s", got)
	}
	// It holds for the next daemon, and for the next process.
	h.kill(t)
	now := h.inspect(t, c.ID)
	if r := now.Config.Resources; r.Memory != 32<<20 || r.PidsLimit != 20 || r.CPUShares != 512 || now.State != Running {
		t.Errorf("after a new daemon: %s %+v", now.State, r)
	}
	must(t, h.e.Restart(background(t), c.ID, StopOptions{Signal: "SIGKILL"}))
	if got := h.cgroupFile(t, c.ID, "pids.max"); got != "20" {
		t.Errorf("after a restart the pids limit is %s", got)
	}
}

func TestUpdateRefusesWhatCannotBeHad(t *testing.T) {
	h := sharedHouse(t)
	cfg := box("sleep", "1000")
	cfg.Resources = spec.Resources{Memory: 64 << 20, CPUQuota: 20000, CPUPeriod: 100000}
	c := h.start(t, cfg)
	for _, tt := range []struct {
		o    UpdateOptions
		is   func(error) bool
		text string
	}{
		{UpdateOptions{Resources: spec.Resources{Memory: 1 << 30}}, errdefs.IsConflict, "update the memoryswap at the same time"},
		{UpdateOptions{Resources: spec.Resources{Memory: 1 << 20}}, errdefs.IsInvalidArgument, "6 MiB"},
		{UpdateOptions{Resources: spec.Resources{NanoCPUs: 5e8}}, errdefs.IsConflict, "CPU Period has already been set"},
		{UpdateOptions{Resources: spec.Resources{CpusetCpus: "9000"}}, errdefs.IsInvalidArgument, "cpuset"},
	} {
		err := h.e.Update(background(t), c.ID, tt.o)
		if !tt.is(err) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%+v: got %v", tt.o, err)
		}
	}
	if got := h.inspect(t, c.ID).Config.Resources; got.Memory != 64<<20 || got.CPUQuota != 20000 {
		t.Errorf("a refused update changed %+v", got)
	}
	if got := h.cgroupFile(t, c.ID, "memory.max", "memory.limit_in_bytes"); got != "67108864" {
		t.Errorf("a refused update changed the memory limit to %s", got)
	}
}

func TestUpdateRestartPolicy(t *testing.T) {
	h := sharedHouse(t)
	c := h.start(t, box("sleep", "1000"))
	must(t, h.e.Update(background(t), c.ID, UpdateOptions{Restart: &spec.RestartPolicy{Name: spec.RestartAlways}}))
	must(t, kill(c.Pid))
	eventually(t, "the policy restarts it", func() bool {
		now := h.inspect(t, c.ID)
		return now.State == Running && now.Pid != c.Pid && now.RestartCount == 1
	})
	must(t, h.e.Update(background(t), c.ID, UpdateOptions{Restart: &spec.RestartPolicy{Name: spec.RestartNo}}))
	must(t, kill(h.inspect(t, c.ID).Pid))
	eventually(t, "it stays down", func() bool { return h.inspect(t, c.ID).State == Exited })

	// A stopped container takes limits for its next start.
	must(t, h.e.Update(background(t), c.ID, UpdateOptions{Resources: spec.Resources{PidsLimit: 33}}))
	must(t, h.e.Start(background(t), c.ID))
	if got := h.cgroupFile(t, c.ID, "pids.max"); got != "33" {
		t.Errorf("pids limit is %s", got)
	}
	passing := box("sleep", "1000")
	passing.AutoRemove = true
	p := h.create(t, passing)
	if err := h.e.Update(background(t), p.ID, UpdateOptions{Restart: &spec.RestartPolicy{Name: spec.RestartAlways}}); !errdefs.IsConflict(err) {
		t.Errorf("got %v", err)
	}
}
