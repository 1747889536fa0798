package client

import (
	"context"
	"io"
	"net/http"
	"net/url"

	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/volume"
)

// Images lists images; intermediate ones only if all is set.
func (c *Client) Images(ctx context.Context, all bool, f Filters) ([]Image, error) {
	q := query("all", flag(all))
	f.into(q)
	var out []Image
	err := c.do(ctx, call{method: http.MethodGet, path: "/images/json", query: q}, &out)
	return out, err
}

// Image looks one up by name, digest or id.
func (c *Client) Image(ctx context.Context, ref string) (ImageDetails, error) {
	var out ImageDetails
	err := c.do(ctx, call{method: http.MethodGet, path: at("images", ref, "json")}, &out)
	return out, err
}

// TagImage gives an image one more name.
func (c *Client) TagImage(ctx context.Context, ref, repository, tag string) error {
	return c.do(ctx, call{method: http.MethodPost, path: at("images", ref, "tag"), query: query("repo", repository, "tag", tag)}, nil)
}

// RemoveImage takes a name away and, with the last one, the image.
func (c *Client) RemoveImage(ctx context.Context, ref string, force bool) ([]ImageRemoved, error) {
	var out []ImageRemoved
	err := c.do(ctx, call{method: http.MethodDelete, path: at("images", ref), query: query("force", flag(force))}, &out)
	return out, err
}

// LoadImages reads an archive of images, as docker save or an OCI layout
// writes them, and tells progress line by line.
func (c *Client) LoadImages(ctx context.Context, archive io.Reader, tell func(string)) error {
	return c.messages(ctx, call{method: http.MethodPost, path: "/images/load", body: archive, kind: "application/x-tar"}, tell)
}

// ImportImage makes an image of a root file system's archive. changes are
// Dockerfile lines (CMD, ENTRYPOINT, ENV, …). The last line told is the
// image's id.
func (c *Client) ImportImage(ctx context.Context, archive io.Reader, repository, tag, message string, changes []string, tell func(string)) error {
	q := query("fromSrc", "-", "repo", repository, "tag", tag, "message", message)
	if len(changes) > 0 {
		q["changes"] = changes
	}
	return c.messages(ctx, call{method: http.MethodPost, path: "/images/create", query: q, body: archive, kind: "application/x-tar"}, tell)
}

// messages reads Docker's progress stream, where an error may come as the
// last message of an answer that began as a success.
func (c *Client) messages(ctx context.Context, r call, tell func(string)) error {
	return stream(ctx, c, r, func(m jsonstream.Message) error {
		switch {
		case m.Error != nil:
			status := m.Error.Code
			if status == 0 {
				status = http.StatusInternalServerError
			}
			return newError(status, "", m.Error.Message)
		case m.Stream != "":
			tell(m.Stream)
		case m.Status != "":
			tell(m.Status)
		}
		return nil
	})
}

// Networks lists networks.
func (c *Client) Networks(ctx context.Context, f Filters) ([]Network, error) {
	q := url.Values{}
	f.into(q)
	var out []Network
	err := c.do(ctx, call{method: http.MethodGet, path: "/networks", query: q}, &out)
	return out, err
}

// Network looks one up by name or id.
func (c *Client) Network(ctx context.Context, ref string) (NetworkDetails, error) {
	var out NetworkDetails
	err := c.do(ctx, call{method: http.MethodGet, path: at("networks", ref)}, &out)
	return out, err
}

// CreateNetwork makes a network and gives its id.
func (c *Client) CreateNetwork(ctx context.Context, s NetworkSpec) (string, error) {
	var out network.CreateResponse
	err := c.do(ctx, call{method: http.MethodPost, path: "/networks/create", json: s}, &out)
	return out.ID, err
}

// RemoveNetwork removes a network nobody is on.
func (c *Client) RemoveNetwork(ctx context.Context, ref string) error {
	return c.do(ctx, call{method: http.MethodDelete, path: at("networks", ref)}, nil)
}

// Volumes lists volumes.
func (c *Client) Volumes(ctx context.Context, f Filters) ([]Volume, error) {
	q := url.Values{}
	f.into(q)
	var out volume.ListResponse
	err := c.do(ctx, call{method: http.MethodGet, path: "/volumes", query: q}, &out)
	return out.Volumes, err
}

// Volume looks one up by name.
func (c *Client) Volume(ctx context.Context, name string) (Volume, error) {
	var out Volume
	err := c.do(ctx, call{method: http.MethodGet, path: at("volumes", name)}, &out)
	return out, err
}

// CreateVolume makes a volume, or finds the one of that name.
func (c *Client) CreateVolume(ctx context.Context, s VolumeSpec) (Volume, error) {
	var out Volume
	err := c.do(ctx, call{method: http.MethodPost, path: "/volumes/create", json: s}, &out)
	return out, err
}

// RemoveVolume removes a volume no container uses.
func (c *Client) RemoveVolume(ctx context.Context, name string, force bool) error {
	return c.do(ctx, call{method: http.MethodDelete, path: at("volumes", name), query: query("force", flag(force))}, nil)
}

// EventsOptions choose events. The zero value: all from now on.
type EventsOptions struct {
	Since, Until string // as Docker's: Unix seconds with a fraction
	Filters      Filters
}

// Events calls each for every event until ctx is done, until is reached or
// each returns an error.
func (c *Client) Events(ctx context.Context, o EventsOptions, each func(Event) error) error {
	q := query("since", o.Since, "until", o.Until)
	o.Filters.into(q)
	return stream(ctx, c, call{method: http.MethodGet, path: "/events", query: q}, each)
}

// Info describes the machine and what the daemon holds.
func (c *Client) Info(ctx context.Context) (Info, error) {
	var out Info
	err := c.do(ctx, call{method: http.MethodGet, path: "/info"}, &out)
	return out, err
}

// Version describes the daemon's program.
func (c *Client) Version(ctx context.Context) (Version, error) {
	var out Version
	err := c.do(ctx, call{method: http.MethodGet, path: "/version"}, &out)
	return out, err
}

// Ping asks the daemon whether it answers.
func (c *Client) Ping(ctx context.Context) error {
	return c.do(ctx, call{method: http.MethodGet, path: "/_ping"}, nil)
}
