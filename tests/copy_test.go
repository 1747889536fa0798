package tests

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// treeText lists files with what they hold and where links lead.
func treeText(t testing.TB, dir string) string {
	t.Helper()
	var out []string
	if err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		line := strings.TrimPrefix(p, dir+"/")
		switch {
		case d.IsDir():
			line += "/"
		case d.Type()&fs.ModeSymlink != 0:
			to, _ := os.Readlink(p)
			line += "->" + to
		default:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += "=" + strings.TrimSpace(string(b))
		}
		out = append(out, line)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, " ")
}

// Debian's docker cp, export and diff, and gantry's, say and do the same, on a
// container that runs and on one that does not.
func TestCopy(t *testing.T) {
	m := newMachine(t)
	src := filepath.Join(m.dir, "src")
	write(t, filepath.Join(src, "file"), "content")
	write(t, filepath.Join(src, "d/sub/deep"), "deep")
	if err := os.Symlink("sub/deep", filepath.Join(src, "d/link")); err != nil {
		t.Fatal(err)
	}
	type cp func(args ...string) result
	ways := map[string]cp{"gantry": func(args ...string) result { return m.gantry(append([]string{"container", "cp"}, args...)...) }}
	if _, err := os.Stat(dockerProgram); err == nil {
		ways["docker"] = func(args ...string) result { return m.docker(append([]string{"cp"}, args...)...) }
	} else {
		t.Logf("without Docker's client: %v; run `scripts/setup test`", err)
	}
	for way, cp := range ways {
		for _, running := range []bool{false, true} {
			name := way + map[bool]string{true: "-running", false: "-stopped"}[running]
			t.Run(name, func(t *testing.T) {
				m := m.with(t)
				code, text := m.api("POST", "/containers/create?name="+name, map[string]any{"Image": "busybox", "Cmd": []string{"sleep", "1000"}, "StopSignal": "SIGKILL",
					"HostConfig": map[string]any{"Binds": []string{"copies-" + name + ":/vol"}}})
				if code != 201 {
					t.Fatalf("%d %s", code, text)
				}
				if running {
					m.ok("container", "start", name)
				}
				ok := func(args ...string) string {
					t.Helper()
					r := cp(args...)
					if r.code != 0 {
						t.Fatalf("cp %s: %s", strings.Join(args, " "), r.err)
					}
					return r.out
				}
				ok(filepath.Join(src, "file"), name+":/tmp/")
				ok(filepath.Join(src, "file"), name+":/tmp/renamed")
				ok(filepath.Join(src, "d"), name+":/vol")
				ok(filepath.Join(src, "d")+"/.", name+":/vol/content/")
				ok("-L", filepath.Join(src, "d/link"), name+":/tmp/followed")
				ok(filepath.Join(src, "d/link"), name+":/tmp/link")
				out := filepath.Join(m.dir, "out-"+name)
				if err := os.Mkdir(out, 0o755); err != nil {
					t.Fatal(err)
				}
				ok(name+":/tmp/.", out)
				if got, want := treeText(t, out), "file=content followed=deep link->sub/deep renamed=content"; got != want {
					t.Errorf("/tmp: %s, not %s", got, want)
				}
				ok(name+":/vol", filepath.Join(out, "vol"))
				if got, want := treeText(t, filepath.Join(out, "vol")), "content/ content/link->sub/deep content/sub/ content/sub/deep=deep d/ d/link->sub/deep d/sub/ d/sub/deep=deep"; got != want {
					t.Errorf("/vol: %s, not %s", got, want)
				}
				ok("-L", name+":/vol/d/link", filepath.Join(out, "one"))
				if b, err := os.ReadFile(filepath.Join(out, "one")); err != nil || string(b) != "deep" {
					t.Errorf("-L: %q, %v", b, err)
				}
				h, err := tar.NewReader(strings.NewReader(ok(name+":/tmp/file", "-"))).Next()
				if err != nil || h.Name != "file" || h.Size != int64(len("content")) {
					t.Errorf("-: %+v, %v", h, err)
				}
				for _, bad := range [][]string{{name + ":/nothing", out}, {filepath.Join(src, "file"), name + ":/no/dir/x"}, {filepath.Join(src, "d"), name + ":/etc/passwd"}, {"nobody:/etc", out}} {
					if r := cp(bad...); r.code == 0 || strings.TrimSpace(r.err) == "" {
						t.Errorf("cp %s: %s", strings.Join(bad, " "), r)
					}
				}
				changes := m.ok("container", "diff", name)
				for _, want := range []string{"A /tmp/file\n", "A /tmp/link\n", "C /tmp\n", "A /vol\n"} {
					if !strings.Contains(changes, want) {
						t.Errorf("no %q in\n%s", want, changes)
					}
				}
				file := filepath.Join(out, "all.tar")
				m.ok("container", "export", "-o", file, name)
				b, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				seen := map[string]bool{}
				for r := tar.NewReader(bytes.NewReader(b)); ; {
					h, err := r.Next()
					if errors.Is(err, io.EOF) {
						break
					} else if err != nil {
						t.Fatal(err)
					}
					seen[h.Name] = true
				}
				if !seen["tmp/file"] || !seen["vol/"] || seen["vol/d/"] || !seen["bin/busybox"] {
					t.Errorf("the export holds %d entries: the volume %v", len(seen), seen["vol/d/"])
				}
			})
		}
	}
}

// gantry cp knows services: one container to copy from, all of them to copy to.
func TestCopyOfServices(t *testing.T) {
	m := newMachine(t)
	dir := m.project("copies", `
services:
  web: {image: busybox, command: sleep 1000, stop_signal: SIGKILL, scale: 2}
  off: {image: busybox, command: "true"}
`)
	m.okIn(dir, "up", "-d")
	write(t, filepath.Join(dir, "f"), "to all")
	m.okIn(dir, "cp", "f", "web:/f")
	m.okIn(dir, "cp", "--index", "2", "f", "web:/second")
	for index, want := range map[string]string{"1": "to all", "2": "to all"} {
		if got := m.okIn(dir, "exec", "-T", "--index", index, "web", "cat", "/f"); got != want {
			t.Errorf("container %s has %q", index, got)
		}
	}
	if r := m.in(dir, "exec", "-T", "--index", "1", "web", "cat", "/second"); r.code == 0 {
		t.Error("--index did not choose")
	}
	m.okIn(dir, "cp", "web:/f", "back")
	if b, err := os.ReadFile(filepath.Join(dir, "back")); err != nil || string(b) != "to all" {
		t.Errorf("%q, %v", b, err)
	}
	m.okIn(dir, "cp", "f", "off:/f") // it has ended
	m.okIn(dir, "export", "-o", "off.tar", "off")
	if b, err := os.ReadFile(filepath.Join(dir, "off.tar")); err != nil || !bytes.Contains(b, []byte("to all")) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	m.fails(dir, []string{"cp", "-", "web:/"}, "--index")
	m.fails(dir, []string{"cp", "f", "nobody:/"}, "nobody")
	m.fails(dir, []string{"cp", "f", "g"}, "SERVICE:PATH")
	m.okIn(dir, "down", "-t", "1")
}

// A copy that its caller leaves is over: no process, no mount, and the container
// can go. The machine's own end looks for what is left.
func TestCopyLeft(t *testing.T) {
	m := newMachine(t)
	if code, text := m.api("POST", "/containers/create?name=left", map[string]any{"Image": "busybox", "Cmd": []string{"sleep", "1000"}, "StopSignal": "SIGKILL"}); code != 201 {
		t.Fatalf("%d %s", code, text)
	}
	m.ok("container", "start", "left")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := m.command(ctx, m.dir, "container", "export", "left")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	if n := m.helpers(); n != 1 {
		t.Errorf("%d helpers at work", n)
	}
	cancel()
	_ = cmd.Wait()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		left := m.helpers()
		if left == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d helpers are left", left)
		}
	}
	m.ok("container", "rm", "-f", "left")
}

// helpers counts the processes of the machine's keeper that copy.
func (m *machine) helpers() (n int) {
	keeper := m.pids("gantry-runtime")
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, l := range lines {
		line, _ := os.ReadFile(l)
		status, _ := os.ReadFile(filepath.Join(filepath.Dir(l), "status"))
		_, rest, _ := strings.Cut(string(status), "PPid:")
		var parent int
		fmt.Sscan(rest, &parent)
		if bytes.HasPrefix(line, []byte("gantry-runtime\x00archive\x00")) && slices.Contains(keeper, parent) {
			n++
		}
	}
	return n
}
