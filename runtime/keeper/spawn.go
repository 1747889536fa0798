package keeper

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

var failedPrecondition = errdefs.ErrFailedPrecondition

// SocketPath is where the keeper of a run directory listens.
func SocketPath(run string) string { return filepath.Join(run, "keeper.sock") }

// dial connects to the keeper, starting one when nobody listens.
func (c *Client) dial(ctx context.Context) (*Conn, error) {
	path := SocketPath(c.opts.Run)
	for try := 0; ; try++ {
		var d net.Dialer
		sock, err := d.DialContext(ctx, "unix", path)
		if err == nil {
			return NewConn(sock.(*net.UnixConn)), nil
		}
		if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ENOENT) {
			return nil, err
		}
		if try == 3 {
			return nil, unavailable("keepers start and nobody listens on %s: %w", path, err)
		}
		if err := c.spawn(ctx); err != nil {
			return nil, fmt.Errorf("start %s: %w", c.opts.Program, err)
		}
	}
}

// spawn starts a keeper and waits until it listens, or says why it cannot. The
// keeper reports through a pipe: "ready", "busy" when another keeper has the
// directory (it is then that one which is dialled), or its error.
func (c *Client) spawn(ctx context.Context) error {
	if err := os.MkdirAll(c.opts.Run, 0o711); err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	defer w.Close()
	logFile, err := os.OpenFile(c.opts.LogFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close()

	args := []string{"serve", "--run", c.opts.Run, "--ready-fd", "3"}
	if c.opts.Cgroup != "" {
		args = append(args, "--cgroup", c.opts.Cgroup)
	}
	cmd := exec.Command(c.opts.Program, args...) //nolint:noctx // the keeper outlives its starter
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.ExtraFiles = []*os.File{w}
	// Cloneflags, not Unshareflags: with the latter Go makes every mount
	// private in the new namespace, and volumes would no longer see mounts
	// made on the host.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWNS}
	if err := cmd.Start(); err != nil {
		return err
	}
	c.reap.Go(func() { _ = cmd.Wait() }) // it outlives this client; the wait is for the zombie
	w.Close()

	if d, ok := ctx.Deadline(); ok {
		_ = r.SetReadDeadline(d)
	} else {
		_ = r.SetReadDeadline(time.Now().Add(c.opts.HandshakeTimeout))
	}
	line, err := bufio.NewReader(r).ReadString('\n')
	line = strings.TrimSuffix(line, "\n")
	switch {
	case line == "ready" || line == "busy":
		return nil
	case line != "":
		return errors.New(line)
	case errors.Is(err, os.ErrDeadlineExceeded):
		_ = cmd.Process.Kill()
		return unavailable("it did not begin to listen in time (see %s)", c.opts.LogFile)
	default:
		return unavailable("it ended before it listened (see %s)", c.opts.LogFile)
	}
}
