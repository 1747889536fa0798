package daemon

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gantry/runtime"
	"gantry/runtime/image"
	"gantry/runtime/spec"
	"gantry/scheduler"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

var quiet = slog.New(slog.DiscardHandler)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// buildKeeper puts gantry-runtime where the daemon looks for it: beside the
// program that runs, which is the test's.
var buildKeeper = sync.OnceValue(func() error {
	cmd := exec.Command("go", "build", "-tags", "seccomp netgo osusergo", "-ldflags", `-s -w -extldflags "-static"`,
		"-o", keeperProgram(), "gantry/cmd/gantry-runtime")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build gantry-runtime: %w\n%s", err, out)
	}
	return nil
})

// testConfig is a daemon of its own, with the image "box".
func testConfig(t *testing.T) Config {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: containers are made")
	}
	if _, err := os.Stat("/bin/busybox"); err != nil {
		t.Skip("needs /bin/busybox (Debian: busybox-static)")
	}
	if err := buildKeeper(); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", os.TempDir()) // the daemon changes it
	dir, err := os.MkdirTemp("", "gantry-d-")
	if err != nil {
		t.Fatal(err)
	}
	// In memory: what is synced to a disk waits for everybody else's files.
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(unix.Unmount(dir, unix.MNT_DETACH), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	c, err := Config{Root: filepath.Join(dir, "root"), Run: filepath.Join(dir, "run"), Log: quiet}.complete()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// opened is a daemon that is open and serves nothing.
func opened(t *testing.T, c Config) *daemon {
	t.Helper()
	d := &daemon{Config: c, stop: func(error) {}}
	if err := d.open(context.Background()); err != nil {
		t.Fatal(errors.Join(err, d.close()))
	}
	return d
}

func ended(t *testing.T, d *daemon) {
	t.Helper()
	for _, c := range d.runtime.List() {
		if err := d.runtime.Remove(context.Background(), c.ID, runtime.RemoveOptions{Force: true, Volumes: true}); err != nil {
			t.Error(err)
		}
	}
	for _, n := range d.runtime.ListNetworks() {
		if n.Name != "bridge" {
			if err := d.runtime.RemoveNetwork(context.Background(), n.ID); err != nil {
				t.Error(err)
			}
		}
	}
	d.lastCall = true
	if err := d.close(); err != nil {
		t.Error(err)
	}
}

// box is a root filesystem of busybox.
func box(t *testing.T) []byte {
	t.Helper()
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	put := func(h tar.Header, content []byte) {
		h.Size = int64(len(content))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		w.Write(content)
	}
	for _, d := range []string{"bin/", "etc/", "proc/", "sys/", "dev/", "tmp/", "run/"} {
		put(tar.Header{Typeflag: tar.TypeDir, Name: d, Mode: 0o755}, nil)
	}
	put(tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, program)
	for _, n := range []string{"sh", "sleep", "cat", "touch", "test", "true"} {
		put(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + n, Linkname: "busybox"}, nil)
	}
	w.Close()
	return b.Bytes()
}

func point(name, target string) runtime.MountPoint {
	return runtime.MountPoint{Type: spec.MountVolume, Name: name, Destination: target, Anonymous: true}
}

// The calls of the scheduler on the real runtime.
func TestEngine(t *testing.T) {
	c := testConfig(t)
	d := opened(t, c)
	defer ended(t, d)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := d.runtime.ImportImage(ctx, bytes.NewReader(box(t)), image.ImportOptions{Name: "box", Changes: []string{"ENV PATH=/bin", `CMD ["sleep","1000"]`, "VOLUME /kept"}})
	must(err)
	e := newEngine(d.runtime, d.Log)
	p := loaded(t, "stop_grace_period: 0s\nhealthcheck: {test: test -f /tmp/ok, interval: 1h}\nnetworks: [front]")
	net := p.Networks["front"]
	for range 2 { // repeated, it finds its work done
		must(e.CreateNetwork(ctx, scheduler.NetworkSpec{Name: net.Name, Key: "front", Config: net, Labels: map[string]string{scheduler.LabelProject: "p", scheduler.LabelNetwork: "front"}}))
	}
	r := runSpec(p, "a", 1)
	r.Labels[scheduler.LabelHash] = "one"
	must(e.Run(ctx, r))
	must(e.Run(ctx, r))
	s, err := e.Observe(ctx, scheduler.Look{Project: "p", Images: []string{"box", "none"}})
	must(err)
	if len(s.Containers) != 1 || s.Containers[0].Name != "p-a-1" || s.Containers[0].Health != "starting" || len(s.Networks) != 1 || s.Images["box"] == "" || len(s.Images) != 1 {
		t.Fatalf("%+v", s)
	}
	first := s.Containers[0]

	must(e.Await(ctx, scheduler.AwaitSpec{Project: "p", Service: "a", Numbers: []int{1}, Condition: scheduler.IsStarted}))
	healthy := make(chan error, 1)
	await := scheduler.AwaitSpec{Project: "p", Service: "a", Numbers: []int{1}, Condition: scheduler.IsHealthy}
	go func() { healthy <- e.Await(ctx, await) }()
	run(t, d.runtime, first.ID, "echo data >/kept/f; touch /tmp/ok")
	must(<-healthy)
	await.Numbers = []int{1, 2}
	if err := e.Await(ctx, await); !errdefs.IsNotFound(err) {
		t.Errorf("a replica that is not there: %v", err)
	}

	// Twice replaced, the anonymous volume is still there.
	id := first.ID
	for _, hash := range []string{"two", "three"} {
		r.Labels = scheduler.ContainerLabels(p, *r.Service, 1, false)
		r.Labels[scheduler.LabelHash] = hash
		must(e.Replace(ctx, id, r, scheduler.ReplaceOptions{}))
		if _, err := d.runtime.Inspect(id); !errdefs.IsNotFound(err) {
			t.Errorf("the old one: %v", err)
		}
		now, err := d.runtime.Inspect("p-a-1")
		must(err)
		if now.State != runtime.Running || now.Config.Labels[scheduler.LabelHash] != hash {
			t.Errorf("the new one is %s", now.State)
		}
		id = now.ID
		if out := run(t, d.runtime, id, "cat /kept/f"); out != "data\n" {
			t.Errorf("%s: its data is %q", hash, out)
		}
	}
	// One that cannot come about leaves the old one as it was.
	bad := r
	service := *r.Service
	service.Command = []string{"/no/such/program"}
	bad.Service, bad.Labels = &service, scheduler.ContainerLabels(p, service, 1, false)
	bad.Labels[scheduler.LabelHash] = "bad"
	if err := e.Replace(ctx, id, bad, scheduler.ReplaceOptions{}); err == nil {
		t.Error("it came about")
	}
	if now, err := d.runtime.Inspect("p-a-1"); err != nil || now.ID != id || now.State != runtime.Running || len(d.runtime.List()) != 1 {
		t.Errorf("after a replacement that failed: %+v %v, %d containers", now.State, err, len(d.runtime.List()))
	}
	if out := run(t, d.runtime, id, "cat /kept/f"); out != "data\n" {
		t.Errorf("its data is %q", out)
	}

	watching, stop := context.WithCancel(ctx)
	names := e.Watch(watching)
	must(e.Stop(ctx, id, nil))
	must(e.Stop(ctx, id, nil))
	if name := <-names; name != "p" {
		t.Errorf("heard of %q", name)
	}
	stop()
	must(e.Start(ctx, id))
	must(e.Start(ctx, id))
	must(e.Remove(ctx, id, scheduler.RemoveOptions{Volumes: true}))
	if err := e.Remove(ctx, id, scheduler.RemoveOptions{}); err != nil && !errdefs.IsNotFound(err) {
		t.Errorf("removed twice: %v", err)
	}
	if v := d.runtime.ListVolumes(); len(v) != 0 {
		t.Errorf("volumes are left: %v", v)
	}
	for range names { // it closes
	}

	job := loaded(t, "command: [sh, -c, 'exit 3']")
	j := runSpec(job, "a", 1)
	j.Networks, j.Name = nil, "job"
	j.Service.NetworkMode = "none"
	must(e.Run(ctx, j))
	err = e.Await(ctx, scheduler.AwaitSpec{Project: "p", Service: "a", Numbers: []int{1}, Condition: scheduler.IsCompleted})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "3") {
		t.Errorf("a job that failed: %v", err)
	}
	if projects, err := e.Projects(ctx); err != nil || !slices.Equal(projects, []string{"p"}) {
		t.Errorf("projects %v %v", projects, err)
	}
}

// run executes a script in a container.
func run(t *testing.T, rt *runtime.Engine, id, script string) string {
	t.Helper()
	x, err := rt.ExecCreate(context.Background(), id, runtime.ExecConfig{Command: []string{"sh", "-c", script}, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := rt.ExecStart(context.Background(), x, &runtime.ExecStreams{Out: &out}); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// crash lets go of everything as the death of a daemon does: the keeper, who
// hears no goodbye, first.
func crash(d *daemon) {
	d.keeper.Close()
	d.scheduler.Close()
	d.rest()
	d.runtime.Close()
	d.fabric.Close()
	for _, l := range d.listeners {
		l.Close()
	}
	d.volumes.Close()
	d.images.Close()
	d.places.unlock()
}

// A call that comes while there is no daemon waits in the socket for the next.
func TestTakeOver(t *testing.T) {
	c := testConfig(t)
	ctx, cancel := context.WithCancel(context.Background())
	ready, over := make(chan struct{}), make(chan error, 1)
	go func() { over <- Run(ctx, c, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-over:
		t.Fatal(err)
	}
	path := strings.TrimPrefix(c.Hosts[0], "unix://")
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o660 {
		t.Errorf("the socket: %v %v", fi.Mode(), err)
	}
	if err := Run(context.Background(), c, nil); err == nil || !strings.Contains(err.Error(), "another gantryd") {
		t.Errorf("a second daemon: %v", err)
	}
	ping := func() error {
		client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(context.Context, string, string) (net.Conn, error) {
				return net.Dial("unix", path)
			},
		}}
		r, err := client.Get("http://gantry/_ping")
		if err != nil {
			return err
		}
		defer r.Body.Close()
		if text, err := io.ReadAll(r.Body); err != nil || string(text) != "OK" {
			return fmt.Errorf("it says %q %w", text, err)
		}
		return nil
	}
	if err := ping(); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-over; err != nil {
		t.Error(err)
	}
	if err := ping(); err == nil {
		t.Error("a daemon that was told to end leaves a socket where nobody answers")
	}
	crash(opened(t, c))
	waits := make(chan error, 1)
	go func() { waits <- ping() }()
	time.Sleep(50 * time.Millisecond)
	ctx, cancel = context.WithCancel(context.Background())
	defer cancel()
	go func() { over <- Run(ctx, c, nil) }()
	if err := <-waits; err != nil {
		t.Errorf("the call that came meanwhile: %v", err)
	}
	// The last one out takes the keeper along.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", path)
	}}}
	r, err := client.Post("http://gantry/daemon/stop", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if err := <-over; err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("unix", filepath.Join(c.Run, "keeper.sock")); err == nil {
		t.Error("the keeper still listens")
	}
}
