package api

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"gantry/runtime"
	"gantry/runtime/image"
)

// FuzzWords puts any bytes where a name, a label, a filter or a header is
// wanted, at every endpoint that takes one. The answer is of HTTP and JSON,
// whatever was asked, and no mistake of the daemon's.
func FuzzWords(f *testing.F) {
	for _, seed := range [][4]string{
		{"web", "a=b", "label", "X-Registry-Auth"}, {"../../etc", "\x00=\xff", "name", "Upgrade"}, {"sha256:" + strings.Repeat("0", 64), "=", "until", "Connection"},
		{"%2e%2e", "a\nb: c", "reference", "Origin"}, {strings.Repeat("é", 300), strings.Repeat("[", 200), "network", "Accept"}, {"", "", "", ""},
		{"a@b:c", "(?P<x>", "publish", "Sec-Websocket-Key"}, {"web/json", "1-9999999999", "expose", "Content-Type"}, {"web?x#y", "%zz", "ancestor", "Host"},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3])
	}
	eng := newFake()
	eng.load = func(func(string)) ([]image.Image, error) { return nil, nil }
	eng.attach = func(_ context.Context, o runtime.AttachOptions) error { close(o.Attached); return nil }
	eng.exec = func(context.Context, runtime.ExecConfig, *runtime.ExecStreams) (int, error) { return 0, nil }
	close(eng.events)
	h := New(Options{Engine: eng, Projects: &scripted{}, Version: "0"})
	f.Fuzz(func(t *testing.T, name, label, key, header string) {
		eng.mu.Lock()
		eng.containers = []runtime.Container{web(), job()}
		eng.networks, eng.volumes = newFake().networks, newFake().volumes
		eng.calls = nil
		eng.mu.Unlock()
		one := url.PathEscape(name)
		some := url.QueryEscape(name)
		list, _ := json.Marshal(map[string][]string{key: {label, name}})
		set, _ := json.Marshal(map[string]map[string]bool{key: {label: true, name: false}})
		object := func(v any) string { b, _ := json.Marshal(v); return string(b) }
		labels := map[string]string{label: name, name: label}
		for _, r := range [][3]string{
			{"GET", "/containers/" + one + "/json", ""}, {"GET", "/containers/" + one + "/top?ps_args=" + some, ""}, {"POST", "/containers/" + one + "/rename?name=" + some, ""},
			{"GET", "/containers/web/logs?stdout=1&since=" + some + "&until=" + url.QueryEscape(label) + "&tail=" + some, ""}, {"POST", "/containers/" + one + "/kill?signal=" + some, ""},
			{"POST", "/containers/create?name=" + some, object(map[string]any{"Image": name, "Labels": labels, "Env": []string{label}, "HostConfig": map[string]any{"Binds": []string{name + ":" + label}, "SecurityOpt": []string{label}}})},
			{"POST", "/containers/web/update", object(map[string]any{"CpusetCpus": label, "RestartPolicy": map[string]any{"Name": name}})},
			{"POST", "/commit?container=web&repo=" + some + "&tag=" + url.QueryEscape(label) + "&changes=" + some, object(map[string]any{"Labels": labels})},
			{"GET", "/images/" + one + "/json?platform=" + some, ""}, {"GET", "/images/" + name + "/history", ""}, {"GET", "/images/get?names=" + some, ""},
			{"POST", "/images/" + one + "/tag?repo=" + some + "&tag=" + url.QueryEscape(label), ""}, {"DELETE", "/images/" + one, ""},
			{"POST", "/images/create?fromSrc=-&repo=" + some + "&platform=" + url.QueryEscape(label), name},
			{"POST", "/networks/create", object(map[string]any{"Name": name, "Labels": labels, "Options": labels})}, {"GET", "/networks/" + one, ""}, {"DELETE", "/networks/" + one, ""},
			{"POST", "/volumes/create", object(map[string]any{"Name": name, "Labels": labels, "DriverOpts": labels})}, {"GET", "/volumes/" + one, ""},
			{"GET", "/system/df?type=" + some, ""}, {"GET", "/plugins/" + one + "/json", ""}, {"GET", "/services/" + one, ""}, {"GET", "/projects/" + one, ""},
		} {
			ask(t, h, r[0], r[1], r[2], nil)
		}
		for _, path := range []string{"/containers/json?all=1&", "/images/json?", "/networks?", "/volumes?", "/events?until=1&"} {
			for _, text := range []string{string(list), string(set), name} {
				ask(t, h, "GET", path+"filters="+url.QueryEscape(text), "", nil)
			}
		}
		for _, path := range []string{"/containers/prune?", "/images/prune?", "/networks/prune?", "/volumes/prune?"} {
			ask(t, h, "POST", path+"filters="+url.QueryEscape(string(list)), "", nil)
		}
		head := http.Header{}
		for _, n := range []string{header, "Upgrade", "Connection", "Accept", "Origin", "Content-Type", "Sec-Websocket-Key"} {
			head[n] = append(head[n], label, name)
		}
		for _, r := range [][2]string{
			{"GET", "/_ping"}, {"GET", "/containers/web/attach/ws?stream=1"}, {"POST", "/containers/web/attach?stream=1&stdout=1"}, {"GET", "/events?until=1"}, {"POST", "/containers/create"}, {"POST", "/auth"},
		} {
			ask(t, h, r[0], r[1], `{"Image":"busybox"}`, head)
		}
	})
}

func ask(t *testing.T, h http.Handler, method, target, body string, head http.Header) {
	t.Helper()
	path, query, _ := strings.Cut(target, "?")
	u := &url.URL{Path: path, RawQuery: query}
	if plain, err := url.PathUnescape(path); err == nil {
		u.Path, u.RawPath = plain, path
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if head == nil {
		head = http.Header{"Content-Type": {"application/json"}}
	}
	req := (&http.Request{Method: method, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: head, Host: "x", URL: u,
		Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body))}).WithContext(ctx)
	rec := httptest.NewRecorder()
	func() {
		defer func() {
			if p := recover(); p != nil && p != http.ErrAbortHandler {
				panic(p)
			}
		}()
		h.ServeHTTP(rec, req)
	}()
	text := rec.Body.String()
	if strings.Contains(text, "made a mistake") {
		t.Fatalf("%s %s panicked", method, target)
	}
	if rec.Code < 200 || rec.Code > 599 {
		t.Fatalf("%s %s: status %d", method, target, rec.Code)
	}
	if rec.Code >= 400 {
		var out struct{ Message string }
		if err := json.Unmarshal([]byte(text), &out); err != nil || out.Message == "" || !utf8.ValidString(text) {
			t.Fatalf("%s %s: %d with %q", method, target, rec.Code, text)
		}
	}
	for name, values := range rec.Header() {
		if v := strings.Join(values, ""); strings.ContainsAny(name+v, "\r\n\x00") {
			t.Fatalf("%s %s: header %q: %q", method, target, name, v)
		}
	}
}
