package spec

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Each line is a mistake, on the machine where it is one, and what the user
// reads.
func TestValidateSaysWhatIsWrong(t *testing.T) {
	low, high, minus := int64(5), int64(101), int64(-1)
	v1 := server()
	v1.CgroupV2 = false
	plain := v1
	plain.Controllers = []string{"devices"}
	mount := func(m Mount) Config { return Config{Mounts: []Mount{m}} }
	res := func(r Resources) Config { return Config{Resources: r} }
	net := func(n Network) Config { return Config{Network: n} }
	health := func(h Healthcheck) Config { return Config{Healthcheck: &h} }

	for _, test := range []struct {
		host Host
		c    Config
		says string
	}{
		{server(), Config{Command: []string{}}, "command: there is none"},
		{server(), Config{Command: []string{""}}, "command: the program's name is empty"},
		{server(), Config{Command: []string{"a\x00b"}}, "zero byte"},
		{server(), Config{Env: []string{"=x"}}, `environment: "=x" has no name`},
		{server(), Config{WorkingDir: "srv"}, `working_dir: "srv" is not an absolute path`},
		{server(), Config{Hostname: strings.Repeat("x", 65)}, "hostname:"},
		{server(), Config{Domainname: "a b"}, "domainname:"},
		{server(), Config{User: "a:b:c"}, "user:"},
		{server(), Config{GroupAdd: []string{""}}, "group_add:"},
		{server(), Config{CgroupParent: "/a/../../b"}, "cgroup_parent:"},
		{server(), Config{PidMode: "container:"}, `pid: "container:" is not supported`},
		{server(), Config{IpcMode: "shared"}, "ipc:"},
		{server(), Config{UTSMode: "private"}, "uts:"},
		{server(), Config{UsernsMode: "keep-id"}, "userns_mode:"},
		{server(), Config{UTSMode: "host", Hostname: "x"}, "hostname: the container shares"},
		{server(), Config{Hostname: "x", Network: Network{Mode: "container:y"}}, "hostname: the container shares"},

		{server(), mount(Mount{Type: MountBind, Source: "/a", Target: "b"}), `volumes: the target "b" is not an absolute path`},
		{server(), mount(Mount{Type: MountBind, Source: "/a", Target: "/x/.."}), "volumes: the target / would hide"},
		{server(), mount(Mount{Type: MountBind, Source: "/a", Target: "/proc/sys"}), "inside /proc"},
		{server(), mount(Mount{Type: MountBind, Source: "a", Target: "/b"}), `the source "a" is not an absolute path`},
		{server(), mount(Mount{Type: MountBind, Source: "/a", Target: "/b", Propagation: "x"}), `propagation "x"`},
		{server(), mount(Mount{Type: MountVolume, Target: "/b", Propagation: "shared"}), "propagation is for bind mounts"},
		{server(), mount(Mount{Type: MountVolume, Target: "/b", Driver: "nfs"}), `driver "nfs" is not supported`},
		{server(), mount(Mount{Type: MountVolume, Target: "/b", Subpath: "a/../../c"}), "leads out of the volume"},
		{server(), mount(Mount{Type: "npipe", Target: "/b"}), `type "npipe" is not supported`},
		{server(), mount(Mount{Type: MountTmpfs, Target: "/b", TmpfsOptions: []string{"fast"}}), `tmpfs: /b: the option "fast"`},
		{server(), mount(Mount{Type: MountTmpfs, Target: "/b", TmpfsOptions: []string{"size=big"}}), "no possible value"},
		{server(), mount(Mount{Type: MountTmpfs, Target: "/b", Source: "x"}), "has no source"},
		{server(), Config{Mounts: []Mount{bind("/a"), bind("/b/../a")}}, "two mounts have the target /a"},
		{server(), Config{ShmSize: -1}, "shm_size:"},

		{server(), Config{Devices: []Device{{Source: "nvidia.com/gpu=all"}}}, "CDI device"},
		{server(), Config{Devices: []Device{{Source: "dev/null"}}}, "absolute paths"},
		{server(), Config{Devices: []Device{{Source: "/dev/null", Permissions: "rx"}}}, `permissions "rx"`},
		{server(), Config{DeviceCgroupRules: []string{"c 1:3"}}, "device_cgroup_rules:"},
		{server(), Config{CapAdd: []string{"FLY"}}, `cap_add: "FLY" is no capability`},
		{server(), Config{CapDrop: []string{"CAP_FLY"}}, "cap_drop:"},
		{small(), Config{CapAdd: []string{"SYS_RESOURCE"}}, "has no CAP_SYS_RESOURCE"},
		{server(), Config{OomScoreAdj: 1001}, "oom_score_adj:"},
		{small(), Config{OomScoreAdj: -500}, "takes CAP_SYS_RESOURCE"},
		{small(), Config{AppArmor: "mine"}, "does not enforce AppArmor"},
		{server(), Config{Seccomp: "{"}, "security_opt: seccomp: the profile is not valid JSON"},
		{server(), Config{Seccomp: "{}"}, "no defaultAction"},
		{server(), Config{Seccomp: `{"defaultAction":"DENY"}`}, `defaultAction "DENY"`},
		{server(), Config{Seccomp: `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"action":"SCMP_ACT_LOG"}]}`}, "rule 1 of the profile names no system call"},
		{server(), Config{Seccomp: `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[null]}`}, "rule 1 of the profile is null"},
		{server(), Config{Seccomp: `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"x"}]}`}, "unknown action"},
		{server(), Config{Seccomp: `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"SCMP_ACT_LOG","args":[{"index":6,"op":"SCMP_CMP_EQ"}]}]}`}, "argument 6"},
		{server(), Config{Seccomp: `{"defaultAction":"SCMP_ACT_ALLOW","listenerMetadata":"x"}`}, "listenerMetadata"},
		{Host{}, Config{Seccomp: `{"defaultAction":"SCMP_ACT_ALLOW"}`}, "this kernel has no filters"},
		{server(), Config{MaskedPaths: []string{"proc"}}, "masked_paths:"},

		{server(), Config{Sysctls: map[string]string{"kernel.panic": "1"}}, "sysctls: kernel.panic belongs to the whole machine"},
		{server(), Config{Sysctls: map[string]string{"kernel.hostname": "x"}}, "set hostname instead"},
		{server(), Config{Sysctls: map[string]string{"net..x": "1"}}, "is no name of a sysctl"},
		{server(), Config{Sysctls: map[string]string{"net/../kernel/panic": "1"}}, "is no name of a sysctl"},
		{server(), Config{Network: Network{Mode: "host"}, Sysctls: map[string]string{"net/core/somaxconn": "1"}}, "whose network the container uses"},
		{server(), Config{IpcMode: "host", Sysctls: map[string]string{"kernel.sem": "1"}}, "whose IPC namespace"},

		{server(), Config{Ulimits: []Ulimit{{"as", 1, 1}}}, "ulimits.as: there is no such limit"},
		{server(), Config{Ulimits: []Ulimit{{"nofile", 10, 5}}}, "the soft limit 10 is above the hard limit 5"},
		{server(), Config{Ulimits: []Ulimit{{"nofile", -1, -1}}}, "fs.nr_open"},
		{server(), Config{Ulimits: []Ulimit{{"core", 0, 0}, {"core", 0, 0}}}, "given twice"},
		{small(), Config{Ulimits: []Ulimit{{"nofile", 20001, 20001}}}, "gantry has no CAP_SYS_RESOURCE"},
		{small(), Config{Ulimits: []Ulimit{{"core", -1, -1}}}, "gantry has no CAP_SYS_RESOURCE"},

		{server(), Config{StopSignal: "SIGFOO"}, `stop_signal: "SIGFOO"`},
		{server(), Config{Restart: RestartPolicy{Name: "sometimes"}}, "restart:"},
		{server(), Config{Restart: RestartPolicy{Name: "always", MaxRetries: 3}}, "is for on-failure"},
		{server(), Config{AutoRemove: true, Restart: RestartPolicy{Name: "always"}}, "restart: a container that is removed"},
		{server(), health(Healthcheck{Test: []string{"curl"}}), "healthcheck.test:"},
		{server(), health(Healthcheck{Test: []string{"CMD"}}), "CMD needs a command"},
		{server(), health(Healthcheck{Interval: time.Microsecond}), "healthcheck.interval: 1µs"},
		{server(), health(Healthcheck{Retries: -1}), "healthcheck.retries:"},
		{server(), Config{Log: LogConfig{Driver: "syslog"}}, `logging: the driver "syslog" is not supported`},

		{server(), res(Resources{NanoCPUs: 5e9}), "cpus: 5 is more than the 4 CPUs"},
		{server(), res(Resources{NanoCPUs: 1e6}), "cpus: 0.001 is less"},
		{server(), res(Resources{NanoCPUs: 1e9, CPUQuota: 5000}), "keep one of them"},
		{server(), res(Resources{CPUPeriod: 5}), "cpu_period:"},
		{server(), res(Resources{CPUQuota: 5}), "cpu_quota:"},
		{server(), res(Resources{CPURtRuntime: 5}), "cgroup v2 has no real-time limits"},
		{server(), res(Resources{CpusetCpus: "0-7"}), `cpuset: "0-7" asks for what this machine has not: it has 0-3`},
		{server(), res(Resources{CpusetCpus: "0-"}), "write a list"},
		{server(), res(Resources{CpusetMems: "1"}), "cpuset_mems:"},
		{server(), res(Resources{Memory: 1 << 20}), "mem_limit:"},
		{server(), res(Resources{MemorySwap: 1 << 30}), "needs a mem_limit"},
		{server(), res(Resources{Memory: 1 << 30, MemorySwap: 1 << 29}), "cannot be less than mem_limit"},
		{small(), res(Resources{Memory: 1 << 29, MemorySwap: 1 << 30}), "does not account swap"},
		{server(), res(Resources{Memory: 1 << 29, MemoryLow: 1 << 30}), "mem_reservation:"},
		{server(), res(Resources{Swappiness: &low}), "cgroup v2 has no swappiness"},
		{v1, res(Resources{Swappiness: &high}), "not between 0 and 100"},
		{server(), res(Resources{OomKillOff: true}), "oom_kill_disable:"},
		{server(), res(Resources{BlkioWeight: 5}), "blkio_config.weight:"},
		{small(), res(Resources{BlkioWeight: 50}), "no I/O weights"},
		{server(), res(Resources{BlkioWeights: []Weight{{"/dev/sda", 50}}}), "no I/O weights for each device"},
		{plain, res(Resources{PidsLimit: 5}), "has no pids controller"},
		{plain, res(Resources{Memory: 1 << 30}), "has no memory controller"},
		{plain, res(Resources{CPUShares: 5}), "has no cpu controller"},

		{server(), net(Network{Mode: "weave"}), `network_mode: "weave" is not supported`},
		{server(), net(Network{Mode: "host", Endpoints: []Endpoint{{Network: "a"}}}), "cannot be on networks"},
		{server(), net(Network{Endpoints: []Endpoint{{Network: "a"}, {Network: "a"}}}), "networks: a is given twice"},
		{server(), net(Network{Endpoints: []Endpoint{{Network: "a", IPv4: netip.MustParseAddr("::1")}}}), "is not IPv4"},
		{server(), net(Network{Ports: []Port{{HostPort: 80}}}), "ports: a port inside the container is missing"},
		{server(), net(Network{Ports: []Port{{Port: 80, Protocol: "icmp"}}}), `protocol "icmp"`},
		{server(), net(Network{Ports: []Port{{Port: 80, HostPort: 9, HostEnd: 8}}}), "ends before it begins"},
		{server(), net(Network{Ports: []Port{{Port: 80, HostIP: "eth0"}}}), "no address of the host"},
		{server(), net(Network{Mode: "host", Ports: []Port{{Port: 80, HostPort: 8080}}}), "cannot have other numbers"},
		{server(), net(Network{Mode: "container:x", Ports: []Port{{Port: 80}}}), "publish the port there"},
		{server(), net(Network{Mode: "none", Ports: []Port{{Port: 80}}}), "no network to publish from"},
		{server(), net(Network{Exposed: []string{"80/icmp"}}), "expose:"},
		{server(), net(Network{DNS: []string{"dns.example"}}), "dns:"},
		{server(), net(Network{DNS: []string{"127.0.0.1", "127.0.0.11"}}), "dns: 127.0.0.11 is gantry's own resolver"},
		{server(), net(Network{ExtraHosts: []string{"db"}}), "extra_hosts:"},
		{server(), net(Network{ExtraHosts: []string{"db:nowhere"}}), "neither an address nor host-gateway"},
		{server(), net(Network{MacAddress: "00:11"}), "mac_address:"},
	} {
		c := test.c
		if c.Command == nil {
			c.Command = []string{"sh"}
		}
		err := c.Validate(test.host)
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), test.says) || strings.ContainsRune(err.Error(), '\n') {
			t.Errorf("%v, want %q", err, test.says)
		}
	}

	for _, right := range []struct {
		host Host
		c    Config
	}{
		{small(), Config{Ulimits: []Ulimit{{"nofile", 1024, 20000}}, OomScoreAdj: 500, CapAdd: []string{"ALL"}}},
		{small(), Config{Privileged: true, CapAdd: []string{"SYS_RESOURCE"}}},
		{v1, res(Resources{Swappiness: &minus, OomKillOff: true, CPURtRuntime: 100, CPURtPeriod: 1000})},
		{server(), res(Resources{Memory: 6 << 20, MemorySwap: -1, CPUQuota: -1, PidsLimit: -1, CpusetCpus: "0,2-3"})},
		{server(), net(Network{Mode: "host", Ports: []Port{{Port: 80, HostPort: 80}}, ExtraHosts: []string{"a:host-gateway", "b:::1", "c=[::1]"}, Exposed: []string{"80", "1-5/udp"}})},
		{server(), mount(Mount{Type: MountBind, Source: "/lxcfs/stat", Target: "/proc/stat"})},
		{server(), Config{Sysctls: map[string]string{"net/ipv4/conf/eth0.100/forwarding": "1", "fs.mqueue.msg_max": "10", "kernel.domainname": "x"}}},
		{server(), Config{Seccomp: `{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/run/x","listenerMetadata":"y"}`, AppArmor: "mine"}},
	} {
		c := right.c
		c.Command = []string{"sh"}
		if err := c.Validate(right.host); err != nil {
			t.Error(err)
		}
	}
}

func TestBoundingSet(t *testing.T) {
	all := len(capabilities)
	for name, test := range map[string]struct {
		host Host
		c    Config
		n    int
		has  []string
		not  []string
	}{
		"default":           {server(), Config{}, 14, []string{"CAP_CHOWN"}, []string{"CAP_SYS_ADMIN"}},
		"add":               {server(), Config{CapAdd: []string{"sys_admin"}}, 15, []string{"CAP_SYS_ADMIN"}, nil},
		"drop":              {server(), Config{CapDrop: []string{"CAP_CHOWN"}}, 13, nil, []string{"CAP_CHOWN"}},
		"drop all":          {server(), Config{CapDrop: []string{"all"}}, 0, nil, nil},
		"drop all but":      {server(), Config{CapDrop: []string{"ALL"}, CapAdd: []string{"CHOWN"}}, 1, []string{"CAP_CHOWN"}, nil},
		"add all":           {server(), Config{CapAdd: []string{"ALL"}}, all, nil, nil},
		"add all but":       {server(), Config{CapAdd: []string{"ALL"}, CapDrop: []string{"CHOWN"}}, all - 1, nil, []string{"CAP_CHOWN"}},
		"add and drop":      {server(), Config{CapAdd: []string{"CHOWN"}, CapDrop: []string{"CHOWN"}}, 14, []string{"CAP_CHOWN"}, nil},
		"privileged":        {server(), Config{Privileged: true, CapDrop: []string{"ALL"}}, all, nil, nil},
		"what the host has": {small(), Config{Privileged: true}, all - 1, nil, []string{"CAP_SYS_RESOURCE"}},
	} {
		set := boundingSet(test.c, test.host)
		if len(set) != test.n {
			t.Errorf("%s: %d capabilities, want %d", name, len(set), test.n)
		}
		for _, c := range test.has {
			if !slices.Contains(set, c) {
				t.Errorf("%s: no %s", name, c)
			}
		}
		for _, c := range test.not {
			if slices.Contains(set, c) {
				t.Errorf("%s: has %s", name, c)
			}
		}
	}
}

// The default profile depends on capabilities and on the kernel.
func TestSeccompFollowsCapabilities(t *testing.T) {
	for _, test := range []struct {
		c      Config
		kernel KernelVersion
		call   string
		want   specs.LinuxSeccompAction
	}{
		{Config{}, KernelVersion{6, 12}, "mount", specs.ActErrno},
		{Config{CapAdd: []string{"SYS_ADMIN"}}, KernelVersion{6, 12}, "mount", specs.ActAllow},
		{Config{}, KernelVersion{6, 12}, "ptrace", specs.ActAllow},
		{Config{}, KernelVersion{4, 7}, "ptrace", specs.ActErrno},
		{Config{}, KernelVersion{4, 8}, "ptrace", specs.ActAllow},
		{Config{CapDrop: []string{"SYS_CHROOT"}}, KernelVersion{6, 12}, "chroot", specs.ActErrno},
		{Config{}, KernelVersion{6, 12}, "chroot", specs.ActAllow},
		{Config{Seccomp: `{"defaultAction":"SCMP_ACT_ALLOW","archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]}],
			"syscalls":[{"name":"chmod","action":"SCMP_ACT_ERRNO","excludes":{"caps":["CAP_SYS_ADMIN"]}}]}`}, KernelVersion{6, 12}, "chmod", specs.ActErrno},
		{Config{Seccomp: `{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],
			"syscalls":[{"names":["chmod"],"action":"SCMP_ACT_ERRNO","includes":{"arches":["s390x"]}}]}`}, KernelVersion{6, 12}, "chmod", specs.ActAllow},
		{Config{Seccomp: `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod"],"action":"SCMP_ACT_KILL","excludes":{"minKernel":"5.0"}}]}`}, KernelVersion{6, 12}, "chmod", specs.ActAllow},
		{Config{Privileged: true, Seccomp: `{"defaultAction":"SCMP_ACT_ERRNO"}`}, KernelVersion{6, 12}, "read", specs.ActErrno},
	} {
		h := server()
		h.Kernel = test.kernel
		f, err := seccompFor(test.c, h, boundingSet(test.c, h))
		if err != nil {
			t.Fatal(err)
		}
		if got := action(f, test.call); got != test.want {
			t.Errorf("%s with %+v on %v: %s, want %s", test.call, test.c, test.kernel, got, test.want)
		}
	}
	f, err := seccompFor(Config{}, server(), nil)
	if err != nil || len(f.Architectures) < 2 {
		t.Errorf("32-bit programs have no architecture: %v, %v", f.Architectures, err)
	}
	for name, off := range map[string]struct {
		c Config
		h Host
	}{"unconfined": {Config{Seccomp: "unconfined"}, server()}, "privileged": {Config{Privileged: true}, server()}, "old kernel": {Config{}, Host{}}} {
		if f, err := seccompFor(off.c, off.h, nil); f != nil || err != nil {
			t.Errorf("%s: %v, %v", name, f, err)
		}
	}
}

// Our reading of a profile's conditions is the one of those who write it.
func TestSeccompIsWhatTheProfilesAuthorsMakeOfIt(t *testing.T) {
	for _, c := range []Config{{}, {CapAdd: []string{"ALL"}}, {CapDrop: []string{"ALL"}}, {CapAdd: []string{"SYS_ADMIN", "BPF", "SYS_PTRACE"}}} {
		set := boundingSet(c, server())
		want, err := seccomp.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: processCapabilities(set)}})
		if err != nil {
			t.Fatal(err)
		}
		h := server()
		h.Kernel = KernelVersion{99, 0} // newer than all that the conditions name, as this machine's is
		got, err := seccompFor(c, h, set)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%+v:\n%s", c, diff)
		}
	}
}

func TestAppArmor(t *testing.T) {
	unloaded := server()
	unloaded.DockerDefault = false
	for _, test := range []struct {
		h    Host
		c    Config
		want string
	}{
		{server(), Config{}, "docker-default"}, {server(), Config{Privileged: true}, "unconfined"}, {server(), Config{AppArmor: "mine"}, "mine"},
		{server(), Config{Privileged: true, AppArmor: "mine"}, "mine"}, {unloaded, Config{}, "unconfined"}, {small(), Config{}, ""}, {small(), Config{AppArmor: "unconfined"}, ""},
	} {
		if got := apparmorProfile(test.c, test.h); got != test.want {
			t.Errorf("%+v: %q, want %q", test.c, got, test.want)
		}
	}
}

// Our defaults give way to what the machine can give.
func TestDefaultsAreClamped(t *testing.T) {
	if got, want := posixLimits(Config{}, small()), (specs.POSIXRlimit{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 20000}); len(got) != 1 || got[0] != want {
		t.Errorf("limits %+v", got)
	}
	poor := small()
	poor.HardLimits["nofile"] = 256
	if got := posixLimits(Config{}, poor)[0]; got.Soft != 256 || got.Hard != 256 {
		t.Errorf("limits %+v", got)
	}
	if got := *oomScore(Config{}, small()); got != 100 {
		t.Errorf("oom score %d, want that of gantry", got)
	}
	if got := *oomScore(Config{}, server()); got != 0 {
		t.Errorf("oom score %d", got)
	}
}

func TestResourceSpec(t *testing.T) {
	spec := func(r Resources, h Host) *specs.LinuxResources {
		t.Helper()
		out, err := ResourceSpec(r, h, nil)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if r := spec(Resources{}, server()); r.CPU != nil || r.Memory != nil || r.Pids != nil || r.BlockIO != nil || r.Devices != nil {
		t.Errorf("no limits are %+v", r)
	}
	if m := spec(Resources{Memory: 1 << 30}, server()).Memory; *m.Limit != 1<<30 || *m.Swap != 2<<30 {
		t.Errorf("swap by default: %+v", m)
	}
	if m := spec(Resources{Memory: 1 << 30}, small()).Memory; m.Swap != nil {
		t.Errorf("swap where it is not accounted: %d", *m.Swap)
	}
	if m := spec(Resources{Memory: 1 << 30, MemorySwap: -1}, server()).Memory; *m.Swap != -1 {
		t.Errorf("unlimited swap: %d", *m.Swap)
	}
	if c := spec(Resources{NanoCPUs: 10_000_000}, server()).CPU; *c.Quota != 1000 || *c.Period != 100_000 {
		t.Errorf("a hundredth of a CPU: %d/%d", *c.Quota, *c.Period)
	}
	if c := spec(Resources{CPUShares: 1}, server()).CPU; *c.Shares != 2 {
		t.Errorf("shares %d, want the kernel's least", *c.Shares)
	}
	if p := spec(Resources{PidsLimit: -7}, server()).Pids; *p.Limit != -1 {
		t.Errorf("pids %d, want -1", *p.Limit)
	}
}

func FuzzTmpfsOptions(f *testing.F) {
	for _, seed := range []string{"size=64m,mode=1777", "noexec,exec", "uid=1000,gid=5", "size=50%", "a,,b", "mpol=bind:0-1", "ro,rw,ro"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		options, err := tmpfsOptions(Mount{Target: "/x", TmpfsOptions: []string{text}})
		if err != nil {
			if !errdefs.IsInvalidArgument(err) || strings.ContainsRune(err.Error(), '\n') {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		seen := map[string]bool{}
		for _, option := range options {
			name, _, _ := strings.Cut(option, "=")
			if kind, ok := tmpfsFlags[name]; ok {
				name = kind
			}
			if seen[name] || strings.ContainsAny(option, ", \x00\n") || option == "" {
				t.Fatalf("%q gives %q", text, options)
			}
			seen[name] = true
		}
		for _, must := range []string{"exec", "suid", "dev"} {
			if !seen[must] {
				t.Fatalf("%q gives %q, which says nothing of %s", text, options, must)
			}
		}
		again, err := tmpfsOptions(Mount{Target: "/x", TmpfsOptions: options})
		if err != nil || !slices.Equal(again, options) {
			t.Fatalf("%q gives %q, and that gives %q (%v)", text, options, again, err)
		}
	})
}
