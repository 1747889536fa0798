package registry

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRefuses(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for want, o := range map[string]Options{
		"HOST:PORT":             {Addr: "5000"},
		"without TLS":           {Addr: "0.0.0.0:0"},
		"serves other machines": {Addr: ":0"},
		"needs both":            {Addr: "127.0.0.1:0", Cert: "x"},
		"certificate":           {Addr: "127.0.0.1:0", Cert: "x", Key: "y"},
		"no such file":          {Addr: "127.0.0.1:0", Users: filepath.Join(dir, "none")},
		"names nobody":          {Addr: "127.0.0.1:0", Users: write("empty", "# nobody\n\n")},
		"bad:2: not NAME:HASH":  {Addr: "127.0.0.1:0", Users: write("bad", "anna:$2y$05$abc\nbob:{SHA}x\n")},
	} {
		o.Root = filepath.Join(dir, "root")
		if err := Serve(t.Context(), o, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", o, err, want)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "root")); err == nil {
		t.Error("one that was refused has made its directory")
	}
	for _, addr := range []string{"localhost:0", "127.9.9.9:0", "[::1]:0"} {
		if _, err := (Options{Addr: addr}).check(); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
	}
	if _, err := (Options{Addr: "0.0.0.0:0", Insecure: true}).check(); err != nil {
		t.Error(err)
	}
}

func TestServe(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	at := make(chan net.Addr, 1)
	ended := make(chan error, 1)
	var log strings.Builder
	go func() {
		ended <- Serve(ctx, Options{Addr: "127.0.0.1:0", Root: t.TempDir(), Log: &log}, func(a net.Addr) { at <- a })
	}()
	base := "http://" + (<-at).String()
	for path, want := range map[string]int{"/v2/": 200, "/v2/x/manifests/1": 404, "/v2/_catalog": 200} {
		resp, err := http.Get(base + path) //nolint:noctx // a test's
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if log.Len() > 0 {
		t.Errorf("nothing was wrong, and the log says:\n%s", log.String())
	}
}
