package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	continuity "github.com/containerd/continuity/fs"
	"github.com/containerd/log"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// theirs unpacks as containerd's library does, with the same refusals.
func theirs(ctx context.Context, dir string, layer []byte) error {
	v := &visitor{dir: dir, dirs: map[string]bool{}}
	convert := func(h *tar.Header, p string) (bool, error) {
		base := filepath.Base(p)
		if strings.HasPrefix(base, whiteout) && base != whiteoutAll {
			if _, err := os.Lstat(filepath.Join(filepath.Dir(p), strings.TrimPrefix(base, whiteout))); err == nil {
				return false, nil
			}
		}
		return archive.OverlayConvertWhiteout(h, p)
	}
	_, err := archive.Apply(ctx, dir, bytes.NewReader(layer), archive.WithFilter(v.visit), archive.WithConvertWhiteout(convert))
	return err
}

// look describes all below dir and dir itself: kind, mode, owner, device, size,
// content, target, attributes, which names are one file, and the times that are
// not of today.
func look(t fatal, dir string, times bool) []string {
	t.Helper()
	var out []string
	first := map[uint64]string{}
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		rel := strings.TrimPrefix(p, dir)
		line := fmt.Sprintf("%s %o %d:%d %x", rel, st.Mode, st.Uid, st.Gid, st.Rdev)
		if times && rel != "" {
			ts := []unix.Timespec{st.Mtim, st.Atim}
			if st.Mode&unix.S_IFMT == unix.S_IFLNK {
				ts = ts[:1] // to go through a link is an access
			}
			for _, ts := range ts {
				if when := time.Unix(ts.Unix()); time.Since(when) > time.Hour {
					line += " " + when.UTC().Format(time.RFC3339Nano)
				}
			}
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %q", len(b), b[:min(len(b), 20)])
			if !bytes.Equal(b, bytes.Repeat([]byte("x"), len(b))) {
				line += " damaged"
			}
		case unix.S_IFLNK:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			line += " -> " + to
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
			if first[st.Ino] == "" {
				first[st.Ino] = rel
			}
			line += " is " + first[st.Ino]
		}
		names := make([]byte, 4096)
		n, err := unix.Llistxattr(p, names)
		if err != nil {
			return err
		}
		for name := range strings.SplitSeq(string(names[:n]), "\x00") {
			value := make([]byte, 4096)
			if n, err := unix.Lgetxattr(p, name, value); name != "" && err == nil {
				line += fmt.Sprintf(" %s=%q", name, value[:n])
			}
		}
		out = append(out, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// fatal is a test, rapid's or Go's.
type fatal interface {
	Helper()
	Fatal(args ...any)
}

// replaced tells whether the place of a directory has been taken by a later entry.
// Their library gives the directory's times to whatever is there then.
func replaced(dir string, dirs []string) bool {
	for _, name := range dirs {
		up, base := filepath.Split(filepath.Clean("/" + name))
		parent, err := continuity.RootPath(dir, up)
		if err != nil {
			return true
		}
		if fi, err := os.Lstat(filepath.Join(parent, base)); err != nil || !fi.IsDir() {
			return true
		}
	}
	return false
}

const (
	capability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	xattrACL   = xattrPrefix + "system.posix_acl_"
)

// acl is a list that lets the user 1000 do all, and others nothing.
func acl() string {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range [][3]uint32{{1, 7, 1<<32 - 1}, {2, 7, 1000}, {4, 5, 1<<32 - 1}, {0x10, 7, 1<<32 - 1}, {0x20, 0, 1<<32 - 1}} {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return string(b)
}

// drawLayer makes an archive of few names and all kinds, so that entries meet.
func drawLayer(t *rapid.T) (layer []byte, dirs, text []string) {
	part := rapid.SampledFrom([]string{"a", "b", "c", "l", "l", "m"})
	drawName := func() string {
		return strings.Join(rapid.SliceOfN(part, 1, 3).Draw(t, "name"), "/")
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for range rapid.IntRange(1, 25).Draw(t, "entries") {
		h := &tar.Header{
			Name: drawName(), Format: tar.FormatPAX, PAXRecords: map[string]string{},
			Mode: rapid.SampledFrom([]int64{0o644, 0o755, 0o600, 0o4755, 0o2755, 0o1777, 0o0}).Draw(t, "mode"),
			Uid:  rapid.SampledFrom([]int{0, 0, 7}).Draw(t, "uid"), Gid: rapid.SampledFrom([]int{0, 0, 9}).Draw(t, "gid"),
			ModTime:    time.Unix(rapid.SampledFrom([]int64{0, -5, 1e9, 1.5e9}).Draw(t, "time"), 1234),
			AccessTime: time.Unix(rapid.SampledFrom([]int64{0, 1.1e9}).Draw(t, "accessed"), 99),
		}
		h.Typeflag = rapid.SampledFrom([]byte("0000005555221346w")).Draw(t, "kind")
		switch rapid.IntRange(0, 12).Draw(t, "attribute") {
		case 0:
			h.PAXRecords[xattrPrefix+"user.x"] = "y"
		case 1:
			h.PAXRecords[xattrPrefix+"trusted.x"] = "y"
		case 2:
			h.PAXRecords[xattrPrefix+"trusted.overlay.redirect"] = "/a"
		case 3:
			if h.Typeflag == tar.TypeReg {
				h.PAXRecords[xattrPrefix+"security.capability"] = capability
			}
		case 4:
			if h.Typeflag == tar.TypeDir {
				h.PAXRecords[xattrACL+"default"] = acl()
			}
		case 5:
			if h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeDir {
				h.PAXRecords[xattrACL+"access"] = acl()
			}
		}
		switch h.Typeflag {
		case 'w':
			h.Typeflag = tar.TypeReg
			h.Name = filepath.Join(filepath.Dir(h.Name), rapid.SampledFrom([]string{".wh.a", ".wh.b", ".wh.l", whiteoutAll, whiteoutMeta + "plnk"}).Draw(t, "whiteout"))
		case tar.TypeReg:
			h.Size = rapid.SampledFrom([]int64{0, 1, 30, 30, 5000, smallFile, smallFile + 1, 3*smallFile + 7}).Draw(t, "size")
		case tar.TypeDir:
			h.Name += "/"
			dirs = append(dirs, h.Name)
		case tar.TypeSymlink:
			// Dots behind a name are left out: their library takes both away, also
			// where the name is that of a link, which the kernel follows first.
			h.Linkname = rapid.SampledFrom([]string{"", "/", "../", "../../../", "./"}).Draw(t, "from") + drawName()
		case tar.TypeLink:
			h.Linkname = rapid.SampledFrom([]string{"", "/", "./"}).Draw(t, "from") + drawName()
		case tar.TypeChar, tar.TypeBlock:
			h.Devmajor, h.Devminor = 1, 3
		}
		h.Name = rapid.SampledFrom([]string{"", "", "./", "/"}).Draw(t, "root") + h.Name
		text = append(text, fmt.Sprintf("%c %s -> %q %o %d:%d %d %q", h.Typeflag, h.Name, h.Linkname, h.Mode, h.Uid, h.Gid, h.Size, h.PAXRecords))
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(bytes.Repeat([]byte("x"), int(h.Size))); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes(), dirs, text
}

// TestUnpacksAsContainerd: whatever an archive holds, it becomes what containerd's
// own unpacking makes of it.
func TestUnpacksAsContainerd(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: layers are unpacked with their owners and overlay marks")
	}
	base := t.TempDir()
	ctx := log.WithLogger(t.Context(), libraryLog(slog.New(slog.DiscardHandler)))
	done, failed := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		layer, dirs, text := drawLayer(rt)
		a, err := os.MkdirTemp(base, "ours")
		if err != nil {
			rt.Fatal(err)
		}
		defer os.RemoveAll(a)
		b, err := os.MkdirTemp(base, "theirs")
		if err != nil {
			rt.Fatal(err)
		}
		defer os.RemoveAll(b)
		_, ours := apply(ctx, a, bytes.NewReader(layer))
		want := theirs(ctx, b, layer)
		moved := replaced(b, dirs)
		switch {
		case ours == nil && want != nil && moved:
			// When all is unpacked they look for a directory that the archive
			// itself has replaced.
		case (ours == nil) != (want == nil):
			rt.Fatalf("ours: %v, theirs: %v\n%s", ours, want, strings.Join(text, "\n"))
		case ours != nil:
			failed++
			return
		}
		done++
		if d := cmp.Diff(look(rt, b, !moved), look(rt, a, !moved)); d != "" {
			rt.Fatalf("theirs - ours +: %s\n%s", d, strings.Join(text, "\n"))
		}
	})
	if done == 0 || failed == 0 {
		t.Errorf("%d archives were unpacked and %d refused: both should happen", done, failed)
	}
}

// TestUnpacksWhatContainerdDoesNot: what their library refuses, or has its own
// way with.
func TestUnpacksWhatContainerdDoesNot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: layers are unpacked with their owners and overlay marks")
	}
	sparse := rawHeader("sparse", tar.TypeGNUSparse, 6, "middle")
	copy(sparse[386:], "00000000003\x0000000000006\x0000000000014\x0000000000000\x00") // 3 to 9, and the end at 12
	copy(sparse[257:], "ustar  \x00")
	copy(sparse[483:], "00000000014\x00")
	copy(sparse[148:], "        ")
	sum := 0
	for _, b := range sparse[:512] {
		sum += int(b)
	}
	copy(sparse[148:], fmt.Sprintf("%06o\x00 ", sum))
	for _, c := range []struct {
		name  string
		layer []byte
		want  []string
	}{
		{"old GNU sparse file", append(sparse, make([]byte, 1024)...), []string{"sparse -rw-r--r-- \x00\x00\x00middle\x00\x00\x00"}},
		{"directory's place taken", makeTar(t, entry{name: "d/"}, entry{name: "d/f"}, entry{name: "d", body: "x"}), []string{"d -rw-r--r-- x"}},
		{"a way that changes", makeTar(t, entry{name: "a", kind: tar.TypeSymlink, link: "b/../c"}, entry{name: "a/x"},
			entry{name: "d/e/"}, entry{name: "b", kind: tar.TypeSymlink, link: "d/e"}, entry{name: "a/y"}),
			[]string{"a Lrwxrwxrwx", "b Lrwxrwxrwx", "c drwxr-xr-x", "c/x -rw-r--r-- ", "d drwxr-xr-x", "d/c drwxr-xr-x", "d/c/y -rw-r--r-- ", "d/e drwxr-xr-x"}},
		{"the way to a directory taken", makeTar(t, entry{name: "a/b/"}, entry{name: "a", kind: tar.TypeSymlink, link: "/gone"}), []string{"a Lrwxrwxrwx"}},
	} {
		dir := t.TempDir()
		if _, err := apply(t.Context(), dir, bytes.NewReader(c.layer)); err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if d := cmp.Diff(c.want, tree(t, dir)); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
}

// TestLinkHasTheLastWord: a hard link's owner, mode and times are the file's, also
// when the file is still being written.
func TestLinkHasTheLastWord(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: layers are unpacked with their owners and overlay marks")
	}
	var entries []entry
	for i := range 100 {
		name := fmt.Sprintf("f%d", i)
		entries = append(entries, entry{name: name, body: strings.Repeat("x", 200_000), mode: 0o755, uid: 3},
			entry{name: "of-" + name, kind: tar.TypeLink, link: name, mode: 0o4711, uid: 7})
	}
	layer := makeTar(t, entries...)
	a, b := t.TempDir(), t.TempDir()
	if _, err := apply(t.Context(), a, bytes.NewReader(layer)); err != nil {
		t.Fatal(err)
	}
	if err := theirs(t.Context(), b, layer); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(look(t, b, true), look(t, a, true)); d != "" {
		t.Errorf("theirs - ours +: %s", d)
	}
}

// TestFailureOfOneFileEndsAll: the error of a file that is written beside the
// reading names that file, and no other goroutine or descriptor stays.
func TestFailureOfOneFileEndsAll(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: layers are unpacked with their owners and overlay marks")
	}
	var entries []entry
	for i := range 300 {
		e := entry{name: fmt.Sprintf("d/f%d", i), body: "x"}
		if i == 40 {
			e.pax = map[string]string{xattrPrefix + "security.capability": "no such thing"}
		}
		entries = append(entries, e)
	}
	before, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	_, err = apply(t.Context(), t.TempDir(), bytes.NewReader(makeTar(t, entries...)))
	if err == nil || !strings.Contains(err.Error(), `write entry 41, "d/f40": attribute "security.capability"`) {
		t.Errorf("error: %v", err)
	}
	if after, err := os.ReadDir("/proc/self/fd"); err != nil || len(after) != len(before) {
		t.Errorf("%d descriptors were open, %d are (%v)", len(before), len(after), err)
	}
}
