package moby

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
)

// decode reads one JSON value off a stream, and no further than its end.
func decode[T any](t testing.TB, r io.Reader) (v T) {
	t.Helper()
	var text bytes.Buffer
	for one := make([]byte, 1); ; {
		if _, err := io.ReadFull(r, one); err != nil {
			t.Fatalf("%v after %q", err, text.String())
		}
		text.Write(one)
		if one[0] == '}' && json.Valid(text.Bytes()) {
			break
		}
	}
	if err := json.Unmarshal(text.Bytes(), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestAttach(t *testing.T) {
	t.Parallel()
	d := open(t)
	// Half-closed: what was sent is read to its end, and the answer still comes.
	id := d.create(container.Config{Cmd: []string{"sh", "-c", "wc -c; echo done >&2"}, OpenStdin: true, StdinOnce: true, AttachStdin: true}, nil)
	a := must(d.ContainerAttach(d.ctx, id, client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true, Stderr: true}))(t)
	d.start(id)
	if _, err := io.Copy(a.Conn, strings.NewReader(strings.Repeat("x", 1<<20))); err != nil {
		t.Fatal(err)
	}
	if err := a.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &errs, a.Reader); err != nil {
		t.Error(err)
	}
	if strings.TrimSpace(out.String()) != "1048576" || errs.String() != "done\n" {
		t.Errorf("%q and %q", out.String(), errs.String())
	}
	a.Close()
	// Who comes later sees what was, if it asks for logs, and what is to come.
	late := must(d.ContainerAttach(d.ctx, id, client.ContainerAttachOptions{Logs: true, Stdout: true}))(t)
	out.Reset()
	if _, err := stdcopy.StdCopy(&out, io.Discard, late.Reader); err != nil || strings.TrimSpace(out.String()) != "1048576" {
		t.Errorf("%q, %v", out.String(), err)
	}
	late.Close()

	tty := d.create(container.Config{Cmd: []string{"sh"}, OpenStdin: true, Tty: true}, nil)
	b := must(d.ContainerAttach(d.ctx, tty, client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true, DetachKeys: "ctrl-a"}))(t)
	d.start(tty)
	must(d.ContainerResize(d.ctx, tty, client.ContainerResizeOptions{Width: 101, Height: 33}))(t)
	io.WriteString(b.Conn, "stty size\n")
	seen := until(t, b.Reader, "33 101")
	if strings.Contains(seen, "\x01\x00\x00\x00") {
		t.Errorf("frames on a terminal: %q", seen)
	}
	io.WriteString(b.Conn, "\x01")
	if _, err := io.Copy(io.Discard, b.Reader); err != nil {
		t.Error(err)
	}
	b.Close()
	if s := d.inspect(tty).State; !s.Running {
		t.Errorf("left, it is %s", s.Status)
	}
	// This client gives the status in words.
	if _, err := d.ContainerAttach(d.ctx, "nosuch-container", client.ContainerAttachOptions{Stream: true}); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("attach to nothing: %v", err)
	}
}

// until reads until words were read.
func until(t testing.TB, r io.Reader, words string) string {
	t.Helper()
	var seen bytes.Buffer
	buf := make([]byte, 4096)
	for !strings.Contains(seen.String(), words) {
		n, err := r.Read(buf)
		seen.Write(buf[:n])
		if err != nil {
			t.Fatalf("%v after %q, without %q", err, seen.String(), words)
		}
	}
	return seen.String()
}

func TestExec(t *testing.T) {
	t.Parallel()
	d := open(t)
	id := d.idle()
	if out, code := d.exec(id, "sh", "-c", "echo words; exit 3"); out != "words\n" || code != 3 {
		t.Errorf("%q, %d", out, code)
	}
	e := must(d.ExecCreate(d.ctx, id, client.ExecCreateOptions{Cmd: []string{"sh", "-c", "cat; pwd; id -un; echo $WORD >&2; exit 4"},
		AttachStdin: true, AttachStdout: true, AttachStderr: true, WorkingDir: "/tmp", User: "nobody", Env: []string{"WORD=said"}}))(t)
	s := must(d.ExecAttach(d.ctx, e.ID, client.ExecAttachOptions{}))(t)
	io.WriteString(s.Conn, "in\n")
	eventually(t, "it runs", func() bool {
		x := must(d.ExecInspect(d.ctx, e.ID, client.ExecInspectOptions{}))(t)
		return x.Running && x.ContainerID == id
	})
	s.CloseWrite()
	var out, errs bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &errs, s.Reader); err != nil || out.String() != "in\n/tmp\nnobody\n" || errs.String() != "said\n" {
		t.Errorf("%q and %q, %v", out.String(), errs.String(), err)
	}
	s.Close()
	if ended := must(d.ExecInspect(d.ctx, e.ID, client.ExecInspectOptions{}))(t); ended.Running || ended.ExitCode != 4 {
		t.Errorf("%+v", ended)
	}
	e = must(d.ExecCreate(d.ctx, id, client.ExecCreateOptions{Cmd: []string{"sh"}, AttachStdin: true, AttachStdout: true, TTY: true, ConsoleSize: client.ConsoleSize{Height: 33, Width: 101}}))(t)
	s = must(d.ExecAttach(d.ctx, e.ID, client.ExecAttachOptions{TTY: true, ConsoleSize: client.ConsoleSize{Height: 33, Width: 101}}))(t)
	must(d.ExecResize(d.ctx, e.ID, client.ExecResizeOptions{Height: 44, Width: 99}))(t)
	io.WriteString(s.Conn, "stty size\n")
	until(t, s.Reader, "44 99")
	s.Close()
	e = must(d.ExecCreate(d.ctx, id, client.ExecCreateOptions{Cmd: []string{"touch", "/tmp/detached"}}))(t)
	must(d.ExecStart(d.ctx, e.ID, client.ExecStartOptions{Detach: true}))(t)
	eventually(t, "the detached command has run", func() bool { _, code := d.exec(id, "test", "-e", "/tmp/detached"); return code == 0 })
	if _, err := d.ExecInspect(d.ctx, "nosuch", client.ExecInspectOptions{}); !errdefs.IsNotFound(err) {
		t.Errorf("no such exec: %v", err)
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	d := open(t)
	mark := name()
	ctx, cancel := context.WithCancel(d.ctx)
	defer cancel()
	stream := d.Events(ctx, client.EventsListOptions{Since: time.Now().Format(time.RFC3339Nano), Filters: make(client.Filters).Add("label", "mark="+mark)})
	id := d.create(container.Config{Cmd: []string{"sh", "-c", "exit 2"}, Labels: map[string]string{"mark": mark}}, nil)
	d.start(id)
	<-d.ContainerWait(d.ctx, id, client.ContainerWaitOptions{}).Result
	must(d.ContainerRemove(d.ctx, id, client.ContainerRemoveOptions{}))(t)
	var got []events.Action
	for !slices.Contains(got, events.ActionDestroy) {
		select {
		case e := <-stream.Messages:
			if e.Type != events.ContainerEventType || e.Actor.ID != id || e.Scope != "local" || e.TimeNano == 0 {
				t.Errorf("%+v", e)
			}
			if e.Action == events.ActionDie && e.Actor.Attributes["exitCode"] != "2" {
				t.Errorf("%+v", e)
			}
			got = append(got, e.Action)
		case err := <-stream.Err:
			t.Fatal(err)
		}
	}
	if want := []events.Action{events.ActionCreate, events.ActionStart, events.ActionDie, events.ActionDestroy}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	cancel()
	if err := <-stream.Err; !errors.Is(err, context.Canceled) {
		t.Errorf("left: %v", err)
	}
	past := d.Events(d.ctx, client.EventsListOptions{Since: "1h", Until: time.Now().Format(time.RFC3339Nano), Filters: make(client.Filters).Add("label", "mark="+mark).Add("event", "die")})
	if e := <-past.Messages; e.Action != events.ActionDie {
		t.Errorf("%+v", e)
	}
	if err := <-past.Err; !errors.Is(err, io.EOF) {
		t.Errorf("at the end of the past: %v", err)
	}
}

// archive is a tar archive of one file.
func archive(t testing.TB, name, text string) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := errors.Join(
		w.WriteHeader(&tar.Header{Name: name, Size: int64(len(text)), Mode: 0o640, Uid: 7, Gid: 8}),
		func() error { _, err := io.WriteString(w, text); return err }(),
		w.Close())
	if err != nil {
		t.Fatal(err)
	}
	return &b
}

func TestCopy(t *testing.T) {
	t.Parallel()
	d := open(t)
	id := d.idle()
	must(d.CopyToContainer(d.ctx, id, client.CopyToContainerOptions{DestinationPath: "/tmp", Content: archive(t, "file", "words"), CopyUIDGID: true}))(t)
	if out, _ := d.exec(id, "sh", "-c", "cat /tmp/file; stat -c ' %a %u %g' /tmp/file"); out != "words 640 7 8\n" {
		t.Errorf("%q", out)
	}
	stat := must(d.ContainerStatPath(d.ctx, id, client.ContainerStatPathOptions{Path: "/tmp/file"}))(t).Stat
	if stat.Name != "file" || stat.Size != 5 || stat.Mode != 0o640 {
		t.Errorf("%+v", stat)
	}
	must(d.ContainerStop(d.ctx, id, client.ContainerStopOptions{}))(t)
	from := must(d.CopyFromContainer(d.ctx, id, client.CopyFromContainerOptions{SourcePath: "/tmp/file"}))(t)
	defer from.Content.Close()
	r := tar.NewReader(from.Content)
	if h, err := r.Next(); err != nil || h.Name != "file" || h.Uid != 7 || from.Stat.Size != 5 {
		t.Errorf("%+v, %v, %+v", h, err, from.Stat)
	}
	if text, err := io.ReadAll(r); string(text) != "words" {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := d.CopyFromContainer(d.ctx, id, client.CopyFromContainerOptions{SourcePath: "/nosuch"}); !errdefs.IsNotFound(err) {
		t.Errorf("no such path: %v", err)
	}
	if _, err := d.CopyToContainer(d.ctx, id, client.CopyToContainerOptions{DestinationPath: "/nosuch", Content: archive(t, "x", "")}); !errdefs.IsNotFound(err) {
		t.Errorf("no such directory: %v", err)
	}
	changes := must(d.ContainerDiff(d.ctx, id, client.ContainerDiffOptions{}))(t).Changes
	if !slices.Contains(changes, container.FilesystemChange{Path: "/tmp/file", Kind: container.ChangeAdd}) {
		t.Errorf("%+v", changes)
	}
	all := must(d.ContainerExport(d.ctx, id, client.ContainerExportOptions{}))(t)
	defer all.Close()
	for r := tar.NewReader(all); ; {
		h, err := r.Next()
		if err != nil {
			t.Fatalf("the file was not exported: %v", err)
		}
		if h.Name == "tmp/file" {
			break
		}
	}
}
