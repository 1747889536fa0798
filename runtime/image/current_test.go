package image

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A pull that finds nothing new writes nothing that waits for a disk, and yet
// it is known when it was, by the next daemon too.
func TestPullOfWhatIsCurrentWaitsForNoDisk(t *testing.T) {
	h, s := newHub(t), pullStore(t)
	h.image(t, "team/web:1", makeTar(t, entry{name: "a", body: "a"}))
	h.image(t, "team/other:1", makeTar(t, entry{name: "b", body: "b"}))
	set := mustPull(t, s, h.name("team/web:1")).Image.Tagged
	mustPull(t, s, h.name("team/other:1"))

	before := s.changes.Load()
	again := mustPull(t, s, h.name("team/web:1"))
	if n := s.changes.Load() - before; again.Fresh || n != 0 {
		t.Errorf("fresh %v, %d writes to the database", again.Fresh, n)
	}
	if !again.Image.Tagged.After(set) {
		t.Errorf("seen to be current at %s, set at %s", again.Image.Tagged, set)
	}
	if img, err := s.Get(t.Context(), h.name("team/other:1")); err != nil || img.Tagged.After(again.Image.Tagged) {
		t.Errorf("another name counts as current too: %s %v", img.Tagged, err)
	}

	dir := s.dir
	s.Close()
	s = openStore(t, dir)
	if img, err := s.Get(t.Context(), h.name("team/web:1")); err != nil || !img.Tagged.Equal(again.Image.Tagged) {
		t.Errorf("the next daemon: %s, want %s: %v", img.Tagged, again.Image.Tagged, err)
	}

	// A name that is gone is forgotten, and one that is set anew is as new as that.
	if _, err := s.Remove(t.Context(), h.name("team/web:1"), RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	mustPull(t, s, h.name("team/other:1"))
	if _, ok := s.current.seen[h.name("team/web:1")]; ok || len(s.current.seen) != 1 {
		t.Errorf("still noted: %v", s.current.seen)
	}
	began := time.Now()
	if img := mustPull(t, s, h.name("team/web:1")).Image; img.Tagged.Before(began) {
		t.Errorf("set at %s, before %s", img.Tagged, began)
	}
	mustBeClean(t, s)
}

// What is noted is a help and no truth: a store opens without it.
func TestNotesOfCurrentNamesMayBeLost(t *testing.T) {
	h, s := newHub(t), pullStore(t)
	h.image(t, "team/web:1", makeTar(t, entry{name: "a", body: "a"}))
	mustPull(t, s, h.name("team/web:1"))
	mustPull(t, s, h.name("team/web:1"))
	dir := s.dir
	for _, text := range []string{"", `{"version":`, `{"version":2,"seen":{}}`, `{"version":1}`} {
		if err := os.WriteFile(filepath.Join(s.dir, currentFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s.Close()
		s = openStore(t, dir)
		if img, err := s.Get(t.Context(), h.name("team/web:1")); err != nil || img.Tagged.IsZero() {
			t.Errorf("%q: %s %v", text, img.Tagged, err)
		}
		if p := mustPull(t, s, h.name("team/web:1")); p.Fresh {
			t.Errorf("%q: pulled again", text)
		}
	}
}
