package runtime

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestMountOf(t *testing.T) {
	table := filepath.Join(t.TempDir(), "mountinfo")
	err := os.WriteFile(table, []byte(`22 1 8:1 / / rw,relatime - ext4 /dev/a rw
23 22 0:5 / /mnt/a\040b rw shared:7 - tmpfs t rw
24 23 0:6 / /mnt/a\040b/deep rw master:7 propagate_from:9 - tmpfs t rw
25 22 0:7 / /mnt/over rw shared:8 - tmpfs t rw
26 25 0:8 / /mnt/over rw - tmpfs t rw
torn
`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	all, err := readMounts(table)
	if err != nil || len(all) != 5 {
		t.Fatalf("%v, %v", all, err)
	}
	for path, want := range map[string]mountEntry{
		"/":                  {Device: "8:1", Root: "/", Point: "/"},
		"/mnt":               {Device: "8:1", Root: "/", Point: "/"},
		"/mnt/a":             {Device: "8:1", Root: "/", Point: "/"},
		"/mnt/a b":           {Device: "0:5", Root: "/", Point: "/mnt/a b", Shared: "7"},
		"/mnt/a b/x":         {Device: "0:5", Root: "/", Point: "/mnt/a b", Shared: "7"},
		"/mnt/a b/deep/file": {Device: "0:6", Root: "/", Point: "/mnt/a b/deep", Slave: "7"},
		"/mnt/over/x":        {Device: "0:8", Root: "/", Point: "/mnt/over"},
		"/mnt/overthere":     {Device: "8:1", Root: "/", Point: "/"},
	} {
		if got := mountOf(all, path); got != want {
			t.Errorf("%s lies on %+v, want %+v", path, got, want)
		}
	}
	// What the keeper does not see, at a place or below it, makes a difference
	// there and above, and nowhere else.
	less := sight{here: all, there: slices.Delete(slices.Clone(all), 2, 3)} // without deep
	for path, same := range map[string]bool{"/": false, "/mnt": false, "/mnt/a b": false, "/mnt/a b/deep": false, "/mnt/a b/deep/x": false, "/mnt/over": true, "/mnt/a b/x": true, "/etc": true} {
		if less.same(path) != same {
			t.Errorf("%s looks the same: %v", path, !same)
		}
	}
}
