package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"gantry/compose"
	"gantry/runtime"
	"gantry/scheduler"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// mostPlaces bounds how many places are tried for a block of ports. Of ten
// thousand a hundred that are all taken mean that something else is wrong.
const mostPlaces = 100

// portPlaces finds ports of this machine for copies of projects.
type portPlaces struct {
	containers func() []runtime.Container
	goal       func(project string) (scheduler.Goal, error)
	listens    func(on string, port int) bool
}

func newPortPlaces(rt *runtime.Engine, s *scheduler.Scheduler) *portPlaces {
	return &portPlaces{containers: rt.List, goal: s.Goal, listens: listens}
}

// Place says where the blocks of a project go: where its goal has them, else
// to the first candidate that is free. A port is free if nobody listens there
// and no other project's container has it, running or not, or if the project's
// own has it.
func (pl *portPlaces) Place(_ context.Context, project string, blocks []compose.PortBlock) (map[int]int, error) {
	had := map[int]int{}
	switch g, err := pl.goal(project); {
	case err == nil:
		had = compose.MovedPorts(g.Project)
	case !errdefs.IsNotFound(err):
		return nil, err
	}
	own, others := pl.published(project)
	used := map[int]bool{} // by the files, which the first of the copies goes by, and by blocks that have a place now
	for _, b := range blocks {
		for port := b.First; port < b.First+b.Count; port++ {
			used[port] = true
		}
	}
	free := func(b compose.PortBlock, at int) bool {
		for port := at; port < at+b.Count; port++ {
			if used[port] {
				return false
			}
			for _, on := range b.On {
				_, protocol, _ := strings.Cut(on, "/")
				key := portKey(port, protocol)
				if others[key] || !own[key] && pl.listens(on, port) {
					return false
				}
			}
		}
		return true
	}
	to := map[int]int{}
	take := func(b compose.PortBlock, at int) {
		to[b.First] = at
		for port := at; port < at+b.Count; port++ {
			used[port] = true
		}
	}
	for _, b := range blocks {
		if err := b.Placeable(); err != nil {
			return nil, err
		}
		if at := had[b.First]; at != 0 && free(b, at) {
			take(b, at)
		}
	}
	for _, b := range blocks {
		for try := 0; to[b.First] == 0; try++ {
			if try == mostPlaces {
				return nil, fmt.Errorf("no free place on this machine for port %d of project %s, of %d that were tried: %w", b.First, project, mostPlaces, errdefs.ErrUnavailable)
			}
			if at := b.Candidate(project, try); free(b, at) {
				take(b, at)
			}
		}
	}
	return to, nil
}

func portKey(port int, protocol string) string {
	return strconv.Itoa(port) + "/" + cmp.Or(protocol, "tcp")
}

// published are the ports that containers have by number: those of a project
// that run, and those of all others, which may be started again.
func (pl *portPlaces) published(project string) (own, others map[string]bool) {
	own, others = map[string]bool{}, map[string]bool{}
	for _, c := range pl.containers() {
		of := others
		if c.Config.Labels[scheduler.LabelProject] == project {
			if of = own; !c.State.Live() {
				continue
			}
		}
		for _, p := range c.Config.Network.Ports {
			for port := int(p.HostPort); port != 0 && port <= max(int(p.HostEnd), int(p.HostPort)); port++ {
				of[portKey(port, p.Protocol)] = true
			}
		}
	}
	return own, others
}

// listens reports whether anybody has a port on "ADDRESS/PROTOCOL". What
// cannot be found out counts as free: whoever takes the port will hear why not.
func listens(on string, port int) bool {
	host, protocol, _ := strings.Cut(on, "/")
	hosts := []string{host}
	if host == "" {
		hosts = []string{"0.0.0.0", "::"}
	}
	for _, host := range hosts {
		addr, err := netip.ParseAddr(host)
		if err != nil {
			continue
		}
		at := netip.AddrPortFrom(addr, uint16(port))
		version := "4"
		if addr.Is6() {
			version = "6"
		}
		if protocol == "udp" {
			var conn *net.UDPConn
			if conn, err = net.ListenUDP("udp"+version, net.UDPAddrFromAddrPort(at)); err == nil {
				conn.Close()
			}
		} else {
			var l *net.TCPListener
			if l, err = net.ListenTCP("tcp"+version, net.TCPAddrFromAddrPort(at)); err == nil {
				l.Close()
			}
		}
		if errors.Is(err, unix.EADDRINUSE) {
			return true
		}
	}
	return false
}
