package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"runtime"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func save(t testing.TB, s *Store, refs ...string) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := s.Save(t.Context(), &buf, refs); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// members reads an archive into memory.
func members(t testing.TB, b []byte) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if out[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSaveAndLoad(t *testing.T) {
	from := newStore(t)
	web := mustImport(t, from, "web:1", entry{name: "f", body: "1"})
	other := mustImport(t, from, "example.org/team/other", entry{name: "g", body: "2"})
	loose := mustImport(t, from, "", entry{name: "h", body: "3"})
	if err := from.Tag(t.Context(), "web:1", "web:2"); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		refs []string
		want [][]string // names by image
	}{
		{[]string{"web:1"}, [][]string{{"web:1"}}},
		{[]string{"web"}, [][]string{{"web:1", "web:2"}}},
		{[]string{"web:1", "web:1", "web:2"}, [][]string{{"web:1", "web:2"}}},
		{[]string{web.ID.String()}, [][]string{nil}},
		{[]string{"web:2", "example.org/team/other", loose.ID.Encoded()[:12]}, [][]string{nil, {"example.org/team/other:latest"}, {"web:2"}}},
	} {
		b := save(t, from, tt.refs...)
		files := members(t, b)
		var docker []dockerEntry
		if err := json.Unmarshal(files["manifest.json"], &docker); err != nil || len(docker) != len(tt.want) {
			t.Errorf("%v: manifest.json is %s, %v", tt.refs, files["manifest.json"], err)
		}
		to := newStore(t)
		got := mustLoad(t, to, b)
		var names [][]string
		for _, img := range got {
			names = append(names, img.Names)
			if !slices.Contains([]string{web.ID.String(), other.ID.String(), loose.ID.String()}, img.ID.String()) {
				t.Errorf("%v: the image %s is another one", tt.refs, img.ID)
			}
		}
		slices.SortFunc(names, slices.Compare[[]string])
		if d := cmp.Diff(tt.want, names); d != "" {
			t.Errorf("%v: %s", tt.refs, d)
		}
		mustBeClean(t, to)
	}
	mustBeClean(t, from)
}

// Other platforms of an index go in as far as they are here.
func TestSaveAllPlatforms(t *testing.T) {
	from := newStore(t)
	a := &archiveMaker{t: t}
	here := a.image(runtime.GOARCH, gz, ocispec.MediaTypeImageLayerGzip, makeTar(t, entry{name: "a"}))
	there := a.image(otherArch(), gz, ocispec.MediaTypeImageLayerGzip, makeTar(t, entry{name: "b"}))
	absent := ocispec.Descriptor{MediaType: here.MediaType, Digest: digest.FromString("absent"), Size: 7, Platform: &ocispec.Platform{OS: "linux", Architecture: "s390x"}}
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{there, here, absent}}
	index.SchemaVersion = 2
	all := a.blob(index.MediaType, a.json(index))
	want := mustLoad(t, from, a.layout(named(all, "docker.io/library/many:1")))[0]

	b := save(t, from, "many:1")
	files := members(t, b)
	for _, d := range []ocispec.Descriptor{all, here, there} {
		if files["blobs/sha256/"+d.Digest.Encoded()] == nil {
			t.Errorf("%s is missing", d.Digest)
		}
	}
	got := mustLoad(t, newStore(t), b)
	if len(got) != 1 || got[0].ID != want.ID || got[0].Target != all.Digest || !slices.Equal(got[0].Names, []string{"many:1"}) {
		t.Errorf("got %+v", got)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no room") }

func TestSaveFails(t *testing.T) {
	s := newStore(t)
	mustImport(t, s, "web", entry{name: "f"})
	var buf bytes.Buffer
	if err := s.Save(t.Context(), &buf, []string{"web", "nothing"}); !errdefs.IsNotFound(err) || buf.Len() > 0 {
		t.Errorf("got %v after %d bytes", err, buf.Len())
	}
	if err := s.Save(t.Context(), &buf, nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v", err)
	}
	if err := s.Save(t.Context(), full{}, []string{"web"}); err == nil {
		t.Error("nobody noticed that nothing was written")
	}
	mustBeClean(t, s)
}

func TestLayers(t *testing.T) {
	s := newStore(t)
	bottom := makeTar(t, entry{name: "a", body: string(make([]byte, 10_000))})
	load := func(tars ...[]byte) Image {
		a := &archiveMaker{t: t}
		return mustLoad(t, s, a.layout(a.image(runtime.GOARCH, same, ocispec.MediaTypeImageLayer, tars...)))[0]
	}
	one := load(bottom)
	two := load(bottom, makeTar(t, entry{name: "b", body: string(make([]byte, 20_000))}))
	layers, err := s.Layers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[digest.Digest]int{one.ID: 3, two.ID: 4} { // manifest, configuration, layers
		packed := slices.DeleteFunc(slices.Clone(layers[id]), func(l Layer) bool { return !l.Packed })
		if len(packed) != want {
			t.Errorf("%s has the blobs %v, want %d", id, packed, want)
		}
	}
	all := layers
	layers = Unpacked(layers)
	if len(layers[one.ID]) != 1 || len(layers[two.ID]) != 2 || layers[one.ID][0] != layers[two.ID][0] || layers[one.ID][0].Size < 10_000 {
		t.Errorf("got %+v", layers)
	}
	sizes := SizesOf(layers)
	if sizes.Total != two.Size || sizes.Shared[one.ID] != one.Size || sizes.Shared[two.ID] != one.Size {
		t.Errorf("got %+v of images with %d and %d bytes", sizes, one.Size, two.Size)
	} // What the sums say is what is stored: the layer that both have counts once.
	if err := s.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	stored, err := s.Stored(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := SizesOf(all).Total, Freed(stored, nil); got != want {
		t.Errorf("the images have %d bytes of the store's %d: %v, %v", got, want, all, stored)
	}
	own := Only(all, func(id digest.Digest) bool { return id == two.ID })
	if _, err := s.Remove(t.Context(), two.ID.String(), RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	after, err := s.Stored(t.Context(), true)
	if err != nil || Freed(stored, after) != own || own < 20_000 || own > 50_000 {
		t.Errorf("freed %d, said %d: %v", Freed(stored, after), own, err)
	}
}
