package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// maxFruitless is how often in a row a transfer may break off without a
	// byte in between.
	maxFruitless = 6
	// stallTime is how long a transfer may stand still before it counts as
	// broken off.
	stallTime = time.Minute
)

// maxBreaks bounds how often a transfer may break off in all: one that drips is
// no better than one that stands.
func maxBreaks(size int64) int { return 20 + int(min(size>>20, 1000)) }

// transfer reads a document or a layer from a registry, and goes on where a
// connection broke off. It gives exactly the bytes that are announced or fails;
// whether they are the right ones the digest tells.
type transfer struct {
	ctx    context.Context
	remote *remote
	desc   ocispec.Descriptor
	read   func(n int) // told of bytes; may be nil

	in     io.ReadCloser
	stop   context.CancelCauseFunc
	stall  *time.Timer
	offset int64

	breaks, fruitless int
}

var errStalled = errors.New("nothing has come for a minute")

func (t *transfer) Read(p []byte) (int, error) {
	for {
		if err := t.ctx.Err(); err != nil {
			return 0, context.Cause(t.ctx)
		}
		err := t.open()
		if err == nil {
			var n int
			t.stall.Reset(stallTime)
			n, err = t.in.Read(p)
			t.stall.Stop()
			if n > 0 {
				t.offset += int64(n)
				t.fruitless = 0
				if t.read != nil {
					t.read(n)
				}
				return n, nil // err comes again
			}
			switch {
			case err == nil:
				continue
			case err == io.EOF && t.offset == t.desc.Size: //nolint:errorlint // one that is wrapped is of another connection
				return 0, io.EOF
			case err == io.EOF: //nolint:errorlint // as above
				err = t.short()
			case errdefs.IsFailedPrecondition(err):
				err = classed(errdefs.ErrInvalidArgument, "%s is longer than the %d bytes announced", t.desc.Digest, t.desc.Size)
			}
		}
		t.close()
		if err = t.again(err); err != nil {
			return 0, err
		}
	}
}

// open asks for what is missing.
func (t *transfer) open() error {
	if t.in != nil {
		return nil
	}
	f, err := t.remote.resolver.Fetcher(t.ctx, t.remote.name.String())
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(t.remote.quiet(t.ctx))
	in, err := f.Fetch(ctx, bare(t.desc))
	if err == nil && t.offset > 0 {
		if s, ok := in.(io.Seeker); ok {
			_, err = s.Seek(t.offset, io.SeekStart)
		} else {
			err = errors.New("a transfer that broke off cannot be gone on with")
		}
	}
	if err != nil {
		stop(nil)
		return err
	}
	t.in, t.stop = in, stop
	t.stall = time.AfterFunc(stallTime, func() { stop(errStalled) })
	t.stall.Stop()
	return nil
}

// short is a transfer that ended in order, but too early.
func (t *transfer) short() error {
	if t.fruitless > 0 {
		return classed(errdefs.ErrInvalidArgument, "%s ends after %d bytes, though %d are announced", t.desc.Digest, t.offset, t.desc.Size)
	}
	return io.ErrUnexpectedEOF
}

// again waits before the next try, or says why there is none.
func (t *transfer) again(err error) error {
	var ours *failure
	var status remoteerrors.ErrUnexpectedStatus
	switch {
	case t.ctx.Err() != nil:
		return context.Cause(t.ctx)
	case errors.As(err, &status) && status.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		return classed(errdefs.ErrInvalidArgument, "%s ends after %d bytes, though %d are announced", t.desc.Digest, t.offset, t.desc.Size)
	case errdefs.IsNotFound(err):
		return classed(errdefs.ErrNotFound, "blob unknown: the registry %s has no %s, though the image refers to it", t.remote.domain, t.desc.Digest)
	case errors.As(err, &ours), !brokenOff(err) && !errors.Is(err, context.Canceled):
		return t.remote.explain(t.ctx, err)
	}
	t.breaks++
	t.fruitless++
	if t.fruitless >= maxFruitless || t.breaks >= maxBreaks(t.desc.Size) {
		return classed(errdefs.ErrUnavailable, "the registry %s breaks off the transfer of %s again and again, last after %d of %d bytes", t.remote.domain, t.desc.Digest, t.offset, t.desc.Size)
	}
	return sleep(t.ctx, pauseBefore(t.remote.pause, t.fruitless))
}

// close ends the transfer; it may be read on.
func (t *transfer) close() {
	if t.in == nil {
		return
	}
	t.stall.Stop()
	t.stop(nil)
	_ = t.in.Close() // what it read was checked
	t.in = nil
}

// document reads a manifest, an index or a configuration, and checks it.
func (r *remote) document(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	if desc.Size < 0 || desc.Size > maxDocument {
		return nil, classed(errdefs.ErrInvalidArgument, "%s: a document of %d bytes is too large (limit %d)", desc.Digest, desc.Size, maxDocument)
	}
	t := &transfer{ctx: ctx, remote: r, desc: desc}
	defer t.close()
	b := make([]byte, desc.Size)
	if _, err := io.ReadFull(t, b); err != nil {
		return nil, err
	}
	if _, err := t.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		return nil, err
	}
	if got := digest.FromBytes(b); got != desc.Digest {
		return nil, wrongDigest(desc.Digest, got)
	}
	return b, nil
}

func wrongDigest(want, got digest.Digest) error {
	return classed(errdefs.ErrInvalidArgument, "%s has the digest %s: the registry, or something on the way to it, has changed it", want, got)
}

// checkDigest refuses what cannot be checked.
func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return classed(errdefs.ErrInvalidArgument, "digest %q: %w", d, err)
	}
	if d.Algorithm() != digest.Canonical {
		return classed(errdefs.ErrInvalidArgument, "digest %q: only %s is supported", d, digest.Canonical)
	}
	return nil
}

// resolve asks what the name means now: one HEAD.
func (r *remote) resolve(ctx context.Context) (ocispec.Descriptor, error) {
	_, desc, err := r.resolver.Resolve(r.quiet(ctx), r.name.String())
	if err != nil {
		return desc, r.explain(ctx, err)
	}
	if err := checkDigest(desc.Digest); err != nil {
		return desc, fmt.Errorf("registry %s: %w", r.domain, err)
	}
	return desc, nil
}
