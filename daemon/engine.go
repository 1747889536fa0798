package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"reflect"
	"slices"
	"strings"
	"time"

	"gantry/runtime"
	"gantry/runtime/image"
	"gantry/runtime/spec"
	"gantry/runtime/volume"
	"gantry/scheduler"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// engine makes the runtime a scheduler.Engine: services become containers,
// labels become their places in a project.
type engine struct {
	rt  *runtime.Engine
	log *slog.Logger
	// starting bounds the containers that are made at once: beyond a few per
	// core more only wait for each other.
	starting chan struct{}
}

var _ scheduler.Engine = (*engine)(nil)

func newEngine(rt *runtime.Engine, log *slog.Logger) *engine {
	return &engine{rt: rt, log: log, starting: make(chan struct{}, 4*max(rt.Host().CPUs, 1))}
}

// Observe shows what there is of a project.
func (e *engine) Observe(ctx context.Context, look scheduler.Look) (scheduler.State, error) {
	s := scheduler.State{Now: time.Now(), Removals: e.removals(look.Project), Images: map[string]string{}, Sources: map[string]string{}}
	all := e.rt.List()
	for _, c := range all {
		if c.Config.Labels[scheduler.LabelProject] == look.Project {
			s.Containers = append(s.Containers, observed(c))
		}
	}
	onNetwork, mounts := others(all, look.Project)
	for _, n := range e.rt.ListNetworks() {
		if n.Labels[scheduler.LabelProject] == look.Project || slices.Contains(look.Networks, n.Name) {
			s.Networks = append(s.Networks, scheduler.Network{
				ID: n.ID, Name: n.Name, Project: n.Labels[scheduler.LabelProject],
				Key: n.Labels[scheduler.LabelNetwork], Hash: n.Labels[scheduler.LabelHash],
				Others: append(onNetwork[n.Name], onNetwork[n.ID]...),
			})
		}
	}
	for _, v := range e.rt.ListVolumes() {
		if v.Labels[scheduler.LabelProject] == look.Project || slices.Contains(look.Volumes, v.Name) {
			s.Volumes = append(s.Volumes, scheduler.Volume{
				Name: v.Name, Project: v.Labels[scheduler.LabelProject],
				Key: v.Labels[scheduler.LabelVolume], Hash: scheduler.VolumeHash(v.Labels),
				Dir: v.Labels[scheduler.LabelWorkingDir], Others: mounts[v.Name], Lost: e.lostAt(v.Name),
			})
		}
	}
	s.Volumes = append(s.Volumes, e.unknown(s)...)
	s.Dirs = directories(s, look.Dirs)
	for _, ref := range look.Images {
		img, err := e.rt.Image(ctx, ref)
		switch {
		case err == nil:
			s.Images[ref] = img.ID.String()
			if source := img.Source(ref); source != "" {
				s.Sources[ref] = source
			}
		case !errdefs.IsNotFound(err):
			return s, err
		}
	}
	return s, nil
}

// directories tells those apart that containers and volumes were made from, and
// further ones. Where all are one by their paths nothing is looked at: what a dead
// mount does to a stat is nobody's concern then.
func directories(s scheduler.State, further []string) map[string]string {
	paths := slices.Clone(further)
	for _, c := range s.Containers {
		paths = append(paths, c.Dir)
	}
	for _, v := range s.Volumes {
		paths = append(paths, v.Dir)
	}
	paths = slices.DeleteFunc(paths, func(path string) bool { return path == "" })
	slices.Sort(paths)
	if paths = slices.Compact(paths); len(paths) < 2 {
		return nil
	}
	dirs := map[string]string{}
	for _, path := range paths {
		var st unix.Stat_t
		switch err := unix.Stat(path, &st); {
		case err == nil:
			dirs[path] = fmt.Sprintf("%d:%d", st.Dev, st.Ino)
		case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR):
			dirs[path] = ""
		}
	}
	return dirs
}

// others are the containers that are not the project's: by the networks, names
// or ids, those that run are on, and by the volumes they mount.
func others(all []runtime.Container, project string) (onNetwork, mounts map[string][]string) {
	onNetwork, mounts = map[string][]string{}, map[string][]string{}
	for _, c := range all {
		if c.Config.Labels[scheduler.LabelProject] == project {
			continue
		}
		if c.State.Live() {
			for _, ep := range c.Config.Network.Endpoints {
				onNetwork[ep.Network] = append(onNetwork[ep.Network], c.Name)
			}
		}
		for _, m := range c.Mounts {
			if m.Type == spec.MountVolume {
				mounts[m.Name] = append(mounts[m.Name], c.Name)
			}
		}
	}
	for _, by := range []map[string][]string{onNetwork, mounts} {
		for _, names := range by {
			slices.Sort(names)
		}
	}
	return onNetwork, mounts
}

// observed is a container as the scheduler sees it.
func observed(c runtime.Container) scheduler.Container {
	o := scheduler.FromLabels(c.Config.Labels)
	o.ID, o.Name = c.ID, c.Name
	o.Image, o.ImageID = c.Config.Image, c.Config.ImageID
	o.Status = scheduler.Status(c.State)
	if c.Health != nil {
		o.Health = c.Health.Status
	}
	o.ExitCode, o.Stopped, o.Lost = c.ExitCode, c.Stopped, c.Lost
	o.GaveUp = c.GaveUp
	if c.Removal != nil && c.Removal.Call {
		o.RemovedAt = c.Removal.At
	}
	o.Unripe = c.Health == nil && c.State.Live() && !c.Ready(time.Now())
	o.Created, o.StartedAt, o.FinishedAt = c.Created, c.StartedAt, c.FinishedAt
	for _, ep := range c.Config.Network.Endpoints {
		o.Networks = append(o.Networks, ep.Network)
	}
	for _, m := range c.Mounts {
		if m.Type == spec.MountVolume {
			o.Volumes = append(o.Volumes, m.Name)
		}
	}
	for _, p := range c.Config.Network.Ports {
		if p.HostPort != 0 && p.HostEnd == 0 {
			o.Ports = append(o.Ports, fmt.Sprintf("%d/%s", p.HostPort, cmp.Or(p.Protocol, "tcp")))
		}
	}
	for _, mode := range []string{c.Config.Network.Mode, c.Config.PidMode, c.Config.IpcMode} {
		if id, ok := strings.CutPrefix(mode, "container:"); ok {
			o.Joins = append(o.Joins, id)
		}
	}
	return o
}

// Projects are the projects that have a container.
func (e *engine) Projects(context.Context) ([]string, error) {
	var names []string
	for _, c := range e.rt.List() {
		if p := c.Config.Labels[scheduler.LabelProject]; p != "" {
			names = append(names, p)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Check makes the configuration of a replica and throws it away.
func (e *engine) Check(ctx context.Context, s scheduler.RunSpec) error {
	c, err := containerConfig(s)
	if err != nil {
		return err
	}
	if err := sources(c.Mounts); err != nil {
		return fmt.Errorf("service %s: %w", s.Service.Name, err)
	}
	img, err := e.rt.Image(ctx, cmp.Or(s.ImageID, s.Image))
	if errdefs.IsNotFound(err) {
		return nil // what it says is part of the configuration
	}
	if err == nil {
		err = c.WithImage(img.Config).Validate(e.rt.Host())
	}
	if err != nil {
		return fmt.Errorf("service %s: %w", s.Service.Name, err)
	}
	return nil
}

// sources checks that those of bind mounts are there which nobody will make.
func sources(mounts []spec.Mount) error {
	for _, m := range mounts {
		if m.Type != spec.MountBind || m.CreateHostPath {
			continue
		}
		if _, err := os.Stat(m.Source); errors.Is(err, fs.ErrNotExist) {
			return invalid("bind mount %s: the source does not exist on this machine; create it or set create_host_path: true", m.Source)
		}
	}
	return nil
}

// Pull brings an image that a goal needs. The client has pulled what it could,
// with its user's credentials; here there are none. A goal that fixes its image
// gets that one, by its digest, or none.
func (e *engine) Pull(ctx context.Context, ref, id, source string) error {
	if id != "" && source == "" {
		return fmt.Errorf("image %s (%s) is not here any more, and no registry is known to have it: load it again: %w", ref, id, errdefs.ErrNotFound)
	}
	got, err := e.rt.PullImage(ctx, image.PullOptions{Ref: cmp.Or(source, ref)})
	if errdefs.IsPermissionDenied(err) {
		return fmt.Errorf("%w; the daemon has no credentials of its own: `gantry pull` brings it with yours", err)
	}
	if err != nil || id == "" {
		return err
	}
	if got.Image.ID.String() != id {
		return fmt.Errorf("image %s is %s, not the %s that is wanted: %w", source, got.Image.ID, id, errdefs.ErrFailedPrecondition)
	}
	// Its name, unless that means another one by now.
	if _, err := e.rt.Image(ctx, ref); errdefs.IsNotFound(err) {
		return e.rt.TagImage(ctx, id, ref)
	}
	return nil
}

func (e *engine) RemoveImage(ctx context.Context, ref string) error {
	_, err := e.rt.RemoveImage(ctx, ref, false)
	return err
}

func (e *engine) CreateNetwork(ctx context.Context, s scheduler.NetworkSpec) error {
	n, err := networkSpec(s)
	if err != nil {
		return err
	}
	_, err = e.rt.CreateNetwork(ctx, n)
	if errdefs.IsAlreadyExists(err) || errdefs.IsConflict(err) {
		// Made by a call that died before it heard so.
		if old, lookErr := e.rt.Network(s.Name); lookErr == nil && old.Labels[scheduler.LabelProject] == s.Labels[scheduler.LabelProject] {
			return nil
		}
	}
	return err
}

func (e *engine) RemoveNetwork(ctx context.Context, id string) error {
	return e.rt.RemoveNetwork(ctx, id)
}

func (e *engine) CreateVolume(ctx context.Context, s scheduler.VolumeSpec) error {
	_, err := e.rt.CreateVolume(ctx, volumeSpec(s))
	return err
}

func volumeSpec(s scheduler.VolumeSpec) volume.Volume {
	return volume.Volume{Name: s.Name, Driver: s.Config.Driver, Labels: s.Labels, Options: s.Config.DriverOpts}
}

func (e *engine) RemoveVolume(ctx context.Context, name string) error {
	return e.rt.RemoveVolume(ctx, name, true)
}

// Run creates a replica and starts it. One of the same name and make that is
// there already was made by a call that died in between.
func (e *engine) Run(ctx context.Context, s scheduler.RunSpec) error {
	select {
	case e.starting <- struct{}{}:
		defer func() { <-e.starting }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return e.runReplica(ctx, s, nil)
}

// runReplica leaves no container behind that it made and could not start.
func (e *engine) runReplica(ctx context.Context, s scheduler.RunSpec, inherit []runtime.MountPoint) error {
	c, err := containerConfig(s)
	if err != nil {
		return err
	}
	if err := e.inherit(ctx, &c, inherit); err != nil {
		return err
	}
	if old, err := e.rt.Inspect(s.Name); err == nil && old.Name == s.Name && isReplica(old, s) {
		if s.NoStart {
			return nil
		}
		return e.Start(ctx, old.ID)
	}
	made, err := e.rt.Create(ctx, s.Name, c)
	if err != nil || s.NoStart {
		return err
	}
	if err := e.Start(ctx, made.ID); err != nil {
		// Volumes that were handed down to it stay with their container.
		undo := e.rt.Remove(context.WithoutCancel(ctx), made.ID, runtime.RemoveOptions{Force: true, Volumes: true, Planned: true})
		if errdefs.IsNotFound(undo) {
			undo = nil
		}
		return errors.Join(err, undo)
	}
	return nil
}

// isReplica tells whether a container is the very one that is to be made: its
// name alone may have been given to it by hand.
func isReplica(c runtime.Container, s scheduler.RunSpec) bool {
	return reflect.DeepEqual(scheduler.FromLabels(c.Config.Labels), scheduler.FromLabels(s.Labels)) &&
		(s.ImageID == "" || c.Config.ImageID == s.ImageID)
}

// inherit mounts a predecessor's anonymous volumes where the new container
// would have some of its own: where its service or its image ask for them.
func (e *engine) inherit(ctx context.Context, c *spec.Config, points []runtime.MountPoint) error {
	if !slices.ContainsFunc(points, func(m runtime.MountPoint) bool { return m.Anonymous }) {
		return nil
	}
	img, err := e.rt.Image(ctx, cmp.Or(c.ImageID, c.Image))
	if err != nil {
		return err
	}
	for _, m := range points {
		if m.Anonymous {
			keep(c, m, img.Config.Config.Volumes)
		}
	}
	return nil
}

func keep(c *spec.Config, m runtime.MountPoint, ofImage map[string]struct{}) {
	for i, have := range c.Mounts {
		if path.Clean(have.Target) == path.Clean(m.Destination) {
			if have.Type == spec.MountVolume && have.Source == "" {
				c.Mounts[i].Source, c.Mounts[i].Anonymous = m.Name, true
			}
			return
		}
	}
	for target := range ofImage {
		if path.Clean(target) == path.Clean(m.Destination) {
			c.Mounts = append(c.Mounts, spec.Mount{Type: spec.MountVolume, Source: m.Name, Target: m.Destination, Anonymous: true})
			return
		}
	}
}

// Replace makes the new container beside the old one, which gives up its name
// first. Unless the new one is to come first, the old one is stopped before and
// removed after. When the new one does not come about, the old one is put back.
func (e *engine) Replace(ctx context.Context, id string, s scheduler.RunSpec, o scheduler.ReplaceOptions) error {
	old, err := e.rt.Inspect(id)
	if errdefs.IsNotFound(err) {
		return e.Run(ctx, s)
	}
	if err != nil {
		return err
	}
	if _, err := containerConfig(s); err != nil {
		return err // before the old one is touched
	}
	if o.Order != scheduler.StartFirst {
		if err := e.Stop(ctx, id, o.Timeout); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	aside := scheduler.AsideName(old.ID, s.Name)
	switch old.Name {
	case s.Name:
		if err := e.rt.Rename(ctx, id, aside); err != nil {
			return errors.Join(err, e.putBack(context.WithoutCancel(ctx), old))
		}
	case aside: // a call that died in between has put it there
		old.Name = s.Name
	}
	var inherit []runtime.MountPoint
	if !o.RenewAnonVolumes {
		inherit = old.Mounts
	}
	select {
	case e.starting <- struct{}{}:
		defer func() { <-e.starting }()
	case <-ctx.Done():
		return errors.Join(ctx.Err(), e.putBack(context.WithoutCancel(ctx), old))
	}
	if err := e.runReplica(ctx, s, inherit); err != nil {
		return errors.Join(err, e.putBack(context.WithoutCancel(ctx), old))
	}
	if o.Order == scheduler.StartFirst {
		return nil
	}
	return e.Remove(ctx, id, scheduler.RemoveOptions{Volumes: o.RenewAnonVolumes})
}

// Update changes a replica in place.
func (e *engine) Update(ctx context.Context, id string, s scheduler.RunSpec) error {
	c, err := containerConfig(s)
	if err != nil {
		return err
	}
	err = e.rt.Reshape(ctx, id, c)
	if err != nil && !errdefs.IsNotFound(err) && ctx.Err() == nil {
		err = fmt.Errorf("%w; a new container may be able to: `gantry up -d --force-recreate %s`", err, s.Service.Name)
	}
	return err
}

// Retire removes a container whose heir serves.
func (e *engine) Retire(ctx context.Context, r scheduler.RetireSpec) error {
	heir, ok := e.replica(r.Project, r.Service, r.Number, r.Heir)
	switch ok = ok && heir.ID != r.ID; {
	case ok && heir.State == runtime.Running && (heir.Health == nil || heir.Health.Status == runtime.Healthy):
		return e.Remove(ctx, r.ID, r.Options)
	case ok && r.MayFail && !heir.State.Live() && heir.State != runtime.Restarting:
		return nil
	}
	return fmt.Errorf("replica %d of %s is not ready any more, so the one before it stays; look at its logs: %w", r.Number, r.Service, errdefs.ErrFailedPrecondition)
}

// Rename gives a container another name; that it has it already is no error.
func (e *engine) Rename(ctx context.Context, id, name string) error {
	c, err := e.rt.Inspect(id)
	if err != nil || c.Name == name {
		return err
	}
	return e.rt.Rename(ctx, id, name)
}

// putBack gives a container that was to be replaced its name again, and its
// process if it had one.
func (e *engine) putBack(ctx context.Context, old runtime.Container) error {
	now, err := e.rt.Inspect(old.ID)
	if err != nil {
		return err
	}
	if now.Name != old.Name {
		if err := e.rt.Rename(ctx, old.ID, old.Name); err != nil {
			return err
		}
	}
	if old.Stopped || !old.State.Live() && old.State != runtime.Restarting {
		return nil
	}
	return e.Start(ctx, old.ID)
}

func (e *engine) Start(ctx context.Context, id string) error {
	if err := e.rt.Start(ctx, id); err != nil && !errdefs.IsNotModified(err) {
		return err
	}
	return nil
}

func (e *engine) Stop(ctx context.Context, id string, timeout *time.Duration) error {
	err := e.rt.Stop(ctx, id, runtime.StopOptions{Timeout: timeout})
	if errdefs.IsNotModified(err) {
		return nil
	}
	return err
}

func (e *engine) Remove(ctx context.Context, id string, o scheduler.RemoveOptions) error {
	if o.Drain {
		if err := e.rt.Drain(ctx, id, o.Timeout); err != nil {
			return err
		}
	}
	return e.rt.Remove(ctx, id, runtime.RemoveOptions{
		Force: true, Stop: &runtime.StopOptions{Timeout: o.Timeout}, Volumes: o.Volumes, Planned: true,
	})
}

// Delay waits; a daemon that stops does not.
func (e *engine) Delay(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Watch tells which projects had something happen to them.
func (e *engine) Watch(ctx context.Context) <-chan string {
	names := make(chan string, 64)
	go func() {
		defer close(names)
		for again := false; ctx.Err() == nil; again = true {
			if again { // something may have happened to any of them
				all, _ := e.Projects(ctx)
				for _, p := range all {
					select {
					case names <- p:
					case <-ctx.Done():
					}
				}
			}
			err := e.rt.Events(ctx, runtime.EventQuery{}, func(ev runtime.Event) error {
				p := ev.Attributes[scheduler.LabelProject]
				if p == "" || strings.HasPrefix(ev.Action, "exec_") {
					return nil
				}
				select {
				case names <- p:
				case <-ctx.Done():
				}
				return nil
			})
			if err == nil || errors.Is(err, context.Canceled) {
				return // the runtime closes, or nobody listens any more
			}
			// Cut off for reading too slowly: begin anew. Whoever hears a name
			// looks at the whole state anyway.
		}
	}()
	return names
}
