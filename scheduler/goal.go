package scheduler

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"gantry/compose"
)

// Goal is what is wanted of one project. It is a value: nothing in this
// package changes a goal it was given.
//
// A goal is self-contained. Env files, secrets and configs are resolved in the
// project, and Images fixes each image by its id, so that a repair next month
// starts the same thing. A goal whose project has no services is `down`.
type Goal struct {
	Project  *compose.Project
	Services map[string]Want // by service; one that is not here is left alone

	// Scope names the services this call is about, with what they depend on;
	// nil means all. The others keep what they have.
	Scope []string
	// Known are services that are not wanted and yet no orphans: disabled by
	// their profile or left out by the caller. In a `down` they are the
	// services the project had.
	Known []string
	// Images fixes images: reference as the project writes it → id.
	Images map[string]string
	// Coming are images that the caller will have built before it applies the
	// goal: reference → why. A plan counts on them. It is for looking ahead
	// and never stored.
	Coming map[string]string
	// Pulls are images that are here, and that the caller will have asked their
	// registries for before it applies the goal: reference → why. The same.
	Pulls map[string]string
	// Sources say where a fixed image came from: the same reference → a name
	// with a digest, by which a registry has it for as long as it has it at all.
	Sources map[string]string

	Options Options

	outline *outline // of Project, or of one before it; see outlined
}

// Want is what is wanted of one service.
type Want struct {
	Replicas int
	// Stopped asks for its replicas to stay as they are but not to run.
	Stopped bool `json:",omitempty"`
	// NoStart says that when it was last asked for, its replicas were to be made
	// and not started.
	NoStart bool `json:",omitempty"`
	// Generation is raised to force new containers; see [Merge].
	Generation int `json:",omitempty"`
	// Run is, of a job, when the run that is to be started was due; it is never
	// stored.
	Run time.Time `json:"-"`
	// Asked is when the service was last asked for; see [Merge].
	Asked time.Time `json:",omitzero"`
}

// Policy says when a container that exists is replaced.
type Policy string

// Policies.
const (
	Changed Policy = ""       // when its service, image, network or volume has changed
	Always  Policy = "always" // in any case
	Never   Policy = "never"  // in no case
)

// Image removal in a `down`.
const (
	RemoveNoImages    = ""
	RemoveLocalImages = "local" // those the project builds and does not name
	RemoveAllImages   = "all"   // all that a service uses
)

// Options bend one call. They are stored with the goal until the next one, so
// that a call broken off goes on as it was meant.
type Options struct {
	// Services are the services named by the user, patterns resolved; none
	// means all. What they depend on is in Scope, not here.
	Services []string `json:",omitempty"`

	// Scaled are the services of which the user has said how many replicas there
	// are to be: until they are measured again autoscaling has no say in it.
	Scaled []string `json:",omitempty"`

	Recreate             Policy `json:",omitempty"` // of the services named
	RecreateDependencies Policy `json:",omitempty"` // of what they depend on

	NoDeps  bool `json:",omitempty"` // leave alone what the services named depend on, and do not wait for it
	NoStart bool `json:",omitempty"` // create containers and do not start them
	Wait    bool `json:",omitempty"` // wait until every service is ready and every job has ended well

	RemoveOrphans bool `json:",omitempty"` // remove containers of services the project does not have
	// RenewAnonVolumes gives replaced containers fresh anonymous volumes
	// instead of those of their predecessor.
	RenewAnonVolumes bool `json:",omitempty"`
	// RenewVolumes lets a named volume be removed and made again when its
	// definition has changed. Its data is lost. Without it the volume stays
	// as it is and the plan says so.
	RenewVolumes bool `json:",omitempty"`

	Volumes      bool   `json:",omitempty"` // down: remove named and anonymous volumes
	RemoveImages string `json:",omitempty"` // down: RemoveNoImages, RemoveLocalImages, RemoveAllImages

	// Named: the caller has named the project, so it is meant wherever it is.
	Named bool `json:",omitempty"`
	// Dir is the directory that a `down` comes from; other goals have it in
	// their project. "": not said.
	Dir string `json:",omitempty"`
	// Rollback rolls out by rollback_config instead of update_config.
	Rollback bool `json:",omitempty"`

	// Timeout for a container to stop in; nil: the container's own.
	Timeout *time.Duration `json:",omitempty"`
	// Parallel bounds the steps done at the same time; 0: [DefaultParallel].
	Parallel int `json:",omitempty"`
}

// NewGoal is the goal `up` has: the services named in o.Services, or all, with
// what they depend on unless o.NoDeps is set, each with the replicas its
// project says.
func NewGoal(p *compose.Project, o Options) (Goal, error) {
	g := Goal{Project: p, Services: map[string]Want{}, Options: o}
	g.Known = append(g.Known, p.DisabledServiceNames()...)
	names := p.ServiceNames()
	if len(o.Services) > 0 {
		for _, name := range o.Services {
			if _, ok := p.Services[name]; !ok {
				return Goal{}, noService(p.Name, name, names)
			}
		}
		if names = o.Services; !o.NoDeps {
			graph, err := compose.NewGraph(p)
			if err != nil {
				return Goal{}, err
			}
			names = graph.Closure(names...)
		}
		g.Scope = slices.Compact(slices.Sorted(slices.Values(names)))
		names = g.Scope
	}
	for _, name := range names {
		s := p.Services[name]
		n := s.GetScale()
		if scheduleOf(s) != "" && !slices.Contains(o.Scaled, name) {
			n = 0
		}
		if rule := autoscaled(s); rule != nil && n > 0 && !slices.Contains(o.Scaled, name) {
			n = rule.Within(n)
		}
		g.Services[name] = Want{Replicas: n}
	}
	return g, nil
}

func noService(project, name string, has []string) error {
	return notFound("project %s has no service %q; it has %s", project, name, strings.Join(has, ", "))
}

// IsDown reports whether the goal is to have nothing.
func (g Goal) IsDown() bool { return g.Project == nil || len(g.Project.Services) == 0 }

// inScope reports whether the call is about the service.
func (g Goal) inScope(service string) bool {
	return g.Scope == nil || slices.Contains(g.Scope, service)
}

// policy of replacing the containers of a service.
func (g Goal) policy(service string) Policy {
	if len(g.Options.Services) == 0 || slices.Contains(g.Options.Services, service) {
		return g.Options.Recreate
	}
	return g.Options.RecreateDependencies
}

// clone copies all that a change of the goal would write to. The services
// themselves are shared: nobody writes to those.
func (g Goal) clone() Goal {
	if g.Project != nil {
		p := *g.Project
		p.Services = maps.Clone(p.Services)
		p.Networks = maps.Clone(p.Networks)
		p.Volumes = maps.Clone(p.Volumes)
		p.Secrets = maps.Clone(p.Secrets)
		p.Configs = maps.Clone(p.Configs)
		g.Project = &p
	}
	g.Services = maps.Clone(g.Services)
	g.Images, g.Sources = maps.Clone(g.Images), maps.Clone(g.Sources)
	g.Scope = slices.Clone(g.Scope)
	g.Known = slices.Clone(g.Known)
	g.Options.Services = slices.Clone(g.Options.Services)
	return g
}

// goalVersion is the form of a goal on the wire and on disk.
const goalVersion = 1

type wireGoal struct {
	Version  int               `json:"version"`
	Project  string            `json:"project"` // canonical YAML, see compose.Encode
	Services map[string]Want   `json:"services,omitempty"`
	Scope    []string          `json:"scope,omitempty"`
	Known    []string          `json:"known,omitempty"`
	Images   map[string]string `json:"images,omitempty"`
	Coming   map[string]string `json:"coming,omitempty"`
	Pulls    map[string]string `json:"pulls,omitempty"`
	Sources  map[string]string `json:"sources,omitempty"`
	Options  Options           `json:"options"`
}

// MarshalJSON is the form a goal travels and is stored in. It holds the
// contents of secrets.
func (g Goal) MarshalJSON() ([]byte, error) {
	if g.Project == nil {
		return nil, invalid("a goal needs a project")
	}
	text, err := compose.Encode(g.Project)
	if err != nil {
		return nil, err
	}
	return json.Marshal(wireGoal{Version: goalVersion, Project: string(text), Services: g.Services,
		Scope: g.Scope, Known: g.Known, Images: g.Images, Coming: g.Coming, Pulls: g.Pulls, Sources: g.Sources, Options: g.Options})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (g *Goal) UnmarshalJSON(data []byte) error {
	var w wireGoal
	if err := json.Unmarshal(data, &w); err != nil {
		return err
	}
	if w.Version != goalVersion {
		return invalid("goal of version %d, this gantry knows version %d; use client and daemon of the same version",
			w.Version, goalVersion)
	}
	p, err := compose.Decode([]byte(w.Project))
	if err != nil {
		return fmt.Errorf("project of the goal: %w", err)
	}
	*g = Goal{Project: p, Services: w.Services, Scope: w.Scope, Known: w.Known, Images: w.Images, Coming: w.Coming, Pulls: w.Pulls, Sources: w.Sources, Options: w.Options}
	return nil
}
