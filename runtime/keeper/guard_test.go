package keeper_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gantry/runtime/keeper"
)

// fakeDaemon is the program that TestGuard kills: this one, called again.
func fakeDaemon(conf string) error {
	var o keeper.Options
	if err := json.Unmarshal([]byte(conf), &o); err != nil {
		return err
	}
	o.Guard = &keeper.Guard{Args: os.Args, Env: os.Environ(), Dir: "/", Log: filepath.Join(o.Run, "daemon.log")}
	c, err := keeper.Connect(context.Background(), o)
	if err != nil {
		return err
	}
	defer c.Close()
	mnt, _ := os.Readlink("/proc/self/ns/mnt")
	group, _ := os.ReadFile("/proc/self/cgroup")
	f, err := os.OpenFile(filepath.Join(o.Run, "daemons"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	fmt.Fprintf(f, "%d %s %t\n", os.Getpid(), mnt, strings.Contains(string(group), "gantry-test"))
	for { // until killed, or asked to go
		if _, err := os.Stat(filepath.Join(o.Run, "go")); err == nil {
			return c.Goodbye(context.Background())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestGuard: a daemon that dies unasked is started again, in the mount
// namespace and the cgroups it was in; one that said goodbye is not.
func TestGuard(t *testing.T) {
	h := newHouse(t)
	o := h.options()
	o.Log = nil
	conf, err := json.Marshal(o)
	h.must(err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "GANTRY_TEST_DAEMON="+string(conf))
	h.must(cmd.Start())
	daemons := func() []string {
		b, _ := os.ReadFile(filepath.Join(h.run, "daemons"))
		return strings.Split(strings.TrimSpace(string(b)), "\n")
	}
	h.eventually("the daemon is up", func() bool { return daemons()[0] != "" })
	home, err := os.Readlink("/proc/self/ns/mnt")
	h.must(err)
	for round := 1; round <= 2; round++ {
		var pid int
		fmt.Sscan(daemons()[round-1], &pid)
		h.must(unix.Kill(pid, unix.SIGKILL))
		if round == 1 {
			_ = cmd.Wait()
		}
		h.eventually("the daemon is back", func() bool { return len(daemons()) == round+1 })
		var back int
		var mnt string
		var inOurs bool
		fmt.Sscan(daemons()[round], &back, &mnt, &inOurs)
		if back == pid || mnt != home || inOurs {
			t.Errorf("it came back as %q, in %s; the keeper's cgroup: %t", daemons()[round], home, inOurs)
		}
	}
	h.must(os.WriteFile(filepath.Join(h.run, "go"), nil, 0o600))
	var last int
	fmt.Sscan(daemons()[2], &last)
	h.eventually("the daemon is gone", func() bool { return unix.Kill(last, 0) != nil || zombie(last) })
	time.Sleep(300 * time.Millisecond)
	if n := len(daemons()); n != 3 {
		t.Errorf("a daemon that said goodbye was started again: %v", daemons())
	}
}

func zombie(pid int) bool {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return strings.Contains(string(b), ") Z ")
}

// TestUpgrade: another program in the keeper's place, under running
// containers: same process, same children.
func TestUpgrade(t *testing.T) {
	h := newHouse(t)
	h.start(h.bundle("count", "sh", "-c", "i=0; while [ $i -lt 100 ]; do i=$((i+1)); echo $i; usleep 20000; done; exit 6"))
	tty := h.bundle("tty", "sh", "-c", "read x; exit 5")
	tty.TTY, tty.OpenStdin = true, true
	h.start(tty)
	pid := h.client.Pid()
	next := filepath.Join(h.dir, "next-runtime")
	b, err := os.ReadFile(program)
	h.must(err)
	h.must(os.WriteFile(next, b, 0o755))
	if err := h.client.Upgrade(ctx(t), filepath.Join(h.dir, "nothing")); err == nil {
		t.Error("upgraded to nothing")
	}
	h.must(h.client.Upgrade(ctx(t), next))
	h.waitEvent("keeper-back", func(e keeper.Event) bool { return e.Kind == keeper.KeeperBack })
	h.eventually("it answers", func() bool { return h.client.Pid() == pid })
	if _, err := h.client.List(ctx(t)); err != nil {
		t.Fatal(err)
	}
	args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if !strings.HasPrefix(string(args), next) {
		t.Errorf("process %d runs %q", pid, args)
	}
	_, master := h.attach("tty", true)
	fmt.Fprintln(master, "x")
	master.Close()
	for id, code := range map[string]int{"count": 6, "tty": 5} {
		if x, err := h.client.Wait(ctx(t), id); err != nil || !x.Known || x.Code != code {
			t.Errorf("%s: %+v %v", id, x, err)
		}
	}
	numbers(t, h.logText("count"), 100)
}
