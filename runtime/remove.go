package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"gantry/runtime/spec"

	"github.com/containerd/errdefs"
)

// Remove takes a container apart and forgets it: process, mounts, addresses,
// layer, logs and record. The intent is on disk before anything is touched, so
// that a removal that was cut short is finished by the next daemon; a caller
// that leaves does not end it either.
func (e *Engine) Remove(ctx context.Context, ref string, o RemoveOptions) error {
	ct, err := e.find(ref)
	if err != nil {
		return err
	}
	return e.wait(ctx, func() error { return e.remove(e.ctx, ct, o) })
}

// wait runs work that goes on when its caller leaves.
func (e *Engine) wait(ctx context.Context, work func() error) error {
	done := make(chan error, 1)
	if !e.spawn(func() { done <- work() }) {
		return errClosing
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (e *Engine) remove(ctx context.Context, ct *container, o RemoveOptions) error {
	if err := e.doom(ct, o); err != nil {
		return err
	}
	e.fault("remove: doomed")
	stop := StopOptions{Signal: "SIGKILL"}
	if o.Stop != nil {
		stop = *o.Stop
	}
	err := e.halt(ctx, ct, stop, forGood)
	switch {
	case errors.Is(err, errdefs.ErrNotModified):
	case err != nil:
		return err
	case o.Stop != nil:
		e.emit(ct.snapshot(), "stop", nil)
	}
	ct.op.Lock()
	defer ct.op.Unlock()
	return e.removeLocked(ctx, ct)
}

// doom records that a container is to be removed. From then on nothing starts
// it any more.
func (e *Engine) doom(ct *container, o RemoveOptions) error {
	ct.op.Lock()
	defer ct.op.Unlock()
	c := ct.snapshot()
	if (c.State.Live() || c.State == Restarting) && !o.Force {
		if c.State == Paused {
			return fmt.Errorf("You cannot remove a paused container %s. Unpause and then stop the container before attempting removal or force remove: %w", c.Name, errdefs.ErrConflict) //nolint:staticcheck // Docker's clients read this text
		}
		return fmt.Errorf("You cannot remove a %s container %s. Stop the container before attempting removal or force remove: %w", c.State, c.Name, errdefs.ErrConflict) //nolint:staticcheck // as above
	}
	r := Removal{Call: !o.Planned, At: time.Now()}
	if c.Removal != nil {
		r = *c.Removal
		if r.Volumes || !o.Volumes {
			return nil
		}
	}
	r.Volumes = o.Volumes
	_, err := e.update(ct, synced|ending, func(c *Container) { c.Removal = &r })
	return err
}

func beingRemoved(c Container) error {
	return fmt.Errorf("container %s is being removed: %w", c.Name, errdefs.ErrConflict)
}

// unlessDoomed is an error of a call that reads a container without holding it,
// or, where it has been taken apart under the call's hands, that.
func (ct *container) unlessDoomed(err error) error {
	if v := ct.view(); v.removed || v.Removal != nil {
		return beingRemoved(v.Container)
	}
	return err
}

// removeLocked removes a doomed container that has no process; the caller
// holds op.
func (e *Engine) removeLocked(ctx context.Context, ct *container) error {
	v := ct.view()
	switch {
	case v.removed:
		return nil
	case v.State.Live():
		return fmt.Errorf("container %s was started meanwhile; stop it first: %w", v.Name, errdefs.ErrConflict)
	}
	ct.recall(func(c *Container) { c.State = Removing }) // on disk it is doomed already
	c := ct.snapshot()
	e.fault("remove: removing")
	if err := e.emptied(c); err != nil {
		e.Log.Error("a removal will be undone by whoever keeps the container", "container", c.Name, "error", err)
	}
	if err := e.takeApart(ctx, c); err != nil {
		err = fmt.Errorf("remove %s: %w", c.Name, err)
		_, werr := e.update(ct, fact, func(c *Container) { c.State, c.Error = Dead, err.Error() })
		return errors.Join(err, werr)
	}
	e.mu.Lock()
	delete(e.byID, c.ID)
	if e.byName[c.Name] == c.ID {
		delete(e.byName, c.Name)
	}
	delete(e.groups, c.ID)
	e.mu.Unlock()
	e.forgetExecs(ct)
	ct.mu.Lock()
	pending := ct.pending
	ct.pending = nil
	ct.mu.Unlock()
	for _, a := range pending {
		a.fail(fmt.Errorf("container %s was removed: %w", c.Name, errdefs.ErrNotFound))
	}
	e.emit(c, "destroy", nil)
	ct.mu.Lock()
	ct.removed = true
	ct.wake()
	ct.mu.Unlock()
	e.releaseImages(ctx, c)
	return nil
}

// takeApart undoes a creation. The directory with the record goes last.
func (e *Engine) takeApart(ctx context.Context, c Container) error {
	err := errors.Join(e.Keeper.Delete(ctx, c.ID), e.unwire(ctx, c), e.releaseShm(c.ID), os.RemoveAll(e.filesDir(c.ID)))
	if err != nil {
		return err
	}
	e.fault("remove: taken apart")
	if c.Removal != nil && c.Removal.Volumes {
		if err := e.removeVolumes(ctx, c); err != nil {
			return err
		}
	}
	e.fault("remove: volumes removed")
	return os.RemoveAll(e.rec.dir(c.ID))
}

// removeVolumes removes the volumes that were made for a container, unless
// another one has taken them over.
func (e *Engine) removeVolumes(ctx context.Context, c Container) error {
	var errs []error
	for _, m := range c.Mounts {
		if !m.Anonymous {
			continue
		}
		others := slices.DeleteFunc(e.volumeUsers(m.Name), func(u Container) bool { return u.ID == c.ID })
		if len(others) > 0 {
			continue
		}
		done, ok := e.uses.leave(volumeOf(m.Name))
		if !ok {
			continue // somebody is just taking it over
		}
		err := e.Volumes.Remove(ctx, m.Name, true)
		done()
		if err == nil {
			e.emitObject("volume", "destroy", m.Name, map[string]string{"driver": m.Driver})
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// releaseImage lets an image go that no container uses any more.
func (e *Engine) releaseImage(ctx context.Context, id string) {
	done, ok := e.uses.leave(imageOf(id))
	if !ok {
		return // whoever claims it releases it
	}
	defer done()
	if len(e.imageUsers(id)) > 0 {
		return
	}
	digest, err := parseImageID(id)
	if err == nil {
		err = e.Images.Release(ctx, digest)
	}
	if err != nil {
		e.Log.Warn("release an image", "image", id, "error", err)
	}
}

// imagesOf are the images a container needs: the one it was made from, and those
// it mounts.
func imagesOf(c Container) []string {
	all := []string{c.Config.ImageID}
	for _, m := range c.Mounts {
		if m.Type == spec.MountImage {
			all = append(all, m.Source)
		}
	}
	return all
}

// releaseImages lets go of a container's images, as far as no other one needs
// them.
func (e *Engine) releaseImages(ctx context.Context, c Container) {
	for _, id := range imagesOf(c) {
		e.releaseImage(ctx, id)
	}
}

// imageUsers are the containers that need an image.
func (e *Engine) imageUsers(id string) []Container {
	var users []Container
	for _, ct := range e.all() {
		if c := ct.snapshot(); slices.Contains(imagesOf(c), id) {
			users = append(users, c)
		}
	}
	return users
}
