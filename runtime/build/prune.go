package build

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"time"

	"gantry/runtime/image"

	bkclient "github.com/moby/buildkit/client"
)

// Record is one piece of the build cache.
type Record struct {
	ID          string
	Parents     []string
	Kind        string // "regular", "source.local", "exec.cachemount", …
	Description string
	InUse       bool
	Shared      bool // an image has it, too: to drop the record frees nothing
	Size        int64
	Created     time.Time
	LastUsed    time.Time // zero: never
	Uses        int
}

func recordOf(u *bkclient.UsageInfo) Record {
	r := Record{
		ID: u.ID, Parents: u.Parents, Kind: string(u.RecordType), Description: u.Description,
		InUse: u.InUse, Shared: u.Shared, Size: u.Size, Created: u.CreatedAt, Uses: u.UsageCount,
	}
	if u.LastUsedAt != nil {
		r.LastUsed = *u.LastUsedAt
	}
	return r
}

// Filter chooses records; a zero field chooses nothing by itself. Of several
// values of one field one has to match.
type Filter struct {
	IDs          []*regexp.Regexp
	Parents      []string // records that have one of these below them
	Kinds        []string
	Descriptions []string
	InUse        *bool
	Shared       *bool
	Unused       time.Duration // for so long, at least
	Nothing      bool          // chooses nothing, whatever the others say
}

// chooses is pure.
func (f Filter) chooses(r Record, now time.Time) bool {
	if f.Nothing {
		return false
	}
	among := func(values []string, has ...string) bool {
		return len(values) == 0 || slices.ContainsFunc(has, func(v string) bool { return slices.Contains(values, v) })
	}
	switch {
	case len(f.IDs) > 0 && !slices.ContainsFunc(f.IDs, func(x *regexp.Regexp) bool { return x.MatchString(r.ID) }),
		!among(f.Parents, r.Parents...), !among(f.Kinds, r.Kind), !among(f.Descriptions, r.Description),
		f.InUse != nil && *f.InUse != r.InUse, f.Shared != nil && *f.Shared != r.Shared,
		f.Unused > 0 && !r.LastUsed.IsZero() && r.LastUsed.After(now.Add(-f.Unused)):
		return false
	}
	return true
}

// all says that every record is chosen, but for its age.
func (f Filter) all() bool {
	return len(f.IDs)+len(f.Parents)+len(f.Kinds)+len(f.Descriptions) == 0 && f.InUse == nil && f.Shared == nil
}

// Cache lists the build cache. Where none was ever made, asking makes none.
func (b *Builder) Cache(ctx context.Context, f Filter) ([]Record, error) {
	if !b.made() {
		return nil, nil
	}
	o, err := b.buildkit()
	if err != nil {
		return nil, err
	}
	return o.records(ctx, f)
}

func (o *opened) records(ctx context.Context, f Filter) ([]Record, error) {
	all, err := o.worker.DiskUsage(ctx, bkclient.DiskUsageInfo{})
	if err != nil {
		return nil, fmt.Errorf("look at the build cache: %w", err)
	}
	now := time.Now()
	records := make([]Record, 0, len(all))
	for _, u := range all {
		if r := recordOf(u); f.chooses(r, now) {
			records = append(records, r)
		}
	}
	return records, nil
}

// PruneOptions say what of the build cache is dropped. The zero value drops
// what no image uses and no build holds.
type PruneOptions struct {
	All    bool // also what images have, and what cannot be made again without pulling
	Filter Filter
	// Reserved is kept, the most recently used; Max and MinFree bound what is
	// left and what is free on the disk. Bytes, 0: not said.
	Reserved, Max, MinFree int64
}

// Prune drops build cache. It tells what, and the bytes that the disk has back:
// what an image has as well stays.
func (b *Builder) Prune(ctx context.Context, p PruneOptions) (gone []Record, bytes int64, err error) {
	err = b.withReserve(func() error {
		some, freed, err := b.prune(ctx, p)
		gone, bytes = append(gone, some...), bytes+freed
		return err
	})
	if err == nil && b.Pruned != nil {
		b.Pruned(bytes)
	}
	return gone, bytes, err
}

func (b *Builder) prune(ctx context.Context, p PruneOptions) (gone []Record, bytes int64, err error) {
	if !b.made() {
		return nil, 0, nil
	}
	o, err := b.buildkit()
	if err != nil {
		return nil, 0, err
	}
	var chosen []string
	if !p.Filter.all() {
		// BuildKit's own filters cannot say "not in use".
		records, err := o.records(ctx, p.Filter)
		if err != nil || len(records) == 0 {
			return nil, 0, err
		}
		for _, r := range records {
			chosen = append(chosen, "id=="+r.ID)
		}
	}
	before, err := b.Images.Stored(ctx, true)
	if err != nil {
		return nil, 0, err
	}
	if gone, err = o.prune(ctx, p, chosen); err != nil {
		return gone, 0, fmt.Errorf("prune the build cache: %w", err)
	}
	if len(gone) == 0 {
		return nil, 0, nil
	}
	// BuildKit collects only while it prunes.
	if err := b.Collect(ctx); err != nil {
		return gone, 0, err
	}
	after, err := b.Images.Stored(ctx, false)
	if err != nil {
		return gone, 0, err
	}
	return gone, image.Freed(before, after), nil
}

func (o *opened) prune(ctx context.Context, p PruneOptions, filters []string) ([]Record, error) {
	cl, err := o.client(ctx)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	opts := []bkclient.PruneOption{
		bkclient.WithFilter(filters), bkclient.WithKeepOpt(p.Filter.Unused, p.Reserved, p.Max, p.MinFree),
	}
	if p.All {
		opts = append(opts, bkclient.PruneAll)
	}
	gone := make(chan bkclient.UsageInfo)
	done := make(chan error, 1)
	go func() {
		done <- cl.Prune(ctx, gone, opts...)
		close(gone)
	}()
	var records []Record
	for u := range gone {
		records = append(records, recordOf(&u))
	}
	return records, <-done
}
