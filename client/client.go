// Package client talks to a gantry daemon over its socket: Docker's calls for
// containers, images, networks and volumes, and gantry's own for projects and
// for the daemon itself.
//
// It knows the wire and nothing behind it: not the runtime, not the daemon's
// code, no flag and no terminal. Docker's calls are spelled here rather than
// taken from moby's client: that costs every command 1.2 ms and 1.3 MB for
// tracing nobody reads, hides the daemon's words behind a prefix and loses
// them altogether when an attach is refused. The shapes on the wire are still
// moby's own types.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Client is a connection to one daemon. It is safe for concurrent use; calls
// share a few kept-alive connections, streams have one each.
type Client struct {
	host    string // as the user would write it
	network string // "unix" or "tcp"
	address string
	base    url.URL
	tls     *tls.Config
	http    *http.Client
	places  places
	own     bool // the default socket: a missing daemon may be started
}

// places are the directories of the daemon a client without further word
// belongs to.
type places struct {
	root, run string
}

// Default directories of a daemon, and how the environment moves them.
const (
	DefaultRoot = "/var/lib/gantry"
	DefaultRun  = "/run/gantry"
)

func placesFromEnv() places {
	p := places{root: os.Getenv("GANTRY_ROOT"), run: os.Getenv("GANTRY_RUN")}
	if p.root == "" {
		p.root = DefaultRoot
	}
	if p.run == "" {
		p.run = DefaultRun
	}
	return p
}

// New makes a client for the daemon at host: "unix:///path" or
// "tcp://name:port". An empty host means GANTRY_HOST, else DOCKER_HOST, else
// the socket gantry.sock in GANTRY_RUN or /run/gantry. It does not connect.
//
// A tcp host is reached by TLS with the client certificate (cert.pem, key.pem,
// ca.pem) in DOCKER_CERT_PATH, or in ~/.docker when DOCKER_TLS_VERIFY is set;
// gantry listens on TCP no other way.
func New(host string) (*Client, error) {
	c := &Client{places: placesFromEnv()}
	for _, name := range []string{"GANTRY_HOST", "DOCKER_HOST"} {
		if host == "" {
			host = os.Getenv(name)
		}
	}
	if host == "" {
		host = "unix://" + filepath.Join(c.places.run, "gantry.sock")
		c.own = true
	}
	c.host = host
	scheme, address, ok := strings.Cut(host, "://")
	if !ok || address == "" {
		return nil, invalid("host %q is not of the form unix:///path or tcp://name:port", host)
	}
	c.address = address
	switch scheme {
	case "unix":
		c.network = "unix"
		// The authority means nothing on a socket, but HTTP wants one.
		c.base = url.URL{Scheme: "http", Host: "gantry.localhost"}
	case "tcp":
		c.network = "tcp"
		c.base = url.URL{Scheme: "https", Host: address}
		var err error
		if c.tls, err = certificates(certificateDir(), address); err != nil {
			return nil, err
		}
	default:
		return nil, invalid("host %q: scheme %q is not supported, use unix:// or tcp://", host, scheme)
	}
	c.http = &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, c.network, c.address)
			},
			DialTLSContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) },
			DisableCompression: true,
			MaxIdleConns:       6,
			IdleConnTimeout:    30 * time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// certificateDir is where docker looks too.
func certificateDir() string {
	dir := os.Getenv("DOCKER_CERT_PATH")
	if home, err := os.UserHomeDir(); dir == "" && os.Getenv("DOCKER_TLS_VERIFY") != "" && err == nil {
		dir = filepath.Join(home, ".docker")
	}
	return dir
}

func certificates(dir, address string) (*tls.Config, error) {
	if dir == "" {
		return nil, invalid("tcp://%s: a client certificate is needed: set DOCKER_CERT_PATH to the directory of cert.pem, key.pem and ca.pem", address)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		return nil, fmt.Errorf("client certificate in DOCKER_CERT_PATH: %w", err)
	}
	pem, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return nil, fmt.Errorf("authority in DOCKER_CERT_PATH: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, invalid("%s holds no certificate", filepath.Join(dir, "ca.pem"))
	}
	name, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("host tcp://%s: %w", address, err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS12}, nil
}

// Host is the address of the daemon as a user writes it.
func (c *Client) Host() string { return c.host }

// Close drops kept-alive connections. Streams are closed by their holders.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	if c.tls != nil {
		return (&tls.Dialer{Config: c.tls}).DialContext(ctx, c.network, c.address)
	}
	return new(net.Dialer).DialContext(ctx, c.network, c.address)
}

// call is one request: the path below the root, its query and its body.
type call struct {
	method string
	path   string // escaped, as in /containers/a%2Fb/json
	query  url.Values
	json   any       // body as JSON
	body   io.Reader // body as it is, with kind
	kind   string    // Content-Type of body
	header http.Header
	again  bool // doing it twice is doing it once; so is every GET
}

// at joins path elements, each escaped: a name may hold any byte.
func at(elems ...string) string {
	var b strings.Builder
	for _, e := range elems {
		b.WriteByte('/')
		b.WriteString(url.PathEscape(e))
	}
	return b.String()
}

func (c *Client) request(ctx context.Context, r call) (*http.Request, error) {
	body, kind := r.body, r.kind
	if r.json != nil {
		text, err := json.Marshal(r.json)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		body, kind = bytes.NewReader(text), "application/json"
	}
	target := c.base.String() + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, body)
	if err != nil {
		return nil, err
	}
	// Whoever knows how much is coming can say at once that it is too much.
	if f, ok := r.body.(*os.File); ok {
		if st, err := f.Stat(); err == nil && st.Mode().IsRegular() {
			req.ContentLength = st.Size()
		}
	}
	for k, v := range r.header {
		req.Header[k] = v
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	return req, nil
}

// open sends a request and gives the answer back with its body still to be
// read; a refusal becomes an *[Error].
func (c *Client) open(ctx context.Context, r call) (*http.Response, error) {
	req, err := c.request(ctx, r)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	again := r.again || r.method == http.MethodGet
	for tries := 5; tries > 0 && err != nil && again && brokenOff(err) && ctx.Err() == nil; tries-- {
		// The daemon died before it answered: ask the next one.
		if _, absent := c.EnsureDaemon(ctx); absent != nil {
			break
		}
		if req, err = c.request(ctx, r); err != nil {
			return nil, err
		}
		resp, err = c.http.Do(req)
	}
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	if resp.StatusCode >= 400 {
		defer resp.Body.Close()
		return nil, c.refusal(resp)
	}
	return resp, nil
}

// brokenOff tells whether somebody listened and ended before answering.
func brokenOff(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// do sends a request and decodes the answer into out, when out is not nil.
func (c *Client) do(ctx context.Context, r call, out any) error {
	resp, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		// Read to the end, so that the connection is kept.
		_, _ = io.CopyN(io.Discard, resp.Body, 4096)
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return c.broken(ctx, err)
	}
	return nil
}

// lines decodes an answer of JSON values one after the other until it ends.
func lines[T any](r io.Reader, each func(T) error) error {
	dec := json.NewDecoder(r)
	for {
		var v T
		if err := dec.Decode(&v); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := each(v); err != nil {
			return err
		}
	}
}
