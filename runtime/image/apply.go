package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"sort"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Prefixes of deletions in a layer (OCI image spec, layer.md, "Whiteouts").
const (
	whiteout     = ".wh."
	whiteoutMeta = ".wh..wh."
	whiteoutAll  = ".wh..wh..opq"
)

// xattrPrefix is how PAX headers carry extended attributes.
const xattrPrefix = "SCHILY.xattr."

// applied is what there is to know of a tar stream after it was unpacked.
type applied struct {
	entries int
	// implied are directories that entries lie in but that have no entry of
	// their own, parents first, relative to the root. In the layers below they
	// may have an owner and a mode that must show through.
	implied []string
}

// apply unpacks the tar stream r into the empty directory dir, the upper
// directory of an overlay: deletions become overlay's own marks. Nothing is
// mounted. Every path is resolved inside dir, so that no entry, symlink or hard
// link leads out; what tries to is refused by name before that.
func apply(ctx context.Context, dir string, r io.Reader) (applied, error) {
	v := &visitor{dir: dir, dirs: map[string]bool{}}
	if err := unpackTar(ctx, v, r); err != nil {
		return applied{}, v.explain(err)
	}
	// What follows the end of the tar belongs to the stream and its digest.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return applied{}, v.explain(err)
	}
	return applied{entries: v.entries, implied: v.implied()}, nil
}

// visitor sees every entry before it is written.
type visitor struct {
	dir     string
	entries int
	last    string          // name of the entry being written
	dirs    map[string]bool // directory → has an entry
	parent  string          // of the last entry: neighbours share it
	failure error           // its own refusal
}

// visit says whether an entry is to be written.
func (v *visitor) visit(h *tar.Header) (bool, error) {
	v.entries++
	v.last = h.Name
	if len(h.Name) > unix.PathMax || len(h.Linkname) > unix.PathMax {
		v.last = h.Name[:min(len(h.Name), 100)] + "..."
		return false, v.refuse("entry %q has a name of %d bytes, more than the %d that a path may have", v.last, max(len(h.Name), len(h.Linkname)), unix.PathMax)
	}
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	if climbs(h.Name) {
		return false, v.refuse("entry %q climbs out of the root directory", h.Name)
	}
	switch h.Typeflag {
	case tar.TypeLink:
		if climbs(h.Linkname) {
			return false, v.refuse("entry %q is a hard link to %q, outside of the root directory", h.Name, h.Linkname)
		}
	case tar.TypeDir:
		if name != "" {
			v.dirs[name] = true
		}
	case tar.TypeReg, tar.TypeGNUSparse:
		if err := v.fits(h); err != nil {
			return false, err
		}
	}
	if base := path.Base(name); strings.HasPrefix(base, whiteoutMeta) && base != whiteoutAll {
		return false, nil // bookkeeping of AUFS, meant for no other file system
	}
	// Overlay keeps its own state in these; an archive has no say in it.
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, xattrPrefix+"trusted.overlay.") || strings.HasPrefix(k, xattrPrefix+"user.overlay.") {
			delete(h.PAXRecords, k)
		}
	}
	if p := path.Dir(name); p != v.parent {
		v.parent = p
		for ; p != "." && p != "/"; p = path.Dir(p) {
			if _, seen := v.dirs[p]; seen {
				break
			}
			v.dirs[p] = false
		}
	}
	return true, nil
}

// climbs reports whether name, read from the root, has more ".." than it went down.
func climbs(name string) bool {
	rel := path.Clean(strings.TrimLeft(name, "/"))
	return rel == ".." || strings.HasPrefix(rel, "../")
}

// fits refuses a file that the disk cannot hold before a byte of it is
// written: the size in a header may be a lie, or a sparse file of petabytes in
// an archive of a few bytes.
func (v *visitor) fits(h *tar.Header) error {
	if h.Size < 64<<20 {
		return nil
	}
	free, err := freeSpace(v.dir)
	if err != nil {
		return err
	}
	if h.Size > free {
		v.failure = classed(errdefs.ErrFailedPrecondition,
			"entry %q has %d bytes, the disk has room for %d: free some space, or do not trust this archive", h.Name, h.Size, free)
		return v.failure
	}
	return nil
}

func (v *visitor) refuse(format string, args ...any) error {
	v.failure = classed(errdefs.ErrInvalidArgument, format, args...)
	return v.failure
}

// explain says where in the archive err happened.
func (v *visitor) explain(err error) error {
	var errno syscall.Errno
	errors.As(err, &errno)
	switch {
	case v.failure != nil:
		return v.failure
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		if v.entries == 0 {
			return classed(errdefs.ErrInvalidArgument, "the archive ends before its first entry: it is truncated or not a tar archive")
		}
		return classed(errdefs.ErrInvalidArgument, "the archive is truncated: it ends at entry %d, %q", v.entries, v.last)
	case errors.Is(err, tar.ErrHeader) && v.entries == 0:
		return classed(errdefs.ErrInvalidArgument, "this is not a tar archive")
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("no room for entry %d, %q: %w", v.entries, v.last, errno)
	case errno != 0:
		return fmt.Errorf("write entry %d, %q: %w", v.entries, v.last, err)
	case v.entries == 0:
		return classed(errdefs.ErrInvalidArgument, "the archive is damaged at its start: %w", err)
	default:
		return classed(errdefs.ErrInvalidArgument, "the archive is damaged after entry %d, %q: %w", v.entries, v.last, err)
	}
}

func (v *visitor) implied() []string {
	var out []string
	for d, entry := range v.dirs {
		if !entry {
			out = append(out, d)
		}
	}
	sort.Strings(out)
	return out
}
