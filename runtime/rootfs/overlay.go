// Package rootfs knows how to make a container's root filesystem out of
// directories, and how to look into one without being led out of it. It knows
// nothing of images, containers or records: directories come in as paths.
//
// Mounts are made with the kernel's file-descriptor API (fsopen, fsconfig,
// fsmount, move_mount). A mount is complete before it appears anywhere, so no
// half-made mount is ever seen, and the one who made it can still change its
// attributes (an id mapping, say) while it is detached.
package rootfs

import (
	"os"

	"github.com/containerd/errdefs"
)

// Overlay is a union of directories. The zero value is invalid: at least one
// lower directory is needed. It is a value that travels in messages as JSON.
type Overlay struct {
	// Lower are the read-only layers, the topmost first.
	Lower []string

	// Upper receives what is written, Work is the kernel's scratch directory
	// on the same filesystem. Both or neither: without them the union is a
	// read-only view of Lower.
	Upper string `json:",omitempty"`
	Work  string `json:",omitempty"`

	// ReadOnly forbids writing even with an Upper.
	ReadOnly bool `json:",omitempty"`

	// Volatile leaves out every sync to disk: after a crash of the machine
	// the content of Upper is undefined. For what does not outlive a reboot.
	Volatile bool `json:",omitempty"`
}

// Detached mounts o nowhere: the result is the root directory of a mount that
// is in no mount table and vanishes when the file, and all files opened
// through it, are closed.
func (o Overlay) Detached() (*os.File, error) { return nil, errdefs.ErrNotImplemented }

// Mount mounts o on the existing directory target, with private propagation.
func (o Overlay) Mount(target string) error { return errdefs.ErrNotImplemented }

// Unmount takes every mount off target, at once for those who look it up and
// lazily for those who use it. Nothing mounted, or no target, is no error.
func Unmount(target string) error { return errdefs.ErrNotImplemented }
