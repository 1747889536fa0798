package rootfs

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Usage counts the bytes that the files below dir take on the disk: allocated
// blocks, so that holes are free, and a file with several names once.
// Directories count nothing, as in Docker; other file systems mounted below
// are left out.
//
// Whoever owns the tree may change it meanwhile: nothing is followed out of
// it, and what goes away does not count. Two descriptors are open at a time,
// however deep the tree; what lies deeper than a path can name is left out.
func Usage(ctx context.Context, dir string) (int64, error) {
	top, err := os.Open(dir)
	if err != nil {
		return 0, err
	}
	defer top.Close()
	u := usage{top: top, seen: map[inode]bool{}}
	for todo := []string{"."}; len(todo) > 0; {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		next := todo[len(todo)-1]
		below, err := u.directory(ctx, next)
		if err != nil {
			return 0, err
		}
		todo = append(todo[:len(todo)-1], below...)
	}
	return u.bytes, nil
}

type usage struct {
	top   *os.File
	bytes int64
	seen  map[inode]bool // files with several names
}

// directory counts the files of one directory and gives those inside it.
func (u *usage) directory(ctx context.Context, rel string) (below []string, err error) {
	fd, err := unix.Openat2(int(u.top.Fd()), rel, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return nil, passing(&fs.PathError{Op: "open", Path: rel, Err: err})
	}
	d := os.NewFile(uintptr(fd), rel)
	defer d.Close()
	for {
		names, err := d.Readdirnames(512)
		for _, name := range names {
			var st unix.Stat_t
			if unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
				continue // it has gone meanwhile
			}
			if st.Mode&unix.S_IFMT == unix.S_IFDIR {
				below = append(below, filepath.Join(rel, name))
				continue
			}
			if st.Nlink > 1 {
				id := inode{uint64(st.Dev), st.Ino} //nolint:unconvert // narrower on some machines
				if u.seen[id] {
					continue
				}
				u.seen[id] = true
			}
			u.bytes += st.Blocks * 512 // stat(2): in units of 512 bytes
		}
		switch {
		case errors.Is(err, io.EOF):
			return below, nil
		case err != nil:
			return below, passing(err)
		case ctx.Err() != nil:
			return nil, ctx.Err()
		}
	}
}

// passing is nil for what a tree that is changed, or a hostile one, may do.
func passing(err error) error {
	for _, e := range []error{unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EXDEV, unix.ENAMETOOLONG, unix.EAGAIN} {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}
