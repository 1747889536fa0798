package api

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"gantry/network"
	"gantry/runtime"
	"gantry/runtime/image"
	"gantry/runtime/volume"

	"github.com/moby/moby/api/types/container"
	imagetypes "github.com/moby/moby/api/types/image"
	dockernet "github.com/moby/moby/api/types/network"
	volumetypes "github.com/moby/moby/api/types/volume"
)

func (s *server) containerPrune(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	f, err := readFilters(r.URL.Query(), "until", "label", "label!")
	if err != nil {
		return err
	}
	old, err := f.until(time.Now())
	if err != nil {
		return err
	}
	gone, bytes, err := s.Engine.PruneContainers(ctx, func(c runtime.Container) bool {
		return old(c.Created) && f.labels(c.Config.Labels)
	})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, container.PruneReport{ContainersDeleted: gone, SpaceReclaimed: uint64(bytes)})
}

// imagePrune removes images without a name, and with dangling=false all that
// no container uses.
func (s *server) imagePrune(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	f, err := readFilters(r.URL.Query(), "dangling", "until", "label", "label!")
	if err != nil {
		return err
	}
	old, err := f.until(time.Now())
	if err != nil {
		return err
	}
	dangling, set, err := f.boolean("dangling")
	if err != nil {
		return err
	}
	all := set && !dangling
	gone, bytes, err := s.Engine.PruneImages(ctx, func(img image.Image) bool {
		return (all || len(img.Names) == 0) && old(img.Created) && f.labels(img.Config.Config.Labels)
	})
	if err != nil {
		return err
	}
	out := imagetypes.PruneReport{SpaceReclaimed: uint64(bytes)}
	for _, g := range gone {
		out.ImagesDeleted = append(out.ImagesDeleted, imagetypes.DeleteResponse{Untagged: g.Untagged, Deleted: g.Deleted})
	}
	return writeJSON(w, http.StatusOK, out)
}

func (s *server) networkPrune(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	f, err := readFilters(r.URL.Query(), "until", "label", "label!")
	if err != nil {
		return err
	}
	old, err := f.until(time.Now())
	if err != nil {
		return err
	}
	gone, err := s.Engine.PruneNetworks(ctx, func(n network.Network) bool {
		return !isPredefined(n.Name) && old(n.Created) && f.labels(n.Labels)
	})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, dockernet.PruneReport{NetworksDeleted: gone})
}

// volumePrune removes volumes nobody mounts: those without a name, and with
// all=true the others too. Before API 1.42 it was always all.
func (s *server) volumePrune(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	known := []string{"label", "label!"}
	always := before(ctx, 42)
	if !always {
		known = append(known, "all")
	}
	f, err := readFilters(r.URL.Query(), known...)
	if err != nil {
		return err
	}
	all, _, err := f.boolean("all")
	if err != nil {
		return err
	}
	gone, bytes, err := s.Engine.PruneVolumes(ctx, func(v volume.Volume) bool {
		_, anonymous := v.Labels[volume.LabelAnonymous]
		return (all || always || anonymous || v.Anonymous) && f.labels(v.Labels)
	})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, volumetypes.PruneReport{VolumesDeleted: gone, SpaceReclaimed: uint64(bytes)})
}

// until reads the filter that spares what is younger than a time, or than an
// age ("24h"). What has no time is older than everything.
func (f filters) until(now time.Time) (old func(time.Time) bool, err error) {
	values := f["until"]
	switch len(values) {
	case 0:
		return func(time.Time) bool { return true }, nil
	case 1:
	default:
		return nil, invalid("more than one until filter specified")
	}
	limit, err := pastTime(values[0], now)
	if err != nil {
		return nil, invalid("invalid filter 'until=%s': it is an age such as 24h, Unix seconds, or a time of RFC 3339", values[0])
	}
	return func(t time.Time) bool { return !t.After(limit) }, nil
}

// pastTime reads a time as Docker's command lines take it: an age, Unix
// seconds with a fraction, or RFC 3339, of which parts may be left out at the
// end. Without a zone it is this machine's.
func pastTime(text string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil {
		return now.Add(-d), nil
	}
	if t, ok := unixTime(text); ok {
		return t, nil
	}
	var t time.Time
	var err error
	for _, layout := range []string{
		time.RFC3339Nano, "2006-01-02T15:04Z07:00", "2006-01-02T15Z07:00", "2006-01-02Z07:00",
		"2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02T15", "2006-01-02",
	} {
		if t, err = time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	return t, err
}

// unixTime reads seconds since 1970 with up to nine digits of a fraction.
func unixTime(text string) (time.Time, bool) {
	seconds, fraction, dotted := strings.Cut(text, ".")
	s, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return time.Time{}, false
	}
	n := int64(0)
	if dotted && fraction != "" {
		if len(fraction) > 9 {
			fraction = fraction[:9]
		}
		u, err := strconv.ParseUint(fraction+strings.Repeat("0", 9-len(fraction)), 10, 32)
		if err != nil {
			return time.Time{}, false
		}
		n = int64(u)
	}
	return time.Unix(s, n), true
}
