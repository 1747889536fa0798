package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"gantry/runtime/spec"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// floor makes containers without a platform: by libcontainer alone, and by
// crun. Both get the specification that gantry makes, with Docker's seccomp
// profile, on a plain directory.
type floor struct {
	dir     string // everything of it
	program string // tests/bench/libcontainer, built
	bundle  string // directory of config.json
	cgroup  string // parent
	fifo    string // what the processes speak into
}

// spoken is the command of containers that are heard when they run.
var spoken = []string{"sh", "-c", "echo >" + spokenDir + "/fifo"}

const spokenDir = "/spoken"

func openFloor(ctx context.Context, scratch, archive, cgroup string) (*floor, error) {
	f := &floor{dir: filepath.Join(scratch, "floor"), cgroup: cgroup}
	root, own := filepath.Join(f.dir, "rootfs"), filepath.Join(f.dir, "spoken")
	f.bundle, f.program = filepath.Join(f.dir, "bundle"), filepath.Join(f.dir, "libcontainer")
	for _, d := range []string{root, own, f.bundle, filepath.Join(f.dir, "state")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	if out, err := exec.CommandContext(ctx, "tar", "-xf", archive, "-C", root).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("unpack %s: %w: %s", archive, err, tail(string(out)))
	}
	if err := os.MkdirAll(filepath.Join(root, spokenDir), 0o755); err != nil {
		return nil, err
	}
	err := build(ctx, f.program, "./tests/bench/libcontainer", true)
	if err != nil {
		return nil, err
	}
	heard, err := openFIFO(own)
	if err != nil {
		return nil, err
	}
	f.fifo = heard.path
	heard.close() // whoever makes the containers listens
	s, err := specification(root, own, cgroup)
	if err != nil {
		return nil, err
	}
	return f, f.write(s)
}

// specification is what gantry would give libcontainer.
func specification(root, own, cgroup string) (*specs.Spec, error) {
	host := spec.Host{Seccomp: true}
	for i, name := range spec.Capabilities() {
		if has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(i), 0, 0, 0); err == nil && has == 1 {
			host.Capabilities = append(host.Capabilities, name)
		}
	}
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return nil, err
	}
	host.HardLimits = map[string]uint64{"nofile": files.Max}
	s, err := spec.Build(spec.Input{
		ID:          "bench",
		Config:      spec.Config{Command: spoken},
		Host:        host,
		CgroupsPath: filepath.Join(cgroup, "one"),
		Mounts:      []spec.Mount{{Type: spec.MountBind, Source: own, Target: spokenDir}},
	})
	if err != nil {
		return nil, err
	}
	s.Version = "1.0.2" // Debian's crun knows no later one, and nothing of a later one is used
	s.Process.User.Username = ""
	s.Root = &specs.Root{Path: root}
	return s, nil
}

func (f *floor) write(s *specs.Spec) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(f.bundle, "config.json"), text, 0o600)
}

// libcontainer makes n containers, one after the other.
func (f *floor) libcontainer(ctx context.Context, n int, each func(runs, gone time.Duration)) error {
	cmd := exec.CommandContext(ctx, f.program, "-spec", filepath.Join(f.bundle, "config.json"),
		"-state", filepath.Join(f.dir, "state"), "-heard", f.fifo, "-n", fmt.Sprint(n+1))
	return f.collect(cmd, n, each)
}

// crun makes n containers by `crun run`.
func (f *floor) crun(ctx context.Context, n int, each func(runs, gone time.Duration)) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, "crun", f.dir, f.bundle, f.fifo, strings.Trim(f.cgroup, "/"), fmt.Sprint(n+1))
	if _, err := os.Stat(unified); err == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	}
	return f.collect(cmd, n, each)
}

// collect reads the times of containers from a process that makes them one
// after the other. Its first finds everything cold and does not count.
func (f *floor) collect(cmd *exec.Cmd, n int, each func(runs, gone time.Duration)) error {
	cmd.Env = environ()
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%w: %s", err, tail(errs.String()))
	}
	i := 0
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); i++ {
		var t struct{ Runs, Gone time.Duration }
		if err := d.Decode(&t); err != nil {
			return err
		}
		if i > 0 {
			each(t.Runs, t.Gone)
		}
	}
	if i != n+1 {
		return fmt.Errorf("%d containers of %d", i, n+1)
	}
	return nil
}

// unified is where machines with both versions of cgroups mount the second.
const unified = "/sys/fs/cgroup/unified"

// crunMode is the life of the process that calls crun. Debian's refuses
// machines that have both versions of cgroups with controllers on the second,
// so it is not shown that one.
func crunMode(args []string) error {
	if len(args) != 5 {
		return errors.New("crun: wants STATE BUNDLE FIFO PREFIX COUNT")
	}
	dir, bundle, prefix := args[0], args[1], args[3]
	n, err := strconv.Atoi(args[4])
	if err != nil {
		return err
	}
	if _, err := os.Stat(unified); err == nil {
		if err := unix.Unmount(unified, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s here: %w", unified, err)
		}
	}
	heard, err := openFIFO(filepath.Dir(args[2]))
	if err != nil {
		return err
	}
	defer heard.close()
	out := json.NewEncoder(os.Stdout)
	for i := range n {
		id := fmt.Sprintf("%s-%d", prefix, i)
		runs, gone, err := crunOne(dir, bundle, id, heard)
		if err != nil {
			return err
		}
		if err := out.Encode(map[string]time.Duration{"Runs": runs, "Gone": gone}); err != nil {
			return err
		}
	}
	return nil
}

func crunOne(dir, bundle, id string, heard *fifo) (runs, gone time.Duration, err error) {
	crun := func(args ...string) *exec.Cmd {
		return exec.Command("crun", append([]string{"--root", filepath.Join(dir, "crun"), "--cgroup-manager", "cgroupfs"}, args...)...)
	}
	cmd := crun("run", "--bundle", bundle, id)
	cmd.Stderr = os.Stderr
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, 0, err
	}
	spoke := heard.hear(5 * time.Second)
	runs = time.Since(began)
	if spoke != nil {
		_ = crun("delete", "--force", id).Run()
	}
	err = cmd.Wait()
	return runs, time.Since(began), errors.Join(spoke, err)
}

// close removes the cgroups the containers stood in.
func (f *floor) close() error {
	return removeCgroups(f.cgroup)
}

// removeCgroups removes a cgroup and what is below it from all hierarchies.
// None of them has processes any more.
func removeCgroups(path string) error {
	var errs []error
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		tops, _ := filepath.Glob(filepath.Join(pattern, path))
		for _, top := range tops {
			var dirs []string
			_ = filepath.WalkDir(top, func(p string, d os.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, p)
				}
				return nil
			})
			for i := len(dirs) - 1; i >= 0; i-- {
				if err := os.Remove(dirs[i]); err != nil && !errors.Is(err, os.ErrNotExist) {
					errs = append(errs, err)
				}
			}
		}
	}
	return errors.Join(errs...)
}

// fifo is how a process in a container says, without a clock, that it runs:
// the reader has the time.
type fifo struct {
	path string
	f    *os.File
}

// openFIFO makes a FIFO in a directory that containers are given. It is held
// open for both directions, so that neither side waits for the other to open
// it and no end is read before something was said.
func openFIFO(dir string) (*fifo, error) {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(path, 0o666); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	return &fifo{path, f}, err
}

// hear waits for one word.
func (f *fifo) hear(patience time.Duration) error {
	if err := f.f.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	var b [1]byte
	if _, err := f.f.Read(b[:]); err != nil {
		return fmt.Errorf("the container's process was not heard: %w", err)
	}
	return nil
}

func (f *fifo) close() { f.f.Close() }
