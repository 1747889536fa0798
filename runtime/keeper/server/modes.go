package server

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"

	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"
	"unsafe"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/exeseal"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // C code that runs before Go does, in a child that enters namespaces
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"gantry/runtime/keeper"
	"gantry/runtime/logs"
)

const usage = `gantry-runtime holds gantry's containers; gantryd starts it.

usage:
  gantry-runtime serve --run DIR [--cgroup PATH]
  gantry-runtime init -- COMMAND [ARG...]   be process 1 of a container
`

// Main is the program. Which of its lives it leads is told by its arguments:
//
//	gantry-runtime serve …       the keeper
//	gantry-runtime init          libcontainer's half inside a container; exactly
//	                             one argument, and _LIBCONTAINER_INITPIPE is set
//	gantry-runtime archive STAGE a helper for archive calls, see archive.go
//	gantry-runtime after CMD …   executes a command once descriptor 3 is closed
//	…/docker-init [--] CMD …     process 1 of a container that asked for one
//	gantry-runtime init -- CMD … the same; both never come here, see pid1.c
func Main(args []string) int {
	switch {
	case len(args) == 2 && args[1] == "init" && os.Getenv("_LIBCONTAINER_INITPIPE") != "":
		// It lives for a few milliseconds: collecting garbage is lost time.
		debug.SetGCPercent(-1)
		libcontainer.Init() // does not return
	case len(args) == 3 && args[1] == "archive":
		return archiveMode(args[2])
	case len(args) > 2 && args[1] == "after":
		fmt.Fprintln(os.Stderr, "gantry-runtime:", after(args[2:]))
		return 1
	case len(args) > 1 && args[1] == "serve":
		// The library's threads go to the containers' mount namespaces and end
		// there. The first thread of a process cannot end, and its namespaces
		// are what /proc shows of the process: it stays with this goroutine.
		runtime.LockOSThread()
		if err := serveMode(args); err != nil {
			fmt.Fprintln(os.Stderr, "gantry-runtime:", err)
			return 1
		}
		return 0
	}
	fmt.Fprint(os.Stderr, usage)
	return 2
}

func after(args []string) error {
	f := os.NewFile(3, "pipe")
	if _, err := f.Read(make([]byte, 1)); err != io.EOF {
		return fmt.Errorf("wait to be let go: %w", err)
	}
	f.Close()
	path, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	return os.NewSyscallError("exec "+path, unix.Exec(path, args, os.Environ()))
}

func serveMode(args []string) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	run := flags.String("run", "", "directory shared with the daemon")
	cgroup := flags.String("cgroup", "", "cgroup to move to")
	ready := flags.Int("ready-fd", -1, "descriptor that is told when the keeper listens")
	lock := flags.Int("lock-fd", -1, "descriptor of the lock, of a keeper executed by another")
	listen := flags.Int("listen-fd", -1, "descriptor of the socket, likewise")
	if err := flags.Parse(args[2:]); err != nil {
		return err
	}
	if *run == "" || !filepath.IsAbs(*run) {
		return errors.New("serve: --run needs an absolute directory")
	}
	if err := seal(args); err != nil {
		return err
	}
	// libcontainer hands the variable on to the processes it makes; they need
	// one thread for Go code.
	if err := os.Setenv("GOMAXPROCS", "1"); err != nil {
		return err
	}
	debug.SetGCPercent(50)
	hearNoChildren()
	path, _ := os.Readlink("/proc/self/fd/2") // of the file its starter has given it
	log := slog.New(slog.NewTextHandler(logs.OpenOwn(path, logs.OwnSize), nil))
	logrus.SetOutput(io.Discard)
	logrus.AddHook(hook{log})
	logrus.SetLevel(logrus.WarnLevel)

	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	// Caught and thrown away, not ignored: what a process ignores, those that it
	// executes ignore too.
	unheard := make(chan os.Signal, 1)
	signal.Notify(unheard, unix.SIGHUP, unix.SIGPIPE)
	defer signal.Stop(unheard)
	return Serve(ctx, Options{
		Run: *run, Cgroup: *cgroup, Log: log,
		Ready: file(*ready, "ready"), Lock: file(*lock, "lock"), Listener: file(*listen, "listener"),
	})
}

func file(fd int, name string) *os.File {
	if fd < 0 {
		return nil
	}
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), name)
}

// hook gives what libcontainer logs to slog.
type hook struct{ log *slog.Logger }

func (hook) Levels() []logrus.Level { return logrus.AllLevels }

func (h hook) Fire(e *logrus.Entry) error {
	h.log.Warn("libcontainer: "+e.Message, "level", e.Level.String())
	return nil
}

// sealedName is how the kernel calls the sealed copy; the end of it is the
// name given below, what comes before is exeseal's.
const sealedName = "/memfd:runc_cloned:gantry-runtime"

func prctlName(name []byte) error {
	return unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0)
}

// seal executes the program anew from a sealed copy in memory, unless it runs
// from one already. A container's process could reach the file it was started
// from through /proc/PID/exe and write to it (CVE-2019-5736); libcontainer
// would therefore make such a copy, or a mount, for every container and exec.
func seal(args []string) error {
	const tried = "GANTRY_SEALED"
	if exeseal.IsSelfExeCloned() || os.Getenv(tried) != "" {
		if err := os.Unsetenv(tried); err != nil {
			return err
		}
		return prctlName(append([]byte("gantry-runtime"), 0))
	}
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer self.Close()
	info, err := self.Stat()
	if err != nil {
		return err
	}
	clone, err := exeseal.CloneBinary(self, info.Size(), "gantry-runtime", "/")
	if err != nil {
		return fmt.Errorf("copy the program into memory: %w", err)
	}
	path := "/proc/self/fd/" + strconv.Itoa(int(clone.Fd()))
	// Where memory may not be executed the copy is a file, and libcontainer does
	// not trust it: it goes on making its own. Once tried is enough.
	env := append(os.Environ(), tried+"=1")
	return os.NewSyscallError("exec", unix.Exec(path, args, env))
}

// upgrade ends this keeper and executes another program in its place: same
// process, same children, and the recovery any new keeper does. Clients see
// their connection end and find the socket they knew.
func (s *Server) upgrade(r *request) error {
	return do(r, func(q keeper.UpgradeCall) error {
		info, err := os.Stat(q.Program)
		if err != nil {
			return fmt.Errorf("upgrade: %w", err)
		}
		if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			return fmt.Errorf("upgrade: %s is not a program", q.Program)
		}
		sock, err := s.sock.File() // before the listener is closed
		if err != nil {
			return fmt.Errorf("upgrade: %w", err)
		}
		s.mu.Lock()
		s.upgrading, s.next = q.Program, sock
		s.mu.Unlock()
		r.after = s.quit
		return nil
	})
}

// execute replaces the program. The lock and the socket go over.
func (s *Server) execute(program string) error {
	s.turn.Lock() // no exit is half recorded
	args := []string{program, "serve", "--run", s.opts.Run, "--cgroup", s.opts.Cgroup}
	for _, f := range []struct {
		flag string
		file *os.File
	}{{"--lock-fd", s.lock}, {"--listen-fd", s.next}} {
		fd := int(f.file.Fd())
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return os.NewSyscallError("fcntl", err)
		}
		args = append(args, f.flag, strconv.Itoa(fd))
	}
	return os.NewSyscallError("exec "+program, unix.Exec(program, args, os.Environ()))
}
