package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if how := os.Getenv("GANTRY_TEST_DAEMON"); how != "" && os.Getenv(ReadyFD) != "" {
		pretendDaemon(how)
		return
	}
	goleak.VerifyTestMain(m)
}

// unset clears what the environment of the test run may say.
func unset(t *testing.T) {
	t.Helper()
	for _, name := range []string{"GANTRY_HOST", "DOCKER_HOST", "GANTRY_RUN", "GANTRY_ROOT", "DOCKER_CERT_PATH"} {
		t.Setenv(name, "")
	}
}

func TestHostIsFound(t *testing.T) {
	for _, tt := range []struct {
		flag, gantry, docker, run string
		want                      string
		own                       bool
	}{
		{want: "unix:///run/gantry/gantry.sock", own: true},
		{run: "/r", want: "unix:///r/gantry.sock", own: true},
		{docker: "unix:///d", run: "/r", want: "unix:///d"},
		{gantry: "unix:///g", docker: "unix:///d", want: "unix:///g"},
		{flag: "unix:///f", gantry: "unix:///g", want: "unix:///f"},
	} {
		unset(t)
		t.Setenv("GANTRY_HOST", tt.gantry)
		t.Setenv("DOCKER_HOST", tt.docker)
		t.Setenv("GANTRY_RUN", tt.run)
		c, err := New(tt.flag)
		if err != nil {
			t.Fatal(err)
		}
		if c.Host() != tt.want || c.own != tt.own {
			t.Errorf("%+v: got %s, own %v", tt, c.Host(), c.own)
		}
	}
	unset(t)
	for host, want := range map[string]string{
		"/run/x":          "not of the form",
		"unix://":         "not of the form",
		"ssh://me@there":  `scheme "ssh" is not supported`,
		"tcp://there:1":   "client certificate is needed",
		"npipe:////./x/y": `scheme "npipe" is not supported`,
	} {
		if _, err := New(host); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", host, err, want)
		}
	}
}

// answering is a client of a server on a socket that answers as h does.
func answering(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	srv.Start()
	c, err := New("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); srv.Close() })
	return c
}

func TestErrorsKeepTheirClass(t *testing.T) {
	status, class, body := 0, "", ""
	c := answering(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Server", "gantry/1 (linux)")
		w.Header().Set(classHeader, class)
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	})
	for _, tt := range []struct {
		status      int
		class, body string
		want        error
		text        string
	}{
		{409, "failed-precondition", `{"message":"it runs"}`, errdefs.ErrFailedPrecondition, "it runs"},
		{409, "already-exists", `{"message":"taken"}`, errdefs.ErrAlreadyExists, "taken"},
		{409, "", `{"message":"busy"}`, errdefs.ErrConflict, "busy"},
		{404, "", "plain text\n", errdefs.ErrNotFound, "plain text"},
		{500, "", "", errdefs.ErrInternal, "500 Internal Server Error"},
		{501, "", `{"message":"later"}`, errdefs.ErrNotImplemented, "later"},
		{418, "", `{"message":"teapot"}`, errdefs.ErrUnknown, "teapot"},
	} {
		status, class, body = tt.status, tt.class, tt.body
		_, err := c.Info(t.Context())
		var e *Error
		if !errors.Is(err, tt.want) || !errors.As(err, &e) || e.Status != tt.status || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%+v: got %v", tt, err)
		}
	}
}

func TestAnotherDaemonIsNoticed(t *testing.T) {
	c := answering(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Server", "Docker/29.0.0 (linux)")
		w.WriteHeader(404)
		fmt.Fprint(w, `{"message":"page not found"}`)
	})
	if _, err := c.Projects(t.Context()); err == nil || !strings.Contains(err.Error(), "is not gantry") {
		t.Errorf("got %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	unset(t)
	dir := t.TempDir()
	t.Setenv("GANTRY_RUN", dir)
	c, err := New("")
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Info(t.Context())
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "no such socket; start it with `gantry daemon start`") {
		t.Errorf("got %v", err)
	}
	// A socket left behind.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "gantry.sock")})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if _, err := c.Attach(t.Context(), "x", AttachOptions{}); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "nobody listens") {
		t.Errorf("got %v", err)
	}
	// A context that is done is its own reason.
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("enough")
	cancel(reason)
	if _, err := c.Info(ctx); !errors.Is(err, reason) {
		t.Errorf("got %v", err)
	}
}

func TestConnectionCutInTheMiddle(t *testing.T) {
	c := answering(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"ID\":")
	})
	if _, err := c.Info(t.Context()); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "closed the connection") {
		t.Errorf("got %v", err)
	}
}

// A hand-shake that is not answered ends with its context.
func TestUpgradeIsCancelled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := New("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = bufio.NewReader(conn).ReadString('\n')
		cancel()
		_, _ = conn.Read(make([]byte, 4096))
		_, _ = conn.Read(make([]byte, 1))
	}()
	if _, err := c.Attach(ctx, "x", AttachOptions{Stdout: true}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestFilters(t *testing.T) {
	q := query()
	Filters{}.Add("label", "a=b", "c").Add("status", "exited").into(q)
	if got := q.Get("filters"); got != `{"label":{"a=b":true,"c":true},"status":{"exited":true}}` {
		t.Errorf("got %s", got)
	}
}

// A daemon that dies before it answers is asked again, but only for what may
// be done twice.
func TestLooksAreRepeated(t *testing.T) {
	unset(t)
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan int, 1)
	go func() {
		n := 0
		defer func() { asked <- n }()
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			req, err := http.ReadRequest(bufio.NewReader(conn))
			if err == nil { // else somebody only looked whether anyone listens
				if n++; n > 2 && req.Method == http.MethodGet {
					fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 15\r\nConnection: close\r\n\r\n{\"Name\":\"data\"}\n")
				}
			}
			conn.Close()
		}
	}()
	c, err := New("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	v, err := c.Volume(t.Context(), "data")
	if err != nil || v.Name != "data" {
		t.Errorf("%+v, %v", v, err)
	}
	if err := c.RemoveVolume(t.Context(), "data", false); err == nil {
		t.Error("a removal that was cut off is no success")
	}
	l.Close()
	if n := <-asked; n != 4 {
		t.Errorf("asked %d times, want 3 and 1", n)
	}
}
