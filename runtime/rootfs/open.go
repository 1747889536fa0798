package rootfs

import (
	"os"

	"github.com/containerd/errdefs"
)

// OpenIn opens path as a process would whose root directory is root: absolute
// symbolic links and ".." stay inside, magic links of /proc are refused. The
// flags are those of open(2); O_CLOEXEC is always added, and files made by
// O_CREAT have mode 0644.
func OpenIn(root *os.File, path string, flags int) (*os.File, error) {
	return nil, errdefs.ErrNotImplemented
}
