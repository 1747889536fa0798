package keeper

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"gantry/runtime/rootfs"
)

// VerbArchive: ArchiveCall, with the writing end of a pipe for the outcome and,
// unless it is ArchiveStat, one end of another for the data → rootfs.PathStat.
//
// The work is done by a process of the keeper's that has nothing but the
// container's root filesystem, so no path leads out of that. The answer comes
// when it is ready to begin; the outcome is one [ArchiveOutcome]. It ends when
// the caller closes the other end of the pipe for the outcome, however far it
// has come, and goes on when only the keeper dies.
const VerbArchive = "archive"

// What an archive call does.
const (
	ArchiveStat   = "stat"   // look at a path
	ArchiveGet    = "get"    // write what is there as a tar archive
	ArchivePut    = "put"    // unpack a tar archive in a directory
	ArchiveExport = "export" // write the root filesystem without what is mounted on it
)

// ArchiveRequest asks for a piece of a container's filesystem.
type ArchiveRequest struct {
	ID   string
	Op   string
	Path string `json:",omitempty"`

	// Root is how to make the filesystem of a container that has no process.
	// If it has one, that one's is used. Without either the call fails with
	// ErrFailedPrecondition.
	Root *ArchiveRoot `json:",omitempty"`

	// Of ArchivePut:
	NoOverwrite bool `json:",omitempty"` // as in rootfs.UnpackOptions
	// Owner gets what is unpacked: user[:group], looked up in the container;
	// "": whom the archive names.
	Owner string `json:",omitempty"`
}

// ArchiveRoot is a container's filesystem, taken apart.
type ArchiveRoot struct {
	Overlay  rootfs.Overlay // with an Upper; ReadOnly forbids ArchivePut outside of mounts
	Mounts   []ArchiveMount // those on others after them
	ReadOnly bool
}

// ArchiveMount is what a container has mounted somewhere.
type ArchiveMount struct {
	Source    string `json:",omitempty"` // on the host; "": an empty tmpfs
	Target    string
	Recursive bool `json:",omitempty"`
	ReadOnly  bool `json:",omitempty"`
}

// ArchiveCall is an ArchiveRequest on the wire.
type ArchiveCall struct {
	ArchiveRequest
	HasData bool
}

// ArchiveOutcome ends an archive call.
type ArchiveOutcome struct {
	Error *Failure `json:",omitempty"`
}

// maxOutcome bounds what is read of one.
const maxOutcome = 64 << 10

// Archive begins a transfer. Unless the operation is ArchiveStat the caller
// closes it.
func (c *Client) Archive(ctx context.Context, r ArchiveRequest) (_ *Transfer, err error) {
	t := &Transfer{}
	defer func() {
		if err != nil || r.Op == ArchiveStat {
			t.Close()
		}
	}()
	outcome, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	t.outcome = outcome
	files := []*os.File{theirs}
	defer func() { closeAll(files) }()
	if r.Op != ArchiveStat {
		from, to, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		if r.Op == ArchivePut {
			t.data, files = to, append(files, from)
		} else {
			t.data, files = from, append(files, to)
		}
	}
	// Closing the outcome ends the helper, also one that is not ready yet.
	stop := context.AfterFunc(ctx, func() { outcome.Close() })
	got, err := c.call(ctx, VerbArchive, ArchiveCall{r, len(files) > 1}, &t.Stat, r.Op == ArchiveStat, files...)
	closeAll(got)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	return t, nil
}

// Transfer is an archive on its way out of a container or into one. Its context
// ends only the beginning; [Transfer.Close] ends it at any time.
type Transfer struct {
	Stat rootfs.PathStat // of the path, except for an export

	data, outcome *os.File
	once          sync.Once
	err           error
}

// Read reads the archive of a get or an export. io.EOF comes only when it is
// complete.
func (t *Transfer) Read(p []byte) (int, error) {
	n, err := t.data.Read(p)
	if errors.Is(err, io.EOF) {
		if err := t.end(); err != nil {
			return n, err
		}
	}
	return n, err
}

// Write sends a part of the archive of a put. An error may be why it was
// refused.
func (t *Transfer) Write(p []byte) (int, error) {
	n, err := t.data.Write(p)
	if err != nil {
		if why := t.end(); why != nil {
			return n, why
		}
	}
	return n, err
}

// Finish ends the archive of a put, and says what became of it.
func (t *Transfer) Finish() error {
	t.data.Close()
	return t.end()
}

// end reads the outcome.
func (t *Transfer) end() error {
	t.once.Do(func() {
		text, err := io.ReadAll(io.LimitReader(t.outcome, maxOutcome))
		var o ArchiveOutcome
		switch {
		case err == nil && len(text) == 0:
			t.err = unavailable("the copy was broken off")
		case err != nil:
			t.err = err
		default:
			if err := json.NewDecoder(bytes.NewReader(text)).Decode(&o); err != nil {
				t.err = fmt.Errorf("outcome of a copy: %w", err)
			} else if o.Error != nil {
				t.err = o.Error.Err()
			}
		}
	})
	return t.err
}

// Close ends the transfer, wherever it stands. It may be called beside the other
// methods, and again.
func (t *Transfer) Close() {
	for _, f := range []*os.File{t.data, t.outcome} {
		if f != nil {
			f.Close()
		}
	}
}
