package keeper_test

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"gantry/runtime/keeper"
	"gantry/runtime/logs"
)

// killKeeper kills it and waits until the client has another.
func (h *house) killKeeper() {
	h.t.Helper()
	old := h.client.Pid()
	h.must(unix.Kill(old, unix.SIGKILL))
	h.waitEvent("keeper-back", func(e keeper.Event) bool { return e.Kind == keeper.KeeperBack })
	h.eventually("another keeper", func() bool { p := h.client.Pid(); return p != 0 && p != old })
	h.mu.Lock()
	h.events = nil
	h.mu.Unlock()
}

// numbers reads the lines of a log that are numbers and says what is missing
// and what is doubled.
func numbers(t testing.TB, log string, last int) {
	t.Helper()
	next := 1
	for line := range strings.Lines(log) {
		_, rest, ok := strings.Cut(line, `{"log":"`)
		if !ok {
			t.Errorf("torn line %q", line)
			continue
		}
		text, _, _ := strings.Cut(rest, `\n`)
		var n int
		if _, err := fmt.Sscanf(text, "%d", &n); err != nil {
			if !strings.HasPrefix(text, "gantry: ") {
				t.Errorf("odd line %q", text)
			}
			continue
		}
		if n != next {
			t.Errorf("line %d follows %d", n, next-1)
		}
		next = n + 1
	}
	if next-1 != last {
		t.Errorf("the log ends with %d, not %d", next-1, last)
	}
}

func TestKeeperDies(t *testing.T) {
	h := newHouse(t)
	h.start(h.bundle("count", "sh", "-c", "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo $i; usleep 5000; done; exit 6"))
	tty := h.bundle("tty", "sh")
	tty.TTY, tty.OpenStdin = true, true
	h.start(tty)
	in := h.bundle("stdin", "cat")
	in.OpenStdin = true
	h.start(in)
	_, err := h.client.Create(ctx(t), h.bundle("created", "sh", "-c", "exit 8"))
	h.must(err)
	h.start(h.bundle("short", "sh", "-c", "exit 2"))
	_, err = h.client.Wait(ctx(t), "short")
	h.must(err)
	h.start(h.bundle("paused", "sleep", "1000"))
	h.must(h.client.Pause(ctx(t), "paused"))
	r, w, err := os.Pipe()
	h.must(err)
	defer r.Close()
	h.must(h.client.Hold(ctx(t), "pipe", w))
	w.Close()
	_, err = h.client.Exec(ctx(t), keeper.ExecRequest{ID: "stdin", ExecID: "long", Process: process("sh", "-c", "sleep 1; exit 21")})
	h.must(err)

	for range 3 {
		time.Sleep(150 * time.Millisecond)
		h.killKeeper()
	}

	list, err := h.client.List(ctx(t))
	h.must(err)
	states := map[string]string{}
	for _, st := range list {
		states[st.ID] = st.State
	}
	want := map[string]string{"count": "running", "tty": "running", "stdin": "running", "created": "created", "short": "stopped", "paused": "paused"}
	for id, state := range want {
		if states[id] != state {
			t.Errorf("%s is %q, not %q", id, states[id], state)
		}
	}
	if x, err := h.client.Wait(ctx(t), "short"); err != nil || x.Code != 2 || !x.Known {
		t.Errorf("exit of an earlier time: %+v %v", x, err)
	}
	if x, err := h.client.Wait(ctx(t), "count"); err != nil || x.Code != 6 || !x.Known {
		t.Errorf("exit of an adopted container: %+v %v", x, err)
	}
	numbers(t, h.logText("count"), 300)
	if x, err := h.client.WaitExec(ctx(t), "stdin", "long"); err != nil || x.Code != 21 {
		t.Errorf("exit of an adopted exec: %+v %v", x, err)
	}

	// The terminal still works in both directions.
	out, master := h.attach("tty", true)
	defer out.Close()
	if master == nil {
		t.Fatal("the terminal was lost")
	}
	fmt.Fprintln(master, "echo al''ive; exit 3")
	until(t, bufio.NewReader(out), "alive")
	master.Close()
	if x, err := h.client.Wait(ctx(t), "tty"); err != nil || x.Code != 3 {
		t.Errorf("tty: %+v %v", x, err)
	}

	// Standard input has not seen an end, and still can.
	out2, stdin := h.attach("stdin", true)
	defer out2.Close()
	fmt.Fprintln(stdin, "still here")
	if _, text, err := frame(t, out2); err != nil || text != "still here\n" {
		t.Errorf("%q %v", text, err)
	}
	stdin.Close()
	h.must(h.client.CloseStdin(ctx(t), "stdin"))
	if x, err := h.client.Wait(ctx(t), "stdin"); err != nil || x.Code != 0 {
		t.Errorf("stdin: %+v %v", x, err)
	}

	_, err = h.client.Start(ctx(t), "created")
	h.must(err)
	if x, err := h.client.Wait(ctx(t), "created"); err != nil || x.Code != 8 || !x.Known {
		t.Errorf("created: %+v %v", x, err)
	}
	h.must(h.client.Resume(ctx(t), "paused"))
	if x, out := h.execOut("paused", "e", "echo", "x"); x.Code != 0 || out != "x\n" {
		t.Errorf("exec in an adopted container: %+v %q", x, out)
	}

	held, err := h.client.Held(ctx(t))
	h.must(err)
	if len(held["pipe"]) != 1 {
		t.Fatalf("held: %v", held)
	}
	fmt.Fprint(held["pipe"][0], "held")
	held["pipe"][0].Close()
	h.must(h.client.Drop(ctx(t), "pipe"))
	if b, err := io.ReadAll(r); err != nil || string(b) != "held" {
		t.Errorf("the held pipe gave %q %v", b, err)
	}
}

// TestExitInTheGap: a container that ends while no keeper lives. The daemon
// has its pidfd, so the kernel still knows.
func TestExitInTheGap(t *testing.T) {
	h := newHouse(t)
	st := h.start(h.bundle("gap", "sh", "-c", "sleep 1000"))
	h.must(unix.Kill(h.client.Pid(), unix.SIGSTOP))
	h.must(unix.Kill(st.Pid, unix.SIGKILL))
	h.killKeeper()
	x, err := h.client.Wait(ctx(t), "gap")
	h.must(err)
	if !x.Known || x.Code != 137 {
		t.Errorf("exit %+v", x)
	}
}

// TestLastWordsInTheGap: what a container writes just before it ends while no
// keeper lives is in its log, whole and unmarked.
func TestLastWordsInTheGap(t *testing.T) {
	h := newHouse(t)
	st := h.start(h.bundle("gap", "sh", "-c", "trap 'echo last; echo words >&2; exit 3' USR1; echo first; while :; do usleep 10000; done"))
	h.eventually("it is ready", func() bool { return strings.Contains(h.logText("gap"), "first") })
	h.must(unix.Kill(h.client.Pid(), unix.SIGSTOP))
	h.must(unix.Kill(st.Pid, unix.SIGUSR1))
	h.eventually("it has ended", func() bool { return zombie(st.Pid) })
	h.killKeeper()
	x, err := h.client.Wait(ctx(t), "gap")
	h.must(err)
	if !x.Known || x.Code != 3 {
		t.Errorf("exit %+v", x)
	}
	log := h.logText("gap")
	for _, want := range []string{`"log":"last\n","stream":"stdout"`, `"log":"words\n","stream":"stderr"`} {
		if strings.Count(log, want) != 1 {
			t.Errorf("no %s", want)
		}
	}
	if strings.Contains(log, "gantry: ") || t.Failed() {
		t.Errorf("the log:\n%s", log)
	}
}

// TestBothDie: keeper and daemon are killed at once. What is in the run
// directory must do.
func TestBothDie(t *testing.T) {
	h := newHouse(t)
	h.start(h.bundle("count", "sh", "-c", "i=0; while [ $i -lt 200 ]; do i=$((i+1)); echo $i; usleep 5000; done; exit 6"))
	gone := h.start(h.bundle("gone", "sleep", "1000"))
	tty := h.bundle("tty", "sleep", "1000")
	tty.TTY = true
	h.start(tty)
	time.Sleep(200 * time.Millisecond)
	pid := h.client.Pid()
	h.must(unix.Kill(pid, unix.SIGSTOP)) // it must not see the daemon leave
	h.client.Close()
	h.must(unix.Kill(gone.Pid, unix.SIGKILL))
	h.must(unix.Kill(pid, unix.SIGKILL))
	h.connect()

	if x, err := h.client.Wait(ctx(t), "count"); err != nil || x.Code != 6 || !x.Known {
		t.Errorf("count: %+v %v", x, err)
	}
	numbers(t, h.logText("count"), 200)
	if x, err := h.client.Wait(ctx(t), "gone"); err != nil || x.Code != 255 && !x.Known || x.Known && x.Code != 137 {
		t.Errorf("an exit nobody saw: %+v %v", x, err) // known only as long as init has not reaped it
	}
	if log := h.logText("tty"); !strings.Contains(log, "terminal is lost") {
		t.Errorf("log of the tty container: %q", log)
	}
}

// TestDaemonDies: the keeper goes on, and gives the next daemon everything.
func TestDaemonDies(t *testing.T) {
	h := newHouse(t)
	r, w, err := os.Pipe()
	h.must(err)
	defer r.Close()
	h.must(h.client.Hold(ctx(t), "api", w, w))
	w.Close()
	once := h.bundle("once", "cat")
	once.OpenStdin, once.StdinOnce = true, true
	h.start(once)
	_, in := h.attach("once", true)
	tty := h.bundle("tty", "sh")
	tty.TTY, tty.OpenStdin = true, true
	h.start(tty)
	pid := h.client.Pid()
	h.client.Close()
	in.Close()
	h.connect()
	if h.client.Pid() != pid {
		t.Errorf("another keeper")
	}
	held, err := h.client.Held(ctx(t))
	h.must(err)
	if len(held["api"]) != 2 {
		t.Fatalf("held: %v", held)
	}
	for _, f := range held["api"] {
		f.Close()
	}
	if x, err := h.client.Wait(ctx(t), "once"); err != nil || x.Code != 0 {
		t.Errorf("StdinOnce: %+v %v", x, err)
	}
	// The new daemon holds the terminal: it survives the keeper's death too.
	h.killKeeper()
	if list, err := h.client.List(ctx(t)); err != nil || len(list) != 2 || list[1].State != keeper.StateRunning {
		t.Errorf("%+v %v", list, err)
	}
	out, master := h.attach("tty", true)
	defer out.Close()
	fmt.Fprintln(master, "exit 0")
	master.Close()
	if x, err := h.client.Wait(ctx(t), "tty"); err != nil || x.Code != 0 {
		t.Errorf("tty: %+v %v", x, err)
	}
}

// TestKeepersLogIsBounded: a keeper puts a log aside that has become too large.
func TestKeepersLogIsBounded(t *testing.T) {
	h := newHouse(t)
	log := filepath.Join(h.run, "keeper.log")
	h.must(os.Truncate(log, logs.OwnSize))
	h.killKeeper()
	h.eventually("the log begins anew", func() bool { st, err := os.Stat(log); return err == nil && st.Size() > 0 && st.Size() < 4096 })
	if st, err := os.Stat(log + ".1"); err != nil || st.Size() != logs.OwnSize {
		t.Errorf("what was put aside: %v %v", st, err)
	}
}

// TestForcedShutdown: a keeper that is asked to end lets its containers go on.
func TestForcedShutdown(t *testing.T) {
	h := newHouse(t)
	st := h.start(h.bundle("on", "sh", "-c", "sleep 1000"))
	_, err := h.client.Exec(ctx(t), keeper.ExecRequest{ID: "on", ExecID: "e", Process: process("sleep", "1000")})
	h.must(err)
	if err := h.client.Shutdown(ctx(t), false); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("shut down with a container: %v", err)
	}
	h.must(h.client.Shutdown(ctx(t), true))
	h.connect()
	list, err := h.client.List(ctx(t))
	h.must(err)
	if len(list) != 1 || list[0].State != keeper.StateRunning || list[0].Pid != st.Pid || !list[0].StartedAt.Equal(st.StartedAt) {
		t.Errorf("%+v", list)
	}
}

// TestKillsDuringStarts: the keeper is killed twenty times while containers
// are made, run and deleted. Every call is answered in the end, and nothing is
// left (the house checks).
func TestKillsDuringStarts(t *testing.T) {
	h := newHouse(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 20 {
			time.Sleep(time.Duration(30+rand.IntN(200)) * time.Millisecond)
			if pid := h.client.Pid(); pid != 0 {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
	})
	var work sync.WaitGroup
	for w := range 4 {
		work.Go(func() {
			for i := range 3 {
				id := fmt.Sprintf("k%d-%d", w, i)
				c := ctx(t)
				if _, err := h.client.Run(c, h.bundle(id, "sh", "-c", "exit 9")); err != nil {
					t.Errorf("run %s: %v", id, err)
					continue
				}
				x, err := h.client.Wait(c, id)
				if err != nil || x.Known && x.Code != 9 {
					t.Errorf("wait %s: %+v %v", id, x, err)
				}
				if err := h.client.Delete(c, id); err != nil {
					t.Errorf("delete %s: %v", id, err)
				}
			}
		})
	}
	work.Wait()
	wg.Wait()
}
