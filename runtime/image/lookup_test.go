package image

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"
	"pgregory.net/rapid"
)

func TestGet(t *testing.T) {
	s := newStore(t)
	a := mustImport(t, s, "web:1", entry{name: "a"})
	b := mustImport(t, s, "example.org/team/web", entry{name: "b"})
	if err := s.Tag(t.Context(), "web:1", "web"); err != nil {
		t.Fatal(err)
	}
	hex := a.ID.Encoded()
	for ref, want := range map[string]digest.Digest{
		"web": a.ID, "web:1": a.ID, "docker.io/library/web:1": a.ID, "library/web": a.ID,
		"example.org/team/web": b.ID, "example.org/team/web:latest": b.ID,
		a.ID.String(): a.ID, hex: a.ID, hex[:12]: a.ID, "sha256:" + hex[:20]: a.ID,
		"web@" + a.Target.String(): a.ID, "web:nonsense@" + a.Target.String(): a.ID,
	} {
		got, err := s.Get(t.Context(), ref)
		if err != nil || got.ID != want {
			t.Errorf("Get(%s) = %v, %v", ref, got.ID, err)
		}
	}
	for ref, class := range map[string]func(error) bool{
		"nothing": errdefs.IsNotFound, "web:2": errdefs.IsNotFound, "sha256:" + strings.Repeat("0", 64): errdefs.IsNotFound,
		"web@sha256:" + strings.Repeat("0", 64): errdefs.IsNotFound, "other@" + a.Target.String(): errdefs.IsNotFound,
		"Bad Name": errdefs.IsInvalidArgument, "": errdefs.IsInvalidArgument, danglingName(a.Target): errdefs.IsInvalidArgument,
	} {
		if _, err := s.Get(t.Context(), ref); !class(err) {
			t.Errorf("Get(%q): %v", ref, err)
		}
	}
	_, err := s.Get(t.Context(), "nothing")
	if want := `No such image: nothing; get it with "gantry image pull", or load it with "gantry image load -i FILE"`; err.Error() != want {
		t.Errorf("%v", err)
	}
}

func TestGetNameBeforeID(t *testing.T) {
	s := newStore(t)
	a := mustImport(t, s, "", entry{name: "a"})
	b := mustImport(t, s, a.ID.Encoded()[:6], entry{name: "b"})
	got, err := s.Get(t.Context(), a.ID.Encoded()[:6])
	if err != nil || got.ID != b.ID {
		t.Errorf("the name lost against the id: %v %v", got.ID, err)
	}
}

func TestGetAmbiguous(t *testing.T) {
	byID := map[digest.Digest]*group{}
	for _, c := range []string{"aa1", "ab2"} {
		id := digest.NewDigestFromEncoded(digest.SHA256, c+strings.Repeat("0", 61))
		byID[id] = &group{id: id, res: &resolved{}}
	}
	if _, err := lookupID(byID, "a", "a"); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "more of its digits") {
		t.Errorf("%v", err)
	}
	if m, err := lookupID(byID, "aa", "aa"); err != nil || !strings.HasPrefix(m.id.Encoded(), "aa1") {
		t.Errorf("%v %v", m, err)
	}
}

func TestListNewestFirst(t *testing.T) {
	s := newStore(t)
	for i := range 3 {
		mustImport(t, s, fmt.Sprintf("i%d", i), entry{name: fmt.Sprint(i)})
	}
	s.Tag(t.Context(), "i1", "also")
	all, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, img := range all {
		names = append(names, strings.Join(img.Names, "+"))
	}
	if d := cmp.Diff([]string{"i2:latest", "also:latest+i1:latest", "i0:latest"}, names); d != "" {
		t.Error(d)
	}
}

func TestRemove(t *testing.T) {
	stopped := func(digest.Digest) []User { return []User{{ID: "web-1"}} }
	running := func(digest.Digest) []User { return []User{{ID: "idle"}, {ID: "web-1", Running: true}} }
	for _, c := range []struct {
		name  string
		names []string
		ref   string // "ID" is the id
		o     RemoveOptions
		want  []string
		err   string
		left  []string // names, "<none>" for a dangling image
	}{
		{name: "last name", names: []string{"a"}, ref: "a", want: []string{"-a:latest", "ID"}},
		{name: "one of two names", names: []string{"a", "b"}, ref: "a", want: []string{"-a:latest"}, left: []string{"b:latest"}},
		{name: "id with one name", names: []string{"a"}, ref: "ID", want: []string{"-a:latest", "ID"}},
		{name: "id with two names", names: []string{"a", "b"}, ref: "ID", err: "(must be forced) - image is referenced in multiple repositories", left: []string{"a:latest", "b:latest"}},
		{name: "id with two names, forced", names: []string{"a", "b"}, ref: "ID", o: RemoveOptions{Force: true}, want: []string{"-a:latest", "-b:latest", "ID"}},
		{name: "dangling", names: []string{""}, ref: "ID", want: []string{"ID"}},
		{name: "used, by name", names: []string{"a"}, ref: "a", o: RemoveOptions{InUse: stopped}, err: "container web-1", left: []string{"a:latest"}},
		{name: "used, one of two names", names: []string{"a", "b"}, ref: "b", o: RemoveOptions{InUse: running}, want: []string{"-b:latest"}, left: []string{"a:latest"}},
		{name: "used, by name, forced", names: []string{"a"}, ref: "a", o: RemoveOptions{InUse: stopped, Force: true}, want: []string{"-a:latest", "ID"}},
		{name: "running, by name, forced", names: []string{"a"}, ref: "a", o: RemoveOptions{InUse: running, Force: true}, want: []string{"-a:latest"}, left: []string{"<none>"}},
		{name: "running, by id, forced", names: []string{"a"}, ref: "ID", o: RemoveOptions{InUse: running, Force: true}, err: "running container web-1", left: []string{"a:latest"}},
		{name: "stopped, by id", names: []string{"a"}, ref: "ID", o: RemoveOptions{InUse: stopped}, err: "stopped container web-1", left: []string{"a:latest"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			img := mustImport(t, s, c.names[0], entry{name: "f"})
			for _, n := range c.names[1:] {
				if err := s.Tag(t.Context(), c.names[0], n); err != nil {
					t.Fatal(err)
				}
			}
			ref := c.ref
			if ref == "ID" {
				ref = img.ID.String()
			}
			done, err := s.Remove(t.Context(), ref, c.o)
			if c.err != "" {
				if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), c.err) {
					t.Errorf("%v, want %q", err, c.err)
				}
			} else if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, r := range done {
				if r.Untagged != "" {
					got = append(got, "-"+r.Untagged)
				} else if r.Deleted == img.ID.String() {
					got = append(got, "ID")
				}
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
			all, err := s.List(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var left []string
			for _, i := range all {
				left = append(left, i.Names...)
				if len(i.Names) == 0 {
					left = append(left, "<none>")
				}
			}
			if d := cmp.Diff(c.left, left); d != "" {
				t.Error(d)
			}
			mustBeClean(t, s)
		})
	}
}

// TestRemoveLastNamesAtOnce: of two removals one deletes the image.
func TestRemoveLastNamesAtOnce(t *testing.T) {
	s := newStore(t)
	for range 10 {
		mustImport(t, s, "a", entry{name: "f"})
		if err := s.Tag(t.Context(), "a", "b"); err != nil {
			t.Fatal(err)
		}
		deleted := make(chan int)
		for _, n := range []string{"a", "b"} {
			go func() {
				done, err := s.Remove(t.Context(), n, RemoveOptions{})
				if err != nil {
					t.Error(err)
				}
				deleted <- len(done) - 1
			}()
		}
		if n := <-deleted + <-deleted; n != 1 {
			t.Fatalf("%d of the two removals deleted the image", n)
		}
	}
}

// TestPinnedSurvivesRemoval: the files of an image in use stay, whatever
// happens to its names, until it is released.
func TestPinnedSurvivesRemoval(t *testing.T) {
	s := newStore(t)
	img := mustImport(t, s, "a", entry{name: "f", body: "needed"})
	dirs, err := s.Lowers(t.Context(), img.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Remove(t.Context(), "a", RemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	if err := s.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"f -rw-r--r-- needed"}, tree(t, dirs[0])); d != "" {
		t.Fatal(d)
	}
	s.views.set(img.ID, nil) // as after a restart
	if again, err := s.Lowers(t.Context(), img.ID); err != nil || again[0] != dirs[0] {
		t.Fatalf("%v %v", again, err)
	}
	if err := s.Release(t.Context(), img.ID); err != nil {
		t.Fatal(err)
	}
	mustBeClean(t, s)
	if _, err := s.Lowers(t.Context(), img.ID); !errdefs.IsNotFound(err) {
		t.Errorf("lowers of an image that is gone: %v", err)
	}
}

func TestLowersAtOnce(t *testing.T) {
	s := newStore(t)
	img := mustImport(t, s, "a", entry{name: "f"})
	writes := s.changes.Load()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if dirs, err := s.Lowers(t.Context(), img.ID); err != nil || len(dirs) != 1 {
				t.Error(dirs, err)
			}
		})
	}
	wg.Wait()
	// The metadata of a view is written in two transactions.
	if n := s.changes.Load() - writes; n != 2 {
		t.Errorf("%d transactions for 50 containers", n)
	}
}

func TestLowersUnpacksAgain(t *testing.T) {
	s := newStore(t)
	img := mustImport(t, s, "a", entry{name: "f", body: "x"})
	ctx := s.context(t.Context())
	if err := s.snaps.Remove(ctx, layerSnapshot(img.Layers[0])); err != nil {
		t.Fatal(err)
	}
	s.resolved.Clear()
	dirs, err := s.Lowers(t.Context(), img.ID)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"f -rw-r--r-- x"}, tree(t, dirs[0])); d != "" {
		t.Error(d)
	}
}

func TestCollectDuringImports(t *testing.T) {
	s := newStore(t)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 4 {
				name := fmt.Sprintf("i%d-%d", i, j)
				mustImport(t, s, name, entry{name: name, body: strings.Repeat(name, 1000)})
			}
		})
	}
	for range 10 {
		if err := s.Collect(t.Context()); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	if all, err := s.List(t.Context()); err != nil || len(all) != 16 {
		t.Fatalf("%d images, %v", len(all), err)
	}
	mustBeClean(t, s)
}

// TestRecordsProperty: whatever is imported, tagged and removed, every image
// somebody could see stays whole, every name leads to what it was last given,
// and what nobody can see is gone after a collection.
func TestRecordsProperty(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: layers are unpacked with their owners and overlay marks")
	}
	s := newStore(t)
	imports, steps := 0, 0
	names := map[string]digest.Digest{}
	var alive []digest.Digest
	rapid.Check(t, func(rt *rapid.T) {
		if steps++; steps > 80 {
			return // one store with one history, and every transaction is synced
		}
		name := rapid.SampledFrom([]string{"a:1", "b:1", "c:1"}).Draw(rt, "name")
		switch rapid.SampledFrom([]string{"import", "tag", "tag", "remove", "remove"}).Draw(rt, "do") {
		case "import":
			imports++
			img := mustImport(t, s, name, entry{name: fmt.Sprint(imports % 3)})
			alive = append(alive, img.ID)
			names[name] = img.ID
		case "tag":
			if len(alive) == 0 {
				return
			}
			id := rapid.SampledFrom(alive).Draw(rt, "image")
			if err := s.Tag(t.Context(), id.String(), name); err != nil {
				rt.Fatal(err)
			}
			names[name] = id
		case "remove":
			_, err := s.Remove(t.Context(), name, RemoveOptions{})
			id, ok := names[name]
			if ok != (err == nil) {
				rt.Fatalf("remove %s: %v", name, err)
			}
			delete(names, name)
			if ok && !slices.Contains(slices.Collect(maps.Values(names)), id) {
				alive = slices.DeleteFunc(alive, func(a digest.Digest) bool { return a == id })
			}
		}
		all, err := s.List(t.Context())
		if err != nil {
			rt.Fatal(err)
		}
		got := map[string]digest.Digest{}
		var listed []digest.Digest
		for _, img := range all {
			listed = append(listed, img.ID)
			for _, n := range img.Names {
				got[n] = img.ID
			}
		}
		slices.Reverse(listed)
		if d := cmp.Diff(alive, listed, cmpopts.EquateEmpty()); d != "" {
			rt.Fatalf("images, oldest first: %s", d)
		}
		if d := cmp.Diff(names, got); d != "" {
			rt.Fatal(d)
		}
	})
	if imports < 5 {
		t.Errorf("only %d imports", imports)
	}
	mustBeClean(t, s)
}
