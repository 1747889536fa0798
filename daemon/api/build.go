package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"gantry/runtime/build"

	"github.com/containerd/platforms"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
)

// Builder makes images; *build.Builder is one.
type Builder interface {
	ServeGRPC(conn net.Conn) error
	ServeSession(ctx context.Context, conn net.Conn, head map[string][]string) error
	Build(ctx context.Context, r build.Request, trace build.Trace, report build.Report) (digest.Digest, error)
	Cancel(id string)
	Cache(ctx context.Context, f build.Filter) ([]build.Record, error)
	Prune(ctx context.Context, p build.PruneOptions) (gone []build.Record, bytes int64, err error)
}

// noBuilder is a daemon that does not build.
type noBuilder struct{}

var errNoBuilder = unsupported("this daemon does not build images")

func (noBuilder) ServeGRPC(conn net.Conn) error {
	conn.Close()
	return errNoBuilder
}

func (noBuilder) ServeSession(_ context.Context, conn net.Conn, _ map[string][]string) error {
	conn.Close()
	return errNoBuilder
}

func (noBuilder) Build(context.Context, build.Request, build.Trace, build.Report) (digest.Digest, error) {
	return "", errNoBuilder
}
func (noBuilder) Cancel(string)                                               {}
func (noBuilder) Cache(context.Context, build.Filter) ([]build.Record, error) { return nil, nil }
func (noBuilder) Prune(context.Context, build.PruneOptions) ([]build.Record, int64, error) {
	return nil, 0, nil
}

// session turns the connection into one on which the caller serves what a
// build asks of it.
func (s *server) session(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	conn, err := upgradeH2C(w, r)
	if err != nil {
		return err
	}
	return s.Builder.ServeSession(context.WithoutCancel(ctx), conn, r.Header)
}

// grpc turns the connection into one of BuildKit's own clients.
func (s *server) grpc(_ context.Context, w http.ResponseWriter, r *http.Request) error {
	conn, err := upgradeH2C(w, r)
	if err != nil {
		return err
	}
	return s.Builder.ServeGRPC(conn)
}

// upgradeH2C takes the connection over: from here on it speaks HTTP/2.
func upgradeH2C(w http.ResponseWriter, r *http.Request) (net.Conn, error) {
	switch proto := r.Header.Get("Upgrade"); proto {
	case "h2c":
	case "":
		return nil, invalid("no upgrade proto in request: ask for h2c")
	default:
		return nil, invalid("protocol %s not supported: ask for h2c", proto)
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, invalid("this connection cannot be upgraded: use HTTP/1.1")
	}
	if a, ok := w.(*answer); ok {
		a.taken = true
	}
	_ = conn.SetDeadline(time.Time{})
	if _, err := io.WriteString(conn, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"); err != nil {
		conn.Close()
		return nil, fmt.Errorf("answer: %w", err)
	}
	if n := rw.Reader.Buffered(); n > 0 {
		early, _ := rw.Reader.Peek(n)
		return &buffered{Conn: conn, early: bytes.NewReader(bytes.Clone(early))}, nil
	}
	return conn, nil
}

// buffered is a connection of which something was read already.
type buffered struct {
	net.Conn
	early *bytes.Reader
}

func (b *buffered) Read(p []byte) (int, error) {
	if b.early.Len() > 0 {
		return b.early.Read(p)
	}
	return b.Conn.Read(p)
}

// imageBuild builds an image: from a session, as docker does with BuildKit, or
// from an archive in the body, as it did before.
func (s *server) imageBuild(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	req, err := buildRequest(r)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	quiet := boolean(q, "q")
	out := &progress{w: w}
	var report build.Report
	var trace build.Trace
	text := build.NewText(func(line string) {
		if !quiet {
			_ = out.send(jsonstream.Message{Stream: line})
		}
	})
	if req.Session != "" {
		trace = func(status []byte) error {
			if quiet {
				return nil
			}
			aux, err := json.Marshal(status)
			if err != nil {
				return err
			}
			return out.send(struct {
				ID  string          `json:"id"`
				Aux json.RawMessage `json:"aux"`
			}{"moby.buildkit.trace", aux})
		}
	} else {
		report = text.Add
	}
	id, err := s.Builder.Build(ctx, req, trace, report)
	text.Close()
	if err != nil {
		return out.endAs(err, 1)
	}
	if id == "" {
		out.begin()
		return nil
	}
	if quiet { // the id alone, in either kind of build
		return out.send(jsonstream.Message{Stream: id.String() + "\n"})
	}
	aux, err := json.Marshal(struct{ ID string }{id.String()})
	if err != nil {
		return err
	}
	result := struct {
		ID  string          `json:"id,omitempty"`
		Aux json.RawMessage `json:"aux"`
	}{Aux: aux}
	if req.Session != "" {
		result.ID = "moby.image.id"
		return out.send(result)
	}
	if err := out.send(result); err != nil {
		return err
	}
	if err := out.send(jsonstream.Message{Stream: "Successfully built " + id.Encoded()[:12] + "\n"}); err != nil {
		return err
	}
	for _, name := range req.Names {
		if err := out.send(jsonstream.Message{Stream: "Successfully tagged " + fullTag(name) + "\n"}); err != nil {
			return err
		}
	}
	return nil
}

func fullTag(name string) string {
	if !strings.Contains(name[strings.LastIndexByte(name, '/')+1:], ":") {
		return name + ":latest"
	}
	return name
}

// buildRequest reads the many parameters of a build.
func buildRequest(r *http.Request) (build.Request, error) {
	q := r.URL.Query()
	req := build.Request{
		ID: q.Get("buildid"), Dockerfile: q.Get("dockerfile"), Target: q.Get("target"),
		Names: q["t"], NoCache: boolean(q, "nocache"), Pull: boolean(q, "pull"), Platform: q.Get("platform"),
		NetworkMode: q.Get("networkmode"), Cgroup: q.Get("cgroupparent"), Limits: map[string]string{},
		ExtraHosts: q["extrahosts"], Session: q.Get("session"),
	}
	if len(req.ExtraHosts) == 1 && strings.HasPrefix(req.ExtraHosts[0], "[") {
		if err := readQueryJSON(q, "extrahosts", &req.ExtraHosts); err != nil {
			return req, err
		}
	}
	remote := q.Get("remote")
	switch {
	case q.Get("version") != "2":
		req.Session = "" // a classic build's session carries nothing but the files' state
		req.Context, req.ContextSize = r.Body, r.ContentLength
	case req.Session == "":
		return req, invalid("a build of version 2 needs a session")
	}
	if remote != "" && remote != "client-session" {
		if u, err := url.Parse(remote); err != nil || u.Scheme == "" {
			return req, invalid("remote %q is not a URL", remote)
		}
		req.Remote, req.Context = remote, nil
	}
	for _, f := range []struct{ name, what string }{
		{"squash", "squashing the layers of a build"}, {"isolation", "isolation"},
		{"credentialspec", "a credential specification"}, {"securityopt", "security options of a build"},
	} {
		if v := q.Get(f.name); v != "" && v != "0" && v != "false" && v != "default" && v != "null" && v != "[]" {
			return req, unsupported("%s is not supported (%s=%s)", f.what, f.name, v)
		}
	}
	if err := readLimits(q, req.Limits); err != nil {
		return req, err
	}
	for text := range strings.SplitSeq(req.Platform, ",") {
		if _, err := platforms.Parse(text); text != "" && err != nil {
			return req, invalid("platform %v", err)
		}
	}
	if v := q.Get("shmsize"); v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < 0 {
			return req, invalid("shmsize %q is not a number of bytes", v)
		}
		req.ShmSize = n
	}
	var ulimits []*container.Ulimit
	for name, to := range map[string]any{
		"buildargs": &req.Args, "labels": &req.Labels, "cachefrom": &req.CacheFrom, "outputs": &req.Outputs, "ulimits": &ulimits,
	} {
		if err := readQueryJSON(q, name, to); err != nil {
			return req, err
		}
	}
	for _, u := range ulimits {
		req.Ulimits = append(req.Ulimits, (&units.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard}).String())
	}
	var err error
	req.Credentials, err = registryConfig(r.Header.Get("X-Registry-Config"))
	return req, err
}

// readLimits reads what a build's steps may use. What is wrong is told here, where
// it has a status yet.
func readLimits(q url.Values, limits map[string]string) error {
	for _, name := range []string{"memory", "memswap", "cpushares", "cpuperiod", "cpuquota", "cpusetcpus", "cpusetmems"} {
		v := q.Get(name)
		if v == "" || v == "0" {
			continue
		}
		if !strings.HasPrefix(name, "cpuset") {
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil || n < 0 && (name != "memswap" || n != -1) {
				return invalid("%s %q is not a number above zero", name, v)
			}
		}
		limits[name] = v
	}
	return nil
}

// readQueryJSON reads a parameter that is JSON, if it is there.
func readQueryJSON(q url.Values, name string, to any) error {
	v := q.Get(name)
	if v == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(v), to); err != nil {
		return invalid("%s: %v", name, err)
	}
	return nil
}

// registryConfig reads the credentials of several registries.
func registryConfig(header string) (map[string]build.Credential, error) {
	if header == "" {
		return nil, nil
	}
	text, err := base64.URLEncoding.DecodeString(header)
	if err != nil {
		if text, err = base64.StdEncoding.DecodeString(header); err != nil {
			return nil, invalid("X-Registry-Config is not base64")
		}
	}
	var all map[string]registry.AuthConfig
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, invalid("X-Registry-Config is not a map of credentials in JSON")
	}
	out := map[string]build.Credential{}
	for server, a := range all {
		out[server] = build.Credential{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken}
	}
	return out, nil
}

// buildCancel ends a build that was given an id.
func (s *server) buildCancel(_ context.Context, w http.ResponseWriter, r *http.Request) error {
	id := r.URL.Query().Get("id")
	if id == "" {
		return invalid("build ID not provided")
	}
	s.Builder.Cancel(id)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	return nil
}
