package runtime

import (
	"os"
	"path/filepath"
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
	for path, want := range map[string]mountEntry{
		"/":                  {Point: "/"},
		"/mnt":               {Point: "/"},
		"/mnt/a":             {Point: "/"},
		"/mnt/a b":           {Point: "/mnt/a b", Shared: "7"},
		"/mnt/a b/x":         {Point: "/mnt/a b", Shared: "7"},
		"/mnt/a b/deep/file": {Point: "/mnt/a b/deep", Slave: "7"},
		"/mnt/over/x":        {Point: "/mnt/over"},
		"/mnt/overthere":     {Point: "/"},
	} {
		if got, err := mountOf(table, path); err != nil || got != want {
			t.Errorf("%s lies on %+v (%v), want %+v", path, got, err, want)
		}
	}
}
