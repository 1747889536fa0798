package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"gantry/compose"
	"gantry/scheduler"

	"github.com/containerd/errdefs"
)

// Projects is what the calls below /projects are answered from;
// *scheduler.Scheduler is one.
type Projects interface {
	Apply(ctx context.Context, g scheduler.Goal, report func(scheduler.Event)) error
	Scale(ctx context.Context, project string, replicas map[string]int, o scheduler.Options, report func(scheduler.Event)) error
	Start(ctx context.Context, project string, o scheduler.Options, report func(scheduler.Event)) error
	Stop(ctx context.Context, project string, o scheduler.Options, report func(scheduler.Event)) error
	Down(ctx context.Context, project string, o scheduler.Options, report func(scheduler.Event)) error
	Plan(ctx context.Context, g scheduler.Goal) (scheduler.Plan, error)
	Rollback(ctx context.Context, project string, to int, o scheduler.Options, report func(scheduler.Event)) error
	PlanRollback(ctx context.Context, project string, to int, o scheduler.Options) (scheduler.Plan, error)
	History(project string) ([]scheduler.Revision, error)
	Clash(ctx context.Context, project, dir string) error
	Goal(project string) (scheduler.Goal, error)
	Status(ctx context.Context, project string) (scheduler.ProjectStatus, error)
	Projects(ctx context.Context) ([]scheduler.ProjectStatus, error)
}

// projectLine is a line of the answer to a call that changes a project: an
// event, or as the last the result. An answer that ends without a result was
// cut off.
type projectLine struct {
	Event  *scheduler.Event `json:"event,omitempty"`
	Result *projectResult   `json:"result,omitempty"`
}

// projectResult is how a call has ended: 200, or an error's status, class and
// text.
type projectResult struct {
	Status  int    `json:"status"`
	Class   string `json:"class,omitempty"`
	Message string `json:"message,omitempty"`
}

func (s *server) projects() (Projects, error) {
	if s.Projects == nil {
		return nil, errdefs.ErrUnavailable.WithMessage("projects are not available: the daemon is still starting")
	}
	return s.Projects, nil
}

// maxPending bounds the events a client may fall behind by. Whoever reads none
// of so many is gone.
const maxPending = 1 << 16

// watchProject runs a call that changes a project and answers with its events.
//
// The client's leaving cancels the call: nothing new is begun, what is under
// way is brought to its end, and nothing is tried again behind its back. That
// is what the first Ctrl-C of `gantry up` means. The daemon's own end is not
// the client's wish: the call is left to the scheduler, which breaks it off
// when it closes and takes it up again when it is opened.
//
// The scheduler does not begin a step while it reports one, so events are
// queued here: a slow reader holds up itself alone.
func (s *server) watchProject(request context.Context, w http.ResponseWriter, run func(context.Context, func(scheduler.Event)) error) error {
	ctx, cancel := context.WithCancel(context.WithoutCancel(request))
	var mu sync.Mutex
	var pending []scheduler.Event
	wake := make(chan struct{}, 1)
	ended := make(chan error, 1)
	go func() {
		defer func() {
			// A panic here would take the daemon with it: wrap only guards the
			// handler's own goroutine.
			if p := recover(); p != nil {
				s.Log.Error("scheduler panicked", "panic", p)
				ended <- errors.New("the daemon made a mistake; its log says more")
			}
		}()
		ended <- run(ctx, func(e scheduler.Event) {
			mu.Lock()
			pending = append(pending, e)
			behind := len(pending)
			mu.Unlock()
			if behind > maxPending {
				cancel()
			}
			select {
			case wake <- struct{}{}:
			default:
			}
		})
	}()
	out := beginLines(w, "application/x-ndjson")
	finish := func(err error) error {
		result := projectResult{Status: http.StatusOK}
		if err != nil {
			result.Status, result.Class = classOf(err)
			result.Message = message(err)
		}
		return out.send(projectLine{Result: &result})
	}
	send := func() error {
		mu.Lock()
		batch := pending
		pending = nil
		mu.Unlock()
		for i := range batch {
			if err := batch[i].Err; err != nil {
				batch[i].Err = errors.New(message(err)) // on the wire it is a text alone
			}
			if err := out.send(projectLine{Event: &batch[i]}); err != nil {
				return err
			}
		}
		return nil
	}
	for {
		select {
		case <-wake:
			if err := send(); err != nil {
				cancel()
				<-ended
				return err
			}
		case err := <-ended:
			cancel()
			if err := send(); err != nil {
				return err
			}
			return finish(err)
		case <-request.Done():
			if closing(request) {
				// The goroutine above ends with the scheduler.
				return finish(errdefs.ErrUnavailable.WithMessage("the daemon is stopping; what was begun goes on when it is started again"))
			}
			cancel()
			<-ended
			return context.Cause(request)
		}
	}
}

// closing tells the daemon's end from the client's leaving. The server cancels
// a request without a cause when its connection is gone; the daemon, whose
// context all requests stand on, gives one.
func closing(request context.Context) bool {
	return !errors.Is(context.Cause(request), context.Canceled)
}

// readGoal reads a goal and checks that it is the one of the path's project,
// and that all it says can be honoured: not every client has asked before.
func readGoal(w http.ResponseWriter, r *http.Request) (scheduler.Goal, error) {
	var g scheduler.Goal
	if err := readBody(w, r, maxGoal, &g); err != nil {
		return g, err
	}
	if name := r.PathValue("name"); g.Project == nil || g.Project.Name != name {
		return g, invalid("the goal is not one of project %s", name)
	}
	asked := *g.Project
	asked.ComposeFiles = nil // its files, in which it would say where, are the client's
	return g, errors.Join(compose.Unsupported(&asked)...)
}

// readBody decodes gantry's own requests; client and daemon are of one make,
// so unlike with Docker's, unknown fields are a mistake of versions.
func readBody(w http.ResponseWriter, r *http.Request, limit int64, v any) error {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return invalid("the request's body is larger than %d bytes", limit)
	case err != nil:
		return err
	case len(text) == 0:
		return invalid("the request has no body; it wants JSON")
	}
	if err := json.Unmarshal(text, v); err != nil {
		if errdefs.IsInvalidArgument(err) {
			return err
		}
		return invalid("the request's body: %v", err)
	}
	return nil
}

func (s *server) projectApply(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	p, err := s.projects()
	if err != nil {
		return err
	}
	g, err := readGoal(w, r)
	if err != nil {
		return err
	}
	return s.watchProject(ctx, w, func(ctx context.Context, report func(scheduler.Event)) error {
		return p.Apply(ctx, g, report)
	})
}

func (s *server) projectPlan(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	p, err := s.projects()
	if err != nil {
		return err
	}
	g, err := readGoal(w, r)
	if err != nil {
		return err
	}
	plan, err := p.Plan(ctx, g)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, plan)
}

// projectRequest is the body of the calls that bend a goal that is stored.
type projectRequest struct {
	Replicas map[string]int `json:",omitempty"`
	Options  scheduler.Options
}

// changeProject is scale, start and stop: they differ in one call.
func (s *server) changeProject(ctx context.Context, w http.ResponseWriter, r *http.Request,
	change func(context.Context, Projects, projectRequest, func(scheduler.Event)) error,
) error {
	p, err := s.projects()
	if err != nil {
		return err
	}
	var req projectRequest
	if err := readBody(w, r, maxBody, &req); err != nil {
		return err
	}
	return s.watchProject(ctx, w, func(ctx context.Context, report func(scheduler.Event)) error {
		return change(ctx, p, req, report)
	})
}

func (s *server) projectScale(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	return s.changeProject(ctx, w, r, func(ctx context.Context, p Projects, req projectRequest, report func(scheduler.Event)) error {
		return p.Scale(ctx, r.PathValue("name"), req.Replicas, req.Options, report)
	})
}

func (s *server) projectStart(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	return s.changeProject(ctx, w, r, func(ctx context.Context, p Projects, req projectRequest, report func(scheduler.Event)) error {
		return p.Start(ctx, r.PathValue("name"), req.Options, report)
	})
}

func (s *server) projectStop(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	return s.changeProject(ctx, w, r, func(ctx context.Context, p Projects, req projectRequest, report func(scheduler.Event)) error {
		return p.Stop(ctx, r.PathValue("name"), req.Options, report)
	})
}

// downOptions reads the query of a DELETE.
func downOptions(q url.Values) (scheduler.Options, error) {
	o := scheduler.Options{
		Services: q["service"], Volumes: boolean(q, "volumes"), RemoveOrphans: boolean(q, "removeOrphans"),
		RemoveImages: q.Get("rmi"), Named: boolean(q, "named"), Dir: q.Get("dir"),
	}
	if !slices.Contains([]string{scheduler.RemoveNoImages, scheduler.RemoveLocalImages, scheduler.RemoveAllImages}, o.RemoveImages) {
		return o, invalid("rmi: %q is neither local nor all", o.RemoveImages)
	}
	if text := q.Get("timeout"); text != "" {
		seconds, err := strconv.Atoi(text)
		if err != nil {
			return o, invalid("timeout: %q is not a number of seconds", text)
		}
		timeout := time.Duration(seconds) * time.Second
		o.Timeout = &timeout
	}
	if text := q.Get("parallel"); text != "" {
		var err error
		if o.Parallel, err = strconv.Atoi(text); err != nil {
			return o, invalid("parallel: %q is not a number", text)
		}
	}
	return o, nil
}

func (s *server) projectDown(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	p, err := s.projects()
	if err != nil {
		return err
	}
	o, err := downOptions(r.URL.Query())
	if err != nil {
		return err
	}
	return s.watchProject(ctx, w, func(ctx context.Context, report func(scheduler.Event)) error {
		return p.Down(ctx, r.PathValue("name"), o, report)
	})
}

func (s *server) projectList(ctx context.Context, w http.ResponseWriter, _ *http.Request) error {
	p, err := s.projects()
	if err != nil {
		return err
	}
	all, err := p.Projects(ctx)
	if err != nil {
		return err
	}
	if all == nil {
		all = []scheduler.ProjectStatus{}
	}
	return writeJSON(w, http.StatusOK, all)
}

func (s *server) projectInspect(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	p, err := s.projects()
	if err != nil {
		return err
	}
	status, err := p.Status(ctx, r.PathValue("name"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, status)
}

// projectGoal shows the stored goal; the contents of secrets and configs and
// the values of environments only if asked for.
func (s *server) projectGoal(_ context.Context, w http.ResponseWriter, r *http.Request) error {
	p, err := s.projects()
	if err != nil {
		return err
	}
	g, err := p.Goal(r.PathValue("name"))
	if err != nil {
		return err
	}
	if !boolean(r.URL.Query(), "secrets") {
		g = redacted(g)
	}
	return writeJSON(w, http.StatusOK, g)
}

// hidden stands for a value that is not shown.
const hidden = "(hidden)"

// redacted is a goal without what is nobody else's business. The goal it is
// given stays as it was.
func redacted(g scheduler.Goal) scheduler.Goal {
	p := *g.Project
	p.Services = compose.Services{}
	for name, service := range g.Project.Services {
		env := service.Environment
		service.Environment = nil
		for key, value := range env {
			if service.Environment == nil {
				service.Environment = map[string]*string{}
			}
			if value != nil {
				shown := hidden
				value = &shown
			}
			service.Environment[key] = value
		}
		p.Services[name] = service
	}
	p.Secrets, p.Configs = compose.Secrets{}, compose.Configs{}
	for name, secret := range g.Project.Secrets {
		if secret.Content != "" {
			secret.Content = hidden
		}
		p.Secrets[name] = secret
	}
	for name, config := range g.Project.Configs {
		if config.Content != "" {
			config.Content = hidden
		}
		p.Configs[name] = config
	}
	g.Project = &p
	return g
}
