package logs

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// A writer that rotates all the time and followers that began at different
// moments: every one sees every line once and in order.
func TestFollowAcrossRotations(t *testing.T) {
	const lines = 10_000
	path := filepath.Join(t.TempDir(), "log")
	watcher, err := NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Close()
	w := open(t, path, Options{MaxSize: 20_000, MaxFiles: 1000}) // nothing is dropped
	done := make(chan struct{})
	var followers sync.WaitGroup
	ready := make(chan struct{}, 3)
	for i := range 3 {
		followers.Go(func() {
			q := all()
			q.Follow, q.Done = true, done
			if i > 0 {
				q.Watcher = watcher
			}
			next := 0
			err := Read(context.Background(), path, q, func(e Entry) error {
				if want := fmt.Sprintf("line %d\n", next); string(e.Line) != want {
					return fmt.Errorf("got %q, want %q", e.Line, want)
				}
				if next == 0 {
					ready <- struct{}{}
				}
				next++
				return nil
			})
			if err != nil || next != lines {
				t.Errorf("follower %d: %d lines: %v", i, next, err)
			}
		})
	}
	write(t, w, Stdout, "line 0\n")
	for range 3 {
		<-ready
	}
	for n := 1; n < lines; {
		var b strings.Builder
		for range min(rand.IntN(20)+1, lines-n) {
			fmt.Fprintf(&b, "line %d\n", n)
			n++
		}
		text := b.String()
		cut := rand.IntN(len(text)) // a chunk need not end with a line
		write(t, w, Stdout, text[:cut])
		write(t, w, Stdout, text[cut:])
		if rand.IntN(200) == 0 {
			time.Sleep(time.Millisecond) // let them come to the end of a file
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	close(done)
	followers.Wait()
}

// With few files a slow reader loses lines, but none twice and none out of
// order, and the last ones always arrive.
func TestSlowFollowerLosesOnlyDroppedFiles(t *testing.T) {
	for _, files := range []int{1, 2, 3} {
		t.Run(fmt.Sprint(files), func(t *testing.T) {
			const lines = 6_000
			path := filepath.Join(t.TempDir(), "log")
			w := open(t, path, Options{MaxSize: 2_000, MaxFiles: files})
			done, ended := make(chan struct{}), make(chan error)
			last, count := -1, 0
			go func() {
				q := all()
				q.Follow, q.Done = true, done
				ended <- Read(context.Background(), path, q, func(e Entry) error {
					var n int
					if _, err := fmt.Sscanf(string(e.Line), "line %d\n", &n); err != nil || n <= last {
						return fmt.Errorf("%q after line %d (%v)", e.Line, last, err)
					}
					last = n
					count++
					return nil
				})
			}()
			for n := range lines {
				write(t, w, Stdout, fmt.Sprintf("line %d\n", n))
			}
			w.Close()
			close(done)
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
			if last != lines-1 {
				t.Errorf("ended with line %d", last)
			}
			t.Logf("%d of %d lines", count, lines)
		})
	}
}

func follow(t *testing.T, ctx context.Context, path string, q Query) (lines <-chan string, ended <-chan error) {
	l, e := make(chan string, 100), make(chan error, 1)
	q.Follow = true
	go func() {
		e <- Read(ctx, path, q, func(e Entry) error { l <- string(e.Line); return nil })
	}()
	return l, e
}

func receive[T any](t *testing.T, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(5 * time.Second):
		t.Fatal("nothing came within 5 s")
	}
	return v
}

func TestFollowEnds(t *testing.T) {
	t.Run("context", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "log")
		w := open(t, path, Options{})
		ctx, cancel := context.WithCancel(context.Background())
		lines, ended := follow(t, ctx, path, all())
		write(t, w, Stdout, "one\n")
		receive(t, lines)
		cancel()
		if err := receive(t, ended); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Run("done", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "log")
		w := open(t, path, Options{})
		done := make(chan struct{})
		q := all()
		q.Done = done
		lines, ended := follow(t, context.Background(), path, q)
		write(t, w, Stdout, "one\ntwo")
		receive(t, lines)
		w.Close()
		close(done)
		if err := receive(t, ended); err != nil {
			t.Error(err)
		}
		if l := receive(t, lines); l != "two" {
			t.Errorf("the unfinished line was %q", l)
		}
	})
	t.Run("until", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "log")
		open(t, path, Options{})
		q := all()
		q.Until = time.Now().Add(30 * time.Millisecond)
		_, ended := follow(t, context.Background(), path, q)
		if err := receive(t, ended); err != nil {
			t.Error(err)
		}
	})
	t.Run("directory removed", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "container")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "log")
		w := open(t, path, Options{})
		lines, ended := follow(t, context.Background(), path, all())
		write(t, w, Stdout, "one\n")
		receive(t, lines)
		w.Close()
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if err := receive(t, ended); err != nil {
			t.Error(err)
		}
	})
	t.Run("watcher closed", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "log")
		w := open(t, path, Options{})
		q := all()
		var err error
		if q.Watcher, err = NewWatcher(); err != nil {
			t.Fatal(err)
		}
		lines, ended := follow(t, context.Background(), path, q)
		write(t, w, Stdout, "one\n")
		receive(t, lines)
		q.Watcher.Close()
		if err := receive(t, ended); !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	t.Run("no directory", func(t *testing.T) {
		_, ended := follow(t, context.Background(), filepath.Join(t.TempDir(), "none", "log"), all())
		if err := receive(t, ended); !errdefs.IsNotFound(err) {
			t.Error(err)
		}
	})
}

// A follower may be there before the log, after its end, and while somebody
// truncates it.
func TestFollowThroughAbsenceAndTruncation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	ctx, cancel := context.WithCancel(context.Background())
	lines, ended := follow(t, ctx, path, Query{Tail: 0, Stdout: true})
	time.Sleep(10 * time.Millisecond)
	w := open(t, path, Options{})
	write(t, w, Stdout, "first line\n")
	if l := receive(t, lines); l != "first line\n" {
		t.Errorf("got %q", l)
	}
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	write(t, w, Stdout, "new\n")
	if l := receive(t, lines); l != "new\n" {
		t.Errorf("after truncation: %q", l)
	}
	// A torn record is cut off by the next writer while the follower waits
	// behind it.
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString(`{"log":"to`)
	f.Close()
	time.Sleep(10 * time.Millisecond)
	w.Close()
	w = open(t, path, Options{})
	write(t, w, Stdout, "after the crash\n")
	if l := receive(t, lines); l != "after the crash\n" {
		t.Errorf("after a torn record: %q", l)
	}
	cancel()
	receive(t, ended)
}

// A crash in the middle of a rotation leaves a number empty; readers and the
// next writer step over it.
func TestRotationInterrupted(t *testing.T) {
	for hole := range 4 {
		t.Run(fmt.Sprint(hole), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log")
			o := Options{MaxSize: 200, MaxFiles: 10}
			w := open(t, path, o)
			n := 0
			more := func(k int) {
				for range k {
					write(t, w, Stdout, fmt.Sprintf("line %d\n", n))
					n++
				}
			}
			more(12)
			done := make(chan struct{})
			q := all()
			q.Done = done
			lines, ended := follow(t, context.Background(), path, q)
			for range 12 {
				receive(t, lines)
			}
			w.Close()
			last, err := chain(path).last()
			if err != nil || last < 4 {
				t.Fatalf("%d files: %v", last, err)
			}
			for i := last; i >= hole; i-- { // as rotate does, until it died
				if err := os.Rename(name(path, i), name(path, i+1)); err != nil {
					t.Fatal(err)
				}
			}
			if got := len(collect(t, path, all())); got != 12 {
				t.Errorf("read %d lines with a hole at %d", got, hole)
			}
			w = open(t, path, o)
			more(10)
			w.Close()
			close(done)
			for i := 12; i < n; i++ {
				if l := receive(t, lines); l != fmt.Sprintf("line %d\n", i) {
					t.Errorf("follower: %q, want line %d", l, i)
				}
			}
			if err := receive(t, ended); err != nil {
				t.Error(err)
			}
		})
	}
}

func FuzzRead(f *testing.F) {
	rec := string(appendRecord(nil, []byte("é\n"), Stdout, appendStamp(nil, noon)))
	f.Add([]byte(rec), 1)
	f.Add([]byte(rec[:30]+"\n"+rec+"\x00\x00\n{}\n"+rec[:10]), 2)
	f.Add([]byte(`{"log":"\ud83d\ude00\u12","stream":"stdout","time":"2026-01-02T12:00:00Z","attrs":{"a":[}`+"\n"), -1)
	f.Add([]byte("\n\n\n"), 5)
	f.Fuzz(func(t *testing.T, data []byte, tail int) {
		path := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		lines := strings.Count(string(data), "\n")
		q := all()
		for _, q.Tail = range []int{-1, tail} {
			n := 0
			err := Read(context.Background(), path, q, func(e Entry) error {
				if n++; n > lines {
					return errors.New("more entries than lines")
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		w, err := Open(path, Options{})
		if err != nil {
			t.Fatal(err)
		}
		w.Write(Stdout, []byte("last\n"), noon)
		w.Close()
		list := collect(t, path, all())
		if len(list) == 0 || list[len(list)-1].Line != "last\n" {
			t.Fatalf("a line written behind it is read as %q", texts(list))
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	line := []byte(strings.Repeat("GET /index.html 200 0.003s ", 4) + "\n")
	stamp := appendStamp(nil, noon)
	var buf []byte
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		buf = appendRecord(buf[:0], line, Stdout, stamp)
	}
}

func BenchmarkWrite(b *testing.B) {
	w := open(b, filepath.Join(b.TempDir(), "log"), Options{})
	chunk := []byte(strings.Repeat(strings.Repeat("GET /index.html 200 0.003s ", 4)+"\n", 64<<10/109))
	b.SetBytes(int64(len(chunk)))
	for b.Loop() {
		if err := w.Write(Stdout, chunk, noon); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	path := filepath.Join(b.TempDir(), "log")
	w := open(b, path, Options{})
	line := strings.Repeat("GET /index.html 200 0.003s ", 4) + "\n"
	for range 50 {
		w.Write(Stdout, []byte(strings.Repeat(line, 600)), noon)
	}
	b.SetBytes(int64(len(line) * 600 * 50))
	for b.Loop() {
		if err := Read(context.Background(), path, all(), func(Entry) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"log":"\ud83d\ude00\u0000\n","stream":"stderr","time":"2026-01-02T12:00:00Z"}`))
	f.Add([]byte(`{"attrs":{"a":["}",{}]},"time":"2026-01-02T12:00:00.1+01:00","stream":"stdout","log":"\ud83d"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, _, ok := parse(data, nil)
		if !ok || e.Time.Year() < 0 || e.Time.Year() > 9999 {
			return
		}
		again := appendRecord(nil, e.Line, e.Stream, appendStamp(nil, e.Time))
		g, _, ok := parse(again[:len(again)-1], nil)
		if !ok || string(g.Line) != string([]rune(string(e.Line))) || !g.Time.Equal(e.Time) || g.Stream != e.Stream {
			t.Fatalf("%q is %+v, written again %q is %+v", data, e, again, g)
		}
	})
}
