package server

import (
	"crypto/rand"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// Between reading a cgroup's list and killing who is in it, one of them may end
// and another process get its number.
func TestOnlyWhoIsStillInTheCgroupIsKilled(t *testing.T) {
	var pids []int
	var cmds []*exec.Cmd
	for range 2 {
		cmd := exec.Command("sleep", "60")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmds, pids = append(cmds, cmd), append(pids, cmd.Process.Pid)
	}
	killed, err := killThese(listed{pids: pids[:1]}, pids)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(killed)
	if len(killed) != 1 {
		t.Fatalf("%d processes were killed, not the one that is in the cgroup", len(killed))
	}
	if err := cmds[1].Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for i, want := range []syscall.Signal{unix.SIGKILL, unix.SIGTERM} {
		_ = cmds[i].Wait()
		if got := cmds[i].ProcessState.Sys().(syscall.WaitStatus).Signal(); got != want {
			t.Errorf("process %d ended by %v, want %v", i, got, want)
		}
	}
}

// listed is a cgroup of which only the processes are known.
type listed struct {
	cgroups.Manager
	pids []int
}

func (l listed) GetAllPids() ([]int, error) { return l.pids, nil }

// A parent in which a container is about to have its cgroup is not taken from it.
func TestParentOfWhatIsBeingMade(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: cgroups are made")
	}
	parent := "/gantry-test-" + rand.Text()
	s := &Server{opts: Options{Run: t.TempDir(), Log: slog.New(slog.DiscardHandler)}, parents: map[string]bool{}, entering: map[string]int{}}
	one, two := s.ownCgroup(parent+"/one"), s.ownCgroup(parent+"/two")
	m, err := managerAt(parent)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeEmpty(parent) })
	there := func() (n int) {
		for _, dir := range m.GetPaths() {
			if _, err := os.Stat(dir); err == nil {
				n++
			}
		}
		return n
	}
	for _, dir := range m.GetPaths() {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
	}
	all := there()
	one()
	if s.leaveParents(parent + "/one"); all == 0 || there() != all {
		t.Errorf("%d of %d are there while another is being made", there(), all)
	}
	two()
	if s.leaveParents(parent + "/two"); there() != 0 {
		t.Errorf("%d of %d are left", there(), all)
	}
	if len(s.entering) > 0 || len(s.parents) > 0 || slices.Contains(s.ownedCgroups(), parent) {
		t.Errorf("still remembered: %v %v %v", s.entering, s.parents, s.ownedCgroups())
	}
}
