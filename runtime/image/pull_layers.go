package image

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// parallelLayers is how many layers one pull fetches at once, as in Docker:
// more make each slower and none sooner.
const parallelLayers = 3

// read gives an index or a manifest, from the store or from the registry, and
// completes the media type of its descriptor.
func (p *puller) read(ctx context.Context, desc *ocispec.Descriptor) (document, error) {
	told := desc.MediaType
	switch told {
	case "application/octet-stream", "application/json", "text/plain":
		desc.MediaType = "" // the registry does not know either
	}
	if desc.MediaType != "" && !isIndex(desc.MediaType) && !isManifest(desc.MediaType) &&
		desc.MediaType != dockerSchema1 && desc.MediaType != dockerSchema1Sig {
		return document{}, wrongKind(*desc, told)
	}
	b, err := p.fetchDocument(ctx, *desc)
	if err != nil {
		return document{}, err
	}
	doc, kind, err := parseDocument(*desc, b)
	switch {
	case err != nil:
		return doc, err
	case doc.MediaType != "" && doc.MediaType != kind:
		return doc, classed(errdefs.ErrInvalidArgument, "%s says that its media type is %q, the registry says %q", desc.Digest, doc.MediaType, told)
	case isIndex(kind) && doc.Manifests == nil, isManifest(kind) && doc.Config == nil:
		return doc, classed(errdefs.ErrInvalidArgument, "%s has the media type %q and not the form of it", desc.Digest, kind)
	case kind == "" && doc.Manifests != nil:
		kind = ocispec.MediaTypeImageIndex
	case kind == "" && doc.Config != nil:
		kind = ocispec.MediaTypeImageManifest
	case !isIndex(kind) && !isManifest(kind):
		return doc, wrongKind(*desc, kind)
	}
	desc.MediaType = kind
	return doc, nil
}

// fetchDocument gives a small document and has it stored.
func (p *puller) fetchDocument(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	held, err := p.hold(ctx, desc.Digest, desc.Size)
	if err != nil {
		return nil, err
	}
	p.touched = append(p.touched, desc.Digest)
	if held {
		return p.readBlob(ctx, desc)
	}
	if p.documents++; p.documents > maxFetched {
		return nil, classed(errdefs.ErrInvalidArgument, "more than %d documents lead to the image: the index is no ordinary one", maxFetched)
	}
	ask := desc
	if ask.MediaType == "" { // where it is kept
		ask.MediaType = ocispec.MediaTypeImageManifest
	}
	b, err := p.remote.document(ctx, ask)
	if err != nil {
		return nil, err
	}
	if _, err := p.writeBlob(ctx, p.key("document"), desc.MediaType, b, nil); err != nil {
		return nil, err
	}
	return b, nil
}

// layers brings the layers of an image that are not here, and makes its
// snapshots.
func (p *puller) layers(ctx context.Context, res *resolved) error {
	all, diffs := res.manifest.Layers, res.config.RootFS.DiffIDs
	names := make([]string, len(diffs))
	for i, c := range identity.ChainIDs(append([]digest.Digest(nil), diffs...)) {
		names[i] = layerSnapshot(c)
	}
	have, err := p.leaseExisting(ctx, names)
	if err != nil {
		return fmt.Errorf("look for layers: %w", err)
	}
	jobs, err := p.missing(ctx, all, have)
	if err != nil {
		return err
	}
	ready := map[digest.Digest]*unpacked{}
	defer func() {
		for _, u := range ready {
			p.discard(ctx, u)
		}
	}()
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelLayers)
	for _, j := range jobs {
		g.Go(func() error {
			u, err := p.layer(gctx, j)
			if err != nil {
				return fmt.Errorf("layer %d: %w", j.index+1, err)
			}
			if u != nil {
				mu.Lock()
				defer mu.Unlock()
				ready[j.desc.Digest] = u
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, j := range jobs {
		p.report(Progress{Layer: j.desc.Digest, Step: Extracting})
	}
	top, err := p.chain(ctx, all, diffs, ready)
	if err != nil {
		return err
	}
	if top != "" {
		if err := p.label(ctx, res.manifest.Config.Digest, map[string]string{labelRefSnapshot: top}); err != nil {
			return err
		}
	}
	for _, j := range jobs {
		p.report(Progress{Layer: j.desc.Digest, Step: Complete})
	}
	return nil
}

// layerJob is a layer to be fetched.
type layerJob struct {
	index  int
	desc   ocispec.Descriptor
	unpack bool
}

// missing are the layers to be fetched, each once. Those that are here already
// become part of the lease.
func (p *puller) missing(ctx context.Context, all []ocispec.Descriptor, have int) ([]layerJob, error) {
	var jobs []layerJob
	seen := map[digest.Digest]bool{}
	need := int64(0)
	for i, l := range all {
		if err := checkDigest(l.Digest); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
		if l.Size < 0 {
			return nil, classed(errdefs.ErrInvalidArgument, "layer %d (%s) has the size %d", i+1, l.Digest, l.Size)
		}
		if seen[l.Digest] {
			continue
		}
		seen[l.Digest] = true
		p.touched = append(p.touched, l.Digest)
		held, err := p.hold(ctx, l.Digest, l.Size)
		if err != nil {
			return nil, err
		}
		if held {
			p.report(Progress{Layer: l.Digest, Step: Exists})
			continue
		}
		p.report(Progress{Layer: l.Digest, Step: Waiting, Total: l.Size})
		job := layerJob{index: i, desc: l, unpack: i >= have}
		jobs = append(jobs, job)
		take := l.Size
		if job.unpack { // its files take as much again, and mostly more
			take = twice(take)
		}
		if need += take; need < 0 || take < 0 {
			need = math.MaxInt64
			break
		}
	}
	return jobs, Room(p.dir, "the image", need)
}

// layer fetches a layer and unpacks it meanwhile; nil for one that is not to
// be unpacked, or that another pull has brought.
func (p *puller) layer(ctx context.Context, j layerJob) (*unpacked, error) {
	done, err := p.fetching.wait(ctx, j.desc.Digest.String())
	if err != nil {
		return nil, err
	}
	defer done()
	if held, err := p.hold(ctx, j.desc.Digest, j.desc.Size); err != nil || held {
		return nil, err
	}
	var got atomic.Int64
	t := &transfer{ctx: ctx, remote: p.remote, desc: j.desc, read: func(n int) {
		p.report(Progress{Layer: j.desc.Digest, Step: Downloading, Current: got.Add(int64(n)), Total: j.desc.Size})
	}}
	defer t.close()
	p.report(Progress{Layer: j.desc.Digest, Step: Downloading, Total: j.desc.Size})
	b, err := p.ingest(ctx, t, j.unpack, false, j.desc)
	switch {
	case errors.Is(err, unix.ENOSPC):
		return nil, fmt.Errorf("no room for %s (%d bytes): %w", j.desc.Digest, j.desc.Size, err)
	case err != nil:
		return nil, err
	case b.failed != nil:
		return nil, fmt.Errorf("%s: %w", j.desc.Digest, b.failed)
	}
	p.report(Progress{Layer: j.desc.Digest, Step: Downloaded})
	return b.layer, nil
}

// rememberSource notes in which repository blobs were found, so that a push to
// another one of the same registry need not send them.
func (op *operation) rememberSource(ctx context.Context, repo reference.Named, blobs []digest.Digest) error {
	note, err := docker.AppendDistributionSourceLabel(op.content, repo.String())
	if err != nil {
		return fmt.Errorf("source of %s: %w", repo, err)
	}
	slices.Sort(blobs)
	return op.db.Update(func(tx *bolt.Tx) error {
		ctx := boltutil.WithTransaction(log.WithLogger(ctx, op.library), tx)
		for _, d := range slices.Compact(blobs) {
			if _, err := note(ctx, ocispec.Descriptor{Digest: d}); err != nil && !errdefs.IsNotFound(err) {
				return fmt.Errorf("source of %s: %w", d, err)
			}
		}
		return nil
	})
}

// hold reports whether the blob d is in the store, and makes it part of the
// lease then.
func (op *operation) hold(ctx context.Context, d digest.Digest, size int64) (bool, error) {
	info, err := op.content.Info(ctx, d)
	if errdefs.IsNotFound(err) || err == nil && info.Size != size {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	ref := op.key("hold")
	w, err := op.content.Writer(ctx, content.WithRef(ref), content.WithDescriptor(ocispec.Descriptor{Digest: d, Size: size}))
	if errdefs.IsAlreadyExists(err) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	w.Close()
	op.abort(ctx, ref)
	return false, nil
}

// turns let one at a time do what has a name. Unlike [keyed] the wait for a
// turn ends with its context.
type turns struct {
	mu   sync.Mutex
	held map[string]chan struct{}
}

func (t *turns) wait(ctx context.Context, name string) (done func(), err error) {
	for {
		t.mu.Lock()
		busy := t.held[name]
		if busy == nil {
			if t.held == nil {
				t.held = map[string]chan struct{}{}
			}
			mine := make(chan struct{})
			t.held[name] = mine
			t.mu.Unlock()
			return func() {
				t.mu.Lock()
				delete(t.held, name)
				t.mu.Unlock()
				close(mine)
			}, nil
		}
		t.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
