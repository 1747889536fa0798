package client

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"

	"github.com/moby/moby/api/types"
	"github.com/moby/moby/api/types/common"
	"github.com/moby/moby/api/types/container"
)

// Stream is a raw connection to a container's process. What is read is framed
// for [Demux] unless Raw; what is written is its stdin.
type Stream struct {
	// Raw says that the process has a terminal, and so one stream only.
	Raw  bool
	conn net.Conn
	r    *bufio.Reader
}

func (s *Stream) Read(p []byte) (int, error)  { return s.r.Read(p) }
func (s *Stream) Write(p []byte) (int, error) { return s.conn.Write(p) }

// CloseWrite ends stdin; output goes on.
func (s *Stream) CloseWrite() error {
	if half, ok := s.conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Close leaves the process to itself.
func (s *Stream) Close() error { return s.conn.Close() }

// Copy writes all output to stdout and stderr until the stream ends.
func (s *Stream) Copy(stdout, stderr io.Writer) error {
	if s.Raw {
		_, err := io.Copy(stdout, s.r)
		return err
	}
	return Demux(stdout, stderr, s.r)
}

// rawStream is what Docker calls a connection of a process's own bytes.
const rawStream = "tcp"

// upgrade sends a request that turns its connection into a raw stream. ctx
// covers the hand-shake only: after it, the stream lives until it is closed.
// proto is what is spoken on it.
func (c *Client) upgrade(ctx context.Context, r call, proto string) (*Stream, error) {
	req, err := c.request(ctx, r)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", proto)
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	release := context.AfterFunc(ctx, func() { conn.Close() })
	r2 := bufio.NewReader(conn)
	resp, err := roundTrip(conn, r2, req) //nolint:bodyclose // what follows the answer is the stream
	if err == nil && resp.StatusCode != http.StatusSwitchingProtocols {
		err = c.refusal(resp)
	} else if err != nil {
		err = c.broken(ctx, err)
	}
	if !release() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &Stream{Raw: resp.Header.Get("Content-Type") == types.MediaTypeRawStream, conn: conn, r: r2}, nil
}

func roundTrip(conn net.Conn, r *bufio.Reader, req *http.Request) (*http.Response, error) {
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	return http.ReadResponse(r, req)
}

// AttachOptions choose what an attached stream carries.
type AttachOptions struct {
	Stdin, Stdout, Stderr bool
	Logs                  bool   // first what was said so far
	DetachKeys            string // as "ctrl-p,ctrl-q", which "" also means
}

// Attach joins a container's process.
func (c *Client) Attach(ctx context.Context, ref string, o AttachOptions) (*Stream, error) {
	q := query("stream", "1", "stdin", flag(o.Stdin), "stdout", flag(o.Stdout), "stderr", flag(o.Stderr),
		"logs", flag(o.Logs), "detachKeys", o.DetachKeys)
	return c.upgrade(ctx, call{method: http.MethodPost, path: at("containers", ref, "attach"), query: q}, rawStream)
}

// ResizeContainer tells a container's terminal its size, in cells.
func (c *Client) ResizeContainer(ctx context.Context, ref string, width, height uint16) error {
	return c.containerVerb(ctx, ref, "resize", size(width, height))
}

func size(width, height uint16) url.Values {
	return query("w", strconv.Itoa(int(width)), "h", strconv.Itoa(int(height)))
}

// ExecOptions ask for a further process in a container.
type ExecOptions struct {
	Command               []string
	Env                   []string
	WorkingDir, User      string
	Privileged            bool
	TTY                   bool
	Stdin, Stdout, Stderr bool
	DetachKeys            string
	Width, Height         uint16 // of the terminal; 0: to be told by ResizeExec
}

func (o ExecOptions) console() *[2]uint {
	if !o.TTY || o.Width == 0 || o.Height == 0 {
		return nil
	}
	return &[2]uint{uint(o.Height), uint(o.Width)}
}

// CreateExec prepares a process and gives its id.
func (c *Client) CreateExec(ctx context.Context, ref string, o ExecOptions) (string, error) {
	var out common.IDResponse
	err := c.do(ctx, call{method: http.MethodPost, path: at("containers", ref, "exec"), json: container.ExecCreateRequest{
		User: o.User, Privileged: o.Privileged, Tty: o.TTY, ConsoleSize: o.console(),
		AttachStdin: o.Stdin, AttachStdout: o.Stdout, AttachStderr: o.Stderr,
		DetachKeys: o.DetachKeys, Env: o.Env, WorkingDir: o.WorkingDir, Cmd: o.Command,
	}}, &out)
	return out.ID, err
}

// AttachExec starts a prepared process and joins it. o are the options it was
// created with.
func (c *Client) AttachExec(ctx context.Context, id string, o ExecOptions) (*Stream, error) {
	return c.upgrade(ctx, call{method: http.MethodPost, path: at("exec", id, "start"),
		json: container.ExecStartRequest{Tty: o.TTY, ConsoleSize: o.console()}}, rawStream)
}

// StartExec starts a prepared process and leaves it to itself.
func (c *Client) StartExec(ctx context.Context, id string, o ExecOptions) error {
	return c.do(ctx, call{method: http.MethodPost, path: at("exec", id, "start"),
		json: container.ExecStartRequest{Detach: true, Tty: o.TTY, ConsoleSize: o.console()}}, nil)
}

// ResizeExec tells a process's terminal its size, in cells.
func (c *Client) ResizeExec(ctx context.Context, id string, width, height uint16) error {
	return c.do(ctx, call{method: http.MethodPost, path: at("exec", id, "resize"), query: size(width, height)}, nil)
}

// Exec looks a process up; its ExitCode is nil until it has ended.
func (c *Client) Exec(ctx context.Context, id string) (Exec, error) {
	var out Exec
	err := c.do(ctx, call{method: http.MethodGet, path: at("exec", id, "json")}, &out)
	return out, err
}
