package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// A sandbox's network namespace is a file below RUN/netns that the namespace
// is bound to. It lives as long as the file is mounted, a process is in it, or
// a socket made in it is open, whichever is longest.

// onThread runs fn on an OS thread of its own, which fn may move to another
// network namespace, and then brings the thread home. A thread that cannot be
// brought home is never used again: its goroutine ends locked to it, and the
// Go runtime then ends the thread.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("open own network namespace: %w", err)
			return
		}
		defer home.Close()
		err = fn()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// inside runs fn on a thread in the namespace bound at path.
func inside(path string, fn func() error) error {
	return onThread(func() error {
		ns, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("open network namespace: %w", err)
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", path, err)
		}
		return fn()
	})
}

// makeNamespace makes a namespace, binds it to path and runs fn in it. If any
// of that fails nothing is left.
func makeNamespace(path string, fn func() error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY|unix.O_NOFOLLOW, 0o444)
	if err != nil {
		return err
	}
	file.Close()
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind network namespace to %s: %w", path, err)
		}
		// Sandboxes speak IPv6 on loopback only: links made from now on have
		// none. Absent where the kernel has no IPv6.
		if err := writeSysctl("net/ipv6/conf/default/disable_ipv6", "1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := linkUp("lo"); err != nil {
			return err
		}
		return fn()
	})
	if err != nil {
		return errors.Join(err, dropNamespace(path))
	}
	return nil
}

// dropNamespace lets go of the namespace bound to path. The kernel collects it
// with all its links once no process is in it. It is no error if path is gone.
func dropNamespace(path string) error {
	if isNamespace(path) {
		// A connection whose peer has vanished, too, would hold namespace and
		// links while the kernel repeats its goodbye: for minutes, but now once.
		// Whether that can be set changes nothing else.
		_ = inside(path, func() error { return writeSysctl("net/ipv4/tcp_orphan_retries", "1") })
	}
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err == nil {
			continue // bound more than once
		}
		if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount network namespace %s: %w", path, err)
		}
		break
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// isNamespace reports whether a namespace is bound to path.
func isNamespace(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// writeSysctl sets a value below /proc/sys of the thread's network namespace.
func writeSysctl(name, value string) error {
	f, err := os.OpenFile(filepath.Join("/proc/sys", name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
