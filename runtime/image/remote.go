package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Bounds on what a registry may tell in lists.
const (
	maxTags     = 10_000
	maxTagPages = 100
)

// get asks a host for a page, with the access token that it wants to see. An
// answer that is no success is an error.
func (r *remote) get(ctx context.Context, h docker.RegistryHost, target url.URL) (*http.Response, error) {
	ctx = r.quiet(ctx)
	var before []*http.Response
	for range 3 {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
		if err != nil {
			return nil, err
		}
		for k, v := range h.Header {
			req.Header[k] = v
		}
		if err := h.Authorizer.Authorize(ctx, req); err != nil {
			return nil, err
		}
		resp, err := h.Client.Do(req)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode < 300 {
			return resp, nil
		}
		err = remoteerrors.NewUnexpectedStatusErr(resp)
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			return nil, err
		}
		before = append(before, resp)
		if err := h.Authorizer.AddResponses(ctx, before); err != nil {
			return nil, err
		}
	}
	return nil, docker.ErrInvalidAuthorization
}

// base is the address of a host's registry API.
func base(h docker.RegistryHost, elems ...string) url.URL {
	return url.URL{Scheme: h.Scheme, Host: h.Host, Path: path.Join(append([]string{"/", h.Path}, elems...)...)}
}

// own is the registry itself.
func (r *remote) own() (docker.RegistryHost, error) {
	if len(r.hosts) == 0 {
		return docker.RegistryHost{}, classed(errdefs.ErrFailedPrecondition, "registry %s: its configuration has no host", r.domain)
	}
	return r.hosts[len(r.hosts)-1], nil
}

// page reads a document of a list.
func page(resp *http.Response, into any) error {
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	if err != nil {
		return err
	}
	if len(b) > maxDocument {
		return classed(errdefs.ErrInvalidArgument, "the registry %s answers with more than %d bytes", resp.Request.URL.Host, maxDocument)
	}
	if err := json.Unmarshal(b, into); err != nil {
		return classed(errdefs.ErrUnavailable, "the registry %s answers with what is not JSON: %w", resp.Request.URL.Host, err)
	}
	return nil
}

var nextLink = regexp.MustCompile(`<([^>]*)>\s*;\s*rel="?next"?`)

// RemoteTags lists the tags of a repository in its registry.
func (s *Store) RemoteTags(ctx context.Context, repository string, c Credentials) ([]string, error) {
	named, err := reference.ParseNormalizedNamed(repository)
	if err != nil {
		return nil, badName(repository, err)
	}
	named = reference.TrimNamed(named)
	r, err := s.remote(named, c, nil)
	if err != nil {
		return nil, err
	}
	defer r.close()
	ctx = docker.WithScope(s.context(ctx), "repository:"+reference.Path(named)+":pull")
	tags, err := r.tags(ctx)
	if err != nil {
		return nil, fmt.Errorf("tags of %s: %w", reference.FamiliarName(named), r.explain(ctx, err))
	}
	return tags, nil
}

func (r *remote) tags(ctx context.Context) ([]string, error) {
	h, err := r.own()
	if err != nil {
		return nil, err
	}
	var tags []string
	at := base(h, reference.Path(r.name), "tags", "list")
	for range maxTagPages {
		resp, err := r.get(ctx, h, at)
		if err != nil {
			return nil, err
		}
		link := nextLink.FindStringSubmatch(resp.Header.Get("Link"))
		var list struct{ Tags []string }
		if err := page(resp, &list); err != nil {
			return nil, err
		}
		tags = append(tags, list.Tags...)
		if len(tags) > maxTags {
			return nil, classed(errdefs.ErrInvalidArgument, "the registry %s lists more than %d tags", r.domain, maxTags)
		}
		if link == nil {
			return tags, nil
		}
		next, err := at.Parse(link[1])
		if err != nil || next.Host != at.Host || next.Scheme != at.Scheme {
			return nil, classed(errdefs.ErrInvalidArgument, "the registry %s sends to another host for more of its tags", r.domain)
		}
		at = *next
	}
	return nil, classed(errdefs.ErrInvalidArgument, "the registry %s lists its tags on more than %d pages", r.domain, maxTagPages)
}

// Login checks credentials with a registry, "" being Docker Hub. identity, if
// the registry gives one out, is to be kept in the place of the password.
func (s *Store) Login(ctx context.Context, server string, c Credentials) (identity string, err error) {
	named, err := registryOf(server)
	if err != nil {
		return "", err
	}
	r, err := s.remote(named, c, func(token string) { identity = token })
	if err != nil {
		return "", err
	}
	defer r.close()
	h, err := r.own()
	if err != nil {
		return "", err
	}
	ctx = s.context(ctx)
	at := base(h)
	at.Path += "/"
	resp, err := r.get(ctx, h, at)
	if err == nil {
		resp.Body.Close()
		return identity, nil
	}
	err = r.explain(ctx, err)
	if errdefs.IsPermissionDenied(err) {
		return "", classed(errdefs.ErrUnauthenticated, "the registry %s does not take this name and password", r.domain)
	}
	return "", fmt.Errorf("login: %w", err)
}

// registryOf gives a name in a registry that is told as users do: a host, or an
// address as Docker's old configuration has it.
func registryOf(server string) (reference.Named, error) {
	host := server
	if _, rest, ok := strings.Cut(host, "://"); ok {
		host = rest
	}
	host, _, _ = strings.Cut(host, "/")
	switch host {
	case "", "index.docker.io", "registry-1.docker.io":
		host = "docker.io"
	}
	named, err := reference.WithName(host + "/x")
	if err != nil || reference.Domain(named) != host {
		return nil, classed(errdefs.ErrInvalidArgument, "registry %q is not of the form HOST[:PORT]", server)
	}
	return named, nil
}

// RemoteImage is what a registry has under a name.
type RemoteImage struct {
	Descriptor ocispec.Descriptor
	Platforms  []ocispec.Platform
}

// Inspect looks at an image in its registry and brings nothing of it.
func (s *Store) Inspect(ctx context.Context, ref string, c Credentials) (RemoteImage, error) {
	name, err := parsePull(ref)
	if err != nil {
		return RemoteImage{}, err
	}
	r, err := s.remote(name, c, nil)
	if err != nil {
		return RemoteImage{}, err
	}
	defer r.close()
	out, err := r.inspect(s.context(ctx))
	if err != nil {
		return RemoteImage{}, fmt.Errorf("inspect %s: %w", reference.FamiliarString(name), err)
	}
	return out, nil
}

func (r *remote) inspect(ctx context.Context) (out RemoteImage, err error) {
	desc, err := r.resolve(ctx)
	if err != nil {
		return out, err
	}
	if !isIndex(desc.MediaType) && !isManifest(desc.MediaType) {
		return out, wrongKind(desc, desc.MediaType)
	}
	out.Descriptor = desc
	b, err := r.document(ctx, desc)
	if err != nil {
		return out, err
	}
	doc, _, err := parseDocument(desc, b)
	if err != nil {
		return out, err
	}
	for _, m := range doc.Manifests {
		if m.Platform != nil && m.Annotations["vnd.docker.reference.type"] == "" {
			out.Platforms = append(out.Platforms, *m.Platform)
		}
	}
	if doc.Config == nil {
		return out, nil
	}
	if err := checkDigest(doc.Config.Digest); err != nil {
		return out, err
	}
	if b, err = r.document(ctx, *doc.Config); err != nil {
		return out, err
	}
	config, err := parseConfig(b)
	if err != nil {
		return out, err
	}
	if config.OS != "" {
		out.Platforms = append(out.Platforms, platforms.Normalize(config.Platform))
	}
	return out, nil
}

// Found is an image that a search has found.
type Found struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Stars       int    `json:"star_count"`
	Official    bool   `json:"is_official"`
	Automated   bool   `json:"is_automated"`
}

// Search asks a registry for images: "redis" the Docker Hub, "host/redis"
// another one. Few but the Hub can search.
func (s *Store) Search(ctx context.Context, term string, limit int, c Credentials) ([]Found, error) {
	server, rest, ok := strings.Cut(term, "/")
	if !ok || !strings.ContainsAny(server, ".:") && server != "localhost" {
		server, rest = "docker.io", term
	}
	named, err := registryOf(server)
	if err != nil {
		return nil, err
	}
	r, err := s.remote(named, c, nil)
	if err != nil {
		return nil, err
	}
	defer r.close()
	h, err := r.own()
	if err != nil {
		return nil, err
	}
	if h.Host == "registry-1.docker.io" {
		h.Host = "index.docker.io"
	}
	ctx = s.context(ctx)
	resp, err := r.get(ctx, h, url.URL{Scheme: h.Scheme, Host: h.Host, Path: "/v1/search",
		RawQuery: url.Values{"q": {rest}, "n": {strconv.Itoa(limit)}}.Encode()})
	var status remoteerrors.ErrUnexpectedStatus
	if errors.As(err, &status) && (status.StatusCode == http.StatusNotFound || status.StatusCode == http.StatusMethodNotAllowed) {
		return nil, classed(errdefs.ErrNotImplemented, "the registry %s cannot be searched", r.domain)
	}
	var list struct{ Results []Found }
	if err == nil {
		err = page(resp, &list)
	}
	if err != nil {
		return nil, fmt.Errorf("search: %w", r.explain(ctx, err))
	}
	return list.Results, nil
}
