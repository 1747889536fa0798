package daemon

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gantry/runtime"
	"gantry/runtime/build"
	"gantry/runtime/image"
	"gantry/runtime/spec"

	"github.com/opencontainers/go-digest"
)

func TestBudget(t *testing.T) {
	for _, c := range []struct {
		budget Budget
		want   bounds
		fails  string
	}{
		{Budget{}, bounds{250, 100, time.Hour}, ""},
		{Budget{"10kB", "0", "90m"}, bounds{10 << 10, 0, 90 * time.Minute}, ""},
		{Budget{"12.5%", "100%", "0s"}, bounds{125, 1000, 0}, ""},
		{Budget{MaxUsed: "101%"}, bounds{}, "--max-used-space"},
		{Budget{MaxUsed: "NaN%"}, bounds{}, "--max-used-space"},
		{Budget{MinFree: "-1"}, bounds{}, "--min-free-space"},
		{Budget{MinFree: "much"}, bounds{}, "--min-free-space"},
		{Budget{Unused: "-1h"}, bounds{}, "--unused-for"},
		{Budget{Unused: "1 day"}, bounds{}, "--unused-for"},
	} {
		got, err := c.budget.on(1000)
		if c.fails != "" {
			if err == nil || !strings.Contains(err.Error(), c.fails) {
				t.Errorf("%+v: %v, want %q", c.budget, err, c.fails)
			}
			continue
		}
		if err != nil || got != c.want {
			t.Errorf("%+v: %+v, %v", c.budget, got, err)
		}
	}
	if got := (Budget{"1GB", "5%", ""}).args(); !slices.Equal(got, []string{"--max-used-space", "1GB", "--min-free-space", "5%"}) {
		t.Errorf("args %q", got)
	}
}

func TestOverTheBudget(t *testing.T) {
	b := bounds{maxUsed: 100, minFree: 50}
	for _, c := range []struct {
		u    usage
		want int64
	}{
		{usage{free: 60, cache: 50, nameless: 50}, 0},
		{usage{free: 60, cache: 60, nameless: 50}, 10},
		{usage{free: 20}, 30},
		{usage{free: 45, cache: 120}, 20},
	} {
		if got := c.u.over(b); got != c.want {
			t.Errorf("%+v is %d over, want %d", c.u, got, c.want)
		}
	}
}

// hoard is images and build cache to be collected.
type hoard struct {
	mu      sync.Mutex // guards looks
	images  []image.Image
	used    string // an image with a container
	size    map[digest.Digest]int64
	records []build.Record
	looks   int
	removed []string
	pruned  []build.PruneOptions
	events  chan runtime.Event
}

func (h *hoard) List() []runtime.Container {
	return []runtime.Container{{Config: spec.Config{ImageID: h.used}}}
}

func (h *hoard) ListImages(context.Context) ([]image.Image, error) {
	return slices.DeleteFunc(slices.Clone(h.images), func(i image.Image) bool { return slices.Contains(h.removed, i.ID.String()) }), nil
}

func (h *hoard) ImageLayers(ctx context.Context) (map[digest.Digest][]image.Layer, error) {
	out := map[digest.Digest][]image.Layer{}
	all, _ := h.ListImages(ctx)
	for _, i := range all {
		out[i.ID] = []image.Layer{{Name: i.ID.String(), Size: h.size[i.ID]}, {Name: "base", Size: 1}}
	}
	return out, nil
}

func (h *hoard) RemoveImage(_ context.Context, ref string, force bool) ([]image.Removed, error) {
	if force {
		panic("by force")
	}
	h.removed = append(h.removed, ref)
	return nil, nil
}

func (h *hoard) CollectImages(context.Context) error { return nil }

func (h *hoard) Events(ctx context.Context, _ runtime.EventQuery, each func(runtime.Event) error) error {
	for {
		select {
		case e := <-h.events:
			if err := each(e); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (h *hoard) Cache(context.Context, build.Filter) ([]build.Record, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.looks++
	return h.records, nil
}

func (h *hoard) Prune(_ context.Context, p build.PruneOptions) ([]build.Record, int64, error) {
	h.pruned = append(h.pruned, p)
	return nil, 0, nil
}

func newHoard(now time.Time) *hoard {
	old, young := now.Add(-2*time.Hour), now.Add(-time.Minute)
	h := &hoard{size: map[digest.Digest]int64{}, events: make(chan runtime.Event)}
	for _, i := range []struct {
		id   digest.Digest
		name string
		at   time.Time
		size int64
	}{{"sha256:named", "web:1", old, 1000}, {"sha256:old", "", old, 40}, {"sha256:young", "", young, 30}, {"sha256:used", "", old, 500}} {
		img := image.Image{ID: i.id, Tagged: i.at}
		if i.name != "" {
			img.Names = []string{i.name}
		}
		h.images, h.size[i.id] = append(h.images, img), i.size
	}
	h.used = "sha256:used"
	h.records = []build.Record{{ID: "a", Size: 50, LastUsed: old}, {ID: "b", Size: 500, Shared: true, LastUsed: young}}
	return h
}

// nothing is kept for any project.
func nothing() (map[string]bool, error) { return nil, nil }

// What nobody uses and what is an hour old goes, images without a name first,
// and of the cache no more than has to.
func TestCollect(t *testing.T) {
	for _, c := range []struct {
		name    string
		max     string
		removed []string
		cache   int64 // what the cache is brought down to, 0: it is left alone
		again   bool
		kept    func() (map[string]bool, error)
	}{
		{name: "below the budget", max: "120"},
		{name: "images are enough", max: "80", removed: []string{"sha256:old"}},
		{name: "cache goes, too", max: "60", removed: []string{"sha256:old"}, cache: 30, again: true},
		{name: "what is young stays", max: "10", removed: []string{"sha256:old"}, cache: 1, again: true},
		{name: "what a history can go back to stays and does not count", max: "80",
			kept: func() (map[string]bool, error) { return map[string]bool{"sha256:old": true}, nil }},
		{name: "where that is not known all stay", max: "10", cache: 10,
			kept: func() (map[string]bool, error) { return nil, errors.New("a history cannot be read") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHoard(time.Now())
			w := &collector{budget: Budget{MaxUsed: c.max, MinFree: "0"}, root: t.TempDir(), images: h, cache: h, kept: c.kept, log: slog.New(slog.DiscardHandler)}
			if w.kept == nil {
				w.kept = nothing
			}
			again, err := w.collect(t.Context())
			if err != nil || (again > 0) != c.again {
				t.Errorf("again %v, %v", again, err)
			}
			if !slices.Equal(h.removed, c.removed) {
				t.Errorf("removed %v, want %v", h.removed, c.removed)
			}
			switch {
			case c.cache == 0:
				if len(h.pruned) > 0 {
					t.Errorf("pruned %+v", h.pruned)
				}
			case len(h.pruned) != 1 || h.pruned[0].Max != c.cache || h.pruned[0].Filter.Unused != time.Hour || h.pruned[0].All:
				t.Errorf("pruned %+v, want down to %d", h.pruned, c.cache)
			}
		})
	}
}

// It looks when images come in or a build ends, at most once in a while, and
// never by the clock; but once more when what was too young is old enough.
func TestCollectorLooksWhenItHasTo(t *testing.T) {
	root := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		h := newHoard(time.Now())
		c := &collector{budget: Budget{MaxUsed: "100%", MinFree: "0"}, root: root, settle: time.Second, gap: time.Minute, images: h, cache: h, kept: nothing, log: slog.New(slog.DiscardHandler), kick: make(chan struct{}, 1)}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); c.run(ctx) }()
		looks := func(when string, want int) {
			t.Helper()
			time.Sleep(time.Second)
			synctest.Wait()
			h.mu.Lock() // its next look comes after this one at it
			defer h.mu.Unlock()
			if h.looks != want {
				t.Errorf("%s: %d looks, want %d", when, h.looks, want)
			}
		}
		time.Sleep(24 * time.Hour)
		looks("nothing happens", 0)
		h.events <- runtime.Event{Type: "image", Action: "delete"}
		h.events <- runtime.Event{Type: "container", Action: "start"}
		looks("nothing grows", 0)
		h.events <- runtime.Event{Type: "image", Action: "load"}
		looks("a load", 1)
		for range 10 {
			c.grown()
			h.events <- runtime.Event{Type: "image", Action: "pull"}
		}
		looks("a burst", 1)
		time.Sleep(2 * time.Minute)
		looks("after the burst", 2)
		time.Sleep(24 * time.Hour)
		looks("quiet again", 2)

		c.budget.MaxUsed = "10" // only what is young is over it
		h.images, h.records = h.images[2:3], nil
		h.images[0].Tagged = time.Now()
		c.grown()
		looks("over the budget", 3)
		time.Sleep(59 * time.Minute)
		looks("still young", 3)
		time.Sleep(2 * time.Minute)
		looks("old enough", 5) // once more after the removal
		if !slices.Equal(h.removed, []string{"sha256:young"}) {
			t.Errorf("removed %v", h.removed)
		}
		stop()
		<-done
	})
}
