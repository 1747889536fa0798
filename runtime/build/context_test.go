package build

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func contextOf(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		body := []byte(nil)
		if h.Typeflag == 0 {
			body = []byte("FROM scratch\n")
		}
		h.Size, h.Mode = int64(len(body)), 0o644
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// The same files have one key, others another: BuildKit mixes no two contexts.
func TestContextsHaveKeys(t *testing.T) {
	one, other := contextOf(t, tar.Header{Name: "Dockerfile"}), contextOf(t, tar.Header{Name: "dockerfile"})
	keys := map[string]string{}
	for name, archive := range map[string][]byte{"one": one, "again": one, "other": other} {
		attrs := map[string]string{}
		key, err := unpackContext(t.TempDir(), Request{Context: bytes.NewReader(archive)}, attrs)
		if err != nil || key == "" {
			t.Fatal(key, err)
		}
		keys[name] = key
	}
	if keys["one"] != keys["again"] || keys["one"] == keys["other"] {
		t.Errorf("keys %v", keys)
	}
}

// FuzzContext: any archive is unpacked below its directory, or refused.
func FuzzContext(f *testing.F) {
	f.Add(contextOf(f, tar.Header{Name: "Dockerfile"}), "")
	f.Add(contextOf(f, tar.Header{Name: "Dockerfile", Typeflag: tar.TypeSymlink, Linkname: "../kept"}), "Dockerfile")
	f.Add(contextOf(f, tar.Header{Name: "out", Typeflag: tar.TypeSymlink, Linkname: "../.."}, tar.Header{Name: "out/kept"}), "out/kept")
	f.Add(contextOf(f, tar.Header{Name: "../kept"}, tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "../kept"}), "../kept")
	f.Fuzz(func(t *testing.T, archive []byte, dockerfile string) {
		outer := t.TempDir()
		dir, kept := filepath.Join(outer, "context"), filepath.Join(outer, "kept")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(kept, []byte("as it was"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, _ = unpackContext(dir, Request{Context: bytes.NewReader(archive), Dockerfile: dockerfile}, map[string]string{})
		left, err := os.ReadDir(outer)
		if err != nil || len(left) != 2 {
			t.Fatalf("it wrote outside: %v %v", left, err)
		}
		if text, err := os.ReadFile(kept); err != nil || string(text) != "as it was" {
			t.Fatalf("it changed a file outside: %q %v", text, err)
		}
	})
}
