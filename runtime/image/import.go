package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Labels by which the collection finds its way from a document to what it
// refers to.
const (
	labelRefContent  = "containerd.io/gc.ref.content."
	labelRefSnapshot = "containerd.io/gc.ref.snapshot." + snapshotterName
)

// Import makes an image of one layer from the root file system in the tar
// stream r, plain or compressed with gzip, zstd or bzip2. A bad stream, name or
// instruction fails with ErrInvalidArgument and leaves nothing behind that a
// collection would not take.
func (s *Store) Import(ctx context.Context, r io.Reader, o ImportOptions) (Image, error) {
	// All that can be wrong with the words is said before the work.
	var pub publication
	if o.Name != "" {
		tag, err := parseTag(o.Name)
		if err != nil {
			return Image{}, err
		}
		pub.name = tag
	}
	config, err := importConfig(o)
	if err != nil {
		return Image{}, err
	}
	ctx, op, err := s.begin(ctx)
	if err != nil {
		return Image{}, err
	}
	defer op.end(ctx)
	op.later = true

	br, packed, err := peek(r)
	if err != nil {
		return Image{}, err
	}
	var stream io.Reader = br
	if packed == bzipped { // no layer may be; gzip and zstd stay as they are
		tarball, err := decompress(br, packed)
		if err != nil {
			return Image{}, err
		}
		stream = tarball
	}
	need := o.Size
	if packed == plain {
		need = twice(need)
	}
	if err := Room(s.dir, "the archive", need); err != nil {
		return Image{}, err
	}
	layer, err := op.ingest(ctx, stream, true, true, ocispec.Descriptor{})
	if err != nil {
		return Image{}, Full(s.dir, err)
	}
	defer op.discard(ctx, layer.layer)
	config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.layer.diff}}
	layer.desc.MediaType = layer.mediaType()

	pub.target, err = op.assemble(ctx, config, layer)
	if err == nil {
		err = op.publish(ctx, []publication{pub})
	}
	if err != nil {
		return Image{}, Full(s.dir, err)
	}
	return s.published(ctx, pub)
}

// assemble makes an image of a configuration and its only layer.
func (op *operation) assemble(ctx context.Context, config dockerspec.DockerOCIImage, layer *blob) (ocispec.Descriptor, error) {
	layers := []ocispec.Descriptor{layer.desc}
	top, err := op.chain(ctx, layers, config.RootFS.DiffIDs, map[digest.Digest]*unpacked{layer.desc.Digest: layer.layer})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	b, err := json.Marshal(config)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc, err := op.writeBlob(ctx, op.key("config"), ocispec.MediaTypeImageConfig, b, map[string]string{labelRefSnapshot: top})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	manifest := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    desc,
		Layers:    layers,
	}
	if b, err = json.Marshal(manifest); err != nil {
		return ocispec.Descriptor{}, err
	}
	return op.writeBlob(ctx, op.key("manifest"), manifest.MediaType, b, manifestLabels(manifest))
}

// manifestLabels lead from a manifest to its configuration and layers.
func manifestLabels(m ocispec.Manifest) map[string]string {
	labels := map[string]string{labelRefContent + "config": m.Config.Digest.String()}
	for i, l := range m.Layers {
		labels[fmt.Sprintf("%sl.%d", labelRefContent, i)] = l.Digest.String()
	}
	return labels
}

// published is the image an operation has just made.
func (s *Store) published(ctx context.Context, p publication) (Image, error) {
	res, err := s.resolve(ctx, p.target)
	if err != nil {
		return Image{}, err
	}
	byID, err := s.groups(ctx)
	if err != nil {
		return Image{}, err
	}
	if g := byID[res.manifest.Config.Digest]; g != nil {
		return g.image(), nil
	}
	// Somebody has removed it already.
	return (&group{id: res.manifest.Config.Digest, res: res, records: []images.Image{{Name: danglingName(p.target.Digest), Target: p.target}}}).image(), nil
}

// importConfig is the configuration of an imported image, but for its layer.
func importConfig(o ImportOptions) (dockerspec.DockerOCIImage, error) {
	now := time.Now().UTC()
	comment := o.Message
	if comment == "" {
		comment = "Imported from a root file system"
	}
	var c dockerspec.DockerOCIImage
	c.Created = &now
	c.History = []ocispec.History{{Created: &now, Comment: comment}}
	c.Platform = ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}
	if host := platforms.DefaultSpec(); host.Architecture == c.Architecture {
		c.Variant = host.Variant
	}
	if o.Platform != "" {
		p, err := platforms.Parse(o.Platform)
		if err != nil {
			return c, classed(errdefs.ErrInvalidArgument, "platform %q: %w", o.Platform, err)
		}
		if p.OS != "linux" {
			return c, classed(errdefs.ErrInvalidArgument, "platform %q: only images for linux can run here", o.Platform)
		}
		c.Platform = p
	}
	return c, applyChanges(&c.Config, o.Changes)
}
