package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"gantry/network"
	"gantry/runtime/image"
	"gantry/runtime/spec"
	"gantry/runtime/volume"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// Images, networks and volumes belong to their own packages. What passes
// through here is what needs to know of containers too: who uses an object,
// and whom to tell.

// ImportImage makes an image of a root filesystem.
func (e *Engine) ImportImage(ctx context.Context, r io.Reader, o image.ImportOptions) (image.Image, error) {
	img, err := e.Images.Import(ctx, r, o)
	if err != nil {
		e.collectImages()
		return img, err
	}
	e.emitImage(img, "import", o.Name)
	return img, nil
}

// collectImages frees what no image and no container needs any more, in the
// background. Calls that come while a collection is due are the same one.
func (e *Engine) collectImages() {
	if !e.complete || !e.collector.CompareAndSwap(false, true) {
		return
	}
	e.spawn(func() {
		e.collector.Store(false)
		// Not to be broken off: the library would leave a goroutine behind.
		if err := e.collect(e.ctx); err != nil {
			e.Log.Error("collect images", "error", err)
		}
	})
}

// CollectImages frees, now, what no image and no container needs any more.
func (e *Engine) CollectImages(ctx context.Context) error {
	if !e.complete {
		return nil // somebody may need what is known to nobody
	}
	return e.collect(ctx)
}

// collect makes room, so it may have the spare.
func (e *Engine) collect(ctx context.Context) error {
	collect := func() error { return e.Images.Collect(context.WithoutCancel(ctx)) }
	return e.onSpare(collect(), collect)
}

// ImageBuilt tells of an image that a build has stored.
func (e *Engine) ImageBuilt(img image.Image) { e.emitImage(img, "tag", firstName(img)) }

// BuilderPruned tells what a call has freed of the build cache.
func (e *Engine) BuilderPruned(bytes int64) { e.pruned("builder", bytes) }

// LoadImages takes in an archive of images.
func (e *Engine) LoadImages(ctx context.Context, r io.Reader, report func(string)) ([]image.Image, error) {
	all, err := e.Images.Load(ctx, r, report)
	if err != nil {
		e.collectImages()
	}
	for _, img := range all {
		e.emitImage(img, "load", firstName(img))
	}
	return all, err
}

// SaveImages writes images into an archive. What can be said against it is said
// before the first byte.
func (e *Engine) SaveImages(ctx context.Context, w io.Writer, refs []string) error {
	if err := e.Images.Save(ctx, w, refs); err != nil {
		return err
	}
	for _, ref := range refs {
		if img, err := e.Images.Get(ctx, ref); err == nil {
			e.emitImage(img, "save", ref)
		}
	}
	return nil
}

// emitImage publishes an image's event with its labels and a name.
func (e *Engine) emitImage(img image.Image, action, name string) {
	labels := img.Config.Config.Labels
	attrs := make(map[string]string, len(labels)+1)
	maps.Copy(attrs, labels)
	attrs["name"] = name
	e.emitObject("image", action, img.ID.String(), attrs)
}

func firstName(img image.Image) string {
	if len(img.Names) > 0 {
		return img.Names[0]
	}
	return img.ID.String()
}

// Image returns one image.
func (e *Engine) Image(ctx context.Context, ref string) (image.Image, error) {
	return e.Images.Get(ctx, ref)
}

// ListImages returns every image, the newest first.
func (e *Engine) ListImages(ctx context.Context) ([]image.Image, error) { return e.Images.List(ctx) }

// TagImage gives an image a further name.
func (e *Engine) TagImage(ctx context.Context, ref, name string) error {
	if err := e.Images.Tag(ctx, ref, name); err != nil {
		return err
	}
	img, err := e.Images.Get(ctx, name)
	if err == nil {
		e.emitImage(img, "tag", name)
	}
	return err
}

// RemoveImage takes names away and deletes an image that has none left and no
// container.
func (e *Engine) RemoveImage(ctx context.Context, ref string, force bool) ([]image.Removed, error) {
	gone, err := e.takeImage(ctx, ref, image.RemoveOptions{
		Force: force,
		InUse: func(id digest.Digest) (users []image.User) {
			for _, c := range e.imageUsers(id.String()) {
				users = append(users, image.User{ID: c.ID, Name: c.Name, Running: c.State.Live()})
			}
			return users
		},
	})
	e.tellRemoved(gone)
	if len(gone) > 0 {
		e.collectImages()
	}
	return gone, err
}

// takeImage removes an image, or a name of one.
func (e *Engine) takeImage(ctx context.Context, ref string, o image.RemoveOptions) ([]image.Removed, error) {
	var gone []image.Removed
	remove := func() (err error) {
		gone, err = e.Images.Remove(ctx, ref, o)
		return err
	}
	err := e.onSpare(remove(), remove)
	return gone, err
}

// tellRemoved tells which names and images are gone.
func (e *Engine) tellRemoved(gone []image.Removed) {
	for _, g := range gone {
		if g.Deleted != "" {
			e.emitObject("image", "delete", g.Deleted, map[string]string{"name": g.Deleted})
		} else {
			e.emitObject("image", "untag", g.Image, map[string]string{"name": g.Untagged})
		}
	}
}

// CreateNetwork makes a network.
func (e *Engine) CreateNetwork(ctx context.Context, s network.Spec) (network.Network, error) {
	n, err := e.Fabric.CreateNetwork(ctx, s)
	if err == nil {
		e.emitObject("network", "create", n.ID, map[string]string{"name": n.Name, "type": n.Driver})
	}
	return n, err
}

// RemoveNetwork removes a network nobody is on.
func (e *Engine) RemoveNetwork(ctx context.Context, ref string) error {
	n, err := e.Fabric.Network(ref)
	if err != nil {
		return err
	}
	if err := e.Fabric.RemoveNetwork(ctx, n.ID); err != nil {
		return err
	}
	e.emitObject("network", "destroy", n.ID, map[string]string{"name": n.Name, "type": n.Driver})
	return nil
}

// Network returns one network.
func (e *Engine) Network(ref string) (network.Network, error) { return e.Fabric.Network(ref) }

// ListNetworks returns every network.
func (e *Engine) ListNetworks() []network.Network { return e.Fabric.Networks() }

// Attached lists the endpoints on a network.
func (e *Engine) Attached(id string) []network.EndpointInfo { return e.Fabric.Attached(id) }

// ConnectNetwork puts a container on a further network, now if it is live and
// at every start.
func (e *Engine) ConnectNetwork(ctx context.Context, ref, net string, ep spec.Endpoint) error {
	ct, err := e.find(ref)
	if err != nil {
		return err
	}
	n, err := e.Fabric.Network(net)
	if err != nil {
		return err
	}
	ct.op.Lock()
	defer ct.op.Unlock()
	c := ct.snapshot()
	// One that was taken off its last network is on none, and not for good.
	bare := c.Config.Network.Mode == "none" && c.Asked.Network.Mode != "none"
	if c.Removal != nil {
		return beingRemoved(c)
	}
	if !ownNetwork(c.Config.Network.Mode) || c.Config.Network.Mode == "none" && !bare {
		return fmt.Errorf("connect %s to network %s: its network mode is %q: %w", c.Name, n.Name, c.Config.Network.Mode, errdefs.ErrFailedPrecondition)
	}
	if slices.ContainsFunc(c.Config.Network.Endpoints, func(x spec.Endpoint) bool { return x.Network == n.Name || x.Network == n.ID }) {
		return fmt.Errorf("endpoint with name %s already exists in network %s: %w", c.Name, n.Name, errdefs.ErrPermissionDenied)
	}
	ep.Network = n.Name
	var joined network.Joined
	if c.State.Live() {
		if joined, err = e.Fabric.Connect(ctx, c.ID, e.endpoint(c, ep)); err != nil {
			return err
		}
	}
	now, err := e.update(ct, synced|whole, func(c *Container) {
		c.Config.Network.Endpoints = append(slices.Clip(slices.Clone(c.Config.Network.Endpoints)), ep)
		if bare {
			c.Config.Network.Mode = ""
		}
		if c.State.Live() {
			c.Networks = append(slices.Clip(slices.Clone(c.Networks)), joined)
		}
	})
	if err != nil {
		if c.State.Live() {
			err = errors.Join(err, e.Fabric.Disconnect(context.WithoutCancel(ctx), c.ID, n.ID))
		}
		return err
	}
	if !now.State.Live() {
		return nil // its start tells of it
	}
	err = e.writeHosts(now, now.Networks)
	e.emitObject("network", "connect", n.ID, map[string]string{"container": c.ID, "name": n.Name, "type": n.Driver})
	return err
}

// DisconnectNetwork takes a container off a network.
func (e *Engine) DisconnectNetwork(ctx context.Context, ref, net string) error {
	ct, err := e.find(ref)
	if err != nil {
		return err
	}
	n, err := e.Fabric.Network(net)
	if err != nil {
		return err
	}
	ct.op.Lock()
	defer ct.op.Unlock()
	c := ct.snapshot()
	on := func(x spec.Endpoint) bool { return x.Network == n.Name || x.Network == n.ID }
	if !slices.ContainsFunc(c.Config.Network.Endpoints, on) {
		return fmt.Errorf("container %s is not connected to network %s: %w", c.Name, n.Name, errdefs.ErrFailedPrecondition)
	}
	if c.State.Live() {
		if err := e.Fabric.Disconnect(ctx, c.ID, n.ID); err != nil {
			return err
		}
	}
	now, err := e.update(ct, synced|whole|fact, func(c *Container) {
		c.Config.Network.Endpoints = slices.DeleteFunc(slices.Clone(c.Config.Network.Endpoints), on)
		c.Networks = slices.DeleteFunc(slices.Clone(c.Networks), func(j network.Joined) bool { return j.NetworkID == n.ID })
		if len(c.Config.Network.Endpoints) == 0 {
			c.Config.Network.Mode = "none"
		}
	})
	if err != nil {
		return err
	}
	if now.State.Live() {
		err = e.writeHosts(now, now.Networks)
	}
	e.emitObject("network", "disconnect", n.ID, map[string]string{"container": c.ID, "name": n.Name, "type": n.Driver})
	return err
}

// CreateVolume makes a volume, or finds it.
func (e *Engine) CreateVolume(ctx context.Context, v volume.Volume) (volume.Volume, error) {
	_, before := e.Volumes.Get(v.Name)
	v, err := e.Volumes.Create(ctx, v)
	if err == nil && before != nil {
		e.emitObject("volume", "create", v.Name, map[string]string{"driver": v.Driver})
	}
	return v, err
}

// Volume returns one volume.
func (e *Engine) Volume(name string) (volume.Volume, error) { return e.Volumes.Get(name) }

// ListVolumes returns every volume.
func (e *Engine) ListVolumes() []volume.Volume { return e.Volumes.List() }

// VolumeUsers are the names of the containers that mount a volume.
func (e *Engine) VolumeUsers(name string) []string {
	var names []string
	for _, c := range e.volumeUsers(name) {
		names = append(names, c.Name)
	}
	return names
}

func (e *Engine) volumeUsers(name string) []Container {
	var users []Container
	for _, ct := range e.all() {
		c := ct.snapshot()
		if slices.ContainsFunc(c.Mounts, func(m MountPoint) bool { return m.Name == name }) {
			users = append(users, c)
		}
	}
	return users
}

// RemoveVolume deletes a volume that no container mounts. With force one that
// is not there is no error.
func (e *Engine) RemoveVolume(ctx context.Context, name string, force bool) error {
	v, err := e.Volumes.Get(name)
	if err != nil {
		if force && errors.Is(err, errdefs.ErrNotFound) {
			return nil
		}
		return err
	}
	done, ok := e.uses.leave(volumeOf(name))
	if !ok {
		return fmt.Errorf("remove %s: volume is in use by a container that is being created: %w", name, errdefs.ErrConflict)
	}
	defer done()
	if users := e.VolumeUsers(name); len(users) > 0 {
		return fmt.Errorf("remove %s: volume is in use - [%s]; remove those containers first: %w", name, strings.Join(users, ", "), errdefs.ErrConflict)
	}
	if err := e.Volumes.Remove(ctx, name, force); err != nil {
		return err
	}
	e.emitObject("volume", "destroy", name, map[string]string{"driver": v.Driver})
	return nil
}
