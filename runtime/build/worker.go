package build

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"gantry/runtime/image"

	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/gc"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/cache/metadata"
	"github.com/moby/buildkit/cache/remotecache"
	inlinecache "github.com/moby/buildkit/cache/remotecache/inline"
	localcache "github.com/moby/buildkit/cache/remotecache/local"
	registrycache "github.com/moby/buildkit/cache/remotecache/registry"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/control"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/frontend"
	"github.com/moby/buildkit/frontend/gateway"
	"github.com/moby/buildkit/frontend/gateway/forwarder"
	"github.com/moby/buildkit/session"
	containerdsnapshot "github.com/moby/buildkit/snapshot/containerd"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/bboltcachestorage"
	"github.com/moby/buildkit/util/db/boltutil"
	"github.com/moby/buildkit/util/entitlements"
	"github.com/moby/buildkit/util/leaseutil"
	bkworker "github.com/moby/buildkit/worker"
	"github.com/moby/buildkit/worker/base"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
)

// Version is BuildKit's, which clients ask for to know what they may ask.
const Version = "v0.33.1"

// worker is BuildKit's on gantry's store, with exporters of our own.
type worker struct {
	*base.Worker
	images  *image.Store
	built   func(image.Image)
	written *written
}

func (w *worker) Exporter(name string, sm *session.Manager) (exporter.Exporter, error) {
	switch name {
	case "moby": // how Docker's clients call the daemon's own store
		name = bkclient.ExporterImage
		fallthrough
	case bkclient.ExporterImage:
		e, err := w.Worker.Exporter(name, sm)
		if err != nil {
			return nil, err
		}
		return &imageExporter{Exporter: e, worker: w}, nil
	}
	return w.Worker.Exporter(name, sm)
}

// openBuildKit puts BuildKit together.
func (b *Builder) openBuildKit() (o *opened, err error) {
	if err := os.MkdirAll(b.Root, 0o700); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(b.Run, 0o711); err != nil {
		return nil, err
	}
	// Chosen when the program began, it would be a directory where nobody looks
	// for mounts that a daemon has left.
	if err := mount.SetTempMountLocation(os.TempDir()); err != nil {
		return nil, err
	}
	b.keepReserve()
	trusted, err := b.trust()
	if err != nil {
		return nil, err
	}
	if !trusted {
		b.Log.Info("the machine went down during a build: the build cache is dropped")
		if err := b.dropCache(); err != nil {
			return nil, err
		}
	}
	o, err = b.assemble()
	if err == nil || !damaged(err) {
		return o, err
	}
	b.Log.Error("the build cache cannot be read and is dropped", "error", err)
	if err := b.dropCache(); err != nil {
		return nil, err
	}
	return b.assemble()
}

// damaged says whether err tells of the content of the cache's databases and not
// of the machine. What bbolt meets inside of them it does not classify.
func damaged(err error) bool {
	var errno syscall.Errno
	return !errors.As(err, &errno) && !errors.Is(err, bolterrors.ErrTimeout)
}

// assemble puts BuildKit together on the cache that there is. A database whose
// pages are not what they should be makes bbolt panic.
func (b *Builder) assemble() (o *opened, err error) {
	defer func() {
		if r := recover(); r != nil {
			o, err = nil, fmt.Errorf("read the build cache: %v", r)
		}
	}()
	ctx, stop := context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			stop()
		}
	}()
	o = &opened{stop: stop, door: newDoor(), chatter: image.Chatter(b.Log)}
	if o.sessions, err = session.NewManager(); err != nil {
		return nil, err
	}
	if o.worker, err = b.newWorker(ctx); err != nil {
		return nil, err
	}
	wc := &bkworker.Controller{}
	if err := wc.Add(o.worker); err != nil {
		return nil, err
	}
	if o.control, err = b.newController(ctx, o, wc); err != nil {
		return nil, err
	}
	// Stopped, it waits for its calls: what they use is closed next.
	o.server = grpc.NewServer(append(o.around(b), grpc.WaitForHandlers(true), grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))...)
	o.control.Register(o.server)
	o.serving.Go(func() {
		if err := o.server.Serve(o.door); err != nil {
			b.Log.Error("serve builds", "error", err)
		}
	})
	return o, nil
}

// maxMessage bounds what one message of a build's calls may hold: a definition
// of some thousand steps.
const maxMessage = 64 << 20

// Names of the cache's files; dropCache removes them all.
const (
	metadataFile = "metadata_v2.db"
	cacheFile    = "cache.db"
	historyFile  = "history.db"
)

func (b *Builder) dropCache() error {
	ctx := context.Background()
	for _, f := range []string{metadataFile, cacheFile, historyFile} {
		if err := os.Remove(filepath.Join(b.Root, f)); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	if err := b.dropBackups(); err != nil {
		return err
	}
	return b.Images.DropLeases(ctx, func(string, leases.Lease) bool { return true })
}

// temporary says whether a lease of BuildKit's belongs to a build under way.
func temporary(l leases.Lease) bool {
	_, is := l.Labels["buildkit/lease.temporary"]
	return is
}

// dropOrphans ends the leases of records that a daemon has not lived to write.
// BuildKit calls a lease after its record, and makes it first; nobody builds yet.
func (b *Builder) dropOrphans(ctx context.Context, md *metadata.Store) error {
	items, err := md.All()
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, i := range items {
		known[i.ID()] = true
	}
	in := b.Images.Shared().Namespace
	return b.Images.DropLeases(ctx, func(ns string, l leases.Lease) bool {
		id, _, _ := strings.Cut(l.ID, "-") // "<id>-variants", "<id>-view"
		return ns == in && !known[id] && !temporary(l)
	})
}

// dropBackups removes the databases that BuildKit could not read and has put
// aside: nobody else can either.
func (b *Builder) dropBackups() error {
	old, err := filepath.Glob(filepath.Join(b.Root, "*.db.*.bak"))
	if err != nil {
		return err
	}
	for _, f := range old {
		if err := os.Remove(f); err != nil {
			return err
		}
	}
	return nil
}

func (b *Builder) newWorker(ctx context.Context) (*worker, error) {
	if err := b.dropBackups(); err != nil {
		return nil, err
	}
	md, err := metadata.NewStore(filepath.Join(b.Root, metadataFile))
	if err != nil {
		return nil, err
	}
	whole := false
	defer func() { // also when it panics
		if !whole {
			_ = md.Close()
		}
	}()
	// What the cache knows is worth nothing after a crash of the machine; see
	// trust. The library would wait for the disk at every step.
	if db, ok := md.DB().(*bolt.DB); ok {
		db.NoSync = true
	}
	shared := b.Images.Shared()
	id, err := base.ID(b.Root)
	if err != nil {
		return nil, err
	}
	content := containerdsnapshot.NewContentStore(shared.Content, shared.Namespace)
	written := &written{}
	written.note() // what a daemon before this one has
	w, err := base.NewWorker(ctx, base.WorkerOpt{
		ID: id, Root: b.Root, Labels: b.labels(), Platforms: hostPlatforms(),
		BuildkitVersion: bkclient.BuildkitVersion{Package: "github.com/moby/buildkit", Version: Version},
		Executor:        b.steps,
		Snapshotter:     unsynced{containerdsnapshot.NewSnapshotter(shared.Snapshotter, shared.Snapshots, shared.Namespace, nil), written},
		ContentStore:    content,
		Applier:         apply.NewFileSystemApplier(content),
		Differ:          walking.NewWalkingDiff(content),
		ImageStore:      shared.Images,
		RegistryHosts:   b.Hosts,
		LeaseManager:    leaseutil.WithNamespace(shared.Leases, shared.Namespace),
		GarbageCollect:  func(ctx context.Context) (gc.Stats, error) { return nil, b.Collect(ctx) },
		ParallelismSem:  semaphore.NewWeighted(int64(max(stepsPerCPU*b.Host.CPUs, fewSteps))),
		MetadataStore:   md,
		MountPoolRoot:   filepath.Join(os.TempDir(), "cachemounts"),
	})
	if err != nil {
		return nil, err
	}
	if err := b.dropOrphans(ctx, md); err != nil {
		return nil, err
	}
	whole = true
	return &worker{Worker: w, images: b.Images, built: b.Built, written: written}, nil
}

// Steps that run at once: most of them wait, for the disk or for a package
// mirror.
const (
	stepsPerCPU = 8
	fewSteps    = 16
)

// labels tell clients about the worker; buildx asks for the address of the
// host to write "host-gateway" into a step's hosts.
func (b *Builder) labels() map[string]string {
	labels := map[string]string{"org.mobyproject.buildkit.worker.executor": "gantry"}
	if gw := b.Fabric.HostGateway(); gw.IsValid() {
		labels["org.mobyproject.buildkit.worker.moby.host-gateway-ip"] = gw.String()
	}
	return labels
}

func hostPlatforms() []ocispec.Platform {
	return []ocispec.Platform{platforms.Normalize(platforms.DefaultSpec())}
}

// Builds whose records are kept, to be looked at.
const (
	historyEntries = 50
	historyAge     = 48 * time.Hour
)

func (b *Builder) newController(ctx context.Context, o *opened, wc *bkworker.Controller) (*control.Controller, error) {
	store, err := bboltcachestorage.NewStore(filepath.Join(b.Root, cacheFile))
	if err != nil {
		return nil, err
	}
	history, err := boltutil.SafeOpen(filepath.Join(b.Root, historyFile), 0o600, &bolt.Options{FreelistType: bolt.FreelistMapType, NoSync: true})
	if err != nil {
		return nil, err
	}
	forward, err := gateway.NewGatewayFrontend(wc.Infos(), nil)
	if err != nil {
		return nil, err
	}
	hosts := b.Hosts
	w := o.worker
	return control.NewController(control.Opt{
		SessionManager:   o.sessions,
		WorkerController: wc,
		Frontends: map[string]frontend.Frontend{
			"dockerfile.v0": forwarder.NewGatewayForwarder(wc.Infos(), b.dockerfile),
			"gateway.v0":    forward,
		},
		CacheManager: solver.NewCacheManager(ctx, "local", store, bkworker.NewCacheResultStorage(wc)),
		CacheStore:   store,
		ResolveCacheExporterFuncs: map[string]remotecache.ResolveCacheExporterFunc{
			"inline":   inlinecache.ResolveCacheExporterFunc(),
			"local":    localcache.ResolveCacheExporterFunc(o.sessions),
			"registry": registrycache.ResolveCacheExporterFunc(o.sessions, hosts),
		},
		ResolveCacheImporterFuncs: map[string]remotecache.ResolveCacheImporterFunc{
			"local":    localcache.ResolveCacheImporterFunc(o.sessions),
			"registry": registrycache.ResolveCacheImporterFunc(o.sessions, w.ContentStore(), hosts),
		},
		// Who may talk to the daemon may do all this by a container as well; a
		// build must still ask for it.
		Entitlements:   []string{string(entitlements.EntitlementNetworkHost), string(entitlements.EntitlementSecurityInsecure)},
		HistoryDB:      history,
		HistoryConfig:  &config.HistoryConfig{MaxAge: config.Duration{Duration: historyAge}, MaxEntries: new(int64(historyEntries))},
		LeaseManager:   w.LeaseManager(),
		ContentStore:   w.ContentStore(),
		GarbageCollect: w.GarbageCollect,
		GracefulStop:   ctx.Done(),
	})
}

// door is a listener whose connections are handed in.
type door struct {
	conns  chan net.Conn
	closed chan struct{}
}

func newDoor() *door { return &door{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (d *door) Accept() (net.Conn, error) {
	select {
	case c := <-d.conns:
		return c, nil
	case <-d.closed:
		return nil, net.ErrClosed
	}
}

// Close is called once, by the server.
func (d *door) Close() error { close(d.closed); return nil }

func (d *door) Addr() net.Addr { return &net.UnixAddr{Name: "builder", Net: "unix"} }

// enter hands a connection in; false: the door is closed.
func (d *door) enter(c net.Conn) bool {
	select {
	case d.conns <- c:
		return true
	case <-d.closed:
		return false
	}
}
