package image

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// dockerEntry is an image in manifest.json of "docker save".
type dockerEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// images makes the images of an archive that has been read, all but their
// records.
func (a *archiveFile) images(ctx context.Context) ([]publication, error) {
	var entries []dockerEntry
	if b, ok := a.document("manifest.json"); ok {
		if err := json.Unmarshal(b, &entries); err != nil {
			return nil, classed(errdefs.ErrInvalidArgument, "manifest.json: %w", err)
		}
	}
	_, isOCI := a.document("oci-layout")
	index, hasIndex := a.document("index.json")
	switch {
	case isOCI && hasIndex:
		return a.ociImages(ctx, index, entries)
	case len(entries) > 0:
		return a.dockerImages(ctx, entries)
	case isOCI:
		return nil, classed(errdefs.ErrInvalidArgument, "the archive is an OCI layout without index.json")
	case entries != nil:
		return nil, classed(errdefs.ErrInvalidArgument, "manifest.json lists no image")
	case a.files == 0:
		return nil, classed(errdefs.ErrInvalidArgument, "the archive is empty")
	}
	return nil, classed(errdefs.ErrInvalidArgument,
		"the archive has neither manifest.json nor index.json, so it holds no saved image or not all of one; for a root file system use \"gantry image import\"")
}

// ociImages makes the images of an OCI layout. Where its index gives no names,
// a manifest.json beside it may: current Dockers write both.
func (a *archiveFile) ociImages(ctx context.Context, b []byte, entries []dockerEntry) ([]publication, error) {
	var index ocispec.Index
	if err := json.Unmarshal(b, &index); err != nil {
		return nil, classed(errdefs.ErrInvalidArgument, "index.json: %w", err)
	}
	if len(index.Manifests) == 0 {
		return nil, classed(errdefs.ErrInvalidArgument, "index.json lists no image")
	}
	if err := a.storeDocuments(ctx); err != nil {
		return nil, err
	}
	var pubs []publication
	made := map[digest.Digest]*resolved{}
	for _, desc := range index.Manifests {
		res := made[desc.Digest]
		if res == nil {
			var err error
			if res, err = a.finish(ctx, desc); err != nil {
				return nil, fmt.Errorf("image %s in index.json: %w", label(desc), err)
			}
			made[desc.Digest] = res
		}
		names, err := a.names(desc, res, entries)
		if err != nil {
			return nil, err
		}
		pubs = append(pubs, publications(desc, names)...)
	}
	return pubs, nil
}

// label is what an error calls an image.
func label(d ocispec.Descriptor) string {
	for _, key := range []string{"io.containerd.image.name", ocispec.AnnotationRefName} {
		if name := d.Annotations[key]; name != "" {
			return fmt.Sprintf("%q", name)
		}
	}
	return d.Digest.String()
}

// names finds the names of an image in an OCI layout.
func (a *archiveFile) names(desc ocispec.Descriptor, res *resolved, entries []dockerEntry) ([]reference.NamedTagged, error) {
	var texts []string
	if name := desc.Annotations["io.containerd.image.name"]; name != "" {
		texts = append(texts, name)
	} else if name := desc.Annotations[ocispec.AnnotationRefName]; strings.ContainsAny(name, ":/") {
		// Without either it is most likely only a tag, of an unknown name.
		texts = append(texts, name)
	}
	if len(texts) == 0 {
		for _, e := range entries {
			if d, ok := blobName(member(e.Config)); ok && d == res.manifest.Config.Digest {
				texts = append(texts, e.RepoTags...)
			}
		}
	}
	return parseTags(texts)
}

func parseTags(texts []string) ([]reference.NamedTagged, error) {
	var names []reference.NamedTagged
	for _, t := range texts {
		n, err := parseTag(t)
		if err != nil {
			return nil, fmt.Errorf("a name in the archive: %w", err)
		}
		names = append(names, n)
	}
	return names, nil
}

// publications are the records of one image: one per name, or one without.
func publications(target ocispec.Descriptor, names []reference.NamedTagged) []publication {
	if len(names) == 0 {
		return []publication{{target: target}}
	}
	var pubs []publication
	for _, n := range names {
		pubs = append(pubs, publication{name: n, target: target})
	}
	return pubs
}

// storeDocuments stores the small blobs of an OCI layout: indexes, manifests,
// configurations, and layers too small to be seen as such.
func (a *archiveFile) storeDocuments(ctx context.Context) error {
	for name, b := range a.small {
		if d, ok := blobName(name); !ok || d.Algorithm() != digest.Canonical {
			continue
		}
		if _, err := a.op.writeBlob(ctx, a.op.key("document"), "", b, nil); err != nil {
			return err
		}
	}
	return nil
}

// finish makes the image below a stored index or manifest whole: checks it,
// makes its snapshots, and ties its parts together for the collection.
func (a *archiveFile) finish(ctx context.Context, target ocispec.Descriptor) (*resolved, error) {
	res, err := a.op.find(ctx, target)
	if errdefs.IsNotFound(err) { // it is the archive that is wrong, not the question
		return nil, classed(errdefs.ErrInvalidArgument, "%s", err)
	}
	if err != nil {
		return nil, err
	}
	for i, l := range res.manifest.Layers {
		info, err := a.op.content.Info(ctx, l.Digest)
		if errdefs.IsNotFound(err) {
			return nil, classed(errdefs.ErrInvalidArgument, "layer %d (%s) is not in the archive", i+1, l.Digest)
		} else if err != nil {
			return nil, err
		}
		if info.Size != l.Size {
			return nil, classed(errdefs.ErrInvalidArgument, "layer %d (%s) has %d bytes, the manifest says %d", i+1, l.Digest, info.Size, l.Size)
		}
	}
	top, err := a.op.chain(ctx, res.manifest.Layers, res.config.RootFS.DiffIDs, a.layers())
	if err != nil {
		return nil, err
	}
	if top != "" {
		if err := a.op.label(ctx, res.manifest.Config.Digest, map[string]string{labelRefSnapshot: top}); err != nil {
			return nil, err
		}
	}
	return res, a.op.tie(ctx, target, map[digest.Digest]bool{})
}

// tie labels every document below target with what it refers to. What an
// archive leaves out (other platforms of an index) is passed over.
func (op *operation) tie(ctx context.Context, target ocispec.Descriptor, tied map[digest.Digest]bool) error {
	if tied[target.Digest] || len(tied) > maxManifests {
		return nil
	}
	tied[target.Digest] = true
	b, err := op.readBlob(ctx, target)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	var doc struct {
		Manifests []ocispec.Descriptor `json:"manifests"`
		ocispec.Manifest
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return classed(errdefs.ErrInvalidArgument, "manifest %s: %w", target.Digest, err)
	}
	if doc.Manifests == nil {
		return op.label(ctx, target.Digest, manifestLabels(doc.Manifest))
	}
	labels := map[string]string{}
	for i, m := range doc.Manifests {
		if m.Digest.Validate() != nil {
			continue
		}
		labels[fmt.Sprintf("%sm.%d", labelRefContent, i)] = m.Digest.String()
		if err := op.tie(ctx, ocispec.Descriptor{Digest: m.Digest}, tied); err != nil {
			return err
		}
	}
	return op.label(ctx, target.Digest, labels)
}

// dockerImages makes the images of an archive that has only manifest.json.
// Their manifests are made here.
func (a *archiveFile) dockerImages(ctx context.Context, entries []dockerEntry) ([]publication, error) {
	var pubs []publication
	for _, e := range entries {
		what := e.Config
		if len(e.RepoTags) > 0 {
			what = e.RepoTags[0]
		}
		names, err := parseTags(e.RepoTags)
		if err != nil {
			return nil, err
		}
		target, err := a.dockerImage(ctx, e)
		if err != nil {
			return nil, fmt.Errorf("image %q: %w", what, err)
		}
		pubs = append(pubs, publications(target, names)...)
	}
	return pubs, nil
}

func (a *archiveFile) dockerImage(ctx context.Context, e dockerEntry) (ocispec.Descriptor, error) {
	var none ocispec.Descriptor
	raw, ok := a.document(member(e.Config))
	if !ok {
		return none, classed(errdefs.ErrInvalidArgument, "the archive has no configuration %q", e.Config)
	}
	config, err := parseConfig(raw)
	if err != nil {
		return none, fmt.Errorf("configuration %q: %w", e.Config, err)
	}
	// "docker save" names a configuration after its digest.
	base := strings.TrimSuffix(e.Config, ".json")
	if hexDigits.MatchString(base) && len(base) == 64 && digest.FromBytes(raw).Encoded() != base {
		return none, classed(errdefs.ErrInvalidArgument, "configuration %q has the digest %s: the archive is damaged or forged", e.Config, digest.FromBytes(raw))
	}
	if len(e.Layers) != len(config.RootFS.DiffIDs) {
		return none, classed(errdefs.ErrInvalidArgument, "manifest.json lists %d layers, the configuration %d", len(e.Layers), len(config.RootFS.DiffIDs))
	}
	if len(e.Layers) > maxLayers {
		return none, classed(errdefs.ErrInvalidArgument, "%d layers (limit %d)", len(e.Layers), maxLayers)
	}
	manifest := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Layers:    []ocispec.Descriptor{},
	}
	for i, name := range e.Layers {
		desc, err := a.dockerLayer(ctx, name, config.RootFS.DiffIDs[i])
		if err != nil {
			return none, fmt.Errorf("layer %d (%q): %w", i+1, name, err)
		}
		manifest.Layers = append(manifest.Layers, desc)
	}
	manifest.Config, err = a.op.writeBlob(ctx, a.op.key("config"), ocispec.MediaTypeImageConfig, raw, nil)
	if err != nil {
		return none, err
	}
	b, err := json.Marshal(manifest)
	if err != nil {
		return none, err
	}
	target, err := a.op.writeBlob(ctx, a.op.key("manifest"), manifest.MediaType, b, nil)
	if err != nil {
		return none, err
	}
	_, err = a.finish(ctx, target)
	return target, err
}

// dockerLayer finds the file of a layer and how it is compressed.
func (a *archiveFile) dockerLayer(ctx context.Context, name string, diff digest.Digest) (ocispec.Descriptor, error) {
	name = a.follow(member(name))
	if raw, ok := a.small[name]; ok { // empty, or in a form without a magic
		desc, err := a.op.writeBlob(ctx, a.op.key("layer"), ocispec.MediaTypeImageLayer, raw, nil)
		return desc, err
	}
	b, ok := a.blobs[name]
	if !ok {
		return ocispec.Descriptor{}, classed(errdefs.ErrInvalidArgument, "it is not in the archive")
	}
	if b.failed != nil {
		return ocispec.Descriptor{}, b.failed
	}
	desc := b.desc
	switch {
	case b.layer != nil:
		desc.MediaType = b.mediaType()
	case desc.Digest == diff:
		desc.MediaType = ocispec.MediaTypeImageLayer
	default: // here from before, compressed; unpacking looks for itself
		desc.MediaType = ocispec.MediaTypeImageLayerGzip
	}
	return desc, nil
}
