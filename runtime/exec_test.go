package runtime

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"gantry/runtime/keeper"
	"gantry/runtime/spec"

	"github.com/containerd/errdefs"
)

func TestExec(t *testing.T) {
	h := sharedHouse(t)
	cfg := box("sleep", "1000")
	cfg.Env, cfg.WorkingDir, cfg.Hostname = []string{"A=container"}, "/tmp", "ship"
	c := h.start(t, cfg)
	t.Run("sees the container", func(t *testing.T) {
		code, out := h.exec(t, c.ID, ExecConfig{Command: []string{"sh", "-c", "echo $A $B; pwd; id -u; hostname; exit 5"}, Env: []string{"B=exec"}}, nil)
		if code != 5 || out != "container exec\n/tmp\n0\nship\n" {
			t.Errorf("code %d, output %q", code, out)
		}
	})
	t.Run("user, directory, both outputs", func(t *testing.T) {
		code, out := h.exec(t, c.ID, ExecConfig{Command: []string{"sh", "-c", "id -un; pwd; echo err >&2"}, User: "web", WorkingDir: "/data"}, nil)
		if code != 0 || strings.Replace(out, "err\n", "", 1) != "web\n/data\n" || len(out) != len("web\n/data\nerr\n") {
			t.Errorf("code %d, output %q", code, out)
		}
	})
	t.Run("privileged", func(t *testing.T) {
		_, out := h.exec(t, c.ID, ExecConfig{Command: []string{"sh", "-c", "grep CapEff /proc/self/status | grep -o '.\\{8\\}$'"}, Privileged: true}, nil)
		if out == "a80425fb\n" {
			t.Errorf("capabilities %s", out)
		}
	})
	t.Run("input to its end", func(t *testing.T) {
		in := strings.NewReader(strings.Repeat("line\n", 50_000))
		if code, out := h.exec(t, c.ID, ExecConfig{Command: []string{"wc", "-l"}}, in); code != 0 || strings.TrimSpace(out) != "50000" {
			t.Errorf("code %d, output %q", code, out)
		}
	})
	t.Run("terminal", func(t *testing.T) {
		code, out := h.exec(t, c.ID, ExecConfig{Command: []string{"sh", "-c", "tty; stty size"}, TTY: true, Width: 90, Height: 20}, nil)
		if code != 0 || out != "/dev/pts/0\r\n20 90\r\n" {
			t.Errorf("code %d, output %q", code, out)
		}
	})
	t.Run("resize", func(t *testing.T) {
		id, err := h.e.ExecCreate(background(t), c.ID, ExecConfig{Command: []string{"sh", "-c", "trap 'stty size; exit' WINCH; echo up; while :; do sleep 0.01; done"}, TTY: true, Stdout: true})
		must(t, err)
		var out firstBytes
		out.max = 1000
		done := make(chan error, 1)
		go func() { done <- h.e.ExecStart(background(t), id, &ExecStreams{Out: &out}) }()
		eventually(t, "it is up", func() bool { return strings.Contains(out.String(), "up") })
		must(t, h.e.ExecResize(background(t), id, 33, 11))
		must(t, <-done)
		if !strings.Contains(out.String(), "11 33") {
			t.Errorf("output %q", out.String())
		}
	})
	t.Run("not found", func(t *testing.T) {
		for command, code := range map[string]int{"/no/such": 127, "/bin/plain": 126} {
			id, err := h.e.ExecCreate(background(t), c.ID, ExecConfig{Command: []string{command}})
			must(t, err)
			var se *keeper.StartError
			if err := h.e.ExecStart(background(t), id, &ExecStreams{}); !errors.As(err, &se) || se.Code != code {
				t.Errorf("%s: %v", command, err)
			}
			if x, err := h.e.ExecInspect(id); err != nil || x.ExitCode == nil || *x.ExitCode != code || x.Running {
				t.Errorf("%s: %+v %v", command, x, err)
			}
		}
	})
	t.Run("once", func(t *testing.T) {
		id, err := h.e.ExecCreate(background(t), c.ID, ExecConfig{Command: []string{"true"}})
		must(t, err)
		must(t, h.e.ExecStart(background(t), id, nil))
		if err := h.e.ExecStart(background(t), id, nil); !errdefs.IsConflict(err) {
			t.Errorf("twice: %v", err)
		}
		eventually(t, "it has ended", func() bool { x, _ := h.e.ExecInspect(id); return x.ExitCode != nil })
		if _, err := h.e.ExecInspect("none"); !isNotFound(err) {
			t.Errorf("an unknown one: %v", err)
		}
	})
	t.Run("paused", func(t *testing.T) {
		must(t, h.e.Pause(background(t), c.ID))
		defer h.e.Unpause(background(t), c.ID)
		if _, err := h.e.ExecCreate(background(t), c.ID, ExecConfig{Command: []string{"true"}}); !errdefs.IsConflict(err) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a child that holds the pipes", func(t *testing.T) {
		began := time.Now()
		if code, out := h.exec(t, c.ID, ExecConfig{Command: []string{"sh", "-c", "sleep 1000 & echo done"}}, nil); code != 0 || out != "done\n" {
			t.Errorf("code %d, output %q", code, out)
		}
		if took := time.Since(began); took > drainTime+2*time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

// A client that leaves does not end the process it has started, nor block it.
func TestExecClientLeaves(t *testing.T) {
	h := sharedHouse(t)
	c := h.start(t, box("sleep", "1000"))
	for _, tty := range []bool{false, true} {
		x := ExecConfig{Command: []string{"sh", "-c", "echo up; sleep 0.1; seq 1 100000; touch /tmp/through"}, Stdout: true, Stderr: true, TTY: tty}
		id, err := h.e.ExecCreate(background(t), c.ID, x)
		must(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		r, w := io.Pipe()
		go func() { // a connection that breaks after the first word
			r.Read(make([]byte, 4))
			r.Close()
			cancel()
		}()
		if err := h.e.ExecStart(ctx, id, &ExecStreams{Out: w, Err: w}); !errors.Is(err, context.Canceled) {
			t.Errorf("tty %v: the client heard %v", tty, err)
		}
		eventually(t, "it ends", func() bool { s, _ := h.e.ExecInspect(id); return s.ExitCode != nil })
		if s, _ := h.e.ExecInspect(id); *s.ExitCode != 0 {
			t.Errorf("tty %v: exit code %d", tty, *s.ExitCode)
		}
		if code, _ := h.exec(t, c.ID, ExecConfig{Command: []string{"rm", "/tmp/through"}}, nil); code != 0 {
			t.Errorf("tty %v: it did not come through", tty)
		}
	}
}

// Who waits for an exec hears of it when its container ends.
func TestExecOfDyingContainer(t *testing.T) {
	h := sharedHouse(t)
	c := h.start(t, box("sleep", "1000"))
	id, err := h.e.ExecCreate(background(t), c.ID, ExecConfig{Command: []string{"sleep", "1000"}, Stdout: true})
	must(t, err)
	done := make(chan error, 1)
	go func() { done <- h.e.ExecStart(background(t), id, &ExecStreams{Out: io.Discard}) }()
	eventually(t, "it runs", func() bool { x, _ := h.e.ExecInspect(id); return x.Running })
	must(t, h.e.Kill(background(t), c.ID, ""))
	must(t, <-done)
	if x, _ := h.e.ExecInspect(id); x.ExitCode == nil || *x.ExitCode != 137 {
		t.Errorf("%+v", x)
	}
	if _, err := h.e.ExecCreate(background(t), c.ID, ExecConfig{Command: []string{"true"}}); !errdefs.IsConflict(err) {
		t.Errorf("of an ended container: %v", err)
	}
	must(t, h.e.Remove(background(t), c.ID, RemoveOptions{}))
	if _, err := h.e.ExecInspect(id); !isNotFound(err) {
		t.Errorf("of a removed container: %v", err)
	}
}

// frames takes Docker's frames apart.
func frames(t testing.TB, data []byte) (stdout, stderr string) {
	t.Helper()
	var out [3]bytes.Buffer
	for len(data) >= 8 {
		n := int(data[4])<<24 | int(data[5])<<16 | int(data[6])<<8 | int(data[7])
		if len(data) < 8+n || data[0] > 2 {
			t.Fatalf("a torn frame: %q", data)
		}
		out[data[0]].Write(data[8 : 8+n])
		data = data[8+n:]
	}
	return out[1].String(), out[2].String()
}

func TestAttach(t *testing.T) {
	h := sharedHouse(t)
	t.Run("before the start, from the first byte", func(t *testing.T) {
		c := h.create(t, box("sh", "-c", "echo out; echo err >&2"))
		var out firstBytes
		out.max = 1 << 20
		attached, done := make(chan struct{}), make(chan error, 1)
		go func() {
			done <- h.e.Attach(background(t), c.ID, AttachOptions{Out: &out, Stdout: true, Stderr: true, Attached: attached})
		}()
		<-attached
		must(t, h.e.Start(background(t), c.ID))
		must(t, <-done)
		if o, e := frames(t, []byte(out.String())); o != "out\n" || e != "err\n" {
			t.Errorf("out %q, err %q", o, e)
		}
	})
	t.Run("input ends, output goes on", func(t *testing.T) {
		cfg := box("sh", "-c", "cat; echo end")
		cfg.OpenStdin, cfg.StdinOnce = true, true
		c := h.create(t, cfg)
		var out firstBytes
		out.max = 1 << 20
		attached, done := make(chan struct{}), make(chan error, 1)
		go func() {
			done <- h.e.Attach(background(t), c.ID, AttachOptions{Stdin: strings.NewReader("in\n"), Out: &out, Stdout: true, Attached: attached})
		}()
		<-attached
		must(t, h.e.Start(background(t), c.ID))
		must(t, <-done)
		if o, _ := frames(t, []byte(out.String())); o != "in\nend\n" {
			t.Errorf("out %q", o)
		}
	})
	t.Run("input alone", func(t *testing.T) {
		cfg := box("sh", "-c", "read a; echo got $a; read b; echo got $b")
		cfg.OpenStdin = true
		c := h.start(t, cfg)
		attachInput(t, h, c.ID, "one\n") // its end does not close the container's
		attachInput(t, h, c.ID, "two\n")
		w, err := h.e.Wait(background(t), c.ID, NotRunning, nil)
		must(t, err)
		if out := h.logOf(t, c.ID); w.ExitCode != 0 || out != "got one\ngot two\n" {
			t.Errorf("code %d, log %q", w.ExitCode, out)
		}
	})
	t.Run("terminal", func(t *testing.T) {
		cfg := box("sh", "-c", "tty; read a; echo got $a")
		cfg.TTY, cfg.OpenStdin = true, true
		c := h.create(t, cfg)
		var out firstBytes
		out.max = 1 << 20
		attached, done := make(chan struct{}), make(chan error, 1)
		in, feed := io.Pipe()
		go func() {
			done <- h.e.Attach(background(t), c.ID, AttachOptions{Stdin: in, Out: &out, Stdout: true, Attached: attached})
			in.Close()
		}()
		<-attached
		must(t, h.e.Start(background(t), c.ID))
		io.WriteString(feed, "word\r")
		must(t, <-done)
		if o := out.String(); !strings.Contains(o, "/dev/pts/0\r\n") || !strings.HasSuffix(o, "got word\r\n") {
			t.Errorf("out %q", o)
		}
		feed.Close()
	})
	t.Run("of one that never starts", func(t *testing.T) {
		c := h.create(t, box("/no/such"))
		done, attached := make(chan error, 1), make(chan struct{})
		go func() {
			done <- h.e.Attach(background(t), c.ID, AttachOptions{Out: io.Discard, Stdout: true, Attached: attached})
		}()
		<-attached
		if err := h.e.Start(background(t), c.ID); err == nil {
			t.Error("it started")
		}
		<-done // whatever it says, it says it
		leaves, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		other := h.create(t, box("true"))
		if err := h.e.Attach(leaves, other.ID, AttachOptions{Out: io.Discard, Stdout: true}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("one that left heard %v", err)
		}
		go func() {
			done <- h.e.Attach(background(t), other.ID, AttachOptions{Out: io.Discard, Stdout: true})
		}()
		time.Sleep(10 * time.Millisecond)
		must(t, h.e.Remove(background(t), other.ID, RemoveOptions{}))
		if err := <-done; err == nil {
			t.Error("attached to a removed container")
		}
	})
}

func TestHealth(t *testing.T) {
	h := sharedHouse(t)
	check := func(script string) Config {
		cfg := box("sleep", "1000")
		cfg.Healthcheck = &spec.Healthcheck{Test: []string{"CMD-SHELL", script}, Interval: time.Hour, Timeout: 10 * time.Second}
		return cfg
	}
	t.Run("early, while somebody waits", func(t *testing.T) {
		c := h.start(t, check("test -f /tmp/ready"))
		must(t, h.healthyAfter(t, c.ID, func() {
			time.Sleep(100 * time.Millisecond)
			h.exec(t, c.ID, ExecConfig{Command: []string{"touch", "/tmp/ready"}}, nil)
		}))
		now := h.inspect(t, c.ID)
		if now.Health.Status != Healthy || now.Health.FailingStreak != 0 || len(now.Health.Log) < 2 {
			t.Errorf("%s", brief(now))
		}
	})
	t.Run("unhealthy", func(t *testing.T) {
		cfg := check("echo because; exit 3")
		cfg.Healthcheck.Interval, cfg.Healthcheck.Retries = 30*time.Millisecond, 2
		since := time.Now()
		c := h.start(t, cfg)
		err := h.e.AwaitHealthy(background(t), c.ID)
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "because") || !strings.Contains(err.Error(), "3") {
			t.Errorf("got %v", err)
		}
		now := h.inspect(t, c.ID)
		if now.Health.Status != Unhealthy || now.Health.FailingStreak < 2 {
			t.Errorf("%s", brief(now))
		}
		eventually(t, "the events tell of it", func() bool {
			return strings.Join(h.actions(t, c.ID, since), ", ") == "create, start, health_status: unhealthy"
		})
	})
	t.Run("start period", func(t *testing.T) {
		cfg := check("exit 1")
		cfg.Healthcheck = &spec.Healthcheck{Test: cfg.Healthcheck.Test, Interval: time.Hour, StartPeriod: time.Hour, StartInterval: 20 * time.Millisecond, Retries: 1}
		c := h.start(t, cfg)
		eventually(t, "a few probes", func() bool { return len(h.inspect(t, c.ID).Health.Log) > 3 })
		if now := h.inspect(t, c.ID); now.Health.Status != Starting || now.Health.FailingStreak != 0 {
			t.Errorf("%s", brief(now))
		}
	})
	t.Run("timeout", func(t *testing.T) {
		cfg := check("sleep 1000")
		cfg.Healthcheck.Interval, cfg.Healthcheck.Timeout, cfg.Healthcheck.Retries = 10*time.Millisecond, 100*time.Millisecond, 1
		c := h.start(t, cfg)
		eventually(t, "it is unhealthy", func() bool { return h.inspect(t, c.ID).Health.Status == Unhealthy })
		p := h.inspect(t, c.ID).Health.Log[0]
		if p.ExitCode != -1 || !strings.Contains(p.Output, "100ms") {
			t.Errorf("%+v", p)
		}
	})
	t.Run("no such program", func(t *testing.T) {
		cfg := check("")
		cfg.Healthcheck.Test = []string{"CMD", "/no/such/probe"}
		cfg.Healthcheck.Interval, cfg.Healthcheck.Retries = 10*time.Millisecond, 1
		c := h.start(t, cfg)
		eventually(t, "it is unhealthy", func() bool { return h.inspect(t, c.ID).Health.Status == Unhealthy })
		if p := h.inspect(t, c.ID).Health.Log[0]; !strings.Contains(p.Output, "/no/such/probe") {
			t.Errorf("%+v", p)
		}
	})
	t.Run("paused is not unhealthy", func(t *testing.T) {
		cfg := check("sleep 0.05")
		cfg.Healthcheck.Interval, cfg.Healthcheck.Timeout, cfg.Healthcheck.Retries = 10*time.Millisecond, 300*time.Millisecond, 1
		c := h.start(t, cfg)
		must(t, h.e.AwaitHealthy(background(t), c.ID))
		for range 3 {
			must(t, h.e.Pause(background(t), c.ID))
			time.Sleep(350 * time.Millisecond)
			must(t, h.e.Unpause(background(t), c.ID))
			time.Sleep(30 * time.Millisecond)
		}
		if now := h.inspect(t, c.ID); now.Health.Status != Healthy {
			t.Errorf("%s", brief(now))
		}
	})
	t.Run("hanging ones hold up no others", func(t *testing.T) {
		for range cap(h.e.probing) + 1 {
			cfg := check("sleep 1000")
			cfg.Healthcheck.Interval = time.Millisecond
			h.start(t, cfg)
		}
		time.Sleep(100 * time.Millisecond)
		c := h.start(t, check("true"))
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		must(t, h.e.AwaitHealthy(ctx, c.ID))
	})
	t.Run("ends first", func(t *testing.T) {
		cfg := check("exit 1")
		cfg.Command = []string{"sh", "-c", "sleep 0.1; exit 9"}
		c := h.start(t, cfg)
		if err := h.e.AwaitHealthy(background(t), c.ID); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "code 9") {
			t.Errorf("got %v", err)
		}
		none := h.start(t, box("sleep", "1000"))
		if err := h.e.AwaitHealthy(background(t), none.ID); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("without a check: %v", err)
		}
	})
}
