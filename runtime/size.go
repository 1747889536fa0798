package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"gantry/runtime/image"
	"gantry/runtime/logs"
	"gantry/runtime/rootfs"
	"gantry/runtime/volume"

	"github.com/opencontainers/go-digest"
)

// Sizes of a container are bytes on the disk.
type Sizes struct {
	Own  int64 // of its own layer: what it has written and deleted
	Root int64 // of its whole root filesystem
}

// walks is how many directory trees are counted at a time: counting reads a
// whole tree, and must not keep everybody else from the disk.
const walks = 2

// tree counts the bytes below a directory.
func (e *Engine) tree(ctx context.Context, dir string) (int64, error) {
	select {
	case e.sizing <- struct{}{}:
		defer func() { <-e.sizing }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	n, err := rootfs.Usage(ctx, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil // never started, or gone meanwhile
	}
	return n, err
}

// Size counts what a container takes on the disk. It reads the container's
// whole layer.
func (e *Engine) Size(ctx context.Context, ref string) (Sizes, error) {
	ct, err := e.find(ref)
	if err != nil {
		return Sizes{}, err
	}
	c := ct.snapshot()
	own, err := e.ownSize(ctx, c)
	if err != nil {
		return Sizes{}, err
	}
	s := Sizes{Own: own, Root: own}
	// An image without a name or record any more has no size to tell.
	if img, err := e.Images.Get(ctx, c.Config.ImageID); err == nil {
		s.Root += img.Size
	}
	return s, nil
}

func (e *Engine) ownSize(ctx context.Context, c Container) (int64, error) {
	n, err := e.tree(ctx, filepath.Join(e.rec.dir(c.ID), "upper"))
	if err != nil {
		return 0, fmt.Errorf("size of container %s: %w", c.Name, err)
	}
	return n, nil
}

// VolumeSize counts what a volume takes on the disk; -1 for one whose content
// lies elsewhere.
func (e *Engine) VolumeSize(ctx context.Context, name string) (int64, error) {
	v, err := e.Volumes.Get(name)
	if err != nil {
		return 0, err
	}
	if v.Driver != volume.DriverLocal || len(v.Options) > 0 {
		return -1, nil
	}
	n, err := e.tree(ctx, v.Mountpoint)
	if err != nil {
		return 0, fmt.Errorf("size of volume %s: %w", name, err)
	}
	return n, nil
}

// LogSize counts what a container's log takes on the disk, with the older files
// beside it.
func (e *Engine) LogSize(ref string) (int64, error) {
	ct, err := e.find(ref)
	if err != nil {
		return 0, err
	}
	c := ct.snapshot()
	n, err := logs.Size(c.LogPath)
	if err != nil {
		return 0, fmt.Errorf("size of the log of container %s: %w", c.Name, err)
	}
	return n, nil
}

// ImageLayers gives what every image has on the disk, by its id.
func (e *Engine) ImageLayers(ctx context.Context) (map[digest.Digest][]image.Layer, error) {
	return e.Images.Layers(ctx)
}
