package api

import (
	"context"
	"net/http"

	"gantry/runtime"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// commit makes an image of a container. The body, which may be missing, is a
// configuration laid over the container's.
func (s *server) commit(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	ref := q.Get("container")
	if ref == "" {
		return invalid("no container given to commit")
	}
	o := runtime.CommitOptions{
		Name: q.Get("repo"), Author: q.Get("author"), Comment: q.Get("comment"), Changes: q["changes"],
		Pause: q.Get("pause") == "" || boolean(q, "pause"),
	}
	if tag := q.Get("tag"); tag != "" && o.Name != "" {
		o.Name += ":" + tag
	}
	var wished container.Config
	if err := readOptionalJSON(w, r, &wished); err != nil {
		return err
	}
	o.Config = committed(wished)
	img, err := s.Engine.Commit(ctx, ref, o)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, container.CommitResponse{ID: img.ID.String()})
}

// committed is what of a container's configuration an image has; the rest
// speaks of one container and is passed over, as Docker does.
func committed(c container.Config) dockerspec.DockerOCIImageConfig {
	out := dockerspec.DockerOCIImageConfig{ImageConfig: ocispec.ImageConfig{
		User: c.User, Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd, Volumes: c.Volumes,
		WorkingDir: c.WorkingDir, Labels: c.Labels, StopSignal: c.StopSignal,
	}}
	out.Healthcheck, out.OnBuild, out.Shell = c.Healthcheck, c.OnBuild, c.Shell
	for p := range c.ExposedPorts {
		if out.ExposedPorts == nil {
			out.ExposedPorts = map[string]struct{}{}
		}
		out.ExposedPorts[p.String()] = struct{}{}
	}
	return out
}
