package api

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gantry/network"
	"gantry/runtime"
	"gantry/runtime/image"
	"gantry/runtime/keeper"
	"gantry/runtime/logs"
	"gantry/runtime/spec"
	"gantry/runtime/volume"
	"gantry/scheduler"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	moby "github.com/moby/moby/client"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is an engine in memory. Its containers do what their fields say; calls
// are noted in the order they came.
type fake struct {
	warnings   []string
	mu         sync.Mutex
	calls      []string
	containers []runtime.Container
	created    spec.Config
	images     []image.Image
	networks   []network.Network
	volumes    []volume.Volume
	entries    []logs.Entry
	query      logs.Query
	follow     chan logs.Entry // what a Follow gets; its closing is the end
	events     chan runtime.Event
	waited     chan runtime.Waited
	execs      map[string]*runtime.Exec
	attach     func(ctx context.Context, o runtime.AttachOptions) error
	exec       func(ctx context.Context, c runtime.ExecConfig, s *runtime.ExecStreams) (int, error)
	load       func(report func(string)) ([]image.Image, error)
	fail       error // what every change answers
	attached   map[string]network.EndpointInfo
	updated    runtime.UpdateOptions
	committed  runtime.CommitOptions
}

func (f *fake) note(format string, args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
	return f.fail
}

func (f *fake) noted() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

func (f *fake) List() []runtime.Container {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.containers)
}

func (f *fake) Inspect(ref string) (runtime.Container, error) {
	for _, c := range f.List() {
		if c.Name == strings.TrimPrefix(ref, "/") || c.ID == ref || len(ref) > 2 && strings.HasPrefix(c.ID, ref) {
			return c, nil
		}
	}
	return runtime.Container{}, fmt.Errorf("No such container: %s: %w", ref, errdefs.ErrNotFound) //nolint:staticcheck // Docker's text
}

func (f *fake) Create(_ context.Context, name string, c spec.Config) (runtime.Container, error) {
	if err := f.note("create %s", name); err != nil {
		return runtime.Container{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.created = c
	out := runtime.Container{ID: strings.Repeat("c", 64), Name: name, Config: c, Asked: c, State: runtime.Created}
	f.containers = append(f.containers, out)
	return out, nil
}

func (f *fake) change(verb, ref string, more ...any) error {
	c, err := f.Inspect(ref)
	if err != nil {
		return err
	}
	return f.note("%s %s%s", verb, c.Name, strings.TrimSuffix(fmt.Sprintln(append([]any{""}, more...)...), "\n"))
}

func text(d *time.Duration) string {
	if d == nil {
		return "-"
	}
	return d.String()
}

func (f *fake) Start(_ context.Context, ref string) error {
	if c, err := f.Inspect(ref); err == nil && c.State == runtime.Running {
		return fmt.Errorf("container %s is already running: %w", c.Name, errdefs.ErrNotModified)
	}
	return f.change("start", ref)
}

func (f *fake) Stop(_ context.Context, ref string, o runtime.StopOptions) error {
	if err := f.change("stop", ref, o.Signal, text(o.Timeout)); err != nil {
		return err
	}
	if c, err := f.Inspect(ref); err == nil && !c.State.Live() {
		return fmt.Errorf("container %s is not running: %w", c.Name, errdefs.ErrNotModified)
	}
	return nil
}

func (f *fake) Restart(_ context.Context, ref string, o runtime.StopOptions) error {
	return f.change("restart", ref, o.Signal, text(o.Timeout))
}
func (f *fake) Kill(_ context.Context, ref, signal string) error {
	return f.change("kill", ref, signal)
}
func (f *fake) Pause(_ context.Context, ref string) error   { return f.change("pause", ref) }
func (f *fake) Unpause(_ context.Context, ref string) error { return f.change("unpause", ref) }
func (f *fake) Rename(_ context.Context, ref, name string) error {
	return f.change("rename", ref, name)
}
func (f *fake) Remove(_ context.Context, ref string, o runtime.RemoveOptions) error {
	return f.change("remove", ref, o.Force, o.Volumes)
}

func (f *fake) Wait(ctx context.Context, ref, condition string, watching func()) (runtime.Waited, error) {
	if err := f.change("wait", ref, condition); err != nil {
		return runtime.Waited{}, err
	}
	watching()
	select {
	case w := <-f.waited:
		return w, nil
	case <-ctx.Done():
		return runtime.Waited{}, ctx.Err()
	}
}

func (f *fake) Logs(ctx context.Context, ref string, q logs.Query, each func(logs.Entry) error) error {
	f.mu.Lock()
	f.query = q
	f.mu.Unlock()
	for _, e := range f.entries {
		if e.Stream == logs.Stdout && !q.Stdout || e.Stream == logs.Stderr && !q.Stderr {
			continue
		}
		if err := each(e); err != nil {
			return err
		}
	}
	if !q.Follow {
		return nil
	}
	for {
		select {
		case e, ok := <-f.follow:
			if !ok {
				return nil
			}
			if err := each(e); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *fake) Attach(ctx context.Context, ref string, o runtime.AttachOptions) error {
	if f.fail != nil {
		return f.fail
	}
	return f.attach(ctx, o)
}

func (f *fake) Resize(_ context.Context, ref string, w, h uint16) error {
	return f.change("resize", ref, w, h)
}

func (f *fake) Stats(_ context.Context, ref string) (keeper.Stats, error) {
	c, err := f.Inspect(ref)
	if err != nil {
		return keeper.Stats{}, err
	}
	if !c.State.Live() {
		return keeper.Stats{}, fmt.Errorf("container %s is not running: %w", c.Name, errdefs.ErrConflict)
	}
	return keeper.Stats{
		Read: day, CPUTotal: 3 * time.Second, CPUUser: 2 * time.Second, CPUSystem: time.Second,
		MemoryUsage: 1 << 20, Memory: map[string]uint64{"anon": 4096}, Pids: 2,
		IOBytes: []keeper.IO{{Major: 8, Op: "read", Value: 512}},
	}, nil
}

func (f *fake) Top(_ context.Context, ref string) ([]runtime.Process, error) {
	return []runtime.Process{{Pid: 7, Parent: 1, User: "0", State: "S", Ticks: 6150, Age: 123 * time.Second, Name: "sleep", Command: "sleep 9"}}, f.change("top", ref)
}

func (f *fake) ExecCreate(_ context.Context, ref string, c runtime.ExecConfig) (string, error) {
	ct, err := f.Inspect(ref)
	if err != nil {
		return "", err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	id := fmt.Sprintf("exec%d", len(f.execs))
	f.execs[id] = &runtime.Exec{ID: id, Container: ct.ID, Config: c}
	return id, nil
}

func (f *fake) ExecStart(ctx context.Context, id string, s *runtime.ExecStreams) error {
	f.mu.Lock()
	x := f.execs[id]
	x.Running = true
	f.mu.Unlock()
	code, err := f.exec(ctx, x.Config, s)
	f.mu.Lock()
	x.Running, x.ExitCode = false, &code
	f.mu.Unlock()
	return err
}

func (f *fake) ExecResize(_ context.Context, id string, w, h uint16) error {
	return f.note("exec resize %s %d %d", id, w, h)
}

func (f *fake) ExecInspect(id string) (runtime.Exec, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if x := f.execs[id]; x != nil {
		return *x, nil
	}
	return runtime.Exec{}, fmt.Errorf("No such exec instance: %s: %w", id, errdefs.ErrNotFound) //nolint:staticcheck // Docker's text
}

func (f *fake) ListImages(context.Context) ([]image.Image, error) { return f.images, nil }

func (f *fake) Image(_ context.Context, ref string) (image.Image, error) {
	for _, img := range f.images {
		if img.ID.String() == ref || slices.Contains(img.Names, ref) || slices.Contains(img.Names, ref+":latest") {
			return img, nil
		}
	}
	return image.Image{}, fmt.Errorf("No such image: %s: %w", ref, errdefs.ErrNotFound) //nolint:staticcheck // Docker's text
}

func (f *fake) TagImage(ctx context.Context, ref, name string) error {
	if _, err := f.Image(ctx, ref); err != nil {
		return err
	}
	return f.note("tag %s %s", ref, name)
}

func (f *fake) RemoveImage(ctx context.Context, ref string, force bool) ([]image.Removed, error) {
	img, err := f.Image(ctx, ref)
	if err != nil {
		return nil, err
	}
	return []image.Removed{{Untagged: ref}, {Deleted: img.ID.String()}}, f.note("rmi %s %v", ref, force)
}

func (f *fake) LoadImages(_ context.Context, r io.Reader, report func(string)) ([]image.Image, error) {
	if _, err := io.Copy(io.Discard, r); err != nil {
		return nil, err
	}
	return f.load(report)
}

func (f *fake) ImportImage(_ context.Context, r io.Reader, o image.ImportOptions) (image.Image, error) {
	archive, err := io.ReadAll(r)
	if err != nil {
		return image.Image{}, err
	}
	return image.Image{ID: digest.FromBytes(archive)}, f.note("import %s %q %s", o.Name, o.Changes, o.Message)
}

func (f *fake) ListNetworks() []network.Network { return f.networks }

func (f *fake) Network(ref string) (network.Network, error) {
	for _, n := range f.networks {
		if n.Name == ref || n.ID == ref {
			return n, nil
		}
	}
	return network.Network{}, fmt.Errorf("network %s not found: %w", ref, errdefs.ErrNotFound)
}

func (f *fake) Attached(string) (out []network.EndpointInfo) {
	for _, e := range f.attached {
		out = append(out, e)
	}
	return out
}

func (f *fake) CreateNetwork(_ context.Context, s network.Spec) (network.Network, error) {
	n := network.Network{ID: "n" + s.Name, Spec: s}
	f.networks = append(f.networks, n)
	return n, f.note("network create %+v", s)
}

func (f *fake) RemoveNetwork(_ context.Context, ref string) error {
	if _, err := f.Network(ref); err != nil {
		return err
	}
	return f.note("network remove %s", ref)
}

func (f *fake) ConnectNetwork(_ context.Context, ct, net string, e spec.Endpoint) error {
	return f.note("connect %s %s %v %s", ct, net, e.Aliases, e.IPv4)
}

func (f *fake) DisconnectNetwork(_ context.Context, ct, net string) error {
	return f.note("disconnect %s %s", ct, net)
}

func (f *fake) ListVolumes() []volume.Volume { return f.volumes }

func (f *fake) Volume(name string) (volume.Volume, error) {
	for _, v := range f.volumes {
		if v.Name == name {
			return v, nil
		}
	}
	return volume.Volume{}, fmt.Errorf("get %s: no such volume: %w", name, errdefs.ErrNotFound)
}

func (f *fake) VolumeUsers(name string) []string {
	if name == "data" {
		return []string{"web"}
	}
	return nil
}

func (f *fake) CreateVolume(_ context.Context, v volume.Volume) (volume.Volume, error) {
	v.Driver = "local"
	f.volumes = append(f.volumes, v)
	return v, f.note("volume create %s %v %v", v.Name, v.Labels, v.Anonymous)
}

func (f *fake) RemoveVolume(_ context.Context, name string, force bool) error {
	return f.note("volume remove %s %v", name, force)
}

func (f *fake) Events(ctx context.Context, q runtime.EventQuery, each func(runtime.Event) error) error {
	for {
		select {
		case e, ok := <-f.events:
			if !ok {
				return nil
			}
			if err := each(e); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *fake) Warnings() []string { return f.warnings }

func (f *fake) Host() spec.Host {
	return spec.Host{Controllers: []string{"blkio", "cpu", "cpuset", "memory", "pids"}, SwapLimit: true, BlkioWeight: true, CPUs: 2, Memory: 8 << 30, Seccomp: true}
}

var day = time.Date(2026, 3, 4, 5, 6, 7, 89, time.UTC)

// web is a container with something in every field that is shown.
func web() runtime.Container {
	timeout := 5 * time.Second
	cfg := spec.Config{
		Image: "example.org/team/web:1", ImageID: "sha256:" + strings.Repeat("1", 64),
		Entrypoint: []string{"/entry"}, Command: []string{"serve", "-v"}, Env: []string{"A=1"}, WorkingDir: "/srv", User: "www:www",
		Labels: map[string]string{"com.docker.compose.project": "shop", "tier": "front"},
		Mounts: []spec.Mount{
			{Type: spec.MountBind, Source: "/host", Target: "/in", ReadOnly: true, CreateHostPath: true},
			{Type: spec.MountVolume, Source: "data", Target: "/data"},
			{Type: spec.MountTmpfs, Target: "/tmp", TmpfsSize: 1 << 20},
			{Type: spec.MountFile, Source: "secret", Target: "/run/secrets/s", Content: []byte("password")},
		},
		CapAdd: []string{"NET_ADMIN"}, StopSignal: "SIGINT", StopTimeout: &timeout,
		Resources: spec.Resources{Memory: 64 << 20, NanoCPUs: 5e8, PidsLimit: 100},
		Restart:   spec.RestartPolicy{Name: spec.RestartOnFailure, MaxRetries: 3},
		Healthcheck: &spec.Healthcheck{
			Test: []string{"CMD", "true"}, Interval: time.Second, Retries: 2,
		},
		Log: spec.LogConfig{Driver: "json-file", MaxSize: 1000, Options: map[string]string{"max-size": "1k"}},
		Network: spec.Network{
			Endpoints: []spec.Endpoint{{Network: "front", Aliases: []string{"www"}}},
			Ports:     []spec.Port{{HostPort: 8080, Port: 80, Protocol: "tcp"}, {HostIP: "127.0.0.1", Port: 53, Protocol: "udp"}},
			Exposed:   []string{"80/tcp", "443/tcp"},
		},
	}
	return runtime.Container{
		ID: strings.Repeat("ab", 32), Name: "web", Created: day, Asked: cfg, Config: cfg,
		State: runtime.Running, Pid: 42, StartedAt: day.Add(time.Second),
		Health: &runtime.Health{Status: runtime.Healthy, Log: []runtime.Probe{{Start: day, End: day.Add(time.Millisecond), Output: "ok"}}},
		Networks: []network.Joined{{
			NetworkID: strings.Repeat("f", 64), NetworkName: "front", EndpointID: strings.Repeat("e", 64), Interface: "eth0",
			IPv4: prefix("10.208.0.2/24"), Gateway: prefix("10.208.0.1/24").Addr(), MAC: "02:42:0a:d0:00:02", Primary: true,
		}},
		Ports: []network.Binding{
			{HostIP: prefix("0.0.0.0/0").Addr(), HostPort: 8080, Port: 80, Protocol: "tcp"},
			{HostIP: prefix("127.0.0.1/8").Addr(), HostPort: 32768, Port: 53, Protocol: "udp"},
		},
		Mounts: []runtime.MountPoint{
			{Type: spec.MountVolume, Name: "data", Source: "/var/lib/gantry/volumes/data/_data", Destination: "/data", Driver: "local"},
			{Type: spec.MountBind, Source: "/host", Destination: "/in", ReadOnly: true, Propagation: "rprivate"},
			{Type: spec.MountFile, Source: "/var/lib/gantry/containers/x/secret", Destination: "/run/secrets/s", ReadOnly: true},
		},
		LogPath: "/var/lib/gantry/containers/x/log",
	}
}

// job has ended.
func job() runtime.Container {
	return runtime.Container{
		ID: strings.Repeat("cd", 32), Name: "job", Created: day.Add(-time.Hour), State: runtime.Exited,
		Config:    spec.Config{Image: "busybox", ImageID: "sha256:" + strings.Repeat("2", 64), Command: []string{"true"}, TTY: true, OpenStdin: true},
		StartedAt: day.Add(-time.Hour), FinishedAt: day.Add(-time.Minute), ExitCode: 3, LogPath: "/log",
	}
}

func newFake() *fake {
	base := []digest.Digest{digest.FromString("base")}
	return &fake{
		containers: []runtime.Container{web(), job()},
		execs:      map[string]*runtime.Exec{},
		events:     make(chan runtime.Event),
		waited:     make(chan runtime.Waited, 1),
		follow:     make(chan logs.Entry),
		images: []image.Image{
			{
				ID: digest.Digest("sha256:" + strings.Repeat("1", 64)), Names: []string{"example.org/team/web:1"}, Created: day, Size: 3 << 20,
				Layers: append(slices.Clone(base), digest.FromString("web")), Platform: ocispec.Platform{Architecture: "amd64", OS: "linux"},
				Config: dockerspec.DockerOCIImage{Config: dockerspec.DockerOCIImageConfig{ImageConfig: ocispec.ImageConfig{Cmd: []string{"serve"}, Labels: map[string]string{"kind": "app"}}}},
			},
			{ID: digest.Digest("sha256:" + strings.Repeat("2", 64)), Names: []string{"busybox:latest"}, Created: day.Add(-time.Hour), Size: 1 << 20, Layers: base},
			{ID: digest.Digest("sha256:" + strings.Repeat("3", 64)), Size: 5},
		},
		networks: []network.Network{{
			ID: strings.Repeat("f", 64), Created: day, Bridge: "gn-1",
			Spec: network.Spec{Name: "front", Driver: "bridge", Labels: map[string]string{"com.docker.compose.project": "shop"}, Subnets: []network.Subnet{{Prefix: prefix("10.208.0.0/24"), Gateway: prefix("10.208.0.1/24").Addr()}}},
		}},
		attached: map[string]network.EndpointInfo{"web": {Sandbox: strings.Repeat("ab", 32), Name: "web", Joined: web().Networks[0]}},
		volumes: []volume.Volume{
			{Name: "data", Driver: "local", Created: day, Mountpoint: "/var/lib/gantry/volumes/data/_data", Labels: map[string]string{"com.docker.compose.project": "shop"}},
			{Name: "old", Driver: "local", Created: day},
		},
	}
}

// serve opens the API on a socket and gives its address.
func serve(t testing.TB, o Options) string {
	t.Helper()
	o.Version, o.Root, o.Run, o.Started = "0.1.0", "/var/lib/gantry", "/run/gantry", day
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	srv := &http.Server{Handler: New(o), BaseContext: func(net.Listener) context.Context { return ctx }}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() {
		cancel()
		shut, stop := context.WithTimeout(context.Background(), 5*time.Second)
		defer stop()
		if err := srv.Shutdown(shut); err != nil {
			t.Errorf("a handler outlived its request: %v", err)
		}
		<-done
	})
	return "unix://" + path
}

// dial gives moby's own client on the fake.
func dial(t testing.TB, f *fake, projects ...Projects) *moby.Client {
	t.Helper()
	o := Options{Engine: f}
	if len(projects) > 0 {
		o.Projects = projects[0]
	}
	c, err := moby.New(moby.WithHost(serve(t, o)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// scripted is a scheduler that does what its fields say.
type scripted struct {
	apply func(ctx context.Context, g scheduler.Goal, report func(scheduler.Event)) error
	mu    sync.Mutex
	calls []string
}

func (s *scripted) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, fmt.Sprintf(format, args...))
}

func (s *scripted) Apply(ctx context.Context, g scheduler.Goal, report func(scheduler.Event)) error {
	return s.apply(ctx, g, report)
}

func (s *scripted) Scale(_ context.Context, p string, r map[string]int, o scheduler.Options, report func(scheduler.Event)) error {
	s.note("scale %s %v %v", p, r, o.NoDeps)
	return nil
}

func (s *scripted) Start(_ context.Context, p string, o scheduler.Options, report func(scheduler.Event)) error {
	s.note("start %s %v", p, o.Services)
	return nil
}

func (s *scripted) Stop(_ context.Context, p string, o scheduler.Options, report func(scheduler.Event)) error {
	s.note("stop %s %v %s", p, o.Services, text(o.Timeout))
	return nil
}

func (s *scripted) Down(_ context.Context, p string, o scheduler.Options, report func(scheduler.Event)) error {
	s.note("down %s %v volumes=%v rmi=%s timeout=%s orphans=%v from=%s %v", p, o.Services, o.Volumes, o.RemoveImages, text(o.Timeout), o.RemoveOrphans, o.Dir, o.Named)
	return nil
}

func (s *scripted) Plan(context.Context, scheduler.Goal) (scheduler.Plan, error) {
	return scheduler.Plan{Project: "shop", Notes: []string{"nothing changes"}}, nil
}

func (s *scripted) Rollback(_ context.Context, p string, to int, o scheduler.Options, _ func(scheduler.Event)) error {
	s.note("rollback %s to %d %v", p, to, o.Services)
	return nil
}

func (s *scripted) PlanRollback(_ context.Context, p string, to int, o scheduler.Options) (scheduler.Plan, error) {
	s.note("plan rollback %s to %d %v", p, to, o.Services)
	return scheduler.Plan{Project: p, Notes: []string{"nothing changes"}}, nil
}

func (s *scripted) History(p string) ([]scheduler.Revision, error) {
	if p != "shop" {
		return nil, fmt.Errorf("no project %s: %w", p, errdefs.ErrNotFound)
	}
	return []scheduler.Revision{{Number: 2, Kind: scheduler.KindScale, Outcome: scheduler.Done, Services: []string{"web"}}}, nil
}

func (s *scripted) Clash(_ context.Context, project, dir string) error {
	if dir != "/src" {
		return errdefs.ErrFailedPrecondition.WithMessage("project " + project + " is that of /src, and this is " + dir)
	}
	return nil
}

func (s *scripted) Goal(p string) (scheduler.Goal, error) {
	return scheduler.Goal{}, fmt.Errorf("project %s has no goal: %w", p, errdefs.ErrNotFound)
}

func (s *scripted) Status(_ context.Context, p string) (scheduler.ProjectStatus, error) {
	if p != "shop" {
		return scheduler.ProjectStatus{}, fmt.Errorf("no project %s: %w", p, errdefs.ErrNotFound)
	}
	return scheduler.ProjectStatus{Name: p, Phase: scheduler.Settled}, nil
}

func (s *scripted) Projects(context.Context) ([]scheduler.ProjectStatus, error) {
	return []scheduler.ProjectStatus{{Name: "shop", Phase: scheduler.Settled}}, nil
}
