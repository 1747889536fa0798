package keeper_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"gantry/runtime/keeper"
)

func TestExec(t *testing.T) {
	h := newHouse(t)
	h.start(h.bundle("host", "sleep", "1000"))
	x, out := h.execOut("host", "one", "sh", "-c", "echo hi; echo oops >&2; exit 5")
	if x.Code != 5 || !strings.Contains(out, "hi\n") || !strings.Contains(out, "oops\n") {
		t.Errorf("exit %+v, output %q", x, out)
	}
	h.waitEvent("exec-exit", func(e keeper.Event) bool {
		return e.Kind == keeper.ExecExited && e.ID == "host" && e.ExecID == "one" && e.Exit.Code == 5
	})
	_, out = h.execOut("host", "ns", "sh", "-c", "echo $$; ps | grep -c sleep")
	if strings.TrimSpace(out) == "" {
		t.Error("no output")
	}

	p := process("id")
	p.User.Username = "web"
	r, w, err := os.Pipe()
	h.must(err)
	defer r.Close()
	_, err = h.client.Exec(ctx(t), keeper.ExecRequest{ID: "host", ExecID: "user", Process: p, GroupAdd: []string{"more"}, Stdout: w})
	h.must(err)
	b, err := io.ReadAll(r)
	h.must(err)
	for _, want := range []string{"uid=1000(web)", "gid=1000(web)", "2000(extra)", "3000(more)"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("id says %q, without %q", b, want)
		}
	}

	_, err = h.client.Exec(ctx(t), keeper.ExecRequest{ID: "host", ExecID: "bad", Process: process("no-such")})
	var s *keeper.StartError
	if !errors.As(err, &s) || s.Code != 127 || !errdefs.IsNotFound(err) {
		t.Errorf("exec of nothing: %v", err)
	}
	if _, err = h.client.Exec(ctx(t), keeper.ExecRequest{ID: "nobody", ExecID: "x", Process: process("true")}); !errdefs.IsNotFound(err) {
		t.Errorf("exec in nothing: %v", err)
	}

	// Stdin, and a signal.
	in, inw, err := os.Pipe()
	h.must(err)
	r2, w2, err := os.Pipe()
	h.must(err)
	defer r2.Close()
	_, err = h.client.Exec(ctx(t), keeper.ExecRequest{ID: "host", ExecID: "cat", Process: process("cat"), Stdin: in, Stdout: w2})
	h.must(err)
	fmt.Fprint(inw, "through")
	inw.Close()
	if b, _ := io.ReadAll(r2); string(b) != "through" {
		t.Errorf("cat gave %q", b)
	}
	_, err = h.client.Exec(ctx(t), keeper.ExecRequest{ID: "host", ExecID: "sig", Process: process("sleep", "1000")})
	h.must(err)
	h.must(h.client.Signal(ctx(t), "host", "sig", unix.SIGKILL))
	if x, err := h.client.WaitExec(ctx(t), "host", "sig"); err != nil || x.Code != 137 {
		t.Errorf("killed exec: %+v %v", x, err)
	}

	// An exec ends with its container.
	_, err = h.client.Exec(ctx(t), keeper.ExecRequest{ID: "host", ExecID: "last", Process: process("sleep", "1000")})
	h.must(err)
	h.must(h.client.Signal(ctx(t), "host", "", unix.SIGKILL))
	if x, err := h.client.WaitExec(ctx(t), "host", "last"); err != nil || x.Code != 137 {
		t.Errorf("exec in a killed container: %+v %v", x, err)
	}
	if _, err = h.client.Exec(ctx(t), keeper.ExecRequest{ID: "host", ExecID: "after", Process: process("true")}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("exec in the dead: %v", err)
	}
}

func TestExecTerminal(t *testing.T) {
	h := newHouse(t)
	h.start(h.bundle("host", "sleep", "1000"))
	st, err := h.client.Exec(ctx(t), keeper.ExecRequest{ID: "host", ExecID: "tty", Process: process("sh"), TTY: true, Width: 100, Height: 40})
	h.must(err)
	defer st.Console.Close()
	h.must(st.Console.SetDeadline(time.Now().Add(10 * time.Second)))
	lines := bufio.NewReader(st.Console)
	expect := func(want string) {
		t.Helper()
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				t.Fatalf("wait for %q: %v", want, err)
			}
			if strings.TrimSpace(line) == want {
				return
			}
		}
	}
	fmt.Fprintln(st.Console, "stty size")
	expect("40 100")
	h.must(h.client.Resize(ctx(t), "host", "tty", 120, 50))
	fmt.Fprintln(st.Console, "stty size")
	expect("50 120")
	fmt.Fprintln(st.Console, "exit 9")
	if x, err := h.client.WaitExec(ctx(t), "host", "tty"); err != nil || x.Code != 9 {
		t.Errorf("exit: %+v %v", x, err)
	}
}

// TestManyExecs runs more at a time than the keeper makes at a time.
func TestManyExecs(t *testing.T) {
	h := newHouse(t)
	for i := range 3 {
		h.start(h.bundle(fmt.Sprint("host", i), "sleep", "1000"))
	}
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			host, id := fmt.Sprint("host", i%3), fmt.Sprint("exec", i)
			if _, err := h.client.Exec(ctx(t), keeper.ExecRequest{ID: host, ExecID: id, Process: process("sh", "-c", fmt.Sprint("exit ", i))}); err != nil {
				t.Error(err)
				return
			}
			if x, err := h.client.WaitExec(ctx(t), host, id); err != nil || x.Code != i {
				t.Errorf("exec %d: %+v %v", i, x, err)
			}
		})
	}
	wg.Wait()
}
