package runtime

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"gantry/runtime/spec"
)

func TestRestartPolicy(t *testing.T) {
	h := sharedHouse(t)
	count := func(max int) spec.RestartPolicy {
		return spec.RestartPolicy{Name: spec.RestartOnFailure, MaxRetries: max}
	}
	t.Run("on-failure, so many times", func(t *testing.T) {
		cfg := box("sh", "-c", "echo up; exit 2")
		cfg.Restart = count(2)
		c := h.create(t, cfg)
		since := time.Now()
		must(t, h.e.Start(background(t), c.ID))
		want := []string{"start", "die", "start", "die", "start", "die"}
		eventually(t, fmt.Sprintf("its events are %v", want), func() bool { return slices.Equal(h.actions(t, c.ID, since), want) })
		c = h.inspect(t, c.ID)
		if c.State != Exited || c.ExitCode != 2 || c.RestartCount != 2 || h.logOf(t, c.ID) != "up\nup\nup\n" {
			t.Errorf("%s, log %q", brief(c), h.logOf(t, c.ID))
		}
	})
	t.Run("always, until a call stops it", func(t *testing.T) {
		cfg := box("sh", "-c", "echo up; exit 0")
		cfg.Restart = spec.RestartPolicy{Name: spec.RestartAlways}
		c := h.start(t, cfg)
		eventually(t, "a few restarts", func() bool { return h.inspect(t, c.ID).RestartCount >= 3 })
		if err := h.e.Stop(background(t), c.ID, StopOptions{}); err != nil {
			t.Errorf("stop: %v", err)
		}
		c = h.inspect(t, c.ID)
		time.Sleep(150 * time.Millisecond)
		if now := h.inspect(t, c.ID); now.State != Exited || !now.Stopped || now.RestartCount != c.RestartCount || now.Networks != nil {
			t.Errorf("after a stop: %s", brief(now))
		}
	})
	t.Run("killed from outside", func(t *testing.T) {
		cfg := box("sh", "-c", "echo up; exec sleep 1000")
		cfg.Restart = spec.RestartPolicy{Name: spec.RestartUnlessStopped}
		cfg.Network = spec.Network{}
		c := h.started(t, cfg)
		must(t, kill(c.Pid))
		eventually(t, "it runs again", func() bool {
			now := h.inspect(t, c.ID)
			return now.State == Running && now.Pid != c.Pid
		})
		if now := h.inspect(t, c.ID); now.Networks[0].IPv4 != c.Networks[0].IPv4 {
			t.Errorf("address %v became %v", c.Networks[0].IPv4, now.Networks[0].IPv4)
		}
		must(t, h.e.Kill(background(t), c.ID, "")) // a call: now it stays so
		if now := h.inspect(t, c.ID); now.State != Exited {
			t.Errorf("killed by a call it is %s", now.State)
		}
	})
	t.Run("a start that fails is a crash", func(t *testing.T) {
		dir := t.TempDir()
		cfg := box("sh", "-c", "echo up; exit 1")
		cfg.Restart = count(3)
		cfg.Mounts = []spec.Mount{{Type: "bind", Source: dir + "/gone", Target: "/x"}}
		must(t, os.Mkdir(dir+"/gone", 0o755))
		c := h.create(t, cfg)
		must(t, h.e.Start(background(t), c.ID))
		must(t, os.Remove(dir+"/gone"))
		eventually(t, "it gives up", func() bool { return h.inspect(t, c.ID).State == Exited })
		if now := h.inspect(t, c.ID); now.RestartCount != 3 {
			t.Errorf("%s", brief(now))
		}
	})
	t.Run("a wait ends with the process, not with its last restart", func(t *testing.T) {
		cfg := box("sh", "-c", "sleep 0.1; exit 4")
		cfg.Restart = spec.RestartPolicy{Name: spec.RestartAlways}
		c := h.start(t, cfg)
		w, err := h.e.Wait(background(t), c.ID, NotRunning, nil)
		must(t, err)
		if w.ExitCode != 4 {
			t.Errorf("exit code %d", w.ExitCode)
		}
	})
}
