package runtime

import (
	"slices"
	"strings"
	"testing"
	"time"

	"gantry/runtime/spec"
)

// server is a container with a web server that answers /ok, and 404 elsewhere,
// once a file says that it may begin.
func server(listen string) Config {
	return box("sh", "-c", `mkdir -p /www; echo fine >/www/ok; until [ -f /tmp/go ]; do sleep 0.02; done; exec httpd -f -p `+listen+` -h /www`)
}

func (h *house) goOn(t *testing.T, id string) {
	t.Helper()
	if code, _ := h.exec(t, id, ExecConfig{Command: []string{"touch", "/tmp/go"}}, nil); code != 0 {
		t.Fatal("no file made")
	}
}

// A container is starting while its port takes no connection, healthy when it
// does, and unhealthy when it no longer does; no process is made for it inside.
func TestProbeFromOutside(t *testing.T) {
	h := newHouse(t)
	for name, test := range map[string][]string{"tcp": {"TCP", "8080"}, "http": {"HTTP", "8080/ok"}} {
		for listen, mode := range map[string]string{"8080": "", "127.0.0.1:8080": "none", "[::1]:8080": ""} {
			cfg := server(listen)
			cfg.Network.Mode = mode
			cfg.Healthcheck = &spec.Healthcheck{Test: test, Interval: 20 * time.Millisecond, Retries: 2, StartPeriod: time.Minute}
			c := h.start(t, cfg)
			eventually(t, "a probe is refused", func() bool { return strings.Contains(h.lastCheck(t, c.ID), "connection refused") })
			if s := h.inspect(t, c.ID).Health.Status; s != Starting {
				t.Errorf("%s %s: %s before it listens", name, listen, s)
			}
			h.goOn(t, c.ID)
			must(t, h.e.AwaitHealthy(background(t), c.ID))
			_, out := h.exec(t, c.ID, ExecConfig{Command: []string{"sh", "-c", "cat /proc/[0-9]*/comm"}}, nil)
			inside := strings.Fields(out)
			// httpd has a process for each connection; sh asks, by a process of its own.
			strange := slices.DeleteFunc(slices.Clone(inside), func(comm string) bool { return comm == "httpd" || comm == "sh" || comm == "cat" })
			if len(strange) > 0 || !slices.Contains(inside, "httpd") {
				t.Errorf("%s %s: its processes are %q", name, listen, inside)
			}
			said := map[string]string{"tcp": "port 8080 takes connections", "http": "200 OK\nfine\n"}[name]
			if got := h.lastCheck(t, c.ID); got != said {
				t.Errorf("%s %s: %q", name, listen, got)
			}
		}
	}
}

func TestProbeFromOutsideFails(t *testing.T) {
	h := newHouse(t)
	cfg := server("8080")
	cfg.Healthcheck = &spec.Healthcheck{Test: []string{"HTTP", "8080/missing"}, Interval: 20 * time.Millisecond, Retries: 2}
	c := h.start(t, cfg)
	h.goOn(t, c.ID)
	eventually(t, "it is unhealthy", func() bool {
		return h.inspect(t, c.ID).Health.Status == Unhealthy && strings.HasPrefix(h.lastCheck(t, c.ID), "404 Not Found\n")
	})
	if code, _ := h.exec(t, c.ID, ExecConfig{Command: []string{"touch", "/www/missing"}}, nil); code != 0 {
		t.Fatal("no file made")
	}
	eventually(t, "it is healthy", func() bool { return h.inspect(t, c.ID).Health.Status == Healthy })

	cfg = box("nc", "-ll", "-p", "8080", "-e", "sleep", "1000") // says nothing
	cfg.Healthcheck = &spec.Healthcheck{Test: []string{"HTTP", "8080"}, Interval: 20 * time.Millisecond, Timeout: 50 * time.Millisecond, Retries: 1}
	c = h.start(t, cfg)
	eventually(t, "it does not answer in time", func() bool {
		log := h.inspect(t, c.ID).Health.Log
		return len(log) > 0 && log[len(log)-1].ExitCode == -1 && strings.HasSuffix(log[len(log)-1].Output, "no answer within 50ms")
	})
}

// Who shares another container's network is probed there.
func TestProbeFromOutsideInAnothersNetwork(t *testing.T) {
	h := newHouse(t)
	peer := h.start(t, box("sleep", "1000"))
	cfg := server("8080")
	cfg.Network.Mode = "container:" + peer.ID
	cfg.Healthcheck = &spec.Healthcheck{Test: []string{"TCP", "8080"}, Interval: 20 * time.Millisecond, StartPeriod: time.Minute}
	c := h.start(t, cfg)
	h.goOn(t, c.ID)
	must(t, h.e.AwaitHealthy(background(t), c.ID))
}
