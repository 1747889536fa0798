package api

import (
	"context"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gantry/runtime"
	"gantry/runtime/spec"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	dockernet "github.com/moby/moby/api/types/network"
	moby "github.com/moby/moby/client"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the golden files")

var prefix = netip.MustParsePrefix

// golden compares a value, as indented JSON, with a file.
func golden(t *testing.T, name string, v any) {
	t.Helper()
	got, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got; -update writes it anew):\n%s", name, diff)
	}
}

func TestShapesOfContainers(t *testing.T) {
	now := day.Add(3 * time.Minute)
	golden(t, "container-list.json", []container.Summary{wireSummary(web(), now), wireSummary(job(), now)})
	golden(t, "container-inspect.json", wireInspect(web()))
	golden(t, "container-inspect-exited.json", wireInspect(job()))
}

func TestContentOfSecretsIsNotShown(t *testing.T) {
	for name, v := range map[string]any{"inspect": wireInspect(web()), "list": wireSummary(web(), day)} {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		// []byte is base64 in JSON.
		if strings.Contains(string(text), "password") || strings.Contains(string(text), "cGFzc3dvcmQ") {
			t.Errorf("%s shows the content of a secret: %s", name, text)
		}
	}
}

func TestListFilters(t *testing.T) {
	c := dial(t, newFake())
	for _, tt := range []struct {
		key, value string
		want       string
	}{
		{"", "", "web"}, // what does not run only on request
		{"name", "eb", "web"},
		{"name", "^/we", "web"},
		{"name", "^eb$", ""},
		{"id", "abab", "web"},
		{"id", "cdcd", ""},
		{"status", "exited", "job"},
		{"exited", "3", ""}, // nor does its exit code ask for it
		{"exited", "0", ""},
		{"label", "tier", "web"},
		{"label", "tier=front", "web"},
		{"label", "tier=back", ""},
		{"label!", "tier", ""},
		{"network", "front", "web"},
		{"network", strings.Repeat("f", 64), "web"},
		{"network", "bridge", ""},
		{"volume", "data", "web"},
		{"volume", "/in", "web"},
		{"ancestor", "example.org/team/web:1", "web"},
		{"ancestor", "busybox", "web"}, // by its layers
		{"ancestor", "nothing", ""},
		{"health", "healthy", "web"},
		{"health", "none", ""},
		{"publish", "8080", "web"},
		{"publish", "8000-9000/tcp", "web"},
		{"publish", "8080/udp", ""},
		{"expose", "443", "web"},
		{"since", "job", "web"},
		{"before", "web", ""},
		{"is-task", "true", ""},
		{"is-task", "false", "web"},
	} {
		o := moby.ContainerListOptions{Filters: moby.Filters{}}
		if tt.key != "" {
			o.Filters.Add(tt.key, tt.value)
		}
		got, err := c.ContainerList(t.Context(), o)
		if err != nil {
			t.Errorf("%s=%s: %v", tt.key, tt.value, err)
			continue
		}
		var names []string
		for _, s := range got.Items {
			names = append(names, strings.TrimPrefix(s.Names[0], "/"))
		}
		if strings.Join(names, " ") != tt.want {
			t.Errorf("%s=%s: got %v, want %q", tt.key, tt.value, names, tt.want)
		}
	}
	for _, tt := range []struct{ key, value, want string }{
		{"colour", "red", "invalid filter 'colour'"},
		{"status", "tired", "invalid value for state"},
		{"health", "fine", "invalid value for health"},
		{"exited", "x", "not an exit code"},
		{"is-task", "perhaps", "true or false"},
		{"before", "nobody", "No such container: nobody"},
	} {
		_, err := c.ContainerList(t.Context(), moby.ContainerListOptions{Filters: make(moby.Filters).Add(tt.key, tt.value)})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s=%s: got %v, want %q", tt.key, tt.value, err, tt.want)
		}
	}
}

func TestCreateCarriesEverything(t *testing.T) {
	f := newFake()
	c := dial(t, f)
	yes, pids, swappiness, seconds := true, int64(50), int64(-1), 7
	_, err := c.ContainerCreate(t.Context(), moby.ContainerCreateOptions{
		Name: "api",
		Config: &container.Config{
			Hostname: "h", Domainname: "d", User: "1:2", Tty: true, OpenStdin: true, StdinOnce: true,
			ExposedPorts: dockernet.PortSet{dockernet.MustParsePort("9/udp"): {}}, Env: []string{"A=b"}, Cmd: []string{"c"},
			Healthcheck: &container.HealthConfig{Test: []string{"NONE"}}, Image: "busybox", Volumes: map[string]struct{}{"/anon": {}, "/v": {}},
			WorkingDir: "/w", Entrypoint: []string{""}, Labels: map[string]string{"l": "m"}, StopSignal: "SIGHUP", StopTimeout: &seconds,
		},
		HostConfig: &container.HostConfig{
			Binds:         []string{"/a:/b:ro,rslave", "vol:/v:nocopy", "/only"},
			LogConfig:     container.LogConfig{Type: "json-file", Config: map[string]string{"max-size": "2k", "max-file": "4"}},
			NetworkMode:   "net1",
			PortBindings:  dockernet.PortMap{dockernet.MustParsePort("80"): {{HostPort: "8000-8010"}, {HostIP: netip.MustParseAddr("127.0.0.1")}}},
			RestartPolicy: container.RestartPolicy{Name: "on-failure", MaximumRetryCount: 2},
			Annotations:   map[string]string{"x": "y"}, CapAdd: []string{"SYS_TIME"}, CapDrop: []string{"ALL"}, CgroupnsMode: "host",
			DNS: []netip.Addr{netip.MustParseAddr("9.9.9.9")}, DNSOptions: []string{"ndots:1"}, DNSSearch: []string{"s"}, ExtraHosts: []string{"a:host-gateway"},
			GroupAdd: []string{"g"}, IpcMode: "host", OomScoreAdj: 5, PidMode: "host", Privileged: true, PublishAllPorts: true, ReadonlyRootfs: true,
			SecurityOpt: []string{"no-new-privileges", "seccomp=unconfined", "apparmor=unconfined", "label=disable"},
			Tmpfs:       map[string]string{"/t": "size=1m,mode=0700,noexec"}, UTSMode: "host", UsernsMode: "host", ShmSize: 99, Sysctls: map[string]string{"k": "v"},
			Resources: container.Resources{
				CPUShares: 2, Memory: 3, NanoCPUs: 4, CgroupParent: "/p", CPUPeriod: 5, CPUQuota: 6, CpusetCpus: "0", CpusetMems: "0",
				Devices: []container.DeviceMapping{{PathOnHost: "/dev/null", PathInContainer: "/dev/n", CgroupPermissions: "r"}}, DeviceCgroupRules: []string{"c 1:3 r"},
				MemoryReservation: 7, MemorySwap: 8, MemorySwappiness: &swappiness, OomKillDisable: &yes, PidsLimit: &pids,
				Ulimits: []*container.Ulimit{{Name: "nofile", Soft: 1, Hard: 2}},
			},
			Mounts: []mount.Mount{
				{Type: "bind", Source: "/c", Target: "/d", BindOptions: &mount.BindOptions{Propagation: "rprivate", CreateMountpoint: true}},
				{Type: "volume", Source: "v2", Target: "/e", VolumeOptions: &mount.VolumeOptions{Subpath: "s", NoCopy: true}},
				{Type: "tmpfs", Target: "/f", TmpfsOptions: &mount.TmpfsOptions{SizeBytes: 10, Mode: 0o700, Options: [][]string{{"uid", "3"}, {"noexec"}}}},
			},
			MaskedPaths: []string{}, ReadonlyPaths: []string{"/r"}, Init: &yes,
		},
		NetworkingConfig: &dockernet.NetworkingConfig{EndpointsConfig: map[string]*dockernet.EndpointSettings{
			"net2": {IPAMConfig: &dockernet.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr("10.1.1.1")}},
			"net1": {Aliases: []string{"al"}, GwPriority: 3, MacAddress: dockernet.HardwareAddr{2, 0, 0, 0, 0, 1}, DriverOpts: map[string]string{ifname: "net0"}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	timeout := 7 * time.Second
	want := spec.Config{
		Image: "busybox", Entrypoint: []string{""}, Command: []string{"c"}, Env: []string{"A=b"}, WorkingDir: "/w", User: "1:2", GroupAdd: []string{"g"},
		Hostname: "h", Domainname: "d", Labels: map[string]string{"l": "m"}, Annotations: map[string]string{"x": "y"},
		TTY: true, OpenStdin: true, StdinOnce: true, Init: true, ReadOnly: true, ShmSize: 99,
		Mounts: []spec.Mount{
			{Type: "bind", Source: "/a", Target: "/b", ReadOnly: true, Propagation: "rslave", CreateHostPath: true},
			{Type: "volume", Source: "vol", Target: "/v", NoCopy: true},
			{Type: "volume", Target: "/only"},
			{Type: "bind", Source: "/c", Target: "/d", Propagation: "rprivate", CreateHostPath: true},
			{Type: "volume", Source: "v2", Target: "/e", Subpath: "s", NoCopy: true},
			{Type: "tmpfs", Target: "/f", TmpfsSize: 10, TmpfsMode: 0o700, TmpfsOptions: []string{"uid=3", "noexec"}},
			{Type: "tmpfs", Target: "/t", TmpfsSize: 1 << 20, TmpfsMode: 0o700, TmpfsOptions: []string{"noexec"}},
			{Type: "volume", Target: "/anon"},
		},
		CapAdd: []string{"CAP_SYS_TIME"}, CapDrop: []string{"ALL"}, Privileged: true, NoNewPrivileges: true, Seccomp: "unconfined", AppArmor: "unconfined",
		MaskedPaths: []string{}, ReadonlyPaths: []string{"/r"}, Sysctls: map[string]string{"k": "v"},
		Ulimits: []spec.Ulimit{{Name: "nofile", Soft: 1, Hard: 2}}, PidMode: "host", IpcMode: "host", UTSMode: "host", CgroupMode: "host", UsernsMode: "host",
		CgroupParent: "/p", Devices: []spec.Device{{Source: "/dev/null", Target: "/dev/n", Permissions: "r"}}, DeviceCgroupRules: []string{"c 1:3 r"}, OomScoreAdj: 5,
		Resources:  spec.Resources{CPUShares: 2, Memory: 3, NanoCPUs: 4, CPUPeriod: 5, CPUQuota: 6, CpusetCpus: "0", CpusetMems: "0", MemoryLow: 7, MemorySwap: 8, OomKillOff: true, PidsLimit: 50},
		StopSignal: "SIGHUP", StopTimeout: &timeout, Restart: spec.RestartPolicy{Name: "on-failure", MaxRetries: 2},
		Healthcheck: &spec.Healthcheck{Test: []string{"NONE"}},
		Log:         spec.LogConfig{Driver: "json-file", MaxSize: 2048, MaxFiles: 4, Options: map[string]string{"max-size": "2k", "max-file": "4"}},
		Network: spec.Network{
			Endpoints: []spec.Endpoint{
				{Network: "net1", Aliases: []string{"al"}, GwPriority: 3, MacAddress: "02:00:00:00:00:01", Interface: "net0"},
				{Network: "net2", IPv4: netip.MustParseAddr("10.1.1.1")},
			},
			Ports:   []spec.Port{{HostPort: 8000, HostEnd: 8010, Port: 80, Protocol: "tcp"}, {HostIP: "127.0.0.1", Port: 80, Protocol: "tcp"}},
			Exposed: []string{"9/udp"}, PublishAll: true, DNS: []string{"9.9.9.9"}, DNSSearch: []string{"s"}, DNSOptions: []string{"ndots:1"}, ExtraHosts: []string{"a:host-gateway"},
		},
	}
	if diff := cmp.Diff(want, f.created, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("asked of the engine (-want +got):\n%s", diff)
	}
}

// Whatever says something and is not understood is refused by its name.
func TestCreateRefuses(t *testing.T) {
	host := serve(t, Options{Engine: newFake()})
	for body, want := range map[string]string{
		`{"Colour":"red"}`: "Colour is not supported",
		`{"HostConfig":{"Mounts":[{"Type":"bind","Target":"/a","Source":"/b","Frobnicate":true}]}}`: "HostConfig.Mounts.0.Frobnicate is not supported",
		`{"NetworkingConfig":{"EndpointsConfig":{"n":{"Speed":1}}}}`:                                "NetworkingConfig.EndpointsConfig.n.Speed is not supported",
		`{"Shell":["sh"]}`:                                                                                          "Shell is not supported",
		`{"HostConfig":{"Runtime":"kata"}}`:                                                                         "Runtime kata is not supported",
		`{"HostConfig":{"Isolation":"hyperv"}}`:                                                                     "Isolation hyperv is not supported",
		`{"HostConfig":{"CpuCount":1}}`:                                                                             "CpuCount (Windows) is not supported",
		`{"HostConfig":{"DeviceRequests":[{"Count":1}]}}`:                                                           "DeviceRequests is not supported",
		`{"HostConfig":{"LogConfig":{"Type":"syslog"}}}`:                                                            "logging driver syslog",
		`{"HostConfig":{"LogConfig":{"Config":{"tag":"x"}}}}`:                                                       "log option tag",
		`{"HostConfig":{"LogConfig":{"Config":{"max-size":"huge"}}}}`:                                               "max-size",
		`{"HostConfig":{"SecurityOpt":["label=type:x"]}}`:                                                           "SELinux",
		`{"HostConfig":{"SecurityOpt":["magic"]}}`:                                                                  `magic\" is not supported`,
		`{"HostConfig":{"Mounts":[{"Type":"npipe","Target":"/a"}]}}`:                                                `npipe\" is not supported`,
		`{"HostConfig":{"Mounts":[{"Type":"cluster","Target":"/a","ClusterOptions":{}}]}}`:                          `cluster is not supported`,
		`{"HostConfig":{"Mounts":[{"Type":"volume","Target":"/a","VolumeOptions":{"DriverConfig":{"Name":"x"}}}]}}`: `driver x is not supported`,
		`{"HostConfig":{"SecurityOpt":["writable-cgroups=perhaps"]}}`:                                               "true or false",
		`{"HostConfig":{"Mounts":[{"Type":"bind","Source":"/s","Target":"/a","TmpfsOptions":{"SizeBytes":1}}]}}`:    "options of a tmpfs mount",
		`{"HostConfig":{"Binds":["v:/d:ro,rw"]}}`:                                                                   "ro and rw exclude each other",
		`{"HostConfig":{"Binds":["a:b:c:d"]}}`:                                                                      "invalid volume specification",
		`{"HostConfig":{"Binds":["./a:/b"]}}`:                                                                       "not an absolute path",
		`{"HostConfig":{"Binds":["/a:/b:fast"]}}`:                                                                   "invalid mode: fast",
		`{"HostConfig":{"Binds":["/a:/b","/c:/b"]}}`:                                                                "Duplicate mount point: /b",
		`{"HostConfig":{"RestartPolicy":{"Name":"maybe"}}}`:                                                         "unknown policy 'maybe'",
		`{"HostConfig":{"AutoRemove":true,"RestartPolicy":{"Name":"always"}}}`:                                      "AutoRemove",
		`{"HostConfig":{"NetworkMode":"host"},"NetworkingConfig":{"EndpointsConfig":{"n":{}}}}`:                     "conflicting options",
		`{"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"99999"}]}}}`:                                         `invalid port specification: \"99999`,
		`{"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"9-8"}]}}}`:                                           `invalid port specification: \"9-8`,
		`{"HostConfig":{"PortBindings":{"80/tcp":[{"HostIp":"here"}]}}}`:                                            "unable to parse IP",
		`{"Env":"A=1"}`:  "cannot unmarshal string",
		`{"HostConfig":`: "unexpected end",
	} {
		if !strings.Contains(body, `"HostConfig":`+"`") && strings.HasSuffix(body, "}") {
			body = `{"Image":"busybox",` + body[1:]
		}
		status, got := post(t, host, "/containers/create", body)
		if status != 400 && status != 501 || !strings.Contains(got, want) {
			t.Errorf("%s:\ngot %d %s\nwant %q", body, status, got, want)
		}
	}
	if status, got := post(t, host, "/containers/create", `{}`); status != 400 || !strings.Contains(got, "Config cannot be empty") {
		t.Errorf("nothing said: %d %s", status, got)
	}
	if status, got := post(t, host, "/containers/create", `{"Cmd":["true"]}`); status != 400 || !strings.Contains(got, "no image given") {
		t.Errorf("without an image: %d %s", status, got)
	}
	if status, got := post(t, host, "/containers/create", `{"Image":"`+strings.Repeat("x", maxBody)+`"}`); status != 400 || !strings.Contains(got, "larger than") {
		t.Errorf("a huge body: %d %.200s", status, got)
	}
}

// What older and newer clients send without saying anything is no matter.
func TestCreateToleratesSilence(t *testing.T) {
	host := serve(t, Options{Engine: newFake()})
	body := `{"Image":"busybox","Colour":null,"Deep":{"x":[0,"",false,{}]},"HostConfig":{"KernelMemory":0,"Capabilities":[],"MemorySwappiness":-1,"ConsoleSize":[24,80],"Isolation":"default"}}`
	if status, got := post(t, host, "/v1.40/containers/create?name=x", body); status != 201 {
		t.Errorf("got %d %s", status, got)
	}
}

// Law: what an inspect shows can be created again and is the same container.
func TestInspectIsARecipe(t *testing.T) {
	word := rapid.StringMatching(`[a-z]{1,6}`)
	words := rapid.SliceOfNDistinct(word, 0, 3, rapid.ID)
	pairs := rapid.MapOfN(word, word, 0, 2)
	rapid.Check(t, func(t *rapid.T) {
		c := spec.Config{
			Image: "busybox", Entrypoint: words.Draw(t, "entrypoint"), Command: words.Draw(t, "command"), Env: words.Draw(t, "env"),
			Labels: pairs.Draw(t, "labels"), TTY: rapid.Bool().Draw(t, "tty"), OpenStdin: rapid.Bool().Draw(t, "stdin"), Init: rapid.Bool().Draw(t, "init"),
			ReadOnly: rapid.Bool().Draw(t, "ro"), Privileged: rapid.Bool().Draw(t, "privileged"), NoNewPrivileges: rapid.Bool().Draw(t, "nnp"),
			Seccomp: rapid.SampledFrom([]string{"", "unconfined", `{"a=b":"c:d"}`}).Draw(t, "seccomp"),
			CapAdd:  words.Draw(t, "cap"), Sysctls: pairs.Draw(t, "sysctls"), ShmSize: rapid.Int64Range(0, 9).Draw(t, "shm"),
			Resources: spec.Resources{Memory: rapid.Int64Range(0, 9).Draw(t, "mem"), PidsLimit: rapid.Int64Range(-1, 9).Draw(t, "pids"), CPUShares: rapid.Uint64Range(0, 9).Draw(t, "shares")},
			Restart:   rapid.SampledFrom([]spec.RestartPolicy{{Name: "no"}, {Name: "always"}, {Name: "on-failure", MaxRetries: 3}}).Draw(t, "restart"),
		}
		targets := rapid.SliceOfNDistinct(rapid.StringMatching(`/[a-z]{1,6}`), 0, 5, rapid.ID).Draw(t, "targets")
		for _, target := range targets {
			m := spec.Mount{Target: target, ReadOnly: rapid.Bool().Draw(t, "ro")}
			switch rapid.IntRange(0, 3).Draw(t, "kind") {
			case 0:
				m.Type, m.Source, m.CreateHostPath = spec.MountBind, "/h"+target, rapid.Bool().Draw(t, "make")
				m.Propagation = rapid.SampledFrom([]string{"", "rslave"}).Draw(t, "propagation")
			case 1:
				m.Type, m.Source, m.NoCopy = spec.MountVolume, "v"+target[1:], rapid.Bool().Draw(t, "nocopy")
			case 2:
				m.Type = spec.MountVolume
			default:
				m.Type, m.TmpfsSize, m.TmpfsOptions = spec.MountTmpfs, rapid.Int64Range(0, 5).Draw(t, "size"), rapid.SampledFrom([][]string{nil, {"uid=1"}, {"noexec"}}).Draw(t, "options")
			}
			c.Mounts = append(c.Mounts, m)
		}
		if mode := rapid.SampledFrom([]string{"", "none", "host", "container:x"}).Draw(t, "mode"); mode != "" {
			c.Network.Mode = mode
		} else {
			for _, n := range words.Draw(t, "networks") {
				c.Network.Endpoints = append(c.Network.Endpoints, spec.Endpoint{Network: n, Aliases: words.Draw(t, "aliases")})
			}
			for _, p := range rapid.SliceOfNDistinct(rapid.Uint16Range(1, 99), 0, 3, rapid.ID).Draw(t, "ports") {
				c.Network.Ports = append(c.Network.Ports, spec.Port{Port: p, HostPort: rapid.Uint16Range(0, 3).Draw(t, "host"), Protocol: "tcp"})
			}
		}
		shown := wireInspect(runtime.Container{ID: strings.Repeat("a", 64), Name: "n", Asked: c, Config: c})
		text, err := json.Marshal(map[string]any{"HostConfig": shown.HostConfig, "NetworkingConfig": dockernet.NetworkingConfig{EndpointsConfig: shown.NetworkSettings.Networks}})
		if err != nil {
			t.Fatal(err)
		}
		var again createRequest
		again.Config = shown.Config
		if err := json.Unmarshal(text, &again); err != nil {
			t.Fatal(err)
		}
		got, err := again.config()
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if diff := cmp.Diff(same(c), same(got), cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Fatalf("shown and created again (-was +is):\n%s", diff)
		}
	})
}

// same takes away what has more than one spelling.
func same(c spec.Config) spec.Config {
	c.Hostname = ""
	if c.ShmSize == 0 {
		c.ShmSize = 64 << 20
	}
	if c.Log.Driver == "" {
		c.Log.Driver = "json-file"
	}
	if len(c.Network.Endpoints) == 0 && c.Network.Mode == "" {
		c.Network.Endpoints = []spec.Endpoint{{Network: "bridge"}}
	}
	c.Mounts, c.Network.Endpoints, c.Network.Ports = slices.Clone(c.Mounts), slices.Clone(c.Network.Endpoints), slices.Clone(c.Network.Ports)
	slices.SortFunc(c.Mounts, func(a, b spec.Mount) int { return strings.Compare(a.Target, b.Target) })
	if len(c.Network.Endpoints) > 1 {
		slices.SortFunc(c.Network.Endpoints[1:], func(a, b spec.Endpoint) int { return strings.Compare(a.Network, b.Network) })
	}
	slices.SortFunc(c.Network.Ports, func(a, b spec.Port) int { return int(a.Port) - int(b.Port) })
	return c
}

func TestVerbs(t *testing.T) {
	f := newFake()
	c := dial(t, f)
	ctx := t.Context()
	seconds := 3
	for name, call := range map[string]func() error{
		"start": func() error { _, err := c.ContainerStart(ctx, "job", moby.ContainerStartOptions{}); return err },
		"stop": func() error {
			_, err := c.ContainerStop(ctx, "web", moby.ContainerStopOptions{Signal: "SIGINT", Timeout: &seconds})
			return err
		},
		"restart": func() error { _, err := c.ContainerRestart(ctx, "web", moby.ContainerRestartOptions{}); return err },
		"kill": func() error {
			_, err := c.ContainerKill(ctx, "web", moby.ContainerKillOptions{Signal: "HUP"})
			return err
		},
		"pause":   func() error { _, err := c.ContainerPause(ctx, "web", moby.ContainerPauseOptions{}); return err },
		"unpause": func() error { _, err := c.ContainerUnpause(ctx, "web", moby.ContainerUnpauseOptions{}); return err },
		"rename": func() error {
			_, err := c.ContainerRename(ctx, "web", moby.ContainerRenameOptions{NewName: "new"})
			return err
		},
		"remove": func() error {
			_, err := c.ContainerRemove(ctx, "job", moby.ContainerRemoveOptions{RemoveVolumes: true, Force: true})
			return err
		},
		"resize": func() error {
			_, err := c.ContainerResize(ctx, "job", moby.ContainerResizeOptions{Width: 80, Height: 24})
			return err
		},
	} {
		if err := call(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	got := f.noted()
	slices.Sort(got)
	want := []string{
		"kill web HUP", "pause web", "remove job true true", "rename web new", "resize job 80 24",
		"restart web  -", "start job", "stop web SIGINT 3s", "unpause web",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

// Starting what runs and stopping what does not are no errors, but told apart.
func TestNotModified(t *testing.T) {
	host := serve(t, Options{Engine: newFake()})
	if status, _ := post(t, host, "/containers/web/start", ""); status != 304 {
		t.Errorf("start of a running container: %d", status)
	}
	if status, _ := post(t, host, "/containers/job/stop", ""); status != 304 {
		t.Errorf("stop of a stopped container: %d", status)
	}
}

func TestWaitIsAcknowledgedFirst(t *testing.T) {
	f := newFake()
	c := dial(t, f)
	wait := c.ContainerWait(t.Context(), "web", moby.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
	// The call has come back, and nothing has ended yet.
	if got := f.noted(); !slices.Equal(got, []string{"wait web next-exit"}) {
		t.Fatalf("calls: %q", got)
	}
	f.waited <- runtime.Waited{ExitCode: 7, Error: "oops"}
	select {
	case r := <-wait.Result:
		if r.StatusCode != 7 || r.Error == nil || r.Error.Message != "oops" {
			t.Errorf("got %+v", r)
		}
	case err := <-wait.Error:
		t.Fatal(err)
	}
	wait = c.ContainerWait(t.Context(), "nobody", moby.ContainerWaitOptions{})
	if err := <-wait.Error; !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	wait = c.ContainerWait(t.Context(), "web", moby.ContainerWaitOptions{Condition: "tuesday"})
	if err := <-wait.Error; !errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v", err)
	}
	// A client that leaves ends the wait: serve's clean-up would find it.
	ctx, cancel := context.WithCancel(t.Context())
	wait = c.ContainerWait(ctx, "web", moby.ContainerWaitOptions{})
	cancel()
	<-wait.Error
}
