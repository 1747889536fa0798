// Package docker puts Debian's docker, a client of 2023, to the daemon that
// DOCKER_HOST names: the commands of every day, with their flags, formats and
// exit codes.
//
// It knows nothing of gantry. All it needs is an image named busybox, so a
// dockerd can be asked the same questions.
package docker

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// program is where Debian's package puts it; another docker in PATH may be of
// another make.
var program = cmp.Or(os.Getenv("DOCKER"), "/usr/bin/docker")

func TestMain(m *testing.M) {
	if os.Getenv("DOCKER_HOST") == "" {
		fmt.Fprintln(os.Stderr, "DOCKER_HOST names no daemon to ask")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// result is what a command gave.
type result struct {
	args     []string
	out, err string
	code     int
}

func (r result) String() string {
	return fmt.Sprintf("docker %s: exit code %d\nstdout: %s\nstderr: %s", strings.Join(r.args, " "), r.code, r.out, r.err)
}

func command(t testing.TB, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.WaitDelay = 5 * time.Second
	// A configuration of the user who runs the test is none of its business.
	cmd.Env = append(os.Environ(), "DOCKER_CONFIG=/nonexistent", "DOCKER_CLI_EXPERIMENTAL=")
	return cmd
}

// try runs a command with something to read.
func try(t testing.TB, stdin io.Reader, args ...string) result {
	t.Helper()
	cmd := command(t, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errs
	err := cmd.Run()
	r := result{args: args, out: out.String(), err: errs.String()}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		r.code = exit.ExitCode()
	case err != nil:
		t.Fatalf("%s: %v", r, err)
	}
	return r
}

// docker runs a command that must succeed, and gives its output without the
// last line's end.
func docker(t testing.TB, args ...string) string {
	t.Helper()
	r := try(t, nil, args...)
	if r.code != 0 {
		t.Fatal(r)
	}
	return strings.TrimSuffix(r.out, "\n")
}

// says runs a command that must succeed with exactly this output.
func says(t testing.TB, want string, args ...string) {
	t.Helper()
	if got := docker(t, args...); got != want {
		t.Errorf("docker %s: %q, want %q", strings.Join(args, " "), got, want)
	}
}

// shows runs a command that must succeed with all these words in its output.
func shows(t testing.TB, args []string, words ...string) {
	t.Helper()
	out := docker(t, args...)
	for _, w := range words {
		if !strings.Contains(out, w) {
			t.Errorf("docker %s: %q is not in %q", strings.Join(args, " "), w, out)
		}
	}
}

// fails runs a command that must end with a code and these words in its
// message.
func fails(t testing.TB, code int, args []string, words ...string) {
	t.Helper()
	r := try(t, nil, args...)
	if r.code != code {
		t.Errorf("want exit code %d: %s", code, r)
	}
	for _, w := range words {
		if !strings.Contains(strings.ToLower(r.err), strings.ToLower(w)) {
			t.Errorf("%q is not in the message: %s", w, r)
		}
	}
}

// name is a name nobody else uses; what bears it as a container is removed in
// the end.
func name(t testing.TB) string {
	n := "t-" + strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	counter.Lock()
	counter.n++
	n = fmt.Sprintf("%s-%d", n, counter.n)
	counter.Unlock()
	t.Cleanup(func() { try(t, nil, "rm", "-fv", n) })
	return n
}

var counter struct {
	sync.Mutex
	n int
}

// idle starts a container that waits, and ends at once when asked to.
func idle(t testing.TB, flags ...string) string {
	t.Helper()
	n := name(t)
	args := append([]string{"run", "-d", "--name", n, "--stop-signal", "KILL"}, flags...)
	docker(t, append(args, "busybox", "sleep", "1000")...)
	return n
}

// remove takes objects away in the end.
func remove(t testing.TB, args ...string) {
	t.Cleanup(func() { try(t, nil, args...) })
}

// eventually tries until f is content.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

// follower is a command that goes on while its output is read.
type follower struct {
	t     testing.TB
	cmd   *exec.Cmd
	in    io.WriteCloser
	ended chan struct{}

	mu   sync.Mutex
	seen bytes.Buffer
}

func (f *follower) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen.Write(p)
}

func (f *follower) text() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen.String()
}

// follow starts a command and reads along.
func follow(t testing.TB, args ...string) *follower {
	t.Helper()
	f := &follower{t: t, cmd: command(t, args...), ended: make(chan struct{})}
	f.cmd.Stdout, f.cmd.Stderr = f, f
	in, err := f.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	f.in = in
	f.start()
	return f
}

func (f *follower) start() {
	f.t.Helper()
	if err := f.cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	go func() {
		f.cmd.Wait()
		close(f.ended)
	}()
	f.t.Cleanup(func() {
		f.cmd.Process.Kill()
		<-f.ended
	})
}

// terminal starts a command on a terminal of 101 columns and 33 lines.
func terminal(t testing.TB, args ...string) *follower {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(master.Fd())
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: 101, Row: 33})
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	f := &follower{t: t, cmd: command(t, args...), in: master, ended: make(chan struct{})}
	f.cmd.Stdin, f.cmd.Stdout, f.cmd.Stderr = slave, slave, slave
	f.cmd.Env = append(f.cmd.Env, "TERM=xterm")
	f.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	t.Cleanup(func() { master.Close() })
	f.start()
	go io.Copy(f, master) // ends with the terminal
	return f
}

// reads waits until words were written.
func (f *follower) reads(words string) {
	f.t.Helper()
	eventually(f.t, fmt.Sprintf("docker %s writes %q", strings.Join(f.cmd.Args[1:], " "), words), func() bool {
		return strings.Contains(f.text(), words)
	})
}

// types writes to the command; "\x10\x11" is Ctrl-P Ctrl-Q.
func (f *follower) types(keys string) {
	f.t.Helper()
	if _, err := io.WriteString(f.in, keys); err != nil {
		f.t.Fatal(err)
	}
}

// ends waits until the command ends with a code.
func (f *follower) ends(code int) {
	f.t.Helper()
	select {
	case <-f.ended:
	case <-time.After(20 * time.Second):
		f.t.Fatalf("it does not end:\n%s", f.text())
	}
	if got := f.cmd.ProcessState.ExitCode(); got != code {
		f.t.Errorf("it ended with %d, want %d:\n%s", got, code, f.text())
	}
}
