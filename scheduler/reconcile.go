package scheduler

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"gantry/compose"
)

// Reconcile is what must be done so that what is wanted comes true. It is
// pure: it reads its arguments and nothing else, and changes neither.
//
// When a plan has been executed, Reconcile of the same goal and the state then
// found is empty. When it was not, for whatever reason, Reconcile of the state
// then found is what is left.
//
// It refuses, before anything is done, a goal that cannot come true here: a
// circle of dependencies, an external network or volume that does not exist,
// several replicas under one container_name, an image that is missing and must
// not be pulled.
func Reconcile(want Goal, have State) (Plan, error) {
	if want.Project == nil || want.Project.Name == "" {
		return Plan{}, invalid("a goal needs a project with a name")
	}
	if want.IsDown() {
		return reconcileDown(want, have), nil
	}
	want = want.outlined()
	if want.outline.make(); want.outline.err != nil {
		return Plan{}, want.outline.err
	}
	for first := []string(nil); ; {
		p := newPlanner(want, have)
		p.first = first
		for _, stage := range []func() error{
			p.chooseServices, p.checkServices, p.pullImages, p.removeOrphans, p.planNetworks, p.planVolumes, p.freePorts, p.freeNames,
			p.planServices, p.stopServices, p.awaitJobs, p.awaitAll,
		} {
			if err := stage(); err != nil {
				return Plan{}, err
			}
		}
		if len(p.late) == 0 {
			return p.plan, nil
		}
		// Only now is it known that a container is made anew, because of its
		// volume, say. Its image is to be here before anything is touched.
		first = append(first, p.late...)
	}
}

// LookFor is what Reconcile of the goal needs to see. More goals may be given:
// those before this one, whose objects may have to go.
func LookFor(goals ...Goal) Look {
	var l Look
	for _, g := range goals {
		if g.Project == nil {
			continue
		}
		l.Project = g.Project.Name
		for _, dir := range []string{g.Project.WorkingDir, g.Options.Dir} {
			if dir != "" {
				l.Dirs = append(l.Dirs, dir)
			}
		}
		for name, s := range g.Project.Services {
			s.Name = name
			ref := compose.ImageName(g.Project, s)
			l.Images = append(l.Images, ref)
			if id := g.Images[ref]; id != "" {
				l.Images = append(l.Images, id)
			}
		}
		for key := range g.Project.Networks {
			l.Networks = append(l.Networks, NetworkName(g.Project, key))
		}
		for key := range g.Project.Volumes {
			l.Volumes = append(l.Volumes, VolumeName(g.Project, key))
		}
	}
	for _, list := range []*[]string{&l.Images, &l.Networks, &l.Volumes, &l.Dirs} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	return l
}

// planner is the working memory of one Reconcile.
type planner struct {
	want Goal
	have State
	p    *compose.Project
	plan Plan

	outline *outline

	holding    bool                    // see Repair
	begun      time.Time               // of Repair
	restarting []string                // ids of what it has stopped, perhaps
	problems   []string                // of Repair
	lacking    map[string]string       // network or volume, as lack writes it → why it cannot be had
	containers map[string][]*Container // of the project, by service; no one-offs
	withheld   map[string][]int        // numbers of replicas a call has removed, by service
	byID       map[string]*Container   // all; nil: not asked yet
	services   map[string]*service     // those planned for
	order      []*service              // the same, dependencies first
	jobs       map[string]bool         // services somebody waits for to complete

	pulling  map[string]int    // reference → step
	pulls    []int             // steps every other step comes after
	first    []string          // services whose images are pulled in any case
	late     []string          // services that turned out to need theirs when other steps were planned
	networks map[string]int    // key → step that creates it, 0 if it exists
	kept     map[string]string // key of a network that is left as it is → its hash
	volumes  map[string]int    // key → step that creates it, 0 if it exists
	orphans  []int             // steps that remove orphans
	doomed   map[string]int    // id of a container → step that removes it early
	stopping map[string]int    // id of a container → step that stops it early
	aside    map[string]int    // id of a container → step that takes its name from it early
	updating map[string]int    // id of a container → step that changes it in place early
	awaits   map[awaitKey]int  // step
}

// service is what is planned for one service.
type service struct {
	*traits
	name string
	want Want
	id   string // of the image; "": not known before the pull
	uses string // LabelUses of its containers

	// replicas are those there will be, sorted by number.
	replicas []replica
	// cleared are the steps that remove what shares a number with a replica.
	cleared []int
	// rolled are the last steps of an update.
	rolled []int
	// acted are the steps that bring replicas to life.
	acted []int
	// updated are the steps that change replicas in place.
	updated []int
	doors   *[]int // what a replica must wait for; nil: not asked yet

	labels  map[string]string             // of every replica; nil: not asked yet
	hashes  map[*compose.Project]string   // in projects before, as far as asked
	fields  map[*compose.Project]string   // which have changed since, as far as asked
	changes map[*compose.Project][]Change // the same, as data
	partsIn map[*compose.Project]string   // parts in projects before, as far as asked

	reshapes map[[2]string]bool // by parts and uses: whether what differs can be had in place
}

// replica is one that will be there when the plan is done.
type replica struct {
	number int
	name   string
	old    *Container // nil if there is none
	why    string     // old is to be replaced
	// updated is the step that changes old in place, if there is one.
	updated []int
	// before are others of its number that still serve and leave when it is
	// ready.
	before []*Container
	fresh  bool // made in this plan
	acted  bool // touched in this plan
}

// awaitKey tells awaits apart: dependents with the same need share one.
type awaitKey struct {
	service   string
	condition Condition
	optional  bool
}

func newPlanner(want Goal, have State) *planner {
	p := &planner{want: want, have: have, p: want.Project, outline: want.outlined().outline,
		plan:       Plan{Project: want.Project.Name, Parallel: want.Options.Parallel},
		containers: map[string][]*Container{}, withheld: map[string][]int{}, lacking: map[string]string{}, pulling: map[string]int{}, services: map[string]*service{}, jobs: map[string]bool{},
		networks: map[string]int{}, kept: map[string]string{}, volumes: map[string]int{},
		doomed: map[string]int{}, stopping: map[string]int{}, aside: map[string]int{}, updating: map[string]int{}, awaits: map[awaitKey]int{}}
	count := make(map[string]int, len(want.Services))
	for i := range have.Containers {
		count[have.Containers[i].Service]++
	}
	for i := range have.Containers {
		if c := &have.Containers[i]; c.Project == p.p.Name && !c.OneOff && !p.withhold(c.Service, c.Number, c.RemovedAt) {
			if p.containers[c.Service] == nil {
				p.containers[c.Service] = make([]*Container, 0, count[c.Service])
			}
			p.containers[c.Service] = append(p.containers[c.Service], c)
		}
	}
	for _, r := range have.Removals {
		p.withhold(r.Service, r.Number, r.At)
	}
	for _, cs := range p.containers {
		slices.SortFunc(cs, byNumber)
	}
	return p
}

// byNumber is the order of containers wherever there must be one.
func byNumber(a, b *Container) int {
	return cmp.Or(cmp.Compare(a.Number, b.Number), a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID))
}

// add puts a step at the end of the plan and returns its id. Whatever comes
// after nothing comes after the pulls: nothing is touched before every image
// is here. So does what comes after a step that may fail, whose door opens also
// when it is left out. A repair waits for no image but its own.
func (p *planner) add(s Step) int {
	if _, pull := s.Do.(Pull); !pull && len(p.pulls) > 0 && !p.holding {
		if len(s.After) == 0 || slices.ContainsFunc(s.After, func(id int) bool { return p.plan.Steps[id-1].Optional }) {
			s.After = slices.Concat(p.pulls, s.After)
		}
	}
	if !slices.IsSorted(s.After) {
		s.After = slices.Clone(s.After)
		slices.Sort(s.After)
	}
	s.After = compactInts(s.After)
	s.Destroys = cmp.Or(s.Destroys, p.loses(s.Do))
	s.ID = len(p.plan.Steps) + 1
	if n := len(p.plan.Steps); n == cap(p.plan.Steps) {
		p.plan.Steps = slices.Grow(p.plan.Steps, n+16) // there may be tens of thousands
	}
	p.plan.Steps = append(p.plan.Steps, s)
	return s.ID
}

// loses says which data goes with a container: that in its anonymous volumes.
func (p *planner) loses(a Action) string {
	var id string
	switch a := a.(type) {
	case Remove:
		if a.Options.Volumes {
			id = a.ID
		}
	case Replace:
		if a.Options.RenewAnonVolumes && a.Options.Order != StartFirst { // else its retirement
			id = a.Old
		}
	case Retire:
		if a.Spec.Options.Volumes {
			id = a.Spec.ID
		}
	}
	if id == "" {
		return ""
	}
	if p.byID == nil {
		p.byID = map[string]*Container{}
		for i := range p.have.Containers {
			p.byID[p.have.Containers[i].ID] = &p.have.Containers[i]
		}
	}
	c := p.byID[id]
	if !slices.ContainsFunc(c.Volumes, func(name string) bool { return p.anonymous(c, name) }) {
		return ""
	}
	return "all data in the anonymous volumes of " + c.Name
}

// anonymous reports whether a volume that a container mounts is its own.
func (p *planner) anonymous(c *Container, name string) bool {
	for _, v := range parsePairs(c.Uses) {
		if v == name {
			return false
		}
	}
	_, known := p.volume(name)
	return !known
}

// compactInts drops repetitions without writing to what it is given.
func compactInts(sorted []int) []int {
	for i := 1; i < len(sorted); i++ {
		if sorted[i] == sorted[i-1] {
			return slices.Compact(slices.Clone(sorted))
		}
	}
	return sorted
}

func (p *planner) note(format string, args ...any) {
	p.plan.Notes = append(p.plan.Notes, fmt.Sprintf(format, args...))
}

// chooseServices settles which services are planned for: those in scope.
func (p *planner) chooseServices() error {
	order := p.outline.graph.Order()
	var keys []string
	for _, name := range order {
		for _, e := range p.outline.graph.Dependencies(name) {
			if e.Condition == compose.ConditionCompleted {
				p.jobs[e.Service] = true
			}
		}
		if p.chosen(name) {
			keys = append(keys, p.outline.all[name].keys...)
		}
	}
	p.keepNetworks(keys)
	for _, name := range order {
		if !p.chosen(name) {
			continue
		}
		t := p.outline.all[name]
		s := &service{traits: t, name: name, want: p.want.Services[name], uses: p.usesLabel(t)}
		if s.id = p.want.Images[s.image]; s.id == "" {
			s.id = p.have.Images[s.image]
		}
		p.services[name] = s
		p.order = append(p.order, s)
	}
	return nil
}

// chosen reports whether a service of the project is planned for.
func (p *planner) chosen(name string) bool {
	_, wanted := p.want.Services[name]
	_, defined := p.p.Services[name]
	return wanted && defined && p.want.inScope(name)
}

func (p *planner) checkServices() error {
	for _, s := range p.order {
		if s.want.Replicas < 0 {
			return invalid("service %s: %d replicas: cannot be less than none", s.name, s.want.Replicas)
		}
		if s.schedule != "" {
			if err := p.checkJob(s); err != nil {
				return err
			}
		}
		if rule := s.autoscale; rule != nil && s.want.Replicas > 0 && s.want.Replicas != rule.Within(s.want.Replicas) {
			return invalid("service %s: %d replicas: x-gantry.autoscale keeps it between %d and %d; ask for a number in between, or for 0 to switch it off",
				s.name, s.want.Replicas, rule.Min, rule.Max)
		}
		if s.conf.ContainerName != "" && s.want.Replicas > 1 {
			return invalid("service %s: container_name %s can be had by one replica, not %d; remove container_name or scale to 1",
				s.name, s.conf.ContainerName, s.want.Replicas)
		}
		for _, t := range joinTargets(s.conf) {
			if d := p.services[t]; d != nil && d.want.Replicas == 0 && s.runs() {
				return conflict("service %s shares a namespace of %s, which is to have no replicas; scale %s to 1 or %s to 0", s.name, t, t, s.name)
			}
		}
	}
	return nil
}

// runs reports whether the service will have replicas that run or are made.
func (s *service) runs() bool { return s.want.Replicas > 0 && !s.want.Stopped }

// pullImages fetches what is not here and will be needed, before anything is
// touched.
func (p *planner) pullImages() error {
	for _, ref := range sortedKeys(p.want.Pulls) {
		p.note("image %s is pulled first: %s", ref, p.want.Pulls[ref])
	}
	for _, ref := range sortedKeys(p.want.Coming) {
		p.note("image %s is built first: %s", ref, p.want.Coming[ref])
	}
	for _, s := range p.order {
		if (s.runs() && p.makes(s) || s.schedule != "" && !s.want.Stopped || slices.Contains(p.first, s.name)) && !p.imagePresent(s) {
			if _, err := p.pull(s); err != nil {
				return err
			}
		}
	}
	return nil
}

// pull is the step that fetches the image of a service.
func (p *planner) pull(s *service) (int, error) {
	if step := p.pulling[s.image]; step != 0 {
		return step, nil
	}
	policy, _, err := s.conf.GetPullPolicy()
	if err != nil {
		return 0, invalid("service %s: %v", s.name, err)
	}
	id := p.want.Images[s.image]
	switch {
	case s.conf.Build != nil && id != "" && p.want.Sources[s.image] == "":
		return 0, notFound("service %s: the image that was built as %s (%s) is not here any more; `gantry up --build` builds it of what the files say now", s.name, s.image, shortID(id))
	case s.conf.Build != nil && (s.conf.Image == "" || policy == compose.PullBuild):
		return 0, notFound("service %s: image %s is not built; build it first", s.name, s.image)
	case policy == compose.PullNever:
		return 0, notFound("service %s: image %s is not here and pull_policy is never; load or import it first", s.name, s.image)
	}
	step := p.add(Step{Do: Pull{Ref: s.image, ID: id, Source: p.want.Sources[s.image]}, Why: "not here"})
	p.pulling[s.image] = step
	p.pulls = append(p.pulls, step)
	return step, nil
}

// imagePresent reports whether a container can be made from the image. A fixed
// image counts by its id: the name may mean another one by now.
func (p *planner) imagePresent(s *service) bool {
	if _, coming := p.want.Coming[s.image]; coming {
		return true
	}
	if id := p.want.Images[s.image]; id != "" {
		return p.have.Images[id] != "" || p.have.Images[s.image] == id
	}
	return s.id != ""
}

// makes reports whether the plan will make a container of the service.
func (p *planner) makes(s *service) bool {
	usable := 0
	for _, c := range p.containers[s.name] {
		if c.broken() || p.renewed(s, c) {
			continue
		}
		usable++
	}
	if p.want.policy(s.name) == Never {
		usable = len(p.containers[s.name])
	}
	return usable+len(p.away(s)) < s.want.Replicas
}
