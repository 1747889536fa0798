// Package logs knows how a container's output lies on disk: lines of JSON, as
// Docker's json-file driver writes them and log shippers expect them,
//
//	{"log":"ready\n","stream":"stdout","time":"2026-01-02T15:04:05.999999999Z"}
//
// in a bounded set of files: PATH is the active one, PATH.1 the one before it,
// PATH.2 older still. It refuses to know containers, processes and
// connections.
//
// One process writes (the keeper, through a [Writer]), any number of others
// read ([Read]) at the same time. They share nothing but the files, so the
// layout obeys three rules that make reading safe without locks:
//
//   - a record is added by appending; bytes before the last newline of a file
//     never change;
//   - a file only ever moves to a higher number, in the order of its age, or is
//     removed, and is never written to again once it has left PATH;
//   - a new PATH appears only once the old one has moved away or is gone.
//
// A reader therefore recognises a file by its inode, not by its name.
package logs

import (
	"io"
	"time"
)

// Stream says where a line came from.
type Stream uint8

// The streams of a process.
const (
	Stdout Stream = 1
	Stderr Stream = 2
)

// String gives the name used on disk.
func (s Stream) String() string {
	if s == Stderr {
		return "stderr"
	}
	return "stdout"
}

// MaxLine is the most bytes of output one record holds. A longer line is
// several records, all but the last without a newline at their end.
const MaxLine = 16 << 10

// Options bound a log on disk.
type Options struct {
	MaxSize  int64 // bytes of one file; 0: 10 MB (10,000,000), negative: unbounded
	MaxFiles int   // files kept, the active one among them; 0: 3
}

func (o Options) withDefaults() Options {
	if o.MaxSize == 0 {
		o.MaxSize = 10_000_000
	}
	if o.MaxFiles <= 0 {
		o.MaxFiles = 3
	}
	return o
}

// Entry is one record of a log.
type Entry struct {
	Time   time.Time
	Stream Stream
	// Line is what the process wrote, with its newline; without one it is a
	// part of a line that goes on in the stream's next entry (or was never
	// finished). It is valid only until the callback returns.
	Line []byte
	// Next is the place behind this entry, to go on from later.
	Next Cursor
}

// Partial reports whether the line goes on in the stream's next entry.
func (e Entry) Partial() bool { return len(e.Line) == 0 || e.Line[len(e.Line)-1] != '\n' }

// Cursor is a place in a log that survives rotation and restarts of either
// side. The zero Cursor is the beginning of the oldest file.
type Cursor struct {
	Inode  uint64 // of the file
	Born   int64  // time of the file's first record, ns since 1970: inode numbers are used again
	Offset int64  // bytes from the file's start
}

// Query says what [Read] should give.
type Query struct {
	Since, Until time.Time // zero: no bound; both inclusive
	// Tail asks for the last so many lines, counted among those that match
	// the rest of the query; negative: all. The parts of a long line count once.
	Tail int
	// From goes on behind an entry read earlier; then Tail is not looked at.
	// If that file has been dropped meanwhile, reading starts at the oldest.
	From Cursor
	// Stdout and Stderr choose the streams; at least one must be set. Notes
	// about unreadable records belong to stderr.
	Stdout, Stderr bool

	Follow bool
	// Done ends a Follow when it closes: what the log holds by then is still
	// given. Close it only after the Writer has been closed.
	Done <-chan struct{}
	// Watcher carries the file notices of a Follow; nil: one of its own for
	// this call. Share one, since the kernel allows a user 128 of them.
	Watcher *Watcher
}

var (
	_ io.Writer = streamWriter{}
	_ io.Closer = (*Writer)(nil)
)
