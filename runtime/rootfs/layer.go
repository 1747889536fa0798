package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// How a layer's archive says what overlay says with device files and
// attributes (OCI image spec, layer.md, "Whiteouts").
const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

// stubs are files that the runtime puts into every container's layer to mount
// others over them.
var stubs = []string{"etc/hosts", "etc/hostname", "etc/resolv.conf"}

// WriteLayer writes the upper directory of an overlay as the archive of an
// image's layer: what was deleted as whiteouts, directories that hide those
// below as opaque ones, files with several names as hard links, with owners,
// modes, times and extended attributes. Sockets are left out, and so are the
// empty files others are mounted over.
//
// The container may be running: nothing in its layer leads out of it. What
// changes while it is read is its affair, but a file that shrinks is an error,
// for the archive has promised its size. It counts the entries it has written.
func WriteLayer(ctx context.Context, w io.Writer, upper string) (entries int, err error) {
	top, err := os.Open(upper)
	if err != nil {
		return 0, err
	}
	defer top.Close()
	l := &layerWriter{ctx: ctx, top: top, tar: tar.NewWriter(w), links: map[inode]string{}, buf: make([]byte, 256<<10)}
	if err := l.directory("."); err != nil {
		return l.entries, err
	}
	return l.entries, l.tar.Close()
}

type layerWriter struct {
	ctx     context.Context
	top     *os.File
	tar     *tar.Writer
	links   map[inode]string // file with several names → the first of them
	entries int
	buf     []byte
}

// open opens a directory of the layer. The parents' descriptors are not held:
// a deep tree takes as few as a flat one.
func (l *layerWriter) open(rel string) (*os.File, error) {
	fd, err := unix.Openat2(int(l.top.Fd()), rel, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/" + rel, Err: err}
	}
	return os.NewFile(uintptr(fd), rel), nil
}

// directory writes what is in a directory; its own entry stands already.
func (l *layerWriter) directory(rel string) error {
	below, err := l.files(rel)
	if err != nil {
		return err
	}
	for _, name := range below {
		if err := l.directory(name); err != nil {
			return err
		}
	}
	return nil
}

// files writes the entries of a directory and gives the directories among them.
func (l *layerWriter) files(rel string) (below []string, err error) {
	dir, err := l.open(rel)
	if gone(err) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil && !gone(err) {
		return nil, fmt.Errorf("read /%s: %w", rel, err)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := l.ctx.Err(); err != nil {
			return nil, err
		}
		at := path.Join(rel, name)
		isDir, err := l.entry(dir, name, at)
		if gone(err) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("/%s: %w", at, err)
		}
		if isDir {
			below = append(below, at)
		}
	}
	return below, nil
}

// gone says that something was removed, or replaced, since its name was read.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

func (l *layerWriter) entry(dir *os.File, name, at string) (isDir bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, err
	}
	kind := st.Mode & unix.S_IFMT
	switch {
	case kind == unix.S_IFCHR && st.Rdev == 0:
		return false, l.mark(path.Join(path.Dir(at), whiteout+name))
	case kind == unix.S_IFSOCK, kind == unix.S_IFREG && st.Size == 0 && slices.Contains(stubs, at):
		return false, nil
	case strings.HasPrefix(name, whiteout):
		return false, fmt.Errorf("a name that begins with %q means a deletion in a layer: rename it", whiteout)
	}
	h := &tar.Header{
		Name: at, Format: tar.FormatPAX, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Unix()), PAXRecords: map[string]string{},
	}
	hidden, err := attributes(entryPath(dir, name), h)
	if err != nil {
		return false, err
	}
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		id := inode{uint64(st.Dev), st.Ino} //nolint:unconvert // narrower on some machines
		if first, ok := l.links[id]; ok {
			h.Typeflag, h.Linkname, h.PAXRecords = tar.TypeLink, first, nil
			return false, l.write(h)
		}
		l.links[id] = at
	}
	switch kind {
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, at+"/"
		if err := l.write(h); err != nil || !hidden {
			return true, err
		}
		return true, l.mark(path.Join(at, opaque))
	case unix.S_IFREG:
		return false, l.regular(dir, name, h)
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = readlink(dir, name); errors.Is(err, unix.EINVAL) {
			return false, unix.ENOENT // no link any more
		} else if err != nil {
			return false, err
		}
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if kind == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		rdev := uint64(st.Rdev) //nolint:unconvert // narrower on some machines
		h.Devmajor, h.Devminor = int64(unix.Major(rdev)), int64(unix.Minor(rdev))
	default:
		return false, fmt.Errorf("file of unknown type %#o", kind)
	}
	return false, l.write(h)
}

func (l *layerWriter) write(h *tar.Header) error {
	l.entries++
	return l.tar.WriteHeader(h)
}

// mark writes an empty file that says something about its neighbours.
func (l *layerWriter) mark(name string) error {
	return l.write(&tar.Header{Typeflag: tar.TypeReg, Name: name, Format: tar.FormatPAX, ModTime: time.Unix(0, 0)})
}

func (l *layerWriter) regular(dir *os.File, name string, h *tar.Header) error {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return unix.ENOENT // what was looked at has been replaced
	}
	h.Typeflag, h.Size = tar.TypeReg, st.Size
	if err := l.write(h); err != nil {
		return err
	}
	for left := st.Size; left > 0; {
		if err := l.ctx.Err(); err != nil {
			return err
		}
		n, err := f.Read(l.buf[:min(left, int64(len(l.buf)))])
		if n > 0 {
			left -= int64(n)
			if _, err := l.tar.Write(l.buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return fmt.Errorf("it shrank while it was read: pause the container meanwhile")
		case err != nil:
			return err
		}
	}
	return nil
}

// attributes reads extended attributes into a header. hidden says that a
// directory hides those of the layers below.
func attributes(from string, h *tar.Header) (hidden bool, err error) {
	list, err := sized(func(buf []byte) (int, error) { return unix.Llistxattr(from, buf) })
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOSYS) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for raw := range bytes.SplitSeq(list, []byte{0}) {
		name := string(raw)
		if name == "" || name == "security.selinux" {
			continue
		}
		value, err := sized(func(buf []byte) (int, error) { return unix.Lgetxattr(from, name, buf) })
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("read %s: %w", name, err)
		}
		switch {
		case name == "trusted.overlay.opaque":
			hidden = string(value) == "y"
		case name == "trusted.overlay.redirect", name == "trusted.overlay.metacopy":
			return false, fmt.Errorf("overlay keeps it in a form (%s) that no layer can say", name)
		case strings.HasPrefix(name, "trusted.overlay."), strings.HasPrefix(name, "user.overlay."):
		// A name with "=" cannot be written into a PAX record.
		case strings.Contains(name, "="):
			return false, fmt.Errorf("attribute %q: a name with '=' cannot be in a layer", name)
		default:
			h.PAXRecords["SCHILY.xattr."+name] = string(value)
		}
	}
	return hidden, nil
}
