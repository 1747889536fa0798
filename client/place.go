package client

import (
	"context"
	"net/http"

	"gantry/compose"
)

// PlacePorts asks where the blocks of ports of a copy go on the daemon's
// machine: by their first port. None is held for the caller.
func (c *Client) PlacePorts(ctx context.Context, project string, blocks []compose.PortBlock) (map[int]int, error) {
	if project == "" {
		return nil, noName()
	}
	var out struct{ Places map[int]int }
	err := c.do(ctx, call{method: http.MethodPost, path: at("projects", project, "ports"),
		json: map[string]any{"Blocks": blocks}, again: true}, &out)
	return out.Places, err
}

// Clash is the refusal that a call from a directory would get which does not
// name the project, nil if it would get none.
func (c *Client) Clash(ctx context.Context, project, dir string) error {
	if project == "" {
		return noName()
	}
	return c.do(ctx, call{method: http.MethodGet, path: at("projects", project, "place"), query: query("dir", dir)}, nil)
}
