package runtime

import (
	"archive/tar"
	"bytes"
	"context"
	"slices"
	"testing"

	"gantry/network"
	"gantry/runtime/image"
	"gantry/runtime/spec"
	"gantry/runtime/volume"
)

// everything is what a pruning without a filter wants.
func everything[T any](T) bool { return true }

func TestPruneRemovesWhatNobodyUses(t *testing.T) {
	h := newHouse(t)
	ctx := background(t)
	for _, name := range []string{"idle", "named"} {
		_, err := h.e.CreateNetwork(ctx, network.Spec{Name: name, Driver: "bridge"})
		must(t, err)
	}
	for _, name := range []string{"loose", "kept"} {
		_, err := h.e.CreateVolume(ctx, volume.Volume{Name: name})
		must(t, err)
	}
	live := h.start(t, box("sleep", "1000"))
	wrote := box("sh", "-c", "yes | head -c 300000 > /big")
	wrote.Network = spec.Network{Endpoints: []spec.Endpoint{{Network: "named"}}}
	wrote.Mounts = []spec.Mount{{Type: spec.MountVolume, Source: "kept", Target: "/v"}}
	done := h.start(t, wrote)
	_, err := h.e.Wait(ctx, done.ID, NotRunning, nil)
	must(t, err)

	size, err := h.e.Size(ctx, done.ID)
	must(t, err)
	if size.Own < 300_000 || size.Own > 400_000 || size.Root <= size.Own {
		t.Errorf("the container takes %+v", size)
	}

	// A container that exists, live or not, keeps what it names.
	nets, err := h.e.PruneNetworks(ctx, everything[network.Network])
	must(t, err)
	vols, _, err := h.e.PruneVolumes(ctx, everything[volume.Volume])
	must(t, err)
	if !slices.Equal(nets, []string{"idle"}) || !slices.Equal(vols, []string{"loose"}) {
		t.Errorf("gone are networks %v and volumes %v", nets, vols)
	}

	gone, bytes, err := h.e.PruneContainers(ctx, everything[Container])
	must(t, err)
	if !slices.Equal(gone, []string{done.ID}) || bytes != size.Own {
		t.Errorf("gone are %v with %d bytes, want %s with %d", gone, bytes, done.ID, size.Own)
	}
	if h.inspect(t, live.ID).State != Running {
		t.Error("a running container was pruned")
	}
	nets, err = h.e.PruneNetworks(ctx, everything[network.Network])
	must(t, err)
	vols, _, err = h.e.PruneVolumes(ctx, func(v volume.Volume) bool { return v.Name != "kept" })
	must(t, err)
	if !slices.Equal(nets, []string{"named"}) || len(vols) != 0 {
		t.Errorf("gone are networks %v and volumes %v", nets, vols)
	}
}

func TestPruneImages(t *testing.T) {
	h := newHouse(t)
	ctx := background(t)
	// The same root file system under another name shares its layer.
	_, err := h.e.ImportImage(ctx, bytes.NewReader(busyboxTar()), image.ImportOptions{Name: "same", Changes: []string{"LABEL a=b"}})
	must(t, err)
	h.create(t, box("true"))
	own, err := h.e.ImportImage(ctx, bytes.NewReader(smallTar(t, "only/here", 200_000)), image.ImportOptions{})
	must(t, err)
	must(t, h.e.TagImage(ctx, own.ID.String(), "own:1"))
	must(t, h.e.TagImage(ctx, own.ID.String(), "own:2"))

	gone, bytes, err := h.e.PruneImages(ctx, func(img image.Image) bool { return len(img.Names) == 0 })
	must(t, err)
	if len(gone) != 0 || bytes != 0 {
		t.Errorf("gone are %v, %d bytes, and nothing was dangling", gone, bytes)
	}
	gone, bytes, err = h.e.PruneImages(ctx, everything[image.Image])
	must(t, err)
	deleted := 0
	for _, g := range gone {
		if g.Deleted != "" {
			deleted++
		}
	}
	// "app" and "same" lie on the layer of "box", which a container uses. "own"
	// gives its file back, and the archive it came in.
	if deleted != 3 || bytes < 400_000 || bytes > 500_000 {
		t.Errorf("gone are %v, %d bytes", gone, bytes)
	}
	left, err := h.e.ListImages(ctx)
	must(t, err)
	if len(left) != 1 || left[0].Names[0] != "box:latest" {
		t.Errorf("left are %+v", left)
	}
}

// smallTar is an archive of one file.
func smallTar(t testing.TB, name string, size int) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	must(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(size), Typeflag: tar.TypeReg}))
	_, err := w.Write(make([]byte, size))
	must(t, err)
	must(t, w.Close())
	return buf.Bytes()
}

func TestSizeEndsWithItsCaller(t *testing.T) {
	h := sharedHouse(t)
	c := h.start(t, box("sleep", "1000"))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := h.e.Size(ctx, c.ID); err == nil {
		t.Error("counted for nobody")
	}
}
