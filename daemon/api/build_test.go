package api

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"gantry/runtime/build"

	"github.com/google/go-cmp/cmp"
	bkclient "github.com/moby/moby/api/types/build"
	"github.com/opencontainers/go-digest"
)

// fakeBuilder notes what it is asked and answers with what it is told to.
type fakeBuilder struct {
	asked     build.Request
	context   []byte
	pruned    build.PruneOptions
	looked    build.Filter
	cancelled string
	records   []build.Record
	err       error
	conns     chan net.Conn
	head      map[string][]string
}

func (f *fakeBuilder) ServeGRPC(conn net.Conn) error { f.conns <- conn; return nil }

func (f *fakeBuilder) ServeSession(_ context.Context, conn net.Conn, head map[string][]string) error {
	f.head = head
	f.conns <- conn
	return nil
}

const builtID = digest.Digest("sha256:1111111111111111111111111111111111111111111111111111111111111111")

func (f *fakeBuilder) Build(_ context.Context, r build.Request, trace build.Trace, _ build.Report) (digest.Digest, error) {
	f.asked = r
	if r.Context != nil {
		f.context, _ = io.ReadAll(r.Context)
	}
	if trace != nil {
		if err := trace([]byte("status")); err != nil {
			return "", err
		}
	}
	return builtID, f.err
}

func (f *fakeBuilder) Cancel(id string) { f.cancelled = id }

func (f *fakeBuilder) Cache(_ context.Context, which build.Filter) ([]build.Record, error) {
	f.looked = which
	return f.records, f.err
}

func (f *fakeBuilder) Prune(_ context.Context, p build.PruneOptions) ([]build.Record, int64, error) {
	f.pruned = p
	return f.records, 21, f.err
}

func serveBuilder(t *testing.T) (*fakeBuilder, string) {
	t.Helper()
	f := &fakeBuilder{conns: make(chan net.Conn, 1)}
	return f, serve(t, Options{Engine: newFake(), Builder: f})
}

// inQuery escapes the values of a query, written as they mean.
func inQuery(path string) string {
	head, query, _ := strings.Cut(path, "?")
	if query == "" {
		return path
	}
	var out []string
	for pair := range strings.SplitSeq(query, "&") {
		k, v, _ := strings.Cut(pair, "=")
		out = append(out, k+"="+url.QueryEscape(v))
	}
	return head + "?" + strings.Join(out, "&")
}

// sendWith is send with a body that is no JSON and with headers.
func sendWith(t *testing.T, host, method, path string, body io.Reader, head http.Header) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://x"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range head {
		req.Header[k] = v
	}
	resp, err := plain(host).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(text)
}

func archiveOf(t *testing.T, name, body string) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := errors.Join(w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(body))})); err != nil {
		t.Fatal(err)
	}
	_, err := w.Write([]byte(body))
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return &b
}

func TestClassicBuild(t *testing.T) {
	f, host := serveBuilder(t)
	credentials := base64.URLEncoding.EncodeToString([]byte(`{"r.example":{"username":"u","password":"p"}}`))
	query := `/v1.41/build?t=web&t=r.example/web:2&dockerfile=D&target=x&nocache=1&pull=1&networkmode=none&shmsize=65536&memory=1000000` +
		`&buildargs={"A":"1","B":null}&labels={"l":"v"}&cachefrom=["web"]&ulimits=[{"Name":"nofile","Soft":1,"Hard":2}]&extrahosts=a:10.0.0.1`
	resp, body := sendWith(t, host, "POST", inQuery(query), archiveOf(t, "D", "FROM scratch"),
		http.Header{"X-Registry-Config": {credentials}, "Content-Type": {"application/x-tar"}})
	if resp.StatusCode != 200 {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	for _, part := range []string{`{"aux":{"ID":"` + string(builtID) + `"}}`, `"stream":"Successfully built 111111111111\n"`, `"stream":"Successfully tagged web:latest\n"`, `tagged r.example/web:2\n`} {
		if !strings.Contains(body, part) {
			t.Errorf("%s lacks %s", body, part)
		}
	}
	one := "1"
	want := build.Request{
		ContextSize: 2048, Dockerfile: "D", Target: "x", Names: []string{"web", "r.example/web:2"}, Args: map[string]*string{"A": &one, "B": nil},
		Labels: map[string]string{"l": "v"}, NoCache: true, Pull: true, NetworkMode: "none", ExtraHosts: []string{"a:10.0.0.1"},
		ShmSize: 65536, Ulimits: []string{"nofile=1:2"}, Limits: map[string]string{"memory": "1000000"}, CacheFrom: []string{"web"},
		Credentials: map[string]build.Credential{"r.example": {Username: "u", Password: "p"}},
	}
	if f.asked.ContextSize != int64(len(f.context)) {
		t.Errorf("%d bytes are announced, %d came", f.asked.ContextSize, len(f.context))
	}
	f.asked.Context = nil
	if d := cmp.Diff(want, f.asked); d != "" {
		t.Error(d)
	}
	if !bytes.Contains(f.context, []byte("FROM scratch")) {
		t.Errorf("the context is %q", f.context)
	}
	if _, body := sendWith(t, host, "POST", "/build?q=1", strings.NewReader(""), nil); !strings.Contains(body, string(builtID)+`\n`) || strings.Contains(body, "Successfully") {
		t.Errorf("quiet: %s", body)
	}
}

func TestBuildOfASession(t *testing.T) {
	f, host := serveBuilder(t)
	_, body := send(t, host, "POST", "/v1.41/build?version=2&session=abc&remote=client-session&buildid=id", "")
	want := `{"id":"moby.buildkit.trace","aux":"c3RhdHVz"}` + "\n" + `{"id":"moby.image.id","aux":{"ID":"` + string(builtID) + `"}}`
	if body != want {
		t.Errorf("got %s, want %s", body, want)
	}
	if f.asked.Session != "abc" || f.asked.ID != "id" || f.asked.Context != nil || f.asked.Remote != "" {
		t.Errorf("asked %+v", f.asked)
	}
	if resp, _ := send(t, host, "POST", "/build/cancel?id=id", ""); resp.StatusCode != 200 || f.cancelled != "id" {
		t.Errorf("%d, cancelled %q", resp.StatusCode, f.cancelled)
	}
}

func TestBuildsThatAreRefused(t *testing.T) {
	f, host := serveBuilder(t)
	f.err = invalid("no such stage")
	for path, want := range map[string]string{
		"/build?version=2":                             "needs a session",
		"/build?squash=1":                              "squash",
		"/build?isolation=hyperv":                      "isolation",
		"/build?securityopt=[\"a\"]":                   "security options",
		"/build?shmsize=much":                          "shmsize",
		"/build?buildargs=[1]":                         "buildargs",
		"/build?memory=-5":                             "memory",
		"/build?cpuquota=much":                         "cpuquota",
		"/build?memory=1&memswap=-2":                   "memswap",
		"/build?platform=a/b/c/d/e":                    "a/b/c/d/e",
		"/build?remote=nothing":                        "remote",
		"/build":                                       "no such stage",
		"/build/cancel":                                "build ID not provided",
		"/session":                                     "h2c",
		"/grpc":                                        "h2c",
		"/build/prune?keep-storage=lots":               "keep-storage",
		`/build/prune?filters={"x":["1"]}`:             "x",
		`/build/prune?filters={"until":["yesterday"]}`: "duration",

		`/build/prune?filters={"until":["1h"],"unused-for":["1h"]}`: "mean the same",
		`/build/prune?filters={"until":["1h","2h"]}`:                "more than one until",
		`/build/prune?filters={"inuse":["perhaps"]}`:                "inuse",
		`/build/prune?filters={"shared":["1"],"private":["1"]}`:     "contradict",
		`/build/prune?filters={"id":["("]}`:                         "id=(",
	} {
		if resp, body := send(t, host, "POST", inQuery(path), ""); resp.StatusCode != 400 && resp.StatusCode != 501 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
	resp, body := sendWith(t, host, "POST", "/build", strings.NewReader(""), http.Header{"X-Registry-Config": {"%%"}})
	if resp.StatusCode != 400 || !strings.Contains(body, "base64") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

// Connections are handed over with what has come in already.
func TestConnectionsOfBuilds(t *testing.T) {
	f, host := serveBuilder(t)
	for _, path := range []string{"/v1.44/session", "/grpc"} {
		conn, err := net.Dial("unix", strings.TrimPrefix(host, "unix://"))
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		_, err = io.WriteString(conn, "POST "+path+" HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nX-Docker-Expose-Session-Uuid: abc\r\n\r\nearly")
		if err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(conn)
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "h2c" {
			t.Fatalf("%s: %v, %v", path, resp, err)
		}
		theirs := <-f.conns
		got := make([]byte, 5)
		if _, err := io.ReadFull(theirs, got); err != nil || string(got) != "early" {
			t.Errorf("%s: %q, %v", path, got, err)
		}
		if _, err := theirs.Write([]byte("hello")); err != nil {
			t.Error(err)
		}
		if _, err := io.ReadFull(r, got); err != nil || string(got) != "hello" {
			t.Errorf("%s: %q, %v", path, got, err)
		}
		theirs.Close()
		conn.Close()
	}
	if got := http.Header(f.head).Get("X-Docker-Expose-Session-Uuid"); got != "abc" {
		t.Errorf("the session is %q", got)
	}
}

func TestBuildCache(t *testing.T) {
	f, host := serveBuilder(t)
	var ids []*regexp.Regexp
	f.records = []build.Record{{ID: "a", Size: 5, Kind: "regular"}, {ID: "b", Size: 7, Shared: true}, {ID: "c", Size: 11, InUse: true, Parents: []string{"a"}}}
	_, body := send(t, host, "GET", "/v1.51/system/df?type=build-cache", "")
	var df struct{ BuildCache []bkclient.CacheRecord }
	if err := json.Unmarshal([]byte(body), &df); err != nil || len(df.BuildCache) != 3 || df.BuildCache[2].Parents[0] != "a" {
		t.Errorf("%v: %s", err, body)
	}
	_, body = send(t, host, "GET", "/system/df?type=build-cache&verbose=1", "")
	for _, part := range []string{`"TotalSize":16`, `"Reclaimable":5`, `"ActiveCount":1`, `"TotalCount":3`} {
		if !strings.Contains(body, part) {
			t.Errorf("%s lacks %s", body, part)
		}
	}
	_, body = send(t, host, "POST", inQuery(`/build/prune?all=1&keep-storage=9&max-used-space=8&filters={"until":["24h"],"id":["^a"],"type":["regular"],"inuse":["false"],"private":["1"]}`), "")
	if !strings.Contains(body, `"CachesDeleted":["a","b","c"],"SpaceReclaimed":21`) {
		t.Error(body)
	}
	f.pruned.Filter.IDs, ids = nil, f.pruned.Filter.IDs
	want := build.PruneOptions{All: true, Reserved: 9, Max: 8, Filter: build.Filter{
		Unused: 24 * time.Hour, Kinds: []string{"regular"}, InUse: new(false), Shared: new(false),
	}}
	if d := cmp.Diff(want, f.pruned); d != "" || len(ids) != 1 || ids[0].String() != "^a" {
		t.Error(ids, d)
	}
	send(t, host, "GET", inQuery(`/system/df?type=build-cache&filters={"shared":["true"]}`), "")
	if d := cmp.Diff(build.Filter{Shared: new(true)}, f.looked); d != "" {
		t.Error(d)
	}
}
