package build

import (
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/buildkit/snapshot"
)

// mountable is a snapshot that is mounted in one way.
type mountable struct {
	snapshot.Mountable
	mounts   []mount.Mount
	released int
}

func (m *mountable) Mount() ([]mount.Mount, func() error, error) {
	return m.mounts, func() error { m.released++; return nil }, nil
}

// What a step writes after another build was stored is synced for its own.
func TestWritesAreSyncedThatOutlastASync(t *testing.T) {
	for _, m := range []mount.Mount{
		{Type: "overlay", Options: []string{"workdir=" + t.TempDir(), "upperdir=/u"}},
		{Type: "bind", Options: []string{"rw", "rbind"}}, // of an image from scratch
	} {
		w := &written{}
		src := &mountable{mounts: []mount.Mount{m}}
		_, release, err := volatile{src, w}.Mount()
		if err != nil {
			t.Fatal(err)
		}
		if !w.dirty.Load() {
			t.Errorf("%s: what is being written is taken for synced", m.Type)
		}
		if err := w.sync(t.TempDir()); err != nil {
			t.Fatal(err)
		}
		if err := release(); err != nil || src.released != 1 {
			t.Fatalf("released %d times: %v", src.released, err)
		}
		if !w.dirty.Load() {
			t.Errorf("%s: what was written since the last sync is taken for synced", m.Type)
		}
	}
}

// To read a snapshot calls for no sync.
func TestReadingNeedsNoSync(t *testing.T) {
	for _, m := range []mount.Mount{
		{Type: "overlay", Options: []string{"lowerdir=/a:/b"}},
		{Type: "bind", Options: []string{"ro", "rbind"}},
	} {
		w := &written{}
		src := &mountable{mounts: []mount.Mount{m}}
		_, release, err := volatile{src, w}.Mount()
		if err != nil {
			t.Fatal(err)
		}
		if err := release(); err != nil || src.released != 1 || w.dirty.Load() {
			t.Errorf("%s: released %d times, to be synced: %v: %v", m.Type, src.released, w.dirty.Load(), err)
		}
	}
}
