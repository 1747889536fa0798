package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/pkg/archive"
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
// mounted. containerd resolves every path inside dir, so that no entry, symlink
// or hard link leads out; what tries to is refused by name before that.
func apply(ctx context.Context, dir string, r io.Reader) (applied, error) {
	v := &visitor{dir: dir, dirs: map[string]bool{}}
	_, err := archive.Apply(ctx, dir, r, archive.WithFilter(v.visit), archive.WithConvertWhiteout(convert))
	if err != nil {
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
	case tar.TypeReg:
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
		return fmt.Errorf("write entry %d, %q: %w", v.entries, v.last, v.relative(err))
	case v.entries == 0:
		return classed(errdefs.ErrInvalidArgument, "the archive is damaged at its start: %w", err)
	default:
		return classed(errdefs.ErrInvalidArgument, "the archive is damaged after entry %d, %q: %w", v.entries, v.last, err)
	}
}

// relative takes the store's own directory out of an error about a path.
func (v *visitor) relative(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		if rel, e := filepath.Rel(v.dir, pe.Path); e == nil {
			return &os.PathError{Op: pe.Op, Path: rel, Err: pe.Err}
		}
	}
	var le *os.LinkError
	if errors.As(err, &le) {
		return fmt.Errorf("%s: %w", le.Op, le.Err)
	}
	return err
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

// convert turns a deletion into overlay's form. One that names a file of the
// same layer deletes nothing: deletions are about the layers below.
func convert(h *tar.Header, p string) (bool, error) {
	base := filepath.Base(p)
	if strings.HasPrefix(base, whiteout) && base != whiteoutAll {
		hidden := filepath.Join(filepath.Dir(p), strings.TrimPrefix(base, whiteout))
		if _, err := os.Lstat(hidden); err == nil {
			return false, nil
		}
	}
	return archive.OverlayConvertWhiteout(h, p)
}

// inherit gives the implied directories of a layer the owner, mode, times and
// attributes that they have in the nearest of the layers below, top first.
// Overlay shows a directory as its uppermost layer has it.
func inherit(dir string, implied, below []string) error {
	root, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, rel := range implied {
		// Behind a symbolic link of the layer lies another directory, if not
		// one of the host; and it may be deleted again.
		fd, err := unix.Openat2(int(root.Fd()), rel, &unix.OpenHow{
			Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
		})
		switch {
		case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ENOENT):
			continue
		case err != nil:
			return fmt.Errorf("directory %q: %w", rel, err)
		}
		dst := os.NewFile(uintptr(fd), rel)
		err = inheritFirst(dst, below, rel)
		dst.Close()
		if err != nil {
			return fmt.Errorf("directory %q: %w", rel, err)
		}
	}
	return nil
}

func inheritFirst(dst *os.File, below []string, rel string) error {
	for _, b := range below {
		if found, err := inheritFrom(dst, b, rel); err != nil || found {
			return err
		}
	}
	return nil
}

// inheritFrom reports whether rel exists in the layer below, as whatever; then
// layers further down do not count.
func inheritFrom(dst *os.File, below, rel string) (bool, error) {
	root, err := os.OpenRoot(below)
	if err != nil {
		return false, err
	}
	defer root.Close()
	f, err := root.OpenFile(rel, os.O_RDONLY|unix.O_NONBLOCK|unix.O_DIRECTORY, 0)
	if err != nil {
		if _, e := root.Lstat(rel); e == nil {
			return true, nil // not a directory there: nothing shines through
		}
		return false, nil
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false, err
	}
	fd := int(dst.Fd())
	if err := unix.Fchown(fd, int(st.Uid), int(st.Gid)); err != nil {
		return false, err
	}
	if err := copyXattrs(dst, f); err != nil {
		return false, err
	}
	if err := unix.Fchmod(fd, st.Mode&0o7777); err != nil {
		return false, err
	}
	return true, unix.UtimesNanoAt(fd, "", []unix.Timespec{st.Atim, st.Mtim}, unix.AT_EMPTY_PATH)
}

func copyXattrs(dst, src *os.File) error {
	buf := make([]byte, 64<<10)
	n, err := unix.Flistxattr(int(src.Fd()), buf)
	if err != nil {
		if err == unix.ENOTSUP {
			return nil
		}
		return err
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(buf[:n]), "\x00"), "\x00") {
		if name == "" || strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Fgetxattr(int(src.Fd()), name, value)
		if err != nil {
			return err
		}
		if err := unix.Fsetxattr(int(dst.Fd()), name, value[:n], 0); err != nil && err != unix.ENOTSUP {
			return err
		}
	}
	return nil
}
