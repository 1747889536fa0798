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
	if o.Pause && c.State == Running {
		switch err := e.Pause(ctx, c.ID); {
		case err == nil:
			defer func() {
				// Whoever leaves does not leave it frozen.
				if thaw := e.Unpause(context.WithoutCancel(ctx), c.ID); thaw != nil && !errdefs.IsConflict(thaw) && !errdefs.IsNotFound(thaw) {
					err = errors.Join(err, thaw)
				}
			}()
		case !errdefs.IsConflict(err): // it has just ended, or somebody else froze it
			return image.Image{}, err
		}
	}
	upper := filepath.Join(e.rec.dir(c.ID), "upper")
	img, err := e.Images.Commit(ctx, image.CommitOptions{
		Base: id, Name: o.Name, Author: o.Author, Comment: o.Comment, Command: strings.Join(slices.Concat(c.Config.Entrypoint, c.Config.Command), " "),
		Config: imageConfig(c.Config), Wished: o.Config, Changes: o.Changes,
	}, func(ctx context.Context, w io.Writer) (int, error) { return rootfs.WriteLayer(ctx, w, upper) })
	if err != nil {
		e.collectImages()
		return img, fmt.Errorf("commit %s: %w", c.Name, err)
	}
	e.emit(c, "commit", map[string]string{"comment": o.Comment, "imageID": img.ID.String(), "imageRef": o.Name})
	return img, nil
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
	if h := c.Healthcheck; h != nil {
		out.Healthcheck = &dockerspec.HealthcheckConfig{Test: h.Test, Interval: h.Interval, Timeout: h.Timeout,
			StartPeriod: h.StartPeriod, StartInterval: h.StartInterval, Retries: h.Retries}
	}
	return out
}
