package network

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// chat answers every line with its name and keeps the connection.
func (w *world) chat(path, name string, port int) {
	w.Helper()
	var l net.Listener
	w.must(inside(path, func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		return err
	}))
	var tasks sync.WaitGroup
	ended, end := context.WithCancel(context.Background())
	tasks.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			tasks.Go(func() {
				defer context.AfterFunc(ended, func() { c.Close() })()
				defer c.Close()
				for in := bufio.NewScanner(c); in.Scan(); {
					fmt.Fprintln(c, name)
				}
			})
		}
	})
	w.Cleanup(func() { l.Close(); end(); tasks.Wait() })
}

// talk opens a connection and says who is at its other end.
func (w *world) talk(path, addr string) (c net.Conn, say func() string) {
	w.Helper()
	w.must(inside(path, func() (err error) {
		c, err = net.DialTimeout("tcp4", addr, time.Second)
		return err
	}))
	w.Cleanup(func() { c.Close() })
	in := bufio.NewReader(c)
	return c, func() string {
		fmt.Fprintln(c, "who?")
		c.SetReadDeadline(time.Now().Add(time.Second))
		line, err := in.ReadString('\n')
		if err != nil {
			return err.Error()
		}
		return line[:len(line)-1]
	}
}

func TestDrainedSandboxKeepsItsConnectionsAndGetsNoMore(t *testing.T) {
	w := newWorld(t)
	n := w.network("front")
	web := func(id string) Sandbox {
		s := asked(id, "front")
		s.Group = "web"
		s.Endpoints[0].Names = []string{id, "web"}
		return s
	}
	at := map[string]Attached{}
	for _, id := range []string{"a", "b"} {
		a, err := w.Attach(t.Context(), web(id))
		w.must(err)
		w.chat(a.Path, id, 80)
		at[id] = a
	}
	w.publish("web", Port{HostPort: 8080, Port: 80})
	const door = "198.51.100.1:8080"
	through, outside := w.talk(w.outside, door)
	first := outside()
	other := map[string]string{"a": "b", "b": "a"}[first]
	neighbour, inner := w.talk(at[other].Path, addrOf(at[first]).String()+":80")
	if who := inner(); who != first || other == "" {
		t.Fatalf("%q through the port, %q within the network", first, who)
	}

	drained := make(chan error, 1)
	go func() { drained <- w.Drain(t.Context(), first) }()
	within(t, time.Second, "the port to lead elsewhere", func() bool {
		w.Fabric.mu.Lock()
		defer w.Fabric.mu.Unlock()
		return len(w.groups["web"].backends) == 1
	})
	w.must(w.SetState(first, true, false))
	w.must(w.SetState(first, true, true)) // a health check does not bring it back
	for range 20 {
		if _, say := w.talk(w.outside, door); say() != other {
			t.Fatal("a new connection reached the one that leaves")
		}
		if got, _ := w.Fabric.names.Lookup("web", []string{n.ID}); len(got) != 1 || got[0] != addrOf(at[other]) {
			t.Fatalf("web is %v", got)
		}
	}
	if outside() != first || inner() != first {
		t.Error("a connection was lost")
	}
	through.Close()
	select {
	case err := <-drained:
		t.Fatalf("drained with a neighbour connected: %v", err)
	case <-time.After(3 * drainSettle):
	}
	neighbour.Close()
	start := time.Now()
	w.must(<-drained)
	if d := time.Since(start); d > drainMost+3*drainSettle {
		t.Errorf("it took %v to see that the last had gone", d)
	}

	// A new process is looked for again.
	if _, err := w.Attach(t.Context(), web(first)); err != nil {
		t.Fatal(err)
	}
	if got, _ := w.Fabric.names.Lookup("web", []string{n.ID}); len(got) != 2 {
		t.Errorf("web is %v", got)
	}

	// Time ends it; and so does that nobody is left to go to.
	_, say := w.talk(w.outside, door)
	first = say()
	other = map[string]string{"a": "b", "b": "a"}[first]
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := w.Drain(short, first); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with a connection, in 100 ms: %v", err)
	}
	go func() { drained <- w.Drain(t.Context(), first) }()
	time.Sleep(2 * drainSettle)
	w.must(w.Leave(other))
	start = time.Now()
	w.must(<-drained)
	if d := time.Since(start); d > drainSettle {
		t.Errorf("drained %v after the other had left too", d)
	}
	got := map[string]int{}
	for range 20 {
		_, say := w.talk(w.outside, door)
		got[say()]++
	}
	if got["a"] < 5 || got["b"] < 5 {
		t.Errorf("both leave and nobody else is there: %v", got)
	}
}

func TestInboundConnections(t *testing.T) {
	socket := func(state uint8, local string, port uint16) *netlink.InetDiagTCPInfoResp {
		s := &netlink.Socket{Family: unix.AF_INET, State: state}
		s.ID.Source, s.ID.SourcePort = net.ParseIP(local), port
		return &netlink.InetDiagTCPInfoResp{InetDiagMsg: s}
	}
	all := []*netlink.InetDiagTCPInfoResp{
		socket(netlink.TCP_LISTEN, "0.0.0.0", 80),
		socket(netlink.TCP_ESTABLISHED, "10.0.0.2", 80),
		socket(netlink.TCP_ESTABLISHED, "::ffff:10.0.0.2", 80),
		socket(netlink.TCP_FIN_WAIT1, "10.0.0.2", 80),     // the client has not got all of it
		socket(netlink.TCP_FIN_WAIT2, "10.0.0.2", 80),     // it has
		socket(netlink.TCP_TIME_WAIT, "10.0.0.2", 80),     // over
		socket(netlink.TCP_ESTABLISHED, "127.0.0.1", 80),  // a health check
		socket(netlink.TCP_ESTABLISHED, "10.0.0.2", 4711), // its own, to a database
	}
	if n, busy := inbound(all); n != 3 || busy != 3 {
		t.Errorf("%d connections, %d in use", n, busy)
	}
}

func TestIdleConnections(t *testing.T) {
	const quiet = 1500
	for what, c := range map[string]struct {
		info   netlink.TCPInfo
		unread uint32
		idle   bool
	}{
		"answered a while ago":        {netlink.TCPInfo{Last_data_sent: quiet, Last_data_recv: quiet + 20, Bytes_received: 80, Bytes_sent: 80}, 0, true},
		"answered at once":            {netlink.TCPInfo{Last_data_sent: quiet, Last_data_recv: quiet, Bytes_received: 80, Bytes_sent: 80}, 0, true},
		"answered just now":           {netlink.TCPInfo{Last_data_sent: 80, Last_data_recv: 90, Bytes_received: 80, Bytes_sent: 80}, 0, false},
		"waits for an answer":         {netlink.TCPInfo{Last_data_sent: 9000, Last_data_recv: quiet, Bytes_received: 80, Bytes_sent: 80}, 0, false},
		"has not got all of it":       {netlink.TCPInfo{Last_data_sent: quiet, Last_data_recv: 9000, Bytes_received: 80, Bytes_sent: 80, Unacked: 1}, 0, false},
		"asked, and nobody has read":  {netlink.TCPInfo{Last_data_sent: quiet, Last_data_recv: quiet, Bytes_received: 80, Bytes_sent: 80}, 80, false},
		"asked and got nothing":       {netlink.TCPInfo{Last_data_sent: quiet, Last_data_recv: quiet, Bytes_received: 80}, 0, false},
		"opened to have one in stock": {netlink.TCPInfo{Last_data_sent: quiet + 5, Last_data_recv: quiet}, 0, true},
		"just opened":                 {netlink.TCPInfo{Last_data_sent: 3, Last_data_recv: 3}, 0, false},
	} {
		if got := idle(&netlink.Socket{State: netlink.TCP_ESTABLISHED, RQueue: c.unread}, &c.info); got != c.idle {
			t.Errorf("one that %s: idle %v", what, got)
		}
	}
}

// A client that keeps a connection and says nothing holds nobody up for long;
// one that waits for its answer does.
func TestDrainWaitsForAnswers(t *testing.T) {
	w := newWorld(t)
	w.network("front")
	at := map[string]Attached{}
	for _, id := range []string{"a", "b"} {
		s := asked(id, "front")
		s.Group = "web"
		a, err := w.Attach(t.Context(), s)
		w.must(err)
		w.chat(a.Path, id, 80)
		at[id] = a
	}
	_, say := w.talk(at["b"].Path, addrOf(at["a"]).String()+":80")
	if who := say(); who != "a" {
		t.Fatal(who)
	}
	start := time.Now()
	w.must(w.Drain(t.Context(), "a"))
	if d := time.Since(start); d < drainIdle/2 || d > drainIdle+2*drainMost+3*drainSettle {
		t.Errorf("with an idle connection it took %v", d)
	}
	waiting, _ := w.talk(at["a"].Path, addrOf(at["b"]).String()+":80")
	fmt.Fprint(waiting, "who") // and the line goes on
	w.must(w.Rejoin("a"))
	bound, cancel := context.WithTimeout(t.Context(), drainIdle+4*drainMost)
	defer cancel()
	if err := w.Drain(bound, "b"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with one that waits for its answer: %v", err)
	}
}

// What the kernel remembers of connections to a sandbox that is gone would lead
// others there.
func TestConnectionsToWhoIsGoneAreForgotten(t *testing.T) {
	w := newWorld(t)
	w.network("front")
	for _, id := range []string{"a", "b"} {
		s := asked(id, "front")
		s.Group = "web"
		at, err := w.Attach(t.Context(), s)
		w.must(err)
		w.chat(at.Path, id, 80)
	}
	w.publish("web", Port{HostPort: 8080, Port: 80})
	addrs := map[string]netip.Addr{}
	for id, s := range w.Fabric.sandboxes {
		addrs[id] = s.ends[0].addr
	}
	says := map[string]func() string{}
	for range 6 {
		_, say := w.talk(w.outside, "198.51.100.1:8080")
		says[say()] = say
	}
	remembered := func(id string) (n int) {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
		w.must(err)
		for _, x := range flows {
			if (&translatedTo{addrs[id]}).MatchConntrackFlow(x) {
				n++
			}
		}
		return n
	}
	if len(says) != 2 || remembered("a") == 0 || remembered("b") == 0 {
		t.Fatalf("answers of %d; %d and %d connections", len(says), remembered("a"), remembered("b"))
	}
	w.must(w.Detach(t.Context(), "a"))
	if n := remembered("a"); n > 0 {
		t.Errorf("%d connections to the one that is gone", n)
	}
	if who := says["b"](); who != "b" {
		t.Errorf("the other one's connection: %s", who)
	}
}
