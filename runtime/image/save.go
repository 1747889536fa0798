package image

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Save writes images into an archive that "docker load" and OCI tools read:
// an OCI layout with a manifest.json beside it. Of an index all platforms go
// in that are here. A name goes with the image that has it; a name without a
// tag stands for all of its tags, an id for the image without a name.
//
// Nothing is written before every reference has been found.
func (s *Store) Save(ctx context.Context, w io.Writer, refs []string) error {
	ctx, op, err := s.begin(ctx)
	if err != nil {
		return fmt.Errorf("save: %w", err)
	}
	defer op.end(ctx)
	targets, err := op.toSave(ctx, refs)
	if err != nil {
		return Full(s.dir, err)
	}
	opts := []archive.ExportOpt{
		archive.WithPlatform(platforms.Default()), archive.WithAllPlatforms(), archive.WithSkipMissing(s.content),
	}
	for _, t := range targets {
		opts = append(opts, archive.WithManifest(t.target, t.names...))
	}
	if err := archive.Export(ctx, s.content, w, opts...); err != nil {
		return fmt.Errorf("save: %w", err)
	}
	return nil
}

// saved is one document an archive is to hold, and its names there.
type saved struct {
	target ocispec.Descriptor
	names  []string
}

// toSave finds what references stand for and keeps it from being collected
// while it is written.
func (op *operation) toSave(ctx context.Context, refs []string) ([]saved, error) {
	var out []saved
	add := func(target ocispec.Descriptor, names ...string) error {
		i := slices.IndexFunc(out, func(s saved) bool { return s.target.Digest == target.Digest })
		if i < 0 {
			// The tree below it stays with it: the collection follows its labels.
			if err := op.leases.AddResource(ctx, op.lease, leases.Resource{ID: target.Digest.String(), Type: "content"}); err != nil {
				return fmt.Errorf("hold %s: %w", target.Digest, err)
			}
			i, out = len(out), append(out, saved{target: bare(target)})
		}
		for _, n := range names {
			if !slices.Contains(out[i].names, n) {
				out[i].names = append(out[i].names, n)
			}
		}
		return nil
	}
	for _, ref := range refs {
		tagged, err := op.allTags(ctx, ref)
		if err != nil {
			return nil, err
		}
		for _, r := range tagged {
			if err := add(r.Target, r.Name); err != nil {
				return nil, err
			}
		}
		if len(tagged) > 0 {
			continue
		}
		m, err := op.lookup(ctx, ref)
		if err != nil {
			return nil, err
		}
		var names []string
		for _, r := range m.named {
			if named, err := reference.ParseNormalizedNamed(r.Name); err == nil && !reference.IsNameOnly(named) {
				names = append(names, r.Name)
			}
		}
		if err := add(m.target().Target, names...); err != nil {
			return nil, err
		}
	}
	if len(out) == 0 {
		return nil, classed(errdefs.ErrInvalidArgument, "no image is named to be saved")
	}
	return out, nil
}

// allTags are the records of a name given without a tag.
func (s *Store) allTags(ctx context.Context, ref string) (hits []images.Image, err error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil || !reference.IsNameOnly(named) {
		return nil, nil //nolint:nilerr // it may be an id
	}
	set, err := s.recordSet(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range set.all {
		if other, err := reference.ParseNormalizedNamed(r.Name); err == nil && other.Name() == named.Name() {
			hits = append(hits, r)
		}
	}
	return hits, nil
}
