package volume

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Names within the store's directory. None that begins with a dot can be a
// volume's.
const (
	newPrefix   = ".new-"   // a volume being made: nobody has seen it yet
	trashPrefix = ".trash-" // a volume removed: nobody will see it again
)

// Store is the volumes of one daemon. It is safe for concurrent use; work on
// one volume does not hold up another.
type Store struct {
	dir string
	log *slog.Logger

	mu      sync.Mutex
	volumes map[string]*slot

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	swept  sync.WaitGroup // the removal of trash left by an earlier daemon

	// fault is called before every step that changes the disk; tests let the
	// store die there.
	fault func(step string)
}

// slot is the place of one name.
type slot struct {
	name string
	// token is in the channel while nobody works on the volume.
	token chan struct{}
	// now is what is known to everybody; nil: no such volume (yet, or any more).
	now atomic.Pointer[state]
	// dead, guarded by the token: the slot has left the store's map.
	dead bool
}

// state is a volume as it is; never changed, only replaced.
type state struct {
	Volume
	populated bool
	broken    error // the record cannot be read
}

// Open opens the store below root and makes it if need be. It ends what a
// crash interrupted: volumes half made disappear, those half removed are
// removed in the background, those half filled are filled or empty.
func Open(root string, log *slog.Logger) (*Store, error) {
	s, err := newStore(root, log)
	if err != nil {
		return nil, fmt.Errorf("open volumes: %w", err)
	}
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("open volumes: %w", err), s.Close())
	}
	return s, nil
}

func newStore(root string, log *slog.Logger) (*Store, error) {
	dir, err := filepath.Abs(filepath.Join(root, "volumes"))
	if err != nil {
		return nil, err
	}
	// Nobody else may reach into it: root in a container can leave programs with
	// the set-user-id bit in a volume, for users of the machine to run
	// (CVE-2021-41091).
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Store{dir: dir, log: log, volumes: map[string]*slot{}, fault: func(string) {}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// Close waits for work in the background; what is left of it is done after the
// next Open.
func (s *Store) Close() error {
	s.cancel()
	s.swept.Wait()
	return nil
}

func (s *Store) path(name string, more ...string) string {
	return filepath.Join(append([]string{s.dir, name}, more...)...)
}

// Dir is where the volumes are, each in a directory of its name.
func (s *Store) Dir() string { return s.dir }

// Lost says of a volume, known or not, that its data is not where it would be,
// and where that is. What a volume's options name is somebody else's matter.
func (s *Store) Lost(name string) (path string, lost bool) {
	path = s.Path(name)
	if st, err := s.get(name); err == nil {
		if src, err := source(st.Options, st.Mountpoint); err != nil || src.Device != st.Mountpoint {
			return "", false
		}
	}
	info, err := os.Stat(path)
	return path, errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir()
}

// Path is where the content of a volume without options lies, whether or not
// there is one of that name.
func (s *Store) Path(name string) string { return s.path(name, "_data") }

// acquire takes the name's slot for work on its volume, and makes one if need
// be.
func (s *Store) acquire(ctx context.Context, name string) (*slot, error) {
	for {
		s.mu.Lock()
		v := s.volumes[name]
		if v == nil {
			v = newSlot(name)
			s.volumes[name] = v
		}
		s.mu.Unlock()
		select {
		case <-v.token:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if !v.dead {
			return v, nil
		}
		v.token <- struct{}{}
	}
}

func newSlot(name string) *slot {
	v := &slot{name: name, token: make(chan struct{}, 1)}
	v.token <- struct{}{}
	return v
}

// release ends the work; a slot without a volume leaves the store.
func (s *Store) release(v *slot) {
	if v.now.Load() == nil {
		s.mu.Lock()
		if s.volumes[v.name] == v {
			delete(s.volumes, v.name)
		}
		s.mu.Unlock()
		v.dead = true
	}
	v.token <- struct{}{}
}

// validName is Docker's rule, with the file system's limit.
func validName(name string) error {
	ok := len(name) <= 255
	for i, c := range []byte(name) {
		alnum := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		ok = ok && (alnum || i > 0 && (c == '_' || c == '.' || c == '-'))
	}
	if !ok || name == "" {
		return fmt.Errorf("volume name %q is not valid: at most 255 of a-z A-Z 0-9 _ . -, beginning with a letter or a digit: %w", name, errdefs.ErrInvalidArgument)
	}
	return nil
}

func random(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// Create makes a volume and returns it. An existing one of that name is
// returned as it is if the driver is the same and the options are too, or none
// are asked for; labels are not compared. Otherwise the error is
// ErrAlreadyExists. Unknown drivers and options are ErrInvalidArgument, known
// ones that gantry does not have ErrNotImplemented.
func (s *Store) Create(ctx context.Context, v Volume) (Volume, error) {
	v, err := s.normal(v)
	if err != nil {
		return Volume{}, err
	}
	slot, err := s.acquire(ctx, v.Name)
	if err != nil {
		return Volume{}, fmt.Errorf("create volume %s: %w", v.Name, err)
	}
	defer s.release(slot)
	if old := slot.now.Load(); old != nil {
		return v.found(old)
	}
	v.Created = time.Now().UTC()
	st := state{Volume: v}
	if err := s.make(st); err != nil {
		return Volume{}, fmt.Errorf("create volume %s: %w", v.Name, err)
	}
	slot.now.Store(&st)
	return v.clone(), nil
}

// normal fills in what a request leaves out and checks it.
func (s *Store) normal(v Volume) (Volume, error) {
	v = v.clone()
	if v.Driver == "" {
		v.Driver = DriverLocal
	}
	if v.Driver != DriverLocal {
		return v, fmt.Errorf("volume driver %q is not supported, only %q is: %w", v.Driver, DriverLocal, errdefs.ErrInvalidArgument)
	}
	if v.Name == "" {
		v.Name, v.Anonymous = random(32), true
	}
	if v.Anonymous {
		if v.Labels == nil {
			v.Labels = map[string]string{}
		}
		v.Labels[LabelAnonymous] = ""
	}
	if err := validName(v.Name); err != nil {
		return v, err
	}
	v.Mountpoint = s.path(v.Name, "_data")
	if _, err := source(v.Options, v.Mountpoint); err != nil {
		return v, fmt.Errorf("volume %s: %w", v.Name, err)
	}
	return v, nil
}

// found answers a request for v with the volume there is.
func (v Volume) found(old *state) (Volume, error) {
	if old.broken != nil {
		return Volume{}, old.broken
	}
	if len(v.Options) > 0 && !maps.Equal(v.Options, old.Options) {
		return Volume{}, fmt.Errorf("volume %s exists with other options (%s, not %s); remove it or choose another name: %w",
			v.Name, optionText(old.Options), optionText(v.Options), errdefs.ErrAlreadyExists)
	}
	return old.clone(), nil
}

func optionText(o map[string]string) string {
	if len(o) == 0 {
		return "none"
	}
	var list []string
	for _, k := range slices.Sorted(maps.Keys(o)) {
		list = append(list, k+"="+o[k])
	}
	return strings.Join(list, " ")
}

func (v Volume) clone() Volume {
	v.Labels, v.Options = maps.Clone(v.Labels), maps.Clone(v.Options)
	return v
}

// make makes the volume aside and lets it appear in one step.
func (s *Store) make(st state) error {
	dir := s.path(newPrefix + random(8))
	err := s.makeIn(dir, st)
	if err == nil {
		s.fault("appear")
		err = unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, s.path(st.Name), unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.EEXIST) {
			err = fmt.Errorf("%s is in the way and holds no volume: %w", s.path(st.Name), errdefs.ErrFailedPrecondition)
		}
	}
	if err != nil {
		return errors.Join(err, s.unmake(dir))
	}
	return syncDir(s.dir)
}

func (s *Store) makeIn(dir string, st state) error {
	s.fault("make directory")
	if err := os.Mkdir(dir, 0o711); err != nil {
		return err
	}
	s.fault("make data")
	data := filepath.Join(dir, "_data")
	if err := os.Mkdir(data, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(data, 0o755); err != nil { // whatever the umask
		return err
	}
	return s.writeRecord(dir, st)
}

// unmake removes a volume that has not appeared. It removes what make makes
// and nothing else, so it fails where there is anything else.
func (s *Store) unmake(dir string) error {
	var failed error
	for _, f := range []string{recordFile + ".tmp", recordFile, "_data", ""} {
		if err := os.Remove(filepath.Join(dir, f)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

// get gives the state of a volume, ErrNotFound if there is none, and
// ErrFailedPrecondition if its record cannot be read.
func (s *Store) get(name string) (*state, error) {
	s.mu.Lock()
	v := s.volumes[name]
	s.mu.Unlock()
	if v == nil || v.now.Load() == nil {
		return nil, notFound(name)
	}
	st := v.now.Load()
	if st == nil {
		return nil, notFound(name)
	}
	return st, st.broken
}

func notFound(name string) error {
	return fmt.Errorf("get %s: no such volume: %w", name, errdefs.ErrNotFound)
}

// Get returns one volume.
func (s *Store) Get(name string) (Volume, error) {
	st, err := s.get(name)
	if err != nil {
		return Volume{}, err
	}
	return st.clone(), nil
}

// List returns all volumes by name.
func (s *Store) List() []Volume {
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.volumes))
	s.mu.Unlock()
	list := make([]Volume, 0, len(all))
	for _, v := range all {
		if st := v.now.Load(); st != nil {
			list = append(list, st.clone())
		}
	}
	slices.SortFunc(list, func(a, b Volume) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Source says what to mount to show a volume. The directory of a bind must be
// there now: ErrFailedPrecondition if not.
func (s *Store) Source(name string) (Source, error) {
	st, err := s.get(name)
	if err != nil {
		return Source{}, err
	}
	src, err := source(st.Options, st.Mountpoint)
	if err != nil {
		return Source{}, fmt.Errorf("volume %s: %w", name, err)
	}
	if src.Type == SourceBind {
		if info, err := os.Stat(src.Device); err != nil {
			return Source{}, fmt.Errorf("volume %s: %w: %w", name, err, errdefs.ErrFailedPrecondition)
		} else if !info.IsDir() {
			return Source{}, fmt.Errorf("volume %s: %s is not a directory: %w", name, src.Device, errdefs.ErrFailedPrecondition)
		}
	}
	return src, nil
}

// Remove deletes a volume with its content. From the moment the volume is gone
// by name it never comes back, whatever happens to the deletion. The directory
// that a bind's device names is not touched. force makes removing what is not
// there succeed.
func (s *Store) Remove(ctx context.Context, name string, force bool) error {
	if validName(name) != nil {
		if force {
			return nil
		}
		return notFound(name)
	}
	slot, err := s.acquire(ctx, name)
	if err != nil {
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	defer s.release(slot)
	if slot.now.Load() == nil {
		if force {
			return nil
		}
		return notFound(name)
	}
	if at := mountBelow(s.path(name)); at != "" {
		return fmt.Errorf("remove volume %s: something is mounted at %s; unmount it first: %w", name, at, errdefs.ErrFailedPrecondition)
	}
	trash := s.path(trashPrefix + random(8))
	s.fault("to the trash")
	if err := os.Rename(s.path(name), trash); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove volume %s: %w", name, err)
	} else if err != nil { // deleted by hand
		slot.now.Store(nil)
		return nil
	}
	slot.now.Store(nil)
	if err := syncDir(s.dir); err != nil {
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	s.fault("empty the trash")
	err = removeTree(ctx, trash)
	if err != nil && ctx.Err() != nil {
		// The volume is gone, whoever has stopped waiting.
		s.sweep([]string{filepath.Base(trash)})
		return nil
	}
	if err != nil {
		s.log.Warn("a removed volume's content is still there", "volume", name, "directory", trash, "error", err)
		return fmt.Errorf("volume %s is removed, but not all of its content, now in %s: %w", name, trash, err)
	}
	return nil
}
