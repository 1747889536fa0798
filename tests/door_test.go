package tests

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// webProgram builds tests/web, for containers to run.
func webProgram(t testing.TB, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "web")
	cmd := exec.Command("go", "build", "-ldflags", "-s -w", "-o", path, "./tests/web")
	cmd.Dir = repo
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build tests/web: %v\n%s", err, out)
	}
	return path
}

// clients are a hundred people who ask a published port and think a little
// before they ask again, either each time on a new connection or on one that
// they keep.
type clients struct {
	kind    string
	url     string
	stop    context.CancelFunc
	tasks   sync.WaitGroup
	mu      sync.Mutex
	answers map[string]int // who answered how often
	lately  map[string]bool
	failed  []failure
}

// failure is a request that got no answer.
type failure struct {
	asked  time.Time
	opened time.Time // the last connection that was made for it; zero: none
	err    error
}

const (
	manyClients = 100
	think       = 60 * time.Millisecond
)

func newClients(t testing.TB, kind, url string) *clients {
	ctx, stop := context.WithCancel(context.Background())
	c := &clients{kind: kind, url: url, stop: stop, answers: map[string]int{}, lately: map[string]bool{}}
	for i := range manyClients {
		c.tasks.Go(func() {
			time.Sleep(think * time.Duration(i) / manyClients)
			c.ask(ctx)
		})
	}
	t.Cleanup(c.end)
	return c
}

func (c *clients) end() {
	c.stop()
	c.tasks.Wait()
}

// ask is one client.
func (c *clients) ask(ctx context.Context) {
	var opened time.Time
	dial := &net.Dialer{Timeout: 5 * time.Second}
	transport := &http.Transport{DisableKeepAlives: c.kind == "new", DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		opened = time.Now()
		return dial.DialContext(ctx, network, addr)
	}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	for ctx.Err() == nil {
		asked := time.Now()
		answer, err := askOnce(client, c.url)
		c.mu.Lock()
		if err != nil {
			c.failed = append(c.failed, failure{asked, opened, err})
		} else {
			c.answers[answer]++
			c.lately[answer] = true
		}
		c.mu.Unlock()
		select {
		case <-time.After(think):
		case <-ctx.Done():
		}
	}
}

func askOnce(client *http.Client, url string) (string, error) {
	r, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s", r.Status)
	}
	return strings.TrimSpace(string(body)), err
}

// take gives what has happened since it was last called.
func (c *clients) take() (answers map[string]int, failed []failure) {
	c.mu.Lock()
	defer c.mu.Unlock()
	answers, failed = c.answers, c.failed
	c.answers, c.failed = map[string]int{}, nil
	return answers, failed
}

// crowd is both kinds of clients of one port.
type crowd []*clients

func newCrowd(t testing.TB, url string) crowd {
	return crowd{newClients(t, "new", url), newClients(t, "kept", url)}
}

// during does something while the crowd asks, and gives the requests that
// failed.
func (c crowd) during(t *testing.T, what string, do func()) (failed []failure) {
	t.Helper()
	for _, k := range c {
		k.take()
	}
	do()
	time.Sleep(200 * time.Millisecond)
	for _, k := range c {
		answers, lost := k.take()
		total := 0
		for _, n := range answers {
			total += n
		}
		t.Logf("%s, %s connections: %d requests answered by %d replicas, %d failed", what, k.kind, total, len(answers), len(lost))
		if total < manyClients {
			t.Errorf("%s, %s connections: only %d requests were answered", what, k.kind, total)
		}
		failed = append(failed, lost...)
	}
	return failed
}

// unharmed is during where no request may fail.
func (c crowd) unharmed(t *testing.T, what string, do func()) {
	t.Helper()
	for i, f := range c.during(t, what, do) {
		if i < 10 {
			t.Errorf("%s: asked at %s, connected %s before: %v", what, f.asked.Format("05.000"), f.asked.Sub(f.opened), f.err)
		}
	}
}

// reached waits until the crowd is answered by so many replicas.
func (c crowd) reached(t *testing.T, replicas int) {
	t.Helper()
	eventually(t, 10*time.Second, fmt.Sprintf("%d replicas answer", replicas), func() bool {
		time.Sleep(200 * time.Millisecond)
		c[0].mu.Lock()
		defer c[0].mu.Unlock()
		n := len(c[0].lately)
		clear(c[0].lately)
		return n == replicas
	})
}

// answeredBy waits until the crowd is answered by so many replicas of a version
// and by no other.
func (c crowd) answeredBy(t *testing.T, version string, replicas int) {
	t.Helper()
	eventually(t, 10*time.Second, fmt.Sprintf("%d replicas of version %s answer", replicas, version), func() bool {
		time.Sleep(200 * time.Millisecond)
		n := 0
		for _, k := range c {
			k.mu.Lock()
			for answer := range k.lately {
				if !strings.HasPrefix(answer, version+" ") {
					n = -1000
				}
				n++
			}
			if k.kind == "kept" {
				n -= len(k.lately)
			}
			clear(k.lately)
			k.mu.Unlock()
		}
		return n == replicas
	})
}

// One door, a hundred connections of each kind, and no failed request.
func TestNoFailedRequest(t *testing.T) {
	m := newMachine(t)
	port := freePort(t)
	web := webProgram(t, m.dir)
	service := func(version string) string {
		return fmt.Sprintf(`
services:
  web:
    image: busybox
    volumes: ["%s:/web:ro"]
    command: [/web, -after, 300ms, -version, %s, ":80"]
    ports: ["127.0.0.1:%d:80"]
    stop_grace_period: 500ms
    x-gantry: {healthcheck: {http: 80/, interval: 1s}}
    deploy: {replicas: 4, update_config: {parallelism: 2}, rollback_config: {parallelism: 2}}
`, web, version, port)
	}
	dir := m.project("door", service("one"))
	m.okIn(dir, "up", "-d", "--wait")
	all := newCrowd(t, fmt.Sprintf("http://127.0.0.1:%d", port))
	all.reached(t, 4)

	all.unharmed(t, "scale 4 to 12", func() {
		m.okIn(dir, "scale", "web=12")
		all.reached(t, 12)
	})
	all.unharmed(t, "scale 12 to 2", func() {
		m.okIn(dir, "scale", "web=2")
		all.reached(t, 2)
	})
	all.unharmed(t, "scale 2 to 4", func() {
		m.okIn(dir, "scale", "web=4")
		all.reached(t, 4)
	})
	all.unharmed(t, "a rolling update", func() {
		write(t, filepath.Join(dir, "compose.yaml"), service("two"))
		m.okIn(dir, "up", "-d", "--wait")
		all.answeredBy(t, "two", 4)
	})
	all.unharmed(t, "a rollback", func() {
		m.okIn(dir, "rollback", "web")
		all.answeredBy(t, "one", 4)
	})
	all.unharmed(t, "kill the daemon", func() {
		m.kill("gantryd")
		time.Sleep(500 * time.Millisecond)
		m.okIn(dir, "ps")
		all.reached(t, 4)
	})
	all.unharmed(t, "kill the keeper", func() {
		m.kill("gantry-runtime")
		time.Sleep(500 * time.Millisecond)
		m.okIn(dir, "ps")
		all.reached(t, 4)
	})
	// Whoever is connected to a replica that crashes, or connects within 50 ms,
	// may lose a request. Where the machine is busy with other tests all of us
	// are late, the daemon too: three tries.
	var late []failure
	for range 3 {
		if late = all.crash(t, m, "door-web-2"); len(late) == 0 {
			break
		}
		m.okIn(dir, "up", "-d")
		all.reached(t, 4)
	}
	for i, f := range late {
		if i < 10 {
			t.Errorf("after a crash: asked at %s, connected %s before: %v", f.asked.Format("05.000"), f.asked.Sub(f.opened), f.err)
		}
	}
}

// crash kills a replica of four and gives the requests that failed and should
// not have.
func (c crowd) crash(t *testing.T, m *machine, name string) (late []failure) {
	t.Helper()
	var crashed time.Time
	failed := c.during(t, "a crash", func() {
		pid := strings.TrimSpace(m.ok("container", "inspect", name, "--format", "{{.State.Pid}}"))
		kill9(t, pid)
		for alive(pid) { // it listens until the kernel has come to closing its sockets
			time.Sleep(time.Millisecond)
		}
		crashed = time.Now()
		c.reached(t, 3)
	})
	last := time.Duration(0)
	for _, f := range failed {
		last = max(last, f.opened.Sub(crashed))
		if f.opened.After(crashed.Add(50 * time.Millisecond)) {
			late = append(late, f)
		}
	}
	t.Logf("after a crash requests failed on connections opened for %s", last)
	return late
}

// A server that drops everything when it is told to stop loses no request
// either: by then nobody is connected, or asks on a connection that is kept and
// so tries again.
func TestDrainSparesAbruptServers(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	port := freePort(t)
	dir := m.project("abrupt", fmt.Sprintf(`
services:
  web:
    image: busybox
    volumes: ["%s:/web:ro"]
    command: [/web, -abrupt, -takes, 20ms, ":80"]
    ports: ["127.0.0.1:%d:80"]
    stop_grace_period: 500ms
    deploy: {replicas: 4}
`, webProgram(t, m.dir), port))
	m.okIn(dir, "up", "-d", "--wait")
	time.Sleep(time.Second)
	all := newCrowd(t, fmt.Sprintf("http://127.0.0.1:%d", port))
	all.reached(t, 4)
	all.unharmed(t, "scale 4 to 1", func() {
		m.okIn(dir, "scale", "web=1")
		all.reached(t, 1)
	})
}

// alive says whether a process has yet to end.
func alive(pid string) bool {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z") && !strings.HasPrefix(state, "X")
}

// A service with an address of its own: names mean that one, connections are
// shared by those who are ready, and it outlives the daemon.
func TestOneAddressPerService(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	dir := m.project("vip", fmt.Sprintf(`
x-gantry: {publish: loopback}
services:
  web:
    image: busybox
    volumes: ["%[1]s:/web:ro"]
    command: [/web, -takes, 0s, ":80"]
    ports: ["%[2]d:80"]
    stop_grace_period: 1s
    deploy: {replicas: 3, endpoint_mode: vip}
  client: {image: busybox, command: sleep 1000, stop_signal: SIGKILL, volumes: ["%[1]s:/web:ro"]}
`, webProgram(t, m.dir), freePort(t)))
	m.okIn(dir, "up", "-d", "--wait")
	ask := func() (address string, hosts map[string]bool) {
		t.Helper()
		out := m.okIn(dir, "exec", "-T", "client", "/web", "get", "web", "80")
		lines := strings.Fields(out)
		hosts = map[string]bool{}
		for i := 2; i < len(lines); i += 2 {
			hosts[lines[i]] = true
		}
		if len(lines) != 41 || strings.Contains(lines[0], ",") {
			t.Fatalf("one address and twenty answers are wanted: %q", out)
		}
		return lines[0], hosts
	}
	ready := func(n int) {
		t.Helper()
		all := strings.Repeat(fmt.Sprintf("%d/%d\n", n, n), n)
		eventually(t, 10*time.Second, "all replicas to be ready", func() bool {
			return m.okIn(dir, "ps", "web", "--format", "{{.Ready}}") == all
		})
	}
	ready(3) // until then it leads to those that are
	address, hosts := ask()
	_, more := ask() // twenty at random miss one of three once in a thousand times
	maps.Copy(hosts, more)
	if len(hosts) != 3 {
		t.Errorf("%s leads to %v", address, hosts)
	}
	m.kill("gantryd")
	m.okIn(dir, "scale", "web=2")
	if again, hosts := ask(); again != address || len(hosts) != 2 {
		t.Errorf("it was %s and is %s, and leads to %v", address, again, hosts)
	}
	ready(2)
	if out := m.okIn(dir, "ports", "--format", "{{.Service}} {{.Port}} {{.Reach}}, {{.Rule}}"); out != "web 80/tcp loopback, x-gantry.publish: loopback\n" {
		t.Errorf("ports: %s", out)
	}
}
