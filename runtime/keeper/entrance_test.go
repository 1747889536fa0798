package keeper_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/runtime/keeper"
)

// built is gantry-runtime as precompile/build makes it, once for all tests.
var built struct {
	dir  string // gone in the end
	path func() (string, error)
}

func makeBuilt() (string, error) {
	dir, err := os.MkdirTemp("", "gantry-keeper-")
	if err != nil {
		return "", err
	}
	built.dir = dir
	path := filepath.Join(dir, "gantry-runtime")
	if out, err := exec.Command("server/precompile/build", path).CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return path, nil
}

// bothBuilds runs a test with the plain build of gantry-runtime and with the
// other.
func bothBuilds(t *testing.T, test func(t *testing.T, n int)) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: containers are made")
	}
	fast, err := built.path()
	if err != nil {
		t.Fatal(err)
	}
	plain := program
	defer func() { program = plain }()
	for i, p := range []string{plain, fast} {
		program = p
		t.Run([]string{"plain", "built"}[i], func(t *testing.T) { test(t, i) })
	}
}

// everything is what a process can see of what it was given.
const everything = `
grep -E '^(Umask|Uid|Gid|Groups|NStgid|NoNewPrivs|Seccomp|Cap.*|Cpus_allowed|Mems_allowed|Sig...|THP_enabled|CoreDumping):' /proc/self/status | grep -v NStgid
for n in cgroup ipc mnt net pid user uts time; do
	[ "$(busybox readlink /proc/self/ns/$n)" = "$(busybox readlink /proc/1/ns/$n)" ] || echo "another $n"
done
cat /proc/self/cgroup /proc/self/limits /proc/self/oom_score_adj /proc/self/timerslack_ns
busybox awk '{print "session", ($6 == $1), "nice", $19, "policy", $41}' /proc/self/stat
for f in /proc/$$/fd/*; do [ -e $f ] && busybox basename $f; done
busybox chrt -p $$ | busybox sed 's/pid [0-9]*//'
pwd; id; env | busybox sort
`

// TestEntrance holds the two builds against each other: the plain one, whose
// execs libcontainer starts, and the one with a cheaper way in. A process sees
// the same of itself, however it came; and what fails, fails in the same words.
func TestEntrance(t *testing.T) {
	asked := map[string]func(*keeper.ExecRequest){
		"plainly": func(*keeper.ExecRequest) {},
		"as another": func(q *keeper.ExecRequest) {
			q.Process.User.Username, q.GroupAdd = "web", []string{"more"}
			q.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN"}}
		},
		"with less": func(q *keeper.ExecRequest) {
			umask := uint32(0o27)
			q.Process.User = specs.User{UID: 5, GID: 6, AdditionalGids: []uint32{7, 8}, Umask: &umask}
			q.Process.NoNewPrivileges, q.Process.Cwd, q.Process.Env = true, "/data", []string{"PATH=/bin", "A=b c", "HOME=/data"}
			q.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 33, Hard: 44}, {Type: "RLIMIT_CORE"}}
		},
		"with a priority": func(q *keeper.ExecRequest) {
			q.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 3}
			q.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 6}
		},
		"on one processor": func(q *keeper.ExecRequest) {
			q.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0", Final: "0"}
		},
		"a program that is not there": func(q *keeper.ExecRequest) { q.Process.Args = []string{"no-such"} },
		"a path that is not there":    func(q *keeper.ExecRequest) { q.Process.Args = []string{"/no/such"} },
		"what is no program":          func(q *keeper.ExecRequest) { q.Process.Args = []string{"/etc/passwd"} },
		"a directory that is no such": func(q *keeper.ExecRequest) { q.Process.Cwd = "/etc/passwd" },
		"a directory that is not open": func(q *keeper.ExecRequest) {
			q.Process.Cwd, q.Process.User.UID = "/closed", 77
			q.Process.Capabilities = nil
		},
		"more than there is": func(q *keeper.ExecRequest) {
			q.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1 << 40, Hard: 1 << 40}}
		},
	}
	var seen [2]map[string]string
	bothBuilds(t, func(t *testing.T, n int) {
		seen[n] = map[string]string{}
		h := newHouse(t)
		h.must(os.Mkdir(filepath.Join(h.base, "closed"), 0o700))
		b := h.bundle("host", "sleep", "1000")
		score := 77
		b.Spec.Process.OOMScoreAdj = &score
		first := h.start(b)
		for name, ask := range asked {
			for _, unhurried := range []bool{false, true} {
				r, w, err := os.Pipe()
				h.must(err)
				q := keeper.ExecRequest{
					ID: "host", ExecID: fmt.Sprintf("%d-%v", len(seen[n]), unhurried), Process: process("sh", "-c", everything),
					Unhurried: unhurried, Stdout: w,
				}
				ask(&q)
				got := ""
				if _, err := h.client.Exec(ctx(t), q); err != nil {
					got = err.Error()
				}
				out, err := io.ReadAll(r)
				h.must(err)
				r.Close()
				got += strings.ReplaceAll(string(out), h.cgroup, "")
				if was, ok := seen[n][name]; ok && was != got {
					t.Errorf("%s, when nobody waits for it:\n%s", name, cmp.Diff(was, got))
				}
				seen[n][name] = got
			}
			if seen[n][name] == "" {
				t.Errorf("%s: nothing was seen", name)
			}
		}
		for _, unhurried := range []bool{false, true} {
			x, err := h.client.Exec(ctx(t), keeper.ExecRequest{ID: "host", ExecID: fmt.Sprint("stays-", unhurried), Process: process("sleep", "1000"), Unhurried: unhurried})
			h.must(err)
			if want, got := cgroupsOf(t, first.Pid), cgroupsOf(t, x.Pid); got != want || !strings.Contains(got, h.cgroup+"/host\n") {
				t.Errorf("it is in %s\nand the container in %s", got, want)
			}
		}
		if left := zombies(t, h.client.Pid()); len(left) > 0 {
			t.Errorf("processes are left: %v", left)
		}
	})
	if diff := cmp.Diff(seen[0], seen[1]); diff != "" {
		t.Errorf("they differ:\n%s", diff)
	}
	if got := seen[1]["plainly"]; !strings.Contains(got, "Seccomp:\t2") || !strings.Contains(got, "0::/\n") || !strings.Contains(got, "\n77\n") {
		t.Errorf("this cannot be all:\n%s", got)
	}
}

// TestEntranceOfTheDead ends a container while processes come into it.
func TestEntranceOfTheDead(t *testing.T) {
	bothBuilds(t, func(t *testing.T, _ int) {
		h := newHouse(t)
		for i := range 5 {
			id := fmt.Sprint("host", i)
			h.start(h.bundle(id, "sleep", "1000"))
			var wg sync.WaitGroup
			for k := range 6 {
				wg.Go(func() {
					_, err := h.client.Exec(ctx(t), keeper.ExecRequest{ID: id, ExecID: fmt.Sprint(k), Process: process("true"), Unhurried: k%2 == 0})
					if err != nil && !strings.Contains(err.Error(), "is not running") && !strings.Contains(err.Error(), "no container") {
						t.Error(err)
					}
				})
			}
			h.must(h.client.Signal(ctx(t), id, "", unix.SIGKILL))
			wg.Wait()
			h.must(h.client.Delete(ctx(t), id))
		}
		if left := zombies(t, h.client.Pid()); len(left) > 0 {
			t.Errorf("processes are left: %v", left)
		}
	})
}

// cgroupsOf are a process's as the host knows them.
func cgroupsOf(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// zombies are the children of a process that nobody has collected.
func zombies(t *testing.T, parent int) (list []string) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended meanwhile
		}
		text := string(b)
		if strings.Contains(text, fmt.Sprintf(") Z %d ", parent)) {
			list = append(list, text[:strings.IndexByte(text, ')')+1])
		}
	}
	return list
}
