package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// An image that was loaded, imported or pulled is listed before all its bytes are
// on the disk. What of it is not is named in a file that is, with the boot in
// which it was written; the bytes follow in the background, and the names go.
//
//	note ──► mark on the disk ──► record of the image, answer ──► syncfs ──► mark without them
//
// A daemon that dies leaves its bytes to the kernel, and the next one only syncs.
// If the machine goes down, the store that is opened after it finds the mark of
// another boot, and makes whole what it names or removes it (repair.go). So a
// listed image has all its bytes, after a power cut too.

// unsynced is what one operation has stored and not waited for.
type unsynced struct {
	Blobs  []digest.Digest `json:"blobs,omitempty"`
	Layers []unsyncedLayer `json:"layers,omitempty"` // each after the one below it
}

// unsyncedLayer is a snapshot and what it was unpacked from.
type unsyncedLayer struct {
	Snapshot string        `json:"snapshot"`
	Blob     digest.Digest `json:"blob"`
	Diff     digest.Digest `json:"diff"`
}

func (u *unsynced) add(more unsynced) {
	u.Blobs = append(u.Blobs, more.Blobs...)
	u.Layers = append(u.Layers, more.Layers...)
}

func (u *unsynced) has(snapshots []string) bool {
	return slices.ContainsFunc(u.Layers, func(l unsyncedLayer) bool { return slices.Contains(snapshots, l.Snapshot) })
}

// mark is the file that tells of it.
type mark struct {
	Version int    `json:"version"`
	Boot    string `json:"boot"`
	unsynced
}

const (
	markFile    = "unsynced"
	markVersion = 1
	// failedBoot is no boot's id: what the mark names could not be synced.
	failedBoot = "failed"
)

// syncer brings to the disk what operations have not waited for.
type syncer struct {
	path string // of the mark
	boot string
	lost func(gone unsynced, why error) error // what could not be synced is to go
	log  *slog.Logger

	mu      sync.Mutex
	sync    func() error             // all that was written before
	open    map[*operation]*unsynced // of those still under way
	ripe    []*unsynced              // of those that are done
	failed  unsynced                 // what is to go and could not
	changed chan struct{}            // closed when something was synced
	closed  bool

	work chan struct{}
	done chan struct{}
}

func (s *Store) openSyncer() (*syncer, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, err
	}
	// Its own: a failure is told once to each descriptor.
	disk, err := openDisks(filepath.Join(s.dir, "content"), filepath.Join(s.dir, "snapshots"))
	if err != nil {
		return nil, err
	}
	y := &syncer{
		path: filepath.Join(s.dir, markFile), boot: string(boot), sync: disk.sync, lost: s.lose, log: s.log,
		open: map[*operation]*unsynced{}, changed: make(chan struct{}), work: make(chan struct{}, 1), done: make(chan struct{}),
	}
	go func() {
		defer close(y.done)
		defer disk.close()
		for range y.work {
			y.settle()
		}
	}()
	return y, nil
}

// close waits until everything has been synced.
func (y *syncer) close() {
	y.mu.Lock()
	if !y.closed {
		y.closed = true
		close(y.work)
	}
	y.mu.Unlock()
	<-y.done
}

// note puts on the disk that op is about to make findable what it has not synced.
func (y *syncer) note(op *operation, more unsynced) error {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.open[op] == nil {
		y.open[op] = &unsynced{}
	}
	y.open[op].add(more)
	if err := y.write(y.boot); err != nil {
		return fmt.Errorf("note what is to be synced: %w", err)
	}
	return nil
}

// end says that op makes nothing more findable: what it has noted is synced from
// now on.
func (y *syncer) end(op *operation) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if u := y.open[op]; u != nil {
		delete(y.open, op)
		y.hand(u)
	}
}

// hand gives work to the background; mu is held.
func (y *syncer) hand(u *unsynced) {
	y.ripe = append(y.ripe, u)
	if y.closed {
		return
	}
	select {
	case y.work <- struct{}{}:
	default: // it will look
	}
}

// wait returns when none of these snapshots is to be synced: who uses one is not
// to lose it.
func (y *syncer) wait(ctx context.Context, snapshots []string) error {
	for {
		y.mu.Lock()
		busy := slices.ContainsFunc(y.ripe, func(u *unsynced) bool { return u.has(snapshots) })
		for _, u := range y.open {
			busy = busy || u.has(snapshots)
		}
		changed := y.changed
		y.mu.Unlock()
		if !busy {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// idle says that there is nothing to wait for.
func (y *syncer) idle() bool {
	y.mu.Lock()
	defer y.mu.Unlock()
	return len(y.ripe)+len(y.open) == 0
}

// settle syncs what is ripe, and takes it off the mark.
func (y *syncer) settle() {
	y.mu.Lock()
	taken, sync := len(y.ripe), y.sync
	all := unsynced{}
	for _, u := range y.ripe {
		all.add(*u)
	}
	y.mu.Unlock()
	err := sync()
	y.mu.Lock()
	defer y.mu.Unlock()
	if err != nil {
		// The kernel tells it once. The pages count as clean from then on, so
		// another try would prove nothing.
		y.failed.add(all)
	}
	if len(y.failed.Blobs)+len(y.failed.Layers) > 0 {
		if err := errors.Join(y.write(failedBoot), y.lost(y.failed, err)); err != nil {
			y.log.Warn("what could not be synced stays until it can be removed", "error", err)
		} else {
			y.failed = unsynced{}
		}
	}
	y.ripe = y.ripe[taken:]
	boot := y.boot
	if len(y.failed.Blobs)+len(y.failed.Layers) > 0 {
		boot = failedBoot
	}
	if err := y.write(boot); err != nil {
		y.log.Warn("what is synced stays marked", "error", err)
	}
	close(y.changed)
	y.changed = make(chan struct{})
}

// write makes the mark name all that is not synced; mu is held.
func (y *syncer) write(boot string) error {
	m := mark{Version: markVersion, Boot: boot}
	m.add(y.failed)
	for _, u := range y.ripe {
		m.add(*u)
	}
	for _, u := range y.open {
		m.add(*u)
	}
	if len(m.Blobs)+len(m.Layers) == 0 {
		if err := os.Remove(y.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return ReplaceFile(y.path, b)
}

// ReplaceFile writes a file so that it has its old content or the new one, and
// the new one for good when it returns.
func ReplaceFile(path string, b []byte) error { return replaceFile(path, b, true) }

// replaceFile is ReplaceFile; what is not to stay waits for no disk.
func replaceFile(path string, b []byte, stays bool) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if stays {
		err = errors.Join(err, f.Sync())
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil || !stays {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// disks are the file systems of a store, mostly one. They are held open: the
// kernel tells a failure to write to who had them open before.
type disks []*os.File

func openDisks(dirs ...string) (disks, error) {
	var all disks
	var seen []uint64
	for _, dir := range dirs {
		f, err := os.Open(dir)
		if err != nil {
			all.close()
			return nil, err
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil || slices.Contains(seen, st.Dev) {
			f.Close()
			continue
		}
		seen = append(seen, st.Dev)
		all = append(all, f)
	}
	return all, nil
}

func (d disks) sync() error {
	for _, f := range d {
		if err := unix.Syncfs(int(f.Fd())); err != nil {
			return fmt.Errorf("sync %s: %w", f.Name(), err)
		}
	}
	return nil
}

func (d disks) close() {
	for _, f := range d {
		f.Close()
	}
}
