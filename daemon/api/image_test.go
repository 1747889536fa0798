package api

import (
	"io"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"gantry/runtime/image"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	imagetypes "github.com/moby/moby/api/types/image"
	moby "github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestHistory(t *testing.T) {
	f := newFake()
	at := day
	f.images[0].Config.History = []ocispec.History{
		{Created: &at, CreatedBy: "ADD rootfs", Comment: "base"}, {CreatedBy: "ENV a=b", EmptyLayer: true}, {CreatedBy: "COPY web"},
	}
	c := dial(t, f)
	got, err := c.ImageHistory(t.Context(), "example.org/team/web:1")
	if err != nil {
		t.Fatal(err)
	}
	want := []imagetypes.HistoryResponseItem{
		{ID: f.images[0].ID.String(), CreatedBy: "COPY web", Size: 1000, Tags: []string{"example.org/team/web:1"}},
		{ID: "<missing>", CreatedBy: "ENV a=b"},
		{ID: "<missing>", CreatedBy: "ADD rootfs", Comment: "base", Created: day.Unix(), Size: 1000},
	}
	if d := cmp.Diff(want, got.Items); d != "" {
		t.Error(d)
	}
	// One that tells nothing has its layers.
	if got, err := c.ImageHistory(t.Context(), "busybox"); err != nil || len(got.Items) != 1 || got.Items[0].Size != 1000 {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := c.ImageHistory(t.Context(), "none/such"); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	if got := wireHistory(image.Image{}, nil); len(got) != 0 {
		t.Errorf("an image of nothing has %+v", got)
	}
}

func TestSaveImages(t *testing.T) {
	f := newFake()
	c := dial(t, f)
	body, err := c.ImageSave(t.Context(), []string{"busybox", "example.org/team/web:1"})
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if b, err := io.ReadAll(body); err != nil || string(b) != "tar" {
		t.Errorf("got %q, %v", b, err)
	}
	resp, text := send(t, c.DaemonHost(), "GET", "/images/example.org/team/web:1/get", "")
	if resp.StatusCode != 200 || text != "tar" || resp.Header.Get("Content-Type") != "application/x-tar" {
		t.Errorf("got %d %s", resp.StatusCode, text)
	}
	if got, want := f.noted(), []string{"save [busybox example.org/team/web:1]", "save [example.org/team/web:1]"}; !slices.Equal(got, want) {
		t.Errorf("calls %q, want %q", got, want)
	}
	// A refusal is one of its own, not a broken archive.
	for path, want := range map[string]int{"/images/get": 400, "/images/get?names=a&names=b": 404, "/images/none/get": 404} {
		resp, text := send(t, c.DaemonHost(), "GET", path, "")
		if resp.StatusCode != want || !strings.HasPrefix(text, `{"message":`) || resp.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %s %s", path, resp.StatusCode, resp.Header.Get("Content-Type"), text)
		}
	}
	f.fail = errdefs.ErrUnavailable.WithMessage("no room")
	if resp, text := send(t, c.DaemonHost(), "GET", "/images/busybox/get", ""); resp.StatusCode != 503 || resp.Header.Get("Content-Type") != "application/json" {
		t.Errorf("got %d %s", resp.StatusCode, text)
	}
}

func TestImagesInDepth(t *testing.T) {
	f := newFake()
	f.images[0].Documents.Target = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: f.images[0].ID, Size: 12}
	c := dial(t, f)
	got, err := c.ImageList(t.Context(), moby.ImageListOptions{SharedSize: true, Manifests: true})
	if err != nil {
		t.Fatal(err)
	}
	if i := got.Items[0]; i.SharedSize != 1000 || i.Containers != 1 || i.Descriptor == nil || len(i.Manifests) != 1 || i.Manifests[0].ImageData.Containers[0] != web().ID {
		t.Errorf("got %+v", i)
	}
	if i := got.Items[2]; i.SharedSize != 0 || i.Descriptor != nil || len(i.Manifests) != 1 {
		t.Errorf("got %+v", i)
	}
	plain, err := c.ImageList(t.Context(), moby.ImageListOptions{Filters: moby.Filters{}.Add("until", day.Add(-time.Minute).Format(time.RFC3339))})
	if err != nil || len(plain.Items) != 2 || plain.Items[0].SharedSize != -1 || plain.Items[0].Manifests != nil {
		t.Errorf("got %+v, %v", plain, err)
	}
	host := c.DaemonHost()
	if _, text := send(t, host, "GET", "/v1.43/images/json", ""); strings.Count(text, `"VirtualSize":`) != 3 {
		t.Errorf("got %s", text)
	}
	if _, text := send(t, host, "GET", "/v1.44/images/json", ""); strings.Contains(text, `"VirtualSize":`) {
		t.Errorf("got %s", text)
	}
	for platform, want := range map[string]int{
		"linux/amd64": 200, `{"os":"linux","architecture":"amd64"}`: 200, "linux/s390x": 404, `{"architecture":"arm64"}`: 400, "a/b/c/d/e": 400,
	} {
		for _, verb := range []string{"json", "history", "get"} {
			resp, text := send(t, host, "GET", "/images/example.org/team/web:1/"+verb+"?platform="+url.QueryEscape(platform), "")
			if resp.StatusCode != want {
				t.Errorf("%s of %s: %d %s, want %d", verb, platform, resp.StatusCode, text, want)
			}
		}
	}
	if resp, text := send(t, host, "GET", "/images/busybox/json?manifests=1", ""); resp.StatusCode != 200 || !strings.Contains(text, `"Manifests":[{`) {
		t.Errorf("got %d %s", resp.StatusCode, text)
	}
}
