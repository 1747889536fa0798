package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// CommitOptions say what becomes of a container's layer.
type CommitOptions struct {
	Base    digest.Digest // id of the image it lies on
	Name    string        // "web" or "web:1"; empty leaves the image dangling
	Author  string
	Comment string
	// Command is what the container ran, for the history.
	Command string
	// Config replaces the base's: the one of the container.
	Config dockerspec.DockerOCIImageConfig
	// Wished is laid over Config, after Changes, instructions of a Dockerfile
	// as in ImportOptions, were carried out on it.
	Wished  dockerspec.DockerOCIImageConfig
	Changes []string
	// Size is that of the layer in bytes, if it is known: what the disk has no
	// room for is refused before it is written.
	Size int64
}

// Commit makes an image of another one and a layer on top of it, which write
// writes as a tar stream. A layer without entries changes nothing but the
// configuration. The layer's snapshot is named like any other's, so containers
// of the new image start as fast as those of a loaded one.
//
// It fails with ErrFailedPrecondition when the base has been removed.
func (s *Store) Commit(ctx context.Context, o CommitOptions, write func(context.Context, io.Writer) (entries int, err error)) (Image, error) {
	var pub publication
	if o.Name != "" {
		tag, err := parseTag(o.Name)
		if err != nil {
			return Image{}, err
		}
		pub.name = tag
	}
	config, err := commitConfig(o)
	if err != nil {
		return Image{}, err
	}
	ctx, op, err := s.begin(ctx)
	if err != nil {
		return Image{}, fmt.Errorf("commit: %w", err)
	}
	defer op.end(ctx)
	base, err := op.holdBase(ctx, o.Base)
	if err != nil {
		return Image{}, err
	}
	if err := Room(s.dir, "the layer", twice(o.Size)); err != nil {
		return Image{}, fmt.Errorf("commit: %w", err)
	}
	layer, err := op.written(ctx, write)
	if err != nil {
		return Image{}, fmt.Errorf("commit: %w", Full(s.dir, err))
	}
	if layer != nil {
		defer op.discard(ctx, layer.layer)
	}
	pub.target, err = op.onTop(ctx, base, config, layer, o)
	if err == nil {
		err = op.publish(ctx, []publication{pub})
	}
	if err != nil {
		return Image{}, fmt.Errorf("commit: %w", Full(s.dir, err))
	}
	return s.published(ctx, pub)
}

// holdBase finds the image a container lies on and keeps its content from being
// collected until the new image refers to it.
func (op *operation) holdBase(ctx context.Context, id digest.Digest) (*resolved, error) {
	base, err := op.byID(ctx, id)
	if errdefs.IsNotFound(err) {
		return nil, classed(errdefs.ErrFailedPrecondition, "the image %s that the container was made from has been removed: its layers cannot be part of another", short(id))
	}
	if err != nil {
		return nil, err
	}
	if err := op.leases.AddResource(ctx, op.lease, leases.Resource{ID: base.desc.Digest.String(), Type: "content"}); err != nil {
		return nil, fmt.Errorf("hold %s: %w", base.desc.Digest, err)
	}
	return base, nil
}

// written stores what write writes, and unpacks it beside; nil if it had no
// entries.
func (op *operation) written(ctx context.Context, write func(context.Context, io.Writer) (int, error)) (*blob, error) {
	r, w := io.Pipe()
	writing, stop := context.WithCancel(ctx)
	defer stop()
	var entries int
	var failed error
	done := make(chan struct{})
	go func() {
		defer close(done)
		failed = errUnwritten
		defer func() { w.CloseWithError(failed) }() // however write ends
		entries, failed = write(writing, w)
	}()
	layer, err := op.ingest(ctx, r, true, true, ocispec.Descriptor{})
	// Whoever writes on has nobody who reads.
	stop()
	r.CloseWithError(errUnread)
	<-done
	if failed != nil && !errors.Is(failed, errUnread) && !errors.Is(failed, context.Canceled) {
		err = failed // the cause, of which err is the effect
	}
	switch {
	case err != nil:
		if layer != nil {
			op.discard(ctx, layer.layer)
		}
		return nil, err
	case entries == 0:
		op.discard(ctx, layer.layer)
		return nil, nil
	}
	return layer, nil
}

var (
	errUnread    = errors.New("nobody reads on")
	errUnwritten = errors.New("the layer was not written to its end")
)

// onTop makes the image of a base, a configuration and a layer, if there is one.
func (op *operation) onTop(ctx context.Context, base *resolved, c dockerspec.DockerOCIImageConfig, layer *blob, o CommitOptions) (ocispec.Descriptor, error) {
	now := time.Now().UTC()
	config := base.config
	config.Created, config.Author, config.Config = &now, o.Author, c
	config.History = append(slices.Clone(config.History), ocispec.History{
		Created: &now, CreatedBy: o.Command, Author: o.Author, Comment: o.Comment, EmptyLayer: layer == nil,
	})
	config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: slices.Clone(config.RootFS.DiffIDs)}
	manifest := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{},
	}
	for _, l := range base.manifest.Layers {
		l.MediaType = ociLayer(l.MediaType)
		manifest.Layers = append(manifest.Layers, bare(l))
	}
	ready := map[digest.Digest]*unpacked{}
	if layer != nil {
		layer.desc.MediaType = layer.mediaType()
		manifest.Layers = append(manifest.Layers, layer.desc)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, layer.layer.diff)
		ready[layer.desc.Digest] = layer.layer
	}
	top, err := op.chain(ctx, manifest.Layers, config.RootFS.DiffIDs, ready)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	labels := map[string]string{}
	if top != "" {
		labels[labelRefSnapshot] = top
	}
	b, err := json.Marshal(config)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if manifest.Config, err = op.writeBlob(ctx, op.key("config"), ocispec.MediaTypeImageConfig, b, labels); err != nil {
		return ocispec.Descriptor{}, err
	}
	if b, err = json.Marshal(manifest); err != nil {
		return ocispec.Descriptor{}, err
	}
	return op.writeBlob(ctx, op.key("manifest"), manifest.MediaType, b, manifestLabels(manifest))
}

// ociLayer is OCI's word for what Docker calls the same thing otherwise: a
// manifest is in one language.
func ociLayer(mediaType string) string {
	switch mediaType {
	case dockerLayer:
		return ocispec.MediaTypeImageLayer
	case dockerLayerGzip:
		return ocispec.MediaTypeImageLayerGzip
	case dockerLayerZstd:
		return ocispec.MediaTypeImageLayerZstd
	}
	return mediaType
}

// commitConfig is the configuration of a committed image. It is pure. As in
// Docker, what is wished or changed goes before what the container has, and an
// entrypoint that is given drops the container's command.
func commitConfig(o CommitOptions) (dockerspec.DockerOCIImageConfig, error) {
	c := o.Wished
	// The instructions may speak of the container's variables.
	c.Env = slices.Clone(o.Config.Env)
	for _, e := range o.Wished.Env {
		name, value, _ := strings.Cut(e, "=")
		c.Env = setEnv(c.Env, name, value)
	}
	c.Labels, c.Volumes, c.ExposedPorts = over(o.Config.Labels, c.Labels), over(o.Config.Volumes, c.Volumes), over(o.Config.ExposedPorts, c.ExposedPorts)
	if c.WorkingDir == "" {
		c.WorkingDir = o.Config.WorkingDir // WORKDIR may be relative
	}
	if len(c.Shell) == 0 {
		c.Shell = o.Config.Shell
	}
	if err := applyChanges(&c, o.Changes); err != nil {
		return c, err
	}
	if len(c.Entrypoint) == 0 {
		if len(c.Cmd) == 0 {
			c.Cmd = o.Config.Cmd
		}
		if c.Entrypoint == nil {
			c.Entrypoint = o.Config.Entrypoint
		}
	}
	if c.User == "" {
		c.User = o.Config.User
	}
	if c.StopSignal == "" {
		c.StopSignal = o.Config.StopSignal
	}
	if c.Healthcheck == nil {
		c.Healthcheck = o.Config.Healthcheck
	}
	return c, nil
}

// over lays one map over another.
func over[V any](below, above map[string]V) map[string]V {
	if len(below)+len(above) == 0 {
		return nil
	}
	out := maps.Clone(below)
	if out == nil {
		out = map[string]V{}
	}
	maps.Copy(out, above)
	return out
}
