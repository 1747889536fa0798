package keeper_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"gantry/runtime/keeper"
)

// stopper stops every process that enters its container.
const stopper = `while :; do for p in /proc/[0-9]*; do p=${p#/proc/}; [ $p = 1 ] || kill -STOP $p 2>/dev/null; done; done`

// TestStoppedExecs: a container that stops every process that enters it holds
// up those who want to enter it, and nobody else.
func TestStoppedExecs(t *testing.T) {
	h := newHouse(t)
	h.start(h.bundle("evil", "sh", "-c", stopper))
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

// TestLookAround: who asks for counters and signals of containers that come and
// go disturbs neither them nor the keeper. (Their cgroups were once in a map
// that two goroutines used, which Go ends a program for.)
func TestLookAround(t *testing.T) {
	h := newHouse(t)
	pid := h.client.Pid()
	stop := make(chan struct{})
	var making, looking sync.WaitGroup
	for range 3 {
		looking.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := h.client.Stats(ctx(t)); err != nil {
					t.Errorf("stats: %v", err)
				}
				for i := range 3 {
					id := fmt.Sprint("n", i)
					for _, err := range []error{h.client.Signal(ctx(t), id, "", 0), h.client.Resize(ctx(t), id, "", 3, 4)} {
						if err != nil && !errdefs.IsFailedPrecondition(err) && !errdefs.IsNotFound(err) {
							t.Errorf("%s: %v", id, err)
						}
					}
				}
			}
		})
	}
	for i := range 3 {
		making.Go(func() {
			id := fmt.Sprint("n", i)
			for range 4 {
				_, err := h.client.Run(ctx(t), h.bundle(id, "sleep", "1000"))
				if err = errors.Join(err, h.client.Delete(ctx(t), id)); err != nil {
					t.Errorf("%s: %v", id, err)
				}
			}
		})
	}
	making.Wait()
	close(stop)
	looking.Wait()
	if now := h.client.Pid(); now != pid {
		t.Errorf("keeper %d became %d", pid, now)
	}
}

// TestFullDisk: a container that goes on writing to a log that cannot be
// written goes on, and the keeper complains once, not at every piece.
func TestFullDisk(t *testing.T) {
	h := newHouse(t)
	b := h.bundle("loud", "sh", "-c", "yes | head -c 8000000; echo end")
	small := filepath.Join(h.dir, "small")
	h.must(os.Mkdir(small, 0o700))
	inKeeper := func(command ...string) {
		out, err := exec.Command("nsenter", append([]string{"-m", "-t", fmt.Sprint(h.client.Pid()), "--"}, command...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v: %s", command, err, out)
		}
	}
	inKeeper("mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", small)
	defer inKeeper("umount", "-l", small)
	b.Log.Path = filepath.Join(small, "log")
	h.start(b)
	x, err := h.client.Wait(ctx(t), "loud")
	if err != nil || x.Code != 0 {
		t.Fatalf("%+v, %v", x, err)
	}
	if n := strings.Count(h.log(), "write a log"); n != 1 {
		t.Errorf("%d complaints", n)
	}
	h.must(h.client.Delete(ctx(t), "loud"))
}
