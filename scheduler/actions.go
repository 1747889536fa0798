package scheduler

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
)

// Action is one thing to do, such as a person would say: run, replace, await.
// The set is closed: [Pull], [RemoveImage], [CreateNetwork], [RemoveNetwork],
// [CreateVolume], [RemoveVolume], [Run], [Replace], [SetAside], [Start],
// [Stop], [Restart], [Remove], [Await].
type Action interface {
	fmt.Stringer
	// What takes the action apart, for those who show progress.
	What() What
	run(context.Context, Engine) error
}

// What an action does, and to what.
type What struct {
	Verb    string `json:"verb"`              // "run"
	Kind    string `json:"kind"`              // image, network, volume, container, service
	Name    string `json:"name"`              // "shop-web-1"
	Service string `json:"service,omitempty"` // of a container or service
	Stops   bool   `json:"stops,omitempty"`   // it stops a container that runs first
}

// Pull fetches an image. With an ID it is to be the very image, which Source,
// if there is one, names in its registry.
type Pull struct {
	Ref, ID string
	Source  string `json:",omitempty"`
}

func (a Pull) What() What     { return What{Verb: "pull", Kind: "image", Name: a.Ref} }
func (a Pull) String() string { return "pull " + a.Ref }
func (a Pull) run(ctx context.Context, e Engine) error {
	return e.Pull(ctx, a.Ref, a.ID, a.Source)
}

// RemoveImage removes a reference to an image.
type RemoveImage struct{ Ref string }

func (a RemoveImage) What() What     { return What{Verb: "remove", Kind: "image", Name: a.Ref} }
func (a RemoveImage) String() string { return "remove image " + a.Ref }
func (a RemoveImage) run(ctx context.Context, e Engine) error {
	return gone(e.RemoveImage(ctx, a.Ref))
}

// CreateNetwork makes a network.
type CreateNetwork struct{ Spec NetworkSpec }

func (a CreateNetwork) What() What     { return What{Verb: "create", Kind: "network", Name: a.Spec.Name} }
func (a CreateNetwork) String() string { return "create network " + a.Spec.Name }
func (a CreateNetwork) run(ctx context.Context, e Engine) error {
	return e.CreateNetwork(ctx, a.Spec)
}

// RemoveNetwork removes a network.
type RemoveNetwork struct{ ID, Name string }

func (a RemoveNetwork) What() What     { return What{Verb: "remove", Kind: "network", Name: a.Name} }
func (a RemoveNetwork) String() string { return "remove network " + a.Name }
func (a RemoveNetwork) run(ctx context.Context, e Engine) error {
	return gone(e.RemoveNetwork(ctx, a.ID))
}

// CreateVolume makes a volume.
type CreateVolume struct{ Spec VolumeSpec }

func (a CreateVolume) What() What     { return What{Verb: "create", Kind: "volume", Name: a.Spec.Name} }
func (a CreateVolume) String() string { return "create volume " + a.Spec.Name }
func (a CreateVolume) run(ctx context.Context, e Engine) error {
	return e.CreateVolume(ctx, a.Spec)
}

// RemoveVolume removes a volume and its data.
type RemoveVolume struct{ Name string }

func (a RemoveVolume) What() What     { return What{Verb: "remove", Kind: "volume", Name: a.Name} }
func (a RemoveVolume) String() string { return "remove volume " + a.Name }
func (a RemoveVolume) run(ctx context.Context, e Engine) error {
	return gone(e.RemoveVolume(ctx, a.Name))
}

// Run creates a container and starts it.
type Run struct{ Spec RunSpec }

func (a Run) What() What {
	verb := "run"
	if a.Spec.NoStart {
		verb = "create"
	}
	return What{Verb: verb, Kind: "container", Name: a.Spec.Name, Service: a.Spec.Service.Name}
}
func (a Run) String() string { return containerText(a.What()) }
func (a Run) run(ctx context.Context, e Engine) error {
	return e.Run(ctx, a.Spec)
}

// Replace puts a new container in the place of an old one.
type Replace struct {
	Old     string // id
	Spec    RunSpec
	Options ReplaceOptions
}

func (a Replace) What() What {
	return What{Verb: "replace", Kind: "container", Name: a.Spec.Name, Service: a.Spec.Service.Name}
}
func (a Replace) String() string { return containerText(a.What()) }
func (a Replace) run(ctx context.Context, e Engine) error {
	return e.Replace(ctx, a.Old, a.Spec, a.Options)
}

// Start starts a container that exists.
type Start struct{ ID, Name, Service string }

func (a Start) What() What {
	return What{Verb: "start", Kind: "container", Name: a.Name, Service: a.Service}
}
func (a Start) String() string { return containerText(a.What()) }
func (a Start) run(ctx context.Context, e Engine) error {
	return e.Start(ctx, a.ID)
}

// Stop stops a container and keeps it.
type Stop struct {
	ID, Name, Service string
	Timeout           *time.Duration // nil: the container's own
}

func (a Stop) What() What {
	return What{Verb: "stop", Kind: "container", Name: a.Name, Service: a.Service}
}
func (a Stop) String() string { return containerText(a.What()) }
func (a Stop) run(ctx context.Context, e Engine) error {
	return gone(e.Stop(ctx, a.ID, a.Timeout))
}

// SetAside takes its name from a container that will be replaced or removed,
// so that another one can have it.
type SetAside struct{ ID, Name, Service string }

func (a SetAside) What() What {
	return What{Verb: "set aside", Kind: "container", Name: a.Name, Service: a.Service}
}
func (a SetAside) String() string { return containerText(a.What()) }
func (a SetAside) run(ctx context.Context, e Engine) error {
	return gone(e.SetAside(ctx, a.ID))
}

// Restart stops a container and starts it.
type Restart struct {
	ID, Name, Service string
	Timeout           *time.Duration // nil: the container's own
}

func (a Restart) What() What {
	return What{Verb: "restart", Kind: "container", Name: a.Name, Service: a.Service}
}
func (a Restart) String() string { return containerText(a.What()) }
func (a Restart) run(ctx context.Context, e Engine) error {
	if err := e.Stop(ctx, a.ID, a.Timeout); err != nil {
		return err
	}
	return e.Start(ctx, a.ID)
}

// Remove stops a container and removes it.
type Remove struct {
	ID, Name, Service string
	Running           bool // when it was looked at
	Options           RemoveOptions
}

func (a Remove) What() What {
	return What{Verb: "remove", Kind: "container", Name: a.Name, Service: a.Service, Stops: a.Running}
}
func (a Remove) String() string { return containerText(a.What()) }
func (a Remove) run(ctx context.Context, e Engine) error {
	return gone(e.Remove(ctx, a.ID, a.Options))
}

// Await waits until every replica of a service is as its dependents need it.
type Await struct{ Spec AwaitSpec }

func (a Await) What() What {
	return What{Verb: "await", Kind: "service", Name: a.Spec.Service, Service: a.Spec.Service}
}
func (a Await) String() string {
	s := fmt.Sprintf("await %s %s", a.Spec.Service, a.Spec.Condition)
	if n := len(a.Spec.Numbers); n > 1 {
		s += fmt.Sprintf(" (%d replicas)", n)
	}
	return s
}
func (a Await) run(ctx context.Context, e Engine) error {
	return e.Await(ctx, a.Spec)
}

// told is an action read from JSON: its text is all that is left of it.
type told struct {
	what What
	text string
}

func (a told) What() What     { return a.what }
func (a told) String() string { return a.text }
func (a told) run(context.Context, Engine) error {
	return conflict("a plan that was read cannot be executed")
}

func containerText(w What) string { return w.Verb + " " + w.Name }

// gone takes a missing object for a removed one.
func gone(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}
