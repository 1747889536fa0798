package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// pretendDaemon is what the test's own program does when it is started as
// gantryd: how says whether it serves, refuses, dies or hangs.
func pretendDaemon(how string) {
	fd, err := strconv.Atoi(os.Getenv(ReadyFD))
	if err != nil {
		panic(err)
	}
	ready := os.NewFile(uintptr(fd), "ready")
	run := ""
	for i, arg := range os.Args {
		if arg == "--run" {
			run = os.Args[i+1]
		}
	}
	switch how {
	case "refuse":
		fmt.Fprintln(ready, "root directory: no space left on device")
		os.Exit(1)
	case "die":
		fmt.Fprintln(os.Stderr, "panic: of some kind")
		os.Exit(3)
	case "hang":
		time.Sleep(2 * time.Second)
		os.Exit(0)
	case "late":
		appears(filepath.Join(run, "gantry.sock"))
		fmt.Fprintln(ready, "root directory: another gantryd uses it")
		os.Exit(1)
	}
	l, err := net.Listen("unix", filepath.Join(run, "gantry.sock"))
	if err != nil {
		fmt.Fprintln(ready, err)
		os.Exit(1)
	}
	// How often it was started, and in which session.
	f, err := os.OpenFile(filepath.Join(run, "starts"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	sid, _ := unix.Getsid(0)
	fmt.Fprintln(f, sid == os.Getpid())
	f.Close()
	quit := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /daemon", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"Pid":%d}`, os.Getpid())
	})
	mux.HandleFunc("POST /daemon/stop", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		time.AfterFunc(100*time.Millisecond, func() { close(quit) })
	})
	go func() { _ = http.Serve(l, mux) }()
	fmt.Fprintln(ready, "ready")
	ready.Close()
	select {
	case <-quit:
	case <-time.After(20 * time.Second): // nobody stops it: the test has failed
	}
	os.Remove(filepath.Join(run, "gantry.sock"))
}

// appears waits for a file, a few seconds at most.
func appears(path string) {
	for range 500 {
		if _, err := os.Stat(path); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// startable makes a client whose daemon is this test's program.
func startable(t *testing.T, how string) *Client {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: only root starts a daemon")
	}
	unset(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin, run := t.TempDir(), t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\nexec %s -test.run='^$' \"$@\"\n", self)
	if err := os.WriteFile(filepath.Join(bin, "gantryd"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	t.Setenv("GANTRY_TEST_DAEMON", how)
	t.Setenv("GANTRY_RUN", filepath.Join(run, "run"))
	t.Setenv("GANTRY_ROOT", filepath.Join(run, "root"))
	c, err := New("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// Eight clients at once find no daemon: one starts, once, all can use it.
func TestEnsureDaemonStartsOne(t *testing.T) {
	c := startable(t, "serve")
	var wg sync.WaitGroup
	var mu sync.Mutex
	starts := 0
	for range 8 {
		wg.Go(func() {
			started, err := c.EnsureDaemon(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := c.DaemonStatus(t.Context()); err != nil {
				t.Errorf("not serving: %v", err)
			}
			mu.Lock()
			defer mu.Unlock()
			if started {
				starts++
			}
		})
	}
	wg.Wait()
	text, err := os.ReadFile(filepath.Join(c.places.run, "starts"))
	if starts != 1 || string(text) != "true\n" || err != nil {
		t.Errorf("%d clients say they started it; daemons by own session: %q, %v", starts, text, err)
	}
	if started, err := c.EnsureDaemon(t.Context()); started || err != nil {
		t.Errorf("a running daemon: %v, %v", started, err)
	}
	// Stopping returns when the process has ended.
	st, err := c.DaemonStatus(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.StopDaemon(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if state := processState(st.Pid); state != "" && state != "Z" {
		t.Errorf("the daemon's process is still there, in state %s", state)
	}
	reap(st.Pid)
}

// A daemon that a keeper has started, which has died since, is not there yet when
// one looks, and is before one's own.
func TestEnsureDaemonComesLate(t *testing.T) {
	c := startable(t, "late")
	listening := make(chan error, 1)
	go func() {
		appears(c.places.root) // a daemon of our own is about to be started
		l, err := net.Listen("unix", filepath.Join(c.places.run, "gantry.sock"))
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		listening <- err
	}()
	if started, err := c.EnsureDaemon(t.Context()); started || err != nil {
		t.Errorf("another daemon serves: %t, %v", started, err)
	}
	if err := <-listening; err != nil {
		t.Error(err)
	}
}

// processState is the letter of /proc/PID/stat, "" for no process.
func processState(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return rest[:1]
}

// reap collects a daemon that was our child: clients are usually gone by then.
func reap(pid int) {
	var ws unix.WaitStatus
	_, _ = unix.Wait4(pid, &ws, 0, nil)
}

func TestEnsureDaemonTellsWhyNot(t *testing.T) {
	for how, want := range map[string]string{
		"refuse": "start the daemon: root directory: no space left on device",
		"die":    "start the daemon: it ended at once: exit status 3; its log is ",
	} {
		c := startable(t, how)
		if started, err := c.EnsureDaemon(t.Context()); started || err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, %v", how, started, err)
		}
		if how == "die" {
			if text, err := os.ReadFile(filepath.Join(c.places.root, "gantryd.log")); err != nil || !strings.Contains(string(text), "of some kind") {
				t.Errorf("the log: %q, %v", text, err)
			}
		}
	}
	c := startable(t, "hang")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.EnsureDaemon(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	// While one starts, another waits for the lock and not for ever.
	release, err := c.startLock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.EnsureDaemon(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("behind a lock: %v", err)
	}
	release()
	if again, err := c.startLock(t.Context()); err != nil {
		t.Error(err)
	} else {
		again()
	}
}

func TestEnsureDaemonStartsNoneElsewhere(t *testing.T) {
	c := startable(t, "serve")
	other, err := New("unix://" + filepath.Join(c.places.run, "other.sock"))
	if err != nil {
		t.Fatal(err)
	}
	if started, err := other.EnsureDaemon(t.Context()); started || !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "check that the daemon runs there") {
		t.Errorf("got %v, %v", started, err)
	}
	t.Setenv("PATH", "/nowhere")
	if started, err := c.EnsureDaemon(t.Context()); started || !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "gantryd") {
		t.Errorf("got %v, %v", started, err)
	}
}
