package image

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// recover looks at the mark that an earlier process has left. Nobody uses the
// store yet.
func (s *Store) recover(ctx context.Context) error {
	// What was being written when a process died.
	left, err := os.ReadDir(s.dir)
	for _, l := range left {
		if strings.HasPrefix(l.Name(), markFile+".") || strings.HasPrefix(l.Name(), currentFile+".") {
			err = errors.Join(err, os.Remove(filepath.Join(s.dir, l.Name())))
		}
	}
	if err != nil {
		return err
	}
	b, err := os.ReadFile(s.syncer.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var m mark
	if err := json.Unmarshal(b, &m); err != nil || m.Version != markVersion {
		return classed(errdefs.ErrDataLoss, "%s is damaged or of a newer gantry (version %d): start that one, or remove the file and then the images that came last", s.syncer.path, m.Version)
	}
	s.syncer.mu.Lock()
	defer s.syncer.mu.Unlock()
	if m.Boot == s.syncer.boot {
		s.syncer.hand(&m.unsynced) // the kernel has it all
		return nil
	}
	bad, why := m.unsynced, "it could not be written to the disk"
	if m.Boot != failedBoot {
		why = "the machine stopped before it was on the disk"
		if bad, err = s.repair(ctx, m.unsynced); err != nil {
			return err
		}
	}
	if err := s.remove(ctx, bad, why); err != nil {
		return err
	}
	if err := s.syncer.sync(); err != nil {
		return err
	}
	return s.syncer.write(s.syncer.boot)
}

// repair checks blobs that were not synced when the machine went down, and
// unpacks layers anew. What it gives back is damaged for good.
func (s *Store) repair(ctx context.Context, u unsynced) (bad unsynced, err error) {
	for _, d := range u.Blobs {
		whole, err := s.whole(ctx, d)
		if err != nil {
			return bad, err
		}
		if !whole {
			bad.Blobs = append(bad.Blobs, d)
		}
	}
	for _, l := range u.Layers {
		info, err := s.snaps.Stat(ctx, l.Snapshot)
		if errdefs.IsNotFound(err) {
			continue // it was not yet made, or is collected
		}
		if err != nil {
			return bad, err
		}
		if slices.Contains(bad.Blobs, l.Blob) || bad.has([]string{info.Parent}) {
			bad.Layers = append(bad.Layers, l)
			continue
		}
		if err := s.unpackAgain(ctx, l); ctx.Err() != nil {
			return bad, ctx.Err()
		} else if err != nil { // a full disk too: a store that does not open frees nothing
			s.log.Warn("a layer cannot be unpacked again", "layer", l.Diff, "error", err)
			bad.Layers = append(bad.Layers, l)
		}
	}
	return bad, nil
}

// whole tells whether a blob has the bytes that its name promises. One that is
// not there at all is nobody's.
func (s *Store) whole(ctx context.Context, d digest.Digest) (bool, error) {
	ra, err := s.blobs.ReaderAt(ctx, ocispec.Descriptor{Digest: d})
	if errdefs.IsNotFound(err) {
		_, err := s.content.Info(ctx, d)
		return errdefs.IsNotFound(err), nil
	}
	if err != nil {
		return false, err
	}
	defer ra.Close()
	v := d.Verifier()
	if _, err := io.Copy(v, content.NewReader(ra)); err != nil {
		return false, nil //nolint:nilerr // the disk cannot give it back: it is not whole
	}
	return v.Verified(), nil
}

// unpackAgain puts a new directory in the place of a layer's. It is not mounted
// anywhere: the machine has just started.
func (s *Store) unpackAgain(ctx context.Context, l unsyncedLayer) (err error) {
	dirs, err := s.snapshotDirs(ctx, l.Snapshot)
	if err != nil {
		return err
	}
	ra, err := s.content.ReaderAt(ctx, ocispec.Descriptor{Digest: l.Blob})
	if err != nil {
		return err
	}
	defer ra.Close()
	place := filepath.Dir(dirs[0])
	// A process that dies leaves what the next collection takes, by its name.
	dir, err := os.MkdirTemp(filepath.Dir(place), "new-again-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	u := &unpacked{dir: filepath.Join(dir, "fs")}
	if err := os.Mkdir(u.dir, 0o755); err != nil {
		return err
	}
	if err := u.read(ctx, content.NewReader(ra), true); err != nil {
		return err
	}
	if u.diff != l.Diff {
		return classed(errdefs.ErrDataLoss, "its content has the digest %s", u.diff)
	}
	if err := inherit(u.dir, u.applied.implied, dirs[1:]); err != nil {
		return err
	}
	if err := os.MkdirAll(dirs[0], 0o755); err != nil {
		return err
	}
	return unix.Renameat2(unix.AT_FDCWD, u.dir, unix.AT_FDCWD, dirs[0], unix.RENAME_EXCHANGE)
}

// snapshotDirs are the directories of a committed snapshot and of those below it,
// top first, whether they are there or not.
func (s *Store) snapshotDirs(ctx context.Context, name string) ([]string, error) {
	ids := map[string]string{}
	err := s.meta.WithTransaction(ctx, false, func(ctx context.Context) error {
		keys, err := storage.IDMap(ctx)
		for id, key := range keys {
			// The database above calls it <namespace>/<number>/<name>.
			if parts := strings.SplitN(key, "/", 3); len(parts) == 3 {
				ids[parts[2]] = id
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	chain, err := s.chainOf(ctx, name)
	if err != nil {
		return nil, err
	}
	dirs := make([]string, len(chain))
	for i, name := range chain {
		dirs[i] = filepath.Join(s.dir, "snapshots", "snapshots", ids[name], "fs")
	}
	return dirs, nil
}

// chainOf are the names of a snapshot and of those below it, top first.
func (s *Store) chainOf(ctx context.Context, name string) ([]string, error) {
	var chain []string
	for name != "" {
		info, err := s.snaps.Stat(ctx, name)
		if err != nil {
			return nil, err
		}
		chain = append(chain, name)
		name = info.Parent
	}
	return chain, nil
}

// lose removes what could not be synced.
func (s *Store) lose(gone unsynced, why error) error {
	if why != nil {
		why = Full(s.dir, why)
	} else {
		why = errors.New("it could not be written to the disk")
	}
	return s.remove(s.context(context.Background()), gone, why.Error())
}

// remove takes away what is damaged and every image that needs it, so that the
// next pull or load brings it anew.
func (s *Store) remove(ctx context.Context, bad unsynced, why string) error {
	if len(bad.Blobs)+len(bad.Layers) == 0 {
		return nil
	}
	s.editing.Lock()
	defer s.editing.Unlock()
	byID, err := s.groups(ctx)
	if err != nil {
		return err
	}
	for id, g := range byID {
		chain, err := s.chainOf(ctx, g.res.top)
		if err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		damaged := bad.has(chain) || slices.ContainsFunc(g.res.manifest.Layers, func(l ocispec.Descriptor) bool {
			return slices.Contains(bad.Blobs, l.Digest)
		})
		if !damaged {
			continue
		}
		var names []string
		for _, r := range g.records {
			if err := s.images.Delete(ctx, r.Name); err != nil && !errdefs.IsNotFound(err) {
				return err
			}
			names = append(names, familiar(r.Name))
		}
		s.log.Error("an image is removed: pull or load it again", "image", short(id), "names", names, "reason", why)
	}
	for _, l := range bad.Layers {
		if err := s.removeSnapshot(ctx, l.Snapshot); err != nil {
			return err
		}
	}
	for _, d := range bad.Blobs {
		// Here and on the disk: a blob that lies there is taken for good.
		if err := s.content.Delete(ctx, d); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		if err := s.blobs.Delete(ctx, d); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// removeSnapshot removes a snapshot and all that lie on it.
func (s *Store) removeSnapshot(ctx context.Context, name string) error {
	var above []string
	err := s.snaps.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if info.Parent == name {
			above = append(above, info.Name)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, a := range above {
		if err := s.removeSnapshot(ctx, a); err != nil {
			return err
		}
	}
	if err := s.snaps.Remove(ctx, name); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}
