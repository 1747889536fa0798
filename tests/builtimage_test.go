package tests

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// What a build has made is an image like any other, on layers that are there
// once: named, run, committed, exported, saved, loaded elsewhere, removed.
func TestBuiltImages(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	w := &wrecker{m: m, http: m.httpClient(4)}
	defer w.http.CloseIdleConnections()
	layers := func() int {
		t.Helper()
		found, err := filepath.Glob(filepath.Join(m.root, "images", "snapshots", "snapshots", "*", "fs"))
		if err != nil {
			t.Fatal(err)
		}
		return len(found)
	}
	since := time.Now().Add(-time.Second).Format(time.RFC3339Nano)
	dir := m.source("built", `FROM busybox
COPY greeting /greeting
RUN echo layer > /layer && chmod 640 /layer && mkdir -p /etc/made && rm /greeting.gone
LABEL kind=test
CMD ["sh", "-c", "cat /greeting /layer"]
`, "greeting", "hello\n", "greeting.gone", "")
	write(t, filepath.Join(dir, "Dockerfile"), strings.Replace(read(t, filepath.Join(dir, "Dockerfile")), "COPY greeting /greeting", "COPY greeting greeting.gone /", 1))
	m.ok("image", "build", "-t", "built", dir)
	id := m.imageID("built")
	if got := m.imageSays("built"); !strings.Contains(got, "hello") || !strings.Contains(got, "layer") {
		t.Errorf("it says %q", got)
	}
	if got := m.ok("image", "history", "built", "--format", "{{.CreatedBy}} {{.Size}}"); !strings.Contains(got, "COPY greeting") || !strings.Contains(got, "RUN") || !strings.Contains(got, "CMD") {
		t.Errorf("history: %s", got)
	}

	// Committed, stopped and running, it grows by the layer of the container
	// alone: its own are not unpacked again.
	m.ok("image", "tag", "built", "again:1")
	if err := w.container("box", "built", "sh", "-c", "echo more > /more; echo own > /layer; sleep 1000"); err != nil {
		t.Fatal(err)
	}
	m.ok("container", "start", "box")
	eventually(t, 10*time.Second, "the container has written", func() bool { return strings.Contains(m.gantry("container", "diff", "box").out, "/more") })
	before := layers()
	m.ok("container", "commit", "box", "committed:running")
	if got := layers(); got != before+1 {
		t.Errorf("a commit made %d layers of %d", got, before)
	}
	m.ok("container", "stop", "box")
	m.ok("container", "commit", "-c", `CMD ["cat", "/more", "/layer"]`, "box", "committed:stopped")
	if got := m.imageSays("committed:stopped"); !strings.Contains(got, "more") || !strings.Contains(got, "own") {
		t.Errorf("it says %q", got)
	}
	if got := strings.TrimSpace(m.ok("image", "inspect", "committed:stopped", "--format", `{{len .RootFS.Layers}} {{index .Config.Labels "kind"}}`)); got != "4 test" {
		t.Errorf("committed: %s", got)
	}
	// A build on what was committed runs on its layers, too: busybox alone has two
	// megabytes.
	used := w.used()
	m.ok("image", "build", "-t", "on", m.source("on", "FROM committed:stopped\nLABEL more=1\n"))
	if got := w.used() - used; got > 100_000 {
		t.Errorf("a build that changes no file took %d bytes", got)
	}
	rootfs := filepath.Join(m.dir, "rootfs.tar")
	m.ok("container", "export", "-o", rootfs, "box")
	m.ok("image", "import", rootfs, "exported", "--change", `CMD ["cat", "/more", "/greeting"]`)
	if got := m.imageSays("exported"); !strings.Contains(got, "more") || !strings.Contains(got, "hello") {
		t.Errorf("it says %q", got)
	}

	// Saved and loaded elsewhere, it is the same image to the last byte.
	archive := filepath.Join(m.dir, "saved.tar")
	m.ok("image", "save", "-o", archive, "built", "again:1", "committed:stopped")
	other := bareMachine(t)
	other.ok("image", "load", "-i", archive)
	for _, name := range []string{"built", "again:1", "committed:stopped"} {
		if m.imageID(name) != other.imageID(name) {
			t.Errorf("%s is another image after it was loaded", name)
		}
	}
	if got := other.imageSays("built"); !strings.Contains(got, "hello") || !strings.Contains(got, "layer") {
		t.Errorf("elsewhere it says %q", got)
	}
	// Here, where it is, loading it brings nothing.
	before = layers()
	m.ok("image", "load", "-i", archive)
	if got := layers(); got != before {
		t.Errorf("loading what is here made %d layers of %d", got, before)
	}

	seen := m.ok("system", "events", "--since", since, "--until", time.Now().Format(time.RFC3339Nano), "--format", "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}")
	for _, want := range []string{"image tag built:latest", "image tag again:1", "container commit box", "image import exported", "image save built", "image load "} {
		if !strings.Contains(seen, want) {
			t.Errorf("nobody told of %q:\n%s", want, seen)
		}
	}

	// What goes takes along what it alone has, once the cache lets go as well.
	m.ok("container", "rm", "-f", "box")
	for _, name := range []string{"exported", "on", "committed:running", "committed:stopped", "again:1"} {
		m.ok("image", "rm", name)
	}
	m.fails(m.dir, []string{"image", "rm", "nothere"}, "nothere")
	m.ok("builder", "prune", "-af")
	// The cache has forgotten it; a build on it unpacks it no second time.
	big := m.source("big", "FROM busybox\nRUN dd if=/dev/urandom of=/big bs=1M count=4\n")
	m.ok("image", "build", "-t", "big", big)
	m.ok("builder", "prune", "-af")
	used = w.used()
	m.ok("image", "build", "-t", "bigger", m.source("bigger", "FROM big\nRUN test -s /big && echo more > /more\nCMD [\"ls\", \"/big\", \"/more\"]\n"))
	if got := w.used() - used; got > 1_000_000 {
		t.Errorf("a build on an image of 4 MB took %d bytes", got)
	}
	m.ok("image", "rm", "big")
	m.ok("image", "prune", "-f")
	if got := m.imageSays("bigger"); !strings.Contains(got, "/big") || !strings.Contains(got, "/more") {
		t.Errorf("on what was built it says %q", got)
	}
	m.ok("image", "rm", "bigger")
	m.ok("builder", "prune", "-af")
	if got := m.imageSays("built"); !strings.Contains(got, "hello") {
		t.Errorf("without the cache it says %q", got)
	}
	if m.imageID("built") != id {
		t.Error("it has become another image")
	}
	m.ok("image", "rm", "built")
	eventually(t, 10*time.Second, "busybox's layer is the only one", func() bool { return layers() == 1 })
	if names := strings.Fields(m.ok("image", "ls", "-a", "--format", "{{.Repository}}")); !slices.Equal(names, []string{"busybox"}) {
		t.Errorf("left are %v", names)
	}
}

// used is what images and the build cache take together.
func (w *wrecker) used() int64 {
	w.m.t.Helper()
	text, err := w.answer(w.m.t.Context(), "GET", "/system/df?type=image&type=build-cache", nil)
	var df struct{ ImageUsage, BuildCacheUsage struct{ TotalSize int64 } }
	if err := errors.Join(err, json.Unmarshal(text, &df)); err != nil {
		w.m.t.Fatal(err)
	}
	return df.ImageUsage.TotalSize + df.BuildCacheUsage.TotalSize
}
