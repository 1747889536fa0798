package logs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"syscall"
)

// file is one file of a log, open for reading. Its number is not kept: it may
// change at any time.
type file struct {
	*os.File
	dev, ino uint64
	born     int64 // time of the first record once known, see Cursor
}

func openFile(path string) (*file, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, errors.Join(err, fmt.Errorf("%s is not a regular file", path))
	}
	st := info.Sys().(*syscall.Stat_t)
	return &file{File: f, dev: st.Dev, ino: st.Ino}, nil
}

// bornAt reads the time of the first record; 0 while there is none, -1 if it
// cannot be understood.
func (f *file) bornAt() int64 {
	if f.born == 0 {
		buf := make([]byte, 512)
		for {
			n, _ := f.ReadAt(buf, 0)
			if i := bytes.IndexByte(buf[:n], '\n'); i >= 0 {
				f.born = -1
				if e, _, ok := parse(buf[:i], nil); ok {
					f.born = e.Time.UnixNano()
				}
				break
			}
			if n < len(buf) || len(buf) >= maxRecord {
				break
			}
			buf = make([]byte, 8*len(buf))
		}
	}
	return f.born
}

func (f *file) sameAs(info fs.FileInfo) bool {
	st := info.Sys().(*syscall.Stat_t)
	return st.Dev == f.dev && st.Ino == f.ino
}

func (f *file) size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// dropped reports whether the file has no name any more.
func (f *file) dropped() bool {
	info, err := f.Stat()
	return err != nil || info.Sys().(*syscall.Stat_t).Nlink == 0
}

// chain is the files of one log, which the writer may be moving about. All its
// methods rest on the rules in the package's comment: whoever looks through
// the numbers upwards cannot miss a file that moves up, and as long as one
// file keeps its number, none has passed from below it to above it.
type chain string

// exists reports whether there is a file of that number.
func (c chain) exists(i int) bool {
	_, err := os.Stat(name(string(c), i))
	return err == nil
}

// open opens the file of that number, nil if there is none.
func (c chain) open(i int) (*file, error) {
	f, err := openFile(name(string(c), i))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return f, err
}

// last gives the highest number in use.
func (c chain) last() (int, error) {
	list, err := numbered(string(c))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if len(list) == 0 {
		return 0, err
	}
	return slices.Max(list), err
}

// number finds f; ok is false if it is no part of the log any more.
func (c chain) number(f *file) (int, bool) {
	// Its number may grow past what the directory held when it was listed,
	// and a file moved to another name altogether would be looked for in vain.
	for range 8 {
		last, err := c.last()
		if err != nil {
			return 0, false
		}
		for i := 0; i <= last+1; i++ {
			if info, err := os.Stat(name(string(c), i)); err == nil && f.sameAs(info) {
				return i, true
			}
		}
		if f.dropped() {
			return 0, false
		}
	}
	return 0, false
}

// active reports whether f is the file that is being written.
func (c chain) active(f *file) bool {
	info, err := os.Stat(string(c))
	return err == nil && f.sameAs(info)
}

// newest opens the youngest file, nil if there is none.
func (c chain) newest() (*file, error) {
	last, err := c.last()
	if err != nil {
		return nil, err
	}
	for i := 0; i <= last+1; i++ { // PATH itself is missing for a moment while files move
		if f, err := c.open(i); f != nil || err != nil {
			return f, err
		}
	}
	return nil, nil
}

// older opens the file before f, nil if f is the oldest or dropped.
func (c chain) older(f *file) (*file, error) {
	for {
		k, ok := c.number(f)
		if !ok {
			return nil, nil
		}
		last, err := c.last()
		if err != nil {
			return nil, err
		}
		var g *file
		for i := k + 1; i <= last+1 && g == nil; i++ {
			if g, err = c.open(i); err != nil {
				return nil, err
			}
		}
		if info, err := os.Stat(name(string(c), k)); err == nil && f.sameAs(info) {
			return g, nil
		}
		if g != nil { // f moved meanwhile: what was opened may be f itself, or younger
			g.Close()
		}
	}
}

// newer opens the file after f: nil if there is none yet. If f has been
// dropped, that is the oldest there is.
func (c chain) newer(f *file) (*file, error) {
	for {
		k, ok := c.number(f)
		if !ok {
			g, err := c.newest()
			if g == nil || err != nil {
				return nil, err
			}
			return c.oldest(g)
		}
		var g *file
		var err error
		j := k - 1
		for ; j >= 0 && g == nil; j-- {
			if g, err = c.open(j); err != nil {
				return nil, err
			}
		}
		// Right if nobody was skipped: still nothing between g and f, and f
		// where it was. A number is empty while files move, and for longer
		// after a crash in the middle of that.
		between := false
		for i := j + 2; i < k; i++ {
			between = between || c.exists(i)
		}
		info, err := os.Stat(name(string(c), k))
		if err == nil && f.sameAs(info) && !between {
			return g, nil
		}
		if g != nil {
			g.Close()
		}
	}
}

// oldest walks back from f, which it closes unless it is the answer.
func (c chain) oldest(f *file) (*file, error) {
	for {
		g, err := c.older(f)
		if err != nil {
			f.Close()
			return nil, err
		}
		if g == nil {
			return f, nil
		}
		f.Close()
		f = g
	}
}

// scanner gives the lines of a file forwards. At the end of the file it may
// be asked again later.
type scanner struct {
	f     *file
	off   int64 // in the file, of buf[start]: always the beginning of a line
	buf   []byte
	start int
	end   int
	seen  int  // bytes from start on known to hold no newline
	short bool // the last read ended at the end of the file
	long  bool // within a line beyond maxRecord, of which the beginning was dropped
}

func (s *scanner) seek(f *file, off int64) {
	*s = scanner{f: f, off: off, buf: s.buf}
}

// next returns a line without its newline, valid until the next call; ok is
// false for one too long to be a record. At the end of the file it returns
// io.EOF, also if the file ends within a line.
func (s *scanner) next() (line []byte, ok bool, err error) {
	again := false
	for {
		if i := bytes.IndexByte(s.buf[s.start+s.seen:s.end], '\n'); i >= 0 {
			line = s.buf[s.start : s.start+s.seen+i]
			s.start += len(line) + 1
			s.off += int64(len(line)) + 1
			s.seen = 0
			ok, s.long = !s.long, false
			return line, ok, nil
		}
		s.seen = s.end - s.start
		if s.short {
			// What lies here after the last newline may be a record half
			// written, which its writer is allowed to cut off: read it anew
			// instead of putting what follows behind it.
			s.start, s.end, s.seen, s.short = 0, 0, 0, false
			if again {
				return nil, false, io.EOF
			}
			again = true
		}
		if s.seen > maxRecord {
			s.off += int64(s.seen)
			s.start, s.end, s.seen, s.long = 0, 0, 0, true
		}
		if s.start > 0 {
			copy(s.buf, s.buf[s.start:s.end])
			s.start, s.end = 0, s.end-s.start
		}
		if s.end == len(s.buf) {
			s.buf = append(s.buf, make([]byte, max(32<<10, len(s.buf)))...)
		}
		n, err := s.f.ReadAt(s.buf[s.end:], s.off+int64(s.end))
		s.end += n
		if errors.Is(err, io.EOF) {
			s.short = true
		} else if err != nil {
			return nil, false, err
		}
	}
}

// backscanner gives the lines of a file backwards, from its last newline.
type backscanner struct {
	f   *file
	off int64 // in the file, of buf[0]
	// end is the place behind the newline that ends buf; -1 until the piece
	// after the file's last newline, if there is one, has been put aside.
	end  int64
	buf  []byte
	long bool // the middle of the line at buf's end was dropped: beyond maxRecord
}

const backBlock = 64 << 10

func newBackscanner(f *file, size int64) *backscanner {
	return &backscanner{f: f, off: size, end: -1}
}

// prev returns the line before, without its newline, and the place behind that
// newline; ok is false for one too long to be a record. io.EOF at the
// beginning of the file.
func (b *backscanner) prev() (line []byte, after int64, ok bool, err error) {
	for {
		body := b.buf
		if b.end >= 0 && len(body) > 0 {
			body = body[:len(body)-1] // its own newline
		}
		i := bytes.LastIndexByte(body, '\n')
		switch {
		case i < 0 && b.off > 0:
			if err := b.more(); err != nil {
				return nil, 0, false, err
			}
			continue
		case b.end < 0:
			b.buf, b.end, b.long = b.buf[:i+1], b.off+int64(i)+1, false
			continue
		case len(b.buf) == 0:
			return nil, 0, false, io.EOF
		}
		line, after, ok = body[i+1:], b.end, !b.long
		b.buf, b.end, b.long = b.buf[:i+1], b.off+int64(i)+1, false
		return line, after, ok, nil
	}
}

// more puts the block before in front of buf.
func (b *backscanner) more() error {
	if len(b.buf) > maxRecord {
		b.long = true
		b.buf = b.buf[:0]
		if b.end >= 0 {
			b.buf = append(b.buf, '\n')
		}
	}
	block := make([]byte, min(b.off, backBlock))
	if _, err := b.f.ReadAt(block, b.off-int64(len(block))); err != nil {
		return err // io.EOF: truncated meanwhile, nothing left before
	}
	b.off -= int64(len(block))
	b.buf = append(block, b.buf...)
	return nil
}

// Size gives the bytes that the log at path takes, its older files included.
func Size(path string) (bytes int64, err error) {
	if path == "" {
		return 0, nil
	}
	last, err := chain(path).last()
	if err != nil {
		return 0, err
	}
	for i := range last + 1 {
		info, err := os.Stat(name(path, i))
		if errors.Is(err, fs.ErrNotExist) {
			continue // moved up meanwhile
		}
		if err != nil {
			return 0, err
		}
		bytes += info.Size()
	}
	return bytes, nil
}
