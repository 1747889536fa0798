package image

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// archiveMaker makes archives by hand, right or wrong.
type archiveMaker struct {
	t       testing.TB
	entries []entry
}

func (a *archiveMaker) add(name string, b []byte) {
	a.entries = append(a.entries, entry{name: name, body: string(b)})
}

func (a *archiveMaker) json(v any) []byte {
	a.t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		a.t.Fatal(err)
	}
	return b
}

// blob adds a blob of an OCI layout.
func (a *archiveMaker) blob(mediaType string, b []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	a.add("blobs/sha256/"+d.Digest.Encoded(), b)
	return d
}

func configFor(arch string, diffs ...digest.Digest) ocispec.Image {
	return ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: arch},
		Config:   ocispec.ImageConfig{Cmd: []string{"/" + arch}},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: diffs},
	}
}

// image adds an image of the layers (tars; packed as pack says) and gives its
// manifest's descriptor.
func (a *archiveMaker) image(arch string, pack func([]byte) []byte, layerType string, tars ...[]byte) ocispec.Descriptor {
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	m.SchemaVersion = 2
	var diffs []digest.Digest
	for _, l := range tars {
		diffs = append(diffs, digest.FromBytes(l))
		m.Layers = append(m.Layers, a.blob(layerType, pack(l)))
	}
	m.Config = a.blob(ocispec.MediaTypeImageConfig, a.json(configFor(arch, diffs...)))
	d := a.blob(m.MediaType, a.json(m))
	d.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
	return d
}

func (a *archiveMaker) layout(manifests ...ocispec.Descriptor) []byte {
	idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: manifests}
	idx.SchemaVersion = 2
	a.add("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	a.add("index.json", a.json(idx))
	return makeTar(a.t, a.entries...)
}

func named(d ocispec.Descriptor, name string) ocispec.Descriptor {
	d.Annotations = map[string]string{"io.containerd.image.name": name}
	return d
}

func same(b []byte) []byte { return b }

func otherArch() string {
	if runtime.GOARCH == "arm64" {
		return "amd64"
	}
	return "arm64"
}

func mustLoad(t testing.TB, s *Store, b []byte) []Image {
	t.Helper()
	all, err := s.Load(t.Context(), bytes.NewReader(b), nil)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestLoadOCILayout(t *testing.T) {
	bottom := makeTar(t, entry{name: "etc/", mode: 0o711, uid: 5}, entry{name: "etc/old", body: "1"}, entry{name: "etc/keep", body: "2"})
	middle := makeTar(t, entry{name: "etc/.wh.old"}, entry{name: "etc/new", body: "3"})
	top := makeTar(t, entry{name: "d/"}, entry{name: "d/.wh..wh..opq"}, entry{name: ".wh..wh.plnk", body: "aufs"})
	for _, c := range []struct {
		name, layerType string
		pack            func([]byte) []byte
		whole           func([]byte) []byte
	}{
		{"plain", ocispec.MediaTypeImageLayer, same, same},
		{"gzip", ocispec.MediaTypeImageLayerGzip, gz, same},
		{"zstd", ocispec.MediaTypeImageLayerZstd, zst, same},
		{"all gzip", ocispec.MediaTypeImageLayerGzip, gz, gz},
		{"all zstd", ocispec.MediaTypeImageLayer, same, zst},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStore(t)
			a := &archiveMaker{t: t}
			d := a.image(runtime.GOARCH, c.pack, c.layerType, bottom, middle, top)
			var lines []string
			all, err := s.Load(t.Context(), bytes.NewReader(c.whole(a.layout(named(d, "docker.io/library/web:1")))), func(l string) { lines = append(lines, l) })
			if err != nil {
				t.Fatal(err)
			}
			if len(all) != 1 || all[0].Names[0] != "web:1" || lines[0] != "Loaded image: web:1" || all[0].Digests[0] != "web@"+d.Digest.String() {
				t.Fatalf("%+v %v", all, lines)
			}
			dirs, err := s.Lowers(t.Context(), all[0].ID)
			if err != nil || len(dirs) != 3 {
				t.Fatalf("lowers: %v %v", dirs, err)
			}
			// The middle layer's /etc has no entry: it is as in the bottom one.
			want := []string{"etc drwx--x--x", "etc/new -rw-r--r-- 3", "etc/old Dc---------"}
			if d := cmp.Diff(want, tree(t, dirs[1])); d != "" {
				t.Error(d)
			}
			fi, _ := os.Stat(filepath.Join(dirs[1], "etc"))
			if st := fi.Sys().(*syscall.Stat_t); st.Uid != 5 || fi.ModTime().Unix() != 1e9 {
				t.Errorf("/etc has owner %d, time %v", st.Uid, fi.ModTime())
			}
			if d := cmp.Diff([]string{"d drwxr-xr-x"}, tree(t, dirs[0])); d != "" {
				t.Error(d)
			}
			merged := filepath.Join(t.TempDir(), "merged")
			os.Mkdir(merged, 0o755)
			if err := syscall.Mount("overlay", merged, "overlay", 0, "lowerdir="+strings.Join(dirs, ":")); err != nil {
				t.Fatal(err)
			}
			defer syscall.Unmount(merged, 0)
			want = []string{"d drwxr-xr-x", "etc drwx--x--x", "etc/keep -rw-r--r-- 2", "etc/new -rw-r--r-- 3"}
			if d := cmp.Diff(want, tree(t, merged)); d != "" {
				t.Error(d)
			}
			mustLoad(t, s, a.layout(named(d, "docker.io/library/web:1")))
			mustBeClean(t, s)
		})
	}
}

func TestLoadChoosesPlatform(t *testing.T) {
	s := newStore(t)
	a := &archiveMaker{t: t}
	theirs := a.image(otherArch(), same, ocispec.MediaTypeImageLayer, makeTar(t, entry{name: "theirs"}))
	ours := a.image(runtime.GOARCH, same, ocispec.MediaTypeImageLayer, makeTar(t, entry{name: "ours"}))
	attestation := a.image("unknown", same, "application/vnd.in-toto+json", []byte("{}"))
	attestation.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	absent := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("absent"), Size: 6}
	idx := a.blob(ocispec.MediaTypeImageIndex, a.json(ocispec.Index{MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{theirs, attestation, absent, ours}}))
	all := mustLoad(t, s, a.layout(named(idx, "example.org/web:2")))
	if len(all) != 1 || all[0].Config.Config.Cmd[0] != "/"+runtime.GOARCH || all[0].Target != idx.Digest || all[0].Manifest != ours.Digest {
		t.Fatalf("%+v", all)
	}
	if err := s.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"example.org/web@" + idx.Digest.String(), "example.org/web@" + ours.Digest.String(), ours.Digest.String()} {
		if got, err := s.Get(t.Context(), ref); err != nil || got.ID != all[0].ID {
			t.Errorf("%s: %v %v", ref, got.ID, err)
		}
	}
	// The other platform's content is part of the image, too.
	if _, err := s.content.Info(s.context(t.Context()), theirs.Digest); err != nil {
		t.Errorf("manifest of the other platform: %v", err)
	}
}

func TestLoadForeignArchitecture(t *testing.T) {
	s := newStore(t)
	a := &archiveMaker{t: t}
	d := a.image(otherArch(), same, ocispec.MediaTypeImageLayer, makeTar(t, entry{name: "x"}))
	all := mustLoad(t, s, a.layout(d))
	if len(all) != 1 || all[0].Platform.Architecture != otherArch() || len(all[0].Names) != 0 {
		t.Fatalf("%+v", all)
	}
}

func TestLoadDockerArchives(t *testing.T) {
	one, two := makeTar(t, entry{name: "one", body: "1"}), makeTar(t, entry{name: "two", body: "2"})
	config := configFor(runtime.GOARCH, digest.FromBytes(one), digest.FromBytes(two), digest.FromBytes(one))
	check := func(t *testing.T, s *Store, all []Image) {
		t.Helper()
		if len(all) != 1 || cmp.Diff(all[0].Names, []string{"app:1", "app:latest"}) != "" {
			t.Fatalf("%+v", all)
		}
		if dirs, err := s.Lowers(t.Context(), all[0].ID); err != nil || len(dirs) != 3 {
			t.Errorf("lowers: %v %v", dirs, err)
		}
		mustBeClean(t, s)
	}
	t.Run("old", func(t *testing.T) { // a directory per layer, equal ones linked
		s, a := newStore(t), &archiveMaker{t: t}
		c := a.json(config)
		id := digest.FromBytes(c).Encoded()
		a.add("aaa/layer.tar", one)
		a.add("aaa/VERSION", []byte("1.0"))
		a.add("bbb/layer.tar", two)
		a.entries = append(a.entries, entry{name: "ccc/layer.tar", kind: '2', link: "../aaa/layer.tar"})
		a.add(id+".json", c)
		a.add("manifest.json", a.json([]dockerEntry{{Config: id + ".json", RepoTags: []string{"app:1", "app:latest"},
			Layers: []string{"aaa/layer.tar", "bbb/layer.tar", "ccc/layer.tar"}}}))
		check(t, s, mustLoad(t, s, makeTar(t, a.entries...)))
	})
	t.Run("new", func(t *testing.T) { // an OCI layout whose names are in manifest.json
		s, a := newStore(t), &archiveMaker{t: t}
		d := a.image(runtime.GOARCH, same, ocispec.MediaTypeImageLayer, one, two, one)
		var cfg, layers []string
		for _, e := range a.entries {
			if strings.HasPrefix(e.body, `{"created"`) || strings.Contains(e.body, `"rootfs"`) {
				cfg = append(cfg, e.name)
			} else if !strings.HasPrefix(e.body, "{") {
				layers = append(layers, e.name)
			}
		}
		a.add("manifest.json", a.json([]dockerEntry{{Config: cfg[0], RepoTags: []string{"app:1", "app:latest"}, Layers: layers}}))
		check(t, s, mustLoad(t, s, a.layout(d)))
	})
}

func TestLoadSeveralImagesSharingLayers(t *testing.T) {
	s, a := newStore(t), &archiveMaker{t: t}
	base := makeTar(t, entry{name: "base", body: strings.Repeat("b", 5000)})
	one := a.image(runtime.GOARCH, gz, ocispec.MediaTypeImageLayerGzip, base, makeTar(t, entry{name: "one"}))
	two := a.image(runtime.GOARCH, gz, ocispec.MediaTypeImageLayerGzip, base, makeTar(t, entry{name: "two"}))
	all := mustLoad(t, s, a.layout(named(one, "one"), named(two, "two"), named(two, "two:again")))
	if len(all) != 2 {
		t.Fatalf("%+v", all)
	}
	mustBeClean(t, s)
	if _, _, snaps := leftovers(t, s); snaps != 3 {
		t.Errorf("%d snapshots, want 3: the base once and two tops", snaps)
	}
}

func TestLoadTwiceAtOnce(t *testing.T) {
	s, a := newStore(t), &archiveMaker{t: t}
	d := a.image(runtime.GOARCH, gz, ocispec.MediaTypeImageLayerGzip,
		makeTar(t, entry{name: "a", body: strings.Repeat("b", 500_000)}), makeTar(t, entry{name: "two"}))
	b := a.layout(named(d, "web"))
	errs := make(chan error)
	for range 4 {
		go func() {
			_, err := s.Load(t.Context(), bytes.NewReader(b), nil)
			errs <- err
		}()
	}
	for range 4 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	mustBeClean(t, s)
}

// TestLoadRefuses holds an archive for each lie that can be told in one.
func TestLoadRefuses(t *testing.T) {
	layer := makeTar(t, entry{name: "f", body: "content"})
	type maker func(a *archiveMaker) []byte
	good := func(a *archiveMaker) ocispec.Descriptor {
		return a.image(runtime.GOARCH, gz, ocispec.MediaTypeImageLayerGzip, layer)
	}
	with := func(change func(a *archiveMaker, m *ocispec.Manifest, c *ocispec.Image)) maker {
		return func(a *archiveMaker) []byte {
			c := configFor(runtime.GOARCH, digest.FromBytes(layer))
			m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{a.blob(ocispec.MediaTypeImageLayerGzip, gz(layer))}}
			m.SchemaVersion = 2
			change(a, &m, &c)
			if m.Config.Digest == "" {
				m.Config = a.blob(ocispec.MediaTypeImageConfig, a.json(c))
			}
			return a.layout(named(a.blob(m.MediaType, a.json(m)), "web"))
		}
	}
	for _, c := range []struct {
		name string
		make maker
		want string
	}{
		{"root file system", func(a *archiveMaker) []byte { return layer }, "gantry image import"},
		{"empty tar", func(a *archiveMaker) []byte { return makeTar(t) }, "the archive is empty"},
		{"no bytes", func(a *archiveMaker) []byte { return nil }, "the archive is empty"},
		{"text", func(a *archiveMaker) []byte { return bytes.Repeat([]byte("text"), 500) }, "not a tar archive"},
		{"truncated", func(a *archiveMaker) []byte { d := good(a); return a.layout(named(d, "web"))[:600] }, "truncated"},
		{"truncated gzip", func(a *archiveMaker) []byte { d := good(a); return gz(a.layout(named(d, "web")))[:300] }, "truncated"},
		{"bad json", func(a *archiveMaker) []byte { a.add("manifest.json", []byte("[{")); return makeTar(t, a.entries...) }, "manifest.json: "},
		{"no index", func(a *archiveMaker) []byte { a.add("oci-layout", []byte("{}")); return makeTar(t, a.entries...) }, "without index.json"},
		{"nothing in it", func(a *archiveMaker) []byte { return a.layout() }, "lists no image"},
		{"path", func(a *archiveMaker) []byte { a.add("../../evil", []byte("x")); return a.layout(good(a)) }, "climbs out"},
		{"forged blob", func(a *archiveMaker) []byte {
			d := good(a)
			a.entries[0].body = string(gz([]byte("something else")))
			return a.layout(named(d, "web"))
		}, "has the digest"},
		{"forged document", func(a *archiveMaker) []byte {
			d := good(a)
			a.entries[1].body += " "
			return a.layout(named(d, "web"))
		}, "has the digest"},
		{"size of the manifest", func(a *archiveMaker) []byte { d := good(a); d.Size++; return a.layout(named(d, "web")) }, "are announced"},
		{"size of a layer", with(func(a *archiveMaker, m *ocispec.Manifest, c *ocispec.Image) { m.Layers[0].Size-- }), "the manifest says"},
		{"diff id", with(func(a *archiveMaker, m *ocispec.Manifest, c *ocispec.Image) {
			c.RootFS.DiffIDs[0] = digest.FromString("other")
		}), "the image's configuration says"},
		{"number of layers", with(func(a *archiveMaker, m *ocispec.Manifest, c *ocispec.Image) {
			c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromString("other"))
		}), "has 1 layers, its configuration 2"},
		{"layer is missing", with(func(a *archiveMaker, m *ocispec.Manifest, c *ocispec.Image) { a.entries = nil }), "layer 1 (sha256:"},
		{"layer is no tar", with(func(a *archiveMaker, m *ocispec.Manifest, c *ocispec.Image) {
			b := gz(bytes.Repeat([]byte("no tar"), 400))
			m.Layers[0] = a.blob(ocispec.MediaTypeImageLayerGzip, b)
		}), "not a tar archive"},
		{"layer's media type", with(func(a *archiveMaker, m *ocispec.Manifest, c *ocispec.Image) {
			m.Layers[0].MediaType = "application/vnd.oci.image.layer.v1.tar+encrypted"
		}), "+encrypted\" is not supported"},
		{"foreign layer", with(func(a *archiveMaker, m *ocispec.Manifest, c *ocispec.Image) {
			m.Layers[0].MediaType = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
		}), "fetched from elsewhere"},
		{"config is missing", with(func(a *archiveMaker, m *ocispec.Manifest, c *ocispec.Image) {
			m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromString("none"), Size: 4}
		}), "configuration sha256:"},
		{"config's digest", with(func(a *archiveMaker, m *ocispec.Manifest, c *ocispec.Image) {
			m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: "sha256:../../etc/passwd", Size: 4}
		}), "digest of the configuration"},
		{"artifact", with(func(a *archiveMaker, m *ocispec.Manifest, c *ocispec.Image) {
			m.Config = a.blob("application/vnd.cncf.helm.config.v1+json", []byte("{}"))
		}), "holds no image"},
		{"schema 1", func(a *archiveMaker) []byte {
			return a.layout(a.blob(dockerSchema1, []byte(`{"schemaVersion":1,"fsLayers":[]}`)))
		}, "schema 1"},
		{"two documents in one", func(a *archiveMaker) []byte {
			return a.layout(a.blob(ocispec.MediaTypeImageIndex, []byte(`{"manifests":[],"config":{}}`)))
		}, "at once"},
		{"unknown media type", func(a *archiveMaker) []byte { return a.layout(a.blob("text/plain", []byte("{}"))) }, "neither an image nor an index"},
		{"nested too deep", func(a *archiveMaker) []byte {
			d := good(a)
			for range 8 {
				d = a.blob(ocispec.MediaTypeImageIndex, a.json(ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{d}}))
			}
			return a.layout(d)
		}, "nested more than"},
		{"too many manifests", func(a *archiveMaker) []byte {
			d := a.blob(ocispec.MediaTypeImageIndex, []byte(`{"manifests":[]}`))
			ds := make([]ocispec.Descriptor, 1500)
			for i := range ds {
				ds[i] = d
			}
			return a.layout(a.blob(ocispec.MediaTypeImageIndex, a.json(ocispec.Index{Manifests: ds})))
		}, "more than 1000"},
		{"bad name", func(a *archiveMaker) []byte { return a.layout(named(good(a), "a/UPPER")) }, "a name in the archive"},
		{"docker: no config", func(a *archiveMaker) []byte {
			a.add("manifest.json", a.json([]dockerEntry{{Config: "x.json"}}))
			return makeTar(t, a.entries...)
		}, `no configuration "x.json"`},
		{"docker: no layer", func(a *archiveMaker) []byte {
			a.add("c.json", a.json(configFor("amd64", digest.FromBytes(layer))))
			a.add("manifest.json", a.json([]dockerEntry{{Config: "c.json", Layers: []string{"l.tar"}}}))
			return makeTar(t, a.entries...)
		}, "not in the archive"},
		{"docker: links in a circle", func(a *archiveMaker) []byte {
			a.add("c.json", a.json(configFor("amd64", digest.FromBytes(layer))))
			a.entries = append(a.entries, entry{name: "l.tar", kind: '2', link: "m.tar"}, entry{name: "m.tar", kind: '2', link: "l.tar"})
			a.add("manifest.json", a.json([]dockerEntry{{Config: "c.json", Layers: []string{"l.tar"}}}))
			return makeTar(t, a.entries...)
		}, "not in the archive"},
		{"docker: forged config", func(a *archiveMaker) []byte {
			name := digest.FromString("x").Encoded() + ".json"
			a.add(name, a.json(configFor("amd64")))
			a.add("manifest.json", a.json([]dockerEntry{{Config: name}}))
			return makeTar(t, a.entries...)
		}, "has the digest"},
		{"docker: diff id", func(a *archiveMaker) []byte {
			a.add("l.tar", layer)
			a.add("c.json", a.json(configFor("amd64", digest.FromString("x"))))
			a.add("manifest.json", a.json([]dockerEntry{{Config: "c.json", Layers: []string{"l.tar"}}}))
			return makeTar(t, a.entries...)
		}, "the image's configuration says"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			_, err := s.Load(t.Context(), bytes.NewReader(c.make(&archiveMaker{t: t})), nil)
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v (%T), want %q", err, err, c.want)
			}
			if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), s.dir) {
				t.Errorf("not an error for people: %v", err)
			}
			mustBeClean(t, s)
		})
	}
}

// TestLoadAllOrNothing: a bad second image takes the first with it.
func TestLoadAllOrNothing(t *testing.T) {
	s, a := newStore(t), &archiveMaker{t: t}
	good := a.image(runtime.GOARCH, gz, ocispec.MediaTypeImageLayerGzip, makeTar(t, entry{name: "f"}))
	bad := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("none"), Size: 4}
	if _, err := s.Load(t.Context(), bytes.NewReader(a.layout(named(good, "good"), named(bad, "bad"))), nil); err == nil {
		t.Fatal("loaded")
	}
	if all, err := s.List(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("images: %v %v", all, err)
	}
	mustBeClean(t, s)
}
