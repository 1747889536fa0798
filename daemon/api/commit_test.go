package api

import (
	"slices"
	"testing"

	"gantry/runtime"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	moby "github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestCommit(t *testing.T) {
	f := newFake()
	c := dial(t, f)
	got, err := c.ContainerCommit(t.Context(), "web", moby.ContainerCommitOptions{
		Reference: "mine:2", Comment: "why", Author: "me", Changes: []string{"CMD x", "ENV a=b"}, NoPause: true,
		Config: &container.Config{User: "root", Labels: map[string]string{"a": "b"}},
	})
	if err != nil || got.ID != "sha256:new" {
		t.Fatalf("got %+v, %v", got, err)
	}
	want := runtime.CommitOptions{
		Name: "docker.io/library/mine:2", Comment: "why", Author: "me", Changes: []string{"CMD x", "ENV a=b"},
		Config: dockerspec.DockerOCIImageConfig{ImageConfig: ocispec.ImageConfig{User: "root", Labels: map[string]string{"a": "b"}}},
	}
	f.mu.Lock()
	if d := cmp.Diff(want, f.committed); d != "" {
		t.Error(d)
	}
	f.mu.Unlock()
	// Without a word it is paused, has no name and keeps its configuration.
	for _, body := range []string{"", "null", "{}"} {
		if status, text := post(t, c.DaemonHost(), "/commit?container=web&tag=lonely", body); status != 201 || text != `{"Id":"sha256:new"}` {
			t.Errorf("got %d %s", status, text)
		}
		if f.committed.Name != "" || !f.committed.Pause || !cmp.Equal(f.committed.Config, dockerspec.DockerOCIImageConfig{}) {
			t.Errorf("got %+v", f.committed)
		}
	}
	if status, _ := post(t, c.DaemonHost(), "/commit", ""); status != 400 {
		t.Errorf("got %d", status)
	}
	if _, err := c.ContainerCommit(t.Context(), "none", moby.ContainerCommitOptions{}); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	if calls := f.noted(); !slices.Equal(calls, []string{"commit web", "commit web", "commit web", "commit web"}) {
		t.Errorf("calls %q", calls)
	}
}
