package build

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/moby/buildkit/util/grpcerrors"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
)

// The reserve is a file that takes room so that there is some to give: on a
// full disk, to drop a record of the cache needs a page of its database first.
const (
	reserveFile = "reserve"
	reserveSize = 4 << 20
)

// keepReserve makes the reserve, if it is not there and the disk has room.
func (b *Builder) keepReserve() {
	path := filepath.Join(b.Root, reserveFile)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return // full: it is made another time
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, reserveSize)
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = nil // a file system without it gives no promise
	}
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(path)
	}
}

// withReserve does what frees room, once more with the reserve given up when
// the disk was too full for it.
func (b *Builder) withReserve(free func() error) error {
	err := free()
	if err == nil || !errors.Is(err, unix.ENOSPC) && grpcerrors.Code(err) != codes.ResourceExhausted {
		return err
	}
	if os.Remove(filepath.Join(b.Root, reserveFile)) != nil {
		return err
	}
	defer b.keepReserve()
	return free()
}
