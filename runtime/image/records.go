package image

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

// publication is an image an operation has made whole, and the name it gets;
// without one it is dangling.
type publication struct {
	name   reference.Named // with a tag or a digest, or nil
	target ocispec.Descriptor
	source digest.Digest // that a registry has under the name, "" if it is from none
}

// publish writes the records of an operation's images and gives its lease
// back, all in one transaction: a crash leaves all of them or none.
func (op *operation) publish(ctx context.Context, pubs []publication) error {
	return op.db.Update(func(tx *bolt.Tx) error {
		ctx := boltutil.WithTransaction(ctx, tx)
		for _, p := range pubs {
			var err error
			if p.name != nil {
				err = op.setName(ctx, p.name.String(), p.target, p.source)
			} else {
				err = op.keepDangling(ctx, p.target)
			}
			if err != nil {
				return err
			}
		}
		return op.leases.Delete(ctx, op.lease)
	})
}

// setName points name to target. The image it pointed to before stays, if need
// be without a name; target is not dangling any more. ctx holds a transaction.
func (s *Store) setName(ctx context.Context, name string, target ocispec.Descriptor, source digest.Digest) error {
	record := images.Image{Name: name, Target: bare(target)}
	if source != "" {
		record.Labels = map[string]string{labelSource: source.String()}
	}
	before, err := s.images.Get(ctx, name)
	switch {
	case errdefs.IsNotFound(err):
		_, err = s.images.Create(ctx, record)
	case err == nil:
		_, err = s.images.Update(ctx, record) // also moves the time of tagging
		if err == nil && before.Target.Digest != target.Digest {
			err = s.keepDangling(ctx, before.Target)
		}
	}
	if err != nil {
		return fmt.Errorf("name %s: %w", familiar(name), err)
	}
	if err := s.images.Delete(ctx, danglingName(target.Digest)); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

// keepDangling makes a record for an image that no other record holds. ctx
// holds a transaction.
func (s *Store) keepDangling(ctx context.Context, target ocispec.Descriptor) error {
	all, err := s.images.List(ctx)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(all, func(r images.Image) bool { return r.Target.Digest == target.Digest }) {
		return nil
	}
	_, err = s.images.Create(ctx, images.Image{Name: danglingName(target.Digest), Target: bare(target)})
	return err
}

// bare is a descriptor without the annotations it had in somebody's index.
func bare(d ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

// Tag gives the image ref a further name, taking it from the image that has it
// now.
func (s *Store) Tag(ctx context.Context, ref, name string) error {
	tag, err := parseTag(name)
	if err != nil {
		return err
	}
	s.editing.Lock()
	defer s.editing.Unlock()
	ctx = s.context(ctx)
	m, err := s.lookup(ctx, ref)
	if err != nil {
		return err
	}
	record := m.target()
	return s.db.Update(func(tx *bolt.Tx) error {
		ctx := boltutil.WithTransaction(ctx, tx)
		// It may have been removed since; its content is then fair game.
		if now, err := s.images.Get(ctx, record.Name); errdefs.IsNotFound(err) || err == nil && now.Target.Digest != record.Target.Digest {
			return notHere(ref)
		} else if err != nil {
			return err
		}
		return s.setName(ctx, tag.String(), record.Target, "")
	})
}

// Remove takes away a name of an image or, by id, the image. With its last
// name goes the image, whose content [Store.Collect] then frees. As in Docker:
//
//   - a name that is the last one of an image with containers takes force;
//     while a container runs, only the name goes and the image is dangling;
//   - by id, an image with several names or with stopped containers takes
//     force; one with running containers stays.
//
// The refusals have the class ErrFailedPrecondition and name the container.
// InUse is called with the store's records held: it must not tag or remove.
func (s *Store) Remove(ctx context.Context, ref string, o RemoveOptions) ([]Removed, error) {
	s.editing.Lock()
	defer s.editing.Unlock()
	ctx = s.context(ctx)
	m, err := s.lookup(ctx, ref)
	if errdefs.IsNotFound(err) {
		return nil, classed(errdefs.ErrNotFound, "No such image: %s", ref) // who wants it away needs no advice how to get it
	} else if err != nil {
		return nil, err
	}
	var users []User
	if o.InUse != nil {
		users = o.InUse(m.id)
	}
	do, err := planRemoval(ref, m, users, o.Force)
	if err != nil {
		return nil, err
	}
	err = s.db.Update(func(tx *bolt.Tx) error {
		ctx := boltutil.WithTransaction(ctx, tx)
		for _, r := range do.records {
			target := r.Target
			if err := s.images.Delete(ctx, r.Name, images.DeleteTarget(&target)); err != nil && !errdefs.IsNotFound(err) {
				return fmt.Errorf("remove %s: %w", familiar(r.Name), err)
			}
		}
		if do.keep {
			return s.keepDangling(ctx, m.target().Target)
		}
		return nil
	})
	if err != nil {
		return nil, Full(s.dir, err)
	}
	return do.removed(m.id), nil
}

// removal is what [Store.Remove] is going to do.
type removal struct {
	records []images.Image
	deletes bool // the image goes
	keep    bool // the image stays, without a name
}

func (r removal) removed(id digest.Digest) []Removed {
	var out []Removed
	for _, rec := range r.records {
		if !strings.HasPrefix(rec.Name, danglingPrefix) {
			out = append(out, Removed{Image: id.String(), Untagged: familiar(rec.Name)})
		}
	}
	if r.deletes {
		out = append(out, Removed{Image: id.String(), Deleted: id.String()})
	}
	return out
}

// planRemoval decides. It is pure. The refusals are in Docker's words, which
// people and scripts know.
func planRemoval(ref string, m match, users []User, force bool) (removal, error) {
	var names []string
	for _, r := range m.records {
		if !strings.HasPrefix(r.Name, danglingPrefix) {
			names = append(names, r.Name)
		}
	}
	running := slices.IndexFunc(users, func(u User) bool { return u.Running })

	if len(m.named) > 0 {
		last := len(m.named) == len(names)
		switch {
		case !last:
			return removal{records: m.named}, nil
		case len(users) > 0 && !force:
			return removal{}, classed(errdefs.ErrFailedPrecondition,
				"conflict: unable to remove repository reference %q (must force) - container %s is using its referenced image %s; remove %s first", ref, users[0].short(), short(m.id), users[0].Name)
		case running >= 0:
			return removal{records: m.named, keep: true}, nil
		}
		return removal{records: m.records, deletes: true}, nil
	}
	switch {
	case running >= 0:
		return removal{}, classed(errdefs.ErrFailedPrecondition,
			"conflict: unable to delete %s (cannot be forced) - image is being used by running container %s; remove %s first", short(m.id), users[running].short(), users[running].Name)
	case len(users) > 0 && !force:
		return removal{}, classed(errdefs.ErrFailedPrecondition,
			"conflict: unable to delete %s (must be forced) - image is being used by stopped container %s; remove %s first", short(m.id), users[0].short(), users[0].Name)
	case len(names) > 1 && !force:
		return removal{}, classed(errdefs.ErrFailedPrecondition,
			"conflict: unable to delete %s (must be forced) - image is referenced in multiple repositories", short(m.id))
	}
	return removal{records: m.records, deletes: true}, nil
}
