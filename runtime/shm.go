package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// A container whose IPC is shareable has its /dev/shm outside, where the
// containers that join it can mount it too: a mount of one namespace cannot be
// bound into another.

const defaultShm = 64 << 20 // bytes, as Docker's

func (e *Engine) shmDir(id string) string { return filepath.Join(e.Run, "shm", id) }

// shm is the directory to show at /dev/shm, "" for one of the container's own.
func (e *Engine) shm(c Container) (string, error) {
	peer, joins := strings.CutPrefix(c.Config.IpcMode, "container:")
	switch {
	case joins:
		p, err := e.livePeer(peer, "ipc")
		if err != nil {
			return "", err
		}
		if p.Config.IpcMode != "shareable" {
			return "", fmt.Errorf("join the ipc namespace of container %s: it is not shareable; give that one ipc: shareable: %w", p.Name, errdefs.ErrInvalidArgument)
		}
		return e.shmDir(p.ID), nil
	case c.Config.IpcMode == "shareable":
		return e.mountShm(c)
	}
	return "", nil
}

func (e *Engine) mountShm(c Container) (string, error) {
	dir := e.shmDir(c.ID)
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil { // for everybody inside, not outside
		return "", err
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return "", err
	}
	if isMountPoint(dir) {
		return dir, nil
	}
	size := c.Config.ShmSize
	if size == 0 {
		size = defaultShm
	}
	err := unix.Mount("shm", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=1777,size="+strconv.FormatInt(size, 10))
	if err != nil {
		return "", fmt.Errorf("mount /dev/shm of %s: %w", c.Name, err)
	}
	return dir, nil
}

// releaseShm undoes mountShm; those who joined keep what they have.
func (e *Engine) releaseShm(id string) error {
	dir := e.shmDir(id)
	if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
