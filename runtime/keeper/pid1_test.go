package keeper_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/runtime/keeper"
)

// withInit gives the bundle an init, as package spec does.
func (h *house) withInit(b keeper.Bundle) keeper.Bundle {
	h.must(os.MkdirAll(filepath.Join(h.base, "sbin"), 0o755))
	h.must(os.WriteFile(filepath.Join(h.base, "sbin/docker-init"), nil, 0o755))
	b.Spec.Mounts = append(b.Spec.Mounts, specs.Mount{Destination: "/sbin/docker-init", Type: "bind", Source: program, Options: []string{"bind", "ro"}})
	b.Spec.Process.Args = append([]string{"/sbin/docker-init", "--"}, b.Spec.Process.Args...)
	return b
}

// TestInitEnds: a container with an init ends as its command does.
func TestInitEnds(t *testing.T) {
	h := newHouse(t)
	for i, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"sh", "-c", "exit 7"}, 7, ""},
		{[]string{"sh", "-c", "kill -9 $$"}, 128 + 9, ""},
		{[]string{"sh", "-c", "sleep 1000 & exit 0"}, 0, ""}, // whom it leaves is killed
		{[]string{"nosuch"}, 127, `docker-init: exec: \"nosuch\": executable file not found in $PATH\n`},
		{[]string{"/no/such"}, 127, `docker-init: exec: \"/no/such\": no such file or directory\n`},
		{[]string{"/bin/plain"}, 126, `docker-init: exec: \"/bin/plain\": permission denied\n`},
	} {
		x, log := h.runToEnd(h.withInit(h.bundle(fmt.Sprint("i", i), c.args...)))
		if x.Code != c.code || !strings.Contains(log, c.says) || c.says == "" && log != "" {
			t.Errorf("%q: exit %+v, log %q; want %d, %q", c.args, x, log, c.code, c.says)
		}
	}
}

// TestInitIsSmall: it is one task of few pages, and the command finds what it
// would find without it.
func TestInitIsSmall(t *testing.T) {
	h := newHouse(t)
	_, bare := h.runToEnd(h.bundle("bare", "grep", "^Sig[BIC]", "/proc/self/status"))
	_, log := h.runToEnd(h.withInit(h.bundle("small", "grep", "^Sig[BIC]", "/proc/self/status")))
	signals := func(log string) (s []string) {
		for line := range strings.Lines(log) {
			line, _, _ = strings.Cut(line, `","stream`)
			s = append(s, line)
		}
		return s
	}
	if !strings.Contains(bare, `SigIgn:\u00090000000000000000\n`) {
		t.Errorf("a container begins with signals ignored: %s", bare)
	}
	if a, b := signals(bare), signals(log); len(a) != 3 || strings.Join(a, "\n") != strings.Join(b, "\n") {
		t.Errorf("signals of a command: %q without an init, %q with it", a, b)
	}
	st := h.start(h.withInit(h.bundle("one", "sleep", "1000")))
	h.eventually("it is the init", func() bool {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", st.Pid))
		return string(b) == "docker-init\n"
	})
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", st.Pid))
	h.must(err)
	for line := range strings.Lines(string(status)) {
		var n int
		if _, err := fmt.Sscanf(line, "Threads: %d", &n); err == nil && n != 1 {
			t.Errorf("%d tasks", n)
		}
		if _, err := fmt.Sscanf(line, "RssAnon: %d", &n); err == nil && n > 200 {
			t.Errorf("%d KiB of its own", n)
		}
	}
}

// TestInitHandsOnSignals: all of them, real-time ones too, and none is lost
// because a first process would ignore it.
func TestInitHandsOnSignals(t *testing.T) {
	h := newHouse(t)
	script := "n=0; for s in HUP INT QUIT USR1 USR2 PIPE ALRM TERM CONT WINCH URG; do trap \"echo $s\" $s; done; echo up; while :; do usleep 5000; done"
	b := h.withInit(h.bundle("sig", "sh", "-c", script))
	h.start(b)
	h.eventually("it is up", func() bool { return strings.Contains(h.logText("sig"), "up") })
	for _, s := range []string{"HUP", "INT", "QUIT", "USR1", "USR2", "PIPE", "ALRM", "TERM", "CONT", "WINCH", "URG"} {
		h.must(h.client.Signal(ctx(t), "sig", "", unix.SignalNum("SIG"+s)))
		h.eventually(s+" has come", func() bool { return strings.Contains(h.logText("sig"), `"log":"`+s+`\n"`) })
	}
	h.must(h.client.Signal(ctx(t), "sig", "", syscall.Signal(35))) // SIGRTMIN+1 ends who does not handle it
	if x, err := h.client.Wait(ctx(t), "sig"); err != nil || x.Code != 128+35 {
		t.Errorf("after a real-time signal: %+v %v", x, err)
	}
}

// TestInitReaps: processes that lose their parent do not stay as zombies.
func TestInitReaps(t *testing.T) {
	h := newHouse(t)
	h.start(h.withInit(h.bundle("orphans", "sh", "-c", "i=0; while [ $i -lt 50 ]; do i=$((i+1)); (true & ); done; echo made; while :; do usleep 5000; done")))
	h.eventually("all are made", func() bool { return strings.Contains(h.logText("orphans"), "made") })
	h.eventually("none is left", func() bool {
		_, out := h.execOut("orphans", fmt.Sprint("e", nextExec()), "sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z '")
		return strings.TrimSpace(out) == "0"
	})
}

// TestInitGivesTheTerminal: the command is in the foreground, so keys reach it.
func TestInitGivesTheTerminal(t *testing.T) {
	h := newHouse(t)
	b := h.withInit(h.bundle("tty", "sh", "-c", "trap 'exit 42' INT; echo up; while :; do usleep 5000; done"))
	b.TTY, b.OpenStdin = true, true
	h.start(b)
	out, master := h.attach("tty", true)
	defer out.Close()
	defer master.Close()
	h.eventually("it is up", func() bool { return strings.Contains(h.logText("tty"), "up") })
	fmt.Fprint(master, "\x03")
	if x, err := h.client.Wait(ctx(t), "tty"); err != nil || x.Code != 42 {
		t.Errorf("after Ctrl-C: %+v %v; log %q", x, err, h.logText("tty"))
	}
}

// TestInitIsStatic: it must start in any container.
func TestInitIsStatic(t *testing.T) {
	newHouse(t)
	out, err := exec.Command("readelf", "-l", program).Output()
	if err != nil {
		t.Skip("needs readelf (Debian: binutils)")
	}
	if strings.Contains(string(out), "INTERP") {
		t.Errorf("%s needs a loader", program)
	}
}

var execCount int

func nextExec() int { execCount++; return execCount }
