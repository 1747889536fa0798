package server

import (
	"os/exec"
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
