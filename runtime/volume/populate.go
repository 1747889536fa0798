package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// stage is where a volume is filled. Inside a volume's directory a container
// may put anything in its place at any time, so directories are opened without
// following a link there, and what happens in them goes by descriptor:
//
//	target   fresh    ready
//	empty                      before
//	empty    partial           fill works in fresh; a crash leaves it to be deleted
//	empty             whole    one rename: from here on the volume is filled
//	partial           partial  children move up; after a crash they go on
//	whole                      ready is removed
//
// The children move, not the directory: a container that has the empty volume
// mounted keeps the same directory and sees them.
type stage struct {
	target, fresh, ready string
}

// stageOf places the stage beside the volume's directory, or inside it where
// nothing can be renamed across its border: there it is the only thing that
// does not make the volume count as filled.
func (s *Store) stageOf(st *state, src Source) stage {
	if src.Device == st.Mountpoint {
		var dir, data unix.Stat_t
		err := errors.Join(unix.Lstat(s.path(st.Name), &dir), unix.Lstat(st.Mountpoint, &data))
		if err == nil && dir.Dev == data.Dev && data.Mode&unix.S_IFMT == unix.S_IFDIR {
			return stage{st.Mountpoint, s.path(st.Name, "_new"), s.path(st.Name, "_ready")}
		}
	}
	return stage{src.Device, filepath.Join(src.Device, ".gantry-new"), filepath.Join(src.Device, ".gantry-ready")}
}

// Populate fills a volume if it is empty: fill is given an empty directory with
// the owner and mode of the volume's, and puts content there, on disk when it
// returns; it may change the directory's own attributes, too, and they become
// the volume's. (Of a fill that brings no content they count only the first
// time.) Whatever happens, the volume holds all of what fill brought or nothing.
//
// Calls for one volume come one after the other, so that those that come later
// find it filled. A volume that is read-only or not a directory of this host
// is not filled.
func (s *Store) Populate(ctx context.Context, name string, fill func(dir string) error) error {
	if _, err := s.get(name); err != nil {
		return err
	}
	slot, err := s.acquire(ctx, name)
	if err != nil {
		return fmt.Errorf("populate volume %s: %w", name, err)
	}
	defer s.release(slot)
	st, err := s.get(name) // it may have been removed meanwhile
	if err != nil {
		return err
	}
	src, err := source(st.Options, st.Mountpoint)
	if err != nil || src.Type != SourceBind || src.ReadOnly {
		return err
	}
	if err := s.populate(ctx, s.stageOf(st, src), st.populated, fill); err != nil {
		return fmt.Errorf("populate volume %s: %w", name, err)
	}
	if st.populated {
		return nil
	}
	filled := *st
	filled.populated = true
	s.fault("mark populated")
	if err := s.writeRecord(s.path(name), filled); err != nil {
		return fmt.Errorf("populate volume %s: %w", name, err)
	}
	slot.now.Store(&filled)
	return nil
}

func (s *Store) populate(ctx context.Context, p stage, before bool, fill func(dir string) error) error {
	if err := s.settle(p); err != nil {
		return err
	}
	if err := removeTree(ctx, p.fresh); err != nil { // of a fill that was interrupted
		return err
	}
	if empty, err := isEmpty(p.target, 0); err != nil || !empty {
		return err
	}
	s.fault("make stage")
	if err := os.Mkdir(p.fresh, 0o700); err != nil {
		return err
	}
	unchanged, err := s.filled(p, fill)
	if err != nil {
		return errors.Join(err, removeTree(context.WithoutCancel(ctx), p.fresh))
	}
	empty, err := isEmpty(p.fresh, unix.O_NOFOLLOW)
	if err != nil {
		return errors.Join(err, removeTree(context.WithoutCancel(ctx), p.fresh))
	}
	if empty && (before || unchanged) {
		return os.Remove(p.fresh)
	}
	if err := syncDir(p.fresh); err != nil {
		return err
	}
	s.fault("commit")
	if err := os.Rename(p.fresh, p.ready); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(p.ready)); err != nil {
		return err
	}
	return s.settle(p)
}

// openDir opens a directory; one that a container could replace, without
// following a link.
func openDir(path string, flags int) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|flags, 0)
}

func isEmpty(dir string, flags int) (bool, error) {
	d, err := openDir(dir, flags)
	if err != nil {
		return false, err
	}
	defer d.Close()
	_, err = d.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}

// filled lets fill work in the fresh directory; unchanged: it left the
// directory's own attributes alone.
func (s *Store) filled(p stage, fill func(dir string) error) (unchanged bool, err error) {
	target, err := openDir(p.target, 0)
	if err != nil {
		return false, err
	}
	defer target.Close()
	fresh, err := openDir(p.fresh, unix.O_NOFOLLOW)
	if err != nil {
		return false, err
	}
	defer fresh.Close()
	if err := copyAttributes(target, fresh); err != nil {
		return false, err
	}
	old, err := attributes(fresh)
	if err != nil {
		return false, err
	}
	s.fault("fill")
	if err := fill(p.fresh); err != nil {
		return false, err
	}
	now, err := attributes(fresh)
	return old == now, err
}

// settle ends a filling that has come as far as ready.
func (s *Store) settle(p stage) error {
	ready, err := openDir(p.ready, unix.O_NOFOLLOW)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR):
		return nil // nothing of ours
	case err != nil:
		return err
	}
	defer ready.Close()
	target, err := openDir(p.target, 0)
	if err != nil {
		return err
	}
	defer target.Close()
	names, err := ready.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		s.fault("move up")
		err := unix.Renameat2(int(ready.Fd()), name, int(target.Fd()), name, unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.EEXIST) {
			// A container made it in the meantime: its data comes first.
			err = removeIn(context.Background(), ready, name)
		}
		if err != nil {
			return fmt.Errorf("move %s up: %w", name, err)
		}
	}
	s.fault("attributes")
	if err := copyAttributes(ready, target); err != nil {
		return err
	}
	if err := target.Sync(); err != nil {
		return err
	}
	s.fault("remove stage")
	if err := os.Remove(p.ready); err != nil {
		return err
	}
	return syncDir(filepath.Dir(p.ready))
}

// attributes writes down what copyAttributes copies, to be compared.
func attributes(dir *os.File) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return "", &fs.PathError{Op: "stat", Path: dir.Name(), Err: err}
	}
	text := fmt.Sprintf("%d:%d %o", st.Uid, st.Gid, st.Mode)
	all, err := xattrs(dir)
	for _, name := range all {
		value, e := xattr(dir, name)
		err = errors.Join(err, e)
		text += fmt.Sprintf(" %s=%x", name, value)
	}
	return text, err
}

// copyAttributes gives one directory the owner, mode, extended attributes
// (ACLs are some) and times of another.
func copyAttributes(from, to *os.File) error {
	var st, now unix.Stat_t
	if err := unix.Fstat(int(from.Fd()), &st); err != nil {
		return &fs.PathError{Op: "stat", Path: from.Name(), Err: err}
	}
	if err := unix.Fstat(int(to.Fd()), &now); err != nil {
		return &fs.PathError{Op: "stat", Path: to.Name(), Err: err}
	}
	if st.Uid != now.Uid || st.Gid != now.Gid { // the only step that needs privileges
		if err := to.Chown(int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	if err := unix.Fchmod(int(to.Fd()), st.Mode&0o7777); err != nil { // after chown, which may clear set-id bits
		return &fs.PathError{Op: "chmod", Path: to.Name(), Err: err}
	}
	all, err := xattrs(from)
	if err != nil {
		return err
	}
	for _, name := range all {
		value, err := xattr(from, name)
		if err != nil {
			return err
		}
		if old, err := xattr(to, name); err == nil && bytes.Equal(old, value) {
			continue
		}
		if err := unix.Fsetxattr(int(to.Fd()), name, value, 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("set attribute %s of %s: %w", name, to.Name(), err)
		}
	}
	times := []unix.Timespec{st.Atim, st.Mtim}
	if err := unix.UtimesNanoAt(int(to.Fd()), "", times, unix.AT_EMPTY_PATH); err != nil {
		return &fs.PathError{Op: "chtimes", Path: to.Name(), Err: err}
	}
	return nil
}

// xattrs lists a directory's extended attributes in order, without those that
// the security modules give to every file themselves.
func xattrs(dir *os.File) ([]string, error) {
	buf := make([]byte, 64<<10) // the most a list can have, XATTR_LIST_MAX
	n, err := unix.Flistxattr(int(dir.Fd()), buf)
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	} else if err != nil {
		return nil, &fs.PathError{Op: "listxattr", Path: dir.Name(), Err: err}
	}
	var list []string
	for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
		if name != "" && name != "security.selinux" && !strings.HasPrefix(name, "trusted.overlay.") {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list, nil
}

func xattr(dir *os.File, name string) ([]byte, error) {
	buf := make([]byte, 64<<10) // XATTR_SIZE_MAX
	n, err := unix.Fgetxattr(int(dir.Fd()), name, buf)
	if err != nil {
		return nil, fmt.Errorf("attribute %s of %s: %w", name, dir.Name(), err)
	}
	return buf[:n], nil
}
