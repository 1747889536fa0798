package build

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"gantry/network"
	"gantry/runtime/image"
	"gantry/runtime/keeper"
	"gantry/runtime/spec"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/moby/buildkit/control"
	"github.com/moby/buildkit/session"
	"google.golang.org/grpc"
)

// Options are what a Builder stands on. The Builder closes none of it.
type Options struct {
	Root string // durable: the cache's own databases, ROOT/build of the daemon
	Run  string // gone with the next boot: what steps have mounted
	// CgroupParent is the absolute cgroup path that steps live under.
	CgroupParent string
	Host         spec.Host
	// Nodes reads the device nodes that a step with all rights sees.
	Nodes func(spec.Config) ([]spec.Node, error)

	Images *image.Store
	Fabric *network.Fabric
	Keeper *keeper.Client
	// Hosts says how a registry is reached. Nil: by its name, over TLS but on
	// the loopback.
	Hosts docker.RegistryHosts
	// Collect frees what the store holds and nobody needs.
	Collect func(context.Context) error
	// Built is told of every image that a build has stored, Pruned of what a
	// call has freed, and Grown when a build is over, which may have added to
	// the cache.
	Built  func(image.Image)
	Pruned func(bytes int64)
	Grown  func()
	Log    *slog.Logger
}

// Builder builds images. BuildKit is opened by the first call that needs it:
// who never builds does not pay for it. All methods may be called at the same
// time.
type Builder struct {
	Options
	steps  *steps
	grants grants

	mu     sync.Mutex
	closed bool
	open   *opened                       // nil until it is needed
	builds map[string]context.CancelFunc // those with an id
}

// opened is a BuildKit at work.
type opened struct {
	control  *control.Controller
	sessions *session.Manager
	worker   *worker
	server   *grpc.Server
	door     *door
	serving  sync.WaitGroup
	stop     context.CancelFunc // ends what BuildKit does on its own
	chatter  *log.Entry
}

// New makes a Builder and sweeps what the steps of a daemon that died have
// left mounted.
func New(o Options) (*Builder, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Hosts == nil {
		o.Hosts = docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchLocalhost))
	}
	b := &Builder{Options: o}
	b.steps = &steps{o: &b.Options, running: map[string]*step{}}
	if err := sweep(o.Run); err != nil {
		// Whoever builds nothing does not miss a builder.
		o.Log.Error("sweep what build steps have left", "error", err)
	}
	// BuildKit does the same, but not before somebody builds.
	if err := o.Images.DropLeases(context.Background(), func(_ string, l leases.Lease) bool { return temporary(l) }); err != nil {
		o.Log.Error("let go of what builds that died have written", "error", err)
	}
	if err := os.RemoveAll(filepath.Join(o.Root, contextsDir)); err != nil {
		o.Log.Error("sweep what was sent to be built", "error", err)
	}
	return b, nil
}

var errClosed = fmt.Errorf("the daemon is stopping: %w", errdefs.ErrUnavailable)

// buildkit opens BuildKit, if it is not open.
func (b *Builder) buildkit() (*opened, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return nil, errClosed
	case b.open != nil:
		return b.open, nil
	}
	o, err := b.openBuildKit()
	if err != nil {
		return nil, fmt.Errorf("open the builder: %w", err)
	}
	b.open = o
	return o, nil
}

// Close ends all builds and waits for their steps to be gone.
func (b *Builder) Close() error {
	b.mu.Lock()
	b.closed = true
	o := b.open
	b.open = nil
	b.mu.Unlock()
	if o == nil {
		return nil
	}
	o.server.Stop() // ends the calls, and with them what they build
	o.serving.Wait()
	b.steps.wait()
	err := o.control.Close()
	o.stop()
	return errors.Join(err, b.settle())
}

// crashMark holds the boot in which the cache is in use. Steps write without
// waiting for the disk, so after a crash of the machine the cache cannot be
// trusted; images can, they are synced before they are named.
const crashMark = "in-use"

// trust says whether the cache on the disk is what it was when it was written,
// and marks it as in use.
func (b *Builder) trust() (bool, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return false, err
	}
	path := filepath.Join(b.Root, crashMark)
	was, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	trusted := len(was) == 0 || string(was) == string(boot)
	if string(was) == string(boot) {
		return true, nil
	}
	return trusted, image.ReplaceFile(path, boot)
}

// settle is the end of trust's mark: everything has reached the disk.
func (b *Builder) settle() error {
	if err := syncfs(b.Root); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(b.Root, crashMark)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// made says whether there is a build cache.
func (b *Builder) made() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open != nil {
		return true
	}
	_, err := os.Stat(filepath.Join(b.Root, metadataFile))
	return err == nil
}

// Cancel ends the build that has the id, if there is one.
func (b *Builder) Cancel(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if cancel := b.builds[id]; cancel != nil {
		cancel()
	}
}

// track lets a build be cancelled by its id; done ends that.
func (b *Builder) track(ctx context.Context, id string) (_ context.Context, done func()) {
	ctx, cancel := context.WithCancel(ctx)
	if id == "" {
		return ctx, cancel
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.builds == nil {
		b.builds = map[string]context.CancelFunc{}
	}
	b.builds[id] = cancel
	return ctx, func() {
		cancel()
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.builds, id)
	}
}
