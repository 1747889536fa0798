package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

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
// before. The files in it have the modes that containers see, so nobody else
// may come to them.
func (e *Engine) mountFiles() error {
	dir := filepath.Join(e.Run, "files")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err == nil && st.Type == unix.TMPFS_MAGIC && isMountPoint(dir) {
		return os.Chmod(dir, 0o700)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
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
// release, never nil, is called when the binds are made.
func (e *Engine) mounts(ctx context.Context, c Container, lower []string) (out []spec.Mount, release func(), err error) {
	var held, lent []string
	release = func() {
		for _, path := range lent {
			if err := e.takeBack(path); err != nil {
				e.Log.Error("take a mount back from the keeper", "container", c.Name, "error", err)
			}
		}
		for _, path := range held {
			if err := letGo(path); err != nil {
				e.Log.Error("let go of a volume's directory", "container", c.Name, "error", err)
			}
		}
	}
	if len(c.Mounts) != len(c.Config.Mounts) {
		return nil, release, fmt.Errorf("the record of container %s is torn: %d mounts for %d asked", c.Name, len(c.Mounts), len(c.Config.Mounts))
	}
	for i, m := range c.Config.Mounts {
		switch m.Type {
		case spec.MountBind:
			if err := bindSource(m); err != nil {
				return nil, release, err
			}
			out = append(out, m)
		case spec.MountVolume:
			vm, err := e.volumeMount(ctx, c.Mounts[i], m, lower)
			if err != nil {
				return nil, release, err
			}
			if m.Subpath != "" && vm.Type == spec.MountBind {
				at := e.heldAt(c.ID, i)
				if err := holdBelow(at, vm.Source, m.Subpath); err != nil {
					return nil, release, fmt.Errorf("volume %s: subpath %q: %w", c.Mounts[i].Name, m.Subpath, err)
				}
				held = append(held, at)
				vm.Source = at
			}
			out = append(out, vm)
		case spec.MountImage:
			at := e.heldAt(c.ID, i)
			held = append(held, at+imageRoot, at)
			if err := e.holdImage(ctx, at, c.Mounts[i].Source, m.Subpath); err != nil {
				return nil, release, fmt.Errorf("mount image %s: %w", m.Source, err)
			}
			out = append(out, spec.Mount{Type: spec.MountBind, Source: at, Target: m.Target, ReadOnly: true})
		case spec.MountFile:
			path := filepath.Join(e.filesDir(c.ID), strconv.Itoa(i))
			if err := e.placeFile(path, m); err != nil {
				return nil, release, fmt.Errorf("%s: %w", m.Target, err)
			}
			m.Type, m.Source, m.Content = spec.MountBind, path, nil
			out = append(out, m)
		default:
			out = append(out, m)
		}
	}
	if !slices.ContainsFunc(out, func(m spec.Mount) bool { return m.Type == spec.MountBind }) {
		return out, release, nil
	}
	seen, err := e.sight()
	if err != nil {
		return nil, release, err
	}
	for i, m := range out {
		if m.Type != spec.MountBind || slices.Contains(held, m.Source) { // held ones are where both see them
			continue
		}
		if err := seen.checkPropagation(m); err != nil {
			return nil, release, err
		}
		at := filepath.Join(e.Run, "rootfs", lentPrefix+c.ID+"."+strconv.Itoa(i))
		source, moved, err := e.lend(seen, m, at)
		if err != nil {
			return nil, release, fmt.Errorf("bind mount %s: %w", m.Source, err)
		}
		if moved {
			lent = append(lent, at)
			out[i].Source = source
		}
	}
	return out, release, nil
}

// lentPrefix begins the names of mounts on loan, in a directory whose mounts
// the keeper alone sees.
const lentPrefix = "lent."

// heldAt is where the i-th mount of a container is held until the keeper has
// taken it over.
func (e *Engine) heldAt(id string, i int) string {
	return filepath.Join(e.Run, "subpaths", id+"."+strconv.Itoa(i))
}

// imageRoot is appended to where a subpath of an image is held, for the whole.
const imageRoot = ".image"

// holdImage mounts an image, or what lies at sub below its root, at the path at.
func (e *Engine) holdImage(ctx context.Context, at, imageID, sub string) error {
	id, err := parseImageID(imageID)
	if err != nil {
		return err
	}
	lower, err := e.Images.Lowers(ctx, id)
	if err != nil {
		return err
	}
	root := at
	if sub != "" {
		root += imageRoot
	}
	if err := letGo(root); err != nil {
		return err
	}
	if err := os.MkdirAll(root, 0o711); err != nil {
		return err
	}
	if err := (rootfs.Overlay{Lower: lower}).Mount(root); err != nil {
		return err
	}
	if sub == "" {
		return nil
	}
	if err := holdBelow(at, root, sub); err != nil {
		return fmt.Errorf("subpath %q: %w", sub, err)
	}
	return nil
}

// volumeMount shows a volume, filled from the image if it is fresh.
func (e *Engine) volumeMount(ctx context.Context, p MountPoint, m spec.Mount, lower []string) (spec.Mount, error) {
	name := p.Name
	src, err := e.Volumes.Source(name)
	if errdefs.IsNotFound(err) && p.Anonymous {
		// Somebody removed it by hand; there is nobody else to ask for it.
		if _, err = e.Volumes.Create(ctx, anonymousVolume(name, m)); err == nil {
			src, err = e.Volumes.Source(name)
		}
	}
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
	if !m.NoCopy && !src.ReadOnly && m.Subpath == "" {
		err := e.Volumes.Populate(ctx, name, func(dir string) error { return copyUp(lower, m.Target, dir) })
		if err != nil {
			return m, fmt.Errorf("fill volume %s from the image: %w", name, err)
		}
	}
	m.Type, m.Source, m.NonRecursive = spec.MountBind, src.Device, !src.Recursive
	for _, o := range src.Options {
		switch {
		case o == "ro" || o == "rw" || o == "defaults":
		case volume.Propagation(o):
			m.Propagation = o
		default:
			m.BindOptions = append(m.BindOptions, o)
		}
	}
	return m, nil
}

// holdBelow binds what lies at sub below base to the path at, so that whoever
// writes to the volume cannot put a symbolic link in its place before it is
// mounted. No link leads out of base.
func holdBelow(at, base, sub string) error {
	root, err := os.Open(base)
	if err != nil {
		return err
	}
	defer root.Close()
	f, err := rootfs.OpenIn(root, sub, unix.O_PATH)
	if err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o711); err != nil {
		return err
	}
	if err := letGo(at); err != nil {
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
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return errors.Join(fmt.Errorf("bind: %w", err), os.Remove(at))
	}
	return nil
}

// letGo undoes holdBelow, whether or not it was done.
func letGo(at string) error {
	if err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", at, err)
	}
	if err := os.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
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
