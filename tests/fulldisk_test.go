package tests

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// smallDisk is a machine whose root directory is a file system of its own, of so
// many megabytes.
func smallDisk(t *testing.T, size int) *machine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: a file system is mounted")
	}
	dir, err := os.MkdirTemp("", "gd-")
	if err != nil {
		t.Fatal(err)
	}
	at, file := filepath.Join(dir, "root"), filepath.Join(dir, "disk")
	// Registered first, done last: the machine is down by then.
	t.Cleanup(func() {
		if err := syscall.Unmount(at, 0); err != nil && !errors.Is(err, syscall.EINVAL) {
			t.Errorf("unmount %s: %v", at, err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"truncate", "-s", fmt.Sprint(size) + "M", file}, {"mkfs.ext4", "-q", "-m", "0", file}, {"mount", "-o", "loop", file, at},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	m := registryMachine(t)
	m.root = at
	m.ok("image", "import", archive(t, "busybox"), "busybox", "--change", `CMD ["sh"]`)
	return m
}

func (m *machine) free() int64 {
	m.t.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(m.root, &st); err != nil {
		m.t.Fatal(err)
	}
	return int64(st.Bavail) * st.Bsize
}

// fill leaves so many bytes free; what it gives back makes room again.
func (m *machine) fill(leave int64) (room func()) {
	m.t.Helper()
	f, err := os.CreateTemp(m.root, "ballast-")
	if err != nil {
		m.t.Fatal(err)
	}
	defer f.Close()
	for chunk := int64(1 << 20); chunk >= 1<<10; chunk /= 4 {
		for m.free() >= leave+chunk {
			if _, err := f.Write(make([]byte, chunk)); err != nil {
				break
			}
			if err := f.Sync(); err != nil {
				break
			}
		}
	}
	return func() {
		if err := os.Remove(f.Name()); err != nil {
			m.t.Error(err)
		}
	}
}

// A full disk: whatever is stored is refused by name, before it begins where its
// size is known; what was there is whole, and goes on when there is room.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	m := smallDisk(t, 96)
	w := &wrecker{m: m, http: m.httpClient(4)}
	defer w.http.CloseIdleConnections()
	base, err := os.ReadFile(archive(t, "busybox"))
	if err != nil {
		t.Fatal(err)
	}
	save := func(name string, data []byte) string {
		path := filepath.Join(m.dir, name)
		write(t, path, string(data))
		return path
	}
	// Noise says its size; zeros are small until they are unpacked.
	zeros := tarOf(t, file("zeros", make([]byte, 40<<20)))
	large := save("large.tar", dockerArchive(t, "large", base, tarOf(t, file("noise", bytes.Repeat([]byte("0123456789abcdef"), 1<<20)))))
	packed := save("packed.tar", gzipped(t, dockerArchive(t, "packed", base, zeros)))
	layers := save("layers.tar", ociArchive(t, "layers", "application/vnd.oci.image.layer.v1.tar+gzip", gzipped, zeros))
	rootfs, small := save("rootfs.tar.gz", gzipped(t, zeros)), save("small.tar", base)
	context := m.source("context", "FROM busybox\nCOPY . /\nCMD [\"true\"]\n", "noise", strings.Repeat("0123456789abcdef", 1<<20))
	growing := m.source("growing", "FROM busybox\nRUN dd if=/dev/zero of=/big bs=1M count=60\n")
	registry := freeAddress(t)
	runBeside(t, registry, filepath.Join(programs, "gantry"), "registry", "serve", "--addr", registry, "--root", filepath.Join(m.dir, "registry"))
	other := registryMachine(t)
	other.makeImage(registry+"/big:1", 20<<20)
	other.ok("image", "push", registry+"/big:1")
	if err := w.container("writer", "busybox", "sh", "-c", "dd if=/dev/zero of=/big bs=1M count=8 && sleep 1000"); err != nil {
		t.Fatal(err)
	}
	m.ok("container", "start", "writer")
	eventually(t, 10*time.Second, "the container has written", func() bool {
		return strings.Contains(m.gantry("container", "diff", "writer").out, "/big")
	})

	stack := filepath.Join(m.dir, "stack.yaml")
	write(t, stack, "name: stack\nservices:\n  idle:\n    image: busybox\n    command: [sleep, infinity]\n    init: true\n    scale: 2\n")
	m.ok("-f", stack, "up", "-d")

	room := m.fill(12 << 20)
	for _, c := range []struct {
		name  string
		args  []string
		words []string
	}{
		{"load of a known size", []string{"image", "load", "-i", large}, []string{"needs 33.56MB or more below " + m.root, "are free", "gantry system prune"}},
		{"load of a packed archive", []string{"image", "load", "-i", packed}, []string{"needs 83.89MB or more below", "are free"}},
		{"load of packed layers", []string{"image", "load", "-i", layers}, []string{`no room for entry 1, "zeros"`, "the disk with " + m.root, "is full", "gantry system prune"}},
		{"import", []string{"image", "import", rootfs, "imported"}, []string{`no room for entry 1, "zeros"`, "the disk with " + m.root, "is full"}},
		{"commit", []string{"container", "commit", "writer", "committed"}, []string{"the layer needs 16.", "are free"}},
		{"pull", []string{"image", "pull", registry + "/big:1"}, []string{"the image needs 4", "are free"}},
		{"a build that copies", []string{"image", "build", "-t", "copied", context}, []string{"the disk with " + m.root, "is full"}},
		{"a build that writes", []string{"image", "build", "-t", "grown", growing}, []string{"the disk with " + m.root, "is full"}},
	} {
		r := m.gantry(c.args...)
		if r.code == 0 {
			t.Errorf("%s: it succeeded: %s", c.name, r)
		}
		for _, word := range c.words {
			if !strings.Contains(r.err, word) {
				t.Errorf("%s: %q is not in %s", c.name, word, r)
			}
		}
		m.intact(w, c.name)
	}
	// Not a byte is left; the daemon dies, and comes back.
	little := m.fill(0)
	m.kill("gantryd")
	eventually(t, 20*time.Second, "the daemon is back", func() bool { return w.send("GET", "/_ping", nil) == nil })
	m.intact(w, "a start without room")
	// What the one before had begun is gone by now.
	time.Sleep(200 * time.Millisecond)
	less := m.fill(0)
	if r := m.gantry("image", "import", small, "more"); r.code == 0 || !strings.Contains(r.err, "is full") && !strings.Contains(r.err, "are free") {
		t.Errorf("without room: %s", r)
	}
	// Removing gives back without taking.
	m.ok("image", "tag", "busybox", "again")
	m.ok("image", "rm", "again")
	m.ok("builder", "prune", "-af")
	last := m.fill(0)
	m.ok("container", "rm", "-f", "writer")
	last()
	m.kill("gantryd") // the next one keeps some room again
	eventually(t, 20*time.Second, "the daemon is back", func() bool { return w.send("GET", "/_ping", nil) == nil })
	last = m.fill(0)
	m.ok("-f", stack, "stop")
	m.ok("-f", stack, "down")
	if left := m.ok("container", "ls", "-aq"); left != "" {
		t.Errorf("containers are left: %s", left)
	}

	last()
	less()
	little()
	room()
	m.ok("image", "load", "-i", large)
	m.ok("image", "rm", "large")
	m.ok("image", "import", small, "more")
	m.ok("image", "build", "-t", "copied", context)
	m.intact(w, "room again")
}

// intact says whether all images that are listed are whole.
func (m *machine) intact(w *wrecker, after string) {
	m.t.Helper()
	text, err := w.answer(context.Background(), "GET", "/images/json?all=1", nil)
	if err != nil || !strings.Contains(string(text), "busybox") {
		m.t.Errorf("after %s: %v: %s", after, err, text)
	}
	for _, id := range strings.Fields(m.ok("image", "ls", "-aq", "--no-trunc")) {
		// To be read an image is held, which takes a page of the database; what
		// a failed build has left goes in the background.
		err := w.whole(id)
		for end := time.Now().Add(5 * time.Second); err != nil && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			err = w.whole(id)
		}
		if err != nil {
			m.t.Errorf("after %s: image %s: %v", after, id, err)
		}
	}
}
