package image

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

// PullOptions say what is pulled.
type PullOptions struct {
	// Ref is a name, with a tag or a digest or for ":latest".
	Ref string
	// Platform is "os/arch[/variant]"; empty is this machine's.
	Platform    string
	Credentials Credentials
	// Report is told how it goes, by several goroutines. It may be nil.
	Report func(Progress)
}

// Pulled is what [Store.Pull] brought.
type Pulled struct {
	Image  Image
	Name   string        // familiar
	Digest digest.Digest // of what the name means in the registry
	Fresh  bool          // there was something to bring
}

// Pull brings an image from a registry and gives it its name. Layers are
// fetched side by side, unpacked while they come, and fetched once when several
// pulls want them; a connection that breaks is gone on with. A name that means
// what it meant before costs one request.
//
// Every digest, size and media type is checked; what is wrong fails with
// ErrInvalidArgument. What the disk has no room for is refused before it is
// fetched.
func (s *Store) Pull(ctx context.Context, o PullOptions) (Pulled, error) {
	name, err := parsePull(o.Ref)
	if err != nil {
		return Pulled{}, err
	}
	p := &puller{report: o.Report, match: platforms.Only(platforms.DefaultSpec())}
	if p.report == nil {
		p.report = func(Progress) {}
	}
	if o.Platform != "" {
		if p.platform, err = platforms.Parse(o.Platform); err != nil {
			return Pulled{}, classed(errdefs.ErrInvalidArgument, "platform %w", err)
		}
		p.strict = true
		p.match = platforms.OnlyStrict(p.platform)
	}
	if p.remote, err = s.remote(name, o.Credentials, nil); err != nil {
		return Pulled{}, err
	}
	defer p.remote.close()
	out, err := s.pull(s.context(ctx), p)
	if err != nil {
		return Pulled{}, fmt.Errorf("pull %s: %w", reference.FamiliarString(name), Full(s.dir, err))
	}
	return out, nil
}

// parsePull reads a name for a registry.
func parsePull(ref string) (reference.Named, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, badName(ref, err)
	}
	switch tagged, _ := named.(reference.Tagged); {
	case named.Name() == "docker.io/library/scratch":
		return nil, classed(errdefs.ErrInvalidArgument, "scratch is no image: in a Dockerfile it means to begin with nothing")
	case named.Name() == "docker.io/library/sha256" && tagged != nil && len(tagged.Tag()) == 64:
		return nil, classed(errdefs.ErrInvalidArgument, "%s is the id of an image; a registry knows names, such as NAME@sha256:DIGEST", reference.FamiliarString(named))
	}
	if d, ok := named.(reference.Digested); ok {
		if err := checkDigest(d.Digest()); err != nil {
			return nil, badName(ref, err)
		}
		// A tag beside a digest says nothing more.
		return reference.WithDigest(reference.TrimNamed(named), d.Digest())
	}
	return reference.TagNameOnly(named), nil
}

// puller is a pull under way.
type puller struct {
	*operation
	remote   *remote
	report   func(Progress)
	platform ocispec.Platform // asked for, with strict
	strict   bool
	match    platforms.MatchComparer

	documents int             // fetched so far
	others    []string        // platforms passed over
	touched   []digest.Digest // what came from this repository
}

func (s *Store) pull(ctx context.Context, p *puller) (Pulled, error) {
	desc, err := p.remote.resolve(ctx)
	if err != nil {
		return Pulled{}, err
	}
	out := Pulled{Name: reference.FamiliarString(p.remote.name), Digest: desc.Digest}
	if img, ok := s.upToDate(ctx, p, desc.Digest); ok {
		out.Image = img
		return out, nil
	}
	opctx, op, err := s.begin(ctx)
	if err != nil {
		return out, err
	}
	defer op.end(opctx)
	op.later = true
	p.operation = op
	if _, err := p.read(opctx, &desc); err != nil { // what kind it is, too
		return out, err
	}
	found, err := p.descend(opctx, desc, 0)
	if err != nil {
		return out, err
	}
	if found == nil {
		return out, p.noPlatform()
	}
	if err := p.layers(opctx, found); err != nil {
		return out, err
	}
	pub := publication{name: p.remote.name, target: desc, source: desc.Digest}
	if p.foreign(found) {
		// The name means this platform then, as it was asked for. Below an
		// index it would mean the machine's as soon as that is there.
		pub.target = found.desc
	}
	if err := op.tie(opctx, pub.target, map[digest.Digest]bool{}); err != nil {
		return out, err
	}
	if err := op.rememberSource(opctx, p.remote.name, p.touched); err != nil {
		return out, err
	}
	if err := op.publish(opctx, []publication{pub}); err != nil {
		return out, err
	}
	s.resolved.Delete(pub.target.Digest) // there is more below it than before
	out.Fresh = true
	out.Image, err = s.published(ctx, pub)
	return out, err
}

// foreign tells whether an image of another platform than this machine's was
// asked for.
func (p *puller) foreign(found *resolved) bool {
	return p.strict && !platforms.Only(platforms.DefaultSpec()).Match(platform(found))
}

// upToDate finds the image that a name has already, if it is what the registry
// has under it.
func (s *Store) upToDate(ctx context.Context, p *puller, now digest.Digest) (Image, bool) {
	set, err := s.recordSet(ctx)
	if err != nil {
		return Image{}, false
	}
	r, ok := set.byName[p.remote.name.String()]
	if !ok || r.Target.Digest != now && sourceOf(r) != now {
		return Image{}, false
	}
	res, err := s.find(ctx, r.Target)
	if err != nil || p.strict && !p.match.Match(platform(res)) ||
		!p.strict && r.Target.Digest != now && !p.match.Match(platform(res)) {
		return Image{}, false
	}
	for _, l := range res.manifest.Layers {
		if _, err := s.content.Info(ctx, l.Digest); err != nil {
			return Image{}, false // an archive brought part of it
		}
	}
	if sourceOf(r) == now {
		s.current.found(r.Name, set.byName)
	} else {
		// It came from elsewhere, an archive or a build: now it has a source.
		err := s.db.Update(func(tx *bolt.Tx) error {
			ctx := boltutil.WithTransaction(ctx, tx)
			record, err := s.images.Get(ctx, r.Name)
			if err != nil || record.Target.Digest != r.Target.Digest {
				return errdefs.ErrNotFound // just removed, or another one
			}
			return s.setName(ctx, r.Name, record.Target, now)
		})
		if err != nil {
			return Image{}, false
		}
	}
	img, err := s.published(ctx, publication{name: p.remote.name, target: r.Target})
	return img, err == nil
}

// maxFetched bounds the documents of one pull: an index leads to the image
// wanted, not to all of them.
const maxFetched = 40

// descend walks from a document to the image of the platform; nil if it is not
// below it. What is read on the way is stored.
func (p *puller) descend(ctx context.Context, desc ocispec.Descriptor, depth int) (*resolved, error) {
	if depth > maxDepth {
		return nil, classed(errdefs.ErrInvalidArgument, "indexes are nested more than %d deep at %s", maxDepth, desc.Digest)
	}
	if err := checkDigest(desc.Digest); err != nil {
		return nil, err
	}
	doc, err := p.read(ctx, &desc)
	if err != nil {
		return nil, err
	}
	if doc.Manifests == nil {
		return p.image(ctx, desc, depth)
	}
	if len(doc.Manifests) > maxManifests {
		return nil, classed(errdefs.ErrInvalidArgument, "index %s lists %d manifests (limit %d)", desc.Digest, len(doc.Manifests), maxManifests)
	}
	for _, m := range p.wanted(doc.Manifests) {
		found, err := p.descend(ctx, m, depth+1)
		if found != nil || err != nil {
			return found, err
		}
	}
	return nil, nil
}

// wanted are the entries of an index that may lead to the platform, the best
// first.
func (p *puller) wanted(all []ocispec.Descriptor) []ocispec.Descriptor {
	var named, unnamed []ocispec.Descriptor
	for _, m := range all {
		switch {
		case m.Annotations["vnd.docker.reference.type"] != "":
			// attestations of BuildKit, not images
		case m.Platform == nil || m.Platform.OS == "" && m.Platform.Architecture == "":
			unnamed = append(unnamed, m)
		case p.match.Match(*m.Platform):
			named = append(named, m)
		default:
			p.others = append(p.others, platforms.FormatAll(*m.Platform))
		}
	}
	slices.SortStableFunc(named, func(a, b ocispec.Descriptor) int {
		switch {
		case p.match.Less(*a.Platform, *b.Platform):
			return -1
		case p.match.Less(*b.Platform, *a.Platform):
			return 1
		}
		return 0
	})
	return append(named, unnamed...)
}

func (p *puller) noPlatform() error {
	want := p.platform
	if !p.strict {
		want = platforms.DefaultSpec()
	}
	slices.Sort(p.others)
	others := slices.Compact(p.others)
	if len(others) == 0 {
		return classed(errdefs.ErrNotFound, "the registry has no image for %s under this name", platforms.Format(want))
	}
	return classed(errdefs.ErrNotFound, "the registry has no image for %s under this name; it has %s: choose one with --platform", platforms.Format(want), join(others, 20))
}

// image reads the configuration of a manifest that has been stored; nil for
// one of another platform, or of something that is no image.
func (p *puller) image(ctx context.Context, desc ocispec.Descriptor, depth int) (*resolved, error) {
	b, err := p.readBlob(ctx, desc)
	if err != nil {
		return nil, err
	}
	var m ocispec.Manifest
	if m, err = parseManifest(desc, b); err != nil {
		return nil, err
	}
	if t := m.Config.MediaType; t != ocispec.MediaTypeImageConfig && t != dockerConfig {
		if depth == 0 {
			return nil, classed(errdefs.ErrInvalidArgument, "%s holds no image, but an artifact of the type %q", desc.Digest, t)
		}
		return nil, nil
	}
	if err := checkDigest(m.Config.Digest); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if _, err := p.fetchDocument(ctx, m.Config); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	w := &walk{s: p.Store, ctx: ctx}
	found, err := w.image(desc, b)
	if err != nil {
		return nil, err
	}
	// What an index says of a platform counts. An image alone is what it is,
	// unless a platform was asked for: who runs it is told.
	if desc.Platform == nil && (depth > 0 || p.strict) && !p.match.Match(platform(found)) {
		p.others = append(p.others, platforms.FormatAll(platform(found)))
		return nil, nil
	}
	return found, nil
}

// join lists texts, but not more than limit of them.
func join(texts []string, limit int) string {
	out := ""
	for i, t := range texts {
		switch {
		case i == limit:
			return fmt.Sprintf("%s and %d more", out, len(texts)-limit)
		case i > 0:
			out += ", "
		}
		out += t
	}
	return out
}

// sourceOf is the digest that a record's name had in the registry it was pulled
// from or pushed to; "" if neither.
func sourceOf(r images.Image) digest.Digest { return digest.Digest(r.Labels[labelSource]) }
