package daemon

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"gantry/runtime/spec"
	"gantry/scheduler"
)

// What the runtime does not know of projects, and the scheduler must hear of
// the machine so that it can hold them.

// placeOf is the place of a replica: project, service and number, in none of
// which there is a slash.
func placeOf(c spec.Config) string {
	o := scheduler.FromLabels(c.Labels)
	if o.Project == "" || o.Service == "" || o.Number <= 0 || o.OneOff {
		return ""
	}
	return fmt.Sprintf("%s/%s/%d", o.Project, o.Service, o.Number)
}

// removals are the replicas of a project that calls have removed.
func (e *engine) removals(project string) []scheduler.Removal {
	var all []scheduler.Removal
	for place, at := range e.rt.Removals() {
		rest, ok := strings.CutPrefix(place, project+"/")
		service, n, _ := strings.Cut(rest, "/")
		number, err := strconv.Atoi(n)
		if ok && err == nil {
			all = append(all, scheduler.Removal{Service: service, Number: number, At: at})
		}
	}
	slices.SortFunc(all, func(a, b scheduler.Removal) int { return strings.Compare(placeKey(a), placeKey(b)) })
	return all
}

func placeKey(r scheduler.Removal) string { return fmt.Sprintf("%s/%d", r.Service, r.Number) }

// Forget lets go of what is remembered for a project without a goal.
func (e *engine) Forget(project string) {
	err := e.rt.ForgetRemovals(func(place string) bool { return strings.HasPrefix(place, project+"/") })
	if err != nil {
		e.log.Error("forget what calls have removed", "project", project, "error", err)
	}
}

// lostAt is where the data of a volume was that is gone, "" if it is there.
func (e *engine) lostAt(volume string) string {
	path, lost := e.rt.VolumeLost(volume)
	if !lost {
		return ""
	}
	return path
}

// unknown are volumes that containers of the project mount and of which there
// is no record: no call can have removed them.
func (e *engine) unknown(s scheduler.State) []scheduler.Volume {
	var all []scheduler.Volume
	known := map[string]bool{}
	for _, v := range s.Volumes {
		known[v.Name] = true
	}
	for _, c := range s.Containers {
		for _, name := range c.Volumes {
			if known[name] {
				continue
			}
			known[name] = true
			if at := e.lostAt(name); at != "" {
				all = append(all, scheduler.Volume{Name: name, Project: c.Project, Lost: at})
			}
		}
	}
	return all
}
