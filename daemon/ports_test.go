package daemon

import (
	"net"
	"strings"
	"testing"

	"gantry/compose"
	"gantry/runtime"
	"gantry/runtime/spec"
	"gantry/scheduler"

	"github.com/containerd/errdefs"
)

// publishing is a container of a project with a port.
func publishing(project string, state runtime.State, port int) runtime.Container {
	c := runtime.Container{State: state}
	c.Config.Labels = map[string]string{scheduler.LabelProject: project}
	c.Config.Network.Ports = []spec.Port{{HostPort: uint16(port), Port: 80}}
	return c
}

func TestPlacePorts(t *testing.T) {
	web := compose.PortBlock{First: 8080, Count: 1, On: []string{"/tcp"}}
	ftp := compose.PortBlock{First: 9000, Count: 20, On: []string{"127.0.0.1/tcp", "/udp"}}
	first, second := web.Candidate("shop-two", 0), web.Candidate("shop-two", 1)
	none := func(string) (scheduler.Goal, error) { return scheduler.Goal{}, errdefs.ErrNotFound }
	at := func(place int) func(string) (scheduler.Goal, error) {
		return func(string) (scheduler.Goal, error) {
			var s compose.Service
			s.Name, s.Ports = "web", []compose.ServicePort{{Target: 80, Published: "8080", Protocol: "tcp"}}
			p := &compose.Project{Name: "shop-two", Services: compose.Services{"web": s}}
			return scheduler.Goal{Project: compose.MovePorts(p, map[int]int{8080: place})}, nil
		}
	}
	for _, c := range []struct {
		name       string
		goal       func(string) (scheduler.Goal, error)
		containers []runtime.Container
		listening  []int
		want       int
	}{
		{"nothing there", none, nil, nil, first},
		{"somebody listens", none, nil, []int{first}, second},
		{"another project has it, stopped", none, []runtime.Container{publishing("shop", runtime.Exited, first)}, nil, second},
		{"a container of no project has it", none, []runtime.Container{publishing("", runtime.Running, first)}, []int{first}, second},
		{"our own listens", none, []runtime.Container{publishing("shop-two", runtime.Running, first)}, []int{first}, first},
		{"our own is stopped and somebody listens", none, []runtime.Container{publishing("shop-two", runtime.Exited, first)}, []int{first}, second},
		{"the goal has it elsewhere", at(25000), nil, nil, 25000},
		{"the goal has it where somebody listens", at(25000), nil, []int{25000}, first},
	} {
		t.Run(c.name, func(t *testing.T) {
			listening := map[int]bool{}
			for _, port := range c.listening {
				listening[port] = true
			}
			pl := portPlaces{containers: func() []runtime.Container { return c.containers }, goal: c.goal, listens: func(_ string, port int) bool { return listening[port] }}
			to, err := pl.Place(t.Context(), "shop-two", []compose.PortBlock{web, ftp})
			if err != nil || to[8080] != c.want {
				t.Errorf("at %d, %v, want %d", to[8080], err, c.want)
			}
			if to[9000] <= to[8080] && to[8080] < to[9000]+20 {
				t.Errorf("blocks lie over each other: %v", to)
			}
		})
	}
	// Not where the project itself has another port.
	pl := portPlaces{containers: func() []runtime.Container { return nil }, goal: none, listens: func(string, int) bool { return false }}
	to, err := pl.Place(t.Context(), "shop-two", []compose.PortBlock{web, {First: first, Count: 1, On: []string{"/tcp"}}})
	if err != nil || to[8080] != second {
		t.Errorf("beside a fixed port %d: %v, %v", first, to, err)
	}
	full := portPlaces{containers: func() []runtime.Container { return nil }, goal: none, listens: func(string, int) bool { return true }}
	if _, err := full.Place(t.Context(), "shop-two", []compose.PortBlock{web}); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "port 8080") {
		t.Errorf("on a full machine: %v", err)
	}
	if _, err := full.Place(t.Context(), "shop-two", []compose.PortBlock{{First: 1, Count: 60000}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a block too large: %v", err)
	}
}

// What listens is found on every address and for both protocols, and what was
// found leaves nothing behind.
func TestListens(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	for range 2 {
		if !listens("/tcp", port) || !listens("127.0.0.1/tcp", port) {
			t.Error("a listener is not found")
		}
	}
	if listens("127.0.0.2/tcp", port) || listens("127.0.0.1/udp", port) {
		t.Error("a listener is found where it is not")
	}
	l.Close()
	if listens("/tcp", port) {
		t.Error("a port that is free again counts as taken")
	}
	u, err := net.ListenPacket("udp6", "[::1]:0")
	if err != nil {
		t.Skipf("this machine has no IPv6: %v", err)
	}
	defer u.Close()
	if port := u.LocalAddr().(*net.UDPAddr).Port; !listens("/udp", port) {
		t.Error("a UDP socket on IPv6 is not found")
	}
}
