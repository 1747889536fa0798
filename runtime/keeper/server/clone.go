package server

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"gantry/runtime/keeper"
)

// A process that is being made passes through its container before it is what
// was asked for, and there whoever is in already may stop it with a signal, or
// a pause may freeze it. That must cost nobody but its own caller: after
// placeTime its place goes to the next, and after makeTime it is killed.
const (
	placeTime = 2 * time.Second
	makeTime  = 20 * time.Second
)

// cloneLimit bounds how many processes are made at the same time: each keeps a
// CPU busy, and more of them only wait for each other's locks in the kernel.
func cloneLimit() int { return 2 * runtime.NumCPU() }

// clone makes a process of c, which start does, when there is a place.
// libcontainer makes one at a time of each container: those that wait for it
// need no place. Once a pause has been asked for none is begun: a process that
// comes into a frozen cgroup half made holds up libcontainer, and with it the
// thaw. One that is under way has placeTime to get through.
func (c *container) clone(start func() error) error {
	c.making.Lock()
	defer c.making.Unlock()
	pausing, err := c.mayClone()
	if err != nil {
		return err
	}
	places := c.s.clones
	select {
	case places <- struct{}{}:
	case <-pausing:
		return c.paused()
	}
	leave := sync.OnceFunc(func() { <-places })
	defer leave()
	began := time.Now()
	made := make(chan struct{})
	held := false
	var watch sync.WaitGroup
	watch.Go(func() {
		late, over := time.After(placeTime), time.After(makeTime)
		for {
			select {
			case <-made:
				return
			case <-late:
				leave()
			case <-pausing:
				pausing, over = nil, time.After(placeTime)
			case <-over:
				held = true
				c.endUnmade()
				over = time.After(placeTime)
			}
		}
	})
	err = start()
	close(made)
	watch.Wait()
	if err == nil {
		return nil
	}
	for end := time.Now().Add(time.Second); c.endUnmade() && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if held {
		return keeper.Classed(errdefs.ErrUnavailable,
			fmt.Errorf("it was held up inside the container for %v, and killed", time.Since(began).Round(time.Second)))
	}
	return err
}

// mayClone says whether a process may be made in c now, and gives what is
// closed when a pause is asked for.
func (c *container) mayClone() (pausing <-chan struct{}, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == keeper.StatePaused || ended(c.pausing) {
		return nil, c.paused()
	}
	return c.pausing, nil
}

// The names of the processes by which libcontainer makes another. They are
// children of ours, all of them.
const (
	firstStage  = "runc:[1:CHILD]"
	secondStage = "runc:[2:INIT]"
)

// endUnmade ends the processes by which one of c was to be made, and says
// whether some are left. Those that have ended are collected: libcontainer does
// that only when all went well, and one that is not collected keeps the first
// process of its pid namespace from ending.
func (c *container) endUnmade() (left bool) {
	known := c.s.knownPids()
	own, err := os.Stat("/proc/self/exe")
	if err != nil {
		return false
	}
	for _, p := range children() {
		if known[p.pid] {
			continue // whatever it calls itself
		}
		if p.state == 'Z' {
			if p.name == firstStage || p.name == secondStage {
				_, _ = unix.Wait4(p.pid, nil, unix.WNOHANG, nil)
			}
			continue
		}
		pidfd, err := keeper.OpenPidfd(p.pid)
		if err != nil {
			continue
		}
		exe, err := os.Stat(p.path("exe"))
		switch {
		case err != nil: // it is about to end
			left = left || p.name == firstStage || p.name == secondStage
		case os.SameFile(exe, own) && c.holds(p):
			left = true
			_ = sendSignal(pidfd, unix.SIGKILL)
		}
		pidfd.Close()
	}
	return left
}

// holds says whether a process that is being made is to become one of c: it is
// in c's cgroup, or in its pid namespace and still in the keeper's cgroup
// (where that namespace is shared, others are made in it as well).
func (c *container) holds(p child) bool {
	group, err := os.ReadFile(p.path("cgroup"))
	if err != nil {
		return false
	}
	// Or in one below it: a container that runs systemd has given its own away.
	if at := ":" + c.record.CgroupsPath; bytes.Contains(group, []byte(at+"\n")) || bytes.Contains(group, []byte(at+"/")) {
		return true
	}
	c.mu.Lock()
	first, live := child{pid: c.pid}, c.pidfd != nil // once it is not, its number may be another's
	c.mu.Unlock()
	self := child{pid: os.Getpid()}
	ours, err := os.ReadFile(self.path("cgroup"))
	if err != nil || !live || !bytes.Equal(group, ours) {
		return false
	}
	ns := func(p child) string { to, _ := os.Readlink(p.path("ns/pid")); return to }
	return ns(p) == ns(first) && ns(p) != ns(self)
}

// knownPids are the processes that somebody waits for.
func (s *Server) knownPids() map[int]bool {
	known := map[int]bool{}
	for _, c := range s.all() {
		c.mu.Lock()
		known[c.pid] = true
		for _, e := range c.execs {
			known[e.pid] = true
		}
		c.mu.Unlock()
	}
	return known
}

// child is a process whose parent this one is.
type child struct {
	pid   int
	name  string
	state byte
}

func (c child) path(what string) string { return "/proc/" + strconv.Itoa(c.pid) + "/" + what }

func children() []child {
	d, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	var list []child
	for _, n := range names {
		pid, err := strconv.Atoi(n)
		if err != nil {
			continue
		}
		b, err := os.ReadFile("/proc/" + n + "/stat")
		if err != nil {
			continue
		}
		// pid (name) state parent …: the name may hold anything.
		from, to := strings.IndexByte(string(b), '('), strings.LastIndexByte(string(b), ')')
		if from < 0 || to < from {
			continue
		}
		fields := strings.Fields(string(b[to+1:]))
		if len(fields) < 2 || fields[1] != strconv.Itoa(os.Getpid()) {
			continue
		}
		list = append(list, child{pid, string(b[from+1 : to]), fields[0][0]})
	}
	return list
}
