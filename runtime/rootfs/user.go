package rootfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

// User is who a process runs as.
type User struct {
	UID, GID uint32
	Groups   []uint32 // additional ones
	Home     string   // "/" when the passwd file does not know the user
}

// maxUserFile bounds what is read of a file that the image's maker wrote.
const maxUserFile = 8 << 20

// maxID is the highest id Docker takes, for programs that keep it in 32 bits
// with a sign.
const maxID = 1<<31 - 1

// LookupUser resolves name, which is user|uid[:group|gid] or "" for root, and
// the further groups (names or ids) against etc/passwd and etc/group below
// root. Numbers need no entry; an unknown name is ErrInvalidArgument. Groups
// are those the group file lists the user in, unless name says a group, and
// then the further ones: Docker's rules.
func LookupUser(root *os.File, name string, groups []string) (User, error) {
	passwd, err := userFile(root, "etc/passwd")
	if err != nil {
		return User{}, err
	}
	group, err := userFile(root, "etc/group")
	if err != nil {
		return User{}, err
	}
	found, err := user.GetExecUser(name, &user.ExecUser{Home: "/"}, bytes.NewReader(passwd), bytes.NewReader(group))
	if err != nil {
		who, which, _ := strings.Cut(name, ":")
		switch {
		case errors.Is(err, user.ErrNoPasswdEntries):
			err = fmt.Errorf("user %q is not in the container's /etc/passwd: use a name that is, or a number", who)
		case errors.Is(err, user.ErrNoGroupEntries):
			err = fmt.Errorf("group %q is not in the container's /etc/group: use a name that is, or a number", which)
		case errors.Is(err, user.ErrRange):
			err = fmt.Errorf("user %q: ids go from 0 to %d", name, maxID)
		default:
			err = fmt.Errorf("user %q: %w", name, err)
		}
		return User{}, invalid{err}
	}
	for _, id := range append([]int{found.Uid, found.Gid}, found.Sgids...) {
		if id < 0 || id > maxID {
			return User{}, invalid{fmt.Errorf("user %q: the container's files give it the id %d; ids go from 0 to %d", name, id, maxID)}
		}
	}
	u := User{UID: uint32(found.Uid), GID: uint32(found.Gid), Home: found.Home}
	if u.Home == "" {
		u.Home = "/"
	}
	for _, id := range found.Sgids {
		u.Groups = append(u.Groups, uint32(id))
	}
	for _, g := range groups {
		if g == "" {
			return User{}, invalid{errors.New("a further group is empty: give a name or a number")}
		}
		ids, err := user.GetAdditionalGroups([]string{g}, bytes.NewReader(group))
		switch {
		case errors.Is(err, user.ErrRange):
			return User{}, invalid{fmt.Errorf("further group %q: ids go from 0 to %d", g, maxID)}
		case err != nil:
			return User{}, invalid{fmt.Errorf("further group %q is not in the container's /etc/group: use a name that is, or a number", g)}
		}
		for _, id := range ids {
			if !slices.Contains(u.Groups, uint32(id)) {
				u.Groups = append(u.Groups, uint32(id))
			}
		}
	}
	return u, nil
}

// userFile reads one of the two files; an image without it has no names.
func userFile(root *os.File, path string) ([]byte, error) {
	f, err := OpenIn(root, path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up user: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("look up user: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, invalid{fmt.Errorf("look up user: /%s in the container is no regular file", path)}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxUserFile+1))
	if err != nil {
		return nil, fmt.Errorf("look up user: %w", err)
	}
	if len(data) > maxUserFile {
		return nil, invalid{fmt.Errorf("look up user: /%s in the container is larger than %d MiB", path, maxUserFile>>20)}
	}
	return data, nil
}

// invalid gives an error the class of a bad argument and leaves its text alone.
type invalid struct{ error }

func (e invalid) Unwrap() []error { return []error{e.error, errdefs.ErrInvalidArgument} }
