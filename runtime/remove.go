package runtime

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
)

// Remove takes a container apart and forgets it: process, mounts, addresses,
// layer, logs and record. The intent is written first, so that a removal that
// was cut short is finished by the next daemon.
func (e *Engine) Remove(ctx context.Context, ref string, o RemoveOptions) error {
	ct, err := e.find(ref)
	if err != nil {
		return err
	}
	c := ct.snapshot()
	if c.State.Live() || c.State == Restarting {
		if !o.Force {
			return fmt.Errorf("container %s is %s; stop it first, or force the removal: %w", c.Name, c.State, errdefs.ErrConflict)
		}
		now := StopOptions{Signal: "SIGKILL"}
		if err := e.stop(ctx, ct, now); err != nil && !errors.Is(err, errdefs.ErrNotModified) {
			return err
		}
	}
	ct.op.Lock()
	defer ct.op.Unlock()
	return e.removeLocked(ctx, ct, o)
}

// removeLocked removes a container that has no process; the caller holds op.
func (e *Engine) removeLocked(ctx context.Context, ct *container, o RemoveOptions) error {
	ct.mu.Lock()
	c, gone := ct.c, ct.removed
	ct.mu.Unlock()
	switch {
	case gone:
		return nil
	case c.State.Live():
		return fmt.Errorf("container %s was started meanwhile; stop it first: %w", c.Name, errdefs.ErrConflict)
	}
	if _, err := e.update(ct, true, func(c *Container) { c.State = Removing }); err != nil {
		return err
	}
	// From here on the caller's leaving must not leave a half.
	ctx = context.WithoutCancel(ctx)
	if err := e.takeApart(ctx, c, o.Volumes); err != nil {
		_, werr := e.update(ct, true, func(c *Container) { c.State, c.Error = Dead, err.Error() })
		return errors.Join(fmt.Errorf("remove %s: %w", c.Name, err), werr)
	}
	e.mu.Lock()
	delete(e.byID, c.ID)
	if e.byName[c.Name] == c.ID {
		delete(e.byName, c.Name)
	}
	for id := range ct.execs {
		delete(e.execs, id)
	}
	delete(e.groups, c.ID)
	e.mu.Unlock()
	ct.mu.Lock()
	ct.removed = true
	ct.wake()
	pending := ct.pending
	ct.pending = nil
	ct.mu.Unlock()
	for _, a := range pending {
		a.fail(fmt.Errorf("container %s was removed: %w", c.Name, errdefs.ErrNotFound))
	}
	e.releaseImage(ctx, c.Config.ImageID)
	e.emit(c, "destroy", nil)
	return nil
}

// takeApart undoes a creation. The directory with the record goes last.
func (e *Engine) takeApart(ctx context.Context, c Container, volumes bool) error {
	err := errors.Join(e.Keeper.Delete(ctx, c.ID), e.unwire(ctx, c), e.removeFiles(c), e.releaseShm(c.ID))
	if err != nil {
		return err
	}
	if volumes {
		for _, m := range c.Mounts {
			if !m.Anonymous {
				continue
			}
			if err := e.Volumes.Remove(ctx, m.Name, true); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
				return err
			}
		}
	}
	return removeAll(c.Name, e.rec.dir(c.ID))
}

// releaseImage lets an image go that no container uses any more.
func (e *Engine) releaseImage(ctx context.Context, id string) {
	if e.imageUsers(id) != nil {
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

// imageUsers are the names of the containers made from an image.
func (e *Engine) imageUsers(id string) []string {
	var users []string
	for _, ct := range e.all() {
		if c := ct.snapshot(); c.Config.ImageID == id {
			users = append(users, c.Name)
		}
	}
	return users
}
