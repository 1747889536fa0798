package build

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/buildkit/snapshot"
)

// unsynced are the snapshots that steps write to, mounted so that no step waits
// for the disk: a package manager syncs after every file, and what it writes is
// of no worth before the image is stored, which syncs it all (see crashMark).
type unsynced struct {
	snapshot.Snapshotter
	written *written
}

func (u unsynced) Mounts(ctx context.Context, key string) (snapshot.Mountable, error) {
	m, err := u.Snapshotter.Mounts(ctx, key)
	if err != nil {
		return nil, err
	}
	return volatile{m, u.written}, nil
}

// volatile is a snapshot whose mounts do not sync. One is mounted time and
// again: a COPY of several sources mounts its target for each.
type volatile struct {
	snapshot.Mountable
	written *written
}

func (v volatile) Mount() ([]mount.Mount, func() error, error) {
	ms, release, err := v.Mountable.Mount()
	if err != nil {
		return nil, nil, err
	}
	ms = slices.Clone(ms)
	unsynced := false
	for i, m := range ms {
		if m.Type == "bind" && !slices.Contains(m.Options, "ro") {
			unsynced = true // a first layer: its directory is written to as it is
		}
		if m.Type != "overlay" {
			continue
		}
		for _, o := range m.Options {
			work, ok := strings.CutPrefix(o, "workdir=")
			if !ok {
				continue
			}
			// The kernel leaves this mark and refuses a second mount that finds
			// it, lest somebody trust the content after a crash; see trust.
			if err := os.RemoveAll(filepath.Join(work, "work", "incompat")); err != nil {
				if release != nil {
					_ = release()
				}
				return nil, nil, err
			}
			ms[i].Options = append(slices.Clone(m.Options), "volatile")
			unsynced = true
		}
	}
	if !unsynced {
		return ms, release, nil
	}
	v.written.note()
	// Until the mount is gone it may be written to, also after another build
	// has had everything synced that was there by then.
	return ms, func() error {
		v.written.note()
		if release == nil {
			return nil
		}
		return release()
	}, nil
}

// written knows whether anything may have been written that is not on the disk.
// To ask the kernel for it all takes as long as what others write, too.
type written struct {
	mu    sync.Mutex // held while the disk is waited for: nobody is told too early
	dirty atomic.Bool
}

func (w *written) note() { w.dirty.Store(true) }

// sync returns when everything written before is on the disk.
func (w *written) sync(path string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.dirty.Swap(false) {
		return nil
	}
	if err := syncfs(path); err != nil {
		w.note()
		return err
	}
	return nil
}
