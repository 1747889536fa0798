package image

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// operation is one import or load under way. All it writes belongs to its
// lease, so that a collection at the same time leaves it alone, and one after
// a failure or a crash takes it all.
type operation struct {
	*Store
	lease leases.Lease
	keys  atomic.Int64
	// later says that nobody waits for the disk: see syncer.
	later bool
}

// begin starts an operation; the context it gives back carries the lease.
func (s *Store) begin(ctx context.Context) (context.Context, *operation, error) {
	ctx = s.context(ctx)
	lease, err := s.leases.Create(ctx,
		leases.WithID("gantry-"+rand.Text()), leases.WithLabel(labelOperation, "1"))
	if err != nil {
		return nil, nil, fmt.Errorf("take a lease: %w", err)
	}
	return leases.WithLease(ctx, lease.ID), &operation{Store: s, lease: lease}, nil
}

// end gives the lease back. An operation that published its images has done so
// already.
func (op *operation) end(ctx context.Context) {
	op.syncer.end(op)
	// The caller may have gone; the lease must not stay.
	ctx = context.WithoutCancel(ctx)
	if err := op.leases.Delete(ctx, op.lease); err != nil && !errdefs.IsNotFound(err) {
		op.log.Warn("an operation's lease stays until the next start", "lease", op.lease.ID, "error", err)
	}
}

// key is a name for a snapshot or an ingest that no other operation uses.
func (op *operation) key(what string) string {
	return fmt.Sprintf("%s-%s-%d", op.lease.ID, what, op.keys.Add(1))
}

// writeBlob stores b and sets labels on it, also when it is there already.
func (s *Store) writeBlob(ctx context.Context, ref, mediaType string, b []byte, labels map[string]string) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	err := content.WriteBlob(ctx, s.content, ref, bytes.NewReader(b), desc, content.WithLabels(labels))
	if err != nil {
		return desc, fmt.Errorf("store %s: %w", desc.Digest, err)
	}
	return desc, s.label(ctx, desc.Digest, labels)
}

// label sets labels of a stored blob; those it has otherwise stay. A blob that
// was there before this operation has perhaps not got what leads on from it.
func (s *Store) label(ctx context.Context, d digest.Digest, labels map[string]string) error {
	if len(labels) == 0 {
		return nil
	}
	info, err := s.content.Info(ctx, d)
	if err != nil {
		return fmt.Errorf("label %s: %w", d, err)
	}
	var missing []string
	for k, v := range labels {
		if info.Labels[k] != v {
			missing = append(missing, "labels."+k)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if _, err := s.content.Update(ctx, content.Info{Digest: d, Labels: labels}, missing...); err != nil {
		return fmt.Errorf("label %s: %w", d, err)
	}
	return nil
}

// maxDocument is the largest manifest, index or configuration that is read
// into memory. Registries take 4 MiB.
const maxDocument = 8 << 20

// readBlob reads a small document and checks it against its digest.
func (s *Store) readBlob(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	ra, err := s.content.ReaderAt(ctx, ocispec.Descriptor{Digest: desc.Digest})
	if err != nil {
		return nil, err
	}
	defer ra.Close()
	if ra.Size() > maxDocument {
		return nil, classed(errdefs.ErrInvalidArgument, "%s: a document of %d bytes is too large (limit %d)", desc.Digest, ra.Size(), maxDocument)
	}
	if desc.Size > 0 && desc.Size != ra.Size() {
		return nil, classed(errdefs.ErrInvalidArgument, "%s has %d bytes, but %d are announced", desc.Digest, ra.Size(), desc.Size)
	}
	b := make([]byte, ra.Size())
	if _, err := io.ReadFull(io.NewSectionReader(ra, 0, ra.Size()), b); err != nil {
		return nil, fmt.Errorf("read %s: %w", desc.Digest, err)
	}
	if got := desc.Digest.Algorithm().FromBytes(b); got != desc.Digest {
		return nil, classed(errdefs.ErrDataLoss, "%s is damaged on disk: its content has the digest %s", desc.Digest, got)
	}
	return b, nil
}

// keyed is a set of locks by name.
type keyed struct {
	mu    sync.Mutex
	locks map[string]*keyedLock
}

type keyedLock struct {
	sync.Mutex
	users int
}

// lock waits for the lock called name and gives back what unlocks it.
func (k *keyed) lock(name string) (unlock func()) {
	k.mu.Lock()
	if k.locks == nil {
		k.locks = map[string]*keyedLock{}
	}
	l := k.locks[name]
	if l == nil {
		l = &keyedLock{}
		k.locks[name] = l
	}
	l.users++
	k.mu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(k.locks, name)
		}
	}
}
