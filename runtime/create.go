package runtime

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	goruntime "runtime"
	"strings"
	"time"

	"gantry/network"
	"gantry/runtime/spec"
	"gantry/runtime/volume"

	"github.com/containerd/errdefs"
)

// nameRule is Docker's for containers.
var nameRule = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

// Create makes a container that is not started: its record, its writable layer
// and its anonymous volumes. An empty name is chosen. On an error nothing is
// left.
func (e *Engine) Create(ctx context.Context, name string, asked Config) (Container, error) {
	id := newID()
	name = strings.TrimPrefix(name, "/")
	c := Container{ID: id, Name: name, Asked: asked, State: Created, Created: time.Now()}
	if name == "" {
		c.Name = e.freeName()
	} else if !nameRule.MatchString(name) {
		return Container{}, fmt.Errorf("container name %q: only letters, digits and _.- may stand in it, a letter or digit first, two characters at least: %w", name, errdefs.ErrInvalidArgument)
	}
	if err := e.reserve(c.Name, id); err != nil {
		return Container{}, err
	}
	if err := e.create(ctx, &c); err != nil {
		e.release(c.Name, id)
		return Container{}, err
	}
	ct := newContainer(c)
	e.mu.Lock()
	e.byID[id] = ct
	e.mu.Unlock()
	e.emit(c, "create", nil)
	return c, nil
}

func newContainer(c Container) *container {
	return &container{
		c:       c,
		changed: make(chan struct{}),
		nudge:   make(chan struct{}, 1),
		execs:   map[string]bool{},
	}
}

// create does what Create promises, with the name reserved.
func (e *Engine) create(ctx context.Context, c *Container) (err error) {
	cfg := c.Asked
	img, err := e.Images.Get(ctx, imageRef(cfg))
	if err != nil {
		return err
	}
	if a := img.Config.Architecture; a != "" && !runsHere(a) {
		return fmt.Errorf("image %s is for %s, this machine is %s; import one for this machine: %w", cfg.Image, a, goruntime.GOARCH, errdefs.ErrInvalidArgument)
	}
	cfg = cfg.WithImage(img.Config)
	cfg.ImageID = img.ID.String()
	if err := e.resolvePeers(&cfg); err != nil {
		return err
	}
	if err := cfg.Validate(e.host); err != nil {
		return err
	}
	for _, ep := range cfg.Network.Endpoints {
		if ep.Network == "" || ep.Network == network.DefaultNetwork {
			continue // made when it is first used
		}
		if _, err := e.Fabric.Network(ep.Network); err != nil {
			return err
		}
	}
	c.Config = cfg

	dir := e.rec.dir(c.ID)
	for _, d := range []string{dir, filepath.Join(dir, "upper"), filepath.Join(dir, "work")} {
		if err := os.Mkdir(d, 0o710); err != nil {
			return fmt.Errorf("create %s: %w", c.Name, err)
		}
	}
	// The upper directory is the container's "/": everyone in it may pass.
	err = os.Chmod(filepath.Join(dir, "upper"), 0o755)
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if err != nil {
		return err
	}
	var made []string
	defer func() {
		if err != nil {
			for _, v := range made {
				err = errors.Join(err, e.Volumes.Remove(context.WithoutCancel(ctx), v, true))
			}
		}
	}()
	if c.Mounts, made, err = e.resolveMounts(ctx, cfg); err != nil {
		return err
	}
	if cfg.Log.Driver != "none" {
		c.LogPath = filepath.Join(dir, "container.log")
	}
	if err := e.writeFiles(*c); err != nil {
		return fmt.Errorf("create %s: %w", c.Name, err)
	}
	return e.rec.write(*c, true)
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
			return err
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
	hosts, err := hostsFile(c, nil, e.hostGateway(c))
	if err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return errors.Join(
		overwrite(files.Hostname, []byte(hostname(c)+"\n")),
		overwrite(files.Hosts, hosts),
		overwrite(files.ResolvConf, resolvConf(c.Config.Network, host)),
	)
}

// resolveMounts finds or makes what is mounted. made are the anonymous volumes
// it made.
func (e *Engine) resolveMounts(ctx context.Context, c Config) (points []MountPoint, made []string, err error) {
	for _, m := range c.Mounts {
		p := MountPoint{Type: m.Type, Destination: m.Target, ReadOnly: m.ReadOnly, Propagation: m.Propagation}
		switch m.Type {
		case spec.MountBind:
			if _, err := os.Stat(m.Source); errors.Is(err, fs.ErrNotExist) && m.CreateHostPath {
				if err := os.MkdirAll(m.Source, 0o755); err != nil {
					return nil, made, fmt.Errorf("bind mount %s: %w", m.Source, err)
				}
			} else if err != nil {
				return nil, made, fmt.Errorf("bind mount %s: the source does not exist on this machine; create it or set create_host_path: true: %w", m.Source, errdefs.ErrInvalidArgument)
			}
			p.Source = m.Source
		case spec.MountVolume:
			v := volume.Volume{Name: m.Source, Driver: m.Driver, Labels: m.Labels, Anonymous: m.Source == ""}
			if m.Source == "" {
				v.Name = newID()
				v.Labels = maps.Clone(m.Labels)
				if v.Labels == nil {
					v.Labels = map[string]string{}
				}
				v.Labels["com.docker.volume.anonymous"] = ""
				p.Anonymous = true
				made = append(made, v.Name)
			} else if old, err := e.Volumes.Get(m.Source); err == nil {
				v = old
			}
			if v, err = e.Volumes.Create(ctx, v); err != nil {
				return nil, made, err
			}
			p.Name, p.Source, p.Driver = v.Name, v.Mountpoint, v.Driver
		}
		points = append(points, p)
	}
	return points, made, nil
}

func (e *Engine) reserve(name, id string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if owner, taken := e.byName[name]; taken {
		return fmt.Errorf("the container name %q is already in use by container %s; remove or rename that one: %w", name, owner[:12], errdefs.ErrConflict)
	}
	e.byName[name] = id
	return nil
}

func (e *Engine) release(name, id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.byName[name] == id {
		delete(e.byName, name)
	}
}

// Rename gives a container another name.
func (e *Engine) Rename(ctx context.Context, ref, name string) error {
	ct, err := e.find(ref)
	if err != nil {
		return err
	}
	name = strings.TrimPrefix(name, "/")
	if !nameRule.MatchString(name) {
		return fmt.Errorf("container name %q: only letters, digits and _.- may stand in it, a letter or digit first, two characters at least: %w", name, errdefs.ErrInvalidArgument)
	}
	ct.op.Lock()
	defer ct.op.Unlock()
	old := ct.snapshot()
	if err := e.reserve(name, old.ID); err != nil {
		return err
	}
	now, err := e.update(ct, true, func(c *Container) { c.Name = name })
	if err != nil {
		e.release(name, old.ID)
		return err
	}
	e.release(old.Name, old.ID)
	e.emit(now, "rename", map[string]string{"oldName": "/" + old.Name})
	return nil
}

// newID is 32 random bytes as hexadecimal digits.
func newID() string {
	var b [32]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// freeName makes up a name for a container that was given none.
func (e *Engine) freeName() string {
	how := []string{"amber", "brisk", "calm", "deft", "early", "fair", "glad", "hardy", "keen", "lively", "mellow", "neat", "proud", "quiet", "rapid", "steady", "tidy", "vivid", "warm", "young"}
	what := []string{"anchor", "beam", "boom", "bollard", "cable", "capstan", "crane", "davit", "deck", "derrick", "girder", "hawser", "hoist", "jib", "keel", "mast", "pulley", "quay", "spar", "winch"}
	for {
		name := how[mathrand.IntN(len(how))] + "_" + what[mathrand.IntN(len(what))]
		e.mu.RLock()
		_, taken := e.byName[name]
		crowded := len(e.byName) > 100
		e.mu.RUnlock()
		if crowded {
			return name + "_" + newID()[:8]
		}
		if !taken {
			return name
		}
	}
}
