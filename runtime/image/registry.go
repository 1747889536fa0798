package image

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/distribution/reference"
	"github.com/pelletier/go-toml/v2"
)

// Credentials are what a caller shows to a registry. The zero value shows
// nothing. They are never stored and never printed.
type Credentials struct {
	Username, Password string
	// IdentityToken is traded for access tokens, in the place of a password.
	IdentityToken string
	// RegistryToken is an access token itself.
	RegistryToken string
}

// String hides what there is to hide, whatever prints it.
func (c Credentials) String() string {
	if c == (Credentials{}) {
		return "no credentials"
	}
	return "credentials (hidden)"
}

// GoString is String for %#v.
func (c Credentials) GoString() string { return c.String() }

// LogValue is String for logs.
func (c Credentials) LogValue() slog.Value { return slog.StringValue(c.String()) }

// dockerCerts is where Docker keeps the authorities of registries. What is said
// there counts for a registry that our own directory says nothing about.
const dockerCerts = "/etc/docker/certs.d"

// RegistryHosts says how each registry is reached: its mirrors, authorities and
// scheme, as the hosts.toml files of the machine have them, or the files of
// Docker's layout. authorize makes what signs the requests to a host; own is
// whether that is the registry itself and not a mirror, which is not to see
// anybody's credentials. A nil authorize leaves that to the caller.
//
// Loopback registries may speak plain HTTP without being configured.
func (s *Store) RegistryHosts(authorize func(h docker.RegistryHost, own bool) docker.Authorizer) docker.RegistryHosts {
	return func(name string) ([]docker.RegistryHost, error) {
		var transports []*http.Transport // the library wraps some of them
		hosts, err := config.ConfigureHosts(s.context(context.Background()), config.HostOptions{
			HostDir: s.hostDir,
			UpdateClient: func(c *http.Client) error {
				if t, ok := c.Transport.(*http.Transport); ok {
					transports = append(transports, t)
				}
				return nil
			},
		})(name)
		if err != nil {
			var ours *failure
			if errors.As(err, &ours) {
				return nil, err
			}
			return nil, classed(errdefs.ErrFailedPrecondition, "configuration of registry %s: %w", name, err)
		}
		for i := range hosts {
			own := i == len(hosts)-1
			client := *hosts[i].Client
			// With a further host to ask nobody waits for one that is busy.
			p := &patient{next: client.Transport, transports: transports, pause: s.pause, tries: 1}
			if own {
				p.tries = maxTries
			}
			client.Transport = p
			hosts[i].Client, hosts[i].Authorizer = &client, nil
			if authorize != nil {
				hosts[i].Authorizer = authorize(hosts[i], own)
				client.CheckRedirect = follow(hosts[i].Authorizer)
			}
		}
		return hosts, nil
	}
}

// follow follows a registry to where it keeps its blobs, but not for ever.
// What is shown to one host is not shown to another; to net/http the ports of
// one address are the same host.
func follow(a docker.Authorizer) func(*http.Request, []*http.Request) error {
	return func(r *http.Request, via []*http.Request) error {
		if len(via) >= 10 {
			return classed(errdefs.ErrUnavailable, "the registry %s sends on and on: more than 10 redirects", via[0].URL.Host)
		}
		if r.URL.Host != via[len(via)-1].URL.Host {
			r.Header.Del("Authorization")
			r.Header.Del("Cookie")
		}
		return a.Authorize(r.Context(), r)
	}
}

// hostDir finds the directory that says how a registry is reached.
func (s *Store) hostDir(host string) (string, error) {
	for _, root := range []string{s.registries, dockerCerts} {
		if root == "" {
			continue
		}
		dir, err := config.HostDirFromRoot(root)(host)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err == nil {
			err = checkHostsFile(filepath.Join(dir, "hosts.toml"))
		}
		return dir, err
	}
	return "", errdefs.ErrNotFound
}

// hostsFile is the form of a hosts.toml, for [checkHostsFile].
type hostsFile struct {
	hostsEntry
	Server string                `toml:"server"`
	Hosts  map[string]hostsEntry `toml:"host"`
}

type hostsEntry struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`
	Client       any            `toml:"client"`
	SkipVerify   *bool          `toml:"skip_verify"`
	Header       map[string]any `toml:"header"`
	OverridePath bool           `toml:"override_path"`
	DialTimeout  string         `toml:"dial_timeout"`
}

// checkHostsFile refuses a file that containerd's library would pass over with
// a line in its log: a mirror that is misspelled is then not asked, and
// nobody knows.
func checkHostsFile(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("configuration of a registry: %w", err)
	}
	defer f.Close()
	wrong := func(err error) error {
		return classed(errdefs.ErrFailedPrecondition, "%s: %w; correct the file", path, err)
	}
	var file hostsFile
	if err := toml.NewDecoder(f).DisallowUnknownFields().Decode(&file); err != nil {
		var strict *toml.StrictMissingError
		if errors.As(err, &strict) && len(strict.Errors) > 0 {
			return wrong(fmt.Errorf("there is no setting %q", strings.Join(strict.Errors[0].Key(), ".")))
		}
		return wrong(err)
	}
	entries := map[string]hostsEntry{file.Server: file.hostsEntry}
	for name, e := range file.Hosts {
		if name == "" {
			return wrong(errors.New("a host has no name"))
		}
		entries[name] = e
	}
	for name, e := range entries {
		if err := e.check(name); err != nil {
			return wrong(err)
		}
	}
	return nil
}

func (e hostsEntry) check(name string) error {
	if strings.Contains(name, "://") {
		if u, err := url.Parse(name); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return fmt.Errorf("host %q is not of the form http://HOST or https://HOST", name)
		}
	}
	for _, c := range e.Capabilities {
		if !slices.Contains([]string{"pull", "resolve", "push", "referrers"}, strings.ToLower(c)) {
			return fmt.Errorf("host %q: capability %q is not one of pull, resolve, push, referrers", name, c)
		}
	}
	if e.DialTimeout != "" {
		if _, err := time.ParseDuration(e.DialTimeout); err != nil {
			return fmt.Errorf("host %q: dial_timeout: %w", name, err)
		}
	}
	return nil
}

// remote is a repository of a registry, for as long as one operation takes: its
// connections and access tokens are shared by all requests.
type remote struct {
	name     reference.Named
	domain   string // of the registry, as names have it
	hosts    []docker.RegistryHost
	resolver remotes.Resolver
	tracker  docker.StatusTracker
	pause    time.Duration
	log      *log.Entry
	certs    string // directory of hosts.toml files, for advice
}

// remote connects to nobody yet. refreshed, which may be nil, is told the
// identity token that a registry gives out for a password.
func (s *Store) remote(name reference.Named, c Credentials, refreshed func(token string)) (*remote, error) {
	r := &remote{name: name, domain: reference.Domain(name), tracker: docker.NewInMemoryTracker(), pause: s.pause, log: s.remotes, certs: s.registries}
	var err error
	r.hosts, err = s.RegistryHosts(func(h docker.RegistryHost, own bool) docker.Authorizer {
		return c.authorizer(h, own, refreshed)
	})(r.domain)
	if err != nil {
		return nil, err
	}
	r.resolver = docker.NewResolver(docker.ResolverOptions{
		Tracker: r.tracker,
		Hosts:   func(string) ([]docker.RegistryHost, error) { return slices.Clone(r.hosts), nil },
	})
	return r, nil
}

// quiet is ctx for the library, which is to log no addresses.
func (r *remote) quiet(ctx context.Context) context.Context { return log.WithLogger(ctx, r.log) }

func (r *remote) close() {
	for _, h := range r.hosts {
		h.Client.CloseIdleConnections()
	}
}

// authorizer signs requests to h. Somebody else's host, a mirror or one that a
// registry sends on to, gets no credentials.
func (c Credentials) authorizer(h docker.RegistryHost, own bool, refreshed func(string)) docker.Authorizer {
	if !own {
		c = Credentials{}
	}
	if c.RegistryToken != "" {
		return bearer{host: h.Host, token: c.RegistryToken}
	}
	opts := []docker.AuthorizerOpt{
		docker.WithAuthClient(h.Client), docker.WithAuthHeader(h.Header),
		docker.WithAuthCreds(func(host string) (string, string, error) {
			switch {
			case host != h.Host:
				return "", "", nil
			case c.IdentityToken != "":
				return "", c.IdentityToken, nil
			}
			return c.Username, c.Password, nil
		}),
	}
	if refreshed != nil {
		opts = append(opts, docker.WithFetchRefreshToken(func(_ context.Context, token string, _ *http.Request) { refreshed(token) }))
	}
	return docker.NewDockerAuthorizer(opts...)
}

// bearer shows one access token, and to one host.
type bearer struct{ host, token string }

func (b bearer) Authorize(_ context.Context, r *http.Request) error {
	if r.URL.Host == b.host {
		r.Header.Set("Authorization", "Bearer "+b.token)
	}
	return nil
}

func (b bearer) AddResponses(context.Context, []*http.Response) error {
	return docker.ErrInvalidAuthorization
}

// explain says what a registry did wrong, or would not do. What the libraries
// say is full of addresses, and those of a store behind a registry hold
// signatures that are nobody's business.
func (r *remote) explain(ctx context.Context, err error) error {
	var (
		ours   *failure
		status remoteerrors.ErrUnexpectedStatus
		inner  *url.Error
		dns    *net.DNSError
		cert   *tls.CertificateVerificationError
	)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &ours):
		return ours
	case errors.As(err, &status):
		return r.refused(status)
	case errors.Is(err, docker.ErrInvalidAuthorization):
		return r.denied("")
	case errors.As(err, &cert):
		return classed(errdefs.ErrUnavailable, "the registry %s has a certificate that this machine does not trust: %w; name its authority in %s (ca = \"FILE\")",
			r.domain, cert.Err, filepath.Join(cmp.Or(r.certs, "certs.d"), r.domain, "hosts.toml"))
	case errors.As(err, &dns):
		return classed(errdefs.ErrUnavailable, "the registry %s cannot be reached: there is no host %s", r.domain, dns.Name)
	case errors.As(err, &inner):
		return classed(errdefs.ErrUnavailable, "the registry %s cannot be reached: %w", r.domain, inner.Err)
	case errdefs.IsNotFound(err):
		return classed(errdefs.ErrNotFound, "manifest unknown: the registry %s has no %s", r.domain, reference.FamiliarString(r.name))
	case errdefs.IsNotImplemented(err):
		return r.denied("it asks for credentials in a way that is not supported")
	}
	return fmt.Errorf("registry %s: %w", r.domain, err)
}

// denied is the answer to wrong and to missing credentials; a registry does not
// tell a repository that is hidden from one that is not there.
func (r *remote) denied(why string) error {
	if why != "" {
		why = " (" + why + ")"
	}
	return classed(errdefs.ErrPermissionDenied, "access denied to %s: the repository does not exist or needs `gantry login%s`%s",
		reference.FamiliarName(r.name), loginServer(r.domain), why)
}

// loginServer is what follows `gantry login` for a registry.
func loginServer(domain string) string {
	if domain == "docker.io" {
		return ""
	}
	return " " + domain
}

func (r *remote) refused(status remoteerrors.ErrUnexpectedStatus) error {
	words := registryWords(status.Body)
	switch code := status.StatusCode; {
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return r.denied(words)
	case code == http.StatusNotFound:
		return classed(errdefs.ErrNotFound, "manifest unknown: the registry %s has no %s", r.domain, reference.FamiliarString(r.name))
	case code == http.StatusTooManyRequests:
		return classed(errdefs.ErrUnavailable, "the registry %s takes no more requests for now: %s", r.domain, status.Status)
	case code >= 500:
		return classed(errdefs.ErrUnavailable, "the registry %s fails: %s %s", r.domain, status.Status, words)
	}
	return classed(errdefs.ErrFailedPrecondition, "the registry %s refuses: %s %s", r.domain, status.Status, words)
}
