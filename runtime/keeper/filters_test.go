package keeper_test

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestFilters holds the two builds of gantry-runtime against each other: the
// plain one, whose processes compile their seccomp filters, and the one that
// compiles them in the keeper. The kernel is asked for the program it has
// installed, and programs that the profile forbids and allows are run.
func TestFilters(t *testing.T) {
	type result struct {
		program string // as sorted instructions
		probes  string
	}
	var results [2]result
	bothBuilds(t, func(t *testing.T, i int) {
		h := newHouse(t)
		st := h.start(h.bundle("probe", "sleep", "1000"))
		time.Sleep(20 * time.Millisecond) // it was let go; now it executes sleep
		results[i].program = installed(t, st.Pid)
		for j, probe := range []string{
			"unshare -U true", "unshare -m true", "mount -t tmpfs x /tmp", "chroot / true", "hostname x",
			"date -s 2001-01-01", "nice -n -5 true", "mknod /tmp/n c 1 3", "chown 5:5 /tmp", "ln -s a /tmp/l", "dmesg",
			"swapoff -a", "setarch -R true", "setarch i386 true", "mkfifo /tmp/f", "nsenter -t 1 -m true", "reboot -n -f", "pivot_root / /", "insmod x",
		} {
			x, _ := h.execOut("probe", fmt.Sprint("p", j), "busybox", "sh", "-c", "busybox "+probe)
			results[i].probes += fmt.Sprintf("%s: %d\n", probe, x.Code)
		}
		b := h.bundle("forged", "true")
		b.Spec.Linux.Seccomp.ListenerMetadata = "gantry-compiled:AAAA"
		if _, err := h.client.Run(ctx(t), b); err == nil {
			t.Error("a profile with a program of its own was taken")
		}
		if h.client.Pid() == 0 {
			t.Error("no keeper")
		}
	})
	if results[0].probes != results[1].probes {
		t.Errorf("they allow different things:\n%s\n%s", results[0].probes, results[1].probes)
	}
	if results[0].program != results[1].program || results[0].program == "" {
		t.Errorf("they install different programs: %d and %d instructions", strings.Count(results[0].program, "\n"), strings.Count(results[1].program, "\n"))
	}
}

// installed reads the seccomp program of a process out of the kernel. The
// jumps of the part that answers ENOSYS come in an order that differs from one
// compilation to the next, so instructions are counted, not compared in place.
func installed(t *testing.T, pid int) string {
	t.Helper()
	runtime.LockOSThread() // ptrace knows the thread that attached
	defer runtime.UnlockOSThread()
	if err := unix.PtraceSeize(pid); err != nil {
		t.Fatal(err)
	}
	defer unix.PtraceDetach(pid)
	if err := unix.PtraceInterrupt(pid); err != nil {
		t.Fatal(err)
	}
	var ws unix.WaitStatus
	if _, err := unix.Wait4(pid, &ws, unix.WALL, nil); err != nil {
		t.Fatal(err)
	}
	prog := make([]unix.SockFilter, 4096)
	n, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SECCOMP_GET_FILTER, uintptr(pid), 0, uintptr(unsafe.Pointer(&prog[0])), 0, 0)
	if errno != 0 {
		t.Skipf("the kernel does not tell its filters: %v", errno)
	}
	count := map[unix.SockFilter]int{}
	for _, i := range prog[:n] {
		i.Jt, i.Jf = 0, 0
		if i.Code == unix.BPF_JMP|unix.BPF_JA {
			i.K = 0
		}
		count[i]++
	}
	var lines []string
	for i, n := range count {
		lines = append(lines, fmt.Sprintf("%+v ×%d\n", i, n))
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}
