// Command libcontainer is the floor that gantry's starts are measured against:
// containers made by libcontainer alone, from the specification gantry would
// give it, on a root directory that is ready. There is no image, no overlay
// and no network, and nobody to ask.
//
// It stands beside the benchmark, not in the keeper, so that no shortcut of
// the keeper's can lower the floor. As the keeper does it executes itself from
// sealed memory, without which libcontainer copies the program every time.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"time"

	_ "github.com/opencontainers/cgroups/devices" // device rules work only if it is linked
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/exeseal"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // C code that runs before Go does
	"github.com/opencontainers/runc/libcontainer/specconv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "init" {
		debug.SetGCPercent(-1)
		libcontainer.Init() // does not return
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "libcontainer:", err)
		os.Exit(1)
	}
}

// Times of one container, in nanoseconds from its beginning.
type Times struct {
	Runs int64 // until its process has spoken
	Gone int64 // until nothing is left of it
}

func run() error {
	file := flag.String("spec", "", "OCI specification")
	state := flag.String("state", "", "directory for libcontainer's state")
	heard := flag.String("heard", "", "FIFO the process writes to")
	n := flag.Int("n", 1, "how many, one after the other")
	flag.Parse()
	if err := seal(); err != nil {
		return err
	}
	if err := os.Setenv("GOMAXPROCS", "1"); err != nil { // for the processes libcontainer makes
		return err
	}
	text, err := os.ReadFile(*file)
	if err != nil {
		return err
	}
	// Held open for both, so that no side waits for the other to open it.
	fifo, err := os.OpenFile(*heard, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer fifo.Close()
	out := json.NewEncoder(os.Stdout)
	for i := range *n {
		var spec specs.Spec
		if err := json.Unmarshal(text, &spec); err != nil {
			return fmt.Errorf("%s: %w", *file, err)
		}
		t, err := one(*state, fmt.Sprint("c", i), &spec, fifo)
		if err != nil {
			return err
		}
		if err := out.Encode(t); err != nil {
			return err
		}
	}
	return nil
}

// one makes a container, hears it and waits for its end.
func one(state, id string, spec *specs.Spec, fifo *os.File) (t Times, err error) {
	spec.Linux.CgroupsPath = filepath.Join(filepath.Dir(spec.Linux.CgroupsPath), id)
	began := time.Now()
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: id, Spec: spec})
	if err != nil {
		return t, err
	}
	c, err := libcontainer.Create(state, id, config)
	if err != nil {
		return t, err
	}
	p := &libcontainer.Process{
		Args: spec.Process.Args, Env: spec.Process.Env, Cwd: spec.Process.Cwd,
		NoNewPrivileges: &spec.Process.NoNewPrivileges, Init: true, Stderr: os.Stderr,
	}
	if err := c.Run(p); err != nil {
		return t, errors.Join(err, c.Destroy())
	}
	_ = fifo.SetReadDeadline(began.Add(10 * time.Second))
	var b [1]byte
	_, heard := io.ReadFull(fifo, b[:])
	t.Runs = int64(time.Since(began))
	if heard != nil {
		heard = errors.Join(heard, c.Signal(unix.SIGKILL))
	}
	_, err = p.Wait()
	err = errors.Join(heard, err, c.Destroy())
	t.Gone = int64(time.Since(began))
	return t, err
}

// seal executes the program anew from a sealed copy in memory.
func seal() error {
	if exeseal.IsSelfExeCloned() {
		return nil
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
	clone, err := exeseal.CloneBinary(self, info.Size(), "libcontainer", "/")
	if err != nil {
		return err
	}
	path := "/proc/self/fd/" + strconv.Itoa(int(clone.Fd()))
	return os.NewSyscallError("exec", unix.Exec(path, os.Args, os.Environ()))
}
