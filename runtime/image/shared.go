package image

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

// Shared is the store as containerd's libraries know it, for a builder that
// works on the same content and the same snapshots. What it writes stays as
// long as an image, or a lease of its own, leads there.
type Shared struct {
	Namespace   string // that every context must carry
	Snapshotter string // the name of Snapshots
	Content     content.Store
	Snapshots   snapshots.Snapshotter
	Images      images.Store
	Leases      leases.Manager
}

// Shared opens the store to a builder.
func (s *Store) Shared() Shared {
	return Shared{
		Namespace: namespace, Snapshotter: snapshotterName,
		Content: sameLabels{s.content}, Snapshots: aliased{s.snaps, s}, Images: nameStore{s}, Leases: aliasedLeases{s.leases, s},
	}
}

// sameLabels is a content store that writes no labels it has. A builder notes
// with every build where each blob of its base may be had, and each time the
// disk would be waited for.
type sameLabels struct{ content.Store }

func (c sameLabels) Update(ctx context.Context, info content.Info, fields ...string) (content.Info, error) {
	have, err := c.Info(ctx, info.Digest)
	if err != nil {
		return have, err
	}
	for _, f := range fields {
		label, ok := strings.CutPrefix(f, "labels.")
		if want, set := info.Labels[label]; !ok || !set || have.Labels[label] != want {
			return c.Store.Update(ctx, info, fields...)
		}
	}
	if len(fields) == 0 {
		return c.Store.Update(ctx, info)
	}
	return have, nil
}

// nameStore is the store of names as a builder sees it: names are as people write
// them, and an image that loses its name stays, as dangling.
type nameStore struct{ s *Store }

func (n nameStore) Get(ctx context.Context, name string) (images.Image, error) {
	return n.s.images.Get(n.s.context(ctx), name)
}

func (n nameStore) List(ctx context.Context, filters ...string) ([]images.Image, error) {
	return n.s.images.List(n.s.context(ctx), filters...)
}

func (n nameStore) Delete(ctx context.Context, name string, opts ...images.DeleteOpt) error {
	return fmt.Errorf("delete image %s: a builder removes none: %w", name, errdefs.ErrPermissionDenied)
}

func (n nameStore) Create(ctx context.Context, img images.Image) (images.Image, error) {
	return img, n.name(ctx, img)
}

func (n nameStore) Update(ctx context.Context, img images.Image, _ ...string) (images.Image, error) {
	return img, n.name(ctx, img)
}

func (n nameStore) name(ctx context.Context, img images.Image) error {
	n.s.editing.Lock()
	defer n.s.editing.Unlock()
	ctx = n.s.context(ctx)
	return n.s.db.Update(func(tx *bolt.Tx) error {
		ctx := boltutil.WithTransaction(ctx, tx)
		if strings.HasPrefix(img.Name, danglingPrefix) {
			return n.s.keepDangling(ctx, img.Target)
		}
		tag, err := parseTag(img.Name)
		if err != nil {
			return err
		}
		return n.s.setName(ctx, tag.String(), img.Target, "")
	})
}

// DanglingPrefix begins the record of an image without a name, as a builder
// writes it: the prefix, "@" and the digest.
const DanglingPrefix = "<none>"

// Adopt lets a configuration's image run on the snapshot that a builder has
// made its layers in, so that they are not unpacked once more. mounts are those
// of a view of it.
func (s *Store) Adopt(ctx context.Context, config digest.Digest, mounts []mount.Mount) error {
	ctx = s.context(ctx)
	dirs, err := s.lowerDirs(mounts)
	if err != nil {
		return err
	}
	name, err := s.snapshotAt(ctx, dirs[0])
	if err != nil {
		return err
	}
	return s.label(ctx, config, map[string]string{labelRefSnapshot: name})
}

// Adopted says whether a configuration's image has its layers already.
func (s *Store) Adopted(ctx context.Context, config digest.Digest) (bool, error) {
	name, err := s.adopted(s.context(ctx), ocispec.Descriptor{Digest: config})
	return name != "", err
}

// snapshotAt finds the committed snapshot whose files lie in dir.
func (s *Store) snapshotAt(ctx context.Context, dir string) (string, error) {
	id := filepath.Base(filepath.Dir(dir)) // …/snapshots/<id>/fs
	var key string
	err := s.meta.WithTransaction(ctx, false, func(ctx context.Context) error {
		keys, err := storage.IDMap(ctx)
		key = keys[id]
		return err
	})
	if err != nil {
		return "", err
	}
	// The database above calls it <namespace>/<number>/<name>.
	parts := strings.SplitN(key, "/", 3)
	if len(parts) != 3 {
		return "", fmt.Errorf("no snapshot lies in %s: %w", dir, errdefs.ErrNotFound)
	}
	info, err := s.snaps.Stat(ctx, parts[2])
	if err != nil {
		return "", err
	}
	if info.Kind != snapshots.KindCommitted {
		return "", fmt.Errorf("snapshot %s is not whole: %w", parts[2], errdefs.ErrFailedPrecondition)
	}
	return parts[2], nil
}

// adopted is the snapshot that a configuration's label leads to, if it is there.
func (s *Store) adopted(ctx context.Context, config ocispec.Descriptor) (string, error) {
	info, err := s.content.Info(ctx, config.Digest)
	if err != nil {
		return "", err
	}
	name := info.Labels[labelRefSnapshot]
	if name == "" {
		return "", nil
	}
	if _, err := s.snaps.Stat(ctx, name); err != nil {
		if errdefs.IsNotFound(err) {
			return "", nil
		}
		return "", err
	}
	return name, nil
}

// DropLeases ends leases that are not an operation's of this process, and of
// these the ones that gone tells of; a builder's are meant, which may have further
// namespaces of its own.
func (s *Store) DropLeases(ctx context.Context, gone func(namespace string, l leases.Lease) bool) error {
	var all []string
	err := s.bolt.View(func(tx *bolt.Tx) (err error) {
		all, err = metadata.NewNamespaceStore(tx).List(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("list namespaces: %w", err)
	}
	for _, ns := range all {
		ctx := namespaces.WithNamespace(s.context(ctx), ns)
		held, err := s.leases.List(ctx)
		if err != nil {
			return fmt.Errorf("list leases: %w", err)
		}
		for _, l := range held {
			if _, ours := l.Labels[labelOperation]; ours || !gone(ns, l) {
				continue
			}
			if err := s.leases.Delete(ctx, l); err != nil && !errdefs.IsNotFound(err) {
				return fmt.Errorf("end lease %s: %w", l.ID, err)
			}
		}
	}
	return nil
}

// adoptions are the snapshots of images that run on what a builder has made, by
// the chain of their layers.
func (s *Store) adoptions(ctx context.Context) (map[digest.Digest]string, error) {
	byID, err := s.groups(ctx)
	if err != nil {
		return nil, err
	}
	out := map[digest.Digest]string{}
	for _, g := range byID {
		diffs := append([]digest.Digest(nil), g.res.config.RootFS.DiffIDs...)
		if len(diffs) == 0 {
			continue
		}
		if c := identity.ChainID(diffs); g.res.top != layerSnapshot(c) {
			out[c] = g.res.top
		}
	}
	return out, nil
}
