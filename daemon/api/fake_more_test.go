package api

import (
	"context"
	"io"

	"gantry/network"
	"gantry/runtime"
	"gantry/runtime/image"
	"gantry/runtime/volume"

	"github.com/opencontainers/go-digest"
)

func (f *fake) Update(_ context.Context, ref string, o runtime.UpdateOptions) error {
	f.mu.Lock()
	f.updated = o
	f.mu.Unlock()
	return f.change("update", ref)
}

func (f *fake) Size(_ context.Context, ref string) (runtime.Sizes, error) {
	c, err := f.Inspect(ref)
	return runtime.Sizes{Own: int64(len(c.Name)), Root: 1000 + int64(len(c.Name))}, err
}

func (f *fake) LogSize(ref string) (int64, error) {
	c, err := f.Inspect(ref)
	return 10 * int64(len(c.Name)), err
}

func (f *fake) VolumeSize(_ context.Context, name string) (int64, error) {
	_, err := f.Volume(name)
	return int64(len(name)), err
}

// ImageLayers are a kilobyte each; an image without layers has a blob.
func (f *fake) ImageLayers(context.Context) (map[digest.Digest][]image.Layer, error) {
	out := map[digest.Digest][]image.Layer{}
	for _, img := range f.images {
		for _, l := range img.Layers {
			out[img.ID] = append(out[img.ID], image.Layer{Name: l.String(), Size: 1000})
		}
		if len(img.Layers) == 0 {
			out[img.ID] = []image.Layer{{Name: img.ID.String(), Size: 5, Packed: true}}
		}
	}
	return out, nil
}

func (f *fake) PruneContainers(_ context.Context, want func(runtime.Container) bool) (gone []string, bytes int64, err error) {
	for _, c := range f.List() {
		if !c.State.Live() && want(c) {
			gone = append(gone, c.ID)
		}
	}
	return gone, 7, f.fail
}

func (f *fake) PruneImages(_ context.Context, want func(image.Image) bool) (gone []image.Removed, bytes int64, err error) {
	for _, img := range f.images {
		if want(img) {
			gone = append(gone, image.Removed{Deleted: img.ID.String()})
		}
	}
	return gone, 8, f.fail
}

func (f *fake) PruneNetworks(_ context.Context, want func(network.Network) bool) (gone []string, err error) {
	for _, n := range f.networks {
		if want(n) {
			gone = append(gone, n.Name)
		}
	}
	return gone, f.fail
}

func (f *fake) PruneVolumes(_ context.Context, want func(volume.Volume) bool) (gone []string, bytes int64, err error) {
	for _, v := range f.volumes {
		if want(v) {
			gone = append(gone, v.Name)
		}
	}
	return gone, 9, f.fail
}

func (f *fake) SaveImages(ctx context.Context, w io.Writer, refs []string) error {
	for _, ref := range refs {
		if _, err := f.Image(ctx, ref); err != nil {
			return err
		}
	}
	if err := f.note("save %v", refs); err != nil {
		return err
	}
	_, err := io.WriteString(w, "tar")
	return err
}

func (f *fake) Commit(_ context.Context, ref string, o runtime.CommitOptions) (image.Image, error) {
	f.mu.Lock()
	f.committed = o
	f.mu.Unlock()
	return image.Image{ID: "sha256:new"}, f.change("commit", ref)
}
