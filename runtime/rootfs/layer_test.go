package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// layerText lists a layer's entries.
func layerText(t *testing.T, b []byte) (out []string) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("%c %s %o %d:%d", h.Typeflag, h.Name, h.Mode, h.Uid, h.Gid)
		if h.Linkname != "" {
			line += " -> " + h.Linkname
		}
		if h.Devmajor != 0 {
			line += fmt.Sprintf(" %d,%d", h.Devmajor, h.Devminor)
		}
		for _, k := range []string{"user.note", "security.capability", "trusted.overlay.opaque", "trusted.other"} {
			if v, ok := h.PAXRecords["SCHILY.xattr."+k]; ok {
				line += fmt.Sprintf(" %s=%q", k, v)
			}
		}
		out = append(out, line+" "+strings.TrimSpace(string(body)))
	}
}

func TestWriteLayer(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: overlay's marks are devices and trusted attributes")
	}
	upper := t.TempDir()
	at := func(name string) string { return filepath.Join(upper, name) }
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	do(os.MkdirAll(at("etc/hidden"), 0o755))
	do(os.WriteFile(at("etc/new"), []byte("new"), 0o640))
	do(os.Chown(at("etc/new"), 5, 6))
	do(os.Link(at("etc/new"), at("again")))
	do(os.WriteFile(at("etc/hosts"), nil, 0o644))
	do(os.WriteFile(at("etc/hostname"), []byte("mine"), 0o644))
	do(unix.Mknod(at("etc/removed"), unix.S_IFCHR, 0))
	do(unix.Setxattr(at("etc/hidden"), "trusted.overlay.opaque", []byte("y"), 0))
	do(unix.Setxattr(at("etc/hidden"), "trusted.other", []byte("kept"), 0))
	do(unix.Setxattr(at("etc"), "trusted.overlay.origin", []byte("x"), 0))
	do(unix.Setxattr(at("etc/new"), "user.note", []byte("a\x00b"), 0))
	do(unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	do(unix.Mkfifo(at("pipe"), 0o600))
	do(os.Symlink("/etc/shadow", at("link")))
	do(os.WriteFile(at("setuid"), nil, 0o755))
	do(unix.Chmod(at("setuid"), 0o4755))
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	do(err)
	defer unix.Close(fd)
	do(unix.Bind(fd, &unix.SockaddrUnix{Name: at("socket")}))

	var buf bytes.Buffer
	n, err := WriteLayer(t.Context(), &buf, upper)
	do(err)
	want := []string{
		`0 again 640 5:6 user.note="a\x00b" new`,
		`5 etc/ 755 0:0 `,
		`2 link 777 0:0 -> /etc/shadow `,
		`3 null 666 0:0 1,3 `,
		`6 pipe 600 0:0 `,
		`0 setuid 4755 0:0 `,
		`5 etc/hidden/ 755 0:0 trusted.other="kept" `,
		`0 etc/hidden/.wh..wh..opq 0 0:0 `,
		`0 etc/hostname 644 0:0 mine`,
		`1 etc/new 640 5:6 -> again `,
		`0 etc/.wh.removed 0 0:0 `,
	}
	got := layerText(t, buf.Bytes())
	for i, line := range got { // mknod is subject to the umask
		got[i] = strings.Replace(line, "null 644", "null 666", 1)
	}
	if d := cmp.Diff(want, got); d != "" || n != len(want) {
		t.Errorf("%d entries, %s", n, d)
	}

	empty := t.TempDir()
	if n, err := WriteLayer(t.Context(), io.Discard, empty); n != 0 || err != nil {
		t.Errorf("%d entries of nothing, %v", n, err)
	}
	for name, mark := range map[string]func(dir string) error{
		"redirect":  func(dir string) error { return unix.Setxattr(dir, "trusted.overlay.redirect", []byte("/x"), 0) },
		"whiteout":  func(dir string) error { return os.WriteFile(filepath.Join(dir, ".wh.x"), nil, 0o600) },
		"attribute": func(dir string) error { return unix.Setxattr(dir, "user.a=b", []byte("1"), 0) },
	} {
		bad := t.TempDir()
		do(os.Mkdir(filepath.Join(bad, "d"), 0o755))
		do(mark(filepath.Join(bad, "d")))
		if _, err := WriteLayer(t.Context(), io.Discard, bad); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := WriteLayer(ended, io.Discard, upper); err == nil {
		t.Error("it went on after its caller had left")
	}
}

// swapping replaces a file by a link out of the layer, and back.
func swapping(t *testing.T, inside, outside string) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			default:
			}
			os.RemoveAll(inside)
			os.Symlink(outside, inside)
			os.Remove(inside)
			os.MkdirAll(inside, 0o755)
			os.WriteFile(filepath.Join(inside, "file"), []byte("inside"), 0o644)
		}
	}()
	return func() { close(done); <-ended }
}

// A container that swaps directories for links while its layer is read gets
// nothing of the host into it.
func TestWriteLayerOfALiar(t *testing.T) {
	upper, host := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "file"), []byte("of the host"), 0o600); err != nil {
		t.Fatal(err)
	}
	stop := swapping(t, filepath.Join(upper, "d"), host)
	defer stop()
	for range 300 {
		var buf bytes.Buffer
		_, err := WriteLayer(t.Context(), &buf, upper)
		if bytes.Contains(buf.Bytes(), []byte("of the host")) {
			t.Fatal("the host's file is in the layer")
		}
		if err != nil && !strings.Contains(err.Error(), "shrank") {
			t.Fatal(err)
		}
	}
}
