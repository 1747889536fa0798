package image

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// layerDir is a directory that a layer is unpacked into. Paths lead where they would
// lead a process whose root it is: symbolic links are followed inside, and
// neither they nor dots lead out. Nobody else writes to it meanwhile, and it is
// for one goroutine.
type layerDir struct {
	root int
	// open are directories by the path they were asked for. An archive lists the
	// files of a directory one after the other.
	open  map[string]int
	stale bool // a path may lead elsewhere than it did
}

// maxOpen bounds the descriptors of one.
const maxOpen = 64

func openLayerDir(dir string) (*layerDir, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return &layerDir{root: fd, open: map[string]int{}}, nil
}

func (d *layerDir) close() {
	d.forget()
	unix.Close(d.root)
}

func (d *layerDir) forget() {
	for _, fd := range d.open {
		unix.Close(fd)
	}
	clear(d.open)
	d.stale = false
}

// next is called between two entries: descriptors that dir gave are not to be
// used after it.
func (d *layerDir) next() {
	if d.stale || len(d.open) >= maxOpen {
		d.forget()
	}
}

// dir opens the directory at a path, which is not to be closed.
func (d *layerDir) dir(name string) (int, error) {
	if name == "" {
		return d.root, nil
	}
	if fd, ok := d.open[name]; ok {
		return fd, nil
	}
	fd, err := d.look(name, unix.RESOLVE_IN_ROOT)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ELOOP), errors.Is(err, unix.EAGAIN):
		// The kernel goes up from nothing that is not there, follows forty links
		// and no more, and takes no dots while somewhere on the machine something
		// is renamed.
		var real string
		if real, err = d.real(name); err == nil {
			fd, err = d.plain(real)
		}
		d.stale = true // what is made next may lead elsewhere
	}
	if err != nil {
		return -1, err
	}
	d.open[name] = fd
	return fd, nil
}

// plain opens a directory whose path has neither links nor dots.
func (d *layerDir) plain(real string) (int, error) {
	return d.look(real, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
}

func (d *layerDir) look(name string, resolve uint64) (int, error) {
	name = strings.TrimLeft(name, "/")
	if name == "" {
		name = "."
	}
	return unix.Openat2(d.root, name, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: resolve | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
}

// made is dir for a directory that is made, with those that lead to it, if it is
// not there.
func (d *layerDir) made(name string) (int, error) {
	fd, err := d.dir(name)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	real, err := d.real(name)
	if err != nil {
		return -1, err
	}
	for i := 0; i <= len(real); i++ {
		if i < len(real) && real[i] != '/' {
			continue
		}
		err := unix.Mkdirat(d.root, real[:i], 0o755)
		if err == nil { // whatever the umask, and the directory's own above
			err = unix.Fchmodat(d.root, real[:i], 0o755, 0)
		}
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return -1, err
		}
	}
	if fd, err = d.plain(real); err == nil {
		d.open[name] = fd
	}
	return fd, err
}

// maxLinks bounds the symbolic links of one path.
const maxLinks = 255

// real is the path without links and dots. What is not there is taken for a
// directory.
func (d *layerDir) real(name string) (string, error) {
	done, links := "", 0
	for todo := name; todo != ""; {
		var part string
		part, todo, _ = strings.Cut(todo, "/")
		switch part {
		case "", ".":
			continue
		case "..":
			if done = path.Dir(done); done == "." {
				done = ""
			}
			continue
		}
		next := path.Join(done, part)
		to, err := readlink(d.root, next)
		switch {
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT): // no link
			done = next
			continue
		case err != nil:
			return "", err
		}
		if links++; links > maxLinks {
			return "", unix.ELOOP
		}
		if strings.HasPrefix(to, "/") {
			done = ""
		}
		todo = to + "/" + todo
	}
	return done, nil
}

func readlink(dir int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// replacing makes an entry of a directory by make, and removes first what has its
// name.
func (d *layerDir) replacing(dir int, base string, make func() error) error {
	err := make()
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if err := d.remove(dir, base); err != nil {
		return err
	}
	return make()
}

// remove takes away an entry of a directory, with all below it.
func (d *layerDir) remove(dir int, base string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFDIR {
		d.stale = d.stale || kind == unix.S_IFLNK
		return unix.Unlinkat(dir, base, 0)
	}
	d.stale = true
	return os.RemoveAll(within(dir, base))
}

// mkdir makes a directory, unless there is one.
func (d *layerDir) mkdir(dir int, base string) error {
	return d.replacing(dir, base, func() error {
		err := unix.Mkdirat(dir, base, 0o755)
		var st unix.Stat_t
		if errors.Is(err, unix.EEXIST) && unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return nil
		}
		return err
	})
}

// exists reports whether a directory has an entry.
func exists(dir int, base string) bool {
	var st unix.Stat_t
	return unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW) == nil
}

// within is a path for the calls that take no descriptor of a directory.
func within(dir int, base string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir, base)
}
