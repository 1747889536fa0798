package scheduler

import (
	"slices"
	"strings"
	"testing"

	"gantry/compose"

	"github.com/containerd/errdefs"
)

// at is a container of project shop made from a directory.
func at(dir, service string, status Status) Container {
	return Container{ID: service + "@" + dir, Name: "shop-" + service + "-1", Project: "shop", Service: service, Number: 1, Dir: dir, Status: status}
}

func TestClash(t *testing.T) {
	stored := &Goal{Project: &compose.Project{Name: "shop", WorkingDir: "/a", Services: compose.Services{"web": {}}}}
	there := map[string]string{"/a": "1:1", "/b": "1:2", "/link": "1:1", "/z": ""}
	web := []Container{at("/a", "web", Running)}
	for _, c := range []struct {
		name       string
		dir        string
		stored     *Goal
		containers []Container
		from       string
		refused    bool
	}{
		{"the same directory", "/a", stored, web, "", false},
		{"the same, written otherwise", "/a/x/..", stored, web, "", false},
		{"by a link", "/link", stored, web, "", false},
		{"another", "/b", stored, web, "", true},
		{"another, all stopped", "/b", stored, []Container{at("/a", "web", Exited)}, "", true},
		{"another, nothing there", "/b", stored, nil, "", false},
		{"another, a run's container alone", "/b", stored, []Container{{Project: "shop", OneOff: true, Dir: "/a"}}, "", false},
		{"without a goal, by its containers", "/b", nil, web, "", true},
		{"without a goal, one of them is from here", "/b", nil, append([]Container{at("/b", "db", Running)}, web...), "", false},
		{"with a goal, whatever they say", "/b", stored, []Container{at("/b", "web", Running)}, "", true},
		{"nobody says where", "/b", nil, []Container{at("", "web", Running)}, "", false},
		{"the caller does not say", "", stored, web, "", false},
		{"the other is gone", "/b", nil, []Container{at("/z", "web", Running)}, "/z", false},
		{"one of the others is gone", "/b", nil, []Container{at("/z", "web", Running), at("/a", "db", Running)}, "", true},
		{"gone, and the caller is on another machine", "/elsewhere", nil, []Container{at("/z", "web", Running)}, "", true},
		{"another that was not looked at", "/b", nil, []Container{at("/new", "web", Running)}, "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			from, err := clash("shop", c.dir, c.stored, State{Containers: c.containers, Dirs: there})
			if from != c.from || c.refused != errdefs.IsFailedPrecondition(err) || (err != nil) != c.refused {
				t.Errorf("from %q, %v", from, err)
			}
			if err != nil && (strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), c.dir) || !strings.Contains(err.Error(), "--instance")) {
				t.Errorf("the refusal does not say both places and the next step in a line: %v", err)
			}
		})
	}
}

// A second directory is refused, by name it is not, and then it is the
// project's.
func TestPlaces(t *testing.T) {
	s := newHouse(t)
	w := s.w
	from := func(dir, yaml string, o Options) Goal {
		t.Helper()
		g := s.goal(yaml, o)
		g.Project.WorkingDir = dir
		return g
	}
	const first, second = "services: {web: {image: busybox}, db: {image: busybox}}", "services: {web: {image: busybox, command: x}}"
	apply := func(g Goal) error { return s.Scheduler.Apply(t.Context(), g, nil) }
	if err := apply(from("/a", first, Options{})); err != nil {
		t.Fatal(err)
	}
	log := len(w.log)
	for _, o := range []Options{{}, {RemoveOrphans: true}, {Services: []string{"web"}}} {
		g := from("/b", second, o)
		if err := apply(g); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "/a, and this is /b") {
			t.Errorf("%+v: got %v", o, err)
		}
		if _, err := s.Plan(t.Context(), g); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("plan with %+v: got %v", o, err)
		}
	}
	if err := s.Down(t.Context(), "shop", Options{Dir: "/b"}, nil); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("down: got %v", err)
	}
	if err := s.Clash(t.Context(), "shop", "/b"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("asked: %v", err)
	}
	if len(w.log) != log {
		t.Errorf("something was done: %q", w.log[log:])
	}
	// By its name it is taken over; what it does not have stays, whatever is asked.
	g := from("/b", second, Options{Named: true, RemoveOrphans: true})
	plan, err := s.Plan(t.Context(), g)
	if err != nil || !slices.Contains(plan.Notes, "containers of the same project name stay, they are those of /a: shop-db-1") {
		t.Errorf("%v, %v", plan, err)
	}
	if err := apply(g); err != nil {
		t.Fatal(err)
	}
	names := func() (names []string) {
		for _, c := range w.look(Goal{Project: &compose.Project{Name: "shop"}}).Containers {
			names = append(names, c.Name+" of "+c.Dir)
		}
		slices.Sort(names)
		return names
	}
	if got, want := names(), []string{"shop-db-1 of /a", "shop-web-1 of /b"}; !slices.Equal(got, want) {
		t.Errorf("there is %q, want %q", got, want)
	}
	if err := s.Clash(t.Context(), "shop", "/b"); err != nil {
		t.Errorf("the new place: %v", err)
	}
	if err := apply(from("/a", first, Options{})); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("the old place: %v", err)
	}
	if err := s.Down(t.Context(), "shop", Options{Dir: "/b", RemoveOrphans: true}, nil); err != nil {
		t.Fatal(err)
	}
	if got := names(); !slices.Equal(got, []string{"shop-db-1 of /a"}) {
		t.Errorf("after down there is %q", got)
	}
	// Without a goal, too.
	if err := s.Down(t.Context(), "shop", Options{Dir: "/b", RemoveOrphans: true}, nil); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("down again: %v", err)
	}
	if err := s.Down(t.Context(), "shop", Options{Dir: "/b", Named: true}, nil); err != nil {
		t.Fatal(err)
	}
	if got := names(); len(got) > 0 {
		t.Errorf("after down by name there is %q", got)
	}
}

// What was made in a directory that is gone counts as the project's.
func TestOrphansOfPlaces(t *testing.T) {
	dirs := map[string]string{"/b": "1:2", "/a": "1:1", "/z": "", "/b2": "1:2"}
	have := State{Dirs: dirs, Containers: []Container{at("/b", "old", Running), at("/b2", "older", Running), at("/z", "lost", Running), at("", "bare", Running), at("/a", "theirs", Running)}}
	g := Goal{Project: &compose.Project{Name: "shop", WorkingDir: "/b", Services: compose.Services{"web": {}}}, Options: Options{RemoveOrphans: true}}
	plan, err := Reconcile(g, have)
	if err != nil {
		t.Fatal(err)
	}
	text := plan.String()
	for _, service := range []string{"old", "older", "lost", "bare"} {
		if !strings.Contains(text, "remove shop-"+service+"-1") {
			t.Errorf("%s stays:\n%s", service, text)
		}
	}
	if strings.Contains(text, "remove shop-theirs-1") || !strings.Contains(text, "those of /a: shop-theirs-1") {
		t.Errorf("another place's container does not stay:\n%s", text)
	}
}

// A volume outlives its project: another one of the name is told whose data it
// gets, and does not destroy it.
func TestVolumesOfPlaces(t *testing.T) {
	s := newHouse(t)
	g := s.goal("services: {web: {image: busybox, volumes: ['data:/d']}}\nvolumes: {data: {}}", Options{})
	g.Project.WorkingDir = "/b"
	have := s.w.look(g)
	plan, err := Reconcile(Merge(nil, g, have), have)
	if err != nil {
		t.Fatal(err)
	}
	made := slices.ContainsFunc(plan.Steps, func(s Step) bool {
		c, ok := s.Do.(CreateVolume)
		return ok && c.Spec.Labels[LabelWorkingDir] == "/b"
	})
	if !made {
		t.Errorf("the volume does not say where it was made:\n%s", plan)
	}
	for dir, theirs := range map[string]bool{"/a": true, "/b": false, "/z": false, "": false} {
		have.Dirs = map[string]string{"/a": "1:1", "/b": "1:2", "/z": ""}
		have.Volumes = []Volume{{Name: "shop_data", Project: "shop", Key: "data", Dir: dir}}
		plan, err := Reconcile(Merge(nil, g, have), have)
		if err != nil || theirs != strings.Contains(plan.String(), "was made by the project of the same name in /a") {
			t.Errorf("up with a volume of %q: %v\n%s", dir, err, plan)
		}
		for _, named := range []bool{false, true} {
			down := DownGoal("shop", Options{Volumes: true, Dir: "/b", Named: named})
			plan, err = Reconcile(Merge(&g, down, have), have)
			if stays := !strings.Contains(plan.String(), "remove volume"); err != nil || stays != (theirs && !named) {
				t.Errorf("down (named %v) with a volume of %q: %v\n%s", named, dir, err, plan)
			}
		}
	}
}
