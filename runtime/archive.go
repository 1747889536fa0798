package runtime

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"gantry/runtime/image"
	"gantry/runtime/keeper"
	"gantry/runtime/rootfs"
	"gantry/runtime/spec"

	"github.com/containerd/errdefs"
)

// PathStat is what is told of a path in a container, Change a difference
// between a container and its image.
type (
	PathStat = rootfs.PathStat
	Change   = rootfs.Change
)

// PutOptions bend [Engine.PutArchive].
type PutOptions struct {
	// NoOverwrite refuses to put something else in a directory's place, and
	// the other way round.
	NoOverwrite bool
	// ToUser gives what is unpacked to the container's user, if it has one,
	// instead of whom the archive names.
	ToUser bool
}

// leaving is a tar archive on its way out of a container.
type leaving struct {
	t    *keeper.Transfer
	stop func() error
}

// Read reads the archive; io.EOF comes only when it is complete.
func (a *leaving) Read(p []byte) (int, error) {
	n, err := a.t.Read(p)
	if err != nil && err != io.EOF { //nolint:errorlint // a reader's own
		if why := a.stop(); why != nil {
			err = why
		}
	}
	return n, err
}

// Close ends the copy, wherever it stands.
func (a *leaving) Close() error {
	_ = a.stop()
	a.t.Close()
	return nil
}

// StatPath looks at a path in a container, running or not. The last element is
// not followed if it is a symbolic link.
func (e *Engine) StatPath(ctx context.Context, ref, name string) (PathStat, error) {
	t, _, err := e.transfer(ctx, ref, keeper.ArchiveRequest{Op: keeper.ArchiveStat, Path: name})
	if err != nil {
		return PathStat{}, copyError(err, ref, name)
	}
	return t.Stat, nil
}

// GetArchive reads what is at a path in a container, running or not. The copy
// is broken off when ctx is done or the container is removed; it goes on when
// the container stops or starts.
//
// The archive ends with io.EOF only when it is complete; whoever reads it must
// close it.
func (e *Engine) GetArchive(ctx context.Context, ref, name string) (PathStat, io.ReadCloser, error) {
	t, ct, err := e.transfer(ctx, ref, keeper.ArchiveRequest{Op: keeper.ArchiveGet, Path: name})
	if err != nil {
		return PathStat{}, nil, copyError(err, ref, name)
	}
	e.emit(ct.snapshot(), "archive-path", nil)
	return t.Stat, &leaving{t: t, stop: e.guardCopy(ctx, ct, t)}, nil
}

// ExportContainer reads the whole filesystem of a container, without what is
// mounted in it, as GetArchive does.
func (e *Engine) ExportContainer(ctx context.Context, ref string) (io.ReadCloser, error) {
	t, ct, err := e.transfer(ctx, ref, keeper.ArchiveRequest{Op: keeper.ArchiveExport})
	if err != nil {
		return nil, fmt.Errorf("export %s: %w", ref, err)
	}
	e.emit(ct.snapshot(), "export", nil)
	return &leaving{t: t, stop: e.guardCopy(ctx, ct, t)}, nil
}

// PutArchive unpacks a tar archive, which may be compressed, in a directory of
// a container, running or not. A container that is started while its layer is
// written to by a copy from before ends that copy.
func (e *Engine) PutArchive(ctx context.Context, ref, name string, o PutOptions, archive io.Reader) error {
	c, err := e.Inspect(ref)
	if err != nil {
		return err
	}
	if err := writable(c, name); err != nil {
		return err
	}
	plain, err := image.Decompress(archive)
	if err != nil {
		return err
	}
	defer plain.Close()
	q := keeper.ArchiveRequest{Op: keeper.ArchivePut, Path: name, NoOverwrite: o.NoOverwrite}
	if o.ToUser {
		q.Owner = c.Config.User
	}
	t, ct, err := e.transfer(ctx, ref, q)
	if err != nil {
		return copyError(err, ref, name)
	}
	defer t.Close()
	stop := e.guardCopy(ctx, ct, t)
	_, err = io.Copy(t, plain)
	if err == nil {
		err = t.Finish()
	}
	if why := stop(); why != nil {
		err = why
	}
	if err != nil {
		return copyError(err, ref, name)
	}
	e.emit(ct.snapshot(), "extract-to-dir", nil)
	return nil
}

// writable refuses to copy to where the container itself may not write.
func writable(c Container, name string) error {
	at := path.Join("/", name)
	best, readOnly, volume := -1, c.Config.ReadOnly, false
	for _, m := range c.Mounts {
		target := path.Clean(m.Destination)
		if (at == target || strings.HasPrefix(at, target+"/")) && len(target) > best {
			best, readOnly, volume = len(target), m.ReadOnly, true
		}
	}
	switch {
	case readOnly && volume:
		return errdefs.ErrPermissionDenied.WithMessage("mounted volume is marked read-only")
	case readOnly:
		return errdefs.ErrPermissionDenied.WithMessage("container rootfs is marked read-only")
	}
	return nil
}

// copyError says an error of a transfer as Docker does.
func copyError(err error, ref, name string) error {
	if errdefs.IsNotFound(err) && !isNoContainer(err) {
		return fmt.Errorf("Could not find the file %s in container %s: %w", name, ref, errdefs.ErrNotFound) //nolint:staticcheck // Docker's clients read this text
	}
	return err
}

// noContainer tells a container that is not there from a path that is not.
type noContainer struct{ error }

func (n noContainer) Unwrap() error { return n.error }

func isNoContainer(err error) bool {
	var n noContainer
	return errors.As(err, &n)
}

// transfer begins to copy from or to a container.
func (e *Engine) transfer(ctx context.Context, ref string, q keeper.ArchiveRequest) (*keeper.Transfer, *container, error) {
	ct, err := e.find(ref)
	if err != nil {
		return nil, nil, noContainer{err}
	}
	c := ct.snapshot()
	q.ID = c.ID
	if c.State.Live() {
		t, err := e.Keeper.Archive(ctx, q)
		if !errdefs.IsFailedPrecondition(err) {
			return t, ct, err
		}
		// It has ended, and the record does not say so yet.
	}
	// What a start prepares is prepared here, and must not be twice at a time.
	// Once the helper has it all, the container may go its way.
	ct.op.Lock()
	defer ct.op.Unlock()
	c = ct.snapshot()
	if c.Removal != nil || c.State == Removing || c.State == Dead {
		return nil, nil, beingRemoved(c)
	}
	root, release, err := e.archiveRoot(ctx, c)
	defer release()
	if err != nil {
		return nil, nil, err
	}
	q.Root = root
	t, err := e.Keeper.Archive(ctx, q)
	return t, ct, err
}

// archiveRoot is a container's filesystem as the next start would make it,
// without what is only there while it runs. release, never nil, is called when
// it is mounted.
func (e *Engine) archiveRoot(ctx context.Context, c Container) (_ *keeper.ArchiveRoot, release func(), err error) {
	id, err := parseImageID(c.Config.ImageID)
	if err != nil {
		return nil, func() {}, err
	}
	lower, err := e.Images.Lowers(ctx, id)
	if err != nil {
		return nil, func() {}, err
	}
	mounts, release, err := e.mounts(ctx, c, lower)
	if err != nil {
		return nil, release, err
	}
	root := &keeper.ArchiveRoot{Overlay: e.overlay(c, lower), ReadOnly: c.Config.ReadOnly}
	own := map[string]bool{}
	for _, m := range mounts {
		target := path.Clean(m.Target)
		own[target] = true
		am := keeper.ArchiveMount{Target: target, ReadOnly: m.ReadOnly}
		switch m.Type {
		case spec.MountBind:
			am.Source, am.Recursive = m.Source, !m.NonRecursive
		case spec.MountTmpfs:
		default:
			return nil, release, fmt.Errorf("copy: mounts of type %s are not supported: %w", m.Type, errdefs.ErrNotImplemented)
		}
		root.Mounts = append(root.Mounts, am)
	}
	files := e.filesOf(e.networkOwner(c).ID)
	for _, f := range []struct{ source, target string }{
		{files.ResolvConf, "/etc/resolv.conf"}, {files.Hostname, "/etc/hostname"}, {files.Hosts, "/etc/hosts"},
	} {
		if f.source != "" && !own[f.target] {
			root.Mounts = append(root.Mounts, keeper.ArchiveMount{Source: f.source, Target: f.target, ReadOnly: c.Config.ReadOnly})
		}
	}
	slices.SortStableFunc(root.Mounts, func(a, b keeper.ArchiveMount) int {
		return cmp.Compare(strings.Count(a.Target, "/"), strings.Count(b.Target, "/"))
	})
	return root, release, nil
}

// overlay is a container's root filesystem.
func (e *Engine) overlay(c Container, lower []string) rootfs.Overlay {
	dir := e.rec.dir(c.ID)
	return rootfs.Overlay{Lower: lower, Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work")}
}

// guardCopy breaks a copy off when its caller leaves, the container is removed
// or the daemon ends. stop ends the guard and says whether it had to.
func (e *Engine) guardCopy(ctx context.Context, ct *container, t *keeper.Transfer) (stop func() error) {
	done, over := make(chan struct{}), make(chan struct{})
	var why error
	guard := func() {
		defer close(over)
		for why == nil {
			v := ct.view()
			if v.removed || v.Removal != nil {
				why = fmt.Errorf("container %s was removed during the copy: %w", v.Name, errdefs.ErrConflict)
				break
			}
			select {
			case <-v.changed:
			case <-ctx.Done():
				why = ctx.Err()
			case <-e.closing:
				why = errClosing
			case <-done:
				return
			}
		}
		t.Close()
	}
	if !e.spawn(guard) {
		why = errClosing
		t.Close()
		close(over)
	}
	once := sync.OnceFunc(func() { close(done) })
	return func() error {
		once()
		<-over
		return why
	}
}

// Changes lists what a container has added, changed and deleted in its root
// filesystem.
func (e *Engine) Changes(ctx context.Context, ref string) ([]Change, error) {
	ct, err := e.find(ref)
	if err != nil {
		return nil, err
	}
	c := ct.snapshot()
	id, err := parseImageID(c.Config.ImageID)
	if err != nil {
		return nil, err
	}
	lower, err := e.Images.Lowers(ctx, id)
	if err != nil {
		return nil, err
	}
	select {
	case e.sizing <- struct{}{}:
		defer func() { <-e.sizing }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	found, err := rootfs.Changes(ctx, lower, e.overlay(c, lower).Upper)
	if err != nil {
		return nil, ct.unlessDoomed(fmt.Errorf("changes of container %s: %w", c.Name, err))
	}
	return found, nil
}
