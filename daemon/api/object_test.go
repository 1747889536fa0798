package api

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"gantry/runtime/image"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	dockernet "github.com/moby/moby/api/types/network"
	volumetypes "github.com/moby/moby/api/types/volume"
	moby "github.com/moby/moby/client"
)

func TestShapesOfObjects(t *testing.T) {
	f := newFake()
	golden(t, "image-list.json", wireImage(f.images[0], 1))
	golden(t, "image-inspect.json", wireImageDetails(f.images[0]))
	golden(t, "network-inspect.json", wireNetworkDetails(f.networks[0], f.Attached(""), map[string]string{web().ID: "web"}))
	golden(t, "volume-inspect.json", wireVolume(f.volumes[0]))
}

func TestImages(t *testing.T) {
	f := newFake()
	c := dial(t, f)
	ctx := t.Context()
	for _, tt := range []struct {
		key, value string
		want       int
	}{
		{"", "", 3}, {"reference", "busybox", 1}, {"reference", "busy*", 1}, {"reference", "example.org/*/web", 1}, {"reference", "web", 0},
		{"label", "kind=app", 1}, {"dangling", "true", 1}, {"dangling", "false", 2}, {"before", "example.org/team/web:1", 2}, {"since", "busybox", 1},
	} {
		o := moby.ImageListOptions{Filters: moby.Filters{}}
		if tt.key != "" {
			o.Filters.Add(tt.key, tt.value)
		}
		if got, err := c.ImageList(ctx, o); err != nil || len(got.Items) != tt.want {
			t.Errorf("%s=%s: %d images, %v; want %d", tt.key, tt.value, len(got.Items), err, tt.want)
		}
	}
	// Names with slashes are one name.
	img, err := c.ImageInspect(ctx, "example.org/team/web:1")
	if err != nil || img.Config == nil || img.Config.Cmd[0] != "serve" || len(img.RootFS.Layers) != 2 {
		t.Errorf("got %+v, %v", img, err)
	}
	if _, err := c.ImageInspect(ctx, "nothing/at/all"); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "No such image: nothing/at/all") {
		t.Errorf("got %v", err)
	}
	if _, err := c.ImageTag(ctx, moby.ImageTagOptions{Source: "example.org/team/web:1", Target: "example.org/other/web:2"}); err != nil {
		t.Error(err)
	}
	gone, err := c.ImageRemove(ctx, "example.org/team/web:1", moby.ImageRemoveOptions{Force: true})
	if err != nil || len(gone.Items) != 2 || gone.Items[0].Untagged == "" || gone.Items[1].Deleted == "" {
		t.Errorf("got %+v, %v", gone, err)
	}
	imported, err := c.ImageImport(ctx, moby.ImageImportSource{Source: strings.NewReader("tar"), SourceName: "-"}, "base:1",
		moby.ImageImportOptions{Message: "hi", Changes: []string{"CMD x", "ENV A=b"}})
	if err != nil {
		t.Fatal(err)
	}
	defer imported.Close()
	if text, err := io.ReadAll(imported); err != nil || !strings.Contains(string(text), `{"status":"sha256:`) {
		t.Errorf("got %s, %v", text, err)
	}
	want := []string{"tag example.org/team/web:1 example.org/other/web:2", "rmi example.org/team/web:1 true", `import base:1 ["CMD x" "ENV A=b"] hi`}
	if got := f.noted(); !slices.Equal(got, want) {
		t.Errorf("calls %q, want %q", got, want)
	}
	host := c.DaemonHost()
	for path, part := range map[string]string{
		"/build":      "does not build",
		"/swarm/init": "Swarm",
	} {
		if status, text := post(t, host, path, ""); status != 501 || !strings.Contains(text, part) {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
	for _, path := range []string{"/images/x", "/images/a/b/dance"} {
		if status, _ := post(t, host, path, ""); status != 404 {
			t.Errorf("%s: %d", path, status)
		}
	}
}

func TestImageLoad(t *testing.T) {
	f := newFake()
	c := dial(t, f)
	f.load = func(report func(string)) ([]image.Image, error) {
		report("Loaded image: a:1")
		report("Loaded image ID: sha256:5")
		return []image.Image{{Names: []string{"a:1"}}, {ID: "sha256:5"}}, nil
	}
	load := func() string {
		t.Helper()
		r, err := c.ImageLoad(t.Context(), strings.NewReader("archive"))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	want := `{"stream":"Loaded image: a:1\n"}` + "\n" + `{"stream":"Loaded image ID: sha256:5\n"}` + "\n"
	if got := load(); got != want {
		t.Errorf("got %s", got)
	}
	// What goes wrong after the first words is a message of its own.
	f.load = func(report func(string)) ([]image.Image, error) {
		report("layer one")
		return nil, fmt.Errorf("layer two: digest differs: %w", errdefs.ErrInvalidArgument)
	}
	_, text := post(t, c.DaemonHost(), "/images/load", "archive")
	if want := `{"stream":"layer one\n"}` + "\n" + `{"errorDetail":{"code":400,"message":"layer two: digest differs"},"error":"layer two: digest differs"}`; text != want {
		t.Errorf("got %s", text)
	}
	// Before them it is a status.
	f.load = func(func(string)) ([]image.Image, error) {
		return nil, fmt.Errorf("no archive: %w", errdefs.ErrInvalidArgument)
	}
	if status, text := post(t, c.DaemonHost(), "/images/load", "x"); status != 400 || text != `{"message":"no archive"}` {
		t.Errorf("got %d %s", status, text)
	}
}

func TestNetworks(t *testing.T) {
	f := newFake()
	c := dial(t, f)
	ctx := t.Context()
	list := func(key, value string) (names []string) {
		o := moby.NetworkListOptions{Filters: moby.Filters{}}
		if key != "" {
			o.Filters.Add(key, value)
		}
		got, err := c.NetworkList(ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range got.Items {
			names = append(names, n.Name)
		}
		return names
	}
	for _, tt := range []struct{ key, value, want string }{
		{"", "", "front host none bridge"}, {"name", "fro", "front"}, {"driver", "null", "none"}, {"type", "custom", "front"},
		{"label", "com.docker.compose.project=shop", "front"}, {"dangling", "true", ""}, {"id", "fff", "front"},
	} {
		if got := strings.Join(list(tt.key, tt.value), " "); got != tt.want {
			t.Errorf("%s=%s: got %q, want %q", tt.key, tt.value, got, tt.want)
		}
	}
	n, err := c.NetworkInspect(ctx, "front", moby.NetworkInspectOptions{})
	if err != nil || n.Network.Containers[web().ID].Name != "web" || n.Network.IPAM.Config[0].Subnet.String() != "10.208.0.0/24" {
		t.Errorf("got %+v, %v", n.Network, err)
	}
	if n, err := c.NetworkInspect(ctx, "host", moby.NetworkInspectOptions{}); err != nil || n.Network.Driver != "host" {
		t.Errorf("got %+v, %v", n.Network, err)
	}
	if n, err := c.NetworkInspect(ctx, "bridge", moby.NetworkInspectOptions{}); err != nil || n.Network.Driver != "bridge" {
		t.Errorf("got %+v, %v", n.Network, err)
	}
	// docker network inspect $(docker network ls -q)
	seen := map[string]bool{}
	for _, name := range strings.Fields("front host none bridge") {
		n, err := c.NetworkInspect(ctx, name, moby.NetworkInspectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		ref := n.Network.ID[:min(12, len(n.Network.ID))]
		if n, err = c.NetworkInspect(ctx, ref, moby.NetworkInspectOptions{}); err != nil || n.Network.Name != name || seen[ref] {
			t.Errorf("%s by the beginning of its id %s: got %s, %v", name, ref, n.Network.Name, err)
		}
		seen[ref] = true
		if name == "front" {
			continue
		}
		if _, err := c.NetworkRemove(ctx, ref, moby.NetworkRemoveOptions{}); !errdefs.IsPermissionDenied(err) {
			t.Errorf("remove %s: %v", name, err)
		}
	}
	yes := true
	if _, err := c.NetworkCreate(ctx, "back", moby.NetworkCreateOptions{
		Internal: true, EnableIPv6: &yes, Labels: map[string]string{"l": "m"},
		IPAM: &dockernet.IPAM{Config: []dockernet.IPAMConfig{{Subnet: prefix("10.9.0.7/24"), Gateway: netip.MustParseAddr("10.9.0.1")}}},
	}); err != nil {
		t.Fatal(err)
	}
	s := f.networks[1].Spec
	if s.Driver != "bridge" || !s.Internal || !s.EnableIPv6 || s.Subnets[0].Prefix.String() != "10.9.0.0/24" {
		t.Errorf("asked %+v", s)
	}
	if _, err := c.NetworkConnect(ctx, "front", moby.NetworkConnectOptions{Container: "job", EndpointConfig: &dockernet.EndpointSettings{Aliases: []string{"al"}}}); err != nil {
		t.Error(err)
	}
	if _, err := c.NetworkDisconnect(ctx, "front", moby.NetworkDisconnectOptions{Container: "job"}); err != nil {
		t.Error(err)
	}
	if _, err := c.NetworkRemove(ctx, "front", moby.NetworkRemoveOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := c.NetworkRemove(ctx, "host", moby.NetworkRemoveOptions{}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("got %v", err)
	}
	want := []string{"connect job front [al] invalid IP", "disconnect job front", "network remove front"}
	if diff := cmp.Diff(want, f.noted()[1:]); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	if _, err := c.NetworkCreate(ctx, "default", moby.NetworkCreateOptions{}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("a network of the name that means bridge: %v", err)
	}
	for _, o := range []moby.NetworkCreateOptions{
		{Scope: "swarm"}, {Ingress: true}, {ConfigOnly: true}, {ConfigFrom: "x"}, {EnableIPv4: new(bool)},
		{IPAM: &dockernet.IPAM{Driver: "dhcp"}}, {IPAM: &dockernet.IPAM{Options: map[string]string{"a": "b"}}},
	} {
		if _, err := c.NetworkCreate(ctx, "bad", o); !errdefs.IsNotImplemented(err) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestVolumes(t *testing.T) {
	f := newFake()
	c := dial(t, f)
	ctx := t.Context()
	for _, tt := range []struct {
		key, value string
		want       int
	}{{"", "", 2}, {"name", "dat", 1}, {"dangling", "true", 1}, {"dangling", "0", 1}, {"label", "com.docker.compose.project", 1}, {"driver", "nfs", 0}} {
		o := moby.VolumeListOptions{Filters: moby.Filters{}}
		if tt.key != "" {
			o.Filters.Add(tt.key, tt.value)
		}
		if got, err := c.VolumeList(ctx, o); err != nil || len(got.Items) != tt.want {
			t.Errorf("%s=%s: %d volumes, %v; want %d", tt.key, tt.value, len(got.Items), err, tt.want)
		}
	}
	if v, err := c.VolumeInspect(ctx, "data", moby.VolumeInspectOptions{}); err != nil || v.Volume.Scope != "local" || v.Volume.CreatedAt != "2026-03-04T05:06:07Z" {
		t.Errorf("got %+v, %v", v.Volume, err)
	}
	if _, err := c.VolumeInspect(ctx, "nothing", moby.VolumeInspectOptions{}); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	if _, err := c.VolumeCreate(ctx, moby.VolumeCreateOptions{Name: "new", Labels: map[string]string{"a": "b"}}); err != nil {
		t.Error(err)
	}
	if _, err := c.VolumeCreate(ctx, moby.VolumeCreateOptions{ClusterVolumeSpec: &volumetypes.ClusterVolumeSpec{Group: "g"}}); !errdefs.IsNotImplemented(err) {
		t.Errorf("got %v", err)
	}
	if _, err := c.VolumeRemove(ctx, "old", moby.VolumeRemoveOptions{Force: true}); err != nil {
		t.Error(err)
	}
	if got, want := f.noted(), []string{"volume create new map[a:b] false", "volume remove old true"}; !slices.Equal(got, want) {
		t.Errorf("calls %q, want %q", got, want)
	}
}
