package scheduler

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
)

// Action is one thing to do, such as a person would say: run, replace, await.
// The set is closed: [Pull], [RemoveImage], [CreateNetwork], [RemoveNetwork],
// [CreateVolume], [RemoveVolume], [Run], [Replace], [Retire], [Update],
// [Rename], [Start], [Stop], [Restart], [Remove], [Await], [Delay].
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
	Because string // of the order, if it is not the usual one
}

func (a Replace) What() What {
	return What{Verb: "replace", Kind: "container", Name: a.Spec.Name, Service: a.Spec.Service.Name}
}
func (a Replace) String() string {
	s := containerText(a.What())
	switch {
	case a.Because != "":
		s += fmt.Sprintf(" %s (%s)", a.Options.Order, a.Because)
	case a.Options.Order != "":
		s += " " + string(a.Options.Order)
	}
	return s
}
func (a Replace) run(ctx context.Context, e Engine) error {
	return updateFailed(ctx, a.Spec.Service.Name, e.Replace(ctx, a.Old, a.Spec, a.Options))
}

// Retire removes a container that another one has replaced, when nobody is
// connected to it any more.
type Retire struct {
	Name string
	Spec RetireSpec
}

func (a Retire) What() What {
	return What{Verb: "retire", Kind: "container", Name: a.Name, Service: a.Spec.Service, Stops: true}
}
func (a Retire) String() string { return containerText(a.What()) }
func (a Retire) run(ctx context.Context, e Engine) error {
	return updateFailed(ctx, a.Spec.Service, gone(e.Retire(ctx, a.Spec)))
}

// Update changes a container in place: its process goes on.
type Update struct {
	ID   string
	Spec RunSpec
}

func (a Update) What() What {
	return What{Verb: "update", Kind: "container", Name: a.Spec.Name, Service: a.Spec.Service.Name}
}
func (a Update) String() string { return containerText(a.What()) }
func (a Update) run(ctx context.Context, e Engine) error {
	return e.Update(ctx, a.ID, a.Spec)
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

// Rename gives a container another name: it is set aside for another one, or
// gets its own again.
type Rename struct{ ID, Name, To, Service string }

func (a Rename) What() What {
	verb := "rename"
	if a.To == AsideName(a.ID, a.Name) {
		verb = "set aside"
	}
	return What{Verb: verb, Kind: "container", Name: a.Name, Service: a.Service}
}
func (a Rename) String() string {
	w := a.What()
	if w.Verb == "rename" {
		return containerText(w) + " to " + a.To
	}
	return containerText(w)
}
func (a Rename) run(ctx context.Context, e Engine) error {
	return gone(e.Rename(ctx, a.ID, a.To))
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
	t := a.Spec.Trial
	switch {
	case t == nil:
	case t.Checked:
		s += fmt.Sprintf(" and running for %s", t.For)
	default:
		s = fmt.Sprintf("await %s healthy or running for %s", a.Spec.Service, t.For)
	}
	if n := len(a.Spec.Numbers); n > 1 {
		s += fmt.Sprintf(" (%d replicas)", n)
	}
	if t != nil && t.Tolerate > 0 {
		s += fmt.Sprintf(", of which %d may fail", t.Tolerate)
	}
	return s
}
func (a Await) run(ctx context.Context, e Engine) error {
	err := e.Await(ctx, a.Spec)
	if a.Spec.Trial != nil {
		return updateFailed(ctx, a.Spec.Service, err)
	}
	return err
}

// Delay waits between two batches of an update.
type Delay struct {
	Service string
	For     time.Duration
}

func (a Delay) What() What {
	return What{Verb: "delay", Kind: "service", Name: a.Service, Service: a.Service}
}
func (a Delay) String() string { return fmt.Sprintf("delay %s by %s", a.Service, a.For) }
func (a Delay) run(ctx context.Context, e Engine) error {
	return e.Delay(ctx, a.For)
}

// brokenUpdate is the failure of a service's update, as opposed to one of what
// comes before it or of gantry itself.
type brokenUpdate struct {
	service string
	err     error
}

func (u *brokenUpdate) Error() string { return u.err.Error() }
func (u *brokenUpdate) Unwrap() error { return u.err }

func updateFailed(ctx context.Context, service string, err error) error {
	if err == nil || ctx.Err() != nil || errdefs.IsUnavailable(err) {
		return err
	}
	return &brokenUpdate{service, err}
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
