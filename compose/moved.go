package compose

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// movedFrom is the key under which a published port says what it is in the
// files. It is an extension and no part of a service's hash.
const movedFrom = "x-gantry-moved-from"

// Where ports of copies go: below what Linux takes for outgoing connections.
const (
	movedLow  = 20000
	movedHigh = 30000 // not among them
)

// PortBlock is a number of ports of the host that a project asks for side by
// side: one, a range to choose from, or several that lead to as many ports of
// a container.
type PortBlock struct {
	First, Count int
	// On are the addresses and protocols it is asked for on, "127.0.0.1/tcp",
	// sorted; "/tcp" is every address.
	On []string
}

// Candidate is where the block of a copy goes at the first try, the second and
// so on: always the same for the same project and block.
func (b PortBlock) Candidate(project string, try int) int {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %d", project, b.First, try))
	return movedLow + int(binary.BigEndian.Uint32(sum[:])%uint32(movedHigh-movedLow-b.Count+1))
}

// Placeable refuses a block that no place is large enough for.
func (b PortBlock) Placeable() error {
	if b.Count > (movedHigh-movedLow)/2 {
		return invalid("ports", fmt.Sprintf("a copy has no room for the %d ports from %d on", b.Count, b.First), "publish a smaller range")
	}
	return nil
}

// hostPort is what a port asks of the host: count numbers from first on. It
// belongs to the block that begins with block. count 0: it asks for nothing.
type hostPort struct{ first, count, block int }

// hostPorts reads the ports of a service, neighbours into one block.
func hostPorts(ports []ServicePort) []hostPort {
	all := make([]hostPort, len(ports))
	for i, p := range ports {
		from, to, ranged := strings.Cut(p.Published, "-")
		first, err := strconv.Atoi(from)
		if err != nil || first == 0 {
			continue
		}
		h := hostPort{first: first, count: 1, block: first}
		if ranged {
			last, err := strconv.Atoi(to)
			if err != nil || last < first {
				continue
			}
			h.count = last - first + 1
		} else if i > 0 && all[i-1].count == 1 {
			q := ports[i-1]
			if all[i-1].first+1 == first && q.Target+1 == p.Target && q.HostIP == p.HostIP && q.Protocol == p.Protocol {
				h.block = all[i-1].block
			}
		}
		all[i] = h
	}
	return all
}

// FixedPorts are the ports of the host that the project's services ask for by
// number, sorted.
func FixedPorts(p *Project) []PortBlock {
	blocks := map[int]PortBlock{}
	for _, s := range p.Services {
		for i, h := range hostPorts(s.Ports) {
			if h.count == 0 {
				continue
			}
			b := blocks[h.block]
			b.First, b.Count = h.block, max(b.Count, h.first+h.count-h.block)
			protocol := s.Ports[i].Protocol
			if protocol == "" {
				protocol = "tcp"
			}
			if on := s.Ports[i].HostIP + "/" + protocol; !slices.Contains(b.On, on) {
				b.On = append(b.On, on)
			}
			blocks[h.block] = b
		}
	}
	var all []PortBlock
	for _, first := range slices.Sorted(maps.Keys(blocks)) {
		b := blocks[first]
		slices.Sort(b.On)
		all = append(all, b)
	}
	return all
}

// MovePorts publishes the project's fixed ports elsewhere: each block begins
// where to says for its first port.
func MovePorts(p *Project, to map[int]int) *Project {
	out := *p
	out.Services = maps.Clone(p.Services)
	for name, s := range p.Services {
		s.Ports = slices.Clone(s.Ports)
		for i, h := range hostPorts(s.Ports) {
			place, moved := to[h.block]
			if h.count == 0 || !moved {
				continue
			}
			port := &s.Ports[i]
			port.Extensions = maps.Clone(port.Extensions)
			if port.Extensions == nil {
				port.Extensions = Extensions{}
			}
			port.Extensions[movedFrom] = port.Published
			place += h.first - h.block
			port.Published = strconv.Itoa(place)
			if h.count > 1 {
				port.Published += "-" + strconv.Itoa(place+h.count-1)
			}
		}
		out.Services[name] = s
	}
	return &out
}

// MovedPort is what a port was published as before MovePorts, "" if it was not
// moved.
func MovedPort(p ServicePort) string {
	from, _ := p.Extensions[movedFrom].(string)
	return from
}

// MovedPorts is what MovePorts was told when it made the project.
func MovedPorts(p *Project) map[int]int {
	to := map[int]int{}
	for _, s := range p.Services {
		was := slices.Clone(s.Ports)
		for i := range was {
			was[i].Published = MovedPort(was[i])
		}
		now := hostPorts(s.Ports)
		for i, h := range hostPorts(was) {
			if h.count > 0 && h.first == h.block && now[i].count > 0 {
				to[h.block] = now[i].first
			}
		}
	}
	return to
}
