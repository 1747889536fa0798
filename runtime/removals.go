package runtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// removals remembers which places ([Options.Place]) were emptied by a call:
// whoever keeps them filled must not fill those again. A place that is taken
// again is forgotten.
type removals struct {
	path string

	mu  sync.Mutex
	all map[string]time.Time // place → when its container was removed; never written to
}

// removalsVersion is the form of the file.
const removalsVersion = 1

type storedRemovals struct {
	Version  int
	Removals map[string]time.Time
}

func openRemovals(root string) (*removals, error) {
	r := &removals{path: filepath.Join(root, "removals.json")}
	data, err := os.ReadFile(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	var s storedRemovals
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err == nil && s.Version > removalsVersion {
		err = newerError{r.path, s.Version}
	}
	if err != nil {
		return nil, fmt.Errorf("read what calls have removed: %w", err)
	}
	r.all = s.Removals
	return r, nil
}

// change replaces what is remembered, on disk first, if f has changed it.
func (r *removals) change(f func(map[string]time.Time) bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := maps.Clone(r.all)
	if next == nil {
		next = map[string]time.Time{}
	}
	if !f(next) {
		return nil
	}
	data, err := json.Marshal(storedRemovals{removalsVersion, next})
	if err == nil {
		err = writeFile(r.path, data, 0o600, true)
	}
	if err != nil {
		return fmt.Errorf("remember what calls have removed: %w", err)
	}
	r.all = next
	return nil
}

func (r *removals) add(place string, at time.Time) error {
	return r.change(func(all map[string]time.Time) bool { all[place] = at; return true })
}

func (r *removals) forget(which func(place string) bool) error {
	return r.change(func(all map[string]time.Time) bool {
		before := len(all)
		maps.DeleteFunc(all, func(place string, _ time.Time) bool { return which(place) })
		return len(all) < before
	})
}

// Removals are the places whose containers a call has removed, and when.
func (e *Engine) Removals() map[string]time.Time {
	e.removals.mu.Lock()
	defer e.removals.mu.Unlock()
	return e.removals.all
}

// ForgetRemovals forgets those that nobody will ask for.
func (e *Engine) ForgetRemovals(which func(place string) bool) error {
	return e.removals.forget(which)
}

// place is the one a container fills, "" if none.
func (e *Engine) place(c Container) string {
	if e.Place == nil {
		return ""
	}
	return e.Place(c.Config)
}

// filled forgets that a call has emptied a place which has a container now.
func (e *Engine) filled(c Container) {
	place := e.place(c)
	if place == "" {
		return
	}
	if err := e.removals.forget(func(p string) bool { return p == place }); err != nil {
		e.Log.Error("forget a removal", "container", c.Name, "error", err)
	}
}

// emptied remembers that a call has removed a container, unless another one has
// its place by now.
func (e *Engine) emptied(c Container) error {
	place := e.place(c)
	if place == "" || c.Removal == nil || !c.Removal.Call {
		return nil
	}
	for _, other := range e.all() {
		if o := other.snapshot(); o.ID != c.ID && e.place(o) == place {
			return nil
		}
	}
	add := func() error { return e.removals.add(place, c.Removal.At) }
	return e.onSpare(add(), add)
}
