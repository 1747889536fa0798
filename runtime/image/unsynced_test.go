package image

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// slowDisk makes the store's syncs wait until the function is called, which may be
// called again.
func slowDisk(t *testing.T, s *Store) (ready func()) {
	t.Helper()
	hold := make(chan struct{})
	sync := sync.OnceFunc(func() { close(hold) })
	t.Cleanup(sync) // before the store is closed
	real := s.disk.sync
	onSync(s, func() error { <-hold; return real() })
	return sync
}

// onSync puts f in the place of the store's syncs in the background.
func onSync(s *Store, f func() error) {
	s.syncer.mu.Lock()
	defer s.syncer.mu.Unlock()
	s.syncer.sync = f
}

// testLayers are those of an image with deletions, and with a directory that has its
// owner and mode from the layer below.
func testLayers(t *testing.T) (bottom, top []byte) {
	t.Helper()
	big := strings.Repeat("0123456789abcdef", 40_000) // written by the reader itself
	return makeTar(t, entry{name: "etc/", mode: 0o711, uid: 5}, entry{name: "etc/old", body: "1"}, entry{name: "bin/big", body: big, mode: 0o4755}),
		makeTar(t, entry{name: "etc/.wh.old"}, entry{name: "etc/new", body: "3"}, entry{name: "d/"}, entry{name: "d/.wh..wh..opq"})
}

// dead is a copy of a store's directory as a process leaves it that dies now.
func dead(t *testing.T, s *Store) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "images")
	if out, err := exec.Command("cp", "-a", s.dir, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir
}

func readMark(t *testing.T, dir string) (m mark, there bool) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, markFile))
	if os.IsNotExist(err) {
		return m, false
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m, true
}

// reboot makes the mark one of another boot.
func reboot(t *testing.T, dir string) {
	t.Helper()
	m, there := readMark(t, dir)
	if !there {
		t.Fatal("there is no mark")
	}
	m.Boot = "another"
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, markFile), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// files are all files of an image, layer by layer.
func files(t *testing.T, s *Store, ref string) (all [][]string) {
	t.Helper()
	img, err := s.Get(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	dirs, err := s.Lowers(t.Context(), img.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		all = append(all, tree(t, dir))
	}
	return all
}

func TestAnswersBeforeTheDisk(t *testing.T) {
	s := newStore(t)
	ready := slowDisk(t, s)
	img := mustImport(t, s, "web", entry{name: "f", body: "1"})
	m, there := readMark(t, s.dir)
	if !there || m.Boot != s.syncer.boot || len(m.Blobs) != 1 || len(m.Layers) != 1 || m.Layers[0].Blob != m.Blobs[0] {
		t.Fatalf("mark: %+v %v", m, there)
	}
	if _, err := s.Get(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	pinned := make(chan error, 1)
	go func() {
		_, err := s.Lowers(t.Context(), img.ID)
		pinned <- err
	}()
	select {
	case err := <-pinned:
		t.Fatalf("the image was to be used before it is on the disk: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	ready()
	if err := <-pinned; err != nil {
		t.Fatal(err)
	}
	if m, there := readMark(t, s.dir); there {
		t.Errorf("all is synced, the mark says %+v", m)
	}
	mustBeClean(t, s)
}

func TestCommitWaitsForTheDisk(t *testing.T) {
	s := newStore(t)
	img := mustImport(t, s, "web", entry{name: "f", body: "1"})
	if _, err := s.Lowers(t.Context(), img.ID); err != nil {
		t.Fatal(err)
	}
	slowDisk(t, s) // that of the background, which has nothing to do
	if _, err := s.Commit(t.Context(), CommitOptions{Base: img.ID, Name: "top"}, layerOf(makeTar(t, entry{name: "g"}), 1)); err != nil {
		t.Fatal(err)
	}
	if m, there := readMark(t, s.dir); there {
		t.Errorf("a commit leaves a mark: %+v", m)
	}
}

func TestDaemonDiedBeforeTheDisk(t *testing.T) {
	s := newStore(t)
	slowDisk(t, s)
	mustImport(t, s, "web", entry{name: "f", body: "1"})
	dir := dead(t, s)
	half := filepath.Join(dir, markFile+".123")
	if err := os.WriteFile(half, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	again := openStore(t, dir)
	if _, err := os.Stat(half); !os.IsNotExist(err) {
		t.Errorf("a mark that was being written stays: %v", err)
	}
	if d := cmp.Diff([][]string{{"f -rw-r--r-- 1"}}, files(t, again, "web")); d != "" {
		t.Error(d)
	}
	if m, there := readMark(t, again.dir); there {
		t.Errorf("all is synced, the mark says %+v", m)
	}
	mustBeClean(t, again)
}

// TestMachineWentDown: whatever of the bytes a power cut has taken, what is listed
// afterwards is whole, and what is not can be loaded again.
func TestMachineWentDown(t *testing.T) {
	s := newStore(t)
	mustImport(t, s, "old", entry{name: "f", body: "1"})
	if err := s.syncer.wait(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	bottom, top := testLayers(t)
	a := &archiveMaker{t: t}
	whole := a.image(runtime.GOARCH, gz, ocispec.MediaTypeImageLayerGzip, bottom, top)
	other := a.image(runtime.GOARCH, gz, ocispec.MediaTypeImageLayerGzip, bottom)
	archive := a.layout(named(whole, "docker.io/library/web:1"), named(other, "docker.io/library/base:1"))
	settled := openStore(t, filepath.Join(t.TempDir(), "settled"))
	mustLoad(t, settled, archive)
	want := map[string][][]string{"web:1": files(t, settled, "web:1"), "base:1": files(t, settled, "base:1")}

	slowDisk(t, s)
	mustLoad(t, s, archive)
	blob := func(dir string, layer []byte) string {
		return filepath.Join(dir, "content/blobs/sha256", digest.FromBytes(gz(layer)).Encoded())
	}
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	each := func(t *testing.T, glob string, f func(string) error) {
		t.Helper()
		all, err := filepath.Glob(glob)
		if err != nil || len(all) == 0 {
			t.Fatalf("%s: %v %v", glob, all, err)
		}
		for _, p := range all {
			must(t, f(p))
		}
	}
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, dir string)
		gone   []string
	}{
		{"nothing", func(*testing.T, string) {}, nil},
		{"content of files", func(t *testing.T, dir string) {
			each(t, dir+"/snapshots/snapshots/*/fs/bin/big", func(p string) error { return os.Truncate(p, 100) })
			each(t, dir+"/snapshots/snapshots/*/fs/etc/new", func(p string) error { return os.Truncate(p, 0) })
		}, nil},
		{"files", func(t *testing.T, dir string) {
			each(t, dir+"/snapshots/snapshots/*/fs/etc", os.RemoveAll)
		}, nil},
		{"directories of layers", func(t *testing.T, dir string) {
			each(t, dir+"/snapshots/snapshots/*/fs/etc", func(p string) error { return os.RemoveAll(filepath.Dir(filepath.Dir(p))) })
		}, nil},
		{"content of a layer", func(t *testing.T, dir string) { must(t, os.Truncate(blob(dir, top), 20)) }, []string{"web:1"}},
		{"bytes of a layer", func(t *testing.T, dir string) {
			must(t, os.WriteFile(blob(dir, top), bytes.Repeat([]byte{0}, len(gz(top))), 0o444))
		}, []string{"web:1"}},
		{"the layer both have", func(t *testing.T, dir string) { must(t, os.Remove(blob(dir, bottom))) }, []string{"base:1", "web:1"}},
		{"both layers", func(t *testing.T, dir string) {
			must(t, os.Remove(blob(dir, bottom)))
			must(t, os.Remove(blob(dir, top)))
			each(t, dir+"/snapshots/snapshots/*/fs/etc", os.RemoveAll)
		}, []string{"base:1", "web:1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := dead(t, s)
			reboot(t, dir)
			c.damage(t, dir)
			var said bytes.Buffer
			again, err := Open(t.Context(), Options{Root: dir, Log: slog.New(slog.NewTextHandler(&said, nil))})
			must(t, err)
			defer func() { again.Close() }()
			if m, there := readMark(t, dir); there {
				t.Errorf("after the repair the mark says %+v", m)
			}
			for _, name := range []string{"web:1", "base:1"} {
				gone := false
				for _, g := range c.gone {
					gone = gone || g == name
				}
				_, err := again.Get(t.Context(), name)
				if gone {
					if !errdefs.IsNotFound(err) || !strings.Contains(said.String(), name) || !strings.Contains(said.String(), "level=ERROR") {
						t.Errorf("%s: %v; the log says: %s", name, err, &said)
					}
					continue
				}
				if d := cmp.Diff(want[name], files(t, again, name)); d != "" {
					t.Errorf("%s: %s", name, d)
				}
			}
			if d := cmp.Diff([][]string{{"f -rw-r--r-- 1"}}, files(t, again, "old")); d != "" {
				t.Error(d)
			}
			mustBeClean(t, again)
			mustLoad(t, again, archive)
			for name := range want {
				if d := cmp.Diff(want[name], files(t, again, name)); d != "" {
					t.Errorf("%s, loaded again: %s", name, d)
				}
			}
			mustBeClean(t, again)
		})
	}
}

// TestDiskFailsAfterTheAnswer: an image that cannot be brought to the disk is not
// listed any more, and the log says so.
func TestDiskFailsAfterTheAnswer(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: layers are unpacked with their owners and overlay marks")
	}
	var said bytes.Buffer
	dir := t.TempDir()
	s, err := Open(t.Context(), Options{Root: dir, Log: slog.New(slog.NewTextHandler(&said, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	old := mustImport(t, s, "old", entry{name: "f", body: "1"})
	if _, err := s.Lowers(t.Context(), old.ID); err != nil {
		t.Fatal(err)
	}
	fail := make(chan struct{})
	onSync(s, func() error { <-fail; return unix.ENOSPC })
	img := mustImport(t, s, "web", entry{name: "f", body: "2"})
	close(fail)
	if _, err := s.Lowers(t.Context(), img.ID); !errdefs.IsNotFound(err) {
		t.Errorf("an image that is not on the disk can be used: %v", err)
	}
	if all, err := s.List(t.Context()); err != nil || len(all) != 1 || all[0].ID != old.ID {
		t.Errorf("images: %v %v", all, err)
	}
	onSync(s, s.disk.sync)
	for _, want := range []string{"level=ERROR", "web:latest", "no space left", "is full"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("the log does not say %q: %s", want, &said)
		}
	}
	if m, there := readMark(t, s.dir); there {
		t.Errorf("the image is gone, the mark says %+v", m)
	}
	mustBeClean(t, s)
	mustImport(t, s, "web", entry{name: "f", body: "2"})
	if d := cmp.Diff([][]string{{"f -rw-r--r-- 2"}}, files(t, s, "web")); d != "" {
		t.Error(d)
	}
	mustBeClean(t, s)
}

// TestMarkThatCannotBeRead keeps the store closed: what it would say is not known.
func TestMarkThatCannotBeRead(t *testing.T) {
	s := newStore(t)
	dir := s.dir
	s.Close()
	for _, text := range []string{"", "{", `{"version": 2}`} {
		if err := os.WriteFile(filepath.Join(dir, markFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(t.Context(), Options{Root: dir})
		if err == nil {
			s.Close()
		}
		if !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), filepath.Join(dir, markFile)) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
