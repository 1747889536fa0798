package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/containerd/errdefs"
)

// gap is an endpoint of Docker's that gantry does not have: it says so by
// name, rather than that there is no such page.
type gap struct {
	pattern, text string
	class         error // nil: not implemented
}

func (g gap) refuse(context.Context, http.ResponseWriter, *http.Request) error {
	if g.class != nil {
		return fmt.Errorf("%s: %w", g.text, g.class)
	}
	return unsupported("%s", g.text)
}

func never(what string, patterns ...string) (out []gap) {
	for _, p := range patterns {
		out = append(out, gap{pattern: p, text: fmt.Sprintf("%s (%s)", what, p)})
	}
	return out
}

// outsideSwarm answers as Docker does on a machine that is in no swarm; clients
// ask, and take this for "there is none".
func outsideSwarm(patterns ...string) (out []gap) {
	for _, p := range patterns {
		out = append(out, gap{p, `This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again. (gantry runs on one machine, without Swarm)`, errdefs.ErrUnavailable})
	}
	return out
}

// missing are the endpoints that are refused by name.
func missing() (all []gap) {
	for _, some := range [][]gap{
		{{"PUT /volumes/{name}", "volume update only valid for cluster volumes, but swarm is unavailable", errdefs.ErrUnavailable}},
		never("Swarm is not supported: gantry runs on one machine", "POST /swarm/init", "POST /swarm/join"),
		{{"POST /swarm/leave", "This node is not part of a swarm", errdefs.ErrUnavailable}},
		outsideSwarm("GET /swarm", "GET /swarm/unlockkey", "POST /swarm/unlock", "POST /swarm/update",
			"GET /nodes", "GET /nodes/{id}", "DELETE /nodes/{id}", "POST /nodes/{id}/update",
			"GET /services", "POST /services/create", "GET /services/{id}", "DELETE /services/{id}", "POST /services/{id}/update", "GET /services/{id}/logs",
			"GET /tasks", "GET /tasks/{id}", "GET /tasks/{id}/logs",
			"GET /secrets", "POST /secrets/create", "GET /secrets/{id}", "DELETE /secrets/{id}", "POST /secrets/{id}/update",
			"GET /configs", "POST /configs/create", "GET /configs/{id}", "DELETE /configs/{id}", "POST /configs/{id}/update"),
		never("plugins are not supported", "GET /plugins/privileges", "POST /plugins/pull", "POST /plugins/create"),
	} {
		all = append(all, some...)
	}
	return all
}

// noPlugin answers for every plugin there might be.
func (s *server) noPlugin(_ context.Context, _ http.ResponseWriter, r *http.Request) error {
	name, verb := lastElement(r.PathValue("path"))
	if verb == "" || r.Method == http.MethodDelete {
		name = r.PathValue("path")
	}
	return notFoundf("plugin %q not found: plugins are not supported", name)
}

func notFound() error { return errdefs.ErrNotFound.WithMessage("page not found") }

func notFoundf(format string, args ...any) error {
	return errdefs.ErrNotFound.WithMessage(fmt.Sprintf(format, args...))
}

func forbidden(format string, args ...any) error {
	return errdefs.ErrPermissionDenied.WithMessage(strings.TrimSpace(fmt.Sprintf(format, args...)))
}
