package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gantry/client"
	"gantry/compose"
	"gantry/runtime"
	"gantry/scheduler"

	"github.com/containerd/errdefs"
)

// The other side of these calls is our own client, so it is the judge.
func ours(t *testing.T, o Options) *client.Client {
	t.Helper()
	c, err := client.New(serve(t, o))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func shop() scheduler.Goal {
	secret := "hunter2"
	service := compose.Service{Name: "web"}
	service.Image = "busybox"
	service.Environment = map[string]*string{"PASSWORD": &secret, "EMPTY": nil}
	return scheduler.Goal{
		Project: &compose.Project{
			Name:     "shop",
			Services: compose.Services{"web": service},
			Secrets:  compose.Secrets{"s": compose.Secret{Name: "shop_s", Content: secret}},
		},
		Services: map[string]scheduler.Want{"web": {Replicas: 2}},
	}
}

func TestApply(t *testing.T) {
	var got scheduler.Goal
	p := &scripted{apply: func(_ context.Context, g scheduler.Goal, report func(scheduler.Event)) error {
		got = g
		report(scheduler.Event{Plan: &scheduler.Plan{Project: "shop"}})
		for i := 1; i <= 3; i++ {
			report(scheduler.Event{Step: i, Progress: scheduler.StepDone, What: scheduler.What{Verb: "start"}})
		}
		return fmt.Errorf("start web: port 80 is taken: %w", errdefs.ErrFailedPrecondition)
	}}
	c := ours(t, Options{Engine: newFake(), Projects: p})
	var steps []int
	err := c.Apply(t.Context(), shop(), func(e scheduler.Event) { steps = append(steps, e.Step) })
	if !errdefs.IsFailedPrecondition(err) || err.Error() != "start web: port 80 is taken" {
		t.Errorf("got %v", err)
	}
	if !slices.Equal(steps, []int{0, 1, 2, 3}) {
		t.Errorf("events %v", steps)
	}
	if got.Project == nil || *got.Project.Services["web"].Environment["PASSWORD"] != "hunter2" || got.Services["web"].Replicas != 2 {
		t.Errorf("the goal arrived as %+v", got)
	}
	// Another project's goal is not put there.
	g := shop()
	text, err := g.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	resp, body := send(t, c.Host(), "PUT", "/projects/other", string(text))
	if resp.StatusCode != 400 || !strings.Contains(body, "not one of project other") {
		t.Errorf("got %d %s", resp.StatusCode, body)
	}
	resp, body = send(t, c.Host(), "PUT", "/projects/shop", `{"version":99}`)
	if resp.StatusCode != 400 || !strings.Contains(body, "version 99") {
		t.Errorf("got %d %s", resp.StatusCode, body)
	}
}

// A goal that cannot be honoured is refused whoever sends it, in the words the
// client has for it.
func TestApplyRefusesUnsupported(t *testing.T) {
	p := &scripted{apply: func(context.Context, scheduler.Goal, func(scheduler.Event)) error {
		t.Error("it was applied")
		return nil
	}}
	c := ours(t, Options{Engine: newFake(), Projects: p})
	g := shop()
	web := g.Project.Services["web"]
	web.ExternalLinks = []string{"other"}
	web.Runtime = "kata"
	g.Project.Services["web"] = web
	g.Project.ComposeFiles = []string{"/nowhere/compose.yaml"}
	want := errors.Join(compose.Unsupported(g.Project)...).Error()
	if !strings.Contains(want, "external_links") || !strings.Contains(want, "runtime") {
		t.Fatalf("the wrong things are refused: %s", want)
	}
	if err := c.Apply(t.Context(), g, nil); !errdefs.IsNotImplemented(err) || err.Error() != want {
		t.Errorf("applied: got %v, want %s", err, want)
	}
	if _, err := c.Plan(t.Context(), g); !errdefs.IsNotImplemented(err) || err.Error() != want {
		t.Errorf("planned: got %v, want %s", err, want)
	}
}

// The client's leaving cancels the call.
func TestApplyIsCancelled(t *testing.T) {
	cancelled := make(chan struct{})
	p := &scripted{apply: func(ctx context.Context, _ scheduler.Goal, report func(scheduler.Event)) error {
		report(scheduler.Event{Step: 1, Progress: scheduler.StepStarted})
		<-ctx.Done()
		close(cancelled)
		return ctx.Err()
	}}
	c := ours(t, Options{Engine: newFake(), Projects: p})
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("ctrl-c")
	err := c.Apply(ctx, shop(), func(scheduler.Event) { cancel(stop) })
	if !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
	select {
	case <-cancelled:
	case <-time.After(5 * time.Second):
		t.Error("the call went on")
	}
}

// A reader that does not read does not hold the scheduler up.
func TestApplyWithSlowReader(t *testing.T) {
	const events = 5_000
	done := make(chan struct{})
	p := &scripted{apply: func(_ context.Context, _ scheduler.Goal, report func(scheduler.Event)) error {
		for i := range events {
			report(scheduler.Event{Step: i + 1, Progress: scheduler.StepDone, What: scheduler.What{Verb: "start", Name: strings.Repeat("x", 100)}})
		}
		close(done)
		return nil
	}}
	c := ours(t, Options{Engine: newFake(), Projects: p})
	n := 0
	err := c.Apply(t.Context(), shop(), func(scheduler.Event) {
		if n++; n > 1 {
			return
		}
		select {
		case <-done: // while we read nothing
		case <-time.After(10 * time.Second):
			t.Error("the scheduler waits for the reader")
		}
	})
	if err != nil || n != events {
		t.Errorf("%d events, %v", n, err)
	}
}

// The daemon's end is not the client's leaving: the call is the scheduler's to
// break off, and the client hears of it at once.
func TestApplyWhileTheDaemonStops(t *testing.T) {
	closed := make(chan struct{}) // the scheduler's
	var cancelled atomic.Bool
	ended := make(chan struct{})
	p := &scripted{apply: func(ctx context.Context, _ scheduler.Goal, report func(scheduler.Event)) error {
		defer close(ended)
		report(scheduler.Event{Step: 1, Progress: scheduler.StepStarted})
		select {
		case <-ctx.Done():
			cancelled.Store(true)
		case <-closed:
		}
		return nil
	}}
	path := t.TempDir() + "/s"
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	daemon, stop := context.WithCancelCause(context.Background())
	srv := &http.Server{Handler: New(Options{Engine: newFake(), Projects: p}), BaseContext: func(net.Listener) context.Context { return daemon }}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	c, err := client.New("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	err = c.Apply(t.Context(), shop(), func(scheduler.Event) { stop(errors.New("stopped by a call")) })
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "the daemon is stopping") {
		t.Errorf("got %v", err)
	}
	if err := srv.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	<-done
	close(closed)
	<-ended
	if cancelled.Load() {
		t.Error("the call was cancelled as if the client had left")
	}
}

// An answer cut off is not taken for success.
func TestApplyCutOff(t *testing.T) {
	path := t.TempDir() + "/s"
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, `{"event":{"step":1}}`) // and no result
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	defer func() { srv.Close(); <-done }()
	c, err := client.New("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Apply(t.Context(), shop(), nil); !errdefs.IsUnavailable(err) {
		t.Errorf("got %v", err)
	}
}

func TestProjectCalls(t *testing.T) {
	p := &scripted{}
	c := ours(t, Options{Engine: newFake(), Projects: p})
	ctx := t.Context()
	timeout := 1500 * time.Millisecond
	o := scheduler.Options{Named: true, Dir: "/src", Services: []string{"web"}, Volumes: true, RemoveImages: scheduler.RemoveLocalImages, RemoveOrphans: true, Timeout: &timeout, NoDeps: true}
	for name, err := range map[string]error{
		"down":  c.Down(ctx, "shop", o, nil),
		"scale": c.Scale(ctx, "shop", map[string]int{"web": 3}, o, nil),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := errors.Join(c.Start(ctx, "shop", o, nil), c.Stop(ctx, "shop", o, nil)); err != nil {
		t.Error(err)
	}
	slices.Sort(p.calls)
	want := []string{
		"down shop [web] volumes=true rmi=local timeout=2s orphans=true from=/src true",
		"scale shop map[web:3] true", "start shop [web]", "stop shop [web] 1.5s",
	}
	if !slices.Equal(p.calls, want) {
		t.Errorf("calls %q, want %q", p.calls, want)
	}
	if plan, err := c.Plan(ctx, shop()); err != nil || plan.Notes[0] != "nothing changes" {
		t.Errorf("plan %+v, %v", plan, err)
	}
	if err := c.Clash(ctx, "shop", "/src"); err != nil {
		t.Error(err)
	}
	if err := c.Clash(ctx, "shop", "/other"); !errdefs.IsFailedPrecondition(err) || err.Error() != "project shop is that of /src, and this is /other" {
		t.Errorf("got %v", err)
	}
	if all, err := c.Projects(ctx); err != nil || len(all) != 1 || all[0].Phase != scheduler.Settled {
		t.Errorf("projects %+v, %v", all, err)
	}
	if _, err := c.Project(ctx, "other"); !errdefs.IsNotFound(err) || err.Error() != "no project other" {
		t.Errorf("got %v", err)
	}
	if _, err := c.Goal(ctx, "shop", false); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	resp, body := send(t, c.Host(), "DELETE", "/projects/shop?rmi=some", "")
	if resp.StatusCode != 400 {
		t.Errorf("got %d %s", resp.StatusCode, body)
	}
	none := ours(t, Options{Engine: newFake()})
	if _, err := none.Projects(ctx); !errdefs.IsUnavailable(err) {
		t.Errorf("got %v", err)
	}
}

func TestGoalIsRedacted(t *testing.T) {
	g := shop()
	text, err := redacted(g).MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "hunter2") || !strings.Contains(string(text), "PASSWORD") {
		t.Errorf("shown: %s", text)
	}
	if *g.Project.Services["web"].Environment["PASSWORD"] != "hunter2" || g.Project.Secrets["s"].Content != "hunter2" {
		t.Error("the goal itself was changed")
	}
}

func TestDaemonStatusAndStop(t *testing.T) {
	f := newFake()
	var stops []bool
	c := ours(t, Options{
		Engine: f, Projects: &scripted{}, Keeper: func() int { return 7 },
		Stop: func(leave bool) error { stops = append(stops, leave); return errors.New("not in a test") },
	})
	st, err := c.DaemonStatus(t.Context())
	if err != nil || st.Version != "0.1.0" || st.Pid != os.Getpid() || st.Keeper != 7 || !st.Started.Equal(day) || st.Root == "" ||
		st.Containers.Total != 2 || st.Containers.Running != 1 || st.Images != 3 || st.Projects != 1 || st.Volumes != 2 || st.Networks != 1 {
		t.Errorf("got %+v, %v", st, err)
	}
	err = c.StopDaemon(t.Context(), false)
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "1 containers run (web)") || len(stops) != 0 {
		t.Errorf("with a running container: %v, %v", err, stops)
	}
	if err := c.StopDaemon(t.Context(), true); err == nil || !slices.Equal(stops, []bool{true}) {
		t.Errorf("leaving it: %v, %v", err, stops)
	}
	f.containers[0].State = runtime.Exited
	if err := c.StopDaemon(t.Context(), false); err == nil || !slices.Equal(stops, []bool{true, false}) {
		t.Errorf("with none: %v, %v", err, stops)
	}
}

// Our own calls of Docker's part, once each, against our own server.
func TestOurClient(t *testing.T) {
	f := newFake()
	f.attach = echo(false)
	f.exec = func(_ context.Context, _ runtime.ExecConfig, s *runtime.ExecStreams) (int, error) {
		if s != nil {
			fmt.Fprint(s.Out, "out")
		}
		return 4, nil
	}
	c := ours(t, Options{Engine: f})
	ctx := t.Context()
	if err := c.Ping(ctx); err != nil {
		t.Error(err)
	}
	all, err := c.Containers(ctx, client.ListOptions{All: true, Filters: client.Filters{}.Add("status", "exited", "running")})
	if err != nil || len(all) != 2 {
		t.Errorf("%d containers, %v", len(all), err)
	}
	if one, err := c.Container(ctx, "web"); err != nil || one.State.Health.Status != "healthy" {
		t.Errorf("got %+v, %v", one, err)
	}
	// A name is a name, whatever is in it.
	for _, name := range []string{"a/b", "../json", "x?y#z", "ä %2F"} {
		if _, err := c.Container(ctx, name); !errdefs.IsNotFound(err) || err.Error() != "No such container: "+name {
			t.Errorf("%q: %v", name, err)
		}
	}
	if img, err := c.Image(ctx, "example.org/team/web:1"); err != nil || img.Size != 3<<20 {
		t.Errorf("got %+v, %v", img, err)
	}
	if err := c.StartContainer(ctx, "web"); err != nil { // 304
		t.Error(err)
	}
	wait, err := c.WaitContainer(ctx, "web", client.NextExit)
	if err != nil {
		t.Fatal(err)
	}
	f.waited <- runtime.Waited{ExitCode: 5}
	if code, err := wait(); err != nil || code != 5 {
		t.Errorf("waited for %d, %v", code, err)
	}
	var out, errs strings.Builder
	stream, err := c.Attach(ctx, "web", client.AttachOptions{Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(stream, "hi")
	if err := errors.Join(stream.CloseWrite(), stream.Copy(&out, &errs), stream.Close()); err != nil || out.String() != "HI" || errs.String() != "bye\n" {
		t.Errorf("got %q and %q, %v", out.String(), errs.String(), err)
	}
	// A refused attach keeps its words and its class.
	if _, err := c.Attach(ctx, "nobody", client.AttachOptions{Stdout: true}); !errdefs.IsNotFound(err) || err.Error() != "No such container: nobody" {
		t.Errorf("got %v", err)
	}
	x := client.ExecOptions{Command: []string{"x"}, Stdout: true}
	id, err := c.CreateExec(ctx, "web", x)
	if err != nil {
		t.Fatal(err)
	}
	out.Reset()
	if stream, err = c.AttachExec(ctx, id, x); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(stream.Copy(&out, &errs), stream.Close()); err != nil || out.String() != "out" {
		t.Errorf("got %q, %v", out.String(), err)
	}
	if e, err := c.Exec(ctx, id); err != nil || e.ExitCode == nil || *e.ExitCode != 4 {
		t.Errorf("got %+v, %v", e, err)
	}
	n := 0
	stop := errors.New("enough")
	if err := c.Stats(ctx, "web", true, func(client.Stats) error { n++; return stop }); !errors.Is(err, stop) || n != 1 {
		t.Errorf("%d samples, %v", n, err)
	}
	if err := c.ImportImage(ctx, strings.NewReader("tar"), "a", "1", "", nil, func(s string) { out.WriteString(s) }); err != nil || !strings.Contains(out.String(), "sha256:") {
		t.Errorf("got %q, %v", out.String(), err)
	}
	if v, err := c.Volumes(ctx, nil); err != nil || len(v) != 2 {
		t.Errorf("got %+v, %v", v, err)
	}
}

func TestRollbackAndHistory(t *testing.T) {
	p := &scripted{}
	c := ours(t, Options{Engine: newFake(), Projects: p})
	ctx := t.Context()
	if err := c.Rollback(ctx, "shop", 3, scheduler.Options{Services: []string{"web"}}, nil); err != nil {
		t.Error(err)
	}
	if plan, err := c.PlanRollback(ctx, "shop", 0, scheduler.Options{}); err != nil || plan.Project != "shop" {
		t.Errorf("%+v, %v", plan, err)
	}
	if want := []string{"rollback shop to 3 [web]", "plan rollback shop to 0 []"}; !slices.Equal(p.calls, want) {
		t.Errorf("calls %q, want %q", p.calls, want)
	}
	all, err := c.History(ctx, "shop")
	if err != nil || len(all) != 1 || all[0].Number != 2 || all[0].Kind != scheduler.KindScale || all[0].Services[0] != "web" {
		t.Errorf("%+v, %v", all, err)
	}
	if _, err := c.History(ctx, "other"); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if err := c.Rollback(ctx, "shop", -1, scheduler.Options{}, nil); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}
