package scheduler

import (
	"maps"
	"slices"
	"time"
)

// Phase is where a project stands on the way to its goal:
//
//	           Apply                     nothing left
//	(any) ─────────────► Walking ───────────────────────► Settled
//	                      │   ▲ │                             (or forgotten: down)
//	 a caller was there,  │   │ │ no caller: the daemon goes on with what it
//	 or too many tries    │   └─┘ broke off, after 1 s, 2 s, 4 s … 5 min
//	                      ▼
//	                    Failed
type Phase string

// Phases.
const (
	Unmanaged Phase = ""        // there is no goal: containers made by somebody else
	Walking   Phase = "walking" // steps are being taken, or will be again after a while
	Settled   Phase = "settled" // nothing was left to do
	Failed    Phase = "failed"  // given up until the next call; Error says why
	// Degraded is Settled with something missing that is not repaired, or not
	// yet: Problems says what. It is seen in a status alone.
	Degraded Phase = "degraded"
)

// ProjectStatus is how a project is doing.
type ProjectStatus struct {
	Name     string
	Phase    Phase
	Error    string          `json:",omitempty"` // of the last walk
	Problems []string        `json:",omitempty"` // what is missing while the project is held, and why
	Next     time.Time       `json:",omitzero"`  // when a failed walk is tried again
	Asked    time.Time       `json:",omitzero"`  // the last call that asked for a service
	Down     bool            `json:",omitempty"` // the goal is to have nothing
	Dir      string          `json:",omitempty"` // of the project
	Files    []string        `json:",omitempty"` // compose files
	Services []ServiceStatus `json:",omitempty"`
}

// ServiceStatus is how a service is doing. Services are sorted by name.
type ServiceStatus struct {
	Name    string
	Wanted  int  // replicas
	Present int  // running, paused or about to restart
	Ready   int  // running, and healthy or, without a health check, for long enough
	Exited  int  // exited, or never started
	Orphan  bool `json:",omitempty"` // the project does not have it
	// Autoscale says, of a service whose replicas follow their usage, how many
	// there may be and what was measured last: "2 to 6, cpu at 50%, aimed at 70%".
	Autoscale string `json:",omitempty"`
	// Schedule is when a job is run, as cron writes it, and NextRun when that is
	// next; zero while it is stopped.
	Schedule string    `json:",omitempty"`
	NextRun  time.Time `json:",omitzero"`
}

// count fills in the services.
func (st *ProjectStatus) count(goal *Goal, have State) {
	services := map[string]*ServiceStatus{}
	at := func(name string) *ServiceStatus {
		if services[name] == nil {
			services[name] = &ServiceStatus{Name: name}
		}
		return services[name]
	}
	if goal != nil {
		for name, w := range goal.Services {
			s := at(name)
			if st.Asked = later(st.Asked, w.Asked); !w.Stopped {
				s.Wanted = w.Replicas
			}
		}
	}
	for _, c := range have.Containers {
		if c.Project != st.Name || c.OneOff {
			continue
		}
		s := at(c.Service)
		switch {
		case c.present():
			s.Present++
		case !c.broken():
			s.Exited++
		}
		if c.ready() {
			s.Ready++
		}
		if goal != nil {
			_, defined := goal.Project.Services[c.Service]
			s.Orphan = !defined && !slices.Contains(goal.Known, c.Service)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(services)) {
		st.Services = append(st.Services, *services[name])
	}
}
