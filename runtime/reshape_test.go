package runtime

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"gantry/network"
	"gantry/runtime/spec"
)

// reshapeable is a container on the network "one" that serves port 80 of the
// host's port 18471, and what a test makes of it.
func reshapeable(t *testing.T, h *house) (c Container, want Config) {
	t.Helper()
	for _, name := range []string{"one", "two"} {
		_, err := h.e.CreateNetwork(background(t), network.Spec{Name: name})
		must(t, err)
	}
	cfg := box("sh", "-c", "while :; do echo hello | nc -l -p 80 >/dev/null; done")
	cfg.Labels = map[string]string{"made": "of one", "stays": "x"}
	cfg.Network = spec.Network{Group: "g", Endpoints: []spec.Endpoint{{Network: "one", Aliases: []string{"a"}}},
		Ports: []spec.Port{{Port: 80, HostIP: "127.0.0.1", HostPort: freePort(t)}}}
	cfg.Resources = spec.Resources{Memory: 64 << 20, MemoryLow: 32 << 20, PidsLimit: 50, NanoCPUs: 5e8, CPUShares: 512}
	return h.start(t, cfg), cfg
}

// freePort is a port of the host that nobody has at the moment.
func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// answers reports whether somebody serves a port of the host.
func answers(port uint16) bool {
	c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(time.Second))
	b := make([]byte, 5)
	n, _ := c.Read(b)
	return string(b[:n]) == "hello"
}

// links counts the links a container has to networks.
func (h *house) links(t *testing.T, c Container) int {
	t.Helper()
	_, out := h.exec(t, c.ID, ExecConfig{Command: []string{"ls", "/sys/class/net"}}, nil)
	return len(strings.Fields(out)) - 1 // lo
}

// A container is given other limits, ports and networks, and goes on running;
// then all of them are taken away.
func TestReshape(t *testing.T) {
	h := newHouse(t)
	c, want := reshapeable(t, h)
	port := want.Network.Ports[0].HostPort
	eventually(t, "an answer", func() bool { return answers(port) })

	want.Resources = spec.Resources{Memory: 32 << 20, PidsLimit: 20, NanoCPUs: 25e7}
	want.Restart = spec.RestartPolicy{Name: spec.RestartAlways}
	want.Labels = map[string]string{"made": "of two"}
	other := freePort(t)
	want.Network.Ports = []spec.Port{{Port: 80, HostIP: "127.0.0.1", HostPort: other}}
	want.Network.Endpoints = []spec.Endpoint{{Network: "two", Aliases: []string{"b"}}}
	must(t, h.e.Reshape(background(t), c.ID, want))
	now := h.inspect(t, c.ID)
	if now.Pid != c.Pid || now.State != Running || !now.StartedAt.Equal(c.StartedAt) {
		t.Errorf("it is another process: %s", brief(now))
	}
	if got := h.cgroupFile(t, c.ID, "memory.max", "memory.limit_in_bytes"); got != "33554432" {
		t.Errorf("memory limit is %s", got)
	}
	if got := h.cgroupFile(t, c.ID, "cpu.cfs_quota_us", "cpu.max"); !strings.HasPrefix(got, "25000") {
		t.Errorf("cpu quota is %s", got)
	}
	if got := h.cgroupFile(t, c.ID, "cpu.shares", "cpu.weight"); got != "1024" && got != "100" && got != "39" {
		t.Errorf("cpu shares are %s", got)
	}
	eventually(t, "an answer at the other port", func() bool { return answers(other) })
	if answers(port) {
		t.Error("the old port answers")
	}
	if len(now.Networks) != 1 || now.Networks[0].NetworkName != "two" || h.links(t, c) != 1 {
		t.Errorf("it is on %v, with %d links", now.Networks, h.links(t, c))
	}
	if now.Config.Labels["made"] != "of two" || now.Config.Labels["stays"] != "x" || now.Config.Restart.Name != spec.RestartAlways {
		t.Errorf("labels %v, restart %v", now.Config.Labels, now.Config.Restart)
	}

	want.Resources, want.Network.Ports = spec.Resources{}, nil
	must(t, h.e.Reshape(background(t), c.ID, want))
	if got := h.cgroupFile(t, c.ID, "memory.max", "memory.limit_in_bytes"); got != "max" && len(got) < 15 {
		t.Errorf("memory limit is %s", got)
	}
	if got := h.cgroupFile(t, c.ID, "pids.max"); got != "max" {
		t.Errorf("pids limit is %s", got)
	}
	if got := h.cgroupFile(t, c.ID, "cpu.cfs_quota_us", "cpu.max"); got != "-1" && !strings.HasPrefix(got, "max") {
		t.Errorf("cpu quota is %s", got)
	}
	if answers(other) || len(h.inspect(t, c.ID).Ports) > 0 {
		t.Error("the port is open still")
	}
	if now := h.inspect(t, c.ID); now.Pid != c.Pid {
		t.Errorf("it is another process: %s", brief(now))
	}
	// The next process has it all as well.
	must(t, h.e.Restart(background(t), c.ID, StopOptions{Signal: "SIGKILL"}))
	if now := h.inspect(t, c.ID); len(now.Networks) != 1 || now.Networks[0].NetworkName != "two" || len(now.Ports) > 0 {
		t.Errorf("after a restart it is %s", brief(now))
	}
}

// What cannot be had leaves everything as it was.
func TestReshapeRefused(t *testing.T) {
	h := newHouse(t)
	c, want := reshapeable(t, h)
	port := want.Network.Ports[0].HostPort
	eventually(t, "an answer", func() bool { return answers(port) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	want.Labels = map[string]string{"made": "of two"}
	want.Resources.Memory = 128 << 20
	want.Network.Endpoints = append(slices.Clone(want.Network.Endpoints), spec.Endpoint{Network: "two"})
	want.Network.Ports = []spec.Port{{Port: 80, HostIP: "127.0.0.1", HostPort: uint16(l.Addr().(*net.TCPAddr).Port)}}
	if err := h.e.Reshape(background(t), c.ID, want); err == nil {
		t.Fatal("a port that another program has was given to a container")
	}
	now := h.inspect(t, c.ID)
	if now.Config.Labels["made"] != "of one" || len(now.Networks) != 1 || now.Networks[0].NetworkName != "one" || now.Config.Resources.Memory != 64<<20 {
		t.Errorf("it is %+v, %s", now.Config.Resources, brief(now))
	}
	if got := h.cgroupFile(t, c.ID, "memory.max", "memory.limit_in_bytes"); got != "67108864" {
		t.Errorf("memory limit is %s", got)
	}
	if got := h.links(t, c); got != 1 {
		t.Errorf("it has %d links", got)
	}
	eventually(t, "an answer", func() bool { return answers(port) })
}

// A daemon that dies in between is followed by one that does the rest, asked
// once more.
func TestReshapeSurvives(t *testing.T) {
	for _, step := range []string{"reshape: recorded", "reshape: connected"} {
		t.Run(step, func(t *testing.T) {
			h := newHouse(t)
			c, want := reshapeable(t, h)
			port := freePort(t)
			want.Labels = map[string]string{"made": "of two"}
			want.Network.Endpoints = []spec.Endpoint{{Network: "two"}}
			want.Network.Ports = []spec.Port{{Port: 80, HostIP: "127.0.0.1", HostPort: port}}
			h.dieAt(t, step, func(ctx context.Context) { h.e.Reshape(ctx, c.ID, want) })
			h.kill(t)
			now := h.inspect(t, c.ID)
			if now.Config.Labels["made"] != "of one" || now.State != Running || now.Pid != c.Pid {
				t.Errorf("after the death it is %v, %s", now.Config.Labels, brief(now))
			}
			if len(now.Networks) != 1 || now.Networks[0].NetworkName != "two" || h.links(t, c) != 1 {
				t.Errorf("after the death it is on %v, with %d links", now.Networks, h.links(t, c))
			}
			must(t, h.e.Reshape(background(t), c.ID, want))
			if now := h.inspect(t, c.ID); now.Config.Labels["made"] != "of two" || now.Pid != c.Pid {
				t.Errorf("it is %v, %s", now.Config.Labels, brief(now))
			}
			eventually(t, "an answer", func() bool { return answers(port) })
			if got := h.links(t, c); got != 1 {
				t.Errorf("it has %d links", got)
			}
		})
	}
}

// One that does not run is what it is told when it starts.
func TestReshapeAtRest(t *testing.T) {
	h := newHouse(t)
	c, want := reshapeable(t, h)
	must(t, h.e.Stop(background(t), c.ID, StopOptions{Signal: "SIGKILL"}))
	want.Resources = spec.Resources{PidsLimit: 30}
	want.Network.Endpoints = append(slices.Clone(want.Network.Endpoints), spec.Endpoint{Network: "two"})
	must(t, h.e.Reshape(background(t), c.ID, want))
	must(t, h.e.Start(background(t), c.ID))
	if got := h.cgroupFile(t, c.ID, "pids.max"); got != "30" {
		t.Errorf("pids limit is %s", got)
	}
	if got := h.links(t, c); got != 2 {
		t.Errorf("it has %d links", got)
	}
}
