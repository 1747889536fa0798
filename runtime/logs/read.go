package logs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/containerd/errdefs"
)

// Read gives the entries of the log at path that match q to each, in the order
// they were written, across all files of the log. A log that is not there is
// empty. Reading ends at what the log held when Read was called, or, following,
// when Done closes (nil), Until is reached (nil), the log's directory is
// removed (nil), ctx ends (its error) or each returns an error (that one).
//
// A record that cannot be understood is left out; one entry, on stderr, stands
// in the place of any number of them in a row.
//
// Following, no line is given twice and none is left out, however often the
// log is rotated, unless the reader is so slow that a file is dropped before
// it comes to it.
func Read(ctx context.Context, path string, q Query, each func(Entry) error) error {
	if !q.Stdout && !q.Stderr {
		return fmt.Errorf("read log: neither stdout nor stderr is asked for: %w", errdefs.ErrInvalidArgument)
	}
	r := &reader{chain: chain(path), q: q, each: each}
	defer r.close()
	if q.Follow {
		w := q.Watcher
		if w == nil {
			own, err := NewWatcher()
			if err != nil {
				return err
			}
			defer own.Close()
			w = own
		}
		// Before the first look at the files: what changes after that look
		// has left a notice.
		sub, err := w.subscribe(path)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
		} else if err != nil {
			return err
		}
		defer w.unsubscribe(sub)
		r.sub = sub
	}
	if err := r.begin(); err != nil {
		return fmt.Errorf("read log %s: %w", path, err)
	}
	return r.run(ctx)
}

type reader struct {
	chain chain
	q     Query
	each  func(Entry) error
	sub   *subscription // nil: not following

	f     *file // being read; nil while the log has no file
	lines scanner
	final bool // f has left PATH: once read to its end, it is done
	// Not following: where to stop.
	stopIno  uint64
	stopSize int64

	scratch []byte
	last    time.Time // of the entry before
	bad     bool      // within a row of records that cannot be understood
}

func (r *reader) close() {
	if r.f != nil {
		r.f.Close()
	}
}

// enter goes on in f, at off.
func (r *reader) enter(f *file, off int64) {
	if r.f != nil && r.f != f {
		r.f.Close()
	}
	r.f, r.final = f, false
	r.lines.seek(f, off)
}

func (r *reader) matches(e Entry) bool {
	switch {
	case e.Stream == Stdout && !r.q.Stdout, e.Stream == Stderr && !r.q.Stderr:
		return false
	case !r.q.Since.IsZero() && e.Time.Before(r.q.Since):
		return false
	case !r.q.Until.IsZero() && e.Time.After(r.q.Until):
		return false
	}
	return true
}

// begin finds the place to read from.
func (r *reader) begin() error {
	f, err := r.chain.newest()
	if f == nil || err != nil {
		return err
	}
	size, err := f.size()
	if err != nil {
		f.Close()
		return err
	}
	r.stopIno, r.stopSize = f.ino, size
	if r.q.From != (Cursor{}) {
		return r.beginAt(f)
	}
	if r.q.Tail == 0 {
		r.enter(f, size)
		if _, after, _, err := newBackscanner(f, size).prev(); err == nil {
			r.lines.seek(f, after)
		} else if errors.Is(err, io.EOF) {
			r.lines.seek(f, 0)
		} else {
			return err
		}
		return nil
	}
	return r.beginTail(f, size)
}

// beginAt looks for the cursor's file, from the newest on.
func (r *reader) beginAt(f *file) error {
	for {
		r.enter(f, 0)
		if f.ino == r.q.From.Inode && f.bornAt() == r.q.From.Born {
			r.lines.seek(f, r.q.From.Offset)
			return nil
		}
		g, err := r.chain.older(f)
		if g == nil || err != nil {
			return err
		}
		f = g
	}
}

// beginTail goes back from the end of f until enough lines are behind it, or
// the first file is reached that may hold entries after Since.
func (r *reader) beginTail(f *file, size int64) error {
	count, later := 0, [Stderr + 1]bool{}
	for {
		r.enter(f, 0)
		if r.q.Tail < 0 {
			if !r.q.Since.IsZero() && f.bornAt() != 0 && f.bornAt() < r.q.Since.UnixNano() {
				return nil
			}
		} else {
			off, done, err := r.countBack(newBackscanner(f, size), &count, &later)
			r.lines.seek(f, off)
			if done || err != nil {
				return err
			}
		}
		g, err := r.chain.older(f)
		if g == nil || err != nil {
			return err
		}
		f = g
		if size, err = f.size(); err != nil {
			r.enter(f, 0)
			return err
		}
	}
}

// countBack counts the lines of one file, back to off. done: it need not go on
// in older files.
func (r *reader) countBack(b *backscanner, count *int, later *[Stderr + 1]bool) (off int64, done bool, err error) {
	for {
		line, after, ok, err := b.prev()
		if errors.Is(err, io.EOF) {
			return off, false, nil
		} else if err != nil {
			return 0, false, err
		}
		if !ok {
			continue
		}
		var e Entry
		if e, r.scratch, ok = parse(line, r.scratch); !ok {
			continue
		}
		if off == 0 {
			off = after
		}
		if !r.q.Since.IsZero() && e.Time.Before(r.q.Since) {
			return off, true, nil
		}
		if !r.matches(e) {
			continue
		}
		// A part counts only if the line's later parts are not there.
		if !e.Partial() || !later[e.Stream] {
			if *count == r.q.Tail {
				return off, true, nil
			}
			*count++
		}
		later[e.Stream] = true
		off = b.end
	}
}

// run gives entries until the end.
func (r *reader) run(ctx context.Context) error {
	var until <-chan time.Time
	if !r.q.Until.IsZero() && r.sub != nil {
		t := time.NewTimer(time.Until(r.q.Until))
		defer t.Stop()
		until = t.C
	}
	ending := false // following, and told to end at the end of what there is
	for {
		if err := r.drain(ctx); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if ending || r.sub == nil {
			return nil
		}
		select {
		case <-r.sub.changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-r.q.Done:
			ending = true
		case <-until:
			ending = true
		case <-r.sub.gone:
			ending = true
		case <-r.sub.closed:
			return fmt.Errorf("read log: watcher: %w", fs.ErrClosed)
		}
	}
}

// drain gives all entries there are; io.EOF says that nothing will come.
func (r *reader) drain(ctx context.Context) error {
	for n := 0; ; n++ {
		if n%64 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if r.f == nil {
			f, err := r.chain.newest()
			if f == nil || err != nil {
				return err
			}
			if f, err = r.chain.oldest(f); err != nil {
				return err
			}
			r.enter(f, 0)
		}
		if r.sub == nil && r.f.ino == r.stopIno && r.lines.off >= r.stopSize {
			return io.EOF
		}
		line, ok, err := r.lines.next()
		if errors.Is(err, io.EOF) {
			more, err := r.turn()
			if err != nil {
				return err
			}
			if !more {
				return nil
			}
			continue
		} else if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		if err := r.give(line, ok); err != nil {
			return err
		}
	}
}

// turn decides what the end of a file means: more is true if there is
// something to read now.
func (r *reader) turn() (more bool, err error) {
	if size, err := r.f.size(); err != nil {
		return false, err
	} else if size < r.lines.off { // truncated by somebody: what it holds now is new
		r.f.born = 0
		r.lines.seek(r.f, 0)
		return size > 0, nil
	}
	if !r.final {
		if r.chain.active(r.f) {
			return false, nil
		}
		// It left PATH after its end was met; the writer may have added to it
		// in between. From now on it never does.
		r.final = true
		return true, nil
	}
	g, err := r.chain.newer(r.f)
	if err != nil {
		return false, err
	}
	if g == nil {
		if r.f.dropped() {
			// Nothing of the log is left; all that may come is new. An open
			// file would also keep the kernel from telling that the directory
			// is gone.
			r.f.Close()
			r.f = nil
		}
		return false, nil
	}
	r.enter(g, 0)
	return true, nil
}

// give passes one line of the file on.
func (r *reader) give(line []byte, ok bool) error {
	var e Entry
	if ok {
		e, r.scratch, ok = parse(line, r.scratch)
	}
	if ok {
		r.bad, r.last = false, e.Time
	} else if r.bad {
		return nil
	} else {
		r.bad = true
		if r.last.IsZero() {
			if info, err := r.f.Stat(); err == nil {
				r.last = info.ModTime()
			}
		}
		e = Entry{Time: r.last, Stream: Stderr, Line: markLine("unreadable records of this log are left out here")}
	}
	if !r.matches(e) {
		return nil
	}
	e.Next = Cursor{Inode: r.f.ino, Born: r.f.bornAt(), Offset: r.lines.off}
	return r.each(e)
}
