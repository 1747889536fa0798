package spec

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/tools/txtar"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the golden files anew")

const testID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// server is a usual machine; small is one in a container of its own, with
// cgroup v1 and fewer rights.
func server() Host {
	return Host{
		Hostname: "server", Kernel: KernelVersion{6, 12}, CPUs: 4, Memory: 8 << 30,
		CgroupV2: true, Controllers: []string{"blkio", "cpu", "cpuset", "io", "memory", "pids"}, SwapLimit: true, BlkioWeight: true,
		CpusOnline: "0-3", MemsOnline: "0",
		HardLimits: map[string]uint64{"nofile": 1 << 20, "core": Unlimited}, NrOpen: 1 << 20,
		Capabilities: Capabilities(), Seccomp: true, AppArmor: true, DockerDefault: true,
		ThermalPaths: []string{"/sys/devices/system/cpu/cpu0/thermal_throttle"},
	}
}

func small() Host {
	return Host{
		Hostname: "small", Kernel: KernelVersion{6, 18}, CPUs: 2, Memory: 1 << 30,
		Controllers: []string{"blkio", "cpu", "cpuset", "devices", "freezer", "memory", "pids"}, CpusOnline: "0-1", MemsOnline: "0",
		HardLimits: map[string]uint64{"nofile": 20000, "core": 0}, NrOpen: 1 << 20, OomScoreAdj: 100,
		Capabilities: slices.DeleteFunc(Capabilities(), func(c string) bool { return c == sysResource }), Seccomp: true,
	}
}

func input(c Config) Input {
	return Input{
		ID: testID, Config: c, Host: server(), CgroupsPath: "/gantry/" + testID[:12],
		NetNS:  "/run/gantry/netns/" + testID[:12],
		Files:  Files{Hostname: "/state/hostname", Hosts: "/state/hosts", ResolvConf: "/state/resolv.conf"},
		Mounts: c.Mounts, InitPath: "/usr/libexec/gantry-runtime",
	}
}

func node(p string, major, minor int64) Node {
	return Node{Path: p, Type: "c", Major: major, Minor: minor, Mode: 0o660, GID: 44}
}

// Each golden file is a configuration's name and the specification made of it.
func TestBuildGolden(t *testing.T) {
	grace := Config{Command: []string{"sleep", "1d"}}
	for name, in := range map[string]Input{
		"default": input(grace),
		"privileged": func() Input {
			in := input(Config{Command: []string{"sh"}, Privileged: true})
			in.Nodes = []Node{node("/dev/kvm", 10, 232), node("/dev/null", 1, 3), node("/dev/pts/0", 136, 0), node("/dev/dri/card0", 226, 0)}
			return in
		}(),
		"limits": func() Input {
			swappiness := int64(10)
			in := input(Config{
				Entrypoint: []string{"/bin/server"}, User: "1000:1000", NoNewPrivileges: true, OomScoreAdj: 500,
				CapDrop: []string{"ALL"}, CapAdd: []string{"net_bind_service"}, Ulimits: []Ulimit{{"nofile", 2048, 4096}, {"core", 0, -1}},
				Devices: []Device{{Source: "/dev/dri", Target: "/dev/gpu", Permissions: "rw"}}, DeviceCgroupRules: []string{"c 42:* rmw"},
				Resources: Resources{
					NanoCPUs: 1_500_000_000, CPUShares: 512, CpusetCpus: "0-1", Memory: 512 << 20, MemoryLow: 256 << 20, Swappiness: &swappiness,
					PidsLimit: 100, BlkioWeight: 300, WriteBps: []Rate{{"/dev/vda", 1 << 20}},
				},
			})
			in.Host.CgroupV2 = false
			in.Nodes = []Node{node("/dev/dri/card0", 226, 0), node("/dev/dri/by-path/x", 226, 1), {Path: "/dev/vda", Type: "b", Major: 254}}
			return in
		}(),
		"host-network": func() Input {
			in := input(Config{Command: []string{"sh"}, Network: Network{Mode: "host"}, PidMode: "host", IpcMode: "host", UTSMode: "host", CgroupMode: "host", Seccomp: "unconfined"})
			in.NetNS = ""
			return in
		}(),
		"tty-init": input(Config{
			Entrypoint: []string{"/bin/sh"}, Command: []string{"-l"}, TTY: true, Init: true, ReadOnly: true, Hostname: "web", Domainname: "example",
			WorkingDir: "/srv", Env: []string{"A=1", "TERM=vt100", "PATH"}, User: "app", ShmSize: 1 << 20,
			Sysctls: map[string]string{"net.core.somaxconn": "1024", "net/ipv4/ping_group_range": "1 0"},
			Mounts: []Mount{
				{Type: MountTmpfs, Target: "/run/x", TmpfsSize: 1 << 20, TmpfsMode: 0o755, TmpfsOptions: []string{"exec,uid=5"}},
				{Type: MountBind, Source: "/srv/data", Target: "/data/", ReadOnly: true},
				{Type: MountBind, Source: "/srv/shared", Target: "/data/a/b", Propagation: "rshared"},
				{Type: MountTmpfs, Target: "/run"},
				{Type: MountBind, Source: "/srv/hosts", Target: "/etc/hosts", NonRecursive: true, ReadOnly: true},
			},
		}),
	} {
		t.Run(name, func(t *testing.T) {
			if err := in.Config.Validate(in.Host); err != nil {
				t.Fatal(err)
			}
			s, err := Build(in)
			if err != nil {
				t.Fatal(err)
			}
			got := golden(t, s)
			file := filepath.Join("testdata", name+".txtar")
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("%s (run with -update if it is right):\n%s", file, diff)
			}
		})
	}
}

// golden writes a specification for people to read: mounts and namespaces one
// to a line, the filter as what sets one apart from another.
func golden(t *testing.T, s *specs.Spec) []byte {
	t.Helper()
	var mounts, spaces, filter strings.Builder
	for _, m := range s.Mounts {
		fmt.Fprintf(&mounts, "%s %s %s %s\n", m.Destination, m.Type, m.Source, strings.Join(m.Options, ","))
	}
	for _, ns := range s.Linux.Namespaces {
		fmt.Fprintln(&spaces, strings.TrimSpace(string(ns.Type)+" "+ns.Path))
	}
	if f := s.Linux.Seccomp; f == nil {
		filter.WriteString("none\n")
	} else {
		fmt.Fprintf(&filter, "default %s\narchitectures %v\n", f.DefaultAction, f.Architectures)
		for _, call := range []string{"mount", "bpf", "reboot", "ptrace", "clone3", "read"} {
			fmt.Fprintf(&filter, "%s %s\n", call, action(f, call))
		}
	}
	rest := *s
	linux := *s.Linux
	linux.Namespaces, linux.Seccomp, rest.Mounts, rest.Linux = nil, nil, nil, &linux
	text, err := json.MarshalIndent(rest, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return txtar.Format(&txtar.Archive{Files: []txtar.File{
		{Name: "spec.json", Data: append(text, '\n')},
		{Name: "mounts", Data: []byte(mounts.String())},
		{Name: "namespaces", Data: []byte(spaces.String())},
		{Name: "seccomp", Data: []byte(filter.String())},
	}})
}

// action is what a filter does with a call, whatever its arguments.
func action(f *specs.LinuxSeccomp, call string) specs.LinuxSeccompAction {
	for _, rule := range f.Syscalls {
		if slices.Contains(rule.Names, call) && len(rule.Args) == 0 {
			return rule.Action
		}
	}
	return f.DefaultAction
}

// anyConfig draws configurations that a user could write: one half has
// mistakes, anywhere.
func anyConfig() *rapid.Generator[Config] {
	return rapid.Custom(func(t *rapid.T) Config {
		wrong := rapid.Bool().Draw(t, "wrong")
		text := func(label string, right []string, mistakes ...string) string {
			if wrong {
				right = append(right, mistakes...)
			}
			return rapid.SampledFrom(right).Draw(t, label)
		}
		texts := func(label string, right []string, mistakes ...string) (list []string) {
			for range rapid.IntRange(0, 3).Draw(t, label+" count") {
				list = append(list, text(label, right, mistakes...))
			}
			return list
		}
		number := func(label string, low, high, wrongLow, wrongHigh int64) int64 {
			if wrong {
				low, high = wrongLow, wrongHigh
			}
			return rapid.Int64Range(low, high).Draw(t, label)
		}
		c := Config{
			Entrypoint: texts("entrypoint", []string{"sh", "-c"}, "", "\x00"), Command: append(texts("command", []string{"x", "y"}), "last"),
			Env:  texts("env", []string{"A=1", "A", "PATH=/x", "HOSTNAME", "B="}, "=x", ""),
			User: text("user", []string{"", "root", "5:6", "a:b"}, "a:b:c"), WorkingDir: text("dir", []string{"", "/srv"}, "srv"),
			TTY: rapid.Bool().Draw(t, "tty"), Init: rapid.Bool().Draw(t, "init"), ReadOnly: rapid.Bool().Draw(t, "readonly"), Privileged: rapid.Bool().Draw(t, "privileged"),
			CapAdd: texts("add", []string{"ALL", "chown", "CAP_SYS_ADMIN"}, "FLY", ""), CapDrop: texts("drop", []string{"ALL", "chown", "cap_kill"}, "FLY"),
			PidMode: text("pid", []string{"", "host", "container:x"}, "private"), IpcMode: text("ipc", []string{"", "host", "none", "shareable", "container:x"}, "odd"),
			UTSMode: text("uts", []string{"", "host"}, "x"), CgroupMode: text("cgroup", []string{"", "host", "private"}, "x"),
			Seccomp:           text("seccomp", []string{"", "unconfined", `{"defaultAction":"SCMP_ACT_ALLOW"}`}, "{", "{}"),
			OomScoreAdj:       int(number("oom", 100, 1000, -1100, 1100)),
			DeviceCgroupRules: texts("rules", []string{"c 1:3 rwm", "a *:* rwm"}, "x", "c 99999999999:1 r"),
			Resources: Resources{
				NanoCPUs: number("nano", 1e7, 2e9, -1, 5e9), Memory: number("memory", 6<<20, 1<<30, 0, 1<<30), MemorySwap: number("swap", -1, 0, -2, 1<<31),
				CPUShares: uint64(number("shares", 0, 1<<20, 0, 1<<20)), PidsLimit: number("pids", -1, 100, -5, 100), CpusetCpus: text("cpuset", []string{"", "0", "0-1"}, "9", "1-0", "x"),
			},
			Network: Network{Mode: text("network", []string{"", "bridge", "none", "host", "container:x"}, "odd", "container:")},
			Sysctls: map[string]string{},
		}
		if c.Network.Mode != modeHost {
			for _, name := range texts("sysctls", []string{"net.core.somaxconn", "net/ipv4/ip_forward"}, "kernel.panic", "a..b") {
				c.Sysctls[name] = "1"
			}
		}
		for _, target := range texts("targets", []string{"/data", "/data/sub", "/dev", "/dev/shm", "/etc", "/etc/hosts", "/sys", "/a/../b", "/run"}, "/", "rel", "/proc/x", "/sbin/docker-init") {
			m := Mount{Type: text("type", []string{MountBind, MountTmpfs}, MountVolume, ""), Target: target, ReadOnly: rapid.Bool().Draw(t, "ro")}
			if m.Type == MountBind {
				m.Source, m.NonRecursive = "/src", rapid.Bool().Draw(t, "nonrecursive")
				m.Propagation = text("propagation", []string{"", "rshared", "slave"}, "odd")
			} else {
				m.TmpfsOptions = texts("options", []string{"size=5m", "exec", "mode=700", "uid=1,gid=2", ""}, "bogus", "size")
			}
			c.Mounts = append(c.Mounts, m)
		}
		if rapid.Bool().Draw(t, "limited") {
			hard := number("hard", 1000, 20000, -2, 1<<21)
			c.Ulimits = []Ulimit{{text("limit", []string{"nofile", "nproc"}, "core", "as"), number("soft", 0, 1000, -2, 1<<21), hard}}
		}
		return c
	})
}

// Laws of Build: the same input gives the same result and is left as it was;
// what is valid can be built, unless a path or a namespace is missing; what is
// built is what the runtime can take.
func TestBuildLaws(t *testing.T) {
	built := 0
	rapid.Check(t, func(t *rapid.T) {
		c := anyConfig().Draw(t, "config")
		in := input(c)
		if rapid.Bool().Draw(t, "small") {
			in.Host = small()
		}
		in.PidNS, in.IpcNS = "/proc/7/ns/pid", "/proc/7/ns/ipc"
		before, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		invalid := c.Validate(in.Host)
		if invalid != nil && (!errdefs.IsInvalidArgument(invalid) || strings.ContainsRune(invalid.Error(), '\n')) {
			t.Fatalf("error without class or of several lines: %v", invalid)
		}
		s, err := Build(in)
		again, errAgain := Build(in)
		if !reflect.DeepEqual(s, again) || fmt.Sprint(err) != fmt.Sprint(errAgain) {
			t.Fatal("two builds differ")
		}
		if after, _ := json.Marshal(in); string(after) != string(before) {
			t.Fatalf("the input changed\n%s\n%s", before, after)
		}
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Fatalf("error without class: %v", err)
			}
			unresolved := slices.ContainsFunc(c.Mounts, func(m Mount) bool { return m.Type == MountVolume })
			initTaken := c.Init && slices.ContainsFunc(c.Mounts, func(m Mount) bool { return m.Target == initTarget })
			if invalid == nil && !unresolved && !initTaken {
				t.Fatalf("valid, but cannot be built: %v", err)
			}
			return
		}
		if invalid == nil {
			built++
			checkSpec(t, in, s)
		}
	})
	if built < 10 {
		t.Errorf("only %d configurations were valid", built)
	}
}

func checkSpec(t *rapid.T, in Input, s *specs.Spec) {
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var back specs.Spec
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if textAgain, _ := json.Marshal(back); string(textAgain) != string(text) {
		t.Fatalf("JSON does not come back:\n%s\n%s", text, textAgain)
	}
	seen := map[string]bool{}
	for i, m := range s.Mounts {
		if seen[m.Destination] || !path.IsAbs(m.Destination) || m.Destination == "/" || path.Clean(m.Destination) != m.Destination {
			t.Fatalf("mount on %q", m.Destination)
		}
		seen[m.Destination] = true
		for _, later := range s.Mounts[i+1:] {
			if below(later.Destination, m.Destination) {
				t.Fatalf("%s is mounted before its parent %s, which hides it", m.Destination, later.Destination)
			}
		}
	}
	kinds := map[specs.LinuxNamespaceType]bool{}
	for _, ns := range s.Linux.Namespaces {
		if kinds[ns.Type] {
			t.Fatalf("two %s namespaces", ns.Type)
		}
		kinds[ns.Type] = true
	}
	if !kinds[specs.MountNamespace] || kinds[specs.NetworkNamespace] == (in.Config.Network.Mode == modeHost) {
		t.Fatalf("namespaces %v with network %q", kinds, in.Config.Network.Mode)
	}
	for _, c := range s.Process.Capabilities.Bounding {
		if !in.Host.Has(c) {
			t.Fatalf("%s is not the host's to give", c)
		}
	}
	for _, l := range s.Process.Rlimits {
		own, known := in.Host.HardLimits[strings.ToLower(strings.TrimPrefix(l.Type, "RLIMIT_"))]
		if l.Soft > l.Hard || known && l.Hard > own && !in.Host.Has(sysResource) {
			t.Fatalf("limit %+v cannot be set", l)
		}
	}
	for _, entry := range s.Process.Env {
		if !strings.Contains(entry, "=") {
			t.Fatalf("environment entry %q", entry)
		}
	}
	if !in.Config.Privileged && in.Config.Seccomp == "" && s.Linux.Seccomp == nil {
		t.Fatal("no filter")
	}
}

func TestBuildRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*Input)
		says   string
	}{
		"absent device":    {func(in *Input) { in.Config.Devices = []Device{{Source: "/dev/fuse"}} }, "devices: there is no device at /dev/fuse"},
		"absent disk":      {func(in *Input) { in.Config.Resources.ReadBps = []Rate{{"/dev/sda", 1}} }, "/dev/sda is no block device"},
		"no init":          {func(in *Input) { in.Config.Init, in.InitPath = true, "" }, "no init program"},
		"two on target":    {func(in *Input) { in.Mounts = []Mount{bind("/a"), bind("/a/")} }, "two mounts have the target /a"},
		"unresolved":       {func(in *Input) { in.Mounts = []Mount{{Type: MountVolume, Source: "v", Target: "/a"}} }, "has not been given a path"},
		"pid without path": {func(in *Input) { in.Config.PidMode = "container:x" }, "pid: container:x has no namespace to share"},
		"net without path": {func(in *Input) { in.Config.Network.Mode, in.NetNS = "container:x", "" }, "network_mode: container:x has no namespace"},
		"no command":       {func(in *Input) { in.Config.Command = nil }, "command: there is none"},
	} {
		in := input(Config{Command: []string{"sh"}})
		test.change(&in)
		if _, err := Build(in); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, want %q", name, err, test.says)
		}
	}
}

func bind(target string) Mount { return Mount{Type: MountBind, Source: "/src", Target: target} }

// The default of a mode that nothing was given for must never be the host.
func TestNetworkIsPrivateUnlessTheHostIsAsked(t *testing.T) {
	for _, mode := range []string{"", "bridge", "none"} {
		in := input(Config{Command: []string{"sh"}, Network: Network{Mode: mode}})
		in.NetNS = ""
		s, err := Build(in)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(s.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.NetworkNamespace }) {
			t.Errorf("mode %q shares the host's network", mode)
		}
	}
}

func TestIPC(t *testing.T) {
	for mode, want := range map[string]string{
		"": "tmpfs shm", "private": "tmpfs shm", "shareable": "tmpfs shm", "none": "", "host": "bind /dev/shm", "container:x": "bind /run/shm/x",
	} {
		in := input(Config{Command: []string{"sh"}, IpcMode: mode})
		if mode == "container:x" {
			in.IpcNS, in.ShmPath = "/proc/7/ns/ipc", "/run/shm/x"
		}
		s, err := Build(in)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, m := range s.Mounts {
			if m.Destination == "/dev/shm" {
				got = m.Type + " " + m.Source
			}
		}
		if got != want {
			t.Errorf("mode %q: /dev/shm is %q, want %q", mode, got, want)
		}
	}
}

func TestExec(t *testing.T) {
	c := Config{Env: []string{"A=1", "B=2"}, User: "app", WorkingDir: "/srv", NoNewPrivileges: true, CapDrop: []string{"ALL"}, TTY: true}
	p, err := Exec(c, ExecConfig{ID: testID, Args: []string{"ls"}, Env: []string{"B=3", "A"}}, server())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{defaultPath, "HOSTNAME=0123456789ab", "B=3"}
	if diff := cmp.Diff(want, p.Env); diff != "" {
		t.Error(diff)
	}
	if p.User.Username != "app" || p.Cwd != "/srv" || p.Terminal || !p.NoNewPrivileges || len(p.Capabilities.Bounding) != 0 || p.ApparmorProfile != dockerDefault {
		t.Errorf("%+v", p)
	}
	p, err = Exec(c, ExecConfig{Args: []string{"ls"}, User: "5:6", WorkingDir: "/tmp/", TTY: true, Width: 80, Height: 25, Privileged: true}, small())
	if err != nil {
		t.Fatal(err)
	}
	if p.User.UID != 5 || p.User.GID != 6 || p.Cwd != "/tmp" || p.ConsoleSize == nil || p.ConsoleSize.Width != 80 || len(p.Capabilities.Effective) != 40 || !slices.Contains(p.Env, "TERM=xterm") {
		t.Errorf("%+v", p)
	}
	for says, e := range map[string]ExecConfig{
		"no command": {}, "not an absolute path": {Args: []string{"x"}, WorkingDir: "y"}, "has no name": {Args: []string{"x"}, Env: []string{"=1"}},
		"zero byte": {Args: []string{"a\x00"}}, "no capability": {Args: []string{"x"}, Capabilities: []string{"FLY"}},
	} {
		if _, err := Exec(c, e, server()); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
}

func BenchmarkBuild(b *testing.B) {
	in := input(Config{Command: []string{"sh"}})
	for b.Loop() {
		if _, err := Build(in); err != nil {
			b.Fatal(err)
		}
	}
}
