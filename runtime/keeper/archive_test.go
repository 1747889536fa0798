package keeper_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/runtime/keeper"
)

// root is how the container of a bundle looks when it does not run.
func root(b keeper.Bundle, mounts ...keeper.ArchiveMount) *keeper.ArchiveRoot {
	return &keeper.ArchiveRoot{Overlay: b.Rootfs, Mounts: mounts}
}

func (h *house) get(id, path string, r *keeper.ArchiveRoot) (map[string]string, error) {
	h.t.Helper()
	t, err := h.client.Archive(ctx(h.t), keeper.ArchiveRequest{ID: id, Op: keeper.ArchiveGet, Path: path, Root: r})
	if err != nil {
		return nil, err
	}
	defer t.Close()
	return readTar(t)
}

// readTar gives the entries of an archive and what they hold.
func readTar(r io.Reader) (map[string]string, error) {
	files := map[string]string{}
	a := tar.NewReader(r)
	for {
		hd, err := a.Next()
		if errors.Is(err, io.EOF) {
			_, err = io.Copy(io.Discard, r) // up to the outcome
			return files, err
		}
		if err != nil {
			return files, err
		}
		b, err := io.ReadAll(a)
		if err != nil {
			return files, err
		}
		files[hd.Name] = string(b) + hd.Linkname
	}
}

func (h *house) put(id, path string, r *keeper.ArchiveRoot, archive []byte) error {
	h.t.Helper()
	t, err := h.client.Archive(ctx(h.t), keeper.ArchiveRequest{ID: id, Op: keeper.ArchivePut, Path: path, Root: r})
	if err != nil {
		return err
	}
	defer t.Close()
	if _, err := t.Write(archive); err != nil {
		return err
	}
	return t.Finish()
}

// tarOf is an archive of files by name.
func tarOf(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, content := range files {
		hd := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))}
		if err := w.WriteHeader(hd); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// helpers are the processes of the house's keeper that do archive calls.
func (h *house) helpers() (pids []int) {
	all, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, p := range all {
		b, err := os.ReadFile(p)
		if err != nil {
			continue
		}
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		line, _ := os.ReadFile(filepath.Join(filepath.Dir(p), "cmdline"))
		if len(fields) > 1 && fields[1] == strconv.Itoa(h.client.Pid()) && bytes.Contains(line, []byte("\x00archive\x00")) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(p)))
			pids = append(pids, pid)
		}
	}
	return pids
}

func (h *house) noHelper() {
	h.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		left := h.helpers()
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			h.t.Fatalf("helpers are left: %v", left)
		}
	}
}

// The same calls in every state of a container: its files are there, and what
// is put there stays.
func TestArchive(t *testing.T) {
	h := newHouse(t)
	b := h.bundle("box", "sleep", "1000")
	vol := filepath.Join(h.dir, "vol")
	h.must(os.Mkdir(vol, 0o755))
	h.must(os.WriteFile(filepath.Join(vol, "in-volume"), []byte("v"), 0o644))
	b.Spec.Mounts = append(b.Spec.Mounts, specs.Mount{Destination: "/data/vol", Type: "bind", Source: vol, Options: []string{"rbind", "rprivate"}})
	r := root(b, keeper.ArchiveMount{Source: vol, Target: "/data/vol", Recursive: true})
	if _, err := h.get("box", "/etc", nil); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("neither a process nor a way to make the filesystem: %v", err)
	}
	n := 0
	check := func(state string) {
		t.Helper()
		n++
		name := fmt.Sprint("put-", n)
		if err := h.put("box", "/data/vol/..", r, tarOf(t, map[string]string{name: state})); err != nil {
			t.Fatalf("%s: put: %v", state, err)
		}
		if err := h.put("box", "/data/vol", r, tarOf(t, map[string]string{name: state})); err != nil {
			t.Fatalf("%s: put into a volume: %v", state, err)
		}
		got, err := h.get("box", "/data", r)
		if err != nil || got["data/vol/in-volume"] != "v" {
			t.Errorf("%s: get: %v %v", state, got, err)
		}
		for i := 1; i <= n; i++ {
			if got[fmt.Sprint("data/put-", i)] == "" || got[fmt.Sprint("data/vol/put-", i)] == "" {
				t.Errorf("%s: put-%d is not there: %v", state, i, got)
			}
		}
		if onDisk, err := os.ReadFile(filepath.Join(vol, name)); string(onDisk) != state {
			t.Errorf("%s: the volume holds %q, %v", state, onDisk, err)
		}
		st, err := h.client.Archive(ctx(t), keeper.ArchiveRequest{ID: "box", Op: keeper.ArchiveStat, Path: "/bin/sh", Root: r})
		if err != nil || st.Stat.LinkTarget != "/bin/busybox" {
			t.Errorf("%s: stat: %+v %v", state, st, err)
		}
		x, err := h.client.Archive(ctx(t), keeper.ArchiveRequest{ID: "box", Op: keeper.ArchiveExport, Root: r})
		h.must(err)
		all, err := readTar(x)
		x.Close()
		if err != nil || all["etc/passwd"] == "" || all["data/put-1"] == "" {
			t.Errorf("%s: export: %d entries, %v", state, len(all), err)
		}
		for name := range all {
			if strings.HasPrefix(name, "data/vol/") && name != "data/vol/" || strings.HasPrefix(name, "proc/1") {
				t.Errorf("%s: the export holds %s of something mounted", state, name)
			}
		}
		for what, err := range map[string]error{
			"nothing there": func() error { _, err := h.get("box", "/nothing", r); return err }(),
			"put nowhere":   h.put("box", "/nothing", r, tarOf(t, nil)),
		} {
			if !errdefs.IsNotFound(err) {
				t.Errorf("%s: %s: %v", state, what, err)
			}
		}
		if err := h.put("box", "/etc/passwd", r, tarOf(t, nil)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: put in a file: %v", state, err)
		}
		h.noHelper()
	}
	check("never run")
	h.must(errors.Join(second(h.client.Create(ctx(t), b))))
	check("created")
	h.must(second(h.client.Start(ctx(t), "box")))
	check("running")
	h.must(h.client.Pause(ctx(t), "box"))
	check("paused")
	h.must(h.client.Resume(ctx(t), "box"))
	h.must(h.client.Signal(ctx(t), "box", "", unix.SIGKILL))
	h.must(second(h.client.Wait(ctx(t), "box")))
	check("stopped")
	h.must(h.client.Delete(ctx(t), "box"))
	check("deleted")
	if _, out := h.runToEnd(h.bundle("box", "cat", "/data/put-1")); out == "" {
		t.Error("the container does not see what was put")
	}
}

func second[T any](_ T, err error) error { return err }

// A helper has the container's root and nothing else: no right to mount, no
// path to the host.
func TestArchiveHelperIsConfined(t *testing.T) {
	h := newHouse(t)
	b := h.bundle("box", "sleep", "1000")
	check := func(state string) {
		t.Helper()
		tr, err := h.client.Archive(ctx(t), keeper.ArchiveRequest{ID: "box", Op: keeper.ArchivePut, Path: "/tmp", Root: root(b)})
		h.must(err)
		defer tr.Close()
		pids := h.helpers()
		if len(pids) != 1 {
			t.Fatalf("%s: helpers %v", state, pids)
		}
		proc := fmt.Sprintf("/proc/%d/", pids[0])
		status, err := os.ReadFile(proc + "status")
		h.must(err)
		for _, want := range []string{"CapEff:\t000000008800001f", "CapPrm:\t000000008800001f", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1"} {
			if !strings.Contains(string(status), want) {
				t.Errorf("%s: no %q in\n%s", state, want, status)
			}
		}
		if b, err := os.ReadFile(proc + "root/etc/passwd"); err != nil || !strings.Contains(string(b), "web:x:1000") {
			t.Errorf("%s: its root is not the container's: %v", state, err)
		}
		tasks, _ := filepath.Glob(proc + "task/*/root")
		for _, task := range tasks {
			if _, err := os.Stat(task + "/var/lib/dpkg"); err == nil {
				t.Errorf("%s: %s leads to the host", state, task)
			}
		}
		table, err := os.ReadFile(proc + "mountinfo")
		h.must(err)
		if state != "running" && strings.Count(string(table), "\n") != 1 {
			t.Errorf("%s: it sees more than one mount:\n%s", state, table)
		}
		files, err := filepath.Glob(proc + "fd/*")
		h.must(err)
		for _, f := range files {
			to, _ := os.Readlink(f)
			if to != "/" && !strings.HasPrefix(to, "pipe:") && !strings.HasPrefix(to, "/memfd:archive request") && !strings.HasPrefix(to, "anon_inode:") &&
				!isNull(f) && !strings.HasSuffix(to, "keeper.log") && to != "/tmp" {
				t.Errorf("%s: it has %s open", state, to)
			}
		}
	}
	check("not running")
	h.noHelper()
	h.start(b)
	check("running")
	h.noHelper()
}

// Whoever swaps a directory with a link to the host's, while files are copied in
// and out, shows and changes nothing of the host.
func TestArchiveOfOneWhoSwaps(t *testing.T) {
	h := newHouse(t)
	canary := filepath.Join(h.dir, "canary")
	h.must(os.Mkdir(canary, 0o777))
	h.must(os.WriteFile(filepath.Join(canary, "file"), []byte("SECRET"), 0o666))
	b := h.bundle("box", "sh", "-c", `cd /data
while true; do
 mkdir x y; echo own > x/file
 ln -s `+canary+` l; ln -s /proc/1/root`+canary+` m; ln -s ../../../../../../../..`+canary+` n
 for s in l m n; do mv -T x z 2>/dev/null; mv -T $s x 2>/dev/null; mv -T x $s 2>/dev/null; mv -T z x 2>/dev/null; done
 rm -rf x y z l m n
done`)
	for _, a := range []string{"mv", "ln", "mkdir", "rm"} {
		if err := os.Symlink("busybox", filepath.Join(h.base, "bin", a)); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
	}
	h.start(b)
	begun := time.Now()
	var wg sync.WaitGroup
	var links, dirs atomic.Int64 // what /data/x was, to those who copied it
	over := func() bool {
		took := time.Since(begun)
		return took > 20*time.Second || took > time.Second && links.Load() > 0 && dirs.Load() > 0
	}
	for i := range 4 {
		wg.Go(func() {
			evil := tarOf(t, map[string]string{"file": "EVIL", "x/file": "EVIL"})
			for !over() {
				path := []string{"/data/x", "/data/x/file", "/data", "/data/l/."}[i]
				got, _ := h.get("box", path, nil) // it comes and goes
				if _, ok := got["x"]; ok {
					links.Add(1)
				}
				if _, ok := got["x/"]; ok {
					dirs.Add(1)
				}
				for name, content := range got {
					if strings.Contains(content, "SECRET") && !strings.HasPrefix(content, "/") {
						t.Errorf("%s shows %q", name, content)
					}
				}
				_ = h.put("box", []string{"/data/x", "/data/x/", "/data", "/data/l"}[i], nil, evil)
			}
		})
	}
	wg.Wait()
	if b, err := os.ReadFile(filepath.Join(canary, "file")); string(b) != "SECRET" {
		t.Errorf("the host's file holds %q, %v", b, err)
	}
	if left, _ := os.ReadDir(canary); len(left) != 1 {
		t.Errorf("something was made on the host: %v", left)
	}
	if links.Load() == 0 || dirs.Load() == 0 {
		t.Errorf("nothing was swapped: a link %d times, a directory %d times", links.Load(), dirs.Load())
	}
	h.noHelper()
}

// A container that shares the host's processes shows them in its /proc; a copy
// does not follow their links to other roots.
func TestArchiveFollowsNoMagicLinks(t *testing.T) {
	h := newHouse(t)
	b := h.bundle("box", "sleep", "1000")
	b.Spec.Linux.Namespaces = slices.DeleteFunc(b.Spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
	h.start(b)
	for _, path := range []string{"/proc/1/root/etc/hostname", fmt.Sprintf("/proc/%d/root/etc", os.Getpid()), fmt.Sprintf("/proc/%d/cwd/.", os.Getpid()), "/proc/self/root/"} {
		if got, err := h.get("box", path, nil); err == nil {
			t.Errorf("%s: %v", path, got)
		}
		if err := h.put("box", path, nil, tarOf(t, nil)); err == nil {
			t.Errorf("%s: something can be put there", path)
		}
	}
}

// A FIFO or a device is told of, not opened.
func TestArchiveOfSpecialFiles(t *testing.T) {
	h := newHouse(t)
	b := h.bundle("box", "sleep", "1000")
	up := b.Rootfs.Upper
	h.must(os.MkdirAll(filepath.Join(up, "data"), 0o755))
	h.must(unix.Mkfifo(filepath.Join(up, "data/fifo"), 0o600))
	h.must(unix.Mknod(filepath.Join(up, "data/disk"), unix.S_IFBLK|0o600, int(unix.Mkdev(8, 0))))
	h.must(os.WriteFile(filepath.Join(up, "data/\xff\n"), []byte("bytes"), 0o600))
	for _, r := range []*keeper.ArchiveRoot{root(b), nil} {
		if r == nil {
			h.start(b)
		}
		got, err := h.get("box", "/data", r)
		if _, ok := got["data/fifo"]; err != nil || !ok || got["data/\xff\n"] != "bytes" {
			t.Errorf("%v, %v", got, err)
		}
		if got, err := h.get("box", "/data/fifo", r); err != nil || len(got) != 1 {
			t.Errorf("%v, %v", got, err)
		}
		if err := h.put("box", "/data/fifo", r, tarOf(t, nil)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("put in a fifo: %v", err)
		}
		if err := h.put("box", "/data", r, tarOf(t, map[string]string{"fifo": "now a file"})); err != nil {
			t.Errorf("put over a fifo: %v", err)
		}
		h.must(os.Remove(filepath.Join(up, "data/fifo")))
		h.must(unix.Mkfifo(filepath.Join(up, "data/fifo"), 0o600))
	}
}

// A copy ends with its caller, and with the keeper that is asked to end; it
// outlives one that dies. Nothing is left of it.
func TestArchiveEnds(t *testing.T) {
	h := newHouse(t)
	b := h.bundle("box", "sleep", "1000")
	const size = 32 << 20 // more than fits into any pipe
	h.must(os.WriteFile(filepath.Join(h.base, "big"), nil, 0o644))
	h.must(os.Truncate(filepath.Join(h.base, "big"), size))
	h.must(os.WriteFile(filepath.Join(h.base, "huge"), nil, 0o644))
	h.must(os.Truncate(filepath.Join(h.base, "huge"), 1<<30))
	begin := func(op string, r *keeper.ArchiveRoot) *keeper.Transfer {
		t.Helper()
		tr, err := h.client.Archive(ctx(t), keeper.ArchiveRequest{ID: "box", Op: op, Path: map[string]string{keeper.ArchiveGet: "/big", keeper.ArchivePut: "/tmp"}[op], Root: r})
		h.must(err)
		return tr
	}
	ops := []string{keeper.ArchiveGet, keeper.ArchivePut, keeper.ArchiveExport}
	for _, r := range []*keeper.ArchiveRoot{root(b), nil} {
		if r == nil {
			h.start(b)
		}
		for _, op := range ops {
			tr := begin(op, r)
			if len(h.helpers()) != 1 {
				t.Errorf("%s: helpers %v", op, h.helpers())
			}
			tr.Close()
			h.noHelper()
		}
	}
	// All of a large file with holes.
	tr, err := h.client.Archive(ctx(t), keeper.ArchiveRequest{ID: "box", Op: keeper.ArchiveGet, Path: "/huge"})
	h.must(err)
	if n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, tr, make([]byte, 1<<16)); err != nil || n < 1<<30 { // all that a pipe holds
		t.Errorf("%d bytes, %v", n, err)
	}
	tr.Close()
	// Its container ends and is deleted meanwhile.
	tr = begin(keeper.ArchiveGet, nil)
	h.must(h.client.Delete(ctx(t), "box"))
	if n, err := io.Copy(io.Discard, tr); err != nil || n < size {
		t.Errorf("the container was deleted: %d bytes, %v", n, err)
	}
	tr.Close()
	// It gets a process while somebody writes to its layer, or reads.
	reader, writer := begin(keeper.ArchiveGet, root(b)), begin(keeper.ArchivePut, root(b))
	h.start(b)
	if err := writer.Finish(); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "started") {
		t.Errorf("the container was started: %v", err)
	}
	writer.Close()
	if n, err := io.Copy(io.Discard, reader); err != nil || n < size {
		t.Errorf("the container was started: %d bytes, %v", n, err)
	}
	reader.Close()
	// The keeper dies.
	tr = begin(keeper.ArchiveGet, nil)
	orphan := h.helpers()
	pid := h.client.Pid()
	h.must(unix.Kill(pid, unix.SIGKILL))
	if n, err := io.Copy(io.Discard, tr); err != nil || n < size {
		t.Errorf("the keeper died: %d bytes, %v", n, err)
	}
	tr.Close()
	h.waitEvent("another keeper", func(e keeper.Event) bool { return e.Kind == keeper.KeeperBack })
	for _, pid := range orphan {
		for end := time.Now().Add(10 * time.Second); unix.Kill(pid, 0) == nil && time.Now().Before(end); {
			time.Sleep(5 * time.Millisecond)
		}
	}
	// A place for everybody is not for ever.
	var all []*keeper.Transfer
	for {
		tr, err := h.client.Archive(ctx(t), keeper.ArchiveRequest{ID: "box", Op: keeper.ArchiveExport})
		if err != nil {
			if !errdefs.IsResourceExhausted(err) || len(all) < 16 {
				t.Errorf("after %d: %v", len(all), err)
			}
			break
		}
		all = append(all, tr)
	}
	for _, tr := range all {
		tr.Close()
	}
	h.noHelper()
}

func BenchmarkArchiveStat(b *testing.B) {
	h := newHouse(b)
	bundle := h.bundle("box", "sleep", "1000")
	for _, state := range []string{"stopped", "running"} {
		r := root(bundle)
		if state == "running" {
			h.start(bundle)
			r = nil
		}
		b.Run(state, func(b *testing.B) {
			for b.Loop() {
				if _, err := h.client.Archive(ctx(b), keeper.ArchiveRequest{ID: "box", Op: keeper.ArchiveStat, Path: "/etc/passwd", Root: r}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// isNull says whether a file is the null device, under whichever name.
func isNull(path string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3)
}
