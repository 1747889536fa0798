package rootfs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// CopyTree copies what the open directory src holds into the directory dst,
// which is made if it is not there and must be empty, and gives dst the owner,
// mode, times and extended attributes of src itself. Everything a filesystem
// records is kept: owners, modes, times, extended attributes (file
// capabilities and ACLs among them), hard links, symbolic links, devices,
// FIFOs, sockets and holes. No symbolic link is followed and no mount is
// crossed into. When it returns, the copy is on disk.
//
// After an error dst holds a part of the tree; it is the caller's to remove.
func CopyTree(dst string, src *os.File) error {
	if err := os.Mkdir(dst, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("copy tree: %w", err)
	}
	to, err := openDir(unix.AT_FDCWD, dst)
	if err != nil {
		return fmt.Errorf("copy tree to %s: %w", dst, err)
	}
	defer to.Close()
	if names, err := to.Readdirnames(-1); err != nil {
		return fmt.Errorf("copy tree to %s: %w", dst, err)
	} else if len(names) > 0 {
		return fmt.Errorf("copy tree: directory %s is not empty: %w", dst, errdefs.ErrFailedPrecondition)
	}
	// src may be a bare path (O_PATH), which cannot be read.
	from, err := openDir(int(src.Fd()), ".")
	if err != nil {
		return fmt.Errorf("copy tree to %s: %w", dst, err)
	}
	defer from.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(from.Fd()), &st); err != nil {
		return fmt.Errorf("copy tree to %s: %w", dst, err)
	}
	c := copier{root: to, dev: st.Dev, links: map[inode]string{}}
	if err := c.directory(from, to, &st, ""); err != nil {
		return fmt.Errorf("copy tree to %s: %w", dst, err)
	}
	// One flush for the tree instead of one per file.
	if err := unix.Syncfs(int(to.Fd())); err != nil {
		return fmt.Errorf("copy tree to %s: sync: %w", dst, err)
	}
	return nil
}

// copier walks by directory descriptors and single names alone, so that
// nothing in the tree can lead it elsewhere, whoever changes it meanwhile.
type copier struct {
	root  *os.File         // of the copy
	dev   uint64           // of the source
	links map[inode]string // file with several names → its path in the copy
}

// inode names a file. Within one overlay, files have the device numbers of the
// filesystems that their layers are on.
type inode struct{ dev, ino uint64 }

// directory copies the entries of one directory, then its own attributes: an
// entry made later would change the times again. path is below the root.
func (c *copier) directory(from, to *os.File, st *unix.Stat_t, path string) error {
	names, err := from.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("read /%s: %w", path, err)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := c.entry(from, to, name, filepath.Join(path, name)); err != nil {
			return err
		}
	}
	return c.attributes(from, to, "", st, path)
}

func (c *copier) entry(from, to *os.File, name, path string) error {
	fail := func(err error) error { return fmt.Errorf("/%s: %w", path, err) }
	var st unix.Stat_t
	if err := unix.Fstatat(int(from.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fail(err)
	}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFCHR && st.Rdev == 0 {
		return nil // a whiteout: the view of a single layer shows them
	}
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		id := inode{st.Dev, st.Ino}
		if first, ok := c.links[id]; ok {
			if err := unix.Linkat(int(c.root.Fd()), first, int(to.Fd()), name, 0); err != nil {
				return fail(err)
			}
			return nil
		}
		c.links[id] = path
	}
	switch kind {
	case unix.S_IFDIR:
		return c.subdirectory(from, to, name, path, &st)
	case unix.S_IFREG:
		if err := c.regular(from, to, name, &st); err != nil {
			return fail(err)
		}
	case unix.S_IFLNK:
		target, err := readlink(from, name)
		if err != nil {
			return fail(err)
		}
		if err := unix.Symlinkat(target, int(to.Fd()), name); err != nil {
			return fail(err)
		}
	case unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO, unix.S_IFSOCK:
		if err := unix.Mknodat(int(to.Fd()), name, kind|0o600, int(st.Rdev)); err != nil {
			return fail(err)
		}
	default:
		return fail(fmt.Errorf("file of unknown type %#o", kind))
	}
	return c.attributes(from, to, name, &st, path)
}

func (c *copier) subdirectory(from, to *os.File, name, path string, st *unix.Stat_t) error {
	fail := func(err error) error { return fmt.Errorf("/%s: %w", path, err) }
	sub, err := openDir(int(from.Fd()), name)
	if err != nil {
		return fail(err)
	}
	defer sub.Close()
	if err := unix.Fstat(int(sub.Fd()), st); err != nil {
		return fail(err)
	}
	if err := unix.Mkdirat(int(to.Fd()), name, 0o700); err != nil {
		return fail(err)
	}
	made, err := openDir(int(to.Fd()), name)
	if err != nil {
		return fail(err)
	}
	defer made.Close()
	if st.Dev != c.dev {
		return c.attributes(sub, made, "", st, path)
	}
	return c.directory(sub, made, st, path)
}

func (c *copier) regular(from, to *os.File, name string, st *unix.Stat_t) error {
	in, err := unix.Openat(int(from.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(in)
	out, err := unix.Openat(int(to.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	if err := copyContent(in, out, st.Size); err != nil {
		unix.Close(out)
		return err
	}
	return unix.Close(out) // a full disk may be told only here
}

// attributes gives the copy what the original has besides content. name ""
// means the directories themselves. The order matters: a change of owner
// clears set-id bits and file capabilities, and all of it changes the times.
func (c *copier) attributes(from, to *os.File, name string, st *unix.Stat_t, path string) error {
	fail := func(what string, err error) error { return fmt.Errorf("/%s: %s: %w", path, what, err) }
	fd := int(to.Fd())
	link := st.Mode&unix.S_IFMT == unix.S_IFLNK
	if err := unix.Fchownat(fd, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH); err != nil {
		return fail("set owner", err)
	}
	if !link {
		var err error
		if name == "" {
			err = unix.Fchmod(fd, st.Mode&0o7777)
		} else {
			err = unix.Fchmodat(fd, name, st.Mode&0o7777, 0) // ours, not a link
		}
		if err != nil {
			return fail("set mode", err)
		}
	}
	if err := copyXattrs(entryPath(from, name), entryPath(to, name)); err != nil {
		return fail("extended attributes", err)
	}
	times := []unix.Timespec{st.Atim, st.Mtim}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, entryPath(to, name), times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fail("set times", err)
	}
	return nil
}

// entryPath is a path to an entry that no rename can bend: the descriptor's
// magic link, then one name. The xattr calls have no form with a descriptor
// and a name that older kernels know.
func entryPath(dir *os.File, name string) string {
	if name == "" {
		name = "." // the magic link itself would not be followed
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name)
}

func copyXattrs(from, to string) error {
	list, err := sized(func(buf []byte) (int, error) { return unix.Llistxattr(from, buf) })
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	if err != nil {
		return err
	}
	for raw := range bytes.SplitSeq(list, []byte{0}) {
		name := string(raw)
		// A layer's overlay marks mean nothing in a plain directory, and a
		// label belongs to the place, not to the content.
		if name == "" || strings.HasPrefix(name, "trusted.overlay.") || name == "security.selinux" {
			continue
		}
		value, err := sized(func(buf []byte) (int, error) { return unix.Lgetxattr(from, name, buf) })
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if err := unix.Lsetxattr(to, name, value, 0); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// sized calls read, first for the size, then with a buffer of it, again when
// the answer grew in between.
func sized(read func([]byte) (int, error)) ([]byte, error) {
	for {
		n, err := read(nil)
		if err != nil || n == 0 {
			return nil, err
		}
		buf := make([]byte, n)
		n, err = read(buf)
		if errors.Is(err, unix.ERANGE) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return buf[:n], nil
	}
}

func readlink(dir *os.File, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(dir.Fd()), name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

func openDir(at int, name string) (*os.File, error) {
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// copyContent copies the parts of a file that hold data; what lies between
// them stays a hole.
func copyContent(in, out int, size int64) error {
	for at := int64(0); at < size; {
		data, err := unix.Seek(in, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // a hole up to the end
		}
		end := size
		if err == nil {
			end, err = unix.Seek(in, data, unix.SEEK_HOLE)
		}
		if err != nil {
			// The filesystem cannot tell: all of it is data.
			data, end = at, size
		}
		if err := copyRange(in, out, data, end); err != nil {
			return err
		}
		at = end
	}
	return unix.Ftruncate(out, size)
}

// copyRange lets the kernel share or move the bytes where it can, and moves
// them through a buffer where it cannot (between filesystems, mostly).
func copyRange(in, out int, from, to int64) error {
	for from < to {
		r, w := from, from
		n, err := unix.CopyFileRange(in, &r, out, &w, int(min(to-from, 1<<30)), 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return copyBuffered(in, out, from, to)
		}
		from += int64(n)
	}
	return nil
}

func copyBuffered(in, out int, from, to int64) error {
	buf := make([]byte, min(to-from, 256<<10))
	for from < to {
		n, err := unix.Pread(in, buf[:min(to-from, int64(len(buf)))], from)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return nil // it became shorter: what there was is copied
		}
		for done := 0; done < n; {
			m, err := unix.Pwrite(out, buf[done:n], from+int64(done))
			if err != nil && !errors.Is(err, unix.EINTR) {
				return err
			}
			done += max(m, 0)
		}
		from += int64(n)
	}
	return nil
}
