package scheduler

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"gantry/compose"

	"github.com/containerd/errdefs"
)

// sim is a machine in memory: an Engine with a clock of its own that moves
// with every change, so that two runs of the same calls give the same world.
type sim struct {
	mu    sync.Mutex
	clock time.Time
	seq   int

	containers map[string]*Container // by id
	networks   map[string]*Network   // by id
	volumes    map[string]*Volume    // by name
	images     map[string]string     // reference → id; an id stands for itself
	removals   map[string][]Removal  // by project

	// behave is what the containers of a service do once started: "" runs,
	// "exit N" ends at once, "unhealthy" runs and never gets better,
	// "starting" and "check" have a health check.
	behave map[string]string
	// impossible are services of which no container can be made, and why.
	impossible map[string]error
	// fault is asked before every part of every action; what it returns is
	// the outcome instead.
	fault func(part, object string) error
	// pace is slept, outside the lock, in every action.
	pace func(ctx context.Context, part, object string) error

	// now, if set, is the time there is; else the clock moves by itself.
	now func() time.Time

	inside         string // the call under way, of those that hold mu
	inFlight, most int
	log            []string // parts done, in order
	events         chan string
	broken         []string // laws broken by calls

	laws map[lawKey]law // see of
}

// lawKey is a service of a project, which nobody writes to.
type lawKey struct {
	project *compose.Project
	service string
}

// law is what a service is held to.
type law struct {
	parts           string   // LabelParts of its containers
	ports           []string // of the host, that they have
	dependsOn       compose.DependsOn
	job, autoscaled bool
}

// of is what laws compare a service with, worked out once: a small stack does
// for whoever asks again.
func (w *sim) of(p *compose.Project, service string) law {
	key := lawKey{p, service}
	l, ok := w.laws[key]
	if !ok {
		l = newLaw(p, service)
		if w.laws == nil {
			w.laws = map[lawKey]law{}
		}
		w.laws[key] = l
	}
	return l
}

//go:noinline
func newLaw(p *compose.Project, service string) law {
	s := p.Services[service]
	s.Name = service
	return law{partsLabel(p, s), hostPorts(&s), s.DependsOn, scheduleOf(s) != "", autoscaled(s) != nil}
}

func newSim() *sim {
	return &sim{clock: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), containers: map[string]*Container{}, networks: map[string]*Network{},
		volumes: map[string]*Volume{}, images: map[string]string{}, removals: map[string][]Removal{}, behave: map[string]string{}, events: make(chan string, 128)}
}

func (w *sim) image(ref, id string) {
	w.images[ref], w.images[id] = id, id
}

// tick moves the clock; nothing happens at the same time as something else.
func (w *sim) tick() {
	w.clock = w.clock.Add(time.Microsecond)
	if w.now == nil {
		w.clock = w.clock.Add(time.Millisecond)
	} else if now := w.now(); now.After(w.clock) {
		w.clock = now
	}
}

// part is one thing that happens or does not: the grain at which calls fail
// and processes die. The caller holds mu.
func (w *sim) part(part, object string) error {
	w.tick()
	if w.fault != nil {
		if err := w.fault(part, object); err != nil {
			return err
		}
	}
	w.log = append(w.log, part+" "+object)
	return nil
}

// done is what has happened, without the first so many parts.
func (w *sim) done(from int) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log[from:]
}

// enter begins a call and returns what ends it.
func (w *sim) enter(ctx context.Context, part, object string) (func(), error) {
	w.mu.Lock()
	w.inFlight++
	w.most = max(w.most, w.inFlight)
	w.mu.Unlock()
	var err error
	if w.pace != nil {
		err = w.pace(ctx, part, object)
	}
	w.mu.Lock()
	if err == nil {
		err = ctx.Err()
	}
	w.inside = part + " " + object
	return func() { w.inFlight--; w.mu.Unlock() }, err
}

func (w *sim) lawBroken(format string, args ...any) {
	w.broken = append(w.broken, fmt.Sprintf(format, args...))
}

func (w *sim) Observe(ctx context.Context, l Look) (State, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return State{}, err
	}
	if w.fault != nil {
		if err := w.fault("observe", l.Project); err != nil {
			return State{}, err
		}
	}
	w.tick()
	s := State{Now: w.clock, Images: map[string]string{}, Removals: slices.Clone(w.removals[l.Project]), Containers: make([]Container, 0, len(w.containers))}
	for _, id := range sortedKeys(w.containers) {
		if c := *w.containers[id]; c.Project == l.Project {
			s.Containers = append(s.Containers, c)
		}
	}
	for _, id := range sortedKeys(w.networks) {
		if n := *w.networks[id]; n.Project == l.Project || slices.Contains(l.Networks, n.Name) {
			s.Networks = append(s.Networks, n)
		}
	}
	for _, name := range sortedKeys(w.volumes) {
		if v := *w.volumes[name]; v.Project == l.Project || slices.Contains(l.Volumes, name) {
			s.Volumes = append(s.Volumes, v)
		}
	}
	for _, ref := range l.Images {
		if id, ok := w.images[ref]; ok {
			s.Images[ref] = id
		}
	}
	return s, nil
}

func (w *sim) Projects(context.Context) ([]string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	set := map[string]bool{}
	for _, c := range w.containers {
		set[c.Project] = true
	}
	return sortedKeys(set), nil
}

func (w *sim) Check(_ context.Context, s RunSpec) error { return w.impossible[s.Service.Name] }

func (w *sim) Forget(project string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.removals, project)
}

// byCall removes a container as somebody else's call does.
func (w *sim) byCall(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.named(name)
	w.clock = w.clock.Add(time.Millisecond)
	delete(w.containers, c.ID)
	w.removals[c.Project] = append(w.removals[c.Project], Removal{Service: c.Service, Number: c.Number, At: w.clock})
	w.happened(c.Project)
}

func (w *sim) Watch(ctx context.Context) <-chan string {
	out := make(chan string)
	go func() {
		defer close(out)
		for {
			select {
			case <-ctx.Done():
				return
			case name := <-w.events:
				select {
				case out <- name:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out
}

func (w *sim) happened(project string) {
	select {
	case w.events <- project:
	default:
	}
}

func (w *sim) Pull(ctx context.Context, ref, id, _ string) error {
	leave, err := w.enter(ctx, "pull", ref)
	defer leave()
	if err == nil {
		err = w.part("pull", ref)
	}
	if err != nil {
		return err
	}
	if id == "" {
		id = "sha256:pulled-" + ref
	}
	w.image(ref, id)
	return nil
}

func (w *sim) RemoveImage(ctx context.Context, ref string) error {
	leave, err := w.enter(ctx, "remove image", ref)
	defer leave()
	if err == nil {
		err = w.part("remove image", ref)
	}
	if err != nil {
		return err
	}
	for _, c := range w.containers {
		if c.Image == ref {
			return fmt.Errorf("image %s is in use by %s: %w", ref, c.Name, errdefs.ErrFailedPrecondition)
		}
	}
	delete(w.images, ref)
	return nil
}

func (w *sim) CreateNetwork(ctx context.Context, s NetworkSpec) error {
	leave, err := w.enter(ctx, "create network", s.Name)
	defer leave()
	for _, n := range w.networks {
		if n.Name == s.Name {
			w.lawBroken("network %s made twice", s.Name)
		}
	}
	if err == nil {
		err = w.part("create network", s.Name)
	}
	if err != nil {
		return err
	}
	w.seq++
	id := fmt.Sprintf("net%04d", w.seq)
	w.networks[id] = &Network{ID: id, Name: s.Name, Project: s.Labels[LabelProject], Key: s.Labels[LabelNetwork], Hash: s.Labels[LabelHash]}
	return nil
}

func (w *sim) RemoveNetwork(ctx context.Context, id string) error {
	leave, err := w.enter(ctx, "remove network", id)
	defer leave()
	n := w.networks[id]
	if n == nil {
		return fmt.Errorf("network %s: %w", id, errdefs.ErrNotFound)
	}
	for _, c := range w.containers {
		if slices.Contains(c.Networks, n.Name) && c.present() {
			return fmt.Errorf("network %s is in use by %s: %w", n.Name, c.Name, errdefs.ErrFailedPrecondition)
		}
	}
	if len(n.Others) > 0 {
		return fmt.Errorf("network %s is in use by %s: %w", n.Name, n.Others[0], errdefs.ErrFailedPrecondition)
	}
	if err == nil {
		err = w.part("remove network", n.Name)
	}
	if err != nil {
		return err
	}
	delete(w.networks, id)
	return nil
}

func (w *sim) CreateVolume(ctx context.Context, s VolumeSpec) error {
	leave, err := w.enter(ctx, "create volume", s.Name)
	defer leave()
	if err == nil {
		err = w.part("create volume", s.Name)
	}
	if err != nil {
		return err
	}
	if w.volumes[s.Name] != nil {
		w.lawBroken("volume %s made twice", s.Name)
	}
	w.volumes[s.Name] = &Volume{Name: s.Name, Project: s.Labels[LabelProject], Key: s.Labels[LabelVolume], Hash: s.Labels[LabelHash], Dir: s.Labels[LabelWorkingDir]}
	return nil
}

func (w *sim) RemoveVolume(ctx context.Context, name string) error {
	leave, err := w.enter(ctx, "remove volume", name)
	defer leave()
	for _, c := range w.containers {
		if slices.Contains(c.Volumes, name) {
			return fmt.Errorf("volume %s is in use by %s: %w", name, c.Name, errdefs.ErrFailedPrecondition)
		}
	}
	if v := w.volumes[name]; v != nil && len(v.Others) > 0 {
		return fmt.Errorf("volume %s is in use by %s: %w", name, v.Others[0], errdefs.ErrFailedPrecondition)
	}
	if err == nil {
		err = w.part("remove volume", name)
	}
	if err != nil {
		return err
	}
	delete(w.volumes, name)
	return nil
}

func (w *sim) Run(ctx context.Context, s RunSpec) error {
	leave, err := w.enter(ctx, "run", s.Name)
	defer leave()
	if err != nil {
		return err
	}
	c, err := w.create(s)
	if err != nil || s.NoStart {
		return err
	}
	return w.start(c)
}

func (w *sim) create(s RunSpec) (*Container, error) {
	c := FromLabels(s.Labels)
	c.Name, c.Image, c.ImageID, c.Status = s.Name, s.Image, s.ImageID, Created
	for _, other := range w.containers {
		if other.Name == s.Name {
			return nil, fmt.Errorf("name %s is taken by %s: %w", s.Name, other.ID, errdefs.ErrAlreadyExists)
		}
	}
	if c.ImageID == "" {
		c.ImageID = w.images[s.Image]
	}
	if w.images[c.ImageID] == "" {
		return nil, fmt.Errorf("image %s (%s): %w", s.Image, c.ImageID, errdefs.ErrNotFound)
	}
	for _, key := range s.Networks {
		name := NetworkName(s.Project, key)
		if w.networkNamed(name) == nil {
			return nil, fmt.Errorf("network %s: %w", name, errdefs.ErrNotFound)
		}
		c.Networks = append(c.Networks, name)
	}
	if s.ImageID != "" && s.Labels[LabelImage] != s.ImageID {
		w.lawBroken("%s is made of %s and labelled %q", s.Name, s.ImageID, s.Labels[LabelImage])
	}
	c.Ports = hostPorts(s.Service)
	for _, key := range volumeKeys(s.Service) {
		name := VolumeName(s.Project, key)
		if w.volumes[name] == nil {
			return nil, fmt.Errorf("volume %s: %w", name, errdefs.ErrNotFound)
		}
		c.Volumes = append(c.Volumes, name)
	}
	for _, service := range sortedKeys(s.Joins) {
		target := w.named(s.Joins[service])
		if target == nil {
			return nil, fmt.Errorf("container %s: %w", s.Joins[service], errdefs.ErrNotFound)
		}
		c.Joins = append(c.Joins, target.ID)
	}
	if err := w.part("create", s.Name); err != nil {
		return nil, err
	}
	w.seq++
	c.ID, c.Created = fmt.Sprintf("c%04d", w.seq), w.clock
	w.containers[c.ID] = &c
	w.happened(c.Project)
	return &c, nil
}

func (w *sim) networkNamed(name string) *Network {
	for _, n := range w.networks {
		if n.Name == name {
			return n
		}
	}
	return nil
}

func (w *sim) named(name string) *Container {
	for _, c := range w.containers {
		if c.Name == name {
			return c
		}
	}
	return nil
}

func (w *sim) start(c *Container) error {
	if c.present() {
		return nil
	}
	if err := w.portsFree(c, c.Ports); err != nil {
		return err
	}
	if err := w.part("start", c.Name); err != nil {
		return err
	}
	c.Status, c.StartedAt, c.Stopped, c.Lost, c.Health = Running, w.clock, false, false, HealthNone
	var code int
	switch b := w.behave[c.Service]; {
	case b == "check":
		c.Health = Healthy
	case b == "starting":
		c.Health = Starting
	case b == "unhealthy":
		c.Health = Unhealthy
	case strings.HasPrefix(b, "exit"):
		fmt.Sscanf(b, "exit %d", &code)
		w.tick()
		w.exit(c, code)
	}
	w.happened(c.Project)
	return nil
}

func (w *sim) exit(c *Container, code int) {
	c.Status, c.ExitCode, c.FinishedAt, c.Health = Exited, code, w.clock, HealthNone
	w.happened(c.Project)
}

func (w *sim) stop(c *Container) error {
	if !c.present() {
		return nil
	}
	if err := w.part("stop", c.Name); err != nil {
		return err
	}
	w.exit(c, 143)
	c.Stopped = true
	return nil
}

func (w *sim) remove(c *Container) error {
	if err := w.stop(c); err != nil {
		return err
	}
	if err := w.part("remove", c.Name); err != nil {
		return err
	}
	delete(w.containers, c.ID)
	w.happened(c.Project)
	return nil
}

// on runs f on a container that must exist.
func (w *sim) on(ctx context.Context, part, id string, f func(*Container) error) error {
	leave, err := w.enter(ctx, part, id)
	defer leave()
	if err != nil {
		return err
	}
	c := w.containers[id]
	if c == nil {
		return fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound)
	}
	return f(c)
}

func (w *sim) Replace(ctx context.Context, old string, s RunSpec, o ReplaceOptions) error {
	return w.on(ctx, "replace", old, func(c *Container) error {
		if c.Service != s.Service.Name || c.Number != s.Number {
			w.lawBroken("%s replaced by %s", c.Name, s.Name)
		}
		if o.Order != StartFirst {
			if err := w.stop(c); err != nil {
				return err
			}
		}
		if c.Name == s.Name {
			if err := w.rename(c, AsideName(c.ID, c.Name)); err != nil {
				return err
			}
		}
		fresh, err := w.create(s)
		if err != nil {
			return err
		}
		if !s.NoStart {
			if err := w.start(fresh); err != nil {
				return err
			}
		}
		if o.Order == StartFirst {
			return nil
		}
		return w.remove(c)
	})
}

func (w *sim) Update(ctx context.Context, id string, s RunSpec) error {
	return w.on(ctx, "update", id, func(c *Container) error {
		is := FromLabels(s.Labels)
		if c.Service != s.Service.Name || c.Number != s.Number || c.Generation != is.Generation {
			w.lawBroken("%s updated as %s", c.Name, s.Name)
		}
		ports := hostPorts(s.Service)
		if err := w.portsFree(c, ports); err != nil && c.present() {
			return err
		}
		var networks []string
		for _, key := range s.Networks {
			name := NetworkName(s.Project, key)
			if w.networkNamed(name) == nil {
				return fmt.Errorf("network %s: %w", name, errdefs.ErrNotFound)
			}
			networks = append(networks, name)
		}
		if err := w.part("rewire", c.Name); err != nil {
			return err
		}
		c.Ports, c.Networks = ports, networks
		if err := w.part("update", c.Name); err != nil {
			return err
		}
		c.Hash, c.Uses, c.Parts, c.DependsOn = is.Hash, is.Uses, is.Parts, is.DependsOn
		w.happened(c.Project)
		return nil
	})
}

// portsFree says which port another service that runs has already.
func (w *sim) portsFree(c *Container, ports []string) error {
	for _, port := range ports {
		for _, o := range w.containers {
			if o.present() && (o.Project != c.Project || o.Service != c.Service) && slices.Contains(o.Ports, port) {
				return fmt.Errorf("port %s is published by %s: %w", port, o.Name, errdefs.ErrFailedPrecondition)
			}
		}
	}
	return nil
}

func (w *sim) Retire(ctx context.Context, s RetireSpec) error {
	return w.on(ctx, "retire", s.ID, func(c *Container) error {
		switch heir := w.replica(s.Project, s.Service, s.Number, s.Heir); {
		case heir != nil && heir != c && heir.ready():
			return w.remove(c)
		case heir != nil && heir != c && s.MayFail && !heir.present():
			return nil
		}
		return fmt.Errorf("the heir of %s is not ready any more: %w", c.Name, errdefs.ErrFailedPrecondition)
	})
}

func (w *sim) Rename(ctx context.Context, id, name string) error {
	return w.on(ctx, "rename", id, func(c *Container) error { return w.rename(c, name) })
}

func (w *sim) rename(c *Container, name string) error {
	if o := w.named(name); o != nil && o != c {
		return fmt.Errorf("name %s is taken by %s: %w", name, o.ID, errdefs.ErrAlreadyExists)
	}
	if err := w.part("rename", c.Name); err != nil {
		return err
	}
	c.Name = name
	return nil
}

func (w *sim) Delay(ctx context.Context, d time.Duration) error {
	leave, err := w.enter(ctx, "delay", d.String())
	defer leave()
	if err == nil {
		err = w.part("delay", d.String())
	}
	if err == nil {
		w.clock = w.clock.Add(d)
	}
	return err
}

func (w *sim) Start(ctx context.Context, id string) error { return w.on(ctx, "start", id, w.start) }
func (w *sim) Stop(ctx context.Context, id string, _ *time.Duration) error {
	return w.on(ctx, "stop", id, w.stop)
}

func (w *sim) Remove(ctx context.Context, id string, _ RemoveOptions) error {
	return w.on(ctx, "remove", id, w.remove)
}

func (w *sim) Await(ctx context.Context, s AwaitSpec) error {
	leave, err := w.enter(ctx, "await", s.Service)
	defer leave()
	if err == nil {
		err = w.part("await", s.Service)
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range s.Numbers {
		errs = append(errs, w.check(s, n))
	}
	if s.Trial != nil && len(errs)-countNil(errs) <= s.Trial.Tolerate {
		return nil
	}
	return errors.Join(errs...)
}

func countNil(errs []error) (n int) {
	for _, err := range errs {
		if err == nil {
			n++
		}
	}
	return n
}

// replica is the one with this id or, without one, the newest of a number.
func (w *sim) replica(project, service string, number int, id string) (found *Container) {
	for _, other := range sortedKeys(w.containers) {
		c := w.containers[other]
		if c.Project != project || c.Service != service || c.Number != number || c.OneOff || id != "" && c.ID != id {
			continue
		}
		if found == nil || !c.Created.Before(found.Created) {
			found = c
		}
	}
	return found
}

func (w *sim) check(s AwaitSpec, number int) error {
	c := w.replica(s.Project, s.Service, number, s.IDs[number])
	if c == nil {
		return fmt.Errorf("replica %d of %s: %w", number, s.Service, errdefs.ErrNotFound)
	}
	// What takes its time has had it by now.
	if c.Status == Running && w.behave[c.Service] == "check" {
		c.Health = Healthy
	}
	if c.Status == Running && w.behave[c.Service] == "exit 0" {
		w.tick()
		w.exit(c, 0)
	}
	ok := map[Condition]bool{IsStarted: !c.StartedAt.IsZero(), IsHealthy: c.Status == Running && c.Health == Healthy,
		IsReady: c.ready() || c.completed(), IsCompleted: c.completed()}[s.Condition]
	if t := s.Trial; t != nil {
		if ready := c.StartedAt.Add(t.For); c.ready() && ready.After(w.clock) && (t.Checked || c.Health == HealthNone) {
			w.clock = ready
		}
		if ok = t.Stood(c, w.clock); !ok && c.present() {
			if err := w.stop(c); err != nil {
				return err
			}
		}
	}
	if !ok {
		return fmt.Errorf("%s is %s %s (%d), not %s: %w", c.Name, c.Status, c.Health, c.ExitCode, s.Condition, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// look is what the scheduler would see of a goal.
func (w *sim) look(goals ...Goal) State {
	s, err := w.Observe(context.Background(), LookFor(goals...))
	if err != nil {
		panic(err)
	}
	return s
}

// foreign puts objects of another project and of nobody next to the tested
// ones; untouched says whether they are as they were.
func (w *sim) foreign() (untouched func() error) {
	put := func(c Container) { w.containers[c.ID] = &c }
	put(Container{ID: "x1", Name: "other-web-1", Project: "other", Service: "web", Number: 1, Status: Running, Networks: []string{"other_default"}})
	put(Container{ID: "x2", Name: "lonely", Status: Exited, Volumes: []string{"lonely"}})
	w.networks["xn"] = &Network{ID: "xn", Name: "other_default", Project: "other"}
	w.volumes["other_data"] = &Volume{Name: "other_data", Project: "other", Key: "data"}
	w.volumes["lonely"] = &Volume{Name: "lonely"}
	type objects struct {
		containers [2]Container
		network    Network
		volumes    [2]Volume
	}
	see := func() (o objects) {
		for i, id := range []string{"x1", "x2"} {
			if c := w.containers[id]; c != nil {
				o.containers[i] = *c
			}
		}
		if n := w.networks["xn"]; n != nil {
			o.network = *n
		}
		for i, name := range []string{"other_data", "lonely"} {
			if v := w.volumes[name]; v != nil {
				o.volumes[i] = *v
			}
		}
		return o
	}
	was := see()
	return func() error {
		if is := see(); !reflect.DeepEqual(is, was) {
			return fmt.Errorf("objects of others were touched: %+v, were %+v", is, was)
		}
		return nil
	}
}

// load reads a project from YAML, as the client would.
func load(yaml string, o ...func(*compose.Source)) (*compose.Project, error) {
	src := compose.Source{WorkDir: "/src", Files: []string{"-"}, ProjectName: "shop", Environ: []string{"TOKEN=t"}, Stdin: strings.NewReader(yaml)}
	for _, f := range o {
		f(&src)
	}
	return compose.Load(context.Background(), src)
}
