package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"gantry/runtime"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	dockernet "github.com/moby/moby/api/types/network"
)

func (s *server) containerList(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	f, err := readFilters(q, "id", "name", "label", "label!", "status", "network", "volume", "ancestor", "health", "exited",
		"before", "since", "publish", "expose", "is-task", "isolation")
	if err != nil {
		return err
	}
	limit := 0
	if text := q.Get("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil {
			return invalid("limit: %q is not a number", text)
		}
	}
	all, err := s.chosen(ctx, f, boolean(q, "all") || limit > 0)
	if err != nil {
		return err
	}
	if limit > 0 && len(all) > limit {
		all = all[:limit]
	}
	out := make([]container.Summary, len(all))
	for i, c := range all {
		out[i] = wireSummary(c, time.Now())
	}
	if boolean(q, "size") {
		if out, err = s.withSizes(ctx, out); err != nil {
			return err
		}
	}
	return writeJSON(w, http.StatusOK, out)
}

// chosen lists the containers that pass the filters, the newest first.
func (s *server) chosen(ctx context.Context, f filters, stopped bool) ([]runtime.Container, error) {
	for _, v := range f["status"] {
		if err := container.ValidateContainerState(container.ContainerState(v)); err != nil {
			return nil, invalid("invalid filter 'status=%s': %v", v, err)
		}
	}
	for _, v := range f["health"] {
		if err := container.ValidateHealthStatus(container.HealthStatus(v)); err != nil {
			return nil, invalid("unrecognised filter value for health: %s: %v", v, err)
		}
	}
	for _, key := range []string{"publish", "expose"} {
		for _, v := range f[key] {
			if _, err := dockernet.ParsePortRange(v); err != nil {
				return nil, invalid("error while looking up for %s %s: %v", key, v, err)
			}
		}
	}
	for _, v := range f["exited"] {
		if _, err := strconv.Atoi(v); err != nil {
			return nil, invalid("invalid filter 'exited=%s': not an exit code", v)
		}
	}
	// No container is a task of a swarm.
	if task, set, err := f.boolean("is-task"); err != nil || set && task {
		return nil, err
	}
	var older, newer time.Time
	for key, into := range map[string]*time.Time{"before": &older, "since": &newer} {
		for _, ref := range f[key] {
			c, err := s.Engine.Inspect(ref)
			if err != nil {
				return nil, err
			}
			*into = c.Created
		}
	}
	images, err := s.ancestors(ctx, f["ancestor"])
	if err != nil {
		return nil, err
	}
	networks := map[string]bool{}
	for _, v := range f["network"] {
		networks[v] = true
		if n, err := s.Engine.Network(v); err == nil {
			networks[n.ID], networks[n.Name] = true, true
		}
	}
	stopped = stopped || len(f["status"]) > 0
	all := s.Engine.List()
	out := make([]runtime.Container, 0, len(all))
	for _, c := range all {
		switch {
		case !stopped && !c.State.Live() && c.State != runtime.Restarting:
		case !older.IsZero() && !c.Created.Before(older):
		case !newer.IsZero() && !c.Created.After(newer):
		case len(f["ancestor"]) > 0 && !images[c.Config.ImageID] && !slices.Contains(f["ancestor"], c.Config.Image):
		case len(networks) > 0 && !onNetwork(c, networks):
		case !f.container(c):
		default:
			out = append(out, c)
		}
	}
	return out, nil
}

// ancestors are the ids of the images that the values name, and of those made
// from them as far as that can be told by their layers.
func (s *server) ancestors(ctx context.Context, refs []string) (map[string]bool, error) {
	ids := map[string]bool{}
	if len(refs) == 0 {
		return ids, nil
	}
	all, err := s.Engine.ListImages(ctx)
	if err != nil {
		return nil, err
	}
	for _, ref := range refs {
		base, err := s.Engine.Image(ctx, ref)
		if errdefs.IsNotFound(err) {
			continue // matches nothing, as in Docker
		} else if err != nil {
			return nil, err
		}
		for _, img := range all {
			if img.ID == base.ID || len(base.Layers) > 0 && len(img.Layers) >= len(base.Layers) && slices.Equal(img.Layers[:len(base.Layers)], base.Layers) {
				ids[img.ID.String()] = true
			}
		}
	}
	return ids, nil
}

func onNetwork(c runtime.Container, wanted map[string]bool) bool {
	for _, n := range networkNames(c) {
		if wanted[n] {
			return true
		}
	}
	return slices.ContainsFunc(c.Networks, func(j joined) bool { return wanted[j.NetworkID] || wanted[j.NetworkName] })
}

func (s *server) containerCreate(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	var req createRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	cfg, err := req.config()
	if err != nil {
		return err
	}
	if err := s.checkPlatform(ctx, cfg.Image, q.Get("platform")); err != nil {
		return err
	}
	if err := s.checkLinks(cfg); err != nil {
		return err
	}
	cfg, warnings := cfg.Discard(s.Engine.Host())
	c, err := s.Engine.Create(ctx, strings.TrimPrefix(q.Get("name"), "/"), cfg)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, container.CreateResponse{ID: c.ID, Warnings: orNone(append(req.warnings(), warnings...))})
}

func (s *server) containerInspect(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	c, err := s.Engine.Inspect(r.PathValue("id"))
	if err != nil {
		return err
	}
	out := wireInspect(c)
	if boolean(r.URL.Query(), "size") {
		size, err := s.Engine.Size(ctx, c.ID)
		if err != nil {
			return err
		}
		out.SizeRw, out.SizeRootFs = &size.Own, &size.Root
	}
	if before(ctx, 52) {
		if before(ctx, 45) {
			oldAliases(c, out)
		}
		return writeJSON(w, http.StatusOK, wireOldInspect(out))
	}
	return writeJSON(w, http.StatusOK, out)
}

// Starting what runs and stopping what does not is errdefs.ErrNotModified of
// the engine's, and so a 304: clients take it for success.

func (s *server) containerStart(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	for _, name := range []string{"checkpoint", "checkpoint-dir"} {
		if r.URL.Query().Get(name) != "" {
			return unsupported("starting from a %s is not supported", name)
		}
	}
	// Docker took a configuration here until API 1.24.
	if r.ContentLength > 0 {
		return invalid("starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24")
	}
	if err := s.Engine.Start(ctx, r.PathValue("id")); err != nil {
		return err
	}
	return noContent(w)
}

// stopOptions reads the signal and the timeout, in seconds, of a query.
func stopOptions(q url.Values) (runtime.StopOptions, error) {
	o := runtime.StopOptions{Signal: q.Get("signal")}
	if text := q.Get("t"); text != "" {
		seconds, err := strconv.Atoi(text)
		if err != nil {
			return o, invalid("t: %q is not a number of seconds", text)
		}
		timeout := time.Duration(seconds) * time.Second
		o.Timeout = &timeout
	}
	return o, nil
}

func (s *server) containerStop(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	o, err := stopOptions(r.URL.Query())
	if err != nil {
		return err
	}
	if err := s.Engine.Stop(ctx, r.PathValue("id"), o); err != nil {
		return err
	}
	return noContent(w)
}

func (s *server) containerRestart(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	o, err := stopOptions(r.URL.Query())
	if err != nil {
		return err
	}
	if err := s.Engine.Restart(ctx, r.PathValue("id"), o); err != nil {
		return err
	}
	return noContent(w)
}

func (s *server) containerKill(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	signal := r.URL.Query().Get("signal")
	if signal == "" {
		signal = "SIGKILL"
	}
	ref := r.PathValue("id")
	if err := s.Engine.Kill(ctx, ref, signal); errdefs.IsInvalidArgument(err) {
		return err
	} else if err != nil {
		return fmt.Errorf("cannot kill container: %s: %w", ref, err)
	}
	return noContent(w)
}

func (s *server) containerPause(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	if err := s.Engine.Pause(ctx, r.PathValue("id")); err != nil {
		return err
	}
	return noContent(w)
}

func (s *server) containerUnpause(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	if err := s.Engine.Unpause(ctx, r.PathValue("id")); err != nil {
		return err
	}
	return noContent(w)
}

func (s *server) containerRename(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	name := strings.TrimPrefix(r.URL.Query().Get("name"), "/")
	if name == "" {
		return invalid("Neither old nor new names may be empty")
	}
	if err := s.Engine.Rename(ctx, r.PathValue("id"), name); err != nil {
		return err
	}
	return noContent(w)
}

func (s *server) containerRemove(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	if boolean(q, "link") {
		return unsupported("removing a link is not supported")
	}
	err := s.Engine.Remove(ctx, r.PathValue("id"), runtime.RemoveOptions{Force: boolean(q, "force"), Volumes: boolean(q, "v")})
	if err != nil {
		return err
	}
	return noContent(w)
}

// containerWait sends its header as soon as the daemon watches: a client
// starts the container only then, and must not miss a short life.
func (s *server) containerWait(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	ref, condition := r.PathValue("id"), r.URL.Query().Get("condition")
	switch condition {
	case "":
		condition = runtime.NotRunning
	case runtime.NotRunning, runtime.NextExit, runtime.Removed:
	default:
		return invalid("invalid condition: %q: it is %s, %s or %s", condition, runtime.NotRunning, runtime.NextExit, runtime.Removed)
	}
	c, err := s.Engine.Inspect(ref)
	if err != nil {
		return err
	}
	var out *jsonLines
	waited, err := s.Engine.Wait(ctx, c.ID, condition, func() { out = beginLines(w, "application/json") })
	if out == nil && err == nil {
		out = beginLines(w, "application/json")
	}
	if err != nil {
		return err
	}
	answer := container.WaitResponse{StatusCode: int64(waited.ExitCode)}
	if waited.Error != "" {
		answer.Error = &container.WaitExitError{Message: waited.Error}
	}
	if before(ctx, 42) {
		return out.send(oldWaitResponse{StatusCode: answer.StatusCode, Error: answer.Error})
	}
	return out.send(answer)
}

// oldWaitResponse is what clients before API 1.42 read: there is always a word
// about an error.
type oldWaitResponse struct {
	Error      *container.WaitExitError
	StatusCode int64
}
