package runtime

import (
	"os"
	"path/filepath"
	"testing"

	"gantry/runtime/spec"
)

// TestClosed: what a container's user may read inside, a secret, and what
// everybody there may write, shared memory, is nobody's outside.
func TestClosed(t *testing.T) {
	h := sharedHouse(t)
	c := box("sh", "-c", "cat /secret; sleep 100")
	c.User, c.IpcMode = "65534", "shareable"
	c.Mounts = []spec.Mount{{Type: spec.MountFile, Target: "/secret", Content: []byte("s3cret\n"), ReadOnly: true}}
	made := h.start(t, c)
	if _, out := h.exec(t, made.ID, ExecConfig{Command: []string{"cat", "/secret"}, Stdout: true}, nil); out != "s3cret\n" {
		t.Errorf("inside: %q", out)
	}
	for _, path := range []string{h.e.filesDir(made.ID), h.e.shmDir(made.ID)} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
		info, err := os.Stat(filepath.Dir(path))
		if err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", filepath.Dir(path), info.Mode(), err)
		}
	}
}
