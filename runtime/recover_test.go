package runtime

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gantry/runtime/keeper"
	"gantry/runtime/spec"
)

// TestDaemonDies goes through the table of recover.go: at every step of every
// change the daemon dies, and the next one finds what is true.
func TestDaemonDies(t *testing.T) {
	h := newHouse(t)
	ctx := context.Background()
	restarting := func(c Config) Config {
		c.Restart = spec.RestartPolicy{Name: spec.RestartAlways}
		return c
	}
	networked := func(c Config) Config {
		c.Network = spec.Network{Ports: []spec.Port{{Port: 80}}}
		return c
	}
	is := func(t *testing.T, id string, want State) Container {
		t.Helper()
		eventually(t, "it is "+string(want), func() bool {
			ct, err := h.e.find(id)
			if err != nil {
				return false
			}
			v := ct.view()
			return v.State == want && !v.settling
		})
		return h.inspect(t, id)
	}
	gone := func(t *testing.T, id string) {
		t.Helper()
		eventually(t, "it is gone", func() bool {
			_, err := h.e.Inspect(id)
			return isNotFound(err)
		})
		if _, err := os.Stat(h.e.rec.dir(id)); !os.IsNotExist(err) {
			t.Errorf("its directory: %v", err)
		}
	}

	t.Run("live: adopted", func(t *testing.T) {
		cfg := networked(box("sh", "-c", "echo up; exec sleep 1000"))
		cfg.Healthcheck = &spec.Healthcheck{Test: []string{"CMD", "true"}, Interval: time.Minute}
		c := h.started(t, cfg)
		must(t, h.e.AwaitHealthy(background(t), c.ID))
		c = h.inspect(t, c.ID)
		paused := h.start(t, box("sleep", "1000"))
		must(t, h.e.Pause(ctx, paused.ID))
		h.kill(t)
		now := h.inspect(t, c.ID)
		if now.State != Running || now.Pid != c.Pid || !now.StartedAt.Equal(c.StartedAt) || now.Health.Status != Healthy ||
			now.Networks[0] != c.Networks[0] || now.Ports[0] != c.Ports[0] {
			t.Errorf("was %s, is %s", brief(c), brief(now))
		}
		if now := h.inspect(t, paused.ID); now.State != Paused || now.Pid != paused.Pid {
			t.Errorf("the paused one is %s", brief(now))
		}
		must(t, h.e.Stop(ctx, c.ID, StopOptions{Signal: "KILL"}))
		if b := h.fabric.Bindings(c.ID); len(b) != 0 {
			t.Errorf("its ports are still published: %v", b)
		}
	})
	t.Run("ended meanwhile", func(t *testing.T) {
		c := h.start(t, networked(box("sh", "-c", "sleep 0.2; exit 3")))
		h.dieAt(t, "exit: heard", func(context.Context) {})
		h.kill(t)
		if now := is(t, c.ID, Exited); now.ExitCode != 3 || now.ExitLost || now.Networks != nil {
			t.Errorf("%s", brief(now))
		}
	})
	t.Run("ended meanwhile, and to be restarted", func(t *testing.T) {
		c := h.start(t, restarting(networked(box("sleep", "1000"))))
		h.stopShort()
		h.keeper.Close()
		must(t, kill(c.Pid))
		h.kill(t)
		eventually(t, "it runs again", func() bool {
			now := h.inspect(t, c.ID)
			return now.State == Running && now.Pid != c.Pid && len(now.Networks) == 1
		})
	})
	t.Run("exit settled, not cleared", func(t *testing.T) {
		for _, step := range []string{"exit: recorded", "exit: cleared"} {
			once := h.start(t, box("sh", "-c", "sleep 0.5; exit 5")) // not before dieAt
			h.dieAt(t, step, func(context.Context) {})
			h.kill(t)
			if now := is(t, once.ID, Exited); now.ExitCode != 5 || now.ExitLost {
				t.Errorf("%s: %s", step, brief(now))
			}
			if st, ok, err := h.e.kept(ctx, once.ID); ok || err != nil {
				t.Errorf("%s: the keeper still has %+v %v", step, st, err)
			}
			must(t, h.e.Start(ctx, once.ID))
		}
	})
	t.Run("exit settled, to be restarted", func(t *testing.T) {
		c := h.start(t, restarting(box("sleep", "1000")))
		h.dieAt(t, "exit: recorded", func(context.Context) { kill(c.Pid) })
		h.kill(t)
		if now := is(t, c.ID, Running); now.RestartCount != 1 {
			t.Errorf("%s", brief(now))
		}
	})
	t.Run("start cut short", func(t *testing.T) {
		for step, want := range map[string]State{
			"start: namespace made": Created, "start: process made": Created, "start: process runs": Running,
		} {
			c := h.create(t, networked(box("sleep", "1000")))
			h.dieAt(t, step, func(ctx context.Context) { h.e.Start(ctx, c.ID) })
			h.kill(t)
			now := h.inspect(t, c.ID)
			if now.State != want {
				t.Errorf("%s: it is %s, not %s", step, now.State, want)
			}
			if want == Running && (now.Pid == 0 || len(now.Networks) != 1 || len(now.Ports) == 0) {
				t.Errorf("%s: %s", step, brief(now))
			}
			if want == Created {
				must(t, h.e.Start(ctx, c.ID))
			}
			must(t, h.e.Remove(ctx, c.ID, RemoveOptions{Force: true}))
		}
	})
	t.Run("start not recorded, and ended", func(t *testing.T) {
		c := h.create(t, box("sh", "-c", "exit 6"))
		h.dieAt(t, "start: process runs", func(ctx context.Context) { h.e.Start(ctx, c.ID) })
		time.Sleep(50 * time.Millisecond)
		h.kill(t)
		if now := is(t, c.ID, Exited); now.ExitCode != 6 {
			t.Errorf("%s", brief(now))
		}
	})
	t.Run("creation cut short", func(t *testing.T) {
		before := len(h.volumes.List())
		for _, step := range []string{"create: files made", "create: half recorded", "create: volumes made"} {
			cfg := box("true")
			cfg.Mounts = []spec.Mount{{Type: spec.MountVolume, Target: "/a"}}
			h.dieAt(t, step, func(ctx context.Context) { h.e.Create(ctx, "half", cfg) })
			h.kill(t)
			eventually(t, step+": nothing is left", func() bool {
				dirs, _ := os.ReadDir(h.e.rec.root)
				for _, d := range dirs {
					if data, _ := os.ReadFile(filepath.Join(h.e.rec.root, d.Name(), "container.json")); strings.Contains(string(data), `"half"`) || data == nil {
						return false
					}
				}
				_, err := h.e.Inspect("half")
				return isNotFound(err) && len(h.volumes.List()) == before
			})
		}
	})
	t.Run("removal cut short", func(t *testing.T) {
		for _, step := range []string{"remove: doomed", "stop: intended", "stop: signalled", "exit: recorded", "remove: removing", "remove: taken apart", "remove: volumes removed"} {
			cfg := networked(box("sleep", "1000"))
			cfg.Mounts = []spec.Mount{{Type: spec.MountVolume, Target: "/a"}}
			cfg.StopTimeout = new(50 * time.Millisecond)
			c := h.start(t, cfg)
			h.dieAt(t, step, func(ctx context.Context) { h.e.Remove(ctx, c.ID, RemoveOptions{Force: true, Volumes: true}) })
			h.kill(t)
			gone(t, c.ID)
			if _, err := h.volumes.Get(c.Mounts[0].Name); !isNotFound(err) {
				t.Errorf("%s: its volume: %v", step, err)
			}
			if b := h.fabric.Bindings(c.ID); len(b) != 0 {
				t.Errorf("%s: its ports are still published: %v", step, b)
			}
		}
	})
	t.Run("removes itself", func(t *testing.T) {
		for _, step := range []string{"exit: recorded", "exit: cleared", "remove: removing"} {
			cfg := box("sleep", "0.05")
			cfg.AutoRemove = true
			c := h.create(t, cfg)
			h.dieAt(t, step, func(ctx context.Context) { h.e.Start(ctx, c.ID) })
			h.kill(t)
			gone(t, c.ID)
		}
	})
	t.Run("stop cut short", func(t *testing.T) {
		c := h.start(t, restarting(box("sleep", "1000")))
		h.dieAt(t, "stop: signalled", func(ctx context.Context) { h.e.Stop(ctx, c.ID, StopOptions{Signal: "KILL"}) })
		h.kill(t)
		if now := is(t, c.ID, Exited); !now.Stopped || now.ExitCode != 137 {
			t.Errorf("what a call stopped: %s", brief(now))
		}
	})
	t.Run("restart cut short", func(t *testing.T) {
		c := h.start(t, box("sleep", "1000"))
		h.dieAt(t, "exit: cleared", func(ctx context.Context) { h.e.Restart(ctx, c.ID, StopOptions{Signal: "KILL"}) })
		h.kill(t)
		if now := is(t, c.ID, Running); now.Pid == c.Pid {
			t.Error("the process is the old one")
		}
	})
	t.Run("rename cut short", func(t *testing.T) {
		c := h.create(t, box("true"))
		h.dieAt(t, "rename: recorded", func(ctx context.Context) { h.e.Rename(ctx, c.ID, "renamed") })
		h.kill(t)
		if now := h.inspect(t, c.ID); now.Name != "renamed" {
			t.Errorf("its name is %s", now.Name)
		}
		if other := h.create(t, box("true")); other.Name == "renamed" {
			t.Error("the name is taken twice")
		}
	})
	t.Run("of an unknown container", func(t *testing.T) {
		c := h.start(t, networked(box("sleep", "1000")))
		h.stopShort()
		h.keeper.Close()
		must(t, os.RemoveAll(h.e.rec.dir(c.ID)))
		h.kill(t)
		if st, ok, err := h.e.kept(ctx, c.ID); ok || err != nil {
			t.Errorf("the keeper still has %+v %v", st, err)
		}
	})
	t.Run("unreadable", func(t *testing.T) {
		c := h.start(t, box("sleep", "1000"))
		file := filepath.Join(h.e.rec.dir(c.ID), "container.json")
		good, err := os.ReadFile(file)
		must(t, err)
		must(t, os.WriteFile(file, []byte("{"), 0o600))
		h.kill(t)
		if _, ok, err := h.e.kept(ctx, c.ID); !ok || err != nil {
			t.Errorf("it was taken from the keeper: %v", err)
		}
		must(t, os.WriteFile(file, good, 0o600))
		h.kill(t)
		if now := h.inspect(t, c.ID); now.State != Running || now.Pid != c.Pid {
			t.Errorf("%s", brief(now))
		}
		// A power cut may empty the state; there is no process then.
		must(t, os.WriteFile(filepath.Join(h.e.rec.dir(c.ID), "state.json"), nil, 0o600))
		h.stopShort()
		must(t, h.keeper.Delete(ctx, c.ID))
		h.kill(t)
		if now := is(t, c.ID, Exited); !now.ExitLost {
			t.Errorf("%s", brief(now))
		}
	})
	if strings.Contains(h.logText(), "panic") {
		t.Errorf("panics:\n%s", h.logText())
	}
}

// TestEverythingDies: after a reboot there are records and nothing else.
func TestEverythingDies(t *testing.T) {
	h := newHouse(t)
	always := box("sleep", "1000")
	always.Restart = spec.RestartPolicy{Name: spec.RestartAlways}
	always.Network = spec.Network{}
	a, b := h.start(t, always), h.start(t, box("sleep", "1000"))
	stopped := h.start(t, always)
	must(t, h.e.Stop(background(t), stopped.ID, StopOptions{Signal: "KILL"}))
	h.stopShort()
	// A reboot takes all processes; what keeps them is found dead.
	must(t, h.keeper.Delete(context.Background(), a.ID))
	must(t, h.keeper.Delete(context.Background(), b.ID))
	h.kill(t)
	eventually(t, "what is always to run runs", func() bool { return h.inspect(t, a.ID).State == Running })
	eventually(t, "the other one is settled", func() bool { return h.inspect(t, b.ID).State == Exited })
	if now := h.inspect(t, b.ID); !now.ExitLost || now.ExitCode != 255 {
		t.Errorf("%s", brief(now))
	}
	if now := h.inspect(t, stopped.ID); now.State != Exited || !now.Stopped {
		t.Errorf("what a call had stopped: %s", brief(now))
	}
}

// TestKeeperDies: containers and those who talk to them go on, and what ended
// meanwhile is told.
func TestKeeperDies(t *testing.T) {
	h := newHouse(t)
	cfg := box("sh", "-c", "echo up; while :; do echo tick; sleep 0.01; done")
	on := h.started(t, cfg)
	tty := box("sh", "-c", "echo up; read line; echo got $line; exec sleep 1000")
	tty.TTY, tty.OpenStdin = true, true
	terminal := h.started(t, tty)
	ends := h.start(t, box("sleep", "1000"))

	// An exec whose container ends together with the keeper.
	x, err := h.e.ExecCreate(background(t), ends.ID, ExecConfig{Command: []string{"sleep", "1000"}, Stdout: true})
	must(t, err)
	heard := make(chan error, 1)
	var out firstBytes
	go func() { heard <- h.e.ExecStart(background(t), x, &ExecStreams{Out: &out}) }()
	eventually(t, "the exec runs", func() bool { s, err := h.e.ExecInspect(x); return err == nil && s.Running })

	pid := h.keeper.Pid()
	must(t, kill(pid))
	must(t, kill(ends.Pid))
	eventually(t, "another keeper", func() bool { now := h.keeper.Pid(); return now != 0 && now != pid })
	eventually(t, "the end of the one that ended", func() bool { return h.inspect(t, ends.ID).State == Exited })
	must(t, <-heard)
	for _, c := range []Container{on, terminal} {
		if now := h.inspect(t, c.ID); now.State != Running || now.Pid != c.Pid {
			t.Errorf("%s", brief(now))
		}
	}
	before := strings.Count(h.logOf(t, on.ID), "tick")
	eventually(t, "its log goes on", func() bool { return strings.Count(h.logOf(t, on.ID), "tick") > before })
	attachInput(t, h, terminal.ID, "word\n")
	eventually(t, "the terminal is there", func() bool { return strings.Contains(h.logOf(t, terminal.ID), "got word") })
	must(t, h.e.Stop(background(t), on.ID, StopOptions{Signal: "KILL"}))
	code, text := h.exec(t, terminal.ID, ExecConfig{Command: []string{"echo", "exec"}}, nil)
	if code != 0 || text != "exec\n" {
		t.Errorf("exec with the new keeper: %d %q", code, text)
	}

	// What a keeper lost altogether is settled as lost.
	lost := h.start(t, box("sleep", "1000"))
	must(t, os.RemoveAll(filepath.Join(h.run, "keeper", lost.ID)))
	h.killKeeper(t)
	eventually(t, "it is settled", func() bool { return h.inspect(t, lost.ID).State == Exited })
	if now := h.inspect(t, lost.ID); !now.ExitLost {
		t.Errorf("%s", brief(now))
	}
	// Nobody knows it any more but the test.
	must(t, kill(lost.Pid))
	eventually(t, "its cgroups are gone", func() bool {
		dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + h.cgroup + "/" + lost.ID)
		for _, d := range append(dirs, "/sys/fs/cgroup"+h.cgroup+"/"+lost.ID) {
			os.Remove(d)
		}
		return len(dirs) == 0
	})
}

// A keeper that still holds the last run of a container does not keep the next
// one from starting.
func TestStartOverLeftover(t *testing.T) {
	h := sharedHouse(t)
	c := h.start(t, box("sh", "-c", "exit 2"))
	_, err := h.e.Wait(background(t), c.ID, NotRunning, nil)
	must(t, err)
	bundle, release, err := h.e.bundle(background(t), h.inspect(t, c.ID), "")
	must(t, err)
	defer release()
	_, err = h.keeper.Run(background(t), bundle)
	must(t, err)
	eventually(t, "the leftover has ended", func() bool {
		st, ok, err := h.e.kept(background(t), c.ID)
		return err == nil && ok && st.State == keeper.StateStopped
	})
	must(t, h.e.Start(background(t), c.ID))
	if w, err := h.e.Wait(background(t), c.ID, NotRunning, nil); err != nil || w.ExitCode != 2 {
		t.Errorf("%+v %v", w, err)
	}
}

// attachInput writes to a container's standard input.
func attachInput(t testing.TB, h *house, id, text string) {
	t.Helper()
	must(t, h.e.Attach(background(t), id, AttachOptions{Stdin: strings.NewReader(text)}))
}
