package daemon

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gantry/compose"
	"gantry/runtime/spec"
	"gantry/scheduler"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// loaded is a project of a service "a" that says text, and of what else it may
// name.
func loaded(t testing.TB, text string) *compose.Project {
	t.Helper()
	dir := t.TempDir()
	file := "name: p\nservices:\n  b: {image: box}\n  a:\n    image: box\n"
	for line := range strings.Lines(text) {
		file += "    " + line
	}
	file += `
networks: {front: , back: {name: behind}}
volumes: {data: , kept: {external: true, name: outside}}
secrets: {key: {environment: KEY}}
configs: {conf: {content: "port=1"}}
`
	if err := os.WriteFile(filepath.Join(dir, "compose.yaml"), []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := compose.Load(context.Background(), compose.Source{WorkDir: dir, Environ: []string{"KEY=secret"}, All: true})
	if err != nil {
		t.Fatalf("%v\n%s", err, file)
	}
	return p
}

func runSpec(p *compose.Project, service string, number int) scheduler.RunSpec {
	s := p.Services[service]
	r := scheduler.RunSpec{
		Project: p, Service: &s, Number: number, Name: scheduler.ContainerName(p, s, number), Image: s.Image,
		Labels: scheduler.ContainerLabels(p, s, number, false), Joins: map[string]string{"b": "p-b-1"},
	}
	if s.NetworkMode == "" {
		for key := range s.Networks {
			r.Networks = append(r.Networks, key)
		}
		slices.Sort(r.Networks)
	}
	return r
}

// What a service says, in the runtime's terms.
func TestContainerConfig(t *testing.T) {
	for _, c := range []struct {
		yaml string
		want func(*spec.Config)
	}{
		{"", func(*spec.Config) {}},
		{"command: echo 'a b' c\nentrypoint: [run]", func(c *spec.Config) {
			c.Command, c.Entrypoint = []string{"echo", "a b", "c"}, []string{"run"}
		}},
		{"entrypoint: []", func(c *spec.Config) { c.Entrypoint = []string{} }},
		{"environment: {B: 2, A: '1', NONE: }", func(c *spec.Config) { c.Env = []string{"A=1", "B=2", "NONE"} }},
		{"working_dir: /w\nuser: u:g\ngroup_add: [x, '7']\nhostname: h\ndomainname: d", func(c *spec.Config) {
			c.WorkingDir, c.User, c.GroupAdd, c.Hostname, c.Domainname = "/w", "u:g", []string{"x", "7"}, "h", "d"
		}},
		{"stdin_open: true\ntty: true\ninit: true\nread_only: true\nprivileged: true", func(c *spec.Config) {
			c.OpenStdin, c.TTY, c.Init, c.ReadOnly, c.Privileged = true, true, true, true, true
		}},
		{"tmpfs: [/t, '/u:size=1m,mode=700']\nshm_size: 1m", func(c *spec.Config) {
			c.ShmSize = 1 << 20
			c.Mounts = []spec.Mount{{Type: "tmpfs", Target: "/t"}, {Type: "tmpfs", Target: "/u", TmpfsOptions: []string{"size=1m", "mode=700"}}}
		}},
		{"cap_add: [NET_ADMIN]\ncap_drop: [ALL]\nsecurity_opt: [no-new-privileges:true, 'seccomp:unconfined']", func(c *spec.Config) {
			c.CapAdd, c.CapDrop, c.NoNewPrivileges, c.Seccomp = []string{"NET_ADMIN"}, []string{"ALL"}, true, "unconfined"
		}},
		{"sysctls: {net.core.somaxconn: 9}\nulimits: {nproc: 5, nofile: {soft: 1, hard: 2}}", func(c *spec.Config) {
			c.Sysctls = map[string]string{"net.core.somaxconn": "9"}
			c.Ulimits = []spec.Ulimit{{Name: "nofile", Soft: 1, Hard: 2}, {Name: "nproc", Soft: 5, Hard: 5}}
		}},
		{"pid: host\nipc: service:b\nuts: host", func(c *spec.Config) { c.PidMode, c.IpcMode, c.UTSMode = "host", "container:p-b-1", "host" }},
		{"cpus: 0.1\ncpu_shares: 5\ncpuset: '0'\nmem_limit: 1m\nmemswap_limit: 2m\nmem_reservation: 500k\npids_limit: 9", func(c *spec.Config) {
			c.Resources = spec.Resources{NanoCPUs: 100_000_000, CPUShares: 5, CpusetCpus: "0", Memory: 1 << 20, MemorySwap: 2 << 20, MemoryLow: 500 << 10, PidsLimit: 9}
		}},
		{"cpu_quota: 5000\ncpu_period: 10000", func(c *spec.Config) { c.Resources = spec.Resources{CPUQuota: 5000, CPUPeriod: 10000} }},
		{"deploy: {resources: {limits: {cpus: '0.5', memory: 2m, pids: 3}, reservations: {memory: 1m}}}", func(c *spec.Config) {
			c.Resources = spec.Resources{NanoCPUs: 500_000_000, Memory: 2 << 20, PidsLimit: 3, MemoryLow: 1 << 20}
		}},
		{"stop_signal: SIGUSR1\nstop_grace_period: 1m30s", func(c *spec.Config) { c.StopSignal, c.StopTimeout = "SIGUSR1", new(90*time.Second) }},
		{"restart: on-failure:3", func(c *spec.Config) { c.Restart = spec.RestartPolicy{Name: "on-failure", MaxRetries: 3} }},
		{"restart: unless-stopped", func(c *spec.Config) { c.Restart = spec.RestartPolicy{Name: "unless-stopped"} }},
		{"deploy: {update_config: {monitor: 3s}}", func(c *spec.Config) { c.ReadyAfter = 3 * time.Second }},
		{"deploy: {endpoint_mode: vip}", func(c *spec.Config) { c.Network.Virtual = true }},
		{"deploy: {endpoint_mode: dnsrr}", func(*spec.Config) {}},
		{"x-gantry: {sticky: source}", func(c *spec.Config) { c.Network.Sticky = true }},
		{"deploy: {restart_policy: {condition: any}}", func(c *spec.Config) { c.Restart = spec.RestartPolicy{Name: "always", Unhealthy: true} }},
		{"x-gantry: {on_unhealthy: restart}", func(c *spec.Config) { c.Restart = spec.RestartPolicy{Unhealthy: true} }},
		{"healthcheck: {test: curl x, interval: 1s, timeout: 2s, start_period: 3s, start_interval: 4s, retries: 5}", func(c *spec.Config) {
			c.Healthcheck = &spec.Healthcheck{Test: []string{"CMD-SHELL", "curl x"}, Interval: time.Second, Timeout: 2 * time.Second, StartPeriod: 3 * time.Second, StartInterval: 4 * time.Second, Retries: 5}
		}},
		{"healthcheck: {disable: true}", func(c *spec.Config) { c.Healthcheck = &spec.Healthcheck{Test: []string{"NONE"}} }},
		{"logging: {driver: json-file, options: {max-size: 2m, max-file: '7'}}", func(c *spec.Config) {
			c.Log = spec.LogConfig{Driver: "json-file", MaxSize: 2_000_000, MaxFiles: 7, Options: map[string]string{"max-size": "2m", "max-file": "7"}}
		}},
		{"logging: {driver: none}", func(c *spec.Config) { c.Log.Driver = "none" }},
		{"expose: ['80', 53/udp]\nextra_hosts: {x: 10.0.0.1}\ndns: [1.1.1.1]\ndns_search: [s]\ndns_opt: [o]", func(c *spec.Config) {
			c.Network.Exposed, c.Network.ExtraHosts = []string{"80/tcp", "53/udp"}, []string{"x:10.0.0.1"}
			c.Network.DNS, c.Network.DNSSearch, c.Network.DNSOptions = []string{"1.1.1.1"}, []string{"s"}, []string{"o"}
		}},
		{"ports: ['80', '127.0.0.1:8080:81/udp', '9000-9001:90-91', {target: 5, published: '50-60'}]", func(c *spec.Config) {
			c.Network.Ports = []spec.Port{
				{Port: 80, Protocol: "tcp"}, {HostIP: "127.0.0.1", HostPort: 8080, Port: 81, Protocol: "udp"},
				{HostPort: 9000, Port: 90, Protocol: "tcp"}, {HostPort: 9001, Port: 91, Protocol: "tcp"},
				{HostPort: 50, HostEnd: 60, Port: 5, Protocol: "tcp"},
			}
		}},
		{"networks: {front: {aliases: [x], ipv4_address: 10.1.2.3, priority: 4}, back: {}}", func(c *spec.Config) {
			c.Network.Endpoints = []spec.Endpoint{{Network: "behind", Aliases: []string{"a"}}, {Network: "p_front", Aliases: []string{"a", "x"}, IPv4: netip.MustParseAddr("10.1.2.3"), Priority: 4}}
		}},
		{"networks: {front: {ipv6_address: 'fd00::7', driver_opts: {com.docker.network.endpoint.ifname: lan0}}}", func(c *spec.Config) {
			c.Network.Endpoints = []spec.Endpoint{{Network: "p_front", Aliases: []string{"a"}, IPv6: netip.MustParseAddr("fd00::7"), Interface: "lan0"}}
		}},
		{"mac_address: 02:42:0a:00:00:01", func(c *spec.Config) {
			c.Network.MacAddress, c.Network.Endpoints[0].MacAddress = "02:42:0a:00:00:01", "02:42:0a:00:00:01"
		}},
		{"mac_address: 02:42:0a:00:00:01\nnetworks: {back: , front: {priority: 2}}", func(c *spec.Config) {
			c.Network.MacAddress = "02:42:0a:00:00:01"
			c.Network.Endpoints = []spec.Endpoint{{Network: "behind", Aliases: []string{"a"}}, {Network: "p_front", Aliases: []string{"a"}, Priority: 2, MacAddress: "02:42:0a:00:00:01"}}
		}},
		{"security_opt: [systempaths=unconfined, writable-cgroups=true]", func(c *spec.Config) {
			c.MaskedPaths, c.ReadonlyPaths, c.WritableCgroups = []string{}, []string{}, new(true)
		}},
		{"logging: {driver: local}", func(c *spec.Config) { c.Log.Driver = "local" }},
		{"volumes: [{type: image, source: box, target: /i, image: {subpath: x}}, {type: bind, source: /x, target: /y, read_only: true, bind: {recursive: readonly}}, {type: bind, source: /x, target: /z, read_only: true, bind: {recursive: writable}}]", func(c *spec.Config) {
			c.Mounts = []spec.Mount{
				{Type: "image", Source: "box", Target: "/i", Subpath: "x"},
				{Type: "bind", Source: "/x", Target: "/y", ReadOnly: true, DeepReadOnly: true, CreateHostPath: true},
				{Type: "bind", Source: "/x", Target: "/z", ReadOnly: true, ShallowReadOnly: true, CreateHostPath: true},
			}
		}},
		{"network_mode: host", func(c *spec.Config) { c.Network.Mode, c.Network.Endpoints = "host", nil }},
		{"network_mode: service:b", func(c *spec.Config) { c.Network.Mode, c.Network.Endpoints = "container:p-b-1", nil }},
		{"links: ['b', 'b:db']", func(c *spec.Config) { c.Network.Links = []string{"b:db"} }},
		{"volumes: ['data:/d:ro', 'kept:/k', '/anon', {type: volume, source: data, target: /s, volume: {nocopy: true, subpath: x}}]", func(c *spec.Config) {
			c.Mounts = []spec.Mount{
				{Type: "volume", Source: "p_data", Target: "/d", ReadOnly: true}, {Type: "volume", Source: "outside", Target: "/k"},
				{Type: "volume", Target: "/anon"}, {Type: "volume", Source: "p_data", Target: "/s", NoCopy: true, Subpath: "x"},
			}
		}},
		{"volumes: ['/src:/b', {type: bind, source: /x, target: /y, bind: {create_host_path: false, propagation: rslave}}, {type: tmpfs, target: /t, tmpfs: {size: 1m, mode: 0700}}]", func(c *spec.Config) {
			c.Mounts = []spec.Mount{
				{Type: "bind", Source: "/src", Target: "/b", CreateHostPath: true}, {Type: "bind", Source: "/x", Target: "/y", Propagation: "rslave"},
				{Type: "tmpfs", Target: "/t", TmpfsSize: 1 << 20, TmpfsMode: 0o700},
			}
		}},
		{"secrets: [key, {source: key, target: /abs, uid: '5', gid: '6', mode: 0400}]\nconfigs: [conf]", func(c *spec.Config) {
			c.Mounts = []spec.Mount{
				{Type: "file", Target: "/run/secrets/key", ReadOnly: true, Content: []byte("secret")},
				{Type: "file", Target: "/abs", ReadOnly: true, Content: []byte("secret"), UID: 5, GID: 6, Mode: 0o400},
				{Type: "file", Target: "/conf", ReadOnly: true, Content: []byte("port=1")},
			}
		}},
	} {
		t.Run(c.yaml, func(t *testing.T) {
			r := runSpec(loaded(t, c.yaml), "a", 1)
			got, err := containerConfig(r)
			if err != nil {
				t.Fatal(err)
			}
			want := spec.Config{Image: "box", Labels: r.Labels, ReadyAfter: time.Second}
			want.Network.Group = "p/a"
			want.Network.Endpoints = []spec.Endpoint{{Network: "p_default", Aliases: []string{"a"}}}
			c.want(&want)
			if strings.Contains(c.yaml, "entrypoint: []") {
				if got.Entrypoint == nil {
					t.Error("an entrypoint that is reset looks like one that is not said")
				}
			}
			if d := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{})); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestContainerConfigRefuses(t *testing.T) {
	for yaml, says := range map[string]string{
		"logging: {options: {max-size: big}}":                     "max-size",
		"networks: {front: {ipv4_address: ten}}":                  "ipv4_address",
		"security_opt: [systempaths=secret]":                      "systempaths",
		"networks: {front: {ipv6_address: six}}":                  "ipv6_address",
		"logging: {driver: json-file, options: {max-file: none}}": "max-file",
	} {
		_, err := containerConfig(runSpec(loaded(t, yaml), "a", 1))
		if err == nil || !strings.Contains(err.Error(), says) || !strings.HasPrefix(err.Error(), "service a: ") {
			t.Errorf("%s: %v", yaml, err)
		}
	}
}

// An anonymous volume is handed down where the new container asks for one, and
// again to the one after that.
func TestKeep(t *testing.T) {
	c := spec.Config{Mounts: []spec.Mount{{Type: "volume", Target: "/anon/"}, {Type: "volume", Source: "named", Target: "/named"}}}
	image := map[string]struct{}{"/of-image": {}}
	for _, target := range []string{"/anon", "/named", "/of-image", "/of-nobody"} {
		old := spec.Mount{Target: target}
		keep(&c, point("v"+strings.ReplaceAll(old.Target, "/", "-"), target), image)
	}
	want := []spec.Mount{
		{Type: "volume", Source: "v-anon", Target: "/anon/", Anonymous: true},
		{Type: "volume", Source: "named", Target: "/named"},
		{Type: "volume", Source: "v-of-image", Target: "/of-image", Anonymous: true},
	}
	if d := cmp.Diff(want, c.Mounts); d != "" {
		t.Error(d)
	}
}
