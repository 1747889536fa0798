package image

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// FuzzImport feeds both readers of archives. Nothing may panic, hang, or leave
// anything behind after a failure.
func FuzzImport(f *testing.F) {
	rootfs := makeTar(f, entry{name: "a/"}, entry{name: "a/b", body: "c"}, entry{name: "l", kind: '2', link: "a"},
		entry{name: "l/.wh.b"}, entry{name: "h", kind: '1', link: "a/b"})
	f.Add(rootfs)
	f.Add(gz(rootfs))
	f.Add(zst(rootfs))
	a := &archiveMaker{t: f}
	f.Add(a.layout(named(a.image("amd64", gz, ocispec.MediaTypeImageLayerGzip, rootfs), "web")))
	d := &archiveMaker{t: f}
	d.add("l.tar", rootfs)
	d.add("c.json", d.json(configFor("amd64", digest.FromBytes(rootfs))))
	d.add("manifest.json", d.json([]dockerEntry{{Config: "c.json", RepoTags: []string{"x"}, Layers: []string{"l.tar"}}}))
	f.Add(makeTar(f, d.entries...))

	s := newStore(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		if img, err := s.Import(t.Context(), bytes.NewReader(b), ImportOptions{}); err == nil {
			if _, err := s.Remove(t.Context(), img.ID.String(), RemoveOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if all, err := s.Load(t.Context(), bytes.NewReader(b), nil); err == nil {
			for _, img := range all {
				if _, err := s.Remove(t.Context(), img.ID.String(), RemoveOptions{Force: true}); err != nil {
					t.Fatal(err)
				}
			}
		}
		mustBeClean(t, s)
	})
}

// FuzzReference: any text is a name, an id or a clean refusal.
func FuzzReference(f *testing.F) {
	for _, ref := range []string{"web", "web:1", "a.b:80/c/d@sha256:" + strings.Repeat("a", 64), "sha256:ab", "<none>@x", "A", "", "::", "a@b"} {
		f.Add(ref)
	}
	s := newStore(f)
	mustImport(f, s, "web", entry{name: "f"})
	f.Fuzz(func(t *testing.T, ref string) {
		img, err := s.Get(t.Context(), ref)
		if err != nil {
			if !errdefs.IsNotFound(err) && !errdefs.IsInvalidArgument(err) {
				t.Fatalf("Get(%q): %v", ref, err)
			}
			return
		}
		if img.Names[0] != "web:latest" {
			t.Fatalf("Get(%q) = %v", ref, img.Names)
		}
	})
}

// FuzzChange: instructions are applied or refused.
func FuzzChange(f *testing.F) {
	for _, c := range []string{`CMD ["a"]`, `ENV A=${B:-"x y"} C='d'`, "EXPOSE 1-3/udp", "HEALTHCHECK --interval=1s CMD x", "LABEL a b\\\nc", "ENV a \\"} {
		f.Add(c)
	}
	f.Fuzz(func(t *testing.T, change string) {
		_, err := importConfig(ImportOptions{Changes: []string{change}})
		if err != nil && !errdefs.IsInvalidArgument(err) {
			t.Fatal(err)
		}
	})
}

// Whatever a registry is called, its configuration is looked for inside of the
// directory for that, and a name that is taken means the same when it is read
// again.
func FuzzRegistryName(f *testing.F) {
	for _, s := range []string{"", "docker.io", "https://index.docker.io/v1/", "localhost:5000", "[::1]:5000", "a/../../b", "..", ".", "a:b:c", "REG.example.com:99999", "x@sha256:aa", "127.0.0.1/..:1"} {
		f.Add(s, s+"/team/web:1")
	}
	root := f.TempDir()
	f.Fuzz(func(t *testing.T, server, ref string) {
		s := &Store{registries: root}
		check := func(domain string) {
			dir, err := s.hostDir(domain)
			if err == nil && dir != "" && !strings.HasPrefix(dir, root+"/") && !strings.HasPrefix(dir, dockerCerts+"/") {
				t.Errorf("registry %q is configured in %s", domain, dir)
			}
		}
		if named, err := registryOf(server); err == nil {
			check(reference.Domain(named))
		}
		named, err := parsePull(ref)
		if err != nil {
			return
		}
		check(reference.Domain(named))
		again, err := parsePull(named.String())
		if err != nil || again.String() != named.String() {
			t.Errorf("%q is %q and then %v (%v)", ref, named, again, err)
		}
	})
}

// A hosts.toml is taken or cleanly refused.
func FuzzHostsFile(f *testing.F) {
	f.Add("server = \"https://a\"\n[host.\"http://b\"]\ncapabilities = [\"pull\"]\n")
	f.Add("[host.\"x\".header]\na = [\"b\"]\n")
	f.Add("ca = 1\nclient = [[\"a\"]]\n")
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(t.TempDir(), "hosts.toml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := checkHostsFile(path); err != nil && !errdefs.IsFailedPrecondition(err) {
			t.Errorf("refused as %v", err)
		}
	})
}
