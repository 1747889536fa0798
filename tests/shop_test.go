package tests

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// shop is examples/shop on a machine, on a port of its own.
type shop struct {
	*machine
	dir  string
	port int
}

func newShop(t testing.TB) *shop {
	t.Helper()
	m := bareMachine(t)
	s := &shop{machine: m, dir: filepath.Join(repo, "examples", "shop"), port: freePort(t)}
	m.env = append(m.env, "SHOP_PORT="+strconv.Itoa(s.port))
	m.ok("image", "load", "-i", archive(t, "shop"))
	return s
}

// with is the shop for a subtest.
func (s *shop) with(t testing.TB) *shop {
	sub := *s
	sub.machine = s.machine.with(t)
	return &sub
}

func freePort(t testing.TB) int { return freePorts(t, 1) }

// freePorts is the first of n free ports in a row, for tcp and udp. They are
// below those that the kernel gives to whoever connects (32768 and up), which
// any program on the machine may get at any moment.
func freePorts(t testing.TB, n int) int {
	t.Helper()
	for range 1000 {
		first := 20000 + rand.IntN(12000-n)
		if free(first, n) {
			return first
		}
	}
	t.Fatalf("no %d free ports in a row", n)
	return 0
}

func free(first, n int) bool {
	for port := first; port < first+n; port++ {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return false
		}
		l.Close()
		u, err := net.ListenPacket("udp", fmt.Sprintf(":%d", port))
		if err != nil {
			return false
		}
		u.Close()
	}
	return true
}

func (s *shop) url(path string) string { return fmt.Sprintf("http://127.0.0.1:%d%s", s.port, path) }

// fresh is a client that opens a connection for every request.
func fresh(timeout time.Duration) *http.Client {
	return &http.Client{Timeout: timeout, Transport: &http.Transport{DisableKeepAlives: true}}
}

func get(c *http.Client, url string) (string, error) {
	resp, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return string(body), err
}

// up brings the shop up and waits until it answers: nginx has no health check,
// and is started a moment before it listens.
func (s *shop) up() {
	s.t.Helper()
	s.okIn(s.dir, "up", "-d", "--wait")
	var said string
	eventually(s.t, 5*time.Second, "the shop answers", func() bool {
		var err error
		said, err = get(fresh(time.Second), s.url("/"))
		return err == nil
	})
	if !strings.HasPrefix(said, "Welcome! Greetings from ") { // its config says so
		s.t.Errorf("the shop says %q", said)
	}
}

// items are the names in the shop, the newest first.
func (s *shop) items() []string {
	s.t.Helper()
	body, err := get(fresh(5*time.Second), s.url("/items"))
	if err != nil {
		s.t.Fatal(err)
	}
	var items []struct{ Name string }
	if err := json.Unmarshal([]byte(body), &items); err != nil {
		s.t.Fatalf("%v: %s", err, body)
	}
	var names []string
	for _, i := range items {
		names = append(names, i.Name)
	}
	return names
}

func (s *shop) add(name string) {
	s.t.Helper()
	resp, err := fresh(5*time.Second).PostForm(s.url("/items"), url.Values{"name": {name}})
	if err != nil {
		s.t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		s.t.Fatal(resp.Status)
	}
}

// load sends requests, one connection each, until stopped, and collects what
// fails.
type load struct {
	stop   chan struct{}
	wg     sync.WaitGroup
	sent   atomic.Int64
	mu     sync.Mutex
	failed []error
	hosts  map[string]int // which replica answered how often
}

func startLoad(url string, clients int) *load {
	l := &load{stop: make(chan struct{}), hosts: map[string]int{}}
	for range clients {
		l.wg.Go(func() {
			c := fresh(10 * time.Second)
			for {
				select {
				case <-l.stop:
					return
				default:
				}
				body, err := get(c, url)
				l.sent.Add(1)
				l.mu.Lock()
				if err != nil {
					l.failed = append(l.failed, err)
				} else if host, _, ok := strings.Cut(body, "."); ok {
					l.hosts[host]++
				}
				l.mu.Unlock()
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	return l
}

// end stops the load. No request may have failed.
func (l *load) end(t testing.TB) {
	t.Helper()
	close(l.stop)
	l.wg.Wait()
	if len(l.failed) > 0 {
		t.Errorf("%d of %d requests failed, the first with: %v", len(l.failed), l.sent.Load(), l.failed[0])
	}
	if l.sent.Load() < 50 {
		t.Errorf("only %d requests were sent: the load shows nothing", l.sent.Load())
	}
}

// The shop's whole life: it comes up, answers, keeps its rows over down and up,
// and loses them with down -v.
func TestShop(t *testing.T) {
	s := newShop(t)
	s.up()

	l := startLoad(s.url("/"), 4)
	time.Sleep(500 * time.Millisecond)
	l.end(t)
	if len(l.hosts) != 2 {
		t.Errorf("both replicas should answer: %v", l.hosts)
	}

	t.Run("a second up has nothing to do", func(t *testing.T) {
		s := s.with(t)
		if r := s.in(s.dir, "plan"); r.code != 0 {
			t.Errorf("plan: %s", r)
		}
	})
	t.Run("the job has ended well", func(t *testing.T) {
		s := s.with(t)
		out := s.okIn(s.dir, "ps", "-a", "--format", "json")
		if !strings.Contains(out, "shop-migrate-1") || !strings.Contains(out, `"ExitCode":0`) {
			t.Errorf("ps: %s", out)
		}
	})
	t.Run("the database has no way out", func(t *testing.T) {
		s := s.with(t)
		r := s.in(s.dir, "exec", "-T", "db", "bash", "-c", "echo > /dev/tcp/192.0.2.1/9")
		if r.code == 0 {
			t.Error("a container on an internal network reached outside")
		}
	})
	t.Run("the secret is where it belongs", func(t *testing.T) {
		s := s.with(t)
		want, err := os.ReadFile(filepath.Join(s.dir, "db", "password.txt"))
		if err != nil {
			t.Fatal(err)
		}
		if got := s.okIn(s.dir, "exec", "-T", "db", "cat", "/run/secrets/db_password"); got != string(want) {
			t.Errorf("got %q", got)
		}
		if kind := s.okIn(s.dir, "exec", "-T", "db", "stat", "-f", "-c", "%T", "/run/secrets/db_password"); strings.TrimSpace(kind) != "tmpfs" {
			t.Errorf("it lies on %s", kind)
		}
	})
	t.Run("scaled, every replica answers", func(t *testing.T) {
		s := s.with(t)
		s.okIn(s.dir, "scale", "web=4")
		l := startLoad(s.url("/"), 4)
		time.Sleep(4 * time.Second) // the new ones are probed, and nginx asks for names once a second
		l.end(t)
		if len(l.hosts) != 4 {
			t.Errorf("four replicas should answer: %v", l.hosts)
		}
		s.okIn(s.dir, "scale", "web=2")
	})
	t.Run("rows survive down and up", func(t *testing.T) {
		s := s.with(t)
		s.add("apple")
		s.okIn(s.dir, "down")
		if _, err := get(fresh(time.Second), s.url("/")); err == nil {
			t.Error("down, and still it answers")
		}
		s.up()
		if got := s.items(); len(got) != 1 || got[0] != "apple" {
			t.Errorf("items %v", got)
		}
	})
	t.Run("and are gone after down -v", func(t *testing.T) {
		s := s.with(t)
		s.okIn(s.dir, "down", "-v")
		s.up()
		if got := s.items(); len(got) != 0 {
			t.Errorf("items %v", got)
		}
	})
	t.Run("the daemon dies under load", func(t *testing.T) { daemonDiesUnderLoad(t, s) })
}

// daemonDiesUnderLoad kills the daemon while the shop works: nobody notices.
func daemonDiesUnderLoad(t *testing.T, s *shop) {
	before := s.okIn(s.dir, "ps", "-q")
	l := startLoad(s.url("/"), 4)
	var gaps []time.Duration
	for range 5 {
		time.Sleep(300 * time.Millisecond)
		s.kill("gantryd")
		begin := time.Now()
		s.okIn(s.dir, "ps", "-q")
		gaps = append(gaps, time.Since(begin))
	}
	l.end(t)
	slices.Sort(gaps)
	t.Logf("after its death the daemon answered within %v", gaps)
	if median := gaps[len(gaps)/2]; median > 300*time.Millisecond {
		t.Errorf("the daemon answered after %s (median), want 300 ms at most", median)
	}
	if after := s.okIn(s.dir, "ps", "-q"); after != before {
		t.Errorf("containers before:\n%safter:\n%s", before, after)
	}
	t.Run("a crash after it is repaired", func(t *testing.T) {
		s := s.with(t)
		s.in(s.dir, "exec", "-T", "cache", "redis-cli", "shutdown", "nosave") // it takes the exec along
		eventually(t, 5*time.Second, "the cache is back", func() bool {
			return s.in(s.dir, "exec", "-T", "cache", "redis-cli", "ping").code == 0
		})
	})
}
