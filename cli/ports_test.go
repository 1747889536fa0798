package cli

import (
	"net/netip"
	"strings"
	"testing"

	"gantry/client"
	"gantry/compose"
	"gantry/scheduler"

	"github.com/google/go-cmp/cmp"
)

func TestPortsAndWhoReachesThem(t *testing.T) {
	d := newDaemon(t)
	published := func(ip string, public, private uint16) client.PortSummary {
		p := client.PortSummary{PrivatePort: private, PublicPort: public, Type: "tcp"}
		if ip != "" {
			p.IP = netip.MustParseAddr(ip)
		}
		return p
	}
	web, twin, db, agent := container("shop", "web", 1, "running"), container("shop", "web", 2, "running"), container("shop", "db", 1, "running"), container("shop", "agent", 1, "running")
	web.Ports = []client.PortSummary{published("0.0.0.0", 8080, 80), published("::", 8080, 80), published("192.168.1.5", 9000, 9000), published("203.0.113.5", 443, 443), published("", 0, 81)}
	twin.Ports = web.Ports
	db.Ports = []client.PortSummary{published("127.0.0.1", 5432, 5432), published("::1", 5432, 5432)}
	agent.HostConfig.NetworkMode = "host"
	d.say("GET /containers/json", []client.Container{web, twin, db, agent})
	d.say("GET /networks", []client.Network{})
	d.say("GET /info", client.Info{Warnings: []string{"a firewall drops what is forwarded"}})
	ports := func(args ...string) result {
		return run(t, nil, append([]string{"--host", d.host, "-p", "shop", "ports"}, args...)...)
	}
	r := ports()
	want := `SERVICE   PORT       PUBLISHED          REACHABLE FROM   DECIDED BY
agent     all                           everywhere       network_mode: host, where every port is the machine's own
db        5432/tcp   127.0.0.1:5432     loopback         its address of the host, 127.0.0.1
db        5432/tcp   [::1]:5432         loopback         its address of the host, ::1
web       80/tcp     0.0.0.0:8080       everywhere       the port names no address of the host
web       80/tcp     [::]:8080          everywhere       the port names no address of the host
web       443/tcp    203.0.113.5:443    everywhere       its address of the host, 203.0.113.5, which is public
web       9000/tcp   192.168.1.5:9000   local network    its address of the host, 192.168.1.5, which is private
`
	if d := cmp.Diff(want, r.out); d != "" || r.err != "warning: a firewall drops what is forwarded\n" {
		t.Error(d, r.err)
	}
	if r := ports("-a", "web", "--format", "{{.Port}} {{.Reach}}"); !strings.Contains(r.out, "81/tcp its networks\n") {
		t.Errorf("%+v", r)
	}
	p := &compose.Project{Name: "shop", Extensions: map[string]any{"x-gantry": map[string]any{"publish": "loopback"}}}
	d.say("GET /projects/shop/goal", scheduler.Goal{Project: p})
	if r := ports("db", "--format", "{{.Rule}}"); r.out != strings.Repeat("x-gantry.publish: loopback\n", 2) {
		t.Errorf("%+v", r)
	}
}
