package build

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"gantry/runtime/rootfs"

	"golang.org/x/sys/unix"
)

// sweep takes apart what steps have left in dir: mounts first, so that removing
// the directory removes nothing behind them.
func sweep(dir string) error {
	steps, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range steps {
		errs = append(errs, sweepStep(filepath.Join(dir, s.Name())))
	}
	return errors.Join(errs...)
}

func sweepStep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := rootfs.Unmount(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
		// Not with all that is below it: should it be a mount all the same,
		// nothing behind it is touched.
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return os.Remove(dir)
}

// syncfs waits until the file system that path is on has written everything.
func syncfs(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return nil
}
