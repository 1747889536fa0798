package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ctx = context.Background()

func open(t testing.TB, root string) *Store {
	t.Helper()
	s, err := Open(root, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// memory is a directory that costs no disk: crash tests do thousands of fsyncs.
func memory(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "gantry-volume-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func create(t testing.TB, s *Store, v Volume) Volume {
	t.Helper()
	v, err := s.Create(ctx, v)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func write(t testing.TB, text string, path ...string) {
	t.Helper()
	p := filepath.Join(path...)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// tree writes down what a directory holds, as "a b/ b/c=text".
func tree(t testing.TB, dir string) string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		if d.IsDir() {
			list = append(list, rel+"/")
			return nil
		}
		text, err := os.ReadFile(p)
		list = append(list, rel+"="+string(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(list, " ")
}

func names(s *Store) string {
	var list []string
	for _, v := range s.List() {
		list = append(list, v.Name)
	}
	return strings.Join(list, " ")
}

func TestVolumesOutliveTheStore(t *testing.T) {
	root := t.TempDir()
	s := open(t, root)
	a := create(t, s, Volume{Name: "shop_db-data", Labels: map[string]string{"l": "1"}})
	if a.Driver != "local" || a.Mountpoint != filepath.Join(root, "volumes", "shop_db-data", "_data") || a.Anonymous || time.Since(a.Created) > time.Minute {
		t.Errorf("%+v", a)
	}
	b := create(t, s, Volume{})
	if _, labelled := b.Labels[LabelAnonymous]; !labelled || !b.Anonymous || !regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(b.Name) {
		t.Errorf("anonymous: %+v", b)
	}
	c := create(t, s, Volume{Name: "t", Options: map[string]string{"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=5"}})
	write(t, "rows", a.Mountpoint, "table")
	again := open(t, root)
	for _, want := range []Volume{a, b, c} {
		got, err := again.Get(want.Name)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("after a restart: %v, want %v (%v)", got, want, err)
		}
	}
	if len(again.List()) != 3 || tree(t, a.Mountpoint) != "table=rows" {
		t.Errorf("%v %s", again.List(), tree(t, a.Mountpoint))
	}
	if info, err := os.Stat(a.Mountpoint); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	got, _ := again.Get(a.Name)
	got.Labels["l"] = "changed"
	if clean, _ := again.Get(a.Name); clean.Labels["l"] != "1" {
		t.Error("a caller can change the store's value")
	}
}

func TestCreateAgain(t *testing.T) {
	s := open(t, t.TempDir())
	o := map[string]string{"type": "tmpfs", "device": "tmpfs"}
	first := create(t, s, Volume{Name: "v", Options: o, Labels: map[string]string{"a": "b"}})
	for _, again := range []Volume{{Name: "v", Options: o}, {Name: "v"}, {Name: "v", Driver: "local"}} {
		if got := create(t, s, again); fmt.Sprint(got) != fmt.Sprint(first) {
			t.Errorf("%v gives %v", again, got)
		}
	}
	_, err := s.Create(ctx, Volume{Name: "v", Options: map[string]string{"type": "none", "o": "bind", "device": "/"}})
	if !errdefs.IsAlreadyExists(err) || !strings.Contains(err.Error(), "device=tmpfs type=tmpfs") {
		t.Error(err)
	}
}

func TestNames(t *testing.T) {
	s := open(t, t.TempDir())
	for _, name := range []string{"a", "A.b_c-9", strings.Repeat("x", 255)} {
		create(t, s, Volume{Name: name})
	}
	for _, name := range []string{".", "..", ".trash-1", "-a", "_a", "a/b", "../a", "a b", "ä", strings.Repeat("x", 256), "a\x00"} {
		if _, err := s.Create(ctx, Volume{Name: name}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", name, err)
		}
		if err := s.Remove(ctx, name, false); !errdefs.IsNotFound(err) {
			t.Errorf("remove %q: %v", name, err)
		}
		if _, err := s.Get(name); !errdefs.IsNotFound(err) {
			t.Errorf("get %q: %v", name, err)
		}
	}
}

func TestSources(t *testing.T) {
	s := open(t, t.TempDir())
	dir := t.TempDir()
	plain := create(t, s, Volume{Name: "plain"})
	for i, c := range []struct {
		options map[string]string
		want    Source
	}{
		{nil, Source{Type: SourceBind, Device: plain.Mountpoint, Recursive: true}},
		{map[string]string{"type": "none", "o": "bind", "device": dir}, Source{Type: SourceBind, Device: dir}},
		{map[string]string{"o": "rbind,ro,rslave", "device": dir + "/"}, Source{Type: SourceBind, Device: dir, Recursive: true, ReadOnly: true, Options: []string{"ro", "rslave"}}},
		{map[string]string{"type": "tmpfs", "device": "tmpfs", "o": "size=100m, mode=1770,noexec"}, Source{Type: SourceTmpfs, FSType: "tmpfs", Options: []string{"size=100m", "mode=1770", "noexec"}}},
		{map[string]string{"type": "nfs", "device": ":/export", "o": "addr=10.0.0.1,ro,rw,nfsvers=4"}, Source{Type: SourceNFS, FSType: "nfs", Device: ":/export", Options: []string{"addr=10.0.0.1", "ro", "rw", "nfsvers=4"}}},
		{map[string]string{"type": "nfs4", "device": "[fd00::1]:/export"}, Source{Type: SourceNFS, FSType: "nfs4", Device: "[fd00::1]:/export"}},
	} {
		name := "plain"
		if i > 0 {
			name = create(t, s, Volume{Name: fmt.Sprint("v", i), Options: c.options}).Name
		}
		got, err := s.Source(name)
		if err != nil || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", c.want) {
			t.Errorf("%v: %+v (%v), want %+v", c.options, got, err, c.want)
		}
	}
	for _, c := range []struct {
		v     Volume
		names string // what the error must name
		is    func(error) bool
	}{
		{Volume{Driver: "nfs-plugin"}, "nfs-plugin", errdefs.IsInvalidArgument},
		{Volume{Options: map[string]string{"siez": "1"}}, "siez", errdefs.IsInvalidArgument},
		{Volume{Options: map[string]string{"size": "1g"}}, "size", errdefs.IsNotImplemented},
		{Volume{Options: map[string]string{"type": "cifs", "device": "//h/s"}}, "cifs", errdefs.IsNotImplemented},
		{Volume{Options: map[string]string{"type": "none", "device": "/"}}, "o=bind", errdefs.IsInvalidArgument},
		{Volume{Options: map[string]string{"device": "/"}}, "o=bind", errdefs.IsInvalidArgument},
		{Volume{Options: map[string]string{"type": "none", "o": "bind"}}, "device", errdefs.IsInvalidArgument},
		{Volume{Options: map[string]string{"type": "none", "o": "bind", "device": "data"}}, `"data"`, errdefs.IsInvalidArgument},
		{Volume{Options: map[string]string{"type": "none", "o": "bind,upperdir=/x", "device": "/"}}, "upperdir=/x", errdefs.IsInvalidArgument},
		{Volume{Options: map[string]string{"type": "tmpfs", "o": "size="}}, "size=", errdefs.IsInvalidArgument},
		{Volume{Options: map[string]string{"type": "nfs", "device": "/x"}}, "/x", errdefs.IsInvalidArgument},
		{Volume{Options: map[string]string{"type": "nfs", "device": ":/x"}}, "addr=", errdefs.IsInvalidArgument},
	} {
		c.v.Name = "bad"
		_, err := s.Create(ctx, c.v)
		if err == nil || !c.is(err) || !strings.Contains(err.Error(), c.names) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: %v", c.v, err)
		}
		if _, err := s.Get("bad"); !errdefs.IsNotFound(err) {
			t.Errorf("%v: half made: %v", c.v, err)
		}
	}
	gone := create(t, s, Volume{Name: "gone", Options: map[string]string{"type": "none", "o": "bind", "device": dir + "/none"}})
	if _, err := s.Source(gone.Name); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), dir+"/none") {
		t.Error(err)
	}
}

func TestRemove(t *testing.T) {
	root, outside := memory(t), t.TempDir()
	write(t, "precious", outside, "file")
	s := open(t, root)
	v := create(t, s, Volume{Name: "v"})
	write(t, "x", v.Mountpoint, "a", "b", "c")
	for _, link := range []string{"link", "a/link"} {
		if err := os.Symlink(outside, filepath.Join(v.Mountpoint, link)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3000 { // more than one read of the directory
		write(t, "", v.Mountpoint, fmt.Sprint(i))
	}
	bound := create(t, s, Volume{Name: "bound", Options: map[string]string{"type": "none", "o": "bind", "device": outside}})
	for _, name := range []string{"v", bound.Name} {
		if err := s.Remove(ctx, name, false); err != nil {
			t.Fatal(err)
		}
	}
	if got := tree(t, filepath.Join(root, "volumes")); got != "" {
		t.Errorf("left: %.300s", got)
	}
	if got := tree(t, outside); got != "file=precious" {
		t.Errorf("what a link led to: %s", got)
	}
	if err := s.Remove(ctx, "v", false); !errdefs.IsNotFound(err) {
		t.Errorf("again: %v", err)
	}
	if err := s.Remove(ctx, "v", true); err != nil {
		t.Errorf("again by force: %v", err)
	}
	create(t, s, Volume{Name: "v"})
	if got := names(open(t, root)); got != "v" {
		t.Errorf("after all: %s", got)
	}
}

func TestRemoveStopsAtAMount(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts")
	}
	root, outside := t.TempDir(), t.TempDir()
	write(t, "precious", outside, "file")
	s := open(t, root)
	v := create(t, s, Volume{Name: "v"})
	at := filepath.Join(v.Mountpoint, "mnt")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(outside, at, "", unix.MS_BIND, ""); err != nil {
		t.Skip("needs mounts: ", err)
	}
	defer unix.Unmount(at, unix.MNT_DETACH)
	if err := s.Remove(ctx, "v", true); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), at) {
		t.Errorf("remove: %v", err)
	}
	// Even one that comes between the look and the deletion is not entered.
	if err := removeTree(ctx, filepath.Dir(v.Mountpoint)); err == nil || !strings.Contains(err.Error(), "mounted") {
		t.Errorf("remove tree: %v", err)
	}
	if got := tree(t, outside); got != "file=precious" {
		t.Errorf("behind the mount: %s", got)
	}
}

func TestOpenFindsWhatItDidNotMake(t *testing.T) {
	root := t.TempDir()
	at := func(p ...string) string { return filepath.Join(append([]string{root, "volumes"}, p...)...) }
	write(t, "rows", at("adopted", "_data", "table"))
	if err := os.MkdirAll(at("empty", "_data"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, "?", at("strange", "notes.txt"))
	write(t, "db", at("metadata.db"))
	write(t, "{", at("broken", recordFile))
	write(t, "rows", at("broken", "_data", "table"))
	write(t, `{"Version":9,"Name":"future"}`, at("future", recordFile))
	write(t, "x", at(".trash-1", "_data", "old"))
	write(t, "kept", at(".new-1", "_data", "not ours"))
	write(t, "", at(".new-2", recordFile))
	s := open(t, root)
	s.swept.Wait()
	if got := names(s); got != "adopted broken future" {
		t.Errorf("volumes: %s", got)
	}
	for _, name := range []string{"broken", "future"} {
		for _, err := range []error{second(s.Get(name)), second(s.Create(ctx, Volume{Name: name})), second(s.Source(name)),
			s.Populate(ctx, name, func(string) error { t.Error("filled"); return nil })} {
			if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), at(name, recordFile)) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if _, err := s.Create(ctx, Volume{Name: "strange"}); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), at("strange")) {
		t.Error(err)
	}
	got := tree(t, at())
	for _, want := range []string{"adopted/_data/table=rows", "strange/notes.txt=?", "metadata.db=db", "broken/_data/table=rows", ".new-1/_data/not ours=kept"} {
		if !strings.Contains(got, want) {
			t.Errorf("%s is gone: %s", want, got)
		}
	}
	for _, not := range []string{"empty", ".trash", ".new-2", "future/_data"} {
		if strings.Contains(got, not) {
			t.Errorf("%s is there: %s", not, got)
		}
	}
	if err := s.Remove(ctx, "broken", false); err != nil {
		t.Errorf("a broken volume cannot be removed: %v", err)
	}
	again := open(t, root)
	if v, err := again.Get("adopted"); err != nil || tree(t, v.Mountpoint) != "table=rows" {
		t.Errorf("%v %v", v, err)
	}
}

func second[T any](_ T, err error) error { return err }

func filler(files map[string]string) func(string) error {
	return func(dir string) error {
		for name, text := range files {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				return err
			}
		}
		return unix.Chmod(dir, 0o1770)
	}
}

func mode(t *testing.T, dir string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%o", st.Mode&0o7777)
}

func TestPopulate(t *testing.T) {
	for name, options := range map[string]map[string]string{
		"own": nil, "bind": {"type": "none", "o": "bind", "device": t.TempDir()},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir())
			v := create(t, s, Volume{Name: "v", Options: options})
			src, err := s.Source("v")
			if err != nil {
				t.Fatal(err)
			}
			held, err := os.Open(src.Device) // as a container that has it mounted
			if err != nil {
				t.Fatal(err)
			}
			defer held.Close()
			broke := errors.New("broke")
			err = s.Populate(ctx, "v", func(dir string) error { return errors.Join(filler(map[string]string{"half": "1"})(dir), broke) })
			if !errors.Is(err, broke) || tree(t, src.Device) != "" {
				t.Fatalf("a failed fill: %v leaves %s", err, tree(t, src.Device))
			}
			fill := filler(map[string]string{"a": "1", "d/b": "2"})
			for range 2 {
				if err := s.Populate(ctx, "v", fill); err != nil {
					t.Fatal(err)
				}
				if got := tree(t, src.Device); got != "a=1 d/ d/b=2" || mode(t, src.Device) != "1770" {
					t.Errorf("%s %s", got, mode(t, src.Device))
				}
				fill = func(string) error { t.Error("filled twice"); return nil }
			}
			if list, err := held.Readdirnames(-1); err != nil || len(list) != 2 {
				t.Errorf("who had it mounted sees %v %v", list, err)
			}
			if err := s.Remove(ctx, v.Name, false); err != nil {
				t.Error(err)
			}
		})
	}
}

// An image's empty directory gives its owner and mode once; later they are the
// containers' business.
func TestPopulateWithNothing(t *testing.T) {
	s := open(t, t.TempDir())
	v := create(t, s, Volume{Name: "v"})
	nothing := func(string) error { return nil }
	if err := s.Populate(ctx, "v", nothing); err != nil || mode(t, v.Mountpoint) != "755" {
		t.Errorf("%v %s", err, mode(t, v.Mountpoint))
	}
	w := create(t, s, Volume{Name: "w"})
	if err := s.Populate(ctx, "w", filler(nil)); err != nil || mode(t, w.Mountpoint) != "1770" {
		t.Errorf("%v %s", err, mode(t, w.Mountpoint))
	}
	if err := os.Chmod(w.Mountpoint, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Populate(ctx, "w", filler(nil)); err != nil || mode(t, w.Mountpoint) != "700" {
		t.Errorf("a second time: %v %s", err, mode(t, w.Mountpoint))
	}
	if err := s.Populate(ctx, "w", filler(map[string]string{"a": "1"})); err != nil || mode(t, w.Mountpoint) != "1770" || tree(t, w.Mountpoint) != "a=1" {
		t.Errorf("with content: %v %s", err, mode(t, w.Mountpoint))
	}
	for name, o := range map[string]map[string]string{"ro": {"o": "bind,ro", "device": t.TempDir()}, "tmp": {"type": "tmpfs"}} {
		create(t, s, Volume{Name: name, Options: o})
		if err := s.Populate(ctx, name, func(string) error { return errors.New("called") }); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := s.Populate(ctx, "none", nothing); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}

func TestConcurrentUse(t *testing.T) {
	root := t.TempDir()
	s := open(t, root)
	var all sync.WaitGroup
	var fills [3]atomic.Int32
	for i := range 24 {
		all.Go(func() {
			n := i % 3
			name := fmt.Sprint("shared", n)
			if _, err := s.Create(ctx, Volume{Name: name}); err != nil {
				t.Error(err)
			}
			err := s.Populate(ctx, name, func(dir string) error {
				fills[n].Add(1)
				time.Sleep(5 * time.Millisecond)
				return filler(map[string]string{"a": "1", "b": "2"})(dir)
			})
			v, getErr := s.Get(name)
			if err != nil || getErr != nil {
				t.Error(err, getErr)
				return
			}
			if got := tree(t, v.Mountpoint); got != "a=1 b=2" {
				t.Errorf("after Populate returned: %s", got)
			}
			// And one that comes and goes.
			if _, err := s.Create(ctx, Volume{Name: "fleeting"}); err != nil {
				t.Error(err)
			}
			s.List()
			if err := s.Populate(ctx, "fleeting", filler(map[string]string{"x": "y"})); err != nil && !errdefs.IsNotFound(err) {
				t.Error(err)
			}
			if err := s.Remove(ctx, "fleeting", true); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for n := range fills {
		if fills[n].Load() != 1 {
			t.Errorf("shared%d was filled %d times", n, fills[n].Load())
		}
	}
	if got := names(open(t, root)); got != "shared0 shared1 shared2" || names(s) != got || len(s.volumes) != 3 {
		t.Errorf("%s; in memory %s, %d slots", got, names(s), len(s.volumes))
	}
	// Who waits for a volume may give up.
	begun, end := make(chan struct{}), make(chan struct{})
	v := create(t, s, Volume{Name: "slow"})
	all.Go(func() {
		s.Populate(ctx, v.Name, func(string) error { close(begun); <-end; return nil })
	})
	<-begun
	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	if err := s.Remove(short, v.Name, false); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if _, err := s.Get(v.Name); err != nil { // looking does not wait
		t.Error(err)
	}
	close(end)
	all.Wait()
}

// crash is the panic that stands for the daemon's death.
type crash struct{}

// dieAt runs do in a store over root that dies at its n-th step; false if do
// came to its end before that.
func dieAt(t *testing.T, root string, n int, do func(*Store)) (died bool, step string) {
	t.Helper()
	s, err := newStore(root, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(crash); !ok {
				panic(r)
			}
			died = true
		}
	}()
	s.fault = func(what string) {
		if n--; n < 0 {
			step = what
			panic(crash{})
		}
	}
	if err := s.load(); err != nil {
		t.Fatal(err)
	}
	do(s)
	return false, ""
}

// Die at every step of a volume's life, and once more at every step of the
// recovery; what the next store finds is the state before or after.
func TestCrashAtEveryStep(t *testing.T) {
	content := map[string]string{"a": "1", "b": "2", "d/c": "3"}
	whole := "a=1 b=2 d/ d/c=3"
	device := memory(t)
	for name, c := range map[string]struct {
		options map[string]string
		prepare func(*Store)
		do      func(*Store) error
		before  string // what the volume holds, "none" if there is no volume
		after   string
	}{
		"create": {nil, func(*Store) {}, func(s *Store) error { return second(s.Create(ctx, Volume{Name: "v"})) }, "none", ""},
		"populate": {nil, func(s *Store) { create(t, s, Volume{Name: "v"}) },
			func(s *Store) error { return s.Populate(ctx, "v", filler(content)) }, "", whole},
		"populate a bind": {map[string]string{"type": "none", "o": "bind", "device": device},
			func(s *Store) {
				os.RemoveAll(device)
				os.Mkdir(device, 0o755)
				create(t, s, Volume{Name: "v", Options: map[string]string{"type": "none", "o": "bind", "device": device}})
			},
			func(s *Store) error { return s.Populate(ctx, "v", filler(content)) }, "", whole},
		"remove": {nil, func(s *Store) {
			v := create(t, s, Volume{Name: "v"})
			write(t, "1", v.Mountpoint, "a")
		}, func(s *Store) error { return s.Remove(ctx, "v", true) }, "a=1", "none"},
	} {
		t.Run(name, func(t *testing.T) {
			steps := 0
			for n := 0; ; n++ {
				for m := 0; ; m++ { // then at the m-th step of the next daemon
					root := memory(t)
					first := open(t, root)
					c.prepare(first)
					first.Close()
					died, step := dieAt(t, root, n, func(s *Store) {
						if err := c.do(s); err != nil {
							t.Fatal(err)
						}
					})
					again, _ := dieAt(t, root, m, func(s *Store) { s.swept.Wait() })
					s := open(t, root)
					s.swept.Wait()
					state := "none"
					if _, err := s.Get("v"); err == nil {
						src, err := s.Source("v")
						if err != nil {
							t.Fatal(err)
						}
						state = tree(t, src.Device)
						// A bind's stage lies inside until the next Populate.
						if n := strings.Index(state, ".gantry-new/"); n >= 0 {
							state = strings.TrimSpace(state[:n])
						}
					}
					if state != c.before && state != c.after || !died && state != c.after {
						t.Errorf("died at %q (%d, then %d): %q", step, n, m, state)
					}
					if got := tree(t, s.dir); strings.Contains(got, ".new-") || strings.Contains(got, ".trash-") || strings.Contains(got, "_new") || strings.Contains(got, "_ready") {
						t.Errorf("died at %q (%d, then %d): left %s", step, n, m, got)
					}
					if err := c.do(s); err != nil {
						t.Errorf("died at %q (%d, then %d): cannot go on: %v", step, n, m, err)
					}
					if _, err := s.Get("v"); err == nil {
						src, _ := s.Source("v")
						if got := tree(t, src.Device); got != c.after {
							t.Errorf("died at %q (%d, then %d): in the end %q", step, n, m, got)
						}
					} else if c.after != "none" {
						t.Errorf("died at %q (%d, then %d): in the end %v", step, n, m, err)
					}
					s.Close()
					if !again {
						break
					}
				}
				steps = n
				root := memory(t)
				first := open(t, root)
				c.prepare(first)
				first.Close()
				if died, _ := dieAt(t, root, n, func(s *Store) { c.do(s) }); !died {
					break
				}
			}
			if steps < 2 {
				t.Errorf("only %d steps were tried", steps)
			}
		})
	}
}

func TestPopulateKeepsOwnerAndAttributes(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: chown")
	}
	s := open(t, t.TempDir())
	v := create(t, s, Volume{Name: "v"})
	attr := map[string]string{"user.colour": "blue"}
	err := s.Populate(ctx, "v", func(dir string) error {
		for k, x := range attr {
			if err := unix.Setxattr(dir, k, []byte(x), 0); errors.Is(err, unix.ENOTSUP) {
				clear(attr)
			} else if err != nil {
				return err
			}
		}
		return os.Chown(dir, 999, 998)
	})
	if err != nil {
		t.Fatal(err)
	}
	dir, err := openDir(v.Mountpoint, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	var st unix.Stat_t
	if err := unix.Stat(v.Mountpoint, &st); err != nil || st.Uid != 999 || st.Gid != 998 {
		t.Errorf("owner %d:%d %v", st.Uid, st.Gid, err)
	}
	for k, want := range attr {
		if got, err := xattr(dir, k); err != nil || string(got) != want {
			t.Errorf("%s: %q %v", k, got, err)
		}
	}
}

func BenchmarkPopulateFilled(b *testing.B) {
	s := open(b, b.TempDir())
	v := create(b, s, Volume{Name: "v"})
	for i := range 1000 {
		write(b, "", v.Mountpoint, fmt.Sprint(i))
	}
	for b.Loop() {
		if err := s.Populate(ctx, "v", func(string) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCreateRemove(b *testing.B) {
	s := open(b, b.TempDir())
	for b.Loop() {
		v := create(b, s, Volume{})
		if err := s.Remove(ctx, v.Name, false); err != nil {
			b.Fatal(err)
		}
	}
}

// TestClosed: who is not root cannot reach into a volume, also one of an older
// store; root in a container may have left set-user-id programs there.
func TestClosed(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "volumes"), 0o755); err != nil {
		t.Fatal(err)
	}
	open(t, root)
	info, err := os.Stat(filepath.Join(root, "volumes"))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// TestHostileStage: the directory of a bind is the container's as well, stage
// and all. What it puts in the stage's place leads nobody out of the volume.
func TestHostileStage(t *testing.T) {
	base := t.TempDir()
	canary := filepath.Join(base, "canary")
	device := filepath.Join(base, "device")
	write(t, "mine", canary, "file")
	for _, d := range []string{device, canary} {
		if err := errors.Join(os.MkdirAll(d, 0o755), os.Chmod(d, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	root := filepath.Join(base, "root")
	s := open(t, root)
	create(t, s, Volume{Name: "b", Options: map[string]string{"type": "none", "o": "bind", "device": device}})
	if err := os.Chmod(device, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, stage := range []string{".gantry-ready", ".gantry-new"} {
		for _, more := range []string{"", "file"} { // something in the way of what would move
			at := filepath.Join(device, stage)
			if err := os.Symlink(canary, at); err != nil {
				t.Fatal(err)
			}
			if more != "" {
				write(t, "other", device, more)
			}
			err := s.Populate(t.Context(), "b", func(dir string) error { return os.WriteFile(filepath.Join(dir, "x"), nil, 0o600) })
			t.Log(err)
			open(t, root)
			if got := tree(t, canary); got != "file=mine" {
				t.Fatalf("%s led out: %q", stage, got)
			}
			if info, err := os.Stat(canary); err != nil || info.Mode().Perm() != 0o755 {
				t.Errorf("%s: mode of the canary %v, %v", stage, info.Mode(), err)
			}
			if err := errors.Join(os.RemoveAll(at), os.RemoveAll(filepath.Join(device, "file")), os.RemoveAll(filepath.Join(device, "x"))); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Swapped while it is being filled.
	err := s.Populate(t.Context(), "b", func(dir string) error {
		return errors.Join(os.Rename(dir, filepath.Join(device, "away")), os.Symlink(canary, dir))
	})
	t.Log(err)
	if got := tree(t, canary); got != "file=mine" {
		t.Errorf("led out: %q", got)
	}
	if info, err := os.Stat(canary); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("mode of the canary %v, %v", info.Mode(), err)
	}
}

// Whoever stops waiting for a removal has the content deleted all the same.
func TestRemovalGoesOn(t *testing.T) {
	root := t.TempDir()
	s := open(t, root)
	v, err := s.Create(t.Context(), Volume{Name: "data"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(v.Mountpoint, "file"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s.fault = func(what string) {
		if what == "empty the trash" {
			cancel()
		}
	}
	if err := s.Remove(ctx, "data", false); err != nil {
		t.Error(err)
	}
	s.swept.Wait()
	if left, err := os.ReadDir(s.dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v %v", left, err)
	}
}
