package image

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/images"
)

// A pull that finds a name as its registry has it changes one thing: when that
// was last seen, which matters to who pulls once a day. It is not in the record,
// whose every change waits for the disk, behind all that a pull before it has
// not waited for. It is in a file that is written in the background and not
// synced: who loses it asks the registry once more.

const (
	currentFile    = "current"
	currentVersion = 1
)

// currents are the names that were found to be current since they were set.
type currents struct {
	path string
	log  *slog.Logger

	mu    sync.Mutex
	seen  map[string]time.Time // by the record's name
	dirty bool                 // the file does not say all of it
	busy  bool                 // somebody writes
	work  sync.WaitGroup
}

type wireCurrents struct {
	Version int                  `json:"version"`
	Seen    map[string]time.Time `json:"seen"`
}

// openCurrents reads what the daemon before has seen; what cannot be read was
// not seen.
func openCurrents(dir string, log *slog.Logger) *currents {
	c := &currents{path: filepath.Join(dir, currentFile), log: log}
	var w wireCurrents
	if b, err := os.ReadFile(c.path); err == nil && json.Unmarshal(b, &w) == nil && w.Version == currentVersion {
		c.seen = w.Seen
	}
	if c.seen == nil {
		c.seen = map[string]time.Time{}
	}
	return c
}

// found notes that a name is current, and forgets what was noted of names that
// are in no record any more.
func (c *currents) found(name string, records map[string]images.Image) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n := range c.seen {
		if _, ok := records[n]; !ok {
			delete(c.seen, n)
		}
	}
	c.seen[name] = time.Now()
	if c.dirty = true; !c.busy {
		c.busy = true
		c.work.Go(c.write)
	}
}

// write writes the file until it says all.
func (c *currents) write() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.dirty {
		c.dirty = false
		b, err := json.Marshal(wireCurrents{Version: currentVersion, Seen: c.seen})
		c.mu.Unlock()
		if err == nil {
			err = replaceFile(c.path, b, false)
		}
		if err != nil {
			c.log.Warn("which names are current is forgotten with this daemon", "error", err)
		}
		c.mu.Lock()
	}
	c.busy = false
}

// close waits until the file is written.
func (c *currents) close() { c.work.Wait() }

// last is when a record was set, or its name found to be current after that.
func (c *currents) last(r images.Image) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if seen := c.seen[r.Name]; seen.After(r.UpdatedAt) {
		return seen
	}
	return r.UpdatedAt
}
