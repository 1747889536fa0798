package runtime

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	osexec "os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gantry/network"
	"gantry/runtime/image"
	"gantry/runtime/keeper"
	"gantry/runtime/volume"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// The tests of this package run containers: the real keeper, images, volumes
// and networks in directories of their own. Most share one house.

// program is the real gantry-runtime, built once.
var program string

// noHouse says why no containers can be run, if so.
var noHouse = func() string {
	switch _, err := os.Stat("/bin/busybox"); {
	case os.Geteuid() != 0:
		return "needs root: containers are made"
	case err != nil:
		return "needs /bin/busybox (Debian: busybox-static)"
	}
	return ""
}()

var shared struct {
	once sync.Once
	h    *house
}

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	if noHouse == "" {
		dir, err := os.MkdirTemp("", "gantry-runtime-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		program = filepath.Join(dir, "gantry-runtime")
		cmd := osexec.Command("go", "build", "-tags", "seccomp netgo osusergo",
			"-ldflags", `-s -w -extldflags "-static"`, "-o", program, "gantry/cmd/gantry-runtime")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build gantry-runtime: %v\n%s", err, out)
			return 1
		}
	}
	before := hostState()
	code := m.Run()
	if shared.h != nil {
		if err := shared.h.close(); err != nil {
			fmt.Fprintln(os.Stderr, "the shared house:", err)
			code = 1
		}
	}
	if left := settledDifference(before); left != "" {
		fmt.Fprintln(os.Stderr, "left on the machine:\n"+left)
		code = 1
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// marks are what the names of the houses' objects on the machine contain.
var (
	marksMu sync.Mutex
	marks   = []string{"gantry-rt-"}
)

// hostState lists what the houses could have left on the machine. Others may
// work on it at the same time.
func hostState() map[string]bool {
	state := map[string]bool{}
	add := func(kind, text string) {
		for line := range strings.Lines(text) {
			line = strings.TrimSpace(line)
			if slices.ContainsFunc(marks, func(m string) bool { return strings.Contains(line, m) }) {
				state[kind+" "+line] = true
			}
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 {
			add("mount", f[4])
		}
	}
	links, _ := filepath.Glob("/sys/class/net/*")
	for _, l := range links {
		add("link", filepath.Base(l))
	}
	for _, depth := range []string{"*", "*/*"} {
		groups, _ := filepath.Glob("/sys/fs/cgroup/" + depth)
		for _, g := range groups {
			add("cgroup", g)
		}
	}
	if out, err := osexec.Command("nft", "list", "tables").Output(); err == nil {
		add("nft", string(out))
	}
	return state
}

// settledDifference waits a little for the kernel, which collects links after
// their namespaces.
func settledDifference(before map[string]bool) string {
	var left []string
	for range 40 {
		left = nil
		for s := range hostState() {
			if !before[s] {
				left = append(left, s)
			}
		}
		if len(left) == 0 {
			return ""
		}
		time.Sleep(50 * time.Millisecond)
	}
	return strings.Join(left, "\n")
}

// house is a daemon's runtime with all it stands on.
type house struct {
	dir, root, run, cgroup string

	images  *image.Store
	volumes *volume.Store
	keeper  *keeper.Client
	fabric  *network.Fabric
	e       *Engine

	logMu sync.Mutex
	log   bytes.Buffer

	mu   sync.Mutex
	dead bool
	die  string // the step at which the daemon dies
	died chan struct{}

	callers context.Context // of calls under way when the daemon dies
	hangUp  context.CancelFunc
}

func (h *house) Write(p []byte) (int, error) {
	h.logMu.Lock()
	defer h.logMu.Unlock()
	return h.log.Write(p)
}

func (h *house) logText() string {
	h.logMu.Lock()
	defer h.logMu.Unlock()
	return h.log.String()
}

// newHouse makes a house for one test, which runs beside others; sharedHouse
// gives the one of all tests that need none of their own.
func newHouse(t *testing.T) *house {
	t.Helper()
	if noHouse != "" {
		t.Skip(noHouse)
	}
	t.Parallel()
	h, err := makeHouse()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the house:\n%s", h.logText())
		}
		if err := h.close(); err != nil {
			t.Errorf("close the house: %v", err)
		}
	})
	return h
}

func sharedHouse(t testing.TB) *house {
	t.Helper()
	if noHouse != "" {
		t.Skip(noHouse)
	}
	shared.once.Do(func() {
		var err error
		if shared.h, err = makeHouse(); err != nil {
			t.Fatal(err)
		}
	})
	if shared.h == nil {
		t.Fatal("there is no house")
	}
	return shared.h
}

func makeHouse() (_ *house, err error) {
	dir, err := os.MkdirTemp("", "gantry-rt-")
	if err != nil {
		return nil, err
	}
	var b [4]byte
	rand.Read(b[:])
	sum := sha256.Sum256([]byte(dir))
	marksMu.Lock()
	marks = append(marks, hex.EncodeToString(sum[:])[:5]) // as package network marks its links and its table
	marksMu.Unlock()
	h := &house{
		dir: dir, root: filepath.Join(dir, "root"), run: filepath.Join(dir, "run"),
		cgroup: "/gantry-rt-" + hex.EncodeToString(b[:]),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.close())
		}
	}()
	// In memory: what is synced to a disk waits for everybody else's files.
	if err := unix.Mount("tmpfs", h.dir, "tmpfs", 0, "mode=755"); err != nil {
		return nil, err
	}
	for _, d := range []string{h.root, h.run} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(unix.Mount(h.run, h.run, "", unix.MS_BIND, ""), unix.Mount("", h.run, "", unix.MS_SHARED, "")); err != nil {
		return nil, err
	}
	log := slog.New(slog.NewTextHandler(h, nil))
	if h.images, err = image.Open(context.Background(), image.Options{Root: filepath.Join(h.root, "images"), Log: log}); err != nil {
		return nil, err
	}
	if h.volumes, err = volume.Open(h.root, log); err != nil {
		return nil, err
	}
	for name, changes := range testImages {
		if _, err := h.images.Import(context.Background(), bytes.NewReader(busyboxTar()), image.ImportOptions{Name: name, Changes: changes}); err != nil {
			return nil, err
		}
	}
	return h, h.open()
}

// testImages are the images of a house and what they say.
var testImages = map[string][]string{
	"box": {"ENV PATH=/bin ORIGIN=image", `CMD ["sleep","1000"]`},
	"app": {
		"ENV PATH=/bin ORIGIN=image KEEP=1", `ENTRYPOINT ["/bin/echo","entry"]`, `CMD ["from","image"]`,
		"WORKDIR /data", "USER web", "LABEL a=image b=image", "STOPSIGNAL SIGUSR1", "VOLUME /data",
	},
}

// busyboxTar is a root filesystem of one program with many names.
var busyboxTar = sync.OnceValue(func() []byte {
	box, err := os.ReadFile("/bin/busybox")
	if err != nil {
		panic(err)
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	add := func(h tar.Header, content []byte) {
		h.Size = int64(len(content))
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1e9, 0)
		}
		if err := w.WriteHeader(&h); err != nil {
			panic(err)
		}
		w.Write(content)
	}
	for _, d := range []string{"bin", "etc", "proc", "sys", "dev", "root", "home", "seed"} {
		add(tar.Header{Typeflag: tar.TypeDir, Name: d + "/", Mode: 0o755}, nil)
	}
	add(tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, nil)
	add(tar.Header{Typeflag: tar.TypeDir, Name: "data/", Mode: 0o750, Uid: 1000, Gid: 1000}, nil)
	add(tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, box)
	for _, name := range strings.Fields("sh true false cat sleep echo id head dd stty ls kill seq yes tty ps usleep grep wc env pwd hostname mount umount touch stat readlink df nslookup ip mkdir rm ping sync killall mknod date find cut sort tail nc printf ipcs") {
		add(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "busybox", Mode: 0o777}, nil)
	}
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644}, []byte("root:x:0:0::/root:/bin/sh\nweb:x:1000:1000::/home:/bin/sh\n"))
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/group", Mode: 0o644}, []byte("root:x:0:\nweb:x:1000:\nextra:x:2000:web\nmore:x:3000:\n"))
	add(tar.Header{Typeflag: tar.TypeReg, Name: "bin/plain", Mode: 0o644}, []byte("text"))
	add(tar.Header{Typeflag: tar.TypeReg, Name: "data/from-image", Mode: 0o640, Uid: 1000, Gid: 1000}, []byte("image"))
	add(tar.Header{Typeflag: tar.TypeReg, Name: "seed/file", Mode: 0o644}, []byte("seed"))
	if err := w.Close(); err != nil {
		panic(err)
	}
	return buf.Bytes()
})

// open opens what a daemon opens, on what is there.
func (h *house) open() (err error) {
	h.mu.Lock()
	h.dead, h.die, h.died = false, "", make(chan struct{})
	h.callers, h.hangUp = context.WithCancel(context.Background())
	h.mu.Unlock()
	log := slog.New(slog.NewTextHandler(h, nil))
	ctx := context.Background()
	if h.keeper, err = keeper.Connect(ctx, keeper.Options{Run: h.run, Program: program, Cgroup: h.cgroup + "/keeper", Log: log}); err != nil {
		return err
	}
	for try := 0; ; try++ {
		h.fabric, err = network.Open(ctx, network.Options{Root: h.root, Run: h.run, Instance: h.dir, Sockets: &held{k: h.keeper}, Log: log})
		if err == nil {
			break
		}
		// A process that another test starts holds the lock from its fork to
		// its exec.
		if !errdefs.IsFailedPrecondition(err) || try == 100 {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	h.e, err = Open(ctx, Options{
		Root: h.root, Run: h.run, CgroupParent: h.cgroup, InitPath: program,
		Images: h.images, Volumes: h.volumes, Fabric: h.fabric, Keeper: h.keeper, Log: log, fault: h.fault,
	})
	return err
}

// held is the keeper's descriptor store, as package daemon wraps it.
type held struct {
	k   *keeper.Client
	mu  sync.Mutex
	old map[string][]*os.File
}

func (s *held) Hold(name string, files ...*os.File) error {
	return s.k.Hold(context.Background(), name, files...)
}

func (s *held) Take(name string) []*os.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.old == nil {
		s.old, _ = s.k.Held(context.Background())
	}
	files := s.old[name]
	delete(s.old, name)
	return files
}

func (s *held) Drop(name string) error {
	for _, f := range s.Take(name) {
		f.Close()
	}
	return s.k.Drop(context.Background(), name)
}

// fault ends whoever comes by, once the daemon has died.
func (h *house) fault(step string) {
	h.mu.Lock()
	if !h.dead && step != "" && step == h.die {
		h.dead = true
		close(h.died)
	}
	dead := h.dead
	h.mu.Unlock()
	if dead {
		goruntime.Goexit()
	}
}

// dieAt lets the daemon die at a step of do: whoever gets there stops for good,
// and so does everybody else at the next step.
func (h *house) dieAt(t testing.TB, step string, do func(context.Context)) {
	t.Helper()
	h.mu.Lock()
	h.die = step
	h.mu.Unlock()
	go do(h.callers)
	select {
	case <-h.died:
	case <-time.After(10 * time.Second):
		t.Fatalf("nobody came to step %q", step)
	}
}

// stopShort lets the daemon come to nothing any more, before it is killed.
func (h *house) stopShort() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dead = true
}

// brief is what the tests look at of a container.
func brief(c Container) string {
	health := ""
	if c.Health != nil {
		health = fmt.Sprintf(" health %+v", *c.Health)
	}
	return fmt.Sprintf("%s %s, pid %d, exit code %d (lost %v, oom %v), started %s, finished %s, stopped %v, removal %v, restarts %d, error %q, networks %v, ports %v%s",
		c.Name, c.State, c.Pid, c.ExitCode, c.ExitLost, c.OOMKilled, c.StartedAt, c.FinishedAt, c.Stopped, c.Removal, c.RestartCount, c.Error, c.Networks, c.Ports, health)
}

// kill lets the daemon die, if it has not yet, and opens the next one.
func (h *house) kill(t testing.TB) {
	t.Helper()
	h.stopShort()
	h.hangUp()
	h.keeper.Close() // the connection first: nothing it still does reaches anything
	h.e.Close()
	h.fabric.Close()
	if err := h.open(); err != nil {
		t.Fatalf("the next daemon: %v", err)
	}
}

// killKeeper kills the keeper and waits for the next.
func (h *house) killKeeper(t testing.TB) {
	t.Helper()
	pid := h.keeper.Pid()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another keeper", func() bool { now := h.keeper.Pid(); return now != 0 && now != pid })
}

// close ends everything and says what is left.
func (h *house) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var errs []error
	if h.e != nil {
		for _, c := range h.e.List() {
			if err := h.e.Remove(ctx, c.ID, RemoveOptions{Force: true, Volumes: true}); err != nil {
				errs = append(errs, err)
			}
		}
		for _, n := range h.e.ListNetworks() {
			if n.Name != network.DefaultNetwork {
				errs = append(errs, h.e.RemoveNetwork(ctx, n.ID))
			}
		}
		for _, dir := range []string{filepath.Join(h.root, "containers"), filepath.Join(h.run, "files"), filepath.Join(h.run, "shm"), filepath.Join(h.run, "subpaths"), filepath.Join(h.run, "netns")} {
			left, _ := os.ReadDir(dir)
			for _, d := range left {
				errs = append(errs, fmt.Errorf("left behind: %s/%s", dir, d.Name()))
			}
		}
		if pinned, err := h.images.Pinned(ctx); err != nil || len(pinned) > 0 {
			errs = append(errs, fmt.Errorf("images are still pinned: %v %w", pinned, err))
		}
		errs = append(errs, h.e.Close())
	}
	if h.fabric != nil {
		errs = append(errs, h.fabric.Close())
	}
	if h.keeper != nil {
		errs = append(errs, h.keeper.Shutdown(ctx, false))
	}
	if h.volumes != nil {
		errs = append(errs, h.volumes.Close())
	}
	if h.images != nil {
		errs = append(errs, h.images.Close())
	}
	for _, at := range []string{h.run, h.dir} {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", at, err))
		}
	}
	return errors.Join(append(errs, os.RemoveAll(h.dir))...)
}
