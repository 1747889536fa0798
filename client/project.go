package client

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"

	"gantry/scheduler"

	"github.com/containerd/errdefs"
)

// projectLine is a line of the answer to a call that changes a project: an
// event, or as the last the result.
type projectLine struct {
	Event  *scheduler.Event
	Result *struct {
		Status         int
		Class, Message string
	}
}

// watch sends a call that changes a project and hands its events on, one at a
// time, until it has ended.
//
// Cancelling ctx cancels the call in the daemon too: nothing new is begun, and
// what is under way is brought to its end there; watch does not wait for that.
func (c *Client) watch(ctx context.Context, r call, report func(scheduler.Event)) error {
	var result error
	ended := errors.New("ended")
	err := stream(ctx, c, r, func(l projectLine) error {
		if l.Event != nil && report != nil {
			report(*l.Event)
		}
		if l.Result == nil {
			return nil
		}
		if l.Result.Status >= 400 {
			result = newError(l.Result.Status, l.Result.Class, l.Result.Message)
		}
		return ended
	})
	switch {
	case errors.Is(err, ended):
		return result
	case err == nil:
		return c.broken(ctx, errors.New("it closed the connection before the call had ended"))
	}
	return err
}

func noName() error { return errdefs.ErrInvalidArgument.WithMessage("a project needs a name") }

// Apply makes a goal the project's and follows the way there. The events are
// those of [scheduler.Scheduler.Apply].
func (c *Client) Apply(ctx context.Context, g scheduler.Goal, report func(scheduler.Event)) error {
	if g.Project == nil || g.Project.Name == "" {
		return noName()
	}
	return c.watch(ctx, call{method: http.MethodPut, path: at("projects", g.Project.Name), json: g, again: true}, report)
}

// Plan is what Apply of the goal would do now. Nothing changes.
func (c *Client) Plan(ctx context.Context, g scheduler.Goal) (scheduler.Plan, error) {
	if g.Project == nil || g.Project.Name == "" {
		return scheduler.Plan{}, noName()
	}
	var out scheduler.Plan
	err := c.do(ctx, call{method: http.MethodPost, path: at("projects", g.Project.Name, "plan"), json: g, again: true}, &out)
	return out, err
}

// Down takes a project down, all of it or o.Services. Of the options it heeds
// Services, Volumes, RemoveImages, RemoveOrphans, Named, Dir, Timeout and
// Parallel.
func (c *Client) Down(ctx context.Context, project string, o scheduler.Options, report func(scheduler.Event)) error {
	if project == "" {
		return noName()
	}
	q := query("volumes", flag(o.Volumes), "rmi", o.RemoveImages, "removeOrphans", flag(o.RemoveOrphans), "named", flag(o.Named), "dir", o.Dir)
	if o.Timeout != nil {
		q.Set("timeout", strconv.Itoa(int(math.Ceil(o.Timeout.Seconds()))))
	}
	if o.Parallel > 0 {
		q.Set("parallel", strconv.Itoa(o.Parallel))
	}
	if len(o.Services) > 0 {
		q["service"] = o.Services
	}
	return c.watch(ctx, call{method: http.MethodDelete, path: at("projects", project), query: q, again: true}, report)
}

// projectRequest is the body of the calls that bend a goal that is stored.
type projectRequest struct {
	Replicas map[string]int `json:",omitempty"`
	Options  scheduler.Options
}

func (c *Client) change(ctx context.Context, project, verb string, r projectRequest, report func(scheduler.Event)) error {
	if project == "" {
		return noName()
	}
	return c.watch(ctx, call{method: http.MethodPost, path: at("projects", project, verb), json: r, again: true}, report)
}

// Scale changes how many replicas services of a project have.
func (c *Client) Scale(ctx context.Context, project string, replicas map[string]int, o scheduler.Options, report func(scheduler.Event)) error {
	return c.change(ctx, project, "scale", projectRequest{Replicas: replicas, Options: o}, report)
}

// Start starts services of a project that were stopped; all if none is named.
func (c *Client) Start(ctx context.Context, project string, o scheduler.Options, report func(scheduler.Event)) error {
	return c.change(ctx, project, "start", projectRequest{Options: o}, report)
}

// Stop stops services of a project; all if none is named.
func (c *Client) Stop(ctx context.Context, project string, o scheduler.Options, report func(scheduler.Event)) error {
	return c.change(ctx, project, "stop", projectRequest{Options: o}, report)
}

// Projects lists all projects, sorted by name.
func (c *Client) Projects(ctx context.Context) ([]scheduler.ProjectStatus, error) {
	var out []scheduler.ProjectStatus
	err := c.do(ctx, call{method: http.MethodGet, path: "/projects"}, &out)
	return out, err
}

// Project looks at one project.
func (c *Client) Project(ctx context.Context, name string) (scheduler.ProjectStatus, error) {
	if name == "" {
		return scheduler.ProjectStatus{}, noName()
	}
	var out scheduler.ProjectStatus
	err := c.do(ctx, call{method: http.MethodGet, path: at("projects", name)}, &out)
	return out, err
}

// Goal is the stored goal of a project; with secrets, the contents of secrets
// and configs and the values of environments are in it.
func (c *Client) Goal(ctx context.Context, project string, secrets bool) (scheduler.Goal, error) {
	if project == "" {
		return scheduler.Goal{}, noName()
	}
	q := url.Values{}
	if secrets {
		q.Set("secrets", "1")
	}
	var out scheduler.Goal
	if err := c.do(ctx, call{method: http.MethodGet, path: at("projects", project, "goal"), query: q}, &out); err != nil {
		return out, fmt.Errorf("goal of project %s: %w", project, err)
	}
	return out, nil
}
