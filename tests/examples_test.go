package tests

import (
	"os"
	"path/filepath"
	"testing"
)

// Every example comes up and goes down again. The shop has tests of its own,
// with the images it needs; the others run on busybox.
func TestExamples(t *testing.T) {
	t.Parallel()
	dirs, err := os.ReadDir(filepath.Join(repo, "examples"))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		if d.Name() == "shop" || !d.IsDir() {
			continue
		}
		t.Run(d.Name(), func(t *testing.T) {
			m := newMachine(t)
			dir := filepath.Join(repo, "examples", d.Name())
			m.okIn(dir, "up", "-d", "--wait")
			if r := m.in(dir, "plan"); r.code != 0 {
				t.Errorf("up, and there is something to do: %s", r)
			}
			m.okIn(dir, "down", "-v")
		})
	}
	if r := (&machine{t: t, dir: t.TempDir()}).in(filepath.Join(repo, "examples", "shop"), "config", "-q"); r.code != 0 {
		t.Errorf("the shop: %s", r)
	}
}
