package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
}

// layers makes n directories below dir, the topmost first. Each holds a file
// of its own name and the file "top", which says what the layer's name is.
func layers(t testing.TB, dir string, n int) []string {
	t.Helper()
	var lower []string
	for i := range n {
		layer := filepath.Join(dir, fmt.Sprintf("layer%02d", i))
		write(t, filepath.Join(layer, fmt.Sprintf("only%02d", i)), "x")
		write(t, filepath.Join(layer, "top"), fmt.Sprintf("%02d", i))
		lower = append(lower, layer)
	}
	return lower
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t testing.TB, path string) string {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// mounted mounts o below a directory of the test's and takes it off at the end.
func mounted(t testing.TB, o Overlay) string {
	t.Helper()
	target := mkdir(t, filepath.Join(t.TempDir(), "rootfs"))
	if err := o.Mount(target); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Unmount(target); err != nil {
			t.Error(err)
		}
	})
	return target
}

func read(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestUnionShowsEveryLayerAndTheTopmostFile(t *testing.T) {
	needRoot(t)
	for _, n := range []int{1, 2, 60} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			dir := t.TempDir()
			o := Overlay{Lower: layers(t, dir, n), Upper: mkdir(t, dir+"/upper"), Work: mkdir(t, dir+"/work")}
			root := mounted(t, o)
			for i := range n {
				read(t, filepath.Join(root, fmt.Sprintf("only%02d", i)))
			}
			if got := read(t, root+"/top"); got != "00" {
				t.Errorf("top is of layer %s, want 00", got)
			}
			write(t, root+"/new", "written")
			if got := read(t, dir+"/upper/new"); got != "written" {
				t.Errorf("upper holds %q", got)
			}

			view := mounted(t, Overlay{Lower: o.Lower})
			if got := read(t, view+"/top"); got != "00" {
				t.Errorf("view: top is of layer %s, want 00", got)
			}
			if err := os.WriteFile(view+"/new", nil, 0o644); !errors.Is(err, unix.EROFS) {
				t.Errorf("writing to a view: %v, want %v", err, unix.EROFS)
			}
		})
	}
}

func TestReadOnlyForbidsWritingToAnUpper(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	root := mounted(t, Overlay{Lower: layers(t, dir, 1), Upper: mkdir(t, dir+"/upper"), Work: mkdir(t, dir+"/work"), ReadOnly: true})
	if err := os.WriteFile(root+"/new", nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("got %v, want %v", err, unix.EROFS)
	}
}

func TestWhiteoutsAndOpaqueDirectoriesHide(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	low, high := dir+"/low", dir+"/high"
	write(t, low+"/gone", "x")
	write(t, low+"/opaque/below", "x")
	write(t, high+"/opaque/above", "x")
	if err := unix.Mknod(high+"/gone", unix.S_IFCHR, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(high+"/opaque", "trusted.overlay.opaque", []byte("y"), 0); err != nil {
		t.Fatal(err)
	}
	root := mounted(t, Overlay{Lower: []string{high, low}})
	for _, hidden := range []string{"gone", "opaque/below"} {
		if _, err := os.Lstat(filepath.Join(root, hidden)); !os.IsNotExist(err) {
			t.Errorf("%s shows: %v", hidden, err)
		}
	}
	read(t, root+"/opaque/above")
}

// The kernel takes 255 bytes per fsconfig string, gives ":" and "," a meaning
// in old option strings, and "\" one in upperdir.
func TestAnyNameOfADirectoryWorks(t *testing.T) {
	needRoot(t)
	for name, part := range map[string]string{
		"long":      strings.Repeat("d", 200) + "/" + strings.Repeat("e", 200),
		"colon":     "a:b,c=d",
		"backslash": `a\b\:c`,
		"spaces":    "a b\nc",
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), part)
			o := Overlay{Lower: layers(t, dir, 3), Upper: mkdir(t, dir+"/upper"), Work: mkdir(t, dir+"/work")}
			root := mounted(t, o)
			write(t, root+"/new", "written")
			read(t, o.Upper+"/new")
			read(t, root+"/only02")
		})
	}
}

func TestTheWayOfOlderKernels(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	o := Overlay{Lower: layers(t, dir, 150), Upper: mkdir(t, dir+"/upper"), Work: mkdir(t, dir+"/work")}
	f, err := o.inOneString()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := readIn(t, f, "/top"); got != "00" {
		t.Errorf("top is of layer %s, want 00", got)
	}
	readIn(t, f, "/only149")
	made, err := OpenIn(f, "/new", unix.O_CREAT|unix.O_WRONLY)
	if err != nil {
		t.Fatal(err)
	}
	made.Close()
	if strings.Contains(read(t, "/proc/self/mountinfo"), "/rootfs-") {
		t.Error("the temporary place is still mounted")
	}

	o.Lower = append(o.Lower, layers(t, dir+"/more", 150)...)
	if _, err := o.inOneString(); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("300 layers: %v, want a failed precondition", err)
	}
	many := mounted(t, o) // the new way has no such limit
	read(t, many+"/only149")
}

func TestDetachedIsInNoMountTable(t *testing.T) {
	needRoot(t)
	before := read(t, "/proc/self/mountinfo")
	for _, n := range []int{1, 3} {
		f, err := Overlay{Lower: layers(t, t.TempDir(), n)}.Detached()
		if err != nil {
			t.Fatal(err)
		}
		if got := readIn(t, f, "/top"); got != "00" {
			t.Errorf("top is of layer %s, want 00", got)
		}
		if now := read(t, "/proc/self/mountinfo"); now != before {
			t.Errorf("the mount table changed:\n%s", now)
		}
		f.Close()
	}
}

func TestMountIsPrivate(t *testing.T) {
	needRoot(t)
	shared := mkdir(t, filepath.Join(t.TempDir(), "shared"))
	if err := unix.Mount(shared, shared, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer Unmount(shared)
	if err := unix.Mount("", shared, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	target := mkdir(t, shared+"/rootfs")
	if err := (Overlay{Lower: layers(t, t.TempDir(), 2)}).Mount(target); err != nil {
		t.Fatal(err)
	}
	defer Unmount(target)
	for line := range strings.Lines(read(t, "/proc/self/mountinfo")) {
		if strings.Contains(line, " "+target+" ") && strings.Contains(line, "shared:") {
			t.Errorf("shared: %s", line)
		}
	}
}

func TestUnmountIsIdempotent(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	o := Overlay{Lower: layers(t, dir, 2)}
	target := mkdir(t, dir+"/rootfs")
	for range 2 {
		if err := o.Mount(target); err != nil {
			t.Fatal(err)
		}
	}
	busy, err := os.Open(target + "/top")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	for range 2 {
		if err := Unmount(target); err != nil {
			t.Fatal(err)
		}
	}
	if entries, err := os.ReadDir(target); err != nil || len(entries) != 0 {
		t.Errorf("%d entries, %v: something is still mounted", len(entries), err)
	}
	if err := Unmount(dir + "/absent"); err != nil {
		t.Errorf("no target: %v", err)
	}
}

func TestVolatileCanBeMountedAgain(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	o := Overlay{Lower: layers(t, dir, 2), Upper: mkdir(t, dir+"/upper"), Work: mkdir(t, dir+"/work"), Volatile: true}
	for i := range 2 {
		target := mkdir(t, dir+"/rootfs")
		if err := o.Mount(target); err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		info := read(t, "/proc/self/mountinfo")
		if !strings.Contains(info, "volatile") && !strings.Contains(info, "fsync=volatile") {
			t.Error("not volatile")
		}
		write(t, target+"/new", "x")
		if err := Unmount(target); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBadOverlaysAreRefused(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	for name, test := range map[string]struct {
		overlay Overlay
		class   func(error) bool
		says    string
	}{
		"nothing":       {Overlay{}, errdefs.IsInvalidArgument, "no lower"},
		"upper alone":   {Overlay{Lower: []string{dir}, Upper: dir}, errdefs.IsInvalidArgument, "work directory"},
		"relative":      {Overlay{Lower: []string{"layer"}}, errdefs.IsInvalidArgument, `"layer" is not absolute`},
		"absent layer":  {Overlay{Lower: []string{dir, dir + "/absent"}}, isNotExist, "absent"},
		"absent single": {Overlay{Lower: []string{dir + "/absent"}}, isNotExist, "absent"},
	} {
		_, err := test.overlay.Detached()
		if err == nil || !test.class(err) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := (Overlay{Lower: layers(t, dir, 2)}).Mount(dir + "/nowhere"); !isNotExist(err) {
		t.Errorf("mount on nothing: %v", err)
	}
}

func isNotExist(err error) bool { return errors.Is(err, os.ErrNotExist) }

func BenchmarkMount(b *testing.B) {
	needRoot(b)
	for _, n := range []int{1, 10, 60} {
		b.Run(fmt.Sprintf("layers=%d", n), func(b *testing.B) {
			dir := b.TempDir()
			o := Overlay{Lower: layers(b, dir, n), Upper: mkdir(b, dir+"/upper"), Work: mkdir(b, dir+"/work")}
			target := mkdir(b, dir+"/rootfs")
			var unmount time.Duration
			for b.Loop() {
				if err := o.Mount(target); err != nil {
					b.Fatal(err)
				}
				start := time.Now()
				if err := Unmount(target); err != nil {
					b.Fatal(err)
				}
				unmount += time.Since(start)
			}
			b.ReportMetric(float64(unmount.Microseconds())/float64(b.N), "unmount-µs/op")
		})
	}
}
