package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"gantry/runtime/keeper"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// places are the daemon's directories. Whoever holds their locks owns them.
type places struct {
	run   string
	locks []*os.File
}

// openPlaces makes and locks the directories, and gives RUN a mount of its own
// that propagates: what the daemon mounts below it, the keeper sees in its own
// mount namespace.
func openPlaces(c Config) (p *places, err error) {
	p = &places{run: c.Run}
	defer func() {
		if err != nil {
			p.unlock()
		}
	}()
	for _, d := range []struct {
		path string
		mode os.FileMode
	}{{c.Root, 0o711}, {c.Run, 0o755}, {filepath.Join(c.Run, "tmp"), 0o700}} {
		if err := os.MkdirAll(d.path, d.mode); err != nil {
			return p, err
		}
	}
	for _, path := range []string{filepath.Join(c.Root, "gantryd.lock"), filepath.Join(c.Run, "gantryd.lock")} {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return p, err
		}
		p.locks = append(p.locks, f)
		if err := keeper.LockFile(f); errors.Is(err, keeper.ErrLocked) {
			return p, fmt.Errorf("%s: another gantryd uses this directory; stop it (gantry daemon stop) or choose another --root and --run", path)
		} else if err != nil {
			return p, err
		}
	}
	if err := ownMount(c.Run); err != nil {
		return p, err
	}
	// Libraries that need scratch mounts make them where they propagate.
	tmp := filepath.Join(c.Run, "tmp")
	if err := emptied(tmp); err != nil {
		return p, fmt.Errorf("clear %s: %w", tmp, err)
	}
	return p, os.Setenv("TMPDIR", tmp)
}

// emptied takes away what a daemon that died has left in its directory for
// passing things: mounts first, lest something behind one be removed.
func emptied(dir string) error {
	table, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(table) {
		if m.Mountpoint == dir {
			continue
		}
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", m.Mountpoint, err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// ownMount binds dir to itself, unless it is a mount already, and makes it
// shared.
func ownMount(dir string) error {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, 0, 0, &st); err != nil {
		return fmt.Errorf("run directory %s: %w", dir, err)
	}
	if st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s to itself: %w", dir, err)
		}
	}
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("let mounts below %s propagate: %w", dir, err)
	}
	return nil
}

// close unlocks the directories. all says that nobody lives in RUN any more:
// its mounts go too.
func (p *places) close(all bool) error {
	var err error
	if all {
		for _, dir := range []string{filepath.Join(p.run, "files"), p.run} {
			if e := unix.Unmount(dir, unix.MNT_DETACH); e != nil && !errors.Is(e, unix.EINVAL) && !errors.Is(e, unix.ENOENT) {
				err = errors.Join(err, fmt.Errorf("unmount %s: %w", dir, e))
			}
		}
	}
	p.unlock()
	return err
}

func (p *places) unlock() {
	for _, f := range p.locks {
		f.Close()
	}
	p.locks = nil
}
