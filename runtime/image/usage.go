package image

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Layer is something on the disk that an image consists of. Its Name is that of
// its snapshot or the digest of its blob: images that have the same name in
// common share it.
type Layer struct {
	Name string
	Size int64
	// Packed is a blob as it came, a layer or a document; else it is a layer's
	// files.
	Packed bool
}

// Layers gives, by the id of each image, its unpacked layers, bottom first, and
// then its blobs.
func (s *Store) Layers(ctx context.Context) (map[digest.Digest][]Layer, error) {
	ctx = s.context(ctx)
	byID, err := s.groups(ctx)
	if err != nil {
		return nil, err
	}
	known := map[string]layerInfo{}
	out := make(map[digest.Digest][]Layer, len(byID))
	for id, g := range byID {
		for name := g.res.top; name != ""; {
			l, ok := known[name]
			if !ok {
				if l, err = s.layer(ctx, name); err != nil {
					return nil, fmt.Errorf("size of layer %s: %w", name, err)
				}
				known[name] = l
			}
			out[id] = append(out[id], Layer{Name: name, Size: l.size})
			name = l.parent
		}
		slices.Reverse(out[id])
		blobs, err := s.blobsOf(ctx, g)
		if err != nil {
			return nil, fmt.Errorf("content of image %s: %w", short(id), err)
		}
		out[id] = append(out[id], blobs...)
	}
	return out, nil
}

type layerInfo struct {
	parent string
	size   int64
}

// layer looks at a snapshot; one that is not unpacked has no size and nothing
// below it.
func (s *Store) layer(ctx context.Context, name string) (layerInfo, error) {
	info, err := s.snaps.Stat(ctx, name)
	if errdefs.IsNotFound(err) {
		return layerInfo{}, nil
	} else if err != nil {
		return layerInfo{}, err
	}
	u, err := s.snaps.Usage(ctx, name)
	return layerInfo{info.Parent, u.Size}, err
}

// blobsOf are the blobs an image's records reach, as far as they are here: of
// an index those of all platforms, and what else it lists.
func (s *Store) blobsOf(ctx context.Context, g *group) ([]Layer, error) {
	var out []Layer
	seen := map[digest.Digest]bool{}
	walk := images.HandlerFunc(func(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		if seen[d.Digest] || len(seen) > maxManifests*maxLayers {
			return nil, images.ErrSkipDesc
		}
		seen[d.Digest] = true
		info, err := s.content.Info(ctx, d.Digest)
		if errdefs.IsNotFound(err) {
			return nil, images.ErrSkipDesc // another platform's
		} else if err != nil {
			return nil, err
		}
		out = append(out, Layer{Name: d.Digest.String(), Size: info.Size, Packed: true})
		var below []ocispec.Descriptor
		for key, value := range info.Labels {
			if strings.HasPrefix(key, labelRefContent) {
				below = append(below, ocispec.Descriptor{Digest: digest.Digest(value)})
			}
		}
		return below, nil
	})
	for _, r := range g.records {
		if err := images.Walk(ctx, walk, r.Target); err != nil && !errdefs.IsNotFound(err) {
			return nil, err
		}
	}
	return out, nil
}

// Stored gives the size of everything in the store by its name: snapshots and
// blobs, whoever has them. active asks for snapshots that are still being
// written as well, which takes a walk through each.
func (s *Store) Stored(ctx context.Context, active bool) (map[string]int64, error) {
	ctx = s.context(ctx)
	out := map[string]int64{}
	err := s.content.Walk(ctx, func(info content.Info) error {
		out[info.Digest.String()] = info.Size
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list content: %w", err)
	}
	var names []string
	err = s.snaps.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if info.Kind == snapshots.KindCommitted || info.Kind == snapshots.KindActive && active {
			names = append(names, info.Name)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	for _, name := range names {
		u, err := s.snaps.Usage(ctx, name)
		if errdefs.IsNotFound(err) {
			continue // gone meanwhile
		} else if err != nil {
			return nil, fmt.Errorf("size of snapshot %s: %w", name, err)
		}
		out[name] = u.Size
	}
	return out, nil
}

// Freed adds up what was stored before and is not now. It is pure.
func Freed(before, after map[string]int64) (bytes int64) {
	for name, size := range before {
		if _, kept := after[name]; !kept {
			bytes += size
		}
	}
	return bytes
}

// Sizes is what a set of images takes on the disk.
type Sizes struct {
	Total  int64                   // of all layers, each once
	Each   map[digest.Digest]int64 // by image: of all it has
	Shared map[digest.Digest]int64 // by image: of its layers that another image has too
}

// SizesOf adds up layers. It is pure.
func SizesOf(layers map[digest.Digest][]Layer) Sizes {
	users := map[string]int{}
	for _, ls := range layers {
		own := map[string]bool{}
		for _, l := range ls {
			if !own[l.Name] {
				own[l.Name] = true
				users[l.Name]++
			}
		}
	}
	out := Sizes{Each: map[digest.Digest]int64{}, Shared: map[digest.Digest]int64{}}
	counted := map[string]bool{}
	for id, ls := range layers {
		own := map[string]bool{}
		out.Each[id], out.Shared[id] = 0, 0
		for _, l := range ls {
			if own[l.Name] {
				continue
			}
			own[l.Name] = true
			out.Each[id] += l.Size
			if users[l.Name] > 1 {
				out.Shared[id] += l.Size
			}
			if !counted[l.Name] {
				counted[l.Name] = true
				out.Total += l.Size
			}
		}
	}
	return out
}

// Unpacked are the layers' files alone, without the blobs they came in.
func Unpacked(layers map[digest.Digest][]Layer) map[digest.Digest][]Layer {
	out := make(map[digest.Digest][]Layer, len(layers))
	for id, ls := range layers {
		out[id] = slices.DeleteFunc(slices.Clone(ls), func(l Layer) bool { return l.Packed })
	}
	return out
}

// Only adds up what these images have and no other. It is pure.
func Only(layers map[digest.Digest][]Layer, these func(digest.Digest) bool) (bytes int64) {
	others, counted := map[string]bool{}, map[string]bool{}
	for id, ls := range layers {
		if !these(id) {
			for _, l := range ls {
				others[l.Name] = true
			}
		}
	}
	for id, ls := range layers {
		if !these(id) {
			continue
		}
		for _, l := range ls {
			if !others[l.Name] && !counted[l.Name] {
				counted[l.Name] = true
				bytes += l.Size
			}
		}
	}
	return bytes
}
