package tests

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// echoProgram builds tests/echo, for containers to run.
func echoProgram(t testing.TB, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "echo")
	cmd := exec.Command("go", "build", "-ldflags", "-s -w", "-o", path, "./tests/echo")
	cmd.Dir, cmd.Env = repo, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build tests/echo: %v\n%s", err, out)
	}
	return path
}

// outside is another machine beside this one: a network namespace on a link of
// its own, with a route to every private network by way of the host.
type outside struct {
	t             testing.TB
	ns            string
	host, address string // the ends of the link
}

func newOutside(t testing.TB, tag string, net3 string) *outside {
	o := &outside{t: t, ns: "gtout" + tag, host: net3 + ".1", address: net3 + ".2"}
	link, peer := "gto"+tag, "gtp"+tag
	command(t, "ip", "netns", "add", o.ns)
	t.Cleanup(func() { command(t, "ip", "netns", "del", o.ns) })
	command(t, "ip", "link", "add", link, "type", "veth", "peer", "name", peer, "netns", o.ns)
	command(t, "ip", "addr", "add", o.host+"/24", "dev", link)
	command(t, "ip", "link", "set", link, "up")
	for _, args := range [][]string{
		{"ip", "addr", "add", o.address + "/24", "dev", peer},
		{"ip", "link", "set", peer, "up"},
		{"sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1"},
		{"ip", "route", "add", "default", "via", o.host},
		{"ip", "route", "add", "127.0.0.1/32", "via", o.host},
	} {
		o.run(args...)
	}
	return o
}

func (o *outside) run(args ...string) string {
	o.t.Helper()
	return command(o.t, append([]string{"ip", "netns", "exec", o.ns}, args...)...)
}

// get asks from there; "" when there is no answer.
func (o *outside) get(addr string) string {
	out, _ := exec.Command("ip", "netns", "exec", o.ns, "curl", "-s", "--max-time", "1.5", "http://"+addr+"/").Output()
	return strings.TrimSpace(string(out))
}

// askUDP sends a datagram from this machine.
func askUDP(addr, text string) (string, error) {
	c, err := net.Dial("udp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	buf := make([]byte, 1500)
	for range 3 {
		if _, err = c.Write([]byte(text)); err != nil {
			return "", err
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		var n int
		if n, err = c.Read(buf); err == nil {
			return string(buf[:n]), nil
		}
	}
	return "", err
}

// ask asks over HTTP from this machine.
func ask(addr string) string {
	body, err := get(fresh(3*time.Second), "http://"+addr+"/")
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(body)
}

var addressOf = regexp.MustCompile(`(?m)^Address(?: \d+)?: +(\d+\.\d+\.\d+\.\d+)\s*$`)

// lookup asks a container's resolver, and gives the addresses as they came.
func (m *machine) lookup(dir, from, name string) []string {
	m.t.Helper()
	r := m.in(dir, "exec", "-T", from, "nslookup", "-type=a", name+".")
	var all []string
	_, answer, _ := strings.Cut(r.out, "Name:")
	for _, match := range addressOf.FindAllStringSubmatch(answer, -1) {
		all = append(all, match[1])
	}
	return all
}

// address is a container's on a network.
func (m *machine) address(container, network string) string {
	m.t.Helper()
	return strings.TrimSpace(m.ok("container", "inspect", container, "--format", fmt.Sprintf("{{(index .NetworkSettings.Networks %q).IPAddress}}", network)))
}

func sorted(all []string) []string { return slices.Sorted(slices.Values(all)) }

// Names, addresses, ports and walls of one stack on several networks.
func TestNetworks(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	out := newOutside(t, m.tag, "198.51.100")
	echo := echoProgram(t, m.dir)
	port, local, first := freePort(t), freePort(t), freePorts(t, 2)
	m.ok("network", "create", "--subnet", "10.214.77.0/24", "shared")
	const any = `
    image: busybox
    stop_signal: SIGKILL
    volumes: ["` + "%[1]s" + `:/echo:ro"]
    command: `
	dir := m.project("net", fmt.Sprintf(`
services:
  web:`+any+`[/echo, http:80, udp:80]
    scale: 3
    networks: {front: {aliases: [site]}, back: {}}
    ports: ["%[2]d:80", "%[2]d:80/udp", "127.0.0.1:%[3]d:80", "80"]
  ranged:`+any+`[/echo, http:8000, http:8001]
    ports: ["%[4]d-%[5]d:8000-8001"]
    networks: [front]
  client:`+any+`[sleep, "1000"]
    networks: [front]
    extra_hosts: ["host.docker.internal:host-gateway"]
    links: ["ranged:ranger", "ranged"]
  db:`+any+`[/echo, http:5432]
    networks: [back]
  lone:`+any+`[/echo, http:80]
    networks: [other]
  fixed:`+any+`[sleep, "1000"]
    networks: {custom: {ipv4_address: 10.214.78.50}, shared: {ipv4_address: 10.214.77.9}}
  none:`+any+`[sleep, "1000"]
    network_mode: none
  host:`+any+`[/echo, "http:%[6]d"]
    network_mode: host
  joined:`+any+`[sleep, "1000"]
    network_mode: service:db
  nameserver:`+any+`[/echo, dns:53]
    networks: [front]
  picky:`+any+`[/echo, http:80]
    scale: 2
    networks: [front]
    healthcheck: {test: ["CMD", "test", "-e", "/ok"], interval: 300ms, retries: 1}
networks:
  front: {}
  back: {internal: true}
  other: {}
  custom: {ipam: {config: [{subnet: 10.214.78.0/24, gateway: 10.214.78.254}]}}
  shared: {external: true}
`, echo, port, local, first, first+1, freePort(t)))
	if strings.Contains(m.okIn(dir, "config"), "%!") {
		t.Fatal("the project is misspelt")
	}
	m.okIn(dir, "up", "-d")
	var replicas []string
	for i := range 3 {
		replicas = append(replicas, m.address(fmt.Sprintf("net-web-%d", i+1), "net_front"))
	}
	published := fmt.Sprintf("127.0.0.1:%d", port)

	run := func(name string, f func(t *testing.T, m *machine)) {
		t.Run(name, func(t *testing.T) { f(t, m.with(t)) })
	}
	run("a service's name is all its replicas", func(t *testing.T, m *machine) {
		for _, name := range []string{"web", "site"} {
			// Those that have run for a second are ready, and come first.
			eventually(t, 5*time.Second, fmt.Sprintf("%s to mean %v", name, replicas), func() bool {
				return slices.Equal(sorted(m.lookup(dir, "client", name)), sorted(replicas))
			})
		}
		firsts := map[string]bool{}
		for range 20 {
			if all := m.lookup(dir, "client", "web"); len(all) > 0 {
				firsts[all[0]] = true
			}
		}
		if len(firsts) < 2 {
			t.Errorf("always in the same order: %v", firsts)
		}
	})
	run("a link is a name one container alone has for another", func(t *testing.T, m *machine) {
		want := []string{m.address("net-ranged-1", "net_front")}
		for _, name := range []string{"ranger", "ranged"} {
			if got := m.lookup(dir, "client", name); !slices.Equal(got, want) {
				t.Errorf("%s: %v, want %v", name, got, want)
			}
		}
		if got := m.lookup(dir, "picky", "ranger"); len(got) > 0 {
			t.Errorf("picky has ranger, too: %v", got)
		}
		// It holds when the other one is another container.
		m.okIn(dir, "up", "-d", "--force-recreate", "--no-deps", "ranged")
		want = []string{m.address("net-ranged-1", "net_front")}
		if got := m.lookup(dir, "client", "ranger"); !slices.Equal(got, want) {
			t.Errorf("recreated: %v, want %v", got, want)
		}
	})
	run("a container has names", func(t *testing.T, m *machine) {
		id := strings.Fields(m.okIn(dir, "ps", "-q", "db"))[0]
		for from, name := range map[string]string{"client": "net-web-2", "web": "net-db-1", "joined": id[:12]} {
			if got := m.lookup(dir, from, name); len(got) != 1 {
				t.Errorf("%s asks for %s: %v", from, name, got)
			}
		}
	})
	run("no address of the other kind comes at once", func(t *testing.T, m *machine) {
		begin := time.Now()
		r := m.in(dir, "exec", "-T", "client", "nslookup", "-type=aaaa", "web.")
		if took := time.Since(begin); took > 1500*time.Millisecond || strings.Contains(r.out, "NXDOMAIN") || strings.Contains(r.out, "SERVFAIL") {
			t.Errorf("after %s: %s", took, r)
		}
	})
	run("networks are apart", func(t *testing.T, m *machine) {
		if got := m.lookup(dir, "lone", "web"); len(got) > 0 {
			t.Errorf("a name of another network: %v", got)
		}
		lone := m.address("net-lone-1", "net_other")
		for _, from := range []string{"client", "db"} {
			if r := m.in(dir, "exec", "-T", from, "/echo", "get", lone+":80"); r.code == 0 {
				t.Errorf("%s reaches another network: %s", from, r)
			}
		}
		m.okIn(dir, "exec", "-T", "web", "/echo", "get", "db:5432")
	})
	run("an internal network leads nowhere", func(t *testing.T, m *machine) {
		m.okIn(dir, "exec", "-T", "client", "ping", "-c1", "-W2", out.address)
		if r := m.in(dir, "exec", "-T", "db", "ping", "-c1", "-W1", out.address); r.code == 0 {
			t.Errorf("the database pings the world: %s", r)
		}
	})
	run("addresses of one's choice", func(t *testing.T, m *machine) {
		got := m.okIn(dir, "exec", "-T", "fixed", "ip", "-4", "addr")
		for _, want := range []string{"10.214.78.50/24", "10.214.77.9/24"} {
			if !strings.Contains(got, want) {
				t.Errorf("%s is not there: %s", want, got)
			}
		}
		m.okIn(dir, "exec", "-T", "fixed", "ping", "-c1", "-W2", "10.214.78.254")
	})
	run("modes", func(t *testing.T, m *machine) {
		if got := m.okIn(dir, "exec", "-T", "none", "ls", "/sys/class/net"); strings.TrimSpace(got) != "lo" {
			t.Errorf("none: %q", got)
		}
		link, _ := os.Readlink("/proc/self/ns/net")
		if got := m.okIn(dir, "exec", "-T", "host", "readlink", "/proc/self/ns/net"); strings.TrimSpace(got) != link {
			t.Errorf("host: %q, not %q", got, link)
		}
		for _, look := range []string{"hostname", "ip -4 -o addr", "cat /etc/hosts", "cat /etc/resolv.conf"} {
			one, two := m.okIn(dir, "exec", "-T", "db", "sh", "-c", look), m.okIn(dir, "exec", "-T", "joined", "sh", "-c", look)
			if one != two || one == "" {
				t.Errorf("service: %s: %q and %q", look, one, two)
			}
		}
		m.okIn(dir, "exec", "-T", "joined", "/echo", "get", "127.0.0.1:5432")
		other := m.project("other", "services: {web: {image: busybox, stop_signal: SIGKILL, command: sleep 1000, network_mode: 'container:net-db-1', volumes: ['"+echo+":/echo']}}")
		m.okIn(other, "up", "-d")
		m.okIn(other, "exec", "-T", "web", "/echo", "get", "127.0.0.1:5432")
		m.okIn(other, "down")
	})
	run("port 53 is the container's own", func(t *testing.T, m *machine) {
		got := m.okIn(dir, "exec", "-T", "client", "nslookup", "-type=a", "anything.example.", m.address("net-nameserver-1", "net_front"))
		if !strings.Contains(got, "203.0.113.53") {
			t.Errorf("the container's server: %s", got)
		}
		if all := m.lookup(dir, "nameserver", "web"); len(all) != 3 {
			t.Errorf("its own resolver: %v", all)
		}
	})
	run("one port, every replica, from everywhere", func(t *testing.T, m *machine) {
		seen := map[string]int{}
		for range 60 {
			name, _, _ := strings.Cut(ask(published), " ")
			seen[name]++
		}
		if len(seen) != 3 {
			t.Errorf("who answered: %v", seen)
		}
		for name, n := range seen {
			if n < 8 {
				t.Errorf("%s answered %d of 60 times: %v", name, n, seen)
			}
		}
		name := regexp.MustCompile(`^[0-9a-f]{12} `)
		for _, addr := range []string{fmt.Sprintf("[::1]:%d", port), fmt.Sprintf("%s:%d", out.host, port), fmt.Sprintf("localhost:%d", port)} {
			if got := ask(addr); !name.MatchString(got) {
				t.Errorf("%s: %s", addr, got)
			}
		}
		if got := out.get(fmt.Sprintf("%s:%d", out.host, port)); !strings.HasSuffix(got, " "+out.address) {
			t.Errorf("from outside %q: the caller's address is lost", got)
		}
		for _, from := range []string{"client", "lone", "web"} {
			if got := m.in(dir, "exec", "-T", from, "/echo", "get", fmt.Sprintf("%s:%d", out.host, port)); !name.MatchString(got.out) {
				t.Errorf("from %s: %s", from, got)
			}
		}
		if got := m.in(dir, "exec", "-T", "client", "/echo", "get", fmt.Sprintf("host.docker.internal:%d", port)); !name.MatchString(got.out) {
			t.Errorf("by host-gateway: %s", got)
		}
	})
	run("udp", func(t *testing.T, m *machine) {
		for _, addr := range []string{published, fmt.Sprintf("%s:%d", out.host, port), fmt.Sprintf("[::1]:%d", port)} {
			if got, err := askUDP(addr, "hello"); err != nil || !strings.HasSuffix(got, " hello") {
				t.Errorf("%s: %q %v", addr, got, err)
			}
		}
	})
	run("ranges, host addresses and ports the kernel chose", func(t *testing.T, m *machine) {
		for _, p := range []int{first, first + 1} {
			if got := ask(fmt.Sprintf("127.0.0.1:%d", p)); !strings.Contains(got, " ") {
				t.Errorf("range: %s", got)
			}
		}
		if got := ask(fmt.Sprintf("127.0.0.1:%d", local)); !strings.Contains(got, " ") || strings.Contains(got, "refused") {
			t.Errorf("127.0.0.1: %s", got)
		}
		if got := ask(fmt.Sprintf("%s:%d", out.host, local)); !strings.Contains(got, "refused") {
			t.Errorf("published on 127.0.0.1 alone, and reached at another address: %s", got)
		}
		ports := strings.Fields(m.ok("container", "inspect", "net-web-1", "--format", `{{range index .NetworkSettings.Ports "80/tcp"}}{{.HostPort}} {{end}}`))
		chosen := slices.DeleteFunc(slices.Compact(sorted(ports)), func(p string) bool { return p == strconv.Itoa(port) || p == strconv.Itoa(local) })
		if len(chosen) != 1 {
			t.Fatalf("ports %v", ports)
		}
		if got := ask("127.0.0.1:" + chosen[0]); !strings.Contains(got, " ") || strings.Contains(got, "refused") {
			t.Errorf("ephemeral: %s", got)
		}
		if got := m.okIn(dir, "port", "ranged", "8001"); !strings.Contains(got, strconv.Itoa(first+1)) {
			t.Errorf("port: %s", got)
		}
	})
	run("the world reaches what is published, and nothing else", func(t *testing.T, m *machine) {
		for _, addr := range []string{
			replicas[0] + ":80",
			m.address("net-db-1", "net_back") + ":5432",
			fmt.Sprintf("%s:%d", out.host, local),
			fmt.Sprintf("127.0.0.1:%d", local),
		} {
			if got := out.get(addr); got != "" {
				t.Errorf("%s answers the world: %s", addr, got)
			}
		}
	})
	run("traffic goes to the ready ones", func(t *testing.T, m *machine) {
		eventually(t, 3*time.Second, "none is ready, so all are named", func() bool { return len(m.lookup(dir, "client", "picky")) == 2 })
		m.okIn(dir, "exec", "-T", "--index", "2", "picky", "touch", "/ok")
		eventually(t, 5*time.Second, "the healthy one alone is named", func() bool {
			return slices.Equal(m.lookup(dir, "client", "picky"), []string{m.address("net-picky-2", "net_front")})
		})
		m.okIn(dir, "exec", "-T", "--index", "2", "picky", "rm", "/ok")
		eventually(t, 5*time.Second, "again none is ready", func() bool { return len(m.lookup(dir, "client", "picky")) == 2 })
	})
	run("a replica that stops is left out", func(t *testing.T, m *machine) {
		l := startLoad("http://"+published+"/", 2)
		time.Sleep(100 * time.Millisecond)
		gone := m.address("net-web-3", "net_front")
		m.ok("container", "stop", "net-web-3")
		time.Sleep(300 * time.Millisecond)
		close(l.stop)
		l.wg.Wait()
		if bad := len(l.failed); bad > 2 { // those under way when it was killed
			t.Errorf("%d of %d requests failed: %v", bad, l.sent.Load(), l.failed[0])
		}
		if slices.Contains(m.lookup(dir, "client", "web"), gone) {
			t.Error("it is still named")
		}
		m.ok("container", "start", "net-web-3")
		// It is named as soon as it runs, which is a little before it listens.
		seen := map[string]bool{}
		eventually(t, 5*time.Second, "started again, it answers", func() bool {
			if name, peer, ok := strings.Cut(ask(published), " "); ok && net.ParseIP(peer) != nil {
				seen[name] = true
			}
			return len(seen) == 3
		})
	})
	run("a port is one project's", func(t *testing.T, m *machine) {
		other := m.project("rival", fmt.Sprintf("services: {web: {image: busybox, command: sleep 1000, ports: ['%d:80']}}", port))
		m.oneLine(m.in(other, "up", "-d"), "rival-web-1", strconv.Itoa(port), "net")
		m.okIn(other, "down")
		if got := ask(published); strings.Contains(got, "refused") {
			t.Errorf("the first project suffers: %s", got)
		}
	})
	run("the host's tools understand our rules", func(t *testing.T, _ *machine) {
		if got := command(t, "nft", "list", "ruleset"); !strings.Contains(got, "gantry-"+m.tag) {
			t.Errorf("nft list ruleset: %s", got)
		}
		command(t, "nft", "-j", "list", "ruleset")
	})
	run("a network in use stays", func(t *testing.T, m *machine) {
		m.fails(m.dir, []string{"network", "rm", "net_front"}, "net_front", "net-client-1")
		m.okIn(dir, "down")
		if got := m.ok("network", "ls", "--format", "{{.Name}}"); !strings.Contains(got, "shared") || strings.Contains(got, "net_") {
			t.Errorf("after down: %s", got)
		}
		if got := ask(published); !strings.Contains(got, "refused") {
			t.Errorf("after down the port answers: %s", got)
		}
		m.ok("network", "rm", "shared")
	})
}
