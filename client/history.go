package client

import (
	"context"
	"net/http"

	"gantry/scheduler"
)

// History is what was changed of a project, the newest first.
func (c *Client) History(ctx context.Context, project string) ([]scheduler.Revision, error) {
	if project == "" {
		return nil, noName()
	}
	var out []scheduler.Revision
	err := c.do(ctx, call{method: http.MethodGet, path: at("projects", project, "history")}, &out)
	return out, err
}

type rollbackRequest struct {
	To      int `json:",omitempty"`
	Options scheduler.Options
}

// Rollback goes back to a revision of a project, or with to 0 to the last that
// was another one; with o.Services, for these services alone.
func (c *Client) Rollback(ctx context.Context, project string, to int, o scheduler.Options, report func(scheduler.Event)) error {
	if project == "" {
		return noName()
	}
	// Not repeated: a second one would go back further.
	return c.watch(ctx, call{method: http.MethodPost, path: at("projects", project, "rollback"), json: rollbackRequest{to, o}}, report)
}

// PlanRollback is what Rollback would do now.
func (c *Client) PlanRollback(ctx context.Context, project string, to int, o scheduler.Options) (scheduler.Plan, error) {
	if project == "" {
		return scheduler.Plan{}, noName()
	}
	var out scheduler.Plan
	err := c.do(ctx, call{method: http.MethodPost, path: at("projects", project, "rollback"), query: query("plan", "1"),
		json: rollbackRequest{to, o}, again: true}, &out)
	return out, err
}
