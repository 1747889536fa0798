package api

import (
	"context"
	"net/http"

	"gantry/scheduler"
)

// projectHistory tells what was changed of a project, the newest first.
func (s *server) projectHistory(_ context.Context, w http.ResponseWriter, r *http.Request) error {
	p, err := s.projects()
	if err != nil {
		return err
	}
	all, err := p.History(r.PathValue("name"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, all)
}

// rollbackRequest is the body of a call that goes back.
type rollbackRequest struct {
	To      int `json:",omitempty"` // a revision's number; 0: the last that was another one
	Options scheduler.Options
}

// projectRollback goes back to a revision or, with plan=1, tells what that
// would do.
func (s *server) projectRollback(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	p, err := s.projects()
	if err != nil {
		return err
	}
	var req rollbackRequest
	if err := readBody(w, r, maxBody, &req); err != nil {
		return err
	}
	if req.To < 0 {
		return invalid("revision %d: revisions are counted from 1", req.To)
	}
	if !boolean(r.URL.Query(), "plan") {
		return s.watchProject(ctx, w, func(ctx context.Context, report func(scheduler.Event)) error {
			return p.Rollback(ctx, r.PathValue("name"), req.To, req.Options, report)
		})
	}
	plan, err := p.PlanRollback(ctx, r.PathValue("name"), req.To, req.Options)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, plan)
}
