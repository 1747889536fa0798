package image

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// blob is a stored stream; if it was a layer, also its files.
type blob struct {
	desc   ocispec.Descriptor // without a media type
	layer  *unpacked          // nil if it was not to be unpacked, or could not be
	failed error              // why it could not be
}

// ingest stores the stream r in the content and, with unpack, unpacks it at
// the same time: reading, hashing and writing the blob fills one processor,
// writing the files another. The blob is stored as it came, compressed or not.
//
// A stream that cannot be unpacked is still stored, unless strict. With a
// digest in want, nothing else is stored.
func (op *operation) ingest(ctx context.Context, r io.Reader, unpack, strict bool, want ocispec.Descriptor) (_ *blob, err error) {
	ref := op.key("ingest")
	w, err := content.OpenWriter(withLayerBlob(ctx, op.later), op.content, content.WithRef(ref))
	if err != nil {
		return nil, fmt.Errorf("open content: %w", err)
	}
	defer func() {
		w.Close()
		if err != nil {
			op.abort(ctx, ref)
		}
	}()

	t := newTee()
	digester := digest.Canonical.Digester()
	b, failed := &blob{}, make(chan struct{})
	var beside sync.WaitGroup
	bytes := t.branch()
	beside.Go(func() { bytes.each(func(p []byte) { digester.Hash().Write(p) }) })
	if unpack {
		files := t.branch()
		beside.Go(func() {
			defer files.each(func([]byte) {}) // what nobody wants any more
			if b.layer, b.failed = op.unpack(ctx, files, false); b.failed != nil && strict {
				close(failed)
			}
		})
	}
	size, err := pump(ctx, w, r, t, failed)
	beside.Wait()
	defer func() {
		if err != nil {
			op.discard(ctx, b.layer)
		}
	}()
	got := digester.Digest()
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case strict && b.failed != nil:
		return nil, b.failed // says more than "unexpected EOF"
	case err != nil:
		return nil, err
	case want.Digest != "" && want.Digest != got:
		return nil, wrongDigest(want.Digest, got)
	}
	b.desc = ocispec.Descriptor{Digest: got, Size: size}
	labels := map[string]string{}
	if b.layer != nil {
		if b.layer.packed == plain {
			b.layer.diff = got
		} else {
			labels["containerd.io/uncompressed"] = b.layer.diff.String()
		}
	}
	if op.later {
		if err := op.syncer.note(op, unsynced{Blobs: []digest.Digest{got}}); err != nil {
			return nil, err
		}
	}
	if err := w.Commit(ctx, size, got, content.WithLabels(labels)); err != nil && !errdefs.IsAlreadyExists(err) {
		return nil, fmt.Errorf("store content: %w", err)
	}
	return b, nil
}

// abort forgets a half-written blob.
func (op *operation) abort(ctx context.Context, ref string) {
	if err := op.content.Abort(context.WithoutCancel(ctx), ref); err != nil && !errdefs.IsNotFound(err) {
		op.log.Warn("a half-written blob stays until the next collection", "ref", ref, "error", err)
	}
}

// chunkSize and chunks bound what who is slowest may lag behind: 4 MiB.
const (
	chunkSize = 256 << 10
	chunks    = 16
)

// pump copies r to w and to the branches of t, until the channel stop is closed.
func pump(ctx context.Context, w io.Writer, r io.Reader, t *tee, stop <-chan struct{}) (size int64, err error) {
	defer func() { t.finish(err) }()
	for {
		select {
		case <-ctx.Done():
			return size, ctx.Err()
		case <-stop:
			return size, context.Canceled
		default:
		}
		c := t.chunk()
		n, rerr := io.ReadFull(r, c.b)
		if n > 0 {
			size += int64(n)
			t.send(c, n)
			if _, err := w.Write(c.b[:n]); err != nil {
				return size, fmt.Errorf("write content: %w", err)
			}
			t.release(c)
		}
		// ReadFull says ErrUnexpectedEOF for a short last chunk; the reader
		// itself says it for a stream that was cut off.
		if rerr == io.EOF || rerr == io.ErrUnexpectedEOF && n > 0 && atEOF(r) {
			return size, nil
		}
		if rerr != nil {
			return size, rerr
		}
	}
}

// atEOF reports whether r is at its end, and not broken off.
func atEOF(r io.Reader) bool {
	var one [1]byte
	n, err := r.Read(one[:])
	return n == 0 && err == io.EOF
}

// tee carries chunks from the pump to several who read them as a stream, each as
// fast as it can, with no copies.
type tee struct {
	free     chan *chunk
	branches []*branch
}

type chunk struct {
	b     []byte
	n     int
	users atomic.Int32 // who still reads it; the pump is one
}

func newTee() *tee {
	t := &tee{free: make(chan *chunk, chunks)}
	for range chunks {
		t.free <- nil // made when first used: most blobs are small
	}
	return t
}

// branch is a further reader; it must read to the end, by Read or each. To be
// called before the first chunk.
func (t *tee) branch() *branch {
	b := &branch{t: t, full: make(chan *chunk, chunks)}
	t.branches = append(t.branches, b)
	return b
}

// chunk waits for one to fill.
func (t *tee) chunk() *chunk {
	if c := <-t.free; c != nil {
		return c
	}
	return &chunk{b: make([]byte, chunkSize)}
}

// send hands a filled chunk to the branches; the pump keeps it until it releases it.
func (t *tee) send(c *chunk, n int) {
	c.n = n
	c.users.Store(int32(len(t.branches)) + 1)
	for _, b := range t.branches {
		b.full <- c // never full: it holds as many as there are
	}
}

func (t *tee) release(c *chunk) {
	if c.users.Add(-1) == 0 {
		t.free <- c
	}
}

// finish ends the stream, with an error if it broke off.
func (t *tee) finish(err error) {
	if err == nil {
		err = io.EOF
	}
	for _, b := range t.branches {
		b.end = err
		close(b.full)
	}
}

// branch is the stream as one of its readers sees it.
type branch struct {
	t    *tee
	full chan *chunk
	end  error // of the stream, set before full is closed
	cur  *chunk
	rest []byte
}

func (b *branch) Read(p []byte) (int, error) {
	for len(b.rest) == 0 {
		if b.cur != nil {
			b.t.release(b.cur)
			b.cur = nil
		}
		c, ok := <-b.full
		if !ok {
			return 0, b.end
		}
		b.cur, b.rest = c, c.b[:c.n]
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// each calls f with the rest of the stream.
func (b *branch) each(f func([]byte)) {
	if b.cur != nil {
		f(b.rest)
		b.t.release(b.cur)
		b.cur, b.rest = nil, nil
	}
	for c := range b.full {
		f(c.b[:c.n])
		b.t.release(c)
	}
}

var errEmpty = errors.New("the archive is empty")

// peek gives r back with a look at its compression. It fails for an empty
// stream.
func peek(r io.Reader) (*bufio.Reader, compression, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	if _, err := br.Peek(1); err == io.EOF {
		return nil, "", classed(errdefs.ErrInvalidArgument, "%w", errEmpty)
	} else if err != nil {
		return nil, "", err
	}
	c, err := sniff(br)
	return br, c, err
}

// mediaType is that of a layer blob.
func (b *blob) mediaType() string {
	switch b.layer.packed {
	case gzipped:
		return ocispec.MediaTypeImageLayerGzip
	case zstded:
		return ocispec.MediaTypeImageLayerZstd
	default:
		return ocispec.MediaTypeImageLayer
	}
}
