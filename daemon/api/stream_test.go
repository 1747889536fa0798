package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"gantry/runtime"
	"gantry/runtime/logs"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	moby "github.com/moby/moby/client"
)

func entry(s logs.Stream, line string) logs.Entry {
	return logs.Entry{Time: day, Stream: s, Line: []byte(line)}
}

// demux reads a framed stream to its end.
func demux(t *testing.T, r io.Reader) (stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	if _, e := stdcopy.StdCopy(&out, &err, r); e != nil {
		t.Fatal(e)
	}
	return out.String(), err.String()
}

func TestLogs(t *testing.T) {
	f := newFake()
	f.entries = []logs.Entry{entry(logs.Stdout, "one\n"), entry(logs.Stderr, "two\n"), entry(logs.Stdout, "half "), entry(logs.Stdout, "line\n")}
	c := dial(t, f)
	read := func(ref string, o moby.ContainerLogsOptions) io.ReadCloser {
		t.Helper()
		r, err := c.ContainerLogs(t.Context(), ref, o)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := read("web", moby.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Tail: "5", Since: "2026-01-02T03:04:05.5Z", Until: "1772600767"})
	if out, err := demux(t, r); out != "one\nhalf line\n" || err != "two\n" {
		t.Errorf("got %q and %q", out, err)
	}
	q := f.query
	if q.Tail != 5 || q.Follow || q.Since.UTC().Format(time.RFC3339Nano) != "2026-01-02T03:04:05.5Z" || q.Until.Unix() != 1772600767 {
		t.Errorf("asked %+v", q)
	}
	// A line has one time, however many pieces it comes in.
	r = read("web", moby.ContainerLogsOptions{ShowStdout: true, Timestamps: true})
	stamp := "2026-03-04T05:06:07.000000089Z "
	if out, err := demux(t, r); out != stamp+"one\n"+stamp+"half line\n" || err != "" {
		t.Errorf("got %q and %q", out, err)
	}
	// A terminal has one stream and no frames.
	text, err := io.ReadAll(read("job", moby.ContainerLogsOptions{ShowStdout: true, ShowStderr: true}))
	if err != nil || string(text) != "one\ntwo\nhalf line\n" {
		t.Errorf("got %q, %v", text, err)
	}

	if _, err := c.ContainerLogs(t.Context(), "web", moby.ContainerLogsOptions{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no stream chosen: %v", err)
	}
	if _, err := c.ContainerLogs(t.Context(), "nobody", moby.ContainerLogsOptions{ShowStdout: true}); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	f.containers[0].LogPath = ""
	if _, err := c.ContainerLogs(t.Context(), "web", moby.ContainerLogsOptions{ShowStdout: true}); err == nil || !strings.Contains(err.Error(), "does not support reading") {
		t.Errorf("got %v", err)
	}
}

func TestLogsFollow(t *testing.T) {
	f := newFake()
	c := dial(t, f)
	r, err := c.ContainerLogs(t.Context(), "web", moby.ContainerLogsOptions{ShowStdout: true, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	// Each line is there when it was written, not when a buffer is full.
	for _, line := range []string{"a\n", "b\n"} {
		f.follow <- entry(logs.Stdout, line)
		buf := make([]byte, 8+len(line))
		if _, err := io.ReadFull(r, buf); err != nil || string(buf[8:]) != line {
			t.Fatalf("got %q, %v", buf, err)
		}
	}
	close(f.follow)
	if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
		t.Errorf("after the end: %q, %v", rest, err)
	}
	// One who leaves without waiting for the end leaves nobody behind.
	f.follow = make(chan logs.Entry)
	r, err = c.ContainerLogs(t.Context(), "web", moby.ContainerLogsOptions{ShowStdout: true, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
}

// echo answers what it reads until stdin ends, then says goodbye on stderr.
func echo(tty bool) func(context.Context, runtime.AttachOptions) error {
	return func(ctx context.Context, o runtime.AttachOptions) error {
		close(o.Attached)
		say := func(s logs.Stream, p []byte) error {
			if !tty {
				head := frame(s, len(p))
				if _, err := o.Out.Write(head[:]); err != nil {
					return err
				}
			}
			_, err := o.Out.Write(p)
			return err
		}
		ended := make(chan error, 1)
		go func() {
			buf := make([]byte, 100)
			for o.Stdin != nil {
				n, err := o.Stdin.Read(buf)
				if n > 0 {
					if err := say(logs.Stdout, bytes.ToUpper(buf[:n])); err != nil {
						ended <- err
						return
					}
				}
				if err != nil {
					break
				}
			}
			ended <- say(logs.Stderr, []byte("bye\n"))
		}()
		select {
		case err := <-ended:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func TestAttachHalfClose(t *testing.T) {
	f := newFake()
	f.attach = echo(false)
	c := dial(t, f)
	a, err := c.ContainerAttach(t.Context(), "web", moby.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if kind, ok := a.MediaType(); !ok || kind != "application/vnd.docker.multiplexed-stream" {
		t.Errorf("media type %q", kind)
	}
	fmt.Fprint(a.Conn, "hello")
	buf := make([]byte, 8+5)
	if _, err := io.ReadFull(a.Reader, buf); err != nil || string(buf[8:]) != "HELLO" {
		t.Fatalf("got %q, %v", buf, err)
	}
	if err := a.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	// The end of stdin is not the end of output.
	if out, err := demux(t, a.Reader); out != "" || err != "bye\n" {
		t.Errorf("got %q and %q", out, err)
	}
}

// Whoever goes away altogether is noticed, also when the container is silent
// and his stdin had ended before.
func TestAttachNoticesTheClientLeaving(t *testing.T) {
	for _, halfFirst := range []bool{false, true} {
		for _, stdin := range []bool{false, true} {
			f := newFake()
			left := make(chan struct{})
			f.attach = func(ctx context.Context, o runtime.AttachOptions) error {
				close(o.Attached)
				if o.Stdin != nil {
					_, _ = io.Copy(io.Discard, o.Stdin)
				}
				<-ctx.Done()
				close(left)
				return ctx.Err()
			}
			c := dial(t, f)
			a, err := c.ContainerAttach(t.Context(), "web", moby.ContainerAttachOptions{Stream: true, Stdin: stdin, Stdout: true})
			if err != nil {
				t.Fatal(err)
			}
			if halfFirst {
				if err := a.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				select {
				case <-left:
					t.Error("half a close was taken for a whole one")
				case <-time.After(30 * time.Millisecond):
				}
			}
			a.Close()
			select {
			case <-left:
			case <-time.After(5 * time.Second):
				t.Errorf("stdin %v, half first %v: the client left and nobody noticed", stdin, halfFirst)
			}
		}
	}
}

func TestAttachTerminal(t *testing.T) {
	f := newFake()
	f.containers[1].State = runtime.Running // job has a terminal
	f.attach = echo(true)
	c := dial(t, f)
	a, err := c.ContainerAttach(t.Context(), "job", moby.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true, DetachKeys: "ctrl-a,b"})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if kind, _ := a.MediaType(); kind != "application/vnd.docker.raw-stream" {
		t.Errorf("media type %q", kind)
	}
	fmt.Fprint(a.Conn, "x\x01y\x01b")
	text, err := io.ReadAll(a.Reader)
	if err != nil || !strings.HasPrefix(string(text), "X\x01Y") {
		t.Errorf("got %q, %v", text, err)
	}
}

func TestAttachRefuses(t *testing.T) {
	f := newFake()
	c := dial(t, f)
	host := strings.TrimPrefix(c.DaemonHost(), "unix://")
	try := func(path string) (int, string) { return post(t, "unix://"+host, path, "") }
	if status, text := try("/containers/nobody/attach?stream=1&stdout=1"); status != 404 || !strings.Contains(text, "No such container") {
		t.Errorf("got %d %s", status, text)
	}
	f.containers[0].State = runtime.Paused
	if status, text := try("/containers/web/attach?stream=1&stdout=1"); status != 409 || !strings.Contains(text, "paused") {
		t.Errorf("got %d %s", status, text)
	}
	f.containers[0].State = runtime.Running
	f.fail = errdefs.ErrUnavailable.WithMessage("the keeper is away")
	if status, text := try("/containers/web/attach?stream=1&stdout=1"); status != 503 || !strings.Contains(text, "the keeper is away") {
		t.Errorf("got %d %s", status, text)
	}
	if status, text := try("/containers/web/attach?stream=1&stdout=1&detachKeys=ctrl-%C3%A4"); status != 400 || !strings.Contains(text, "detach keys") {
		t.Errorf("got %d %s", status, text)
	}
}

func TestAttachWithLogs(t *testing.T) {
	f := newFake()
	f.entries = []logs.Entry{entry(logs.Stdout, "before\n")}
	f.attach = echo(false)
	c := dial(t, f)
	a, err := c.ContainerAttach(t.Context(), "web", moby.ContainerAttachOptions{Stream: true, Stdout: true, Stderr: true, Logs: true})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if out, err := demux(t, a.Reader); out != "before\n" || err != "bye\n" {
		t.Errorf("got %q and %q", out, err)
	}
}

func TestDetacher(t *testing.T) {
	for _, tt := range []struct {
		in, want string
		left     bool
	}{
		{"abc", "abc", false},
		{"a\x10\x11b", "a", true},
		{"\x10\x10\x11", "\x10", true},
		{"\x10", "\x10", false},
		{"\x10x\x11", "\x10x\x11", false},
	} {
		// In one piece and byte by byte.
		for _, in := range []io.Reader{strings.NewReader(tt.in), iotest{strings.NewReader(tt.in)}} {
			keys, err := detachKeys("")
			if err != nil {
				t.Fatal(err)
			}
			left := make(chan struct{})
			got, err := io.ReadAll(&detacher{in: in, keys: keys, detached: left})
			gone := false
			select {
			case <-left:
				gone = true
			default:
			}
			if err != nil || string(got) != tt.want || gone != tt.left {
				t.Errorf("%q: got %q, left %v, %v; want %q, %v", tt.in, got, gone, err, tt.want, tt.left)
			}
		}
	}
}

type iotest struct{ r io.Reader }

func (i iotest) Read(p []byte) (int, error) { return i.r.Read(p[:1]) }

func TestExec(t *testing.T) {
	f := newFake()
	c := dial(t, f)
	f.exec = func(ctx context.Context, x runtime.ExecConfig, s *runtime.ExecStreams) (int, error) {
		if s == nil {
			return 0, nil
		}
		in, err := io.ReadAll(s.In)
		fmt.Fprintf(s.Out, "%s %s", x.Command, in)
		fmt.Fprint(s.Err, "warning")
		return 9, err
	}
	ctx := t.Context()
	x, err := c.ExecCreate(ctx, "web", moby.ExecCreateOptions{Cmd: []string{"cat", "-"}, AttachStdin: true, AttachStdout: true, AttachStderr: true, User: "1"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.ExecInspect(ctx, x.ID, moby.ExecInspectOptions{}); err != nil || got.Running || got.ContainerID != web().ID {
		t.Errorf("before the start: %+v, %v", got, err)
	}
	a, err := c.ExecAttach(ctx, x.ID, moby.ExecAttachOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	fmt.Fprint(a.Conn, "data")
	if err := a.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if out, e := demux(t, a.Reader); out != "[cat -] data" || e != "warning" {
		t.Errorf("got %q and %q", out, e)
	}
	if got, err := c.ExecInspect(ctx, x.ID, moby.ExecInspectOptions{}); err != nil || got.Running || got.ExitCode != 9 {
		t.Errorf("after the end: %+v, %v", got, err)
	}
	if _, err := c.ExecStart(ctx, x.ID, moby.ExecStartOptions{Detach: true}); !errdefs.IsConflict(err) {
		t.Errorf("a second start: %v", err)
	}
	// Detached.
	x, err = c.ExecCreate(ctx, "web", moby.ExecCreateOptions{Cmd: []string{"true"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ExecStart(ctx, x.ID, moby.ExecStartOptions{Detach: true}); err != nil {
		t.Error(err)
	}
	// Refused.
	if _, err := c.ExecCreate(ctx, "web", moby.ExecCreateOptions{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no command: %v", err)
	}
	if _, err := c.ExecStart(ctx, "nothing", moby.ExecStartOptions{Detach: true}); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	// A command that cannot be run says so where its output would be.
	f.exec = func(context.Context, runtime.ExecConfig, *runtime.ExecStreams) (int, error) {
		return 127, errors.New("exec: nothing: not in PATH")
	}
	x, err = c.ExecCreate(ctx, "web", moby.ExecCreateOptions{Cmd: []string{"nothing"}, AttachStdout: true})
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.ExecAttach(ctx, x.ID, moby.ExecAttachOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, e := demux(t, b.Reader); !strings.Contains(e, "not in PATH") {
		t.Errorf("got %q", e)
	}
}

func TestStats(t *testing.T) {
	c := dial(t, newFake())
	r, err := c.ContainerStats(t.Context(), "web", moby.ContainerStatsOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var one container.StatsResponse
	if err := json.NewDecoder(r.Body).Decode(&one); err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if one.CPUStats.CPUUsage.TotalUsage != 3e9 || one.MemoryStats.Limit != 8<<30 || one.CPUStats.OnlineCPUs != 2 || one.CPUStats.SystemUsage == 0 || !one.PreRead.IsZero() {
		t.Errorf("got %+v", one)
	}
	// A stream goes on, each sample with the one before it.
	r, err = c.ContainerStats(t.Context(), "web", moby.ContainerStatsOptions{Stream: true})
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(r.Body)
	var first, second container.StatsResponse
	if err := errors.Join(dec.Decode(&first), dec.Decode(&second)); err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if !first.PreRead.IsZero() || !second.PreRead.Equal(first.Read) || second.PreCPUStats.CPUUsage.TotalUsage != 3e9 {
		t.Errorf("got %+v, then %+v", first, second)
	}
	// What does not run uses nothing.
	r, err = c.ContainerStats(t.Context(), "job", moby.ContainerStatsOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if err := json.NewDecoder(r.Body).Decode(&one); err != nil || one.ID != job().ID {
		t.Errorf("got %+v, %v", one, err)
	}
}

func TestNetworkStats(t *testing.T) {
	got := networkStats(`Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0:    1000      10    2    3    0     0          0         0     2000      20    5    6    0     0       0          0
`)
	want := container.NetworkStats{RxBytes: 1000, RxPackets: 10, RxErrors: 2, RxDropped: 3, TxBytes: 2000, TxPackets: 20, TxErrors: 5, TxDropped: 6}
	if len(got) != 1 || got["eth0"] != want {
		t.Errorf("got %+v", got)
	}
}

func TestTop(t *testing.T) {
	c := dial(t, newFake())
	got, err := c.ContainerTop(t.Context(), "web", moby.ContainerTopOptions{})
	if err != nil || !slices.Equal(got.Titles, []string{"UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"}) {
		t.Fatalf("got %+v, %v", got, err)
	}
	if p := got.Processes[0]; p[0] != "root" || p[1] != "7" || p[2] != "1" || p[5] != "?" || p[6] != "00:01:01" || p[7] != "sleep 9" {
		t.Errorf("got %q", p)
	}
	got, err = c.ContainerTop(t.Context(), "web", moby.ContainerTopOptions{Arguments: []string{"-o", "pid,comm,tty,etime", "-o", "pcpu"}})
	if err != nil || !slices.Equal(got.Titles, []string{"PID", "COMMAND", "TTY", "ELAPSED", "%CPU"}) || !slices.Equal(got.Processes[0], []string{"7", "sleep", "?", "02:03", "50.0"}) {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := c.ContainerTop(t.Context(), "web", moby.ContainerTopOptions{Arguments: []string{"-o", "comm"}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v", err)
	}
}

func TestPsOptions(t *testing.T) {
	for text, want := range map[string]string{
		"": psFull, "-ef": psFull, "-e -f": psFull, "-f": psFull, "-e": psShort, "-A": psShort, "aux": psUser, "-aux": psUser, "auxww": psUser, "u": psUser,
		"ax": psBSD, "axo pid,comm": "pid,comm", "-eo pid,args": "pid,args", "-eopid,ARGS": "pid,args", "-o pid -o comm": "pid,comm", "-A -o pid,user,%mem": "pid,user,%mem",
	} {
		if got, err := psOptions(text); err != nil || strings.Join(got, ",") != want {
			t.Errorf("%q: %v, %v; want %s", text, got, err, want)
		}
	}
	for text, part := range map[string]string{
		"n /etc/shadow": `"n"`, "N /etc/shadow": `"N"`, "--sort pid": "--sort", "-o pid=PROCESS": "title", "-o pid,full uid": "uid", "-l": `"l"`, "axe": `"e"`,
		"-o pid,secret": "column secret", "-q 1": `"q"`, "-o": "missing", "-o user": "PID", "; rm -rf /": `";"`, "$(id)": `"$"`, "-\xff": "",
	} {
		if got, err := psOptions(text); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	// What procps shows, beside.
	now := time.Date(2026, 3, 4, 12, 0, 0, 0, time.Local)
	for got, want := range map[string]string{
		psTTY(0): "?", psTTY(136 << 8): "pts/0", psTTY(136<<8 | 5): "pts/5", psTTY(137<<8 | 1): "pts/257", psTTY(4<<8 | 1): "tty1",
		psStart(now.Add(-time.Hour), now): "11:00", psStart(now.AddDate(0, 0, -3), now): "Mar01", psStart(now.AddDate(-2, 0, 0), now): "2024",
		psElapsed(59 * time.Second): "00:59", psElapsed(3661 * time.Second): "01:01:01", psElapsed(49 * time.Hour): "2-01:00:00", psTime(100 * 90061): "1-01:01:01",
		psState(runtime.Process{Pid: 5, Session: 5, State: "S", Threads: 2, Nice: -1, Foreground: true}): "S<sl+",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestEvents(t *testing.T) {
	f := newFake()
	c := dial(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	filters := make(moby.Filters).Add("type", "container").Add("container", "web").Add("event", "exec_start", "die")
	stream := c.Events(ctx, moby.EventsListOptions{Filters: filters})
	go func() {
		for _, e := range []runtime.Event{
			{Type: "network", Action: "die", ID: "n"},
			{Type: "container", Action: "die", ID: "x", Attributes: map[string]string{"name": "other"}},
			{Type: "container", Action: "start", ID: "w", Attributes: map[string]string{"name": "web"}},
			{Type: "container", Action: "exec_start: sh", ID: "w", Attributes: map[string]string{"name": "web"}, Time: day},
			{Type: "container", Action: "die", ID: "w", Attributes: map[string]string{"name": "web", "exitCode": "1"}, Time: day},
		} {
			f.events <- e
		}
		close(f.events)
	}()
	var got []string
	for {
		select {
		case m := <-stream.Messages:
			got = append(got, fmt.Sprint(m.Type, " ", m.Action, " ", m.Actor.ID, " ", m.TimeNano, " ", m.Scope))
			continue
		case err := <-stream.Err:
			if !errors.Is(err, io.EOF) {
				t.Error(err)
			}
		}
		break
	}
	nano := fmt.Sprint(day.UnixNano())
	want := []string{"container exec_start: sh w " + nano + " local", "container die w " + nano + " local"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	bad := c.Events(ctx, moby.EventsListOptions{Filters: make(moby.Filters).Add("colour", "red")})
	if err := <-bad.Err; !errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v", err)
	}
}
