package runtime

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"gantry/runtime/spec"
)

// A check that cannot even be started in time has failed, and if it
// is started later all the same, it is ended: nobody waits for it any more.
func TestCheckThatCannotBeStarted(t *testing.T) {
	h := newHouse(t)
	h.e.checkStart = 300 * time.Millisecond
	cfg := box("sleep", "1000")
	cfg.Healthcheck = &spec.Healthcheck{
		Test:     []string{"CMD-SHELL", "test -f /tmp/slow || exit 0; echo x >>/tmp/ran; exec sleep 1000"},
		Interval: 10 * time.Millisecond, Timeout: 300 * time.Millisecond, Retries: 2,
	}
	c := h.start(t, cfg)
	must(t, h.e.AwaitHealthy(background(t), c.ID))
	if code, _ := h.exec(t, c.ID, ExecConfig{Command: []string{"touch", "/tmp/slow"}}, nil); code != 0 {
		t.Fatal("no file made")
	}
	eventually(t, "a check hangs", func() bool { return strings.Contains(h.lastCheck(t, c.ID), "did not end") })
	must(t, syscall.Kill(h.keeper.Pid(), syscall.SIGSTOP)) // it answers nobody
	stopped := true
	goOn := func() {
		if stopped {
			must(t, syscall.Kill(h.keeper.Pid(), syscall.SIGCONT))
			stopped = false
		}
	}
	defer goOn()
	eventually(t, "it is unhealthy", func() bool { return h.inspect(t, c.ID).Health.Status == Unhealthy })
	eventually(t, "a check is not started in time", func() bool {
		return strings.Contains(h.lastCheck(t, c.ID), "could not be started within 300ms")
	})
	eventually(t, "the next one waits for it", func() bool { return strings.Contains(h.lastCheck(t, c.ID), "still being started") })
	goOn()
	if code, _ := h.exec(t, c.ID, ExecConfig{Command: []string{"rm", "/tmp/slow"}}, nil); code != 0 {
		t.Fatal("no file removed")
	}
	eventually(t, "it is healthy again", func() bool { return h.inspect(t, c.ID).Health.Status == Healthy })
	eventually(t, "no check is left", func() bool {
		_, out := h.exec(t, c.ID, ExecConfig{Command: []string{"sh", "-c", "cat /proc/[0-9]*/comm 2>/dev/null | grep -c sleep"}}, nil)
		return strings.TrimSpace(out) == "1" // the container's own
	})
}

func (h *house) lastCheck(t *testing.T, id string) string {
	t.Helper()
	log := h.inspect(t, id).Health.Log
	if len(log) == 0 {
		return ""
	}
	return log[len(log)-1].Output
}

// A container that ends takes the check in it along: the check has not failed.
func TestCheckMeetsTheEnd(t *testing.T) {
	h := newHouse(t)
	cfg := box("sleep", "1000")
	cfg.Healthcheck = &spec.Healthcheck{
		Test:     []string{"CMD-SHELL", "touch /tmp/begun; exec sleep 1000"},
		Interval: 10 * time.Millisecond, Timeout: time.Minute, Retries: 1,
	}
	for range 10 {
		c := h.start(t, cfg)
		eventually(t, "a check runs", func() bool {
			code, _ := h.exec(t, c.ID, ExecConfig{Command: []string{"sh", "-c", "test -f /tmp/begun"}}, nil)
			return code == 0
		})
		must(t, h.e.Kill(background(t), c.ID, "KILL"))
		eventually(t, "it has ended", func() bool { return h.inspect(t, c.ID).State == Exited })
		if health := h.inspect(t, c.ID).Health; health != nil && len(health.Log) > 0 {
			t.Fatalf("the end counts as a failed check: %+v", health)
		}
	}
}
