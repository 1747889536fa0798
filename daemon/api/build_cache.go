package api

import (
	"context"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"time"

	"gantry/runtime/build"

	buildtypes "github.com/moby/moby/api/types/build"
)

// buildPrune drops build cache. Its answer names the records that are gone.
func (s *server) buildPrune(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	f, err := cacheFilter(q)
	if err != nil {
		return err
	}
	p := build.PruneOptions{All: boolean(q, "all"), Filter: f}
	for name, to := range map[string]*int64{
		"keep-storage": &p.Reserved, "reserved-space": &p.Reserved, "max-used-space": &p.Max, "min-free-space": &p.MinFree,
	} {
		v := q.Get(name)
		if v == "" {
			continue
		}
		if *to, err = strconv.ParseInt(v, 10, 64); err != nil || *to < 0 {
			return invalid("%s %q is not a number of bytes", name, v)
		}
	}
	gone, bytes, err := s.Builder.Prune(ctx, p)
	if err != nil {
		return err
	}
	out := buildtypes.CachePruneReport{SpaceReclaimed: uint64(max(bytes, 0))}
	for _, g := range gone {
		out.CachesDeleted = append(out.CachesDeleted, g.ID)
	}
	return writeJSON(w, http.StatusOK, out)
}

// cacheFilter reads which records of the build cache are meant.
func cacheFilter(q url.Values) (out build.Filter, err error) {
	f, err := readFilters(q, "until", "unused-for", "id", "parent", "type", "description", "inuse", "shared", "private", "label", "label!")
	if err != nil {
		return out, err
	}
	out.Parents, out.Kinds, out.Descriptions = f["parent"], f["type"], f["description"]
	for _, id := range f["id"] {
		x, err := regexp.Compile(id)
		if err != nil {
			return out, invalid("invalid filter 'id=%s': it is an id, a part of one, or a regular expression: %v", id, err)
		}
		out.IDs = append(out.IDs, x)
	}
	if out.InUse, err = f.maybe("inuse"); err != nil {
		return out, err
	}
	if out.Shared, err = f.maybe("shared"); err != nil {
		return out, err
	}
	private, err := f.maybe("private")
	if err != nil {
		return out, err
	}
	if private != nil {
		if out.Shared != nil && *out.Shared == *private {
			return out, invalid("the filters shared and private contradict each other: give one of them")
		}
		out.Shared = new(!*private)
	}
	// docker system prune says for every kind which labels it means. Build cache
	// has none: it is never what has a label, and always what lacks one.
	out.Nothing = len(f["label"]) > 0
	out.Unused, err = cacheAge(f)
	return out, err
}

// maybe reads a filter that is true or false, or, without a value, true.
func (f filters) maybe(name string) (*bool, error) {
	if values, set := f[name]; set && (len(values) == 0 || len(values) == 1 && values[0] == "") {
		return new(true), nil
	}
	v, set, err := f.boolean(name)
	if err != nil || !set {
		return nil, err
	}
	return &v, nil
}

// cacheAge reads how long unused something must be to be meant.
func cacheAge(f filters) (time.Duration, error) {
	until, unused := f["until"], f["unused-for"]
	if len(until) > 0 && len(unused) > 0 {
		return 0, invalid("the filters until and unused-for mean the same: give one of them")
	}
	values := append(until, unused...)
	switch len(values) {
	case 0:
		return 0, nil
	case 1:
	default:
		return 0, invalid("more than one until filter specified")
	}
	now := time.Now()
	limit, err := pastTime(values[0], now)
	if err != nil || limit.After(now) {
		return 0, invalid("invalid filter 'until=%s': it is a duration such as 24h, Unix seconds, or a time of RFC 3339", values[0])
	}
	return now.Sub(limit), nil
}

// cacheUsage is the build cache for a report of disk usage. What an image has as
// well counts as the image's.
func (s *server) cacheUsage(ctx context.Context, f build.Filter) (*buildtypes.DiskUsage, error) {
	records, err := s.Builder.Cache(ctx, f)
	if err != nil {
		return nil, err
	}
	u := &buildtypes.DiskUsage{Items: []buildtypes.CacheRecord{}, TotalCount: int64(len(records))}
	for _, r := range records {
		line := buildtypes.CacheRecord{
			ID: r.ID, Parents: r.Parents, Type: r.Kind, Description: r.Description, InUse: r.InUse, Shared: r.Shared,
			Size: r.Size, CreatedAt: r.Created, UsageCount: r.Uses,
		}
		if !r.LastUsed.IsZero() {
			line.LastUsedAt = &r.LastUsed
		}
		if r.InUse {
			u.ActiveCount++
		}
		if !r.Shared {
			u.TotalSize += max(r.Size, 0)
			if !r.InUse {
				u.Reclaimable += max(r.Size, 0)
			}
		}
		u.Items = append(u.Items, line)
	}
	return u, nil
}
