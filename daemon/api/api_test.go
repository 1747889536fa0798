package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gantry/runtime/image"

	"github.com/containerd/errdefs"
	moby "github.com/moby/moby/client"
	"gopkg.in/yaml.v3"
)

// plain is an HTTP client on a socket that follows no redirect.
func plain(host string) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(host, "unix://"))
			},
			DisableKeepAlives: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func send(t testing.TB, host, method, path, body string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://x"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := plain(host).Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp, strings.TrimSpace(string(text))
}

func post(t testing.TB, host, path, body string) (int, string) {
	t.Helper()
	resp, text := send(t, host, "POST", path, body)
	return resp.StatusCode, text
}

func TestVersionsAndHeaders(t *testing.T) {
	host := serve(t, Options{Engine: newFake()})
	for path, want := range map[string]int{
		"/_ping": 200, "/v1.24/_ping": 200, "/v1.56/_ping": 200,
		"/v1.23/_ping": 400, "/v1.57/_ping": 400, "/v2.0/_ping": 400, "/v1.x/_ping": 404, "/v1.99999/_ping": 404,
		"/nothing": 404, "/": 404, "/v1.40": 404, "/volumes": 200, "/v1.41/volumes": 200,
	} {
		resp, text := send(t, host, "GET", path, "")
		if resp.StatusCode != want {
			t.Errorf("GET %s: %d %s, want %d", path, resp.StatusCode, text, want)
		}
		for name, value := range map[string]string{"Api-Version": "1.56", "Ostype": "linux", "Docker-Experimental": "false", "Server": "gantry/0.1.0 (linux)"} {
			if got := resp.Header.Get(name); got != value {
				t.Errorf("GET %s: %s is %q, want %q", path, name, got, value)
			}
		}
	}
	// A known path with another method is as unknown as the rest.
	for _, method := range []string{"PATCH", "DELETE", "POST"} {
		if resp, text := send(t, host, method, "/version", ""); resp.StatusCode != 404 || text != `{"message":"page not found"}` {
			t.Errorf("%s /version: %d %s", method, resp.StatusCode, text)
		}
	}
	if Newest != moby.MaxAPIVersion {
		t.Errorf("Newest is %s, moby's client speaks %s", Newest, moby.MaxAPIVersion)
	}
}

func TestMobyNegotiates(t *testing.T) {
	c := dial(t, newFake())
	ping, err := c.Ping(t.Context(), moby.PingOptions{NegotiateAPIVersion: true})
	if err != nil {
		t.Fatal(err)
	}
	if ping.APIVersion != Newest || ping.OSType != "linux" || ping.SwarmStatus == nil || c.ClientVersion() != Newest {
		t.Errorf("got %+v, client speaks %s", ping, c.ClientVersion())
	}
	v, err := c.ServerVersion(t.Context(), moby.ServerVersionOptions{})
	if err != nil || v.Version != "0.1.0" || v.MinAPIVersion != oldest {
		t.Errorf("version: %+v, %v", v, err)
	}
	info, err := c.Info(t.Context(), moby.InfoOptions{})
	if err != nil || info.Info.Containers != 2 || info.Info.ContainersRunning != 1 || info.Info.Images != 3 || info.Info.CgroupVersion != "1" {
		t.Errorf("info: %+v, %v", info.Info, err)
	}
}

// The class of an error is a status, a text and, on the other side, a class.
func TestErrors(t *testing.T) {
	f := newFake()
	host := serve(t, Options{Engine: f})
	for _, tt := range []struct {
		err    error
		status int
		text   string
	}{
		{fmt.Errorf("name x: taken: %w", errdefs.ErrAlreadyExists), 409, "name x: taken"},
		{fmt.Errorf("it runs: %w", errdefs.ErrFailedPrecondition), 409, "it runs"},
		{errdefs.ErrConflict.WithMessage("it moves"), 409, "it moves"},
		{fmt.Errorf("bad: %w", errdefs.ErrInvalidArgument), 400, "bad"},
		{fmt.Errorf("later: %w", errdefs.ErrNotImplemented), 501, "later"},
		{fmt.Errorf("closing: %w", errdefs.ErrUnavailable), 503, "closing"},
		{fmt.Errorf("no: %w", errdefs.ErrPermissionDenied), 403, "no"},
		{errors.New("disk full"), 500, "disk full"},
		{fmt.Errorf("gone: %w: twice", errdefs.ErrNotFound), 404, "gone: not found: twice"},
		{fmt.Errorf("2 failed:\n  a: %w\n  b: %w", errdefs.ErrInvalidArgument, errdefs.ErrInvalidArgument), 400, `2 failed:\n  a\n  b`},
	} {
		f.fail = tt.err
		status, got := post(t, host, "/containers/web/pause", "")
		if want := fmt.Sprintf(`{"message":"%s"}`, tt.text); status != tt.status || got != want {
			t.Errorf("%v: got %d %s, want %d %s", tt.err, status, got, tt.status, want)
		}
	}
	f.fail = nil
	if resp, text := send(t, host, "GET", "/containers/nobody/json", ""); resp.StatusCode != 404 || text != `{"message":"No such container: nobody"}` {
		t.Errorf("got %d %s", resp.StatusCode, text)
	}
}

func TestPanicsAreContained(t *testing.T) {
	var log strings.Builder
	f := newFake()
	f.load = func(func(string)) ([]image.Image, error) { panic("boom") }
	host := serve(t, Options{Engine: f, Log: slog.New(slog.NewTextHandler(&log, nil))})
	status, got := post(t, host, "/images/load", "x")
	if status != 500 || !strings.Contains(got, "mistake") || strings.Contains(got, "boom") {
		t.Errorf("got %d %s", status, got)
	}
	if !strings.Contains(log.String(), "boom") || !strings.Contains(log.String(), "fake_test.go") {
		t.Errorf("the log does not tell where: %s", log.String())
	}
}

// Every endpoint of Docker's own description is served, or refused by name:
// none is an unknown page.
func TestEveryEndpointHasAnAnswer(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/moby/moby/api").Output()
	if err != nil {
		t.Skip("needs the go command to find the description: ", err)
	}
	text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "swagger.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Paths map[string]map[string]yaml.Node `yaml:"paths"`
	}
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	s := New(Options{Engine: newFake()}).(*server)
	placeholder := regexp.MustCompile(`\{[^}]*\}`)
	n := 0
	for path, methods := range doc.Paths {
		for method := range methods {
			if method == "parameters" {
				continue
			}
			n++
			method = strings.ToUpper(method)
			req, err := http.NewRequest(method, "http://x"+placeholder.ReplaceAllString(path, "x"), nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, pattern := s.mux.Handler(req); pattern == "" {
				t.Errorf("%s %s is an unknown page", method, path)
			}
		}
	}
	if n < 100 {
		t.Errorf("only %d endpoints in the description", n)
	}
	for _, m := range missing() {
		err := m.refuse(t.Context(), nil, nil)
		later := errdefs.IsNotImplemented(err) && strings.Contains(err.Error(), "not supported")
		swarm := errdefs.IsUnavailable(err) && (strings.Contains(err.Error(), "not a swarm manager") || strings.Contains(err.Error(), "not part of a swarm") || strings.Contains(err.Error(), "swarm is unavailable"))
		if !later && !swarm {
			t.Errorf("%s: %v", m.pattern, err)
		}
	}
}
