package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"gantry/client"
	"gantry/compose"
	"gantry/scheduler"

	"github.com/containerd/errdefs"
)

// stackName derives the name of the project the flags mean. It reads of the
// compose files no more than it must: most commands ask the daemon what there
// is, and the labels on it say what belongs together.
func (a *app) stackName(ctx context.Context) (string, error) {
	return compose.ProjectName(ctx, a.source())
}

// load reads the project. bend may change where from.
func (a *app) load(ctx context.Context, bend func(*compose.Source)) (*compose.Project, error) {
	src := a.source()
	if bend != nil {
		bend(&src)
	}
	return compose.Load(ctx, src)
}

// stack is what a command about existing containers works on.
type stack struct {
	name       string
	client     *client.Client
	containers []replica // sorted by service and number
}

// replica is a container of a project, with what its labels say.
type replica struct {
	client.Container
	labels  scheduler.Container
	name    string // without the slash before it
	service string
}

// short is the name before lines of its log: without the project's.
func (r replica) short(project string) string {
	return strings.TrimPrefix(r.name, project+"-")
}

func (r replica) live() bool {
	switch scheduler.Status(r.State) {
	case scheduler.Running, scheduler.Paused, scheduler.Restarting:
		return true
	}
	return false
}

func asReplica(c client.Container) replica {
	r := replica{Container: c, labels: scheduler.FromLabels(c.Labels)}
	r.service = r.labels.Service
	if len(c.Names) > 0 {
		r.name = strings.TrimPrefix(c.Names[0], "/")
	}
	return r
}

// stackOptions say which containers of a project a command is about.
type stackOptions struct {
	services []string
	all      bool // stopped ones too
	oneOff   bool // those of `run` too
	looks    bool // and only looks at them
}

// stack finds the project's containers. A service that is asked for must be
// known: by a container of it or by the compose file. Where there is nothing
// at all, and nobody named a project, the compose file must exist, so that a
// command in the wrong directory says so.
func (a *app) stack(ctx context.Context, o stackOptions) (*stack, error) {
	name, err := a.stackName(ctx)
	if err != nil {
		return nil, err
	}
	c, err := a.daemon(ctx)
	if err != nil {
		return nil, err
	}
	s := &stack{name: name, client: c}
	list, err := projectContainers(ctx, c, name)
	if err != nil {
		return nil, err
	}
	if err := a.mind(ctx, c, name, list, o.looks); err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, r := range list {
		known[r.service] = true
		if (!o.all && !r.live()) || (!o.oneOff && r.labels.OneOff) || (len(o.services) > 0 && !slices.Contains(o.services, r.service)) {
			continue
		}
		s.containers = append(s.containers, r)
	}
	if len(list) == 0 && !a.named() || slices.ContainsFunc(o.services, func(n string) bool { return !known[n] }) {
		if err := a.mustKnow(ctx, name, o.services, known); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// mind refuses to touch a project of the same name that is another
// directory's. Who only looks is told whose it is.
func (a *app) mind(ctx context.Context, c *client.Client, project string, list []replica, looks bool) error {
	if a.meant() || len(list) == 0 {
		return nil
	}
	dir, err := compose.Place(a.source())
	if err != nil {
		return err
	}
	if slices.ContainsFunc(list, func(r replica) bool { return !r.labels.OneOff && (r.labels.Dir == "" || r.labels.Dir == dir) }) {
		return nil
	}
	return a.clash(ctx, c, project, dir, looks)
}

// stackHere is the project of this directory by name, for who has not looked
// what there is of it, and the daemon. looks is as in mind.
func (a *app) stackHere(ctx context.Context, looks bool) (string, *client.Client, error) {
	name, err := a.stackName(ctx)
	if err != nil {
		return "", nil, err
	}
	c, err := a.daemon(ctx)
	if err != nil {
		return "", nil, err
	}
	dir, err := compose.Place(a.source())
	if err != nil {
		return "", nil, err
	}
	return name, c, a.clash(ctx, c, name, dir, looks)
}

// clash asks whether a directory is another project's of the same name.
func (a *app) clash(ctx context.Context, c *client.Client, project, dir string, looks bool) error {
	if a.meant() {
		return nil
	}
	err := c.Clash(ctx, project, dir)
	if looks && errdefs.IsFailedPrecondition(err) {
		a.note(err.Error())
		return nil
	}
	return err
}

// meant reports whether the user has named the project in this call, so that
// it is meant wherever it is. A .env file does not count: it lies in every
// checkout.
func (a *app) meant() bool {
	return a.projectName != "" || slices.ContainsFunc(a.environ, func(kv string) bool {
		v, ok := strings.CutPrefix(kv, "COMPOSE_PROJECT_NAME=")
		return ok && v != ""
	})
}

// named reports whether the user has said which project is meant.
func (a *app) named() bool { return a.projectName != "" || a.env("COMPOSE_PROJECT_NAME") != "" }

// mustKnow refuses services that neither the machine nor the compose file has.
func (a *app) mustKnow(ctx context.Context, project string, services []string, known map[string]bool) error {
	p, err := a.load(ctx, func(s *compose.Source) { s.NoContent, s.NoEnvResolution, s.Warn = true, true, nil })
	if err != nil && (len(services) == 0 || !errdefs.IsNotFound(err)) {
		return err
	}
	for _, name := range services {
		if known[name] {
			continue
		}
		if p == nil {
			return fmt.Errorf("no service %q in project %s", name, project)
		}
		if _, err := p.GetService(name); err != nil {
			if _, disabled := p.DisabledServices[name]; !disabled {
				return fmt.Errorf("no service %q in project %s; it has %s", name, project, strings.Join(p.ServiceNames(), ", "))
			}
		}
	}
	return nil
}

// projectContainers lists all containers of a project.
func projectContainers(ctx context.Context, c *client.Client, name string) ([]replica, error) {
	list, err := c.Containers(ctx, client.ListOptions{All: true,
		Filters: client.Filters{}.Add("label", scheduler.LabelProject+"="+name)})
	if err != nil {
		return nil, err
	}
	out := make([]replica, 0, len(list))
	for _, ct := range list {
		out = append(out, asReplica(ct))
	}
	slices.SortFunc(out, func(a, b replica) int {
		return cmp.Or(cmp.Compare(a.service, b.service), cmp.Compare(a.labels.Number, b.labels.Number), cmp.Compare(a.name, b.name))
	})
	return out, nil
}

// replicaOf picks one running container of a service: the one with the number
// asked for, else the first.
func (a *app) replicaOf(ctx context.Context, service string, index int) (*stack, replica, error) {
	s, err := a.stack(ctx, stackOptions{services: []string{service}})
	if err != nil {
		return nil, replica{}, err
	}
	for _, r := range s.containers {
		if index == 0 || r.labels.Number == index {
			return s, r, nil
		}
	}
	if index > 0 {
		return nil, replica{}, fmt.Errorf("service %s has no running container with number %d", service, index)
	}
	return nil, replica{}, fmt.Errorf("service %s is not running; start it with `gantry up -d %s`", service, service)
}

// waves orders containers so that each comes after those its service depends
// on, as the labels say. reverse: dependents first.
func waves(list []replica, reverse bool) [][]replica {
	depth := map[string]int{}
	deps := map[string][]string{}
	for _, r := range list {
		deps[r.service] = r.labels.DependsOn
	}
	var visit func(string) int
	visit = func(service string) int {
		if d, ok := depth[service]; ok {
			return d
		}
		depth[service] = 0 // a circle in labels somebody wrote ends here
		d := 0
		for _, dep := range deps[service] {
			if _, ok := deps[dep]; ok {
				d = max(d, visit(dep)+1)
			}
		}
		depth[service] = d
		return d
	}
	var out [][]replica
	for _, r := range list {
		d := visit(r.service)
		for len(out) <= d {
			out = append(out, nil)
		}
		out[d] = append(out[d], r)
	}
	if reverse {
		slices.Reverse(out)
	}
	return out
}

// each does one thing to many containers, side by side within a wave, and
// shows how it goes. A failure does not keep the others of its wave, but ends
// the command before the next.
func (a *app) each(ctx context.Context, work [][]replica, verb string, do func(context.Context, replica) error) error {
	if a.dryRun {
		for _, wave := range work {
			for _, r := range wave {
				fmt.Fprintf(a.out, "%s %s\n", verb, r.name)
			}
		}
		return nil
	}
	show := a.newProgress(verb)
	defer show.close()
	plan := scheduler.Plan{}
	show.event(scheduler.Event{Plan: &plan})
	for _, wave := range work {
		if err := a.eachOf(ctx, show, wave, verb, do); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) eachOf(ctx context.Context, show progress, wave []replica, verb string, do func(context.Context, replica) error) error {
	limit := len(wave)
	if a.parallel > 0 {
		limit = min(limit, a.parallel)
	}
	slots := make(chan struct{}, max(limit, 1))
	errs := make([]error, len(wave))
	var turn sync.Mutex
	var work sync.WaitGroup
	for i, r := range wave {
		work.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			event := scheduler.Event{What: scheduler.What{Verb: verb, Kind: "container", Name: r.name, Service: r.service}, Progress: scheduler.StepStarted}
			tell := func() {
				turn.Lock()
				defer turn.Unlock()
				show.event(event)
			}
			tell()
			event.Progress = scheduler.StepDone
			if err := do(ctx, r); err != nil {
				errs[i] = fmt.Errorf("%s %s: %w", verb, r.name, err)
				event.Progress, event.Err = scheduler.StepFailed, err
			}
			tell()
		})
	}
	work.Wait()
	return errors.Join(errs...)
}
