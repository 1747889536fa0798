package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// DaemonStatus is what a daemon says about itself.
type DaemonStatus struct {
	Version    string
	APIVersion string // newest it speaks
	Pid        int
	Keeper     int // process id of gantry-runtime, 0 when not known
	Started    time.Time
	Root, Run  string
	Containers DaemonContainers
	Images     int
	Networks   int
	Volumes    int
	Projects   int
}

// DaemonContainers counts containers by what they do.
type DaemonContainers struct{ Total, Running, Paused, Stopped int }

// DaemonStatus asks the daemon about itself.
func (c *Client) DaemonStatus(ctx context.Context) (DaemonStatus, error) {
	var out DaemonStatus
	err := c.do(ctx, call{method: http.MethodGet, path: "/daemon"}, &out)
	return out, err
}

// StopDaemon stops the daemon and, when no container lives, the keeper. With
// live containers it is refused (errdefs.ErrFailedPrecondition), unless
// leave: then they run on with the keeper, and the next daemon finds them.
// It returns when the daemon's process has ended.
func (c *Client) StopDaemon(ctx context.Context, leave bool) error {
	// The process is held before it is asked to go, so that its end cannot
	// be missed, nor its number be taken for another's.
	var process int
	if c.network == "unix" {
		status, err := c.DaemonStatus(ctx)
		if err != nil {
			return err
		}
		if process, err = unix.PidfdOpen(status.Pid, 0); err != nil {
			return fmt.Errorf("watch the daemon's process %d: %w", status.Pid, err)
		}
		defer unix.Close(process)
	}
	q := url.Values{}
	if leave {
		q.Set("containers", "leave")
	}
	if err := c.do(ctx, call{method: http.MethodPost, path: "/daemon/stop", query: q}, nil); err != nil {
		return err
	}
	if c.network != "unix" {
		return nil
	}
	return waitProcess(ctx, process)
}

// waitProcess blocks until the process of a pidfd has ended or ctx is done.
func waitProcess(ctx context.Context, pidfd int) error {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("pipe: %w", err)
	}
	defer unix.Close(pipe[0])
	woken := make(chan struct{})
	release := context.AfterFunc(ctx, func() {
		defer close(woken)
		unix.Close(pipe[1])
	})
	defer func() {
		if release() {
			unix.Close(pipe[1])
		} else {
			<-woken
		}
	}()
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}, {Fd: int32(pipe[0]), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); errors.Is(err, syscall.EINTR) {
			continue
		} else if err != nil {
			return fmt.Errorf("wait for the daemon to end: %w", err)
		}
		if fds[0].Revents != 0 {
			return nil
		}
		if ctx.Err() != nil {
			return errdefs.ErrUnavailable.WithMessage("the daemon was asked to stop and is still at it: " + context.Cause(ctx).Error())
		}
	}
}
