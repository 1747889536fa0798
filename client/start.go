package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// ReadyFD names, in the environment of a started daemon, the descriptor of a
// pipe: the daemon writes "ready\n" when it serves, or one line saying why it
// cannot, and closes it. Its end without a word means that it died. The daemon
// must mark the descriptor close-on-exec before it starts anything itself.
const ReadyFD = "GANTRY_READY_FD"

// EnsureDaemon starts the daemon when nobody listens on the default socket,
// waits until it serves and says whether it had to. The daemon gets a session
// of its own and outlives the caller. Two clients at once start one daemon.
//
// A client whose host was chosen (New's argument, GANTRY_HOST, DOCKER_HOST)
// never starts one: the error says that nobody answers there.
func (c *Client) EnsureDaemon(ctx context.Context) (started bool, err error) {
	if conn, err := c.dial(ctx); err == nil {
		return false, conn.Close()
	} else if !c.own || !absent(err) {
		return false, c.unreachable(ctx, err)
	}
	if os.Geteuid() != 0 {
		return false, errdefs.ErrUnavailable.WithMessage(fmt.Sprintf(
			"no gantry daemon listens at %s and only root can start one: run `sudo gantry daemon start`, or set GANTRY_HOST", c.host))
	}
	release, err := c.startLock(ctx)
	if err != nil {
		return false, err
	}
	defer release()
	// Whoever held the lock may have started it.
	if conn, err := c.dial(ctx); err == nil {
		return false, conn.Close()
	}
	if err := c.startDaemon(ctx); err != nil {
		// A keeper starts a daemon that has died, too. Should it have died since,
		// nothing but the socket tells of the one that it has started.
		if conn, other := c.dial(ctx); other == nil {
			return false, conn.Close()
		}
		return false, fmt.Errorf("start the daemon: %w", err)
	}
	return true, nil
}

// absent tells "nobody listens" from every other reason not to connect.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

// startLock serialises starting. The lock is the kernel's, so a client that is
// killed leaves nothing behind.
func (c *Client) startLock(ctx context.Context) (release func(), err error) {
	if err := os.MkdirAll(c.places.run, 0o755); err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(c.places.run, "start.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	// flock blocks in the kernel and does not know contexts. The waiter owns f
	// until it has handed the lock over; the holder it waits for is a client
	// that starts a daemon, so it does not wait for long.
	locked := make(chan error)
	go func() {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		for errors.Is(err, syscall.EINTR) {
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		}
		select {
		case locked <- err:
		case <-ctx.Done():
			f.Close()
		}
	}()
	select {
	case err := <-locked:
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		return func() { f.Close() }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (c *Client) startDaemon(ctx context.Context) error {
	program, err := DaemonProgram()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.places.root, 0o711); err != nil {
		return fmt.Errorf("root directory: %w", err)
	}
	path := filepath.Join(c.places.root, "gantryd.log")
	log, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	defer log.Close()
	ours, theirs, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("pipe: %w", err)
	}
	defer ours.Close()

	//nolint:noctx // the daemon outlives its starter
	cmd := exec.Command(program, "--root", c.places.root, "--run", c.places.run)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Env = append(os.Environ(), ReadyFD+"=3")
	// Its own session: neither the terminal's hang-up nor its Ctrl-C is meant
	// for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return err
	}
	release := context.AfterFunc(ctx, func() { ours.Close() })
	word, err := bufio.NewReader(io.LimitReader(ours, 64<<10)).ReadString('\n')
	switch word = strings.TrimSpace(word); {
	case word == "ready":
		release()
		return cmd.Process.Release()
	case !release():
		// The caller gave up; the daemon goes on with its start.
		_ = cmd.Process.Release()
		return context.Cause(ctx)
	case word != "":
		_ = cmd.Wait()
		return errors.New(word)
	case !errors.Is(err, io.EOF):
		_ = cmd.Process.Release()
		return fmt.Errorf("wait until it serves: %w", err)
	}
	reason := "it closed its pipe without a word"
	if err := cmd.Wait(); err != nil {
		reason = "it ended at once: " + err.Error()
	}
	return fmt.Errorf("%s; its log is %s", reason, path)
}

// DaemonProgram finds gantryd.
func DaemonProgram() (string, error) { return Program("gantryd") }

// Program finds one of gantry's programs: beside this one, else in PATH.
func Program(name string) (string, error) {
	if self, err := os.Executable(); err == nil {
		if self, err = filepath.EvalSymlinks(self); err == nil {
			beside := filepath.Join(filepath.Dir(self), name)
			if st, err := os.Stat(beside); err == nil && st.Mode().IsRegular() {
				return beside, nil
			}
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", errdefs.ErrNotFound.WithMessage("the program " + name + " is neither beside gantry nor in PATH: install both together")
	}
	return path, nil
}
