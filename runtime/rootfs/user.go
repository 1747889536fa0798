package rootfs

import (
	"os"

	"github.com/containerd/errdefs"
)

// User is who a process runs as.
type User struct {
	UID, GID uint32
	Groups   []uint32 // additional ones
	Home     string   // "/" when the passwd file does not know the user
}

// LookupUser resolves user, which is name|uid[:group|gid] or "" for root, and
// the further groups (names or ids) against etc/passwd and etc/group below
// root. Numbers need no entry; an unknown name is ErrInvalidArgument. Groups
// are those the group file lists the user in, unless user names a group, and
// then the further ones: Docker's rules.
func LookupUser(root *os.File, user string, groups []string) (User, error) {
	return User{}, errdefs.ErrNotImplemented
}
