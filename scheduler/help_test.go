package scheduler

import (
	"os"
	"testing"

	"pgregory.net/rapid"
)

// notRacing leaves a test out under the race detector: it reads hundreds of
// projects one after the other, which that makes half of the work of this package,
// and has nothing that could race. See LIVES in the Makefile.
func notRacing(t *testing.T) {
	if racing {
		t.Skip("it is not run under the race detector; make test runs it without")
	}
}

// scratch is a directory for one example of a property.
func scratch(t *rapid.T) (dir string, drop func()) {
	dir, err := os.MkdirTemp("", "scheduler")
	if err != nil {
		t.Fatalf("%v", err)
	}
	return dir, func() { os.RemoveAll(dir) }
}
