package image

import (
	"cmp"
	"context"
	"slices"
	"sort"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// group is one image with all its records: they may reach it by different
// targets, an index and a manifest of it, say.
type group struct {
	id      digest.Digest
	res     *resolved
	records []images.Image
}

// groups gathers the records by image. One that cannot be read is left out:
// it must not hide the others.
func (s *Store) groups(ctx context.Context) (map[digest.Digest]*group, error) {
	set, err := s.recordSet(ctx)
	if err != nil {
		return nil, err
	}
	byID := map[digest.Digest]*group{}
	for _, r := range set.all {
		res, err := s.resolve(ctx, r.Target)
		if err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			s.log.Warn("an image cannot be read", "name", r.Name, "error", err)
			continue
		}
		id := res.manifest.Config.Digest
		g := byID[id]
		if g == nil {
			g = &group{id: id, res: res}
			byID[id] = g
		}
		r.UpdatedAt = s.current.last(r)
		g.records = append(g.records, r)
	}
	return byID, nil
}

// match is what a reference led to.
type match struct {
	*group
	// named are the records the reference names; none if it is an id.
	named []images.Image
}

// target is what a new name for the match points to.
func (m match) target() images.Image {
	if len(m.named) > 0 {
		return m.named[0]
	}
	return m.records[0]
}

// lookup finds an image as Docker does: a name first, then an id, then the
// beginning of one.
func (s *Store) lookup(ctx context.Context, ref string) (match, error) {
	set, err := s.recordSet(ctx)
	if err != nil {
		return match{}, err
	}
	hex, isID := idPrefix(ref)
	named, parseErr := reference.ParseNormalizedNamed(ref)
	if parseErr != nil && !isID {
		return match{}, badName(ref, parseErr)
	}
	if parseErr == nil {
		if m, err := s.lookupName(ctx, set, named); err != nil || m.group != nil {
			return m, err
		}
	}
	if !isID {
		return match{}, notHere(ref)
	}
	byID, err := s.groups(ctx)
	if err != nil {
		return match{}, err
	}
	return lookupID(byID, ref, hex)
}

// lookupName finds the records a name stands for; a match without a group is
// none.
func (s *Store) lookupName(ctx context.Context, set *recordSet, named reference.Named) (match, error) {
	var hits []images.Image
	if d, ok := named.(reference.Digested); ok {
		// A tag beside a digest says nothing more.
		for _, r := range set.all {
			other, err := reference.ParseNormalizedNamed(r.Name)
			if err != nil || other.Name() != named.Name() {
				continue
			}
			if r.Target.Digest == d.Digest() || sourceOf(r) == d.Digest() {
				hits = append(hits, r)
			} else if res, err := s.resolve(ctx, r.Target); err == nil && res.desc.Digest == d.Digest() {
				hits = append(hits, r)
			}
		}
	} else if r, ok := set.byName[reference.TagNameOnly(named).String()]; ok {
		hits = append(hits, r)
	}
	if len(hits) == 0 {
		return match{}, nil
	}
	res, err := s.resolve(ctx, hits[0].Target)
	if err != nil {
		return match{}, err
	}
	byID, err := s.groups(ctx)
	if err != nil {
		return match{}, err
	}
	return match{group: byID[res.manifest.Config.Digest], named: hits}, nil
}

func lookupID(byID map[digest.Digest]*group, ref, hex string) (match, error) {
	var found *group
	for id, g := range byID {
		// A full digest may also be that of the manifest or the index: tools
		// that learned images from registries say those.
		exact := len(hex) == 64 && (g.res.desc.Digest.Encoded() == hex || slices.ContainsFunc(g.records,
			func(r images.Image) bool { return r.Target.Digest.Encoded() == hex }))
		if !exact && !strings.HasPrefix(id.Encoded(), hex) {
			continue
		}
		if found != nil {
			return match{}, classed(errdefs.ErrInvalidArgument, "image id %q is ambiguous: give more of its digits", ref)
		}
		found = g
	}
	if found == nil {
		return match{}, notHere(ref)
	}
	return match{group: found}, nil
}

// byID finds an image by its full id.
func (s *Store) byID(ctx context.Context, id digest.Digest) (*resolved, error) {
	byID, err := s.groups(ctx)
	if err != nil {
		return nil, err
	}
	if g := byID[id]; g != nil {
		return g.res, nil
	}
	return nil, notHere(id.String())
}

// Get finds an image by its name ("web", "web:1", "web@sha256:…"), its id or
// the unique beginning of its id. A name goes before an id. It fails with
// ErrNotFound, or with ErrInvalidArgument for what can be neither and for an
// ambiguous id.
func (s *Store) Get(ctx context.Context, ref string) (Image, error) {
	m, err := s.lookup(s.context(ctx), ref)
	if err != nil {
		return Image{}, err
	}
	return m.image(), nil
}

// List gives all images, newest first.
func (s *Store) List(ctx context.Context) ([]Image, error) {
	byID, err := s.groups(s.context(ctx))
	if err != nil {
		return nil, err
	}
	all := make([]Image, 0, len(byID))
	for _, g := range byID {
		all = append(all, g.image())
	}
	sort.Slice(all, func(i, j int) bool {
		if a, b := all[i].Created, all[j].Created; !a.Equal(b) {
			return a.After(b)
		}
		return all[i].ID < all[j].ID
	})
	return all, nil
}

// image is the value callers see.
func (g *group) image() Image {
	m := g.res.manifest
	img := Image{
		ID:        g.id,
		Target:    g.records[0].Target.Digest,
		Manifest:  g.res.desc.Digest,
		Documents: Documents{Target: g.records[0].Target, Manifest: bare(g.res.desc)},
		Config:    g.res.config,
		Platform:  platform(g.res),
		Layers:    slices.Clone(g.res.config.RootFS.DiffIDs),
		Size:      g.res.size,
		Content:   g.res.desc.Size + m.Config.Size,
	}
	for _, l := range m.Layers {
		img.Content += l.Size
	}
	if g.res.config.Created != nil {
		img.Created = *g.res.config.Created
	}
	for _, r := range g.records {
		if r.UpdatedAt.After(img.Tagged) {
			img.Tagged = r.UpdatedAt
		}
		named, err := reference.ParseNormalizedNamed(r.Name)
		if err != nil {
			continue // dangling
		}
		img.Digests = append(img.Digests, reference.FamiliarName(named)+"@"+cmp.Or(sourceOf(r), r.Target.Digest).String())
		if d := sourceOf(r); d != "" {
			if img.sources == nil {
				img.sources = map[string]string{}
			}
			img.sources[named.Name()] = reference.FamiliarName(named) + "@" + d.String()
		}
		if _, ok := named.(reference.Tagged); ok {
			img.Names = append(img.Names, reference.FamiliarString(named))
			img.Target, img.Documents.Target = r.Target.Digest, r.Target
		}
	}
	slices.Sort(img.Names)
	slices.Sort(img.Digests)
	img.Digests = slices.Compact(img.Digests)
	return img
}
