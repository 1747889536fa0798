package keeper_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/runtime/keeper"
	"gantry/runtime/rootfs"
)

// program is the real gantry-runtime, built once for all tests.
var program string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	if conf := os.Getenv("GANTRY_TEST_DAEMON"); conf != "" {
		if err := fakeDaemon(conf); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	built.path = sync.OnceValues(makeBuilt)
	defer func() { _ = os.RemoveAll(built.dir) }() // "" is nothing
	if program = os.Getenv("GANTRY_RUNTIME"); program != "" {
		return m.Run() // that one, whoever has built it
	}
	if os.Geteuid() == 0 {
		dir, err := os.MkdirTemp("", "gantry-keeper-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		program = filepath.Join(dir, "gantry-runtime")
		cmd := exec.Command("go", "build", "-tags", "seccomp netgo osusergo",
			"-ldflags", `-s -w -extldflags "-static"`, "-o", program, "gantry/cmd/gantry-runtime")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build gantry-runtime: %v\n%s", err, out)
			return 1
		}
	}
	return m.Run()
}

// house is a keeper of its own with a base filesystem, all of it gone after
// the test.
type house struct {
	t      testing.TB
	dir    string // everything
	run    string
	base   string // lower directory with busybox
	cgroup string // parent of all
	client *keeper.Client

	mu     sync.Mutex
	events []keeper.Event
	told   chan struct{}
}

func newHouse(t testing.TB) *house {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: containers are made")
	}
	if _, err := os.Stat("/bin/busybox"); err != nil {
		t.Skip("needs /bin/busybox (Debian: busybox-static)")
	}
	dir, err := os.MkdirTemp("", "gantry-keeper-")
	if err != nil {
		t.Fatal(err)
	}
	var b [4]byte
	rand.Read(b[:])
	h := &house{
		t: t, dir: dir, run: filepath.Join(dir, "run"), base: filepath.Join(dir, "base"),
		cgroup: "/gantry-test-" + hex.EncodeToString(b[:]),
	}
	h.makeBase()
	t.Cleanup(h.tearDown)
	h.connect()
	return h
}

func (h *house) makeBase() {
	for _, d := range []string{"bin", "etc", "proc", "sys", "dev", "tmp", "data"} {
		h.must(os.MkdirAll(filepath.Join(h.base, d), 0o755))
	}
	box, err := os.ReadFile("/bin/busybox")
	h.must(err)
	h.must(os.WriteFile(filepath.Join(h.base, "bin/busybox"), box, 0o755))
	for _, a := range []string{"sh", "true", "false", "cat", "sleep", "echo", "id", "head", "dd", "stty", "ls", "kill", "seq", "yes", "tty", "ps", "usleep", "grep", "wc", "env", "pwd"} {
		h.must(os.Symlink("busybox", filepath.Join(h.base, "bin", a)))
	}
	h.must(os.WriteFile(filepath.Join(h.base, "etc/passwd"), []byte("root:x:0:0::/root:/bin/sh\nweb:x:1000:1000::/home/web:/bin/sh\n"), 0o644))
	h.must(os.WriteFile(filepath.Join(h.base, "etc/group"), []byte("root:x:0:\nweb:x:1000:\nextra:x:2000:web\nmore:x:3000:\n"), 0o644))
	h.must(os.WriteFile(filepath.Join(h.base, "bin/plain"), []byte("text"), 0o644))
}

func (h *house) options() keeper.Options {
	return keeper.Options{
		Run: h.run, Program: program, Cgroup: h.cgroup + "/keeper",
		Log: slog.New(slog.NewTextHandler(testLog{h.t}, &slog.HandlerOptions{Level: slog.LevelError})),
	}
}

type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// connect makes a client and collects its events.
func (h *house) connect() {
	h.t.Helper()
	c, err := keeper.Connect(ctx(h.t), h.options())
	h.must(err)
	h.client = c
	h.mu.Lock()
	h.events = nil
	h.told = make(chan struct{})
	told := h.told
	h.mu.Unlock()
	go func() {
		defer close(told)
		for e := range c.Events() {
			h.mu.Lock()
			h.events = append(h.events, e)
			h.mu.Unlock()
		}
	}()
}

// waitEvent waits for an event that fits.
func (h *house) waitEvent(what string, fits func(keeper.Event) bool) keeper.Event {
	h.t.Helper()
	end := time.Now().Add(15 * time.Second)
	for time.Now().Before(end) {
		h.mu.Lock()
		for _, e := range h.events {
			if fits(e) {
				h.mu.Unlock()
				return e
			}
		}
		h.mu.Unlock()
		time.Sleep(2 * time.Millisecond)
	}
	h.t.Fatalf("no event: %s; log:\n%s", what, h.log())
	return keeper.Event{}
}

func (h *house) log() string {
	b, _ := os.ReadFile(filepath.Join(h.run, "keeper.log"))
	return string(b)
}

// tearDown ends everything, even when the test has failed half way.
func (h *house) tearDown() {
	if h.t.Failed() {
		h.t.Logf("keeper's log:\n%s", h.log())
	}
	c, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	list, err := h.client.List(c)
	if err != nil {
		h.t.Errorf("list at the end: %v", err)
	}
	for _, st := range list {
		if err := h.client.Delete(c, st.ID); err != nil {
			h.t.Errorf("delete at the end: %v", err)
		}
	}
	if err := h.client.Shutdown(c, false); err != nil {
		h.t.Errorf("shut down: %v", err)
	}
	if out, err := exec.Command("find", append([]string{"/sys/fs/cgroup", "-maxdepth", "3", "-name"}, filepath.Base(h.cgroup))...).Output(); err == nil && len(out) > 0 {
		h.t.Errorf("cgroups are left:\n%s", out)
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	if strings.Contains(string(mounts), h.dir) {
		h.t.Errorf("mounts are left below %s", h.dir)
		_ = unix.Unmount(filepath.Join(h.run, "rootfs"), unix.MNT_DETACH)
	}
	for _, dir := range []string{"keeper", "libcontainer", "rootfs"} {
		left, _ := os.ReadDir(filepath.Join(h.run, dir))
		for _, e := range left {
			h.t.Errorf("left behind: %s/%s", dir, e.Name())
		}
	}
	os.RemoveAll(h.dir)
}

func (h *house) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func ctx(t testing.TB) context.Context {
	c, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return c
}

var defaultCaps = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// bundle is a container like Docker's, with its default seccomp profile.
func (h *house) bundle(id string, args ...string) keeper.Bundle {
	h.t.Helper()
	dir := filepath.Join(h.dir, "c", id)
	for _, d := range []string{"upper", "work"} {
		h.must(os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	b := keeper.Bundle{
		ID:     id,
		Rootfs: rootfs.Overlay{Lower: []string{h.base}, Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work")},
		Log:    keeper.LogSink{Path: h.logPath(id)},
	}
	b.Spec = h.spec(id, args...)
	return b
}

func (h *house) logPath(id string) string { return filepath.Join(h.dir, "c", id, "log") }

func (h *house) spec(id string, args ...string) *specs.Spec {
	h.t.Helper()
	mount := func(dest, kind, source string, opts ...string) specs.Mount {
		return specs.Mount{Destination: dest, Type: kind, Source: source, Options: opts}
	}
	s := &specs.Spec{
		Version: specs.Version,
		Process: process(args...),
		Root:    &specs.Root{},
		Mounts: []specs.Mount{
			mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
			mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
			mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
			mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
			mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro", "nosuid", "noexec", "nodev"),
			mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
			mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
		},
		Hostname: "test",
		Linux: &specs.Linux{
			CgroupsPath: h.cgroup + "/" + id,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.CgroupNamespace},
			},
			Resources:     &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
			MaskedPaths:   []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
	profile, err := seccomp.GetDefaultProfile(s)
	h.must(err)
	s.Linux.Seccomp = profile
	return s
}

func process(args ...string) *specs.Process {
	return &specs.Process{
		Args: args, Cwd: "/", Env: []string{"PATH=/bin"},
		Capabilities: &specs.LinuxCapabilities{Bounding: defaultCaps, Effective: defaultCaps, Permitted: defaultCaps},
	}
}

// start runs a container that must come up.
func (h *house) start(b keeper.Bundle) keeper.Status {
	h.t.Helper()
	st, err := h.client.Run(ctx(h.t), b)
	h.must(err)
	return st
}

// run runs a container to its end and gives its exit and its log.
func (h *house) runToEnd(b keeper.Bundle) (keeper.Exit, string) {
	h.t.Helper()
	h.start(b)
	x, err := h.client.Wait(ctx(h.t), b.ID)
	h.must(err)
	return x, h.logText(b.ID)
}

func (h *house) logText(id string) string {
	h.t.Helper()
	b, err := os.ReadFile(h.logPath(id))
	h.must(err)
	return string(b)
}

// execOut runs an exec to its end.
func (h *house) execOut(id, execID string, args ...string) (keeper.Exit, string) {
	h.t.Helper()
	r, w, err := os.Pipe()
	h.must(err)
	defer r.Close()
	w2, err := keeper.Dup(w)
	h.must(err)
	_, err = h.client.Exec(ctx(h.t), keeper.ExecRequest{ID: id, ExecID: execID, Process: process(args...), Stdout: w, Stderr: w2})
	h.must(err)
	out, err := io.ReadAll(r)
	h.must(err)
	x, err := h.client.WaitExec(ctx(h.t), id, execID)
	h.must(err)
	return x, string(out)
}
