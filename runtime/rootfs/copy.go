package rootfs

import (
	"os"

	"github.com/containerd/errdefs"
)

// CopyTree copies what the open directory src holds into the directory dst,
// which is made if it is not there and must be empty, and gives dst the owner,
// mode, times and extended attributes of src itself. Everything a filesystem
// records is kept: owners, modes, times, extended attributes (file
// capabilities and ACLs among them), hard links, symbolic links, devices,
// FIFOs, sockets and holes. No symbolic link is followed. When it returns, the
// copy is on disk.
func CopyTree(dst string, src *os.File) error { return errdefs.ErrNotImplemented }
