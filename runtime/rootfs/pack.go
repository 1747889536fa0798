package rootfs

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// nameBatch is how many names of a directory are held and sorted at a time. Its
// test has fewer.
var nameBatch = 1 << 16

const (
	// maxRemembered bounds how many files with several names are remembered
	// as such; what comes after them is written out under each of its names.
	maxRemembered = 1 << 17
	packBuffer    = 256 << 10
)

// Pack writes what is at a path below root as a tar archive: a directory with
// all that is in it, other things alone. Names in it begin with the last
// element of the path as it was asked for; "dir/." leaves it out. The last
// element is looked up as by [StatIn].
//
// Owners, modes, times in seconds, file capabilities, the user's extended
// attributes, hard links and devices are kept. Sockets are left out: no archive
// has them. Only regular files are ever opened. Somebody may change the tree
// meanwhile: what vanishes is left out, what shrinks is filled with zeros,
// since the archive has promised its size.
//
// Nothing is looked up below /proc, so there need not be one.
func Pack(w io.Writer, root *os.File, name string) error {
	at, err := locate(root, name)
	if err != nil {
		return err
	}
	defer at.close()
	p := packer{tar: tar.NewWriter(w), links: map[inode]*linked{}, buf: make([]byte, packBuffer)}
	if at.st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if _, err := p.entry(at.dir, at.base, at.name); err != nil {
			return fmt.Errorf("pack %s: %w", name, err)
		}
		return p.tar.Close()
	}
	if p.top, err = beneath(at.dir, path.Join(".", at.base)); err != nil {
		return err
	}
	defer p.top.Close()
	p.name = at.name
	if err := p.tree(); err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	return p.tar.Close()
}

// Export is Pack of all that is below root, with names that are relative to it
// and without an entry for root itself: the form in which images are made of
// it.
func Export(w io.Writer, root *os.File) error {
	top, err := beneath(root, ".")
	if err != nil {
		return err
	}
	defer top.Close()
	p := packer{tar: tar.NewWriter(w), links: map[inode]*linked{}, buf: make([]byte, packBuffer), top: top, bare: true}
	if err := p.tree(); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return p.tar.Close()
}

type packer struct {
	tar   *tar.Writer
	top   *os.File
	name  string // of top in the archive
	bare  bool   // names are relative to top
	links map[inode]*linked
	buf   []byte
}

// linked is a file with names that are still to come.
type linked struct {
	first string
	left  uint64
}

// beneath opens a directory below another one that no link leads to.
func beneath(top *os.File, rel string) (*os.File, error) {
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for range 128 {
		fd, err := unix.Openat2(int(top.Fd()), rel, &how)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), rel), nil
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			continue
		}
		return nil, &fs.PathError{Op: "open", Path: "/" + rel, Err: err}
	}
	return nil, &fs.PathError{Op: "open", Path: "/" + rel, Err: unix.EAGAIN}
}

// inArchive is the name that an archive has for a path below top.
func (p *packer) inArchive(rel string) string {
	switch {
	case p.bare:
		return rel
	case rel == ".":
		return strings.TrimSuffix(p.name, "/")
	}
	return strings.TrimSuffix(p.name, "/") + "/" + rel
}

// tree writes top and everything below: a directory, what else is in it, then
// the directories in it. One directory of it is open at a time, however deep.
func (p *packer) tree() error {
	for todo := []string{"."}; len(todo) > 0; {
		rel := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		below, err := p.directory(rel)
		if err != nil {
			return err
		}
		slices.Reverse(below)
		todo = append(todo, below...)
	}
	return nil
}

// directory writes a directory with its entries, but for the directories among
// them, which it gives.
func (p *packer) directory(rel string) (below []string, err error) {
	dir, err := beneath(p.top, rel)
	if gone(err) && rel != "." {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	defer dir.Close()
	if rel != "." || !p.bare {
		if err := p.head(dir, p.inArchive(rel)); err != nil {
			return nil, err
		}
	}
	for {
		names, err := dir.Readdirnames(nameBatch)
		if len(names) == 0 {
			if err == nil || errors.Is(err, io.EOF) || gone(err) {
				return below, nil
			}
			return nil, fmt.Errorf("read /%s: %w", rel, err)
		}
		slices.Sort(names)
		for _, name := range names {
			at := path.Join(rel, name)
			isDir, err := p.entry(dir, name, p.inArchive(at))
			if gone(err) {
				continue
			} else if err != nil {
				return nil, fmt.Errorf("/%s: %w", at, err)
			}
			if isDir {
				below = append(below, at)
			}
		}
	}
}

func header(st *unix.Stat_t, name string) *tar.Header {
	return &tar.Header{
		Name: name, Format: tar.FormatPAX, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(int64(st.Mtim.Sec), 0), //nolint:unconvert // narrower on some machines
	}
}

// entry writes what has a name in a directory, unless that is a directory too.
func (p *packer) entry(dir *os.File, name, as string) (isDir bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, err
	}
	kind := st.Mode & unix.S_IFMT
	switch {
	case kind == unix.S_IFSOCK, kind == unix.S_IFCHR && st.Rdev == 0:
		return false, nil // a whiteout shows in the view of a single layer
	case kind == unix.S_IFDIR:
		return true, nil
	}
	if st.Nlink > 1 {
		if first, ok := p.again(&st, as); ok {
			h := header(&st, as)
			h.Typeflag, h.Linkname = tar.TypeLink, first
			return false, p.tar.WriteHeader(h)
		}
	}
	if kind == unix.S_IFREG {
		return false, p.regular(dir, name, as)
	}
	h := header(&st, as)
	switch kind {
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
	return false, p.tar.WriteHeader(h)
}

// again says under which name a file is in the archive already.
func (p *packer) again(st *unix.Stat_t, as string) (first string, ok bool) {
	id := inode{uint64(st.Dev), st.Ino} //nolint:unconvert // narrower on some machines
	l := p.links[id]
	if l == nil {
		if len(p.links) < maxRemembered {
			p.links[id] = &linked{as, uint64(st.Nlink) - 1} //nolint:unconvert // likewise
		}
		return "", false
	}
	if l.left--; l.left == 0 {
		delete(p.links, id) // that was the last of its names
	}
	return l.first, true
}

// head writes the entry of a directory itself.
func (p *packer) head(d *os.File, as string) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(d.Fd()), &st); err != nil {
		return err
	}
	h := header(&st, as+"/")
	h.Typeflag = tar.TypeDir
	if err := p.attributes(d, h); err != nil {
		return err
	}
	return p.tar.WriteHeader(h)
}

func (p *packer) regular(dir *os.File, name, as string) error {
	// What was a file a moment ago may be a FIFO or a device by now.
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENXIO) {
		return unix.ENOENT
	} else if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return unix.ENOENT
	}
	h := header(&st, as)
	h.Typeflag, h.Size = tar.TypeReg, st.Size
	if err := p.attributes(f, h); err != nil {
		return err
	}
	// A small file is read before its size is told: those of sysfs say 4096
	// and hold less.
	if st.Size <= packBuffer {
		n, err := io.ReadFull(f, p.buf[:st.Size])
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		h.Size = int64(n)
		if err := p.tar.WriteHeader(h); err != nil {
			return err
		}
		_, err = p.tar.Write(p.buf[:n])
		return err
	}
	if err := p.tar.WriteHeader(h); err != nil {
		return err
	}
	for left := st.Size; left > 0; {
		n, err := f.Read(p.buf[:min(left, packBuffer)])
		if errors.Is(err, io.EOF) {
			n = int(min(left, packBuffer))
			clear(p.buf[:n])
		} else if err != nil {
			return err
		}
		if _, err := p.tar.Write(p.buf[:n]); err != nil {
			return err
		}
		left -= int64(n)
	}
	return nil
}

// xattrRecord begins the name of a PAX record of an extended attribute.
const xattrRecord = "SCHILY.xattr."

// attributes reads the extended attributes that mean something elsewhere.
func (p *packer) attributes(f *os.File, h *tar.Header) error {
	fd := int(f.Fd())
	list, err := sized(func(buf []byte) (int, error) { return unix.Flistxattr(fd, buf) })
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		return nil
	}
	if err != nil {
		return err
	}
	for raw := range bytes.SplitSeq(list, []byte{0}) {
		name := string(raw)
		if name != "security.capability" && !strings.HasPrefix(name, "user.") || strings.Contains(name, "=") {
			continue
		}
		value, err := sized(func(buf []byte) (int, error) { return unix.Fgetxattr(fd, name, buf) })
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[xattrRecord+name] = string(value)
	}
	return nil
}
