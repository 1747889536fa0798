package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/containerd/v2/core/remotes"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"
)

// PushOptions say what is pushed.
type PushOptions struct {
	Ref         string // a name with a tag, or for ":latest"
	Credentials Credentials
	// Report is told how it goes, by several goroutines. It may be nil.
	Report func(Progress)
}

// Pushed is what [Store.Push] sent.
type Pushed struct {
	Image  Image
	Name   string        // familiar
	Tag    string        // that it was pushed under
	Digest digest.Digest // that it has there
	Size   int64         // of the document of this digest
	// Left is a digest that was not pushed: that of an index of which only this
	// machine's platform is here.
	Left digest.Digest
}

// parallelUploads is how many blobs one push sends at once, as in Docker.
const parallelUploads = 5

// Push sends an image to the registry that its name names. What the registry
// has already, in this repository or in another that the image came from, is
// not sent. The name is set last, so that it never names half an image.
//
// An image that is not here as a whole fails with ErrFailedPrecondition before
// anything is sent.
func (s *Store) Push(ctx context.Context, o PushOptions) (Pushed, error) {
	tag, err := parseTag(o.Ref)
	if err != nil {
		return Pushed{}, err
	}
	if o.Report == nil {
		o.Report = func(Progress) {}
	}
	r, err := s.remote(tag, o.Credentials, nil)
	if err != nil {
		return Pushed{}, err
	}
	defer r.close()
	ctx, op, err := s.begin(ctx)
	if err != nil {
		return Pushed{}, err
	}
	defer op.end(ctx)
	p := &pusher{operation: op, remote: r, report: o.Report}
	out, err := p.push(ctx, tag)
	if err != nil {
		return Pushed{}, fmt.Errorf("push %s: %w", reference.FamiliarString(tag), err)
	}
	return out, nil
}

// pusher is a push under way.
type pusher struct {
	*operation
	remote *remote
	report func(Progress)
}

// parcel is what a push sends: blobs in any order, then documents, each after
// those that it refers to.
type parcel struct {
	blobs, documents []ocispec.Descriptor
	layers           map[digest.Digest]bool // of the blobs: the layers
}

func (p *pusher) push(ctx context.Context, tag reference.NamedTagged) (Pushed, error) {
	set, err := p.recordSet(ctx)
	if err != nil {
		return Pushed{}, err
	}
	record, ok := set.byName[tag.String()]
	if !ok {
		return Pushed{}, classed(errdefs.ErrNotFound, "An image does not exist locally with the tag: %s; name one so with `gantry image tag`", reference.FamiliarString(tag)) //nolint:staticcheck // Docker's words
	}
	// The tree below it stays with it: the collection follows its labels.
	if err := p.leases.AddResource(ctx, p.lease, leases.Resource{ID: record.Target.Digest.String(), Type: "content"}); err != nil {
		return Pushed{}, fmt.Errorf("hold %s: %w", record.Target.Digest, err)
	}
	out := Pushed{Name: reference.FamiliarString(tag), Tag: tag.Tag()}
	target := record.Target
	parts, err := p.pack(ctx, target)
	if errdefs.IsFailedPrecondition(err) {
		// Of an index mostly one platform is here; then that is the image.
		res, e := p.resolve(ctx, record.Target)
		if e != nil || res.desc.Digest == target.Digest {
			return out, err
		}
		out.Left, target = target.Digest, res.desc
		parts, err = p.pack(ctx, target)
	}
	if err != nil {
		return out, err
	}
	if err := p.send(ctx, tag, target, parts); err != nil {
		return out, err
	}
	out.Digest, out.Size = target.Digest, target.Size
	all := slices.Concat(parts.blobs, parts.documents)
	digests := make([]digest.Digest, len(all))
	for i, d := range all {
		digests[i] = d.Digest
	}
	if err := p.rememberSource(ctx, tag, digests); err != nil {
		return out, err
	}
	if err := p.setSource(ctx, tag.String(), record.Target.Digest, target.Digest); err != nil {
		return out, err
	}
	out.Image, err = p.published(ctx, publication{name: tag, target: record.Target})
	return out, err
}

// setSource notes what a name means in the registry now, if it still means here
// what was pushed.
func (p *pusher) setSource(ctx context.Context, name string, target, source digest.Digest) error {
	return p.db.Update(func(tx *bolt.Tx) error {
		ctx := boltutil.WithTransaction(ctx, tx)
		now, err := p.images.Get(ctx, name)
		if errdefs.IsNotFound(err) || err == nil && (now.Target.Digest != target || sourceOf(now) == source) {
			return nil
		}
		if err != nil {
			return err
		}
		if now.Labels == nil {
			now.Labels = map[string]string{}
		}
		now.Labels[labelSource] = source.String()
		_, err = p.images.Update(ctx, now, "labels."+labelSource)
		return err
	})
}

// pack gathers what is to be sent of a target. What is not here fails with
// ErrFailedPrecondition.
func (p *pusher) pack(ctx context.Context, target ocispec.Descriptor) (parcel, error) {
	parts := parcel{layers: map[digest.Digest]bool{}}
	seen := map[digest.Digest]bool{}
	if err := p.packDocument(ctx, target, &parts, seen, 0); err != nil {
		return parts, err
	}
	for _, b := range parts.blobs {
		info, err := p.content.Info(ctx, b.Digest)
		if errdefs.IsNotFound(err) {
			return parts, incomplete("layer or configuration", b.Digest)
		}
		if err != nil {
			return parts, err
		}
		if info.Size != b.Size {
			return parts, classed(errdefs.ErrDataLoss, "%s has %d bytes, the manifest says %d", b.Digest, info.Size, b.Size)
		}
	}
	return parts, nil
}

func incomplete(what string, d digest.Digest) error {
	return classed(errdefs.ErrFailedPrecondition, "the image is not complete here: %s %s is missing; pull or load all of it first", what, d)
}

func (p *pusher) packDocument(ctx context.Context, desc ocispec.Descriptor, parts *parcel, seen map[digest.Digest]bool, depth int) error {
	if seen[desc.Digest] {
		return nil
	}
	seen[desc.Digest] = true
	if depth > maxDepth || len(seen) > maxManifests {
		return classed(errdefs.ErrInvalidArgument, "the index %s is too deep or too large", desc.Digest)
	}
	b, err := p.readBlob(ctx, desc)
	if errdefs.IsNotFound(err) {
		return incomplete("manifest", desc.Digest)
	}
	if err != nil {
		return err
	}
	doc, kind, err := parseDocument(desc, b)
	if err != nil {
		return err
	}
	desc = ocispec.Descriptor{MediaType: kind, Digest: desc.Digest, Size: int64(len(b))}
	switch {
	case doc.Manifests != nil:
		if desc.MediaType == "" {
			desc.MediaType = ocispec.MediaTypeImageIndex
		}
		for _, m := range doc.Manifests {
			if err := p.packDocument(ctx, m, parts, seen, depth+1); err != nil {
				return err
			}
		}
	case doc.Config != nil:
		if desc.MediaType == "" {
			desc.MediaType = ocispec.MediaTypeImageManifest
		}
		for _, l := range doc.Layers {
			if !parts.layers[l.Digest] {
				parts.layers[l.Digest] = true
				parts.blobs = append(parts.blobs, bare(l))
			}
		}
		if !seen[doc.Config.Digest] {
			seen[doc.Config.Digest] = true
			parts.blobs = append(parts.blobs, bare(*doc.Config))
		}
	default:
		return wrongKind(desc, kind)
	}
	parts.documents = append(parts.documents, desc)
	return nil
}

func (p *pusher) send(ctx context.Context, tag reference.NamedTagged, target ocispec.Descriptor, parts parcel) error {
	for _, b := range parts.blobs {
		if parts.layers[b.Digest] {
			p.report(Progress{Layer: b.Digest, Step: Waiting, Total: b.Size})
		}
	}
	to, err := p.remote.resolver.Pusher(ctx, tag.String()+"@"+target.Digest.String())
	if err != nil {
		return p.remote.explain(ctx, err)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelUploads)
	for _, b := range parts.blobs {
		report := p.report
		if !parts.layers[b.Digest] {
			report = func(Progress) {}
		}
		g.Go(func() error { return p.sendOne(gctx, to, b, report) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, d := range parts.documents { // the target is the last
		if err := p.sendOne(ctx, to, d, func(Progress) {}); err != nil {
			return err
		}
	}
	return nil
}

// sendOne sends a blob or a document, again if the connection breaks.
func (p *pusher) sendOne(ctx context.Context, to remotes.Pusher, desc ocispec.Descriptor, report func(Progress)) error {
	for try := 1; ; try++ {
		err := p.upload(ctx, to, desc, report)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var ours *failure // it has been asked often enough
		var status remoteerrors.ErrUnexpectedStatus
		again := brokenOff(err) || errors.Is(err, io.ErrClosedPipe) || errors.As(err, &status) && busy(status.StatusCode)
		if errors.As(err, &ours) || !again || try >= maxTries {
			return fmt.Errorf("%s: %w", desc.Digest, p.remote.explain(ctx, err))
		}
		if err := sleep(ctx, pauseBefore(p.pause, try)); err != nil {
			return err
		}
	}
}

func (p *pusher) upload(ctx context.Context, to remotes.Pusher, desc ocispec.Descriptor, report func(Progress)) error {
	// Where else the registry may have it stands in the labels of the blob.
	info, err := p.content.Info(ctx, desc.Digest)
	if err != nil {
		return err
	}
	desc.Annotations = info.Labels
	w, err := to.Push(p.remote.quiet(ctx), desc)
	if errdefs.IsAlreadyExists(err) {
		step := Exists
		if st, e := p.remote.tracker.GetStatus(remotes.MakeRefKey(ctx, desc)); e == nil && st.MountedFrom != "" {
			step = Mounted
		}
		report(Progress{Layer: desc.Digest, Step: step})
		return nil
	}
	if err != nil {
		return err
	}
	defer w.Close()
	ra, err := p.content.ReaderAt(ctx, ocispec.Descriptor{Digest: desc.Digest})
	if err != nil {
		return err
	}
	defer ra.Close()
	from := &counted{in: io.NewSectionReader(ra, 0, ra.Size()), report: func(n int64) {
		report(Progress{Layer: desc.Digest, Step: Pushing, Current: n, Total: desc.Size})
	}}
	if err := content.Copy(ctx, w, from, desc.Size, desc.Digest); err != nil {
		return err
	}
	report(Progress{Layer: desc.Digest, Step: Sent})
	return nil
}

// counted tells how far somebody has read.
type counted struct {
	in     *io.SectionReader
	report func(int64)
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.in.Read(b)
	if at, e := c.in.Seek(0, io.SeekCurrent); e == nil && n > 0 {
		c.report(at)
	}
	return n, err
}

func (c *counted) Seek(offset int64, whence int) (int64, error) { return c.in.Seek(offset, whence) }
