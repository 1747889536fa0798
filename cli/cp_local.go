package cli

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// packLocal writes what is at a path of this machine as a tar archive, under
// another name; "": the content of a directory without itself. look says
// whether the path itself is followed if it is a symbolic link; those below
// never are. Sockets are left out. It tells how many bytes of content there
// were.
func packLocal(w io.Writer, src, name string, look func(string) (fs.FileInfo, error)) (int64, error) {
	top, err := look(src)
	if err != nil {
		return 0, err
	}
	p := localPacker{tar: tar.NewWriter(w), links: map[[2]uint64]string{}}
	if top.Mode()&fs.ModeSymlink == 0 {
		if src, err = filepath.EvalSymlinks(src); err != nil {
			return 0, err
		}
	}
	err = filepath.WalkDir(src, func(at string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, at)
		if err != nil {
			return err
		}
		as := path.Join(name, filepath.ToSlash(rel))
		if rel == "." && name == "" {
			return nil
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if err := p.entry(at, as, fi); err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		return nil
	})
	if err != nil {
		return p.bytes, err
	}
	return p.bytes, p.tar.Close()
}

type localPacker struct {
	tar   *tar.Writer
	links map[[2]uint64]string
	bytes int64
}

func (p *localPacker) entry(at, as string, fi fs.FileInfo) error {
	if fi.Mode()&fs.ModeSocket != 0 {
		return nil
	}
	link := ""
	if fi.Mode()&fs.ModeSymlink != 0 {
		var err error
		if link, err = os.Readlink(at); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(fi, link)
	if err != nil {
		return err
	}
	h.Name, h.Format, h.Uname, h.Gname = as, tar.FormatPAX, "", ""
	h.ModTime, h.AccessTime, h.ChangeTime = h.ModTime.Truncate(time.Second), time.Time{}, time.Time{}
	if fi.IsDir() {
		h.Name += "/"
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 && !fi.IsDir() {
		id := [2]uint64{uint64(st.Dev), st.Ino} //nolint:unconvert // narrower on some machines
		if first, ok := p.links[id]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			return p.tar.WriteHeader(h)
		}
		p.links[id] = as
	}
	if h.Typeflag != tar.TypeReg {
		return p.tar.WriteHeader(h)
	}
	f, err := os.Open(at)
	if err != nil {
		return err
	}
	defer f.Close()
	capability := make([]byte, 64)
	if n, err := unix.Fgetxattr(int(f.Fd()), "security.capability", capability); err == nil {
		h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": string(capability[:n])}
	}
	if err := p.tar.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.CopyN(p.tar, f, h.Size)
	p.bytes += n
	if errors.Is(err, io.EOF) {
		return errors.New("it became shorter while it was read")
	}
	return err
}

// unpackLocal makes what a container's archive says on this machine. Names in
// it begin with top, in place of which comes the target's name. Whatever the
// archive says, nothing outside of the target's directory is touched.
func unpackLocal(to target, top string, archive io.Reader, owners bool) (int64, error) {
	if fi, err := os.Stat(to.dir); err != nil {
		return 0, err
	} else if !fi.IsDir() {
		return 0, fmt.Errorf("%s is not a directory", to.dir)
	}
	root, err := os.OpenRoot(to.dir)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	u := localUnpacker{root: root, owners: owners}
	rename := func(name string) (string, error) {
		rel := path.Clean("/" + name)
		if t := path.Clean("/" + top); t != "/" {
			var ok bool
			if rel, ok = strings.CutPrefix(rel, t); !ok || rel != "" && rel[0] != '/' {
				return "", fmt.Errorf("%q is not below %q", name, top)
			}
		}
		return path.Join(to.name, "./"+rel), nil
	}
	a := tar.NewReader(archive)
	for {
		h, err := a.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return u.bytes, err
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if h.Name, err = rename(h.Name); err == nil && h.Typeflag == tar.TypeLink {
			h.Linkname, err = rename(h.Linkname)
		}
		if err == nil && h.Name != "" && h.Name != "." {
			err = u.entry(h, a)
		}
		if err != nil {
			return u.bytes, fmt.Errorf("%s: %w", h.Name, err)
		}
	}
	if _, err := io.Copy(io.Discard, archive); err != nil { // up to its end, which may be an error
		return u.bytes, err
	}
	return u.bytes, u.finish()
}

type localUnpacker struct {
	root   *os.Root
	owners bool
	bytes  int64
	dirs   []*tar.Header // whose modes and times come last: they may forbid writing
}

func (u *localUnpacker) entry(h *tar.Header, content io.Reader) error {
	if dir := path.Dir(h.Name); dir != "." {
		if err := u.root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	there, err := u.root.Lstat(h.Name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		there = nil
	case err != nil:
		return err
	case there.IsDir() && h.Typeflag != tar.TypeDir:
		return errors.New("a directory is in the way")
	case !there.IsDir() && h.Typeflag == tar.TypeDir:
		return errors.New("a file is in the way of a directory")
	case !there.IsDir():
		if err := u.root.Remove(h.Name); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if there == nil {
			if err := u.root.Mkdir(h.Name, 0o700); err != nil {
				return err
			}
		}
		u.dirs = append(u.dirs, h)
		return nil
	case tar.TypeReg:
		if err := u.regular(h, content); err != nil {
			return err
		}
	case tar.TypeLink:
		return u.root.Link(h.Linkname, h.Name)
	case tar.TypeSymlink:
		if err := u.root.Symlink(h.Linkname, h.Name); err != nil {
			return err
		}
		if u.owners {
			if err := u.root.Lchown(h.Name, h.Uid, h.Gid); err != nil {
				return err
			}
		}
		at := unix.NsecToTimespec(h.ModTime.UnixNano())
		return u.inDir(h.Name, func(dir int, name string) error {
			return unix.UtimesNanoAt(dir, name, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW)
		})
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		if err := u.node(h); err != nil {
			return err
		}
	default:
		return fmt.Errorf("entries of type %q are not supported", h.Typeflag)
	}
	return u.dress(h)
}

// dress gives a file or directory its owner, mode and times.
func (u *localUnpacker) dress(h *tar.Header) error {
	if u.owners {
		if err := u.root.Lchown(h.Name, h.Uid, h.Gid); err != nil {
			return err
		}
	}
	if err := u.root.Chmod(h.Name, h.FileInfo().Mode()&(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky)); err != nil {
		return err
	}
	return u.root.Chtimes(h.Name, h.ModTime, h.ModTime)
}

func (u *localUnpacker) regular(h *tar.Header, content io.Reader) error {
	f, err := u.root.OpenFile(h.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	buf, at := make([]byte, 128<<10), int64(0)
	zeros := make([]byte, len(buf))
	for {
		n, err := io.ReadFull(content, buf)
		if n > 0 && !bytes.Equal(buf[:n], zeros[:n]) { // what is all zeros stays a hole
			if _, err := f.WriteAt(buf[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
		u.bytes += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) && at == h.Size {
			break
		} else if err != nil {
			return err
		}
	}
	return errors.Join(f.Truncate(at), f.Close())
}

func (u *localUnpacker) node(h *tar.Header) error {
	kind := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[h.Typeflag]
	return u.inDir(h.Name, func(dir int, name string) error {
		return unix.Mknodat(dir, name, kind|0o600, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
	})
}

// inDir does what os.Root cannot, in the directory of a name.
func (u *localUnpacker) inDir(name string, do func(dir int, name string) error) error {
	dir, err := u.root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	return do(int(dir.Fd()), path.Base(name))
}

// finish sets the modes and times of directories, those below before those
// above.
func (u *localUnpacker) finish() error {
	for _, h := range slices.Backward(u.dirs) {
		if err := u.dress(h); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
	return nil
}
