package network

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// The tests run on a real kernel in a network and mount namespace of their
// own, into which the test binary starts itself again, so that the machine's
// links and rules stay as they are. A second namespace behind a link plays the
// outside: 198.51.100.2, with this side at 198.51.100.1.

const insideEnv = "GANTRY_TEST_NETNS"

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Println("needs root: tests of bridges, namespaces and nftables are skipped")
		os.Exit(m.Run())
	}
	if os.Getenv(insideEnv) == "" {
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), insideEnv+"=1")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Unshareflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS,
			Pdeathsig:    syscall.SIGKILL,
		}
		if err := cmd.Run(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if err := linkUp("lo"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// world is a machine with an outside and a fabric.
type world struct {
	*testing.T
	*Fabric
	opts    Options
	outside string // namespace
	store   *memSockets
}

func needRoot(t testing.TB) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes namespaces, links and nftables rules")
	}
}

func newWorld(t *testing.T) *world {
	needRoot(t)
	dir := t.TempDir()
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, outside: filepath.Join(dir, "outside"), store: &memSockets{held: map[string][]*os.File{}}}
	w.opts = Options{Root: filepath.Join(dir, "root"), Run: filepath.Join(dir, "run"), Instance: t.Name(), Sockets: w.store,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	w.must(makeNamespace(w.outside, func() error { return nil }))
	t.Cleanup(func() { w.must(dropNamespace(w.outside)) })
	ns, err := os.Open(w.outside)
	w.must(err)
	defer ns.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "ext0"
	link := &netlink.Veth{LinkAttrs: attrs, PeerName: "ext1", PeerNamespace: netlink.NsFd(int(ns.Fd()))}
	w.must(netlink.LinkAdd(link))
	t.Cleanup(func() { deleteLink("ext0") })
	addr, _ := netlink.ParseAddr("198.51.100.1/24")
	w.must(netlink.AddrAdd(link, addr))
	w.must(netlink.LinkSetUp(link))
	w.must(inside(w.outside, func() error {
		l, err := netlink.LinkByName("ext1")
		if err != nil {
			return err
		}
		addr, _ := netlink.ParseAddr("198.51.100.2/24")
		if err := netlink.AddrAdd(l, addr); err != nil {
			return err
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Gw: net.IPv4(198, 51, 100, 1)})
	}))
	w.open()
	t.Cleanup(func() {
		if w.Fabric != nil {
			w.teardown()
		}
		w.store.close()
	})
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) open(live ...Sandbox) {
	w.Helper()
	f, err := Open(w.Context(), w.opts)
	w.must(err)
	w.Fabric = f
	w.must(f.Recover(w.Context(), live))
}

// crash drops the fabric as a kill would: only descriptors are closed.
func (w *world) crash() {
	f := w.Fabric
	w.Fabric = nil
	close(f.quit)
	f.stopWatch()
	f.proxy.close()
	for _, g := range f.groups {
		for _, p := range g.ports {
			p.close()
		}
	}
	f.dns.Close()
	f.tasks.Wait()
	f.table.close()
	f.table6.close()
	f.lock.Close()
}

// teardown removes everything and finds the machine as it was.
func (w *world) teardown() {
	ctx := context.Background()
	for id := range w.Fabric.sandboxes {
		w.must(w.Detach(ctx, id))
	}
	for name := range w.Fabric.groups {
		w.must(w.Unpublish(ctx, name))
	}
	for _, n := range w.Networks() {
		if n.Name != DefaultNetwork {
			w.must(w.RemoveNetwork(ctx, n.ID))
		}
	}
	w.must(w.Fabric.Close())
	w.Fabric = nil
	if got := w.nft("list", "ruleset"); strings.Contains(got, "gantry") {
		w.Errorf("left in nftables:\n%s", got)
	}
	if len(w.store.held) > 0 {
		w.Errorf("left in the socket store: %v", w.store.held)
	}
	if b, _ := os.ReadFile("/proc/sys/net/ipv4/ip_forward"); string(b) != "0\n" {
		w.Errorf("forwarding is %q after the last network went", b)
	}
	if files, _ := os.ReadDir(filepath.Join(w.opts.Run, "netns")); len(files) > 0 {
		w.Errorf("left namespaces: %v", files)
	}
	within(w.T, 5*time.Second, "links to be collected", func() bool {
		links, err := whole(netlink.LinkList)
		w.must(err)
		for _, l := range links {
			if strings.HasPrefix(l.Attrs().Name, "g") {
				return false
			}
		}
		return true
	})
}

func (w *world) nft(args ...string) string {
	out, err := exec.Command("nft", args...).CombinedOutput()
	if err != nil {
		w.Fatalf("nft %v: %v: %s", args, err, out)
	}
	return string(out)
}

// within waits until ok holds.
func within(t testing.TB, d time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v in vain for %s", d, what)
		}
	}
}

// join attaches a running, ready sandbox to networks.
func (w *world) join(id string, networks ...string) Attached {
	w.Helper()
	a, err := w.Attach(w.Context(), asked(id, networks...))
	w.must(err)
	return a
}

func asked(id string, networks ...string) Sandbox {
	s := Sandbox{ID: id, Hostname: id, Running: true, Ready: true}
	for _, n := range networks {
		s.Endpoints = append(s.Endpoints, Endpoint{Network: n, Names: []string{id}})
	}
	return s
}

func addrOf(a Attached) netip.Addr { return a.Endpoints[0].IPv4.Addr() }

func (w *world) network(name string, s ...Spec) Network {
	w.Helper()
	spec := Spec{}
	if len(s) > 0 {
		spec = s[0]
	}
	spec.Name = name
	n, err := w.CreateNetwork(w.Context(), spec)
	w.must(err)
	return n
}

// echo answers in a namespace, on TCP and UDP, with its name and the address
// it was called from.
func (w *world) echo(path, name string, port int) {
	w.Helper()
	w.echoOn("tcp4", path, name, port)
	var p net.PacketConn
	w.must(inside(path, func() (err error) {
		p, err = net.ListenPacket("udp4", fmt.Sprintf(":%d", port))
		return err
	}))
	var tasks sync.WaitGroup
	tasks.Go(func() {
		buf := make([]byte, 100)
		for {
			_, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			p.WriteTo([]byte(name+" "+from.(*net.UDPAddr).IP.String()), from)
		}
	})
	w.Cleanup(func() { p.Close(); tasks.Wait() })
}

func (w *world) echoOn(network, path, name string, port int) {
	w.Helper()
	var l net.Listener
	w.must(inside(path, func() (err error) {
		l, err = net.Listen(network, fmt.Sprintf(":%d", port))
		return err
	}))
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(c, "%s %s", name, c.RemoteAddr().(*net.TCPAddr).IP)
			c.Close()
		}
	})
	w.Cleanup(func() { l.Close(); tasks.Wait() })
}

// ask calls from a namespace ("" the machine itself) and returns the answer.
func ask(path, network, addr string) (string, error) {
	return askFor(time.Second, path, network, addr)
}

func askFor(patience time.Duration, path, network, addr string) (string, error) {
	var c net.Conn
	dial := func() (err error) {
		c, err = net.DialTimeout(network, addr, patience)
		return err
	}
	var err error
	if path == "" {
		err = dial()
	} else {
		err = inside(path, dial)
	}
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if strings.HasPrefix(network, "udp") {
		c.Write([]byte("?"))
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		return string(buf[:n]), err
	}
	b, err := io.ReadAll(c)
	return string(b), err
}

func (w *world) reach(path, network, addr, want string) {
	w.Helper()
	got, err := ask(path, network, addr)
	if err != nil || got != want {
		w.Errorf("%s to %s: got %q (%v) instead of %q", network, addr, got, err, want)
	}
}

func (w *world) blocked(path, network, addr string) {
	w.Helper()
	if got, err := askFor(150*time.Millisecond, path, network, addr); err == nil {
		w.Errorf("%s to %s must not pass, but %q answered", network, addr, got)
	}
}

// memSockets is a store of descriptors in memory.
type memSockets struct {
	mu   sync.Mutex
	held map[string][]*os.File
}

func (m *memSockets) dup(files []*os.File) (out []*os.File) {
	for _, f := range files {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			panic(err)
		}
		out = append(out, os.NewFile(uintptr(fd), f.Name()))
	}
	return out
}

func (m *memSockets) Hold(name string, files ...*os.File) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held[name] = m.dup(files)
	return nil
}

func (m *memSockets) Take(name string) []*os.File {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dup(m.held[name])
}

func (m *memSockets) Drop(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range m.held[name] {
		f.Close()
	}
	delete(m.held, name)
	return nil
}

func (m *memSockets) close() {
	for name := range m.held {
		m.Drop(name)
	}
}

// sh runs a script in the thread's network namespace.
func sh(script string) error {
	out, err := exec.Command("sh", "-c", script).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", script, err, out)
	}
	return nil
}
