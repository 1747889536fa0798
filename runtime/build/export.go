package build

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"gantry/runtime/image"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/session"
	"github.com/opencontainers/go-digest"
)

// imageExporter stores what was built as an image of this machine. The layers'
// files are where the steps have written them; the image runs on these, and
// nothing is unpacked a second time.
type imageExporter struct {
	exporter.Exporter
	worker *worker
}

func (e *imageExporter) Resolve(ctx context.Context, id int, attrs map[string]string) (exporter.ExporterInstance, error) {
	attrs = maps.Clone(attrs)
	if attrs == nil {
		attrs = map[string]string{}
	}
	// The files are unpacked by what they come from.
	delete(attrs, string(exptypes.OptKeyUnpack))
	pack(attrs)
	store := attrs[string(exptypes.OptKeyStore)] != "false"
	if store {
		names, err := fullNames(attrs[string(exptypes.OptKeyName)])
		if err != nil {
			return nil, err
		}
		attrs[string(exptypes.OptKeyName)] = names
		// An image without a name is kept until it is pruned, as in Docker.
		attrs[string(exptypes.OptKeyDanglingPrefix)] = image.DanglingPrefix
		attrs[string(exptypes.OptKeyDanglingEmptyOnly)] = "true"
	}
	in, err := e.Exporter.Resolve(ctx, id, attrs)
	if err != nil {
		return nil, err
	}
	return &imageExport{ExporterInstance: in, worker: e.worker, store: store, asMade: !rewrites(attrs)}, nil
}

// rewrites says whether the image's layers are not what the steps have written:
// their times are those of the build's epoch.
func rewrites(attrs map[string]string) bool {
	v, set := attrs[string(exptypes.OptKeyRewriteTimestamp)]
	if !set {
		return false
	}
	is, err := strconv.ParseBool(v)
	return is || err != nil
}

// fastest is gzip's first level: a layer is a tenth larger than by the sixth, and
// packed in a third of the time, which somebody waits for.
const fastest = "1"

// pack says how layers are packed, where the caller has not.
func pack(attrs map[string]string) {
	kind, level := string(exptypes.OptKeyLayerCompression), string(exptypes.OptKeyCompressionLevel)
	if attrs[level] == "" && (attrs[kind] == "" || attrs[kind] == "gzip") {
		attrs[level] = fastest
	}
}

// fullNames writes out the names of an image, separated by commas, as the store
// has them.
func fullNames(names string) (string, error) {
	if names == "" || names == "*" {
		return names, nil
	}
	var all []string
	for name := range strings.SplitSeq(names, ",") {
		ref, err := reference.ParseNormalizedNamed(strings.TrimSpace(name))
		if err != nil {
			return "", fmt.Errorf("image name %q: %w: %w", name, err, errdefs.ErrInvalidArgument)
		}
		all = append(all, reference.TagNameOnly(ref).String())
	}
	return strings.Join(all, ","), nil
}

type imageExport struct {
	exporter.ExporterInstance
	worker *worker
	store  bool
	asMade bool // the image's files are those that the steps have left
}

func (e *imageExport) Export(ctx context.Context, src *exporter.Source, info exporter.ExportBuildInfo) (map[string]string, exporter.FinalizeFunc, exporter.DescriptorReference, error) {
	if e.store {
		// What the steps have written is on the disk before it has a name.
		if err := e.worker.written.sync(e.worker.Root); err != nil {
			return nil, nil, nil, err
		}
	}
	answer, finalize, ref, err := e.ExporterInstance.Export(ctx, src, info)
	if err != nil || !e.store {
		return answer, finalize, ref, err
	}
	if err := e.kept(ctx, src, answer, session.NewGroup(info.SessionID)); err != nil {
		if ref != nil {
			err = errors.Join(err, ref.Release()) // it holds the content
		}
		return nil, nil, nil, err
	}
	return answer, finalize, ref, nil
}

// kept looks after what the store has got, and tells whoever asked for the build
// the image's id, also of one that has attestations beside it.
func (e *imageExport) kept(ctx context.Context, src *exporter.Source, answer map[string]string, g session.Group) error {
	config := answer[exptypes.ExporterImageConfigDigestKey]
	if config == "" {
		var err error
		if config, err = e.below(ctx, src, answer[exptypes.ExporterImageDigestKey]); err != nil || config == "" {
			return err // of several platforms each is unpacked when it first runs
		}
		answer[exptypes.ExporterImageConfigDigestKey] = config
	}
	return e.stored(ctx, src, digest.Digest(config), g)
}

// below is the configuration of the one image in an index, "" if there are
// several.
func (e *imageExport) below(ctx context.Context, src *exporter.Source, index string) (string, error) {
	ps, err := exptypes.ParsePlatforms(src.Metadata)
	if err != nil || len(ps.Platforms) != 1 {
		return "", err
	}
	img, err := e.worker.images.Get(ctx, index)
	if errdefs.IsNotFound(err) {
		return "", nil // somebody has removed it already
	}
	if err != nil {
		return "", err
	}
	return img.ID.String(), nil
}

// stored is what there is to be done with an image that the store has by now.
func (e *imageExport) stored(ctx context.Context, src *exporter.Source, config digest.Digest, g session.Group) error {
	if e.asMade {
		if err := e.adopt(ctx, src, config, g); err != nil {
			return fmt.Errorf("adopt the layers: %w", err)
		}
	}
	if e.worker.built == nil {
		return nil
	}
	img, err := e.worker.images.Get(ctx, config.String())
	if errdefs.IsNotFound(err) {
		return nil // somebody has removed it already; it was built all the same
	}
	if err != nil {
		return err
	}
	e.worker.built(img)
	return nil
}

// adopt gives the image the snapshot of what was built.
func (e *imageExport) adopt(ctx context.Context, src *exporter.Source, config digest.Digest, g session.Group) (err error) {
	ref, err := hostRef(src)
	if err != nil || ref == nil {
		return err
	}
	if have, err := e.worker.images.Adopted(ctx, config); err != nil || have {
		return err
	}
	m, err := ref.Mount(ctx, true, g)
	if err != nil {
		return err
	}
	mounts, release, err := m.Mount()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	// Layers that nobody has looked at before were unpacked by the mount.
	if err := e.worker.written.sync(e.worker.Root); err != nil {
		return err
	}
	return e.worker.images.Adopt(ctx, config, mounts)
}

// hostRef is what was built for this machine; nil for an image without layers.
func hostRef(src *exporter.Source) (cache.ImmutableRef, error) {
	if src.Ref != nil || len(src.Refs) == 0 {
		return src.Ref, nil
	}
	ps, err := exptypes.ParsePlatforms(src.Metadata)
	if err != nil {
		return nil, err
	}
	host := platforms.Only(platforms.DefaultSpec())
	for _, p := range ps.Platforms {
		if host.Match(p.Platform) {
			ref, _ := src.FindRef(p.ID)
			return ref, nil
		}
	}
	return nil, nil
}
