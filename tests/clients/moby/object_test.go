package moby

import (
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
)

func TestNetworks(t *testing.T) {
	t.Parallel()
	d := open(t)
	subnet := netip.MustParsePrefix("10.213.9.0/24")
	mark := name()
	n := must(d.NetworkCreate(d.ctx, mark, client.NetworkCreateOptions{Driver: "bridge", Labels: map[string]string{mark: ""},
		IPAM: &network.IPAM{Config: []network.IPAMConfig{{Subnet: subnet}}}}))(t)
	t.Cleanup(func() { d.NetworkRemove(t.Context(), n.ID, client.NetworkRemoveOptions{}) })
	a, b := d.idle(), d.idle()
	at := netip.MustParseAddr("10.213.9.77")
	must(d.NetworkConnect(d.ctx, n.ID, client.NetworkConnectOptions{Container: a, EndpointConfig: &network.EndpointSettings{
		Aliases: []string{"first"}, IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: at}}}))(t)
	must(d.NetworkConnect(d.ctx, mark, client.NetworkConnectOptions{Container: b}))(t)
	if out, code := d.exec(b, "ping", "-c1", "-W2", "first"); code != 0 || !strings.Contains(out, at.String()) {
		t.Errorf("%d: %s", code, out)
	}
	if got := d.inspect(a).NetworkSettings.Networks[mark]; got == nil || got.IPAddress != at || got.NetworkID != n.ID || !slices.Contains(got.Aliases, "first") {
		t.Errorf("%+v", got)
	}
	look := must(d.NetworkInspect(d.ctx, n.ID, client.NetworkInspectOptions{}))(t).Network
	if len(look.Containers) != 2 || look.IPAM.Config[0].Subnet != subnet {
		t.Errorf("%+v", look)
	}
	if _, err := d.NetworkRemove(d.ctx, n.ID, client.NetworkRemoveOptions{}); !errdefs.IsPermissionDenied(err) && !errdefs.IsConflict(err) {
		t.Errorf("remove what is used: %v", err)
	}
	must(d.NetworkDisconnect(d.ctx, n.ID, client.NetworkDisconnectOptions{Container: a}))(t)
	must(d.NetworkDisconnect(d.ctx, n.ID, client.NetworkDisconnectOptions{Container: b, Force: true}))(t)
	list := must(d.NetworkList(d.ctx, client.NetworkListOptions{Filters: make(client.Filters).Add("label", mark)}))(t).Items
	if len(list) != 1 || list[0].ID != n.ID {
		t.Errorf("%+v", list)
	}
	if gone := must(d.NetworkPrune(d.ctx, client.NetworkPruneOptions{Filters: make(client.Filters).Add("label", mark)}))(t).Report; !slices.Equal(gone.NetworksDeleted, []string{mark}) {
		t.Errorf("%+v", gone)
	}
	if _, err := d.NetworkInspect(d.ctx, n.ID, client.NetworkInspectOptions{}); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}

func TestVolumes(t *testing.T) {
	t.Parallel()
	d := open(t)
	mark := name()
	v := must(d.VolumeCreate(d.ctx, client.VolumeCreateOptions{Name: mark, Labels: map[string]string{mark: ""}}))(t).Volume
	if v.Name != mark || v.Driver != "local" || v.Mountpoint == "" {
		t.Errorf("%+v", v)
	}
	id := d.create(container.Config{Cmd: []string{"sh", "-c", "echo words >/data/file; sleep 1000"}}, &container.HostConfig{
		Mounts: []mount.Mount{{Type: mount.TypeVolume, Source: mark, Target: "/data"}, {Type: mount.TypeTmpfs, Target: "/scratch", TmpfsOptions: &mount.TmpfsOptions{SizeBytes: 1 << 20}}}})
	d.start(id)
	if _, err := d.VolumeRemove(d.ctx, mark, client.VolumeRemoveOptions{}); !errdefs.IsConflict(err) {
		t.Errorf("remove what is used: %v", err)
	}
	must(d.ContainerRemove(d.ctx, id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true}))(t)
	if list := must(d.VolumeList(d.ctx, client.VolumeListOptions{Filters: make(client.Filters).Add("label", mark).Add("dangling", "true")}))(t).Items; len(list) != 1 {
		t.Errorf("%+v", list)
	}
	// Before API 1.42 all unused ones were meant, and there was no way to say so.
	gone := must(d.VolumePrune(d.ctx, client.VolumePruneOptions{All: d.ClientVersion() >= "1.42", Filters: make(client.Filters).Add("label", mark)}))(t).Report
	if !slices.Equal(gone.VolumesDeleted, []string{mark}) {
		t.Errorf("%+v", gone)
	}
	if _, err := d.VolumeInspect(d.ctx, mark, client.VolumeInspectOptions{}); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}

func TestImages(t *testing.T) {
	t.Parallel()
	d := open(t)
	busybox := must(d.ImageInspect(d.ctx, "busybox"))(t)
	one, two := name()+":1", name()+":2"
	for _, ref := range []string{one, two} {
		must(d.ImageTag(d.ctx, client.ImageTagOptions{Source: "busybox", Target: ref}))(t)
		t.Cleanup(func() { d.ImageRemove(t.Context(), ref, client.ImageRemoveOptions{}) })
	}
	list := must(d.ImageList(d.ctx, client.ImageListOptions{Filters: make(client.Filters).Add("reference", one)}))(t).Items
	if len(list) != 1 || list[0].ID != busybox.ID || !slices.Equal(list[0].RepoTags, []string{one}) {
		t.Errorf("%+v", list)
	}
	saved := must(d.ImageSave(d.ctx, []string{one, two}))(t)
	data, err := io.ReadAll(saved)
	if err != nil {
		t.Fatal(err)
	}
	saved.Close()
	for _, ref := range []string{one, two} {
		if gone := must(d.ImageRemove(d.ctx, ref, client.ImageRemoveOptions{}))(t).Items; len(gone) != 1 || gone[0].Untagged != ref {
			t.Errorf("%+v", gone)
		}
	}
	if _, err := d.ImageInspect(d.ctx, one); !errdefs.IsNotFound(err) {
		t.Errorf("removed: %v", err)
	}
	loaded := must(d.ImageLoad(d.ctx, strings.NewReader(string(data))))(t)
	text, err := io.ReadAll(loaded)
	if err != nil || !strings.Contains(string(text), "Loaded image: "+one) {
		t.Errorf("%s, %v", text, err)
	}
	loaded.Close()
	if again := must(d.ImageInspect(d.ctx, two))(t); again.ID != busybox.ID {
		t.Errorf("saved %s, loaded %s", busybox.ID, again.ID)
	}
	if h := must(d.ImageHistory(d.ctx, two))(t).Items; len(h) == 0 || h[0].ID != busybox.ID {
		t.Errorf("%+v", h)
	}
	id := d.create(container.Config{Cmd: []string{"sh", "-c", "echo words >/file"}}, nil)
	d.start(id)
	<-d.ContainerWait(d.ctx, id, client.ContainerWaitOptions{}).Result
	own := name() + ":1"
	made := must(d.ContainerCommit(d.ctx, id, client.ContainerCommitOptions{Reference: own, Comment: "said", Author: "me", Changes: []string{`CMD ["cat", "/file"]`}}))(t)
	t.Cleanup(func() { d.ImageRemove(t.Context(), own, client.ImageRemoveOptions{Force: true}) })
	if img := must(d.ImageInspect(d.ctx, own))(t); img.ID != made.ID || img.Author != "me" || img.Comment != "said" || len(img.RootFS.Layers) != len(busybox.RootFS.Layers)+1 {
		t.Errorf("%+v", img)
	}
	if _, err := d.ImageRemove(d.ctx, "nosuch/image:1", client.ImageRemoveOptions{}); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}

func TestDiskUsageAndPrune(t *testing.T) {
	t.Parallel()
	d := open(t)
	mark := name()
	id := d.create(container.Config{Cmd: []string{"sh", "-c", "head -c 2000000 /dev/zero >/big"}, Labels: map[string]string{mark: ""}}, nil)
	d.start(id)
	<-d.ContainerWait(d.ctx, id, client.ContainerWaitOptions{}).Result
	df := must(d.DiskUsage(d.ctx, client.DiskUsageOptions{Containers: true, Images: true, Volumes: true, Verbose: true}))(t)
	i := slices.IndexFunc(df.Containers.Items, func(c container.Summary) bool { return c.ID == id })
	if i < 0 || df.Containers.Items[i].SizeRw < 2_000_000 || df.Images.TotalCount == 0 {
		t.Errorf("%+v", df)
	}
	gone := must(d.ContainerPrune(d.ctx, client.ContainerPruneOptions{Filters: make(client.Filters).Add("label", mark)}))(t).Report
	if !slices.Equal(gone.ContainersDeleted, []string{id}) || gone.SpaceReclaimed < 2_000_000 {
		t.Errorf("%+v", gone)
	}
}
