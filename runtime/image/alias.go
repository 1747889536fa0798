package image

import (
	"context"
	"strings"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// A builder looks for a layer under the name that its chain has. An image that
// was built runs on snapshots with names of the builder's own, which it forgets
// when its cache is pruned. So that it finds them all the same, and unpacks
// nothing a second time, the name of the chain stands for the snapshot that was
// adopted.

// aliased are snapshots that are found by the name of their chain, too.
type aliased struct {
	snapshots.Snapshotter
	s *Store
}

// actual is what a name stands for: itself, if there is such a snapshot.
func (s *Store) actual(ctx context.Context, name string) (string, error) {
	rest, ok := strings.CutPrefix(name, layerPrefix)
	if !ok {
		return name, nil
	}
	if _, err := s.snaps.Stat(ctx, name); !errdefs.IsNotFound(err) {
		return name, err
	}
	algorithm, hex, _ := strings.Cut(rest, "-")
	adopted, err := s.adoptions(ctx)
	if err != nil {
		return name, err
	}
	other := adopted[digest.NewDigestFromEncoded(digest.Algorithm(algorithm), hex)]
	if other == "" {
		return name, nil
	}
	return other, nil
}

func (a aliased) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	name, err := a.s.actual(ctx, key)
	if err != nil {
		return snapshots.Info{}, err
	}
	info, err := a.Snapshotter.Stat(ctx, name)
	if err == nil {
		info.Name = key
	}
	return info, err
}

func (a aliased) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	name, err := a.s.actual(ctx, key)
	if err != nil {
		return snapshots.Usage{}, err
	}
	return a.Snapshotter.Usage(ctx, name)
}

func (a aliased) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	name, err := a.s.actual(ctx, parent)
	if err != nil {
		return nil, err
	}
	if _, err := a.s.onDisk(ctx, name); err != nil {
		return nil, err
	}
	return a.Snapshotter.Prepare(ctx, key, name, opts...)
}

func (a aliased) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	name, err := a.s.actual(ctx, parent)
	if err != nil {
		return nil, err
	}
	if _, err := a.s.onDisk(ctx, name); err != nil {
		return nil, err
	}
	return a.Snapshotter.View(ctx, key, name, opts...)
}

// aliasedLeases hold the snapshot that a name stands for.
type aliasedLeases struct {
	leases.Manager
	s *Store
}

func (a aliasedLeases) AddResource(ctx context.Context, l leases.Lease, r leases.Resource) error {
	if r.Type == "snapshots/"+snapshotterName {
		name, err := a.s.actual(ctx, r.ID)
		if err != nil {
			return err
		}
		r.ID = name
	}
	return a.Manager.AddResource(ctx, l, r)
}
