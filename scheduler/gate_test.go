package scheduler

import (
	"context"
	"time"
)

// gate is a machine all of whose calls pass through one function, which may
// let them through, late or not at all, or answer something else.
type gate struct {
	w    *sim
	pass func(ctx context.Context, call, object string, through func() error) error
}

func (g gate) Observe(ctx context.Context, l Look) (s State, err error) {
	err = g.pass(ctx, "observe", l.Project, func() (err error) { s, err = g.w.Observe(ctx, l); return err })
	return s, err
}

func (g gate) Projects(ctx context.Context) ([]string, error) { return g.w.Projects(ctx) }

func (g gate) Check(ctx context.Context, s RunSpec) error { return g.w.Check(ctx, s) }

func (g gate) Forget(project string) { g.w.Forget(project) }

func (g gate) Watch(ctx context.Context) <-chan string { return g.w.Watch(ctx) }

func (g gate) Pull(ctx context.Context, ref, id, source string) error {
	return g.pass(ctx, "pull", ref, func() error { return g.w.Pull(ctx, ref, id, source) })
}

func (g gate) RemoveImage(ctx context.Context, ref string) error {
	return g.pass(ctx, "remove image", ref, func() error { return g.w.RemoveImage(ctx, ref) })
}

func (g gate) CreateNetwork(ctx context.Context, s NetworkSpec) error {
	return g.pass(ctx, "create network", s.Name, func() error { return g.w.CreateNetwork(ctx, s) })
}

func (g gate) RemoveNetwork(ctx context.Context, id string) error {
	return g.pass(ctx, "remove network", id, func() error { return g.w.RemoveNetwork(ctx, id) })
}

func (g gate) CreateVolume(ctx context.Context, s VolumeSpec) error {
	return g.pass(ctx, "create volume", s.Name, func() error { return g.w.CreateVolume(ctx, s) })
}

func (g gate) RemoveVolume(ctx context.Context, name string) error {
	return g.pass(ctx, "remove volume", name, func() error { return g.w.RemoveVolume(ctx, name) })
}

func (g gate) Run(ctx context.Context, s RunSpec) error {
	return g.pass(ctx, "run", s.Name, func() error { return g.w.Run(ctx, s) })
}

func (g gate) Replace(ctx context.Context, old string, s RunSpec, o ReplaceOptions) error {
	return g.pass(ctx, "replace", old, func() error { return g.w.Replace(ctx, old, s, o) })
}

func (g gate) Update(ctx context.Context, id string, s RunSpec) error {
	return g.pass(ctx, "update", id, func() error { return g.w.Update(ctx, id, s) })
}

func (g gate) Retire(ctx context.Context, s RetireSpec) error {
	return g.pass(ctx, "retire", s.ID, func() error { return g.w.Retire(ctx, s) })
}

func (g gate) Rename(ctx context.Context, id, name string) error {
	return g.pass(ctx, "rename", id, func() error { return g.w.Rename(ctx, id, name) })
}

func (g gate) Delay(ctx context.Context, d time.Duration) error {
	return g.pass(ctx, "delay", d.String(), func() error { return g.w.Delay(ctx, d) })
}

func (g gate) Start(ctx context.Context, id string) error {
	return g.pass(ctx, "start", id, func() error { return g.w.Start(ctx, id) })
}

func (g gate) Stop(ctx context.Context, id string, timeout *time.Duration) error {
	return g.pass(ctx, "stop", id, func() error { return g.w.Stop(ctx, id, timeout) })
}

func (g gate) Remove(ctx context.Context, id string, o RemoveOptions) error {
	return g.pass(ctx, "remove", id, func() error { return g.w.Remove(ctx, id, o) })
}

func (g gate) Await(ctx context.Context, s AwaitSpec) error {
	return g.pass(ctx, "await", s.Service, func() error { return g.w.Await(ctx, s) })
}
