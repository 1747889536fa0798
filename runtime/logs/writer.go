package logs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// flushAt bounds the records gathered before they are written.
const flushAt = 64 << 10

// Writer adds a container's output to its log. Every call of Write is one
// write(2) (of all its whole lines), none waits for the disk. It is safe for
// concurrent use: stdout and stderr have a goroutine each.
//
// When the disk refuses (full, failing), Write returns the error and drops
// what it could not store, never stops the container; the first record that
// can be stored again is preceded by a mark that counts what is missing.
type Writer struct {
	path string
	o    Options

	mu      sync.Mutex
	f       *os.File           // nil once closed
	size    int64              // of f, up to its last whole record
	pending [Stderr + 1][]byte // the unfinished line of each stream, shorter than MaxLine
	buf     []byte             // records not written yet
	stamp   []byte
	torn    bool // f ends in the middle of a record that could not be cut off
	lost    int  // records dropped and not spoken of yet
	spoken  int  // of them, those the mark at the head of buf speaks of
}

// Open opens the log for appending and makes it if need be. If the last writer
// died in the middle of a record, that record is finished when only its
// newline is missing and cut off otherwise. Files beyond o.MaxFiles, left by
// an earlier and larger bound, are removed.
func Open(path string, o Options) (*Writer, error) {
	o = o.withDefaults()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	w := &Writer{path: path, o: o, f: f}
	if w.size, err = repair(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("repair log %s: %w", path, err)
	}
	files, err := numbered(path)
	for _, i := range files {
		if i >= o.MaxFiles {
			err = errors.Join(err, os.Remove(name(path, i)))
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("bound log %s: %w", path, err)
	}
	return w, nil
}

// repair makes f end with a whole record and returns its size.
func repair(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, fmt.Errorf("%s is not a regular file", f.Name())
	}
	size := info.Size()
	if size == 0 {
		return 0, nil
	}
	tail := make([]byte, min(size, maxRecord))
	if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil {
		return 0, err
	}
	i := bytes.LastIndexByte(tail, '\n') + 1
	torn := tail[i:]
	if len(torn) == 0 {
		return size, nil
	}
	_, _, whole := parse(torn, nil)
	if whole || i == 0 && int64(len(tail)) < size { // the latter is no record of ours: fence it off
		_, err := f.Write([]byte{'\n'})
		return size + 1, err
	}
	size -= int64(len(torn))
	return size, f.Truncate(size)
}

// Stdout returns a writer whose output is logged as stdout, now.
func (w *Writer) Stdout() io.Writer { return streamWriter{w, Stdout} }

// Stderr returns a writer whose output is logged as stderr, now.
func (w *Writer) Stderr() io.Writer { return streamWriter{w, Stderr} }

type streamWriter struct {
	w *Writer
	s Stream
}

func (s streamWriter) Write(p []byte) (int, error) {
	if err := s.w.Write(s.s, p, time.Now()); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Write logs what a process wrote to a stream. Whole lines are stored before
// it returns; an unfinished one is kept until the rest comes, MaxLine bytes
// have come, or Close.
func (w *Writer) Write(s Stream, p []byte, at time.Time) error {
	if s != Stdout && s != Stderr {
		return fmt.Errorf("write log: no such stream: %d", s)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.f == nil {
		return fs.ErrClosed
	}
	w.begin(at)
	rest := w.pending[s]
	var first error // go on after a failure: what comes later may fit again
	keep := func(err error) {
		if first == nil {
			first = err
		}
	}
	for len(p) > 0 {
		head := p[:min(len(p), MaxLine-len(rest))]
		i := bytes.IndexByte(head, '\n')
		if i >= 0 {
			head = head[:i+1]
		}
		p = p[len(head):]
		if len(rest) > 0 || i < 0 {
			rest = append(rest, head...)
			head = rest
		}
		switch {
		case i >= 0:
			keep(w.add(head, s))
			rest = rest[:0]
		case len(head) == MaxLine:
			cut := wholeRunes(head)
			keep(w.add(head[:cut], s))
			rest = append(rest[:0], head[cut:]...)
		}
	}
	w.pending[s] = rest
	keep(w.flush())
	return first
}

// wholeRunes gives the length of b without a character that begins at its end
// and is not finished there.
func wholeRunes(b []byte) int {
	for i := len(b) - 1; i >= max(0, len(b)-utf8.UTFMax); i-- {
		if utf8.RuneStart(b[i]) {
			if !utf8.FullRune(b[i:]) {
				return i
			}
			break
		}
	}
	return len(b)
}

// Mark writes a line of gantry's own into the log, as "gantry: TEXT" on
// stderr.
func (w *Writer) Mark(text string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.f == nil {
		return fs.ErrClosed
	}
	w.begin(time.Now())
	err := w.add(markLine(text), Stderr)
	return errors.Join(err, w.flush())
}

func markLine(text string) []byte {
	return []byte("gantry: " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", " ") + "\n")
}

// Close stores unfinished lines, without a newline, and closes the file.
// Further calls do nothing.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.f == nil {
		return nil
	}
	w.begin(time.Now())
	var err error
	for _, s := range []Stream{Stdout, Stderr} {
		if len(w.pending[s]) > 0 {
			err = errors.Join(err, w.add(w.pending[s], s))
		}
	}
	err = errors.Join(err, w.flush(), w.f.Close())
	w.f, w.buf, w.pending = nil, nil, [len(w.pending)][]byte{}
	return err
}

// begin opens a batch of records that share a time.
func (w *Writer) begin(at time.Time) {
	w.stamp = appendStamp(w.stamp[:0], at)
	if w.lost > 0 {
		w.spoken, w.lost = w.lost, 0
		text := "lines of output lost here, the log could not be written: " + strconv.Itoa(w.spoken)
		w.buf = appendRecord(w.buf, markLine(text), Stderr, w.stamp)
	}
}

// add puts one record into the batch, and what comes before it into the file
// when the file is full or the batch large.
func (w *Writer) add(line []byte, s Stream) error {
	start := len(w.buf)
	w.buf = appendRecord(w.buf, line, s, w.stamp)
	full := w.o.MaxSize > 0 && w.size+int64(len(w.buf)) > w.o.MaxSize && w.size+int64(start) > 0
	if !full {
		if len(w.buf) >= flushAt {
			return w.flush()
		}
		return nil
	}
	record := w.buf[start:]
	w.buf = w.buf[:start]
	err := w.flush()
	if err == nil {
		err = w.rotate()
	}
	w.buf = append(w.buf[:0], record...)
	if err != nil {
		return errors.Join(err, w.flush())
	}
	return nil
}

// flush writes the batch.
func (w *Writer) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	defer func() {
		w.buf, w.spoken = w.buf[:0], 0
		if cap(w.buf) > 2*flushAt {
			w.buf = nil // once in a while a batch of binary rubbish: do not keep its memory
		}
	}()
	if w.torn {
		if _, err := w.f.Write([]byte{'\n'}); err != nil {
			w.lost += w.unwritten(0)
			return fmt.Errorf("write log: %w", err)
		}
		w.torn = false
		w.size++
	}
	n, err := w.f.Write(w.buf)
	if err == nil {
		w.size += int64(n)
		return nil
	}
	kept := bytes.LastIndexByte(w.buf[:n], '\n') + 1
	w.size += int64(kept)
	w.lost += w.unwritten(kept)
	if n > kept && w.f.Truncate(w.size) != nil {
		w.torn = true
		w.size += int64(n - kept)
	}
	return fmt.Errorf("write log: %w", err)
}

// unwritten counts the records lost with buf[from:]; a mark about earlier
// losses that is lost itself stands for those.
func (w *Writer) unwritten(from int) int {
	n := bytes.Count(w.buf[from:], []byte{'\n'})
	if w.spoken > 0 && from == 0 {
		n += w.spoken - 1
	}
	return n
}

// rotate moves every file one number up, over the oldest, and begins a new
// one (over the old, if only one is kept). The new file is made first, beside:
// if that fails, nothing has changed and the old file goes on.
func (w *Writer) rotate() error {
	if info, err := w.f.Stat(); err == nil && info.Size() < w.size {
		w.size = info.Size() // somebody truncated it: there is room again
		return nil
	}
	fresh := w.path + ".new"
	f, err := os.OpenFile(fresh, os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	for i := w.o.MaxFiles - 1; i > 0 && err == nil; i-- {
		if err = os.Rename(name(w.path, i-1), name(w.path, i)); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	if err == nil {
		if err = os.Rename(fresh, w.path); err != nil && w.o.MaxFiles > 1 {
			err = errors.Join(err, os.Rename(name(w.path, 1), w.path))
		}
	}
	if err != nil {
		f.Close()
		os.Remove(fresh)
		return fmt.Errorf("rotate log: %w", err)
	}
	w.f.Close()
	w.f, w.size, w.torn = f, 0, false
	return nil
}

// name gives the path of the i-th file, 0 being the active one.
func name(path string, i int) string {
	if i == 0 {
		return path
	}
	return path + "." + strconv.Itoa(i)
}

// numbered lists the numbers of the files beside path that belong to it, in no
// order; the active one is not among them.
func numbered(path string) ([]int, error) {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	all, err := d.Readdirnames(-1)
	var list []int
	prefix := filepath.Base(path) + "."
	for _, n := range all {
		if digits, ok := strings.CutPrefix(n, prefix); ok {
			if i, err := strconv.Atoi(digits); err == nil && i > 0 && strconv.Itoa(i) == digits {
				list = append(list, i)
			}
		}
	}
	return list, err
}
