package network

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// tracks counts what a fabric could leave behind.
func tracks(t *testing.T, run string) map[string]int {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	links, err := whole(netlink.LinkList)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]int{
		"descriptors": len(fds),
		"mounts":      strings.Count(string(mounts), run),
		"links":       len(links),
		"goroutines":  pprof.Lookup("goroutine").Count(),
	}
}

// threads counts OS threads and how many are in another network namespace.
func threads(t *testing.T) (all, strayed int) {
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	tasks, _ := filepath.Glob("/proc/self/task/*/ns/net")
	for _, p := range tasks {
		if ns, err := os.Readlink(p); err == nil {
			all++
			if ns != home {
				strayed++
			}
		}
	}
	return all, strayed
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

func TestFiftySandboxesLeaveNothing(t *testing.T) {
	w := newWorld(t)
	w.network("front")
	w.publish("web", Port{HostPort: 8080, Port: 80})
	round := func() {
		const n = 50
		var tasks sync.WaitGroup
		start := time.Now()
		for i := range n {
			tasks.Go(func() {
				s := asked(fmt.Sprintf("s%d", i), "front")
				s.Group, s.Running, s.Ready = "web", false, false
				if _, err := w.Attach(t.Context(), s); err != nil {
					t.Error(err)
				}
			})
		}
		tasks.Wait()
		attached := time.Since(start)
		start = time.Now()
		for i := range n {
			tasks.Go(func() {
				if err := w.SetState(fmt.Sprintf("s%d", i), true, true); err != nil {
					t.Error(err)
				}
			})
		}
		tasks.Wait()
		ready := time.Since(start)
		start = time.Now()
		for i := range n {
			tasks.Go(func() {
				if err := w.Detach(t.Context(), fmt.Sprintf("s%d", i)); err != nil {
					t.Error(err)
				}
			})
		}
		tasks.Wait()
		t.Logf("%d in parallel: attach %v, ready %v, detach %v", n, attached, ready, time.Since(start))
	}
	round() // warms up
	before := tracks(t, w.opts.Run)
	for range 3 {
		round()
	}
	var after map[string]int
	within(t, 5*time.Second, "everything to be as before", func() bool {
		after = tracks(t, w.opts.Run)
		for k, v := range before {
			if after[k] > v {
				t.Logf("%s: %d, before %d", k, after[k], v)
				return false
			}
		}
		return true
	})
	all, strayed := threads(t)
	if strayed > 0 || all > 60 {
		t.Errorf("%d threads, %d in another namespace", all, strayed)
	}
}

func TestTimes(t *testing.T) {
	w := newWorld(t)
	w.network("front")
	var attach, state, publish, prepare, detach []time.Duration
	clock := func(d *[]time.Duration, do func() error) {
		start := time.Now()
		w.must(do())
		*d = append(*d, time.Since(start))
	}
	for i := range 30 {
		id := fmt.Sprintf("s%d", i)
		s := asked(id, "front")
		s.Running = false
		clock(&attach, func() error { _, err := w.Attach(t.Context(), s); return err })
		clock(&publish, func() error { _, err := w.Publish(t.Context(), id, []Port{{Port: 80}}); return err })
		clock(&state, func() error { return w.SetState(id, true, true) })
		clock(&prepare, func() error { _, err := w.Prepare(t.Context(), "p"+id); return err })
	}
	for i := range 30 {
		w.must(w.Unpublish(t.Context(), fmt.Sprintf("s%d", i)))
		clock(&detach, func() error { return w.Detach(t.Context(), fmt.Sprintf("s%d", i)) })
	}
	t.Logf("median: prepare %v, attach %v, publish %v, state %v, detach %v", median(prepare), median(attach), median(publish), median(state), median(detach))
	// Far above what it takes; catches a wait for a timer or an RCU period per call.
	if median(attach) > 25*time.Millisecond || median(state) > 10*time.Millisecond || median(detach) > 15*time.Millisecond {
		t.Error("far too slow")
	}
}

func TestRecoverOfFifty(t *testing.T) {
	w := newWorld(t)
	w.network("front")
	var live []Sandbox
	for i := range 50 {
		live = append(live, asked(fmt.Sprintf("s%d", i), "front"))
		w.join(live[i].ID, "front")
		w.publish(live[i].ID, Port{Port: 80})
	}
	w.crash()
	start := time.Now()
	w.open(live...)
	t.Logf("50 sandboxes with a port each recovered in %v", time.Since(start))
	if got := len(w.Attached("front")); got != 50 {
		t.Errorf("%d attached", got)
	}
}

func TestBridgeIsFull(t *testing.T) {
	w := newWorld(t)
	w.network("front", Spec{Subnets: []Subnet{{Prefix: netip.MustParsePrefix("10.40.0.0/16")}}})
	l, err := w.find("front")
	w.must(err)
	w.mu.Lock()
	for i := range maxEndpoints {
		l.ends[fmt.Sprint(i)] = &end{lan: l}
	}
	w.mu.Unlock()
	_, err = w.Attach(t.Context(), asked("a", "front"))
	if err == nil || !strings.Contains(err.Error(), "network front has 1000 endpoints") {
		t.Error(err)
	}
	w.mu.Lock()
	clear(l.ends)
	w.mu.Unlock()
}
