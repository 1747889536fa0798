package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gantry/network"
	"gantry/runtime/keeper"
	"gantry/runtime/logs"
	"gantry/runtime/spec"

	"github.com/containerd/errdefs"
)

func isNotFound(err error) bool { return errdefs.IsNotFound(err) }

func networkMode(mode string) spec.Network { return spec.Network{Mode: mode} }

// actions are the events of one container since a time.
func (h *house) actions(t testing.TB, id string, since time.Time) []string {
	t.Helper()
	var all []string
	must(t, h.e.Events(background(t), EventQuery{Since: since, Until: time.Now()}, func(ev Event) error {
		if ev.ID == id && !strings.HasPrefix(ev.Action, "exec") {
			all = append(all, ev.Action)
		}
		return nil
	}))
	return all
}

func TestLife(t *testing.T) {
	h := sharedHouse(t)
	ctx := background(t)
	began := time.Now()
	made := h.create(t, box("sh", "-c", "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.01; done"))
	if made.State != Created || len(made.ID) != 64 || made.Name == "" {
		t.Fatalf("made %s", brief(made))
	}
	id := made.ID
	for _, refuse := range []error{h.e.Pause(ctx, id), h.e.Unpause(ctx, id), h.e.Kill(ctx, id, "")} {
		if !errdefs.IsConflict(refuse) {
			t.Errorf("of a container that does not run: %v", refuse)
		}
	}
	must(t, h.e.Start(ctx, id[:20]))
	c := h.inspect(t, made.Name)
	if c.State != Running || c.Pid == 0 || c.StartedAt.Before(began) {
		t.Fatalf("running: %s", brief(c))
	}
	if err := h.e.Start(ctx, id); !errors.Is(err, errdefs.ErrNotModified) {
		t.Errorf("start a running container: %v", err)
	}
	if err := h.e.Remove(ctx, id, RemoveOptions{}); !errdefs.IsConflict(err) {
		t.Errorf("remove a running container: %v", err)
	}
	eventually(t, "the first line", func() bool { return h.logOf(t, id) == "up\n" })
	must(t, h.e.Pause(ctx, id))
	if c := h.inspect(t, id); c.State != Paused {
		t.Errorf("paused: %s", brief(c))
	}
	must(t, h.e.Unpause(ctx, id))
	must(t, h.e.Stop(ctx, id, StopOptions{}))
	c = h.inspect(t, id)
	if c.State != Exited || c.ExitCode != 3 || !c.Stopped || c.Pid != 0 || c.FinishedAt.Before(c.StartedAt) {
		t.Errorf("stopped: %s", brief(c))
	}
	if err := h.e.Stop(ctx, id, StopOptions{}); !errors.Is(err, errdefs.ErrNotModified) {
		t.Errorf("stop a stopped container: %v", err)
	}
	must(t, h.e.Start(ctx, id))
	if c := h.inspect(t, id); c.Stopped {
		t.Error("a started container is still marked as stopped")
	}
	must(t, h.e.Kill(ctx, id, "KILL"))
	if c := h.inspect(t, id); c.State != Exited || c.ExitCode != 137 || !c.Stopped {
		t.Errorf("killed: %s", brief(c))
	}
	must(t, h.e.Remove(ctx, id, RemoveOptions{}))
	if _, err := h.e.Inspect(id); !isNotFound(err) {
		t.Errorf("inspect a removed container: %v", err)
	}
	if _, err := os.Stat(h.e.rec.dir(id)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its directory: %v", err)
	}
	want := []string{"create", "start", "pause", "unpause", "kill", "die", "stop", "start", "kill", "die", "destroy"}
	if got := h.actions(t, id, began); !slices.Equal(got, want) {
		t.Errorf("events\n got %v\nwant %v", got, want)
	}
	if out := h.logText(); strings.Contains(out, "level=ERROR") {
		t.Errorf("errors in the log:\n%s", out)
	}
}

func TestStop(t *testing.T) {
	h := sharedHouse(t)
	t.Run("a signal of its own", func(t *testing.T) {
		cfg := box("sh", "-c", "trap 'exit 9' USR2; trap '' TERM; echo up; while :; do sleep 0.01; done")
		cfg.StopSignal = "SIGUSR2"
		c := h.started(t, cfg)
		must(t, h.e.Stop(background(t), c.ID, StopOptions{}))
		if c = h.inspect(t, c.ID); c.ExitCode != 9 {
			t.Errorf("exit code %d", c.ExitCode)
		}
	})
	t.Run("after its grace it is killed", func(t *testing.T) {
		cfg := box("sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.01; done")
		cfg.StopTimeout = new(150 * time.Millisecond)
		c := h.started(t, cfg)
		began := time.Now()
		must(t, h.e.Stop(background(t), c.ID, StopOptions{}))
		if c = h.inspect(t, c.ID); c.ExitCode != 137 || time.Since(began) < 150*time.Millisecond {
			t.Errorf("exit code %d after %s", c.ExitCode, time.Since(began))
		}
	})
	t.Run("a caller that leaves shortens nothing", func(t *testing.T) {
		cfg := box("sh", "-c", "trap 'sleep 0.3; exit 5' TERM; echo up; while :; do sleep 0.01; done")
		c := h.started(t, cfg)
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		if err := h.e.Stop(ctx, c.ID, StopOptions{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the caller heard %v", err)
		}
		w, err := h.e.Wait(background(t), c.ID, NotRunning, nil)
		must(t, err)
		if w.ExitCode != 5 {
			t.Errorf("exit code %d: it was not left the time it has", w.ExitCode)
		}
	})
	t.Run("a bad signal changes nothing", func(t *testing.T) {
		c := h.start(t, box("sleep", "1000"))
		if err := h.e.Stop(background(t), c.ID, StopOptions{Signal: "SIGNONE"}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("got %v", err)
		}
		if c = h.inspect(t, c.ID); c.Stopped || c.State != Running {
			t.Errorf("it is %s, stopped %v", c.State, c.Stopped)
		}
	})
	t.Run("paused", func(t *testing.T) {
		c := h.started(t, box("sh", "-c", "trap 'exit 6' TERM; echo up; while :; do sleep 0.01; done"))
		must(t, h.e.Pause(background(t), c.ID))
		must(t, h.e.Stop(background(t), c.ID, StopOptions{}))
		if c = h.inspect(t, c.ID); c.ExitCode != 6 {
			t.Errorf("exit code %d", c.ExitCode)
		}
	})
	t.Run("while it exits", func(t *testing.T) {
		for range 10 {
			c := h.start(t, box("usleep", "2000"))
			time.Sleep(2 * time.Millisecond)
			if err := h.e.Stop(background(t), c.ID, StopOptions{}); err != nil && !errors.Is(err, errdefs.ErrNotModified) {
				t.Errorf("stop: %v", err)
			}
		}
	})
}

// started starts a container that says "up" when it is ready.
func (h *house) started(t testing.TB, c Config) Container {
	t.Helper()
	made := h.start(t, c)
	eventually(t, "the container says that it is up", func() bool { return strings.Contains(h.logOf(t, made.ID), "up") })
	return made
}

func TestRestartCall(t *testing.T) {
	h := sharedHouse(t)
	cfg := box("sh", "-c", "echo up; exec sleep 1000")
	cfg.Network = spec.Network{Ports: []spec.Port{{Port: 80}}}
	c := h.started(t, cfg)
	began := time.Now()
	must(t, h.e.Restart(background(t), c.ID, StopOptions{Signal: "KILL"}))
	now := h.inspect(t, c.ID)
	if now.State != Running || now.Pid == c.Pid || now.Stopped || now.RestartCount != 0 {
		t.Errorf("restarted: %s", brief(now))
	}
	if now.Networks[0].IPv4 != c.Networks[0].IPv4 || now.Ports[0] != c.Ports[0] {
		t.Errorf("address %v and port %v became %v and %v", c.Networks[0].IPv4, c.Ports[0], now.Networks[0].IPv4, now.Ports[0])
	}
	if got, want := h.actions(t, c.ID, began), []string{"kill", "die", "stop", "start", "restart"}; !slices.Equal(got, want) {
		t.Errorf("events %v, want %v", got, want)
	}
	// One that is stopped is started.
	must(t, h.e.Stop(background(t), c.ID, StopOptions{Signal: "KILL"}))
	must(t, h.e.Restart(background(t), c.ID, StopOptions{}))
	if now := h.inspect(t, c.ID); now.State != Running {
		t.Errorf("state %s", now.State)
	}
}

func TestStartFails(t *testing.T) {
	h := sharedHouse(t)
	for _, c := range []struct {
		command string
		code    int
	}{{"/no/such/program", 127}, {"/bin/plain", 126}} {
		made := h.create(t, box(c.command))
		err := h.e.Start(background(t), made.ID)
		var se *keeper.StartError
		if !errors.As(err, &se) || se.Code != c.code {
			t.Errorf("start %s: %v", c.command, err)
		}
		now := h.inspect(t, made.ID)
		if now.State != Created || now.ExitCode != c.code || !strings.Contains(now.Error, c.command) {
			t.Errorf("after a failed start: %s", brief(now))
		}
		if strings.Contains(now.Error, "\n") {
			t.Errorf("the error has more than one line: %q", now.Error)
		}
	}
	// One that is removed when it ends goes with its failed start. What went
	// wrong, the caller of the start hears, and nobody else.
	cfg := box("/no/such/program")
	cfg.AutoRemove = true
	made := h.create(t, cfg)
	var all sync.WaitGroup
	watching, attached := make(chan struct{}), make(chan struct{})
	all.Go(func() {
		w, err := h.e.Wait(background(t), made.ID, Removed, func() { close(watching) })
		if err != nil || w.ExitCode != 127 || w.Error != "" {
			t.Errorf("waited for its removal: %+v %v", w, err)
		}
	})
	all.Go(func() {
		var out bytes.Buffer
		err := h.e.Attach(background(t), made.ID, AttachOptions{Out: &out, Stdout: true, Stderr: true, Attached: attached})
		if err != nil || out.Len() > 0 {
			t.Errorf("attached: %q %v", out.String(), err)
		}
	})
	<-watching
	<-attached
	if err := h.e.Start(background(t), made.ID); err == nil {
		t.Error("it started")
	}
	all.Wait()
	if _, err := h.e.Inspect(made.ID); !isNotFound(err) {
		t.Errorf("it is still there: %v", err)
	}
}

func TestCreateFails(t *testing.T) {
	h := sharedHouse(t)
	before, _ := os.ReadDir(h.e.rec.root)
	volumes := len(h.volumes.List())
	for _, c := range []struct {
		what string
		bend func(*Config)
		says string
	}{
		{"no image", func(c *Config) { c.Image = "nothing" }, "nothing"},
		{"bind source", func(c *Config) {
			c.Mounts = []spec.Mount{{Type: "volume", Target: "/a"}, {Type: "bind", Source: "/no/such/place", Target: "/b"}}
		}, "/no/such/place"},
		{"volumes of nobody", func(c *Config) { c.VolumesFrom = []string{"nobody"} }, "nobody"},
		{"peer", func(c *Config) { c.PidMode = "container:nobody" }, "nobody"},
		{"option", func(c *Config) { c.StopSignal = "SIGNONE" }, "stop_signal"},
	} {
		cfg := box("true")
		c.bend(&cfg)
		if _, err := h.e.Create(background(t), "unlucky", cfg); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	after, _ := os.ReadDir(h.e.rec.root)
	if len(after) != len(before) || len(h.volumes.List()) != volumes {
		t.Errorf("a failed creation left something: %d directories, %d volumes", len(after)-len(before), len(h.volumes.List())-volumes)
	}
	cfg := box("true")
	c, err := h.e.Create(background(t), "unlucky", cfg) // the name is free again
	must(t, err)
	h.gone(t, c.ID)
	// A network may come later: it is looked for when the container starts.
	lost := box("true")
	lost.Network = spec.Network{Endpoints: []spec.Endpoint{{Network: "nowhere"}}}
	l, err := h.e.Create(background(t), "lost", lost)
	must(t, err)
	h.gone(t, l.ID)
	if err := h.e.Start(background(t), l.ID); !isNotFound(err) || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("a start on no network: %v", err)
	}
	if _, err := h.e.Create(background(t), "unlucky", cfg); !errdefs.IsConflict(err) {
		t.Errorf("the name twice: %v", err)
	}
	if _, err := h.e.Create(background(t), "-bad", cfg); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a bad name: %v", err)
	}
}

func TestRename(t *testing.T) {
	h := sharedHouse(t)
	net, err := h.e.CreateNetwork(background(t), network.Spec{Name: "rename"})
	must(t, err)
	defer h.e.RemoveNetwork(context.Background(), net.ID)
	cfg := box("sleep", "1000")
	cfg.Network = spec.Network{Endpoints: []spec.Endpoint{{Network: net.Name}}}
	a, b := h.start(t, cfg), h.start(t, cfg)
	must(t, h.e.Rename(background(t), a.ID, "newname"))
	if c := h.inspect(t, "newname"); c.ID != a.ID {
		t.Errorf("newname is %s", c.ID)
	}
	if _, err := h.e.Inspect(a.Name); !isNotFound(err) {
		t.Errorf("the old name: %v", err)
	}
	if code, out := h.exec(t, b.ID, ExecConfig{Command: []string{"nslookup", "newname"}}, nil); code != 0 {
		t.Errorf("its new name is not known to others: %s", out)
	}
	if err := h.e.Rename(background(t), b.ID, "newname"); !errdefs.IsConflict(err) {
		t.Errorf("a name that is taken: %v", err)
	}
	must(t, h.e.Remove(background(t), a.ID, RemoveOptions{Force: true}))
	must(t, h.e.Remove(background(t), b.ID, RemoveOptions{Force: true}))
}

func TestWait(t *testing.T) {
	h := sharedHouse(t)
	cfg := box("sh", "-c", "sleep 0.05; exit 4")
	cfg.AutoRemove = true
	c := h.create(t, cfg)
	var all sync.WaitGroup
	watching := make(chan struct{}, 2)
	for _, condition := range []string{NextExit, Removed} {
		all.Go(func() {
			w, err := h.e.Wait(background(t), c.ID, condition, func() { watching <- struct{}{} })
			if err != nil || w.ExitCode != 4 {
				t.Errorf("%s: %+v %v", condition, w, err)
			}
		})
	}
	<-watching
	<-watching
	if w, err := h.e.Wait(background(t), c.ID, NotRunning, nil); err != nil || w.ExitCode != 0 {
		t.Errorf("a container that was not started: %+v %v", w, err)
	}
	must(t, h.e.Start(background(t), c.ID))
	all.Wait()
	if _, err := h.e.Inspect(c.ID); !isNotFound(err) {
		t.Errorf("a container that removes itself: %v", err)
	}
	if _, err := h.e.Wait(background(t), h.create(t, box("true")).ID, "later", nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("an unknown condition: %v", err)
	}
}

// Short-lived processes end before their start is written down. None may be
// believed to run for ever.
func TestShortLives(t *testing.T) {
	h := sharedHouse(t)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 8 {
				c, err := h.e.Create(background(t), "", box("true"))
				if err == nil {
					err = h.e.Start(background(t), c.ID)
				}
				if err == nil {
					_, err = h.e.Wait(background(t), c.ID, NotRunning, nil)
				}
				if err == nil {
					err = h.e.Remove(background(t), c.ID, RemoveOptions{})
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

// Calls of all kinds at once on one container: each is answered, and in the end
// the container is what its record says.
func TestCallsAtOnce(t *testing.T) {
	h := sharedHouse(t)
	cfg := box("sh", "-c", "sleep 0.02; exit 1")
	cfg.Restart = spec.RestartPolicy{Name: spec.RestartAlways}
	c := h.create(t, cfg)
	ctx := background(t)
	var all sync.WaitGroup
	for i := range 6 {
		all.Go(func() {
			for n := range 8 {
				var err error
				switch (i + n) % 6 {
				case 0, 1:
					err = h.e.Start(ctx, c.ID)
				case 2:
					err = h.e.Stop(ctx, c.ID, StopOptions{Timeout: new(10 * time.Millisecond)})
				case 3:
					err = h.e.Kill(ctx, c.ID, "")
				case 4:
					err = h.e.Restart(ctx, c.ID, StopOptions{Signal: "KILL"})
				case 5:
					err = errors.Join(h.e.Pause(ctx, c.ID), h.e.Unpause(ctx, c.ID))
				}
				if err != nil && !errdefs.IsConflict(err) && !errors.Is(err, errdefs.ErrNotModified) && !errdefs.IsFailedPrecondition(err) {
					t.Errorf("call %d: %v", (i+n)%6, err)
				}
			}
		})
	}
	all.Wait()
	must(t, h.e.Remove(ctx, c.ID, RemoveOptions{Force: true}))
	kept, err := h.keeper.List(ctx)
	must(t, err)
	for _, st := range kept {
		if st.ID == c.ID {
			t.Errorf("the keeper still has it: %+v", st)
		}
	}
}

// Following a log ends with the container and not a line earlier.
func TestFollow(t *testing.T) {
	h := sharedHouse(t)
	c := h.create(t, box("sh", "-c", "seq 1 5000; echo last"))
	follow := func() (n int, last string) {
		must(t, h.e.Logs(background(t), c.ID, logs.Query{Stdout: true, Stderr: true, Tail: -1, Follow: true}, func(e logs.Entry) error {
			n++
			last = string(e.Line)
			return nil
		}))
		return n, last
	}
	must(t, h.e.Start(background(t), c.ID))
	if n, last := follow(); n != 5001 || last != "last\n" {
		t.Errorf("followed %d lines, the last %q", n, last)
	}
	if n, _ := follow(); n != 5001 {
		t.Errorf("of an ended container: %d lines", n)
	}
	none := box("true")
	none.Log.Driver = "none"
	silent := h.create(t, none)
	if err := h.e.Logs(background(t), silent.ID, logs.Query{Stdout: true}, nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("the log of one without: %v", err)
	}
}

func TestTopAndStats(t *testing.T) {
	h := sharedHouse(t)
	c := h.started(t, box("sh", "-c", "sleep 1000 & echo up; wait"))
	procs, err := h.e.Top(background(t), c.ID)
	must(t, err)
	if len(procs) != 2 || procs[0].Pid != c.Pid || procs[0].User != "0" || !strings.Contains(fmt.Sprint(procs), "sleep 1000") {
		t.Errorf("%+v", procs)
	}
	st, err := h.e.Stats(background(t), c.ID)
	must(t, err)
	if st.Pids < 2 || st.MemoryUsage == 0 {
		t.Errorf("%+v", st)
	}
	must(t, h.e.Kill(background(t), c.ID, ""))
	if _, err := h.e.Stats(background(t), c.ID); !errdefs.IsConflict(err) {
		t.Errorf("of an ended container: %v", err)
	}
}
