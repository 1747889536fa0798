package image

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// compression is how a stream is packed, by its first bytes.
type compression string

const (
	plain   compression = "none"
	gzipped compression = "gzip"
	zstded  compression = "zstd"
	bzipped compression = "bzip2"
)

// refused are formats people try, with the command that unpacks each.
var refused = []struct {
	name, magic, how string
}{
	{"xz", "\xfd7zXZ\x00", "xz -dc FILE"},
	{"lz4", "\x04\x22\x4d\x18", "lz4 -dc FILE"},
	{"lzip", "LZIP", "lzip -dc FILE"},
	{"lzma", "\x5d\x00\x00", "xz --format=lzma -dc FILE"},
	{"compress (.Z)", "\x1f\x9d", "zcat FILE"},
	{"zip", "PK\x03\x04", "bsdtar -cf - @FILE"},
	{"7z", "7z\xbc\xaf\x27\x1c", "bsdtar -cf - @FILE"},
	{"squashfs", "hsqs", "sqfs2tar FILE"},
}

// maxWindow bounds the memory a zstd stream can ask for: what "zstd --long=27"
// makes, the most that the zstd program itself takes unasked.
const maxWindow = 128 << 20

// Decompress reads r, whatever it is packed with. A format that is known and
// cannot be read is ErrInvalidArgument, and so is what is damaged; a failure of r
// is r's. Close frees the decoder, not r.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	from := &source{Reader: r}
	b := bufio.NewReaderSize(from, 64<<10)
	c, err := sniff(b)
	if err != nil {
		return nil, err
	}
	z, err := decompress(b, c)
	if err != nil {
		return nil, classed(errdefs.ErrInvalidArgument, "%w", err)
	}
	return &decoded{z, from}, nil
}

// source notes whether reading has failed; decoders read ahead.
type source struct {
	io.Reader
	failed atomic.Bool
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && err != io.EOF {
		s.failed.Store(true)
	}
	return n, err
}

// decoded is a decoder whose own complaints are about what it reads.
type decoded struct {
	io.ReadCloser
	from *source
}

func (d *decoded) Read(p []byte) (int, error) {
	n, err := d.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) && !d.from.failed.Load() {
		err = classed(errdefs.ErrInvalidArgument, "damaged: %w", err)
	}
	return n, err
}

// sniff says how the stream is compressed. It fails with ErrInvalidArgument for
// a format it knows but cannot read.
func sniff(r *bufio.Reader) (compression, error) {
	head, err := r.Peek(8)
	if err != nil && err != io.EOF {
		return "", err
	}
	switch {
	case bytes.HasPrefix(head, []byte("\x1f\x8b\x08")):
		return gzipped, nil
	case bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")):
		return zstded, nil
	case len(head) >= 8 && binary.LittleEndian.Uint32(head)&0xfffffff0 == 0x184d2a50:
		return zstded, nil // a skippable frame comes first (RFC 8878, 3.1.2)
	case bytes.HasPrefix(head, []byte("BZh")):
		return bzipped, nil
	}
	for _, f := range refused {
		if bytes.HasPrefix(head, []byte(f.magic)) {
			return "", classed(errdefs.ErrInvalidArgument,
				"%s is not supported, only tar, gzip, zstd and bzip2 are: pipe it through %q", f.name, f.how)
		}
	}
	return plain, nil
}

// decompress reads r, packed in the way c. Close frees the decoder, not r.
func decompress(r io.Reader, c compression) (io.ReadCloser, error) {
	switch c {
	case plain:
		return io.NopCloser(r), nil
	case gzipped:
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
		return z, nil
	case zstded:
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, fmt.Errorf("zstd: %w", err)
		}
		return z.IOReadCloser(), nil
	case bzipped:
		return io.NopCloser(bzip2.NewReader(r)), nil
	}
	return nil, fmt.Errorf("unknown compression %q", c)
}
