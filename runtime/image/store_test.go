package image

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv("GANTRY_IMAGE_CRASH") != "" {
		crashChild()
		return
	}
	goleak.VerifyTestMain(m)
}

// newStore opens a store in a directory of its own.
func newStore(t testing.TB) *Store {
	t.Helper()
	return openStore(t, t.TempDir())
}

func openStore(t testing.TB, root string) *Store {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: layers are unpacked with their owners and overlay marks")
	}
	s, err := Open(t.Context(), Options{Root: root, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// entry is a file in a hand-made tar.
type entry struct {
	name string
	body string
	kind byte // tar.TypeReg if 0; a name ending in "/" is a directory
	link string
	mode int64
	uid  int
	pax  map[string]string
	size int64 // a lie, if not 0
}

func makeTar(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Linkname: e.link, Mode: e.mode, Uid: e.uid,
			Size: int64(len(e.body)), PAXRecords: e.pax, ModTime: time.Unix(1e9, 0)}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
			if strings.HasSuffix(e.name, "/") {
				h.Typeflag = tar.TypeDir
			}
		}
		if h.Mode == 0 {
			h.Mode = 0o644
			if h.Typeflag == tar.TypeDir {
				h.Mode = 0o755
			}
		}
		if e.size != 0 {
			h.Size = e.size
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if e.body != "" {
			if _, err := io.WriteString(w, e.body); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil && !strings.Contains(err.Error(), "missed writing") {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// tree lists what is below dir: "path kind/mode content".
func tree(t testing.TB, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.Walk(dir, func(p string, fi os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		if rel == "." {
			return nil
		}
		line := rel + " " + fi.Mode().String()
		if fi.Mode().IsRegular() {
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += " " + string(b)
		}
		out = append(out, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(out)
	return out
}

// mustImport imports a small image.
func mustImport(t testing.TB, s *Store, name string, entries ...entry) Image {
	t.Helper()
	img, err := s.Import(t.Context(), bytes.NewReader(makeTar(t, entries...)), ImportOptions{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// leftovers counts what is on the disk of a store, behind its back.
func leftovers(t testing.TB, s *Store) (blobs, ingests, snaps int) {
	t.Helper()
	count := func(glob string) int {
		m, err := filepath.Glob(filepath.Join(s.dir, glob))
		if err != nil {
			t.Fatal(err)
		}
		return len(m)
	}
	return count("content/blobs/*/*"), count("content/ingest/*"), count("snapshots/snapshots/*")
}

// mustBeClean collects and checks that nothing but the listed images is left.
func mustBeClean(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	all, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wantBlobs, wantSnaps := map[string]bool{}, map[string]bool{}
	ctx := s.context(t.Context())
	for _, img := range all {
		m, err := s.lookup(ctx, img.ID.String())
		if err != nil {
			t.Fatal(err)
		}
		wantBlobs[img.ID.String()] = true
		wantBlobs[img.Target.String()] = true
		wantBlobs[img.Manifest.String()] = true
		for _, l := range m.res.manifest.Layers {
			wantBlobs[l.Digest.String()] = true
		}
		for name := m.res.top; name != ""; {
			info, err := s.snaps.Stat(ctx, name)
			if err != nil {
				t.Fatalf("image %v: %v", img.Names, err)
			}
			wantSnaps[name] = true
			name = info.Parent
		}
	}
	views, err := s.Pinned(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	blobs, ingests, snaps := leftovers(t, s)
	if blobs != len(wantBlobs) || ingests != 0 || snaps != len(wantSnaps)+len(views) {
		t.Errorf("after a collection: %d blobs (want %d), %d ingests (want 0), %d snapshots (want %d)",
			blobs, len(wantBlobs), ingests, snaps, len(wantSnaps)+len(views))
	}
	ls, err := s.leases.List(ctx)
	if err != nil || len(ls) != 0 {
		t.Errorf("leases after all is done: %v %v", ls, err)
	}
}

func TestOpenHeldByAnother(t *testing.T) {
	root := t.TempDir()
	openStore(t, root)
	_, err := Open(t.Context(), Options{Root: root})
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "another daemon") {
		t.Fatalf("second Open: %v", err)
	}
}

func TestOpenRefusesRootThatOverlayCannotName(t *testing.T) {
	_, err := Open(context.Background(), Options{Root: filepath.Join(t.TempDir(), "a:b")})
	if !errdefs.IsInvalidArgument(err) {
		t.Fatalf("Open: %v", err)
	}
}

// TestOpenAfterUncommittedSnapshot has the directory a killed process left
// under the number of the next snapshot.
func TestOpenAfterUncommittedSnapshot(t *testing.T) {
	root := t.TempDir()
	s := openStore(t, root)
	mustImport(t, s, "a", entry{name: "f"})
	s.Close()
	for i := range 20 {
		if err := os.MkdirAll(filepath.Join(root, "snapshots/snapshots", fmt.Sprint(i), "fs"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s = openStore(t, root)
	img := mustImport(t, s, "b", entry{name: "g"})
	if dirs, err := s.Lowers(t.Context(), img.ID); err != nil || len(tree(t, dirs[0])) != 1 {
		t.Errorf("%v %v", dirs, err)
	}
	mustBeClean(t, s)
}

func TestImagesSurviveReopening(t *testing.T) {
	root := t.TempDir()
	s := openStore(t, root)
	img := mustImport(t, s, "web", entry{name: "etc/", mode: 0o700, uid: 7}, entry{name: "etc/x", body: "hello"})
	dirs, err := s.Lowers(t.Context(), img.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = openStore(t, root)
	got, err := s.Get(t.Context(), "web:latest")
	if err != nil || got.ID != img.ID || got.Size != img.Size || got.Size == 0 {
		t.Fatalf("after reopening: %+v %v", got, err)
	}
	pinned, err := s.Pinned(t.Context())
	if err != nil || len(pinned) != 1 || pinned[0] != img.ID {
		t.Fatalf("pinned: %v %v", pinned, err)
	}
	again, err := s.Lowers(t.Context(), img.ID)
	if err != nil || again[0] != dirs[0] {
		t.Fatalf("lowers after reopening: %v %v, before %v", again, err, dirs)
	}
	mustBeClean(t, s)
}
