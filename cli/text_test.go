package cli

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"gantry/client"

	"github.com/google/go-cmp/cmp"
)

func TestTable(t *testing.T) {
	var b strings.Builder
	var tab table
	tab.add("NAME", "PORTS", "STATUS")
	tab.add("naïve-1", "", "Up")
	tab.add("x", "80/tcp", "")
	if err := tab.write(&b); err != nil {
		t.Fatal(err)
	}
	want := "NAME      PORTS    STATUS\nnaïve-1            Up\nx         80/tcp\n"
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Error(d)
	}
}

func TestFormats(t *testing.T) {
	l := list[stackRow]{quiet: "Name", array: true, columns: []column{{"NAME", "Name"}, {"STATUS", "Status"}, {"CONFIG FILES", "ConfigFiles"}},
		rows: []stackRow{{"shop", "running(2)", "/a <b>.yaml"}, {"x", "exited(1)", ""}}}
	for _, tt := range []struct {
		format string
		quiet  bool
		want   string
	}{
		{"", false, "NAME   STATUS       CONFIG FILES\nshop   running(2)   /a <b>.yaml\nx      exited(1)\n"},
		{"table", true, "shop\nx\n"},
		{"json", false, `[{"Name":"shop","Status":"running(2)","ConfigFiles":"/a <b>.yaml"},{"Name":"x","Status":"exited(1)","ConfigFiles":""}]` + "\n"},
		{"{{.Name}}:{{upper .Status}}", false, "shop:RUNNING(2)\nx:EXITED(1)\n"},
		{`table {{.Status}}\t{{.ConfigFiles}}`, false, "STATUS       CONFIG FILES\nrunning(2)   /a <b>.yaml\nexited(1)\n"},
		{"{{json .Name}} {{truncate .Status 3}} {{join (split .Name \"h\") \"-\"}} {{title .Name}} {{pad .Name 1 1}}|", false,
			"\"shop\" run s-op Shop  shop |\n\"x\" exi x X  x |\n"},
	} {
		var b strings.Builder
		if err := l.print(&b, tt.format, tt.quiet); err != nil {
			t.Errorf("%q: %v", tt.format, err)
		}
		if d := cmp.Diff(tt.want, b.String()); d != "" {
			t.Errorf("%q: %s", tt.format, d)
		}
	}
	for format, want := range map[string]string{"{{.Name": "--format: ", "{{.Nothing}}": "Nothing"} {
		if err := l.print(&strings.Builder{}, format, false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v", format, err)
		}
	}
	var b strings.Builder
	if err := (list[stackRow]{array: true}).print(&b, "json", false); err != nil || b.String() != "[]\n" {
		t.Errorf("no rows: got %q, %v", b.String(), err)
	}
}

func TestPorts(t *testing.T) {
	port := func(ip string, private, public uint16, kind string) client.PortSummary {
		p := client.PortSummary{PrivatePort: private, PublicPort: public, Type: kind}
		if ip != "" {
			p.IP = netip.MustParseAddr(ip)
		}
		return p
	}
	for _, tt := range []struct {
		ports []client.PortSummary
		want  string
	}{
		{nil, ""},
		{[]client.PortSummary{port("", 80, 0, "tcp")}, "80/tcp"},
		{[]client.PortSummary{port("::", 80, 8080, "tcp"), port("0.0.0.0", 80, 8080, "tcp")}, "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"},
		{[]client.PortSummary{port("127.0.0.1", 82, 8082, "tcp"), port("127.0.0.1", 80, 8080, "tcp"), port("127.0.0.1", 81, 8081, "tcp")}, "127.0.0.1:8080-8082->80-82/tcp"},
		{[]client.PortSummary{port("127.0.0.1", 80, 8080, "tcp"), port("127.0.0.1", 81, 9000, "tcp")}, "127.0.0.1:8080->80/tcp, 127.0.0.1:9000->81/tcp"},
		{[]client.PortSummary{port("", 53, 0, "udp"), port("", 53, 0, "tcp"), port("", 54, 0, "tcp")}, "53-54/tcp, 53/udp"},
	} {
		if got := portsText(tt.ports); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

func TestSpans(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Hour: "Less than a second", 0: "Less than a second", time.Second: "1 second", 59 * time.Second: "59 seconds",
		time.Minute: "About a minute", 59 * time.Minute: "59 minutes", time.Hour: "About an hour", 47 * time.Hour: "47 hours",
		48 * time.Hour: "2 days", 15 * 24 * time.Hour: "2 weeks", 70 * 24 * time.Hour: "2 months", 800 * 24 * time.Hour: "2 years",
	} {
		if got := span(d); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
}

func TestSizes(t *testing.T) {
	for n, want := range map[int64]string{0: "0B", 999: "999B", 1000: "1kB", 2028000: "2.028MB", 4<<30 + 1: "4.295GB"} {
		if got := bytesText(n); got != want {
			t.Errorf("%d: got %q, want %q", n, got, want)
		}
	}
	if got := binaryText(1536); got != "1.5KiB" {
		t.Errorf("got %q", got)
	}
}

func TestTimes(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"10m": now.Add(-10 * time.Minute), "0s": now, "1767355200.5": time.Unix(1767355200, 5e8),
		"2026-01-02T03:04:05Z": time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), "2026-01-02": time.Date(2026, 1, 2, 0, 0, 0, 0, time.Local),
	} {
		if got, err := parseTime("--since", text, now); err != nil || !got.Equal(want) {
			t.Errorf("%s: got %v, %v; want %v", text, got, err, want)
		}
	}
}

func TestStats(t *testing.T) {
	r := asReplica(container("shop", "web", 1, "running"))
	var before, now client.Stats
	before.Read = time.Unix(100, 0)
	now.Read = time.Unix(101, 0)
	before.CPUStats.CPUUsage.TotalUsage = 1e9
	now.CPUStats.CPUUsage.TotalUsage = 15e8
	now.MemoryStats.Usage, now.MemoryStats.Limit = 3<<20, 10<<20
	now.MemoryStats.Stats = map[string]uint64{"inactive_file": 1 << 20}
	now.PidsStats.Current = 7
	got := asStatsRow(r, now, before, false)
	if got.CPUPerc != "50.00%" || got.MemUsage != "2MiB / 10MiB" || got.MemPerc != "20.00%" || got.PIDs != "7" || len(got.ID) != 12 {
		t.Errorf("got %+v", got)
	}
	if got := asStatsRow(r, client.Stats{}, client.Stats{}, false); got.CPUPerc != "--" || got.Name != "shop-web-1" {
		t.Errorf("without a sample: got %+v", got)
	}
}

func TestWaves(t *testing.T) {
	var list []replica
	for name, deps := range map[string]string{"a": "", "b": "a:service_started:false", "c": "b:service_healthy:true,a:service_started:false", "x": "y:service_started:false", "y": "x:service_started:false"} {
		c := container("p", name, 1, "running")
		c.Labels["com.docker.compose.depends_on"] = deps
		list = append(list, asReplica(c))
	}
	at := map[string]int{}
	for i, wave := range waves(list, false) {
		for _, r := range wave {
			at[r.service] = i
		}
	}
	if len(at) != 5 || at["a"] >= at["b"] || at["b"] >= at["c"] {
		t.Errorf("got %v", at)
	}
	if w := waves(list, true); w[len(w)-1][0].service == "c" {
		t.Error("reversed, dependents come first")
	}
}
