package runtime

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gantry/runtime/image"
	"gantry/runtime/spec"
	"gantry/runtime/volume"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func TestVolumes(t *testing.T) {
	h := sharedHouse(t)
	with := func(c Config, m ...spec.Mount) Config {
		c.Mounts = m
		return c
	}
	removed := func(t *testing.T, name string) {
		t.Cleanup(func() { must(t, h.e.RemoveVolume(context.Background(), name, true)) })
	}
	t.Run("named, filled from the image, kept", func(t *testing.T) {
		removed(t, "filled")
		m := spec.Mount{Type: spec.MountVolume, Source: "filled", Target: "/data"}
		_, out := h.output(t, with(box("sh", "-c", "cat /data/from-image; stat -c '%a %u:%g' /data; echo mine >/data/new"), m))
		if out != "image750 1000:1000\n" {
			t.Errorf("first: %q", out)
		}
		if _, out := h.output(t, with(box("sh", "-c", "cat /data/*"), m)); out != "imagemine\n" {
			t.Errorf("second: %q", out)
		}
	})
	t.Run("nocopy and subpath", func(t *testing.T) {
		removed(t, "plain")
		m := spec.Mount{Type: spec.MountVolume, Source: "plain", Target: "/data", NoCopy: true}
		if _, out := h.output(t, with(box("sh", "-c", "ls /data; mkdir -p /data/a/b; echo deep >/data/a/b/f; ln -s /etc /data/evil; ln -s a/b /data/good"), m)); out != "" {
			t.Errorf("nocopy: %q", out)
		}
		m.Subpath = "a/b"
		if _, out := h.output(t, with(box("cat", "/data/f"), m)); out != "deep\n" {
			t.Errorf("subpath: %q", out)
		}
		m.Subpath = "good"
		if _, out := h.output(t, with(box("cat", "/data/f"), m)); out != "deep\n" {
			t.Errorf("subpath by a link: %q", out)
		}
		for _, bad := range []string{"evil", "none"} {
			m.Subpath = bad
			c := h.create(t, with(box("ls", "/data"), m))
			if err := h.e.Start(background(t), c.ID); err == nil || !strings.Contains(err.Error(), bad) {
				t.Errorf("subpath %s: %v", bad, err)
			}
		}
		if left, _ := os.ReadDir(filepath.Join(h.run, "subpaths")); len(left) != 0 {
			t.Errorf("still held: %v", left)
		}
	})
	t.Run("read-only", func(t *testing.T) {
		removed(t, "ro")
		m := spec.Mount{Type: spec.MountVolume, Source: "ro", Target: "/data", ReadOnly: true}
		if _, out := h.output(t, with(box("sh", "-c", "cat /data/from-image; touch /data/x 2>/dev/null || echo no"), m)); out != "imageno\n" {
			t.Errorf("got %q", out)
		}
	})
	t.Run("bind", func(t *testing.T) {
		dir := t.TempDir()
		must(t, os.WriteFile(dir+"/f", []byte("host"), 0o644))
		m := spec.Mount{Type: spec.MountBind, Source: dir, Target: "/b"}
		if _, out := h.output(t, with(box("sh", "-c", "cat /b/f; echo back >/b/g"), m)); out != "host" {
			t.Errorf("got %q", out)
		}
		if data, _ := os.ReadFile(dir + "/g"); string(data) != "back\n" {
			t.Errorf("on the host: %q", data)
		}
		m = spec.Mount{Type: spec.MountBind, Source: dir + "/f", Target: "/etc/one", ReadOnly: true}
		if _, out := h.output(t, with(box("sh", "-c", "cat /etc/one; echo x >/etc/one || echo no"), m)); !strings.Contains(out, "hostno\n") {
			t.Errorf("a file: %q", out)
		}
		m = spec.Mount{Type: spec.MountBind, Source: dir + "/made/here", Target: "/b", CreateHostPath: true}
		h.output(t, with(box("touch", "/b/x"), m))
		if _, err := os.Stat(dir + "/made/here/x"); err != nil {
			t.Error(err)
		}
	})
	t.Run("tmpfs volume", func(t *testing.T) {
		_, err := h.e.CreateVolume(background(t), volume.Volume{Name: "ram", Options: map[string]string{"type": "tmpfs", "o": "size=1m,mode=700"}})
		must(t, err)
		removed(t, "ram")
		m := spec.Mount{Type: spec.MountVolume, Source: "ram", Target: "/r"}
		if _, out := h.output(t, with(box("sh", "-c", "df -k /r | grep -c ' 1024 '; stat -c %a /r"), m)); out != "1\n700\n" {
			t.Errorf("got %q", out)
		}
	})
	t.Run("anonymous: goes with its container, handed down on request", func(t *testing.T) {
		first := h.start(t, Config{Image: "app", Entrypoint: []string{"/bin/sh", "-c"}, Command: []string{"echo kept >/data/new"}, Network: networkMode("none")})
		name := first.Mounts[0].Name
		_, err := h.e.Wait(background(t), first.ID, NotRunning, nil)
		must(t, err)
		if v, err := h.e.Volume(name); err != nil || !v.Anonymous || !first.Mounts[0].Anonymous {
			t.Fatalf("%+v %v", v, err)
		}
		down := spec.Mount{Type: spec.MountVolume, Source: name, Target: "/data", Anonymous: true}
		second := h.start(t, with(box("cat", "/data/new"), down))
		_, err = h.e.Wait(background(t), second.ID, NotRunning, nil)
		must(t, err)
		if out := h.logOf(t, second.ID); out != "kept\n" {
			t.Errorf("handed down: %q", out)
		}
		must(t, h.e.Remove(background(t), first.ID, RemoveOptions{Volumes: true}))
		if _, err := h.e.Volume(name); err != nil {
			t.Errorf("the second one's volume went with the first: %v", err)
		}
		must(t, h.e.Remove(background(t), second.ID, RemoveOptions{Volumes: true}))
		if _, err := h.e.Volume(name); !isNotFound(err) {
			t.Errorf("it stays: %v", err)
		}
		plain := h.create(t, Config{Image: "app"})
		must(t, h.e.Remove(background(t), plain.ID, RemoveOptions{}))
		removed(t, plain.Mounts[0].Name) // without Volumes it stays
		if _, err := h.e.Volume(plain.Mounts[0].Name); err != nil {
			t.Error(err)
		}
	})
	t.Run("in use", func(t *testing.T) {
		removed(t, "used")
		c := h.create(t, with(box("true"), spec.Mount{Type: spec.MountVolume, Source: "used", Target: "/data"}))
		if err := h.e.RemoveVolume(background(t), "used", false); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), c.Name) {
			t.Errorf("got %v", err)
		}
		must(t, h.e.Remove(background(t), c.ID, RemoveOptions{Volumes: true}))
		if _, err := h.e.Volume("used"); err != nil {
			t.Errorf("a named volume went with a container: %v", err)
		}
	})
}

// Creations and removals of the same volume at once: a container that was
// created has its volume.
func TestVolumeRaces(t *testing.T) {
	h := sharedHouse(t)
	var all sync.WaitGroup
	stop := time.Now().Add(500 * time.Millisecond)
	for range 3 {
		all.Go(func() {
			for time.Now().Before(stop) {
				c, err := h.e.Create(background(t), "", Config{Image: "box", Network: networkMode("none"),
					Mounts: []spec.Mount{{Type: spec.MountVolume, Source: "raced", Target: "/data"}}})
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := h.e.Volume("raced"); err != nil {
					t.Errorf("a container without its volume: %v", err)
				}
				if err := h.e.Remove(background(t), c.ID, RemoveOptions{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Go(func() {
		for time.Now().Before(stop) {
			if err := h.e.RemoveVolume(background(t), "raced", true); err != nil && !errdefs.IsConflict(err) {
				t.Error(err)
			}
		}
	})
	all.Wait()
	must(t, h.e.RemoveVolume(background(t), "raced", true))
}

func TestSecrets(t *testing.T) {
	h := sharedHouse(t)
	cfg := box("sh", "-c", "for f in /run/secrets/key /etc/app.conf; do stat -c '%a %u:%g' $f; cat $f; echo; done; (echo x >/run/secrets/key) 2>/dev/null || echo no; grep ' /run/secrets/key ' /proc/self/mountinfo | grep -c tmpfs; exec sleep 1000")
	cfg.Mounts = []spec.Mount{
		{Type: spec.MountFile, Target: "/run/secrets/key", Content: []byte("top secret"), ReadOnly: true, UID: 1000, GID: 2000, Mode: 0o400},
		{Type: spec.MountFile, Target: "/etc/app.conf", Content: []byte("conf"), ReadOnly: true},
	}
	c := h.start(t, cfg)
	want := "400 1000:2000\ntop secret\n444 0:0\nconf\n"
	eventually(t, "it has looked", func() bool { return strings.Contains(h.logOf(t, c.ID), "no\n1\n") })
	if out := h.logOf(t, c.ID); !strings.HasPrefix(out, want) {
		t.Errorf("got %q", out)
	}
	if len(c.Asked.Mounts[0].Content) != 0 {
		t.Error("what was asked for is kept with the secret")
	}
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(h.e.rec.dir(c.ID), "container.json"), &st))
	if st.Mode&0o077 != 0 {
		t.Errorf("others can read the record: %o", st.Mode)
	}
	must(t, h.e.Restart(background(t), c.ID, StopOptions{Signal: "KILL"}))
	must(t, h.e.Remove(background(t), c.ID, RemoveOptions{Force: true}))
	if left, _ := os.ReadDir(h.e.filesDir(c.ID)); len(left) != 0 {
		t.Errorf("secrets are left: %v", left)
	}
}

// An image in use stays until its last container is gone, and its content goes
// with the next collection.
func TestImageInUse(t *testing.T) {
	h := newHouse(t)
	ctx := background(t)
	_, err := h.e.ImportImage(ctx, bytes.NewReader(busyboxTar()), image.ImportOptions{Name: "short", Changes: []string{`CMD ["/bin/echo","short"]`, "LABEL x=y"}})
	must(t, err)
	c := h.create(t, Config{Image: "short", Network: networkMode("none")})
	if _, err := h.e.RemoveImage(ctx, "short", false); err == nil || !strings.Contains(err.Error(), c.ID[:12]) {
		t.Errorf("remove an image in use: %v", err)
	}
	must(t, h.e.Start(ctx, c.ID))
	_, err = h.e.Wait(ctx, c.ID, NotRunning, nil)
	must(t, err)
	if out := h.logOf(t, c.ID); out != "short\n" {
		t.Errorf("output %q", out)
	}
	must(t, h.e.Remove(ctx, c.ID, RemoveOptions{}))
	if pinned, err := h.images.Pinned(ctx); err != nil || len(pinned) != 0 {
		t.Errorf("still pinned: %v %v", pinned, err)
	}
	_, err = h.e.RemoveImage(ctx, "short", false)
	must(t, err)
	if _, err := h.e.Create(ctx, "", Config{Image: "short"}); !isNotFound(err) {
		t.Errorf("create from a removed image: %v", err)
	}
}
