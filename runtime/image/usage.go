package image

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
)

// Layer is an unpacked layer on the disk. Its Chain names it together with all
// below it, so two images share a layer when its Chain is the same.
type Layer struct {
	Chain digest.Digest
	Size  int64 // of its own files
}

// Layers gives the unpacked layers of every image by its id, bottom first.
func (s *Store) Layers(ctx context.Context) (map[digest.Digest][]Layer, error) {
	ctx = s.context(ctx)
	byID, err := s.groups(ctx)
	if err != nil {
		return nil, err
	}
	sizes := map[digest.Digest]int64{}
	out := make(map[digest.Digest][]Layer, len(byID))
	for id, g := range byID {
		diffs := append([]digest.Digest(nil), g.res.config.RootFS.DiffIDs...)
		for _, chain := range identity.ChainIDs(diffs) {
			size, known := sizes[chain]
			if !known {
				u, err := s.snaps.Usage(ctx, layerSnapshot(chain))
				if err != nil && !errdefs.IsNotFound(err) { // not unpacked: nothing
					return nil, fmt.Errorf("size of layer %s: %w", chain, err)
				}
				size = u.Size
				sizes[chain] = size
			}
			out[id] = append(out[id], Layer{chain, size})
		}
	}
	return out, nil
}

// Sizes is what a set of images takes on the disk.
type Sizes struct {
	Total  int64                   // of all layers, each once
	Shared map[digest.Digest]int64 // by image: of its layers that another image has too
}

// SizesOf adds up layers. It is pure.
func SizesOf(layers map[digest.Digest][]Layer) Sizes {
	users := map[digest.Digest]int{}
	for _, ls := range layers {
		for _, l := range ls {
			users[l.Chain]++
		}
	}
	out := Sizes{Shared: map[digest.Digest]int64{}}
	counted := map[digest.Digest]bool{}
	for id, ls := range layers {
		out.Shared[id] = 0
		for _, l := range ls {
			if users[l.Chain] > 1 {
				out.Shared[id] += l.Size
			}
			if !counted[l.Chain] {
				counted[l.Chain] = true
				out.Total += l.Size
			}
		}
	}
	return out
}
