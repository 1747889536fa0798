package scheduler

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// crowd is a Meter of a service that shares a work among its replicas.
type crowd struct {
	mu   sync.Mutex
	work float64 // processors
	used map[string]Usage
	fail error
	asks int
}

func (m *crowd) Usage(_ context.Context, ids []string) (map[string]Usage, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asks++
	if m.fail != nil {
		return nil, m.fail
	}
	now, used := time.Now(), map[string]Usage{}
	for _, id := range ids {
		u, ok := m.used[id]
		if ok {
			u.CPU += time.Duration(float64(now.Sub(u.At)) * min(m.work/float64(len(ids)), 0.5))
		}
		used[id] = Usage{At: now, CPU: u.CPU, Processors: 0.5, Memory: 1 << 20, MemoryMost: 10 << 20}
	}
	m.used = used
	return used, nil
}

func (m *crowd) does(work float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.work = work
}

const scaled = `
services:
  web:
    image: busybox
    cpus: 0.5
    x-gantry: {autoscale: {min: 2, max: 6, cpu: 50%, stabilization: 1m}}
  db: {image: busybox}
`

// measured is a scheduler with a meter, in virtual time.
func measured(t *testing.T, f func(h *house, m *crowd)) {
	synctest.Test(t, func(t *testing.T) {
		m := &crowd{}
		h := &house{T: t, w: newSim(), dir: t.TempDir()}
		h.w.image("busybox", "sha256:1")
		open := func() {
			s, err := Open(Config{Root: h.dir, Engine: h.w, Meter: m, Log: slog.New(slog.NewTextHandler(&h.log, nil))})
			if err != nil {
				h.Fatal(err)
			}
			h.Scheduler = s
		}
		open()
		f(h, m)
		h.Close()
	})
}

func (h *house) replicas(service string) int {
	h.Helper()
	for _, s := range h.status().Services {
		if s.Name == service {
			if s.Present != s.Wanted {
				h.Errorf("%s has %d of %d replicas", service, s.Present, s.Wanted)
			}
			return s.Wanted
		}
	}
	return 0
}

func (h *house) passes(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestReplicasFollowUsage(t *testing.T) {
	measured(t, func(h *house, m *crowd) {
		ctx := h.Context()
		h.passes(time.Hour)
		if m.asks != 0 {
			h.Errorf("measured %d times with nothing to measure", m.asks)
		}
		if err := h.Apply(ctx, h.goal(scaled, Options{}), nil); err != nil {
			h.Fatal(err)
		}
		if n := h.replicas("web"); n != 2 {
			h.Errorf("begins with %d", n)
		}
		m.does(1) // two replicas at 100 % of their half processor: four at 50 %
		h.passes(40 * time.Second)
		if n := h.replicas("web"); n != 4 {
			h.Errorf("%d replicas of a work for 4", n)
		}
		h.passes(5 * time.Minute) // as aimed at
		if n := h.replicas("web"); n != 4 {
			h.Errorf("%d replicas though all is well", n)
		}
		said := ""
		for _, s := range h.status().Services {
			said += s.Autoscale
		}
		if said != "2 to 6, cpu at 50%, aimed at 50%" {
			h.Errorf("status says %q", said)
		}
		all, err := h.History("shop")
		if err != nil || len(all) == 0 || all[0].Kind != KindAutoscale || all[0].Outcome != Done ||
			!slices.Equal(all[0].Changes, []string{"web: replicas 2 → 4: cpu at 100%, aimed at 50%"}) {
			h.Errorf("history %+v, %v", all, err)
		}

		m.does(0.2)
		h.passes(45 * time.Second)
		if n := h.replicas("web"); n != 4 {
			h.Errorf("%d replicas within the window", n)
		}
		h.passes(45 * time.Second)
		if n := h.replicas("web"); n != 2 {
			h.Errorf("%d replicas of a work for 1", n)
		}

		// What was measured counts for more than the file, and what a user says
		// holds until the next measurement.
		m.does(1)
		h.passes(45 * time.Second)
		if err := h.Apply(ctx, h.goal(scaled, Options{}), nil); err != nil {
			h.Fatal(err)
		}
		if n := h.replicas("web"); n != 4 {
			h.Errorf("up makes %d of 4 replicas", n)
		}
		if err := h.Scale(ctx, "shop", map[string]int{"web": 6}, Options{}, nil); err != nil {
			h.Fatal(err)
		}
		if n := h.replicas("web"); n != 6 {
			h.Errorf("%d replicas, asked for 6", n)
		}
		h.passes(2 * time.Minute)
		if n := h.replicas("web"); n != 4 {
			h.Errorf("%d replicas, measured for 4", n)
		}
		if err := h.Scale(ctx, "shop", map[string]int{"web": 7}, Options{}, nil); err == nil || !strings.Contains(err.Error(), "between 2 and 6") {
			h.Errorf("more than there may be: %v", err)
		}
		// None switches it off.
		if err := h.Scale(ctx, "shop", map[string]int{"web": 0}, Options{}, nil); err != nil {
			h.Fatal(err)
		}
		asks := m.asks
		h.passes(time.Hour)
		if n := h.replicas("web"); n != 0 || m.asks != asks {
			h.Errorf("%d replicas, measured %d times", n, m.asks-asks)
		}
		if err := h.Apply(ctx, h.goal(scaled, Options{}), nil); err != nil {
			h.Fatal(err)
		}
		h.passes(time.Minute)
		if n := h.replicas("web"); n != 4 {
			h.Errorf("%d replicas when it is up again", n)
		}
	})
}

// A replica that a call has stopped, and that an up with --no-start has left so,
// is not started because there are to be more.
func TestScalingStartsNoneThatWasStopped(t *testing.T) {
	measured(t, func(h *house, m *crowd) {
		m.does(0.75) // three replicas at 50 %
		if err := h.Apply(h.Context(), h.goal(scaled, Options{}), nil); err != nil {
			h.Fatal(err)
		}
		h.passes(time.Minute)
		h.w.mu.Lock()
		one := h.w.named("shop-web-1")
		h.w.exit(one, 143)
		one.Stopped = true
		h.w.mu.Unlock()
		if err := h.Apply(h.Context(), h.goal(scaled, Options{NoStart: true}), nil); err != nil {
			h.Fatal(err)
		}
		m.does(1)
		h.passes(time.Minute)
		h.w.mu.Lock()
		defer h.w.mu.Unlock()
		if h.w.named("shop-web-4") == nil || one.present() {
			h.Errorf("the first of them is %s, and all that was done:\n%s", one.Status, strings.Join(h.w.log, "\n"))
		}
	})
}

// One that autoscaling has stopped and could not remove runs again: it is one of
// those that are wanted.
func TestScalingTakesNothingWithIt(t *testing.T) {
	measured(t, func(h *house, m *crowd) {
		m.does(0.75) // three replicas at 50 %
		if err := h.Apply(h.Context(), h.goal(scaled, Options{}), nil); err != nil {
			h.Fatal(err)
		}
		h.passes(time.Minute)
		if n := h.replicas("web"); n != 3 {
			h.Fatalf("%d replicas of a work for 3", n)
		}
		tries := h.failing("remove", "shop-web-3")
		m.does(0.2)
		for range 200 {
			if h.passes(time.Second); tries() > 0 {
				break
			}
		}
		h.passes(5 * time.Second)
		if n := h.replicas("web"); n != 3 || tries() != 1 {
			h.Errorf("%d replicas after %d tries to have fewer", n, tries())
		}
	})
}

// A stopped service is left alone, and what cannot be measured, or done, is
// tried again, less and less often; meanwhile the project stands as before.
func TestNothingIsScaledBehindAnybodysBack(t *testing.T) {
	measured(t, func(h *house, m *crowd) {
		ctx := h.Context()
		m.does(3)
		m.fail = errors.New("no")
		if err := h.Apply(ctx, h.goal(scaled, Options{}), nil); err != nil {
			h.Fatal(err)
		}
		h.passes(time.Minute)
		if n := h.replicas("web"); n != 2 {
			h.Errorf("%d replicas of an unknown usage", n)
		}
		m.mu.Lock()
		m.fail = nil
		m.mu.Unlock()
		if err := h.Stop(ctx, "shop", Options{Services: []string{"web"}}, nil); err != nil {
			h.Fatal(err)
		}
		h.passes(time.Minute)
		st := h.status().Services[1]
		if st.Present != 0 || st.Exited != 2 {
			h.Errorf("stopped, and %+v", st)
		}
		if err := h.Start(ctx, "shop", Options{}, nil); err != nil {
			h.Fatal(err)
		}
		tries := h.failing("create", "shop-web-4")
		h.passes(40 * time.Second)
		if st := h.status(); st.Phase != Settled || st.Services[1].Wanted != 2 || tries() < 1 {
			h.Errorf("%s with %d replicas wanted after %d tries", st.Phase, st.Services[1].Wanted, tries())
		}
		h.passes(time.Hour)
		if n := tries(); n < 10 || n > 25 {
			h.Errorf("tried %d times in an hour", n)
		}
		all, err := h.History("shop")
		if err != nil || len(all) < 2 || all[0].Outcome != NotDone || all[0].Error == "" || all[1].Outcome == NotDone {
			h.Errorf("history %+v, %v", all, err)
		}
		h.w.mu.Lock()
		h.w.fault = nil
		h.w.mu.Unlock()
		h.passes(6 * time.Minute)
		if n := h.replicas("web"); n != 6 {
			h.Errorf("%d replicas when they can be made", n)
		}
	})
}
