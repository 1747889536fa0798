package cli

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"gantry/client"

	"github.com/google/go-cmp/cmp"
)

func TestAddresses(t *testing.T) {
	port := func(ip string, private, public uint16, kind string) client.PortSummary {
		return client.PortSummary{IP: netip.MustParseAddr(ip), PrivatePort: private, PublicPort: public, Type: kind}
	}
	both := []client.PortSummary{port("0.0.0.0", 80, 8080, "tcp"), port("::", 80, 8080, "tcp")}
	replicas := func(service string, ports ...client.PortSummary) replica {
		r := replica{service: service}
		r.Ports = ports
		return r
	}
	got := addresses([]replica{
		replicas("web", both...), replicas("web", both...),
		replicas("api", port("0.0.0.0", 80, 23000, "tcp"), port("192.168.7.1", 80, 8081, "tcp"), port("0.0.0.0", 53, 5353, "udp"), client.PortSummary{PrivatePort: 9000, Type: "tcp"}),
		replicas("my-web.2", port("::", 443, 8443, "tcp")), replicas("my_web_2", port("::1", 443, 9443, "tcp")),
		replicas("2nd", port("127.0.0.1", 1, 2, "tcp")),
	}, loopback)
	want := []address{
		{"_2ND_1", "127.0.0.1:2"},
		{"API_53_UDP", "127.0.0.1:5353"}, {"API_80", "127.0.0.1:23000"}, {"API_80_2", "192.168.7.1:8081"},
		{"MY_WEB_2_443", "[::1]:8443"}, {"MY_WEB_2_443_2", "[::1]:9443"},
		{"WEB_80", "127.0.0.1:8080"},
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(address{})); d != "" {
		t.Error(d)
	}
	if at := addresses([]replica{replicas("web", both...)}, "build.example.com"); at[0].value != "build.example.com:8080" {
		t.Errorf("on another machine: %v", at)
	}
}

func TestMachineOf(t *testing.T) {
	for host, want := range map[string]string{
		"unix:///run/gantry/gantry.sock": "127.0.0.1", "tcp://build.example.com:2376": "build.example.com", "tcp://[fd00::1]:2376": "fd00::1", "%": "127.0.0.1",
	} {
		if got := machineOf(host); got != want {
			t.Errorf("%s: %s, want %s", host, got, want)
		}
	}
}

// A shell reads back what was quoted for it.
func TestQuoted(t *testing.T) {
	for _, text := range []string{"", "127.0.0.1:8080", "[::1]:80", "it's", "$HOME `id` \"x\" \\ \n;&*"} {
		out, err := exec.Command("sh", "-c", "printf %s "+quoted(text)).Output()
		if err != nil || string(out) != text {
			t.Errorf("%q became %q: %v", text, out, err)
		}
	}
	if q := quoted("127.0.0.1:8080"); strings.Contains(q, "'") {
		t.Errorf("%s is quoted without need", q)
	}
}
