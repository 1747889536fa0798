package build

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
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

// A context that cannot be is its sender's fault, whatever is wrong with it.
func TestContextsThatAreRefused(t *testing.T) {
	file := tar.Header{Name: "Dockerfile"}
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
	}
	hard := func(to string) tar.Header { return tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: to} }
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(contextOf(t, file)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	damaged := packed.Bytes()
	damaged[len(damaged)-6] ^= 0xff
	for name, archive := range map[string][]byte{
		"nothing":                   nil,
		"no archive":                []byte(strings.Repeat("no archive ", 100)),
		"damaged":                   damaged,
		"cut off":                   contextOf(t, file)[:520],
		"no Dockerfile":             contextOf(t, tar.Header{Name: "x"}),
		"leads out":                 contextOf(t, tar.Header{Name: "../x"}),
		"a link that leads out":     contextOf(t, file, hard("../x")),
		"a link to nothing":         contextOf(t, file, hard("nosuch")),
		"a link to nowhere":         contextOf(t, file, hard("no/such")),
		"a link to a directory":     contextOf(t, file, tar.Header{Name: "d", Typeflag: tar.TypeDir}, hard("d")),
		"a circle":                  contextOf(t, link("a", "b"), link("b", "a"), tar.Header{Name: "a/x"}),
		"a file as directory":       contextOf(t, file, tar.Header{Name: "Dockerfile/x"}),
		"a name that is too long":   contextOf(t, tar.Header{Name: strings.Repeat("n", 300)}),
		"a Dockerfile that circles": contextOf(t, link("Dockerfile", "Dockerfile")),
	} {
		if _, err := unpackContext(t.TempDir(), Request{Context: bytes.NewReader(archive)}, map[string]string{}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
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
