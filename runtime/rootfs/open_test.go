package rootfs

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func openRoot(t testing.TB, dir string) *os.File {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func readIn(t testing.TB, root *os.File, path string) string {
	t.Helper()
	f, err := OpenIn(root, path, unix.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func symlink(t testing.TB, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

// Every way out of the tree that a link or a path can say ends inside.
func TestOpenInStaysInside(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/secret", "outside")
	in := dir + "/root"
	write(t, in+"/secret", "inside")
	write(t, in+"/sub/file", "file")
	symlink(t, "/secret", in+"/absolute")
	symlink(t, "../../../../secret", in+"/sub/relative")
	symlink(t, "../..", in+"/sub/up")
	symlink(t, "/", in+"/sub/slash")
	symlink(t, dir, in+"/host")
	root := openRoot(t, in)
	for _, path := range []string{"secret", "/secret", "../secret", "/../../secret", "absolute", "sub/relative", "sub/up/secret", "sub/slash/secret", "sub/up/../secret"} {
		if got := readIn(t, root, path); got != "inside" {
			t.Errorf("%s read %q", path, got)
		}
	}
	if f, err := OpenIn(root, "host/secret", unix.O_RDONLY); !isNotExist(err) {
		t.Errorf("a link to a host directory: %v, %v", f, err)
	}
	if _, err := OpenIn(root, "", unix.O_DIRECTORY|unix.O_RDONLY); err != nil {
		t.Errorf("the root itself: %v", err)
	}
	if f, err := OpenIn(root, "../../made", unix.O_CREAT|unix.O_WRONLY); err != nil {
		t.Error(err)
	} else {
		f.Close()
	}
	if _, err := os.Stat(in + "/made"); err != nil {
		t.Errorf("made elsewhere: %v", err)
	}
}

func TestOpenInRefusesMagicLinks(t *testing.T) {
	secret := openRoot(t, t.TempDir())
	defer secret.Close()
	root := openRoot(t, "/")
	_, err := OpenIn(root, filepath.Join("/proc/self/fd", "0"), unix.O_RDONLY)
	if !errors.Is(err, unix.ELOOP) {
		t.Errorf("got %v, want %v", err, unix.ELOOP)
	}
}

const (
	passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:\ntwin:x:1000:7::/home/twin:\nodd:x:2:3::\n"
	group  = "root:x:0:root\nbin:x:1:root,daemon\napp:x:1001:\nstaff:x:50:app\nvideo:x:44:app\n"
)

func TestLookupUser(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/etc/passwd", passwd)
	write(t, dir+"/etc/group", group)
	root, empty := openRoot(t, dir), openRoot(t, t.TempDir())
	for _, test := range []struct {
		root   *os.File
		name   string
		groups []string
		want   User
		says   string // of the error
	}{
		{root: root, name: "", want: User{Groups: []uint32{0, 1}, Home: "/root"}},
		{root: root, name: "0", want: User{Groups: []uint32{0, 1}, Home: "/root"}},
		{root: root, name: "app", want: User{UID: 1000, GID: 1001, Groups: []uint32{50, 44}, Home: "/home/app"}},
		{root: root, name: "1000", want: User{UID: 1000, GID: 1001, Groups: []uint32{50, 44}, Home: "/home/app"}},
		{root: root, name: "app:video", want: User{UID: 1000, GID: 44, Home: "/home/app"}},
		{root: root, name: "app:99", want: User{UID: 1000, GID: 99, Home: "/home/app"}},
		{root: root, name: "77", want: User{UID: 77, Home: "/"}},
		{root: root, name: "77:88", want: User{UID: 77, GID: 88, Home: "/"}},
		{root: root, name: "odd", want: User{UID: 2, GID: 3, Home: "/"}},
		{root: root, name: "77:88", groups: []string{"video", "9", "44", "staff"}, want: User{UID: 77, GID: 88, Groups: []uint32{44, 9, 50}, Home: "/"}},
		{root: root, name: "app", groups: []string{"video"}, want: User{UID: 1000, GID: 1001, Groups: []uint32{50, 44}, Home: "/home/app"}},
		{root: root, name: "nobody", says: `user "nobody" is not in the container's /etc/passwd`},
		{root: root, name: "app:wheel", says: `group "wheel" is not in the container's /etc/group`},
		{root: root, name: "-1", says: "user"},
		{root: root, name: "3000000000", says: "ids go from 0 to 2147483647"},
		{root: root, name: "app", groups: []string{"wheel"}, says: `further group "wheel" is not in`},
		{root: root, name: "app", groups: []string{""}, says: "further group is empty"},
		{root: root, name: "app", groups: []string{"3000000000"}, says: "ids go from 0"},
		{root: empty, name: "", want: User{Home: "/"}},
		{root: empty, name: "5:6", groups: []string{"7"}, want: User{UID: 5, GID: 6, Groups: []uint32{7}, Home: "/"}},
		{root: empty, name: "app", says: "not in the container's /etc/passwd"},
	} {
		got, err := LookupUser(test.root, test.name, test.groups)
		if test.says != "" {
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%q %v: error %v, want one that says %q", test.name, test.groups, err, test.says)
			}
			continue
		}
		if diff := cmp.Diff(test.want, got); err != nil || diff != "" {
			t.Errorf("%q %v: %v\n%s", test.name, test.groups, err, diff)
		}
	}
}

// An image's maker chooses what etc/passwd is.
func TestLookupUserOfAHostileImage(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	write(t, dir+"/passwd", "evil:x:0:0::/:\n")
	in := mkdir(t, dir+"/root/etc")
	root := openRoot(t, dir+"/root")

	symlink(t, "../../passwd", in+"/passwd")
	if u, err := LookupUser(root, "evil", nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("read a passwd file outside: %+v, %v", u, err)
	}
	for kind, make := range map[string]func(path string) error{
		"fifo":   func(path string) error { return unix.Mkfifo(path, 0o644) },
		"zero":   func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o644, int(unix.Mkdev(1, 5))) },
		"folder": func(path string) error { return os.Mkdir(path, 0o755) },
		"huge":   func(path string) error { return errors.Join(os.WriteFile(path, nil, 0o644), os.Truncate(path, 1<<40)) },
	} {
		os.RemoveAll(in + "/passwd")
		if err := make(in + "/passwd"); err != nil {
			t.Fatal(err)
		}
		if _, err := LookupUser(root, "app", nil); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", kind, err)
		}
	}
	os.RemoveAll(in + "/passwd")
	write(t, in+"/passwd", "app:x:-5:4294967295::/:\n")
	if u, err := LookupUser(root, "app", nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("negative ids: %+v, %v", u, err)
	}
}
