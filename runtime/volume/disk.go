package volume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

const (
	recordFile    = "volume.json"
	recordVersion = 1
)

// record is volume.json.
type record struct {
	Version int
	Volume
	// Populated is set once Populate has run: then an image's empty directory
	// has no say any more in the owner and mode of the volume's.
	Populated bool `json:",omitempty"`
}

func (s *Store) writeRecord(dir string, st state) error {
	data, err := json.MarshalIndent(record{Version: recordVersion, Volume: st.Volume, Populated: st.populated}, "", "\t")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, recordFile)
	s.fault("write record")
	f, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	s.fault("rename record")
	if err := os.Rename(path+".tmp", path); err != nil {
		return err
	}
	return syncDir(dir)
}

// readRecord reads a volume's record; fs.ErrNotExist if there is none.
func (s *Store) readRecord(name string) (state, error) {
	path := s.path(name, recordFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return state{}, err
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return state{}, fmt.Errorf("%s: %w", path, err)
	}
	if r.Version != recordVersion {
		return state{}, fmt.Errorf("%s: version %d of the record is not known to this gantry", path, r.Version)
	}
	if r.Name != name {
		return state{}, fmt.Errorf("%s: it is the record of volume %q", path, r.Name)
	}
	r.Mountpoint = s.path(name, "_data")
	return state{Volume: r.Volume, populated: r.Populated}, nil
}

func syncDir(path string) error {
	d, err := openDir(path, 0)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// load reads what is on disk.
func (s *Store) load() error {
	all, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	var trash []string
	for _, e := range all {
		name := e.Name()
		switch {
		case !e.IsDir():
			s.log.Warn("not a volume", "path", s.path(name))
		case strings.HasPrefix(name, newPrefix):
			if err := s.unmake(s.path(name)); err != nil {
				s.log.Warn("a volume that was never finished stays", "path", s.path(name), "error", err)
			}
		case strings.HasPrefix(name, trashPrefix):
			trash = append(trash, name)
		case validName(name) != nil:
			s.log.Warn("not a volume", "path", s.path(name))
		default:
			st, rubbish, err := s.loadVolume(name)
			trash = append(trash, rubbish...)
			if err != nil {
				s.log.Error("a volume cannot be used", "volume", name, "error", err)
				st = &state{
					Volume: Volume{Name: name, Driver: DriverLocal, Mountpoint: s.path(name, "_data")},
					broken: fmt.Errorf("volume %s cannot be used: %w: %w", name, err, errdefs.ErrFailedPrecondition),
				}
			}
			if st != nil {
				v := newSlot(name)
				v.now.Store(st)
				s.volumes[name] = v
			}
		}
	}
	s.sweep(trash)
	return nil
}

// loadVolume reads one volume and ends what a crash left undone; nil if there
// turns out to be none. trash are entries of the store's directory to be
// deleted.
func (s *Store) loadVolume(name string) (_ *state, trash []string, _ error) {
	st, err := s.readRecord(name)
	if errors.Is(err, fs.ErrNotExist) {
		adopted, err := s.adopt(name)
		return adopted, nil, err
	} else if err != nil {
		return nil, nil, err
	}
	src, err := source(st.Options, st.Mountpoint)
	if err != nil || src.Type != SourceBind {
		return &st, nil, err
	}
	place := s.stageOf(&st, src)
	if err := s.settle(place); err != nil {
		if src.Device != st.Mountpoint { // somebody else's directory: perhaps not there today
			s.log.Warn("a volume's directory cannot be looked at", "volume", name, "directory", src.Device, "error", err)
			return &st, nil, nil
		}
		return nil, nil, fmt.Errorf("finish filling it: %w", err)
	}
	if _, err := os.Lstat(place.fresh); err == nil && filepath.Dir(place.fresh) == s.path(name) {
		rubbish := trashPrefix + random(8)
		if err := os.Rename(place.fresh, s.path(rubbish)); err == nil {
			trash = append(trash, rubbish)
		} // or else Populate deletes it
	}
	return &st, trash, nil
}

// adopt makes a volume of a directory without a record if it has content. An
// empty one is removed, and one that is no volume's at all left alone.
func (s *Store) adopt(name string) (*state, error) {
	data := s.path(name, "_data")
	content, err := os.ReadDir(data)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(content) == 0 {
		if err := s.unmake(s.path(name)); err != nil {
			s.log.Warn("not a volume", "path", s.path(name), "error", err)
		}
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	info, err := os.Stat(data)
	if err != nil {
		return nil, err
	}
	st := state{
		Volume:    Volume{Name: name, Driver: DriverLocal, Mountpoint: data, Created: info.ModTime().UTC()},
		populated: true,
	}
	s.log.Warn("a directory with content but without a record becomes a volume", "volume", name)
	return &st, s.writeRecord(s.path(name), st)
}

// sweep empties the trash in the background: it may hold millions of files,
// and nobody waits for it.
func (s *Store) sweep(trash []string) {
	if len(trash) == 0 {
		return
	}
	s.swept.Go(func() {
		for _, name := range trash {
			if err := removeTree(s.ctx, s.path(name)); err != nil && s.ctx.Err() == nil {
				s.log.Warn("a removed volume's content is still there", "directory", s.path(name), "error", err)
			}
		}
	})
}

// mountBelow gives a place at or below dir where something is mounted, or "".
func mountBelow(dir string) string {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	list, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil || len(list) == 0 {
		return ""
	}
	return list[0].Mountpoint
}

// removeTree deletes a directory with all it holds. It follows no symbolic
// link and enters no mount, whoever changes the tree meanwhile; when ctx ends
// it stops.
func removeTree(ctx context.Context, path string) error {
	parent, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer parent.Close()
	return removeIn(ctx, parent, filepath.Base(path))
}

func removeIn(ctx context.Context, parent *os.File, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	at := func(op string, err error) error {
		return &fs.PathError{Op: op, Path: filepath.Join(parent.Name(), name), Err: err}
	}
	err := unix.Unlinkat(int(parent.Fd()), name, 0)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	if err != unix.EISDIR && err != unix.EPERM { // EPERM: what POSIX says for a directory
		return at("remove", err)
	}
	// A new description, whatever its name leads to by now is a directory
	// right here, of the same mount.
	fd, openErr := unix.Openat2(int(parent.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV | unix.RESOLVE_BENEATH,
	})
	switch {
	case openErr == unix.ENOTDIR:
		return at("remove", err) // a file that may not be removed
	case openErr == unix.EXDEV:
		return at("remove", errors.New("something is mounted there"))
	case openErr != nil:
		return at("open", openErr)
	}
	dir := os.NewFile(uintptr(fd), filepath.Join(parent.Name(), name))
	defer dir.Close()
	for {
		// All of it again until it is empty: entries may be passed over while
		// others disappear.
		found, err := removeEntries(ctx, dir)
		if err != nil {
			return err
		}
		err = unix.Unlinkat(int(parent.Fd()), name, unix.AT_REMOVEDIR)
		switch {
		case err == nil || errors.Is(err, unix.ENOENT):
			return nil
		case !errors.Is(err, unix.ENOTEMPTY) || found == 0:
			return at("remove", err)
		}
		if _, err := dir.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
}

// removeEntries deletes what it finds in a directory, as much as it can, and
// returns how much that was and the first failure.
func removeEntries(ctx context.Context, dir *os.File) (found int, first error) {
	for {
		names, err := dir.Readdirnames(1000)
		for _, n := range names {
			if err := removeIn(ctx, dir, n); err != nil && first == nil {
				first = err
			}
			if ctx.Err() != nil {
				return found, ctx.Err()
			}
		}
		found += len(names)
		if err == io.EOF {
			return found, first
		} else if err != nil {
			return found, err
		}
	}
}
