package tests

import (
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// networkRows are the flags of a container's network. net4 and net6 are
// networks of the machine with the subnets 10.231.0.0/24 and fd00:231::/64.
func networkRows(dns string) []dockerRun {
	const addrs = "ip -o addr show eth0 | awk '{print $4}'; ip route | awk '/default/ {print $3}'"
	return []dockerRun{
		row("", "ip -o link show | awk '{print $2}' | cut -d@ -f1", "lo:\neth0"),
		row("--network bridge", "ip -o link show | awk '{print $2}' | cut -d@ -f1", "lo:\neth0"),
		row("--network default", "ip -o link show | awk '{print $2}' | cut -d@ -f1", "lo:\neth0"),
		row("--network none", "ip -o link show | awk '{print $2}'", "lo:"),
		row("--network host", "readlink /proc/self/ns/net", regexp.QuoteMeta(readlink("/proc/self/ns/net"))),
		row("--network host", "hostname", hostname()),
		row("--net net4 --ip 10.231.0.77", addrs, "10.231.0.77/24\n10.231.0.1"),
		row("--network net6 --ip6 fd00:231::77", "ip -6 -o addr show dev eth0 scope global | awk '{print $4}'; ip -6 route show default | awk '{print $3}'; grep -c fd00:231::77 /etc/hosts", "fd00:231::77/64\nfd00:231::1\n1"),
		row("--mac-address 02:00:00:00:00:99", "cat /sys/class/net/eth0/address", "02:00:00:00:00:99"),
		row("--network net4 --mac-address 02:00:00:00:00:98", "cat /sys/class/net/eth0/address", "02:00:00:00:00:98"),
		row("--network net4 --network-alias nick --net-alias other", "sleep 0.3; nslookup nick 127.0.0.11 | grep -A1 'Name:.*nick' | grep -c Address; nslookup other 127.0.0.11 | grep -A1 'Name:.*other' | grep -c Address", "1\n1"),
		row("--network net4 --link server:db", "wget -qO- http://db/", "pong"),
		row("--network net4", "wget -qO- http://server/", "pong"),
		row("--network net4 --add-host given:10.231.0.200", "grep given /etc/hosts", "10.231.0.200\tgiven"),
		row("--add-host gate:host-gateway", "grep -c gate$ /etc/hosts", "1"),
		row("--dns "+dns, "nslookup -type=a who.example 127.0.0.11 | grep -o 192.0.2.77", "192.0.2.77"),
		row("--network host --dns 192.0.2.5", "cat /etc/resolv.conf | grep nameserver", "nameserver 192.0.2.5"),
		row("--dns-search a.example --dns-search b.example --dns-option timeout:1", "grep -v ^# /etc/resolv.conf", "nameserver 127.0.0.11\nsearch a.example b.example\noptions timeout:1"),
		row("--dns-opt timeout:2", "grep -c timeout:2 /etc/resolv.conf", "1"),
		refusedRow("--network no-such", "no-such"),
		refusedRow("--network net4 --ip 10.99.0.1", "10.99.0.1"),
		refusedRow("--network net4 --ip6 fd00::1", "IPv6"),
		refusedRow("--network net4 --ip 10.231.0.1", "in use"),
		refusedRow("--network net4 --mac-address nonsense", "mac|MAC|HardwareAddr|not a valid"),
		refusedRow("--network net4 --link-local-ip 169.254.1.1", "LinkLocalIPs"),
		refusedRow("--network net4 --link no-such:db", "no-such"),
		refusedRow("--network host --link server:db", "links|conflicting options"),
		refusedRow("--network host --hostname x --network-alias y", "alias|conflicting"),
		refusedRow("--network container:no-such", "no-such"),
		refusedRow("-p 80/sctp", "SCTP"),
		refusedRow("-p 192.0.2.99:8080:80", "192.0.2.99"),
		row("--expose 4000-4002/udp", "echo runs", "runs"),
	}
}

func TestDockerRunNetwork(t *testing.T) {
	t.Parallel()
	needsDocker(t)
	m := newMachine(t, memory())
	m.dockerOK("network", "create", "--subnet", "10.231.0.0/24", "net4")
	m.dockerOK("network", "create", "--ipv6", "--subnet", "10.231.1.0/24", "--subnet", "fd00:231::/64", "net6")
	serve := "mkdir /www; echo pong > /www/index.html; exec httpd -f -p 80 -h /www"
	m.dockerOK("run", "-d", "--name", "server", "--network", "net4", "busybox", "sh", "-c", serve)
	t.Run("flags", func(t *testing.T) { runRows(t, m, networkRows(nameServer(t))) })
	t.Run("published", func(t *testing.T) { publishedForms(t, m, serve) })
	t.Run("six", func(t *testing.T) { m.with(t).sixth(serve) })
	t.Run("moves", func(t *testing.T) { m.with(t).moves() })
	t.Run("api", func(t *testing.T) { m.with(t).endpointOptions() })
	t.Run("create", func(t *testing.T) { m.with(t).networkForms() })
	t.Run("macvlan", func(t *testing.T) { m.with(t).macvlan() })
}

// nameServer answers every question for an address with 192.0.2.77.
func nameServer(t *testing.T) string {
	t.Helper()
	const addr = "10.231.0.1" // the bridge's: a loopback address would be the container's own
	c, err := net.ListenPacket("udp4", addr+":53")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			if n < 17 {
				continue
			}
			// The question stands behind the 12 bytes of the header, a name
			// that ends in 0 and two numbers: RFC 1035 section 4.
			end := 12
			for end < n && buf[end] != 0 {
				end += int(buf[end]) + 1
			}
			end += 5
			answer := append([]byte{buf[0], buf[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, buf[12:end]...)
			if buf[end-3] == 1 { // A
				answer[7] = 1
				answer = append(answer, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 77)
			}
			_, _ = c.WriteTo(answer, from)
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	return addr
}

// fetch asks a web server from this machine.
func fetch(t testing.TB, addr string) string {
	t.Helper()
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get("http://" + addr + "/")
	if err != nil {
		t.Errorf("%s: %v", addr, err)
		return ""
	}
	defer res.Body.Close()
	var text [100]byte
	n, _ := res.Body.Read(text[:])
	return strings.TrimSpace(string(text[:n]))
}

// publishedForms are the ways to write -p, and -P.
func publishedForms(t *testing.T, m *machine, serve string) {
	for _, c := range []struct {
		flags string
		want  string // of `docker port`
	}{
		{"-p 80", `80/tcp -> 0.0.0.0:\d+\n80/tcp -> (\[::\]|::):\d+`},
		{"-p 127.0.0.1::80", `80/tcp -> 127.0.0.1:\d+`},
		{"-p 127.0.0.1:23180:80", `80/tcp -> 127.0.0.1:23180`},
		{"-p 127.0.0.1:23181-23183:80", `80/tcp -> 127.0.0.1:2318[123]`},
		{"-p 127.0.0.1:23184-23185:80-81/tcp", `80/tcp -> 127.0.0.1:23184\n81/tcp -> 127.0.0.1:23185`},
		{"-p [::1]:23186:80", `80/tcp -> (\[::1\]|::1):23186`},
		{"-P --expose 80", `80/tcp -> 0.0.0.0:\d+\n80/tcp -> (\[::\]|::):\d+`},
		{"--publish-all --expose 80 --expose 99/udp -p 127.0.0.1:23187:80", `80/tcp -> 127.0.0.1:23187\n99/udp -> 0.0.0.0:\d+\n99/udp -> (\[::\]|::):\d+`},
	} {
		t.Run(c.flags, func(t *testing.T) {
			m := m.with(t)
			args := append([]string{"run", "-d"}, strings.Fields(c.flags)...)
			id := m.dockerOK(append(args, "busybox", "sh", "-c", serve)...)
			defer m.docker("rm", "-f", id)
			var ports []string
			for line := range strings.Lines(m.dockerOK("port", id)) {
				ports = append(ports, strings.TrimSpace(line))
			}
			slices.Sort(ports)
			if got := strings.Join(ports, "\n"); !regexp.MustCompile("^(" + c.want + ")$").MatchString(got) {
				t.Errorf("published as\n%s\nwant %s", got, c.want)
			}
			at := strings.TrimPrefix(ports[0], "80/tcp -> ")
			if i := strings.LastIndex(at, ":"); strings.Count(at, ":") > 1 && at[0] != '[' {
				at = "[" + at[:i] + "]" + at[i:]
			}
			at = strings.Replace(at, "0.0.0.0", "127.0.0.1", 1)
			eventually(t, 20*time.Second, "the port answers", func() bool {
				c, err := net.Dial("tcp", at)
				if err == nil {
					c.Close()
				}
				return err == nil && fetch(t, at) == "pong"
			})
		})
	}
}

// sixth: containers reach each other by IPv6 and by name, and the machine them.
func (m *machine) sixth(serve string) {
	t := m.t
	m.dockerOK("run", "-d", "--name", "six", "--network", "net6", "-p", "[::1]:23190:80", "busybox", "sh", "-c", strings.Replace(serve, "-p 80", "-p [::]:80", 1))
	defer m.docker("rm", "-f", "six")
	ip6 := m.dockerOK("inspect", "-f", "{{.NetworkSettings.Networks.net6.GlobalIPv6Address}}/{{.NetworkSettings.Networks.net6.GlobalIPv6PrefixLen}} {{.NetworkSettings.Networks.net6.IPv6Gateway}}", "six")
	if !regexp.MustCompile(`^fd00:231::\w+/64 fd00:231::1$`).MatchString(ip6) {
		t.Errorf("inspect: %s", ip6)
	}
	addr, _, _ := strings.Cut(ip6, "/")
	eventually(t, 20*time.Second, "the machine reaches it", func() bool {
		c, err := net.Dial("tcp", "["+addr+"]:80")
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	if got := fetch(t, "["+addr+"]:80"); got != "pong" {
		t.Errorf("from the machine: %q", got)
	}
	if got := fetch(t, "[::1]:23190"); got != "pong" {
		t.Errorf("published on ::1: %q", got)
	}
	if out := m.dockerOK("run", "--rm", "--network", "net6", "busybox", "sh", "-c", "wget -qO- http://["+addr+"]/; nslookup -type=aaaa six 127.0.0.11 | grep -o "+addr); out != "pong\n"+addr {
		t.Errorf("from another one: %q", out)
	}
	// One that nobody has given a subnet has one of its own.
	m.dockerOK("network", "create", "--ipv6", "auto6")
	if out := m.dockerOK("run", "--rm", "--network", "auto6", "busybox", "sh", "-c", "ip -6 -o addr show dev eth0 scope global"); !regexp.MustCompile(`inet6 fd[0-9a-f:]+/64`).MatchString(out) {
		t.Errorf("auto6: %s", out)
	}
	// Networks are isolated from each other in both families.
	if out := m.docker("run", "--rm", "--network", "auto6", "busybox", "wget", "-T", "1", "-qO-", "http://["+addr+"]/"); out.code == 0 {
		t.Errorf("another network reaches it: %s", out)
	}
	m.dockerOK("network", "rm", "auto6")
}

// moves connects and disconnects a running container.
func (m *machine) moves() {
	t := m.t
	m.dockerOK("network", "create", "second")
	m.dockerOK("run", "-d", "--name", "mover", "--network", "net4", "-p", "127.0.0.1:23195:80", "busybox", "sh", "-c", "mkdir /www; echo pong > /www/index.html; exec httpd -f -p 80 -h /www")
	m.dockerOK("run", "-d", "--name", "waiter", "--network", "second", "busybox", "sleep", "1000")
	defer m.docker("rm", "-f", "mover", "waiter")
	m.dockerOK("network", "connect", "--alias", "nick", "--ip", "10.231.1.44", "--ip6", "fd00:231::44", "net6", "mover")
	m.dockerOK("network", "connect", "--alias", "nick", "--link", "waiter:w", "second", "mover")
	if out := m.dockerOK("exec", "waiter", "wget", "-qO-", "http://nick/"); out != "pong" {
		t.Errorf("by its alias: %q", out)
	}
	if out := m.dockerOK("exec", "mover", "sh", "-c", "ip -o addr show eth1 | grep -o -e 10.231.1.44 -e fd00:231::44; nslookup w 127.0.0.11 | grep -c '^Address'"); !strings.HasPrefix(out, "10.231.1.44\nfd00:231::44") {
		t.Errorf("addresses: %q", out)
	}
	// Without its first network the routes and the published port follow.
	m.dockerOK("network", "disconnect", "net4", "mover")
	if out := m.dockerOK("exec", "mover", "ip", "route", "show", "default"); !strings.Contains(out, "eth") {
		t.Errorf("default route: %q", out)
	}
	if got := fetch(t, "127.0.0.1:23195"); got != "pong" {
		t.Errorf("published: %q", got)
	}
	m.dockerOK("network", "disconnect", "net6", "mover")
	m.dockerOK("network", "disconnect", "second", "mover")
	if out := m.dockerOK("exec", "mover", "sh", "-c", "ip -o link | awk '{print $2}'"); out != "lo:" {
		t.Errorf("links on no network: %q", out)
	}
	if r := m.docker("network", "rm", "net4"); r.code == 0 || !strings.Contains(r.err, "server") {
		t.Errorf("a network in use is removed: %s", r)
	}
	m.dockerOK("rm", "-f", "mover", "waiter")
	m.dockerOK("network", "rm", "second")
}

// endpointOptions are those that Debian's client cannot say.
func (m *machine) endpointOptions() {
	type object = map[string]any
	body := func(inside string, endpoints object) object {
		return object{"Image": "busybox", "Cmd": []string{"sh", "-c", inside}, "HostConfig": object{"NetworkMode": "net4"},
			"NetworkingConfig": object{"EndpointsConfig": endpoints}}
	}
	const gateway = "ip route | awk '/default/ {print $3}'"
	m.checkCreate(body(gateway, object{"net4": object{}, "net6": object{"GwPriority": 7}}), "10.231.1.1", 201)
	m.checkCreate(body(gateway, object{"net4": object{"GwPriority": 8}, "net6": object{"GwPriority": 7}}), "10.231.0.1", 201)
	m.checkCreate(body("cat /sys/class/net/eth0/address", object{"net4": object{"MacAddress": "02:00:00:00:00:77"}}), "02:00:00:00:00:77", 201)
	m.checkCreate(body("ip -o link | awk '{print $2}' | cut -d@ -f1", object{"net4": object{"DriverOpts": object{"com.docker.network.endpoint.ifname": "mine0"}}}), "lo:\nmine0", 201)
	m.checkCreate(body("true", object{"net4": object{"DriverOpts": object{"com.docker.network.endpoint.sysctls": "x"}}}), "endpoint.sysctls", 501)
	m.checkCreate(body("ip -o addr show | grep -c -e 10.231.0.66 -e fd00:231::66", object{
		"net4": object{"IPAMConfig": object{"IPv4Address": "10.231.0.66"}},
		"net6": object{"IPAMConfig": object{"IPv6Address": "fd00:231::66"}}}), "2", 201)
}

// networkForms are the flags of `docker network create`.
func (m *machine) networkForms() {
	t := m.t
	out := m.dockerOK("network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}")
	for _, want := range []string{"bridge bridge local", "host host local", "none null local"} {
		if !strings.Contains(out, want) {
			t.Errorf("network ls has no %q:\n%s", want, out)
		}
	}
	m.dockerOK("network", "create", "--driver", "bridge", "--subnet", "10.232.0.0/16", "--ip-range", "10.232.5.0/24", "--gateway", "10.232.0.9", "--aux-address", "router=10.232.5.0",
		"--aux-address", "second=10.232.5.1", "--label", "a=b", "-o", "com.docker.network.bridge.name=br-"+m.tag, "-o", "com.docker.network.driver.mtu=1300",
		"-o", "com.docker.network.bridge.enable_icc=false", "-o", "com.docker.network.bridge.enable_ip_masquerade=true", "-o", "com.docker.network.bridge.host_binding_ipv4=127.0.0.1", "full")
	if out := m.dockerOK("run", "--rm", "--network", "full", "busybox", "sh", "-c", "ip -o addr show eth0 | awk '{print $4}' | head -1; ip route | awk '/default/ {print $3}'; cat /sys/class/net/eth0/mtu"); out != "10.232.5.2/16\n10.232.0.9\n1300" {
		t.Errorf("in the network: %q", out)
	}
	if out := m.dockerOK("network", "inspect", "-f", "{{range .IPAM.Config}}{{.Subnet}} {{.IPRange}} {{.Gateway}} {{.AuxiliaryAddresses}}{{end}} {{.Labels}}", "full"); out != "10.232.0.0/16 10.232.5.0/24 10.232.0.9 map[router:10.232.5.0 second:10.232.5.1] map[a:b]" {
		t.Errorf("inspect: %q", out)
	}
	if _, err := os.Stat("/sys/class/net/br-" + m.tag); err != nil {
		t.Error(err)
	}
	id := m.dockerOK("run", "-d", "--network", "full", "-p", "80", "busybox", "sleep", "1000")
	if out := m.dockerOK("port", id); !regexp.MustCompile(`^80/tcp -> 127.0.0.1:\d+$`).MatchString(out) {
		t.Errorf("bound to %q", out)
	}
	m.dockerOK("rm", "-f", id)
	m.dockerOK("network", "rm", "full")
	for _, c := range []struct{ flags, words string }{
		{"--driver ipvlan", "ipvlan"}, {"--driver overlay", "overlay"}, {"--driver macvlan", "parent"},
		{"-o com.docker.network.bridge.no_such=1", "no_such"}, {"--ipam-driver other", "other"}, {"--ipam-opt a=b", "IPAM options"},
		{"--subnet 10.231.0.0/24", "overlaps"}, {"--subnet 10.233.0.0/24 --gateway 10.234.0.1", "10.234.0.1"}, {"--subnet 10.233.0.0/24 --ip-range 10.0.0.0/8", "range"},
		{"--gateway 10.233.0.1", "subnet|Subnet"}, {"--subnet fd00:233::/64", "IPv6"}, {"--scope swarm", "swarm"}, {"--config-only", "config-only"}, {"--ingress", "ingress"},
		{"--subnet nonsense", "nonsense|CIDR"},
	} {
		r := m.docker(append(append([]string{"network", "create"}, strings.Fields(c.flags)...), "refused")...)
		if r.code == 0 || !regexp.MustCompile(c.words).MatchString(r.err) {
			t.Errorf("want a refusal with %q: %s", c.words, r)
		}
	}
}

// macvlan puts a container on the network behind one of this machine's links.
func (m *machine) macvlan() {
	t := m.t
	o := newOutside(t, m.tag, "10.235.0")
	m.dockerOK("network", "create", "-d", "macvlan", "--subnet", "10.235.0.0/24", "--gateway", "10.235.0.2", "--ip-range", "10.235.0.128/25", "-o", "parent=gto"+m.tag, "lan")
	m.dockerOK("run", "-d", "--name", "neighbour", "--network", "lan", "busybox", "sh", "-c", "mkdir /www; echo pong > /www/index.html; exec httpd -f -p 80 -h /www")
	ip := m.dockerOK("inspect", "-f", "{{.NetworkSettings.Networks.lan.IPAddress}}", "neighbour")
	eventually(t, 20*time.Second, "the outside reaches it by its own address", func() bool { return o.get(ip) == "pong" })
	if r := m.docker("run", "--rm", "--network", "lan", "-p", "80", "busybox", "true"); r.code == 0 || !strings.Contains(r.err, "macvlan") {
		t.Errorf("a published port of a macvlan: %s", r)
	}
	if out := m.dockerOK("network", "inspect", "-f", "{{.Driver}} {{.Options}}", "lan"); !strings.HasPrefix(out, "macvlan map[parent:gto") {
		t.Errorf("%q", out)
	}
	m.dockerOK("rm", "-f", "neighbour")
	m.dockerOK("network", "rm", "lan")
}
