package build

import (
	"context"
	"strings"
	"testing"

	"gantry/runtime/image"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/snapshot"
	"github.com/moby/buildkit/worker/base"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// An image that somebody removes in the moment it has its name was built all the
// same.
func TestBuiltAndRemoved(t *testing.T) {
	store, err := image.Open(t.Context(), image.Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	told := false
	e := &imageExport{worker: &worker{images: store, built: func(image.Image) { told = true }}}
	if err := e.stored(t.Context(), nil, digest.FromString("removed"), nil); err != nil || told {
		t.Errorf("told of an image that is gone: %v; %v", told, err)
	}
}

func TestLayersThatAreRewritten(t *testing.T) {
	for value, want := range map[string]bool{"true": true, "1": true, "false": false, "maybe": true} {
		if rewrites(map[string]string{"rewrite-timestamp": value}) != want {
			t.Errorf("rewrite-timestamp=%s: %v", value, !want)
		}
	}
	if rewrites(nil) {
		t.Error("layers are rewritten that nobody wants so")
	}
}

// lazyRef is a result whose layers are unpacked by its first mount.
type lazyRef struct {
	cache.ImmutableRef
	at      mountable
	written *written
}

func (r *lazyRef) Mount(context.Context, bool, session.Group) (snapshot.Mountable, error) {
	r.written.note()
	return &r.at, nil
}

// An image runs on no files that a crash of the machine could take.
func TestAdoptedLayersAreSynced(t *testing.T) {
	store, err := image.Open(t.Context(), image.Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	config, text := digest.FromString("{}"), "{}"
	shared := store.Shared()
	ctx := namespaces.WithNamespace(t.Context(), shared.Namespace)
	if err := content.WriteBlob(ctx, shared.Content, "config", strings.NewReader(text), ocispec.Descriptor{Digest: config, Size: int64(len(text))}); err != nil {
		t.Fatal(err)
	}
	w := &worker{images: store, written: &written{}}
	w.Worker = &base.Worker{WorkerOpt: base.WorkerOpt{Root: t.TempDir()}}
	ref := &lazyRef{at: mountable{mounts: []mount.Mount{{Type: "bind", Source: "/nowhere/1/fs", Options: []string{"ro"}}}}, written: w.written}
	e := &imageExport{worker: w}
	if err := e.adopt(t.Context(), &exporter.Source{Ref: ref}, config, nil); err == nil {
		t.Error("an image runs on a snapshot that is not there")
	}
	if w.written.dirty.Load() {
		t.Error("layers that were unpacked to be adopted are not synced")
	}
}
