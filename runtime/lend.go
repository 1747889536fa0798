package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"

	"gantry/runtime/spec"

	"golang.org/x/sys/unix"
)

// The keeper lives in a mount namespace of its own. Where the machine's / is
// shared, as systemd makes it, both see the same. Where it is private, the
// keeper sees what was mounted when it started, and nothing later: a container
// would be shown the directory below a mount instead of the mount. There, what
// the daemon sees at a path is lent to the keeper: cloned with all that is
// mounted below it, and moved to a place in the keeper's namespace until the
// container has it.

// sight is what daemon and keeper see mounted, read once for all mounts of a
// container.
type sight struct{ here, there []mountEntry }

func (e *Engine) sight() (s sight, err error) {
	if s.here, err = readMounts("/proc/self/mountinfo"); err == nil && e.Keeper.Pid() != 0 {
		s.there, err = readMounts(fmt.Sprintf("/proc/%d/mountinfo", e.Keeper.Pid()))
	}
	own, everr := filepath.EvalSymlinks(filepath.Join(e.Run, "rootfs"))
	if everr != nil || !slices.ContainsFunc(s.there, func(m mountEntry) bool { return m.Point == own }) {
		// Not the keeper's: of an older one the first thread may have gone into
		// a container's namespace. Nothing can be lent to it.
		s.there = s.here
	}
	return s, err
}

// same says whether the keeper sees at path, and below it, what is mounted here.
func (s sight) same(path string) bool {
	return slices.Equal(mountsAt(s.here, path), mountsAt(s.there, path))
}

// mountsAt is the mount a path lies on and those below the path, in order of
// their place.
func mountsAt(table []mountEntry, path string) []mountEntry {
	all := []mountEntry{mountOf(table, path)}
	for _, m := range table {
		if m.Point != path && within(m.Point, path) {
			all = append(all, m)
		}
	}
	slices.SortStableFunc(all, mountEntry.compare)
	return all
}

// lend gives the keeper the source of a bind mount as the daemon sees it, if
// the keeper does not. at is where; the answer is the source to use.
func (e *Engine) lend(s sight, m spec.Mount, at string) (string, bool, error) {
	source, err := filepath.EvalSymlinks(m.Source)
	if err != nil {
		return "", false, err
	}
	if s.same(source) {
		return m.Source, false, nil
	}
	flags := unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC
	if !m.NonRecursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, source, uint(flags))
	if err != nil {
		return "", false, fmt.Errorf("clone %s: %w", source, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", false, err
	}
	err = e.insideKeeper(func() error {
		if err := unlend(at); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			err = os.Mkdir(at, 0o711)
		} else {
			err = os.WriteFile(at, nil, 0o600)
		}
		if err != nil {
			return err
		}
		return unix.MoveMount(fd, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH)
	})
	if err != nil {
		return "", false, fmt.Errorf("lend %s to the keeper: %w", source, err)
	}
	return at, true, nil
}

// takeBack undoes lend; those who have bound it keep it.
func (e *Engine) takeBack(at string) error {
	return e.insideKeeper(func() error { return unlend(at) })
}

func unlend(at string) error {
	// What is mounted below is a peer of the machine's own mounts, which would
	// be unmounted with it.
	attr := unix.MountAttr{Propagation: unix.MS_PRIVATE}
	err := unix.MountSetattr(unix.AT_FDCWD, at, unix.AT_RECURSIVE|unix.AT_SYMLINK_NOFOLLOW, &attr)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("make %s private: %w", at, err)
	}
	return letGo(at)
}

// insideKeeper runs fn on a thread in the keeper's mount namespace, which then
// ends: a thread that shares no directory with its process cannot come back.
func (e *Engine) insideKeeper(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		goruntime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// /proc/self is this thread's: another one must do it.
			defer goruntime.UnlockOSThread()
			done <- e.insideKeeper(fn)
			return
		}
		done <- func() error {
			ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", e.Keeper.Pid()))
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return err
			}
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
				return fmt.Errorf("enter the keeper's mount namespace: %w", err)
			}
			return fn()
		}()
	}()
	return <-done
}
