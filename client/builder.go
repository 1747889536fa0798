package client

import (
	"context"
	"maps"
	"net"
	"net/http"
)

// The daemon's builder speaks BuildKit's own protocols, gRPC over HTTP/2, on
// connections that are taken over for it. What is said there, package
// client/build/kit knows.

// Builder connects to the builder's control API.
func (c *Client) Builder(ctx context.Context) (net.Conn, error) {
	return c.upgradeConn(ctx, call{method: http.MethodPost, path: "/grpc"}, "h2c")
}

// BuildSession connects a session, on which the builder asks its caller for
// what builds need. head says which session, and what may be asked for.
func (c *Client) BuildSession(ctx context.Context, proto string, head map[string][]string) (net.Conn, error) {
	return c.upgradeConn(ctx, call{method: http.MethodPost, path: "/session", header: maps.Clone(head)}, proto)
}

func (c *Client) upgradeConn(ctx context.Context, r call, proto string) (net.Conn, error) {
	s, err := c.upgrade(ctx, r, proto)
	if err != nil {
		return nil, err
	}
	return &takenConn{Conn: s.conn, s: s}, nil
}

// takenConn reads what came with the answer first.
type takenConn struct {
	net.Conn
	s *Stream
}

func (t *takenConn) Read(p []byte) (int, error) { return t.s.Read(p) }
