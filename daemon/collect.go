package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"gantry/runtime"
	"gantry/runtime/build"
	"gantry/runtime/image"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// collector keeps the build cache and the images without a name below a budget.
// It looks when something may have grown, never by the clock, but once more when
// what was too young has had the time to become old enough.
type collector struct {
	budget Budget
	root   string
	settle time.Duration // from what has grown to the look
	gap    time.Duration // between two looks
	images imageCollection
	cache  cacheCollection
	kept   func() (map[string]bool, error) // ids of images that projects may go back to
	log    *slog.Logger

	kick chan struct{}
}

// What a collector needs of those it collects from.
type (
	imageCollection interface {
		List() []runtime.Container
		ListImages(ctx context.Context) ([]image.Image, error)
		ImageLayers(ctx context.Context) (map[digest.Digest][]image.Layer, error)
		RemoveImage(ctx context.Context, ref string, force bool) ([]image.Removed, error)
		CollectImages(ctx context.Context) error
		Events(ctx context.Context, q runtime.EventQuery, each func(runtime.Event) error) error
	}
	cacheCollection interface {
		Cache(ctx context.Context, f build.Filter) ([]build.Record, error)
		Prune(ctx context.Context, p build.PruneOptions) ([]build.Record, int64, error)
	}
)

// Builds and pulls come in bursts, a look reads the sizes of all that is stored,
// and what a build has used is in use for a moment longer.
const (
	collectSettle = time.Second
	collectGap    = time.Minute
)

// grown has the collector look, soon.
func (c *collector) grown() {
	select {
	case c.kick <- struct{}{}:
	default: // it is about to
	}
}

// run collects until ctx ends.
func (c *collector) run(ctx context.Context) {
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		for ctx.Err() == nil && c.listen(ctx) != nil {
			c.grown() // what it fell behind on
		}
	}()
	later := time.AfterFunc(time.Hour, c.grown)
	later.Stop()
	defer func() { later.Stop(); <-listening }()
	for {
		select {
		case <-c.kick:
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(c.settle):
		case <-ctx.Done():
			return
		}
		select { // what came meanwhile is seen now
		case <-c.kick:
		default:
		}
		again, err := c.collect(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			c.log.Error("collect build cache and images without a name", "error", err)
		}
		if again > 0 {
			later.Reset(again)
		}
		select {
		case <-time.After(c.gap):
		case <-ctx.Done():
			return
		}
	}
}

// listen waits for images to come in, be it over an image that loses its name.
func (c *collector) listen(ctx context.Context) error {
	return c.images.Events(ctx, runtime.EventQuery{}, func(e runtime.Event) error {
		switch e.Type + " " + e.Action {
		case "image import", "image load", "image pull", "image tag", "container commit":
			c.grown()
		}
		return nil
	})
}

// usage is what there is to collect and how much room there is.
type usage struct {
	size, free int64           // of the disk
	cache      int64           // build cache that no image has
	nameless   int64           // of images without a name
	old        []digest.Digest // those of them that may go
	young      bool            // some of either may go later
}

// over is by how much the budget is exceeded. It is pure.
func (u usage) over(b bounds) int64 {
	return max(u.cache+u.nameless-b.maxUsed, b.minFree-u.free, 0)
}

// collect removes what is over the budget: first images without a name, which
// nothing can ask for any more but by their ids, then build cache, the longest
// unused first. again says when to look anew, 0: when something has grown.
func (c *collector) collect(ctx context.Context) (again time.Duration, err error) {
	u, b, err := c.look(ctx)
	if err != nil || u.over(b) == 0 {
		return 0, err
	}
	before := u.free
	for _, id := range u.old {
		// Whoever has taken it into use meanwhile keeps it.
		if _, err := c.images.RemoveImage(ctx, id.String(), false); err != nil {
			c.log.Debug("an image without a name stays", "image", id, "reason", err)
		}
	}
	if len(u.old) > 0 {
		if err := c.images.CollectImages(ctx); err != nil {
			return 0, err
		}
		if u, b, err = c.look(ctx); err != nil {
			return 0, err
		}
	}
	if over := u.over(b); over > 0 && u.cache > 0 {
		_, _, err := c.cache.Prune(ctx, build.PruneOptions{
			// A byte, since none means that there is no bound.
			Filter: build.Filter{Unused: b.unused}, Max: max(u.cache-over, 1),
		})
		if err != nil {
			return 0, err
		}
		if u, b, err = c.look(ctx); err != nil {
			return 0, err
		}
	}
	if u.free > before {
		c.log.Info("collected build cache and images without a name", "bytes", u.free-before)
	}
	if u.over(b) > 0 && u.young {
		return b.unused + time.Second, nil
	}
	return 0, nil
}

// look measures.
func (c *collector) look(ctx context.Context) (u usage, b bounds, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(c.root, &st); err != nil {
		return u, b, fmt.Errorf("size of the disk with %s: %w", c.root, err)
	}
	u.size, u.free = int64(st.Blocks)*int64(st.Bsize), int64(st.Bavail)*int64(st.Bsize) //nolint:unconvert,gosec // differ between machines
	if b, err = c.budget.on(u.size); err != nil {
		return u, b, err
	}
	now := time.Now()
	records, err := c.cache.Cache(ctx, build.Filter{})
	if err != nil {
		return u, b, err
	}
	for _, r := range records {
		if r.Shared {
			continue
		}
		u.cache += max(r.Size, 0)
		u.young = u.young || r.InUse || r.LastUsed.After(now.Add(-b.unused))
	}
	all, err := c.images.ListImages(ctx)
	if err != nil {
		return u, b, err
	}
	used := map[string]bool{}
	for _, ct := range c.images.List() {
		used[ct.Config.ImageID] = true
	}
	all = slices.DeleteFunc(all, func(img image.Image) bool {
		return len(img.Names) > 0 || len(img.Digests) > 0 || used[img.ID.String()]
	})
	all = c.unasked(all)
	nameless := map[digest.Digest]bool{}
	for _, img := range all {
		nameless[img.ID] = true
		if img.Tagged.After(now.Add(-b.unused)) {
			u.young = true
		} else {
			u.old = append(u.old, img.ID)
		}
	}
	if len(nameless) > 0 {
		layers, err := c.images.ImageLayers(ctx)
		if err != nil {
			return u, b, err
		}
		u.nameless = image.Only(layers, func(id digest.Digest) bool { return nameless[id] })
	}
	return u, b, nil
}

// unasked are those images that no goal, and nothing that a project's history can
// go back to, asks for by its id. Where that is not known there are none.
func (c *collector) unasked(images []image.Image) []image.Image {
	if len(images) == 0 {
		return nil
	}
	kept, err := c.kept()
	if err != nil {
		c.log.Error("images without a name stay: it cannot be read which of them projects may go back to", "error", err)
		return nil
	}
	return slices.DeleteFunc(images, func(img image.Image) bool {
		return kept[img.ID.String()] || kept[img.Target.String()] || kept[img.Manifest.String()]
	})
}
