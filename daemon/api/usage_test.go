package api

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	moby "github.com/moby/moby/client"
)

// fetch gets a page of the API as JSON.
func fetch(t *testing.T, host, path string) map[string]any {
	t.Helper()
	resp, body := send(t, host, "GET", path, "")
	out := map[string]any{}
	if err := json.Unmarshal([]byte(body), &out); err != nil || resp.StatusCode != 200 {
		t.Fatalf("GET %s: %d %s", path, resp.StatusCode, body)
	}
	return out
}

// escaped makes a query that is written as it is meant one of HTTP's.
func escaped(path string) string {
	head, filters, ok := strings.Cut(path, "?filters=")
	if !ok {
		return path
	}
	return head + "?filters=" + url.QueryEscape(filters)
}

func TestDiskUsage(t *testing.T) {
	f := newFake()
	c := dial(t, f)
	host := c.DaemonHost()
	for _, tt := range []struct {
		path string
		want []string
	}{
		{"/v1.41/system/df", []string{"BuildCache", "BuilderSize", "Containers", "Images", "LayersSize", "Volumes"}},
		{"/v1.51/system/df", []string{"BuildCache", "Containers", "Images", "LayersSize", "Volumes"}},
		{"/v1.51/system/df?type=volume", []string{"LayersSize", "Volumes"}},
		{"/v1.52/system/df", []string{"BuildCache", "BuildCacheUsage", "ContainerUsage", "Containers", "ImageUsage", "Images", "LayersSize", "VolumeUsage", "Volumes"}},
		{"/v1.52/system/df?verbose=1", []string{"BuildCacheUsage", "ContainerUsage", "ImageUsage", "VolumeUsage"}},
		{"/system/df?type=image&type=container", []string{"ContainerUsage", "ImageUsage"}},
		{"/system/df?type=log", []string{"LogUsage"}},
	} {
		if got := sortedKeys(fetch(t, host, tt.path)); !slices.Equal(got, tt.want) {
			t.Errorf("%s has %v, want %v", tt.path, got, tt.want)
		}
	}
	logs := fetch(t, host, "/system/df?type=log&verbose=1")["LogUsage"].(map[string]any)
	if logs["TotalCount"] != 2.0 || logs["ActiveCount"] != 1.0 || logs["TotalSize"] != 60.0 || logs["Reclaimable"] != 30.0 || len(logs["Items"].([]any)) != 2 {
		t.Errorf("logs %v", logs)
	}
	if resp, body := send(t, host, "GET", escaped(`/system/df?filters={"type":["regular"]}`), ""); resp.StatusCode != 400 || !strings.Contains(body, "build cache alone") {
		t.Errorf("got %d %s", resp.StatusCode, body)
	}
	if resp, body := send(t, host, "GET", "/system/df?type=pod", ""); resp.StatusCode != 400 || !strings.Contains(body, "unknown object type: pod") {
		t.Errorf("got %d %s", resp.StatusCode, body)
	}

	for _, verbose := range []bool{false, true} {
		du, err := c.DiskUsage(t.Context(), moby.DiskUsageOptions{Verbose: verbose})
		if err != nil {
			t.Fatal(err)
		}
		// Two images share the base of 1000 bytes; the one beside it has no layers.
		if i := du.Images; i.TotalCount != 3 || i.ActiveCount != 2 || i.TotalSize != 2005 || i.Reclaimable != 5 {
			t.Errorf("images %+v", i)
		}
		if k := du.Containers; k.TotalCount != 2 || k.ActiveCount != 1 || k.TotalSize != 6 || k.Reclaimable != 3 {
			t.Errorf("containers %+v", k)
		}
		if v := du.Volumes; v.TotalCount != 2 || v.ActiveCount != 1 || v.TotalSize != 7 || v.Reclaimable != 3 {
			t.Errorf("volumes %+v", v)
		}
		if n := len(du.Images.Items) + len(du.Containers.Items) + len(du.Volumes.Items); verbose != (n == 7) {
			t.Errorf("verbose %v: %d items", verbose, n)
		}
		if verbose && (du.Images.Items[1].SharedSize != 1000 || du.Volumes.Items[0].UsageData.RefCount != 1 || du.Containers.Items[0].SizeRw != 3) {
			t.Errorf("got %+v", du)
		}
	}
}

func TestSizesOfContainers(t *testing.T) {
	c := dial(t, newFake())
	for _, size := range []bool{false, true} {
		list, err := c.ContainerList(t.Context(), moby.ContainerListOptions{All: true, Size: size})
		if err != nil || len(list.Items) != 2 {
			t.Fatalf("got %+v, %v", list, err)
		}
		if got := list.Items[0]; size && (got.SizeRw != 3 || got.SizeRootFs != 1003) || !size && got.SizeRootFs != 0 {
			t.Errorf("size=%v: %d and %d", size, got.SizeRw, got.SizeRootFs)
		}
		one, err := c.ContainerInspect(t.Context(), "web", moby.ContainerInspectOptions{Size: size})
		if err != nil || size != (one.Container.SizeRw != nil) {
			t.Errorf("size=%v: %+v, %v", size, one.Container.SizeRw, err)
		}
	}
}

func TestPrune(t *testing.T) {
	f := newFake()
	c := dial(t, f)
	ctx := t.Context()
	with := func(pairs ...string) moby.Filters {
		out := moby.Filters{}
		for i := 0; i < len(pairs); i += 2 {
			out.Add(pairs[i], pairs[i+1])
		}
		return out
	}
	for _, tt := range []struct {
		filters moby.Filters
		want    int
	}{
		{with(), 1}, {with("until", "1h"), 1}, {with("until", day.Add(-2*time.Hour).Format(time.RFC3339)), 0},
		{with("label", "x"), 0}, {with("label!", "x"), 1},
	} {
		got, err := c.ContainerPrune(ctx, moby.ContainerPruneOptions{Filters: tt.filters})
		if err != nil || len(got.Report.ContainersDeleted) != tt.want || got.Report.SpaceReclaimed != 7 {
			t.Errorf("containers %v: %+v, %v", tt.filters, got, err)
		}
	}
	for _, tt := range []struct {
		filters moby.Filters
		want    int
	}{
		{with(), 1}, {with("dangling", "true"), 1}, {with("dangling", "false"), 3}, {with("dangling", "0", "label", "kind=app"), 1},
		{with("dangling", "0", "until", day.Add(-time.Minute).Format(time.RFC3339)), 2},
	} {
		got, err := c.ImagePrune(ctx, moby.ImagePruneOptions{Filters: tt.filters})
		if err != nil || len(got.Report.ImagesDeleted) != tt.want || got.Report.SpaceReclaimed != 8 {
			t.Errorf("images %v: %+v, %v", tt.filters, got, err)
		}
	}
	if got, err := c.NetworkPrune(ctx, moby.NetworkPruneOptions{}); err != nil || !slices.Equal(got.Report.NetworksDeleted, []string{"front"}) {
		t.Errorf("networks %+v, %v", got, err)
	}
	// Only volumes without a name go, unless all are asked for; old clients
	// always ask for all.
	f.volumes[1].Labels = map[string]string{"com.docker.volume.anonymous": ""}
	for path, want := range map[string]string{
		"/volumes/prune": `["old"]`, `/volumes/prune?filters={"all":["1"]}`: `["data","old"]`, "/v1.41/volumes/prune": `["data","old"]`,
		`/volumes/prune?filters={"label":["com.docker.compose.project=shop"],"all":["true"]}`: `["data"]`,
	} {
		if status, body := post(t, c.DaemonHost(), escaped(path), ""); status != 200 || !strings.Contains(body, want) || !strings.Contains(body, `"SpaceReclaimed":9`) {
			t.Errorf("%s: %d %s, want %s", path, status, body, want)
		}
	}
	if status, body := post(t, c.DaemonHost(), "/build/prune?all=1", ""); status != 200 || !strings.Contains(body, `"CachesDeleted":null,"SpaceReclaimed":0`) {
		t.Errorf("got %d %s", status, body)
	}
	for path, text := range map[string]string{
		`/containers/prune?filters={"name":["x"]}`:             "invalid filter 'name'",
		`/images/prune?filters={"dangling":["maybe"]}`:         "invalid filter 'dangling=[maybe]'",
		`/networks/prune?filters={"until":["1h","2h"]}`:        "more than one until filter specified",
		`/networks/prune?filters={"until":["yesterday"]}`:      "invalid filter 'until=yesterday'",
		`/v1.41/volumes/prune?filters={"all":["1"]}`:           "invalid filter 'all'",
		`/volumes/prune?filters={"dangling":{"true":true}}`:    "invalid filter 'dangling'",
		`/containers/prune?filters={"until":["99999999999h"]}`: "invalid filter 'until=99999999999h'",
	} {
		if status, body := post(t, c.DaemonHost(), escaped(path), ""); status != 400 || !strings.Contains(body, text) {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	f.fail = errdefs.ErrUnavailable.WithMessage("no keeper")
	if _, err := c.ContainerPrune(ctx, moby.ContainerPruneOptions{}); !errdefs.IsUnavailable(err) {
		t.Errorf("got %v", err)
	}
}

func TestPastTime(t *testing.T) {
	now := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"90m": now.Add(-90 * time.Minute), "1136073845": time.Unix(1136073845, 0), "1136073845.5": time.Unix(1136073845, 5e8),
		"2006-01-02T15:04:05Z": time.Date(2006, 1, 2, 15, 4, 5, 0, time.UTC), "2006-01-02T15:04:05.000000007+01:00": time.Date(2006, 1, 2, 14, 4, 5, 7, time.UTC),
		"2006-01-02": time.Date(2006, 1, 2, 0, 0, 0, 0, time.Local), "2006-01-02T15:04": time.Date(2006, 1, 2, 15, 4, 0, 0, time.Local),
		"2006-01-02Z": time.Date(2006, 1, 2, 0, 0, 0, 0, time.UTC),
	} {
		if got, err := pastTime(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q is %s, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "now", "1.x", "1.-5", "2006-13-01", "--1h"} {
		if got, err := pastTime(text, now); err == nil {
			t.Errorf("%q is %s", text, got)
		}
	}
}
