package image

import (
	"context"
	"encoding/json"
	"fmt"
	"sort"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of Docker, beside the OCI ones. Two generations of clients made
// two names for everything.
const (
	dockerManifest   = "application/vnd.docker.distribution.manifest.v2+json"
	dockerIndex      = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig     = "application/vnd.docker.container.image.v1+json"
	dockerLayer      = "application/vnd.docker.image.rootfs.diff.tar"
	dockerLayerGzip  = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	dockerLayerZstd  = "application/vnd.docker.image.rootfs.diff.tar.zstd"
	dockerSchema1    = "application/vnd.docker.distribution.manifest.v1+json"
	dockerSchema1Sig = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// Bounds on what an archive's documents may refer to. Digests make circles
// impossible, but not heaps.
const (
	maxDepth     = 4
	maxManifests = 1000
	maxLayers    = 1000
)

// resolved is the image of this machine's platform below a target.
type resolved struct {
	target   digest.Digest
	desc     ocispec.Descriptor // of the manifest
	manifest ocispec.Manifest
	config   dockerspec.DockerOCIImage
	top      string // snapshot, "" without layers
	size     int64
}

// resolve finds the image below a record's target, from memory if it can.
func (s *Store) resolve(ctx context.Context, target ocispec.Descriptor) (*resolved, error) {
	if r, ok := s.resolved.Load(target.Digest); ok {
		return r.(*resolved), nil
	}
	changes := s.changes.Load()
	r, err := s.find(ctx, target)
	if err != nil {
		return nil, err
	}
	// Sum of the unpacked layers; a layer that is not unpacked counts nothing.
	for name := r.top; name != ""; {
		info, err := s.snaps.Stat(ctx, name)
		if errdefs.IsNotFound(err) {
			return r, nil // not remembered: it will be unpacked
		} else if err != nil {
			return nil, err
		}
		u, err := s.snaps.Usage(ctx, name)
		if err != nil {
			return nil, err
		}
		r.size += u.Size
		name = info.Parent
	}
	// What a pull brings below the same index meanwhile may be preferred to it.
	if s.changes.Load() == changes {
		s.resolved.Store(target.Digest, r)
	}
	return r, nil
}

// find walks from an index or a manifest to the image of this machine's
// platform; failing that to the first whose content is here.
func (s *Store) find(ctx context.Context, target ocispec.Descriptor) (*resolved, error) {
	w := &walk{s: s, ctx: ctx}
	if err := w.visit(target, 0); err != nil {
		return nil, err
	}
	if len(w.found) == 0 {
		if w.missing != nil {
			return nil, w.missing
		}
		return nil, classed(errdefs.ErrInvalidArgument, "%s holds no image (only other artifacts)", target.Digest)
	}
	host := platforms.Only(platforms.DefaultSpec())
	sort.SliceStable(w.found, func(i, j int) bool {
		a, b := platform(w.found[i]), platform(w.found[j])
		if ma, mb := host.Match(a), host.Match(b); ma != mb {
			return ma
		}
		return host.Less(a, b)
	})
	r := w.found[0]
	r.target = target.Digest
	return r, nil
}

func platform(r *resolved) ocispec.Platform {
	return platforms.Normalize(r.config.Platform)
}

// walk collects the images below a document.
type walk struct {
	s       *Store
	ctx     context.Context
	seen    int
	found   []*resolved
	missing error // why a manifest was passed over
}

func (w *walk) visit(desc ocispec.Descriptor, depth int) error {
	if w.seen++; w.seen > maxManifests {
		return classed(errdefs.ErrInvalidArgument, "more than %d manifests in one image", maxManifests)
	}
	if depth > maxDepth {
		return classed(errdefs.ErrInvalidArgument, "indexes are nested more than %d deep at %s", maxDepth, desc.Digest)
	}
	if err := desc.Digest.Validate(); err != nil {
		return classed(errdefs.ErrInvalidArgument, "digest %q: %w", desc.Digest, err)
	}
	b, err := w.s.readBlob(w.ctx, desc)
	if errdefs.IsNotFound(err) {
		// An archive of one platform keeps the index of all.
		if w.missing == nil {
			w.missing = classed(errdefs.ErrNotFound, "manifest %s is missing", desc.Digest)
		}
		return nil
	}
	if err != nil {
		return err
	}
	doc, kind, err := parseDocument(desc, b)
	if err != nil {
		return err
	}
	switch {
	case isIndex(kind) || kind == "" && doc.Manifests != nil:
		for _, m := range doc.Manifests {
			if m.Annotations["vnd.docker.reference.type"] != "" {
				continue // attestations of BuildKit, not images
			}
			if err := w.visit(m, depth+1); err != nil {
				return err
			}
		}
		return nil
	case isManifest(kind) || kind == "" && doc.Config != nil:
		r, err := w.image(desc, b)
		if errdefs.IsNotFound(err) {
			w.missing = err
			return nil
		}
		if r != nil {
			w.found = append(w.found, r)
		}
		return err
	}
	return wrongKind(desc, kind)
}

func wrongKind(desc ocispec.Descriptor, kind string) error {
	return classed(errdefs.ErrInvalidArgument, "%s has the media type %q, which is neither an image nor an index", desc.Digest, kind)
}

func isIndex(kind string) bool { return kind == ocispec.MediaTypeImageIndex || kind == dockerIndex }
func isManifest(kind string) bool {
	return kind == ocispec.MediaTypeImageManifest || kind == dockerManifest
}

// document is a manifest or an index, as far as it shows which of the two.
type document struct {
	MediaType string               `json:"mediaType"`
	Manifests []ocispec.Descriptor `json:"manifests"`
	Config    *ocispec.Descriptor  `json:"config"`
	Layers    []ocispec.Descriptor `json:"layers"`
	FSLayers  json.RawMessage      `json:"fsLayers"`
}

// parseDocument reads a document and says of which kind it is, by its
// descriptor first: "" if neither says.
func parseDocument(desc ocispec.Descriptor, b []byte) (document, string, error) {
	var doc document
	if err := json.Unmarshal(b, &doc); err != nil {
		return doc, "", classed(errdefs.ErrInvalidArgument, "manifest %s: %w", desc.Digest, err)
	}
	kind := desc.MediaType
	if kind == "" {
		kind = doc.MediaType
	}
	switch {
	case kind == dockerSchema1 || kind == dockerSchema1Sig || doc.FSLayers != nil:
		return doc, kind, classed(errdefs.ErrInvalidArgument,
			"manifest %s has the old format \"schema 1\", which is not supported: save or push the image again with a current tool", desc.Digest)
	// Both at once is how a document is read in two ways by two tools.
	case doc.Manifests != nil && (doc.Config != nil || doc.Layers != nil):
		return doc, kind, classed(errdefs.ErrInvalidArgument, "manifest %s claims to be an index and an image at once", desc.Digest)
	}
	return doc, kind, nil
}

// image reads a manifest and its configuration; nil for an artifact that is no
// image.
func (w *walk) image(desc ocispec.Descriptor, b []byte) (*resolved, error) {
	r := &resolved{desc: bare(desc)}
	var err error
	if r.manifest, err = parseManifest(desc, b); err != nil {
		return nil, err
	}
	if t := r.manifest.Config.MediaType; t != ocispec.MediaTypeImageConfig && t != dockerConfig {
		return nil, nil
	}
	for i, l := range r.manifest.Layers {
		if err := checkLayer(l); err != nil {
			return nil, fmt.Errorf("manifest %s: layer %d: %w", desc.Digest, i+1, err)
		}
	}
	if err := r.manifest.Config.Digest.Validate(); err != nil {
		return nil, classed(errdefs.ErrInvalidArgument, "manifest %s: digest of the configuration: %w", desc.Digest, err)
	}
	c, err := w.s.readBlob(w.ctx, r.manifest.Config)
	if errdefs.IsNotFound(err) {
		return nil, classed(errdefs.ErrNotFound, "configuration %s is missing", r.manifest.Config.Digest)
	}
	if err != nil {
		return nil, err
	}
	if r.config, err = parseConfig(c); err != nil {
		return nil, fmt.Errorf("configuration %s: %w", r.manifest.Config.Digest, err)
	}
	if n := len(r.config.RootFS.DiffIDs); n != len(r.manifest.Layers) {
		return nil, classed(errdefs.ErrInvalidArgument,
			"manifest %s has %d layers, its configuration %d", desc.Digest, len(r.manifest.Layers), n)
	}
	if len(r.config.RootFS.DiffIDs) == 0 {
		return r, nil
	}
	if r.top, err = w.s.adopted(w.ctx, r.manifest.Config); err != nil {
		return nil, err
	}
	if r.top == "" {
		r.top = layerSnapshot(identity.ChainID(append([]digest.Digest(nil), r.config.RootFS.DiffIDs...)))
	}
	return r, nil
}

// parseManifest reads a manifest, whose layers may be of any kind.
func parseManifest(desc ocispec.Descriptor, b []byte) (ocispec.Manifest, error) {
	var m ocispec.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return m, classed(errdefs.ErrInvalidArgument, "manifest %s: %w", desc.Digest, err)
	}
	if len(m.Layers) > maxLayers {
		return m, classed(errdefs.ErrInvalidArgument, "manifest %s has %d layers (limit %d)", desc.Digest, len(m.Layers), maxLayers)
	}
	return m, nil
}

// parseConfig reads an image's configuration.
func parseConfig(b []byte) (dockerspec.DockerOCIImage, error) {
	var c dockerspec.DockerOCIImage
	if err := json.Unmarshal(b, &c); err != nil {
		return c, classed(errdefs.ErrInvalidArgument, "%w", err)
	}
	if t := c.RootFS.Type; t != "layers" && (t != "" || len(c.RootFS.DiffIDs) > 0) {
		return c, classed(errdefs.ErrInvalidArgument, "rootfs has the type %q, only \"layers\" is known", t)
	}
	for i, d := range c.RootFS.DiffIDs {
		if err := d.Validate(); err != nil {
			return c, classed(errdefs.ErrInvalidArgument, "diff id %d: %w", i+1, err)
		}
	}
	return c, nil
}

// checkLayer refuses layers of kinds that cannot be unpacked.
func checkLayer(l ocispec.Descriptor) error {
	if err := l.Digest.Validate(); err != nil {
		return classed(errdefs.ErrInvalidArgument, "digest %q: %w", l.Digest, err)
	}
	switch l.MediaType {
	case ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd,
		dockerLayer, dockerLayerGzip, dockerLayerZstd:
		return nil
	}
	if strings.Contains(l.MediaType, "foreign") || strings.Contains(l.MediaType, "nondistributable") {
		return classed(errdefs.ErrInvalidArgument, "media type %q: its content has to be fetched from elsewhere, which is not supported", l.MediaType)
	}
	return classed(errdefs.ErrInvalidArgument, "media type %q is not supported", l.MediaType)
}

// recordSet are all image records at one moment.
type recordSet struct {
	changes  uint64
	all      []images.Image
	byName   map[string]images.Image
	byTarget map[digest.Digest][]images.Image
}

// recordSet reads the records, or takes them from memory if nothing was
// written since.
func (s *Store) recordSet(ctx context.Context) (*recordSet, error) {
	// The counter is read first: a write in between makes the set look older
	// than it is, never newer.
	changes := s.changes.Load()
	if set := s.records.Load(); set != nil && set.changes == changes {
		return set, nil
	}
	all, err := s.images.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("read image records: %w", err)
	}
	set := &recordSet{changes: changes, all: all, byName: map[string]images.Image{}, byTarget: map[digest.Digest][]images.Image{}}
	for _, r := range all {
		set.byName[r.Name] = r
		set.byTarget[r.Target.Digest] = append(set.byTarget[r.Target.Digest], r)
	}
	s.records.Store(set)
	return set, nil
}
