package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"reflect"
	goruntime "runtime"
	"slices"
	"strings"
	"time"

	"gantry/network"
	"gantry/runtime/spec"
	"gantry/runtime/volume"

	"github.com/containerd/errdefs"
)

// Create makes a container that is not started: its record, its writable layer
// and its anonymous volumes. An empty name is chosen. On an error nothing is
// left but named volumes and directories of bind mounts, which belong to
// others too.
func (e *Engine) Create(ctx context.Context, name string, asked Config) (Container, error) {
	id := newID()
	name = strings.TrimPrefix(name, "/")
	c := Container{ID: id, Name: name, Asked: withoutContents(asked), State: Created, Created: time.Now()}
	c.Changed = c.Created
	if name == "" {
		c.Name = e.freeName()
	} else if err := checkName(name); err != nil {
		return Container{}, err
	}
	if err := e.reserve(c.Name, id); err != nil {
		return Container{}, err
	}
	ct, err := e.create(ctx, c, asked)
	if err != nil {
		e.release(c.Name, id)
		return Container{}, err
	}
	c = ct.snapshot()
	e.emit(c, "create", nil)
	return c, nil
}

// withoutContents leaves out what may be large or secret.
func withoutContents(c Config) Config {
	c.Mounts = slices.Clone(c.Mounts)
	for i := range c.Mounts {
		c.Mounts[i].Content = nil
	}
	return c
}

func newContainer(c Container) *container {
	return &container{
		c:       c,
		changed: make(chan struct{}),
		nudge:   make(chan struct{}, 1),
	}
}

// create resolves what was asked for, makes the container's directory with the
// record, and makes the container known. What the container uses is claimed
// meanwhile.
func (e *Engine) create(ctx context.Context, c Container, cfg Config) (ct *container, err error) {
	img, err := e.Images.Get(ctx, imageRef(cfg))
	if err != nil {
		return nil, err
	}
	if a := img.Config.Architecture; a != "" && !runsHere(a) {
		return nil, fmt.Errorf("image %s is for %s, this machine is %s; import one for this machine: %w", cfg.Image, a, goruntime.GOARCH, errdefs.ErrInvalidArgument)
	}
	if err := e.borrowVolumes(&cfg); err != nil {
		return nil, err
	}
	cfg = cfg.WithImage(img.Config)
	cfg.ImageID = img.ID.String()
	if err := e.resolvePeers(&cfg); err != nil {
		return nil, err
	}
	if err := cfg.Validate(e.host); err != nil {
		return nil, err
	}
	if err := e.nameNetworks(&cfg.Network); err != nil {
		return nil, err
	}
	c.Config = cfg

	var claimed []object
	claim := func(o object) error {
		err := e.uses.claim(ctx, o)
		if err == nil {
			claimed = append(claimed, o)
		}
		return err
	}
	defer func() {
		for _, o := range claimed {
			e.uses.unclaim(o)
		}
		if err != nil {
			e.releaseImages(context.WithoutCancel(ctx), c)
		}
	}()
	if err := claim(imageOf(cfg.ImageID)); err != nil {
		return nil, err
	}
	// This pins it: the container can start whatever becomes of the image's names.
	if _, err := e.Images.Lowers(ctx, img.ID); err != nil {
		return nil, err
	}
	if c.Mounts, err = e.resolveMounts(ctx, cfg, claim); err != nil {
		return nil, err
	}
	dir := e.rec.dir(c.ID)
	if cfg.Log.Driver != "none" {
		c.LogPath = filepath.Join(dir, "container.log")
	}
	if err := e.makeContainer(ctx, c); err != nil {
		err = fmt.Errorf("create %s: %w", c.Name, err)
		if undo := e.unmakeContainer(context.WithoutCancel(ctx), c); undo != nil {
			e.Log.Error("take a half-made container apart", "container", c.Name, "error", undo)
		}
		return nil, err
	}
	ct = newContainer(c)
	e.mu.Lock()
	e.byID[c.ID] = ct
	e.mu.Unlock()
	e.filled(c)
	return ct, nil
}

// makeContainer makes what a container has on disk. The record comes last, for
// a directory without one is nobody's. Only where volumes of the container's
// own are made it comes before them, as that of a container to be removed, so
// that whoever dies in between leaves no volume that nobody knows of.
func (e *Engine) makeContainer(ctx context.Context, c Container) error {
	dir := e.rec.dir(c.ID)
	for _, d := range []string{dir, filepath.Join(dir, "upper"), filepath.Join(dir, "work")} {
		if err := os.Mkdir(d, 0o710); err != nil {
			return err
		}
	}
	// The upper directory is the container's "/": everyone in it may pass.
	if err := os.Chmod(filepath.Join(dir, "upper"), 0o755); err != nil {
		return err
	}
	if err := e.writeFiles(c); err != nil {
		return err
	}
	own := slices.ContainsFunc(c.Mounts, func(m MountPoint) bool { return m.Anonymous })
	if !own {
		return e.rec.writeIdentity(c)
	}
	e.fault("create: files made")
	half := c
	half.Removal = &Removal{Volumes: true}
	if err := errors.Join(e.rec.writeState(half, false), e.rec.writeIdentity(c)); err != nil {
		return err
	}
	e.fault("create: half recorded")
	for i, m := range c.Mounts {
		if m.Anonymous {
			if _, err := e.Volumes.Create(ctx, anonymousVolume(m.Name, c.Config.Mounts[i])); err != nil {
				return err
			}
			e.emitObject("volume", "create", m.Name, map[string]string{"driver": m.Driver})
		}
	}
	e.fault("create: volumes made")
	return e.rec.writeState(c, true)
}

func (e *Engine) unmakeContainer(ctx context.Context, c Container) error {
	return errors.Join(e.removeVolumes(ctx, c), os.RemoveAll(e.rec.dir(c.ID)))
}

// anonymousVolume is a volume of a container's own.
func anonymousVolume(name string, m spec.Mount) volume.Volume {
	return volume.Volume{Name: name, Driver: m.Driver, Options: m.DriverOptions, Labels: m.Labels, Anonymous: true}
}

// nameNetworks names the default network where none is named, and those that
// were given by their ids. Whether networks are there is seen at the start, as
// in Docker: its client takes "not found" in answer to a create for a missing
// image, and goes to fetch that.
func (e *Engine) nameNetworks(n *spec.Network) error {
	if len(n.Endpoints) == 0 && (n.Mode == "" || n.Mode == "bridge") {
		n.Endpoints = []spec.Endpoint{{Network: network.DefaultNetwork, MacAddress: n.MacAddress}}
	}
	var named []spec.Endpoint
	for _, at := range n.Endpoints {
		if known, err := e.Fabric.Network(at.Network); err == nil {
			at.Network = known.Name
		}
		i := slices.IndexFunc(named, func(x spec.Endpoint) bool { return x.Network == at.Network })
		switch {
		case i < 0:
			named = append(named, at)
		case reflect.DeepEqual(named[i], spec.Endpoint{Network: at.Network}):
			named[i] = at // the mode says the id, and the endpoint the name
		default:
			return fmt.Errorf("network %s is given twice, by its name and by its id: %w", at.Network, errdefs.ErrInvalidArgument)
		}
	}
	n.Endpoints = named
	return nil
}

// imageRef is what to look an image up by: the id it was pinned to, else its
// name.
func imageRef(c Config) string {
	if c.ImageID != "" {
		return c.ImageID
	}
	return c.Image
}

// runsHere tells whether programs of an architecture run on this one.
func runsHere(arch string) bool {
	return arch == goruntime.GOARCH || arch == "386" && goruntime.GOARCH == "amd64"
}

// resolvePeers turns the names in "container:NAME" modes into ids, so that a
// rename of the peer changes nothing.
func (e *Engine) resolvePeers(c *Config) error {
	for _, mode := range []*string{&c.Network.Mode, &c.PidMode, &c.IpcMode} {
		ref, ok := strings.CutPrefix(*mode, "container:")
		if !ok {
			continue
		}
		ct, err := e.find(ref)
		if err != nil {
			return peerError("join "+*mode, err)
		}
		*mode = "container:" + ct.snapshot().ID
	}
	return nil
}

// writeFiles makes the generated files of a container as far as they are known
// before it has addresses.
func (e *Engine) writeFiles(c Container) error {
	host, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	files := e.filesOf(c.ID)
	return errors.Join(
		overwrite(files.Hostname, []byte(c.Config.HostName(c.ID, e.host)+"\n")),
		overwrite(files.Hosts, nil),
		overwrite(files.ResolvConf, spec.ResolvConf(c.Config.Network, host)),
	)
}

// resolveMounts finds what is mounted and names what is to be made. Named
// volumes that are not there are made here. On an error, what was found so far.
func (e *Engine) resolveMounts(ctx context.Context, c Config, claim func(object) error) ([]MountPoint, error) {
	var points []MountPoint
	for _, m := range c.Mounts {
		p := MountPoint{Type: m.Type, Destination: m.Target, ReadOnly: m.ReadOnly, Propagation: m.Propagation}
		switch m.Type {
		case spec.MountBind:
			if err := bindSource(m); err != nil {
				return points, err
			}
			p.Source = m.Source
		case spec.MountVolume:
			p.Name, p.Anonymous = m.Source, m.Source == "" || m.Anonymous
			if p.Name == "" {
				p.Name = newID()
			}
			if err := claim(volumeOf(p.Name)); err != nil {
				return points, err
			}
			v, err := e.Volumes.Get(p.Name)
			switch {
			case errdefs.IsNotFound(err) && p.Anonymous:
				v = volume.Volume{Driver: volume.DriverLocal, Mountpoint: e.Volumes.Path(p.Name)}
			case errdefs.IsNotFound(err):
				if v, err = e.Volumes.Create(ctx, volume.Volume{Name: p.Name, Driver: m.Driver, Options: m.DriverOptions, Labels: m.Labels}); err != nil {
					return points, err
				}
				e.emitObject("volume", "create", v.Name, map[string]string{"driver": v.Driver})
			case err != nil:
				return points, err
			}
			p.Source, p.Driver = v.Mountpoint, v.Driver
		case spec.MountImage:
			img, err := e.Images.Get(ctx, m.Source)
			if err != nil {
				return points, err
			}
			p.Name, p.Source, p.ReadOnly = m.Source, img.ID.String(), true
			if err := claim(imageOf(p.Source)); err != nil {
				return points, err
			}
			// Pinned like the container's own.
			if _, err := e.Images.Lowers(ctx, img.ID); err != nil {
				return points, err
			}
		}
		points = append(points, p)
	}
	return points, nil
}

// borrowVolumes adds the volumes and binds of the containers that VolumesFrom
// names, where nothing else is mounted at their place. They are named ones for
// the borrower: they do not go with it.
func (e *Engine) borrowVolumes(c *Config) error {
	taken := map[string]bool{}
	for _, m := range c.Mounts {
		taken[path.Clean(m.Target)] = true
	}
	c.Mounts = slices.Clone(c.Mounts)
	for _, from := range c.VolumesFrom {
		ref, mode, _ := strings.Cut(from, ":")
		if mode != "" && mode != "ro" && mode != "rw" {
			return fmt.Errorf("volumes_from %q: the mode %q is neither ro nor rw: %w", from, mode, errdefs.ErrInvalidArgument)
		}
		ct, err := e.find(ref)
		if err != nil {
			return peerError("volumes_from "+from, err)
		}
		owner := ct.snapshot()
		for i, m := range owner.Config.Mounts {
			if i >= len(owner.Mounts) || taken[path.Clean(m.Target)] || m.Type != spec.MountBind && m.Type != spec.MountVolume {
				continue
			}
			taken[path.Clean(m.Target)] = true
			if m.Type == spec.MountVolume {
				m.Source, m.Anonymous, m.NoCopy = owner.Mounts[i].Name, false, true
			}
			m.ReadOnly = m.ReadOnly || mode == "ro"
			c.Mounts = append(c.Mounts, m)
		}
	}
	return nil
}

// peerError is that of a further container which was named and is not there.
// It is the caller's mistake, not a missing page: clients take "not found" for
// a missing image.
func peerError(what string, err error) error {
	return fmt.Errorf("%s: %v: %w", what, err, errdefs.ErrInvalidArgument) //nolint:errorlint // another class on purpose
}

// bindSource checks the source of a bind mount, and makes it where it may.
func bindSource(m spec.Mount) error {
	_, err := os.Stat(m.Source)
	switch {
	case errors.Is(err, fs.ErrNotExist) && m.CreateHostPath:
		err = os.MkdirAll(m.Source, 0o755)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("bind mount %s: the source does not exist on this machine; create it or set create_host_path: true: %w", m.Source, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return fmt.Errorf("bind mount %s: %w: %w", m.Source, err, errdefs.ErrInvalidArgument)
	}
	return nil
}
