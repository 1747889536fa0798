package api

import (
	"context"
	"net/http"

	"gantry/compose"

	"github.com/containerd/errdefs"
)

// Ports finds places for the ports of copies of projects.
type Ports interface {
	// Place says where each block begins, by its first port.
	Place(ctx context.Context, project string, blocks []compose.PortBlock) (map[int]int, error)
}

// projectPorts says where ports of a project would go. It holds none of them.
func (s *server) projectPorts(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	if s.Ports == nil {
		return errdefs.ErrUnavailable.WithMessage("projects are not available: the daemon is still starting")
	}
	var asked struct{ Blocks []compose.PortBlock }
	if err := readBody(w, r, maxBody, &asked); err != nil {
		return err
	}
	for _, b := range asked.Blocks {
		if b.First < 1 || b.Count < 1 || b.First+b.Count > 1<<16 {
			return invalid("no %d ports begin with %d", b.Count, b.First)
		}
	}
	to, err := s.Ports.Place(ctx, r.PathValue("name"), asked.Blocks)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, map[string]any{"Places": to})
}

// projectPlace refuses if the directory in the query is that of another
// project of the same name.
func (s *server) projectPlace(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	p, err := s.projects()
	if err != nil {
		return err
	}
	if err := p.Clash(ctx, r.PathValue("name"), r.URL.Query().Get("dir")); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, struct{}{})
}
