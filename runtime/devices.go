package runtime

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"gantry/runtime/spec"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// ReadNodes reads the host's device nodes a container is to see: those it
// names, or all when it is privileged.
func ReadNodes(c Config) ([]spec.Node, error) {
	var nodes []spec.Node
	seen := map[string]bool{}
	add := func(path string, must bool) error {
		return filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				if must && p == path {
					return fmt.Errorf("device %s: %w: %w", path, err, errdefs.ErrInvalidArgument)
				}
				return nil //nolint:nilerr // a node that went away meanwhile
			}
			if d.IsDir() {
				switch p {
				case "/dev/pts", "/dev/shm", "/dev/fd", "/dev/mqueue":
					return fs.SkipDir
				}
				return nil
			}
			n, ok := readNode(p)
			if ok && !seen[p] {
				seen[p] = true
				nodes = append(nodes, n)
			}
			return nil
		})
	}
	for _, d := range c.Devices {
		if err := add(d.Source, true); err != nil {
			return nil, err
		}
	}
	for _, w := range c.Resources.BlkioWeights {
		if err := add(w.Path, true); err != nil {
			return nil, err
		}
	}
	for _, rates := range [][]spec.Rate{c.Resources.ReadBps, c.Resources.WriteBps, c.Resources.ReadIOPS, c.Resources.WriteIOPS} {
		for _, r := range rates {
			if err := add(r.Path, true); err != nil {
				return nil, err
			}
		}
	}
	if c.Privileged {
		if err := add("/dev", false); err != nil {
			return nil, err
		}
	}
	return nodes, nil
}

func readNode(path string) (spec.Node, bool) {
	fi, err := os.Stat(path)
	if err != nil {
		return spec.Node{}, false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return spec.Node{}, false
	}
	n := spec.Node{
		Path:  path,
		Major: int64(unix.Major(st.Rdev)),
		Minor: int64(unix.Minor(st.Rdev)),
		Mode:  uint32(fi.Mode().Perm()),
		UID:   st.Uid,
		GID:   st.Gid,
	}
	switch fi.Mode() & fs.ModeType {
	case fs.ModeDevice | fs.ModeCharDevice:
		n.Type = "c"
	case fs.ModeDevice:
		n.Type = "b"
	default:
		return n, false
	}
	return n, true
}
