package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moby/sys/userns"
	"golang.org/x/sys/unix"
)

// Small files are read whole, several into one buffer, and written by others while
// the reader goes on; large ones it writes itself, a piece after the other.
const (
	smallFile = 256 << 10
	together  = 16 // files of one buffer
	fillers   = 2  // that write
	ahead     = 16 // buffers that may wait for them, 4 MiB
)

// unpacker writes the entries of a tar stream. All that has to do with names is
// done in the order of the stream, by one: entries that replace each other, hard
// links, deletions. What goes into a small file, and its owner, mode and times,
// are another's, who has the file's descriptor and needs no name.
type unpacker struct {
	*layerDir
	v      *visitor
	tr     *tar.Reader
	late   []lateTimes
	batch  batch // being read
	jobs   chan batch
	free   chan []byte
	broken atomic.Pointer[brokenEntry] // the first that could not be written
	out    sync.WaitGroup              // batches that are being written
}

// batch are files whose content lies in one buffer.
type batch struct {
	buf   []byte // all of it
	used  int
	files []filling
}

// filling is a file that has been made, and what is to become of it.
type filling struct {
	fd    int
	body  []byte
	h     *tar.Header
	entry int
}

type brokenEntry struct {
	number int
	name   string
	err    error
}

// lateTimes are those of a directory, which making entries in it would change.
type lateTimes struct {
	dir, base string
	times     [2]unix.Timespec
}

// unpackTar writes what v lets pass of the stream r into v's directory.
func unpackTar(ctx context.Context, v *visitor, r io.Reader) error {
	t, err := openLayerDir(v.dir)
	if err != nil {
		return err
	}
	defer t.close()
	u := &unpacker{layerDir: t, v: v, tr: tar.NewReader(r), jobs: make(chan batch, ahead), free: make(chan []byte, ahead+fillers+2)}
	for range cap(u.free) {
		u.free <- nil // made when first used: most layers are small
	}
	var working sync.WaitGroup
	for range fillers {
		working.Go(u.fill)
	}
	err = u.run(ctx)
	u.flush()
	close(u.jobs)
	working.Wait()
	if b := u.broken.Load(); b != nil {
		v.entries, v.last = b.number, b.name
		return b.err
	}
	if err != nil {
		return err
	}
	return u.settle()
}

func (u *unpacker) run(ctx context.Context) error {
	for u.broken.Load() == nil {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := u.tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if wanted, err := u.v.visit(h); err != nil {
			return err
		} else if !wanted {
			continue
		}
		u.next()
		if err := u.entry(ctx, h); err != nil {
			return err
		}
	}
	return nil
}

// entry makes one entry.
func (u *unpacker) entry(ctx context.Context, h *tar.Header) error {
	dir, base := path.Split(strings.TrimPrefix(path.Clean("/"+h.Name), "/"))
	if base == "" || h.Typeflag == tar.TypeXGlobalHeader {
		return nil // the root is the snapshotter's
	}
	if (h.Typeflag == tar.TypeBlock || h.Typeflag == tar.TypeChar) && userns.RunningInUserNS() {
		return nil // which may make none
	}
	at, err := u.made(dir)
	if err != nil {
		return fmt.Errorf("directory %q: %w", dir, err)
	}
	if strings.HasPrefix(base, whiteout) {
		return u.hide(at, base, h)
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		return u.file(ctx, at, base, h)
	case tar.TypeDir:
		if err := u.mkdir(at, base); err != nil {
			return err
		}
		u.late = append(u.late, lateTimes{dir, base, timesOf(h)})
	case tar.TypeSymlink:
		err = u.replacing(at, base, func() error { return unix.Symlinkat(h.Linkname, at, base) })
	case tar.TypeLink:
		err = u.link(at, base, h)
	case tar.TypeBlock, tar.TypeChar, tar.TypeFifo:
		err = u.node(at, base, h)
	default:
		return u.v.refuse("entry %q has the type %q, which no file has", h.Name, h.Typeflag)
	}
	if err != nil {
		return err
	}
	return dressAt(at, base, h)
}

// hide writes a deletion in overlay's form. One that names a file of the same
// layer deletes nothing: deletions are about the layers below.
func (u *unpacker) hide(at int, base string, h *tar.Header) error {
	if base == whiteoutAll {
		return unix.Setxattr(within(at, "."), "trusted.overlay.opaque", []byte{'y'}, 0)
	}
	hidden := strings.TrimPrefix(base, whiteout)
	switch hidden {
	case "", ".", "..":
		return u.v.refuse("entry %q deletes nothing that has a name", h.Name)
	}
	if exists(at, hidden) {
		return nil
	}
	if err := unix.Mknodat(at, hidden, unix.S_IFCHR, 0); err != nil {
		return err
	}
	return unix.Fchownat(at, hidden, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW)
}

// link makes a hard link, of a symbolic one too.
func (u *unpacker) link(at int, base string, h *tar.Header) error {
	dir, target := path.Split(h.Linkname)
	from, err := u.dir(dir)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", h.Linkname, err)
	}
	err = u.replacing(at, base, func() error { return unix.Linkat(from, target, at, base, 0) })
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", h.Linkname, err)
	}
	u.flush()
	u.out.Wait() // the owner, mode and times of the link are the last that count
	return nil
}

// node makes a device or a FIFO.
func (u *unpacker) node(at int, base string, h *tar.Header) error {
	if h.Devmajor < 0 || h.Devmajor > 1<<32-1 || h.Devminor < 0 || h.Devminor > 1<<32-1 {
		return u.v.refuse("entry %q has the device number %d:%d, which no device has", h.Name, h.Devmajor, h.Devminor)
	}
	kind := map[byte]uint32{tar.TypeBlock: unix.S_IFBLK, tar.TypeChar: unix.S_IFCHR, tar.TypeFifo: unix.S_IFIFO}[h.Typeflag]
	device := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	return u.replacing(at, base, func() error { return unix.Mknodat(at, base, kind|mode(h), int(device)) })
}

// file makes a regular file, and has it written.
func (u *unpacker) file(ctx context.Context, at int, base string, h *tar.Header) error {
	var body []byte
	small := h.Size <= smallFile
	if small {
		body = u.room(int(h.Size))
		if _, err := io.ReadFull(u.tr, body); err != nil {
			return cutOff(err)
		}
	}
	var fd int
	err := u.replacing(at, base, func() (err error) {
		// Without the bits that giving it an owner takes away.
		fd, err = unix.Openat(at, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode(h)&0o777)
		return err
	})
	if err != nil {
		return err
	}
	if small {
		u.batch.files = append(u.batch.files, filling{fd, body, h, u.v.entries})
		return nil
	}
	return errors.Join(u.pour(ctx, fd, h), unix.Close(fd))
}

// pour writes a large file.
func (u *unpacker) pour(ctx context.Context, fd int, h *tar.Header) error {
	buf := u.buffer()
	defer func() { u.free <- buf }()
	for left := h.Size; left > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		part := buf[:min(left, smallFile)]
		if _, err := io.ReadFull(u.tr, part); err != nil {
			return cutOff(err)
		}
		if err := write(fd, part); err != nil {
			return err
		}
		left -= int64(len(part))
	}
	return dress(fd, h)
}

// cutOff is the end of a stream in the middle of a file.
func cutOff(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (u *unpacker) buffer() []byte {
	if b := <-u.free; b != nil {
		return b
	}
	return make([]byte, smallFile)
}

// room is a part of the batch's buffer, or of a new one's.
func (u *unpacker) room(size int) []byte {
	if u.batch.buf != nil && (u.batch.used+size > smallFile || len(u.batch.files) == together) {
		u.flush()
	}
	if u.batch.buf == nil {
		u.batch.buf = u.buffer()
	}
	b := u.batch.buf[u.batch.used:][:size]
	u.batch.used += size
	return b
}

// flush has the batch written.
func (u *unpacker) flush() {
	if u.batch.buf == nil {
		return
	}
	u.out.Add(1)
	u.jobs <- u.batch
	u.batch = batch{}
}

// fill writes files until there are no more, and after a failure only closes them.
func (u *unpacker) fill() {
	for j := range u.jobs {
		for _, f := range j.files {
			var err error
			if u.broken.Load() == nil {
				if err = write(f.fd, f.body); err == nil {
					err = dress(f.fd, f.h)
				}
			}
			if err = errors.Join(err, unix.Close(f.fd)); err != nil {
				u.broken.CompareAndSwap(nil, &brokenEntry{f.entry, f.h.Name, err})
			}
		}
		u.free <- j.buf
		u.out.Done()
	}
}

// settle gives the directories their times, when nothing more is made in them.
func (u *unpacker) settle() error {
	for _, l := range u.late {
		u.next()
		at, err := u.dir(l.dir)
		var st unix.Stat_t
		if err == nil {
			err = unix.Fstatat(at, l.base, &st, unix.AT_SYMLINK_NOFOLLOW)
		}
		switch {
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
			continue // a later entry took its place, or that of one above
		case err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR:
			continue
		case err == nil:
			err = unix.UtimesNanoAt(at, l.base, l.times[:], unix.AT_SYMLINK_NOFOLLOW)
		}
		if err != nil {
			return fmt.Errorf("times of %q: %w", l.dir+l.base, err)
		}
	}
	return nil
}

func write(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func mode(h *tar.Header) uint32 { return uint32(h.Mode & 0o7777) }

// dress gives an open file the owner, attributes, mode and times of its header.
// What it has already is not asked for again: most files are root's.
func dress(fd int, h *tar.Header) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Uid != uint32(h.Uid) || st.Gid != uint32(h.Gid) {
		if err := unix.Fchown(fd, h.Uid, h.Gid); err != nil {
			return fmt.Errorf("owner %d:%d: %w", h.Uid, h.Gid, err)
		}
	}
	set, err := setXattrs(h, unix.S_IFREG, func(name string, value []byte) error { return unix.Fsetxattr(fd, name, value, 0) })
	if err != nil {
		return err
	}
	// An access list among the attributes changes the mode.
	if set || st.Mode&0o7777 != mode(h) {
		if err := unix.Fchmod(fd, mode(h)); err != nil {
			return err
		}
	}
	times := timesOf(h)
	return unix.UtimesNanoAt(fd, "", times[:], unix.AT_EMPTY_PATH)
}

// dressAt is dress for an entry of a directory that is no regular file, or a
// further name of one. A symbolic link has no mode.
func dressAt(at int, base string, h *tar.Header) error {
	var st unix.Stat_t
	if err := unix.Fstatat(at, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if err := unix.Fchownat(at, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("owner %d:%d: %w", h.Uid, h.Gid, err)
	}
	kind := st.Mode & unix.S_IFMT
	_, err := setXattrs(h, kind, func(name string, value []byte) error { return unix.Lsetxattr(within(at, base), name, value, 0) })
	if err != nil {
		return err
	}
	if kind != unix.S_IFLNK {
		if err := unix.Fchmodat(at, base, mode(h), 0); err != nil {
			return err
		}
	}
	times := timesOf(h)
	return unix.UtimesNanoAt(at, base, times[:], unix.AT_SYMLINK_NOFOLLOW)
}

// setXattrs sets the attributes of a header, and says whether there were any.
// Those that the file system does not have are left out, as are trusted ones,
// which are the host's.
func setXattrs(h *tar.Header, kind uint32, set func(name string, value []byte) error) (bool, error) {
	some := false
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, xattrPrefix)
		if !ok || strings.HasPrefix(name, "trusted.") {
			continue
		}
		err := set(name, []byte(value))
		switch {
		case err == nil:
			some = true
		case errors.Is(err, unix.ENOTSUP):
		case errors.Is(err, unix.EPERM) && strings.HasPrefix(name, "user.") && kind != unix.S_IFREG && kind != unix.S_IFDIR:
			// Only files and directories may have these (xattr(7)).
		default:
			return some, fmt.Errorf("attribute %q: %w", name, err)
		}
	}
	return some, nil
}

// timesOf are the times of access and modification. Those that the kernel has no
// number for are 1970; nothing was read before it was written.
func timesOf(h *tar.Header) [2]unix.Timespec {
	accessed := h.AccessTime
	if accessed.Before(h.ModTime) {
		accessed = h.ModTime
	}
	return [2]unix.Timespec{timespec(accessed), timespec(h.ModTime)}
}

func timespec(t time.Time) unix.Timespec {
	if t.Before(time.Unix(0, 0)) || t.After(time.Unix(0, 1<<63-1)) {
		t = time.Unix(0, 0)
	}
	return unix.NsecToTimespec(t.UnixNano())
}
