package runtime

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gantry/runtime/spec"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

// entries are a tar archive's, by name, with what they hold.
func entries(r io.Reader) (map[string]string, error) {
	all := map[string]string{}
	for a := tar.NewReader(r); ; {
		hd, err := a.Next()
		if errors.Is(err, io.EOF) {
			_, err = io.Copy(io.Discard, r)
			return all, err
		}
		if err != nil {
			return all, err
		}
		b, err := io.ReadAll(a)
		if err != nil {
			return all, err
		}
		all[hd.Name] = string(b) + hd.Linkname
	}
}

func (h *house) copyOut(t testing.TB, id, path string) (map[string]string, error) {
	t.Helper()
	_, r, err := h.e.GetArchive(background(t), id, path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return entries(r)
}

// tarball is an archive of files, given as name and content.
func tarball(t testing.TB, pairs ...string) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(pairs); i += 2 {
		must(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: pairs[i], Mode: 0o640, Uid: 5, Gid: 6, Size: int64(len(pairs[i+1]))}))
		io.WriteString(w, pairs[i+1])
	}
	must(t, w.Close())
	return &b
}

// A container can be copied from and to in every state, volumes and all.
func TestArchiveInEveryState(t *testing.T) {
	h := sharedHouse(t)
	cfg := box("sleep", "1000")
	secret := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(secret, []byte("of the host"), 0o600))
	cfg.Mounts = []spec.Mount{
		{Type: spec.MountVolume, Target: "/data"}, {Type: spec.MountTmpfs, Target: "/scratch"},
		{Type: spec.MountBind, Source: filepath.Dir(secret), Target: "/bound/deep", ReadOnly: true},
		{Type: spec.MountFile, Target: "/run/config", Content: []byte("inline"), Mode: 0o400},
	}
	c := h.create(t, cfg)
	put := 0
	check := func(state string) {
		t.Helper()
		put++
		name := fmt.Sprint("put-", put)
		for _, dir := range []string{"/seed", "/data"} {
			must(t, h.e.PutArchive(background(t), c.Name, dir, PutOptions{}, tarball(t, name, state)))
		}
		for path, want := range map[string]string{
			"/data/from-image": "image", "/seed/file": "seed", "/seed/" + name: state, "/data/" + name: state,
			"/bound/deep/secret": "of the host", "/run/config": "inline", "/bin/sh": "busybox",
		} {
			got, err := h.copyOut(t, c.ID[:12], path)
			if err != nil || got[filepath.Base(path)] != want {
				t.Errorf("%s: %s is %q, %v", state, path, got, err)
			}
		}
		if got, err := h.copyOut(t, c.ID, "/etc/hostname"); err != nil || got["hostname"] != c.ID[:12]+"\n" {
			t.Errorf("%s: /etc/hostname is %q, %v", state, got, err)
		}
		st, err := h.e.StatPath(background(t), c.ID, "/seed/"+name)
		if err != nil || st.Size != int64(len(state)) || st.Mode != 0o640 {
			t.Errorf("%s: %+v, %v", state, st, err)
		}
		if err := h.e.PutArchive(background(t), c.ID, "/bound/deep", PutOptions{}, tarball(t)); !errdefs.IsPermissionDenied(err) || err.Error() != "mounted volume is marked read-only" {
			t.Errorf("%s: put into a read-only mount: %v", state, err)
		}
		if _, err := h.copyOut(t, c.Name, "/nothing"); !errdefs.IsNotFound(err) || !strings.HasPrefix(err.Error(), "Could not find the file /nothing in container "+c.Name) {
			t.Errorf("%s: nothing there: %v", state, err)
		}
		if err := h.e.PutArchive(background(t), c.ID, "/seed/file", PutOptions{}, tarball(t)); !errdefs.IsInvalidArgument(err) || !strings.HasPrefix(err.Error(), "extraction point is not a directory") {
			t.Errorf("%s: put in a file: %v", state, err)
		}
		r, err := h.e.ExportContainer(background(t), c.ID)
		must(t, err)
		all, err := entries(r)
		r.Close()
		if err != nil || all["seed/"+name] != state {
			t.Errorf("%s: export: %d entries, %v", state, len(all), err)
		}
		for _, hidden := range []string{"data/" + name, "bound/deep/secret", "proc/self"} {
			if _, ok := all[hidden]; ok {
				t.Errorf("%s: the export holds %s", state, hidden)
			}
		}
		for _, empty := range []string{"etc/hosts", "etc/hostname", "etc/resolv.conf", "bound/deep/", "scratch/"} {
			if content, ok := all[empty]; !ok || content != "" {
				t.Errorf("%s: the export has %q as %s (%v)", state, content, empty, ok)
			}
		}
	}
	check("created")
	must(t, h.e.Start(background(t), c.ID))
	check("running")
	if code, out := h.exec(t, c.ID, ExecConfig{Command: []string{"sh", "-c", "cat /seed/put-1 /data/put-2; stat -c %u:%g /seed/put-1"}}, nil); code != 0 || out != "createdrunning5:6\n" {
		t.Errorf("the container sees %q", out)
	}
	must(t, h.e.Pause(background(t), c.ID))
	check("paused")
	must(t, h.e.Unpause(background(t), c.ID))
	must(t, h.e.Stop(background(t), c.ID, StopOptions{Signal: "SIGKILL"}))
	check("exited")
	must(t, h.e.Start(background(t), c.ID))
	check("running again")
}

func TestPutArchiveOptions(t *testing.T) {
	h := sharedHouse(t)
	cfg := box("sleep", "1000")
	cfg.User = "web"
	cfg.Mounts = []spec.Mount{{Type: spec.MountVolume, Target: "/data"}}
	cfg.ReadOnly = true
	c := h.create(t, cfg)
	for range 2 { // not running, running
		if err := h.e.PutArchive(background(t), c.ID, "/etc", PutOptions{}, tarball(t, "x", "")); !errdefs.IsPermissionDenied(err) || err.Error() != "container rootfs is marked read-only" {
			t.Errorf("%v", err)
		}
		// What the words of the path do not say, the kernel does.
		if err := h.e.PutArchive(background(t), c.ID, "/data/../etc/../data", PutOptions{}, tarball(t, "../../etc/x", "")); err == nil {
			t.Error("no error")
		}
		must(t, h.e.PutArchive(background(t), c.ID, "/data", PutOptions{ToUser: true}, tarball(t, "mine", "")))
		_, r, err := h.e.GetArchive(background(t), c.ID, "/data/mine")
		must(t, err)
		hd, err := tar.NewReader(r).Next()
		r.Close()
		if err != nil || hd.Uid != 1000 || hd.Gid != 1000 {
			t.Errorf("%+v, %v", hd, err)
		}
		if err := h.e.PutArchive(background(t), c.ID, "/data/..", PutOptions{NoOverwrite: true}, tarball(t, "data", "")); err == nil {
			t.Error("a file took the place of a directory")
		}
		if !h.inspect(t, c.ID).State.Live() {
			must(t, h.e.Start(background(t), c.ID))
		}
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, err := io.Copy(z, tarball(t, "unpacked", "yes"))
	must(t, errors.Join(err, z.Close()))
	must(t, h.e.PutArchive(background(t), c.ID, "/data", PutOptions{}, &packed))
	if got, err := h.copyOut(t, c.ID, "/data/unpacked"); err != nil || got["unpacked"] != "yes" {
		t.Errorf("%v, %v", got, err)
	}
	if err := h.e.PutArchive(background(t), c.ID, "/data", PutOptions{}, strings.NewReader("\xfd7zXZ\x00....")); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "xz") {
		t.Errorf("xz: %v", err)
	}
	if err := h.e.PutArchive(background(t), c.ID, "/data", PutOptions{}, strings.NewReader(strings.Repeat("no archive ", 100))); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no archive: %v", err)
	}
	if _, err := h.e.StatPath(background(t), "nobody", "/"); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "No such container") {
		t.Errorf("no container: %v", err)
	}
}

// What happens to a container while it is copied breaks off no more than it
// must, and nothing is left of a copy.
func TestArchiveMeanwhile(t *testing.T) {
	h := sharedHouse(t)
	ctx := background(t)
	big := box("sleep", "1000")
	begin := func(c Container) io.ReadCloser {
		t.Helper()
		_, r, err := h.e.GetArchive(ctx, c.ID, "/bin") // more than fits into any pipe
		must(t, err)
		return r
	}
	c := h.start(t, big)
	r := begin(c)
	must(t, h.e.Stop(ctx, c.ID, StopOptions{Signal: "SIGKILL"}))
	if all, err := entries(r); err != nil || len(all["bin/busybox"]) == 0 {
		t.Errorf("stopped: %d entries, %v", len(all), err)
	}
	r.Close()
	r = begin(c)
	must(t, h.e.Start(ctx, c.ID))
	if all, err := entries(r); err != nil || len(all["bin/busybox"]) == 0 {
		t.Errorf("started: %d entries, %v", len(all), err)
	}
	r.Close()

	for _, run := range []bool{true, false} {
		c := h.create(t, big)
		if run {
			must(t, h.e.Start(ctx, c.ID))
		}
		r := begin(c)
		pr, pw := io.Pipe()
		putting := make(chan error, 1)
		go func() { putting <- h.e.PutArchive(ctx, c.ID, "/tmp", PutOptions{}, pr) }()
		if _, err := pw.Write(tarball(t, "f", "x").Bytes()[:512]); err != nil {
			t.Fatal(err)
		}
		must(t, h.e.Remove(ctx, c.ID, RemoveOptions{Force: true}))
		if _, err := io.Copy(io.Discard, r); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "removed") {
			t.Errorf("removed, running %v: get: %v", run, err)
		}
		r.Close()
		go func() { // its client sends on, until nobody listens
			for {
				if _, err := pw.Write(make([]byte, 4096)); err != nil {
					return
				}
			}
		}()
		if err := <-putting; !errdefs.IsConflict(err) {
			t.Errorf("removed, running %v: put: %v", run, err)
		}
		pr.Close()
	}
	short, cancel := context.WithCancel(ctx)
	_, r, err := h.e.GetArchive(short, c.ID, "/bin")
	must(t, err)
	cancel()
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, context.Canceled) {
		t.Errorf("the caller left: %v", err)
	}
	r.Close()
	eventually(t, "no helper is left", func() bool {
		lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, l := range lines {
			if b, _ := os.ReadFile(l); bytes.HasPrefix(b, []byte("gantry-runtime\x00archive\x00")) && parentOf(filepath.Dir(l)) == h.keeper.Pid() {
				return false
			}
		}
		return true
	})
}

func parentOf(proc string) (ppid int) {
	b, _ := os.ReadFile(proc + "/stat")
	if _, rest, ok := strings.Cut(string(b), ") "); ok {
		var state string
		fmt.Sscan(rest, &state, &ppid)
	}
	return ppid
}

func TestChanges(t *testing.T) {
	h := sharedHouse(t)
	changed := func(id string) (out []string) {
		t.Helper()
		found, err := h.e.Changes(background(t), id)
		must(t, err)
		for _, c := range found {
			out = append(out, string("CAD"[c.Kind])+" "+c.Path)
		}
		return out
	}
	c := h.create(t, box("sh", "-c", "rm /seed/file; echo x >/etc/passwd; mkdir /home/new; touch /home/new/f; touch /tmp/t; rm /tmp/t; chmod 700 /root; sleep 1000"))
	if got := changed(c.ID); got != nil {
		t.Errorf("nothing has run: %q", got)
	}
	must(t, h.e.Start(background(t), c.ID))
	want := []string{"C /etc", "C /etc/passwd", "C /home", "A /home/new", "A /home/new/f", "C /root", "C /seed", "D /seed/file", "C /tmp"}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		d := cmp.Diff(want, changed(c.ID))
		if d == "" {
			break
		}
		if time.Now().After(end) {
			t.Fatal(d)
		}
	}
	// The runtime's own places in a directory do not hide that its mode is another.
	other := h.create(t, box("sh", "-c", "chmod 711 /etc"))
	must(t, h.e.Start(background(t), other.ID))
	if _, err := h.e.Wait(background(t), other.ID, NotRunning, nil); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"C /etc"}, changed(other.ID)); d != "" {
		t.Error(d)
	}
	// It is taken apart meanwhile: that is what is told, and not of a directory.
	ct, err := h.e.find(other.ID)
	must(t, err)
	must(t, os.RemoveAll(h.e.overlay(other, nil).Upper))
	must(t, h.e.doom(ct, RemoveOptions{}))
	if _, err := h.e.Changes(background(t), other.ID); !errdefs.IsConflict(err) {
		t.Errorf("changes of one that is being removed: %v", err)
	}
}
