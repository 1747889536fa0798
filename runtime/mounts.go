package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"gantry/runtime/rootfs"
	"gantry/runtime/spec"
	"gantry/runtime/volume"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

func parseImageID(id string) (digest.Digest, error) {
	d, err := digest.Parse(id)
	if err != nil {
		return "", fmt.Errorf("image id %q: %w: %w", id, err, errdefs.ErrInvalidArgument)
	}
	return d, nil
}

// filesDir holds the contents of secrets and configs while containers run: a
// tmpfs, so that they reach no disk from here.
func (e *Engine) filesDir(id string) string { return filepath.Join(e.Run, "files", id) }

// mountFiles makes the tmpfs of filesDir, unless it is there from the daemon
// before.
func (e *Engine) mountFiles() error {
	dir := filepath.Join(e.Run, "files")
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err == nil && st.Type == unix.TMPFS_MAGIC && isMountPoint(dir) {
		return nil
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0711"); err != nil {
		return fmt.Errorf("mount a tmpfs for secrets on %s: %w", dir, err)
	}
	return nil
}

func isMountPoint(dir string) bool {
	var in, out unix.Stat_t
	return unix.Lstat(dir, &in) == nil && unix.Lstat(filepath.Dir(dir), &out) == nil && in.Dev != out.Dev
}

// mounts turns a container's mounts into binds of host paths. Fresh volumes are
// filled from the image, and the contents of files are written, on the way.
func (e *Engine) mounts(ctx context.Context, c Container, lower []string) ([]spec.Mount, error) {
	out := make([]spec.Mount, 0, len(c.Config.Mounts))
	for i, m := range c.Config.Mounts {
		if i >= len(c.Mounts) {
			return nil, fmt.Errorf("the record of container %s is torn: %d mounts for %d asked", c.Name, len(c.Mounts), len(c.Config.Mounts))
		}
		switch m.Type {
		case spec.MountBind:
			if _, err := os.Stat(m.Source); errors.Is(err, fs.ErrNotExist) {
				if !m.CreateHostPath {
					return nil, fmt.Errorf("bind mount %s: the source does not exist on this machine; create it or set create_host_path: true: %w", m.Source, errdefs.ErrInvalidArgument)
				}
				if err := os.MkdirAll(m.Source, 0o755); err != nil {
					return nil, fmt.Errorf("bind mount %s: %w", m.Source, err)
				}
			}
			out = append(out, m)
		case spec.MountVolume:
			vm, err := e.volumeMount(ctx, c.Mounts[i].Name, m, lower)
			if err != nil {
				return nil, err
			}
			out = append(out, vm)
		case spec.MountFile:
			path := filepath.Join(e.filesDir(c.ID), strconv.Itoa(i))
			if err := e.placeFile(path, m); err != nil {
				return nil, fmt.Errorf("%s: %w", m.Target, err)
			}
			m.Type, m.Source, m.Content = spec.MountBind, path, nil
			out = append(out, m)
		default:
			out = append(out, m)
		}
	}
	return out, nil
}

// volumeMount shows a volume, filled from the image if it is fresh.
func (e *Engine) volumeMount(ctx context.Context, name string, m spec.Mount, lower []string) (spec.Mount, error) {
	src, err := e.Volumes.Source(name)
	if err != nil {
		return m, err
	}
	if src.ReadOnly {
		m.ReadOnly = true
	}
	switch src.Type {
	case volume.SourceTmpfs:
		m.Type, m.Source, m.TmpfsOptions = spec.MountTmpfs, "", src.Options
		return m, nil
	case volume.SourceBind:
	default:
		return m, fmt.Errorf("volume %s: %s volumes are not supported yet; mount it on the machine and use a bind: %w", name, src.Type, errdefs.ErrNotImplemented)
	}
	if !m.NoCopy && !src.ReadOnly {
		err := e.Volumes.Populate(ctx, name, func(dir string) error { return copyUp(lower, m.Target, dir) })
		if err != nil {
			return m, fmt.Errorf("fill volume %s from the image: %w", name, err)
		}
	}
	m.Type, m.Source = spec.MountBind, src.Device
	if m.Subpath != "" {
		if m.Source, err = within(src.Device, m.Subpath); err != nil {
			return m, fmt.Errorf("volume %s: subpath %q: %w", name, m.Subpath, err)
		}
	}
	return m, nil
}

// within is the path of a directory below base, which no symbolic link leads
// out of.
func within(base, sub string) (string, error) {
	root, err := os.Open(base)
	if err != nil {
		return "", err
	}
	defer root.Close()
	f, err := rootfs.OpenIn(root, sub, unix.O_PATH)
	if err != nil {
		return "", fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	defer f.Close()
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return "", err
	}
	if path != base && !strings.HasPrefix(path, base+"/") {
		return "", fmt.Errorf("it leads outside: %w", errdefs.ErrInvalidArgument)
	}
	return path, nil
}

// copyUp copies what the image has at target into dir.
func copyUp(lower []string, target, dir string) error {
	view, err := rootfs.Overlay{Lower: lower}.Detached()
	if err != nil {
		return err
	}
	defer view.Close()
	src, err := rootfs.OpenIn(view, target, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil // the image has nothing there
	}
	if err != nil {
		return err
	}
	defer src.Close()
	return rootfs.CopyTree(dir, src)
}

// placeFile writes the content of a secret or config for one container.
func (e *Engine) placeFile(path string, m spec.Mount) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return err
	}
	mode := m.Mode
	if mode == 0 {
		mode = 0o444
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(m.Content)
	return errors.Join(err, f.Chown(m.UID, m.GID), f.Chmod(fs.FileMode(mode).Perm()), f.Close())
}

// removeFiles takes away what placeFile wrote.
func (e *Engine) removeFiles(c Container) error {
	return removeAll(c.Name, e.filesDir(c.ID))
}

// readNodes reads the host's device nodes a container is to see: those it
// names, or all when it is privileged.
func readNodes(c Config) ([]spec.Node, error) {
	var nodes []spec.Node
	seen := map[string]bool{}
	add := func(path string, must bool) error {
		return filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				if must && p == path {
					return fmt.Errorf("device %s: %w: %w", path, err, errdefs.ErrInvalidArgument)
				}
				return nil //nolint:nilerr // a node that went away meanwhile
			}
			if d.IsDir() {
				switch p {
				case "/dev/pts", "/dev/shm", "/dev/fd", "/dev/mqueue":
					return fs.SkipDir
				}
				return nil
			}
			n, ok := readNode(p)
			if ok && !seen[p] {
				seen[p] = true
				nodes = append(nodes, n)
			}
			return nil
		})
	}
	for _, d := range c.Devices {
		if err := add(d.Source, true); err != nil {
			return nil, err
		}
	}
	for _, w := range c.Resources.BlkioWeights {
		if err := add(w.Path, true); err != nil {
			return nil, err
		}
	}
	for _, rates := range [][]spec.Rate{c.Resources.ReadBps, c.Resources.WriteBps, c.Resources.ReadIOPS, c.Resources.WriteIOPS} {
		for _, r := range rates {
			if err := add(r.Path, true); err != nil {
				return nil, err
			}
		}
	}
	if c.Privileged {
		if err := add("/dev", false); err != nil {
			return nil, err
		}
	}
	return nodes, nil
}

func readNode(path string) (spec.Node, bool) {
	fi, err := os.Stat(path)
	if err != nil {
		return spec.Node{}, false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return spec.Node{}, false
	}
	n := spec.Node{
		Path:  path,
		Major: int64(unix.Major(st.Rdev)),
		Minor: int64(unix.Minor(st.Rdev)),
		Mode:  uint32(fi.Mode().Perm()),
		UID:   st.Uid,
		GID:   st.Gid,
	}
	switch fi.Mode() & fs.ModeType {
	case fs.ModeDevice | fs.ModeCharDevice:
		n.Type = "c"
	case fs.ModeDevice:
		n.Type = "b"
	default:
		return n, false
	}
	return n, true
}
