package rootfs

import (
	"context"
	"fmt"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"
)

// ChangeKind is what became of a path; the numbers are those of Docker's API.
type ChangeKind uint8

const (
	Modified ChangeKind = iota
	Added
	Deleted
)

// Change is a path that a container's own layer has made different from the
// layers below it.
type Change struct {
	Path string
	Kind ChangeKind
}

// Changes compares the upper directory of an overlay with the lower ones, the
// topmost first: what it has added, changed and deleted, in the order of a walk
// that sorts names. A directory is modified when something in it is, or when
// its own owner, mode or time is another. The places that the runtime itself
// makes to mount something over are not told.
//
// The container may be running. Nothing in its layer leads out of it.
func Changes(ctx context.Context, lower []string, upper string) ([]Change, error) {
	top, err := os.Open(upper)
	if err != nil {
		return nil, err
	}
	defer top.Close()
	c := changes{ctx: ctx, upper: top}
	defer func() {
		for _, l := range c.lower {
			l.Close()
		}
	}()
	for _, dir := range lower {
		l, err := os.Open(dir)
		if err != nil {
			return nil, err
		}
		c.lower = append(c.lower, l)
	}
	below := make([]int, len(c.lower))
	for i := range below {
		below[i] = i
	}
	if _, _, err := c.directory(".", below); err != nil {
		return nil, fmt.Errorf("compare layers: %w", err)
	}
	return c.found, nil
}

// mountPlaces are what the runtime makes in every root filesystem.
var mountPlaces = []string{
	"dev", "dev/console", "dev/pts", "dev/shm", "dev/mqueue", "proc", "sys",
	"etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab", ".dockerenv", "sbin/docker-init",
}

type changes struct {
	ctx   context.Context
	upper *os.File
	lower []*os.File
	found []Change
}

// directory compares what is in a directory of the upper layer with the lower
// layers that still show through there. It says whether something in it has
// changed, and whether there are places of the runtime's own.
func (c *changes) directory(rel string, below []int) (changed, places bool, err error) {
	dir, err := beneath(c.upper, rel)
	if gone(err) {
		return false, false, nil
	} else if err != nil {
		return false, false, err
	}
	names, err := dir.Readdirnames(-1)
	if err != nil && !gone(err) {
		dir.Close()
		return false, false, err
	}
	stats := make(map[string]unix.Stat_t, len(names))
	hides := map[string]bool{}
	for _, name := range names {
		var st unix.Stat_t
		if unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
			continue // it has gone meanwhile
		}
		stats[name] = st
		if isDir(&st) || isReg(&st) && st.Size == 0 {
			hides[name] = hiding(dir, name, &st)
		}
	}
	dir.Close() // one directory is open at a time
	slices.Sort(names)
	for _, name := range names {
		if err := c.ctx.Err(); err != nil {
			return false, false, err
		}
		st, ok := stats[name]
		if !ok {
			continue
		}
		at := path.Join(rel, name)
		old, layers, err := c.before(at, below)
		if err != nil {
			return false, false, err
		}
		switch {
		case isWhiteout(&st) || isReg(&st) && hides[name]:
			if old != nil {
				c.found, changed = append(c.found, Change{"/" + at, Deleted}), true
			}
			continue
		case old == nil && slices.Contains(mountPlaces, at) && !isDir(&st) && st.Size == 0:
			places = true
			continue
		}
		mark := len(c.found)
		c.found = append(c.found, Change{Path: "/" + at, Kind: Modified})
		if old == nil {
			c.found[mark].Kind = Added
		}
		if !isDir(&st) {
			changed = true
			continue
		}
		if old == nil || !isDir(old) || hides[name] {
			layers = nil
		}
		inside, own, err := c.directory(at, layers)
		if err != nil {
			return false, false, err
		}
		switch {
		case old == nil && slices.Contains(mountPlaces, at) && !inside:
			c.found, places = c.found[:mark], true
			continue
		case old != nil && isDir(old) && !hides[name] && !inside && alike(&st, old, own):
			c.found = c.found[:mark]
			continue
		}
		changed = true
	}
	return changed, places, nil
}

func isDir(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFDIR }
func isReg(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFREG }

func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// alike says that a directory was only copied up for what is in it. Where the
// runtime has made places in it, its time tells nothing.
func alike(a, b *unix.Stat_t, places bool) bool {
	return a.Mode == b.Mode && a.Uid == b.Uid && a.Gid == b.Gid && (places || a.Mtim.Sec == b.Mtim.Sec &&
		(a.Mtim.Nsec == b.Mtim.Nsec || a.Mtim.Nsec == 0 || b.Mtim.Nsec == 0))
}

// before finds what the lower layers have at a path, and which of those at hand
// show through in a directory there.
func (c *changes) before(rel string, below []int) (st *unix.Stat_t, layers []int, err error) {
	for _, i := range below {
		parent, err := beneath(c.lower[i], path.Dir(rel))
		if gone(err) {
			continue
		} else if err != nil {
			return nil, nil, err
		}
		var found unix.Stat_t
		name := path.Base(rel)
		err = unix.Fstatat(int(parent.Fd()), name, &found, unix.AT_SYMLINK_NOFOLLOW)
		hides := err == nil && (isDir(&found) || isReg(&found) && found.Size == 0) && hiding(parent, name, &found)
		parent.Close()
		switch {
		case gone(err):
			continue
		case err != nil:
			return nil, nil, fmt.Errorf("/%s: %w", rel, err)
		case isWhiteout(&found), isReg(&found) && hides:
			return st, layers, nil
		case st == nil:
			st = &found
		}
		if !isDir(&found) {
			return st, layers, nil // nothing shows through a file
		}
		layers = append(layers, i)
		if hides {
			return st, layers, nil
		}
	}
	return st, layers, nil
}

// hiding says that a directory hides those of the layers below, or that an
// empty file is a whiteout (Linux 6.7 knows this form).
func hiding(dir *os.File, name string, st *unix.Stat_t) bool {
	attr, want := "trusted.overlay.whiteout", ""
	if isDir(st) {
		attr, want = "trusted.overlay.opaque", "y"
	}
	value, err := sized(func(buf []byte) (int, error) { return unix.Lgetxattr(entryPath(dir, name), attr, buf) })
	return err == nil && string(value) == want
}
