package runtime

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"gantry/runtime/spec"
)

func TestReady(t *testing.T) {
	now := time.Now()
	ran := func(d time.Duration, crashes int, after time.Duration) Container {
		return Container{State: Running, StartedAt: now.Add(-d), Crashes: crashes, Config: Config{ReadyAfter: after}}
	}
	health := func(status string) Container {
		c := ran(time.Hour, 0, time.Second)
		c.Health = &Health{Status: status}
		return c
	}
	ended := ran(time.Hour, 0, 0)
	ended.State = Exited
	for _, c := range []struct {
		what string
		c    Container
		want bool
	}{
		{"nothing is asked", ran(0, 0, 0), true},
		{"too young", ran(999*time.Millisecond, 0, time.Second), false},
		{"old enough", ran(time.Second, 0, time.Second), true},
		{"has crashed twice", ran(3*time.Second, 2, time.Second), false},
		{"has crashed twice and runs since", ran(4*time.Second, 2, time.Second), true},
		{"has crashed for ever", ran(readyMost, 1000, time.Second), true},
		{"asks for more than that", ran(readyMost, 0, time.Minute), false},
		{"the clock was set back", ran(-time.Hour, 0, time.Second), false},
		{"ended", ended, false},
		{"starting", health(Starting), false},
		{"healthy", health(Healthy), true},
		{"unhealthy", health(Unhealthy), false},
	} {
		if got := c.c.Ready(now); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}

func TestDrain(t *testing.T) {
	h := sharedHouse(t)
	ctx := background(t)
	run := func() Container {
		c := box("busybox", "httpd", "-f", "-p", "80")
		c.Network = spec.Network{Group: "drained"}
		made := h.create(t, c)
		must(t, h.e.Start(ctx, made.ID))
		return h.inspect(t, made.ID)
	}
	connect := func(c Container) (to net.Conn) {
		t.Helper()
		eventually(t, "the server to listen", func() (ok bool) {
			var err error
			to, err = net.Dial("tcp", c.Networks[0].IPv4.Addr().String()+":80")
			return err == nil
		})
		t.Cleanup(func() { to.Close() })
		return to
	}
	old, other := run(), run()
	client := connect(old)
	limit := time.Minute
	drained := make(chan error, 1)
	go func() { drained <- h.e.Drain(ctx, old.ID, &limit) }()
	select {
	case err := <-drained:
		t.Fatalf("drained while a client is connected: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	client.Close()
	must(t, <-drained)

	connect(old)
	limit = 50 * time.Millisecond
	must(t, h.e.Drain(ctx, old.ID, &limit)) // time is up
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := h.e.Drain(short, old.Name, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the caller left: %v", err)
	}
	// Nobody else is left to serve: there is nothing to wait for.
	limit = time.Minute
	must(t, h.e.Stop(ctx, other.ID, StopOptions{Signal: "KILL"}))
	must(t, h.e.Drain(ctx, old.ID, &limit))
	must(t, h.e.Stop(ctx, old.ID, StopOptions{Signal: "KILL"}))
	must(t, h.e.Drain(ctx, old.ID, &limit))
	if err := h.e.Drain(ctx, "nobody", nil); !isNotFound(err) {
		t.Errorf("of nobody: %v", err)
	}
}
