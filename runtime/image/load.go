package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// Load reads an archive of images, as "docker save" and OCI tools write them,
// plain or compressed with gzip, zstd or bzip2. All images of the archive come
// in or none. report, which may be nil, is called with a line for each.
//
// Every digest, size and media type is checked; what is wrong fails with
// ErrInvalidArgument, naming the document or the layer.
func (s *Store) Load(ctx context.Context, r io.Reader, report func(string)) ([]Image, error) {
	if report == nil {
		report = func(string) {}
	}
	ctx, op, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer op.end(ctx)
	op.later = true

	images, err := op.load(ctx, r, report)
	if err != nil {
		return nil, Full(s.dir, err)
	}
	return images, nil
}

func (op *operation) load(ctx context.Context, r io.Reader, report func(string)) ([]Image, error) {
	br, packed, err := peek(r)
	if err != nil {
		return nil, err
	}
	tarball, err := decompress(br, packed)
	if err != nil {
		return nil, classed(errdefs.ErrInvalidArgument, "the archive is damaged at its start: %w", err)
	}
	defer tarball.Close()

	a := &archiveFile{op: op, blobs: map[string]*blob{}, links: map[string]string{}, small: map[string][]byte{}}
	defer a.discard(ctx)
	if err := a.read(ctx, tarball); err != nil {
		return nil, err
	}
	pubs, err := a.images(ctx)
	if err != nil {
		return nil, err
	}
	if err := op.publish(ctx, pubs); err != nil {
		return nil, err
	}
	var out []Image
	seen := map[digest.Digest]bool{}
	for _, p := range pubs {
		img, err := op.published(ctx, p)
		if err != nil {
			return nil, err
		}
		// The image may have other names here than those of the archive.
		if p.name != nil {
			report("Loaded image: " + reference.FamiliarString(p.name))
		} else {
			report("Loaded image ID: " + img.ID.String())
		}
		if !seen[img.ID] {
			seen[img.ID] = true
			out = append(out, img)
		}
	}
	return out, nil
}

// Bounds of what is kept in memory of an archive.
const (
	maxSmall      = 1 << 20   // a file up to this size may be a document
	maxSmallTotal = 256 << 20 // of all of them
	maxFiles      = 100_000
)

// archiveFile is an archive being read. Its files come in any order, the
// documents that say what they are often last. So what looks like a layer is
// stored and unpacked at once, as if it were the only one; small files are
// kept in memory; the rest is stored.
type archiveFile struct {
	op    *operation
	files int
	blobs map[string]*blob  // path → stored
	small map[string][]byte // path → content
	total int
	links map[string]string // path → target
}

// read takes in the whole archive.
func (a *archiveFile) read(ctx context.Context, r io.Reader) error {
	tr := tar.NewReader(r)
	last := ""
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return a.explain(err, last)
		}
		if a.files++; a.files > maxFiles {
			return classed(errdefs.ErrInvalidArgument, "more than %d files in the archive", maxFiles)
		}
		last = h.Name
		if climbs(h.Name) {
			return classed(errdefs.ErrInvalidArgument, "file %q climbs out of the archive", h.Name)
		}
		name := member(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			if err := a.file(ctx, name, h.Size, tr); err != nil {
				return a.explain(err, last)
			}
		case tar.TypeSymlink:
			a.links[name] = member(path.Join(path.Dir(name), h.Linkname))
		case tar.TypeLink:
			a.links[name] = member(h.Linkname)
		}
	}
	// The checksum of a compressed archive comes after the end of the tar.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return a.explain(err, last)
	}
	return nil
}

// member is the one way to write a path in the archive.
func member(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// explain says where in the archive err happened. Errors of our own already do.
func (a *archiveFile) explain(err error, last string) error {
	var f *failure
	switch {
	case errors.As(err, &f), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF) && last == "":
		return classed(errdefs.ErrInvalidArgument, "the archive ends before its first file: it is truncated or not a tar archive")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return classed(errdefs.ErrInvalidArgument, "the archive is truncated: it ends at %q", last)
	case errors.Is(err, tar.ErrHeader) && last == "":
		return classed(errdefs.ErrInvalidArgument, "this is not a tar archive")
	case last == "":
		return classed(errdefs.ErrInvalidArgument, "the archive is damaged at its start: %w", err)
	}
	return fmt.Errorf("the archive at %q: %w", last, err)
}

// file takes in one file.
func (a *archiveFile) file(ctx context.Context, name string, size int64, r io.Reader) error {
	br := bufio.NewReaderSize(r, 4096)
	head, err := br.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	layer := looksPacked(head)
	if !layer && size <= maxSmall {
		if a.total += int(size); a.total > maxSmallTotal {
			return classed(errdefs.ErrInvalidArgument, "the archive has more than %d bytes of small files", maxSmallTotal)
		}
		b, err := io.ReadAll(br)
		if err != nil {
			return err
		}
		a.small[name] = b
		return a.checkName(name, digest.FromBytes(b))
	}
	if d, ok := blobName(name); ok {
		// Already here, with the bytes the name promises: nothing to do, and
		// the lease keeps it. The archive's copy is skipped unread.
		if held, err := a.op.hold(ctx, d, size); err != nil || held {
			if held {
				a.blobs[name] = &blob{desc: ocispec.Descriptor{Digest: d, Size: size}}
			}
			return err
		}
	}
	need := size
	if c, err := sniff(bufio.NewReader(bytes.NewReader(head))); layer && err == nil && c == plain {
		need = twice(size)
	}
	if err := Room(a.op.dir, fmt.Sprintf("%q in the archive", name), need); err != nil {
		return err
	}
	b, err := a.op.ingest(ctx, br, layer, false, ocispec.Descriptor{})
	if err != nil {
		return err
	}
	if errors.Is(b.failed, unix.ENOSPC) || errors.Is(b.failed, unix.EDQUOT) {
		a.op.discard(ctx, b.layer)
		return fmt.Errorf("%q: %w", name, b.failed)
	}
	a.blobs[name] = b
	return a.checkName(name, b.desc.Digest)
}

// looksPacked reports whether a file can be a layer: compressed, or a tar
// archive with the magic of POSIX or GNU.
func looksPacked(head []byte) bool {
	c, err := sniff(bufio.NewReader(bytes.NewReader(head)))
	return err == nil && (c == gzipped || c == zstded) ||
		len(head) >= 262 && string(head[257:262]) == "ustar"
}

// blobName is the digest a path of an OCI layout promises.
func blobName(name string) (digest.Digest, bool) {
	parts := strings.Split(name, "/")
	if len(parts) != 3 || parts[0] != "blobs" {
		return "", false
	}
	d := digest.NewDigestFromEncoded(digest.Algorithm(parts[1]), parts[2])
	return d, d.Validate() == nil
}

// checkName compares a blob with the digest its path promises.
func (a *archiveFile) checkName(name string, got digest.Digest) error {
	want, ok := blobName(name)
	if !ok || want.Algorithm() != got.Algorithm() || want == got {
		return nil // other algorithms are checked when somebody refers to it
	}
	return classed(errdefs.ErrInvalidArgument, "%s has the digest %s: the archive is damaged or forged", name, got)
}

// discard gives up the layers no image wanted.
func (a *archiveFile) discard(ctx context.Context) {
	for _, b := range a.blobs {
		a.op.discard(ctx, b.layer)
	}
}

// follow resolves links: old archives hold a layer once and link to it.
func (a *archiveFile) follow(name string) string {
	for range 8 {
		to, ok := a.links[name]
		if !ok {
			break
		}
		name = to
	}
	return name
}

// document gives a small file of the archive.
func (a *archiveFile) document(name string) ([]byte, bool) {
	b, ok := a.small[a.follow(name)]
	return b, ok
}

// layers are the unpacked layers by the digest of their blob.
func (a *archiveFile) layers() map[digest.Digest]*unpacked {
	out := map[digest.Digest]*unpacked{}
	for _, b := range a.blobs {
		if b.layer != nil {
			out[b.desc.Digest] = b.layer
		}
	}
	return out
}
