package tests

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Many clients at once, each with containers that live for a moment, beside
// others that do not read what they asked for. Nobody is held up, nothing but
// what is expected comes back, and nothing grows.
//
// `make test` gives it some seconds; `make load` the minutes that GANTRY_LOAD
// says, and then holds the daemon to its time for a list of 200 containers, too.
func TestLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a quarter of a minute")
	}
	duration, long := 6*time.Second, false
	if text := os.Getenv("GANTRY_LOAD"); text != "" {
		var err error
		if duration, err = time.ParseDuration(text); err != nil {
			t.Fatalf("GANTRY_LOAD: %v", err)
		}
		long = true
	}
	m := newMachine(t)
	l := &lives{m: m, http: m.httpClient(150)}
	defer l.http.CloseIdleConnections()

	t.Cleanup(l.clear)
	standing := 200
	l.side(standing, 8, func(n int) error {
		// Without a network, whose addresses are for those that come and go.
		id, err := l.create(fmt.Sprintf("standing-%d", n), "none", "sleep", "1000")
		if err == nil && long {
			err = l.call("POST", "/containers/"+id+"/start", nil, nil)
		}
		return err
	})
	flood, err := l.create("flood", "none", "sh", "-c", "i=0; while :; do i=$((i+1)); echo line $i of many, and it goes on and on and on; [ $((i%100)) = 0 ] && usleep 10000; done")
	if err == nil {
		err = l.call("POST", "/containers/"+flood+"/start", nil, nil)
	}
	if err != nil {
		t.Fatal(err)
	}

	l.run(max(duration/3, 5*time.Second), 100) // pools and caches fill
	l.http.CloseIdleConnections()
	time.Sleep(500 * time.Millisecond) // their ends are noticed
	before, host := l.measure(), m.snapshot()
	idle := l.idlers(flood)
	lines := l.lines(flood)
	took := l.run(duration, 100)
	if now := l.lines(flood); now <= lines {
		t.Errorf("nobody reads, and the container that writes stands still after %d lines", now)
	}
	for _, c := range idle {
		c.Close()
	}

	if l.done.Load() < int64(duration.Seconds()) {
		t.Errorf("only %d containers lived: the load shows nothing", l.done.Load())
	}
	for text, n := range l.failed {
		t.Errorf("%d times: %s", n, text)
	}
	t.Logf("%d containers in %s, %.1f a second; a list of %d took %s (median), %s (p99) meanwhile",
		l.done.Load(), duration, float64(l.done.Load())/duration.Seconds(), standing, quantile(took, 0.5), quantile(took, 0.99))
	var quiet []time.Duration
	for range 200 {
		quiet = append(quiet, l.list())
	}
	t.Logf("and %s (median), %s (p99) when all was quiet", quantile(quiet, 0.5), quantile(quiet, 0.99))
	if p99 := quantile(quiet, 0.99); long && p99 > 30*time.Millisecond {
		t.Errorf("a list of %d containers took %s (p99), want 30 ms at most", standing, p99)
	}

	var after holdings
	grown := "not looked"
	for end := time.Now().Add(20 * time.Second); grown != "" && time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		l.http.CloseIdleConnections()
		after = l.measure()
		grown = after.beyond(before)
	}
	t.Logf("before %+v", before)
	t.Logf("after  %+v", after)
	if grown != "" {
		t.Errorf("grown: %s", grown)
	}
	if left := m.settled(host).without("process"); left != "" {
		t.Errorf("left behind:\n%s", difference(left).short())
	}
}

func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(d))
	return sorted[int(float64(len(sorted)-1)*q)].Round(10 * time.Microsecond)
}

// httpClient speaks to the machine's daemon over as many connections.
func (m *machine) httpClient(connections int) *http.Client {
	return &http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{
		MaxIdleConnsPerHost: connections,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(m.run, "gantry.sock"))
		},
	}}
}

// lives lets containers live and die, and counts.
type lives struct {
	m    *machine
	http *http.Client
	done atomic.Int64
	next atomic.Int64

	mu     sync.Mutex
	failed map[string]int
}

func (l *lives) request(method, path string, body any) (*http.Response, error) {
	var in bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&in).Encode(body); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequest(method, "http://gantry"+path, &in)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := l.http.Do(req)
	if err == nil && resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return nil, fmt.Errorf("%s %s: %s: %s", method, strings.SplitN(path, "?", 2)[0], resp.Status, text)
	}
	return resp, err
}

func (l *lives) call(method, path string, body, answer any) error {
	resp, err := l.request(method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if answer != nil {
		return json.NewDecoder(resp.Body).Decode(answer)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

func (l *lives) create(name, network string, command ...string) (string, error) {
	var c struct{ ID string }
	err := l.call("POST", "/containers/create?name="+name, map[string]any{
		"Image": "busybox", "Cmd": command, "StopSignal": "KILL", "HostConfig": map[string]any{"NetworkMode": network}}, &c)
	return c.ID, err
}

// clear removes all containers, several at a time.
func (l *lives) clear() {
	var all []struct{ ID string }
	if err := l.call("GET", "/containers/json?all=1", nil, &all); err != nil {
		l.m.t.Error(err)
		return
	}
	var wg sync.WaitGroup
	for part := range slices.Chunk(all, len(all)/8+1) {
		wg.Go(func() {
			for _, c := range part {
				if err := l.call("DELETE", "/containers/"+c.ID+"?force=1", nil, nil); err != nil {
					l.m.t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// side does things for a number of clients at a time.
func (l *lives) side(n, clients int, do func(n int) error) {
	l.m.t.Helper()
	var wg sync.WaitGroup
	var next atomic.Int64
	for range clients {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				if err := do(int(i)); err != nil {
					l.m.t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if l.m.t.Failed() {
		l.m.t.FailNow()
	}
}

// live is a container's life: created, waited for, started, heard, removed.
func (l *lives) live() error {
	n := l.next.Add(1)
	code := int(n % 7)
	id, err := l.create(fmt.Sprintf("life-%d", n), "bridge", "sh", "-c", fmt.Sprintf("echo life %d; exit %d", n, code))
	if err != nil {
		return err
	}
	resp, err := l.request("POST", "/containers/"+id+"/wait?condition=next-exit", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := l.call("POST", "/containers/"+id+"/start", nil, nil); err != nil {
		return err
	}
	var end struct{ StatusCode int }
	if err := json.NewDecoder(resp.Body).Decode(&end); err != nil {
		return fmt.Errorf("wait: %w", err)
	}
	if end.StatusCode != code {
		return fmt.Errorf("it ended with %d, want %d", end.StatusCode, code)
	}
	logs, err := l.request("GET", "/containers/"+id+"/logs?stdout=1&stderr=1&follow=1", nil)
	if err != nil {
		return err
	}
	defer logs.Body.Close()
	text, err := io.ReadAll(logs.Body)
	if want := fmt.Sprintf("life %d\n", n); err != nil || len(text) < 8 || string(text[8:]) != want {
		return fmt.Errorf("it said %q (%w), want %q", text, err, want)
	}
	return l.call("DELETE", "/containers/"+id, nil, nil)
}

// run lets clients live for a time, and lists containers all the while. It
// gives how long the lists took.
func (l *lives) run(d time.Duration, clients int) (lists []time.Duration) {
	l.done.Store(0)
	l.failed = map[string]int{}
	end := time.Now().Add(d)
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for time.Now().Before(end) {
				if err := l.live(); err != nil {
					l.mu.Lock()
					l.failed[err.Error()]++
					l.mu.Unlock()
					time.Sleep(10 * time.Millisecond)
					continue
				}
				l.done.Add(1)
			}
		})
	}
	for time.Now().Before(end) {
		lists = append(lists, l.list())
		time.Sleep(20 * time.Millisecond)
	}
	wg.Wait()
	return lists
}

func (l *lives) list() time.Duration {
	begin := time.Now()
	var all []struct{ ID string }
	if err := l.call("GET", "/containers/json?all=1", nil, &all); err != nil {
		l.mu.Lock()
		l.failed[err.Error()]++
		l.mu.Unlock()
	}
	return time.Since(begin)
}

// lines counts what a container has written so far, by the number in its last
// line.
func (l *lives) lines(id string) (n int) {
	l.m.t.Helper()
	resp, err := l.request("GET", "/containers/"+id+"/logs?stdout=1&tail=1", nil)
	if err != nil {
		l.m.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || len(text) < 8 {
		l.m.t.Fatalf("%q, %v", text, err)
	}
	if _, err := fmt.Sscanf(string(text[8:]), "line %d", &n); err != nil {
		l.m.t.Fatalf("%v: %q", err, text)
	}
	return n
}

// idlers are connections that ask and do not read, that close one side and
// stay, or that do not finish asking.
func (l *lives) idlers(flood string) (all []net.Conn) {
	l.m.t.Helper()
	ask := func(text string, closeWrite bool) {
		l.m.t.Helper()
		c, err := net.Dial("unix", filepath.Join(l.m.run, "gantry.sock"))
		if err == nil {
			all = append(all, c)
			_, err = io.WriteString(c, text)
		}
		if err == nil && closeWrite {
			if strings.Contains(text, "Upgrade") {
				_, err = c.Read(make([]byte, 64)) // it is upgraded now
			}
			err = errors.Join(err, c.(*net.UnixConn).CloseWrite())
		}
		if err != nil {
			l.m.t.Fatal(err)
		}
	}
	get := func(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: gantry\r\n\r\n" }
	attach := "POST /containers/" + flood + "/attach?stream=1&stdout=1&stderr=1&logs=1 HTTP/1.1\r\nHost: gantry\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"
	for range 5 {
		ask(get("/containers/"+flood+"/logs?stdout=1&follow=1"), false)
		ask(get("/events"), false)
		ask(get("/containers/"+flood+"/stats"), false)
		ask(attach, false)
		ask(attach, true)
		ask("POST /containers/create HTTP/1.1\r\nHost: gantry\r\nContent-Length: 1000\r\n\r\n{", false)
		ask("GET /containers/js", true)
		ask("GET /contai", false)
	}
	return all
}

// holdings is what may not grow.
type holdings struct {
	daemon, keeper footprint
	goroutines     int
}

func (l *lives) measure() holdings {
	l.m.t.Helper()
	var info struct{ NGoroutines int }
	if err := l.call("GET", "/info", nil, &info); err != nil {
		l.m.t.Fatal(err)
	}
	return holdings{daemon: l.m.footprint("gantryd"), keeper: l.m.footprint("gantry-runtime"), goroutines: info.NGoroutines}
}

// beyond says what has grown more than noise explains.
func (a holdings) beyond(b holdings) string {
	var all []error
	more := func(what string, before, after, noise int) {
		if after > before+noise {
			all = append(all, fmt.Errorf("%s: %d, then %d", what, before, after))
		}
	}
	more("goroutines", b.goroutines, a.goroutines, 10)
	for _, p := range []struct {
		name   string
		before footprint
		after  footprint
	}{{"gantryd", b.daemon, a.daemon}, {"gantry-runtime", b.keeper, a.keeper}} {
		more(p.name+": descriptors", p.before.fds, p.after.fds, 10)
		more(p.name+": children", p.before.children, p.after.children, 0)
		// The heap is what it was at the highest wave; it goes back slowly.
		more(p.name+": KiB", p.before.rss, p.after.rss, max(32*1024, p.before.rss/4))
	}
	if err := errors.Join(all...); err != nil {
		return err.Error()
	}
	return ""
}
