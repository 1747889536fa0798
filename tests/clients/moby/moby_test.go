// Package moby puts Docker's own client library for Go, at the version gantry
// takes its types from, to the daemon that DOCKER_HOST names. It needs an image
// named busybox, and knows nothing of gantry.
package moby

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

func TestMain(m *testing.M) {
	if os.Getenv("DOCKER_HOST") == "" {
		fmt.Fprintln(os.Stderr, "DOCKER_HOST names no daemon to ask")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// docker is a client for one test, and the time it has.
type docker struct {
	*client.Client
	testing.TB
	ctx context.Context
}

func open(t testing.TB) docker {
	t.Helper()
	c, err := client.New(client.FromEnv)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(func() { cancel(); c.Close() })
	return docker{c, t, ctx}
}

// must gives a value that comes without an error.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

var numbers atomic.Int64

// name is a name nobody else uses.
func name() string { return fmt.Sprintf("moby-%d-%d", os.Getpid(), numbers.Add(1)) }

// create makes a container, which is removed in the end.
func (d docker) create(config container.Config, host *container.HostConfig) string {
	d.Helper()
	if config.Image == "" {
		config.Image = "busybox"
	}
	if config.StopSignal == "" {
		config.StopSignal = "KILL"
	}
	c := must(d.ContainerCreate(d.ctx, client.ContainerCreateOptions{Name: name(), Config: &config, HostConfig: host}))(d)
	d.Cleanup(func() {
		d.ContainerRemove(context.Background(), c.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	})
	return c.ID
}

func (d docker) start(id string) {
	d.Helper()
	must(d.ContainerStart(d.ctx, id, client.ContainerStartOptions{}))(d)
}

// idle starts a container that waits.
func (d docker) idle() string {
	d.Helper()
	id := d.create(container.Config{Cmd: []string{"sleep", "1000"}}, nil)
	d.start(id)
	return id
}

func (d docker) inspect(id string) container.InspectResponse {
	d.Helper()
	return must(d.ContainerInspect(d.ctx, id, client.ContainerInspectOptions{}))(d).Container
}

// exec runs a command in a container.
func (d docker) exec(id string, command ...string) (out string, code int) {
	d.Helper()
	e := must(d.ExecCreate(d.ctx, id, client.ExecCreateOptions{Cmd: command, AttachStdout: true, AttachStderr: true}))(d)
	s := must(d.ExecAttach(d.ctx, e.ID, client.ExecAttachOptions{}))(d)
	defer s.Close()
	var both bytes.Buffer
	if _, err := stdcopy.StdCopy(&both, &both, s.Reader); err != nil {
		d.Fatal(err)
	}
	return both.String(), must(d.ExecInspect(d.ctx, e.ID, client.ExecInspectOptions{}))(d).ExitCode
}

// eventually tries until f is content.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

func TestNegotiation(t *testing.T) {
	t.Parallel()
	d := open(t)
	p := must(d.Ping(d.ctx, client.PingOptions{NegotiateAPIVersion: true}))(t)
	if p.OSType != "linux" || p.APIVersion == "" {
		t.Errorf("%+v", p)
	}
	v := must(d.ServerVersion(d.ctx, client.ServerVersionOptions{}))(t)
	if v.APIVersion != p.APIVersion {
		t.Errorf("ping says %s, version %s", p.APIVersion, v.APIVersion)
	}
	t.Logf("API %s, client at %s", v.APIVersion, d.ClientVersion())
	if os.Getenv("GANTRY") != "" && (d.ClientVersion() != client.MaxAPIVersion || v.APIVersion != client.MaxAPIVersion) {
		t.Errorf("the newest is %s", client.MaxAPIVersion)
	}
	for _, version := range []string{v.MinAPIVersion, v.APIVersion} {
		pinned := must(client.New(client.FromEnv, client.WithAPIVersion(version)))(t)
		if _, err := pinned.ContainerList(d.ctx, client.ContainerListOptions{}); err != nil && !strings.Contains(err.Error(), "too old") {
			t.Errorf("at %s: %v", version, err)
		}
		pinned.Close()
	}
	if _, err := must(client.New(client.FromEnv, client.WithAPIVersion("1.999")))(t).ContainerList(d.ctx, client.ContainerListOptions{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("at 1.999: %v", err)
	}
	info := must(d.Info(d.ctx, client.InfoOptions{}))(t).Info
	if info.NCPU == 0 || info.MemTotal == 0 || info.OSType != "linux" {
		t.Errorf("%+v", info)
	}
}

func TestLife(t *testing.T) {
	t.Parallel()
	d := open(t)
	id := d.create(container.Config{Cmd: []string{"sh", "-c", "trap 'exit 6' TERM; echo up; while :; do sleep 0.05; done"}, StopSignal: "TERM", Labels: map[string]string{"who": "me"}}, nil)
	state := func(want container.ContainerState, code int) {
		t.Helper()
		if s := d.inspect(id).State; s.Status != want || s.ExitCode != code {
			t.Errorf("it is %s (%d), want %s (%d)", s.Status, s.ExitCode, want, code)
		}
	}
	state(container.StateCreated, 0)
	d.start(id)
	must(d.ContainerPause(d.ctx, id, client.ContainerPauseOptions{}))(t)
	state(container.StatePaused, 0)
	must(d.ContainerUnpause(d.ctx, id, client.ContainerUnpauseOptions{}))(t)
	eventually(t, "it is up", func() bool {
		out, _ := d.logs(id, client.ContainerLogsOptions{ShowStdout: true})
		return out == "up\n"
	})
	must(d.ContainerStop(d.ctx, id, client.ContainerStopOptions{}))(t)
	state(container.StateExited, 6)
	must(d.ContainerStop(d.ctx, id, client.ContainerStopOptions{}))(t) // once more is no error
	must(d.ContainerRestart(d.ctx, id, client.ContainerRestartOptions{}))(t)
	state(container.StateRunning, 0)
	if _, err := d.ContainerRemove(d.ctx, id, client.ContainerRemoveOptions{}); !errdefs.IsConflict(err) {
		t.Errorf("remove what runs: %v", err)
	}
	must(d.ContainerKill(d.ctx, id, client.ContainerKillOptions{Signal: "SIGKILL"}))(t)
	eventually(t, "it has ended", func() bool { return d.inspect(id).State.Status == container.StateExited })
	state(container.StateExited, 137)
	if _, err := d.ContainerKill(d.ctx, id, client.ContainerKillOptions{}); !errdefs.IsConflict(err) {
		t.Errorf("kill what does not run: %v", err)
	}
	other := name()
	must(d.ContainerRename(d.ctx, id, client.ContainerRenameOptions{NewName: other}))(t)
	list := must(d.ContainerList(d.ctx, client.ContainerListOptions{All: true, Filters: make(client.Filters).Add("name", other)}))(t).Items
	if len(list) != 1 || list[0].ID != id || list[0].Labels["who"] != "me" || list[0].State != container.StateExited {
		t.Errorf("%+v", list)
	}
	must(d.ContainerUpdate(d.ctx, id, client.ContainerUpdateOptions{Resources: &container.Resources{Memory: 64 << 20, MemorySwap: 128 << 20}}))(t)
	if got := d.inspect(id).HostConfig.Memory; got != 64<<20 {
		t.Errorf("memory %d", got)
	}
	must(d.ContainerRemove(d.ctx, id, client.ContainerRemoveOptions{}))(t)
	if _, err := d.ContainerInspect(d.ctx, id, client.ContainerInspectOptions{}); !errdefs.IsNotFound(err) {
		t.Errorf("removed: %v", err)
	}
	if _, err := d.ContainerCreate(d.ctx, client.ContainerCreateOptions{Image: "nosuch/image:1"}); !errdefs.IsNotFound(err) {
		t.Errorf("no such image: %v", err)
	}
}

func TestWait(t *testing.T) {
	t.Parallel()
	d := open(t)
	wait := func(id string, c container.WaitCondition) client.ContainerWaitResult {
		return d.ContainerWait(d.ctx, id, client.ContainerWaitOptions{Condition: c})
	}
	gives := func(w client.ContainerWaitResult, code int64) {
		t.Helper()
		select {
		case r := <-w.Result:
			if r.StatusCode != code || r.Error != nil {
				t.Errorf("%d %+v, want %d", r.StatusCode, r.Error, code)
			}
		case err := <-w.Error:
			t.Error(err)
		}
	}
	id := d.create(container.Config{Cmd: []string{"sh", "-c", "read line; exit 4"}, OpenStdin: true}, nil)
	gives(wait(id, container.WaitConditionNotRunning), 0) // it has not begun
	next := wait(id, container.WaitConditionNextExit)
	removed := wait(id, container.WaitConditionRemoved)
	d.start(id)
	running := wait(id, "")
	select {
	case r := <-running.Result:
		t.Errorf("it runs, and the wait gave %+v", r)
	case <-time.After(200 * time.Millisecond):
	}
	a := must(d.ContainerAttach(d.ctx, id, client.ContainerAttachOptions{Stream: true, Stdin: true}))(t)
	io.WriteString(a.Conn, "go\n")
	gives(running, 4)
	gives(next, 4)
	a.Close()
	must(d.ContainerRemove(d.ctx, id, client.ContainerRemoveOptions{}))(t)
	gives(removed, 4)
	if err := <-wait("nosuch-container", "").Error; !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	id = d.create(container.Config{Cmd: []string{"sh", "-c", "exit 5"}}, &container.HostConfig{AutoRemove: true})
	w := wait(id, container.WaitConditionRemoved)
	d.start(id)
	gives(w, 5)
	if _, err := d.ContainerInspect(d.ctx, id, client.ContainerInspectOptions{}); !errdefs.IsNotFound(err) {
		t.Errorf("removed, and %v", err)
	}
	ctx, cancel := context.WithCancel(d.ctx)
	gone := d.ContainerWait(ctx, d.idle(), client.ContainerWaitOptions{})
	cancel()
	if err := <-gone.Error; !errors.Is(err, context.Canceled) {
		t.Errorf("left: %v", err)
	}
}

// logs gives both streams.
func (d docker) logs(id string, o client.ContainerLogsOptions) (out, errs string) {
	d.Helper()
	r := must(d.ContainerLogs(d.ctx, id, o))(d)
	defer r.Close()
	var a, b bytes.Buffer
	if _, err := stdcopy.StdCopy(&a, &b, r); err != nil {
		d.Fatal(err)
	}
	return a.String(), b.String()
}

func TestLogs(t *testing.T) {
	t.Parallel()
	d := open(t)
	id := d.create(container.Config{Cmd: []string{"sh", "-c", "for i in 1 2 3; do echo out $i; echo err $i >&2; sleep 0.05; done; head -c 300000 /dev/zero | tr '\\0' x"}}, nil)
	d.start(id)
	out, errs := d.logs(id, client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Follow: true})
	if want := "out 1\nout 2\nout 3\n" + strings.Repeat("x", 300000); out != want || errs != "err 1\nerr 2\nerr 3\n" {
		t.Errorf("%d bytes and %q", len(out), errs)
	}
	if out, errs := d.logs(id, client.ContainerLogsOptions{ShowStderr: true}); out != "" || errs != "err 1\nerr 2\nerr 3\n" {
		t.Errorf("%q and %q", out, errs)
	}
	if out, _ := d.logs(id, client.ContainerLogsOptions{ShowStdout: true, Since: fmt.Sprint(time.Now().Add(time.Hour).Unix())}); out != "" {
		t.Errorf("of the future: %q", out)
	}
	if _, errs := d.logs(id, client.ContainerLogsOptions{ShowStderr: true, Timestamps: true}); !strings.HasPrefix(errs, time.Now().UTC().Format("2006-01-02")) {
		t.Errorf("%q", errs)
	}
	if _, err := d.ContainerLogs(d.ctx, id, client.ContainerLogsOptions{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("of no stream: %v", err)
	}
	many := d.create(container.Config{Cmd: []string{"seq", "1000"}}, nil)
	d.start(many)
	<-d.ContainerWait(d.ctx, many, client.ContainerWaitOptions{}).Result
	if out, _ := d.logs(many, client.ContainerLogsOptions{ShowStdout: true, Tail: "2"}); out != "999\n1000\n" {
		t.Errorf("the last two: %q", out)
	}
	tty := d.create(container.Config{Cmd: []string{"echo", "words"}, Tty: true}, nil)
	d.start(tty)
	r := must(d.ContainerLogs(d.ctx, tty, client.ContainerLogsOptions{ShowStdout: true, Follow: true}))(t)
	if text, err := io.ReadAll(r); string(text) != "words\r\n" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestStats(t *testing.T) {
	t.Parallel()
	d := open(t)
	id := d.create(container.Config{Cmd: []string{"sleep", "1000"}}, &container.HostConfig{Resources: container.Resources{Memory: 64 << 20}})
	d.start(id)
	// A start is answered when the process is let go, a moment before it becomes
	// its command.
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		top := must(d.ContainerTop(d.ctx, id, client.ContainerTopOptions{}))(t)
		if len(top.Processes) == 1 && strings.HasSuffix(strings.Join(top.Processes[0], " "), "sleep 1000") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("it is not its command: %+v", top)
		}
	}
	for _, previous := range []bool{false, true} {
		r := must(d.ContainerStats(d.ctx, id, client.ContainerStatsOptions{IncludePreviousSample: previous}))(t)
		s := decode[container.StatsResponse](t, r.Body)
		r.Body.Close()
		if s.ID != id || s.MemoryStats.Limit != 64<<20 || s.CPUStats.CPUUsage.TotalUsage == 0 || len(s.Networks) != 1 || s.PidsStats.Current != 1 {
			t.Errorf("%+v", s)
		}
		if got := s.PreCPUStats.CPUUsage.TotalUsage != 0; got != previous {
			t.Errorf("the sample before it: %v, asked for %v", got, previous)
		}
	}
	r := must(d.ContainerStats(d.ctx, id, client.ContainerStatsOptions{Stream: true}))(t)
	first, second := decode[container.StatsResponse](t, r.Body), decode[container.StatsResponse](t, r.Body)
	if !second.Read.After(first.Read) {
		t.Errorf("read at %s, then at %s", first.Read, second.Read)
	}
	r.Body.Close()
	top := must(d.ContainerTop(d.ctx, id, client.ContainerTopOptions{}))(t)
	if len(top.Processes) != 1 || len(top.Processes[0]) != len(top.Titles) {
		t.Errorf("%+v", top)
	}
}
