package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"gantry/runtime/image"
	"gantry/runtime/rootfs"
	"gantry/runtime/spec"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// CommitOptions say what image is made of a container.
type CommitOptions struct {
	Name            string // "web" or "web:1"; empty: none
	Author, Comment string
	Pause           bool // a running container, while its layer is read
	Config          dockerspec.DockerOCIImageConfig
	Changes         []string // instructions of a Dockerfile
}

// Commit makes an image of what a container is: the layers of its image, its
// own on top, and its configuration. Volumes are not part of it.
func (e *Engine) Commit(ctx context.Context, ref string, o CommitOptions) (_ image.Image, err error) {
	ct, err := e.find(ref)
	if err != nil {
		return image.Image{}, err
	}
	c := ct.snapshot()
	if c.Removal != nil || c.State == Removing || c.State == Dead {
		return image.Image{}, beingRemoved(c)
	}
	id, err := parseImageID(c.Config.ImageID)
	if err != nil {
		return image.Image{}, err
	}
	// What changes meanwhile is not much beside it.
	size, err := e.ownSize(ctx, c)
	if err != nil {
		return image.Image{}, err
	}
	if o.Pause && c.State == Running {
		thaw, err := e.freezeToCommit(ctx, ct)
		if err != nil {
			return image.Image{}, err
		}
		defer func() { err = errors.Join(err, thaw()) }()
	}
	upper := filepath.Join(e.rec.dir(c.ID), "upper")
	img, err := e.Images.Commit(ctx, image.CommitOptions{
		Base: id, Name: o.Name, Author: o.Author, Comment: o.Comment, Command: strings.Join(slices.Concat(c.Config.Entrypoint, c.Config.Command), " "),
		Config: imageConfig(c.Config), Wished: o.Config, Changes: o.Changes, Size: size,
	}, func(ctx context.Context, w io.Writer) (int, error) {
		e.fault("commit: frozen")
		return rootfs.WriteLayer(ctx, w, upper)
	})
	if err != nil {
		e.collectImages()
		return img, ct.unlessDoomed(fmt.Errorf("commit %s: %w", c.Name, err))
	}
	e.emit(c, "commit", map[string]string{"comment": o.Comment, "imageID": img.ID.String(), "imageRef": o.Name})
	return img, nil
}

// freezeToCommit pauses a running container and gives what lets it go on. That
// it is frozen for this alone is on disk first: the next daemon thaws it.
func (e *Engine) freezeToCommit(ctx context.Context, ct *container) (thaw func() error, err error) {
	if _, err := e.update(ct, quietly, func(c *Container) { c.Committing = true }); err != nil {
		return nil, err
	}
	// Whoever leaves does not leave it frozen.
	ctx = context.WithoutCancel(ctx)
	done := func() error {
		_, err := e.update(ct, quietly|fact, func(c *Container) { c.Committing = false })
		if errdefs.IsNotFound(err) {
			return nil // removed meanwhile
		}
		return err
	}
	err = e.Pause(ctx, ct.snapshot().ID)
	if errdefs.IsConflict(err) || errdefs.IsNotFound(err) {
		return done, nil // it has just ended, or somebody else froze it
	}
	if err != nil {
		return nil, errors.Join(err, done())
	}
	return func() error {
		e.fault("commit: read")
		err := e.Unpause(ctx, ct.snapshot().ID)
		if errdefs.IsConflict(err) || errdefs.IsNotFound(err) {
			err = nil
		}
		return errors.Join(err, done())
	}, nil
}

// imageConfig is what an image says of the containers made from it, read off
// one of them.
func imageConfig(c Config) dockerspec.DockerOCIImageConfig {
	out := dockerspec.DockerOCIImageConfig{ImageConfig: ocispec.ImageConfig{
		User: c.User, WorkingDir: c.WorkingDir, Env: slices.Clone(c.Env), Labels: c.Labels, StopSignal: c.StopSignal,
		Entrypoint: slices.Clone(c.Entrypoint), Cmd: slices.Clone(c.Command),
	}}
	for _, p := range c.Network.Exposed {
		if out.ExposedPorts == nil {
			out.ExposedPorts = map[string]struct{}{}
		}
		out.ExposedPorts[p] = struct{}{}
	}
	for _, m := range c.Mounts {
		if m.Type != spec.MountVolume || m.Source != "" && !m.Anonymous {
			continue // a volume with a name is the container's, not the image's
		}
		if out.Volumes == nil {
			out.Volumes = map[string]struct{}{}
		}
		out.Volumes[m.Target] = struct{}{}
	}
	// A probe from outside is gantry's own: others could not run such an image.
	if h := c.Healthcheck; h != nil && !h.Outside() {
		out.Healthcheck = &dockerspec.HealthcheckConfig{Test: h.Test, Interval: h.Interval, Timeout: h.Timeout,
			StartPeriod: h.StartPeriod, StartInterval: h.StartInterval, Retries: h.Retries}
	}
	return out
}
