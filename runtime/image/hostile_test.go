package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// TestHostileLayers unpacks what tries to leave its directory. Beside the store
// lies a canary tree that no archive may touch.
func TestHostileLayers(t *testing.T) {
	base := t.TempDir()
	canary := filepath.Join(base, "canary")
	if err := os.Mkdir(canary, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(canary, "file"), []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := tree(t, canary)
	for _, c := range []struct {
		name    string
		entries []entry
		refused string   // part of the error, or
		want    []string // the tree
	}{
		{name: "dots", entries: []entry{{name: "../../../../canary/x", body: "evil"}}, refused: `"../../../../canary/x" climbs out`},
		{name: "dots inside", entries: []entry{{name: "a/b/../../c", body: "fine"}}, want: []string{"c -rw-r--r-- fine"}},
		{name: "absolute", entries: []entry{{name: canary + "/x", body: "evil"}}, want: nil},
		{name: "symlink then through it", entries: []entry{
			{name: "out", kind: tar.TypeSymlink, link: canary}, {name: "out/x", body: "evil"}}},
		{name: "relative symlink then through it", entries: []entry{
			{name: "out", kind: tar.TypeSymlink, link: "../../../../../../.." + canary}, {name: "out/x", body: "evil"}}},
		{name: "chain of symlinks", entries: []entry{
			{name: "a", kind: tar.TypeSymlink, link: ".."}, {name: "b", kind: tar.TypeSymlink, link: "a/.."},
			{name: "c", kind: tar.TypeSymlink, link: "b/../.." + canary}, {name: "c/x", body: "evil"}}},
		{name: "directory over symlink", entries: []entry{
			{name: "out", kind: tar.TypeSymlink, link: canary}, {name: "out/", mode: 0o777}, {name: "out/x", body: "evil"}},
			want: []string{"out drwxrwxrwx", "out/x -rw-r--r-- evil"}},
		{name: "file over symlink", entries: []entry{
			{name: "out", kind: tar.TypeSymlink, link: canary + "/file"}, {name: "out", body: "evil"}},
			want: []string{"out -rw-r--r-- evil"}},
		{name: "hard link to outside", entries: []entry{
			{name: "x", kind: tar.TypeLink, link: "../../../canary/file"}}, refused: "hard link"},
		{name: "absolute hard link", entries: []entry{
			{name: "x", kind: tar.TypeLink, link: canary + "/file"}}, refused: "no such file"},
		{name: "hard link through symlink", entries: []entry{
			{name: "out", kind: tar.TypeSymlink, link: canary}, {name: "x", kind: tar.TypeLink, link: "out/file"}, {name: "x", body: "evil"}},
			refused: "no such file"},
		{name: "hard link to symlink", entries: []entry{
			{name: "out", kind: tar.TypeSymlink, link: canary + "/file"}, {name: "x", kind: tar.TypeLink, link: "out", mode: 0o777},
			{name: "x", body: "evil"}}},
		{name: "whiteout of outside", entries: []entry{{name: "a/.wh...", body: ""}}, refused: ".wh..."},
		{name: "whiteout through symlink", entries: []entry{
			{name: "out", kind: tar.TypeSymlink, link: canary}, {name: "out/.wh.file"}}},
		{name: "opaque through symlink", entries: []entry{
			{name: "out", kind: tar.TypeSymlink, link: canary}, {name: "out/.wh..wh..opq"}}},
		{name: "overlay's own attributes", entries: []entry{
			{name: "d/", pax: map[string]string{"SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.user.ok": "1"}}},
			want: []string{"d drwxr-xr-x"}},
		{name: "device", entries: []entry{{name: "null", kind: tar.TypeChar, mode: 0o666}}, want: []string{"null Dcrw-rw-rw-"}},
		{name: "the root itself", entries: []entry{{name: "/", mode: 0o777}, {name: "..//", mode: 0o777}}, refused: "climbs out"},
		{name: "file for a directory", entries: []entry{{name: "a", body: "x"}, {name: "a/b", body: "y"}}, refused: "not a directory"},
		{name: "lie about the size", entries: []entry{{name: "big", size: 1 << 40, body: "small"}}, refused: "the disk has room for"},
		{name: "endless name", entries: []entry{{name: strings.Repeat("a/", 500_000) + "x"}}, refused: "more than the 4096"},
		{name: "whiteout twice", entries: []entry{{name: ".wh.f"}, {name: ".wh.f"}}, want: []string{"f Dc---------"}},
		{name: "whiteout of its own file", entries: []entry{{name: "f", body: "x"}, {name: ".wh.f"}}, want: []string{"f -rw-r--r-- x"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t, filepath.Join(base, strings.ReplaceAll(c.name, " ", "-")))
			img, err := s.Import(t.Context(), bytes.NewReader(makeTar(t, c.entries...)), ImportOptions{Name: "x"})
			if d := cmp.Diff(before, tree(t, canary)); d != "" {
				t.Fatalf("the canary changed: %s", d)
			}
			if st, err := os.Stat(canary); err != nil || st.Mode().Perm() != 0o755 {
				t.Errorf("mode of the canary: %v %v", st.Mode(), err)
			}
			if n, _ := unix.Listxattr(canary, make([]byte, 100)); n > 0 {
				t.Errorf("the canary has attributes")
			}
			if c.refused != "" {
				if err == nil || !strings.Contains(err.Error(), c.refused) || strings.Contains(err.Error(), s.dir) {
					t.Fatalf("%v, want %q", err, c.refused)
				}
				mustBeClean(t, s)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			dirs, err := s.Lowers(t.Context(), img.ID)
			if err != nil {
				t.Fatal(err)
			}
			if c.want != nil {
				if d := cmp.Diff(c.want, tree(t, dirs[0])); d != "" {
					t.Error(d)
				}
			}
			if c.name == "overlay's own attributes" {
				if _, err := unix.Getxattr(dirs[0]+"/d", "trusted.overlay.redirect", nil); err != unix.ENODATA {
					t.Errorf("trusted.overlay.redirect: %v", err)
				}
				if _, err := unix.Getxattr(dirs[0]+"/d", "user.ok", nil); err != nil {
					t.Errorf("user.ok: %v", err)
				}
			}
			mustBeClean(t, s)
		})
	}
}

// TestSparseBomb: an archive of a few kilobytes with a file of terabytes.
func TestSparseBomb(t *testing.T) {
	s := newStore(t)
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		t.Fatal(err)
	}
	b := append(rawHeader("pax", 'x', 0, "22 GNU.sparse.major=1\n", "22 GNU.sparse.minor=0\n",
		"24 GNU.sparse.name=bomb\n", "37 GNU.sparse.realsize=1099511627776\n"),
		rawHeader("GNUSparseFile.0/bomb", '0', 0, "1\n1099511627776\n0\n", strings.Repeat("\x00", 494))...)
	b = append(b, make([]byte, 1024)...)
	_, err := s.Import(t.Context(), bytes.NewReader(b), ImportOptions{Name: "x"})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), `"bomb"`) {
		t.Fatalf("error: %v", err)
	}
	mustBeClean(t, s)
}

// rawHeader is an entry that archive/tar would refuse to write.
func rawHeader(name string, kind byte, size int, body ...string) []byte {
	data := strings.Join(body, "")
	if size == 0 {
		size = len(data)
	}
	h := make([]byte, 512)
	copy(h, name)
	copy(h[100:], "0000644\x000000000\x000000000\x00")
	copy(h[124:], fmt.Sprintf("%011o\x00%011o\x00", size, 0))
	h[156] = kind
	copy(h[257:], "ustar\x0000")
	copy(h[148:], "        ")
	sum := 0
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	h = append(h, data...)
	return append(h, make([]byte, (512-len(h)%512)%512)...)
}

// TestHostileInheritance: a directory that a layer implies behind a symbolic
// link of its own does not take the owner and the mode of the one below to
// where the link leads.
func TestHostileInheritance(t *testing.T) {
	base := t.TempDir()
	canary := filepath.Join(base, "canary", "etc")
	if err := os.MkdirAll(canary, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, link := range map[string]string{
		"absolute": filepath.Dir(canary),
		"climbing": strings.Repeat("../", 30) + filepath.Dir(canary)[1:],
	} {
		s := openStore(t, filepath.Join(base, name))
		below := makeTar(t, entry{name: "a/", mode: 0o777}, entry{name: "a/etc/", mode: 0o777, pax: map[string]string{"SCHILY.xattr.user.evil": "1"}})
		above := makeTar(t, entry{name: "a", kind: tar.TypeSymlink, link: link}, entry{name: "a/etc/x", body: "evil"})
		a := &archiveMaker{t: t}
		d := a.image(runtime.GOARCH, same, ocispec.MediaTypeImageLayer, below, above)
		if _, err := s.Load(t.Context(), bytes.NewReader(a.layout(named(d, "x"))), nil); err != nil {
			t.Log(err)
		}
		if st, err := os.Stat(canary); err != nil || st.Mode().Perm() != 0o755 {
			t.Errorf("%s: mode of the canary: %v %v", name, st.Mode(), err)
		}
		if n, _ := unix.Listxattr(canary, make([]byte, 100)); n > 0 {
			t.Errorf("%s: the canary has attributes", name)
		}
	}
}
