package keeper_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"gantry/runtime/keeper"
)

// TestStoppedExecs: a container that stops every process that enters it holds
// up those who want to enter it, and nobody else.
func TestStoppedExecs(t *testing.T) {
	h := newHouse(t)
	h.start(h.bundle("evil", "sh", "-c", `while :; do for p in /proc/[0-9]*; do p=${p#/proc/}; [ $p = 1 ] || kill -STOP $p 2>/dev/null; done; done`))
	h.start(h.bundle("good", "sleep", "100"))
	var stuck sync.WaitGroup
	for i := range 3 * runtime.NumCPU() {
		stuck.Go(func() {
			_, err := h.client.Exec(ctx(t), keeper.ExecRequest{ID: "evil", ExecID: "x" + string(rune('a'+i)), Process: process("true")})
			if err == nil {
				t.Log("an exec got through") // it may be faster than the loop
			}
		})
	}
	time.Sleep(300 * time.Millisecond)
	began := time.Now()
	for i := range 4 {
		if x, out := h.execOut("good", "y"+string(rune('a'+i)), "true"); x.Code != 0 {
			t.Errorf("exec in another container: %+v %s", x, out)
		}
	}
	h.start(h.bundle("new", "true"))
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("another container was held up for %v", took)
	}
	h.must(h.client.Delete(ctx(t), "evil"))
	stuck.Wait()
}

// TestStreamsOfUser: a container's streams are its user's, and a user of the
// machine with the same number still cannot open them.
func TestStreamsOfUser(t *testing.T) {
	h := newHouse(t)
	h.must(os.Chmod(h.dir, 0o755))
	b := h.bundle("web", "sh", "-c", "echo mine >/dev/stdout; sleep 100")
	b.Spec.Process.User.UID, b.Spec.Process.User.GID = 1000, 1000
	h.start(b)
	h.eventually("it may open its own stream", func() bool { return len(h.logText("web")) > 0 })
	cmd := exec.Command("sh", "-c", "echo forged >"+filepath.Join(h.run, "keeper", "web", "stdout"))
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	if err := cmd.Run(); err == nil {
		t.Error("another user of the machine wrote into a container's output")
	}
}
