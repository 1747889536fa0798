package runtime

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"gantry/runtime/spec"

	"github.com/containerd/errdefs"
)

func TestCommit(t *testing.T) {
	h := newHouse(t)
	ctx := background(t)
	cfg := box("sh", "-c", "echo hi > /made && ln /made /seed/link && rm /bin/plain && rm -r /data && mkdir /data && touch /data/only && rm /seed/file && sleep 1000")
	cfg.Env, cfg.WorkingDir, cfg.Labels = []string{"WHO=me"}, "/seed", map[string]string{"kept": "yes"}
	cfg.Mounts = []spec.Mount{{Type: spec.MountVolume, Target: "/vol"}, {Type: spec.MountVolume, Source: "named", Target: "/named"}}
	c := h.start(t, cfg)
	eventually(t, "it has written", func() bool {
		code, _ := h.exec(t, c.ID, ExecConfig{Command: []string{"sh", "-c", "test ! -e /seed/file"}}, nil)
		return code == 0
	})
	since := time.Now()
	img, err := h.e.Commit(ctx, c.ID, CommitOptions{
		Name: "mine:1", Author: "a", Comment: "why", Pause: true, Changes: []string{`CMD ["cat","/made"]`, "ENV BOTH=$WHO/too"},
	})
	must(t, err)
	if got := h.actions(t, c.ID, since); !slices.Equal(got, []string{"pause", "commit", "unpause"}) {
		t.Errorf("events %v", got)
	}
	if h.inspect(t, c.ID).State != Running {
		t.Error("the container stays frozen")
	}
	k := img.Config
	if !slices.Equal(img.Names, []string{"mine:1"}) || k.Author != "a" || len(img.Layers) != 2 || !slices.Equal(k.Config.Cmd, []string{"cat", "/made"}) ||
		!slices.Contains(k.Config.Env, "BOTH=me/too") || !slices.Contains(k.Config.Env, "ORIGIN=image") || k.Config.Labels["kept"] != "yes" || k.Config.WorkingDir != "/seed" {
		t.Errorf("got %+v", img)
	}
	if _, ok := k.Config.Volumes["/vol"]; !ok || len(k.Config.Volumes) != 1 {
		t.Errorf("volumes %v", k.Config.Volumes)
	}
	if last := k.History[len(k.History)-1]; last.Comment != "why" || !strings.HasPrefix(last.CreatedBy, "sh -c echo hi") || last.EmptyLayer {
		t.Errorf("history %+v", last)
	}

	// A container of the new image sees what the old one saw, whatever becomes
	// of that one and of a name.
	must(t, h.e.Remove(ctx, c.ID, RemoveOptions{Force: true, Volumes: true}))
	must(t, h.images.Collect(ctx))
	check := Config{Image: "mine:1", Network: networkMode("none"), Command: []string{"sh", "-c",
		"cat /made /seed/link; ls -a /data /seed; test -e /bin/plain || echo no plain; stat -c %h /made; pwd"}}
	code, out := h.output(t, check)
	if want := "hi\nhi\n/data:\n.\n..\nonly\n\n/seed:\n.\n..\nlink\nno plain\n2\n/seed\n"; code != 0 || out != want {
		t.Errorf("exit code %d, output %q, want %q", code, out, want)
	}
	if code, out := h.output(t, Config{Image: "mine:1", Network: networkMode("none")}); code != 0 || out != "hi\n" {
		t.Errorf("exit code %d, output %q", code, out)
	}

	// One more on top of it, of a container that has ended and changed nothing.
	idle := h.start(t, Config{Image: "mine:1", Network: networkMode("none"), Command: []string{"true"}})
	_, err = h.e.Wait(ctx, idle.ID, NotRunning, nil)
	must(t, err)
	again, err := h.e.Commit(ctx, idle.ID, CommitOptions{Changes: []string{"LABEL more=1"}})
	must(t, err)
	if len(again.Names) != 0 || again.Config.Config.Labels["more"] != "1" || len(again.Layers) > 3 {
		t.Errorf("got %+v", again)
	}
}

func TestCommitRefuses(t *testing.T) {
	h := newHouse(t)
	ctx := background(t)
	c := h.start(t, box("sleep", "1000"))
	for _, tt := range []struct {
		ref  string
		o    CommitOptions
		is   func(error) bool
		text string
	}{
		{"nothing", CommitOptions{}, errdefs.IsNotFound, "No such container"},
		{c.ID, CommitOptions{Name: "Bad Name"}, errdefs.IsInvalidArgument, "Bad Name"},
		{c.ID, CommitOptions{Changes: []string{"RUN x"}}, errdefs.IsInvalidArgument, "RUN"},
	} {
		if _, err := h.e.Commit(ctx, tt.ref, tt.o); !tt.is(err) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%+v: %v", tt.o, err)
		}
	}
	if h.inspect(t, c.ID).State != Running {
		t.Error("a refused commit left it frozen")
	}
	// Without its image there is nothing to lie on.
	must(t, h.e.Stop(ctx, c.ID, StopOptions{Signal: "SIGKILL"}))
	_, err := h.e.RemoveImage(ctx, "box", true)
	must(t, err)
	if _, err := h.e.Commit(ctx, c.ID, CommitOptions{}); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "has been removed") {
		t.Errorf("got %v", err)
	}
}

// A daemon that dies while it commits leaves the container running and no image.
func TestCommitCutShort(t *testing.T) {
	h := newHouse(t)
	c := h.start(t, box("sh", "-c", "echo x > /x; i=0; while true; do i=$((i+1)); echo $i > /tick; usleep 1000; done"))
	over := make(chan struct{})
	h.dieAt(t, "commit: frozen", func(ctx context.Context) {
		defer close(over)
		_, _ = h.e.Commit(ctx, c.ID, CommitOptions{Name: "never", Pause: true})
	})
	<-over // it stops at the next step
	h.kill(t)
	now := h.inspect(t, c.ID)
	if now.State != Running || now.Committing || now.Pid != c.Pid {
		t.Errorf("the next daemon finds it %s", brief(now))
	}
	if code, out := h.exec(t, c.ID, ExecConfig{Command: []string{"sh", "-c", "a=$(cat /tick); sleep 1; test \"$a\" != \"$(cat /tick)\" && echo goes on"}}, nil); code != 0 || out != "goes on\n" {
		t.Errorf("it does not go on: %d %q", code, out)
	}
	if _, err := h.e.Image(background(t), "never"); !errdefs.IsNotFound(err) {
		t.Errorf("there is an image: %v", err)
	}
	// One that somebody paused stays so.
	must(t, h.e.Pause(background(t), c.ID))
	_, err := h.e.Commit(background(t), c.ID, CommitOptions{Name: "later", Pause: true})
	must(t, err)
	h.kill(t)
	if now := h.inspect(t, c.ID); now.State != Paused {
		t.Errorf("a paused container is %s", now.State)
	}
	must(t, h.e.Unpause(background(t), c.ID))
}
