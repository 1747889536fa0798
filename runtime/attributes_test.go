package runtime

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gantry/network"
	"gantry/runtime/spec"

	"github.com/containerd/errdefs"
)

// Every attribute of a service, as a process in the container sees it.
func TestAttributes(t *testing.T) {
	h := sharedHouse(t)
	sh := func(script string) []string { return []string{"sh", "-c", script} }
	for _, c := range []struct {
		what   string
		cfg    Config
		script string // "": Config's own command
		want   string
	}{
		{"image alone", Config{Image: "app"}, "", "entry from image"},
		{"command over the image's", Config{Image: "app", Command: []string{"mine"}}, "", "entry mine"},
		{"entrypoint drops the image's command", Config{Image: "app", Entrypoint: []string{"/bin/echo", "only"}}, "", "only"},
		{"entrypoint reset", Config{Image: "app", Entrypoint: []string{""}, Command: []string{"/bin/echo", "bare"}}, "", "bare"},
		{"user and directory of the image", Config{Image: "app", Entrypoint: sh("id -un; pwd; echo $ORIGIN$KEEP")}, "", "web\n/data\nimage1"},
		{"environment", Config{Env: []string{"ORIGIN=mine", "NEW=a b"}}, `echo "$ORIGIN,$NEW"`, "mine,a b"},
		{"environment taken away", Config{Env: []string{"ORIGIN"}}, `echo "[$ORIGIN]"`, "[]"},
		{"working_dir", Config{WorkingDir: "/made/for/me"}, "pwd", "/made/for/me"},
		{"user by name", Config{User: "web"}, "id -u; id -g; id -G; echo $HOME", "1000\n1000\n1000 2000\n/home"},
		{"user by number", Config{User: "1234:5678"}, "id -u; id -g", "1234\n5678"},
		{"user with group", Config{User: "web:more"}, "id -g", "3000"},
		{"group_add", Config{GroupAdd: []string{"extra", "4321"}}, "id -G", "0 2000 4321"},
		{"hostname and domainname", Config{Hostname: "ship", Domainname: "sea.example"}, "hostname; cat /etc/hostname /proc/sys/kernel/domainname", "ship\nship\nsea.example"},
		{"init", Config{Init: true}, "cat /proc/1/comm; echo $$ | grep -vc '^1$'", "docker-init\n1"},
		{"read_only", Config{ReadOnly: true, Mounts: []spec.Mount{{Type: "tmpfs", Target: "/tmp"}}}, "touch /x 2>/dev/null || echo no; touch /tmp/x && echo yes", "no\nyes"},
		{"tmpfs", Config{Mounts: []spec.Mount{{Type: "tmpfs", Target: "/t", TmpfsSize: 1 << 20, TmpfsMode: 0o700}}}, "df -k /t | grep -c ' 1024 '; stat -c %a /t", "1\n700"},
		{"tmpfs with options", Config{Mounts: []spec.Mount{{Type: "tmpfs", Target: "/t", TmpfsOptions: []string{"size=2m", "uid=5"}}}}, "stat -c %u /t; df -k /t | grep -c ' 2048 '", "5\n1"},
		{"shm_size", Config{ShmSize: 2 << 20}, "df -k /dev/shm | grep -c ' 2048 '", "1"},
		{"shm by default", Config{}, "df -k /dev/shm | grep -c ' 65536 '", "1"},
		{"default capabilities", Config{}, "grep CapEff /proc/self/status | grep -o '.\\{8\\}$'", "a80425fb"},
		{"cap_drop", Config{CapDrop: []string{"ALL"}}, "grep CapBnd /proc/self/status | grep -o '.\\{16\\}$'", "0000000000000000"},
		{"cap_add", Config{CapDrop: []string{"ALL"}, CapAdd: []string{"NET_ADMIN"}}, "grep CapEff /proc/self/status | grep -o '.\\{4\\}$'", "1000"},
		{"capabilities of another user", Config{User: "web"}, "grep CapEff /proc/self/status | grep -o '.\\{8\\}$'", "00000000"},
		{"privileged", Config{Privileged: true}, "mkdir /m; mount -t tmpfs x /m && echo mounted; ls /dev | grep -c ^kmsg$", "mounted\n1"},
		{"not privileged", Config{}, "mkdir /m; mount -t tmpfs x /m 2>/dev/null || echo refused", "refused"},
		{"no-new-privileges", Config{NoNewPrivileges: true}, "grep NoNewPrivs /proc/self/status | grep -o '[01]$'", "1"},
		{"seccomp by default", Config{}, "grep ^Seccomp: /proc/self/status | grep -o '[012]$'", "2"},
		{"seccomp unconfined", Config{Seccomp: "unconfined"}, "grep ^Seccomp: /proc/self/status | grep -o '[012]$'", "0"},
		{"seccomp profile", Config{Seccomp: `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}`}, "mkdir /x 2>&1 | grep -c 'not permitted'", "1"},
		{"sysctls", Config{Sysctls: map[string]string{"net.ipv4.ip_unprivileged_port_start": "99", "kernel.msgmax": "4096"}}, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax", "99\n4096"},
		{"ulimits", Config{Ulimits: []spec.Ulimit{{Name: "nofile", Soft: 100, Hard: 200}}}, "ulimit -Sn; ulimit -Hn", "100\n200"},
		{"pid: own", Config{}, "echo $$", "1"},
		{"uts: host", Config{UTSMode: "host"}, "hostname", hostName()},
		{"masked paths", Config{}, "wc -c </proc/keys; touch /proc/sys/kernel/hostname 2>&1 | grep -c 'Read-only'", "0\n1"},
		{"oom_score_adj", Config{OomScoreAdj: 500}, "cat /proc/self/oom_score_adj", "500"},
		{"extra_hosts", Config{Network: spec.Network{Mode: "none", ExtraHosts: []string{"db:10.1.2.3", "six=[fd00::1]"}}}, "grep -E 'db|six' /etc/hosts", "10.1.2.3\tdb\nfd00::1\tsix"},
		{"dns", Config{Network: spec.Network{Mode: "none", DNSSearch: []string{"corp.example"}, DNSOptions: []string{"ndots:3"}}}, "grep -v '^#' /etc/resolv.conf", "nameserver 127.0.0.11\nsearch corp.example\noptions ndots:3"},
		{"network_mode: none", Config{}, "ls /sys/class/net", "lo"},
		{"no address in its host file", Config{Hostname: "ship"}, "grep -c ship /etc/hosts", "0"},
	} {
		t.Run(c.what, func(t *testing.T) {
			cfg := c.cfg
			if cfg.Image == "" {
				cfg.Image = "box"
			}
			if c.script != "" {
				cfg.Command = []string{"/bin/sh", "-c", c.script}
			}
			if cfg.Network.Mode == "" {
				cfg.Network.Mode = "none"
			}
			code, out := h.output(t, cfg)
			if strings.TrimSpace(out) != strings.TrimSpace(c.want) {
				t.Errorf("code %d, got\n%s\nwant\n%s", code, out, c.want)
			}
		})
	}
}

func hostName() string {
	name, _ := os.Hostname()
	return name
}

// Limits as they are written in the container's cgroups.
func TestLimits(t *testing.T) {
	h := sharedHouse(t)
	cfg := box("sleep", "1000")
	cfg.Resources = spec.Resources{
		NanoCPUs: 500_000_000, CPUShares: 512, CpusetCpus: "0",
		Memory: 32 << 20, MemorySwap: 32 << 20, MemoryLow: 16 << 20, PidsLimit: 50,
	}
	if !h.e.Host().SwapLimit {
		cfg.Resources.MemorySwap = 0
	}
	c := h.start(t, cfg)
	read := func(files ...string) string {
		for _, f := range files {
			at := filepath.Join("/sys/fs/cgroup", strings.Replace(f, "@", strings.TrimPrefix(h.cgroup, "/")+"/"+c.ID, 1))
			if data, err := os.ReadFile(at); err == nil {
				return strings.TrimSpace(string(data))
			}
		}
		t.Fatalf("none of %v", files)
		return ""
	}
	for _, w := range []struct{ what, got, v1, v2 string }{
		{"cpu", read("cpu/@/cpu.cfs_quota_us", "@/cpu.max"), "50000", "50000 100000"},
		{"shares", read("cpu/@/cpu.shares", "@/cpu.weight"), "512", ""},
		{"cpuset", read("cpuset/@/cpuset.cpus", "@/cpuset.cpus"), "0", "0"},
		{"memory", read("memory/@/memory.limit_in_bytes", "@/memory.max"), "33554432", "33554432"},
		{"reservation", read("memory/@/memory.soft_limit_in_bytes", "@/memory.low"), "16777216", "16777216"},
		{"pids", read("pids/@/pids.max", "@/pids.max"), "50", "50"},
	} {
		want := w.v1
		if h.e.Host().CgroupV2 {
			want = w.v2
		}
		if want != "" && w.got != want {
			t.Errorf("%s: %q, want %q", w.what, w.got, want)
		}
	}
	quota := box("sleep", "1000")
	quota.Resources = spec.Resources{CPUQuota: 20000, CPUPeriod: 40000}
	c = h.start(t, quota)
	if got := read("cpu/@/cpu.cfs_period_us", "@/cpu.max"); !strings.HasSuffix(got, "40000") {
		t.Errorf("period %q", got)
	}
	bad := box("true")
	bad.Resources.CpusetCpus = "999"
	if _, err := h.e.Create(background(t), "", bad); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "cpuset") {
		t.Errorf("a CPU that is not there: %v", err)
	}
}

func TestOOM(t *testing.T) {
	h := sharedHouse(t)
	cfg := box("sh", "-c", "dd if=/dev/zero of=/dev/null bs=64M count=1")
	cfg.Resources.Memory = 16 << 20
	c := h.create(t, cfg)
	since := time.Now()
	must(t, h.e.Start(background(t), c.ID))
	_, err := h.e.Wait(background(t), c.ID, NotRunning, nil)
	must(t, err)
	c = h.inspect(t, c.ID)
	if !c.OOMKilled || c.ExitCode != 137 {
		t.Errorf("%s", brief(c))
	}
	if got := h.actions(t, c.ID, since); !slices.Equal(got, []string{"start", "oom", "die"}) {
		t.Errorf("events %v", got)
	}
}

func TestNamespaces(t *testing.T) {
	h := sharedHouse(t)
	peer := box("sh", "-c", "echo up; exec sleep 1000")
	peer.Hostname, peer.IpcMode, peer.Network = "peer", "shareable", spec.Network{}
	p := h.started(t, peer)
	t.Run("pid", func(t *testing.T) {
		cfg := box("sh", "-c", "cat /proc/1/comm")
		cfg.PidMode = "container:" + p.Name
		if _, out := h.output(t, cfg); out != "sleep\n" {
			t.Errorf("process 1 of the other one is %q", out)
		}
		cfg.PidMode = "host"
		if _, out := h.output(t, cfg); out == "sh\n" || out == "cat\n" || out == "" {
			t.Errorf("process 1 of the host is %q", out)
		}
	})
	t.Run("ipc", func(t *testing.T) {
		h.exec(t, p.ID, ExecConfig{Command: []string{"sh", "-c", "echo shared >/dev/shm/f"}}, nil)
		cfg := box("cat", "/dev/shm/f")
		cfg.IpcMode = "container:" + p.ID
		if _, out := h.output(t, cfg); out != "shared\n" {
			t.Errorf("got %q", out)
		}
		private := h.start(t, box("sleep", "1000"))
		cfg.IpcMode = "container:" + private.ID
		c := h.create(t, cfg)
		if err := h.e.Start(background(t), c.ID); !errdefs.IsInvalidArgument(err) {
			t.Errorf("join one that does not share: %v", err)
		}
	})
	t.Run("network", func(t *testing.T) {
		cfg := box("sh", "-c", "hostname; ip -4 addr show eth0 | grep -o 'inet [0-9.]*'; grep -c peer /etc/hosts")
		cfg.Network.Mode = "container:" + p.ID
		want := "peer\ninet " + p.Networks[0].IPv4.Addr().String() + "\n1\n"
		if _, out := h.output(t, cfg); out != want {
			t.Errorf("got %q, want %q", out, want)
		}
		// A chain of them.
		middle := box("sleep", "1000")
		middle.Network.Mode = "container:" + p.ID
		m := h.start(t, middle)
		cfg.Network.Mode = "container:" + m.ID
		if _, out := h.output(t, cfg); out != want {
			t.Errorf("through another one: %q, want %q", out, want)
		}
		must(t, h.e.Remove(background(t), m.ID, RemoveOptions{Force: true}))
	})
	t.Run("host", func(t *testing.T) {
		cfg := box("sh", "-c", "readlink /proc/self/ns/net; hostname")
		cfg.Network.Mode = "host"
		ns, err := os.Readlink("/proc/self/ns/net")
		must(t, err)
		if _, out := h.output(t, cfg); out != ns+"\n"+hostName()+"\n" {
			t.Errorf("got %q", out)
		}
	})
	t.Run("of one that ends", func(t *testing.T) {
		owner := box("sleep", "1000")
		owner.Network = spec.Network{}
		o := h.start(t, owner)
		cfg := box("sleep", "1000")
		cfg.Network.Mode = "container:" + o.ID
		joins := h.start(t, cfg)
		must(t, h.e.Kill(background(t), o.ID, ""))
		if _, out := h.exec(t, joins.ID, ExecConfig{Command: []string{"ls", "/sys/class/net"}}, nil); out != "lo\n" {
			t.Errorf("it keeps links of a network that is gone: %q", out)
		}
	})
	t.Run("of one that does not run", func(t *testing.T) {
		stopped := h.create(t, box("true"))
		cfg := box("true")
		cfg.Network.Mode = "container:" + stopped.ID
		c := h.create(t, cfg)
		if err := h.e.Start(background(t), c.ID); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), stopped.Name) {
			t.Errorf("got %v", err)
		}
	})
}

func TestHostGateway(t *testing.T) {
	h := sharedHouse(t)
	cfg := box("sh", "-c", "grep host.docker.internal /etc/hosts")
	cfg.Network = spec.Network{ExtraHosts: []string{"host.docker.internal:host-gateway"}}
	c := h.start(t, cfg)
	gateway := c.Networks[0].Gateway.String()
	_, err := h.e.Wait(background(t), c.ID, NotRunning, nil)
	must(t, err)
	if out := h.logOf(t, c.ID); out != gateway+"\thost.docker.internal\n" {
		t.Errorf("got %q, want %s", out, gateway)
	}
}

// The host has an address on an internal network too; without any network the
// name is there all the same, as with Docker.
func TestHostGatewayWithoutAWayOut(t *testing.T) {
	h := sharedHouse(t)
	inner, err := h.e.CreateNetwork(background(t), network.Spec{Name: "inner", Internal: true})
	must(t, err)
	defer func() { must(t, h.e.RemoveNetwork(context.Background(), inner.ID)) }()
	l, err := net.Listen("tcp", ":0")
	must(t, err)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(c, "the host")
			c.Close()
		}
	}()
	port := l.Addr().(*net.TCPAddr).Port
	for _, mode := range []spec.Network{
		{Endpoints: []spec.Endpoint{{Network: "inner"}}},
		{Mode: "none"},
	} {
		cfg := box("sh", "-c", fmt.Sprintf("grep -c host.docker.internal /etc/hosts; nc -w 5 host.docker.internal %d </dev/null 2>/dev/null", port))
		cfg.Network = mode
		cfg.Network.ExtraHosts = []string{"host.docker.internal:host-gateway"}
		c := h.start(t, cfg)
		_, err := h.e.Wait(background(t), c.ID, NotRunning, nil)
		must(t, err)
		want := "1\nthe host\n"
		if mode.Mode == "none" {
			want = "1\n"
		}
		if out := h.logOf(t, c.ID); out != want {
			t.Errorf("%+v: %q, want %q", mode, out, want)
		}
		must(t, h.e.Remove(context.Background(), c.ID, RemoveOptions{Force: true}))
	}
}

func TestNetworks(t *testing.T) {
	h := sharedHouse(t)
	ctx := background(t)
	net, err := h.e.CreateNetwork(ctx, network.Spec{Name: "second"})
	must(t, err)
	defer func() { must(t, h.e.RemoveNetwork(context.Background(), net.ID)) }()
	cfg := box("sleep", "1000")
	cfg.Network = spec.Network{}
	c, err := h.e.Create(ctx, "", cfg)
	must(t, err)
	defer h.e.Remove(context.Background(), c.ID, RemoveOptions{Force: true})
	must(t, h.e.Start(ctx, c.ID))
	must(t, h.e.ConnectNetwork(ctx, c.ID, "second", spec.Endpoint{Aliases: []string{"also"}}))
	links := func() string {
		_, out := h.exec(t, c.ID, ExecConfig{Command: []string{"ls", "/sys/class/net"}}, nil)
		return strings.Join(strings.Fields(out), " ")
	}
	if got := links(); got != "eth0 eth1 lo" {
		t.Errorf("connected: %s", got)
	}
	if err := h.e.ConnectNetwork(ctx, c.ID, "second", spec.Endpoint{}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("connected twice: %v", err)
	}
	// The next run is on both, the default one included.
	must(t, h.e.Stop(ctx, c.ID, StopOptions{Signal: "KILL"}))
	must(t, h.e.Start(ctx, c.ID))
	if got := links(); got != "eth0 eth1 lo" {
		t.Errorf("after a restart: %s", got)
	}
	must(t, h.e.DisconnectNetwork(ctx, c.ID, "bridge"))
	must(t, h.e.DisconnectNetwork(ctx, c.ID, "second"))
	if got := links(); got != "lo" {
		t.Errorf("disconnected: %s", got)
	}
	must(t, h.e.ConnectNetwork(ctx, c.ID, "second", spec.Endpoint{}))
	if now := h.inspect(t, c.ID); len(now.Networks) != 1 || now.Networks[0].NetworkName != "second" {
		t.Errorf("%s", brief(now))
	}
}

// A network is the same by its name, its id and the beginning of that.
func TestNetworkById(t *testing.T) {
	h := sharedHouse(t)
	ctx := background(t)
	net, err := h.e.CreateNetwork(ctx, network.Spec{Name: "by-id"})
	must(t, err)
	defer func() { must(t, h.e.RemoveNetwork(context.Background(), net.ID)) }()
	alias := spec.Endpoint{Network: "by-id", Aliases: []string{"also"}}
	for _, given := range [][]spec.Endpoint{
		{{Network: net.ID}}, {{Network: net.ID[:12], Aliases: alias.Aliases}}, {{Network: net.ID}, alias},
	} {
		cfg := box("true")
		cfg.Network = spec.Network{Endpoints: given}
		c := h.create(t, cfg)
		if on := h.inspect(t, c.ID).Config.Network.Endpoints; len(on) != 1 || on[0].Network != "by-id" {
			t.Errorf("%+v: on %+v", given, on)
		}
		if err := h.e.ConnectNetwork(ctx, c.ID, "by-id", spec.Endpoint{}); !errdefs.IsPermissionDenied(err) {
			t.Errorf("%+v: connected twice: %v", given, err)
		}
		must(t, h.e.DisconnectNetwork(ctx, c.ID, "by-id"))
		must(t, h.e.Remove(ctx, c.ID, RemoveOptions{}))
	}
	cfg := box("true")
	cfg.Network = spec.Network{Endpoints: []spec.Endpoint{alias, {Network: net.ID, Aliases: []string{"other"}}}}
	if _, err := h.e.Create(ctx, "", cfg); !errdefs.IsInvalidArgument(err) {
		t.Errorf("given twice: %v", err)
	}
}

// A link is a name for another container that only one has.
func TestLinks(t *testing.T) {
	h := sharedHouse(t)
	net, err := h.e.CreateNetwork(background(t), network.Spec{Name: "links"})
	must(t, err)
	defer func() { must(t, h.e.RemoveNetwork(context.Background(), net.ID)) }()
	var made [2]Container
	for i := range made {
		cfg := box("sleep", "1000")
		cfg.Network = spec.Network{Endpoints: []spec.Endpoint{{Network: "links", Aliases: []string{[]string{"web", "db"}[i]}}}}
		if i == 0 {
			cfg.Network.Links = []string{"db:Database"}
		}
		c, err := h.e.Create(background(t), "", cfg)
		must(t, err)
		defer h.e.Remove(context.Background(), c.ID, RemoveOptions{Force: true})
		must(t, h.e.Start(background(t), c.ID))
		made[i] = h.inspect(t, c.ID)
	}
	if code, out := h.exec(t, made[0].ID, ExecConfig{Command: []string{"nslookup", "database"}}, nil); code != 0 || !strings.Contains(out, made[1].Networks[0].IPv4.Addr().String()) {
		t.Errorf("its own name for the other: %s", out)
	}
	if code, out := h.exec(t, made[1].ID, ExecConfig{Command: []string{"nslookup", "database"}}, nil); code == 0 {
		t.Errorf("others have that name too: %s", out)
	}
}

func TestLogOptions(t *testing.T) {
	h := sharedHouse(t)
	cfg := box("sh", "-c", "seq 1 3000")
	cfg.Log = spec.LogConfig{Driver: "json-file", MaxSize: 20_000, MaxFiles: 2}
	c := h.start(t, cfg)
	_, err := h.e.Wait(background(t), c.ID, NotRunning, nil)
	must(t, err)
	files, _ := filepath.Glob(h.inspect(t, c.ID).LogPath + "*")
	if len(files) != 2 {
		t.Errorf("files %v", files)
	}
	for _, f := range files {
		if info, err := os.Stat(f); err != nil || info.Size() > 21_000 {
			t.Errorf("%s: %v %v", f, info.Size(), err)
		}
	}
	if out := h.logOf(t, c.ID); !strings.HasSuffix(out, "\n3000\n") {
		t.Errorf("the log ends with %q", out[max(0, len(out)-30):])
	}
	none := box("echo", "nothing")
	none.Log.Driver = "none"
	n := h.start(t, none)
	_, err = h.e.Wait(background(t), n.ID, NotRunning, nil)
	must(t, err)
	if files, _ := filepath.Glob(h.e.rec.dir(n.ID) + "/*log*"); len(files) != 0 || h.inspect(t, n.ID).LogPath != "" {
		t.Errorf("a log all the same: %v", files)
	}
}
