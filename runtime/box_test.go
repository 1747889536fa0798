package runtime

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"gantry/runtime/logs"

	"golang.org/x/sys/unix"
)

// What tests do with containers.

func background(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("it never came to this: %s", what)
}

// box is a container of the plain image that runs a command.
func box(command ...string) Config {
	return Config{Image: "box", Command: command, StopTimeout: new(3 * time.Second), Network: networkMode("none")}
}

// create makes a container that goes with the test.
func (h *house) create(t testing.TB, c Config) Container {
	t.Helper()
	made, err := h.e.Create(background(t), "", c)
	must(t, err)
	h.gone(t, made.ID)
	return made
}

// gone removes a container when the test is over.
func (h *house) gone(t testing.TB, id string) {
	t.Cleanup(func() {
		err := h.e.Remove(context.Background(), id, RemoveOptions{Force: true, Volumes: true})
		if err != nil && !isNotFound(err) {
			t.Errorf("remove at the end: %v", err)
		}
	})
}

func (h *house) start(t testing.TB, c Config) Container {
	t.Helper()
	made := h.create(t, c)
	must(t, h.e.Start(background(t), made.ID))
	return h.inspect(t, made.ID)
}

func (h *house) inspect(t testing.TB, id string) Container {
	t.Helper()
	c, err := h.e.Inspect(id)
	must(t, err)
	return c
}

// run runs a container to its end and gives its exit code and its output.
func (h *house) output(t testing.TB, c Config) (int, string) {
	t.Helper()
	made := h.start(t, c)
	w, err := h.e.Wait(background(t), made.ID, NotRunning, nil)
	must(t, err)
	return w.ExitCode, h.logOf(t, made.ID)
}

func (h *house) logOf(t testing.TB, id string) string {
	t.Helper()
	var b strings.Builder
	must(t, h.e.Logs(background(t), id, logs.Query{Stdout: true, Stderr: true, Tail: -1}, func(e logs.Entry) error {
		b.Write(e.Line)
		return nil
	}))
	return b.String()
}

// exec runs a command in a container to its end.
func (h *house) exec(t testing.TB, id string, x ExecConfig, in io.Reader) (int, string) {
	t.Helper()
	x.Stdout, x.Stderr, x.Stdin = true, true, in != nil
	xid, err := h.e.ExecCreate(background(t), id, x)
	must(t, err)
	var out firstBytes
	out.max = 1 << 20
	must(t, h.e.ExecStart(background(t), xid, &ExecStreams{In: in, Out: &out, Err: &out}))
	s, err := h.e.ExecInspect(xid)
	must(t, err)
	if s.ExitCode == nil {
		t.Fatal("an exec has ended without an exit code")
	}
	return *s.ExitCode, out.String()
}

func kill(pid int) error { return unix.Kill(pid, unix.SIGKILL) }

// healthyAfter waits for a container to become healthy while do is done.
func (h *house) healthyAfter(t testing.TB, id string, do func()) error {
	done := make(chan error, 1)
	go func() { done <- h.e.AwaitHealthy(background(t), id) }()
	do()
	return <-done
}
