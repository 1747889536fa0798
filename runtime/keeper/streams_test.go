package keeper_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"gantry/runtime/keeper"
)

// attach gives the reading end of an attach.
func (h *house) attach(id string, stdin bool) (out, in *os.File) {
	h.t.Helper()
	r, w, err := os.Pipe()
	h.must(err)
	in, err = h.client.Attach(ctx(h.t), keeper.AttachRequest{ID: id, Stdin: stdin, Stdout: true, Stderr: true, Out: w})
	h.must(err)
	h.must(r.SetDeadline(time.Now().Add(15 * time.Second)))
	return r, in
}

// frame reads one of Docker's frames.
func frame(t testing.TB, r io.Reader) (stream byte, text string, err error) {
	t.Helper()
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, "", err
	}
	b := make([]byte, binary.BigEndian.Uint32(head[4:]))
	_, err = io.ReadFull(r, b)
	return head[0], string(b), err
}

func TestAttachAndStdin(t *testing.T) {
	h := newHouse(t)
	b := h.bundle("cat", "sh", "-c", "echo begin >&2; cat; echo end")
	b.OpenStdin = true
	_, err := h.client.Create(ctx(t), b)
	h.must(err)
	out, in := h.attach("cat", true)
	defer out.Close()
	if in == nil {
		t.Fatal("no stdin")
	}
	_, err = h.client.Start(ctx(t), "cat")
	h.must(err)
	if s, text, err := frame(t, out); err != nil || s != 2 || text != "begin\n" {
		t.Fatalf("%d %q %v", s, text, err)
	}
	fmt.Fprintln(in, "hello")
	if s, text, err := frame(t, out); err != nil || s != 1 || text != "hello\n" {
		t.Fatalf("%d %q %v", s, text, err)
	}
	in.Close()
	time.Sleep(20 * time.Millisecond)
	if list, _ := h.client.List(ctx(t)); !list[0].Live() {
		t.Error("standard input closed with one who attached")
	}
	h.must(h.client.CloseStdin(ctx(t), "cat"))
	h.must(h.client.CloseStdin(ctx(t), "cat"))
	if s, text, err := frame(t, out); err != nil || s != 1 || text != "end\n" {
		t.Fatalf("%d %q %v", s, text, err)
	}
	if _, _, err := frame(t, out); err != io.EOF {
		t.Errorf("after the end: %v", err)
	}
	if log := h.logText("cat"); !strings.Contains(log, `"log":"hello\n","stream":"stdout"`) || !strings.Contains(log, "end") {
		t.Errorf("log: %s", log)
	}
}

func TestTerminal(t *testing.T) {
	h := newHouse(t)
	b := h.bundle("tty", "sh")
	b.TTY, b.OpenStdin, b.Width, b.Height = true, true, 90, 30
	b.Spec.Process.Terminal = true
	h.start(b)
	out, in := h.attach("tty", true)
	defer out.Close()
	defer in.Close()
	lines := bufio.NewReader(out)
	fmt.Fprintln(in, "stty size; tty")
	if got := until(t, lines, "30 90"); got == "" {
		t.Error("no size")
	}
	until(t, lines, "/dev/pts/0")
	h.must(h.client.Resize(ctx(t), "tty", "", 70, 20))
	fmt.Fprintln(in, "stty size")
	until(t, lines, "20 70")
	fmt.Fprintln(in, "exit 4")
	if x, err := h.client.Wait(ctx(t), "tty"); err != nil || x.Code != 4 {
		t.Errorf("%+v %v", x, err)
	}
	if _, err := io.ReadAll(lines); err != nil {
		t.Error(err)
	}
	if log := h.logText("tty"); !strings.Contains(log, `30 90\r\n","stream":"stdout"`) {
		t.Errorf("log: %s", log)
	}
}

func until(t testing.TB, r *bufio.Reader, want string) string {
	t.Helper()
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatalf("wait for %q: %v", want, err)
		}
		if strings.TrimSpace(line) == want {
			return line
		}
	}
}

// TestSlowReader: one who attaches and does not read delays nobody.
func TestSlowReader(t *testing.T) {
	const total = 24 << 20
	h := newHouse(t)
	b := h.bundle("loud", "sh", "-c", fmt.Sprint("yes 0123456789012345678901234567890123456789012345678901234567890 | head -c ", total))
	b.Log.Path = ""
	_, err := h.client.Create(ctx(t), b)
	h.must(err)
	slow, _ := h.attach("loud", false)
	defer slow.Close()
	_, err = h.client.Start(ctx(t), "loud")
	h.must(err)
	if x, err := h.client.Wait(ctx(t), "loud"); err != nil || x.Code != 0 {
		t.Errorf("%+v %v", x, err)
	}
	got, notice := 0, ""
	for {
		s, text, err := frame(t, slow)
		if err != nil {
			break
		}
		if s == 2 {
			notice = text
		} else {
			got += len(text)
		}
	}
	if !strings.Contains(notice, "behind") || got >= total {
		t.Errorf("the slow reader got %d bytes and was told %q", got, notice)
	}
}

// TestWholeOutput: one who reads gets all of it, and so does the log.
func TestWholeOutput(t *testing.T) {
	h := newHouse(t)
	b := h.bundle("loud", "seq", "1", "100000")
	b.Log.MaxSize = -1
	_, err := h.client.Create(ctx(t), b)
	h.must(err)
	out, _ := h.attach("loud", false)
	defer out.Close()
	_, err = h.client.Start(ctx(t), "loud")
	h.must(err)
	var all strings.Builder
	for {
		_, text, err := frame(t, out)
		if err == io.EOF {
			break
		}
		h.must(err)
		all.WriteString(text)
	}
	if n := strings.Count(all.String(), "\n"); n != 100000 || !strings.HasSuffix(all.String(), "100000\n") {
		t.Errorf("%d lines", n)
	}
	_, err = h.client.Wait(ctx(t), "loud")
	h.must(err)
	numbers(t, h.logText("loud"), 100000)
}

// TestReaderLeaves: a reader that goes away leaves nothing behind.
func TestReaderLeaves(t *testing.T) {
	h := newHouse(t)
	h.start(h.bundle("quiet", "sleep", "1000"))
	before := h.keeperFiles()
	for range 10 {
		out, _ := h.attach("quiet", false)
		out.Close()
	}
	h.eventually("attaches gone", func() bool { return h.keeperFiles() <= before })
}

func TestNoLog(t *testing.T) {
	h := newHouse(t)
	b := h.bundle("nolog", "seq", "1", "100000")
	b.Log.Path = ""
	h.start(b)
	if x, err := h.client.Wait(ctx(t), "nolog"); err != nil || x.Code != 0 {
		t.Errorf("%+v %v", x, err)
	}
}

func (h *house) keeperFiles() int {
	h.t.Helper()
	d, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", h.client.Pid()))
	h.must(err)
	return len(d)
}

func (h *house) eventually(what string, f func() bool) {
	h.t.Helper()
	end := time.Now().Add(10 * time.Second)
	for !f() {
		if time.Now().After(end) {
			h.t.Fatalf("not so: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
