// Package rootfs knows how to make a container's root filesystem out of
// directories, and how to look into one without being led out of it. It knows
// nothing of images, containers or records: directories come in as paths.
//
// Mounts are made with the kernel's file-descriptor API (fsopen, fsconfig,
// fsmount, move_mount). A mount is complete before it appears anywhere, so no
// half-made mount is ever seen, and the one who made it can still change its
// attributes (an id mapping, say) while it is detached. Linux 5.12 is the
// oldest that has all of these calls.
package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Overlay is a union of directories. The zero value is invalid: at least one
// lower directory is needed. It is a value that travels in messages as JSON.
type Overlay struct {
	// Lower are the read-only layers, the topmost first.
	Lower []string

	// Upper receives what is written, Work is the kernel's scratch directory
	// on the same filesystem. Both or neither: without them the union is a
	// read-only view of Lower. The view of a single layer is that directory
	// itself, so a whiteout that has nothing to hide shows as the character
	// device 0:0 it is.
	Upper string `json:",omitempty"`
	Work  string `json:",omitempty"`

	// ReadOnly forbids writing even with an Upper.
	ReadOnly bool `json:",omitempty"`

	// Volatile leaves out every sync to disk: after a crash of the machine
	// the content of Upper is undefined. For what does not outlive a reboot.
	Volatile bool `json:",omitempty"`
}

// The kernel copies a string given to fsconfig(2) into 256 bytes.
const maxConfigString = 255

// Detached mounts o nowhere: the result is the root directory of a mount that
// is in no mount table and vanishes when the file, and all files opened
// through it, are closed. The file is a path (O_PATH): use [OpenIn].
func (o Overlay) Detached() (*os.File, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if len(o.Lower) == 1 && o.Upper == "" {
		return o.bind()
	}
	if o.Volatile {
		// The kernel leaves this mark and refuses a second mount that finds
		// it, lest somebody trust the content after a crash. Who says
		// Volatile has said that nobody does.
		if err := os.RemoveAll(filepath.Join(o.Work, "work", "incompat")); err != nil {
			return nil, fmt.Errorf("mount overlay: %w", err)
		}
	}
	f, err := o.layered()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// Before Linux 6.7 overlayfs does not know "lowerdir+". A mistake of
		// ours is EINVAL as well; then the old way fails too, and the first
		// error tells more.
		if g, old := o.inOneString(); old == nil {
			return g, nil
		}
	}
	return f, err
}

// Mount mounts o on the existing directory target, with private propagation.
func (o Overlay) Mount(target string) error {
	f, err := o.Detached()
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.MoveMount(int(f.Fd()), "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount overlay on %s: %w", target, err)
	}
	// A mount moved onto a shared one becomes shared itself.
	err = unix.MountSetattr(unix.AT_FDCWD, target, unix.AT_SYMLINK_NOFOLLOW, &unix.MountAttr{Propagation: unix.MS_PRIVATE})
	if err != nil {
		return errors.Join(fmt.Errorf("make %s private: %w", target, err), Unmount(target))
	}
	return nil
}

// Unmount takes every mount off target, at once for those who look it up and
// lazily for those who use it. Nothing mounted, or no target, is no error.
func Unmount(target string) error {
	for {
		switch err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err {
		case nil: // there may be another one below
		case unix.EINTR:
		case unix.EINVAL, unix.ENOENT, unix.ENOTDIR:
			return nil
		default:
			return fmt.Errorf("unmount %s: %w", target, err)
		}
	}
}

func (o Overlay) check() error {
	refuse := func(why string) error {
		return fmt.Errorf("mount overlay: %s: %w", why, errdefs.ErrInvalidArgument)
	}
	if len(o.Lower) == 0 {
		return refuse("no lower directory")
	}
	if (o.Upper == "") != (o.Work == "") {
		return refuse("an upper directory needs a work directory, and the other way round")
	}
	for _, dir := range append([]string{o.Upper, o.Work}, o.Lower...) {
		if dir != "" && !filepath.IsAbs(dir) {
			return refuse(fmt.Sprintf("directory %q is not absolute", dir))
		}
	}
	for _, dir := range o.Lower {
		if dir == "" {
			return refuse("a lower directory is empty")
		}
	}
	return nil
}

func (o Overlay) readOnly() bool { return o.ReadOnly || o.Upper == "" }

// options are those besides the directories. A container's upper directory
// must hold nothing that only its own stack of layers explains, since it may
// become a layer of another image: no redirects, no metadata without data, no
// index by file handle. The defaults of these are the distribution's.
func (o Overlay) options() [][2]string {
	options := [][2]string{{"index", "off"}, {"metacopy", "off"}, {"redirect_dir", "off"}}
	if o.Volatile {
		options = append(options, [2]string{"volatile", ""})
	}
	return options
}

// bind shows the only layer as it is: overlayfs wants two.
func (o Overlay) bind() (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, o.Lower[0], unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("bind layer %s: %w", o.Lower[0], err)
	}
	f := os.NewFile(uintptr(fd), "rootfs")
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY, Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		f.Close()
		return nil, fmt.Errorf("bind layer %s: set attributes: %w", o.Lower[0], err)
	}
	return f, nil
}

// layered hands the layers over one by one: no limit on the sum of their
// names, and no character in them is special.
func (o Overlay) layered() (*os.File, error) {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open overlay filesystem: %w", err)
	}
	defer unix.Close(fd)
	var short shortNames
	defer short.close()

	set := func(key, value string) error {
		if err := unix.FsconfigSetString(fd, key, value); err != nil {
			return fmt.Errorf("mount overlay: %s=%s: %w%s", key, value, err, complaint(fd))
		}
		return nil
	}
	setDir := func(key, dir string) error {
		name := dir
		// Backslashes are an escape in upperdir and workdir alone.
		if len(dir) > maxConfigString || strings.Contains(dir, `\`) {
			if name, err = short.name(dir); err != nil {
				return err
			}
		}
		return set(key, name)
	}
	if err := set("source", "overlay"); err != nil {
		return nil, err
	}
	for _, dir := range o.Lower {
		if err := setDir("lowerdir+", dir); err != nil {
			return nil, err
		}
	}
	if o.Upper != "" {
		if err := errors.Join(setDir("upperdir", o.Upper), setDir("workdir", o.Work)); err != nil {
			return nil, err
		}
	}
	for _, option := range o.options() {
		if option[1] != "" {
			err = set(option[0], option[1])
		} else if err = unix.FsconfigSetFlag(fd, option[0]); err != nil {
			err = fmt.Errorf("mount overlay: %s: %w%s", option[0], err, complaint(fd))
		}
		if err != nil {
			return nil, err
		}
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return nil, fmt.Errorf("mount overlay of %d layers: %w%s", len(o.Lower), err, complaint(fd))
	}
	attr := 0
	if o.readOnly() {
		attr = unix.MOUNT_ATTR_RDONLY
	}
	mnt, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return nil, fmt.Errorf("mount overlay of %d layers: %w%s", len(o.Lower), err, complaint(fd))
	}
	return os.NewFile(uintptr(mnt), "rootfs"), nil
}

// complaint reads what the kernel has to say about a failed filesystem
// context, which is far more than the error number.
func complaint(fd int) string {
	var text []string
	buf := make([]byte, 1024)
	for {
		n, err := unix.Read(fd, buf)
		if err != nil || n <= 0 {
			break
		}
		// Each message is "e " (error), "w " or "i " and the text.
		if line := strings.TrimSpace(string(buf[:n])); len(line) > 2 {
			text = append(text, strings.TrimSpace(line[1:]))
		}
	}
	if len(text) == 0 {
		return ""
	}
	return " (" + strings.Join(text, "; ") + ")"
}

// inOneString is the way before Linux 6.7: mount(2) takes all options in one
// page. With a descriptor's name for each directory about 200 layers fit. The
// old call needs a place, so the mount is visible for an instant in a
// directory of its own.
func (o Overlay) inOneString() (*os.File, error) {
	var short shortNames
	defer short.close()
	var lower []string
	for _, dir := range o.Lower {
		name, err := short.name(dir)
		if err != nil {
			return nil, err
		}
		lower = append(lower, name)
	}
	data := []string{"lowerdir=" + strings.Join(lower, ":")}
	if o.Upper != "" {
		upper, err := short.name(o.Upper)
		if err != nil {
			return nil, err
		}
		work, err := short.name(o.Work)
		if err != nil {
			return nil, err
		}
		data = append(data, "upperdir="+upper, "workdir="+work)
	}
	for _, option := range o.options() {
		data = append(data, strings.TrimSuffix(option[0]+"="+option[1], "="))
	}
	options := strings.Join(data, ",")
	if len(options) >= os.Getpagesize() {
		return nil, fmt.Errorf("mount overlay: %d layers are too many for this kernel, use Linux 6.7 or newer: %w", len(o.Lower), errdefs.ErrFailedPrecondition)
	}
	place, err := os.MkdirTemp("", "rootfs-")
	if err != nil {
		return nil, fmt.Errorf("mount overlay: %w", err)
	}
	defer os.Remove(place)
	var flags uintptr
	if o.readOnly() {
		flags = unix.MS_RDONLY
	}
	if err := unix.Mount("overlay", place, "overlay", flags, options); err != nil {
		return nil, fmt.Errorf("mount overlay of %d layers: %w", len(o.Lower), err)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, place, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mount overlay of %d layers: detach: %w", len(o.Lower), err), Unmount(place))
	}
	if err := Unmount(place); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("mount overlay of %d layers: detach: %w", len(o.Lower), err)
	}
	return os.NewFile(uintptr(fd), "rootfs"), nil
}

// shortNames gives directories names of some 16 bytes, valid in this process
// until close.
type shortNames []*os.File

func (s *shortNames) name(dir string) (string, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("mount overlay: open %s: %w", dir, err)
	}
	*s = append(*s, os.NewFile(uintptr(fd), dir))
	return fmt.Sprintf("/proc/self/fd/%d", fd), nil
}

func (s *shortNames) close() {
	for _, f := range *s {
		f.Close()
	}
	runtime.KeepAlive(s)
}
