package cli

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestCopySides(t *testing.T) {
	for _, c := range []struct{ src, dst, want string }{
		{"web:/etc", "out", "web /etc > out"},
		{"in", "web:/etc", "in > web /etc"},
		{"-", "web:rel", "- > web rel"},
		{"web:/x", "-", "web /x > -"},
		{"./a:b", "web:/x", "./a:b > web /x"},
		{"/a:b", "web:/x", "/a:b > web /x"},
		{"dir/a:b", "web:/x", "dir/a:b > web /x"},
		{"web:/a:b", ".", "web /a:b > ."},
		{"a", "b", "one of the two must be in a service: SERVICE:PATH"},
		{"a:/x", "b:/x", "one of the two must be on this machine: copying between services is not supported"},
		{"a:", "b", "a path is missing"},
	} {
		src, dst, err := copySides([]string{c.src, c.dst}, "service")
		got := strings.TrimSpace(src.ref+" "+src.path) + " > " + strings.TrimSpace(dst.ref+" "+dst.path)
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s %s: %s", c.src, c.dst, got)
		}
	}
}

// A copy replaces what has its name, but no device, pipe or socket.
func TestCopyReplacesNoPipe(t *testing.T) {
	d := newDaemon(t)
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	r := run(t, nil, "--host", d.host, "container", "cp", "web:/etc/hosts", pipe)
	if r.code != 1 || !strings.Contains(r.err, "neither a directory nor a regular file") {
		t.Errorf("got %+v", r)
	}
	if fi, err := os.Lstat(pipe); err != nil || fi.Mode()&os.ModeNamedPipe == 0 {
		t.Errorf("the pipe is %v, %v", fi, err)
	}
}

// The table of docker cp.
func TestAim(t *testing.T) {
	const none, file, dir = "none", "file", "dir"
	for _, c := range []struct {
		src   string
		isDir bool
		dst   string
		there string
		want  string
	}{
		{"/a/f", false, "/d", dir, "/d+f"},
		{"/a/f", false, "/d/x", none, "/d+x"},
		{"/a/f", false, "/d/x/", none, "there is no directory /d/x/"},
		{"/a/f", false, "/d/x", file, "/d+x"},
		{"/a/f", false, "/d/x/", file, "there is no directory /d/x/"},
		{"/a/d", true, "/d", dir, "/d+d"},
		{"/a/d/", true, "/d", dir, "/d+d"},
		{"/a/d/.", true, "/d", dir, "/d+"},
		{".", true, "/d", dir, "/d+"},
		{"/", true, "/d", dir, "/d+"},
		{"/a/d", true, "/d/x", none, "/d+x"},
		{"/a/d", true, "/d/x/", none, "/d+x"},
		{"/a/d/.", true, "/d/x", none, "/d+x"},
		{"/a/d", true, "/d/x", file, "/d/x is no directory, and a directory cannot be copied to it"},
	} {
		_, base := splitInside(c.src)
		parent, name := splitInside(c.dst)
		to, err := aim(c.src, base, c.isDir, c.dst, parent, name, thing{c.there != none, c.there == dir})
		got := to.dir + "+" + to.name
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s to %s (%s): %s", c.src, c.dst, c.there, got)
		}
	}
}

func TestPackAndUnpackLocally(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	at := func(name string) string { return filepath.Join(from, "d", name) }
	for _, err := range []error{
		os.MkdirAll(at("sub"), 0o755), os.WriteFile(at("file"), []byte("content"), 0o640), os.Link(at("file"), at("sub/again")),
		os.Symlink("/nowhere", at("link")), unix.Mkfifo(at("fifo"), 0o600), os.WriteFile(at("sub/\xff"), nil, 0o600), os.Chmod(at("sub"), 0o500),
		os.WriteFile(at("holes"), nil, 0o644), os.Truncate(at("holes"), 8<<20),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	n, err := packLocal(&b, filepath.Join(from, "d"), "new", os.Lstat)
	if err != nil || n != 8<<20+7 {
		t.Fatalf("%d bytes, %v", n, err)
	}
	for range 2 { // the second time over what is there
		if _, err := unpackLocal(target{to, "renamed"}, "new", bytes.NewReader(b.Bytes()), false); err != nil {
			t.Fatal(err)
		}
	}
	list := func(dir string) (out []string) {
		if err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			var st unix.Stat_t
			if err := unix.Lstat(p, &st); err != nil {
				return err
			}
			link, _ := os.Readlink(p)
			size := st.Size
			if d.IsDir() {
				size, st.Nlink = 0, 0
			}
			out = append(out, fmt.Sprintf("%q %o %d %d %s %d", strings.TrimPrefix(p, dir), st.Mode, size, st.Nlink, link, st.Mtim.Sec))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return out
	}
	if want, got := list(filepath.Join(from, "d")), list(filepath.Join(to, "renamed")); strings.Join(want, "\n") != strings.Join(got, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(to, "renamed/holes"), &st); err != nil || st.Blocks*512 > 1<<20 {
		t.Errorf("%d bytes on the disk, %v", st.Blocks*512, err)
	}
	os.Chmod(at("sub"), 0o700)
	os.Chmod(filepath.Join(to, "renamed/sub"), 0o700)
}

// A container that lies in its archive comes to nothing outside of the
// directory that is copied to.
func TestUnpackLocallyWhatIsHostile(t *testing.T) {
	for what, hs := range map[string][]tar.Header{
		"up":              {{Typeflag: tar.TypeReg, Name: "../canary"}},
		"under the name":  {{Typeflag: tar.TypeReg, Name: "top/../../canary"}},
		"absolute":        {{Typeflag: tar.TypeReg, Name: "/canary"}},
		"through a link":  {{Typeflag: tar.TypeSymlink, Name: "top/l", Linkname: "../.."}, {Typeflag: tar.TypeReg, Name: "top/l/canary"}},
		"in a link":       {{Typeflag: tar.TypeSymlink, Name: "top", Linkname: ".."}, {Typeflag: tar.TypeReg, Name: "top/canary"}},
		"link to outside": {{Typeflag: tar.TypeSymlink, Name: "top", Linkname: "OUTSIDE"}, {Typeflag: tar.TypeReg, Name: "top/canary"}},
		"hard link":       {{Typeflag: tar.TypeLink, Name: "top/h", Linkname: "../canary"}, {Typeflag: tar.TypeReg, Name: "top/h"}},
		"hard link far":   {{Typeflag: tar.TypeSymlink, Name: "top/l", Linkname: "OUTSIDE"}, {Typeflag: tar.TypeLink, Name: "top/h", Linkname: "top/l/canary"}},
	} {
		outside := t.TempDir()
		dir := filepath.Join(outside, "in")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(outside, "canary"), []byte("alive"), 0o644); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range hs {
			h.Linkname, h.Mode = strings.ReplaceAll(h.Linkname, "OUTSIDE", outside), 0o644
			if h.Typeflag == tar.TypeReg {
				h.Size = 4
			}
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			if h.Typeflag == tar.TypeReg {
				io.WriteString(w, "EVIL")
			}
		}
		w.Close()
		_, err := unpackLocal(target{dir, "x"}, "top", &b, false)
		if b, rerr := os.ReadFile(filepath.Join(outside, "canary")); rerr != nil || string(b) != "alive" {
			t.Errorf("%s: it now holds %q, %v (%v)", what, b, rerr, err)
		}
		if left, _ := os.ReadDir(outside); len(left) != 2 {
			t.Errorf("%s: outside there is now %v", what, left)
		}
		if err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}
