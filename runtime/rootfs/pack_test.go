package rootfs

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// plot is a directory that stands for a root filesystem.
type plot struct {
	t    testing.TB
	dir  string
	root *os.File
}

func newPlot(t testing.TB) *plot {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: owners and devices are made")
	}
	dir := t.TempDir()
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return &plot{t, dir, root}
}

func (x *plot) at(name string) string { return filepath.Join(x.dir, name) }

func (x *plot) do(errs ...error) {
	x.t.Helper()
	if err := errors.Join(errs...); err != nil {
		x.t.Fatal(err)
	}
}

// text lists what is in the tree: all that a copy has to keep.
func (x *plot) text() (out []string) {
	x.t.Helper()
	inodes := map[uint64]string{}
	x.do(filepath.WalkDir(x.dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil || p == x.dir {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		rel := strings.TrimPrefix(p, x.dir+"/")
		line := fmt.Sprintf("%q %o %d:%d %d", rel, st.Mode, st.Uid, st.Gid, st.Mtim.Sec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %q", b)
		case unix.S_IFLNK:
			to, _ := os.Readlink(p)
			line += fmt.Sprintf(" -> %q", to)
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" %d", st.Rdev)
		}
		for _, name := range []string{"user.note", "security.capability"} {
			buf := make([]byte, 64)
			if n, err := unix.Lgetxattr(p, name, buf); err == nil {
				line += fmt.Sprintf(" %s=%x", name, buf[:n])
			}
		}
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if first, ok := inodes[st.Ino]; ok {
				line += " = " + first
			} else {
				inodes[st.Ino] = rel
			}
		}
		out = append(out, line)
		return nil
	}))
	return out
}

func (x *plot) pack(name string) []byte {
	x.t.Helper()
	var b bytes.Buffer
	x.do(Pack(&b, x.root, name))
	return b.Bytes()
}

func names(t testing.TB, archive []byte) (out []string) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, h.Name)
	}
}

// capNetBind is cap_net_bind_service=ep, as the kernel writes it.
var capNetBind = []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

// furnish fills a tree with one of everything.
func (x *plot) furnish() {
	x.t.Helper()
	long := strings.Repeat("long-name-", 20)
	x.do(os.MkdirAll(x.at("d/sub"), 0o750), os.Mkdir(x.at("d/"+long), 0o700),
		os.WriteFile(x.at("d/"+long+"/"+long), []byte("far"), 0o600),
		os.WriteFile(x.at("d/file"), []byte("content"), 0o640), os.Chown(x.at("d/file"), 12, 34),
		os.WriteFile(x.at("d/setuid"), []byte("x"), 0o755), unix.Setxattr(x.at("d/setuid"), "security.capability", capNetBind, 0),
		unix.Chmod(x.at("d/setuid"), 0o6755), unix.Setxattr(x.at("d/file"), "user.note", []byte("a\x00b"), 0),
		os.Link(x.at("d/file"), x.at("d/sub/again")), os.Symlink("/etc/passwd", x.at("d/link")), os.Lchown(x.at("d/link"), 1, 2),
		os.Symlink("../../..", x.at("d/up")),
		unix.Mkfifo(x.at("d/fifo"), 0o622), unix.Mknod(x.at("d/null"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))),
		os.WriteFile(x.at("d/\xff\xfe \n\"name"), []byte("bytes"), 0o644),
		os.Chtimes(x.at("d/file"), time.Unix(1e9, 5), time.Unix(1e9, 7)))
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	x.do(err, unix.Bind(fd, &unix.SockaddrUnix{Name: x.at("d/socket")}), unix.Close(fd))
	x.do(os.Chtimes(x.at("d/sub"), time.Time{}, time.Unix(2e9, 0)), os.Chtimes(x.at("d"), time.Time{}, time.Unix(1e8, 0)))
}

// What comes out of one tree and goes into another is the same, but for sockets.
func TestPackAndUnpack(t *testing.T) {
	from, to := newPlot(t), newPlot(t)
	from.furnish()
	to.do(Unpack(to.root, "/", bytes.NewReader(from.pack("/d")), UnpackOptions{}))
	from.do(os.Remove(from.at("d/socket")), os.Chtimes(from.at("d"), time.Time{}, time.Unix(1e8, 0)))
	if d := cmp.Diff(from.text(), to.text()); d != "" {
		t.Error(d)
	}
	// Once more over it: the same again.
	to.do(Unpack(to.root, "/", bytes.NewReader(from.pack("/d")), UnpackOptions{NoOverwrite: true}))
	if d := cmp.Diff(from.text(), to.text()); d != "" {
		t.Errorf("unpacked twice: %s", d)
	}
	owned := newPlot(t)
	owned.do(Unpack(owned.root, "/", bytes.NewReader(from.pack("/d")), UnpackOptions{Owner: &User{UID: 7, GID: 8}}))
	for _, line := range owned.text() {
		if !strings.Contains(line, " 7:8 ") {
			t.Errorf("not of the owner that was asked for: %s", line)
		}
	}
}

func TestPackNames(t *testing.T) {
	x := newPlot(t)
	x.do(os.MkdirAll(x.at("a/b"), 0o755), os.WriteFile(x.at("a/b/c"), nil, 0o644), os.Symlink("a", x.at("l")), os.Symlink("/gone", x.at("dangling")))
	for _, c := range []struct{ path, want string }{
		{"/a", "a/ a/b/ a/b/c"},
		{"a", "a/ a/b/ a/b/c"},
		{"/a/", "a/ a/b/ a/b/c"},
		{"/a/.", "./ ./b/ ./b/c"},
		{"/a/b/c", "c"},
		{"/a/b/../../a/b/c", "c"},
		{"/../../a/b", "b/ b/c"},
		{"/l", "l"},
		{"/l/", "l/ l/b/ l/b/c"},
		{"/l/b", "b/ b/c"},
		{"/dangling", "dangling"},
		{"/", "/ /dangling /l /a/ /a/b/ /a/b/c"},
		{"/.", "./ ./dangling ./l ./a/ ./a/b/ ./a/b/c"},
		{".", "./ ./dangling ./l ./a/ ./a/b/ ./a/b/c"},
	} {
		if got := strings.Join(names(t, x.pack(c.path)), " "); got != c.want {
			t.Errorf("%s: %s, not %s", c.path, got, c.want)
		}
	}
	for path, want := range map[string]error{"/nothing": fs.ErrNotExist, "/dangling/": fs.ErrNotExist, "/a/b/c/": unix.ENOTDIR, "/a/b/c/d": unix.ENOTDIR} {
		if err := Pack(io.Discard, x.root, path); !errors.Is(err, want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	var b bytes.Buffer
	x.do(Export(&b, x.root))
	if got := strings.Join(names(t, b.Bytes()), " "); got != "dangling l a/ a/b/ a/b/c" {
		t.Errorf("export: %s", got)
	}
}

func TestStatIn(t *testing.T) {
	x := newPlot(t)
	x.do(os.MkdirAll(x.at("a/b"), 0o755), os.WriteFile(x.at("a/f"), []byte("12345"), 0o600), unix.Chmod(x.at("a/f"), 0o4711),
		os.Symlink("a/f", x.at("rel")), os.Symlink("/a/b", x.at("a/abs")), os.Symlink("../../../../outside/./x", x.at("a/out")),
		os.Symlink("loop", x.at("loop")), unix.Mkfifo(x.at("fifo"), 0o600))
	for _, c := range []struct{ path, name, mode, link string }{
		{"/a/f", "f", "urwx--x--x", ""}, {"/", "/", "drwxr-xr-x", ""}, {"/a/.", ".", "drwxr-xr-x", ""}, {"/a/", "a", "drwxr-xr-x", ""},
		{"/rel", "rel", "Lrwxrwxrwx", "/a/f"}, {"/a/abs", "abs", "Lrwxrwxrwx", "/a/b"}, {"/a/abs/", "abs", "drwxr-xr-x", ""},
		{"/a/out", "out", "Lrwxrwxrwx", "/outside/x"}, {"/fifo", "fifo", "prw-------", ""},
	} {
		st, err := StatIn(x.root, c.path)
		if err != nil || st.Name != c.name || !strings.HasSuffix(st.Mode.String(), c.mode) || st.LinkTarget != c.link {
			t.Errorf("%s: %+v (%s) %v", c.path, st, st.Mode, err)
		}
	}
	if _, err := StatIn(x.root, "/loop"); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a link to itself: %v", err)
	}
}

// archiveOf writes headers as a tar archive; a file's content is its link name.
func archiveOf(t testing.TB, hs ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range hs {
		content := ""
		if h.Typeflag == tar.TypeReg {
			content, h.Linkname = h.Linkname, ""
		}
		h.Size = int64(len(content))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Whatever an archive says, nothing outside of the root is touched, and nothing
// outside of the directory unless a link that was there leads to it.
func TestUnpackHostile(t *testing.T) {
	const reg, dir, sym, hard = tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink
	for _, c := range []struct {
		what    string
		entries []tar.Header
		refused bool
	}{
		{"up", []tar.Header{{Typeflag: reg, Name: "../x", Linkname: "evil"}}, true},
		{"far up", []tar.Header{{Typeflag: reg, Name: "a/../../../../x", Linkname: "evil"}}, true},
		{"absolute", []tar.Header{{Typeflag: reg, Name: "/canary", Linkname: "evil"}}, false},
		{"through an absolute link", []tar.Header{{Typeflag: sym, Name: "l", Linkname: "OUTSIDE"}, {Typeflag: reg, Name: "l/canary", Linkname: "evil"}}, true},
		{"through a relative link", []tar.Header{{Typeflag: sym, Name: "l", Linkname: "../../../../../../../.."}, {Typeflag: reg, Name: "l/OUTSIDE/canary", Linkname: "evil"}}, false},
		{"directory through a link", []tar.Header{{Typeflag: sym, Name: "l", Linkname: "OUTSIDE"}, {Typeflag: dir, Name: "l/", Mode: 0o777}}, false},
		{"hard link up", []tar.Header{{Typeflag: hard, Name: "h", Linkname: "../canary"}}, true},
		{"hard link, absolute", []tar.Header{{Typeflag: hard, Name: "h", Linkname: "OUTSIDE/canary"}, {Typeflag: reg, Name: "h", Linkname: "evil"}}, true},
		{"hard link through a link", []tar.Header{{Typeflag: sym, Name: "l", Linkname: "OUTSIDE"}, {Typeflag: hard, Name: "h", Linkname: "l/canary"}}, true},
		{"over a link", []tar.Header{{Typeflag: sym, Name: "l", Linkname: "OUTSIDE/canary"}, {Typeflag: reg, Name: "l", Linkname: "evil"}}, false},
		{"unknown kind", []tar.Header{{Typeflag: 'Z', Name: "z"}}, true},
	} {
		outside, x := t.TempDir(), newPlot(t)
		x.do(os.WriteFile(filepath.Join(outside, "canary"), []byte("alive"), 0o644), os.Mkdir(x.at("in"), 0o755), os.WriteFile(x.at("canary"), []byte("alive"), 0o644))
		for i := range c.entries {
			h := &c.entries[i]
			h.Name, h.Linkname = strings.ReplaceAll(h.Name, "OUTSIDE", outside), strings.ReplaceAll(h.Linkname, "OUTSIDE", outside)
			h.Mode |= 0o600
		}
		err := Unpack(x.root, "/in", bytes.NewReader(archiveOf(t, c.entries...)), UnpackOptions{})
		if (err != nil) != c.refused {
			t.Errorf("%s: %v", c.what, err)
		}
		for _, canary := range []string{filepath.Join(outside, "canary"), x.at("canary")} {
			if b, err := os.ReadFile(canary); err != nil || string(b) != "alive" {
				t.Errorf("%s: %s now holds %q, %v", c.what, canary, b, err)
			}
		}
		if left, _ := os.ReadDir(outside); len(left) != 1 {
			t.Errorf("%s: something was made outside: %v", c.what, left)
		}
	}
}

func TestUnpackOver(t *testing.T) {
	for _, c := range []struct {
		there, comes byte
		no           bool // with NoOverwrite
	}{{tar.TypeDir, tar.TypeReg, true}, {tar.TypeReg, tar.TypeDir, true}, {tar.TypeReg, tar.TypeReg, false}, {tar.TypeDir, tar.TypeDir, false}, {tar.TypeSymlink, tar.TypeReg, false}, {tar.TypeSymlink, tar.TypeDir, true}} {
		for _, careful := range []bool{false, true} {
			x := newPlot(t)
			switch c.there {
			case tar.TypeDir:
				x.do(os.MkdirAll(x.at("x/deep/er"), 0o755), os.WriteFile(x.at("x/deep/f"), nil, 0o644))
			case tar.TypeReg:
				x.do(os.WriteFile(x.at("x"), []byte("old"), 0o644))
			default:
				x.do(os.Symlink("/", x.at("x")))
			}
			err := Unpack(x.root, "/", bytes.NewReader(archiveOf(t, tar.Header{Typeflag: c.comes, Name: "x", Linkname: map[byte]string{tar.TypeReg: "new"}[c.comes], Mode: 0o755})), UnpackOptions{NoOverwrite: careful})
			if careful && c.no {
				if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "cannot overwrite") {
					t.Errorf("%c over %c: %v", c.comes, c.there, err)
				}
				continue
			}
			x.do(err)
			st, err := StatIn(x.root, "x")
			if err != nil || st.Mode.IsDir() != (c.comes == tar.TypeDir) || st.Mode&fs.ModeSymlink != 0 {
				t.Errorf("%c over %c: %+v, %v", c.comes, c.there, st, err)
			}
		}
	}
}

// A hole stays one, and a large one costs no memory.
func TestUnpackSparse(t *testing.T) {
	from, to := newPlot(t), newPlot(t)
	f, err := os.Create(from.at("big"))
	from.do(err)
	_, err = f.WriteAt([]byte("middle"), 100<<20)
	from.do(err, f.Truncate(256<<20), f.Close())
	r, w := io.Pipe()
	go func() { w.CloseWithError(Pack(w, from.root, "/big")) }()
	to.do(Unpack(to.root, "/", r, UnpackOptions{}))
	var st unix.Stat_t
	to.do(unix.Stat(to.at("big"), &st))
	if st.Size != 256<<20 || st.Blocks*512 > 1<<20 {
		t.Errorf("%d bytes, %d on the disk", st.Size, st.Blocks*512)
	}
	b := make([]byte, 6)
	f, err = os.Open(to.at("big"))
	to.do(err)
	defer f.Close()
	if _, err := f.ReadAt(b, 100<<20); err != nil || string(b) != "middle" {
		t.Errorf("%q, %v", b, err)
	}
}

// A directory of more names than are held at a time.
func TestPackHugeDirectory(t *testing.T) {
	defer func(usual int) { nameBatch = usual }(nameBatch)
	nameBatch = 1 << 10
	many := 4*nameBatch + nameBatch/8
	dir := t.TempDir()
	for i := range many { // FIFOs, which need not be opened to be made or packed
		if err := unix.Mkfifo(filepath.Join(dir, fmt.Sprint(i)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	r, w := io.Pipe()
	go func() { w.CloseWithError(Pack(w, root, "/")) }()
	seen := map[string]bool{}
	for a := tar.NewReader(r); ; {
		h, err := a.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if seen[h.Name] {
			t.Errorf("%s comes twice", h.Name)
		}
		seen[h.Name] = true
	}
	if len(seen) != many+1 {
		t.Errorf("%d entries of %d", len(seen), many+1)
	}
}

func TestUnpackBroken(t *testing.T) {
	x := newPlot(t)
	good := archiveOf(t, tar.Header{Typeflag: tar.TypeReg, Name: "f", Linkname: strings.Repeat("x", 5000), Mode: 0o644})
	for what, b := range map[string][]byte{"cut off": good[:3000], "no archive": bytes.Repeat([]byte("nonsense"), 200)} {
		if err := Unpack(x.root, "/", bytes.NewReader(b), UnpackOptions{}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	x.do(Unpack(x.root, "/", bytes.NewReader(nil), UnpackOptions{}), Unpack(x.root, "/", bytes.NewReader(append(good, make([]byte, 1<<20)...)), UnpackOptions{}))
	if err := Unpack(x.root, "/f", bytes.NewReader(good), UnpackOptions{}); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("into a file: %v", err)
	}
}

// Law: resolving and packing any path, in a tree of links of any kind, never
// shows anything of outside.
func TestPackStaysInside(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("SECRET-OF-OUTSIDE"), 0o644); err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp("", "gantry-rootfs-")
		if err != nil {
			rt.Fatal(err)
		}
		defer os.RemoveAll(dir)
		targets := []string{outside, "..", "../..", "/", ".", "a", "b", "a/b", "/proc/self/root" + outside, "/proc/1/root", outside + "/secret", strings.Repeat("../", 30) + outside[1:]}
		for _, name := range []string{"a", "b", "c"} {
			switch rapid.IntRange(0, 2).Draw(rt, "kind "+name) {
			case 0:
				_ = os.Mkdir(filepath.Join(dir, name), 0o755)
			default:
				_ = os.Symlink(rapid.SampledFrom(targets).Draw(rt, "target "+name), filepath.Join(dir, name))
			}
		}
		root, err := os.Open(dir)
		if err != nil {
			rt.Fatal(err)
		}
		defer root.Close()
		elem := rapid.SampledFrom([]string{"a", "b", "c", "..", ".", "secret", outside, ""})
		path := strings.Join(rapid.SliceOfN(elem, 1, 6).Draw(rt, "path"), "/")
		var b bytes.Buffer
		_ = Pack(&b, root, path)
		if bytes.Contains(b.Bytes(), []byte("SECRET-OF-OUTSIDE")) {
			rt.Fatalf("%q leads out", path)
		}
	})
}

func TestChanges(t *testing.T) {
	bottom, top, upper := newPlot(t), newPlot(t), newPlot(t)
	mkdir := func(x *plot, names ...string) {
		for _, n := range names {
			x.do(os.MkdirAll(x.at(n), 0o755))
		}
	}
	mkdir(bottom, "same", "touched", "opaque/old", "etc", "was-dir", "deleted-before", "deep/er/est")
	bottom.do(os.WriteFile(bottom.at("etc/file"), []byte("1"), 0o644), os.WriteFile(bottom.at("gone"), nil, 0o644), os.WriteFile(bottom.at("was-file"), nil, 0o644),
		os.WriteFile(bottom.at("deleted-before/x"), nil, 0o644), os.WriteFile(bottom.at("hidden-by-top"), nil, 0o644), os.WriteFile(bottom.at("deep/er/est/f"), nil, 0o644))
	mkdir(top, "etc")
	top.do(unix.Mknod(top.at("deleted-before"), unix.S_IFCHR, 0), unix.Mknod(top.at("hidden-by-top"), unix.S_IFCHR, 0))
	mkdir(upper, "same", "touched", "opaque/new", "etc", "was-file", "deleted-before", "new/dir", "deep/er/est", "proc", "dev/pts")
	upper.do(os.WriteFile(upper.at("etc/file"), []byte("2"), 0o644), os.WriteFile(upper.at("etc/hosts"), nil, 0o644), unix.Mknod(upper.at("gone"), unix.S_IFCHR, 0),
		os.WriteFile(upper.at("was-dir"), nil, 0o644), os.WriteFile(upper.at("deleted-before/x"), nil, 0o644), os.WriteFile(upper.at("hidden-by-top"), nil, 0o644),
		unix.Mknod(upper.at("never-was"), unix.S_IFCHR, 0), unix.Setxattr(upper.at("opaque"), "trusted.overlay.opaque", []byte("y"), 0),
		unix.Mknod(upper.at("deep/er/est/f"), unix.S_IFCHR, 0), os.Symlink("/etc", upper.at("new/link")))
	for _, name := range []string{"same", "touched"} {
		var st unix.Stat_t
		bottom.do(unix.Stat(bottom.at(name), &st))
		upper.do(os.Chtimes(upper.at(name), time.Time{}, time.Unix(st.Mtim.Unix())))
	}
	upper.do(os.Chmod(upper.at("touched"), 0o700))
	got, err := Changes(t.Context(), []string{top.dir, bottom.dir}, upper.dir)
	if err != nil {
		t.Fatal(err)
	}
	var text []string
	for _, c := range got {
		text = append(text, string("CAD"[c.Kind])+" "+c.Path)
	}
	want := []string{"C /deep", "C /deep/er", "C /deep/er/est", "D /deep/er/est/f", "A /deleted-before", "A /deleted-before/x", "C /etc", "C /etc/file", "D /gone",
		"A /hidden-by-top", "A /new", "A /new/dir", "A /new/link", "C /opaque", "A /opaque/new", "C /touched", "C /was-dir", "C /was-file"}
	if d := cmp.Diff(want, text); d != "" {
		t.Error(d)
	}
	if got, err := Changes(t.Context(), []string{bottom.dir}, t.TempDir()); got != nil || err != nil {
		t.Errorf("nothing was changed: %v, %v", got, err)
	}
}
