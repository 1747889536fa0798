package image

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"golang.org/x/sys/unix"
)

// A disk that is too small is told of before anything is written where a size is
// known, and by name where it shows only in the middle.

const makeRoom = `"gantry system df" shows what takes it, "gantry system prune" gives back what nobody uses`

// Room refuses what needs more bytes than the disk that dir lies on has free.
// It fails with ErrFailedPrecondition.
func Room(dir, what string, need int64) error {
	if need <= 0 {
		return nil
	}
	free, err := freeSpace(dir)
	if err != nil {
		return err
	}
	if need > free {
		return classed(errdefs.ErrFailedPrecondition, "%s needs %s or more below %s, where %s are free: free some space; %s",
			what, units.HumanSize(float64(need)), dir, units.HumanSize(float64(free)), makeRoom)
	}
	return nil
}

// Full says which disk was full, if that is what err is about. The class is
// ErrFailedPrecondition.
func Full(dir string, err error) error {
	var told *noRoom
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) || errors.As(err, &told) {
		return err
	}
	return &noRoom{dir, err}
}

// FullNow is Full for an error that need not tell itself: what failed was a
// program, and the disk is full.
func FullNow(dir string, err error) error {
	var told *noRoom
	if free, ferr := freeSpace(dir); err == nil || ferr != nil || free >= tight || errors.As(err, &told) {
		return Full(dir, err)
	}
	return &noRoom{dir, err}
}

// tight is so little that what has just failed most likely failed for it.
const tight = 1 << 20

// noRoom is the end of writing on a full disk.
type noRoom struct {
	dir string
	err error
}

func (n *noRoom) Error() string {
	return fmt.Sprintf("%v: the disk with %s is full: free some space; %s", n.err, n.dir, makeRoom)
}

func (n *noRoom) Unwrap() error { return n.err }

func (n *noRoom) Is(class error) bool { return class == errdefs.ErrFailedPrecondition }

func freeSpace(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("free space below %s: %w", dir, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil //nolint:unconvert // 32 bits wide on some machines
}

// twice is what a layer takes that is not packed: its blob, and its files.
func twice(n int64) int64 {
	if n > 1<<62 {
		return 1<<63 - 1
	}
	return 2 * n
}
