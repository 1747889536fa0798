package runtime

import (
	"context"
	"errors"
	"slices"
	"strconv"

	"gantry/network"
	"gantry/runtime/image"
	"gantry/runtime/volume"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// Pruning removes what nobody uses, of that what the caller wants gone. What is
// taken into use meanwhile stays; what cannot be removed is reported and does
// not save the rest.

// PruneContainers removes containers that have no process and will get none by
// themselves. It gives their ids and the bytes their layers took.
func (e *Engine) PruneContainers(ctx context.Context, want func(Container) bool) (gone []string, bytes int64, err error) {
	var errs []error
	for _, c := range e.List() {
		if c.State.Live() || c.State == Restarting || c.State == Removing || !want(c) {
			continue
		}
		if ctx.Err() != nil {
			errs = append(errs, ctx.Err())
			break
		}
		size, err := e.ownSize(ctx, c)
		if err == nil {
			err = e.Remove(ctx, c.ID, RemoveOptions{})
		}
		switch {
		case err == nil:
			gone, bytes = append(gone, c.ID), bytes+size
		case errdefs.IsNotFound(err), errdefs.IsConflict(err): // it has gone or was started
		default:
			errs = append(errs, err)
		}
	}
	e.pruned("container", bytes)
	return gone, bytes, errors.Join(errs...)
}

// PruneImages removes images that no container is made from. It gives what
// happened and the bytes that the disk has back: what another image has too, or
// the build cache, stays.
func (e *Engine) PruneImages(ctx context.Context, want func(image.Image) bool) (gone []image.Removed, bytes int64, err error) {
	before, err := e.Images.Stored(ctx, false)
	if err != nil {
		return nil, 0, err
	}
	all, err := e.Images.List(ctx)
	if err != nil {
		return nil, 0, err
	}
	var errs []error
	for _, img := range all {
		if len(e.imageUsers(img.ID.String())) > 0 || !want(img) {
			continue
		}
		if ctx.Err() != nil {
			errs = append(errs, ctx.Err())
			break
		}
		removed, err := e.takeImage(ctx, img.ID.String(), image.RemoveOptions{
			Force: true, // with all its names
			InUse: func(id digest.Digest) (users []image.User) {
				for _, c := range e.imageUsers(id.String()) {
					// Any user saves it, as a running one does from force.
					users = append(users, image.User{ID: c.ID, Name: c.Name, Running: true})
				}
				return users
			},
		})
		e.tellRemoved(removed)
		gone = append(gone, removed...)
		if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) && !errdefs.IsConflict(err) {
			errs = append(errs, err)
		}
	}
	if len(gone) > 0 {
		after, err := e.collected(ctx)
		if err != nil {
			errs = append(errs, err)
		} else {
			bytes = image.Freed(before, after)
		}
	}
	e.pruned("image", bytes)
	return gone, bytes, errors.Join(errs...)
}

// collected is what is stored after a collection.
func (e *Engine) collected(ctx context.Context) (map[string]int64, error) {
	if err := e.CollectImages(ctx); err != nil {
		return nil, err
	}
	return e.Images.Stored(ctx, false)
}

// PruneNetworks removes networks that no container is on or will be on when it
// is started. It gives their names.
func (e *Engine) PruneNetworks(ctx context.Context, want func(network.Network) bool) (gone []string, err error) {
	var errs []error
	for _, n := range e.Fabric.Networks() {
		if n.Name == network.DefaultNetwork || len(e.Fabric.Attached(n.ID)) > 0 || e.namesNetwork(n) || !want(n) {
			continue
		}
		if ctx.Err() != nil {
			errs = append(errs, ctx.Err())
			break
		}
		switch err := e.RemoveNetwork(ctx, n.ID); {
		case err == nil:
			gone = append(gone, n.Name)
		case errdefs.IsNotFound(err), errdefs.IsConflict(err), errdefs.IsFailedPrecondition(err), errdefs.IsPermissionDenied(err):
		default:
			errs = append(errs, err)
		}
	}
	e.pruned("network", 0)
	return gone, errors.Join(errs...)
}

// namesNetwork says whether a container, live or not, is to be on a network.
func (e *Engine) namesNetwork(n network.Network) bool {
	return slices.ContainsFunc(e.List(), func(c Container) bool {
		for _, ep := range c.Config.Network.Endpoints {
			if ep.Network == n.Name || ep.Network == n.ID {
				return true
			}
		}
		return false
	})
}

// PruneVolumes removes volumes that no container mounts. It gives their names
// and the bytes they took.
func (e *Engine) PruneVolumes(ctx context.Context, want func(volume.Volume) bool) (gone []string, bytes int64, err error) {
	var errs []error
	for _, v := range e.Volumes.List() {
		if len(e.volumeUsers(v.Name)) > 0 || !want(v) {
			continue
		}
		if ctx.Err() != nil {
			errs = append(errs, ctx.Err())
			break
		}
		size, err := e.VolumeSize(ctx, v.Name)
		if err == nil {
			err = e.RemoveVolume(ctx, v.Name, false)
		}
		switch {
		case err == nil:
			gone, bytes = append(gone, v.Name), bytes+max(size, 0)
		case errdefs.IsNotFound(err), errdefs.IsConflict(err): // it has gone or was mounted
		default:
			errs = append(errs, err)
		}
	}
	e.pruned("volume", bytes)
	return gone, bytes, errors.Join(errs...)
}

// pruned tells that a pruning is over.
func (e *Engine) pruned(kind string, bytes int64) {
	e.emitObject(kind, "prune", "", map[string]string{"reclaimed": strconv.FormatInt(bytes, 10)})
}
