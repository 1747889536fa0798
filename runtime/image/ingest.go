package image

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
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
	w, err := content.OpenWriter(ctx, op.content, content.WithRef(ref))
	if err != nil {
		return nil, fmt.Errorf("open content: %w", err)
	}
	defer func() {
		w.Close()
		if err != nil {
			op.abort(ctx, ref)
		}
	}()

	var t *tee
	if unpack {
		t = newTee()
		go func() {
			defer close(t.done)
			t.layer, t.err = op.unpack(ctx, t, false)
			t.stop()
		}()
	}
	size, err := pump(ctx, w, r, t, strict)
	b := &blob{}
	if t != nil {
		<-t.done
		b.layer, b.failed = t.layer, t.err
		defer func() {
			if err != nil {
				op.discard(ctx, b.layer)
			}
		}()
	}
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case strict && b.failed != nil:
		return nil, b.failed // says more than "unexpected EOF"
	case err != nil:
		return nil, err
	case want.Digest != "" && want.Digest != w.Digest():
		return nil, wrongDigest(want.Digest, w.Digest())
	}
	b.desc = ocispec.Descriptor{Digest: w.Digest(), Size: size}
	labels := map[string]string{}
	if b.layer != nil {
		if b.layer.packed == plain {
			b.layer.diff = b.desc.Digest
		} else {
			labels["containerd.io/uncompressed"] = b.layer.diff.String()
		}
	}
	if err := w.Commit(ctx, size, b.desc.Digest, content.WithLabels(labels)); err != nil && !errdefs.IsAlreadyExists(err) {
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

// chunkSize and chunks bound what the unpacker may lag behind: 4 MiB.
const (
	chunkSize = 256 << 10
	chunks    = 16
)

// pump copies r to w and, where there is one, to the tee.
func pump(ctx context.Context, w io.Writer, r io.Reader, t *tee, strict bool) (size int64, err error) {
	if t != nil {
		defer func() { t.finish(err) }()
	}
	var buf []byte
	for {
		if err := ctx.Err(); err != nil {
			return size, err
		}
		if t != nil {
			buf = t.buffer()
		} else if buf == nil {
			buf = make([]byte, chunkSize)
		}
		n, rerr := io.ReadFull(r, buf)
		if n > 0 {
			size += int64(n)
			if _, err := w.Write(buf[:n]); err != nil {
				return size, fmt.Errorf("write content: %w", err)
			}
			if t != nil && !t.send(buf[:n]) && strict {
				if <-t.done; t.err != nil {
					return size, t.err
				}
			}
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

// tee carries chunks from the pump to the unpacker, who reads it as a stream.
type tee struct {
	free, full chan []byte
	stopped    chan struct{} // the unpacker reads no more
	done       chan struct{} // the unpacker has returned; layer and err are set
	layer      *unpacked
	err        error

	end  error // of the stream, set before full is closed
	rest []byte
	cur  []byte
}

func newTee() *tee {
	t := &tee{
		free: make(chan []byte, chunks), full: make(chan []byte, chunks),
		stopped: make(chan struct{}), done: make(chan struct{}),
	}
	for range chunks {
		t.free <- nil // made when first used: most blobs are small
	}
	return t
}

// buffer waits for a chunk to fill.
func (t *tee) buffer() []byte {
	select {
	case b := <-t.free:
		if b != nil {
			return b
		}
	case <-t.stopped:
	}
	return make([]byte, chunkSize)
}

// send hands a filled chunk over; false says that nobody wants it any more.
func (t *tee) send(b []byte) bool {
	select {
	case t.full <- b:
		return true
	case <-t.stopped:
		return false
	}
}

// finish ends the stream, with an error if it broke off.
func (t *tee) finish(err error) {
	if err == nil {
		err = io.EOF
	}
	t.end = err
	close(t.full)
}

func (t *tee) stop() { close(t.stopped) }

func (t *tee) Read(p []byte) (int, error) {
	for len(t.rest) == 0 {
		if t.cur != nil {
			t.free <- t.cur[:chunkSize]
			t.cur = nil
		}
		b, ok := <-t.full
		if !ok {
			return 0, t.end
		}
		t.cur, t.rest = b, b
	}
	n := copy(p, t.rest)
	t.rest = t.rest[n:]
	return n, nil
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
