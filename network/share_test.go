package network

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Every backend has its share of the slots, whoever else is there; and when
// one comes, few slots but its own lead elsewhere.
func TestSharesLaw(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var backends []netip.Addr
		for _, b := range rapid.SliceOfNDistinct(rapid.Byte(), 1, 64, rapid.ID).Draw(t, "backends") {
			backends = append(backends, netip.AddrFrom4([4]byte{10, 0, 0, b}))
		}
		sticky := rapid.Bool().Draw(t, "sticky")
		to := shares(backends, sticky)
		load := map[int]int{}
		for _, i := range to {
			load[i]++
		}
		least := slots / len(backends)
		for i := range backends {
			if load[i] < least || load[i] > least+1 {
				t.Fatalf("backend %d of %d has %d slots", i, len(backends), load[i])
			}
		}
		if !sticky {
			return
		}
		// The order in which they are listed means nothing.
		turned := slices.Clone(backends)
		slices.Reverse(turned)
		for slot, i := range shares(turned, true) {
			if turned[i] != backends[to[slot]] {
				t.Fatalf("slot %d depends on the order", slot)
			}
		}
	})
}

func TestFewSlotsMoveWhenABackendGoes(t *testing.T) {
	for n := 2; n <= 12; n++ {
		var backends []netip.Addr
		for i := range n {
			backends = append(backends, netip.AddrFrom4([4]byte{172, 20, 0, byte(2 + i)}))
		}
		before, after := shares(backends, true), shares(backends[1:], true)
		moved := 0
		for slot, i := range before {
			if i != 0 && backends[i] != backends[1:][after[slot]] {
				moved++
			}
		}
		if moved > slots/4 {
			t.Errorf("of %d backends one goes, and %d slots of others move", n, moved)
		}
	}
}

// askFrom calls from one of the machine's own addresses.
func askFrom(source, addr string) (string, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}, Timeout: time.Second}
	c, err := d.Dial("tcp4", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Second))
	b, err := io.ReadAll(c)
	return string(b), err
}

// Clients of a sticky port find the same sandbox again, other clients another.
func TestStickyPort(t *testing.T) {
	w := newWorld(t)
	w.network("front")
	for _, id := range []string{"a", "b", "c", "d"} {
		s := asked(id, "front")
		s.Group = "web"
		at, err := w.Attach(t.Context(), s)
		w.must(err)
		w.echo(at.Path, id, 80)
	}
	loopback := netip.MustParseAddr("127.0.0.1")
	w.publish("web", Port{HostPort: 8080, Port: 80, Sticky: true}, Port{HostIP: loopback, HostPort: 8081, Port: 80, Sticky: true}, Port{HostPort: 8082, Port: 80})
	who := func(source, port string) string {
		t.Helper()
		found := map[string]bool{}
		for range 8 {
			got, err := askFrom(source, port)
			w.must(err)
			found[strings.Fields(got)[0]] = true
		}
		if len(found) != 1 {
			t.Errorf("%s at %s was sent to %v", source, port, found)
		}
		for id := range found {
			return id
		}
		return ""
	}
	choice, all := map[string]string{}, map[string]bool{}
	for i := range 24 {
		source := fmt.Sprintf("127.0.1.%d", i+1)
		choice[source] = who(source, "127.0.0.1:8080")
		all[choice[source]] = true
		if again := who(source, "127.0.0.1:8081"); again != choice[source] {
			t.Errorf("%s is sent to %s by one port and %s by the other", source, choice[source], again)
		}
	}
	if len(all) < 3 {
		t.Errorf("24 clients share %v", all)
	}
	if got := w.tally(12, "", "tcp4", "127.0.0.1:8082"); len(got) != 4 {
		t.Errorf("the port that is not sticky leads to %v", got)
	}
	if got := w.tally(12, "", "tcp6", "[::1]:8080"); len(got) != 1 {
		t.Errorf("the sticky port leads IPv6 clients to %v", got)
	}

	w.must(w.Leave("a"))
	stayed, others := 0, 0
	for source, was := range choice {
		now := who(source, "127.0.0.1:8080")
		if was != "a" {
			others++
			if now == was {
				stayed++
			}
		} else if now == "a" {
			t.Errorf("%s is still sent to the one that leaves", source)
		}
	}
	if stayed*3 < others*2 {
		t.Errorf("of %d clients of others only %d are sent to the same", others, stayed)
	}
	w.must(w.Rejoin("a"))
	for source, was := range choice {
		if now := who(source, "127.0.0.1:8080"); now != was {
			t.Errorf("%s was sent to %s, and is now sent to %s", source, was, now)
		}
	}
	// The port is made an ordinary one.
	w.publish("web", Port{HostPort: 8080, Port: 80})
	if got := w.tally(12, "", "tcp4", "127.0.0.1:8080"); len(got) != 4 {
		t.Errorf("no longer sticky, it leads to %v", got)
	}
}
