package daemon

import (
	"bufio"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDefault(t *testing.T) {
	none := Default(func(string) string { return "" })
	if none.Root != "/var/lib/gantry" || none.Run != "/run/gantry" || none.Hosts != nil {
		t.Errorf("%+v", none)
	}
	env := map[string]string{"GANTRY_ROOT": "/r", "GANTRY_RUN": "/u", "GANTRY_HOST": "unix:///h"}
	said := Default(func(name string) string { return env[name] })
	if said.Root != "/r" || said.Run != "/u" || len(said.Hosts) != 1 || said.Hosts[0] != "unix:///h" {
		t.Errorf("%+v", said)
	}
}

func TestComplete(t *testing.T) {
	c, err := Config{Root: "rel", Run: "/u"}.complete()
	if err != nil || !filepath.IsAbs(c.Root) || c.Hosts[0] != "unix:///u/gantry.sock" {
		t.Errorf("%+v %v", c, err)
	}
	for says, c := range map[string]Config{
		"80 bytes":       {Run: "/" + strings.Repeat("x", 90)},
		"only unix://":   {Run: "/u", Hosts: []string{"http://1.2.3.4:5"}},
		"absolute path":  {Run: "/u", Hosts: []string{"unix://rel"}},
		"most 107 bytes": {Run: "/u", Hosts: []string{"unix:///" + strings.Repeat("x", 107)}},
	} {
		if _, err := c.complete(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
}

func TestCgroupParent(t *testing.T) {
	t.Setenv("SYSTEMD_EXEC_PID", "")
	if p := (Config{Run: defaultRun}).cgroupParent(); p != "/gantry" {
		t.Errorf("the default daemon's is %s", p)
	}
	a, b := Config{Run: "/a"}.cgroupParent(), Config{Run: "/b"}.cgroupParent()
	if a == b || !strings.HasPrefix(a, "/gantry-") {
		t.Errorf("%s and %s", a, b)
	}
	// Under systemd on version 2: below the service, whose processes sit in a leaf.
	root := t.TempDir()
	self := filepath.Join(root, "self")
	service := "/system.slice/gantryd.service"
	for _, f := range []struct{ path, text string }{{"cgroup.controllers", "memory"}, {"self", "0::" + service + "\n"}} {
		if err := os.WriteFile(filepath.Join(root, f.path), []byte(f.text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := delegated(root, self); got != "" {
		t.Errorf("without systemd: %q", got)
	}
	t.Setenv("SYSTEMD_EXEC_PID", "1") // of whoever started us, inherited
	if got := delegated(root, self); got != "" {
		t.Errorf("started by a service: %q", got)
	}
	t.Setenv("SYSTEMD_EXEC_PID", strconv.Itoa(os.Getpid()))
	if got := delegated(root, self); got != service {
		t.Errorf("a service: %q", got)
	}
	if err := os.MkdirAll(filepath.Join(root, service), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(enterLeaf(root, service), enterLeaf(root, service)); err != nil {
		t.Fatal(err)
	}
	if pid, _ := os.ReadFile(filepath.Join(root, service, leaf, "cgroup.procs")); string(pid) != strconv.Itoa(os.Getpid()) {
		t.Errorf("in the leaf is %q", pid)
	}
	if err := os.WriteFile(self, []byte("0::"+service+"/"+leaf+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := delegated(root, self); got != service {
		t.Errorf("from its leaf: %q", got)
	}
}

func TestPlaces(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: a mount is made")
	}
	t.Setenv("TMPDIR", os.TempDir())
	dir := t.TempDir()
	c := Config{Root: filepath.Join(dir, "root"), Run: filepath.Join(dir, "run")}
	p, err := openPlaces(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openPlaces(c); err == nil || !strings.Contains(err.Error(), "another gantryd") {
		t.Errorf("a second daemon: %v", err)
	}
	if got := os.Getenv("TMPDIR"); got != filepath.Join(c.Run, "tmp") {
		t.Errorf("TMPDIR is %s", got)
	}
	mounts := func() int {
		n := 0
		text, _ := os.ReadFile("/proc/self/mountinfo")
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); f[4] == c.Run {
				n++
				if !strings.Contains(line, " shared:") {
					t.Errorf("it does not propagate: %s", line)
				}
			}
		}
		return n
	}
	if n := mounts(); n != 1 {
		t.Errorf("%d mounts", n)
	}
	if err := p.close(false); err != nil {
		t.Error(err)
	}
	if p, err = openPlaces(c); err != nil { // the next daemon finds the mount
		t.Fatal(err)
	}
	if n := mounts(); n != 1 {
		t.Errorf("%d mounts after a second daemon", n)
	}
	if err := p.close(true); err != nil {
		t.Error(err)
	}
	if n := mounts(); n != 0 {
		t.Errorf("%d mounts are left", n)
	}
}

func TestStarter(t *testing.T) {
	dir := t.TempDir()
	notify := func() (*net.UnixConn, func() string) {
		l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		return l, func() string {
			b := make([]byte, 1000)
			n, _ := l.Read(b)
			return string(b[:n])
		}
	}
	start := func() (*starter, func() string) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Dup(int(w.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		w.Close()
		t.Setenv("GANTRY_READY_FD", strconv.Itoa(fd))
		t.Setenv("NOTIFY_SOCKET", filepath.Join(dir, "notify"))
		s := Starter(quiet)
		if os.Getenv("GANTRY_READY_FD")+os.Getenv("NOTIFY_SOCKET") != "" {
			t.Error("others inherit the starter's addresses")
		}
		return s, func() string {
			defer r.Close()
			line, _ := bufio.NewReader(r).ReadString('\n')
			return line
		}
	}
	l, told := notify()
	defer l.Close()
	s, line := start()
	s.Ready()
	s.Failed(errors.New("too late"))
	if got := line(); got != "ready\n" {
		t.Errorf("the pipe says %q", got)
	}
	if got := told(); got != "READY=1" {
		t.Errorf("the socket says %q", got)
	}
	s, line = start()
	s.Failed(nil) // no failure
	s.Failed(errors.Join(errors.New("one"), errors.New("two")))
	if got := line(); got != "one; two\n" {
		t.Errorf("the pipe says %q", got)
	}
	if got := told(); got != "STATUS=one; two" {
		t.Errorf("the socket says %q", got)
	}
}
