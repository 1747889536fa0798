package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"gantry/runtime/keeper"
	"gantry/runtime/rootfs"
)

// The helper's descriptors. What it is asked for lies in a file without a name.
const (
	askedFd   = 3
	answerFd  = 4 // to the keeper
	outcomeFd = 5 // to the daemon
	dataFd    = 6
	// 7 is the mount namespace of a container that runs.
)

// asked is what the helper gets from the keeper.
type asked struct {
	keeper.ArchiveRequest
	Place string // a directory to mount things on in a namespace of one's own
}

// archiveAnswer is how the helper says that it is ready.
type archiveAnswer struct {
	Stat  rootfs.PathStat
	Error *keeper.Failure
}

// archiveMode is the helper's life: see archive.c for its stages.
func archiveMode(stage string) int {
	answer := os.NewFile(answerFd, "answer")
	var q asked
	text, err := io.ReadAll(io.NewSectionReader(os.NewFile(askedFd, "request"), 0, 16<<20))
	if err == nil {
		err = json.Unmarshal(text, &q)
	}
	if err == nil && stage == "mount" {
		if err = mountRoot(q); err == nil {
			err = comeBack() // does not return if all goes well
		}
	}
	say := func(st rootfs.PathStat, err error) error {
		a := archiveAnswer{Stat: st}
		if err != nil {
			a.Error = keeper.Fail(rootfs.Refusal(err))
		}
		return errors.Join(json.NewEncoder(answer).Encode(a), answer.Close())
	}
	if err != nil {
		_ = say(rootfs.PathStat{}, err)
		return 1
	}
	outcome := os.NewFile(outcomeFd, "outcome")
	go endWithCaller()
	root, err := os.OpenFile("/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		_ = say(rootfs.PathStat{}, err)
		return 1
	}
	err = transfer(q.ArchiveRequest, root, func(st rootfs.PathStat) error { return say(st, nil) })
	var unready errUnready
	if errors.As(err, &unready) {
		_ = say(rootfs.PathStat{}, unready.error)
		return 1
	}
	o := keeper.ArchiveOutcome{}
	if err != nil {
		o.Error = keeper.Fail(rootfs.Refusal(err))
	}
	if json.NewEncoder(outcome).Encode(o) != nil {
		return 1
	}
	return 0
}

// endWithCaller ends the process when nobody reads the outcome any more,
// whatever it is at.
func endWithCaller() {
	for {
		poll := []unix.PollFd{{Fd: outcomeFd}}
		if _, err := unix.Poll(poll, -1); err == nil && poll[0].Revents != 0 {
			os.Exit(1)
		}
	}
}

// errUnready is an error from before anything was transferred.
type errUnready struct{ error }

// transfer does what is asked. ready is called once it is clear that it can
// begin.
func transfer(q keeper.ArchiveRequest, root *os.File, ready func(rootfs.PathStat) error) error {
	data := os.NewFile(dataFd, "data")
	switch q.Op {
	case keeper.ArchiveStat, keeper.ArchiveGet:
		st, err := rootfs.StatIn(root, q.Path)
		if err != nil {
			return errUnready{err}
		}
		if err := ready(st); err != nil || q.Op == keeper.ArchiveStat {
			return err
		}
		return rootfs.Pack(data, root, q.Path)
	case keeper.ArchiveExport:
		if err := ready(rootfs.PathStat{}); err != nil {
			return err
		}
		return rootfs.Export(data, root)
	case keeper.ArchivePut:
		o, err := putOptions(q, root)
		if err != nil {
			return errUnready{err}
		}
		if err := ready(rootfs.PathStat{}); err != nil {
			return err
		}
		return rootfs.Unpack(root, q.Path, data, o)
	}
	return errUnready{fmt.Errorf("unknown operation %q", q.Op)}
}

func putOptions(q keeper.ArchiveRequest, root *os.File) (o rootfs.UnpackOptions, err error) {
	o.NoOverwrite = q.NoOverwrite
	notDir := keeper.Classed(errdefs.ErrInvalidArgument, errors.New("extraction point is not a directory")) // Docker's words
	dir, err := rootfs.OpenIn(root, q.Path, unix.O_PATH)
	if errors.Is(err, unix.ENOTDIR) {
		return o, notDir
	} else if err != nil {
		return o, err
	}
	defer dir.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return o, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return o, notDir
	}
	if q.Owner != "" {
		u, err := rootfs.LookupUser(root, q.Owner, nil)
		if err != nil {
			return o, err
		}
		o.Owner = &u
	}
	return o, nil
}

// mountRoot makes the root filesystem of a container that does not run the root
// of this process, which has a mount namespace of its own. For reading, the
// container's layer is only looked at: should it be started meanwhile, its own
// mount has the layer for itself.
func mountRoot(q asked) error {
	if q.Root == nil {
		return errors.New("no root filesystem")
	}
	// What is mounted here is for nobody else to see.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("tmpfs", q.Place, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700"); err != nil {
		return fmt.Errorf("mount a place to work in: %w", err)
	}
	at := filepath.Join(q.Place, "root")
	overlay := q.Root.Overlay
	dirs := []string{at}
	if q.Op != keeper.ArchivePut {
		overlay.Lower = append([]string{overlay.Upper}, overlay.Lower...)
		overlay.Upper, overlay.Work = filepath.Join(q.Place, "upper"), filepath.Join(q.Place, "work")
		dirs = append(dirs, overlay.Upper, overlay.Work)
	}
	for _, dir := range dirs {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	if q.Op != keeper.ArchivePut {
		if err := likeTop(overlay.Upper, overlay.Lower[0]); err != nil {
			return err
		}
	}
	if err := overlay.Mount(at); err != nil {
		return err
	}
	root, err := os.OpenFile(at, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, m := range q.Root.Mounts {
		if err := mountIn(root, m, q.Op == keeper.ArchiveExport); err != nil {
			return fmt.Errorf("mount %s: %w", m.Target, err)
		}
	}
	return pivot(root, q)
}

// likeTop gives the directory that covers the container's own the looks of it.
func likeTop(dir, top string) error {
	var st unix.Stat_t
	if err := unix.Stat(top, &st); err != nil {
		return err
	}
	return errors.Join(unix.Chown(dir, int(st.Uid), int(st.Gid)), unix.Chmod(dir, st.Mode&0o7777),
		unix.UtimesNanoAt(unix.AT_FDCWD, dir, []unix.Timespec{st.Atim, st.Mtim}, 0))
}

// mountIn mounts something in a root filesystem, whose links lead nowhere else.
// placeOnly makes no more than the place for it.
func mountIn(root *os.File, m keeper.ArchiveMount, placeOnly bool) error {
	source := -1
	var err error
	directory := true
	if m.Source != "" {
		flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
		if m.Recursive {
			flags |= unix.AT_RECURSIVE
		}
		if source, err = unix.OpenTree(unix.AT_FDCWD, m.Source, flags); err != nil {
			return fmt.Errorf("take %s: %w", m.Source, err)
		}
		defer unix.Close(source)
		var st unix.Stat_t
		if err := unix.Fstat(source, &st); err != nil {
			return err
		}
		directory = st.Mode&unix.S_IFMT == unix.S_IFDIR
	}
	target, err := rootfs.MakeIn(root, m.Target, directory)
	if err != nil || placeOnly {
		if err == nil {
			target.Close()
		}
		return err
	}
	defer target.Close()
	if source < 0 {
		if source, err = emptyTmpfs(); err != nil {
			return err
		}
		defer unix.Close(source)
	}
	if m.ReadOnly {
		if err := unix.MountSetattr(source, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
			return fmt.Errorf("make it read-only: %w", err)
		}
	}
	return unix.MoveMount(source, "", int(target.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// emptyTmpfs stands for one that is gone with the container's process. What is
// put into it goes as well, so it need not hold much.
func emptyTmpfs() (int, error) {
	ctx, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(ctx)
	for _, o := range [][2]string{{"mode", "1777"}, {"size", "64m"}} {
		if err := unix.FsconfigSetString(ctx, o[0], o[1]); err != nil {
			return -1, err
		}
	}
	if err := unix.FsconfigCreate(ctx); err != nil {
		return -1, err
	}
	return unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, 0)
}

// pivot makes a mount the root, and lets go of everything else.
func pivot(root *os.File, q asked) error {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC}
	if q.Op != keeper.ArchivePut {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(int(root.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		return fmt.Errorf("set mount attributes: %w", err)
	}
	if q.Root.ReadOnly {
		if err := unix.MountSetattr(int(root.Fd()), "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
			return fmt.Errorf("make the root filesystem read-only: %w", err)
		}
	}
	if err := unix.Fchdir(int(root.Fd())); err != nil {
		return err
	}
	// The old root comes to lie on the new one, from where it is taken away.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("let go of the host: %w", err)
	}
	return unix.Chdir("/")
}

// comeBack executes the program anew, as the stage that has no rights. There is
// no path to it any more, only the descriptor.
func comeBack() error {
	unix.CloseOnExec(programFd)
	runtime.LockOSThread()
	empty := [1]byte{}
	argv := [4]*byte{}
	for i, arg := range []string{"gantry-runtime", "archive", "here"} {
		argv[i], _ = unix.BytePtrFromString(arg)
	}
	var envp []*byte
	for _, e := range os.Environ() {
		if !strings.Contains(e, "\x00") {
			p, _ := unix.BytePtrFromString(e)
			envp = append(envp, p)
		}
	}
	envp = append(envp, nil)
	_, _, errno := unix.Syscall6(unix.SYS_EXECVEAT, programFd, uintptr(unsafe.Pointer(&empty[0])),
		uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&envp[0])), unix.AT_EMPTY_PATH, 0)
	return fmt.Errorf("execute the next stage: %w", errno)
}

// programFd is the program of the stage that mounts.
const programFd = 8
