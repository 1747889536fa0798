package scheduler

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func TestHistoryIsBounded(t *testing.T) {
	h := &history{dir: t.TempDir()}
	g := goalOf(t, "services: {web: {image: img}}", Options{})
	for i := range 3 * mostRevisions {
		if _, err := h.append("shop", Revision{Kind: KindApply, At: time.Unix(int64(i), 0), Outcome: UnderWay}, &g); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 * mostRevisions {
		if _, err := h.append("shop", Revision{Kind: KindRun, Outcome: Done}, nil); err != nil {
			t.Fatal(err)
		}
	}
	all, err := h.list("shop")
	if err != nil {
		t.Fatal(err)
	}
	kept := 0
	for i, r := range all {
		if i > 0 && r.Number >= all[i-1].Number {
			t.Errorf("revision %d comes after %d", r.Number, all[i-1].Number)
		}
		if r.Kept {
			kept++
		}
	}
	if len(all) != 2*mostRevisions || kept != mostRevisions {
		t.Errorf("%d revisions, %d with a goal; want %d and %d", len(all), kept, 2*mostRevisions, mostRevisions)
	}
	if all[0].Number != 5*mostRevisions {
		t.Errorf("the newest is %d", all[0].Number)
	}
	last := all[len(all)-1].Number
	if err := h.amend("shop", last, func(r *Revision) { r.Outcome = Done }); err != nil {
		t.Fatal(err)
	}
	if all, _ = h.list("shop"); all[len(all)-1].Outcome != Done {
		t.Errorf("amended to %q", all[len(all)-1].Outcome)
	}
	back, err := h.goal("shop", last)
	if err != nil || back.Project.Services["web"].Image != "img" || back.Services["web"].Replicas != 1 {
		t.Errorf("goal of %d: %+v, %v", last, back, err)
	}
	if _, err := h.goal("shop", all[0].Number); !errdefs.IsNotFound(err) {
		t.Errorf("a revision without a goal gave %v", err)
	}
	if err := h.amend("shop", 1, func(*Revision) { t.Error("one that has gone was amended") }); err != nil {
		t.Error(err)
	}
}

func TestHistoryIsPrivateAndEnds(t *testing.T) {
	h := &history{dir: t.TempDir()}
	r, err := h.append("shop", Revision{Kind: KindRun}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]fs.FileMode{h.of("shop"): 0o700, h.path("shop", r.Number): 0o600} {
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v; want %v", path, st.Mode(), err, mode)
		}
	}
	// A file that cannot be read costs no other one.
	if err := os.WriteFile(filepath.Join(h.of("shop"), "000007.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := h.list("shop")
	if len(all) != 1 || err == nil || !strings.Contains(err.Error(), "000007.json") {
		t.Errorf("%v, %v", all, err)
	}
	if r, err = h.append("shop", Revision{Kind: KindRun}, nil); err != nil || r.Number != 8 {
		t.Errorf("revision %d, %v", r.Number, err)
	}
	if err := h.forget("shop"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(h.of("shop")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the history is still there: %v", err)
	}
}

// All that a history can go back to is known by its images, and no more.
func TestImagesOfHistories(t *testing.T) {
	h := &history{dir: t.TempDir()}
	p, err := load("services: {web: {image: img}}")
	if err != nil {
		t.Fatal(err)
	}
	for i := range mostRevisions + 5 {
		g, err := NewGoal(p, Options{})
		if err != nil {
			t.Fatal(err)
		}
		g.Images = map[string]string{"img": fmt.Sprintf("sha256:%d", i)}
		if _, err := h.append("shop", Revision{Kind: KindApply, Outcome: Done}, &g); err != nil {
			t.Fatal(err)
		}
		if _, err := h.append("shop", Revision{Kind: KindRun, Outcome: Done}, nil); err != nil {
			t.Fatal(err)
		}
	}
	ids, err := h.images("shop")
	if err != nil || len(ids) != mostRevisions || slices.Contains(ids, "sha256:4") || !slices.Contains(ids, "sha256:5") {
		t.Errorf("%q %v", ids, err)
	}
	if ids, err := h.images("nosuch"); err != nil || len(ids) > 0 {
		t.Errorf("of no project: %q %v", ids, err)
	}
	numbers, err := h.numbers("shop")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.path("shop", numbers[0]), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := h.images("shop"); err == nil {
		t.Error("what cannot be read is passed over")
	}
}
