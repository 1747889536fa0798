package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// ListOptions choose containers. The zero value: all that run.
type ListOptions struct {
	All     bool
	Limit   int // newest; 0: all
	Filters Filters
}

// Containers lists containers, the newest first.
func (c *Client) Containers(ctx context.Context, o ListOptions) ([]Container, error) {
	q := query("all", flag(o.All))
	if o.Limit > 0 {
		q.Set("limit", strconv.Itoa(o.Limit))
	}
	o.Filters.into(q)
	var out []Container
	err := c.do(ctx, call{method: http.MethodGet, path: "/containers/json", query: q}, &out)
	return out, err
}

// Container looks one up by name, id or an unambiguous beginning of its id.
func (c *Client) Container(ctx context.Context, ref string) (ContainerDetails, error) {
	var out ContainerDetails
	err := c.do(ctx, call{method: http.MethodGet, path: at("containers", ref, "json")}, &out)
	return out, err
}

// CreateContainer makes a container without starting it. An empty name is
// chosen by the daemon. Parts of a Docker configuration that gantry does not
// support are refused by name.
func (c *Client) CreateContainer(ctx context.Context, name string, cfg ContainerConfig, host HostConfig, net NetworkingConfig) (id string, warnings []string, err error) {
	var out container.CreateResponse
	err = c.do(ctx, call{
		method: http.MethodPost, path: "/containers/create", query: query("name", name),
		json: container.CreateRequest{Config: &cfg, HostConfig: &host, NetworkingConfig: &net},
	}, &out)
	return out.ID, out.Warnings, err
}

func (c *Client) containerVerb(ctx context.Context, ref, verb string, q url.Values) error {
	return c.do(ctx, call{method: http.MethodPost, path: at("containers", ref, verb), query: q}, nil)
}

// StartContainer starts a container; one that runs is left alone.
func (c *Client) StartContainer(ctx context.Context, ref string) error {
	return c.containerVerb(ctx, ref, "start", nil)
}

// StopOptions bend a stop. The zero value is the container's own way.
type StopOptions struct {
	Signal  string
	Timeout *time.Duration // until SIGKILL, in whole seconds, rounded up; negative: never
}

func (o StopOptions) query() url.Values {
	q := query("signal", o.Signal)
	if o.Timeout != nil {
		s := -1
		if *o.Timeout >= 0 {
			s = int(math.Ceil(o.Timeout.Seconds()))
		}
		q.Set("t", strconv.Itoa(s))
	}
	return q
}

// StopContainer stops a container and waits until it has; one that does not
// run is left alone.
func (c *Client) StopContainer(ctx context.Context, ref string, o StopOptions) error {
	return c.containerVerb(ctx, ref, "stop", o.query())
}

// RestartContainer stops a container, if it runs, and starts it.
func (c *Client) RestartContainer(ctx context.Context, ref string, o StopOptions) error {
	return c.containerVerb(ctx, ref, "restart", o.query())
}

// KillContainer sends a signal, SIGKILL when it is empty, to process 1.
func (c *Client) KillContainer(ctx context.Context, ref, signal string) error {
	return c.containerVerb(ctx, ref, "kill", query("signal", signal))
}

// PauseContainer freezes a container.
func (c *Client) PauseContainer(ctx context.Context, ref string) error {
	return c.containerVerb(ctx, ref, "pause", nil)
}

// UnpauseContainer thaws a container.
func (c *Client) UnpauseContainer(ctx context.Context, ref string) error {
	return c.containerVerb(ctx, ref, "unpause", nil)
}

// RenameContainer gives a container another name.
func (c *Client) RenameContainer(ctx context.Context, ref, name string) error {
	return c.containerVerb(ctx, ref, "rename", query("name", name))
}

// RemoveOptions bend a removal.
type RemoveOptions struct {
	Force   bool // kill a running container first
	Volumes bool // its anonymous volumes too
}

// RemoveContainer removes a container.
func (c *Client) RemoveContainer(ctx context.Context, ref string, o RemoveOptions) error {
	return c.do(ctx, call{method: http.MethodDelete, path: at("containers", ref), query: query("force", flag(o.Force), "v", flag(o.Volumes))}, nil)
}

// Conditions to wait for.
const (
	NotRunning = string(container.WaitConditionNotRunning) // at once, if it does not run
	NextExit   = string(container.WaitConditionNextExit)   // of a run to come, too
	Removed    = string(container.WaitConditionRemoved)
)

// WaitContainer begins to wait for a condition. When it returns the daemon
// watches, so that a start after it cannot be missed; the function it gives
// back blocks until the condition holds and returns the exit code. It must be
// called, once; cancelling ctx ends it.
func (c *Client) WaitContainer(ctx context.Context, ref, condition string) (func() (int, error), error) {
	//nolint:bodyclose // the function given back closes it
	resp, err := c.open(ctx, call{method: http.MethodPost, path: at("containers", ref, "wait"), query: query("condition", condition)})
	if err != nil {
		return nil, err
	}
	return func() (int, error) {
		defer resp.Body.Close()
		var out container.WaitResponse
		if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
			return 0, c.broken(ctx, err)
		}
		if out.Error != nil {
			return int(out.StatusCode), newError(http.StatusInternalServerError, "", out.Error.Message)
		}
		return int(out.StatusCode), nil
	}, nil
}

// LogsOptions choose lines of a container's log.
type LogsOptions struct {
	Stdout, Stderr bool
	Follow         bool   // until the container ends
	Tail           string // "all" (also ""), or a number of lines
	Timestamps     bool   // before each line, RFC 3339 with nanoseconds
	Since, Until   time.Time
}

// Logs streams a container's log, framed unless its process has a terminal:
// see [Demux]. The caller closes it.
func (c *Client) Logs(ctx context.Context, ref string, o LogsOptions) (io.ReadCloser, error) {
	q := query("stdout", flag(o.Stdout), "stderr", flag(o.Stderr), "follow", flag(o.Follow),
		"tail", o.Tail, "timestamps", flag(o.Timestamps), "since", stamp(o.Since), "until", stamp(o.Until))
	resp, err := c.open(ctx, call{method: http.MethodGet, path: at("containers", ref, "logs"), query: q})
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// stamp writes a time as Docker's API reads it.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return strconv.FormatInt(t.Unix(), 10) + "." + strconv.Itoa(1_000_000_000 + t.Nanosecond())[1:]
}

// Demux parts a framed stream into the two it holds. It ends with the stream.
func Demux(stdout, stderr io.Writer, framed io.Reader) error {
	_, err := stdcopy.StdCopy(stdout, stderr, framed)
	return err
}

// Stats gives samples of a container's use of resources: one if follow is
// false, else one a second until ctx is done, the container is removed or
// each returns an error.
func (c *Client) Stats(ctx context.Context, ref string, follow bool, each func(Stats) error) error {
	q := query("stream", "false", "one-shot", "true")
	if follow {
		q = query("stream", "true")
	}
	return stream(ctx, c, call{method: http.MethodGet, path: at("containers", ref, "stats"), query: q}, each)
}

// Top lists the processes of a container as ps does with the given arguments
// ("" for "-ef").
func (c *Client) Top(ctx context.Context, ref, psArgs string) (Top, error) {
	var out Top
	err := c.do(ctx, call{method: http.MethodGet, path: at("containers", ref, "top"), query: query("ps_args", psArgs)}, &out)
	return out, err
}

// ConnectNetwork puts a container on a network.
func (c *Client) ConnectNetwork(ctx context.Context, ref, container string, e *EndpointSettings) error {
	return c.do(ctx, call{method: http.MethodPost, path: at("networks", ref, "connect"),
		json: network.ConnectRequest{Container: container, EndpointConfig: e}}, nil)
}

// DisconnectNetwork takes a container off a network.
func (c *Client) DisconnectNetwork(ctx context.Context, ref, container string, force bool) error {
	return c.do(ctx, call{method: http.MethodPost, path: at("networks", ref, "disconnect"),
		json: network.DisconnectRequest{Container: container, Force: force}}, nil)
}

// stream decodes the values of an answer one after the other.
func stream[T any](ctx context.Context, c *Client, r call, each func(T) error) error {
	resp, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var stopped error
	err = lines(resp.Body, func(v T) error {
		stopped = each(v)
		return stopped
	})
	if err != nil && !errors.Is(err, stopped) {
		return c.broken(ctx, err)
	}
	return err
}
