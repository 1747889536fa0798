package rootfs

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// PathStat is what Docker's clients are told of a path in a container.
type PathStat struct {
	Name    string // the last element of the path, as it was asked for
	Size    int64
	Mode    fs.FileMode
	ModTime time.Time
	// LinkTarget is where a symbolic link leads in the end: an absolute path
	// in the container, whether or not there is something.
	LinkTarget string
}

// StatIn looks at a path as a process would whose root directory is root. The
// last element is not followed if it is a symbolic link, unless the path ends
// in "/" or "/.": that asks for a directory.
func StatIn(root *os.File, name string) (PathStat, error) {
	p, err := locate(root, name)
	if err != nil {
		return PathStat{}, err
	}
	defer p.close()
	st := p.st
	out := PathStat{Name: p.name, Size: st.Size, Mode: fileMode(st.Mode), ModTime: time.Unix(st.Mtim.Unix()).UTC()}
	if out.Mode&fs.ModeSymlink != 0 {
		out.LinkTarget, err = resolve(root, name)
	}
	return out, err
}

// place is a path that was looked up: a name in an open directory, or that
// directory itself.
type place struct {
	dir  *os.File // as a path (O_PATH)
	base string   // "": dir itself
	name string   // what an archive calls it
	st   unix.Stat_t
}

func (p *place) close() { p.dir.Close() }

// locate looks a path up as Docker does: without regard to "..", which is taken
// away together with what stands before it.
func locate(root *os.File, name string) (*place, error) {
	clean := path.Join("/", name)
	p := &place{name: path.Base(clean)}
	asked := clean == "/"
	switch {
	case name == "." || strings.HasSuffix(name, "/."):
		p.name, asked = ".", true
	case strings.HasSuffix(name, "/"):
		asked = true
	}
	at := clean
	if !asked {
		at, p.base = path.Split(clean)
	}
	var err error
	if p.dir, err = OpenIn(root, at, unix.O_PATH|unix.O_DIRECTORY); err != nil {
		return nil, err
	}
	if err := unix.Fstatat(int(p.dir.Fd()), p.base, &p.st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH); err != nil {
		p.close()
		return nil, &fs.PathError{Op: "stat", Path: clean, Err: err}
	}
	return p, nil
}

// maxLinks is how many symbolic links are followed on one way, as in the kernel.
const maxLinks = 40

// resolve follows all symbolic links of a path. What is not there is taken as
// it is written. The answer is a text for people and clients: nothing is opened
// by it.
func resolve(root *os.File, name string) (string, error) {
	done, todo := "/", strings.Split(path.Join("/", name), "/")
	for links := 0; len(todo) > 0; {
		next := todo[0]
		todo = todo[1:]
		switch next {
		case "", ".":
			continue
		case "..":
			done = path.Dir(done)
			continue
		}
		at := path.Join(done, next)
		target, ok := linkIn(root, done, next)
		if !ok {
			done = at
			continue
		}
		if links++; links > maxLinks {
			return "", &fs.PathError{Op: "follow", Path: name, Err: unix.ELOOP}
		}
		if path.IsAbs(target) {
			done = "/"
		}
		todo = append(strings.Split(target, "/"), todo...)
		if len(todo) > unix.PathMax {
			return "", &fs.PathError{Op: "follow", Path: name, Err: unix.ENAMETOOLONG}
		}
	}
	return done, nil
}

// linkIn reads a symbolic link; false: there is none.
func linkIn(root *os.File, dir, name string) (string, bool) {
	d, err := OpenIn(root, dir, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return "", false
	}
	defer d.Close()
	target, err := readlink(d, name)
	return target, err == nil
}

// fileMode is a mode of stat(2) in Go's form.
func fileMode(m uint32) fs.FileMode {
	mode := fs.FileMode(m & 0o777)
	switch m & unix.S_IFMT {
	case unix.S_IFDIR:
		mode |= fs.ModeDir
	case unix.S_IFLNK:
		mode |= fs.ModeSymlink
	case unix.S_IFIFO:
		mode |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		mode |= fs.ModeSocket
	case unix.S_IFCHR:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	case unix.S_IFBLK:
		mode |= fs.ModeDevice
	}
	for _, bit := range []struct {
		unix uint32
		mode fs.FileMode
	}{{unix.S_ISUID, fs.ModeSetuid}, {unix.S_ISGID, fs.ModeSetgid}, {unix.S_ISVTX, fs.ModeSticky}} {
		if m&bit.unix != 0 {
			mode |= bit.mode
		}
	}
	return mode
}

// MakeIn makes sure that there is a directory, or else a file, to mount
// something over, and opens it as a path. What it makes belongs to root.
func MakeIn(root *os.File, name string, directory bool) (*os.File, error) {
	if f, err := OpenIn(root, name, unix.O_PATH); err == nil {
		return f, nil
	}
	clean := path.Join("/", name)
	parent := path.Dir(clean)
	if directory {
		parent = clean
	}
	dir, err := mkdirIn(root, parent)
	if err != nil || directory {
		return dir, err
	}
	defer dir.Close()
	fd, err := unix.Openat(int(dir.Fd()), path.Base(clean), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, &fs.PathError{Op: "create", Path: clean, Err: err}
	}
	unix.Close(fd)
	return OpenIn(root, clean, unix.O_PATH)
}

// mkdirIn makes a directory with all above it, and opens it as a path.
func mkdirIn(root *os.File, name string) (*os.File, error) {
	d, err := OpenIn(root, name, unix.O_PATH|unix.O_DIRECTORY)
	if err == nil || !os.IsNotExist(err) || path.Join("/", name) == "/" {
		return d, err
	}
	above, err := mkdirIn(root, path.Dir(path.Join("/", name)))
	if err != nil {
		return nil, err
	}
	defer above.Close()
	if err := unix.Mkdirat(int(above.Fd()), path.Base(name), 0o755); err != nil {
		return nil, fmt.Errorf("make directory %s: %w", name, err)
	}
	return OpenIn(root, name, unix.O_PATH|unix.O_DIRECTORY)
}
