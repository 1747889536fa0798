package image

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// viewPrefix begins the snapshot key of an image's view; the id follows.
const viewPrefix = "gantry-image-"

func viewKey(id digest.Digest) string {
	return viewPrefix + id.Algorithm().String() + "-" + id.Encoded()
}

// viewTable remembers the directories of the images in use.
type viewTable struct {
	mu   sync.RWMutex
	dirs map[digest.Digest][]string
	busy keyed // by id: one makes or removes a view, the others wait
}

func (t *viewTable) get(id digest.Digest) ([]string, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	d, ok := t.dirs[id]
	return d, ok
}

// set stores the directories of id; nil forgets them.
func (t *viewTable) set(id digest.Digest, dirs []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if dirs == nil {
		delete(t.dirs, id)
		return
	}
	if t.dirs == nil {
		t.dirs = map[digest.Digest][]string{}
	}
	t.dirs[id] = dirs
}

// Lowers gives the directories an overlay mount of the image id consists of,
// top first, and pins the image until [Store.Release]: it stays on disk, even
// when its last name is removed. The first call for an image writes to the
// database, unless the image is still pinned from an earlier run; all others
// are a look into memory. Nobody may write to these directories.
func (s *Store) Lowers(ctx context.Context, id digest.Digest) ([]string, error) {
	if dirs, ok := s.views.get(id); ok {
		return append([]string(nil), dirs...), nil
	}
	if err := id.Validate(); err != nil {
		return nil, classed(errdefs.ErrInvalidArgument, "image id %q: %w", id, err)
	}
	unlock := s.views.busy.lock(id.String())
	defer unlock()
	if dirs, ok := s.views.get(id); ok {
		return append([]string(nil), dirs...), nil
	}
	ctx = s.context(ctx)
	mounts, err := s.snaps.Mounts(ctx, viewKey(id))
	if errdefs.IsNotFound(err) {
		mounts, err = s.pin(ctx, id)
	}
	if err != nil {
		return nil, fmt.Errorf("layers of image %s: %w", short(id), Full(s.dir, err))
	}
	dirs, err := s.lowerDirs(mounts)
	if err != nil {
		return nil, err
	}
	s.views.set(id, dirs)
	return append([]string(nil), dirs...), nil
}

// pin makes the view of an image, and its snapshots where they are missing.
func (s *Store) pin(ctx context.Context, id digest.Digest) ([]mount.Mount, error) {
	res, err := s.byID(ctx, id)
	if err != nil {
		return nil, err
	}
	if waited, err := s.onDisk(ctx, res.top); err != nil {
		return nil, err
	} else if waited { // it may have had to go
		if res, err = s.byID(ctx, id); err != nil {
			return nil, err
		}
	}
	// The label makes it a root: nothing refers to a view.
	root := snapshots.WithLabels(map[string]string{"containerd.io/gc.root": time.Now().UTC().Format(time.RFC3339)})
	mounts, err := s.snaps.View(ctx, viewKey(id), res.top, root)
	if !errdefs.IsNotFound(err) {
		return mounts, err
	}
	opctx, op, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer op.end(opctx)
	if _, err := op.chain(opctx, res.manifest.Layers, res.config.RootFS.DiffIDs, nil); err != nil {
		return nil, err
	}
	return s.snaps.View(ctx, viewKey(id), res.top, root)
}

// onDisk waits until a snapshot and those below it are on the disk, and says
// whether it had to.
func (s *Store) onDisk(ctx context.Context, name string) (waited bool, err error) {
	if name == "" || s.syncer.idle() {
		return false, nil
	}
	chain, err := s.chainOf(ctx, name)
	switch {
	case errdefs.IsNotFound(err):
		return false, nil // it will be made anew
	case err != nil:
		return false, err
	}
	return true, s.syncer.wait(ctx, chain)
}

// Release lets go of an image that no container uses any more. Releasing one
// that is not pinned is no error.
func (s *Store) Release(ctx context.Context, id digest.Digest) error {
	unlock := s.views.busy.lock(id.String())
	defer unlock()
	s.views.set(id, nil)
	if err := s.snaps.Remove(s.context(ctx), viewKey(id)); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("release image %s: %w", short(id), err)
	}
	return nil
}

// Pinned lists the images that [Store.Lowers] pinned, in this run or an earlier
// one. After a start, the ones without a container are to be released.
func (s *Store) Pinned(ctx context.Context) ([]digest.Digest, error) {
	var ids []digest.Digest
	err := s.snaps.Walk(s.context(ctx), func(_ context.Context, info snapshots.Info) error {
		rest, ok := strings.CutPrefix(info.Name, viewPrefix)
		if !ok {
			return nil
		}
		algorithm, hex, _ := strings.Cut(rest, "-")
		ids = append(ids, digest.NewDigestFromEncoded(digest.Algorithm(algorithm), hex))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list images in use: %w", err)
	}
	return ids, nil
}

// short is an id as people see it.
func short(id digest.Digest) string {
	if hex := id.Encoded(); len(hex) > 12 {
		return hex[:12]
	}
	return id.String()
}
