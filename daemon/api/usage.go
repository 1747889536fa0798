package api

import (
	"context"
	"net/http"
	"time"

	"gantry/runtime"
	"gantry/runtime/build"
	"gantry/runtime/image"

	"github.com/containerd/errdefs"
	buildtypes "github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/container"
	imagetypes "github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/system"
	volumetypes "github.com/moby/moby/api/types/volume"
	"github.com/opencontainers/go-digest"
)

// usageReport is the answer to how much disk is used. Until API 1.52 it was
// lists, from then on it is sums, and lists only when asked for; 1.52 has both.
//
// Docker does not count logs; they are told of when "type=log" asks for them.
type usageReport struct {
	system.DiskUsage
	LogUsage *logUsage `json:",omitempty"`
	*usageLists
}

// logUsage is what containers' logs take, which goes with the container.
type logUsage struct {
	ActiveCount, TotalCount, TotalSize, Reclaimable int64

	Items []logSize `json:",omitempty"`
}

type logSize struct {
	ID, Name string
	Size     int64
}

const logObject system.DiskUsageObject = "log"

type usageLists struct {
	LayersSize  int64
	Images      []imageSummary           `json:",omitzero"`
	Containers  []container.Summary      `json:",omitzero"`
	Volumes     []volumetypes.Volume     `json:",omitzero"`
	BuildCache  []buildtypes.CacheRecord `json:",omitzero"`
	BuilderSize *int64                   `json:",omitempty"` // before API 1.42
}

func (s *server) diskUsage(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	want := map[system.DiskUsageObject]bool{}
	for _, kind := range q["type"] {
		switch k := system.DiskUsageObject(kind); k {
		case system.ContainerObject, system.ImageObject, system.VolumeObject, system.BuildCacheObject, logObject:
			want[k] = true
		default:
			return invalid("unknown object type: %s", kind)
		}
	}
	wants := func(k system.DiskUsageObject) bool { return len(want) == 0 || want[k] }
	verbose := boolean(q, "verbose")
	var cache build.Filter
	if q.Has("filters") {
		if len(want) != 1 || !want[system.BuildCacheObject] {
			return invalid("filters are for the build cache alone: ask for type=build-cache")
		}
		var err error
		if cache, err = cacheFilter(q); err != nil {
			return err
		}
	}
	var out usageReport
	lists := &usageLists{}
	if before(ctx, 53) && !verbose || before(ctx, 52) {
		out.usageLists = lists
	}
	if wants(system.ImageObject) {
		u, err := s.imageUsage(ctx)
		if err != nil {
			return err
		}
		lists.Images, lists.LayersSize, out.ImageUsage = []imageSummary{}, u.TotalSize, u
		for _, img := range u.Items {
			line := imageSummary{Summary: img}
			if before(ctx, 44) {
				line.VirtualSize = img.Size
			}
			lists.Images = append(lists.Images, line)
		}
	}
	if wants(system.ContainerObject) {
		u, err := s.containerUsage(ctx)
		if err != nil {
			return err
		}
		lists.Containers, out.ContainerUsage = u.Items, u
	}
	if wants(system.VolumeObject) {
		u, err := s.volumeUsage(ctx)
		if err != nil {
			return err
		}
		lists.Volumes, out.VolumeUsage = u.Items, u
	}
	if wants(system.BuildCacheObject) {
		u, err := s.cacheUsage(ctx, cache)
		if err != nil {
			return err
		}
		lists.BuildCache, out.BuildCacheUsage = u.Items, u
		if before(ctx, 42) {
			lists.BuilderSize = &u.TotalSize
		}
	}
	if want[logObject] {
		u, err := s.logUsage()
		if err != nil {
			return err
		}
		if !verbose {
			u.Items = nil
		}
		out.LogUsage = u
	}
	if before(ctx, 52) {
		out.DiskUsage = system.DiskUsage{}
	} else if !verbose {
		out.DiskUsage = sums(out.DiskUsage)
	}
	return writeJSON(w, http.StatusOK, out)
}

// sums leaves the lists away.
func sums(u system.DiskUsage) system.DiskUsage {
	if u.ImageUsage != nil {
		u.ImageUsage.Items = nil
	}
	if u.ContainerUsage != nil {
		u.ContainerUsage.Items = nil
	}
	if u.VolumeUsage != nil {
		u.VolumeUsage.Items = nil
	}
	if u.BuildCacheUsage != nil {
		u.BuildCacheUsage.Items = nil
	}
	return u
}

// imageUsage counts all that images have on the disk, the blobs they came in as
// well as what was unpacked of them.
func (s *server) imageUsage(ctx context.Context) (*imagetypes.DiskUsage, error) {
	all, err := s.Engine.ListImages(ctx)
	if err != nil {
		return nil, err
	}
	layers, err := s.Engine.ImageLayers(ctx)
	if err != nil {
		return nil, err
	}
	sizes := image.SizesOf(layers)
	uses := s.imageUses()
	u := &imagetypes.DiskUsage{Items: []imagetypes.Summary{}, TotalCount: int64(len(all)), TotalSize: sizes.Total}
	for _, img := range all {
		sum := wireImage(img, uses[img.ID.String()])
		sum.Size, sum.SharedSize = sizes.Each[img.ID], sizes.Shared[img.ID]
		if sum.Containers > 0 {
			u.ActiveCount++
		}
		u.Items = append(u.Items, sum)
	}
	u.Reclaimable = image.Only(layers, func(id digest.Digest) bool { return uses[id.String()] == 0 })
	return u, nil
}

// imageUses counts the containers of each image.
func (s *server) imageUses() map[string]int64 {
	uses := map[string]int64{}
	for _, c := range s.Engine.List() {
		uses[c.Config.ImageID]++
	}
	return uses
}

func (s *server) containerUsage(ctx context.Context) (*container.DiskUsage, error) {
	all := s.Engine.List()
	lines := make([]container.Summary, len(all))
	for i, c := range all {
		lines[i] = wireSummary(c, time.Now())
	}
	lines, err := s.withSizes(ctx, lines)
	if err != nil {
		return nil, err
	}
	u := &container.DiskUsage{Items: lines, TotalCount: int64(len(lines))}
	for _, l := range lines {
		u.TotalSize += l.SizeRw
		if state := runtime.State(l.State); state.Live() || state == runtime.Restarting {
			u.ActiveCount++
		} else {
			u.Reclaimable += l.SizeRw
		}
	}
	return u, nil
}

func (s *server) logUsage() (*logUsage, error) {
	u := &logUsage{}
	for _, c := range s.Engine.List() {
		n, err := s.Engine.LogSize(c.ID)
		if errdefs.IsNotFound(err) {
			continue
		} else if err != nil {
			return nil, err
		}
		u.TotalCount++
		u.TotalSize += n
		if c.State.Live() || c.State == runtime.Restarting {
			u.ActiveCount++
		} else {
			u.Reclaimable += n
		}
		u.Items = append(u.Items, logSize{c.ID, c.Name, n})
	}
	return u, nil
}

// withSizes adds to the lines of containers what they take on the disk, and
// leaves out those removed meanwhile.
func (s *server) withSizes(ctx context.Context, lines []container.Summary) ([]container.Summary, error) {
	out := lines[:0]
	for _, l := range lines {
		size, err := s.Engine.Size(ctx, l.ID)
		if errdefs.IsNotFound(err) {
			continue
		} else if err != nil {
			return nil, err
		}
		l.SizeRw, l.SizeRootFs = size.Own, size.Root
		out = append(out, l)
	}
	return out, nil
}

func (s *server) volumeUsage(ctx context.Context) (*volumetypes.DiskUsage, error) {
	all := s.Engine.ListVolumes()
	u := &volumetypes.DiskUsage{Items: []volumetypes.Volume{}, TotalCount: int64(len(all))}
	for _, v := range all {
		size, err := s.Engine.VolumeSize(ctx, v.Name)
		if errdefs.IsNotFound(err) {
			u.TotalCount--
			continue
		} else if err != nil {
			return nil, err
		}
		out := wireVolume(v)
		out.UsageData = &volumetypes.UsageData{Size: size, RefCount: int64(len(s.Engine.VolumeUsers(v.Name)))}
		u.TotalSize += max(size, 0)
		if out.UsageData.RefCount > 0 {
			u.ActiveCount++
		} else {
			u.Reclaimable += max(size, 0)
		}
		u.Items = append(u.Items, out)
	}
	return u, nil
}
