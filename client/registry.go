package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/registry"
)

// ImageProgress is a message of a pull or a push: about a layer, or about all
// if Layer is empty.
type ImageProgress struct {
	Layer          string // beginning of its digest
	Status         string
	Current, Total int64 // bytes; zero where there is nothing to count
}

// PullOptions bend a pull.
type PullOptions struct {
	Platform string // "os/arch[/variant]"; empty: the daemon's
	AllTags  bool
	Tell     func(ImageProgress)
}

// PullImage has the daemon bring an image, with this user's credentials for its
// registry.
func (c *Client) PullImage(ctx context.Context, ref string, o PullOptions) error {
	name, tag, err := splitRef(ref, o.AllTags)
	if err != nil {
		return err
	}
	h, err := credentialsFor(ctx, ref)
	if err != nil {
		return err
	}
	q := query("fromImage", name, "tag", tag, "platform", o.Platform)
	return c.imageProgress(ctx, call{method: http.MethodPost, path: "/images/create", query: q, header: h}, o.Tell)
}

// PushImage has the daemon send an image, with this user's credentials for its
// registry.
func (c *Client) PushImage(ctx context.Context, ref string, allTags bool, tell func(ImageProgress)) error {
	name, tag, err := splitRef(ref, allTags)
	if err != nil {
		return err
	}
	if strings.Contains(tag, ":") {
		return invalid("image name %q: a digest follows from what is pushed; name a tag", ref)
	}
	h, err := credentialsFor(ctx, ref)
	if err != nil {
		return err
	}
	return c.imageProgress(ctx, call{method: http.MethodPost, path: at("images", name, "push"), query: query("tag", tag), header: h}, tell)
}

// credentialsFor are this user's for the registry of an image, as a header.
func credentialsFor(ctx context.Context, ref string) (http.Header, error) {
	server, err := serverOf(ref)
	if err != nil {
		return nil, err
	}
	logins, err := LoadLogins()
	if err != nil {
		return nil, err
	}
	a, err := logins.For(ctx, server)
	if err != nil {
		return nil, err
	}
	if a == (registry.AuthConfig{ServerAddress: server}) {
		return nil, nil
	}
	text, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	return http.Header{registry.AuthHeader: {base64.URLEncoding.EncodeToString(text)}}, nil
}

var layerID = regexp.MustCompile(`^[0-9a-f]{12}$`)

func (c *Client) imageProgress(ctx context.Context, r call, tell func(ImageProgress)) error {
	return stream(ctx, c, r, func(m jsonstream.Message) error {
		if m.Error != nil {
			status := m.Error.Code
			if status == 0 {
				status = http.StatusInternalServerError
			}
			return newError(status, "", m.Error.Message)
		}
		if m.Status == "" || tell == nil || m.ID != "" && !layerID.MatchString(m.ID) {
			return nil // Docker marks what is about the whole with the tag
		}
		p := ImageProgress{Layer: m.ID, Status: m.Status}
		if m.Progress != nil {
			p.Current, p.Total = m.Progress.Current, m.Progress.Total
		}
		tell(p)
		return nil
	})
}

// Login checks credentials with the daemon's help and keeps them. where is
// where they are now.
func (c *Client) Login(ctx context.Context, server, username, password string) (where string, err error) {
	a := registry.AuthConfig{Username: username, Password: password, ServerAddress: Server(server)}
	var answer registry.AuthResponse
	if err := c.do(ctx, call{method: http.MethodPost, path: "/auth", json: a}, &answer); err != nil {
		return "", err
	}
	a.IdentityToken = answer.IdentityToken
	logins, err := LoadLogins()
	if err != nil {
		return "", err
	}
	if where, err = logins.Keep(ctx, a); err != nil {
		return "", fmt.Errorf("keep the login for %s: %w", a.ServerAddress, err)
	}
	return where, nil
}

// SearchImages asks a registry for images: "redis" the Docker Hub, "host/redis"
// another one.
func (c *Client) SearchImages(ctx context.Context, term string, limit int, f Filters) ([]ImageFound, error) {
	q := query("term", term, "limit", strconv.Itoa(limit))
	f.into(q)
	var out []ImageFound
	err := c.do(ctx, call{method: http.MethodGet, path: "/images/search", query: q}, &out)
	return out, err
}

// splitRef parts a reference as the daemon wants it. A tag that is not said is
// "latest", unless all are meant; then none may be said.
func splitRef(ref string, all bool) (name, tag string, err error) {
	if scheme, rest, ok := strings.Cut(ref, "://"); ok {
		return "", "", invalid("image name %q: leave out the %s://, as in %s", ref, scheme, rest)
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "", "", invalid("image name %q: %v", ref, err)
	}
	if all {
		if !reference.IsNameOnly(named) {
			return "", "", invalid("image name %q: all tags are meant, and one is named", ref)
		}
		return reference.FamiliarName(named), "", nil
	}
	if d, ok := named.(reference.Digested); ok {
		return reference.FamiliarName(named), d.Digest().String(), nil
	}
	return reference.FamiliarName(named), reference.TagNameOnly(named).(reference.Tagged).Tag(), nil
}
