package api

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"gantry/runtime"
	"gantry/runtime/image"
)

// FuzzRouter sends anything anywhere. Nothing may panic (wrap would turn that
// into a 500 of its own words), hang, or answer outside HTTP's statuses.
func FuzzRouter(f *testing.F) {
	for _, seed := range [][4]string{
		{"GET", "/v1.41/containers/json", `filters={"label":["a=b"]}&all=1`, ""},
		{"GET", "/containers/json", `filters={"name":{"(":true},"publish":{"1-9/x":true},"network":{"f":true}}&limit=-1`, ""},
		{"POST", "/containers/create", "name=%2Fx", `{"Image":"busybox","HostConfig":{"Binds":["/a:/b:ro"],"PortBindings":{"80/tcp":[{"HostPort":"1-2"}]}}}`},
		{"POST", "/containers/web/stop", "t=99999999999999999999", ""},
		{"POST", "/containers/web/attach", "stream=1&detachKeys=ctrl-", ""},
		{"GET", "/containers/web/logs", "stdout=1&since=-1.9999999999&tail=x", ""},
		{"POST", "/exec/x/start", "", `{"ConsoleSize":[1,2]}`},
		{"GET", "/images/a/b/json", "", ""},
		{"POST", "/images/%2e%2e/tag", "repo=a&tag=b", ""},
		{"PUT", "/projects/shop", "", `{"version":1,"project":"name: shop\n"}`},
		{"DELETE", "/projects/shop", "timeout=x&rmi=all", ""},
		{"POST", "/networks/create", "", `{"Name":"n","IPAM":{"Config":[{"Subnet":"10.0.0.0/8"}]}}`},
		{"GET", "/v1.99999999999999999999/_ping", "", ""},
		{"CONNECT", "", "", ""},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3])
	}
	eng := newFake()
	eng.load = func(func(string)) ([]image.Image, error) { return nil, nil }
	eng.attach = func(_ context.Context, o runtime.AttachOptions) error { close(o.Attached); return nil }
	eng.exec = func(context.Context, runtime.ExecConfig, *runtime.ExecStreams) (int, error) { return 0, nil }
	h := New(Options{Engine: eng, Projects: &scripted{}, Version: "0"})
	f.Fuzz(func(t *testing.T, method, path, query, body string) {
		if strings.HasSuffix(strings.TrimRight(path, "/"), "/projects/shop") && method == "PUT" {
			method = "POST" // the scripted scheduler applies nothing
		}
		eng.mu.Lock()
		eng.containers = []runtime.Container{web(), job()}
		eng.networks = eng.networks[:1]
		eng.mu.Unlock()
		// Waiting is what some calls are for; a client that leaves ends it.
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		req := (&http.Request{
			Method: method, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Host: "x",
			URL: &url.URL{Path: path, RawQuery: query}, Body: io.NopCloser(strings.NewReader(body)),
		}).WithContext(ctx)
		rec := httptest.NewRecorder()
		func() {
			defer func() {
				if p := recover(); p != nil && p != http.ErrAbortHandler {
					panic(p)
				}
			}()
			h.ServeHTTP(rec, req)
		}()
		if strings.Contains(rec.Body.String(), "made a mistake") {
			t.Fatalf("%s %s?%s panicked", method, path, query)
		}
		if rec.Code < 200 || rec.Code > 599 {
			t.Fatalf("%s %s?%s: status %d", method, path, query, rec.Code)
		}
	})
}
