package keeper_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"gantry/runtime/keeper"
)

func TestLife(t *testing.T) {
	h := newHouse(t)
	b := h.bundle("life", "sh", "-c", "echo out; echo err >&2; exit 7")
	st, err := h.client.Create(ctx(t), b)
	h.must(err)
	if st.State != keeper.StateCreated || st.Pid == 0 {
		t.Fatalf("after create: %+v", st)
	}
	again, err := h.client.Create(ctx(t), b)
	h.must(err)
	if again.Pid != st.Pid {
		t.Errorf("a second create made process %d beside %d", again.Pid, st.Pid)
	}
	st, err = h.client.Start(ctx(t), "life")
	h.must(err)
	if st.StartedAt.IsZero() {
		t.Errorf("after start: %+v", st)
	}
	if _, err := h.client.Start(ctx(t), "life"); err != nil && !errdefs.IsFailedPrecondition(err) {
		t.Errorf("second start: %v", err)
	}
	x, err := h.client.Wait(ctx(t), "life")
	h.must(err)
	if x.Code != 7 || !x.Known || x.OOM {
		t.Errorf("exit: %+v", x)
	}
	e := h.waitEvent("exit", func(e keeper.Event) bool { return e.Kind == keeper.Exited && e.ID == "life" })
	if e.Exit == nil || e.Exit.Code != 7 {
		t.Errorf("event: %+v", e)
	}
	log := h.logText("life")
	if !strings.Contains(log, `"log":"out\n","stream":"stdout"`) || !strings.Contains(log, `"log":"err\n","stream":"stderr"`) {
		t.Errorf("log: %s", log)
	}
	list, err := h.client.List(ctx(t))
	h.must(err)
	if len(list) != 1 || list[0].State != keeper.StateStopped || list[0].Exit.Code != 7 {
		t.Errorf("list: %+v", list)
	}
	h.must(h.client.Delete(ctx(t), "life"))
	h.must(h.client.Delete(ctx(t), "life"))
	if _, err := h.client.Wait(ctx(t), "life"); !errdefs.IsNotFound(err) {
		t.Errorf("wait for a deleted container: %v", err)
	}
	// The same id once more: a restart.
	if x, _ := h.runToEnd(b); x.Code != 7 {
		t.Errorf("second run: %+v", x)
	}
}

// TestNothingLeft: a client that is closed leaves no goroutine and no
// descriptor in its process.
func TestNothingLeft(t *testing.T) {
	files := func() int {
		d, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(d)
	}
	before, others := files(), goleak.IgnoreCurrent()
	t.Run("life", func(t *testing.T) {
		h := newHouse(t)
		h.must(h.client.Hold(ctx(t), "x", os.Stderr))
		b := h.bundle("a", "cat")
		b.TTY, b.OpenStdin = true, true
		h.start(b)
		h.start(h.bundle("b", "sleep", "1000"))
		out, in := h.attach("a", true)
		h.killKeeper()
		out.Close()
		in.Close()
		held, err := h.client.Held(ctx(t))
		h.must(err)
		held["x"][0].Close()
	})
	goleak.VerifyNone(t, others)
	if after := files(); after > before {
		t.Errorf("%d descriptors, before %d", after, before)
	}
}

func TestExitCodes(t *testing.T) {
	h := newHouse(t)
	h.start(h.bundle("sleeper", "sleep", "1000"))
	h.must(h.client.Signal(ctx(t), "sleeper", "", unix.SIGKILL))
	x, err := h.client.Wait(ctx(t), "sleeper")
	h.must(err)
	if x.Code != 137 || x.Signal != unix.SIGKILL || !x.Known {
		t.Errorf("killed: %+v", x)
	}
	if err := h.client.Signal(ctx(t), "sleeper", "", unix.SIGTERM); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("signal to the dead: %v", err)
	}
	if x, _ := h.runToEnd(h.bundle("true", "true")); x.Code != 0 {
		t.Errorf("true: %+v", x)
	}
	if x, _ := h.runToEnd(h.bundle("trap", "sh", "-c", `trap "exit 3" TERM; kill -TERM $$; sleep 5`)); x.Code != 3 {
		t.Errorf("trap: %+v", x)
	}
}

func TestStartErrors(t *testing.T) {
	h := newHouse(t)
	for _, c := range []struct {
		name  string
		spoil func(*keeper.Bundle)
		code  int
		is    func(error) bool
		says  string
	}{
		{"missing", func(b *keeper.Bundle) { b.Spec.Process.Args = []string{"nothing-here"} }, 127, errdefs.IsNotFound, "nothing-here"},
		{"missing-path", func(b *keeper.Bundle) { b.Spec.Process.Args = []string{"/no/such"} }, 127, errdefs.IsNotFound, "/no/such"},
		{"not-executable", func(b *keeper.Bundle) { b.Spec.Process.Args = []string{"/bin/plain"} }, 126, errdefs.IsInvalidArgument, "/bin/plain"},
		{"directory", func(b *keeper.Bundle) { b.Spec.Process.Args = []string{"/etc"} }, 126, errdefs.IsInvalidArgument, "/etc"},
		{"cwd", func(b *keeper.Bundle) { b.Spec.Process.Cwd = "/etc/passwd" }, 126, errdefs.IsInvalidArgument, "/etc/passwd"},
		{"user", func(b *keeper.Bundle) { b.Spec.Process.User.Username = "nobody-knows" }, 126, errdefs.IsInvalidArgument, "nobody-knows"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := h.bundle("bad-"+c.name, "true")
			c.spoil(&b)
			_, err := h.client.Run(ctx(t), b)
			var s *keeper.StartError
			if !errors.As(err, &s) || s.Code != c.code || !c.is(err) {
				t.Fatalf("error %v (%+v)", err, s)
			}
			if !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("says %q", err)
			}
			t.Log(err)
			list, err := h.client.List(ctx(t))
			h.must(err)
			if len(list) != 0 {
				t.Errorf("left: %+v", list)
			}
		})
	}
}

// A signal in the moment of the start is for the program that was asked for and
// nobody before it: a first process without a handler ignores it, as the kernel
// has it, and another one ends by it.
func TestSignalAtOnce(t *testing.T) {
	h := newHouse(t)
	for i := range 15 {
		id := fmt.Sprint("quick", i)
		_, err := h.client.Create(ctx(t), h.bundle(id, "sleep", "1000"))
		h.must(err)
		_, err = h.client.Start(ctx(t), id)
		h.must(err)
		h.must(h.client.Signal(ctx(t), id, "", unix.SIGTERM))
		time.Sleep(10 * time.Millisecond) // a process of ours would end by it
		_ = h.client.Signal(ctx(t), id, "", unix.SIGKILL)
		x, err := h.client.Wait(ctx(t), id)
		h.must(err)
		if x.Code != 128+int(unix.SIGKILL) {
			t.Fatalf("start %d: %+v", i, x)
		}
	}
	h.start(h.bundle("host", "sleep", "1000"))
	for i := range 15 {
		exec := fmt.Sprint("quick", i)
		_, err := h.client.Exec(ctx(t), keeper.ExecRequest{ID: "host", ExecID: exec, Process: process("sleep", "1000")})
		h.must(err)
		h.must(h.client.Signal(ctx(t), "host", exec, unix.SIGTERM))
		x, err := h.client.WaitExec(ctx(t), "host", exec)
		h.must(err)
		if x.Code != 128+int(unix.SIGTERM) {
			t.Fatalf("exec %d: %+v", i, x)
		}
	}
}
