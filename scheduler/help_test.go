package scheduler

import (
	"os"

	"pgregory.net/rapid"
)

// scratch is a directory for one example of a property.
func scratch(t *rapid.T) (dir string, drop func()) {
	dir, err := os.MkdirTemp("", "scheduler")
	if err != nil {
		t.Fatalf("%v", err)
	}
	return dir, func() { os.RemoveAll(dir) }
}
