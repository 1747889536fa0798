package image

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

const (
	// namespace separates the objects of one containerd database; gantry has
	// the database to itself and uses one.
	namespace = "gantry"
	// snapshotterName is part of the keys in the database and of the labels
	// that lead from a configuration to its snapshot.
	snapshotterName = "overlayfs"
	// labelOperation marks a lease that ends with the process that took it.
	labelOperation = "gantry/operation"
	// labelSource, of a record, is the digest its name has in the registry.
	labelSource = "gantry/source"
)

// Options are those of [Open].
type Options struct {
	// Root is the store's own directory, ROOT/images of the daemon.
	Root string
	// Registries is the directory that says how registries are reached, in
	// containerd's layout: HOST/hosts.toml. Empty is none.
	Registries string
	// Log receives what the libraries below have to say. Nil is silence.
	Log *slog.Logger
}

// Store holds the images of one root directory. All methods may be called at
// the same time.
type Store struct {
	dir        string
	registries string        // directory of hosts.toml files
	pause      time.Duration // before the second request to a busy registry
	log        *slog.Logger
	library    *log.Entry // the libraries' way into log
	remotes    *log.Entry // that of the one that speaks to registries

	bolt    *bolt.DB
	db      *metadata.DB
	blobs   content.Store // below the metadata
	content content.Store
	snaps   snapshots.Snapshotter
	backend snapshots.Snapshotter // below the metadata; closed by us
	meta    *storage.MetaStore    // backend's own database
	images  images.Store
	leases  leases.Manager
	disk    disks
	syncer  *syncer
	current *currents

	// changes counts the writes to the database; what was read before a write
	// is read again after it.
	changes  atomic.Uint64
	records  atomic.Pointer[recordSet]
	resolved sync.Map // target digest → *resolved; content is immutable, a pull of a further platform forgets it

	// editing is held by who reads the records to decide what to write: of two
	// removals of an image's last two names, one must see itself as the last.
	editing sync.Mutex

	unpacking keyed // by name of the top snapshot
	fetching  turns // by digest of the blob
	views     viewTable

	collecting sync.Mutex
	swept      bool // the first collection of this process looked behind the database
}

// Open opens the store in o.Root, making it if it is not there. It fails
// with ErrUnavailable when another daemon holds it.
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	dir := filepath.Clean(o.Root)
	if strings.Contains(dir, ":") {
		return nil, classed(errdefs.ErrInvalidArgument,
			"open images: %q cannot be the root directory: overlay takes a ':' for the end of a path", o.Root)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open images: %w", err)
	}
	takeStandardLog(o.Log)
	s := &Store{dir: dir, registries: o.Registries, pause: firstPause, log: o.Log, library: libraryLog(o.Log), remotes: remoteLog(o.Log)}

	db, err := bolt.Open(filepath.Join(dir, "meta.db"), 0o600, boltOptions())
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, classed(errdefs.ErrUnavailable, "open images: another daemon uses %s", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("open images: %s: %w", filepath.Join(dir, "meta.db"), err)
	}
	s.bolt = db
	if err := s.assemble(s.context(ctx)); err != nil {
		return nil, errors.Join(fmt.Errorf("open images: %w", err), s.Close())
	}
	return s, nil
}

// boltOptions are the same for both databases. The list of free pages is
// rebuilt at Open (microseconds at our sizes) instead of written with every
// commit. Syncing stays on: an image that was reported must survive a power cut.
func boltOptions() *bolt.Options {
	return &bolt.Options{
		Timeout:         2 * time.Second,
		NoFreelistSync:  true,
		FreelistType:    bolt.FreelistMapType,
		NoStatistics:    true,
		InitialMmapSize: 16 << 20, // growing the map would make readers wait
	}
}

func (s *Store) assemble(ctx context.Context) error {
	// Nobody writes yet, so what is half written was so when a process died. The
	// library finds such directories by a file in them, which may be missing.
	for _, dir := range []string{"ingest", arriving} {
		if err := os.RemoveAll(filepath.Join(s.dir, "content", dir)); err != nil {
			return err
		}
	}
	blobs, err := local.NewStore(filepath.Join(s.dir, "content"))
	if err != nil {
		return err
	}
	s.blobs = layerBlobs{blobs, filepath.Join(s.dir, "content")}
	snapDir := filepath.Join(s.dir, "snapshots")
	if err := os.MkdirAll(snapDir, 0o700); err != nil {
		return err
	}
	meta, err := storage.NewMetaStore(filepath.Join(snapDir, "metadata.db"), func(o *bolt.Options) error {
		*o = *boltOptions()
		return nil
	})
	if err != nil {
		return err
	}
	s.meta = meta
	s.backend, err = overlay.NewSnapshotter(snapDir, overlay.WithMetaStore(meta), overlay.AsynchronousRemove)
	if err != nil {
		return err
	}
	if err := strayAside(ctx, meta, filepath.Join(snapDir, "snapshots")); err != nil {
		return err
	}
	s.db = metadata.NewDB(s.bolt, s.blobs, map[string]snapshots.Snapshotter{snapshotterName: s.backend})
	if err := s.db.Init(ctx); err != nil {
		return err
	}
	s.db.RegisterMutationCallback(func(bool) { s.changes.Add(1) })
	s.content = s.db.ContentStore()
	s.snaps = s.db.Snapshotter(snapshotterName)
	s.images = metadata.NewImageStore(s.db)
	s.leases = metadata.NewLeaseManager(s.db)
	if s.disk, err = openDisks(filepath.Join(s.dir, "content"), snapDir); err != nil {
		return err
	}
	if s.syncer, err = s.openSyncer(); err != nil {
		return err
	}
	s.current = openCurrents(s.dir, s.log)
	if err := s.recover(ctx); err != nil {
		return err
	}
	return s.dropStaleLeases(ctx)
}

// strayAside renames the snapshot directories that no entry of the database
// knows; the next collection removes them. A process killed between making one
// and committing its entry leaves it under the number that the next snapshot
// gets, which then cannot be made.
func strayAside(ctx context.Context, meta *storage.MetaStore, dir string) error {
	known := map[string]string{}
	err := meta.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		known, err = storage.IDMap(ctx)
		return err
	})
	if err != nil && !errdefs.IsNotFound(err) { // a new database
		return err
	}
	dirs, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, d := range dirs {
		if _, ok := known[d.Name()]; ok || strings.HasPrefix(d.Name(), "new-") {
			continue
		}
		// "new-" is how the snapshotter calls what it has not numbered yet.
		aside := filepath.Join(dir, "new-stray-"+d.Name()+"-"+rand.Text())
		if err := os.Rename(filepath.Join(dir, d.Name()), aside); err != nil {
			return err
		}
	}
	return nil
}

// dropStaleLeases ends the operations of a process that died: what they wrote
// is free for the next collection.
func (s *Store) dropStaleLeases(ctx context.Context) error {
	all, err := s.leases.List(ctx)
	if err != nil {
		return err
	}
	for _, l := range all {
		if _, ours := l.Labels[labelOperation]; !ours {
			continue
		}
		if err := s.leases.Delete(ctx, l); err != nil {
			return err
		}
	}
	return nil
}

// Close ends the use of the store, with all of it on the disk. No other method may
// run or be called.
func (s *Store) Close() error {
	var errs []error
	if s.syncer != nil {
		s.syncer.close()
	}
	if s.current != nil {
		s.current.close()
	}
	s.disk.close()
	if s.backend != nil {
		errs = append(errs, s.backend.Close())
	}
	if s.bolt != nil {
		errs = append(errs, s.bolt.Close())
	}
	return errors.Join(errs...)
}

// context is ctx as the libraries want it: with the namespace and a logger.
func (s *Store) context(ctx context.Context) context.Context {
	return log.WithLogger(namespaces.WithNamespace(ctx, namespace), s.library)
}

// Collect removes the content and snapshots that no image, view or running
// operation reaches. It is never needed for correctness, only for space.
//
// Containers are not part of the database: call it only after every container
// record is loaded and the images in use are pinned by [Store.Lowers].
func (s *Store) Collect(ctx context.Context) error {
	s.collecting.Lock()
	defer s.collecting.Unlock()
	ctx = s.context(ctx)
	sweep := !s.swept
	if sweep {
		// On a full disk there is no room for what is to be found; to make some is
		// what this is for. The next one looks behind the database.
		if err := s.markDirty(ctx); errors.Is(err, unix.ENOSPC) {
			sweep = false
		} else if err != nil {
			return fmt.Errorf("collect images: %w", err)
		}
	}
	if _, err := s.db.GarbageCollect(ctx); err != nil {
		return fmt.Errorf("collect images: %w", err)
	}
	s.swept = s.swept || sweep
	return s.forgetResolved(ctx)
}

// markDirty makes the next collection look at the disk and not only at the
// database. containerd does so only after a removal of its own, but a process
// killed between a file and its database entry leaves files no entry knows;
// so a blob and a snapshot are made for the collection to find.
func (s *Store) markDirty(ctx context.Context) error {
	ctx, op, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer op.end(ctx)
	if _, err := op.writeBlob(ctx, op.key("sweep"), "", []byte(op.lease.ID), nil); err != nil {
		return err
	}
	_, err = op.snaps.Prepare(ctx, op.key("sweep"), "")
	return err
}

// forgetResolved drops what is remembered of images that are gone.
func (s *Store) forgetResolved(ctx context.Context) error {
	set, err := s.recordSet(ctx)
	if err != nil {
		return err
	}
	live := map[digest.Digest]bool{}
	for _, r := range set.all {
		live[r.Target.Digest] = true
	}
	s.resolved.Range(func(k, _ any) bool {
		if !live[k.(digest.Digest)] {
			s.resolved.Delete(k)
		}
		return true
	})
	return nil
}
