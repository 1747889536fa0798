package tests

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a person at a terminal with one command.
type terminal struct {
	t      testing.TB
	master *os.File
	cmd    *exec.Cmd
	ended  chan struct{}

	mu   sync.Mutex
	seen strings.Builder
}

// openTerminal runs the client on a terminal of 101 columns and 33 lines.
func (m *machine) openTerminal(dir string, args ...string) *terminal {
	m.t.Helper()
	return m.onTerminal(m.command(context.Background(), dir, args...))
}

// onTerminal runs any command on such a terminal.
func (m *machine) onTerminal(cmd *exec.Cmd) *terminal {
	m.t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		m.t.Fatal(err)
	}
	fd := int(master.Fd())
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		m.t.Fatal(err)
	}
	defer slave.Close()
	x := &terminal{t: m.t, master: master, cmd: cmd, ended: make(chan struct{})}
	x.resize(101, 33)
	x.cmd.Stdin, x.cmd.Stdout, x.cmd.Stderr = slave, slave, slave
	x.cmd.Env = append(x.cmd.Env, "TERM=xterm")
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := x.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			x.mu.Lock()
			x.seen.Write(buf[:n])
			x.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	go func() {
		x.cmd.Wait()
		close(x.ended)
	}()
	m.t.Cleanup(func() {
		x.cmd.Process.Kill()
		<-x.ended
		master.Close()
	})
	return x
}

func (x *terminal) resize(columns, lines uint16) {
	x.t.Helper()
	if err := unix.IoctlSetWinsize(int(x.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: lines}); err != nil {
		x.t.Fatal(err)
	}
}

func (x *terminal) screen() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.seen.String()
}

// types is what is typed; "\x03" is Ctrl-C.
func (x *terminal) types(keys string) {
	x.t.Helper()
	if _, err := x.master.WriteString(keys); err != nil {
		x.t.Fatal(err)
	}
}

// shows waits until words can be read.
func (x *terminal) shows(words string) {
	x.t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if strings.Contains(x.screen(), words) {
			return
		}
	}
	x.t.Fatalf("%q was never shown:\n%s", words, x.screen())
}

// ends waits until the command ends with a code.
func (x *terminal) ends(code int) {
	x.t.Helper()
	select {
	case <-x.ended:
	case <-time.After(15 * time.Second):
		x.t.Fatalf("it does not end:\n%s", x.screen())
	}
	if got := x.cmd.ProcessState.ExitCode(); got != code {
		x.t.Errorf("it ended with %d, want %d:\n%s", got, code, x.screen())
	}
}

// Commands in containers, with a terminal and without.
func TestExec(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	dir := m.project("inside", `
services:
  web: {image: busybox, command: sleep 1000, stop_signal: SIGKILL, environment: {OWN: "1"}, working_dir: /tmp}
  cat: {image: busybox, command: cat, stdin_open: true, stop_signal: SIGKILL}
  shell: {image: busybox, command: sh, stdin_open: true, tty: true, stop_signal: SIGKILL}
`)
	m.okIn(dir, "up", "-d")
	run := func(name string, f func(t *testing.T, m *machine)) {
		t.Run(name, func(t *testing.T) { t.Parallel(); f(t, m.with(t)) })
	}
	exec := func(m *machine, stdin string, args ...string) result {
		m.t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		cmd := m.command(ctx, dir, append([]string{"exec", "-T"}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		return m.runCommand(cmd)
	}
	run("exit codes", func(t *testing.T, m *machine) {
		for command, want := range map[string]int{"exit 0": 0, "exit 3": 3, "kill -9 $$": 137, "kill -TERM $$": 143} {
			if r := exec(m, "", "web", "sh", "-c", command); r.code != want {
				t.Errorf("want %d: %s", want, r)
			}
		}
		if r := exec(m, "", "web", "/nosuch"); r.code != 127 || !strings.Contains(r.err, "/nosuch") {
			t.Errorf("not there: %s", r)
		}
		if r := exec(m, "", "web", "/etc/passwd"); r.code != 126 {
			t.Errorf("no program: %s", r)
		}
	})
	run("streams", func(t *testing.T, m *machine) {
		r := exec(m, "one\ntwo\n", "web", "sh", "-c", "cat; echo wrong >&2")
		if r.out != "one\ntwo\n" || r.err != "wrong\n" {
			t.Errorf("%s", r)
		}
		big := strings.Repeat("0123456789abcde\n", 1<<17) // 2 MiB
		if r := exec(m, big, "web", "cat"); r.out != big {
			t.Errorf("%d bytes of %d came back", len(r.out), len(big))
		}
	})
	run("options", func(t *testing.T, m *machine) {
		r := exec(m, "", "-e", "MORE=2", "-e", "OWN=3", "-w", "/etc", "-u", "nobody", "web", "sh", "-c", "echo $OWN $MORE $(pwd) $(id -un)")
		if strings.TrimSpace(r.out) != "3 2 /etc nobody" {
			t.Errorf("%s", r)
		}
		if r := exec(m, "", "web", "pwd"); strings.TrimSpace(r.out) != "/tmp" {
			t.Errorf("the container's directory: %s", r)
		}
		if r := exec(m, "", "-w", "/nosuch", "web", "pwd"); r.code == 0 || !strings.Contains(r.err, "/nosuch") {
			t.Errorf("no such directory: %s", r)
		}
		if r := exec(m, "", "-u", "nosuch", "web", "pwd"); r.code == 0 || !strings.Contains(r.err, "nosuch") {
			t.Errorf("no such user: %s", r)
		}
		m.okIn(dir, "exec", "-d", "web", "touch", "/tmp/detached")
		eventually(t, 3*time.Second, "the detached command ran", func() bool {
			return exec(m, "", "web", "test", "-e", "/tmp/detached").code == 0
		})
	})
	run("a terminal", func(t *testing.T, m *machine) {
		x := m.openTerminal(dir, "exec", "web", "sh", "-c", "tty; stty size; read line; echo \"got $line\"; stty size; exit 9")
		x.shows("/dev/pts/")
		x.shows("33 101")
		x.resize(66, 22)
		time.Sleep(200 * time.Millisecond)
		x.types("words\r")
		x.shows("got words")
		x.shows("22 66")
		x.ends(9)
	})
	run("Ctrl-C is the command's", func(t *testing.T, m *machine) {
		x := m.openTerminal(dir, "exec", "web", "sh", "-c", "echo here; sleep 1000")
		x.shows("here")
		x.types("\x03")
		x.ends(130)
		if r := exec(m, "", "web", "true"); r.code != 0 {
			t.Error(r)
		}
	})
	run("attach", func(t *testing.T, m *machine) {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		cmd := m.command(ctx, dir, "attach", "cat")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		var out lockedBuilder
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(in, "said aloud")
		eventually(t, 5*time.Second, "it is echoed", func() bool { return strings.Contains(out.String(), "said aloud\n") })
		eventually(t, 5*time.Second, "it is logged", func() bool {
			return strings.Contains(m.okIn(dir, "logs", "cat"), "said aloud")
		})
		cmd.Process.Kill()
		cmd.Wait()
		in.Close()
		if got := m.state("inside-cat-1"); got != "running" {
			t.Errorf("left, it is %s", got)
		}
	})
	run("attach to a terminal", func(t *testing.T, m *machine) {
		x := m.openTerminal(dir, "attach", "shell")
		x.types("echo one$((1+1))three\r")
		x.shows("one2three")
		x.types("stty size\r")
		x.shows("33 101")
		x.types("\x10\x11") // Ctrl-P Ctrl-Q
		x.ends(0)
		if got := m.state("inside-shell-1"); got != "running" {
			t.Errorf("left, it is %s", got)
		}
	})
	run("top and stats", func(t *testing.T, m *machine) {
		if r := m.in(dir, "top", "web"); !strings.Contains(r.out, "sleep 1000") {
			t.Errorf("%s", r)
		}
		if r := m.in(dir, "stats", "--no-stream", "--format", "json", "web"); r.code != 0 || !strings.Contains(r.out, "inside-web-1") {
			t.Errorf("%s", r)
		}
	})
}

// lockedBuilder is a strings.Builder that is read while it is written.
type lockedBuilder struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuilder) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuilder) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Logs: what was said, when, by whom, how much of it, and no more than allowed.
func TestLogs(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	dir := m.project("logs", `
services:
  talks: {image: busybox, command: "sh -c 'for i in $$(seq 1 50); do echo out $$i; echo err $$i >&2; done; exec sleep 1000'", stop_signal: SIGKILL}
  ticks: {image: busybox, command: "sh -c 'i=0; while :; do echo tick $$i; i=$$((i+1)); sleep 0.1; done'", stop_signal: SIGKILL}
  floods:
    image: busybox
    command:
      - sh
      - -c
      - awk 'BEGIN { for (i = 1; i <= 30000; i++) printf "line number %06d of a flood\n", i }'; echo last; exec sleep 1000
    stop_signal: SIGKILL
    logging: {driver: json-file, options: {max-size: 50k, max-file: "3"}}
`)
	m.okIn(dir, "up", "-d")
	eventually(t, 10*time.Second, "the flood is over", func() bool {
		return strings.Contains(m.okIn(dir, "logs", "--tail", "1", "floods"), "last")
	})
	r := m.in(dir, "logs", "--no-log-prefix", "talks")
	if strings.Count(r.out, "out ")+strings.Count(r.err, "out ") != 50 || strings.Count(r.out, "err ")+strings.Count(r.err, "err ") != 50 {
		t.Errorf("%s", r)
	}
	if out := m.okIn(dir, "logs", "--tail", "3", "--no-log-prefix", "floods"); out != "line number 029999 of a flood\nline number 030000 of a flood\nlast\n" {
		t.Errorf("tail: %q", out)
	}
	if out := m.okIn(dir, "logs", "-t", "--tail", "1", "ticks"); !strings.Contains(out, "ticks-1") || !strings.Contains(out, time.Now().UTC().Format("2006-01-02T15:")) {
		t.Errorf("prefix and time: %q", out)
	}
	if out := m.okIn(dir, "logs", "--since", "300ms", "--no-log-prefix", "ticks"); strings.Count(out, "tick") > 6 || strings.Count(out, "tick") == 0 {
		t.Errorf("since 300ms: %q", out)
	}
	path := m.shows("logs-floods-1", "{{.LogPath}}")
	var total int64
	for _, p := range []string{path, path + ".1", path + ".2", path + ".3"} {
		if st, err := os.Stat(p); err == nil {
			total += st.Size()
		}
	}
	if total == 0 || total > 3*(50_000+40_000) {
		t.Errorf("%d bytes of log are kept", total)
	}

	follow := m.openTerminal(dir, "logs", "-f", "--tail", "0", "ticks")
	follow.shows("tick")
	m.kill("gantryd")
	first := strings.Count(follow.screen(), "tick")
	eventually(t, 5*time.Second, "it goes on although the daemon was killed", func() bool {
		return strings.Count(follow.screen(), "tick") > first+10
	})
	follow.types("\x03")
	follow.ends(130)
	m.okIn(dir, "stop", "ticks")
	ended := m.openTerminal(dir, "logs", "-f", "--tail", "1", "ticks")
	ended.ends(0)
}

// up in the foreground: the first Ctrl-C stops gracefully, the second at once.
func TestForeground(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	run := func(name string, f func(t *testing.T, m *machine)) {
		t.Run(name, func(t *testing.T) { t.Parallel(); f(t, m.with(t)) })
	}
	run("Ctrl-C", func(t *testing.T, m *machine) {
		dir := m.project("polite", `services: {web: {image: busybox, command: "sh -c 'trap \"echo goodbye; exit 7\" TERM; echo hello; while :; do sleep 0.05; done'"}}`)
		x := m.openTerminal(dir, "up")
		x.shows("hello")
		x.types("\x03")
		x.shows("goodbye")
		x.ends(130)
		if got := m.shows("polite-web-1", "{{.State.Status}} {{.State.ExitCode}}"); got != "exited 7" {
			t.Errorf("it is %s", got)
		}
	})
	run("Ctrl-C twice", func(t *testing.T, m *machine) {
		dir := m.project("rude", `services: {web: {image: busybox, stop_grace_period: 2m, command: "sh -c 'trap \"\" TERM; echo hello; while :; do sleep 0.05; done'"}}`)
		x := m.openTerminal(dir, "up")
		x.shows("hello")
		x.types("\x03")
		x.shows("Gracefully")
		time.Sleep(300 * time.Millisecond)
		begin := time.Now()
		x.types("\x03")
		<-x.ended
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("the second Ctrl-C took %s", took)
		}
		eventually(t, 5*time.Second, "it was killed", func() bool { return m.state("rude-web-1") == "exited" })
	})
	run("Ctrl-C while it comes up", func(t *testing.T, m *machine) {
		dir := m.project("early", `services: {web: {image: busybox, command: sleep 1000, depends_on: {slow: {condition: service_healthy}}}, slow: {image: busybox, command: sleep 1000, stop_signal: SIGKILL, healthcheck: {test: "false", start_period: 5m}}}`)
		x := m.openTerminal(dir, "up")
		eventually(t, 10*time.Second, "the first is there", func() bool { return m.in(dir, "ps", "-q", "slow").out != "" })
		x.types("\x03")
		<-x.ended
		if code := x.cmd.ProcessState.ExitCode(); code != 130 && code != 1 {
			t.Errorf("it ended with %d:\n%s", code, x.screen())
		}
		time.Sleep(300 * time.Millisecond)
		if m.gantry("container", "inspect", "early-web-1").code == 0 {
			t.Error("interrupted, and it goes on")
		}
	})
	run("the end of one ends all", func(t *testing.T, m *machine) {
		dir := m.project("aborts", `services: {job: {image: busybox, command: sh -c 'sleep 0.3; exit 42'}, web: {image: busybox, command: sleep 1000, stop_signal: SIGKILL}}`)
		if r := m.in(dir, "up", "--exit-code-from", "job"); r.code != 42 {
			t.Errorf("want 42: %s", r)
		}
		if got := m.state("aborts-web-1"); got != "exited" {
			t.Errorf("the other one is %s", got)
		}
	})
	run("it ends when all have ended", func(t *testing.T, m *machine) {
		dir := m.project("ends", `services: {a: {image: busybox, command: echo from a}, b: {image: busybox, command: echo from b}}`)
		r := m.in(dir, "up")
		if r.code != 0 || !strings.Contains(r.out, "from a") || !strings.Contains(r.out, "from b") {
			t.Errorf("%s", r)
		}
	})
}
