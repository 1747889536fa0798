package client

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/volume"
)

// Pruned is what a pruning has removed, in the words of a person, and the bytes
// that are free again.
type Pruned struct {
	Gone  []string
	Bytes uint64
}

func prune[T any](ctx context.Context, c *Client, noun string, f Filters) (out T, err error) {
	q := url.Values{}
	f.into(q)
	err = c.do(ctx, call{method: http.MethodPost, path: at(noun, "prune"), query: q}, &out)
	return out, err
}

// PruneContainers removes containers that have ended or never began.
func (c *Client) PruneContainers(ctx context.Context, f Filters) (Pruned, error) {
	r, err := prune[container.PruneReport](ctx, c, "containers", f)
	return Pruned{r.ContainersDeleted, r.SpaceReclaimed}, err
}

// PruneImages removes images without a name; with the filter dangling=false
// all that no container uses.
func (c *Client) PruneImages(ctx context.Context, f Filters) (Pruned, error) {
	r, err := prune[image.PruneReport](ctx, c, "images", f)
	out := Pruned{Bytes: r.SpaceReclaimed}
	for _, g := range r.ImagesDeleted {
		if g.Untagged != "" {
			out.Gone = append(out.Gone, "untagged: "+g.Untagged)
		} else {
			out.Gone = append(out.Gone, "deleted: "+g.Deleted)
		}
	}
	return out, err
}

// PruneNetworks removes networks that no container names.
func (c *Client) PruneNetworks(ctx context.Context, f Filters) (Pruned, error) {
	r, err := prune[network.PruneReport](ctx, c, "networks", f)
	return Pruned{Gone: r.NetworksDeleted}, err
}

// PruneVolumes removes volumes without a name that no container mounts; with
// the filter all=true those with a name, too.
func (c *Client) PruneVolumes(ctx context.Context, f Filters) (Pruned, error) {
	r, err := prune[volume.PruneReport](ctx, c, "volumes", f)
	return Pruned{r.VolumesDeleted, r.SpaceReclaimed}, err
}

// DiskUsage tells what takes the disk, each thing by itself if verbose is set.
func (c *Client) DiskUsage(ctx context.Context, verbose bool) (DiskUsage, error) {
	q := query("verbose", flag(verbose))
	q["type"] = []string{"image", "container", "volume", "build-cache", "log"}
	var out DiskUsage
	err := c.do(ctx, call{method: http.MethodGet, path: "/system/df", query: q}, &out)
	return out, err
}

// CacheUsage tells what the build cache holds.
func (c *Client) CacheUsage(ctx context.Context, f Filters) (CacheUsage, error) {
	q := url.Values{"type": {"build-cache"}, "verbose": {"1"}}
	f.into(q)
	var out struct{ BuildCacheUsage CacheUsage }
	err := c.do(ctx, call{method: http.MethodGet, path: "/system/df", query: q}, &out)
	return out.BuildCacheUsage, err
}

// CachePrune says what of the build cache goes. Sizes are bytes, 0: not said.
type CachePrune struct {
	All     bool // also what images have
	Filters Filters
	// Reserved stays, the most recently used; MaxUsed bounds what is left,
	// MinFree what is free on the disk.
	Reserved, MaxUsed, MinFree int64
}

// PruneCache removes build cache that no build uses.
func (c *Client) PruneCache(ctx context.Context, o CachePrune) (Pruned, error) {
	q := query("all", flag(o.All))
	o.Filters.into(q)
	for name, n := range map[string]int64{"reserved-space": o.Reserved, "max-used-space": o.MaxUsed, "min-free-space": o.MinFree} {
		if n > 0 {
			q.Set(name, strconv.FormatInt(n, 10))
		}
	}
	var r build.CachePruneReport
	err := c.do(ctx, call{method: http.MethodPost, path: "/build/prune", query: q}, &r)
	return Pruned{r.CachesDeleted, r.SpaceReclaimed}, err
}

// UpdateContainer changes limits and the restart policy.
func (c *Client) UpdateContainer(ctx context.Context, ref string, u UpdateConfig) (warnings []string, err error) {
	var out container.UpdateResponse
	err = c.do(ctx, call{method: http.MethodPost, path: at("containers", ref, "update"), json: u}, &out)
	return out.Warnings, err
}

// CommitOptions say what a committed image is to be.
type CommitOptions struct {
	Name            string // "web" or "web:1"; empty: none
	Author, Message string
	Changes         []string // Dockerfile lines
	NoPause         bool
}

// Commit makes an image of a container and gives its id.
func (c *Client) Commit(ctx context.Context, ref string, o CommitOptions) (string, error) {
	q := query("container", ref, "repo", o.Name, "author", o.Author, "comment", o.Message)
	if len(o.Changes) > 0 {
		q["changes"] = o.Changes
	}
	if o.NoPause {
		q.Set("pause", "0")
	}
	var out container.CommitResponse
	err := c.do(ctx, call{method: http.MethodPost, path: "/commit", query: q}, &out)
	return out.ID, err
}

// ImageHistory tells how an image was made, the last step first.
func (c *Client) ImageHistory(ctx context.Context, ref string) ([]ImageStep, error) {
	var out []ImageStep
	err := c.do(ctx, call{method: http.MethodGet, path: at("images", ref, "history")}, &out)
	return out, err
}

// SaveImages gives an archive of images, to be closed.
func (c *Client) SaveImages(ctx context.Context, refs []string) (io.ReadCloser, error) {
	resp, err := c.open(ctx, call{method: http.MethodGet, path: "/images/get", query: url.Values{"names": refs}})
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// RestartPolicyOf reads a policy as a command line writes it: "always" or
// "on-failure:3". Whether there is such a one the daemon says.
func RestartPolicyOf(name string, retries int) RestartPolicy {
	return RestartPolicy{Name: container.RestartPolicyMode(strings.TrimSpace(name)), MaximumRetryCount: retries}
}
