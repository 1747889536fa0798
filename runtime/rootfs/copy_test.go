package rootfs

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// fileCapability is cap_net_bind_service=ep, as the kernel stores it.
var fileCapability = []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

// accessACL is u::rw-,u:1234:rwx,g::r--,m::rwx,o::r--.
var accessACL, _ = hex.DecodeString("02000000" + "01000600ffffffff" + "02000700d2040000" + "04000400ffffffff" + "10000700ffffffff" + "20000400ffffffff")

// tree fills dir with one of everything that a filesystem can hold.
func tree(t testing.TB, dir string) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir+"/plain", "content")
	write(t, dir+"/empty", "")
	write(t, dir+"/setuid", "x")
	check(os.Chown(dir+"/setuid", 1000, 1001))
	check(os.Chmod(dir+"/setuid", 0o4755|os.ModeSetuid))
	write(t, dir+"/capable", "x")
	check(unix.Setxattr(dir+"/capable", "security.capability", fileCapability, 0))
	check(unix.Setxattr(dir+"/capable", "user.note", []byte("hello"), 0))
	write(t, dir+"/acl", "x")
	check(unix.Setxattr(dir+"/acl", "system.posix_acl_access", accessACL, 0))
	write(t, dir+"/deep/er/file", "x")
	check(os.Chmod(dir+"/deep", 0o1777|os.ModeSticky))
	check(os.Chown(dir+"/deep/er", 33, 44))
	check(unix.Setxattr(dir+"/deep/er", "trusted.mine", []byte("kept"), 0))
	check(os.Link(dir+"/plain", dir+"/deep/linked"))
	check(os.Link(dir+"/plain", dir+"/zlinked"))
	symlink(t, "/etc/shadow", dir+"/link")
	check(os.Link(dir+"/link", dir+"/linked-link"))
	symlink(t, "../../../../..", dir+"/deep/out")
	check(os.Lchown(dir+"/link", 5, 6))
	check(unix.Lsetxattr(dir+"/link", "trusted.of-a-link", []byte("x"), 0))
	check(unix.Mkfifo(dir+"/fifo", 0o640))
	check(unix.Mknod(dir+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	check(unix.Mknod(dir+"/loop", unix.S_IFBLK|0o660, int(unix.Mkdev(7, 0))))
	check(unix.Mknod(dir+"/socket", unix.S_IFSOCK|0o755, 0))
	write(t, dir+"/"+strings.Repeat("n", 255), "long name")
	write(t, dir+"/a\nb\x01\xff", "odd name")

	sparse, err := os.Create(dir + "/sparse")
	check(err)
	_, err = sparse.WriteAt([]byte("start"), 0)
	check(err)
	_, err = sparse.WriteAt(bytes.Repeat([]byte("middle"), 2000), 5<<20)
	check(err)
	check(sparse.Truncate(16 << 20))
	check(sparse.Close())

	random := make([]byte, 3<<20+17)
	rand.Read(random)
	check(os.WriteFile(dir+"/random", random, 0o600))

	check(os.Chown(dir, 70, 71))
	check(os.Chmod(dir, 0o750))
	old := time.Unix(1_000_000_000, 123456789)
	check(filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		ts := []unix.Timespec{unix.NsecToTimespec(old.UnixNano()), unix.NsecToTimespec(old.UnixNano() + int64(len(path)))}
		return errors.Join(err, unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW))
	}))
}

// describe says all that is known of every file below dir, by relative path.
func describe(t testing.TB, dir string) map[string]string {
	t.Helper()
	all, names := map[string]string{}, map[uint64][]string{}
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		text := fmt.Sprintf("mode %#o owner %d:%d", st.Mode, st.Uid, st.Gid)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			text += fmt.Sprintf(" size %d mtime %v content %x", st.Size, st.Mtim, sha256.Sum256([]byte(read(t, path))))
		case unix.S_IFLNK:
			target, _ := os.Readlink(path)
			text += fmt.Sprintf(" mtime %v -> %s", st.Mtim, target)
		default:
			text += fmt.Sprintf(" mtime %v device %#x", st.Mtim, st.Rdev)
		}
		list := make([]byte, 4096)
		n, err := unix.Llistxattr(path, list)
		if err != nil {
			return err
		}
		var attrs []string
		for name := range strings.SplitSeq(strings.TrimRight(string(list[:n]), "\x00"), "\x00") {
			if name == "" || name == "trusted.overlay.opaque" {
				continue
			}
			value := make([]byte, 4096)
			n, err := unix.Lgetxattr(path, name, value)
			if err != nil {
				return err
			}
			attrs = append(attrs, fmt.Sprintf("%s=%x", name, value[:n]))
		}
		slices.Sort(attrs)
		text += fmt.Sprint(" ", attrs)
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			names[st.Ino] = append(names[st.Ino], rel)
		}
		all[rel] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, same := range names {
		for _, name := range same {
			all[name] += fmt.Sprint(" names ", same)
		}
	}
	return all
}

func TestCopyTreeKeepsEverything(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	from := mkdir(t, dir+"/layer/data")
	tree(t, from)
	want := describe(t, from)
	if len(want) < 20 {
		t.Fatalf("only %d files to copy", len(want))
	}
	single, err := Overlay{Lower: []string{dir + "/layer"}}.Detached()
	if err != nil {
		t.Fatal(err)
	}
	defer single.Close()
	union, err := Overlay{Lower: append(layers(t, dir, 1), dir+"/layer")}.Detached()
	if err != nil {
		t.Fatal(err)
	}
	defer union.Close()
	for name, root := range map[string]*os.File{"single layer": single, "union": union} {
		t.Run(name, func(t *testing.T) {
			for _, flag := range []int{unix.O_RDONLY, unix.O_PATH} {
				src, err := OpenIn(root, "/data", flag|unix.O_DIRECTORY)
				if err != nil {
					t.Fatal(err)
				}
				defer src.Close()
				dst := filepath.Join(t.TempDir(), "copy")
				if err := CopyTree(dst, src); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, describe(t, dst)); diff != "" {
					t.Error(diff)
				}
				var st unix.Stat_t
				if err := unix.Stat(dst+"/sparse", &st); err != nil {
					t.Fatal(err)
				}
				if st.Blocks*512 > 1<<20 {
					t.Errorf("the sparse file takes %d KiB on disk", st.Blocks/2)
				}
			}
		})
	}
}

func TestCopyTreeToAnotherFilesystem(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	from := mkdir(t, dir+"/from")
	tree(t, from)
	to := mkdir(t, dir+"/to")
	if err := unix.Mount("tmpfs", to, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer Unmount(to)
	if err := CopyTree(to, openRoot(t, from)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(describe(t, from), describe(t, to)); diff != "" {
		t.Error(diff)
	}
}

func TestCopyTreeLeavesOverlayMarksBehind(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	from := mkdir(t, dir+"/from")
	write(t, from+"/sub/file", "x")
	if err := unix.Setxattr(from+"/sub", "trusted.overlay.opaque", []byte("y"), 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(from+"/gone", unix.S_IFCHR, 0); err != nil {
		t.Fatal(err)
	}
	if err := CopyTree(dir+"/to", openRoot(t, from)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir + "/to/gone"); !isNotExist(err) {
		t.Errorf("the whiteout was copied: %v", err)
	}
	if _, err := unix.Getxattr(dir+"/to/sub", "trusted.overlay.opaque", nil); !errors.Is(err, unix.ENODATA) {
		t.Errorf("the opaque mark was copied: %v", err)
	}
	read(t, dir+"/to/sub/file")
}

func TestCopyTreeDoesNotCrossMounts(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	from := mkdir(t, dir+"/from/other")
	if err := unix.Mount("tmpfs", from, "tmpfs", 0, "mode=0700"); err != nil {
		t.Fatal(err)
	}
	defer Unmount(from)
	write(t, from+"/file", "x")
	if err := CopyTree(dir+"/to", openRoot(t, dir+"/from")); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir + "/to/other"); err != nil || len(entries) != 0 {
		t.Errorf("%d entries, %v: want an empty directory", len(entries), err)
	}
}

func TestCopyTreeRefusesWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	from := mkdir(t, dir+"/from")
	write(t, dir+"/to/file", "mine")
	if err := CopyTree(dir+"/to", openRoot(t, from)); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("into a full directory: %v", err)
	}
	if got := read(t, dir+"/to/file"); got != "mine" {
		t.Errorf("the file now says %q", got)
	}
	symlink(t, mkdir(t, dir+"/elsewhere"), dir+"/link")
	if err := CopyTree(dir+"/link", openRoot(t, from)); err == nil {
		t.Error("copied through a symbolic link")
	}
}

func BenchmarkCopyTree(b *testing.B) {
	needRoot(b)
	dir := b.TempDir()
	for i := range 1000 {
		write(b, fmt.Sprintf("%s/from/%d/%d", dir, i%20, i), strings.Repeat("x", 4096))
	}
	src := openRoot(b, dir+"/from")
	for i := 0; b.Loop(); i++ {
		if err := CopyTree(fmt.Sprintf("%s/to%d", dir, i), src); err != nil {
			b.Fatal(err)
		}
	}
}
