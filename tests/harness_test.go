// Package tests holds what is true of gantry as a whole: the laws of its house,
// and scenarios on the real programs with real namespaces, cgroups and
// nftables.
//
// A scenario has a machine of its own: a daemon with its own root and run
// directory, whose bridges, tables and cgroups carry its name. When the test
// ends the machine is taken down, and what it leaves behind on the host fails
// the test.
package tests

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// programs is where `make build` puts the binaries (GANTRY_BIN names another
// place), images where scripts/images puts archives.
var (
	repo     = mustAbs("..")
	programs = mustAbs(cmp.Or(os.Getenv("GANTRY_BIN"), filepath.Join(repo, "bin")))
	images   = filepath.Join(repo, "build", "images")
)

func mustAbs(p string) string {
	abs, err := filepath.Abs(p)
	if err != nil {
		panic(err)
	}
	return abs
}

// machine is one daemon with directories of its own.
type machine struct {
	t    testing.TB
	dir  string
	root string
	run  string
	tag  string   // in the names of everything it makes in the kernel
	env  []string // further variables for every command
}

// with is the machine for a subtest, whose failures are its own.
func (m *machine) with(t testing.TB) *machine {
	sub := *m
	sub.t = t
	return &sub
}

// newMachine makes a machine with the busybox image. Its daemon starts with
// the first command.
func newMachine(t testing.TB, in ...string) *machine {
	t.Helper()
	m := bareMachine(t, in...)
	m.ok("image", "import", archive(t, "busybox"), "busybox", "--change", `CMD ["sh"]`)
	return m
}

// bareMachine is newMachine without an image.
func bareMachine(t testing.TB, in ...string) *machine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: namespaces, cgroups and nftables")
	}
	for _, p := range []string{"gantry", "gantryd", "gantry-runtime"} {
		if _, err := os.Stat(filepath.Join(programs, p)); err != nil {
			t.Fatalf("%v; run `make build` first", err)
		}
	}
	// Short, since sockets below it have 107 bytes for their names.
	dir, err := os.MkdirTemp(strings.Join(in, ""), "gt-")
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, dir: dir, root: filepath.Join(dir, "root"), run: filepath.Join(dir, "run")}
	// No registry is reached, whatever network there is.
	certs := filepath.Join(dir, "certs.d")
	write(t, filepath.Join(certs, "_default", "hosts.toml"), "server = \"http://127.0.0.1:1\"\n")
	m.env = []string{"GANTRY_CERTS=" + certs}
	sum := sha256.Sum256([]byte(m.run))
	m.tag = hex.EncodeToString(sum[:])[:5]
	t.Cleanup(m.end)
	return m
}

// memory is where machines are that are filled and emptied again and again and
// tested for other things than what is on their disks: `make test` names a place
// in memory if there is plenty of it (scripts/scratch).
func memory() string { return os.Getenv("GANTRY_SCRATCH") }

// end takes everything down, after which nothing on the host may bear the
// machine's name.
func (m *machine) end() {
	t := m.t
	if t.Failed() {
		m.showLogs()
	}
	if m.listens() {
		for _, p := range m.projects() {
			if r := m.gantry("-p", p, "down", "-v", "-t", "1"); r.code != 0 {
				t.Errorf("down %s: %s", p, r)
			}
		}
		for _, id := range strings.Fields(m.gantry("container", "ls", "-aq").out) {
			m.gantry("container", "rm", "-fv", id)
		}
		for _, n := range strings.Fields(m.gantry("network", "ls", "-q").out) {
			m.gantry("network", "rm", n)
		}
		if r := m.gantry("daemon", "stop"); r.code != 0 {
			t.Errorf("daemon stop: %s", r)
			m.killAll()
		}
	}
	left := m.settled(snapshot{})
	if left != "" {
		t.Errorf("left behind on the host:\n%s", left.short())
		m.scrub(left)
	}
	if err := os.RemoveAll(m.dir); err != nil {
		t.Errorf("clean up: %v", err)
	}
}

// scrub takes away what a machine that failed has left, so that it fails no
// other test.
func (m *machine) scrub(left difference) {
	m.killAll()
	var dirs []string
	for line := range strings.Lines(string(left)) {
		kind, name, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch kind {
		case "cgroup":
			dirs = append(dirs, name)
			data, _ := os.ReadFile(filepath.Join(name, "cgroup.procs"))
			for _, pid := range strings.Fields(string(data)) {
				if n, err := strconv.Atoi(pid); err == nil {
					syscall.Kill(n, syscall.SIGKILL)
				}
			}
		case "mount":
			defer syscall.Unmount(name, syscall.MNT_DETACH) // the deepest first
		case "link":
			exec.Command("ip", "link", "del", filepath.Base(name)).Run()
		case "nftables":
			exec.Command("nft", append([]string{"delete"}, strings.Fields(name)...)...).Run()
		}
	}
	exec.Command("nft", "delete", "element", "ip", "gantry-guard", "instances", fmt.Sprintf("{ %q }", m.tag)).Run()
	time.Sleep(200 * time.Millisecond)
	for _, d := range slices.Backward(dirs) {
		syscall.Rmdir(d)
	}
}

func (m *machine) projects() []string {
	return strings.Fields(m.gantry("ls", "-aq").out)
}

// listens reports whether a daemon serves this machine.
func (m *machine) listens() bool {
	_, err := os.Stat(filepath.Join(m.run, "gantry.sock"))
	return err == nil
}

func (m *machine) showLogs() {
	for _, name := range []string{"gantryd.log", "keeper.log"} {
		data, err := os.ReadFile(filepath.Join(m.root, name))
		if err == nil && len(data) > 0 {
			m.t.Logf("%s:\n%s", name, data[max(0, len(data)-4000):])
		}
	}
}

// result is what a command gave.
type result struct {
	args     []string
	out, err string
	code     int
	took     time.Duration
}

func (r result) String() string {
	return fmt.Sprintf("gantry %s: exit code %d\nstdout: %s\nstderr: %s", strings.Join(r.args, " "), r.code, r.out, r.err)
}

// gantry runs the client.
func (m *machine) gantry(args ...string) result {
	return m.in(m.dir, args...)
}

// in runs the client in a directory.
func (m *machine) in(dir string, args ...string) result {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	return m.runCommand(m.command(ctx, dir, args...))
}

func (m *machine) command(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(programs, "gantry"), args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GANTRY_ROOT="+m.root, "GANTRY_RUN="+m.run, "GANTRY_HOST=", "DOCKER_HOST=", "COMPOSE_PROJECT_NAME=")
	cmd.Env = append(cmd.Env, m.env...)
	return cmd
}

func (m *machine) runCommand(cmd *exec.Cmd) result {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	begin := time.Now()
	err := cmd.Run()
	r := result{args: cmd.Args[1:], out: out.String(), err: errs.String(), took: time.Since(begin)}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		r.code = exit.ExitCode()
	case err != nil:
		m.t.Fatalf("%s: %v", r, err)
	}
	return r
}

// ok runs the client and fails the test if it fails.
func (m *machine) ok(args ...string) string {
	m.t.Helper()
	return m.okIn(m.dir, args...)
}

func (m *machine) okIn(dir string, args ...string) string {
	m.t.Helper()
	r := m.in(dir, args...)
	if r.code != 0 {
		m.t.Fatal(r)
	}
	return r.out
}

// fails runs the client, which must refuse with exit code 1 and one line that
// holds every one of the words.
func (m *machine) fails(dir string, args []string, words ...string) {
	m.t.Helper()
	r := m.in(dir, args...)
	line := strings.TrimSpace(r.err)
	if r.code != 1 {
		m.t.Errorf("want exit code 1: %s", r)
	}
	if i := strings.LastIndexByte(line, '\n'); i >= 0 {
		line = line[i+1:] // progress stands before it
	}
	for _, w := range words {
		if !strings.Contains(line, w) {
			m.t.Errorf("%q is not in the error: %s", w, r)
		}
	}
}

// project writes a compose file into a directory of its own, whose name is the
// project's.
func (m *machine) project(name, text string, files ...string) string {
	m.t.Helper()
	dir := filepath.Join(m.dir, name)
	write(m.t, filepath.Join(dir, "compose.yaml"), text)
	for i := 0; i+1 < len(files); i += 2 {
		write(m.t, filepath.Join(dir, files[i]), files[i+1])
	}
	return dir
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// archive is an image's root filesystem as scripts/images makes it.
func archive(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(images, name+".tar")
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v; run `scripts/images build/images %s` first", err, name)
	}
	return path
}

// pids of this machine's daemon and keeper, by the run directory in their
// command lines.
func (m *machine) pids(program string) []int {
	var all []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		data, err := os.ReadFile(filepath.Join(d, "cmdline"))
		if err != nil {
			continue
		}
		args := strings.Split(string(data), "\x00")
		if filepath.Base(args[0]) != program || !strings.Contains(string(data), m.run) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(d)); err == nil {
			all = append(all, pid)
		}
	}
	return all
}

// kill ends a program of this machine at once.
func (m *machine) kill(program string) {
	m.t.Helper()
	pids := m.pids(program)
	if len(pids) == 0 {
		m.t.Fatalf("no %s runs", program)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			m.t.Fatal(err)
		}
	}
}

// killAll is the last resort of a test that failed.
func (m *machine) killAll() {
	for _, p := range []string{"gantryd", "gantry-runtime"} {
		for range 3 {
			for _, pid := range m.pids(p) {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
}

// eventually tries until f is content, for at most d.
func eventually(t testing.TB, d time.Duration, what string, f func() bool) {
	t.Helper()
	begin := time.Now()
	for !f() {
		if time.Since(begin) > d {
			t.Fatalf("not within %s: %s", d, what)
		}
		breathe(begin)
	}
}

// breathe sleeps between two looks, of which most start programs: the longer
// one waits already, the longer, lest who looks takes the time of those who work.
func breathe(begin time.Time) {
	time.Sleep(min(max(20*time.Millisecond, time.Since(begin)/8), 400*time.Millisecond))
}
