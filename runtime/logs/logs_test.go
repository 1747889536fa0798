package logs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) {
	logsWithoutEnd()
	goleak.VerifyTestMain(m)
}

var noon = time.Date(2026, 1, 2, 12, 0, 0, 123456789, time.UTC)

func all() Query { return Query{Tail: -1, Stdout: true, Stderr: true} }

// got is an Entry that may be kept.
type got struct {
	Time   time.Time
	Stream Stream
	Line   string
	Next   Cursor
}

func collect(t testing.TB, path string, q Query) []got {
	t.Helper()
	var list []got
	err := Read(context.Background(), path, q, func(e Entry) error {
		list = append(list, got{e.Time, e.Stream, string(e.Line), e.Next})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func texts(list []got) []string {
	s := []string{}
	for _, g := range list {
		s = append(s, g.Line)
	}
	return s
}

func wantLines(t testing.TB, list []got, want ...string) {
	t.Helper()
	if got := texts(list); fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		t.Fatalf("read %.2000q\nwant %.2000q", got, want)
	}
}

func open(t testing.TB, path string, o Options) *Writer {
	t.Helper()
	w, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func write(t testing.TB, w *Writer, s Stream, text string) {
	t.Helper()
	if err := w.Write(s, []byte(text), noon); err != nil {
		t.Fatal(err)
	}
}

func TestRecordsAreDockers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w := open(t, path, Options{})
	write(t, w, Stdout, "ready \"<&>\" \x01\t\u2028 é \xff\\\r\n")
	write(t, w, Stderr, "oops\n")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"log":"ready \"\u003c\u0026\u003e\" \u0001\u0009\u2028 é \ufffd\\\r\n","stream":"stdout","time":"2026-01-02T12:00:00.123456789Z"}` + "\n" +
		`{"log":"oops\n","stream":"stderr","time":"2026-01-02T12:00:00.123456789Z"}` + "\n"
	if string(data) != want {
		t.Fatalf("wrote\n%s\nwant\n%s", data, want)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v", info.Mode())
	}
}

// The encoder agrees with encoding/json on everything, and the parser
// understands both.
func TestEncodingIsJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		line := rapid.OneOf(rapid.SliceOf(rapid.Byte()), rapid.Map(rapid.String(), func(s string) []byte { return []byte(s) })).Draw(t, "line")
		s := rapid.SampledFrom([]Stream{Stdout, Stderr}).Draw(t, "stream")
		rec := appendRecord(nil, line, s, appendStamp(nil, noon))
		var v struct {
			Log, Stream string
			Time        time.Time
		}
		if err := json.Unmarshal(rec, &v); err != nil {
			t.Fatalf("%s: %v", rec, err)
		}
		want := string([]rune(string(line))) // bytes that are no UTF-8 replaced one by one
		if v.Log != want || v.Stream != s.String() || !v.Time.Equal(noon) {
			t.Fatalf("%s reads %+v", rec, v)
		}
		e, _, ok := parse(bytes.TrimSuffix(rec, []byte("\n")), nil)
		if !ok || string(e.Line) != want || e.Stream != s || !e.Time.Equal(noon) {
			t.Fatalf("%s parses %v %+v", rec, ok, e)
		}
		other, err := json.Marshal(map[string]any{"time": noon, "log": want, "attrs": map[string]any{"a": []any{1, nil, "}"}}, "stream": s.String()})
		if err != nil {
			t.Fatal(err)
		}
		if e, _, ok := parse(other, nil); !ok || string(e.Line) != want {
			t.Fatalf("%s parses %v %+v", other, ok, e)
		}
	})
}

func TestLongLinesAreSplitBetweenCharacters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w := open(t, path, Options{})
	long := strings.Repeat("x", MaxLine-1) + "é" + strings.Repeat("y", MaxLine)
	write(t, w, Stdout, long[:100])
	write(t, w, Stderr, "between\n")
	write(t, w, Stdout, long[100:]+"\n")
	write(t, w, Stdout, strings.Repeat("z", MaxLine)+"\n")
	list := collect(t, path, all())
	wantLines(t, list, "between\n", strings.Repeat("x", MaxLine-1), "é"+strings.Repeat("y", MaxLine-2), "yy\n", strings.Repeat("z", MaxLine), "\n")
	q := all()
	q.Tail = 2
	wantLines(t, collect(t, path, q), texts(list)[1:]...)
}

func TestUnfinishedLineIsStoredAtClose(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w := open(t, path, Options{})
	write(t, w, Stdout, "out")
	write(t, w, Stderr, "err")
	wantLines(t, collect(t, path, all()))
	w.Close()
	wantLines(t, collect(t, path, all()), "out", "err")
	if err := w.Write(Stdout, []byte("late\n"), noon); !errors.Is(err, os.ErrClosed) {
		t.Errorf("write after close: %v", err)
	}
}

func TestMark(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w := open(t, path, Options{})
	if err := w.Mark("some output\nmay be missing"); err != nil {
		t.Fatal(err)
	}
	list := collect(t, path, all())
	wantLines(t, list, "gantry: some output may be missing\n")
	if list[0].Stream != Stderr {
		t.Error("not on stderr")
	}
}

func TestOpenMendsTheEndOfTheFile(t *testing.T) {
	rec := func(s string) string { return string(appendRecord(nil, []byte(s), Stdout, appendStamp(nil, noon))) }
	whole := rec("one\n")
	for name, c := range map[string]struct {
		file string
		want []string
	}{
		"whole":        {whole, []string{"one\n", "new\n"}},
		"torn":         {whole + rec("two\n")[:20], []string{"one\n", "new\n"}},
		"only torn":    {whole[:20], []string{"new\n"}},
		"no newline":   {whole + strings.TrimSuffix(rec("two\n"), "\n"), []string{"one\n", "two\n", "new\n"}},
		"zeros":        {whole + strings.Repeat("\x00", 4096), []string{"one\n", "new\n"}},
		"many zeros":   {whole + strings.Repeat("\x00", 3*maxRecord), []string{"one\n", "gantry: unreadable records of this log are left out here\n", "new\n"}},
		"other's line": {"hello\n", []string{"gantry: unreadable records of this log are left out here\n", "new\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log")
			if err := os.WriteFile(path, []byte(c.file), 0o600); err != nil {
				t.Fatal(err)
			}
			w := open(t, path, Options{})
			write(t, w, Stdout, "new\n")
			wantLines(t, collect(t, path, all()), c.want...)
			q := all()
			q.Tail = 1
			wantLines(t, collect(t, path, q), "new\n")
		})
	}
}

func TestSizeAndNumberOfFilesAreBounded(t *testing.T) {
	for _, files := range []int{1, 2, 4} {
		t.Run(fmt.Sprint(files), func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "log")
			o := Options{MaxSize: 1000, MaxFiles: files}
			w := open(t, path, o)
			for i := range 200 {
				write(t, w, Stdout, fmt.Sprintf("line %d\n", i))
			}
			list, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			if len(list) != files {
				t.Errorf("%d files: %v", len(list), list)
			}
			for _, e := range list {
				if info, _ := e.Info(); info.Size() > o.MaxSize || info.Size() < o.MaxSize/2 && e.Name() != "log" {
					t.Errorf("%s has %d bytes", e.Name(), info.Size())
				}
			}
			lines := texts(collect(t, path, all()))
			for i, l := range lines {
				if want := fmt.Sprintf("line %d\n", 200-len(lines)+i); l != want {
					t.Fatalf("line %d is %q, want %q", i, l, want)
				}
			}
			if len(lines) < 8*files {
				t.Errorf("only %d lines kept", len(lines))
			}
			w.Close()
			open(t, path, Options{MaxSize: 1000, MaxFiles: 1}).Close()
			if list, _ := os.ReadDir(dir); len(list) != 1 {
				t.Errorf("after a smaller bound: %v", list)
			}
		})
	}
}

// What is written in any pieces, with rotation and reopening at any place, is
// what is read, except for the oldest.
func TestWhatIsWrittenIsRead(t *testing.T) {
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		path := filepath.Join(dir, fmt.Sprint(n))
		o := Options{MaxSize: rapid.Int64Range(200, 50_000).Draw(t, "size"), MaxFiles: rapid.IntRange(1, 4).Draw(t, "files")}
		w, err := Open(path, o)
		if err != nil {
			t.Fatal(err)
		}
		var want [Stderr + 1][]byte
		piece := rapid.Custom(func(t *rapid.T) []byte {
			switch rapid.IntRange(0, 9).Draw(t, "kind") {
			case 0:
				return bytes.Repeat([]byte(rapid.SampledFrom([]string{"x", "é", "\xe2\x82", "\x00"}).Draw(t, "unit")), rapid.IntRange(0, 40_000).Draw(t, "n"))
			case 1, 2:
				return rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "bytes")
			default:
				return []byte(rapid.StringMatching(`([a-zé ]{0,30}\n){0,4}[a-z]{0,5}`).Draw(t, "text"))
			}
		})
		for range rapid.IntRange(1, 30).Draw(t, "writes") {
			s := rapid.SampledFrom([]Stream{Stdout, Stderr}).Draw(t, "stream")
			p := piece.Draw(t, "piece")
			if err := w.Write(s, p, noon); err != nil {
				t.Fatal(err)
			}
			want[s] = append(want[s], p...)
			if rapid.IntRange(0, 9).Draw(t, "reopen") == 0 {
				// Unfinished lines are stored here, and a character cut in two
				// by that cannot be put together again.
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				for s := range want {
					want[s] = []byte(string([]rune(string(want[s]))))
				}
				if w, err = Open(path, o); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		var have [Stderr + 1][]byte
		var entries []got
		err = Read(context.Background(), path, all(), func(e Entry) error {
			have[e.Stream] = append(have[e.Stream], e.Line...)
			entries = append(entries, got{e.Time, e.Stream, string(e.Line), e.Next})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = os.Stat(name(path, o.MaxFiles-1))
		dropped := err == nil || o.MaxFiles == 1
		for _, s := range []Stream{Stdout, Stderr} {
			w := []byte(string([]rune(string(want[s]))))
			if !bytes.HasSuffix(w, have[s]) || !dropped && len(w) != len(have[s]) {
				t.Fatalf("%v: read %d bytes %.300q, want %d bytes %.300q", s, len(have[s]), have[s], len(w), w)
			}
		}
		// Any tail is the end of the whole, and any cursor gives the rest.
		q := all()
		q.Tail = rapid.IntRange(0, 20).Draw(t, "tail")
		var tail []string
		if err := Read(context.Background(), path, q, func(e Entry) error { tail = append(tail, string(e.Line)); return nil }); err != nil {
			t.Fatal(err)
		}
		if len(tail) > len(entries) || len(tail) < min(q.Tail, len(entries)) {
			t.Fatalf("tail %d gave %d of %d", q.Tail, len(tail), len(entries))
		}
		if want := texts(entries[len(entries)-len(tail):]); fmt.Sprint(tail) != fmt.Sprint(want) {
			t.Fatalf("tail %d: %q, want %q", q.Tail, tail, want)
		}
		if len(entries) > 0 {
			i := rapid.IntRange(0, len(entries)-1).Draw(t, "cursor")
			q := all()
			q.From = entries[i].Next
			n := i + 1
			err := Read(context.Background(), path, q, func(e Entry) error {
				if n >= len(entries) || entries[n].Line != string(e.Line) || entries[n].Next != e.Next {
					return fmt.Errorf("entry %d behind the cursor is %q", n, e.Line)
				}
				n++
				return nil
			})
			if err != nil || n != len(entries) {
				t.Fatalf("from cursor %d: %d of %d: %v", i, n, len(entries), err)
			}
		}
	})
}

func TestQueries(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w := open(t, path, Options{MaxSize: 500, MaxFiles: 20})
	for i := range 40 {
		s := Stdout
		if i%4 == 3 {
			s = Stderr
		}
		if err := w.Write(s, fmt.Appendf(nil, "%d\n", i), noon.Add(time.Duration(i)*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	at := func(i int) time.Time { return noon.Add(time.Duration(i) * time.Second) }
	for _, c := range []struct {
		q    Query
		want string
	}{
		{Query{Tail: 3, Stdout: true, Stderr: true}, "37 38 39"},
		{Query{Tail: 3, Stdout: true}, "36 37 38"},
		{Query{Tail: 3, Stderr: true}, "31 35 39"},
		{Query{Tail: 0, Stderr: true}, ""},
		{Query{Tail: -1, Since: at(38), Stdout: true, Stderr: true}, "38 39"},
		{Query{Tail: -1, Until: at(1), Stdout: true, Stderr: true}, "0 1"},
		{Query{Tail: 2, Until: at(10), Stdout: true, Stderr: true}, "9 10"},
		{Query{Tail: 9, Since: at(8), Until: at(10), Stdout: true, Stderr: true}, "8 9 10"},
		{Query{Tail: 1000, Stderr: true}, "3 7 11 15 19 23 27 31 35 39"},
		{Query{Tail: -1, Since: at(100), Stdout: true}, ""},
		{Query{Tail: -1, From: Cursor{Inode: 1, Born: 1, Offset: 1}, Until: at(1), Stdout: true}, "0 1"},
	} {
		var have []string
		for _, g := range collect(t, path, c.q) {
			have = append(have, strings.TrimSpace(g.Line))
		}
		if strings.Join(have, " ") != c.want {
			t.Errorf("%+v: %q, want %q", c.q, have, c.want)
		}
	}
	err := Read(context.Background(), path, Query{Tail: -1}, nil)
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("no stream: %v", err)
	}
	collectNone := filepath.Join(t.TempDir(), "none", "log")
	wantLines(t, collect(t, collectNone, all()))
	stop := errors.New("enough")
	if err := Read(context.Background(), path, all(), func(Entry) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("callback's error: %v", err)
	}
}

func TestTailReadsOnlyTheEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	// A hole of 1 GB before the last lines: reading it would take seconds.
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(1 << 30); err != nil {
		t.Skip("no sparse files here: ", err)
	}
	f.Seek(0, 2)
	f.WriteString("\n")
	for i := range 10_000 {
		f.Write(appendRecord(nil, fmt.Appendf(nil, "%d\n", i), Stdout, appendStamp(nil, noon)))
	}
	f.Close()
	begin := time.Now()
	q := all()
	q.Tail = 5
	wantLines(t, collect(t, path, q), "9995\n", "9996\n", "9997\n", "9998\n", "9999\n")
	if took := time.Since(begin); took > 200*time.Millisecond {
		t.Errorf("took %v", took)
	}
}

// A full disk loses lines, says how many, and stores whole records again as
// soon as it can.
func TestFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w := open(t, path, Options{})
	write(t, w, Stdout, "before\n")
	real := w.f
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("no /dev/full: ", err)
	}
	defer full.Close()
	w.f = full
	for range 3 {
		if err := w.Write(Stdout, []byte("lost\nlost\n"), noon); err == nil {
			t.Fatal("a full disk was not noticed")
		}
	}
	w.f, w.torn = real, false
	write(t, w, Stdout, "after\n")
	wantLines(t, collect(t, path, all()), "before\n", "gantry: lines of output lost here, the log could not be written: 6\n", "after\n")
}
