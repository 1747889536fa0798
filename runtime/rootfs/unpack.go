package rootfs

import (
	"archive/tar"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// UnpackOptions bend [Unpack].
type UnpackOptions struct {
	// NoOverwrite refuses to put something else in a directory's place, and a
	// directory in the place of something else.
	NoOverwrite bool
	// Owner gets everything, in place of whom the archive names; nil: nobody.
	Owner *User
}

// Unpack makes in the directory dest, which is looked up below root, what a tar
// archive says. A directory that is there already stays with what is in it, and
// gets the owner and mode of the archive's; anything else that is there is
// replaced.
//
// Symbolic links above an entry are followed as a process would whose root
// directory is root; those of the archive itself may say what they like. An
// entry whose name leads out of dest, and a hard link to something outside, is
// ErrInvalidArgument. Attributes that the filesystem or this process cannot set
// are left out. Blocks of zeros become holes.
//
// After an error, what came before it in the archive is there.
func Unpack(root *os.File, dest string, r io.Reader, o UnpackOptions) error {
	d, err := OpenIn(root, dest, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	u := unpacker{root: root, dest: dest, opts: o, parent: d, at: ".", buf: make([]byte, packBuffer)}
	defer func() { u.forget() }()
	archive := tar.NewReader(r)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return broken(err)
		}
		if err := u.entry(h, archive); err != nil {
			return fmt.Errorf("unpack %q: %w", h.Name, misnamed(err))
		}
	}
	if err := u.leave("."); err != nil {
		return err
	}
	// What pads the archive's end is taken too: who sends it waits for that.
	if _, err := io.CopyBuffer(io.Discard, onlyReader{r}, u.buf); err != nil {
		return broken(err)
	}
	return nil
}

type onlyReader struct{ io.Reader }

// broken is an archive that cannot be read on.
func broken(err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return invalid{errors.New("the archive ends before it is complete")}
	case errors.Is(err, tar.ErrHeader), errors.Is(err, tar.ErrFieldTooLong):
		return invalid{fmt.Errorf("this is no tar archive, or a damaged one: %w", err)}
	}
	return fmt.Errorf("read the archive: %w", err)
}

// misnamed gives an error its class that nothing but the archive's names brings
// about: with what they have made, or with each other.
func misnamed(err error) error {
	for _, errno := range []error{unix.ENOTDIR, unix.ELOOP, unix.ENAMETOOLONG, unix.EISDIR} {
		if errors.Is(err, errno) {
			return invalid{err}
		}
	}
	return err
}

type unpacker struct {
	root *os.File
	dest string
	opts UnpackOptions
	buf  []byte

	parent *os.File // the directory of the last entry, a path; nil: none
	at     string   // its name below dest

	// Directories whose times are still to be set: making an entry in one
	// changes them. Each is below the one before it.
	open []datedDir
}

type datedDir struct {
	rel   string
	times []unix.Timespec
}

func (u *unpacker) forget() {
	if u.parent != nil {
		u.parent.Close()
		u.parent = nil
	}
}

// within gives a name of the archive as a path below dest.
func within(name string) (string, error) {
	rel := path.Clean(name)
	if rel == ".." || strings.HasPrefix(rel, "../") {
		return "", invalid{fmt.Errorf("%q leads out of the directory that is unpacked to", name)}
	}
	return cmp.Or(strings.TrimLeft(rel, "/"), "."), nil
}

// enter opens the directory of an entry, and makes it if need be.
func (u *unpacker) enter(rel string) (int, error) {
	if u.parent == nil || u.at != rel {
		d, err := mkdirIn(u.root, path.Join("/", u.dest, rel))
		if err != nil {
			return -1, err
		}
		u.forget()
		u.parent, u.at = d, rel
	}
	return int(u.parent.Fd()), nil
}

func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	rel, err := within(h.Name)
	if err != nil || rel == "." {
		return err
	}
	if err := u.leave(rel); err != nil {
		return err
	}
	dir, err := u.enter(path.Dir(rel))
	if err != nil {
		return err
	}
	name := path.Base(rel)
	there, err := u.clear(dir, name, rel, h)
	if err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return u.directory(dir, name, rel, h, there)
	case tar.TypeReg, tar.TypeRegA, tar.TypeGNUSparse, tar.TypeCont: //nolint:staticcheck // old archives have it
		return u.regular(dir, name, h, content)
	case tar.TypeLink:
		return u.link(dir, name, h)
	case tar.TypeSymlink:
		if err := unix.Symlinkat(h.Linkname, dir, name); err != nil {
			return err
		}
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		kind := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[h.Typeflag]
		dev := 0
		if kind != unix.S_IFIFO {
			dev = int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)))
		}
		if err := unix.Mknodat(dir, name, kind|0o600, dev); err != nil {
			return err
		}
	default:
		return invalid{fmt.Errorf("entries of type %q are not supported", h.Typeflag)}
	}
	uid, gid := u.owner(h)
	if err := unix.Fchownat(dir, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := unix.Fchmodat(dir, name, uint32(h.Mode)&0o7777, 0); err != nil {
			return err
		}
	}
	return unix.UtimesNanoAt(dir, name, times(h), unix.AT_SYMLINK_NOFOLLOW)
}

// clear makes room for an entry. there: a directory that stays.
func (u *unpacker) clear(dir int, name, rel string, h *tar.Header) (there bool, err error) {
	var st unix.Stat_t
	err = unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	is, shall := st.Mode&unix.S_IFMT == unix.S_IFDIR, h.Typeflag == tar.TypeDir
	switch {
	case is && shall:
		return true, nil
	case u.opts.NoOverwrite && is:
		return false, invalid{fmt.Errorf("cannot overwrite directory %q with non-directory %q", path.Join("/", u.dest, rel), h.Name)}
	case u.opts.NoOverwrite && shall:
		return false, invalid{fmt.Errorf("cannot overwrite non-directory %q with directory %q", path.Join("/", u.dest, rel), h.Name)}
	}
	return false, removeAt(dir, name)
}

// removeAt removes what has a name in a directory, with all below.
func removeAt(dir int, name string) error {
	err := unix.Unlinkat(dir, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return err
	}
	d, oerr := openDir(dir, name)
	if oerr != nil {
		return err
	}
	defer d.Close()
	for {
		names, rerr := d.Readdirnames(nameBatch)
		for _, n := range names {
			if err := removeAt(int(d.Fd()), n); err != nil {
				return err
			}
		}
		if len(names) == 0 {
			if rerr != nil && !errors.Is(rerr, io.EOF) {
				return rerr
			}
			break
		}
	}
	return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
}

func (u *unpacker) owner(h *tar.Header) (uid, gid int) {
	if o := u.opts.Owner; o != nil {
		return int(o.UID), int(o.GID)
	}
	return h.Uid, h.Gid
}

func (u *unpacker) directory(dir int, name, rel string, h *tar.Header, there bool) error {
	if !there {
		if err := unix.Mkdirat(dir, name, 0o700); err != nil {
			return err
		}
	}
	d, err := openDir(dir, name)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := u.dress(int(d.Fd()), h); err != nil {
		return err
	}
	u.open = append(u.open, datedDir{rel, times(h)})
	return nil
}

// leave sets the times of the directories that rel is not in. One that the
// archive comes back to later keeps the time of that.
func (u *unpacker) leave(rel string) error {
	for len(u.open) > 0 {
		last := u.open[len(u.open)-1]
		if rel != "." && strings.HasPrefix(rel, last.rel+"/") {
			return nil
		}
		u.open = u.open[:len(u.open)-1]
		d, err := OpenIn(u.root, path.Join("/", u.dest, last.rel), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
		if gone(err) {
			continue // replaced by what came later, or by somebody else
		} else if err != nil {
			return err
		}
		err = futimens(int(d.Fd()), last.times)
		d.Close()
		if err != nil {
			return fmt.Errorf("set the time of %s: %w", last.rel, err)
		}
	}
	return nil
}

func (u *unpacker) regular(dir int, name string, h *tar.Header, content io.Reader) error {
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if err := u.fill(f, content, h.Size); err != nil {
		return err
	}
	if err := u.dress(fd, h); err != nil {
		return err
	}
	if err := futimens(fd, times(h)); err != nil {
		return err
	}
	return f.Close() // a full disk may be told only here
}

// zeros is what a block is compared with.
var zeros [packBuffer]byte

// fill writes a file's content, and leaves out blocks that are all zeros.
func (u *unpacker) fill(f *os.File, content io.Reader, size int64) error {
	at := int64(0)
	for {
		n, err := io.ReadFull(content, u.buf[:min(max(size-at, 1), packBuffer)])
		if n > 0 && !bytes.Equal(u.buf[:n], zeros[:n]) {
			if _, werr := f.WriteAt(u.buf[:n], at); werr != nil {
				return werr
			}
		}
		at += int64(n)
		switch {
		case errors.Is(err, io.EOF):
			return f.Truncate(at)
		case errors.Is(err, io.ErrUnexpectedEOF) && at < size:
			return broken(err)
		case err != nil && !errors.Is(err, io.ErrUnexpectedEOF):
			return err
		}
	}
}

// dress gives a file or directory its owner, attributes and mode. The order
// matters: a change of owner clears set-id bits and capabilities.
func (u *unpacker) dress(fd int, h *tar.Header) error {
	uid, gid := u.owner(h)
	if err := unix.Fchown(fd, uid, gid); err != nil {
		return err
	}
	for _, record := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		name, ok := strings.CutPrefix(record, xattrRecord)
		if !ok {
			continue
		}
		err := unix.Fsetxattr(fd, name, []byte(h.PAXRecords[record]), 0)
		if err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return unix.Fchmod(fd, uint32(h.Mode)&0o7777)
}

func (u *unpacker) link(dir int, name string, h *tar.Header) error {
	target, err := within(h.Linkname)
	if err != nil {
		return err
	}
	from, err := OpenIn(u.root, path.Join("/", u.dest, path.Dir(target)), unix.O_PATH|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) {
		return invalid{fmt.Errorf("it is a hard link to %q, which is not there", h.Linkname)}
	} else if err != nil {
		return err
	}
	defer from.Close()
	var st unix.Stat_t
	err = unix.Fstatat(int(from.Fd()), path.Base(target), &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT):
		return invalid{fmt.Errorf("it is a hard link to %q, which is not there", h.Linkname)}
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return invalid{fmt.Errorf("it is a hard link to %q, which is a directory", h.Linkname)}
	case err == nil:
		err = unix.Linkat(int(from.Fd()), path.Base(target), dir, name, 0)
	}
	if err != nil {
		return &fs.PathError{Op: "link to", Path: h.Linkname, Err: err}
	}
	return nil
}

// times are those of access and change.
func times(h *tar.Header) []unix.Timespec {
	access := h.AccessTime
	if access.Before(h.ModTime) {
		access = h.ModTime
	}
	return []unix.Timespec{timespec(access), timespec(h.ModTime)}
}

// timespec is t for the kernel; 1970 where it has 32 bits for it and needs more.
func timespec(t time.Time) unix.Timespec {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return unix.Timespec{}
	}
	return ts
}

// futimens sets the times of an open file. The system call does it with no path
// at all, which unix.UtimesNanoAt cannot say.
func futimens(fd int, ts []unix.Timespec) error {
	return unix.UtimesNanoAt(fd, "", ts, unix.AT_EMPTY_PATH)
}

// Refusal gives an error of this package that is the caller's or the tree's
// doing its class.
func Refusal(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return refused{err, errdefs.ErrNotFound}
	case errors.Is(err, unix.EROFS):
		return refused{err, errdefs.ErrPermissionDenied}
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENAMETOOLONG):
		return refused{err, errdefs.ErrInvalidArgument}
	}
	return err
}

type refused struct{ err, class error }

func (r refused) Error() string   { return r.err.Error() }
func (r refused) Unwrap() []error { return []error{r.err, r.class} }
