package runtime

import (
	"context"
	"maps"

	"gantry/runtime/image"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
)

// PullImage brings an image from a registry.
func (e *Engine) PullImage(ctx context.Context, o image.PullOptions) (image.Pulled, error) {
	p, err := e.Images.Pull(ctx, o)
	if err != nil {
		// What a broken connection left stays for the next try to go on with,
		// until something else makes room.
		if errdefs.IsInvalidArgument(err) || errdefs.IsFailedPrecondition(err) {
			e.collectImages()
		}
		return p, err
	}
	e.emitTransfer(p.Image, "pull", p.Name)
	return p, nil
}

// PushImage sends an image to its registry.
func (e *Engine) PushImage(ctx context.Context, o image.PushOptions) (image.Pushed, error) {
	p, err := e.Images.Push(ctx, o)
	if err == nil {
		e.emitTransfer(p.Image, "push", p.Name)
	}
	return p, err
}

// emitTransfer publishes that an image came or went. As in Docker such an event
// is about the name; the image it means is another matter.
func (e *Engine) emitTransfer(img image.Image, action, name string) {
	attrs := maps.Clone(img.Config.Config.Labels)
	if attrs == nil {
		attrs = map[string]string{}
	}
	attrs["name"] = name
	if named, err := reference.ParseNormalizedNamed(name); err == nil {
		attrs["name"] = reference.FamiliarName(named)
	}
	e.emitObject("image", action, name, attrs)
}

// RemoteTags lists the tags a repository has in its registry.
func (e *Engine) RemoteTags(ctx context.Context, repository string, c image.Credentials) ([]string, error) {
	return e.Images.RemoteTags(ctx, repository, c)
}

// InspectRemote looks at an image in its registry.
func (e *Engine) InspectRemote(ctx context.Context, ref string, c image.Credentials) (image.RemoteImage, error) {
	return e.Images.Inspect(ctx, ref, c)
}

// Login checks credentials with a registry.
func (e *Engine) Login(ctx context.Context, server string, c image.Credentials) (identity string, err error) {
	return e.Images.Login(ctx, server, c)
}

// SearchImages asks a registry for images.
func (e *Engine) SearchImages(ctx context.Context, term string, limit int, c image.Credentials) ([]image.Found, error) {
	return e.Images.Search(ctx, term, limit, c)
}
