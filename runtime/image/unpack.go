package image

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"
)

// layerSnapshot is the name of the snapshot of a chain of layers. BuildKit
// (0.33, snapshot.LayerSnapshotID) uses the same, so builds find our layers and
// we theirs.
func layerSnapshot(chain digest.Digest) string {
	return layerPrefix + chain.Algorithm().String() + "-" + chain.Encoded()
}

const layerPrefix = "buildkit-layer-snapshot-v1-"

// unpacked is a layer whose files lie in a snapshot of their own, not yet part
// of a chain: what lies below a layer does not matter until it is put there,
// so layers are unpacked side by side, and before anybody has read which order
// they are in.
type unpacked struct {
	diff    digest.Digest // of the uncompressed stream
	key     string        // active snapshot without a parent
	dir     string        // its directory
	packed  compression
	applied applied
}

// unpack unpacks the layer stream r, which may be compressed, into a snapshot of
// its own. With hash false the caller has one who hashes r anyway: then there is
// no digest of a stream that is not compressed.
func (op *operation) unpack(ctx context.Context, r io.Reader, hash bool) (_ *unpacked, err error) {
	u := &unpacked{key: op.key("layer")}
	mounts, err := op.snaps.Prepare(ctx, u.key, "")
	if err != nil {
		return nil, fmt.Errorf("prepare a snapshot: %w", err)
	}
	defer func() {
		if err != nil {
			op.discard(ctx, u)
		}
	}()
	lower, err := op.lowerDirs(mounts)
	if err != nil {
		return nil, err
	}
	u.dir = lower[0]
	return u, u.read(ctx, r, hash)
}

// read unpacks the layer stream r into u's directory.
func (u *unpacked) read(ctx context.Context, r io.Reader, hash bool) error {
	br := bufio.NewReaderSize(r, 4<<10) // files are read past it
	packed, err := sniff(br)
	if err != nil {
		return err
	}
	tarball, err := decompress(br, packed)
	if err != nil {
		return classed(errdefs.ErrInvalidArgument, "the archive is damaged at its start: %w", err)
	}
	defer tarball.Close()
	u.packed = packed

	var in io.Reader = tarball
	digester := digest.Canonical.Digester()
	if hash || packed != plain {
		in = io.TeeReader(tarball, digester.Hash())
	}
	if u.applied, err = apply(ctx, u.dir, in); err != nil {
		return err
	}
	// What follows the compressed stream counts for the digest of the blob.
	tarball.Close()
	if _, err := io.Copy(io.Discard, br); err != nil {
		return err
	}
	if in != io.Reader(tarball) {
		u.diff = digester.Digest()
	}
	return nil
}

// discard gives up an unpacked layer; its files go with the next collection.
func (op *operation) discard(ctx context.Context, u *unpacked) {
	if u == nil || u.key == "" {
		return
	}
	if err := op.snaps.Remove(context.WithoutCancel(ctx), u.key); err != nil && !errdefs.IsNotFound(err) {
		op.log.Warn("an unpacked layer stays until the next collection", "snapshot", u.key, "error", err)
	}
	u.key = ""
}

// chain makes the snapshots of an image and gives back the name of the top
// one, "" for an image without layers. ready holds layers unpacked already, by
// the digest of their blob; the others are unpacked from the content. Two
// calls for one chain do the work once.
func (op *operation) chain(ctx context.Context, layers []ocispec.Descriptor, diffs []digest.Digest, ready map[digest.Digest]*unpacked) (string, error) {
	if len(layers) == 0 {
		return "", nil
	}
	names, err := op.snapshotNames(ctx, diffs)
	if err != nil {
		return "", err
	}
	top := names[len(names)-1]
	unlock := op.unpacking.lock(top)
	defer unlock()

	have, err := op.leaseExisting(ctx, names)
	if err != nil {
		return "", fmt.Errorf("look for layers: %w", err)
	}
	missing, err := op.unpackMissing(ctx, layers, diffs, ready, have)
	if err != nil {
		for _, u := range missing {
			op.discard(ctx, u)
		}
		return "", err
	}
	if err := op.settle(missing, names[have:], layers[have:]); err != nil {
		return "", err
	}
	for i := have; i < len(names); i++ {
		parent := ""
		if i > 0 {
			parent = names[i-1]
		}
		if err := op.place(ctx, missing[i-have], names[i], parent); err != nil {
			return "", fmt.Errorf("layer %d: %w", i+1, err)
		}
	}
	return top, nil
}

// snapshotNames are those of a chain of layers, bottom first. Where a builder has
// made what an image consists of, it has its own name for it.
func (op *operation) snapshotNames(ctx context.Context, diffs []digest.Digest) ([]string, error) {
	adopted, err := op.adoptions(ctx)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(diffs))
	for i, c := range identity.ChainIDs(append([]digest.Digest(nil), diffs...)) {
		names[i] = layerSnapshot(c)
		other := adopted[c]
		if other == "" {
			continue
		}
		if _, err := op.snaps.Stat(ctx, names[i]); errdefs.IsNotFound(err) {
			names[i] = other
		} else if err != nil {
			return nil, err
		}
	}
	return names, nil
}

// leaseExisting counts how many of the snapshots, bottom first, are there, and
// makes them part of the lease so that they stay.
func (op *operation) leaseExisting(ctx context.Context, names []string) (int, error) {
	have := 0
	for i := len(names) - 1; i >= 0 && have == 0; i-- {
		// A snapshot holds its parents: the highest that exists is enough.
		err := op.db.Update(func(tx *bolt.Tx) error {
			ctx := boltutil.WithTransaction(ctx, tx)
			if _, err := op.snaps.Stat(ctx, names[i]); err != nil {
				return err
			}
			return op.leases.AddResource(ctx, op.lease, leases.Resource{ID: names[i], Type: "snapshots/" + snapshotterName})
		})
		switch {
		case err == nil:
			have = i + 1
		case !errdefs.IsNotFound(err):
			return 0, err
		}
	}
	return have, nil
}

// unpackMissing gives the layers from the index have on, unpacked and checked
// against the image's configuration.
func (op *operation) unpackMissing(ctx context.Context, layers []ocispec.Descriptor, diffs []digest.Digest, ready map[digest.Digest]*unpacked, have int) ([]*unpacked, error) {
	out := make([]*unpacked, len(layers)-have)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(2, runtime.GOMAXPROCS(0)))
	taken := map[digest.Digest]bool{}
	for i := have; i < len(layers); i++ {
		blob := layers[i].Digest
		if u := ready[blob]; u != nil && u.key != "" && !taken[blob] {
			taken[blob] = true
			out[i-have] = u
			continue
		}
		g.Go(func() error {
			u, err := op.unpackBlob(ctx, layers[i])
			if err != nil {
				return fmt.Errorf("layer %d (%s): %w", i+1, blob, err)
			}
			out[i-have] = u
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return out, err
	}
	for i, u := range out {
		if want := diffs[have+i]; u.diff != want {
			return out, classed(errdefs.ErrInvalidArgument,
				"layer %d (%s) has the content %s, the image's configuration says %s", have+i+1, layers[have+i].Digest, u.diff, want)
		}
	}
	return out, nil
}

// unpackBlob unpacks a layer from the content store.
func (op *operation) unpackBlob(ctx context.Context, desc ocispec.Descriptor) (*unpacked, error) {
	ra, err := op.content.ReaderAt(ctx, ocispec.Descriptor{Digest: desc.Digest})
	if err != nil {
		return nil, err
	}
	defer ra.Close()
	return op.unpack(ctx, content.NewReader(ra), true)
}

// place puts an unpacked layer on top of parent under its name.
func (op *operation) place(ctx context.Context, u *unpacked, name, parent string) error {
	if parent != "" && len(u.applied.implied) > 0 {
		below, err := op.chainDirs(ctx, parent)
		if err != nil {
			return err
		}
		if err := inherit(u.dir, u.applied.implied, below); err != nil {
			return err
		}
	}
	err := op.snaps.Commit(ctx, name, u.key, snapshots.WithParent(parent))
	if errdefs.IsAlreadyExists(err) {
		// Another image with this layer was faster; ours is as good.
		op.discard(ctx, u)
		return nil
	}
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	u.key = ""
	return nil
}

// chainDirs are the directories of the committed snapshot name and of all
// below it, top first.
func (op *operation) chainDirs(ctx context.Context, name string) ([]string, error) {
	key := op.key("parents")
	mounts, err := op.snaps.View(ctx, key, name)
	if err != nil {
		return nil, err
	}
	dirs, err := op.lowerDirs(mounts)
	return dirs, errors.Join(err, op.snaps.Remove(ctx, key))
}

// lowerDirs takes the directories out of the snapshotter's mounts, top first:
// a bind mount of one directory, or an overlay.
func (s *Store) lowerDirs(mounts []mount.Mount) ([]string, error) {
	if len(mounts) != 1 {
		return nil, fmt.Errorf("the snapshotter answers with %d mounts", len(mounts))
	}
	m := mounts[0]
	if m.Type == "bind" {
		return []string{m.Source}, nil
	}
	for _, o := range m.Options {
		if dirs, ok := strings.CutPrefix(o, "lowerdir="); ok {
			return strings.Split(dirs, ":"), nil // Open takes no root with a ':'
		}
	}
	return nil, fmt.Errorf("the snapshotter's mount of type %q has no lower directories", m.Type)
}

// settle sees to it that layers are on the disk, or are noted to be brought there,
// before their snapshots are called whole.
func (op *operation) settle(us []*unpacked, names []string, layers []ocispec.Descriptor) error {
	if len(us) == 0 {
		return nil
	}
	if !op.later {
		return op.disk.sync()
	}
	var u unsynced
	for i := range us {
		u.Layers = append(u.Layers, unsyncedLayer{Snapshot: names[i], Blob: layers[i].Digest, Diff: us[i].diff})
	}
	return op.syncer.note(op, u)
}
