package image

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

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
