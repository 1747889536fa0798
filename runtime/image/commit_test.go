package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"runtime"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// layerOf writes a tar as a container's layer.
func layerOf(b []byte, entries int) func(context.Context, io.Writer) (int, error) {
	return func(_ context.Context, w io.Writer) (int, error) {
		_, err := w.Write(b)
		return entries, err
	}
}

func TestCommit(t *testing.T) {
	s := newStore(t)
	// The base comes from Docker, with Docker's words for its layers.
	a := &archiveMaker{t: t}
	base := mustLoad(t, s, a.layout(named(a.image(runtime.GOARCH, gz, dockerLayerGzip, makeTar(t, entry{name: "f", body: "1"})), "docker.io/library/base:1")))[0]
	layer := makeTar(t, entry{name: "etc/"}, entry{name: "etc/new", body: "new"}, entry{name: ".wh.f"})
	img, err := s.Commit(t.Context(), CommitOptions{Base: base.ID, Name: "top", Comment: "c", Author: "me", Command: "sh"}, layerOf(layer, 3))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(img.Names, []string{"top:latest"}) || len(img.Layers) != 2 || img.Layers[0] != base.Layers[0] || img.Layers[1] != digest.FromBytes(layer) {
		t.Errorf("got %+v", img)
	}
	res, err := s.resolve(s.context(t.Context()), img.Documents.Target)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range res.manifest.Layers {
		if l.MediaType != ocispec.MediaTypeImageLayerGzip && l.MediaType != ocispec.MediaTypeImageLayer {
			t.Errorf("a layer is called %s", l.MediaType)
		}
	}
	// It is made of the base's own snapshots, and stays whole without the base.
	if _, err := s.Remove(t.Context(), "base:1", RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	dirs, err := s.Lowers(t.Context(), img.ID)
	if err != nil || len(dirs) != 2 {
		t.Errorf("lower directories %v, %v", dirs, err)
	}
	if err := s.Release(t.Context(), img.ID); err != nil {
		t.Fatal(err)
	}
	if got := mustLoad(t, newStore(t), save(t, s, "top")); got[0].ID != img.ID {
		t.Errorf("saved and loaded it is %s", got[0].ID)
	}
	mustBeClean(t, s)

	// Without an entry there is no layer.
	same, err := s.Commit(t.Context(), CommitOptions{Base: img.ID, Changes: []string{"ENV A=b"}}, layerOf(makeTar(t), 0))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(same.Layers, img.Layers) || !same.Config.History[len(same.Config.History)-1].EmptyLayer || len(same.Names) != 0 {
		t.Errorf("got %+v", same)
	}
	mustBeClean(t, s)
}

func TestCommitFails(t *testing.T) {
	s := newStore(t)
	base := mustImport(t, s, "base", entry{name: "f"})
	good := makeTar(t, entry{name: "g", body: string(make([]byte, 1<<20))})
	broken := errors.New("the disk is on fire")
	for name, tt := range map[string]struct {
		base  digest.Digest
		write func(context.Context, io.Writer) (int, error)
		is    func(error) bool
	}{
		"no base": {digest.FromString("x"), layerOf(good, 1), errdefs.IsFailedPrecondition},
		"the writer fails": {base.ID, func(_ context.Context, w io.Writer) (int, error) {
			_, err := w.Write(good[:1000])
			return 1, errors.Join(err, broken)
		}, func(err error) bool { return errors.Is(err, broken) }},
		"no archive": {base.ID, layerOf(bytes.Repeat([]byte("x"), 4096), 1), errdefs.IsInvalidArgument},
		"a writer that never ends": {base.ID, func(_ context.Context, w io.Writer) (int, error) {
			for {
				if _, err := w.Write(bytes.Repeat([]byte("x"), 4096)); err != nil {
					return 1, err
				}
			}
		}, errdefs.IsInvalidArgument},
	} {
		if _, err := s.Commit(t.Context(), CommitOptions{Base: tt.base}, tt.write); !tt.is(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := s.Commit(ctx, CommitOptions{Base: base.ID}, func(ctx context.Context, w io.Writer) (int, error) {
		cancel()
		_, err := w.Write(good)
		return 1, err
	}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	all, err := s.List(t.Context())
	if err != nil || len(all) != 1 {
		t.Errorf("%d images are left, %v", len(all), err)
	}
	mustBeClean(t, s)
}

func TestCommitConfig(t *testing.T) {
	has := dockerspec.DockerOCIImageConfig{ImageConfig: ocispec.ImageConfig{
		User: "web", Env: []string{"A=1", "B=2"}, Cmd: []string{"serve"}, Entrypoint: []string{"/entry"}, WorkingDir: "/srv",
		Labels: map[string]string{"a": "1", "b": "2"}, Volumes: map[string]struct{}{"/v": {}},
	}}
	for _, tt := range []struct {
		name    string
		wished  dockerspec.DockerOCIImageConfig
		changes []string
		want    func(c *dockerspec.DockerOCIImageConfig)
	}{
		{name: "as it is", want: func(*dockerspec.DockerOCIImageConfig) {}},
		{name: "a command keeps the entrypoint", changes: []string{`CMD ["x"]`}, want: func(c *dockerspec.DockerOCIImageConfig) { c.Cmd = []string{"x"} }},
		{name: "an entrypoint drops the command", changes: []string{`ENTRYPOINT ["x"]`}, want: func(c *dockerspec.DockerOCIImageConfig) {
			c.Entrypoint, c.Cmd = []string{"x"}, nil
		}},
		{name: "variables", changes: []string{"ENV B=$A/3 C=4", "WORKDIR sub"}, want: func(c *dockerspec.DockerOCIImageConfig) {
			c.Env, c.WorkingDir = []string{"A=1", "B=1/3", "C=4"}, "/srv/sub"
		}},
		{name: "wishes", wished: dockerspec.DockerOCIImageConfig{ImageConfig: ocispec.ImageConfig{User: "root", Env: []string{"A=9"}, Labels: map[string]string{"a": "9"}}}, want: func(c *dockerspec.DockerOCIImageConfig) {
			c.User, c.Env, c.Labels = "root", []string{"A=9", "B=2"}, map[string]string{"a": "9", "b": "2"}
		}},
	} {
		want := has
		tt.want(&want)
		got, err := commitConfig(CommitOptions{Config: has, Wished: tt.wished, Changes: tt.changes})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", tt.name, d)
		}
	}
}
