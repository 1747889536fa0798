package keeper_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gantry/runtime/keeper"
)

func ptr[T any](v T) *T { return &v }

func TestOutOfMemory(t *testing.T) {
	h := newHouse(t)
	b := h.bundle("hungry", "sh", "-c", "dd if=/dev/zero of=/dev/null bs=200M count=1")
	b.Spec.Process.Args = []string{"dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"}
	b.Spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: ptr(int64(32 << 20))}
	x, _ := h.runToEnd(b)
	if !x.OOM || x.Code != 137 {
		t.Errorf("exit %+v", x)
	}
	h.waitEvent("oom", func(e keeper.Event) bool { return e.Kind == keeper.OOM && e.ID == "hungry" })
}

func TestPauseUpdateStats(t *testing.T) {
	h := newHouse(t)
	b := h.bundle("busy", "sh", "-c", "i=0; while true; do i=$((i+1)); echo $i; usleep 1000; done")
	b.Spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: ptr(int64(64 << 20))}
	b.Spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: ptr(int64(50))}
	h.start(b)
	h.must(h.client.Pause(ctx(t), "busy"))
	h.must(h.client.Pause(ctx(t), "busy"))
	if list, _ := h.client.List(ctx(t)); list[0].State != keeper.StatePaused {
		t.Errorf("%+v", list)
	}
	time.Sleep(20 * time.Millisecond)
	before := len(h.logText("busy"))
	time.Sleep(50 * time.Millisecond)
	if after := len(h.logText("busy")); after != before {
		t.Errorf("a paused container wrote %d bytes", after-before)
	}
	if _, err := h.client.Exec(ctx(t), keeper.ExecRequest{ID: "busy", ExecID: "x", Process: process("true")}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("exec in a paused container: %v", err)
	}
	h.must(h.client.Resume(ctx(t), "busy"))
	h.must(h.client.Resume(ctx(t), "busy"))
	h.eventually("it goes on", func() bool { return len(h.logText("busy")) > before })

	all, err := h.client.Stats(ctx(t))
	h.must(err)
	st := all["busy"]
	if st.CPUTotal <= 0 || st.MemoryUsage == 0 || st.MemoryLimit != 64<<20 || st.Pids == 0 || st.PidsLimit != 50 {
		t.Errorf("stats: %+v", st)
	}
	h.must(h.client.Update(ctx(t), "busy", &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(96 << 20))}}))
	all, err = h.client.Stats(ctx(t), "busy", "nobody")
	h.must(err)
	if all["busy"].MemoryLimit != 96<<20 || all["busy"].PidsLimit != 50 || len(all) != 1 {
		t.Errorf("after the update: %+v", all)
	}
	pids, err := h.client.Processes(ctx(t), "busy")
	h.must(err)
	if len(pids) == 0 {
		t.Error("no processes")
	}
	h.must(h.client.Pause(ctx(t), "busy"))
	h.must(h.client.Delete(ctx(t), "busy")) // kills what is frozen
}

// TestHostPid: with a shared pid namespace the first process does not take the
// others with it; the keeper does.
func TestHostPid(t *testing.T) {
	h := newHouse(t)
	b := h.bundle("hostpid", "sh", "-c", "sleep 12349876 & sleep 12349876 & usleep 50000; exit 0")
	b.Spec.Linux.Namespaces = b.Spec.Linux.Namespaces[1:]
	b.Spec.Linux.Seccomp = nil
	x, _ := h.runToEnd(b)
	if x.Code != 0 {
		t.Errorf("%+v", x)
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	h.must(err)
	for _, l := range lines {
		if b, _ := os.ReadFile(l); string(b) == "sleep\x0012349876\x00" {
			t.Errorf("%s outlives its container", l)
		}
	}
	h.must(h.client.Delete(ctx(t), "hostpid"))
}

// TestFifty starts and deletes fifty at once and looks at what it costs.
func TestFifty(t *testing.T) {
	h := newHouse(t)
	x, _ := h.runToEnd(h.bundle("warm", "true"))
	if x.Code != 0 {
		t.Fatal(x)
	}
	h.must(h.client.Delete(ctx(t), "warm"))
	before, rss := h.keeperFiles(), h.keeperMemory()
	for round := range 2 {
		var wg sync.WaitGroup
		began := time.Now()
		for i := range 50 {
			wg.Go(func() {
				if _, err := h.client.Run(ctx(t), h.bundle(fmt.Sprint("n", i), "sleep", "1000")); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		started := time.Since(began)
		full := h.keeperMemory()
		began = time.Now()
		for i := range 50 {
			wg.Go(func() {
				if err := h.client.Delete(ctx(t), fmt.Sprint("n", i)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		t.Logf("round %d: 50 started in %v, deleted in %v; keeper %d KiB, with 50 %d KiB", round, started, time.Since(began), rss, full)
	}
	if after := h.keeperFiles(); after != before {
		out, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", h.client.Pid()))
		var names []string
		for _, e := range out {
			l, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", h.client.Pid(), e.Name()))
			names = append(names, l)
		}
		t.Errorf("the keeper had %d descriptors, now %d: %s", before, after, strings.Join(names, " "))
	}
}

// keeperMemory is what the keeper has of its own and in common, in KiB.
func (h *house) keeperMemory() int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", h.client.Pid()))
	h.must(err)
	for line := range strings.Lines(string(b)) {
		var n int
		if _, err := fmt.Sscanf(line, "Rss: %d kB", &n); err == nil {
			return n
		}
	}
	return 0
}
