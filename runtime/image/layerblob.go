package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// layerBlobs is the content on the disk. What ingest stores it writes itself: the
// library hashes in the same breath as it writes, and waits for the disk.
type layerBlobs struct {
	content.Store
	dir string
}

// arriving is where blobs lie that are being written, on a file system that has no
// files without a name.
const arriving = "arriving"

type layerBlobKey struct{}

// withLayerBlob asks for a writer of layerBlobs. Unless later, a commit waits until
// the blob is on the disk.
func withLayerBlob(ctx context.Context, later bool) context.Context {
	return context.WithValue(ctx, layerBlobKey{}, later)
}

func (l layerBlobs) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	later, ok := ctx.Value(layerBlobKey{}).(bool)
	if !ok {
		return l.Store.Writer(ctx, opts...)
	}
	var o content.WriterOpts
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return nil, err
		}
	}
	dir := filepath.Join(l.dir, "blobs", digest.Canonical.String())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := l.create(dir)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return &layerBlob{file: f, dir: dir, later: later, status: content.Status{Ref: o.Ref, StartedAt: now, UpdatedAt: now}}, nil
}

// create makes a file that gets its name when it is whole. A process that dies
// leaves nothing of it.
func (l layerBlobs) create(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o444)
	if err == nil {
		return os.NewFile(uintptr(fd), filepath.Join(dir, "(new)")), nil
	}
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) {
		return nil, &os.PathError{Op: "create", Path: dir, Err: err}
	}
	named := filepath.Join(l.dir, arriving)
	if err := os.MkdirAll(named, 0o700); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(named, "blob-")
	if err != nil {
		return nil, err
	}
	return f, errors.Join(f.Chmod(0o444), os.Remove(f.Name()))
}

// layerBlob writes a blob. Who writes knows its digest.
type layerBlob struct {
	file   *os.File
	dir    string
	later  bool
	status content.Status
	digest digest.Digest
}

func (b *layerBlob) Write(p []byte) (int, error) {
	n, err := b.file.Write(p)
	b.status.Offset += int64(n)
	return n, err
}

func (b *layerBlob) Digest() digest.Digest { return b.digest }

func (b *layerBlob) Status() (content.Status, error) { return b.status, nil }

func (b *layerBlob) Truncate(size int64) error {
	return fmt.Errorf("truncate a layer to %d: %w", size, errdefs.ErrNotImplemented)
}

// Sync is called before a commit, while the database is not held.
func (b *layerBlob) Sync() error {
	if b.later {
		return nil
	}
	return b.file.Sync()
}

func (b *layerBlob) Commit(_ context.Context, size int64, d digest.Digest, _ ...content.Opt) error {
	switch {
	case d == "" || d.Algorithm() != digest.Canonical:
		return fmt.Errorf("store a layer as %q: %w", d, errdefs.ErrInvalidArgument)
	case size != b.status.Offset:
		return fmt.Errorf("store a layer of %d bytes as %d: %w", b.status.Offset, size, errdefs.ErrFailedPrecondition)
	}
	b.digest = d
	err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", b.file.Fd()), unix.AT_FDCWD, filepath.Join(b.dir, d.Encoded()), unix.AT_SYMLINK_FOLLOW)
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("content %s: %w", d, errdefs.ErrAlreadyExists)
	}
	if err != nil {
		return &os.PathError{Op: "name", Path: filepath.Join(b.dir, d.Encoded()), Err: err}
	}
	if b.later {
		return nil
	}
	dir, err := os.Open(b.dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Close may be called time and again.
func (b *layerBlob) Close() error {
	if err := b.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// WalkStatusRefs is how a collection finds what is half written; a layer is not,
// it has no name before it is whole.
func (l layerBlobs) WalkStatusRefs(ctx context.Context, f func(string) error) error {
	if w, ok := l.Store.(interface {
		WalkStatusRefs(ctx context.Context, f func(string) error) error
	}); ok {
		return w.WalkStatusRefs(ctx, f)
	}
	all, err := l.ListStatuses(ctx)
	for _, s := range all {
		err = errors.Join(err, f(s.Ref))
	}
	return err
}
